//! Imports of every form, from paths and streams.

use lib_image::{Error, ImportRequest, Size, delete};
use lib_model::{ByteSize, Diagnose, Exit, Filesystem, OciConfig, Reference, VmId};
use lib_store::{Context, NewKernel, NewVm, Staged};
use serde_json::json;

use crate::support::image::{Image, Layer, archive, digest, layout, named, noise, write_layout};
use crate::support::layer::{Entry, gzip, tar, zstd};
use crate::support::mount::{Mount, Tmpfs};
use crate::support::{Place, chain};

fn called(name: &str) -> ImportRequest {
    let name = Some(Reference::try_from(name).unwrap());
    ImportRequest {
        name,
        ..ImportRequest::default()
    }
}

fn selecting(select: &str) -> ImportRequest {
    ImportRequest {
        select: Some(select.into()),
        ..ImportRequest::default()
    }
}

/// A docker archive with names as Nix writes them: absolute, `manifest.json` last.
fn docker_archive(image: &Image, tags: &[&str]) -> Vec<(String, Vec<u8>)> {
    let config = image.config();
    let config_name = format!("{}.json", digest(&config).hex());
    let mut files = Vec::new();
    let mut layers = Vec::new();
    for layer in &image.layers {
        let name = format!("{}/layer.tar", digest(&layer.blob).hex());
        files.push((format!("/{name}"), layer.blob.clone()));
        layers.push(name);
    }
    files.push((format!("/{config_name}"), config));
    let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": layers}]);
    files.push((
        "/manifest.json".into(),
        serde_json::to_vec(&manifest).unwrap(),
    ));
    files
}

#[test]
fn a_layout_directory_and_its_archive_are_the_same_image() {
    let place = Place::new();
    let image = Image::small();
    let files = layout(
        vec![named(image.descriptor(), "team/app:1")],
        &image.blobs(),
    );
    let path = write_layout(&place.base.path().join("layout"), &files);
    let first = place.import(path, &ImportRequest::default()).unwrap();
    assert!(first.changed);
    assert_eq!(first.names, ["team/app:1"]);
    assert_eq!(first.digest, digest(&image.manifest()));
    for bytes in [
        archive(&files),
        gzip(&archive(&files)),
        zstd(&archive(&files)),
    ] {
        let again = place
            .import_bytes(&bytes, &ImportRequest::default())
            .unwrap();
        assert_eq!((&again.id, again.changed), (&first.id, false));
    }
    let renamed = place
        .import_bytes(&archive(&files), &called("other"))
        .unwrap();
    assert_eq!((&renamed.id, renamed.changed), (&first.id, true));
    assert_eq!(renamed.names, ["other:latest", "team/app:1"]);
}

#[test]
fn a_docker_archive_with_its_manifest_last_and_absolute_names() {
    let place = Place::new();
    let image = Image::new(vec![
        Layer::plain(&[Entry::dir("etc"), Entry::file("etc/a", "1")]),
        Layer::gzip(&[Entry::file("etc/.wh.a", ""), Entry::file("etc/b", "2")]),
    ]);
    let files = docker_archive(&image, &["nix-made:1", "also:2"]);
    let path = place.base.path().join("image.bin");
    std::fs::write(&path, gzip(&archive(&files))).unwrap();
    let record = place.import(path, &ImportRequest::default()).unwrap();
    assert_eq!(record.names, ["also:2", "nix-made:1"]);
    assert_eq!(record.config.working_dir, "/srv");
    let listing = Mount::new(&place.rootfs(&record)).listing();
    assert_eq!(listing.keys().collect::<Vec<_>>(), ["etc", "etc/b"]);
    let again = place
        .import_bytes(&archive(&files), &ImportRequest::default())
        .unwrap();
    assert_eq!((&again.id, again.changed), (&record.id, false));
}

#[test]
fn what_skopeo_writes_is_read() {
    let place = Place::new();
    let image = Image::small();
    let files = layout(vec![named(image.descriptor(), "x")], &image.blobs());
    let root = write_layout(&place.base.path().join("l"), &files);
    for (form, name) in [("docker-archive", "app:1"), ("oci-archive", "app:1")] {
        let target = place.base.path().join(form);
        let output = std::process::Command::new("/usr/bin/skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("oci:{}:x", root.display()))
            .arg(format!("{form}:{}:{name}", target.display()))
            .env_clear()
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let record = place.import(target, &ImportRequest::default()).unwrap();
        assert_eq!(record.names, [name], "{form}");
        let mount = Mount::new(&place.rootfs(&record));
        assert_eq!(
            std::fs::read(mount.path("etc/hostname")).unwrap(),
            b"small\n"
        );
    }
}

#[test]
fn a_layer_that_is_a_link_to_another() {
    // What `docker save` wrote for equal layers until version 25.
    let place = Place::new();
    let layer = Layer::plain(&[Entry::file("a", "1")]);
    let image = Image::new(vec![layer.clone(), layer.clone()]);
    let config = image.config();
    let manifest = json!([{"Config": "c.json", "RepoTags": null,
        "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    let bytes = tar(&[
        Entry::file("repositories", "{}"),
        Entry::dir("one"),
        Entry::file("one/layer.tar", &layer.blob),
        Entry::dir("two"),
        Entry::symlink("two/layer.tar", "../one/layer.tar"),
        Entry::file("c.json", &config),
        Entry::file("manifest.json", serde_json::to_vec(&manifest).unwrap()),
    ]);
    let record = place.import_bytes(&bytes, &called("linked")).unwrap();
    assert_eq!(record.names, ["linked:latest"]);
}

#[test]
fn several_images_want_a_choice() {
    let place = Place::new();
    let (one, two) = (
        Image::small(),
        Image::new(vec![Layer::gzip(&[Entry::file("two", "")])]),
    );
    let entries = vec![
        named(one.descriptor(), "a/one:1"),
        named(two.descriptor(), "two"),
    ];
    let bytes = archive(&layout(entries, &[one.blobs(), two.blobs()].concat()));
    let error = place
        .import_bytes(&bytes, &ImportRequest::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "standard input holds several images: a/one:1, two"
    );
    assert_eq!(
        (error.exit(), error.hint().unwrap()),
        (Exit::Usage, "--select a/one:1".into())
    );
    let error = place.import_bytes(&bytes, &selecting("three")).unwrap_err();
    assert_eq!(error.exit(), Exit::NotFound);
    place.assert_untouched();
    let record = place
        .import_bytes(&bytes, &selecting("docker.io/a/one:1"))
        .unwrap();
    assert_eq!(
        (record.digest, record.names),
        (digest(&one.manifest()), vec!["a/one:1".to_owned()])
    );
    let record = place.import_bytes(&bytes, &selecting("two")).unwrap();
    assert_eq!(
        (record.digest, record.names),
        (digest(&two.manifest()), vec![])
    );

    let mut files = docker_archive(&one, &["one:1"]);
    files.pop();
    let config = format!("{}.json", digest(&one.config()).hex());
    let layer = format!("{}/layer.tar", digest(&one.layers[0].blob).hex());
    let image = |tag: &str| json!({"Config": config, "RepoTags": [tag], "Layers": [layer]});
    let manifest = json!([image("one:1"), image("uno:1")]);
    files.push((
        "manifest.json".into(),
        serde_json::to_vec(&manifest).unwrap(),
    ));
    let error = place
        .import_bytes(&archive(&files), &ImportRequest::default())
        .unwrap_err();
    assert!(matches!(error, Error::SeveralImages { .. }), "{error:?}");
    let record = place
        .import_bytes(&archive(&files), &selecting("uno:1"))
        .unwrap();
    assert_eq!(record.names, ["uno:1"]);
}

#[test]
fn a_root_file_system_gets_its_configuration_from_options() {
    let place = Place::new();
    let bytes = tar(&[
        Entry::dir("."),
        Entry::dir("./bin"),
        Entry::file("./bin/sh", "#!").mode(0o755),
        Entry::file("./manifest.json", "not of an image"),
    ]);
    let request = ImportRequest {
        run: OciConfig {
            env: vec!["A=b".into()],
            user: "nobody".into(),
            working_dir: "/w".into(),
            entrypoint: vec!["/bin/sh".into()],
            cmd: vec!["-l".into()],
            stop_signal: String::new(),
            work_seed: String::new(),
            kernel_parameters: vec![],
        },
        ..called("host")
    };
    let record = place.import_bytes(&bytes, &request).unwrap();
    assert_eq!(record.names, ["host:latest"]);
    assert_eq!(record.config, request.run);
    let listing = Mount::new(&place.rootfs(&record)).listing();
    assert_eq!(listing["bin/sh"], "0755 0:0 \"#!\" x1");

    let again = place.import_bytes(&bytes, &request).unwrap();
    assert_eq!((&again.id, again.changed), (&record.id, false));
    let other = place.import_bytes(&bytes, &called("host")).unwrap();
    assert_ne!(other.digest, record.digest);
    for packed in [gzip(&bytes), zstd(&bytes)] {
        let record = place.import_bytes(&packed, &called("packed")).unwrap();
        assert!(Mount::new(&place.rootfs(&record)).path("bin/sh").is_file());
    }
    // skopeo unpacks what became of it: the blobs are a whole image.
    let output = std::process::Command::new("/usr/bin/skopeo")
        .args(["--insecure-policy", "copy", "--quiet"])
        .arg(format!(
            "oci:{}:host:latest",
            place.context.blobs().display()
        ))
        .arg(format!("dir:{}", place.base.path().join("copy").display()))
        .env_clear()
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn options_are_checked() {
    let place = Place::new();
    let image = Image::small();
    let bytes = archive(&layout(vec![image.descriptor()], &image.blobs()));
    let with = |run: OciConfig| ImportRequest {
        run,
        ..ImportRequest::default()
    };
    for (run, expected) in [
        (
            OciConfig {
                cmd: vec!["x".into()],
                ..OciConfig::default()
            },
            "--cmd is for root file",
        ),
        (
            OciConfig {
                env: vec!["x".into()],
                ..OciConfig::default()
            },
            "--env `x` is not NAME=value",
        ),
        (
            OciConfig {
                working_dir: "x".into(),
                ..OciConfig::default()
            },
            "not an absolute path",
        ),
    ] {
        let error = place.import_bytes(&bytes, &with(run)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit(), Exit::Usage);
    }
}

#[test]
fn bad_inputs_leave_nothing() {
    let image = Image::small();
    let files = layout(vec![image.descriptor()], &image.blobs());
    let good = archive(&files);
    let mut wrong = files.clone();
    wrong.last_mut().unwrap().1[1000] ^= 1;
    let mut missing = files.clone();
    missing.pop();
    let mut no_config = docker_archive(&image, &["a:1"]);
    no_config.retain(|(name, _)| !name.ends_with(".json") || name == "/manifest.json");
    let other_platform = Image {
        architecture: "arm64",
        ..Image::small()
    };
    let other_platform = layout(vec![other_platform.descriptor()], &other_platform.blobs());
    for (bytes, expected) in [
        (Vec::new(), "it is empty"),
        (b"hello".to_vec(), "it is no tar archive"),
        (b"\xfd7zXZ\0\0\0".to_vec(), "compressed with xz"),
        (good[..good.len() / 2].to_vec(), "cannot read the archive"),
        (
            gzip(&good)[..good.len() / 3].to_vec(),
            "cannot read the archive",
        ),
        (archive(&wrong), "has the digest"),
        (archive(&missing), "lacks `blobs/sha256/"),
        (archive(&no_config), ".json`"),
        (
            archive(&docker_archive(&image, &[])[..2]),
            "lacks `manifest.json`",
        ),
        (
            archive(&other_platform),
            "no image for linux/amd64, only for linux/arm64",
        ),
        (tar(&[Entry::file("../x", "")]), ".."),
    ] {
        let place = Place::new();
        let error = place.import_bytes(&bytes, &called("x")).unwrap_err();
        assert!(chain(&error).contains(expected), "{}", chain(&error));
        place.assert_untouched();
    }
    let place = Place::new();
    let error = place
        .import(place.base.path().join("nothing"), &called("x"))
        .unwrap_err();
    assert_eq!(error.exit(), Exit::NotFound);
    let error = place
        .import(place.base.path().to_owned(), &called("x"))
        .unwrap_err();
    assert!(error.to_string().contains("lacks `oci-layout`"), "{error}");
}

#[test]
fn names_in_an_archive_never_become_paths() {
    let place = Place::new();
    let image = Image::small();
    let mut files = docker_archive(&image, &["evil:1"]);
    let outside = place.base.path().join("outside");
    files.insert(0, ("repositories".into(), b"{}".to_vec()));
    files.push((
        format!("../../../../..{}", outside.display()),
        b"x".to_vec(),
    ));
    files.push((outside.to_str().unwrap().to_owned(), b"x".to_vec()));
    let record = place
        .import_bytes(&archive(&files), &ImportRequest::default())
        .unwrap();
    assert_eq!(record.names, ["evil:1"]);
    assert!(!outside.exists());
}

#[test]
fn an_image_that_a_vm_uses_stays() {
    let place = Place::new();
    let bytes = tar(&[Entry::file("a", "1")]);
    let record = place.import_bytes(&bytes, &called("used")).unwrap();
    let (mut store, mut locks) = (place.store(), place.locks());
    let kernel = NewKernel {
        name: "k".parse().unwrap(),
        release: "1".into(),
        architecture: "amd64".into(),
        digest: digest(b"k"),
        source: "test".into(),
        vmlinux: true,
        modules: 0,
    };
    let staged = Staged::new(&place.context).unwrap();
    let kernel = store
        .publish_kernel(
            &locks.images().unwrap(),
            staged.complete().unwrap(),
            &kernel,
        )
        .unwrap();
    let spec = json!({"image_name": "used", "cpus": 1, "memory": 1, "disk": 1, "network": "none",
        "vmm": "qemu", "accel": "tcg"});
    let vm = NewVm {
        id: VmId::random().unwrap(),
        name: "dev".parse().unwrap(),
        image: record.id.clone(),
        kernel: kernel.id,
        spec: serde_json::from_value(spec).unwrap(),
    };
    let staged = Staged::new(store.context()).unwrap();
    store
        .publish_vm(&locks.create().unwrap(), staged.complete().unwrap(), &vm)
        .unwrap();
    let error = delete(&mut store, &mut locks, "used").unwrap_err();
    assert_eq!(error.to_string(), "the image `used` is in use by dev");
    assert_eq!(
        (error.exit(), error.hint().unwrap()),
        (Exit::Busy, "banger-vm delete dev".into())
    );
    assert!(place.rootfs(&record).exists());
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let place = Place::new();
    let small = Tmpfs::new("3m");
    let context = Context::from_environment(Some(&small.path().join("store")), |_| None).unwrap();
    let place = Place { context, ..place };
    let bytes = tar(&[Entry::file("big", noise(2 << 20))]);
    let request = ImportRequest {
        ignore_space: true,
        ..called("big")
    };
    let error = place.import_bytes(&bytes, &request).unwrap_err();
    assert!(
        error.hint().unwrap().starts_with("free some disk space"),
        "{}",
        chain(&error)
    );
    place.assert_untouched();
}

#[test]
fn a_size_is_refused_where_it_means_nothing() {
    let place = Place::new();
    let file = place.base.path().join("root.tar");
    std::fs::write(&file, tar(&[Entry::file("f", b"content")])).unwrap();
    let scaled = |percent, least| Size::Scaled {
        percent,
        at_least: ByteSize(least),
    };
    for (size, option) in [
        (Size::Exactly(ByteSize(1 << 20)), "--size"),
        (scaled(200, 0), "--size-factor"),
        (scaled(100, 1 << 20), "--min-size"),
    ] {
        let mut request = ImportRequest {
            size,
            filesystem: Filesystem::Erofs,
            ..ImportRequest::default()
        };
        let error = place.import(file.clone(), &request).unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with(option) && said.contains("EROFS"), "{said}");
        assert_eq!(error.exit(), Exit::Usage);
        let mut pull = crate::support::request("registry.invalid/x");
        (pull.size, pull.filesystem) = (size, Filesystem::Erofs);
        let error = place.pull_with(&pull, &lib_model::Silent).unwrap_err();
        assert!(error.to_string().starts_with(option), "{error}");
        request.size = Size::Fit;
        place.import(file.clone(), &request).unwrap();
    }
}

#[test]
fn an_import_that_has_no_room_is_refused_before_it_is_read() {
    let source = Place::new();
    let file = source.base.path().join("root.tar");
    std::fs::write(&file, tar(&[Entry::file("f", noise(3 << 20))])).unwrap();
    let small = Tmpfs::new("2m");
    let store = small.path().join("store");
    let place = Place {
        context: Context::from_environment(Some(&store), |_| None).unwrap(),
        ..Place::new()
    };
    let mut request = ImportRequest::default();
    let error = place.import(file.clone(), &request).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    place.assert_untouched();
    // Without the look, the disk says it.
    request.ignore_space = true;
    let error = place.import(file, &request).unwrap_err();
    assert!(!matches!(error, Error::NoSpace { .. }), "{error:?}");
    place.assert_untouched();
}
