//! A registry that misbehaves. Every pull that fails leaves nothing.

use lib_image::Error;
use lib_model::{Diagnose, Exit, Silent};
use serde_json::json;

use crate::support::faulty::{Fault, Faulty, Request};
use crate::support::image::{Image, Layer, MANIFEST, digest};
use crate::support::layer::{Entry, gzip};
use crate::support::{Place, chain, request};

/// Pulls from a registry with this script; the pull fails, and leaves nothing.
fn refused(
    image: &Image,
    script: impl Fn(&Request, usize) -> Option<Fault> + Send + Sync + 'static,
) -> (Error, Faulty) {
    let server = Faulty::serve(image, script);
    let place = Place::new();
    let error = place.pull(&server.reference()).unwrap_err();
    place.assert_untouched();
    (error, server)
}

fn layer_path(image: &Image) -> String {
    digest(&image.layers[0].blob).to_string()
}

fn status(code: u16) -> Option<Fault> {
    Some(Fault::Status(code, String::new(), "no"))
}

#[test]
fn refusals_are_told_apart_and_not_repeated() {
    for (code, expected) in [
        (401, "wants other credentials"),
        (403, "denies access"),
        (404, "has no manifest"),
        (418, "answered 418"),
    ] {
        let (error, server) = refused(&Image::small(), move |request, _| {
            request
                .path
                .contains("manifests")
                .then(|| status(code))
                .flatten()
        });
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(server.count("manifests"), 1, "{code}");
        let exit = if code == 404 {
            Exit::NotFound
        } else {
            Exit::Failed
        };
        assert_eq!(error.exit(), exit);
    }
}

#[test]
fn a_server_that_recovers_is_asked_again() {
    for code in [500, 502, 429] {
        let image = Image::small();
        let server = Faulty::serve(&image, move |request, before| {
            (before == 0 && request.path != "/v2/")
                .then(|| status(code))
                .flatten()
        });
        let place = Place::new();
        assert!(place.pull(&server.reference()).unwrap().changed);
        assert_eq!(server.count(&layer_path(&image)), 2);
    }
}

#[test]
fn a_server_that_stays_broken_is_given_up() {
    let (error, server) = refused(&Image::small(), |request, _| {
        request
            .path
            .contains("manifests")
            .then(|| status(503))
            .flatten()
    });
    assert!(error.to_string().contains("answered 503"), "{error}");
    assert!(error.to_string().ends_with(": no"), "{error}");
    assert_eq!(server.count("manifests"), 3);
}

#[test]
fn a_reset_in_the_middle_resumes_where_it_broke() {
    let image = Image::small();
    let path = layer_path(&image);
    let server = Faulty::serve(&image, move |request, before| {
        (request.path.ends_with(&path) && before < 2).then_some(Fault::ResetAfter(50_000))
    });
    let place = Place::new();
    place.pull(&server.reference()).unwrap();
    let ranges: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|request| request.path.ends_with(&layer_path(&image)))
        .map(|request| request.range)
        .collect();
    assert_eq!((ranges.len(), ranges[0]), (3, None));
    assert!(ranges[1] > Some(0) && ranges[2] > ranges[1], "{ranges:?}");
}

#[test]
fn a_server_without_ranges_starts_over() {
    let image = Image::small();
    let path = layer_path(&image);
    let server = Faulty::serve(&image, move |request, before| {
        request.path.ends_with(&path).then_some(match before {
            0 => Fault::ResetAfter(50_000),
            _ => Fault::NoRanges,
        })
    });
    assert!(Place::new().pull(&server.reference()).unwrap().changed);
}

#[test]
fn resets_without_end_are_given_up() {
    let (error, server) = refused(&Image::small(), |request, _| {
        request.path.contains("blobs").then_some(Fault::Reset)
    });
    assert!(
        matches!(error, Error::Connection { refused: false, .. }),
        "{}",
        chain(&error)
    );
    assert_eq!(server.count("blobs"), 3);
    let (error, _) = refused(&Image::small(), |_, _| Some(Fault::Reset));
    assert!(
        matches!(error, Error::Connection { refused: false, .. }),
        "{}",
        chain(&error)
    );
}

#[test]
fn nobody_listens() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let place = Place::new();
    let error = place.pull(&format!("127.0.0.1:{port}/app")).unwrap_err();
    assert!(
        matches!(error, Error::Connection { refused: true, .. }),
        "{}",
        chain(&error)
    );
    assert!(error.hint().unwrap().contains("is the registry running"));
    place.assert_untouched();
}

#[test]
fn a_wrong_digest_is_named_with_both() {
    for what in ["layer", "config"] {
        let image = Image::small();
        let right = match what {
            "layer" => image.layers[0].blob.clone(),
            _ => image.config(),
        };
        let mut wrong = right.clone();
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        let (path, other) = (digest(&right).to_string(), wrong.clone());
        let (error, server) = refused(&image, move |request, _| {
            request
                .path
                .ends_with(&path)
                .then(|| Fault::Instead(other.clone()))
        });
        assert!(
            matches!(&error, Error::DigestMismatch { expected, actual, .. }
                if *expected == digest(&right) && *actual == digest(&wrong)),
            "{error:?}"
        );
        assert_eq!(server.count(digest(&right).as_str()), 1);
    }
}

#[test]
fn a_manifest_that_is_not_the_one_asked_for() {
    let image = Image::small();
    let other = Image::new(vec![]).manifest();
    let server = Faulty::serve(&image, move |request, _| {
        request
            .path
            .contains("manifests")
            .then(|| Fault::Instead(other.clone()))
    });
    let place = Place::new();
    let reference = format!("{}@{}", server.reference(), digest(&image.manifest()));
    let error = place.pull(&reference).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error:?}");
    place.assert_untouched();
}

#[test]
fn truncated_and_overlong_blobs_are_counted() {
    let image = Image::small();
    let length = image.layers[0].blob.len() as u64;
    let path = layer_path(&image);
    let (error, _) = refused(&image, move |request, _| {
        request
            .path
            .ends_with(&path)
            .then_some(match request.range {
                None => Fault::Short(1000),
                _ => Fault::Short(0),
            })
    });
    assert!(
        matches!(error, Error::Truncated { expected, received: 1000, .. } if expected == length),
        "{error:?}"
    );
    let path = layer_path(&image);
    let mut long = image.layers[0].blob.clone();
    long.push(0);
    let (error, _) = refused(&image, move |request, _| {
        request
            .path
            .ends_with(&path)
            .then(|| Fault::Instead(long.clone()))
    });
    assert!(
        matches!(error, Error::TooLong { expected, .. } if expected == length),
        "{error:?}"
    );
}

#[test]
fn a_layer_that_is_no_tar() {
    let text = b"this is not a tar archive, but it is long enough to be looked at ".repeat(20);
    let layer = Layer {
        blob: gzip(&text),
        diff_id: digest(&text).to_string(),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
    };
    let name = digest(&layer.blob).short().to_owned();
    let (error, _) = refused(&Image::new(vec![layer]), |_, _| None);
    assert!(matches!(error, Error::Build { .. }), "{error:?}");
    assert!(
        chain(&error).contains(&format!("layer {name}: not a tar archive")),
        "{}",
        chain(&error)
    );
}

#[test]
fn a_wrong_diff_id_is_found_at_the_end() {
    let mut image = Image::small();
    let right = image.layers[0].diff_id.clone();
    image.layers[0].diff_id = digest(b"something else").to_string();
    let (error, _) = refused(&image, |_, _| None);
    assert!(
        matches!(&error, Error::DiffId { actual, .. } if actual.as_str() == right),
        "{error:?}"
    );
}

#[test]
fn damaged_and_unknown_compression() {
    let mut layer = Image::small().layers.remove(0);
    let middle = layer.blob.len() / 2;
    layer.blob.truncate(middle);
    let (error, _) = refused(&Image::new(vec![layer]), |_, _| None);
    assert!(matches!(error, Error::Build { .. }), "{error:?}");
    let layer = Layer {
        blob: b"\xfd7zXZ\0 and so on".to_vec(),
        ..Layer::gzip(&[])
    };
    let (error, _) = refused(&Image::new(vec![layer]), |_, _| None);
    assert!(
        matches!(error, Error::Compression { format: "xz", .. }),
        "{error:?}"
    );
}

#[test]
fn names_that_lead_out_and_links_to_nothing() {
    for (entry, expected) in [
        (Entry::file("../../etc/passwd", "x"), ".."),
        (Entry::hardlink("x", "../../etc/shadow"), ".."),
        (Entry::hardlink("x", "nothing"), "nothing"),
    ] {
        let image = Image::new(vec![Layer::gzip(&[entry])]);
        let (error, _) = refused(&image, |_, _| None);
        assert!(matches!(error, Error::Build { .. }), "{error:?}");
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
}

#[test]
fn documents_that_are_no_images() {
    let schema1 =
        json!({"schemaVersion": 1, "name": "x", "tag": "y", "fsLayers": [], "history": []});
    let mut foreign: serde_json::Value =
        serde_json::from_slice(&Image::small().manifest()).unwrap();
    foreign["layers"][0]["mediaType"] =
        json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let huge = json!({"schemaVersion": 2, "layers": [], "x": " ".repeat(5 << 20)});
    for (document, expected) in [
        (schema1, "schema 1"),
        (foreign, "foreign layer"),
        (
            json!({"schemaVersion": 2, "mediaType": "text/x", "layers": []}),
            "`text/x`",
        ),
        (huge, "the limit is 4194304"),
        (json!("<html>"), "malformed"),
    ] {
        let server = Faulty::document(&serde_json::to_vec(&document).unwrap(), MANIFEST);
        let place = Place::new();
        let error = place.pull(&server.reference()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        place.assert_untouched();
    }
}

#[test]
fn an_image_for_another_platform_is_refused_before_its_layers_come() {
    let mut image = Image::small();
    image.architecture = "riscv64";
    let path = layer_path(&image);
    let (error, server) = refused(&image, |_, _| None);
    assert!(
        matches!(&error, Error::NoPlatform { available, .. } if *available == ["linux/riscv64"])
    );
    assert_eq!(server.count(&path), 0);
}

#[test]
fn a_token_is_fetched_where_the_registry_wants_one() {
    let image = Image::small();
    let realm = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let script_realm = realm.clone();
    let server = Faulty::serve(&image, move |request, _| {
        if request.path.starts_with("/token") {
            assert!(
                request.path.contains("scope=repository%3Aapp%3Apull"),
                "{request:?}"
            );
            return Some(Fault::Status(200, String::new(), r#"{"token":"letmein"}"#));
        }
        if request.authorization.as_deref() == Some("Bearer letmein") {
            return None;
        }
        let header = format!(
            "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"s\"\r\n",
            script_realm.get().unwrap()
        );
        Some(Fault::Status(401, header, ""))
    });
    realm.set(server.address.clone()).unwrap();
    assert!(Place::new().pull(&server.reference()).unwrap().changed);
}

#[test]
fn limits_hold() {
    let server = Faulty::serve(&Image::small(), |_, _| None);
    let place = Place::new();
    let mut small = request(&server.reference());
    small.limits.layer_bytes = 1000;
    let error = place.pull_with(&small, &Silent).unwrap_err();
    assert!(
        matches!(error, Error::Limit { limit: 1000, .. }),
        "{error:?}"
    );
    let mut few = request(&server.reference());
    few.limits.filesystem.entries = 1;
    let error = place.pull_with(&few, &Silent).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Build {
                source: lib_fs::Error::Limit { .. },
                ..
            }
        ),
        "{error:?}"
    );
    place.assert_untouched();
}
