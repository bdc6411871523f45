//! The targets: errors are fine, panics and unsound file systems are bugs.

#![allow(unreachable_pub)]

use std::process::Command;

use lib_fs::{Compression, Error, Format, Layer, Limits, Options, SizeChoice, build};
use tempfile::NamedTempFile;

use super::tar::{Header, Tar};

const FORMATS: [Format; 3] = [
    Format::Ext4,
    Format::Erofs(Compression::Lz4),
    Format::Erofs(Compression::None),
];

/// Reads the bytes behind the first, which chooses the format, as two layers of an image.
pub fn layer(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else {
        return;
    };
    let format = FORMATS[usize::from(choice) % FORMATS.len()];
    // Where the upper layer ends and the lower one begins: nowhere, or at a record.
    let records = bytes.len() / 512;
    let cut = usize::from(choice / 3) * records / 85 * 512;
    let (upper, lower) = bytes.split_at(cut.min(bytes.len()));
    // An error says what is wrong with the layer; there is nothing to check then.
    let _ = image(&[upper, lower], format);
}

/// Makes layers out of the bytes, writes them, and has the result checked; false when there was
/// none, because the layers cannot be.
///
/// # Panics
/// When the file system has a fault.
pub fn writer(bytes: &[u8]) -> bool {
    let mut bytes = Bytes {
        rest: bytes,
        far: 36,
        files: Vec::new(),
    };
    let format = FORMATS[bytes.below(FORMATS.len())];
    if format != Format::Ext4 {
        // fsck.erofs reads every byte of every hole.
        bytes.far = 24;
    }
    let count = bytes.below(3) + 1;
    let layers: Vec<Vec<u8>> = (0..count).map(|_| archive(&mut bytes)).collect();
    let layers: Vec<&[u8]> = layers.iter().map(|layer| &layer[..]).collect();
    let Ok(image) = image(&layers, format) else {
        return false;
    };
    let mut fsck = match format {
        Format::Ext4 => Command::new("/usr/sbin/e2fsck"),
        Format::Erofs(_) => Command::new("/usr/bin/fsck.erofs"),
    };
    if format == Format::Ext4 {
        fsck.arg("-fn");
    } else {
        fsck.arg("--extract");
    }
    let output = fsck.arg(image.path()).output().expect("fsck runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{format:?}: {said}");
    true
}

fn image(layers: &[&[u8]], format: Format) -> Result<NamedTempFile, Error> {
    let image = NamedTempFile::new().expect("a temporary file can be made");
    let layers = layers.iter().enumerate().map(|(i, &bytes)| Layer {
        name: i.to_string(),
        open: Box::new(move || Ok(Box::new(bytes))),
        again: true,
    });
    let limits = Limits {
        entries: 10_000,
        content_bytes: 4 << 20,
        metadata_bytes: 4 << 20,
        ..Limits::default()
    };
    let options = Options {
        format,
        size: SizeChoice::Fit,
        journal: false,
        limits,
        ..Options::default()
    };
    build(layers, image.as_file(), &options, &|_| {})?;
    Ok(image)
}

/// Choices out of bytes; zeros when they have come to their end.
struct Bytes<'b> {
    rest: &'b [u8],
    /// Bits of the largest hole.
    far: u32,
    /// Files of this layer, for hardlinks to meet.
    files: Vec<Vec<u8>>,
}

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((&first, rest)) => {
                self.rest = rest;
                first
            }
            None => 0,
        }
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.next()) % end
    }

    fn number(&mut self) -> u64 {
        let bits = u32::from(self.next() % 64);
        let value = (0..4).fold(0u64, |value, _| value << 8 | u64::from(self.next()));
        value << 31 >> (63 - bits)
    }

    /// One to four components of a small alphabet, so that entries meet.
    fn path(&mut self) -> Vec<u8> {
        let components = self.below(4) + 1;
        let component = |bytes: &mut Self| match bytes.below(24) {
            20 => vec![b'n'; 255],
            21 => b"\xff\xfe".to_vec(),
            22 => vec![b'l'; 120],
            n => vec![b'a' + (n % 5) as u8],
        };
        let components: Vec<_> = (0..components).map(|_| component(self)).collect();
        components.join(&b'/')
    }

    fn content(&mut self) -> Vec<u8> {
        let length = match self.below(6) {
            0 => 0,
            1 | 2 => self.below(200),
            3 => 3900 + self.below(256),
            4 => usize::from(self.next()) * 64,
            _ => usize::from(self.next()) * 2048,
        };
        let (seed, kind) = (self.next(), self.next());
        let mut state = u32::from(seed) + 1;
        let mut content: Vec<u8> = (0..length)
            .map(|_| match kind % 3 {
                0 => seed,
                _ => {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                }
            })
            .collect();
        if kind % 3 == 2 {
            // Holes within.
            for block in content.chunks_mut(8192) {
                let to = block.len().min(5000);
                block[..to].fill(0);
            }
        }
        content
    }
}

fn archive(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut tar = Tar::new();
    bytes.files.clear();
    for _ in 0..bytes.below(24) {
        tar = entry(tar, bytes);
    }
    tar.end()
}

fn entry(mut tar: Tar, bytes: &mut Bytes<'_>) -> Tar {
    let kind = bytes.below(16);
    let mut path = bytes.path();
    if !(4..7).contains(&kind) && bytes.below(16) > 0 {
        // Mostly no name of a directory.
        if let Some(last) = path.last_mut() {
            *last = last.to_ascii_uppercase();
        }
    }
    if bytes.below(4) == 0 {
        let length = usize::from(bytes.next()) * 12 + 1;
        let name = ["user.a", "user.b", "trusted.c", "security.capability"][bytes.below(4)];
        tar = tar.pax(&format!("SCHILY.xattr.{name}"), &vec![b'v'; length]);
    }
    if bytes.below(4) == 0 {
        let seconds = bytes.number().cast_signed() - (1 << 40);
        tar = tar.pax("mtime", format!("{seconds}.{:03}", bytes.next()).as_bytes());
        tar = tar.pax("uid", (bytes.number() as u32).to_string().as_bytes());
    }
    let mode = u32::from(bytes.next()) * 16 + u32::from(bytes.next() % 16);
    let with_mode = move |header: &mut Header| header.mode(mode);
    let marker = |hidden: &[u8]| [&path[..], b"/.wh.", hidden].concat();
    match kind {
        0..4 => {
            let content = bytes.content();
            let header = |header: &mut Header| {
                header.mode(mode);
                header.size(content.len() as u64);
            };
            bytes.files.push(path.clone());
            tar.entry(b'0', &path, header, &content)
        }
        4..7 => tar.entry(b'5', &path, with_mode, b""),
        7 => {
            let target = vec![b't'; usize::from(bytes.next()) * 16 + 1];
            tar.pax("linkpath", &target)
                .entry(b'2', &path, with_mode, b"")
        }
        8 | 9 => {
            if bytes.files.is_empty() {
                return tar;
            }
            let known = bytes.below(bytes.files.len());
            // Of a lower layer, or of none, now and then.
            let target = match bytes.below(16) {
                0 => bytes.path(),
                _ => bytes.files[known].clone(),
            };
            tar.pax("linkpath", &target)
                .entry(b'1', &path, with_mode, b"")
        }
        10 => tar.entry(b'6', &path, with_mode, b""),
        11 => {
            let (major, minor) = (bytes.number() & 0xfff, bytes.number() & 0xf_ffff);
            let header = |header: &mut Header| header.device(major, minor);
            tar.entry(b'3', &path, header, b"")
        }
        12 => tar.entry(b'0', &marker(b"a"), |_| {}, b""),
        13 => tar.entry(b'0', &marker(b".wh..opq"), |_| {}, b""),
        14 => sparse(tar, &path, bytes),
        // A link of the same layer as a parent of what follows.
        _ => tar.entry(b'2', &path, |header| header.link(b"/a/b"), b""),
    }
}

fn sparse(tar: Tar, path: &[u8], bytes: &mut Bytes<'_>) -> Tar {
    let (mut map, mut stored, mut at) = (String::new(), Vec::new(), 0);
    let count = bytes.below(5);
    for _ in 0..count {
        at += bytes.number() % (1 << bytes.far);
        let piece = bytes.content();
        map += &format!("{at},{},", piece.len());
        at += piece.len() as u64;
        stored.extend_from_slice(&piece);
    }
    let size = at + bytes.number() % (1 << 20);
    tar.pax("GNU.sparse.map", map.trim_end_matches(',').as_bytes())
        .pax("GNU.sparse.size", size.to_string().as_bytes())
        .entry(
            b'0',
            path,
            |header| header.size(stored.len() as u64),
            &stored,
        )
}
