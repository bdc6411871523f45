//! Which processes keep a VM alive, found without any file that could lie: those that have its
//! `alive.lock` open.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Process ids that have the file open, other than ours. Processes of other users are not seen.
pub(crate) fn holders(path: &Path) -> Vec<i32> {
    let Ok(wanted) = fs::metadata(path) else {
        return Vec::new();
    };
    let own = std::process::id();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten()
                .flatten()
                .any(|descriptor| {
                    fs::metadata(descriptor.path())
                        .is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()))
                })
        })
        .filter_map(|pid| i32::try_from(pid).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::{Command, Stdio};

    #[test]
    fn a_child_that_inherited_the_file_is_found() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("alive.lock");
        let file = File::create(&path).unwrap();
        assert!(
            holders(&path).is_empty(),
            "our own descriptor does not count"
        );
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::from(file))
            .spawn()
            .unwrap();
        assert_eq!(holders(&path), [i32::try_from(child.id()).unwrap()]);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(holders(&path).is_empty());
    }
}
