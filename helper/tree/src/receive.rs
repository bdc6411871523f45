//! The receiving side: from a hostile stream to files below one directory.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat, mknodat};
use nix::unistd::{linkat, symlinkat};

use crate::direct::Target;
use crate::entry::{Entry, Kind, Name};
use crate::error::{Result, TreeError, shown};
use crate::place::{Keep, Temporary, as_file, new_file, open_directory};
use crate::stream::{Chunk, Reader, Step};

/// As many problems are kept in words.
const MOST_PROBLEMS: usize = 20;

/// How to receive.
#[derive(Debug, Clone, Default)]
pub struct Receive {
    /// Keep owners, set-user-id bits and all attributes, as far as permitted.
    pub archive: bool,
    /// More than one thing comes, so the target must be a directory.
    pub several: bool,
    /// Write large files past the page cache.
    pub past_cache: bool,
}

/// What arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries of all kinds.
    pub entries: u64,
    /// Bytes of content, without holes.
    pub bytes: u64,
    /// What the sender left out, in its words; the first twenty.
    pub problems: Vec<String>,
    /// How many it left out.
    pub left_out: u64,
}

impl Summary {
    pub(crate) fn leave_out(&mut self, words: String) {
        self.left_out += 1;
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(words);
        }
    }
}

/// Receives a tree into `target`, as cp(1) takes one: into it when it is a directory, else in its
/// place. `progress` hears of each entry and each piece, in bytes.
///
/// # Errors
/// Those of the stream and of the file system. What is whole by then stays.
pub fn receive<R: Read>(
    reader: &mut Reader<R>,
    target: &Path,
    options: &Receive,
    progress: &mut dyn FnMut(u64),
) -> Result<Summary> {
    let place = Place::find(target, options.several)?;
    receive_at(reader, place, options, progress)
}

/// Receives a tree into a directory that is open.
///
/// # Errors
/// As [`receive`].
pub fn receive_into<R: Read>(
    reader: &mut Reader<R>,
    directory: BorrowedFd<'_>,
    options: &Receive,
    progress: &mut dyn FnMut(u64),
) -> Result<Summary> {
    let place = Place::Into(directory.try_clone_to_owned()?);
    receive_at(reader, place, options, progress)
}

fn receive_at<R: Read>(
    reader: &mut Reader<R>,
    place: Place,
    options: &Receive,
    progress: &mut dyn FnMut(u64),
) -> Result<Summary> {
    let mut receiver = Receiver {
        place,
        keep: Keep {
            archive: options.archive,
        },
        past_cache: options.past_cache,
        levels: Vec::new(),
        renamed: None,
        progress,
    };
    let mut summary = Summary::default();
    loop {
        match reader.next_step()? {
            Step::Entry(entry) => receiver.entry(entry, reader)?,
            Step::Leave => receiver.leave()?,
            Step::Problem(words) => summary.leave_out(words),
            Step::Done => break,
        }
    }
    (summary.entries, summary.bytes) = reader.seen();
    Ok(summary)
}

/// Where the top of the tree goes.
enum Place {
    /// Into this directory.
    Into(OwnedFd),
    /// In this directory under this name.
    As(OwnedFd, Name),
}

impl Place {
    /// The user's own path, so links in it are followed.
    fn find(target: &Path, several: bool) -> Result<Place> {
        let bytes = target.as_os_str().as_bytes();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let failed = |action| TreeError::file(action, bytes);
        match open(target, flags, Mode::empty()) {
            Ok(directory) => return Ok(Place::Into(directory)),
            Err(errno @ (Errno::ENOENT | Errno::ENOTDIR)) => {
                if several || bytes.ends_with(b"/") {
                    return Err(failed("copy into the directory")(errno));
                }
            }
            Err(errno) => return Err(failed("open")(errno)),
        }
        // A link to a file stays one: its target is replaced.
        let resolved = target.canonicalize().unwrap_or_else(|_| target.to_owned());
        let parent = match resolved.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        };
        let name = resolved.file_name().map(OsStrExt::as_bytes);
        let name = Name::try_from(name.unwrap_or_default())?;
        let parent_bytes = parent.as_os_str().as_bytes();
        let directory = open(parent, flags, Mode::empty())
            .map_err(TreeError::file("open the directory", parent_bytes))?;
        Ok(Place::As(directory, name))
    }

    fn directory(&self) -> BorrowedFd<'_> {
        match self {
            Place::Into(directory) | Place::As(directory, _) => directory.as_fd(),
        }
    }
}

/// A directory that is being filled.
struct Level {
    directory: OwnedFd,
    entry: Entry,
    /// It was here before, or nothing is known about it.
    untouched: bool,
}

struct Receiver<'a> {
    place: Place,
    keep: Keep,
    past_cache: bool,
    levels: Vec<Level>,
    /// The name of the tree's top in the stream, when it has another one here.
    renamed: Option<(Name, Option<Name>)>,
    progress: &'a mut dyn FnMut(u64),
}

impl Receiver<'_> {
    fn entry<R: Read>(&mut self, entry: Entry, reader: &mut Reader<R>) -> Result<()> {
        (self.progress)(0);
        let name = match self.own_name(&entry)? {
            Some(name) => c_string(&name)?,
            // The content of a directory goes right into the target.
            None => return self.enter_target(entry),
        };
        match &entry.kind {
            Kind::Directory { implied, .. } => {
                let implied = *implied;
                self.enter(entry, &name, implied)
            }
            Kind::File { size } => self.file(&entry, *size, &name, reader),
            Kind::Symlink { target } => {
                let target = CString::new(&target[..])
                    .map_err(|_| TreeError::Protocol("a link target with a zero byte"))?;
                let (made, ()) = Temporary::make(self.directory(), |directory, temporary| {
                    symlinkat(&*target, directory, &**temporary)
                })
                .map_err(TreeError::file("make the link", entry.name.as_bytes()))?;
                self.keep.apply_to_link(&made, &entry)?;
                publish(made, &entry, &name)
            }
            Kind::Hardlink { to } => self.hard_link(&entry, to, &name),
            Kind::Fifo => {
                let mode = self.keep.mode(&entry);
                let (made, ()) = Temporary::make(self.directory(), |directory, temporary| {
                    mknodat(directory, &**temporary, SFlag::S_IFIFO, mode, 0)
                })
                .map_err(TreeError::file("make the pipe", entry.name.as_bytes()))?;
                self.keep.apply_to_link(&made, &entry)?;
                publish(made, &entry, &name)
            }
        }
    }

    /// The name that an entry gets here; none for a directory that is the target itself.
    fn own_name(&mut self, entry: &Entry) -> Result<Option<Name>> {
        if !self.levels.is_empty() {
            return Ok(Some(entry.name.clone()));
        }
        let contents = matches!(entry.kind, Kind::Directory { contents: true, .. });
        let own = match &self.place {
            Place::Into(_) if contents => None,
            Place::Into(_) => Some(entry.name.clone()),
            Place::As(_, name) => {
                if self.renamed.is_some() {
                    return Err(TreeError::Protocol("more than one thing for one name"));
                }
                Some(name.clone())
            }
        };
        self.renamed = Some((entry.name.clone(), own.clone()));
        Ok(own)
    }

    fn directory(&self) -> BorrowedFd<'_> {
        match self.levels.last() {
            Some(level) => level.directory.as_fd(),
            None => self.place.directory(),
        }
    }

    fn enter_target(&mut self, entry: Entry) -> Result<()> {
        let directory = self.place.directory().try_clone_to_owned()?;
        self.levels.push(Level {
            directory,
            entry,
            untouched: true,
        });
        Ok(())
    }

    fn enter(&mut self, entry: Entry, name: &CString, implied: bool) -> Result<()> {
        let parent = self.directory();
        let mode = match implied {
            true => Mode::from_bits_truncate(0o755),
            // Nobody else looks in before it has its owner and mode.
            false => Mode::S_IRWXU,
        };
        let made = match mkdirat(parent, &**name, mode) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => {
                return Err(TreeError::file("make the directory", name.as_bytes())(
                    errno,
                ));
            }
        };
        let directory = open_directory(parent, name).map_err(|errno| match errno {
            Errno::ENOTDIR | Errno::ELOOP => TreeError::Refused(format!(
                "{} is here already and is no directory",
                shown(name.as_bytes())
            )),
            errno => TreeError::file("open the directory", name.as_bytes())(errno),
        })?;
        self.levels.push(Level {
            directory,
            entry,
            untouched: implied || !(made || self.keep.archive),
        });
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let Some(level) = self.levels.pop() else {
            return Err(TreeError::Protocol("the end of no directory"));
        };
        if !level.untouched {
            self.keep.apply(&as_file(&level.directory)?, &level.entry)?;
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        size: u64,
        name: &CString,
        reader: &mut Reader<R>,
    ) -> Result<()> {
        let directory = self.directory().try_clone_to_owned()?;
        let (made, file) = Temporary::make(directory.as_fd(), new_file)
            .map_err(TreeError::file("make", name.as_bytes()))?;
        let failed = |cause: io::Error| TreeError::File {
            action: "write",
            name: shown(name.as_bytes()),
            cause,
        };
        let mut target = Target::new(file, size, self.past_cache);
        let (mut length, mut hole_at_end) = (0u64, false);
        loop {
            let chunk = match target.room() {
                Some(room) => {
                    let chunk = reader.chunk_into(room)?;
                    if let Chunk::Data(count) = chunk {
                        target.filled(count).map_err(failed)?;
                    }
                    chunk
                }
                None => match reader.chunk()? {
                    Chunk::Data(bytes) => {
                        target.write(bytes).map_err(failed)?;
                        Chunk::Data(bytes.len())
                    }
                    Chunk::Hole(hole) => Chunk::Hole(hole),
                    Chunk::End => Chunk::End,
                },
            };
            match chunk {
                Chunk::Data(count) => {
                    length += count as u64;
                    hole_at_end = false;
                    (self.progress)(count as u64);
                }
                Chunk::Hole(hole) => {
                    length += hole;
                    target.skip_to(length).map_err(failed)?;
                    hole_at_end = true;
                }
                Chunk::End => break,
            }
        }
        let file = target.finish().map_err(failed)?;
        if hole_at_end {
            file.set_len(length).map_err(failed)?;
        }
        self.keep.apply(&file, entry)?;
        publish(made, entry, name)
    }

    /// Never through a link, and never further up than the top of the tree.
    fn hard_link(&self, entry: &Entry, to: &[Name], name: &CString) -> Result<()> {
        let mut names: Vec<Name> = to.to_vec();
        match &self.renamed {
            Some((there, Some(here))) if names[0] == *there => names[0] = here.clone(),
            Some((there, None)) if names[0] == *there => drop(names.remove(0)),
            _ => {}
        }
        let Some((last, on_the_way)) = names.split_last() else {
            return Err(TreeError::Protocol("a hard link to the top"));
        };
        let failed = |errno| TreeError::file("link", entry.name.as_bytes())(errno);
        let mut parent = self.place.directory().try_clone_to_owned()?;
        for directory in on_the_way {
            parent = open_directory(parent.as_fd(), &c_string(directory)?).map_err(failed)?;
        }
        let last = c_string(last)?;
        let (made, ()) = Temporary::make(self.directory(), |directory, temporary| {
            linkat(&parent, &*last, directory, &**temporary, AtFlags::empty())
        })
        .map_err(failed)?;
        publish(made, entry, name)
    }
}

/// A file takes the place of a file, and not of what other programs know by its name.
fn publish(made: Temporary<'_>, entry: &Entry, name: &CString) -> Result<()> {
    let there = fstatat(made.directory(), &**name, AtFlags::AT_SYMLINK_NOFOLLOW);
    let there = there.map_or(SFlag::empty(), |there| {
        SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits())
    });
    let other = match there {
        SFlag::S_IFCHR | SFlag::S_IFBLK => Some("device"),
        SFlag::S_IFSOCK => Some("socket"),
        SFlag::S_IFIFO if entry.kind != Kind::Fifo => Some("pipe"),
        _ => None,
    };
    if let Some(other) = other {
        return Err(TreeError::Refused(format!(
            "{} is here already and is a {other}",
            shown(name.as_bytes())
        )));
    }
    made.publish(name).map_err(|errno| match errno {
        Errno::EISDIR => TreeError::Refused(format!(
            "{} is here already and is a directory",
            shown(name.as_bytes())
        )),
        errno => TreeError::file("name", entry.name.as_bytes())(errno),
    })
}

fn c_string(name: &Name) -> Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| TreeError::Protocol("a name with a zero byte"))
}
