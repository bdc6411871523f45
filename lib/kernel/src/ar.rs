//! The `ar` archive that a Debian package is (deb(5)): members one after another, even offsets.

use std::io::{self, Read};

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER: usize = 60;

/// The archive starts like this.
pub(crate) fn is_ar(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// Reads member after member.
pub(crate) struct Ar<R> {
    input: R,
    left: u64,
    padding: u64,
}

impl<R: Read> Ar<R> {
    /// Begins an archive.
    pub(crate) fn new(mut input: R) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(damaged("the ar archive has no magic"));
        }
        Ok(Ar {
            input,
            left: 0,
            padding: 0,
        })
    }

    /// The next member's name; its content is then what the archive reads as.
    pub(crate) fn next_member(&mut self) -> io::Result<Option<String>> {
        io::copy(self, &mut io::sink())?;
        if io::copy(&mut self.input.by_ref().take(self.padding), &mut io::sink())? < self.padding {
            return Ok(None);
        }
        let mut header = Vec::with_capacity(HEADER);
        self.input
            .by_ref()
            .take(HEADER as u64)
            .read_to_end(&mut header)?;
        if header.is_empty() {
            return Ok(None);
        }
        if header.len() < HEADER || &header[58..] != b"`\n" {
            return Err(damaged(
                "a member's header in the ar archive is damaged or cut short",
            ));
        }
        let field = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&header[range])
                .trim_end()
                .to_owned()
        };
        self.left = field(48..58)
            .parse()
            .map_err(|_| damaged("a member's size in the ar archive is no number"))?;
        self.padding = self.left % 2;
        Ok(Some(field(0..16).trim_end_matches('/').to_owned()))
    }
}

impl<R: Read> Read for Ar<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buffer[..wanted])?;
        if got == 0 {
            let reason = format!("the file ends {} bytes too early", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
        }
        self.left -= got as u64;
        Ok(got)
    }
}

fn damaged(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (name, content) in members {
            let size = content.len();
            bytes
                .extend(format!("{name:<16}0           0     0     100644  {size:<10}`\n").bytes());
            bytes.extend(*content);
            bytes.resize(bytes.len().next_multiple_of(2), b'\n');
        }
        bytes
    }

    fn read_all(bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut ar = Ar::new(bytes)?;
        let mut members = Vec::new();
        while let Some(name) = ar.next_member()? {
            let mut content = Vec::new();
            ar.read_to_end(&mut content)?;
            members.push((name, content));
        }
        Ok(members)
    }

    #[test]
    fn members_are_read_or_skipped() {
        let bytes = archive(&[
            ("debian-binary", b"2.0\n"),
            ("odd/", b"abc"),
            ("last", b"xy"),
        ]);
        let expected: Vec<(String, Vec<u8>)> = vec![
            ("debian-binary".into(), b"2.0\n".to_vec()),
            ("odd".into(), b"abc".to_vec()),
            ("last".into(), b"xy".to_vec()),
        ];
        assert_eq!(read_all(&bytes).unwrap(), expected);
        let mut ar = Ar::new(&bytes[..]).unwrap();
        let names: Vec<String> = std::iter::from_fn(|| ar.next_member().unwrap()).collect();
        assert_eq!(names, ["debian-binary", "odd", "last"]);
    }

    #[test]
    fn what_is_cut_or_damaged_is_an_error() {
        let whole = archive(&[("a", b"12345678")]);
        for cut in [3, 20, 70] {
            assert!(read_all(&whole[..cut]).is_err(), "{cut}");
        }
        let mut no_number = whole.clone();
        no_number[56] = b'x';
        assert!(read_all(&no_number).is_err());
    }
}
