//! The store's locks, in an order that the types enforce.
//!
//! `vm[id]` comes before `create` or `images`. A guard borrows what it was
//! taken from mutably, so a second lock of the same level, or an earlier one, does not compile:
//!
//! ```compile_fail
//! # fn wrong(mut locks: lib_store::Locks, id: &lib_model::VmId) -> Result<(), lib_store::StoreError> {
//! let create = locks.create()?;
//! let vm = locks.vm(id)?; // vm[id] after create
//! drop(create);
//! # Ok(()) }
//! ```
//!
//! The other way round it does:
//!
//! ```no_run
//! # fn right(mut locks: lib_store::Locks, id: &lib_model::VmId) -> Result<(), lib_store::StoreError> {
//! let mut vm = locks.vm(id)?;
//! let create = vm.create()?; // create after vm[id]
//! drop(create);
//! # Ok(()) }
//! ```
//!
//! Lock files are never removed.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;

use banger_failpoint::{passed, point};
use lib_model::VmId;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::{Context, FileLock, StoreError, io_error, now_ms};

/// Who holds a lock, as written into its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its command line, shortened.
    pub command: String,
    /// Milliseconds since 1970.
    pub since_ms: u64,
}

type Waiting = Box<dyn Fn(&str, Option<&Holder>) + Send>;

/// The right to take locks; a process makes one.
pub struct Locks {
    directory: PathBuf,
    waiting: Waiting,
    interrupt: Option<OwnedFd>,
}

impl Locks {
    /// `waiting` is told the lock's name and its holder before a wait begins.
    pub fn new(
        context: &Context,
        waiting: impl Fn(&str, Option<&Holder>) + Send + 'static,
    ) -> Self {
        Locks {
            directory: context.locks(),
            waiting: Box::new(waiting),
            interrupt: None,
        }
    }

    /// From now on a wait ends, too, when this descriptor is readable, with [`StoreError::Interrupted`]. For who has
    /// blocked the signals that would end it (signalfd(2)).
    pub fn interrupted_by(&mut self, descriptor: OwnedFd) {
        self.interrupt = Some(descriptor);
    }

    /// `vm[id]`: held for the whole of start, stop, set and delete.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn vm(&mut self, id: &VmId) -> Result<VmGuard<'_>, StoreError> {
        let file = self.take(&format!("vm/{id}"))?;
        Ok(VmGuard {
            _file: file,
            locks: self,
        })
    }

    /// `ws[id]`: held while files go into the workspaces of a VM or come out of them. Never together with
    /// `vm[id]`, whose guard keeps this from being called.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn workspace(&mut self, vm: &VmId) -> Result<WorkspaceGuard<'_>, StoreError> {
        let file = self.take(&format!("ws/{vm}"))?;
        passed("lock.workspace.taken");
        Ok(WorkspaceGuard {
            _file: file,
            vm: vm.clone(),
            _locks: self,
        })
    }

    /// `vm[id]` if nobody holds it, for work that can as well be done later.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn try_vm(&mut self, id: &VmId) -> Result<Option<VmGuard<'_>>, StoreError> {
        let path = self.directory.join("vm").join(id.as_str());
        let Some(mut lock) = FileLock::try_take(&path).map_err(io_error("lock", &path))? else {
            return Ok(None);
        };
        write_holder(lock.file()).map_err(io_error("write", &path))?;
        Ok(Some(VmGuard {
            _file: lock,
            locks: self,
        }))
    }

    /// `create`: milliseconds, for the re-check of a name and the row.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn create(&mut self) -> Result<CreateGuard<'_>, StoreError> {
        let file = self.take("create")?;
        passed("lock.create.taken");
        Ok(CreateGuard {
            _file: file,
            _order: PhantomData,
        })
    }

    /// `images`: milliseconds, for publication and deletion of images and kernels.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn images(&mut self) -> Result<ImagesGuard<'_>, StoreError> {
        let file = self.take("images")?;
        passed("lock.images.taken");
        Ok(ImagesGuard {
            _file: file,
            _order: PhantomData,
        })
    }

    fn take(&self, name: &str) -> Result<FileLock, StoreError> {
        let path = self.directory.join(name);
        let mut lock = FileLock::open(&path).map_err(io_error("open the lock file", &path))?;
        if !lock.try_lock().map_err(io_error("lock", &path))? {
            (self.waiting)(name, read_holder(lock.file()).as_ref());
            lock = match &self.interrupt {
                Some(interrupt) => wait(lock, interrupt.as_fd())
                    .map_err(io_error("lock", &path))?
                    .ok_or(StoreError::Interrupted)?,
                None => {
                    lock.lock().map_err(io_error("lock", &path))?;
                    lock
                }
            };
        }
        write_holder(lock.file()).map_err(io_error("write", &path))?;
        Ok(lock)
    }
}

/// Waits for a lock or the wish to end, of which fcntl(2) knows nothing: so in a thread. None for the wish.
fn wait(lock: FileLock, interrupt: BorrowedFd<'_>) -> io::Result<Option<FileLock>> {
    let (taken, hold) = io::pipe()?;
    let (give, take) = mpsc::channel();
    std::thread::spawn(move || {
        let locked = lock.lock().map(|()| lock);
        // When nobody wants it any more, it falls here.
        let _ = give.send(locked);
        drop(hold);
    });
    loop {
        let mut polled = [
            PollFd::new(taken.as_fd(), PollFlags::POLLIN),
            PollFd::new(interrupt, PollFlags::POLLIN),
        ];
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            found => found?,
        };
        if polled[0].any() == Some(true) {
            let locked = take.recv().map_err(io::Error::other)?;
            return locked.map(Some);
        }
        if polled[1].any() == Some(true) {
            return Ok(None);
        }
    }
}

/// Holds `vm[id]`.
pub struct VmGuard<'a> {
    _file: FileLock,
    locks: &'a mut Locks,
}

impl VmGuard<'_> {
    /// `create`, after `vm[id]`.
    ///
    /// # Errors
    /// As [`Locks::create`].
    pub fn create(&mut self) -> Result<CreateGuard<'_>, StoreError> {
        self.locks.create()
    }

    /// `images`, after `vm[id]`.
    ///
    /// # Errors
    /// As [`Locks::images`].
    pub fn images(&mut self) -> Result<ImagesGuard<'_>, StoreError> {
        self.locks.images()
    }
}

/// Holds `ws[id]`.
pub struct WorkspaceGuard<'a> {
    _file: FileLock,
    vm: VmId,
    _locks: &'a mut Locks,
}

impl WorkspaceGuard<'_> {
    /// Whose workspaces.
    pub fn vm(&self) -> &VmId {
        &self.vm
    }
}

/// Holds `create`.
pub struct CreateGuard<'a> {
    _file: FileLock,
    _order: PhantomData<&'a mut Locks>,
}

impl Drop for CreateGuard<'_> {
    fn drop(&mut self) {
        passed("lock.create.drop");
    }
}

/// Holds `images`.
pub struct ImagesGuard<'a> {
    _file: FileLock,
    _order: PhantomData<&'a mut Locks>,
}

impl Drop for ImagesGuard<'_> {
    fn drop(&mut self) {
        passed("lock.images.drop");
    }
}

pub(crate) fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

pub(crate) fn write_holder(file: &mut File) -> std::io::Result<()> {
    point("lock.holder")?;
    let command: String = std::env::args().take(4).collect::<Vec<_>>().join(" ");
    let holder = Holder {
        pid: std::process::id(),
        command: command.chars().take(200).collect(),
        since_ms: now_ms(),
    };
    file.set_len(0)?;
    file.rewind()?;
    serde_json::to_writer(&mut *file, &holder)?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn context(base: &Path) -> Context {
        let context = Context::from_environment(Some(&base.join("s")), |_| None).unwrap();
        context.make_directories().unwrap();
        context
    }

    #[test]
    fn a_waiter_is_told_who_holds_the_lock_and_then_gets_it() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        let mut first = Locks::new(&context, |_, _| {});
        let guard = first.create().unwrap();
        let (told, hears) = mpsc::channel();
        let waiter = std::thread::spawn({
            let context = context.clone();
            move || {
                let mut locks = Locks::new(&context, move |name, holder| {
                    told.send((name.to_owned(), holder.cloned())).unwrap();
                });
                drop(locks.create().unwrap());
            }
        });
        let (name, holder) = hears.recv().unwrap();
        assert_eq!(
            (name.as_str(), holder.unwrap().pid),
            ("create", std::process::id())
        );
        drop(guard);
        waiter.join().unwrap();
    }

    #[test]
    fn a_wait_ends_with_the_wish_to_end_or_with_the_lock() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        let mut first = Locks::new(&context, |_, _| {});
        let guard = first.create().unwrap();
        let (wish, wisher) = io::pipe().unwrap();
        let (told, hears) = mpsc::channel();
        let waiter = std::thread::spawn({
            let context = context.clone();
            move || {
                let mut locks = Locks::new(&context, move |_, _| told.send(()).unwrap());
                locks.interrupted_by(wish.into());
                let interrupted = locks.create().map(drop).unwrap_err();
                assert!(matches!(interrupted, StoreError::Interrupted));
            }
        });
        hears.recv().unwrap();
        drop(wisher);
        waiter.join().unwrap();

        let (never, _nobody) = io::pipe().unwrap();
        let (told, hears) = mpsc::channel();
        let waiter = std::thread::spawn({
            let context = context.clone();
            move || {
                let mut locks = Locks::new(&context, move |_, _| told.send(()).unwrap());
                locks.interrupted_by(never.into());
                drop(locks.create().unwrap());
            }
        });
        hears.recv().unwrap();
        drop(guard);
        waiter.join().unwrap();
        // The wait that was given up holds nothing.
        drop(first.create().unwrap());
    }

    #[test]
    fn a_lock_file_that_is_a_link_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        std::os::unix::fs::symlink("/etc/passwd", context.locks().join("images")).unwrap();
        let mut locks = Locks::new(&context, |_, _| {});
        assert!(matches!(locks.images(), Err(StoreError::Io { .. })));
    }

    #[test]
    fn images_may_be_taken_under_a_vm_lock() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        let mut locks = Locks::new(&context, |_, _| panic!("nobody else holds a lock"));
        let id = VmId::random().unwrap();
        let mut vm = locks.vm(&id).unwrap();
        drop(vm.images().unwrap());
        drop(vm.create().unwrap());
        drop(vm);
        drop(locks.vm(&id).unwrap());
    }

    #[test]
    fn the_workspaces_of_a_vm_are_locked_beside_the_vm() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        let id = VmId::random().unwrap();
        let mut copying = Locks::new(&context, |_, _| panic!("nobody else holds a lock"));
        let guard = copying.workspace(&id).unwrap();
        assert_eq!(guard.vm(), &id);
        let mut stopping = Locks::new(&context, |_, _| panic!("nobody else holds a lock"));
        drop(stopping.vm(&id).unwrap());
    }
}
