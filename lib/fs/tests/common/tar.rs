//! A writer of exact tar bytes, for tests.

#![allow(dead_code, unreachable_pub)]

/// A tar archive under construction.
#[derive(Clone, Default)]
pub struct Tar {
    pub bytes: Vec<u8>,
    pax: Vec<u8>,
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// A PAX record for the next entry.
    pub fn pax(mut self, key: &str, value: &[u8]) -> Self {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while rest + len.to_string().len() != len {
            len += 1;
        }
        self.pax
            .extend_from_slice(format!("{len} {key}=").as_bytes());
        self.pax.extend_from_slice(value);
        self.pax.push(b'\n');
        self
    }

    pub fn entry(mut self, kind: u8, path: &[u8], set: impl Fn(&mut Header), data: &[u8]) -> Self {
        let mut path = path;
        if path.len() > 100 {
            self = self.pax("path", path);
            path = b"long";
        }
        if !self.pax.is_empty() {
            let pax = std::mem::take(&mut self.pax);
            self.record(b'x', b"pax", |header| header.size(pax.len() as u64), &pax);
        }
        self.record(kind, path, set, data);
        self
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(
            b'0',
            path.as_bytes(),
            |header| header.size(data.len() as u64),
            data,
        )
    }

    pub fn dir(self, path: &str) -> Self {
        self.dir_mode(path, 0o755)
    }

    pub fn dir_mode(self, path: &str, mode: u32) -> Self {
        self.entry(b'5', path.as_bytes(), |header| header.mode(mode), b"")
    }

    pub fn symlink(mut self, path: &str, target: &[u8]) -> Self {
        if target.len() > 100 {
            self = self.pax("linkpath", target);
            return self.entry(b'2', path.as_bytes(), |_| {}, b"");
        }
        self.entry(b'2', path.as_bytes(), |header| header.link(target), b"")
    }

    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(
            b'1',
            path.as_bytes(),
            |header| header.link(target.as_bytes()),
            b"",
        )
    }

    pub fn whiteout(self, path: &str) -> Self {
        self.file(path, b"")
    }

    /// Ends the archive.
    pub fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }

    fn record(&mut self, kind: u8, path: &[u8], set: impl Fn(&mut Header), data: &[u8]) {
        let mut header = Header { raw: [0; 512] };
        header.raw[..path.len()].copy_from_slice(path);
        header.raw[156] = kind;
        header.raw[257..265].copy_from_slice(b"ustar\x0000");
        header.mode(0o644);
        header.octal(108, 8, 0);
        header.octal(116, 8, 0);
        header.size(0);
        header.octal(136, 12, 1_600_000_000);
        set(&mut header);
        header.sum();
        self.bytes.extend_from_slice(&header.raw);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }
}

pub struct Header {
    pub raw: [u8; 512],
}

impl Header {
    pub fn octal(&mut self, at: usize, len: usize, value: u64) {
        let text = format!("{value:0width$o}\0", width = len - 1);
        self.raw[at..at + len].copy_from_slice(text.as_bytes());
    }

    pub fn base256(&mut self, at: usize, len: usize, value: i64) {
        self.raw[at..at + len].fill(if value < 0 { 0xff } else { 0 });
        self.raw[at + len - 8..at + len].copy_from_slice(&value.to_be_bytes());
        self.raw[at] |= 0x80;
    }

    pub fn mode(&mut self, mode: u32) {
        self.octal(100, 8, u64::from(mode));
    }

    pub fn size(&mut self, size: u64) {
        self.octal(124, 12, size);
    }

    pub fn device(&mut self, major: u64, minor: u64) {
        self.octal(329, 8, major);
        self.octal(337, 8, minor);
    }

    pub fn link(&mut self, target: &[u8]) {
        self.raw[157..157 + target.len()].copy_from_slice(target);
    }

    fn sum(&mut self) {
        self.raw[148..156].fill(b' ');
        let sum: u64 = self.raw.iter().map(|&byte| u64::from(byte)).sum();
        self.octal(148, 7, sum);
    }
}
