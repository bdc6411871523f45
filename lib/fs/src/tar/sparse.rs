//! Maps of sparse files: which pieces of a file the archive stores.

use std::io::BufRead;

use super::header::{RECORD, pieces};
use super::{Archive, TarError, pax};

/// Most pieces of one file.
pub(crate) const PIECES: usize = 1 << 22;

/// One record of old GNU's map, and whether another follows.
pub(crate) fn gnu_extension(
    record: &[u8; RECORD],
    map: &mut Vec<(u64, u64)>,
) -> Result<bool, &'static str> {
    pieces(&record[..504], map)?;
    Ok(record[504] != 0)
}

/// PAX format 1.0: decimal lines at the head of the content, filled up to a whole record.
pub(crate) fn read_map<R: BufRead>(archive: &mut Archive<R>) -> Result<Vec<(u64, u64)>, TarError> {
    let mut lines = Lines {
        record: [0; RECORD],
        at: RECORD,
    };
    let count = lines.number(archive)?;
    if count > PIECES as u64 {
        return Err(archive.damaged("the sparse map is too long"));
    }
    let mut map = Vec::new();
    for _ in 0..count {
        map.push((lines.number(archive)?, lines.number(archive)?));
    }
    Ok(map)
}

struct Lines {
    record: [u8; RECORD],
    at: usize,
}

impl Lines {
    fn number<R: BufRead>(&mut self, archive: &mut Archive<R>) -> Result<u64, TarError> {
        let mut digits = Vec::new();
        loop {
            if self.at == RECORD {
                let mut filled = 0;
                while filled < RECORD {
                    match archive.read(&mut self.record[filled..])? {
                        0 => return Err(archive.damaged("truncated sparse map")),
                        n => filled += n,
                    }
                }
                self.at = 0;
            }
            let byte = self.record[self.at];
            self.at += 1;
            match byte {
                b'\n' => return pax::decimal(&digits).map_err(|reason| archive.damaged(reason)),
                _ if digits.len() == 20 => return Err(archive.damaged("malformed sparse map")),
                byte => digits.push(byte),
            }
        }
    }
}

/// Ascending, within the file, and as long together as what is stored. Empty pieces go.
pub(crate) fn check(
    mut map: Vec<(u64, u64)>,
    size: u64,
    stored: u64,
) -> Result<Vec<(u64, u64)>, &'static str> {
    let (mut end, mut sum) = (0u64, 0u64);
    for &(offset, len) in &map {
        if offset < end {
            return Err("the sparse map is not ascending");
        }
        end = offset
            .checked_add(len)
            .ok_or("the sparse map is out of range")?;
        sum += len;
    }
    if end > size {
        return Err("the sparse map exceeds the file");
    }
    if sum != stored {
        return Err("the sparse map does not fit the content");
    }
    map.retain(|&(_, len)| len > 0);
    Ok(map)
}
