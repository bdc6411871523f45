//! A file as one line of `ls -l`, which clients print as it is.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use nix::libc;

use crate::account;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
/// Older files show their year instead of the time, as ls(1) has it.
const HALF_A_YEAR: i64 = 182 * 24 * 60 * 60;

/// Names of users and groups, read from the image's files once.
#[derive(Debug, Default)]
pub(super) struct Names {
    read: Option<(HashMap<u32, String>, HashMap<u32, String>)>,
}

impl Names {
    pub(super) fn user(&mut self, uid: u32) -> Option<&str> {
        self.read().0.get(&uid).map(String::as_str)
    }

    pub(super) fn group(&mut self, gid: u32) -> Option<&str> {
        self.read().1.get(&gid).map(String::as_str)
    }

    fn read(&mut self) -> &(HashMap<u32, String>, HashMap<u32, String>) {
        self.read.get_or_insert_with(account::names)
    }
}

/// The line, in UTC: the service does not know the client's time zone.
pub(super) fn long_name(names: &mut Names, name: &[u8], metadata: &Metadata, now: i64) -> Vec<u8> {
    let user = names.user(metadata.uid()).map(str::to_owned);
    let user = user.unwrap_or_else(|| metadata.uid().to_string());
    let group = names.group(metadata.gid()).map(str::to_owned);
    let group = group.unwrap_or_else(|| metadata.gid().to_string());
    let mut line = format!(
        "{} {:4} {user:8} {group:8} {:8} {} ",
        permissions(metadata.mode()),
        metadata.nlink(),
        metadata.size(),
        date(metadata.mtime(), now),
    )
    .into_bytes();
    line.extend(name);
    line
}

fn permissions(mode: u32) -> String {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn date(time: i64, now: i64) -> String {
    let (days, second) = (time.div_euclid(86_400), time.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let month = MONTHS[month - 1];
    if (now - HALF_A_YEAR..=now).contains(&time) {
        let (hour, minute) = (second / 3600, second / 60 % 60);
        format!("{month} {day:2} {hour:02}:{minute:02}")
    } else {
        format!("{month} {day:2}  {year:4}")
    }
}

/// Year, month and day of a day counted from 1970 in the Gregorian calendar, by eras of 400 years.
fn civil(days: i64) -> (i64, usize, i64) {
    // Years begin in March here, so that the odd day is the last one.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, usize::try_from(month).unwrap_or(1), day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_777, (2026, 11, 20)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), expected, "{days}");
        }
    }

    #[test]
    fn lines_look_as_those_of_ls() {
        assert_eq!(permissions(0o100_644), "-rw-r--r--");
        assert_eq!(permissions(0o041_777), "drwxrwxrwt");
        assert_eq!(permissions(0o104_755), "-rwsr-xr-x");
        assert_eq!(permissions(0o102_640), "-rw-r-S---");
        assert_eq!(permissions(0o120_777), "lrwxrwxrwx");
        let now = 20_777 * 86_400;
        assert_eq!(date(now - 60, now), "Nov 19 23:59");
        assert_eq!(date(0, now), "Jan  1  1970");
        assert_eq!(date(now + 60, now), "Nov 20  2026");
    }
}
