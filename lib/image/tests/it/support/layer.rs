//! Layers, entry by entry.

use std::io::Write;

use tar::EntryType;

/// One entry of a tar archive.
#[derive(Clone)]
pub(crate) struct Entry {
    path: Vec<u8>,
    kind: EntryType,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    data: Vec<u8>,
    link: Vec<u8>,
    device: (u32, u32),
    pax: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(path: impl AsRef<[u8]>, kind: EntryType, mode: u32) -> Self {
        Entry {
            path: path.as_ref().to_vec(),
            kind,
            mode,
            owner: (0, 0),
            mtime: 1_234_567_890,
            data: Vec::new(),
            link: Vec::new(),
            device: (0, 0),
            pax: Vec::new(),
        }
    }

    pub(crate) fn dir(path: &str) -> Self {
        Entry::new(format!("{path}/"), EntryType::Directory, 0o755)
    }

    pub(crate) fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Entry {
            data: data.as_ref().to_vec(),
            ..Entry::new(path, EntryType::Regular, 0o644)
        }
    }

    pub(crate) fn symlink(path: &str, target: &str) -> Self {
        Entry {
            link: target.into(),
            ..Entry::new(path, EntryType::Symlink, 0o777)
        }
    }

    pub(crate) fn hardlink(path: &str, target: &str) -> Self {
        Entry {
            link: target.into(),
            ..Entry::new(path, EntryType::Link, 0o644)
        }
    }

    pub(crate) fn char_device(path: &str, major: u32, minor: u32) -> Self {
        Entry {
            device: (major, minor),
            ..Entry::new(path, EntryType::Char, 0o666)
        }
    }

    pub(crate) fn fifo(path: &str) -> Self {
        Entry::new(path, EntryType::Fifo, 0o600)
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.pax
            .push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }
}

pub(crate) fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        if !entry.pax.is_empty() {
            let pax = entry
                .pax
                .iter()
                .map(|(key, value)| (key.as_str(), &value[..]));
            builder.append_pax_extensions(pax).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..entry.path.len()].copy_from_slice(&entry.path);
        header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(&entry.link);
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.mtime);
        header.set_size(entry.data.len() as u64);
        header.set_device_major(entry.device.0).unwrap();
        header.set_device_minor(entry.device.1).unwrap();
        header.set_cksum();
        builder.append(&header, &entry.data[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}
