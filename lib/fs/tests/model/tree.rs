//! Layers applied bottom-up to a tree in memory, each with its whiteouts first (OCI image-spec,
//! layer.md), and written as archives on the way.

use std::collections::{BTreeMap, HashMap};

use crate::common::Tar;
use crate::common::tar::Header;
use crate::entries::{Content, Form, Meta, Op, Path};
use crate::read::{Files, Seen, What};

#[derive(Clone, Debug)]
struct File {
    what: What,
    meta: Meta,
}

/// The files so far, as indices into a list of those that ever were.
#[derive(Default)]
pub(crate) struct Model {
    names: BTreeMap<Path, usize>,
    files: Vec<File>,
}

impl Model {
    /// Applies a layer and returns it as an archive, without the entries that cannot be.
    pub(crate) fn apply(&mut self, ops: &[Op]) -> Tar {
        let ops: Vec<&Op> = ops
            .iter()
            .flat_map(|op| match op {
                Op::Twice(op) => vec![&**op; 2],
                op => vec![op],
            })
            .filter(|op| match op {
                // The marker's own name must fit.
                Op::Whiteout(path) => path[path.len() - 1].len() <= 251,
                _ => true,
            })
            .collect();
        let lower = self.names.clone();
        let mut own = BTreeMap::new();
        let mut tar = Tar::new();
        for op in &ops {
            match op {
                Op::Whiteout(path) => remove(&mut self.names, path, true),
                Op::Opaque(path) if lower.get(path).is_none_or(|&file| self.is_directory(file)) => {
                    remove(&mut self.names, path, false);
                }
                _ => {}
            }
        }
        for op in ops {
            tar = match op {
                Op::Whiteout(path) => {
                    let (last, parent) = path.split_last().unwrap();
                    marker(tar, parent, &[b".wh.", &last[..]].concat())
                }
                Op::Opaque(path) => marker(tar, path, b".wh..wh..opq"),
                op => self.entry(tar, op, &lower, &mut own),
            };
        }
        tar
    }

    fn entry(
        &mut self,
        tar: Tar,
        op: &Op,
        lower: &BTreeMap<Path, usize>,
        own: &mut BTreeMap<Path, usize>,
    ) -> Tar {
        let (path, meta, what) = match op {
            Op::File(path, meta, content) => (path, meta, What::File(content.whole())),
            Op::Directory(path, meta) => (path, meta, What::Directory),
            Op::Symlink(path, meta, length) => (path, meta, What::Symlink(vec![b'a'; *length])),
            Op::Fifo(path, meta) => (path, meta, What::Fifo),
            Op::Device(path, meta, block, (major, minor)) => {
                (path, meta, What::Device(*block, *major, *minor))
            }
            Op::Link(path, to) => {
                let target = own.get(to).or(lower.get(to)).copied();
                let usable = target.is_some_and(|file| !self.is_directory(file));
                if !usable || self.below_a_leaf(own, path) || self.below_a_leaf(own, to) {
                    return tar;
                }
                self.put(path, target.unwrap(), own);
                let (path, to) = (joined(path), joined(to));
                let tar = if to.len() > 100 {
                    tar.pax("linkpath", &to)
                } else {
                    tar
                };
                let to = if to.len() > 100 { b"long".to_vec() } else { to };
                return tar.entry(b'1', &path, |header| header.link(&to), b"");
            }
            Op::Whiteout(_) | Op::Opaque(_) | Op::Twice(_) => return tar,
        };
        if self.below_a_leaf(own, path) {
            return tar;
        }
        let mut meta = meta.clone();
        if matches!(what, What::Symlink(_)) {
            meta.mode = 0o777;
        }
        let tar = write(tar, path, &meta, &what, op);
        self.files.push(File { what, meta });
        self.put(path, self.files.len() - 1, own);
        tar
    }

    /// An entry of this layer that is no directory is on the way: there cannot be anything below,
    /// and links are not followed here.
    fn below_a_leaf(&self, own: &BTreeMap<Path, usize>, path: &Path) -> bool {
        (0..path.len()).any(|end| {
            own.get(&path[..end])
                .is_some_and(|&f| !self.is_directory(f))
        })
    }

    fn put(&mut self, path: &Path, file: usize, own: &mut BTreeMap<Path, usize>) {
        for end in 0..path.len() {
            let parent = &path[..end];
            if !own.contains_key(parent) {
                own.insert(parent.to_vec(), self.implied());
            }
            let there = self.names.get(parent);
            if !there.is_some_and(|&file| self.is_directory(file)) {
                let implied = self.implied();
                self.names.insert(parent.to_vec(), implied);
            }
        }
        let directory = self.is_directory(file);
        for names in [&mut self.names, own] {
            let keeps = |&there: &usize| matches!(self.files[there].what, What::Directory);
            if !(directory && names.get(path).is_some_and(keeps)) {
                remove(names, path, true);
            }
            names.insert(path.clone(), file);
        }
    }

    fn implied(&mut self) -> usize {
        self.files.push(File {
            what: What::Directory,
            meta: Meta {
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime: (0, 0),
                xattrs: Vec::new(),
            },
        });
        self.files.len() - 1
    }

    fn is_directory(&self, file: usize) -> bool {
        self.files[file].what == What::Directory
    }

    /// What a reader of the image should see.
    pub(crate) fn files(&self) -> Files {
        let mut links: HashMap<usize, u32> = HashMap::new();
        let mut names = self.names.clone();
        let mut files = self.files.clone();
        names.entry(Path::new()).or_insert_with(|| {
            let mut empty = Model::default();
            let root = empty.implied();
            files.push(empty.files.swap_remove(root));
            files.len() - 1
        });
        for (path, &file) in &names {
            let directory = files[file].what == What::Directory;
            *links.entry(file).or_default() += if directory { 2 } else { 1 };
            if directory && let Some((_, parent)) = path.split_last() {
                *links.entry(names[parent]).or_default() += 1;
            }
        }
        let seen = |(path, file): (&Path, &usize)| {
            let File { what, meta } = &files[*file];
            let xattrs = meta.xattrs.iter();
            let seen = Seen {
                inode: *file as u64,
                links: links[file],
                what: what.clone(),
                mode: meta.mode,
                uid: meta.uid,
                gid: meta.gid,
                mtime: meta.mtime,
                xattrs: xattrs
                    .map(|(name, value)| (name.as_bytes().to_vec(), value.clone()))
                    .collect(),
            };
            (joined(path), seen)
        };
        names.iter().map(seen).collect()
    }
}

/// Numbers inodes by the first of their names.
pub(crate) fn same_numbers(files: &mut Files) {
    let mut numbers = HashMap::new();
    for (number, seen) in files.values_mut().enumerate() {
        seen.inode = *numbers.entry(seen.inode).or_insert(number as u64);
    }
}

fn remove(names: &mut BTreeMap<Path, usize>, path: &[Vec<u8>], itself: bool) {
    names.retain(|at, _| !at.starts_with(path) || (!itself && at == path));
}

fn joined(path: &[Vec<u8>]) -> Vec<u8> {
    path.join(&b'/')
}

fn marker(tar: Tar, parent: &[Vec<u8>], name: &[u8]) -> Tar {
    let path = joined(&[parent, &[name.to_vec()]].concat());
    tar.entry(b'0', &path, |_| {}, b"")
}

fn write(mut tar: Tar, path: &Path, meta: &Meta, what: &What, op: &Op) -> Tar {
    let (seconds, nanos) = meta.mtime;
    // Seconds round down; the text has a sign and a fraction.
    let time = match seconds < 0 && nanos > 0 {
        true => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
        false => format!("{seconds}.{nanos:09}"),
    };
    tar = tar.pax("mtime", time.as_bytes());
    tar = tar.pax("uid", meta.uid.to_string().as_bytes());
    tar = tar.pax("gid", meta.gid.to_string().as_bytes());
    for (name, value) in &meta.xattrs {
        tar = tar.pax(&format!("SCHILY.xattr.{name}"), value);
    }
    let mode = |header: &mut Header| header.mode(meta.mode.into());
    let path = match path.is_empty() {
        true => b"./".to_vec(),
        false => joined(path),
    };
    match (what, op) {
        (What::Directory, _) => tar.entry(b'5', &path, mode, b""),
        (What::Fifo, _) => tar.entry(b'6', &path, mode, b""),
        (What::Symlink(target), _) => tar.pax("linkpath", target).entry(b'2', &path, mode, b""),
        (What::Device(block, major, minor), _) => {
            let header = |header: &mut Header| {
                mode(header);
                header.device((*major).into(), (*minor).into());
            };
            tar.entry(if *block { b'4' } else { b'3' }, &path, header, b"")
        }
        (What::File(whole), Op::File(_, _, content)) => file(tar, &path, meta, whole, content),
        (What::File(_), _) => tar,
    }
}

fn file(mut tar: Tar, path: &[u8], meta: &Meta, whole: &[u8], content: &Content) -> Tar {
    let (map, stored) = content.stored();
    let size = whole.len() as u64;
    let number = |number: u64| number.to_string().into_bytes();
    let header = |length: usize| {
        move |header: &mut Header| {
            header.mode(meta.mode.into());
            header.size(length as u64);
        }
    };
    match content.form {
        Form::Plain => return tar.entry(b'0', path, header(whole.len()), whole),
        Form::Gnu => {
            let set = |raw: &mut Header| {
                header(stored.len())(raw);
                raw.raw[257..265].copy_from_slice(b"ustar  \0");
                for (i, (offset, length)) in map.iter().enumerate() {
                    raw.octal(386 + i * 24, 12, *offset);
                    raw.octal(398 + i * 24, 12, *length);
                }
                raw.octal(483, 12, size);
            };
            return tar.entry(b'S', path, set, &stored);
        }
        Form::Pax00 => {
            tar = tar.pax("GNU.sparse.size", &number(size));
            tar = tar.pax("GNU.sparse.numblocks", &number(map.len() as u64));
            for (offset, length) in &map {
                tar = tar.pax("GNU.sparse.offset", &number(*offset));
                tar = tar.pax("GNU.sparse.numbytes", &number(*length));
            }
        }
        Form::Pax01 => {
            let numbers: Vec<String> = map.iter().map(|(o, l)| format!("{o},{l}")).collect();
            tar = tar.pax("GNU.sparse.size", &number(size));
            tar = tar.pax("GNU.sparse.numblocks", &number(map.len() as u64));
            tar = tar.pax("GNU.sparse.name", path);
            tar = tar.pax("GNU.sparse.map", numbers.join(",").as_bytes());
            return tar.entry(b'0', b"GNUSparseFile.0/x", header(stored.len()), &stored);
        }
        Form::Pax10 => {
            let lines = map
                .iter()
                .map(|(offset, length)| format!("{offset}\n{length}\n"));
            let lines = format!("{}\n{}", map.len(), lines.collect::<String>());
            let mut bytes = lines.into_bytes();
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes.extend_from_slice(&stored);
            tar = tar
                .pax("GNU.sparse.major", b"1")
                .pax("GNU.sparse.minor", b"0");
            tar = tar.pax("GNU.sparse.name", path);
            tar = tar.pax("GNU.sparse.realsize", &number(size));
            return tar.entry(b'0', b"GNUSparseFile.0/x", header(bytes.len()), &bytes);
        }
    }
    tar.entry(b'0', path, header(stored.len()), &stored)
}
