//! Kernel documentation: "EROFS"; structures of fs/erofs/erofs_fs.h.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Files, Seen, What, attribute_name, device, le16, le32, le64};

const BLOCK: usize = 4096;

struct Image {
    bytes: Vec<u8>,
    shared: usize,
}

struct Inode {
    at: usize,
    number: u64,
    layout: u16,
    xattr_bytes: usize,
    size: usize,
    union: u32,
}

/// Everything from the root on.
pub fn read(file: &File) -> Files {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let superblock = &bytes[1024..];
    assert_eq!(le32(superblock, 0), 0xe0f5_e1e2, "magic");
    assert_eq!(le32(superblock, 36) as usize * BLOCK, bytes.len());
    let root = le16(superblock, 14).into();
    let inodes = le64(superblock, 16);
    let shared = le32(superblock, 44) as usize * BLOCK;
    let image = Image { bytes, shared };
    let mut files = Files::new();
    let mut todo = vec![(Vec::new(), root, root)];
    while let Some((path, number, parent)) = todo.pop() {
        let inode = image.inode(number);
        let seen = image.seen(&inode);
        if seen.what == What::Directory {
            let mut dots = 0;
            let mut last = Vec::new();
            for (name, child, kind) in image.entries(&inode) {
                assert!(last < name, "names are in order");
                last.clone_from(&name);
                match &name[..] {
                    b"." => assert_eq!(child, number),
                    b".." => assert_eq!(child, parent),
                    _ => {
                        let mode = le16(&image.bytes, image.inode(child).at + 4) >> 12;
                        let known = [(1, 8), (2, 4), (3, 2), (4, 6), (5, 1), (7, 10)];
                        assert!(known.contains(&(kind, mode)), "{kind} {mode}");
                        let slash = if path.is_empty() { &b""[..] } else { b"/" };
                        todo.push(([&path[..], slash, &name].concat(), child, number));
                        continue;
                    }
                }
                dots += 1;
            }
            assert_eq!(dots, 2);
        }
        assert!(files.insert(path, seen).is_none(), "names are unique");
    }
    let mut numbers: Vec<_> = files.values().map(|seen| seen.inode).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.len() as u64 <= inodes);
    files
}

impl Image {
    fn inode(&self, number: u64) -> Inode {
        let at = number as usize * 32;
        let raw = &self.bytes[at..at + 64];
        let format = le16(raw, 0);
        assert_eq!(format & 1, 1, "extended");
        let words = usize::from(le16(raw, 2));
        Inode {
            at,
            number,
            layout: format >> 1 & 7,
            xattr_bytes: if words > 0 { 12 + (words - 1) * 4 } else { 0 },
            size: le64(raw, 8) as usize,
            union: le32(raw, 16),
        }
    }

    fn seen(&self, inode: &Inode) -> Seen {
        let raw = &self.bytes[inode.at..][..64];
        let mode = le16(raw, 4);
        let what = match mode >> 12 {
            4 => What::Directory,
            8 => What::File(self.content(inode)),
            10 => What::Symlink(self.content(inode)),
            1 => What::Fifo,
            kind @ (2 | 6) => {
                let (major, minor) = device(inode.union);
                What::Device(kind == 6, major, minor)
            }
            other => panic!("type {other}"),
        };
        Seen {
            inode: inode.number,
            links: le32(raw, 44),
            what,
            mode: mode & 0o7777,
            uid: le32(raw, 24),
            gid: le32(raw, 28),
            mtime: (le64(raw, 32).cast_signed(), le32(raw, 40)),
            xattrs: self.xattrs(inode),
        }
    }

    fn content(&self, inode: &Inode) -> Vec<u8> {
        let size = inode.size;
        let behind = inode.at + 64 + inode.xattr_bytes;
        let block = |number: u32| number as usize * BLOCK;
        match inode.layout {
            0 => self.bytes[block(inode.union)..][..size].to_vec(),
            2 => {
                let whole = size / BLOCK * BLOCK;
                let tail = size - whole;
                assert_eq!(behind / BLOCK, (behind + tail - 1) / BLOCK, "in one block");
                let blocks = &self.bytes[block(inode.union)..][..whole];
                [blocks, &self.bytes[behind..][..tail]].concat()
            }
            1 => self.clusters(behind.next_multiple_of(8), size),
            4 => {
                let chunk = BLOCK << (inode.union & 0x1f);
                let mut content = vec![0; size];
                for (i, piece) in content.chunks_mut(chunk).enumerate() {
                    let at = le32(&self.bytes, behind + i * 4);
                    if at != u32::MAX {
                        piece.copy_from_slice(&self.bytes[block(at)..][..piece.len()]);
                    }
                }
                content
            }
            other => panic!("layout {other}"),
        }
    }

    fn clusters(&self, header: usize, size: usize) -> Vec<u8> {
        assert_eq!(le16(&self.bytes, header + 4), 2, "big clusters");
        let entry = |i: usize| &self.bytes[header + 16 + i * 8..][..8];
        let blocks = size.div_ceil(BLOCK);
        let kind = |i: usize| le16(entry(i), 0) & 3;
        let mut content = Vec::new();
        let mut i = 0;
        while i < blocks {
            assert_eq!(content.len(), i * BLOCK);
            let start = le32(entry(i), 4) as usize * BLOCK;
            let len = (size - i * BLOCK).min(BLOCK);
            if kind(i) == 0 {
                content.extend_from_slice(&self.bytes[start..start + len]);
                i += 1;
                continue;
            }
            assert_eq!(kind(i), 1);
            let end = (i + 1..blocks).find(|&j| kind(j) != 2).unwrap_or(blocks);
            let count = le16(entry(i + 1), 4);
            assert_ne!(count & 1 << 11, 0, "the cluster says how long it is");
            for j in i + 2..end {
                assert_eq!(usize::from(le16(entry(j), 4)), j - i);
            }
            for j in i + 1..end {
                assert_eq!(usize::from(le16(entry(j), 6)), end - j);
            }
            let packed = &self.bytes[start..][..usize::from(count & 0x7ff) * BLOCK];
            let zeros = packed.iter().take_while(|&&byte| byte == 0).count();
            let len = (size - i * BLOCK).min((end - i) * BLOCK);
            content.extend(lz4_flex::block::decompress(&packed[zeros..], len).unwrap());
            i = end;
        }
        assert_eq!(content.len(), size);
        content
    }

    fn entries(&self, inode: &Inode) -> Vec<(Vec<u8>, u64, u8)> {
        let mut entries = Vec::new();
        for block in self.content(inode).chunks(BLOCK) {
            let count = usize::from(le16(block, 8)) / 12;
            for i in 0..count {
                let from = usize::from(le16(block, i * 12 + 8));
                let to = match i + 1 < count {
                    true => le16(block, i * 12 + 20).into(),
                    false => block[from..]
                        .iter()
                        .position(|&byte| byte == 0)
                        .map_or(block.len(), |end| from + end),
                };
                let name = block[from..to].to_vec();
                entries.push((name, le64(block, i * 12), block[i * 12 + 10]));
            }
        }
        entries
    }

    fn xattrs(&self, inode: &Inode) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut all = BTreeMap::new();
        if inode.xattr_bytes == 0 {
            return all;
        }
        let raw = &self.bytes[inode.at + 64..][..inode.xattr_bytes];
        let shared = usize::from(raw[4]);
        for i in 0..shared {
            let at = self.shared + le32(raw, 12 + i * 4) as usize * 4;
            attribute(&self.bytes[at..], &mut all);
        }
        let mut at = 12 + shared * 4;
        while at < raw.len() {
            at += attribute(&raw[at..], &mut all);
        }
        all
    }
}

/// Reads one attribute and returns its length.
fn attribute(raw: &[u8], all: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> usize {
    let (name, value) = (usize::from(raw[0]), usize::from(le16(raw, 2)));
    let key = attribute_name(raw[1], &raw[4..4 + name]);
    assert!(all.insert(key, raw[4 + name..][..value].to_vec()).is_none());
    (4 + name + value).next_multiple_of(4)
}
