//! Which processes hold a lock, found without any file that could lie: those with a descriptor
//! through which it is held. Who only looks at the file is none.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Process ids that hold the open file description lock of this file, other than ours. Processes of
/// other users are not seen.
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
        .filter(|pid| *pid != own && holds(*pid, &wanted))
        .filter_map(|pid| i32::try_from(pid).ok())
        .collect()
}

/// proc(5), `/proc/PID/fdinfo`: a `lock:` line for each lock of the description.
fn holds(pid: u32, wanted: &Metadata) -> bool {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|descriptor| {
            fs::metadata(descriptor.path())
                .is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()))
        })
        .any(|descriptor| {
            let number = descriptor.file_name();
            let info = Path::new("/proc")
                .join(pid.to_string())
                .join("fdinfo")
                .join(number);
            fs::read_to_string(info).is_ok_and(|info| info.contains("OFDLCK"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lib_store::FileLock;
    use std::fs::File;
    use std::process::{Command, Stdio};

    #[test]
    fn a_child_that_inherited_the_lock_is_found_and_one_that_looks_is_not() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("alive.lock");
        let lock = FileLock::try_take(&path).unwrap().unwrap();
        assert!(
            holders(&path).is_empty(),
            "our own descriptor does not count"
        );
        let spawn = |output: File| {
            let mut cat = Command::new("cat");
            cat.stdin(Stdio::piped()).stdout(output).spawn().unwrap()
        };
        let mut holder = spawn(lock.into_file());
        let mut reader = spawn(File::options().append(true).open(&path).unwrap());
        assert_eq!(holders(&path), [i32::try_from(holder.id()).unwrap()]);
        for child in [&mut holder, &mut reader] {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        assert!(holders(&path).is_empty());
    }
}
