//! Without the network, and with digests that were locked.

use lib_image::{Error, LockFile, PullRequest};
use lib_model::{Diagnose, Exit, Silent};

use crate::pull::publish;
use crate::support::faulty::{Fault, Faulty};
use crate::support::image::{Image, Layer, digest};
use crate::support::layer::Entry;
use crate::support::registry::Registry;
use crate::support::{Place, request};

fn offline(reference: &str) -> PullRequest {
    PullRequest {
        offline: true,
        ..request(reference)
    }
}

#[test]
fn without_the_network_what_is_here_serves_and_what_is_missing_is_named() {
    let image = Image::new(vec![
        Layer::gzip(&[Entry::file("a", "1")]),
        Layer::gzip(&[Entry::file("b", "2")]),
    ]);
    let server = Faulty::serve(&image, |_, _| None);
    let place = Place::new();
    let error = place
        .pull_with(&offline(&server.reference()), &Silent)
        .unwrap_err();
    assert!(
        matches!(&error, Error::Offline { missing, .. } if missing.is_empty()),
        "{error}"
    );
    assert_eq!(error.exit(), Exit::NotFound);
    assert!(error.hint().unwrap().starts_with("banger-image pull "));
    place.assert_untouched();
    assert_eq!(server.requests(), []);

    let record = place.pull(&server.reference()).unwrap();
    let asked = server.requests().len();
    let same = place
        .pull_with(&offline(&server.reference()), &Silent)
        .unwrap();
    assert_eq!((same.id, same.changed), (record.id.clone(), false));

    // Deleted, but its blobs are still here.
    let delete = |id: &str| lib_image::delete(&mut place.store(), &mut place.locks(), id).unwrap();
    delete(record.id.as_str());
    let pinned = format!("{}@{}", server.reference(), digest(&image.manifest()));
    let again = place.pull_with(&offline(&pinned), &Silent).unwrap();
    assert!(again.changed);
    let bytes = std::fs::metadata(place.rootfs(&again)).unwrap().len();
    assert_eq!(bytes, record.size.0);
    delete(again.id.as_str());
    let layer = digest(&image.layers[1].blob);
    std::fs::remove_file(place.context.blobs().join("blobs/sha256").join(layer.hex())).unwrap();
    let error = place.pull_with(&offline(&pinned), &Silent).unwrap_err();
    let expected = format!("missing: layer {}", layer.short());
    assert!(error.to_string().ends_with(&expected), "{error}");
    place.assert_untouched();
    assert_eq!(server.requests().len(), asked, "nobody was asked");
}

#[test]
fn a_lock_file_remembers_and_freezes() {
    let (registry, place) = (Registry::start(), Place::new());
    let reference = registry.reference("app:1");
    let path = place.base.path().join("images.lock");
    let locked = |frozen| PullRequest {
        lock_file: Some(LockFile {
            path: path.clone(),
            frozen,
        }),
        ..request(&reference)
    };
    publish(&registry, &place, &Image::small(), "app:1");
    let server = Faulty::before(registry.address(), |_, _| None);
    let mut unasked = locked(true);
    unasked.reference = server.reference().parse().unwrap();
    let error = place.pull_with(&unasked, &Silent).unwrap_err();
    assert!(matches!(error, Error::NotLocked { .. }), "{error}");
    assert_eq!(server.requests(), [], "refused before anything is asked");

    let first = place.pull_with(&locked(false), &Silent).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        text.contains(&format!("\"{reference}\": \"{}\"", first.digest)),
        "{text}"
    );
    assert_eq!(
        place.pull_with(&locked(true), &Silent).unwrap().id,
        first.id
    );

    let moved = Image::new(vec![Layer::gzip(&[Entry::file("new", "x")])]);
    publish(&registry, &place, &moved, "app:1");
    let error = place.pull_with(&locked(true), &Silent).unwrap_err();
    assert!(
        matches!(&error, Error::LockDiffers { locked, actual, .. }
            if *locked == first.digest && *actual == digest(&moved.manifest())),
        "{error}"
    );
    assert_eq!(place.store().images().unwrap().len(), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "frozen");
    let second = place.pull_with(&locked(false), &Silent).unwrap();
    assert_ne!(second.digest, first.digest);
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .contains(second.digest.as_str())
    );
}

#[test]
fn a_tag_that_moves_during_a_pull_gives_one_image_or_the_other() {
    let (old, new) = (
        Image::small(),
        Image::new(vec![Layer::gzip(&[Entry::file("n", "x")])]),
    );
    // The tag is the new image's from the second request on.
    let manifest = new.manifest();
    let server = Faulty::serve(&old, move |request, before| {
        (request.path.ends_with("/latest") && before > 0).then(|| Fault::Instead(manifest.clone()))
    });
    let record = Place::new().pull(&server.reference()).unwrap();
    assert_eq!(record.digest, digest(&old.manifest()));

    // The old image's layers are gone when it comes to them: nothing of both is mixed.
    let layer = digest(&old.layers[0].blob).to_string();
    let server = Faulty::serve(&old, move |request, _| {
        request
            .path
            .ends_with(&layer)
            .then(|| Fault::Status(404, String::new(), ""))
    });
    let place = Place::new();
    let error = place.pull(&server.reference()).unwrap_err();
    assert!(matches!(error, Error::UnknownTag { .. }), "{error}");
    place.assert_untouched();
}
