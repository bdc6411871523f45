//! What a watch of a directory says: [`crate::agent::Request::Watch`] is answered by `STARTED`, and then by
//! a [`Changes`] in each `CHANGES` frame, until the caller hangs up.

use serde::{Deserialize, Serialize};

/// JSON [`Changes`]; beside the kinds of [`crate::agent::kind`].
pub const CHANGES: u8 = 71;

/// Most changes in one frame; senders split.
pub const MOST_CHANGES: usize = 500;
/// Longest path, in bytes (PATH_MAX without the end).
pub const LONGEST_PATH: usize = 4095;

/// Directory to watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Absolute; any bytes.
    pub path: Vec<u8>,
    /// On whose behalf, as in [`crate::agent::Exec::user`].
    #[serde(default)]
    pub user: Option<String>,
    /// Most files and directories to keep an eye on.
    pub entries: u32,
    /// Directories that are left out with all below them, relative to `path`.
    #[serde(default)]
    pub skip: Vec<Vec<u8>>,
}

/// What happened since the last frame.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// In the order of their paths.
    pub changes: Vec<Change>,
    /// The kernel lost events, so the whole tree was looked at once more; nothing is missing.
    #[serde(default)]
    pub rescanned: bool,
    /// How many directories are watched.
    #[serde(default)]
    pub directories: u32,
}

/// One file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Relative to the watched directory; any bytes.
    pub path: Vec<u8>,
    /// What became of it.
    pub what: What,
    /// Where it was before, of a rename.
    #[serde(default)]
    pub from: Option<Vec<u8>>,
    /// Permissions before and after, where they differ.
    #[serde(default)]
    pub mode: Option<(u32, u32)>,
    /// Sizes before and after, in bytes.
    #[serde(default)]
    pub size: (u64, u64),
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// It is new.
    Added,
    /// Its content differs.
    Modified,
    /// Only its permissions differ.
    Mode,
    /// It is something else now, such as a link that was a file.
    Type,
    /// It has another name.
    Renamed,
    /// It is gone.
    Removed,
}

impl Change {
    /// Whether the paths could be those of files below a directory; a guest may say anything.
    pub fn is_lawful(&self) -> bool {
        let renamed = self.what == What::Renamed;
        is_below(&self.path)
            && self.from.as_deref().is_none_or(is_below)
            && renamed == self.from.is_some()
    }
}

/// A relative path of real names.
fn is_below(path: &[u8]) -> bool {
    let lawful = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    path.len() <= LONGEST_PATH && path.split(|byte| *byte == b'/').all(lawful)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_are_not_lawful() {
        let change = |path: &[u8], from: Option<&[u8]>| Change {
            path: path.to_vec(),
            what: from.map_or(What::Added, |_| What::Renamed),
            from: from.map(<[u8]>::to_vec),
            mode: None,
            size: (0, 0),
        };
        for path in [&b"a"[..], b"a/b\n", b"...", b"\xff/-rf"] {
            assert!(change(path, None).is_lawful());
            assert!(change(b"x", Some(path)).is_lawful());
        }
        let long = vec![b'x'; LONGEST_PATH + 1];
        for path in [
            &b""[..],
            b"/",
            b"/a",
            b"a/",
            b"a//b",
            b"..",
            b"a/../b",
            b"a\0b",
            &long,
        ] {
            assert!(!change(path, None).is_lawful(), "{}", path.escape_ascii());
            assert!(!change(b"x", Some(path)).is_lawful());
        }
        let nowhere = Change {
            what: What::Renamed,
            ..change(b"a", None)
        };
        assert!(!nowhere.is_lawful());
    }
}
