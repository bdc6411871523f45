//! The archive format of an initramfs, "newc" (Documentation/driver-api/early-userspace/
//! buffer-format.rst). Deterministic: no times, inode numbers in sequence, root owns all.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const TRAILER: &str = "TRAILER!!!";

/// Writes entry after entry. Parents must come before what is in them.
pub(crate) struct Cpio<W> {
    output: W,
    inode: u32,
}

impl<W: Write> Cpio<W> {
    pub(crate) fn new(output: W) -> Self {
        Cpio { output, inode: 0 }
    }

    /// A directory; paths have no leading slash.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(path, DIRECTORY | mode, (0, 0), &[])
    }

    /// A regular file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | mode, (0, 0), content)
    }

    /// A character device.
    pub(crate) fn device(&mut self, path: &str, mode: u32, number: (u32, u32)) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE | mode, number, &[])
    }

    /// Ends the archive at a multiple of four bytes, so that another may follow.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry(TRAILER, 0, (0, 0), &[])?;
        Ok(self.output)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        (major, minor): (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let too_long = || io::Error::new(io::ErrorKind::FileTooLarge, path.to_owned());
        let size = u32::try_from(content.len()).map_err(|_| too_long())?;
        let name_size = u32::try_from(path.len() + 1).map_err(|_| too_long())?;
        let inode = if path == TRAILER { 0 } else { self.inode + 1 };
        self.inode = inode;
        let links = if mode & DIRECTORY == 0 { 1 } else { 2 };
        let fields = [
            inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        let mut header = String::with_capacity(110 + path.len() + 4);
        header.push_str("070701");
        for field in fields {
            use std::fmt::Write;
            let _ = write!(header, "{field:08x}");
        }
        header.push_str(path);
        header.push('\0');
        self.output.write_all(header.as_bytes())?;
        self.output.write_all(padding(header.len()))?;
        self.output.write_all(content)?;
        self.output.write_all(padding(content.len()))
    }
}

/// Zeros up to the next multiple of four.
pub(crate) fn padding(length: usize) -> &'static [u8] {
    &[0; 3][..length.next_multiple_of(4) - length]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One entry as an own reader sees it.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Read {
        pub(crate) path: String,
        pub(crate) mode: u32,
        pub(crate) device: (u32, u32),
        pub(crate) content: Vec<u8>,
    }

    /// Reads archives that follow each other, as the kernel does.
    pub(crate) fn read(mut bytes: &[u8]) -> Vec<Read> {
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], b"070701", "no entry at a multiple of four");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let path = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            let start = (110 + name_size).next_multiple_of(4);
            let entry = Read {
                path,
                mode: field(1),
                device: (field(9), field(10)),
                content: bytes[start..start + size].to_vec(),
            };
            bytes = &bytes[(start + size).next_multiple_of(4)..];
            if entry.path != TRAILER {
                entries.push(entry);
            }
        }
        entries
    }

    #[test]
    fn archives_are_read_back_one_after_another() {
        let archive = |name: &str| {
            let mut cpio = Cpio::new(Vec::new());
            cpio.directory("dev", 0o755).unwrap();
            cpio.device("dev/console", 0o600, (5, 1)).unwrap();
            for length in 0..5 {
                cpio.file(&format!("{name}{length}"), 0o644, &vec![b'x'; length])
                    .unwrap();
            }
            cpio.finish().unwrap()
        };
        let entries = read(&[archive("a"), archive("bb")].concat());
        assert_eq!(entries.len(), 14);
        assert_eq!((entries[1].mode, entries[1].device), (0o020_600, (5, 1)));
        assert_eq!((entries[0].mode, &*entries[0].path), (0o040_755, "dev"));
        assert_eq!(
            (&*entries[13].path, &*entries[13].content),
            ("bb4", &b"xxxx"[..])
        );
        assert_eq!(archive("a"), archive("a"));
    }
}
