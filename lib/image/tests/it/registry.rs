//! Ways to reach a registry: authorities, passwords, helpers, tokens, mirrors; and one that sends
//! more than anybody wants.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use lib_config::Mirror;
use lib_image::{Error, PullRequest, TlsFault};
use lib_model::{Diagnose, Silent};

use crate::support::faulty::{Fault, Faulty, Request};
use crate::support::image::{Image, digest, layout, named, push, write_layout};
use crate::support::registry::Registry;
use crate::support::{Place, chain, request};

/// Puts a helper that answers so, and a file that names it, into the place.
fn helped(place: &Place, registry: &str, reference: &str, script: &str) -> PullRequest {
    let program = place.base.path().join("docker-credential-test");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let file = place.base.path().join("config.json");
    let text = serde_json::json!({"credHelpers": {registry: "test"}});
    std::fs::write(&file, text.to_string()).unwrap();
    let mut request = request(reference);
    request.registry.credential_files = vec![file];
    request.registry.helper_path = Some(std::env::join_paths([place.base.path()]).unwrap());
    request
}

#[test]
fn a_private_authority_and_a_helper_open_a_registry_with_tls_and_a_password() {
    let (registry, files) = Registry::with_tls();
    let place = Place::new();
    let image = Image::small();
    let root = layout(vec![named(image.descriptor(), "x")], &image.blobs());
    let root = write_layout(&place.base.path().join("l"), &root);
    let reference = registry.reference("private:1");
    push(&root, "x", &reference, &["--dest-creds", "user:secret"]);

    let script = r#"cat > "$0.asked"; echo '{"Username":"user","Secret":"secret"}'"#;
    let mut request = helped(&place, registry.address(), &reference, script);
    request.registry.tls_on_loopback = true;
    let error = place.pull_with(&request, &Silent).unwrap_err();
    let unknown = matches!(
        &error,
        Error::Tls {
            fault: TlsFault::UnknownCa,
            ..
        }
    );
    assert!(unknown, "{}", chain(&error));
    assert!(error.hint().unwrap().starts_with("--ca-file FILE"));
    place.assert_untouched();

    // By a file that is named.
    request.registry.ca_files = vec![files.path().join("ca.crt")];
    assert!(place.pull_with(&request, &Silent).unwrap().changed);
    let asked = place.base.path().join("docker-credential-test.asked");
    assert_eq!(std::fs::read_to_string(asked).unwrap(), registry.address());

    // By the registry's directory.
    let directory = place.base.path().join("certs.d");
    let own = directory.join(registry.address());
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(files.path().join("ca.crt"), own.join("ca.crt")).unwrap();
    request.registry.ca_files = Vec::new();
    request.registry.certificate_directories = vec![place.base.path().join("no"), directory];
    assert!(Place::new().pull_with(&request, &Silent).unwrap().changed);

    for (file, expected) in [("key", "no PEM certificate"), ("nothing", "nothing")] {
        request.registry.ca_files = vec![files.path().join(file)];
        let error = place.pull_with(&request, &Silent).unwrap_err();
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
}

#[test]
fn a_registry_that_asks_who_we_are_is_shown_the_certificate_in_its_directory() {
    let (registry, files) = Registry::with_client_certificates();
    let place = Place::new();
    let image = Image::small();
    let root = layout(vec![named(image.descriptor(), "x")], &image.blobs());
    let root = write_layout(&place.base.path().join("l"), &root);
    let reference = registry.reference("private:1");
    let client = files.path().join("client");
    let certificates = client.display().to_string();
    let options = [
        "--dest-creds",
        "user:secret",
        "--dest-cert-dir",
        &certificates,
    ];
    push(&root, "x", &reference, &options);

    let script = r#"echo '{"Username":"user","Secret":"secret"}'"#;
    let mut request = helped(&place, registry.address(), &reference, script);
    request.registry.tls_on_loopback = true;
    request.registry.ca_files = vec![files.path().join("ca.crt")];
    place.pull_with(&request, &Silent).unwrap_err();
    place.assert_untouched();

    let directory = place.base.path().join("certs.d");
    let own = directory.join(registry.address());
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(client.join("me.cert"), own.join("me.cert")).unwrap();
    request.registry.certificate_directories = vec![place.base.path().join("no"), directory];
    let error = place.pull_with(&request, &Silent).unwrap_err();
    assert!(chain(&error).contains("me.key"), "{}", chain(&error));

    std::fs::write(own.join("me.key"), "no key").unwrap();
    let error = place.pull_with(&request, &Silent).unwrap_err();
    assert!(chain(&error).contains("me.cert"), "{}", chain(&error));

    std::fs::copy(client.join("me.key"), own.join("me.key")).unwrap();
    assert!(place.pull_with(&request, &Silent).unwrap().changed);
}

#[test]
fn a_helper_that_fails_hangs_or_is_missing_is_said_before_anything_comes() {
    let (registry, _files) = Registry::with_password();
    let place = Place::new();
    let reference = registry.reference("private:1");
    for (script, patience, expected) in [
        (
            "echo 'no such collection'; exit 1",
            Duration::from_secs(60),
            "it failed: no such collection",
        ),
        (
            "sleep 600",
            Duration::from_millis(300),
            "it said nothing for 300ms",
        ),
    ] {
        let mut request = helped(&place, registry.address(), &reference, script);
        request.registry.helper_timeout = patience;
        let error = place.pull_with(&request, &Silent).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        let hint = format!("echo {} | docker-credential-test get", registry.address());
        assert!(error.hint().unwrap().starts_with(&hint));
    }
    let mut request = helped(&place, registry.address(), &reference, "");
    request.registry.helper_path = None;
    let error = place.pull_with(&request, &Silent).unwrap_err();
    assert!(error.to_string().contains("it is not on PATH"), "{error}");
    // One that knows nothing of the registry is as good as none.
    let nothing = "echo 'credentials not found in native keychain'; exit 1";
    let request = helped(&place, registry.address(), &reference, nothing);
    let error = place.pull_with(&request, &Silent).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    place.assert_untouched();
}

/// A registry whose token service answers so.
fn with_tokens(image: &Image, token: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Faulty {
    let realm = Arc::new(OnceLock::<String>::new());
    let script_realm = realm.clone();
    let server = Faulty::serve(image, move |request, _| {
        if request.path.starts_with("/token") {
            return Some(token(request));
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
    server
}

#[test]
fn an_identity_token_is_exchanged_for_a_token() {
    let server = with_tokens(&Image::small(), |request| {
        let right = request.method == "POST"
            && request.body.contains("grant_type=refresh_token")
            && request.body.contains("refresh_token=a%2Bb")
            && request.body.contains("scope=repository%3Aapp%3Apull");
        match right {
            true => Fault::Status(200, String::new(), r#"{"access_token":"letmein"}"#),
            false => Fault::Status(401, String::new(), ""),
        }
    });
    let place = Place::new();
    let script = r#"echo '{"Username":"<token>","Secret":"a+b"}'"#;
    let request = helped(&place, &server.address, &server.reference(), script);
    assert!(place.pull_with(&request, &Silent).unwrap().changed);
    // The token serves for everything that follows.
    assert_eq!(server.count("/token"), 1);
    let wrong = helped(
        &place,
        &server.address,
        &format!("{}:other", server.reference()),
        &script.replace("a+b", "c"),
    );
    let error = place.pull_with(&wrong, &Silent).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
}

#[test]
fn blobs_come_from_elsewhere_and_credentials_do_not_go_there() {
    let image = Image::small();
    let elsewhere = Faulty::serve(&image, |request, before| {
        (request.path.contains("blobs") && before == 0).then_some(Fault::ResetAfter(100))
    });
    let place = Place::new();
    let target = elsewhere.address.clone();
    let server = Faulty::serve(&image, move |request, _| {
        if request.authorization.as_deref() != Some("Basic dXNlcjpzZWNyZXQ=") {
            let challenge = "WWW-Authenticate: Basic realm=\"r\"\r\n";
            return Some(Fault::Status(401, challenge.into(), ""));
        }
        let location = format!("Location: http://{target}{}\r\n", request.path);
        request
            .path
            .contains("blobs")
            .then_some(Fault::Status(307, location, ""))
    });
    let script = r#"echo '{"Username":"user","Secret":"secret"}'"#;
    let request = helped(&place, &server.address, &server.reference(), script);
    assert!(place.pull_with(&request, &Silent).unwrap().changed);
    let asked = elsewhere.requests();
    assert!(asked.len() >= 4 && asked.iter().any(|request| request.range.is_some()));
    assert!(
        asked.iter().all(|request| request.authorization.is_none()),
        "{asked:?}"
    );

    // A circle is left.
    let own = Arc::new(OnceLock::<String>::new());
    let address = own.clone();
    let server = Faulty::serve(&image, move |request, _| {
        let location = format!(
            "Location: http://{}{}\r\n",
            address.get().unwrap(),
            request.path
        );
        Some(Fault::Status(307, location, ""))
    });
    own.set(server.address.clone()).unwrap();
    let error = Place::new().pull(&server.reference()).unwrap_err();
    assert!(
        chain(&error).contains("too many redirects"),
        "{}",
        chain(&error)
    );
    assert!(server.requests().len() < 20);
}

#[test]
fn nothing_that_has_no_end_is_read_to_it() {
    let bound = 12 << 20;
    for length in [None, Some(1 << 40)] {
        let server = Faulty::serve(&Image::small(), move |request, _| {
            request
                .path
                .contains("manifests")
                .then_some(Fault::Endless(200, length))
        });
        let place = Place::new();
        let error = place.pull(&server.reference()).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Limit {
                    limit: 4_194_304,
                    ..
                }
            ),
            "{error:?}"
        );
        place.assert_untouched();
        // What fits into the sockets' buffers is sent without being read.
        assert!(server.sent() < bound, "{} bytes were taken", server.sent());
    }
    let server = Faulty::serve(&Image::small(), |request, _| {
        request
            .path
            .contains("manifests")
            .then_some(Fault::Endless(418, None))
    });
    let error = Place::new().pull(&server.reference()).unwrap_err();
    assert!(error.to_string().contains("answered 418"), "{error}");
    assert!(server.sent() < bound, "{} bytes were taken", server.sent());
    let server = with_tokens(&Image::small(), |_| Fault::Endless(200, None));
    let error = Place::new().pull(&server.reference()).unwrap_err();
    assert!(
        chain(&error).contains("its token is endless"),
        "{}",
        chain(&error)
    );
    assert!(server.sent() < bound, "{} bytes were taken", server.sent());
    let server = Faulty::serve(&Image::small(), |request, _| {
        request
            .path
            .contains("blobs")
            .then_some(Fault::Endless(200, None))
    });
    let error = Place::new().pull(&server.reference()).unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }), "{error:?}");
    assert!(server.sent() < bound, "{} bytes were taken", server.sent());
}

#[test]
fn a_registry_that_asks_for_a_pause_gets_it() {
    let image = Image::small();
    for path in ["manifests", "blobs"] {
        for seconds in [true, false] {
            let server = Faulty::serve(&image, move |request, before| {
                let pause = match seconds {
                    true => "1".to_owned(),
                    // It has whole seconds, the last one of which may be over at once.
                    false => httpdate_in(Duration::from_secs(3)),
                };
                let header = format!("Retry-After: {pause}\r\n");
                (request.path.contains(path) && before == 0).then_some(Fault::Status(
                    429,
                    header,
                    "slow down",
                ))
            });
            let start = Instant::now();
            assert!(Place::new().pull(&server.reference()).unwrap().changed);
            assert!(
                start.elapsed() >= Duration::from_secs(1),
                "{path} {seconds}"
            );
        }
    }
    // A pause of an hour is cut, and then it is tried no more often than without.
    let server = Faulty::serve(&image, |_, _| {
        Some(Fault::Status(
            503,
            "Retry-After: 3600\r\n".into(),
            "maintenance",
        ))
    });
    let mut request = request(&server.reference());
    request.registry.retry.longest_pause = Duration::from_millis(50);
    let error = Place::new().pull_with(&request, &Silent).unwrap_err();
    assert!(error.to_string().contains("answered 503"), "{error}");
    assert_eq!(server.count("manifests"), 3);
}

fn httpdate_in(pause: Duration) -> String {
    let then = std::time::SystemTime::now() + pause;
    let output = std::process::Command::new("date")
        .args(["-u", "+%a, %d %b %Y %H:%M:%S GMT", "-d"])
        .arg(format!(
            "@{}",
            then.duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        ))
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A pull of `registry.example/app` with these mirrors before it.
fn mirrored(mirrors: &[&str]) -> PullRequest {
    let mut request = request("registry.invalid/app");
    let mirrors = mirrors
        .iter()
        .map(|mirror| Mirror::try_from(*mirror).unwrap());
    request
        .registry
        .mirrors
        .insert("registry.invalid".into(), mirrors.collect());
    request
}

#[test]
fn mirrors_are_asked_first_and_the_next_one_helps_where_one_fails() {
    let image = Image::small();
    let layer = digest(&image.layers[0].blob).to_string();
    // Alone, under a path of its own.
    let good = Faulty::serve(&image, |_, _| None);
    let record = Place::new()
        .pull_with(&mirrored(&[&good.address]), &Silent)
        .unwrap();
    assert_eq!(record.names, ["registry.invalid/app:latest"]);
    assert_eq!(record.source, "registry.invalid/app:latest");

    // One that is dead, one that has nothing, one that lies about the layer.
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let empty = Faulty::document(b"", "text/plain");
    let path = layer.clone();
    let lying = Faulty::serve(&image, move |request, _| {
        request.path.contains(&path).then_some(Fault::Corrupt(1000))
    });
    let nothing = format!("{}/none", empty.address);
    let request = mirrored(&[&dead, &nothing, &lying.address, &good.address]);
    let before = good.requests().len();
    assert!(Place::new().pull_with(&request, &Silent).unwrap().changed);
    assert_eq!(empty.requests()[0].path, "/v2/none/app/manifests/latest");
    assert_eq!(lying.count(&layer), 1);
    let asked: Vec<String> = good.requests()[before..]
        .iter()
        .map(|request| request.path.clone())
        .collect();
    assert_eq!(
        asked,
        [format!("/v2/app/blobs/{layer}")],
        "only for what was wrong"
    );

    // Nobody has it: the registry itself has the last word.
    let error = Place::new()
        .pull_with(&mirrored(&[&nothing]), &Silent)
        .unwrap_err();
    let last =
        matches!(&error, Error::Connection { registry, .. } if registry == "registry.invalid");
    assert!(last, "{}", chain(&error));
}

#[test]
fn plain_http_is_spoken_where_it_is_named() {
    let server = Faulty::serve(&Image::small(), |_, _| None);
    let mut request = request(&server.reference());
    // Without the name it would be TLS, which the server does not speak.
    request.registry.tls_on_loopback = true;
    request.registry.plain_http = vec![server.address.clone()];
    assert!(Place::new().pull_with(&request, &Silent).unwrap().changed);
}
