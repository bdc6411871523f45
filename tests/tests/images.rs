//! Images from registries, archives and tars, good and bad; kernels.

use std::fs;
use std::time::Duration;

use banger_tests::{
    Answer, Compression, Entry, FaultyRegistry, Image, Layer, Registry, Sandbox, eventually, sha256,
};
use nix::sys::signal::Signal;

fn file(path: &str, content: &str) -> Entry {
    Entry::File(path.into(), 0o644, content.into())
}

fn directory(path: &str) -> Entry {
    Entry::Directory(path.into(), 0o755)
}

/// Three layers, one of each compression, with whiteouts, an opaque directory, links and a device.
fn layered() -> Image {
    let base = [
        directory("etc/"),
        file("etc/kept", "kept\n"),
        file("etc/gone", "gone\n"),
        directory("hidden/"),
        file("hidden/below", "below\n"),
        file("twice", "first\n"),
    ];
    let middle = [
        file("etc/.wh.gone", ""),
        directory("hidden/"),
        file("hidden/.wh..wh..opq", ""),
        file("hidden/above", "above\n"),
        file("twice", "second\n"),
    ];
    let top = [
        Entry::Hardlink("etc/link".into(), "etc/kept".into()),
        Entry::Symlink("etc/symlink".into(), "kept".into()),
        Entry::CharDevice("null".into(), 1, 3),
        Entry::File("suid".into(), 0o4755, b"x".to_vec()),
    ];
    Image::new(vec![
        Layer::new(&base, Compression::None).expect("zstd is installed"),
        Layer::new(&middle, Compression::Gzip).expect("zstd is installed"),
        Layer::new(&top, Compression::Zstd).expect("zstd is installed"),
    ])
}

/// What `debugfs` says about a file of an image.
fn debugfs(sandbox: &Sandbox, image: &str, request: &str) -> String {
    let disk = sandbox.image_disk(image);
    sandbox.sh(&format!("e2fsck -fn {}", disk.display())).ok();
    sandbox
        .sh(&format!("debugfs -R '{request}' {}", disk.display()))
        .ok()
        .to_owned()
}

#[test]
fn a_pull_gives_the_merged_layers_as_a_sound_file_system() {
    let sandbox = Sandbox::empty();
    let registry = sandbox.registry();
    layered()
        .push(registry.address(), "team/app", "v1")
        .unwrap();
    let reference = format!("{}/team/app:v1", registry.address());
    let pulled = sandbox
        .sh(&format!("banger-image pull {reference}"))
        .record();
    assert_eq!(
        (&pulled["kind"], &pulled["changed"]),
        (&"image".into(), &true.into()),
        "{pulled}"
    );
    assert_eq!(pulled["digest"], sha256(&layered().manifest()), "{pulled}");

    let show = |request: &str| debugfs(&sandbox, &reference, request);
    assert_eq!(show("cat /etc/kept"), "kept\n");
    assert_eq!(show("cat /etc/link"), "kept\n");
    assert_eq!(show("cat /twice"), "second\n");
    assert_eq!(show("cat /hidden/above"), "above\n");
    assert!(show("stat /etc/kept").contains("Links: 2"));
    assert!(show("stat /etc/symlink").contains("kept"));
    assert!(show("stat /suid").contains("Mode:  04755"));
    let device = show("stat /null");
    assert!(
        device.contains("character special") && device.contains("01:03"),
        "{device}"
    );
    for gone in [
        "/etc/gone",
        "/hidden/below",
        "/etc/.wh.gone",
        "/hidden/.wh..wh..opq",
    ] {
        assert_eq!(show(&format!("stat {gone}")), "", "{gone}");
    }

    // The blobs are an OCI layout that other tools read, and the same digest gives the same bytes.
    let again = sandbox
        .sh(&format!("banger-image pull {reference}"))
        .record();
    assert_eq!(
        (&again["id"], &again["changed"]),
        (&pulled["id"], &false.into()),
        "{again}"
    );
    let disk = |sandbox: &Sandbox, id: &serde_json::Value| {
        let directory = sandbox.store().join("images").join(id.as_str().unwrap());
        sha256(&fs::read(directory.join("rootfs.img")).unwrap())
    };
    let other = Sandbox::empty();
    let elsewhere = other.sh(&format!("banger-image pull {reference}")).record();
    assert_eq!(
        disk(&sandbox, &pulled["id"]),
        disk(&other, &elsewhere["id"])
    );

    assert_eq!(sandbox.sh("banger-image list").records().len(), 1);
    sandbox.sh(&format!("banger-image delete {reference}")).ok();
    assert_eq!(sandbox.sh("banger-image list").ok(), "");
    assert_eq!(
        fs::read_dir(sandbox.store().join("images"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn an_index_is_resolved_to_this_machines_platform() {
    let sandbox = Sandbox::empty();
    let registry = sandbox.registry();
    let image = layered();
    image.push(registry.address(), "app", "amd64").unwrap();
    image
        .push_index(registry.address(), "app", "all", &["s390x", "amd64"])
        .unwrap();
    image
        .push_index(registry.address(), "app", "other", &["s390x"])
        .unwrap();
    let address = registry.address();
    let pulled = sandbox
        .sh(&format!("banger-image pull {address}/app:all"))
        .record();
    assert_eq!(pulled["architecture"], "amd64");
    sandbox
        .sh(&format!("banger-image pull {address}/app:other"))
        .exits(3)
        .says("s390x");
    // By digest, and not a byte more than asked for.
    let digest = sha256(&image.manifest());
    sandbox
        .sh(&format!("banger-image pull {address}/app@{digest}"))
        .ok();
}

#[test]
fn what_other_tools_export_is_imported() {
    let sandbox = Sandbox::empty();
    let registry = sandbox.registry();
    // As of the plainest compression: the distribution's tools do not know zstd.
    let mut image = layered();
    image.layers.truncate(2);
    image.push(registry.address(), "app", "v1").unwrap();
    let from = format!("docker://{}/app:v1", registry.address());
    let copy = "skopeo --insecure-policy copy -q --src-tls-verify=false";
    for (transport, to) in [
        ("oci", "layout:app"),
        ("oci-archive", "oci.tar:app"),
        ("docker-archive", "docker.tar:app:v1"),
    ] {
        sandbox.sh(&format!("{copy} {from} {transport}:{to}")).ok();
        let path = to.split(':').next().unwrap();
        let name = format!("{transport}-copy:1");
        let imported = sandbox
            .sh(&format!("banger-image import --name {name} {path}"))
            .record();
        assert_eq!(imported["kind"], "image", "{imported}");
        assert_eq!(
            debugfs(&sandbox, &name, "cat /twice"),
            "second\n",
            "{transport}"
        );
        assert_eq!(
            debugfs(&sandbox, &name, "cat /hidden/above"),
            "above\n",
            "{transport}"
        );
    }
    sandbox
        .sh("mkdir tree && echo content > tree/file && setfattr -n user.x -v y tree/file")
        .ok();
    let tar = "tar --create --xattrs --xattrs-include='*' --directory tree .";
    let imported = sandbox
        .sh(&format!("{tar} | banger-image import --name tree:1 -"))
        .record();
    assert_eq!(imported["names"][0], "tree:1", "{imported}");
    assert_eq!(debugfs(&sandbox, "tree:1", "cat /file"), "content\n");
    assert!(debugfs(&sandbox, "tree:1", "ea_list /file").contains("user.x"));
    sandbox
        .sh("banger-image import no-such-file.tar")
        .exits(3)
        .says("no-such-file.tar");
    sandbox
        .sh("banger-image import /etc/passwd")
        .exits(1)
        .says("error: ");
    let nothing = sandbox.sh("true | banger-image import --name x:1 -");
    assert_ne!(nothing.status, 0, "{nothing}");
}

#[test]
fn kernels_come_from_packages_and_from_files() {
    let sandbox = Sandbox::empty();
    let package = sandbox.fixtures().kernel_package().display().to_string();
    let kernel = sandbox
        .sh(&format!("banger-image kernel import {package}"))
        .record();
    assert_eq!(
        (&kernel["kind"], &kernel["changed"]),
        (&"kernel".into(), &true.into()),
        "{kernel}"
    );
    assert!(kernel["modules"].as_u64().unwrap() > 100, "{kernel}");
    let release = kernel["release"].as_str().unwrap().to_owned();
    sandbox
        .sh(&format!("dpkg-deb --extract {package} unpacked"))
        .ok();
    let plain = format!("unpacked/boot/vmlinuz-{release}");
    sandbox
        .sh(&format!("banger-image kernel import {plain}"))
        .exits(1)
        .says("lacks virtio")
        .hints("--modules");
    let modules = format!("--modules unpacked/lib/modules/{release}");
    let import = format!("banger-image kernel import {modules} --name");
    let file = sandbox.sh(&format!("{import} plain {plain}")).record();
    assert_eq!(file["release"], kernel["release"]);
    assert_eq!(file["modules"], kernel["modules"]);
    let id = kernel["id"].as_str().unwrap();
    let elf = sandbox.store().join("kernels").join(id).join("vmlinux");
    let copy = sandbox.path("vmlinux");
    fs::copy(elf, &copy).unwrap();
    let elf = sandbox
        .sh(&format!("{import} elf {}", copy.display()))
        .record();
    assert_eq!(
        (&elf["release"], &elf["vmlinux"]),
        (&kernel["release"], &true.into())
    );
    sandbox.sh("banger-image kernel delete elf").ok();
    assert_eq!(sandbox.sh("banger-image kernel list").records().len(), 2);
    let shown = sandbox.sh("banger-image kernel show plain").record();
    assert_eq!(shown["id"], file["id"]);
    sandbox.sh("banger-image kernel delete plain").ok();
    sandbox.sh("banger-image kernel delete plain").exits(3);
    assert_eq!(sandbox.sh("banger-image kernel list").records().len(), 1);
    sandbox
        .sh("banger-image kernel import /etc/passwd")
        .exits(1)
        .says("/etc/passwd");
    sandbox
        .sh("banger-image kernel import /no/such.deb")
        .exits(3)
        .says("/no/such.deb");
}

#[test]
fn a_registry_that_wants_credentials_says_so() {
    let sandbox = Sandbox::empty();
    let account = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
    let program = sandbox.fixtures().registry_program();
    let registry = Registry::with_authentication(&program, Some(account)).unwrap();
    sandbox
        .sh(&format!("banger-image pull {}/app:1", registry.address()))
        .exits(1)
        .says("wants other credentials")
        .says("hint: ");
}

/// Pulls from a registry that answers `fault` where it says so; nothing half-made may remain.
#[track_caller]
fn refused(
    image: &Image,
    status: i32,
    says: &[&str],
    fault: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
) {
    let sandbox = Sandbox::empty();
    let registry = FaultyRegistry::serve(image, fault);
    let outcome = sandbox.sh(&format!("banger-image pull {}", registry.reference()));
    outcome.exits(status).says("error: ");
    for text in says {
        outcome.says(text);
    }
    assert!(!registry.requests().is_empty());
    assert_eq!(outcome.stdout, "", "{outcome}");
    assert_eq!(sandbox.sh("banger-image list").ok(), "", "{outcome}");
    for directory in ["images", "staging"] {
        let path = sandbox.store().join(directory);
        let left: Vec<_> = fs::read_dir(&path)
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?} in {directory} after\n{outcome}");
    }
}

fn small() -> Image {
    Image::new(vec![
        Layer::new(&[file("a", "content\n")], Compression::Gzip)
            .expect("a name of one letter fits"),
    ])
}

#[test]
fn a_pull_without_faults_from_the_test_server_succeeds() {
    let sandbox = Sandbox::empty();
    let registry = FaultyRegistry::serve(&small(), |_| None);
    sandbox
        .sh(&format!("banger-image pull {}", registry.reference()))
        .ok();
}

#[test]
fn a_registry_that_answers_401_404_or_500_or_resets_is_reported() {
    let manifest = |path: &str| path.contains("/manifests/");
    refused(&small(), 1, &["credentials"], move |path| {
        manifest(path).then_some(Answer::Status(
            401,
            &["WWW-Authenticate: Basic realm=\"test\""],
        ))
    });
    refused(&small(), 3, &["hint: "], move |path| {
        manifest(path).then_some(Answer::Status(404, &[]))
    });
    refused(&small(), 1, &["500"], move |path| {
        manifest(path).then_some(Answer::Status(500, &[]))
    });
    refused(&small(), 1, &["connection"], |_| Some(Answer::Reset));
    let blob = |path: &str| path.contains("/blobs/");
    refused(&small(), 3, &[], move |path| {
        blob(path).then_some(Answer::Status(404, &[]))
    });
    refused(&small(), 1, &["500"], move |path| {
        blob(path).then_some(Answer::Status(500, &[]))
    });
    refused(&small(), 1, &["connection"], move |path| {
        blob(path).then_some(Answer::Reset)
    });
}

#[test]
fn a_fault_that_passes_is_retried() {
    let sandbox = Sandbox::empty();
    let first = std::sync::atomic::AtomicBool::new(true);
    let registry = FaultyRegistry::serve(&small(), move |path| {
        let once =
            path.contains("/blobs/") && first.swap(false, std::sync::atomic::Ordering::SeqCst);
        once.then_some(Answer::Status(503, &[]))
    });
    sandbox
        .sh(&format!("banger-image pull {}", registry.reference()))
        .ok();
}

#[test]
fn an_interrupted_pull_leaves_nothing_and_says_nothing_wrong() {
    let sandbox = Sandbox::empty();
    let registry = FaultyRegistry::serve(&small(), |path| {
        let kind = "application/octet-stream";
        path.contains("/blobs/")
            // Less than any blob, so that none can be refused before the signal comes.
            .then(|| Answer::Stalled(kind, vec![b'x'; 2]))
    });
    let pull = sandbox.start(&format!("exec banger-image pull {}", registry.reference()));
    eventually("a blob is asked for", Duration::from_secs(60), || {
        let requests = registry.requests();
        requests
            .iter()
            .any(|path| path.contains("/blobs/"))
            .then_some(())
    });
    pull.signal(Signal::SIGINT);
    let pull = pull.finish();
    assert!(
        [1, 130].contains(&pull.status) && pull.stdout.is_empty(),
        "{pull}"
    );
    assert!(!pull.stderr.contains("panicked"), "{pull}");
    // At once, not by the next command.
    let left = fs::read_dir(sandbox.store().join("staging"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
    assert_eq!(sandbox.sh("banger-image list").ok(), "");
}

#[test]
fn two_pulls_of_one_image_are_one() {
    let sandbox = Sandbox::empty();
    let registry = FaultyRegistry::serve(&layered(), |_| None);
    let line = format!("banger-image pull {}", registry.reference());
    let pulls: Vec<_> = (0..3).map(|_| sandbox.start(&line)).collect();
    let records: Vec<_> = pulls
        .into_iter()
        .map(|pull| pull.finish().record())
        .collect();
    assert!(
        records
            .iter()
            .all(|record| record["id"] == records[0]["id"]),
        "{records:?}"
    );
    let changed = records.iter().filter(|record| record["changed"] == true);
    assert_eq!(changed.count(), 1, "{records:?}");
    assert_eq!(sandbox.sh("banger-image list").records().len(), 1);
    let blobs = registry.requests();
    let blobs = blobs.iter().filter(|path| path.contains("/blobs/"));
    assert_eq!(blobs.count(), 4, "three layers and the configuration, once");
}

#[test]
fn progress_is_shown_on_a_terminal_only() {
    let sandbox = Sandbox::empty();
    let registry = sandbox.registry();
    let image = sandbox.fixtures().debian().unwrap();
    image.push(registry.address(), "debian", "12").unwrap();
    let pull = format!("banger-image pull {}/debian:12", registry.address());
    let terminal = sandbox.sh(&format!("TERM=xterm script -qec '{pull}' /dev/null"));
    terminal.exits(0);
    assert!(
        terminal.stdout.contains("MiB/s") && terminal.stdout.contains("NAME"),
        "{terminal}"
    );
    let id = sandbox.sh("banger-image list --format ids").ok().to_owned();
    sandbox.sh(&format!("banger-image delete {id}")).ok();
    let piped = sandbox.sh(&pull);
    assert!(!piped.stderr.contains("MiB/s"), "{piped}");
    assert_eq!(piped.record()["kind"], "image");
}

#[test]
fn content_that_is_not_what_was_promised_is_refused() {
    let image = small();
    let digest = image.layers[0].digest();
    let blob = image.layers[0].blob.clone();
    let ours = format!("/v2/test/blobs/{digest}");
    let kind = "application/octet-stream";

    let mut flipped = blob.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let path = ours.clone();
    refused(&image, 1, &["digest", &digest], move |asked| {
        (asked == path).then(|| Answer::Body(kind, flipped.clone()))
    });
    let (path, whole) = (ours.clone(), blob.clone());
    refused(&image, 1, &[], move |asked| {
        (asked == path).then(|| Answer::Truncated(kind, whole.clone()))
    });
    let (path, half) = (ours.clone(), blob[..blob.len() / 2].to_vec());
    refused(&image, 1, &["truncated"], move |asked| {
        (asked == path).then(|| Answer::Body(kind, half.clone()))
    });
    let long = [&blob[..], b"more"].concat();
    refused(&image, 1, &[], move |asked| {
        (asked == ours).then(|| Answer::Body(kind, long.clone()))
    });
    refused(&image, 1, &[], |asked| {
        asked
            .contains("/manifests/")
            .then(|| Answer::Body("text/html", b"<html>".to_vec()))
    });

    let mut lying = small();
    lying.layers[0].diff_id = sha256(b"something else");
    refused(&lying, 1, &["diff-id"], |_| None);
}

#[test]
fn layers_that_are_no_tar_or_lead_out_of_the_image_are_refused() {
    let text = Layer::from_tar(
        b"this is no tar, but it is packed as promised",
        Compression::Gzip,
    );
    refused(&Image::new(vec![text.unwrap()]), 1, &["layer"], |_| None);
    let plain = Layer::from_tar(&[b'x'; 2048], Compression::None);
    refused(&Image::new(vec![plain.unwrap()]), 1, &["layer"], |_| None);

    for entries in [
        vec![file("../outside", "x")],
        vec![file("a/../../outside", "x")],
        vec![Entry::Hardlink("link".into(), "../../etc/passwd".into())],
        vec![file("..", "x")],
        vec![directory("d/"), file("d/.wh...", "")],
    ] {
        let layer = Layer::new(&entries, Compression::Gzip).unwrap();
        refused(&Image::new(vec![layer]), 1, &["layer"], |_| None);
    }
}

#[test]
fn absolute_names_and_symlinks_stay_inside_the_image() {
    let sandbox = Sandbox::empty();
    let host = sandbox.path("outside");
    fs::create_dir(&host).unwrap();
    let outside = host.display().to_string();
    let lower = [
        file("/etc/absolute", "inside\n"),
        Entry::Symlink("out".into(), outside),
    ];
    let upper = [file("out/file", "inside\n")];
    let image = Image::new(vec![
        Layer::new(&lower, Compression::Gzip).unwrap(),
        Layer::new(&upper, Compression::Gzip).unwrap(),
    ]);
    let registry = FaultyRegistry::serve(&image, |_| None);
    let outcome = sandbox.sh(&format!("banger-image pull {}", registry.reference()));
    assert_eq!(
        fs::read_dir(&host).unwrap().count(),
        0,
        "a layer wrote to the host"
    );
    // Refused or followed inside the image, as long as it stays there.
    if outcome.status == 0 {
        let content = debugfs(&sandbox, &registry.reference(), "cat /etc/absolute");
        assert_eq!(content, "inside\n");
    } else {
        outcome.says("error: ");
    }
}

#[test]
fn commands_that_are_the_first_at_once_all_find_a_store() {
    let sandbox = Sandbox::empty();
    // Without a lock about one round in fifteen failed.
    let rounds = sandbox.sh(
        "for round in $(seq 60); do export BANGER_STORE=$PWD/store-$round; \
         for each in 1 2 3 4; do banger-image gc --quiet & done; wait; done",
    );
    rounds.exits(0);
    assert_eq!(rounds.stderr, "", "{rounds}");
}
