//! The sending side: walks a tree by descriptors and never follows a link in it.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::sys::statfs::{fstatfs, statfs};
use nix::unistd::{Whence, lseek};
use xattr::FileExt;

use crate::direct::Source;
use crate::entry::{Entry, Kind, Name};
use crate::error::{Result, TreeError, shown};
use crate::place::DIRECTORY;
use crate::receive::Summary;
use crate::stream::{MAX_DEPTH, Writer};

/// proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, configfs, bpf (linux/magic.h): what is
/// in there are questions to the kernel, no files.
const KERNEL_FILE_SYSTEMS: [i64; 9] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x6265_6570,
    0xcafe_4a11,
];
/// Attributes longer than this are left out (xattr(7): what a file system's block holds, mostly).
const LONGEST_XATTR: usize = 64 * 1024;
/// Without `archive` only the user's own go.
const USER_PREFIX: &[u8] = b"user.";

/// How to send.
#[derive(Debug, Clone, Copy, Default)]
pub struct Send {
    /// Send all extended attributes, not only the user's own.
    pub archive: bool,
    /// Follow a link that is the source itself.
    pub follow: bool,
    /// Send each name of a file as a file of its own.
    pub apart: bool,
    /// Read large files past the page cache.
    pub past_cache: bool,
}

/// Sends each of the paths, without the end of the tree. A path that ends in `/.` stands for the
/// content of the directory. `progress` hears of each piece, in bytes.
///
/// # Errors
/// A path that cannot be read; what cannot be read below one is left out, and the peer and the
/// summary are told.
pub fn send<W: Write>(
    writer: &mut Writer<W>,
    paths: &[&Path],
    options: Send,
    progress: &mut dyn FnMut(u64),
) -> Result<Summary> {
    let mut sender = Sender {
        writer,
        options,
        path: Vec::new(),
        linked: HashMap::new(),
        summary: Summary::default(),
        progress,
    };
    for path in paths {
        sender.source(path)?;
    }
    Ok(sender.summary)
}

/// Sends these entries below `root`, in the order of the bytes of their paths, with the directories on the
/// way as implied ones; without the end of the tree. What is not there is left out, silently; directories
/// among them go without what is in them, and each name of a file goes as a file.
///
/// # Errors
/// Those of the writer. What cannot be read is left out, and the peer and the summary are told.
pub fn send_chosen<W: Write>(
    writer: &mut Writer<W>,
    root: BorrowedFd<'_>,
    paths: &[Vec<Name>],
    options: Send,
    progress: &mut dyn FnMut(u64),
) -> Result<Summary> {
    let mut sender = Sender {
        writer,
        options: Send {
            apart: true,
            ..options
        },
        path: Vec::new(),
        linked: HashMap::new(),
        summary: Summary::default(),
        progress,
    };
    let mut open: Vec<OwnedFd> = Vec::new();
    for path in paths {
        let Some((name, parents)) = path.split_last() else {
            continue;
        };
        let shared = sender
            .path
            .iter()
            .zip(parents)
            .take_while(|(have, want)| have == want)
            .count();
        while sender.path.len() > shared {
            sender.path.pop();
            open.pop();
            sender.writer.end()?;
        }
        let mut reached = true;
        for parent in &parents[shared..] {
            let above = open.last().map_or(root, AsFd::as_fd);
            let Ok(directory) = openat(above, parent.as_bytes(), DIRECTORY, Mode::empty()) else {
                reached = false;
                break;
            };
            sender.writer.entry(&Entry::implied(parent.clone()))?;
            sender.path.push(parent.clone());
            open.push(directory);
        }
        if reached {
            let above = open.last().map_or(root, AsFd::as_fd);
            sender.chosen(above, name)?;
        }
    }
    for _ in &open {
        sender.writer.end()?;
    }
    Ok(sender.summary)
}

struct Sender<'a, W> {
    writer: &'a mut Writer<W>,
    options: Send,
    /// Where in the stream's tree we are.
    path: Vec<Name>,
    /// The first path of each file that has more names.
    linked: HashMap<(u64, u64), Vec<Name>>,
    summary: Summary,
    progress: &'a mut dyn FnMut(u64),
}

/// An open or openable entry on the way.
struct Node<'a> {
    parent: BorrowedFd<'a>,
    /// To open it by; the whole path at the top.
    file: &'a CStr,
    name: Name,
    stat: FileStat,
    contents: bool,
    follow: bool,
}

impl<W: Write> Sender<'_, W> {
    fn chosen(&mut self, parent: BorrowedFd<'_>, name: &Name) -> Result<()> {
        let Ok(file) = CString::new(name.as_bytes()) else {
            return Ok(());
        };
        let Ok(stat) = fstatat(parent, &*file, AtFlags::AT_SYMLINK_NOFOLLOW) else {
            return Ok(());
        };
        if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
            self.writer.entry(&Entry::implied(name.clone()))?;
            return Ok(self.writer.end()?);
        }
        let sent = self.node(&Node {
            parent,
            file: &file,
            name: name.clone(),
            stat,
            contents: false,
            follow: false,
        })?;
        match sent {
            Ok(()) => Ok(()),
            Err(words) => self.leave_out(Some(name), &words),
        }
    }

    fn source(&mut self, path: &Path) -> Result<()> {
        let bytes = path.as_os_str().as_bytes();
        let failed = |errno| TreeError::file("read", bytes)(errno);
        let file = CString::new(bytes).map_err(|_| failed(Errno::EINVAL))?;
        let last = bytes
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or_default();
        let contents = matches!(last, b"." | b"..") || path.parent().is_none();
        // A slash at the end asks for what is behind a link.
        let follow = self.options.follow || contents || last.is_empty();
        let flags = match follow {
            true => AtFlags::empty(),
            false => AtFlags::AT_SYMLINK_NOFOLLOW,
        };
        let stat = fstatat(AT_FDCWD, &*file, flags).map_err(failed)?;
        // Below a directory none are met.
        if is_regular(&stat)
            && KERNEL_FILE_SYSTEMS.contains(&statfs(path).map_err(failed)?.filesystem_type().0)
        {
            return Err(TreeError::Refused(format!(
                "{}: it is a file of the kernel's own, and has no size; exec reads it",
                shown(bytes)
            )));
        }
        let name = match path.file_name() {
            Some(name) if !contents => Name::try_from(name.as_bytes())?,
            _ => Name::try_from(&b"contents"[..])?,
        };
        let node = Node {
            parent: AT_FDCWD,
            file: &file,
            name,
            stat,
            contents,
            follow,
        };
        match self.node(&node)? {
            Ok(()) => Ok(()),
            Err(words) => Err(TreeError::Refused(format!("{}: {words}", shown(bytes)))),
        }
    }

    /// Sends one entry; the inner error is why it was left out.
    fn node(&mut self, node: &Node<'_>) -> Result<std::result::Result<(), String>> {
        let said = |errno: Errno| Ok(Err(errno.desc().to_owned()));
        match SFlag::from_bits_truncate(node.stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => self.directory(node),
            SFlag::S_IFREG => self.file(node),
            SFlag::S_IFLNK => match readlinkat(node.parent, node.file) {
                Ok(target) => {
                    let target = target.into_vec();
                    self.single(node, Kind::Symlink { target })?;
                    Ok(Ok(()))
                }
                Err(errno) => said(errno),
            },
            SFlag::S_IFIFO => {
                self.single(node, Kind::Fifo)?;
                Ok(Ok(()))
            }
            SFlag::S_IFSOCK => Ok(Err("sockets are not copied".into())),
            _ => Ok(Err("devices are not copied".into())),
        }
    }

    fn single(&mut self, node: &Node<'_>, kind: Kind) -> Result<()> {
        let entry = entry(node, &node.stat, kind, Vec::new());
        self.summary.entries += 1;
        Ok(self.writer.entry(&entry)?)
    }

    fn directory(&mut self, node: &Node<'_>) -> Result<std::result::Result<(), String>> {
        if self.path.len() >= MAX_DEPTH {
            return Ok(Err(format!(
                "it is inside {MAX_DEPTH} other directories, and deeper ones are not copied"
            )));
        }
        let flags = match node.follow {
            true => DIRECTORY.difference(OFlag::O_NOFOLLOW),
            false => DIRECTORY,
        };
        let opened = openat(node.parent, node.file, flags, Mode::empty())
            .and_then(|fd| Ok((fstatfs(&fd)?.filesystem_type().0, fd)));
        let (kind, fd) = match opened {
            Ok(opened) => opened,
            Err(errno) => return Ok(Err(errno.desc().to_owned())),
        };
        if KERNEL_FILE_SYSTEMS.contains(&kind) {
            return Ok(Err("it is a file system of the kernel's own".into()));
        }
        let file = File::from(fd);
        let kind = Kind::Directory {
            implied: false,
            contents: node.contents,
        };
        let entry = entry(node, &node.stat, kind, self.xattrs(&file));
        self.summary.entries += 1;
        self.writer.entry(&entry)?;
        self.path.push(node.name.clone());
        let mut listing = match Dir::from_fd(file.into()) {
            Ok(listing) => listing,
            Err(errno) => return Err(TreeError::file("list", node.name.as_bytes())(errno)),
        };
        self.children(&mut listing)?;
        self.path.pop();
        self.writer.end()?;
        Ok(Ok(()))
    }

    fn children(&mut self, listing: &mut Dir) -> Result<()> {
        // A second descriptor, as the listing cannot be borrowed while it goes on.
        let directory = listing.as_fd().try_clone_to_owned()?;
        for child in listing.iter() {
            let child = match child {
                Ok(child) => child,
                Err(errno) => {
                    self.leave_out(None, errno.desc())?;
                    break;
                }
            };
            let file = child.file_name();
            let Ok(name) = Name::try_from(file.to_bytes()) else {
                // `.` and `..`.
                continue;
            };
            let sent = match fstatat(&directory, file, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => self.node(&Node {
                    parent: directory.as_fd(),
                    file,
                    name: name.clone(),
                    stat,
                    contents: false,
                    follow: false,
                })?,
                // Removed while we were on the way.
                Err(Errno::ENOENT) => Ok(()),
                Err(errno) => Err(errno.desc().to_owned()),
            };
            if let Err(words) = sent {
                self.leave_out(Some(&name), &words)?;
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, name: Option<&Name>, words: &str) -> Result<()> {
        let path: Vec<String> = self
            .path
            .iter()
            .chain(name)
            .map(|name| shown(name.as_bytes()))
            .collect();
        let words = format!("{}: {words}", path.join("/"));
        self.writer.problem(&words)?;
        self.summary.leave_out(words);
        Ok(())
    }

    fn file(&mut self, node: &Node<'_>) -> Result<std::result::Result<(), String>> {
        let mut flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        if !node.follow {
            flags |= OFlag::O_NOFOLLOW;
        }
        let opened = openat(node.parent, node.file, flags, Mode::empty())
            .and_then(|fd| Ok((fstat(&fd)?, fd)));
        let (stat, mut file) = match opened {
            Ok((stat, fd)) if is_regular(&stat) => (stat, File::from(fd)),
            Ok(_) => return Ok(Err("it became something else".into())),
            Err(errno) => return Ok(Err(errno.desc().to_owned())),
        };
        if stat.st_nlink > 1 && !self.options.apart {
            let here = self.path.iter().chain([&node.name]).cloned().collect();
            let first = self
                .linked
                .entry((stat.st_dev, stat.st_ino))
                .or_insert_with(|| Vec::clone(&here));
            if *first != here {
                let to = first.clone();
                self.single(node, Kind::Hardlink { to })?;
                return Ok(Ok(()));
            }
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let entry = entry(node, &stat, Kind::File { size }, self.xattrs(&file));
        self.summary.entries += 1;
        self.writer.entry(&entry)?;
        let stored = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if stored < size {
            self.sparse(&mut file, size)?;
        } else {
            self.content(&mut file, size)?;
        }
        self.writer.end()?;
        Ok(Ok(()))
    }

    /// At most `left` bytes from where the file is.
    fn content(&mut self, file: &mut File, mut left: u64) -> Result<()> {
        if self.options.past_cache
            && let Some(mut source) = Source::new(file, left)
        {
            while left > 0 {
                let piece = source.next().map_err(TreeError::reading)?;
                let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                if count == 0 {
                    break;
                }
                self.writer.data(&piece[..count])?;
                left -= count as u64;
                self.summary.bytes += count as u64;
                (self.progress)(count as u64);
            }
            return Ok(());
        }
        while left > 0 {
            let count = self.writer.data_from(file, left)? as u64;
            if count == 0 {
                // It is shorter now; what it was is not known any more.
                break;
            }
            left = left.saturating_sub(count);
            self.summary.bytes += count;
            (self.progress)(count);
        }
        Ok(())
    }

    /// Data only; holes by their length (lseek(2), SEEK_DATA).
    fn sparse(&mut self, file: &mut File, size: u64) -> Result<()> {
        let seek = |file: &File, at: u64, whence| {
            let at = lseek(file, at.cast_signed(), whence)?;
            Ok::<u64, Errno>(u64::try_from(at).unwrap_or(0).min(size))
        };
        let mut at = 0;
        while at < size {
            let data = match seek(file, at, Whence::SeekData) {
                Ok(data) => data,
                // No more data.
                Err(Errno::ENXIO) => size,
                // A file system that does not tell.
                Err(_) => {
                    file.seek(SeekFrom::Start(at))?;
                    return self.content(file, size - at);
                }
            };
            if data > at {
                self.writer.hole(data - at)?;
            }
            if data >= size {
                break;
            }
            let end = seek(file, data, Whence::SeekHole)
                .unwrap_or(size)
                .max(data + 1);
            file.seek(SeekFrom::Start(data))?;
            self.content(file, end - data)?;
            at = end;
        }
        Ok(())
    }

    fn xattrs(&self, file: &File) -> Vec<(Vec<u8>, Vec<u8>)> {
        let names = file.list_xattr().into_iter().flatten();
        names
            .map(OsStringExt::into_vec)
            .filter(|name| self.options.archive || name.starts_with(USER_PREFIX))
            .filter_map(|name| {
                let value = file.get_xattr(std::ffi::OsStr::from_bytes(&name)).ok()??;
                (value.len() <= LONGEST_XATTR).then_some((name, value))
            })
            .take(64)
            .collect()
    }
}

fn is_regular(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits()
}

fn entry(node: &Node<'_>, stat: &FileStat, kind: Kind, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Entry {
    Entry {
        name: node.name.clone(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        xattrs,
    }
}
