//! PAX extended headers: `length key=value` records that override header fields.

const XATTR: &[u8] = b"SCHILY.xattr.";

type Fault = &'static str;

/// Overrides collected for the next entry.
#[derive(Debug, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<i64>,
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The name of a sparse file; its `path` is a made-up one.
    pub(crate) sparse_name: Option<Vec<u8>>,
    pub(crate) sparse_version: (u64, u64),
    pub(crate) real_size: Option<u64>,
    /// The map of formats 0.0 and 0.1.
    pub(crate) sparse_map: Option<Vec<(u64, u64)>>,
    offset: Option<u64>,
}

impl Pax {
    pub(crate) fn parse(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        // Some writers fill the rest of the record with NUL.
        while bytes.first().is_some_and(|&byte| byte != 0) {
            let space = bytes
                .iter()
                .take(20)
                .position(|&b| b == b' ')
                .ok_or("malformed PAX record")?;
            let len = decimal(&bytes[..space])? as usize;
            if len <= space + 1 || len > bytes.len() || bytes[len - 1] != b'\n' {
                return Err("malformed PAX record");
            }
            let record = &bytes[space + 1..len - 1];
            let equals = record
                .iter()
                .position(|&b| b == b'=')
                .ok_or("malformed PAX record")?;
            self.record(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[len..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        // An empty value takes an override back (POSIX.1-2017, pax), also an attribute: it cannot be
        // empty.
        if let Some(name) = key.strip_prefix(XATTR) {
            self.xattrs.retain(|(other, _)| other != name);
            if !value.is_empty() {
                self.xattrs.push((name.to_vec(), value.to_vec()));
            }
            return Ok(());
        }
        let text = (!value.is_empty()).then(|| value.to_vec());
        let number = || match value {
            [] => Ok(None),
            _ => signed(value).map(Some),
        };
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link = text,
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.name" => self.sparse_name = text,
            b"GNU.sparse.major" => self.sparse_version.0 = decimal(value)?,
            b"GNU.sparse.minor" => self.sparse_version.1 = decimal(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.real_size = Some(decimal(value)?),
            b"GNU.sparse.offset" => self.offset = Some(decimal(value)?),
            b"GNU.sparse.numbytes" => {
                let offset = self.offset.take().ok_or("malformed sparse map")?;
                self.sparse_map
                    .get_or_insert_default()
                    .push((offset, decimal(value)?));
            }
            b"GNU.sparse.numblocks" => {
                self.sparse_map.get_or_insert_default();
            }
            b"GNU.sparse.map" => self.sparse_map = Some(map(value)?),
            _ => {}
        }
        Ok(())
    }
}

fn map(value: &[u8]) -> Result<Vec<(u64, u64)>, Fault> {
    let mut numbers = value.split(|&b| b == b',');
    let mut map = Vec::new();
    while let Some(offset) = numbers.next() {
        if offset.is_empty() {
            break;
        }
        let len = numbers.next().ok_or("malformed sparse map")?;
        map.push((decimal(offset)?, decimal(len)?));
    }
    Ok(map)
}

/// Digits only.
pub(crate) fn decimal(digits: &[u8]) -> Result<u64, Fault> {
    let mut value: u64 = 0;
    if digits.is_empty() {
        return Err("a number is missing");
    }
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return Err("a number is not decimal");
        }
        let more = value
            .checked_mul(10)
            .and_then(|v| v.checked_add(u64::from(byte - b'0')));
        value = more.ok_or("a number is out of range")?;
    }
    // Keeps sums of two far from overflow.
    match value <= i64::MAX as u64 {
        true => Ok(value),
        false => Err("a number is out of range"),
    }
}

fn signed(digits: &[u8]) -> Result<i64, Fault> {
    match digits.strip_prefix(b"-") {
        Some(digits) => Ok(-(decimal(digits)? as i64)),
        None => Ok(decimal(digits)? as i64),
    }
}

/// Seconds with an optional fraction, cut to nanoseconds, as floor and remainder.
fn time(value: &[u8]) -> Result<(i64, u32), Fault> {
    let (whole, fraction) = match value.iter().position(|&b| b == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    let negative = whole.first() == Some(&b'-');
    let seconds = signed(whole)?;
    let mut nanos = 0;
    for i in 0..9 {
        let digit = fraction.get(i).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return Err("a time is malformed");
        }
        nanos = nanos * 10 + u32::from(digit - b'0');
    }
    match negative && nanos > 0 {
        true => Ok((seconds - 1, 1_000_000_000 - nanos)),
        false => Ok((seconds, nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        type Case = (&'static str, Result<(i64, u32), Fault>);
        let cases: &[Case] = &[
            ("12", Ok((12, 0))),
            ("12.5", Ok((12, 500_000_000))),
            ("12.0000000019", Ok((12, 1))),
            ("-1.5", Ok((-2, 500_000_000))),
            ("-0.25", Ok((-1, 750_000_000))),
            ("-3", Ok((-3, 0))),
            ("x", Err("a number is not decimal")),
            ("1.x", Err("a time is malformed")),
        ];
        for (text, expected) in cases {
            assert_eq!(time(text.as_bytes()), *expected, "{text}");
        }
    }

    #[test]
    fn records() {
        let cases: &[(&[u8], Result<(), Fault>)] = &[
            (b"", Ok(())),
            (b"11 path=ab\n", Ok(())),
            (b"12 path=ab\n", Err("malformed PAX record")),
            (b"11 path=abc", Err("malformed PAX record")),
            (b"5 ab\n", Err("malformed PAX record")),
            (b"99999999999999999999 a=b\n", Err("malformed PAX record")),
            (b"0 a=b\n", Err("malformed PAX record")),
            (b"3 \n", Err("malformed PAX record")),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Pax::default().parse(bytes), *expected, "{bytes:?}");
        }
        let mut pax = Pax::default();
        pax.parse(b"26 SCHILY.xattr.user.a=\0\n\n13 size=1234\n\0\0")
            .unwrap();
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"\0\n".to_vec())]);
        assert_eq!(pax.size, Some(1234));
        pax.parse(b"24 SCHILY.xattr.user.a=\n").unwrap();
        assert_eq!(pax.xattrs, []);
    }
}
