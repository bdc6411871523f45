//! What the kernel sees of layers, whatever way they came.

use std::collections::BTreeMap;

use lib_image::ImportRequest;
use lib_model::Reference;

use crate::support::Place;
use crate::support::image::{Image, Layer, layout, named, push, write_layout};
use crate::support::layer::Entry;
use crate::support::mount::Mount;
use crate::support::registry::Registry;

/// `cap_net_raw+ep` (capabilities(7), version 2 of the attribute).
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Every kind of entry, and every way in which an upper layer changes a lower one.
pub(crate) fn odd() -> Image {
    let base = Layer::gzip(&[
        Entry::dir("bin"),
        Entry::file("bin/ping", "ping")
            .mode(0o4755)
            .xattr("security.capability", CAPABILITY),
        Entry::hardlink("bin/ping6", "bin/ping"),
        Entry::symlink("lib", "usr/lib"),
        Entry::dir("etc"),
        Entry::file("etc/passwd", "root"),
        Entry::file("etc/gone", "lower"),
        Entry::dir("opt"),
        Entry::file("opt/hidden", "lower"),
        Entry::dir("opt/deep"),
        Entry::dir("dev"),
        Entry::char_device("dev/null", 1, 3),
        Entry::fifo("dev/pipe"),
        Entry::file("becomes-dir", "file"),
        Entry::dir("becomes-file"),
        Entry::file("becomes-file/below", "x"),
        Entry::dir("tmp").mode(0o1777),
    ]);
    let middle = Layer::plain(&[
        Entry::file("etc/.wh.gone", ""),
        Entry::file("opt/.wh..wh..opq", ""),
        Entry::file("opt/new", "middle"),
        Entry::file("etc/passwd", "root and user")
            .owner(1000, 1001)
            .mode(0o640),
        Entry::dir("becomes-dir"),
        Entry::file("becomes-dir/inside", "y"),
        Entry::file("becomes-file", "now a file"),
    ]);
    let top = Layer::zstd(&[
        Entry::file("usr/lib/x.so", "x").xattr("user.note", b"from the top"),
        Entry::file(".wh.tmp", ""),
    ]);
    Image::new(vec![base, middle, top])
}

fn expected() -> BTreeMap<String, String> {
    let capability = format!(" security.capability={CAPABILITY:02x?}");
    let lines = [
        ("becomes-dir", "0755 0:0 dir"),
        ("becomes-dir/inside", "0644 0:0 \"y\" x1"),
        ("becomes-file", "0644 0:0 \"now a file\" x1"),
        ("bin", "0755 0:0 dir"),
        ("bin/ping", &format!("4755 0:0 \"ping\" x2{capability}")),
        ("bin/ping6", &format!("4755 0:0 \"ping\" x2{capability}")),
        ("dev", "0755 0:0 dir"),
        ("dev/null", "0666 0:0 char 1:3"),
        ("dev/pipe", "0600 0:0 fifo"),
        ("etc", "0755 0:0 dir"),
        ("etc/passwd", "0640 1000:1001 \"root and user\" x1"),
        ("lib", "0777 0:0 -> usr/lib"),
        ("opt", "0755 0:0 dir"),
        ("opt/new", "0644 0:0 \"middle\" x1"),
        ("usr", "0755 0:0 dir"),
        ("usr/lib", "0755 0:0 dir"),
        (
            "usr/lib/x.so",
            &format!("0644 0:0 \"x\" x1 user.note={:02x?}", b"from the top"),
        ),
    ];
    lines
        .map(|(name, line)| (name.to_owned(), line.to_owned()))
        .into()
}

#[test]
fn the_kernel_sees_what_the_layers_say() {
    let place = Place::new();
    let image = odd();
    let files = layout(vec![named(image.descriptor(), "odd:1")], &image.blobs());
    let path = write_layout(&place.base.path().join("layout"), &files);
    let record = place.import(path, &ImportRequest::default()).unwrap();
    let mount = Mount::new(&place.rootfs(&record));
    assert_eq!(mount.listing(), expected());
    let times = std::os::unix::fs::MetadataExt::mtime(&mount.path("bin/ping").metadata().unwrap());
    assert_eq!(times, 1_234_567_890);
}

#[test]
fn one_digest_gives_the_same_bytes_by_pull_and_by_import_in_any_store() {
    let registry = Registry::start();
    let image = odd();
    let (one, two, three) = (Place::new(), Place::new(), Place::new());
    let files = layout(vec![named(image.descriptor(), "odd:1")], &image.blobs());
    let path = write_layout(&one.base.path().join("layout"), &files);
    push(
        &path,
        "odd:1",
        &registry.reference("odd:1"),
        &["--preserve-digests"],
    );

    let pulled = one.pull(&registry.reference("odd:1")).unwrap();
    let again = two.pull(&registry.reference("odd:1")).unwrap();
    let request = ImportRequest {
        name: Some(Reference::try_from("mine").unwrap()),
        ..ImportRequest::default()
    };
    let imported = three.import(path, &request).unwrap();
    assert_eq!(
        pulled.digest.as_str(),
        image.descriptor()["digest"].as_str().unwrap()
    );
    assert_eq!(
        (&pulled.digest, &pulled.digest),
        (&again.digest, &imported.digest)
    );
    assert_ne!(pulled.id, again.id);
    let bytes = std::fs::read(one.rootfs(&pulled)).unwrap();
    assert!(bytes == std::fs::read(two.rootfs(&again)).unwrap());
    assert!(bytes == std::fs::read(three.rootfs(&imported)).unwrap());
    assert_eq!(bytes.len() as u64, pulled.size.0);
    assert!(pulled.used.0 > 0 && pulled.used <= pulled.size);
}
