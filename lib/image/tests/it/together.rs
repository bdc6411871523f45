//! Several commands at once: equal work is done once, other work goes on side by side.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use lib_image::{ImportRequest, Input, import};
use lib_model::{ImageRecord, Reference};

use crate::pull::publish;
use crate::support::faulty::{Fault, Faulty};
use crate::support::image::{Image, Layer, digest, noise};
use crate::support::layer::{Entry, tar};
use crate::support::registry::Registry;
use crate::support::{Hook, Place, request};

/// A server that holds the first request for a blob until it is told to go on.
struct Held {
    server: Faulty,
    asked: Receiver<()>,
    go: Sender<Option<Fault>>,
}

impl Held {
    fn before(registry: &Registry, blob: &str) -> Self {
        let (tell, asked) = channel();
        let (go, told) = channel::<Option<Fault>>();
        let told = Mutex::new(told);
        let blob = blob.to_owned();
        let first = Mutex::new(true);
        let server = Faulty::before(registry.address(), move |request, _| {
            if !request.path.contains(&blob) || !std::mem::take(&mut *first.lock().unwrap()) {
                return None;
            }
            tell.send(()).unwrap();
            told.lock().unwrap().recv().unwrap()
        });
        Held { server, asked, go }
    }
}

fn image(name: &str, base: &Layer) -> Image {
    let own = Layer::gzip(&[Entry::file(name, name)]);
    Image::new(vec![base.clone(), own])
}

fn base() -> Layer {
    Layer::gzip(&[Entry::file("base", noise(300_000))])
}

/// A pull on a thread of its own; the channel hears for whom it waits.
fn pulling<'s, 'e>(
    scope: &'s thread::Scope<'s, 'e>,
    place: &'e Place,
    reference: String,
) -> (
    thread::ScopedJoinHandle<'s, Result<ImageRecord, lib_image::Error>>,
    Receiver<String>,
) {
    let (tell, waits) = channel();
    let tell = Mutex::new(tell);
    let hook = Hook::new(move |label: &str| {
        if label.starts_with("begin waiting") {
            // Nobody listens to the later ones.
            let _ = tell.lock().unwrap().send(label.to_owned());
        }
    });
    let mut request = request(&reference);
    request.registry.retry.attempts = 1;
    let pull = scope.spawn(move || place.pull_with(&request, &hook));
    (pull, waits)
}

#[test]
fn the_second_of_two_equal_pulls_waits_and_downloads_nothing() {
    let (registry, place) = (Registry::start(), Place::new());
    let image = image("own", &base());
    publish(&registry, &place, &image, "app:latest");
    publish(&registry, &place, &image, "same:latest");
    drop(place.store());
    let layer = digest(&image.layers[0].blob).to_string();
    let held = Held::before(&registry, &layer);
    thread::scope(|scope| {
        let (first, _) = pulling(scope, &place, held.server.reference());
        held.asked.recv().unwrap();
        // By another name: what counts is the digest.
        let name = format!("{}/same", held.server.address);
        let (second, waits) = pulling(scope, &place, name.clone());
        let waiting = format!(
            "begin waiting for the same pull (process {})",
            std::process::id()
        );
        assert_eq!(waits.recv().unwrap(), waiting);
        held.go.send(None).unwrap();
        let (first, second) = (
            first.join().unwrap().unwrap(),
            second.join().unwrap().unwrap(),
        );
        assert_eq!(first.id, second.id);
        assert_eq!(
            second.names,
            [held.server.reference() + ":latest", name + ":latest"]
        );
    });
    for blob in &image.blobs()[1..] {
        assert_eq!(held.server.count(digest(blob).as_str()), 1);
    }
    assert_eq!(place.listing("images").len(), 1);
    let downloads = place.context.cache().join("downloads");
    assert_eq!(std::fs::read_dir(downloads).unwrap().count(), 0);
}

#[test]
fn the_second_takes_over_when_the_first_fails() {
    let (registry, place) = (Registry::start(), Place::new());
    let image = image("own", &base());
    publish(&registry, &place, &image, "app:latest");
    drop(place.store());
    let layer = digest(&image.layers[0].blob).to_string();
    let held = Held::before(&registry, &layer);
    thread::scope(|scope| {
        let (first, _) = pulling(scope, &place, held.server.reference());
        held.asked.recv().unwrap();
        let (second, waits) = pulling(scope, &place, held.server.reference());
        waits.recv().unwrap();
        held.go.send(Some(Fault::Reset)).unwrap();
        assert!(first.join().unwrap().is_err());
        assert!(second.join().unwrap().unwrap().changed);
    });
}

#[test]
fn different_images_share_the_download_of_a_layer_and_wait_for_nothing_else() {
    let (registry, place) = (Registry::start(), Place::new());
    let (one, two) = (image("one", &base()), image("two", &base()));
    publish(&registry, &place, &one, "one:latest");
    publish(&registry, &place, &two, "two:latest");
    publish(&registry, &place, &Image::small(), "small:latest");
    drop(place.store());
    let shared = digest(&one.layers[0].blob).to_string();
    let held = Held::before(&registry, &shared);
    let name = |name: &str| format!("{}/{name}", held.server.address);
    thread::scope(|scope| {
        let (first, _) = pulling(scope, &place, name("one"));
        held.asked.recv().unwrap();
        let (second, waits) = pulling(scope, &place, name("two"));
        let waiting = waits.recv().unwrap();
        assert!(waiting.starts_with("begin waiting for layer "), "{waiting}");
        // An image that shares nothing is pulled from beginning to end meanwhile.
        assert!(place.pull(&name("small")).unwrap().changed);
        held.go.send(None).unwrap();
        assert!(first.join().unwrap().unwrap().changed);
        assert!(second.join().unwrap().unwrap().changed);
    });
    assert_eq!(held.server.count(&shared), 1);
    assert_eq!(place.listing("images").len(), 3);
}

#[test]
fn the_layers_of_an_image_are_downloaded_side_by_side() {
    let (registry, place) = (Registry::start(), Place::new());
    let layers = ["a", "b", "c"].map(|name| Layer::gzip(&[Entry::file(name, noise(50_000))]));
    let image = Image::new(layers.to_vec());
    publish(&registry, &place, &image, "app:latest");
    let digests = layers.map(|layer| digest(&layer.blob).to_string());
    let paths = digests.clone();
    let gate = (Mutex::new(BTreeSet::new()), Condvar::new());
    // None of them is answered before all were asked for. Who asks for one after the other gets none.
    let server = Faulty::before(registry.address(), move |request, _| {
        let path = paths.iter().find(|path| request.path.ends_with(*path))?;
        let (asked, changed) = &gate;
        let mut asked = asked.lock().unwrap();
        asked.insert(path.clone());
        changed.notify_all();
        let patience = Duration::from_secs(60);
        let (_asked, waited) = changed
            .wait_timeout_while(asked, patience, |asked| asked.len() < paths.len())
            .unwrap();
        waited
            .timed_out()
            .then(|| Fault::Status(404, String::new(), "nobody asked for the others"))
    });
    assert!(place.pull(&server.reference()).unwrap().changed);
    for layer in &digests {
        assert_eq!(server.count(layer), 1);
    }
}

#[test]
fn layers_that_are_here_are_not_asked_for() {
    let (registry, place) = (Registry::start(), Place::new());
    let (one, two) = (image("one", &base()), image("two", &base()));
    publish(&registry, &place, &one, "one:latest");
    publish(&registry, &place, &two, "two:latest");
    let server = Faulty::before(registry.address(), |_, _| None);
    place.pull(&format!("{}/one", server.address)).unwrap();
    let before = server.requests().len();
    place.pull(&format!("{}/two", server.address)).unwrap();
    let asked: Vec<String> = server.requests()[before..]
        .iter()
        .map(|request| request.path.rsplit('/').next().unwrap().to_owned())
        .collect();
    let new = [
        "latest".to_owned(),
        digest(&two.config()).to_string(),
        digest(&two.layers[1].blob).to_string(),
    ];
    assert_eq!(asked, new);
}

#[test]
fn of_two_images_with_one_name_the_last_to_be_published_has_it() {
    let place = Arc::new(Place::new());
    drop(place.store());
    let barrier = Arc::new(Barrier::new(2));
    let imports: Vec<_> = ["1", "2"]
        .into_iter()
        .map(|content| {
            let (place, barrier) = (place.clone(), barrier.clone());
            thread::spawn(move || {
                let bytes = tar(&[Entry::file("a", content)]);
                let input = Input::Stream {
                    name: content.to_owned(),
                    reader: Box::new(&bytes[..]),
                };
                let request = ImportRequest {
                    name: Some(Reference::try_from("clash").unwrap()),
                    ..ImportRequest::default()
                };
                // Both are built before either is published.
                let hook = Hook::new(move |label: &str| {
                    if label == "end building file system" {
                        barrier.wait();
                    }
                });
                import(
                    &mut place.store(),
                    &mut place.locks(),
                    input,
                    &request,
                    &hook,
                )
                .unwrap()
            })
        })
        .collect();
    let records: Vec<ImageRecord> = imports.into_iter().map(|t| t.join().unwrap()).collect();
    assert_ne!(records[0].id, records[1].id);
    let store = place.store();
    let named: Vec<_> = store
        .images()
        .unwrap()
        .into_iter()
        .filter(|image| image.names == ["clash:latest"])
        .collect();
    assert_eq!(named.len(), 1, "one winner");
    assert_eq!(store.images().unwrap().len(), 2, "and nothing is lost");
    assert_eq!(store.image("clash").unwrap().id, named[0].id);
    let blobs = std::fs::read(place.context.blobs().join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&blobs).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    let winner = entries
        .iter()
        .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == "clash:latest");
    assert_eq!(winner.unwrap()["digest"], named[0].digest.as_str());
}
