//! Pulls from the distribution's registry server.

use lib_image::{Error, TlsFault, delete, tag};
use lib_model::{Diagnose, Exit, Reference, Silent};
use serde_json::Value;

use crate::support::image::{
    Image, Layer, digest, index, layout, named, noise, push, write_layout,
};
use crate::support::layer::Entry;
use crate::support::registry::Registry;
use crate::support::{Place, Recorder, chain, request};

pub(crate) fn publish(registry: &Registry, place: &Place, image: &Image, name: &str) {
    let root = tempfile::tempdir_in(place.base.path()).unwrap();
    let files = layout(vec![named(image.descriptor(), "x")], &image.blobs());
    let root = write_layout(root.path(), &files);
    push(
        &root,
        "x",
        &registry.reference(name),
        &["--preserve-digests"],
    );
}

#[test]
fn a_pull_gives_a_record_an_image_and_a_layout_that_others_read() {
    let (registry, place) = (Registry::start(), Place::new());
    let image = Image::small();
    publish(&registry, &place, &image, "team/app:1");
    let reference = registry.reference("team/app:1");
    let record = place.pull(&reference).unwrap();
    assert!(record.changed);
    assert_eq!(record.names, [reference.as_str()]);
    assert_eq!(
        (record.architecture.as_str(), record.filesystem.as_str()),
        ("amd64", "ext4")
    );
    assert_eq!(record.source, reference);
    assert_eq!(record.config.env, ["PATH=/bin", "A=b"]);
    assert_eq!(
        (record.config.cmd.as_slice(), &*record.config.user),
        (&["sh".to_owned()][..], "daemon")
    );
    assert_eq!(record.config.working_dir, "/srv");
    let config = std::fs::read(place.context.image(&record.id).join("config.json")).unwrap();
    assert_eq!(config, image.config());
    assert_eq!(place.listing("staging"), Vec::<String>::new());

    // skopeo reads the blobs as the OCI layout that they are.
    let output = std::process::Command::new("/usr/bin/skopeo")
        .args(["inspect", "--raw"])
        .arg(format!(
            "oci:{}:{reference}",
            place.context.blobs().display()
        ))
        .env_clear()
        .env("HOME", place.base.path())
        .output()
        .unwrap();
    assert_eq!(
        output.stdout,
        image.manifest(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_second_pull_changes_nothing_and_another_tag_only_adds_a_name() {
    let (registry, place) = (Registry::start(), Place::new());
    publish(&registry, &place, &Image::small(), "app:1");
    publish(&registry, &place, &Image::small(), "app:2");
    let first = place.pull(&registry.reference("app:1")).unwrap();
    let again = place.pull(&registry.reference("app:1")).unwrap();
    assert_eq!((again.id.clone(), again.changed), (first.id.clone(), false));
    let other = place.pull(&registry.reference("app:2")).unwrap();
    assert_eq!((&other.id, other.changed), (&first.id, true));
    assert_eq!(
        other.names,
        [registry.reference("app:1"), registry.reference("app:2")]
    );
    let index = std::fs::read(place.context.blobs().join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
}

#[test]
fn a_moved_tag_moves_the_name() {
    let (registry, place) = (Registry::start(), Place::new());
    publish(&registry, &place, &Image::small(), "app:1");
    let old = place.pull(&registry.reference("app:1")).unwrap();
    let mut image = Image::small();
    image.layers.push(Layer::zstd(&[Entry::file("new", "1")]));
    publish(&registry, &place, &image, "app:1");
    let log = Recorder::default();
    let new = place
        .pull_with(&request(&registry.reference("app:1")), &log)
        .unwrap();
    assert_ne!(new.id, old.id);
    assert_eq!(new.names, [registry.reference("app:1")]);
    let old = place.store().image(old.id.as_str()).unwrap();
    assert!(old.names.is_empty());

    // The base layer was here; only the new one came over the wire.
    let log = log.0.lock().unwrap().clone();
    let base = digest(&image.layers[0].blob);
    let top = digest(&image.layers[1].blob);
    let length = image.layers[1].blob.len();
    assert!(
        log.contains(&format!("end layer {} 0 already here", base.short())),
        "{log:?}"
    );
    assert!(
        log.contains(&format!("end layer {} {length} ", top.short())),
        "{log:?}"
    );
    assert!(
        log.iter()
            .any(|line| line.starts_with("end building file system")),
        "{log:?}"
    );
}

#[test]
fn a_digest_pins_the_image_and_is_not_asked_for_again() {
    let place = Place::new();
    let image = Image::small();
    let reference = {
        let registry = Registry::start();
        publish(&registry, &place, &image, "app:1");
        let reference = registry.reference(&format!("app@{}", digest(&image.manifest())));
        assert!(place.pull(&reference).unwrap().changed);
        let wrong = registry.reference(&format!("app@{}", digest(b"other")));
        let error = place.pull(&wrong).unwrap_err();
        assert!(matches!(error, Error::UnknownTag { .. }), "{error:?}");
        reference
    };
    // The registry is gone.
    assert!(!place.pull(&reference).unwrap().changed);
}

#[test]
fn an_index_gives_the_platform_or_lists_what_there_is() {
    let (registry, place) = (Registry::start(), Place::new());
    let amd64 = Image::small();
    let mut arm64 = Image::new(vec![Layer::gzip(&[Entry::file("arm", "64")])]);
    arm64.architecture = "arm64";
    let list = index(&[(&arm64, "linux/arm64"), (&amd64, "linux/amd64")]);
    let mut blobs = [amd64.blobs(), arm64.blobs()].concat();
    blobs.push(list.clone());
    let entry = serde_json::json!({
        "mediaType": crate::support::image::INDEX, "digest": digest(&list), "size": list.len(),
    });
    let root = write_layout(
        &place.base.path().join("l"),
        &layout(vec![named(entry, "x")], &blobs),
    );
    push(
        &root,
        "x",
        &registry.reference("multi:1"),
        &["--all", "--preserve-digests"],
    );

    let reference = registry.reference("multi:1");
    let record = place.pull(&reference).unwrap();
    assert_eq!(
        (&record.digest, &*record.architecture),
        (&digest(&amd64.manifest()), "amd64")
    );
    let mut other = request(&reference);
    other.platform = "linux/arm64".parse().unwrap();
    let record = place.pull_with(&other, &Silent).unwrap();
    assert_eq!(
        (&record.digest, &*record.architecture),
        (&digest(&arm64.manifest()), "arm64")
    );
    other.platform = "linux/s390x".parse().unwrap();
    let error = place.pull_with(&other, &Silent).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("for linux/s390x, only for linux/arm64, linux/amd64"),
        "{error}"
    );
    assert_eq!(
        (error.exit(), error.hint().unwrap()),
        (Exit::NotFound, "--platform linux/arm64".into())
    );
}

#[test]
fn docker_schema_2_is_pulled() {
    let (registry, place) = (Registry::start(), Place::new());
    let image = Image::small();
    let files = layout(vec![named(image.descriptor(), "x")], &image.blobs());
    let root = write_layout(&place.base.path().join("l"), &files);
    push(
        &root,
        "x",
        &registry.reference("docker:1"),
        &["--format", "v2s2"],
    );
    let record = place.pull(&registry.reference("docker:1")).unwrap();
    assert_ne!(record.digest, digest(&image.manifest()));
    assert_eq!(record.config.cmd, ["sh"]);
}

#[test]
fn what_is_not_there_is_not_found() {
    let (registry, place) = (Registry::start(), Place::new());
    publish(&registry, &place, &Image::small(), "app:1");
    let error = place.pull(&registry.reference("app:2")).unwrap_err();
    assert!(matches!(error, Error::UnknownTag { .. }), "{error:?}");
    assert_eq!(error.exit(), Exit::NotFound);
    let hint = format!("skopeo list-tags docker://{}", registry.reference("app"));
    assert_eq!(error.hint(), Some(hint));
    let error = place.pull(&registry.reference("nothing:1")).unwrap_err();
    assert!(
        matches!(
            error,
            Error::UnknownTag { .. } | Error::UnknownRepository { .. }
        ),
        "{error:?}"
    );
    assert_eq!(error.exit(), Exit::NotFound);
    place.assert_untouched();
}

#[test]
fn credentials_are_used_and_their_lack_is_explained() {
    let (registry, _files) = Registry::with_password();
    let place = Place::new();
    let files = layout(
        vec![named(Image::small().descriptor(), "x")],
        &Image::small().blobs(),
    );
    let root = write_layout(&place.base.path().join("l"), &files);
    let reference = registry.reference("private:1");
    push(&root, "x", &reference, &["--dest-creds", "user:secret"]);

    let error = place.pull(&reference).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert!(
        error
            .hint()
            .unwrap()
            .starts_with(&format!("podman login {}", registry.address()))
    );
    place.assert_untouched();

    let auth = |pair: &str| {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(pair);
        let path = place.base.path().join("auth.json");
        let text = serde_json::json!({"auths": {registry.address(): {"auth": auth}}});
        std::fs::write(&path, text.to_string()).unwrap();
        let mut request = request(&reference);
        request.registry.credential_files = vec!["/nonexistent/auth.json".into(), path];
        request
    };
    let error = place.pull_with(&auth("user:wrong"), &Silent).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert!(
        place
            .pull_with(&auth("user:secret"), &Silent)
            .unwrap()
            .changed
    );
}

#[test]
fn a_certificate_that_nobody_knows_is_named_as_that() {
    let (registry, _files) = Registry::with_tls();
    let place = Place::new();
    let mut request = request(&registry.reference("app:1"));
    request.registry.tls_on_loopback = true;
    let error = place.pull_with(&request, &Silent).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Tls {
                fault: TlsFault::UnknownCa,
                ..
            }
        ),
        "{}",
        chain(&error)
    );
    assert!(error.hint().unwrap().contains("--ca-file"));

    // TLS is spoken to a registry that has none.
    let plain = Registry::start();
    request.reference = Reference::try_from(plain.reference("app:1").as_str()).unwrap();
    let error = place.pull_with(&request, &Silent).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Tls {
                fault: TlsFault::Protocol,
                ..
            }
        ),
        "{}",
        chain(&error)
    );
    assert!(error.hint().unwrap().contains("--plain-http"));
}

#[test]
fn equal_pulls_at_once_build_once_and_different_ones_side_by_side() {
    let (registry, place) = (Registry::start(), Place::new());
    let mut image = Image::small();
    image
        .layers
        .push(Layer::plain(&[Entry::file("big", noise(8 << 20))]));
    publish(&registry, &place, &image, "app:1");
    publish(&registry, &place, &Image::small(), "other:1");
    let names = ["app:1", "app:1", "app:1", "other:1"].map(|name| registry.reference(name));
    // The first command makes the store's directories; see the store's own tests for that race.
    drop(place.store());
    let records: Vec<_> = std::thread::scope(|scope| {
        let running = names.map(|name| {
            let place = &place;
            scope.spawn(move || place.pull(&name).unwrap())
        });
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(records[0].id, records[1].id);
    assert_eq!(records[0].id, records[2].id);
    assert_eq!(
        records[..3].iter().filter(|record| record.changed).count(),
        1
    );
    assert_ne!(records[0].id, records[3].id);
    assert_eq!(place.listing("images").len(), 2);
    assert_eq!(place.listing("staging"), Vec::<String>::new());
}

#[test]
fn a_blob_that_rotted_is_downloaded_again() {
    let (registry, place) = (Registry::start(), Place::new());
    let image = Image::small();
    publish(&registry, &place, &image, "app:1");
    let record = place.pull(&registry.reference("app:1")).unwrap();
    delete(&mut place.store(), &mut place.locks(), record.id.as_str()).unwrap();
    let blob = place
        .context
        .blobs()
        .join("blobs/sha256")
        .join(digest(&image.layers[0].blob).hex());
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    place.pull(&registry.reference("app:1")).unwrap();
    assert_eq!(std::fs::read(&blob).unwrap(), image.layers[0].blob);
}

#[test]
fn tag_and_delete_keep_rows_files_and_index_together() {
    let (registry, place) = (Registry::start(), Place::new());
    publish(&registry, &place, &Image::small(), "app:1");
    let record = place.pull(&registry.reference("app:1")).unwrap();
    let name = Reference::try_from("mine:1").unwrap();
    let (mut store, mut locks) = (place.store(), place.locks());
    assert!(
        tag(&mut store, &mut locks, record.id.as_str(), &name)
            .unwrap()
            .changed
    );
    assert!(
        !tag(&mut store, &mut locks, "mine:1", &name)
            .unwrap()
            .changed
    );
    let deleted = delete(&mut store, &mut locks, "mine:1").unwrap();
    assert_eq!(deleted.names.len(), 2);
    let error = delete(&mut store, &mut locks, "mine:1").unwrap_err();
    assert_eq!(error.exit(), Exit::NotFound);
    assert_eq!(place.listing("images"), Vec::<String>::new());
    let index = std::fs::read(place.context.blobs().join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"], serde_json::json!([]));
}
