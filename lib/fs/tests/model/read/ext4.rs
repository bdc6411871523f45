//! Kernel documentation: "ext4 Data Structures and Algorithms".

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Files, Seen, What, attribute_name, device, le16, le32};

const BLOCK: usize = 4096;

struct Image<'f> {
    file: &'f File,
    superblock: Vec<u8>,
}

/// Everything from the root on.
pub fn read(file: &File) -> Files {
    let mut superblock = vec![0; 1024];
    file.read_exact_at(&mut superblock, 1024).unwrap();
    assert_eq!(le16(&superblock, 56), 0xef53, "magic");
    assert_eq!(le32(&superblock, 24), 2, "blocks of 4 KiB");
    let image = Image { file, superblock };
    let mut files = Files::new();
    let mut todo = vec![(Vec::new(), 2, 2)];
    while let Some((path, number, parent)) = todo.pop() {
        let raw = image.inode(number);
        let seen = image.seen(number, &raw);
        if seen.what == What::Directory {
            let mut dots = 0;
            for (name, child, kind) in image.entries(&raw) {
                match &name[..] {
                    b"." => assert_eq!(child, number),
                    b".." => assert_eq!(child, parent),
                    _ => {
                        let mode = le16(&image.inode(child), 0) >> 12;
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
    files
}

impl Image<'_> {
    fn block(&self, number: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        self.file
            .read_exact_at(&mut block, number * BLOCK as u64)
            .unwrap();
        block
    }

    fn inode(&self, number: u32) -> Vec<u8> {
        let per_group = le32(&self.superblock, 40);
        let group = (number - 1) / per_group;
        // meta_bg: each 64 groups have a block of descriptors, in the first of them.
        let first = u64::from(group / 64 * 64);
        let meta = first * 32768 + u64::from(self.has_super(first));
        let descriptors = self.block(meta);
        let descriptor = &descriptors[(group % 64) as usize * 64..][..64];
        let table = u64::from(le32(descriptor, 8)) | u64::from(le32(descriptor, 40)) << 32;
        let mut raw = vec![0; 256];
        let index = u64::from((number - 1) % per_group);
        self.file
            .read_exact_at(&mut raw, table * BLOCK as u64 + index * 256)
            .unwrap();
        raw
    }

    fn has_super(&self, group: u64) -> bool {
        let power = |base: u64| (0..20).any(|n| base.pow(n) == group);
        group == 0 || power(3) || power(5) || power(7)
    }

    fn seen(&self, number: u32, raw: &[u8]) -> Seen {
        let mode = le16(raw, 0);
        let size = u64::from(le32(raw, 4)) | u64::from(le32(raw, 108)) << 32;
        let what = match mode >> 12 {
            4 => What::Directory,
            8 => What::File(self.content(raw, size)),
            10 if size < 60 => What::Symlink(raw[40..40 + size as usize].to_vec()),
            10 => What::Symlink(self.content(raw, size)),
            1 => What::Fifo,
            kind @ (2 | 6) => {
                let (major, minor) = match le32(raw, 40) {
                    0 => device(le32(raw, 44)),
                    old => (old >> 8, old & 0xff),
                };
                What::Device(kind == 6, major, minor)
            }
            other => panic!("type {other}"),
        };
        let extra = le32(raw, 136);
        let seconds = i64::from(le32(raw, 16).cast_signed()) + (i64::from(extra & 3) << 32);
        Seen {
            inode: number.into(),
            links: le16(raw, 26).into(),
            what,
            mode: mode & 0o7777,
            uid: u32::from(le16(raw, 2)) | u32::from(le16(raw, 120)) << 16,
            gid: u32::from(le16(raw, 24)) | u32::from(le16(raw, 122)) << 16,
            mtime: (seconds, extra >> 2),
            xattrs: self.xattrs(raw),
        }
    }

    fn content(&self, raw: &[u8], size: u64) -> Vec<u8> {
        let mut content = vec![0; (size as usize).next_multiple_of(BLOCK)];
        assert_ne!(le32(raw, 32) & 0x80000, 0, "extents");
        self.extents(&raw[40..100], &mut content);
        content.truncate(size as usize);
        content
    }

    fn extents(&self, node: &[u8], content: &mut [u8]) {
        assert_eq!(le16(node, 0), 0xf30a);
        for i in 1..=usize::from(le16(node, 2)) {
            let entry = &node[i * 12..][..12];
            if le16(node, 6) > 0 {
                let below = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
                self.extents(&self.block(below), content);
                continue;
            }
            let start = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
            for j in 0..u64::from(le16(entry, 4)) {
                let at = (u64::from(le32(entry, 0)) + j) as usize * BLOCK;
                content[at..at + BLOCK].copy_from_slice(&self.block(start + j));
            }
        }
    }

    /// Of all blocks in their order: those of a hash tree look like empty ones.
    fn entries(&self, raw: &[u8]) -> Vec<(Vec<u8>, u32, u8)> {
        let mut entries = Vec::new();
        for block in self.content(raw, le32(raw, 4).into()).chunks(BLOCK) {
            let mut at = 0;
            while at < BLOCK {
                let len = usize::from(le16(block, at + 4));
                assert!(len >= 8, "an entry has a length");
                let inode = le32(block, at);
                if inode != 0 {
                    let name = &block[at + 8..][..usize::from(block[at + 6])];
                    entries.push((name.to_vec(), inode, block[at + 7]));
                }
                at += len;
            }
        }
        entries
    }

    fn xattrs(&self, raw: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut all = BTreeMap::new();
        let inside = 128 + usize::from(le16(raw, 128));
        if le32(raw, inside) == 0xea02_0000 {
            entries(&raw[inside + 4..], 0, &mut all);
        }
        let block = u64::from(le32(raw, 104)) | u64::from(le16(raw, 118)) << 32;
        if block != 0 {
            let block = self.block(block);
            assert_eq!(le32(&block, 0), 0xea02_0000);
            entries(&block, 32, &mut all);
        }
        all
    }
}

fn entries(bytes: &[u8], mut at: usize, all: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    while le32(bytes, at) != 0 {
        let (len, index) = (usize::from(bytes[at]), bytes[at + 1]);
        let value = usize::from(le16(bytes, at + 2));
        let value = &bytes[value..][..le32(bytes, at + 8) as usize];
        let value = match index {
            2 | 3 => acl(value),
            _ => value.to_vec(),
        };
        let name = attribute_name(index, &bytes[at + 16..][..len]);
        assert!(all.insert(name, value).is_none());
        at += 16 + len.next_multiple_of(4);
    }
}

/// ext4's form to that of getxattr(2).
fn acl(stored: &[u8]) -> Vec<u8> {
    assert_eq!(le32(stored, 0), 1);
    let mut value = 2u32.to_le_bytes().to_vec();
    let mut rest = &stored[4..];
    while !rest.is_empty() {
        let named = matches!(le16(rest, 0), 2 | 8);
        value.extend_from_slice(&rest[..4]);
        let id = if named { le32(rest, 4) } else { u32::MAX };
        value.extend_from_slice(&id.to_le_bytes());
        rest = &rest[if named { 8 } else { 4 }..];
    }
    value
}
