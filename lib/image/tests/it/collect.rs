//! Collection of blobs, alone and while others count on them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lib_image::{Collected, ImportRequest, Input, cached, collect, delete, import, verify};
use lib_model::{BlobRecord, BlobState, Silent};

use crate::pull::publish;
use crate::support::faulty::Faulty;
use crate::support::image::{Image, Layer, archive, digest, layout, named, noise};
use crate::support::layer::{Entry, tar};
use crate::support::registry::Registry;
use crate::support::{Hook, Place, request};

const ALL: Collected = Collected {
    dry_run: false,
    partial_age: Duration::ZERO,
};

fn gc(place: &Place) -> Vec<BlobRecord> {
    collect(&place.store(), &mut place.locks(), &ALL).unwrap()
}

fn remove(place: &Place, name: &str) {
    delete(&mut place.store(), &mut place.locks(), name).unwrap();
}

fn digests(image: &Image) -> BTreeSet<String> {
    image
        .blobs()
        .iter()
        .map(|blob| digest(blob).to_string())
        .collect()
}

fn here(place: &Place) -> BTreeSet<String> {
    let names = place.listing("blobs/blobs/sha256");
    names
        .into_iter()
        .map(|name| format!("sha256:{name}"))
        .collect()
}

fn sound(place: &Place, name: &str) {
    let verified = verify(&place.store(), &mut place.locks(), name, &Silent).unwrap();
    assert_eq!(
        (verified.faults, verified.skipped),
        (vec![], vec![]),
        "{name}"
    );
}

#[test]
fn what_no_image_has_goes_and_the_rest_stays() {
    let (registry, place) = (Registry::start(), Place::new());
    let base = Layer::gzip(&[Entry::file("base", noise(100_000))]);
    let image =
        |name: &str| Image::new(vec![base.clone(), Layer::gzip(&[Entry::file(name, name)])]);
    let (one, two) = (image("one"), image("two"));
    for (image, name) in [(&one, "one:1"), (&two, "two:1")] {
        publish(&registry, &place, image, name);
        place.pull(&registry.reference(name)).unwrap();
    }
    assert_eq!(gc(&place), []);
    let list = cached(&place.store()).unwrap();
    let shared = list
        .iter()
        .find(|blob| blob.digest == digest(&base.blob))
        .unwrap();
    assert_eq!((shared.state, shared.images.len()), (BlobState::Used, 2));

    remove(&place, &registry.reference("two:1"));
    let alone: BTreeSet<String> = digests(&two).difference(&digests(&one)).cloned().collect();
    let dry = Collected {
        dry_run: true,
        ..ALL
    };
    let would = collect(&place.store(), &mut place.locks(), &dry).unwrap();
    assert!(would.iter().all(|blob| !blob.changed));
    assert!(
        here(&place).is_superset(&alone),
        "a dry run removes nothing"
    );
    let gone = gc(&place);
    let names = |blobs: &[BlobRecord]| -> BTreeSet<String> {
        blobs.iter().map(|blob| blob.digest.to_string()).collect()
    };
    assert_eq!(names(&gone), alone);
    assert_eq!(names(&would), alone);
    assert!(
        gone.iter()
            .all(|blob| blob.changed && blob.state == BlobState::Unused)
    );
    assert_eq!(here(&place), digests(&one));
    sound(&place, &registry.reference("one:1"));

    // Everything comes back by a pull.
    assert!(place.pull(&registry.reference("two:1")).unwrap().changed);
    sound(&place, &registry.reference("two:1"));
    assert_eq!(place.listing("staging"), Vec::<String>::new());
}

#[test]
fn a_layer_that_a_pull_found_here_is_not_taken_from_it() {
    let (registry, place) = (Registry::start(), Place::new());
    let image = Image::small();
    publish(&registry, &place, &image, "app:latest");
    let server = Faulty::before(registry.address(), |_, _| None);
    place.pull(&server.reference()).unwrap();
    remove(&place, &server.reference());
    let layer = format!("layer {}", digest(&image.layers[0].blob).short());
    let place = Arc::new(place);
    let collected = Arc::new(AtomicBool::new(false));
    let hook = Hook::new({
        let (place, collected) = (place.clone(), collected.clone());
        move |label: &str| {
            // It has just looked, and found the layer.
            if label == format!("end {layer}") {
                assert_eq!(gc(&place), []);
                collected.store(true, Ordering::SeqCst);
            }
        }
    });
    let record = place
        .pull_with(&request(&server.reference()), &hook)
        .unwrap();
    assert!(collected.load(Ordering::SeqCst) && record.changed);
    assert_eq!(server.count(digest(&image.layers[0].blob).as_str()), 1);
    sound(&place, &server.reference());
}

#[test]
fn a_layer_that_arrived_is_not_taken_before_its_image_is_published() {
    let (registry, place) = (Registry::start(), Arc::new(Place::new()));
    let image = Image::small();
    publish(&registry, &place, &image, "app:latest");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = Hook::new({
        let (place, seen) = (place.clone(), seen.clone());
        move |label: &str| {
            assert_eq!(gc(&place), [], "{label}");
            seen.lock()
                .unwrap()
                .push((label.to_owned(), here(&place).len()));
        }
    });
    let reference = registry.reference("app:latest");
    place.pull_with(&request(&reference), &hook).unwrap();
    let seen = seen.lock().unwrap();
    let whole = (
        format!("end layer {}", digest(&image.layers[0].blob).short()),
        3,
    );
    assert!(seen.contains(&whole), "{seen:?}");
    sound(&place, &reference);
}

#[test]
fn what_an_import_stored_is_not_taken_before_its_image_is_published() {
    let image = Image::small();
    let files = layout(vec![named(image.descriptor(), "app:1")], &image.blobs());
    let docker = [
        ("/layer.tar".to_owned(), image.layers[0].blob.clone()),
        ("/config.json".to_owned(), image.config()),
        (
            "/manifest.json".to_owned(),
            br#"[{"Config":"/config.json","RepoTags":["app:1"],"Layers":["/layer.tar"]}]"#.to_vec(),
        ),
    ];
    // A first member that shows that it is an archive.
    let docker = [&[("repositories".to_owned(), b"{}".to_vec())], &docker[..]].concat();
    for bytes in [
        archive(&files),
        archive(&docker),
        tar(&[Entry::file("a", "b")]),
    ] {
        let place = Arc::new(Place::new());
        let calls = Arc::new(AtomicUsize::new(0));
        let hook = Hook::new({
            let (place, calls) = (place.clone(), calls.clone());
            move |label: &str| {
                assert_eq!(gc(&place), [], "{label}");
                if label.ends_with("building file system") {
                    assert!(here(&place).len() >= 3, "{label}");
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let input = Input::Stream {
            name: "stream".into(),
            reader: Box::new(&bytes[..]),
        };
        let (mut store, mut locks) = (place.store(), place.locks());
        let request = ImportRequest::default();
        let record = import(&mut store, &mut locks, input, &request, &hook).unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        sound(&place, record.id.as_str());
    }
}

#[test]
fn what_was_collected_before_a_pull_looked_is_downloaded_again() {
    let (registry, place) = (Registry::start(), Place::new());
    let image = Image::small();
    publish(&registry, &place, &image, "app:latest");
    let server = Faulty::before(registry.address(), |_, _| None);
    place.pull(&server.reference()).unwrap();
    remove(&place, &server.reference());
    assert_eq!(gc(&place).len(), 3);
    assert!(here(&place).is_empty());
    let index = std::fs::read(place.context.blobs().join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"], serde_json::json!([]));
    assert!(place.pull(&server.reference()).unwrap().changed);
    assert_eq!(server.count(digest(&image.layers[0].blob).as_str()), 2);
    sound(&place, &server.reference());
}

#[test]
fn a_pull_looks_for_its_layers_only_when_no_collection_is_under_way() {
    let (registry, place) = (Registry::start(), Place::new());
    let image = Image::small();
    publish(&registry, &place, &image, "app:latest");
    let server = Faulty::before(registry.address(), |_, _| None);
    place.pull(&server.reference()).unwrap();
    remove(&place, &server.reference());
    // A collector that has read the pins, and not yet removed what nobody had pinned.
    let mut locks = place.locks();
    let guard = locks.images().unwrap();
    let layer = digest(&image.layers[0].blob);
    std::thread::scope(|scope| {
        let (tell, waits) = std::sync::mpsc::channel();
        let (place, request) = (&place, request(&server.reference()));
        let pull = scope.spawn(move || {
            let mut locks = lib_store::Locks::new(&place.context, move |name, _| {
                // Nobody listens to later waits.
                let _ = tell.send(name.to_owned());
            });
            lib_image::pull(&mut place.store(), &mut locks, &request, &Silent)
        });
        assert_eq!(waits.recv().unwrap(), "images");
        let blob = place.context.blobs().join("blobs/sha256").join(layer.hex());
        std::fs::remove_file(blob).unwrap();
        drop(guard);
        assert!(pull.join().unwrap().unwrap().changed);
    });
    assert_eq!(server.count(layer.as_str()), 2);
    sound(&place, &server.reference());
}

#[test]
fn pins_end_with_their_process() {
    let place = Place::new();
    let record = place
        .import_bytes(&tar(&[Entry::file("a", "b")]), &ImportRequest::default())
        .unwrap();
    let blobs = here(&place);
    // As a killed pull leaves them: a directory in staging that nobody has locked.
    let dead = place.context.data().join("staging/00000000000000aa");
    std::fs::create_dir(&dead).unwrap();
    let pins: Vec<String> = blobs.iter().cloned().collect();
    std::fs::write(dead.join("pins"), pins.join("\n")).unwrap();
    remove(&place, record.id.as_str());
    assert_eq!(gc(&place).len(), blobs.len());
    assert!(!dead.exists());
}

#[test]
fn pulls_deletions_and_collections_at_once_never_destroy_each_others_files() {
    let (registry, place) = (Registry::start(), Place::new());
    let base = Layer::gzip(&[Entry::file("base", noise(50_000))]);
    let names = ["one:1", "two:1"].map(|name| {
        let own = Layer::gzip(&[Entry::file(name, name)]);
        publish(
            &registry,
            &place,
            &Image::new(vec![base.clone(), own]),
            name,
        );
        registry.reference(name)
    });
    drop(place.store());
    std::thread::scope(|scope| {
        for name in &names {
            let place = &place;
            scope.spawn(move || {
                for _ in 0..12 {
                    place.pull(name).unwrap();
                    sound(place, name);
                    remove(place, name);
                }
                place.pull(name).unwrap();
            });
        }
        scope.spawn(|| {
            for _ in 0..40 {
                gc(&place);
            }
        });
    });
    for name in &names {
        sound(&place, name);
    }
    gc(&place);
    for name in &names {
        sound(&place, name);
    }
    assert_eq!(here(&place).len(), 7);
    assert_eq!(place.listing("staging"), Vec::<String>::new());
}
