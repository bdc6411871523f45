//! Through a proxy before the distribution's registry: downloads that break, and go on in another
//! command.

use std::time::Duration;

use lib_image::{Collected, Error, collect};
use lib_model::{BlobState, Silent};

use crate::pull::publish;
use crate::support::faulty::{Fault, Faulty};
use crate::support::image::{Image, Layer, digest, noise};
use crate::support::layer::Entry;
use crate::support::registry::Registry;
use crate::support::{Place, chain, request};

/// An image with a layer of three megabytes, in a registry.
fn large() -> (Registry, Image) {
    let (registry, place) = (Registry::start(), Place::new());
    let image = Image::new(vec![Layer::plain(&[Entry::file("big", noise(3 << 20))])]);
    publish(&registry, &place, &image, "app:latest");
    (registry, image)
}

fn layer(image: &Image) -> String {
    digest(&image.layers[0].blob).to_string()
}

/// Ranges that were asked for, of the layer.
fn ranges(server: &Faulty, image: &Image) -> Vec<Option<u64>> {
    server
        .requests()
        .into_iter()
        .filter(|request| request.path.contains(&layer(image)))
        .map(|request| request.range)
        .collect()
}

fn partial(place: &Place, image: &Image) -> std::path::PathBuf {
    let name = format!("blob-{}", digest(&image.layers[0].blob).hex());
    place.context.cache().join("downloads").join(name)
}

#[test]
fn every_way_in_which_a_transfer_breaks_is_survived() {
    let (registry, image) = large();
    let path = layer(&image);
    for fault in [
        Fault::Stall(1 << 20),
        Fault::ResetAfter(2 << 20),
        Fault::Short(5000),
        Fault::Reset,
        Fault::Status(429, "Retry-After: 0\r\n".into(), "later"),
        Fault::Status(502, String::new(), "<html>"),
    ] {
        let (path, once) = (path.clone(), fault.clone());
        let server = Faulty::before(registry.address(), move |request, before| {
            (request.path.contains(&path) && before == 0).then(|| once.clone())
        });
        let place = Place::new();
        let mut request = request(&server.reference());
        // Only what stalls is waited out; on a busy machine all else may take long.
        let stalls = matches!(fault, Fault::Stall(_));
        request.registry.read_timeout = Duration::from_secs(if stalls { 2 } else { 60 });
        assert!(place.pull_with(&request, &Silent).unwrap().changed);
        let asked = ranges(&server, &image).len();
        assert!(asked == 2 || stalls && asked > 2, "{fault:?}: {asked}");
        assert!(!partial(&place, &image).exists());
    }
}

#[test]
fn a_trickle_is_slow_and_no_fault() {
    let (registry, place) = (Registry::start(), Place::new());
    publish(&registry, &place, &Image::small(), "app:latest");
    let server = Faulty::before(registry.address(), |request, _| {
        request.path.contains("blobs").then_some(Fault::Trickle)
    });
    assert!(place.pull(&server.reference()).unwrap().changed);
}

#[test]
fn a_corrupt_byte_is_found_and_leaves_nothing_to_go_on_from() {
    let (registry, image) = large();
    let path = layer(&image);
    let server = Faulty::before(registry.address(), move |request, _| {
        request
            .path
            .contains(&path)
            .then_some(Fault::Corrupt(70_000))
    });
    let place = Place::new();
    let error = place.pull(&server.reference()).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error:?}");
    assert!(!partial(&place, &image).exists());
    place.assert_untouched();
}

#[test]
fn another_command_goes_on_where_one_ended() {
    let (registry, image) = large();
    let path = layer(&image);
    let server = Faulty::before(registry.address(), move |request, before| {
        (request.path.contains(&path) && before == 0).then_some(Fault::ResetAfter(1 << 20))
    });
    let place = Place::new();
    let mut once = request(&server.reference());
    once.registry.retry.attempts = 1;
    let error = place.pull_with(&once, &Silent).unwrap_err();
    assert!(
        matches!(error, Error::Connection { .. }),
        "{}",
        chain(&error)
    );
    place.assert_untouched();
    let kept = partial(&place, &image).metadata().unwrap().len();
    assert!(kept > 0 && kept <= 1 << 20, "{kept}");
    assert!(place.pull_with(&once, &Silent).unwrap().changed);
    assert_eq!(ranges(&server, &image), [None, Some(kept)]);
    assert!(!partial(&place, &image).exists());
}

#[test]
fn a_wrong_beginning_is_found_by_the_digest_and_replaced() {
    let (registry, image) = large();
    let server = Faulty::before(registry.address(), |_, _| None);
    for (length, asked) in [
        (1000, vec![Some(1000), None]),
        // Whole, and wrong: nothing is asked for before that is known.
        (image.layers[0].blob.len() as u64, vec![None]),
        (image.layers[0].blob.len() as u64 + 1, vec![None]),
    ] {
        let place = Place::new();
        drop(place.store());
        let path = partial(&place, &image);
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(path.parent().unwrap())
            .unwrap();
        std::fs::write(&path, vec![b'x'; usize::try_from(length).unwrap()]).unwrap();
        let before = ranges(&server, &image).len();
        assert!(place.pull(&server.reference()).unwrap().changed);
        assert_eq!(ranges(&server, &image)[before..], asked);
    }
}

#[test]
fn a_range_that_begins_elsewhere_is_not_taken() {
    let (registry, image) = large();
    let path = layer(&image);
    let server = Faulty::before(registry.address(), move |request, before| {
        request.path.contains(&path).then_some(match before {
            0 => Fault::ResetAfter(1 << 20),
            1 => Fault::WrongRange,
            _ => Fault::NoRanges,
        })
    });
    assert!(Place::new().pull(&server.reference()).unwrap().changed);
    let ranges = ranges(&server, &image);
    assert!(
        ranges[0].is_none() && ranges[1].is_some() && ranges[2].is_none(),
        "{ranges:?}"
    );
}

#[test]
fn old_beginnings_are_collected_and_young_ones_kept() {
    let (registry, image) = large();
    let path = layer(&image);
    let server = Faulty::before(registry.address(), move |request, _| {
        request
            .path
            .contains(&path)
            .then_some(Fault::ResetAfter(1 << 20))
    });
    let place = Place::new();
    let mut once = request(&server.reference());
    once.registry.retry.attempts = 1;
    place.pull_with(&once, &Silent).unwrap_err();
    let (store, mut locks) = (place.store(), place.locks());
    let mut gone = |dry_run, hours: u64| {
        let what = Collected {
            dry_run,
            partial_age: Duration::from_secs(hours * 3600),
        };
        let gone = collect(&store, &mut locks, &what).unwrap();
        gone.iter()
            .filter(|blob| blob.state == BlobState::Partial)
            .count()
    };
    assert_eq!(gone(false, 24), 0);
    let file = std::fs::File::options()
        .append(true)
        .open(partial(&place, &image))
        .unwrap();
    let yesterday = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
    file.set_modified(yesterday).unwrap();
    assert_eq!(gone(true, 24), 1);
    assert!(partial(&place, &image).exists());
    assert_eq!(gone(false, 24), 1);
    assert!(!partial(&place, &image).exists());
    assert_eq!(gone(false, 0), 0);
}

#[test]
fn a_disk_that_fills_during_the_download_is_said_and_emptied() {
    let (registry, image) = large();
    let small = crate::support::mount::Tmpfs::new("2m");
    let context =
        lib_store::Context::from_environment(Some(&small.path().join("store")), |_| None).unwrap();
    let place = Place {
        context,
        ..Place::new()
    };
    let mut request = request(&registry.reference("app:latest"));
    let error = place.pull_with(&request, &Silent).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    request.check_space = false;
    let error = place.pull_with(&request, &Silent).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{}", chain(&error));
    let hint = lib_model::Diagnose::hint(&error).unwrap();
    assert!(hint.starts_with("free some disk space"), "{hint}");
    assert!(!partial(&place, &image).exists());
    place.assert_untouched();
}
