//! The 512-byte header record: ustar (POSIX.1-2017, pax) and GNU's variant of it.

pub(crate) const RECORD: usize = 512;

const PATH: std::ops::Range<usize> = 0..100;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const PREFIX: std::ops::Range<usize> = 345..500;

type Number = Result<i64, &'static str>;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Hardlink,
    Symlink,
    /// A device; true for block devices.
    Device(bool),
    Directory,
    Fifo,
    Other(u8),
}

/// A record whose checksum is right.
pub(crate) struct Header {
    record: [u8; RECORD],
}

impl Header {
    pub(crate) fn parse(record: [u8; RECORD]) -> Result<Self, &'static str> {
        let expected = octal(&record[CHECKSUM])?;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (i, &byte) in record.iter().enumerate() {
            let byte = if CHECKSUM.contains(&i) { b' ' } else { byte };
            unsigned += i64::from(byte);
            // Some old writers summed signed characters.
            signed += i64::from(byte as i8);
        }
        if expected != unsigned && expected != signed {
            return Err("header checksum mismatch");
        }
        Ok(Header { record })
    }

    pub(crate) fn type_flag(&self) -> u8 {
        self.record[TYPE]
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.type_flag() {
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Device(false),
            b'4' => Kind::Device(true),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        }
    }

    pub(crate) fn path(&self) -> Vec<u8> {
        let mut path = Vec::new();
        let prefix = text(&self.record[PREFIX]);
        if &self.record[MAGIC] == b"ustar\x0000" && !prefix.is_empty() {
            path.extend_from_slice(prefix);
            path.push(b'/');
        }
        path.extend_from_slice(text(&self.record[PATH]));
        path
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        text(&self.record[LINK]).to_vec()
    }

    pub(crate) fn mode(&self) -> Number {
        number(&self.record[100..108])
    }

    pub(crate) fn uid(&self) -> Number {
        number(&self.record[108..116])
    }

    pub(crate) fn gid(&self) -> Number {
        number(&self.record[116..124])
    }

    /// Stored bytes; never negative.
    pub(crate) fn size(&self) -> Number {
        size(&self.record[124..136])
    }

    pub(crate) fn mtime(&self) -> Number {
        number(&self.record[136..148])
    }

    pub(crate) fn major(&self) -> Number {
        number(&self.record[329..337])
    }

    pub(crate) fn minor(&self) -> Number {
        number(&self.record[337..345])
    }

    /// Bytes of an old GNU sparse file with its holes.
    pub(crate) fn real_size(&self) -> Number {
        size(&self.record[483..495])
    }

    /// Old GNU sparse: up to four pieces here, and whether extension records follow.
    pub(crate) fn sparse_map(&self, map: &mut Vec<(u64, u64)>) -> Result<bool, &'static str> {
        pieces(&self.record[386..482], map)?;
        Ok(self.record[482] != 0)
    }
}

/// Pairs of twelve-byte offset and length, up to the first empty one.
pub(crate) fn pieces(fields: &[u8], map: &mut Vec<(u64, u64)>) -> Result<(), &'static str> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        map.push((size(&pair[..12])? as u64, size(&pair[12..])? as u64));
    }
    Ok(())
}

fn size(field: &[u8]) -> Number {
    match number(field)? {
        size if size < 0 => Err("negative size"),
        size => Ok(size),
    }
}

/// Octal text, or GNU's base-256: two's complement behind a marker bit.
fn number(field: &[u8]) -> Number {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, &byte) in field.iter().enumerate() {
        let byte = match i {
            0 if negative => byte,
            0 => byte & 0x7f,
            _ => byte,
        };
        value = value << 8 | i128::from(byte);
    }
    i64::try_from(value).map_err(|_| "a number is out of range")
}

fn octal(field: &[u8]) -> Number {
    let mut value: i64 = 0;
    let digits = field.iter().skip_while(|&&b| b == b' ' || b == 0);
    for &byte in digits.take_while(|&&b| b != b' ' && b != 0) {
        if !(b'0'..=b'7').contains(&byte) {
            return Err("a number is not octal");
        }
        value = value << 3 | i64::from(byte - b'0');
    }
    Ok(value)
}

fn text(field: &[u8]) -> &[u8] {
    let end = field
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(field.len());
    &field[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        let cases: &[(&[u8], Number)] = &[
            (b"0000644\0", Ok(0o644)),
            (b"   644 \0", Ok(0o644)),
            (b"\0\0\0\0\0\0\0\0", Ok(0)),
            (b"77777777", Ok(0o7777_7777)),
            (b"0000648\0", Err("a number is not octal")),
            (b"\x80\0\0\0\xff\xff\xff\xff", Ok(0xffff_ffff)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Ok(-1)),
            (
                b"\x80\x01\0\0\0\0\0\0\0\0\0\0",
                Err("a number is out of range"),
            ),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field), *expected, "{field:?}");
        }
    }
}
