//! Streams without end, bombs, sizes, room, and names at the edge of what is allowed.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lib_image::{Error, ImportRequest, Input, Limits, Size, import};
use lib_model::{ByteSize, Diagnose, Reference, Silent};

use crate::support::faulty::Faulty;
use crate::support::image::{Image, Layer};
use crate::support::layer::{Entry, gzip, tar, zstd};
use crate::support::mount::Mount;
use crate::support::{Place, chain, request};

/// Bytes, then zeros without end; counts what was read.
struct Endless {
    start: io::Cursor<Vec<u8>>,
    read: Arc<AtomicU64>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.start.read(buffer)? {
            0 => {
                buffer.fill(0);
                buffer.len()
            }
            count => count,
        };
        self.read.fetch_add(count as u64, Ordering::SeqCst);
        Ok(count)
    }
}

/// The head of a file of eight gigabytes.
fn endless_file(name: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(8 << 30);
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[test]
fn an_import_without_end_is_stopped() {
    for (start, limits) in [
        // A file, and what follows the end of the archive; as root file system and as archive.
        (endless_file("etc/passwd"), (4 << 20, u64::MAX)),
        (endless_file("etc/passwd"), (u64::MAX, 4 << 20)),
        (tar(&[Entry::file("a", "b")]), (4 << 20, u64::MAX)),
        (tar(&[Entry::file("a", "b")]), (u64::MAX, 4 << 20)),
        (endless_file("blobs/x"), (4 << 20, u64::MAX)),
        (tar(&[Entry::file("oci-layout", "{}")]), (4 << 20, u64::MAX)),
        (tar(&[Entry::file("oci-layout", "{}")]), (u64::MAX, 4 << 20)),
    ] {
        let place = Place::new();
        let read = Arc::new(AtomicU64::new(0));
        let input = Input::Stream {
            name: "standard input".into(),
            reader: Box::new(Endless {
                start: io::Cursor::new(start),
                read: read.clone(),
            }),
        };
        let request = ImportRequest {
            limits: Limits {
                layer_bytes: limits.0,
                unpacked_bytes: limits.1,
                ..Limits::default()
            },
            ..ImportRequest::default()
        };
        let (mut store, mut locks) = (place.store(), place.locks());
        let error = import(&mut store, &mut locks, input, &request, &Silent).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error:?}");
        let hint = error.hint().unwrap();
        assert!(
            hint.contains("--max-download") || hint.contains("--max-unpacked"),
            "{hint}"
        );
        let read = read.load(Ordering::SeqCst);
        assert!(read < 8 << 20, "{read} bytes were read");
        drop((store, locks));
        place.assert_untouched();
    }
}

#[test]
fn a_bomb_is_stopped_in_a_pull_and_in_an_import() {
    // 320 MiB of zeros, in a file that a sparse one cannot be told from before it is read.
    let zeros = tar(&[Entry::file("zeros", vec![0; 320 << 20])]);
    let bomb = zstd(&zeros);
    let layer = Layer {
        diff_id: crate::support::image::digest(&zeros).to_string(),
        media_type: "application/vnd.oci.image.layer.v1.tar+zstd".into(),
        blob: bomb.clone(),
    };
    drop(zeros);
    let server = Faulty::serve(&Image::new(vec![layer]), |_, _| None);
    let place = Place::new();
    let error = place.pull(&server.reference()).unwrap_err();
    assert!(
        matches!(&error, Error::Limit { limit: 200, .. }),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("--max-ratio"));
    let error = place
        .import_bytes(&bomb, &ImportRequest::default())
        .unwrap_err();
    assert!(
        matches!(&error, Error::Limit { limit: 200, .. }),
        "{error:?}"
    );
    let mut small = request(&server.reference());
    small.limits.unpacked_bytes = 1 << 20;
    let error = place.pull_with(&small, &Silent).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Limit {
                limit: 1_048_576,
                ..
            }
        ),
        "{error:?}"
    );
    place.assert_untouched();
    // It is one's own choice.
    let mut brave = request(&server.reference());
    brave.limits.ratio = 1_000_000;
    assert!(place.pull_with(&brave, &Silent).unwrap().changed);
}

#[test]
fn too_many_entries_are_refused_with_the_flag_that_allows_them() {
    let entries: Vec<Entry> = (0..50).map(|n| Entry::file(format!("f{n}"), "")).collect();
    let server = Faulty::serve(&Image::new(vec![Layer::gzip(&entries)]), |_, _| None);
    let place = Place::new();
    let mut few = request(&server.reference());
    few.limits.filesystem.entries = 40;
    let error = place.pull_with(&few, &Silent).unwrap_err();
    assert!(
        chain(&error).contains("more than 40 entries"),
        "{}",
        chain(&error)
    );
    assert!(error.hint().unwrap().contains("--max-entries"));
    few.limits.filesystem.entries = 60;
    assert!(place.pull_with(&few, &Silent).unwrap().changed);
}

#[test]
fn the_size_is_what_was_asked_for() {
    let place = Place::new();
    let bytes = tar(&[Entry::file("data", crate::support::image::noise(20 << 20))]);
    let make = |size| {
        let request = ImportRequest {
            name: Some(Reference::try_from("sized").unwrap()),
            size,
            ..ImportRequest::default()
        };
        place.import_bytes(&bytes, &request)
    };
    let fit = make(Size::Fit).unwrap();
    assert!(fit.size.0 < 48 << 20, "{fit:?}");
    let exact = make(Size::Exactly(ByteSize(300 << 20))).unwrap();
    assert_eq!(exact.size, ByteSize(300 << 20));
    assert_ne!(exact.id, fit.id);
    let floor = Size::Scaled {
        percent: 100,
        at_least: ByteSize(200 << 20),
    };
    let floor = make(floor).unwrap();
    assert!(
        floor.size.0 >= 200 << 20 && floor.size.0 < 210 << 20,
        "{floor:?}"
    );
    let double = Size::Scaled {
        percent: 200,
        at_least: ByteSize(0),
    };
    let made = make(double).unwrap();
    let (twice, thrice) = (made.used.0 + (20 << 20), made.used.0 + (30 << 20));
    assert!((twice..thrice).contains(&made.size.0), "{made:?}");
    // The same again is the same image; without a wish any will do.
    let again = make(double).unwrap();
    assert_eq!((again.id, again.changed), (made.id.clone(), false));
    let any = make(Size::Fit).unwrap();
    assert_eq!((any.id, any.changed), (made.id.clone(), false));
    let error = make(Size::Exactly(ByteSize(10 << 20))).unwrap_err();
    assert!(chain(&error).contains("too small"), "{}", chain(&error));
    assert_eq!(Mount::new(&place.rootfs(&made)).listing().len(), 1);
}

#[test]
fn odd_names_are_kept_and_impossible_ones_refused() {
    let place = Place::new();
    let long = "n".repeat(100);
    let entries = [
        Entry::file("Makefile", "upper"),
        Entry::file("makefile", "lower"),
        Entry::file(b"\xff\xfe\x80", "no text"),
        Entry::file("with\nnewline", "x"),
        Entry::file(&long, "x"),
        // Whiteouts of what is not there mean nothing.
        Entry::file(".wh.nothing", ""),
        Entry::dir("etc"),
        Entry::file("etc/.wh.nothing", ""),
        Entry::file("etc/.wh..wh..opq", ""),
    ];
    let image = Image::new(vec![Layer::gzip(&entries)]);
    let server = Faulty::serve(&image, |_, _| None);
    let record = place.pull(&server.reference()).unwrap();
    let mount = Mount::new(&place.rootfs(&record));
    let read = |name: &[u8]| {
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(name);
        std::fs::read(mount.path("").join(name)).unwrap()
    };
    assert_eq!(read(b"Makefile"), b"upper");
    assert_eq!(read(b"makefile"), b"lower");
    assert_eq!(read(b"\xff\xfe\x80"), b"no text");
    assert_eq!(mount.listing().len(), 6);

    // Beyond 255 bytes, by a PAX header: a ustar name has at most 100.
    let name = "x".repeat(256);
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([("path", name.as_bytes())])
        .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("short").unwrap();
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, &[][..]).unwrap();
    let bytes = gzip(&builder.into_inner().unwrap());
    let place = Place::new();
    let error = place
        .import_bytes(&bytes, &ImportRequest::default())
        .unwrap_err();
    let said = chain(&error);
    assert!(said.contains("longer than 255 bytes"), "{said}");
    place.assert_untouched();
}
