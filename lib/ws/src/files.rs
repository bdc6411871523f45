//! `vm.file-sync`: files of the owner's home that VMs get at their start.
//!
//! What leads out of the home is refused by the kernel (openat2(2), RESOLVE_BENEATH), not by looking at
//! paths; what belongs to somebody else is refused, too. Everything is read before the first byte is sent.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use lib_guest::{CopyIn, CopyOptions, Guest};
use lib_model::{Diagnose, Exit};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

/// Of one file, in bytes: what is configuration is not longer.
const LONGEST_FILE: u64 = 4 << 20;
/// Of all files together, in bytes.
const LONGEST: u64 = 16 << 20;
/// Files and directories together.
const MOST: usize = 2000;
/// Directories within directories; links inside the home could lead in circles.
const DEEPEST: usize = 32;

/// Why a file cannot go.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The setting makes no sense.
    #[error("vm.file-sync: `{entry}` {reason}")]
    Setting {
        /// As it was set.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is refused.
    #[error("vm.file-sync: {} {reason}", path.display())]
    Refused {
        /// The file on this machine.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is there and cannot be read.
    #[error("vm.file-sync: {} cannot be read", path.display())]
    Read {
        /// The file on this machine.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The guest did not take it.
    #[error("vm.file-sync: the files did not reach the guest")]
    Guest(#[from] lib_guest::Error),
}

impl Diagnose for FilesError {
    fn exit(&self) -> Exit {
        match self {
            FilesError::Guest(lib_guest::Error::Interrupted) => Exit::Interrupted,
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            FilesError::Guest(_) => None,
            _ => Some("banger config show --origin   (says where vm.file-sync is set)".into()),
        }
    }
}

/// Where a path in the guest begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    /// The user's home.
    Home,
    /// `/`.
    Root,
}

/// One entry of the setting.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    /// Below the owner's home.
    host: PathBuf,
    base: Base,
    /// Below the base.
    guest: PathBuf,
}

/// What was read, ready to be sent.
#[derive(Debug, Default)]
pub struct Files {
    home: Vec<Item>,
    root: Vec<Item>,
    bytes: u64,
}

#[derive(Debug)]
struct Item {
    /// In the guest, below the base.
    path: PathBuf,
    mode: u32,
    mtime: i64,
    /// None for a directory.
    content: Option<Vec<u8>>,
}

impl Pair {
    fn parse(entry: &str, home: &Path) -> Result<Pair, FilesError> {
        let wrong = |reason: &str| FilesError::Setting {
            entry: entry.to_owned(),
            reason: reason.to_owned(),
        };
        let (host, guest) = match entry.split_once(':') {
            Some((host, guest)) => (host, Some(guest)),
            None => (entry, None),
        };
        let host = match host.strip_prefix("~/") {
            Some(rest) => PathBuf::from(rest),
            None => Path::new(host)
                .strip_prefix(home)
                .map_err(|_| wrong("is not below your home directory; only what is there goes"))?
                .to_owned(),
        };
        let host = plain(&host).ok_or_else(|| wrong("has no name of a file, or `..`, in it"))?;
        let (base, guest) = match guest {
            None => (Base::Home, host.clone()),
            Some(guest) => {
                let (base, rest) = match (guest.strip_prefix("~/"), guest.strip_prefix('/')) {
                    (Some(rest), _) => (Base::Home, rest),
                    (None, Some(rest)) => (Base::Root, rest),
                    (None, None) => {
                        return Err(wrong(
                            "names a path in the guest that begins with neither / nor ~/",
                        ));
                    }
                };
                let named = plain(Path::new(rest));
                (
                    base,
                    named.ok_or_else(|| wrong("has no name of a file, or `..`, in it"))?,
                )
            }
        };
        Ok(Pair { host, base, guest })
    }
}

/// A relative path of names only.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut names = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!names.as_os_str().is_empty()).then_some(names)
}

impl Files {
    /// Reads what the setting names. `note` hears of files that are not there, which is no error: one setting
    /// may serve several machines.
    ///
    /// # Errors
    /// Everything of [`FilesError`] but the guest's.
    pub fn collect(
        entries: &[String],
        home: Option<&Path>,
        note: &dyn Fn(&str),
    ) -> Result<Files, FilesError> {
        let mut files = Files::default();
        let Some(first) = entries.first() else {
            return Ok(files);
        };
        let home = home.filter(|home| home.is_absolute());
        let home = home.ok_or_else(|| FilesError::Setting {
            entry: first.clone(),
            reason: "is for files of your home directory, and HOME names none".to_owned(),
        })?;
        let top = Home::open(home)?;
        for entry in entries {
            let pair = Pair::parse(entry, home)?;
            match top.find(&pair.host)? {
                Some(found) => files.take(&top, &pair.host, found, pair.base, &pair.guest, 0)?,
                None => note(&format!(
                    "vm.file-sync: {} is not there; left out",
                    home.join(&pair.host).display()
                )),
            }
        }
        Ok(files)
    }

    /// Nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.home.is_empty() && self.root.is_empty()
    }

    /// How many files, without directories.
    pub fn count(&self) -> usize {
        let files = self.home.iter().chain(&self.root);
        files.filter(|item| item.content.is_some()).count()
    }

    /// Writes them in the guest as this user, the image's own without one.
    ///
    /// # Errors
    /// [`FilesError::Guest`]; what was whole by then is there.
    pub fn send(&self, guest: &Guest, user: Option<&str>) -> Result<(), FilesError> {
        if !self.home.is_empty() {
            let home = guest.user(user)?.home;
            send(guest, user, &home, &self.home)?;
        }
        if !self.root.is_empty() {
            send(guest, user, "/", &self.root)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        top: &Home,
        host: &Path,
        (fd, stat): (OwnedFd, FileStat),
        base: Base,
        guest: &Path,
        depth: usize,
    ) -> Result<(), FilesError> {
        let shown = || top.path.join(host);
        let refused = |reason: String| FilesError::Refused {
            path: shown(),
            reason,
        };
        if self.home.len() + self.root.len() >= MOST {
            return Err(refused(format!("is one more than {MOST} files")));
        }
        let mode = stat.st_mode & 0o777;
        let mtime = stat.st_mtime;
        let directory =
            SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR;
        if directory {
            if depth >= DEEPEST {
                return Err(refused(format!("is below {DEEPEST} other directories")));
            }
            self.push(
                base,
                Item {
                    path: guest.to_owned(),
                    mode,
                    mtime,
                    content: None,
                },
            );
            for name in names(fd).map_err(|errno| read_error(shown(), errno.into()))? {
                let below = host.join(&name);
                if let Some(found) = top.find(&below)? {
                    self.take(top, &below, found, base, &guest.join(&name), depth + 1)?;
                }
            }
            return Ok(());
        }
        let mut content = Vec::new();
        let left = LONGEST.saturating_sub(self.bytes).min(LONGEST_FILE);
        File::from(fd)
            .take(left + 1)
            .read_to_end(&mut content)
            .map_err(|error| read_error(shown(), error))?;
        if content.len() as u64 > left {
            let (file, all) = (LONGEST_FILE >> 20, LONGEST >> 20);
            return Err(refused(format!(
                "is too large: a file may have {file} MiB, all together {all} MiB"
            )));
        }
        self.bytes += content.len() as u64;
        let path = guest.to_owned();
        self.push(
            base,
            Item {
                path,
                mode,
                mtime,
                content: Some(content),
            },
        );
        Ok(())
    }

    fn push(&mut self, base: Base, item: Item) {
        match base {
            Base::Home => self.home.push(item),
            Base::Root => self.root.push(item),
        }
    }
}

/// The owner's home, open.
struct Home {
    fd: OwnedFd,
    path: PathBuf,
    owner: u32,
}

impl Home {
    fn open(path: &Path) -> Result<Home, FilesError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = open(path, flags, Mode::empty());
        Ok(Home {
            fd: opened.map_err(|errno| read_error(path.to_owned(), errno.into()))?,
            path: path.to_owned(),
            owner: nix::unistd::geteuid().as_raw(),
        })
    }

    /// Opens what is there to be read; none when nothing is.
    fn find(&self, path: &Path) -> Result<Option<(OwnedFd, FileStat)>, FilesError> {
        let refused = |reason: &str| FilesError::Refused {
            path: self.path.join(path),
            reason: reason.to_owned(),
        };
        let how = OpenHow::new()
            // A pipe must not hold us up, nor a device begin to do something.
            .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let failed = |errno: Errno| read_error(self.path.join(path), errno.into());
        let fd = match openat2(&self.fd, path, how) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::EXDEV) => {
                return Err(refused(
                    "is refused: a symbolic link on the way leads out of your home directory, or is absolute",
                ));
            }
            Err(Errno::ELOOP) => {
                return Err(refused("is refused: links lead in a circle, or into /proc"));
            }
            Err(Errno::ENXIO) => return Err(refused("is refused: it is a socket or pipe")),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = fstat(&fd).map_err(failed)?;
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG | SFlag::S_IFDIR => {}
            _ => return Err(refused("is refused: it is neither a file nor a directory")),
        }
        if stat.st_uid != self.owner {
            return Err(refused(&format!(
                "is refused: it belongs to uid {}, not to you",
                stat.st_uid
            )));
        }
        Ok(Some((fd, stat)))
    }
}

fn names(directory: OwnedFd) -> nix::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in Dir::from_fd(directory)?.iter() {
        let entry = entry?;
        let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
        if names.len() > MOST {
            break;
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn read_error(path: PathBuf, source: std::io::Error) -> FilesError {
    FilesError::Read { path, source }
}

fn send(guest: &Guest, user: Option<&str>, base: &str, items: &[Item]) -> Result<(), FilesError> {
    let archive = archive(items).map_err(|source| read_error(PathBuf::from(base), source))?;
    let options = CopyOptions {
        user: user.map(str::to_owned),
        ..CopyOptions::default()
    };
    let source = CopyIn::Archive(&mut &archive[..]);
    guest.copy_in(source, base.as_bytes(), &options, &mut |_| {})?;
    Ok(())
}

fn archive(items: &[Item]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for item in items {
        let mut header = tar::Header::new_gnu();
        header.set_mode(item.mode);
        header.set_mtime(u64::try_from(item.mtime).unwrap_or(0));
        let content = item.content.as_deref();
        header.set_entry_type(match content {
            Some(_) => tar::EntryType::Regular,
            None => tar::EntryType::Directory,
        });
        let content = content.unwrap_or_default();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, &item.path, content)?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn collect(home: &Path, entries: &[&str]) -> Result<Files, String> {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        Files::collect(&entries, Some(home), &|_| {}).map_err(|error| error.to_string())
    }

    fn shown(items: &[Item]) -> Vec<String> {
        let shown = |item: &Item| {
            let content = item.content.as_deref().map(String::from_utf8_lossy);
            let content = content.map_or("/".into(), |content| format!("={content}"));
            format!("{}{content} {:o}", item.path.display(), item.mode)
        };
        items.iter().map(shown).collect()
    }

    #[test]
    fn files_and_directories_of_the_home_are_read_with_their_modes() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at(".config/tool")).unwrap();
        fs::write(at(".config/tool/a"), "1").unwrap();
        fs::write(at(".netrc"), "secret").unwrap();
        fs::set_permissions(at(".netrc"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(at(".config/tool"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(at(".config/tool/a"), fs::Permissions::from_mode(0o4755)).unwrap();
        // Within the home links are followed; what arrives is what they lead to.
        symlink("tool/a", at(".config/link")).unwrap();
        let absolute = format!("{}:/etc/netrc", at(".netrc").display());
        let files = collect(
            home.path(),
            &["~/.config/tool", "~/.config/link:~/b", &absolute],
        )
        .unwrap();
        assert_eq!(
            shown(&files.home),
            [".config/tool/ 700", ".config/tool/a=1 755", "b=1 755"]
        );
        assert_eq!(shown(&files.root), ["etc/netrc=secret 600"]);
        assert_eq!(files.count(), 3);
        assert!(collect(home.path(), &[]).unwrap().is_empty());
        archive(&files.home).unwrap();
    }

    #[test]
    fn what_leads_out_of_the_home_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let home = base.path().join("home");
        fs::create_dir_all(home.join("dir")).unwrap();
        fs::write(base.path().join("secret"), "x").unwrap();
        symlink("../secret", home.join("out")).unwrap();
        symlink("/etc/passwd", home.join("absolute")).unwrap();
        symlink("..", home.join("up")).unwrap();
        symlink("../../secret", home.join("dir/deep")).unwrap();
        symlink("round", home.join("round")).unwrap();
        symlink("/proc/self/root", home.join("magic")).unwrap();
        nix::unistd::mkfifo(&home.join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        for entry in [
            "~/out",
            "~/absolute",
            "~/up/secret",
            "~/dir",
            "~/magic/etc/passwd",
        ] {
            let error = collect(&home, &[entry]).unwrap_err();
            assert!(error.contains("leads out of your home"), "{entry}: {error}");
        }
        let error = collect(&home, &["~/dir"]).unwrap_err();
        assert!(error.contains("dir/deep"), "names the link: {error}");
        assert!(collect(&home, &["~/round"]).unwrap_err().contains("circle"));
        let pipe = collect(&home, &["~/pipe"]).unwrap_err();
        assert!(pipe.contains("neither a file nor"), "{pipe}");
        for entry in [
            "/etc/passwd",
            "~/../secret",
            "~/",
            "",
            "relative",
            "~/x:relative",
            "~/x:~/../y",
            "~/x:/",
            "~root/x",
        ] {
            let error = collect(&home, &[entry]).unwrap_err();
            assert!(error.contains(&format!("`{entry}`")), "{error}");
        }
    }

    #[test]
    fn what_is_not_there_is_said_and_what_is_too_large_refused() {
        let home = tempfile::tempdir().unwrap();
        let said = RefCell::new(String::new());
        let entries = ["~/none".to_owned()];
        let files = Files::collect(&entries, Some(home.path()), &|text| {
            said.borrow_mut().push_str(text);
        });
        assert!(files.unwrap().is_empty());
        assert!(said.borrow().contains("none is not there"));
        let large = File::create(home.path().join("large")).unwrap();
        large.set_len(LONGEST_FILE + 1).unwrap();
        let error = collect(home.path(), &["~/large"]).unwrap_err();
        assert!(error.contains("4 MiB"), "{error}");
        large.set_len(LONGEST_FILE).unwrap();
        let five = ["~/large"; 5];
        let error = collect(home.path(), &five).unwrap_err();
        assert!(error.contains("16 MiB"), "{error}");
        assert_eq!(collect(home.path(), &five[..4]).unwrap().count(), 4);
        let error = Files::collect(&entries, None, &|_| {}).unwrap_err();
        assert!(error.to_string().contains("HOME"), "{error}");
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            // Only root can give a file away; as another user, what root has is somebody else's.
            let error = collect(Path::new("/"), &["/etc/passwd"]).unwrap_err();
            assert!(error.contains("uid 0"), "{error}");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("theirs");
        fs::write(&file, "").unwrap();
        std::os::unix::fs::chown(&file, Some(12345), None).unwrap();
        let error = collect(home.path(), &["~/theirs"]).unwrap_err();
        assert!(error.contains("uid 12345, not to you"), "{error}");
    }
}
