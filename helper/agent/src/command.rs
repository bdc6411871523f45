//! Finds a command as execvp(3) would, and says why one cannot run.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use banger_wire::agent::{CallError, CallErrorKind};
use nix::errno::Errno;
use nix::libc;

/// Finds the program of `name` in `path` (the value of `PATH`) or, when it has a slash, relative
/// to `directory`.
///
/// # Errors
/// `NotFound` (127) or `NotExecutable` (126), naming the command.
pub(crate) fn find(name: &str, path: &str, directory: &Path) -> Result<PathBuf, CallError> {
    if name.is_empty() {
        return Err(not_found("the command's name is empty".to_owned()));
    }
    if name.contains('/') {
        let file = directory.join(name);
        return match executable(&file) {
            Ok(()) => Ok(file),
            Err(Some(why)) => Err(not_executable(format!("{name} cannot be executed: {why}"))),
            Err(None) => Err(missing(name)),
        };
    }
    let mut unusable = None;
    for entry in path.split(':') {
        // An empty entry means the working directory (environ(7)).
        let file = directory.join(entry).join(name);
        match executable(&file) {
            Ok(()) => return Ok(file),
            Err(Some(why)) if unusable.is_none() => unusable = Some((file, why)),
            Err(_) => {}
        }
    }
    Err(match unusable {
        Some((file, why)) => {
            not_executable(format!("{} cannot be executed: {why}", file.display()))
        }
        None => missing(name),
    })
}

fn missing(name: &str) -> CallError {
    let shells = ["sh", "/bin/sh", "bash", "/bin/bash"];
    if shells.contains(&name) && !Path::new("/bin/sh").exists() {
        not_found(format!(
            "no such command in the guest: {name} (the image has no /bin/sh; name a program of the image)"
        ))
    } else {
        not_found(format!("no such command in the guest: {name}"))
    }
}

fn not_found(message: String) -> CallError {
    CallError {
        kind: CallErrorKind::NotFound,
        message,
    }
}

fn not_executable(message: String) -> CallError {
    CallError {
        kind: CallErrorKind::NotExecutable,
        message,
    }
}

/// `Err(None)`: not there. `Err(Some(why))`: there, but not executable.
fn executable(file: &Path) -> Result<(), Option<&'static str>> {
    let Ok(metadata) = file.metadata() else {
        return Err(None);
    };
    if metadata.is_dir() {
        Err(Some("it is a directory"))
    } else if !metadata.is_file() {
        Err(Some("it is not a regular file"))
    } else if metadata.mode() & 0o111 == 0 {
        Err(Some("permission denied (no execute bit)"))
    } else {
        Ok(())
    }
}

/// Says why execve(2) of `file` failed although it is there.
pub(crate) fn explain(file: &Path, error: &io::Error) -> CallError {
    let name = file.display();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => match interpreter(file) {
            Some(interpreter) => not_executable(format!(
                "{name} needs {interpreter}, which is not in the guest"
            )),
            None => not_found(format!("no such command in the guest: {name}")),
        },
        Some(Errno::ENOEXEC) => not_executable(format!(
            "{name} cannot be executed: exec format error (built for another machine, or a script \
             without a #! line)"
        )),
        Some(Errno::EACCES) => {
            not_executable(format!("{name} cannot be executed: permission denied"))
        }
        Some(Errno::E2BIG) => not_executable(format!(
            "{name} cannot be executed: arguments and environment are too long"
        )),
        _ => not_executable(format!("{name} cannot be executed: {error}")),
    }
}

/// The interpreter that a script's first line or an ELF file's PT_INTERP names.
fn interpreter(file: &Path) -> Option<String> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(file)
        .ok()?;
    parse_interpreter(file)
}

fn parse_interpreter(mut file: impl Read + Seek) -> Option<String> {
    /// PATH_MAX of Linux.
    const LONGEST: u64 = 4096;
    let mut head = Vec::new();
    file.by_ref().take(256).read_to_end(&mut head).ok()?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = String::from_utf8_lossy(line.split(|b| *b == b'\n').next()?).into_owned();
        return line.split_whitespace().next().map(str::to_owned);
    }
    // elf(5): 64-bit little-endian only, like the agent itself.
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let u16_at = |at: usize| Some(u16::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let table = u64::from_le_bytes(*head.get(0x20..)?.first_chunk()?);
    let (size, count) = (u16_at(0x36)?, u16_at(0x38)?);
    for index in 0..u64::from(count.min(64)) {
        let at = table.checked_add(index * u64::from(size))?;
        file.seek(SeekFrom::Start(at)).ok()?;
        let mut entry = [0; 40];
        file.read_exact(&mut entry).ok()?;
        const PT_INTERP: u32 = 3;
        if u32::from_le_bytes(*entry.first_chunk()?) == PT_INTERP {
            let offset = u64::from_le_bytes(*entry.get(8..)?.first_chunk()?);
            let length = u64::from_le_bytes(*entry.get(32..)?.first_chunk()?);
            file.seek(SeekFrom::Start(offset)).ok()?;
            let mut path = Vec::new();
            file.take(length.min(LONGEST)).read_to_end(&mut path).ok()?;
            let path = path.split(|b| *b == 0).next()?;
            return Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, mode) in [("a/tool", 0o644), ("b/tool", 0o755), ("a/plain", 0o600)] {
            let file = directory.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::create_dir(directory.path().join("a/folder")).unwrap();
        directory
    }

    #[test]
    fn the_first_executable_in_the_path_is_taken() {
        let directory = directory();
        let root = directory.path();
        assert_eq!(find("tool", "missing:a:b", root), Ok(root.join("b/tool")));
        assert_eq!(find("./b/tool", "", root), Ok(root.join("./b/tool")));
        assert_eq!(find("tool", "", &root.join("b")), Ok(root.join("b/tool")));
    }

    #[test]
    fn what_cannot_run_is_told_apart() {
        let directory = directory();
        let cases = [
            ("plain", CallErrorKind::NotExecutable, "no execute bit"),
            ("folder", CallErrorKind::NotExecutable, "it is a directory"),
            (
                "a/plain",
                CallErrorKind::NotExecutable,
                "a/plain cannot be executed",
            ),
            (
                "nope",
                CallErrorKind::NotFound,
                "no such command in the guest: nope",
            ),
            (
                "./nope",
                CallErrorKind::NotFound,
                "no such command in the guest: ./nope",
            ),
            ("", CallErrorKind::NotFound, "empty"),
        ];
        for (name, kind, message) in cases {
            let error = find(name, "a:b", directory.path()).unwrap_err();
            assert_eq!(error.kind, kind, "{name}");
            assert!(error.message.contains(message), "{}", error.message);
        }
    }

    #[test]
    fn interpreters_are_found_in_scripts_and_programs() {
        let script = |text: &str| parse_interpreter(Cursor::new(text.as_bytes().to_vec()));
        assert_eq!(
            script("#! /usr/bin/env python\n"),
            Some("/usr/bin/env".to_owned())
        );
        assert_eq!(script("#!\n"), None);
        assert_eq!(script("echo"), None);
        let mut elf = vec![0; 256];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40;
        elf[0x36] = 56;
        elf[0x38] = 1;
        elf[0x40] = 3;
        elf[0x48] = 0xa0;
        elf[0x60] = 9;
        elf[0xa0..0xa9].copy_from_slice(b"/lib/ld.1");
        assert_eq!(
            parse_interpreter(Cursor::new(elf.clone())),
            Some("/lib/ld.1".to_owned())
        );
        elf[0x20..0x28].fill(0xff);
        assert_eq!(parse_interpreter(Cursor::new(elf)), None);
    }
}
