//! An image is, file by file, what umoci unpacks from the same layers: type, mode, owner, time to
//! the nanosecond, size, content, target, links, device, and every extended attribute.

#![allow(clippy::unwrap_used)]

mod odd;
mod tree;
#[path = "../../../lib/fs/tests/common/unmount.rs"]
mod unmount;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex};

use banger_tests::{Compression, Entry, FaultyRegistry, Image, Layer, Sandbox, sha256, skipped};
use flate2::read::GzDecoder;
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
        .sh(&format!(
            "banger-image import --format {filesystem} {}",
            layout.display()
        ))
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
    if filesystem == "erofs" {
        fsck.arg("--extract");
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
        let layout = layout(For::Us);
        for filesystem in ["ext4", "erofs"] {
            let image = imported(&sandbox, &layout, filesystem);
            tree::assert_equal(&mounted(&image, filesystem), &expected);
        }
    }
}

#[test]
fn fixtures_are_what_umoci_unpacks() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let debian = sandbox.fixtures().debian().unwrap();
    let mut tar = Vec::new();
    let mut packed = GzDecoder::new(&debian.layers[0].blob[..]);
    packed.read_to_end(&mut tar).unwrap();
    let zstd = Layer::from_tar(&tar, Compression::Zstd).unwrap();
    let images = [
        ("busybox", Image::busybox().unwrap(), 200),
        ("debian", debian, 5_000),
        ("debian-zstd", Image::new(vec![zstd]), 5_000),
        ("system", sandbox.fixtures().system().unwrap(), 5_000),
        ("host", sandbox.fixtures().host().unwrap(), 5_000),
    ];
    for (name, image, least) in images {
        let layout = sandbox.path(name);
        write_layout(&image, &layout);
        let mut expected = unpacked(&sandbox, &layout);
        assert!(expected.len() > least, "{} files", expected.len());
        if name == "busybox" {
            undescribed(&mut expected, &[""]);
        }
        // The large ones take their time: erofs is shown by the others.
        let filesystems: &[&str] = match name {
            "system" | "host" => &["ext4"],
            _ => &["ext4", "erofs"],
        };
        let sizes = filesystems.iter().map(|filesystem| {
            let image = imported(&sandbox, &layout, filesystem);
            tree::assert_equal(&mounted(&image, filesystem), &expected);
            fs::metadata(image).unwrap().blocks()
        });
        if let [ext4, erofs] = sizes.collect::<Vec<_>>()[..] {
            assert!(erofs * 4 < ext4 * 3, "compressed: {erofs} of {ext4}");
        }
    }
    let images = sandbox.sh("banger-image list").records();
    assert_eq!(images.len(), 8, "one digest as two file systems");
}

#[test]
fn an_import_writes_its_layers_and_what_the_image_uses() {
    let sandbox = Sandbox::empty();
    let markers = ["usr/share/.wh..wh..opq", "usr/lib/.wh.x86_64-linux-gnu"];
    let hide = markers.map(|path| Entry::File(path.into(), 0o644, Vec::new()));
    let top = Layer::new(&hide, Compression::Gzip).unwrap();
    let image = sandbox.fixtures().debian().unwrap().with(top);
    let packed: usize = image.layers.iter().map(|layer| layer.blob.len()).sum();
    let layout = sandbox.path("layout");
    write_layout(&image, &layout);
    for filesystem in ["ext4", "erofs"] {
        // The shell's own figures have those of the commands that it waited for (proc(5)).
        let shown = sandbox.sh(&format!(
            "banger-image import --format {filesystem} {}; cat /proc/$$/io",
            layout.display()
        ));
        let (record, io) = shown.ok().split_once('\n').unwrap();
        let record: serde_json::Value = serde_json::from_str(record).unwrap();
        let line = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "));
        let written: u64 = line.unwrap().parse().unwrap();
        let used = record["used"].as_u64().unwrap();
        // The second import finds the layers there.
        let layers = if filesystem == "ext4" {
            packed as u64
        } else {
            0
        };
        let rows = 2 << 20;
        assert!(
            written <= layers + used + rows,
            "{written} > {layers} + {used}"
        );
        assert!(written >= used / 2, "{written} is all that was written");
    }
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
    for filesystem in ["ext4", "erofs"] {
        let sums = sums(&image, filesystem);
        assert_eq!(sums.len(), 1, "{filesystem}: {sums:?}");
    }
}

/// The digests of the files that an image becomes, pulled and imported, each time in a new store.
fn sums(image: &Image, filesystem: &str) -> BTreeSet<String> {
    let mut sums = BTreeSet::new();
    for (order, around) in [
        ([2, 1, 0], "umask 022; TZ=UTC"),
        ([0, 1, 2], "umask 077; TZ=Asia/Kolkata LC_ALL=C"),
        ([1, 0, 2], "umask 0; cd /; TZ=America/St_Johns"),
        ([0, 2, 1], "cd /tmp; HOME=/nonexistent TZ=:bad taskset -c 0"),
    ] {
        let sandbox = Sandbox::empty();
        let registry = registry(image, order);
        let pull = sandbox.sh(&format!(
            "{around} banger-image pull --format {filesystem} {}",
            registry.reference()
        ));
        assert_eq!(pull.record()["filesystem"], filesystem);
        let disk = fs::read(sandbox.image_disk(&registry.reference())).unwrap();
        sums.insert(sha256(&disk));
    }
    let sandbox = Sandbox::empty();
    let layout = sandbox.path("layout");
    write_layout(image, &layout);
    let disk = imported(&sandbox, &layout, filesystem);
    sums.insert(sha256(&fs::read(disk).unwrap()));
    sums
}

#[test]
fn a_vm_runs_from_erofs() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let image = sandbox.fixtures().debian().unwrap();
    let registry = FaultyRegistry::serve(&image, |_| None);
    let shown = sandbox.sh(&format!(
        "banger-image pull --format erofs {} | banger-vm create --name packed | \
         banger-vm exec -- sh -c 'grep ^ID= /etc/os-release; grep ^erofs /proc/modules; \
         dpkg --verify && echo verified'",
        registry.reference()
    ));
    let said = shown.ok();
    assert!(said.starts_with("ID=debian\n"), "{shown}");
    assert!(said.ends_with("verified\n"), "{shown}");
    // Name, size, users: the root's lower layer.
    let module: Vec<&str> = said.lines().nth(1).unwrap().split(' ').collect();
    assert_eq!((module[0], module[2]), ("erofs", "1"), "{shown}");
    let disk = sandbox.image_disk(&registry.reference());
    let mut magic = [0; 4];
    fs::File::open(disk)
        .unwrap()
        .read_exact_at(&mut magic, 1024)
        .unwrap();
    assert_eq!(magic, [0xe2, 0xe1, 0xf5, 0xe0]);
    sandbox
        .sh("banger-vm exec packed -- sh -c 'echo changed >> /etc/os-release'")
        .ok();
    sandbox.sh("banger-vm delete --force packed").ok();
}
