//! Registries as a user configures them; pulls that are killed, and pulls at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use banger_tests::{
    Answer, Compression, Entry, FaultyRegistry, Image, Layer, Registry, Sandbox, eventually, sha256,
};
use nix::sys::signal::Signal;

/// The password is `secret`.
const ACCOUNT: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
const OCTETS: &str = "application/octet-stream";

fn image(content: &str) -> Image {
    let entry = Entry::File("a".into(), 0o644, content.into());
    Image::new(vec![
        Layer::new(&[entry], Compression::Gzip).expect("a name of one letter fits"),
    ])
}

/// Writes the user's configuration file.
fn configure(sandbox: &Sandbox, text: &str) {
    let directory = sandbox.path("home/.config/banger");
    fs::create_dir_all(&directory).expect("a sandbox can be written");
    fs::write(directory.join("config.toml"), text).expect("a sandbox can be written");
}

#[test]
fn a_private_registry_is_opened_by_configuration() {
    let sandbox = Sandbox::empty();
    let program = sandbox.fixtures().registry_program();
    let registry = Registry::with_tls(&program, ACCOUNT).unwrap();
    let reference = format!("{}/team/app:1", registry.address());
    let archive = sandbox.path("app.tar");
    image("private").write_archive(&archive, "app").unwrap();
    sandbox
        .sh(&format!(
            "skopeo --insecure-policy copy -q --dest-creds user:secret --dest-tls-verify=false \
             oci-archive:{}:app docker://{reference}",
            archive.display()
        ))
        .ok();
    let pull = format!("banger-image pull --tls {reference}");
    sandbox
        .sh(&pull)
        .exits(1)
        .says("no trusted connection")
        .hints("--ca-file FILE");

    configure(
        &sandbox,
        &format!(
            "[registry]\nca-files = [{:?}]\ncredential-files = [{:?}]\n",
            registry.authority(),
            sandbox.path("auth.json")
        ),
    );
    sandbox
        .sh(&pull)
        .exits(1)
        .says("wants other credentials")
        .hints("podman login");

    // The helper is a program on PATH, which the configured file names.
    let helper = sandbox.path("bin/docker-credential-vault");
    fs::create_dir(sandbox.path("bin")).unwrap();
    let script = "#!/bin/sh\nread -r server\necho \"$1 $server\" >> asked\n\
                  echo '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n";
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let helpers = serde_json::json!({"credHelpers": {registry.address().to_string(): "vault"}});
    fs::write(sandbox.path("auth.json"), helpers.to_string()).unwrap();
    let path = format!("PATH={}:$PATH", sandbox.path("bin").display());
    let record = sandbox.sh(&format!("{path} {pull}")).record();
    assert_eq!(record["changed"], true, "{record}");
    assert_eq!(
        fs::read_to_string(sandbox.path("asked")).unwrap(),
        format!("get {}\n", registry.address())
    );
    sandbox.sh(&pull).exits(1).says("it is not on PATH");

    // Flags add to the settings.
    configure(&sandbox, "");
    let flag = format!("--ca-file {}", registry.authority().display());
    sandbox
        .sh(&format!("{pull} {flag}"))
        .exits(1)
        .says("wants other credentials");
}

#[test]
fn mirrors_and_limits_come_from_configuration() {
    let sandbox = Sandbox::empty();
    let mirror = FaultyRegistry::serve(&image("mirrored"), |_| None);
    let address = mirror.reference().replace("/test:latest", "");
    configure(
        &sandbox,
        &format!("[registry.mirrors]\n\"registry.invalid\" = [\"{address}\"]\n"),
    );
    let record = sandbox
        .sh("banger-image pull registry.invalid/test")
        .record();
    assert_eq!(
        record["names"][0], "registry.invalid/test:latest",
        "{record}"
    );
    assert_eq!(mirror.requests()[0], "/v2/test/manifests/latest");

    let pull = format!("banger-image pull {}", mirror.reference());
    sandbox
        .sh(&format!(
            "BANGER_LIMITS_DOWNLOAD=10 {pull}@{}",
            sha256(&image("mirrored").manifest())
        ))
        .exits(1)
        .says("the limit is 10")
        .hints("--max-download");
    sandbox
        .sh("BANGER_CONFIG=/no/such.toml banger-image pull alpine")
        .exits(3)
        .says("/no/such.toml");
    configure(&sandbox, "[registry]\nmirors = 1\n");
    sandbox
        .sh(&pull)
        .exits(2)
        .says("config.toml:2: there is no setting `registry.mirors`")
        .hints("did you mean `registry.mirrors`?");
}

#[test]
fn offline_and_frozen_pulls_say_what_is_missing() {
    let sandbox = Sandbox::empty();
    let registry = sandbox.registry();
    image("one").push(registry.address(), "app", "1").unwrap();
    let reference = format!("{}/app:1", registry.address());
    sandbox
        .sh(&format!("banger-image pull --offline {reference}"))
        .exits(3)
        .says("is not here, and --offline allows no network")
        .hints(&format!("banger-image pull {reference}"));
    let locked = format!("banger-image pull --lock-file images.lock {reference}");
    sandbox
        .sh(&format!("{locked} --frozen"))
        .exits(3)
        .says("images.lock has no digest of")
        .hints("without --frozen");
    let first = sandbox.sh(&locked).record();
    sandbox.sh(&format!("{locked} --frozen")).ok();
    let offline = sandbox.sh(&format!("banger-image pull --offline {reference}"));
    assert_eq!(offline.record()["id"], first["id"]);
    image("two").push(registry.address(), "app", "1").unwrap();
    sandbox
        .sh(&format!("{locked} --frozen"))
        .exits(1)
        .says(first["digest"].as_str().unwrap())
        .says(&sha256(&image("two").manifest()));
    sandbox
        .sh(&format!("banger-image pull --frozen {reference}"))
        .exits(2)
        .says("--lock-file");
}

#[test]
fn processes_that_pull_the_same_download_it_once() {
    let sandbox = Sandbox::empty();
    let (tell, asked) = channel();
    let (go, told) = channel::<()>();
    let hold = Mutex::new(Some((tell, told)));
    let layer = image("shared").layers[0].digest();
    let held = layer.clone();
    let registry = FaultyRegistry::serve(&image("shared"), move |path| {
        if path.ends_with(&held)
            && let Some((tell, told)) = hold.lock().unwrap().take()
        {
            tell.send(()).unwrap();
            told.recv().unwrap();
        }
        None
    });
    let line = format!("exec banger-image pull {}", registry.reference());
    let first = sandbox.start(&line);
    asked.recv().unwrap();
    let others = [sandbox.start(&line), sandbox.start(&line)];
    eventually("all know the manifest", Duration::from_secs(60), || {
        let manifests = registry.requests();
        let manifests = manifests.iter().filter(|path| path.contains("/manifests/"));
        (manifests.count() == 3).then_some(())
    });
    go.send(()).unwrap();
    let first = first.finish().record();
    assert_eq!(first["changed"], true, "{first}");
    for other in others {
        let other = other.finish().record();
        assert_eq!(
            (&other["id"], &other["changed"]),
            (&first["id"], &false.into())
        );
    }
    let blobs = registry.requests();
    let blobs = blobs.iter().filter(|path| path.contains("/blobs/"));
    assert_eq!(blobs.count(), 2, "configuration and layer, once");
}

#[test]
fn a_killed_pull_leaves_what_the_next_one_or_the_collector_deals_with() {
    let sandbox = Sandbox::empty();
    let shown = image("killed");
    let layer = shown.layers[0].digest();
    let blob = shown.layers[0].blob.clone();
    let path = layer.clone();
    let first = Mutex::new(true);
    let registry = FaultyRegistry::serve(&shown, move |asked| {
        (asked.ends_with(&path) && std::mem::take(&mut *first.lock().unwrap()))
            .then(|| Answer::Stalled(OCTETS, blob.clone()))
    });
    let line = format!("exec banger-image pull {}", registry.reference());
    let partial = |state: &str| {
        let list = sandbox.sh("banger-image cache list").records();
        let found = list.into_iter().find(|blob| blob["digest"] == layer);
        found.filter(|blob| blob["state"] == state)
    };
    let pull = sandbox.start(&line);
    eventually("half of the layer is here", Duration::from_secs(60), || {
        partial("partial").filter(|blob| blob["size"].as_u64() > Some(0))
    });
    // Nobody takes it from one who is alive.
    assert_eq!(sandbox.sh("banger-image cache prune").ok(), "");
    pull.signal(Signal::SIGKILL);
    pull.finish().exits(137);
    // Young: kept for the next pull. Manifest and configuration came whole, and nobody has them.
    let gone = sandbox.sh("banger-image gc --dry-run").records();
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert!(partial("partial").is_some());
    let record = sandbox.sh(&line).record();
    assert_eq!(record["changed"], true, "{record}");
    assert!(partial("used").is_some());
    assert_eq!(sandbox.sh("banger-image gc").ok(), "");

    sandbox
        .sh(&format!("banger-image delete {}", registry.reference()))
        .ok();
    let would = sandbox.sh("banger-image gc --dry-run").records();
    let gone = sandbox.sh("banger-image gc").says("are free").records();
    assert_eq!((would.len(), gone.len()), (3, 3));
    assert!(
        gone.iter()
            .all(|blob| blob["kind"] == "blob" && blob["changed"] == true)
    );
    assert_eq!(sandbox.sh("banger-image cache list").ok(), "");
}
