//! An image is, file by file, what umoci unpacks from the same layers: type, mode, owner, time to
//! the nanosecond, size, content, target, links, device, and every extended attribute.

#![allow(clippy::unwrap_used)]

mod odd;
mod tree;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex};

use banger_tests::{Compression, FaultyRegistry, Image, Layer, Sandbox, sha256, skipped};
use odd::For;
use serde_json::json;
use tree::{Mounted, Tree};

/// Writes an image as an OCI layout (image-spec, image-layout.md) with the tag `latest`.
fn write_layout(image: &Image, directory: &Path) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let manifest = image.manifest();
    let config = image.config_blob();
    let contents = [&manifest, &config].into_iter();
    for content in contents.chain(image.layers.iter().map(|layer| &layer.blob)) {
        let digest = sha256(content);
        let name = digest.strip_prefix("sha256:").unwrap();
        fs::write(blobs.join(name), content).unwrap();
    }
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": sha256(&manifest), "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "latest"},
        }],
    });
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
}

/// What umoci unpacks, as root.
fn unpacked(sandbox: &Sandbox, layout: &Path) -> Tree {
    let root = sandbox.path("unpacked");
    let output = Command::new(sandbox.fixtures().umoci())
        .args(["raw", "unpack", "--image"])
        .arg(format!("{}:latest", layout.display()))
        .arg(&root)
        .output()
        .expect("umoci is needed; run the tests with `cargo xtask test`");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let tree = tree::read(&root).unwrap();
    fs::remove_dir_all(&root).unwrap();
    tree
}

/// Imports a layout and returns the image's file.
fn imported(sandbox: &Sandbox, layout: &Path, filesystem: &str) -> PathBuf {
    let record = sandbox
        .sh(&format!("banger-image import {}", layout.display()))
        .record();
    assert_eq!(record["filesystem"], filesystem);
    let id = record["id"].as_str().unwrap();
    sandbox.store().join("images").join(id).join("rootfs.img")
}

/// The image as the kernel reads it, after fsck.
fn mounted(image: &Path, filesystem: &str) -> Tree {
    let mut fsck = match filesystem {
        "ext4" => Command::new("/usr/sbin/e2fsck"),
        _ => Command::new("/usr/bin/fsck.erofs"),
    };
    if filesystem == "ext4" {
        fsck.arg("-fn");
    }
    let output = fsck.arg(image).output().expect("fsck runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let mounted = Mounted::new(image, filesystem);
    let mut tree = tree::read(&mounted.path()).unwrap();
    if filesystem == "ext4" {
        tree.remove("lost+found").expect("ext4 has lost+found");
    }
    tree
}

/// Directories that no layer describes: umoci gives them the time of unpacking, the specification
/// says nothing, and an image that is to be the same every time has the epoch.
fn undescribed(tree: &mut Tree, paths: &[&str]) {
    for path in paths {
        let node = tree.get_mut(*path).expect("an implied directory is there");
        node.mtime = (0, 0);
    }
}

#[test]
fn odd_images_are_what_umoci_unpacks() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    for compression in [Compression::Gzip, Compression::Zstd] {
        let layout = |reader| {
            let layout = sandbox.path(&format!("{reader:?}-{compression:?}"));
            let layers = odd::layers(reader);
            let layers = layers.iter().map(|tar| Layer::from_tar(tar, compression));
            let image = Image::new(layers.collect::<Result<_, _>>().unwrap());
            write_layout(&image, &layout);
            layout
        };
        let mut expected = unpacked(&sandbox, &layout(For::Umoci));
        undescribed(&mut expected, odd::IMPLIED);
        odd::decide(&mut expected);
        let image = imported(&sandbox, &layout(For::Us), "ext4");
        tree::assert_equal(&mounted(&image, "ext4"), &expected);
    }
}

#[test]
fn debian_is_what_umoci_unpacks() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let image = sandbox.fixtures().debian().unwrap();
    let layout = sandbox.path("layout");
    write_layout(&image, &layout);
    let expected = unpacked(&sandbox, &layout);
    assert!(expected.len() > 5_000, "{} files", expected.len());
    tree::assert_equal(
        &mounted(&imported(&sandbox, &layout, "ext4"), "ext4"),
        &expected,
    );
}

/// Serves an image whose layers arrive in this order, lowest is 0.
fn registry(image: &Image, order: [usize; 3]) -> FaultyRegistry {
    let paths: Vec<String> = image
        .layers
        .iter()
        .map(|layer| format!("/v2/test/blobs/{}", layer.digest()))
        .collect();
    let turn = (Mutex::new(0), Condvar::new());
    FaultyRegistry::serve(image, move |path| {
        let layer = paths.iter().position(|other| other == path)?;
        let (next, changed) = &turn;
        let mut next = next.lock().unwrap();
        while *next < order.len() && order[*next] != layer {
            next = changed.wait(next).unwrap();
        }
        *next += 1;
        changed.notify_all();
        None
    })
}

#[test]
fn one_digest_is_one_file_whatever_is_around() {
    let layers = odd::layers(For::Us);
    let layers = layers[..3].iter();
    let layers = layers.map(|tar| Layer::from_tar(tar, Compression::Gzip));
    let image = Image::new(layers.collect::<Result<_, _>>().unwrap());
    let (mut sums, mut digests) = (BTreeSet::new(), BTreeSet::new());
    for (order, around) in [
        ([2, 1, 0], "umask 022; TZ=UTC"),
        ([0, 1, 2], "umask 077; TZ=Asia/Kolkata LC_ALL=C"),
        ([1, 0, 2], "umask 0; cd /; TZ=America/St_Johns"),
        ([0, 2, 1], "cd /tmp; HOME=/nonexistent TZ=:bad taskset -c 0"),
    ] {
        let sandbox = Sandbox::empty();
        let registry = registry(&image, order);
        let pull = sandbox.sh(&format!(
            "{around} banger-image pull {}",
            registry.reference()
        ));
        digests.insert(pull.record()["digest"].to_string());
        let disk = fs::read(sandbox.image_disk(&registry.reference())).unwrap();
        sums.insert(sha256(&disk));
    }
    let sandbox = Sandbox::empty();
    let layout = sandbox.path("layout");
    write_layout(&image, &layout);
    sums.insert(sha256(
        &fs::read(imported(&sandbox, &layout, "ext4")).unwrap(),
    ));
    assert_eq!((digests.len(), sums.len()), (1, 1), "{digests:?} {sums:?}");
}
