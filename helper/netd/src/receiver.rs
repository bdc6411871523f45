//! Descriptors that callers pass come into a process of their own, and only what waits for nobody goes on from there.
//!
//! To look at a file of a file system in user space, to close it, and to give its last reference back can each wait for
//! its server without end, and not even SIGKILL helps (FUSE_FLUSH is forced; a file with a cache is written back). So the
//! daemon has such a file neither as a descriptor nor in a socket that it closes. A receiver keeps its own copies until
//! the daemon has closed what it got; one that waits for a server holds up the caller that made it, and has a cap.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as Pair;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;

use banger_proto::MAX_DESCRIPTORS;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, getsockname, recvmsg, sendmsg,
};
use nix::sys::stat::{SFlag, fstat, major, minor};
use nix::sys::statfs::{self, FsType, fstatfs};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;

use crate::sys;

/// The word on the command line of such a process.
pub(crate) const WORD: &str = "--receive";

/// Where descriptors are refused.
pub(crate) const HINT: &str =
    "keep the files on ext4, xfs, btrfs, f2fs, zfs, jfs, bcachefs or tmpfs";

/// At a time, of one uid.
const MOST_OF_ONE: usize = 4;
/// At a time; the unit allows 64 tasks.
const MOST: usize = 16;

/// Bytes that are received with descriptors; those of one message are one piece of a stream.
const LONGEST: usize = 512;

/// As many as the kernel passes at once (SCM_MAX_FD).
const PASSED_AT_ONCE: usize = 253;

/// File systems of the kernel's own, on devices or in memory, and none that could have another one below it (overlayfs).
const LOCAL: [FsType; 8] = [
    statfs::EXT4_SUPER_MAGIC,
    statfs::XFS_SUPER_MAGIC,
    statfs::BTRFS_SUPER_MAGIC,
    statfs::F2FS_SUPER_MAGIC,
    statfs::TMPFS_MAGIC,
    BCACHEFS,
    ZFS,
    JFS,
];
const BCACHEFS: FsType = FsType(0xca45_1a4e);
const ZFS: FsType = FsType(0x2fc1_2fc1);
const JFS: FsType = FsType(0x3153_464a);
const SOCKETS: FsType = FsType(0x534f_434b);

/// Of `/dev/net/tun` (Linux' list of devices).
const TUN: (u64, u64) = (10, 200);

/// What the receiver says, with the descriptors.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Message {
    bytes: Vec<u8>,
    /// So many came.
    came: usize,
    /// Why none of them goes on.
    refused: Option<String>,
}

/// What a caller passed.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) came: usize,
    /// Or why not.
    pub(crate) descriptors: Result<Vec<OwnedFd>, String>,
    pub(crate) receiver: Receiver,
}

/// All of them, and how many more there may be.
#[derive(Debug)]
pub(crate) struct Receivers {
    all: Arc<Semaphore>,
    of: RefCell<HashMap<u32, Arc<Semaphore>>>,
}

/// One that has copies of everything. It ends when this is dropped, or later: by itself, then.
#[derive(Debug)]
pub(crate) struct Receiver(UnixStream);

impl Receivers {
    pub(crate) fn new() -> Receivers {
        Receivers {
            all: Arc::new(Semaphore::new(MOST)),
            of: RefCell::default(),
        }
    }

    /// Lets one receive what comes next on a caller's connection: at most `length` bytes, and what is passed with them,
    /// of which the daemon gets nothing unless `take`.
    ///
    /// # Errors
    /// Those of starting a process, and of what it does. The result may be waited for without end.
    pub(crate) async fn receive(
        &self,
        uid: u32,
        caller: &UnixStream,
        length: usize,
        take: bool,
    ) -> io::Result<Received> {
        let length = length.min(LONGEST).to_string();
        let take = if take { "all" } else { "none" };
        let receiver = self.start(uid, caller, &[&length, take]).await?;
        let link = &receiver.0;
        let mut said = [0; 8 * LONGEST];
        let (length, descriptors) = loop {
            link.readable().await?;
            match link.try_io(Interest::READABLE, || {
                take_message::<MAX_DESCRIPTORS>(link.as_fd(), &mut said)
            }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => break received?,
            }
        };
        if length == 0 {
            return Err(io::Error::other("what receives descriptors has failed"));
        }
        let message: Message = serde_json::from_slice(&said[..length])?;
        Ok(Received {
            bytes: message.bytes,
            came: message.came,
            descriptors: message.refused.map_or(Ok(descriptors), Err),
            receiver,
        })
    }

    /// Lets one have a copy of a connection, so that the daemon closes it without giving back what is in it.
    ///
    /// # Errors
    /// Those of starting a process.
    pub(crate) async fn hold(&self, uid: u32, caller: &UnixStream) -> io::Result<Receiver> {
        self.start(uid, caller, &[]).await
    }

    async fn start(
        &self,
        uid: u32,
        caller: &UnixStream,
        arguments: &[&str],
    ) -> io::Result<Receiver> {
        let places = self.places(uid).await;
        let (link, theirs) = Pair::pair()?;
        link.set_nonblocking(true)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(WORD)
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(caller.as_fd().try_clone_to_owned()?)
            .stdout(OwnedFd::from(theirs))
            .stderr(Stdio::null());
        let mut child = command.spawn()?;
        spawn_local(async move {
            // However long that takes.
            let _ = child.wait().await;
            drop(places);
        });
        Ok(Receiver(UnixStream::from_std(link)?))
    }

    async fn places(&self, uid: u32) -> [Option<OwnedSemaphorePermit>; 2] {
        let own = self
            .of
            .borrow_mut()
            .entry(uid)
            .or_insert_with(|| Arc::new(Semaphore::new(MOST_OF_ONE)))
            .clone();
        // They are never closed.
        let own = own.acquire_owned().await.ok();
        [own, self.all.clone().acquire_owned().await.ok()]
    }

    /// Whether a user has as many as there may be.
    pub(crate) fn exhausted(&self, uid: u32) -> bool {
        let of = self.of.borrow();
        self.all.available_permits() == 0
            || of.get(&uid).is_some_and(|own| own.available_permits() == 0)
    }
}

/// What is received next, and the descriptors with it, of which there may be `COUNT`.
fn take_message<const COUNT: usize>(
    from: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; COUNT]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(from.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            descriptors.extend(numbers.into_iter().map(sys::adopt));
        }
    }
    Ok((message.bytes, descriptors))
}

/// The receiver: standard input is a caller's connection, standard output the daemon.
pub(crate) fn receive(arguments: &[OsString]) -> ExitCode {
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(arguments: &[OsString]) -> io::Result<()> {
    let daemon = Pair::from(io::stdout().as_fd().try_clone_to_owned()?);
    // Kept to the end.
    let mut descriptors = Vec::new();
    if let [length, take] = arguments {
        let length = length.to_str().and_then(|length| length.parse().ok());
        let mut bytes = vec![0; length.ok_or(io::ErrorKind::InvalidInput)?];
        let came;
        (came, descriptors) = take_message::<PASSED_AT_ONCE>(io::stdin().as_fd(), &mut bytes)?;
        bytes.truncate(came);
        let passed = if take == "all" { &descriptors[..] } else { &[] };
        let message = Message {
            bytes,
            came: descriptors.len(),
            refused: passed
                .iter()
                .try_for_each(|one| waits_for_nobody(one.as_fd()))
                .err(),
        };
        say(&daemon, &message, passed)?;
    }
    // Until the daemon has closed its own.
    let ended = (&daemon).read(&mut [0]);
    drop(descriptors);
    ended.map(drop)
}

fn say(daemon: &Pair, message: &Message, descriptors: &[OwnedFd]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let none = message.refused.is_some() || numbers.is_empty() || numbers.len() > MAX_DESCRIPTORS;
    let rights = if none { &[] } else { &rights[..] };
    let slices = [IoSlice::new(&text)];
    sendmsg::<()>(
        daemon.as_raw_fd(),
        &slices,
        rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Whether it is what verbs have, and of a kind that the daemon can look at and close at any time.
///
/// # Errors
/// Why not, for people.
fn waits_for_nobody(descriptor: BorrowedFd<'_>) -> Result<(), String> {
    let failed = |error: nix::errno::Errno| format!("cannot be looked at: {}", error.desc());
    let system = fstatfs(descriptor).map_err(failed)?.filesystem_type();
    if system == SOCKETS {
        return match getsockname::<UnixAddr>(descriptor.as_raw_fd()) {
            Ok(_) => Ok(()),
            Err(_) => Err("is a socket of another family than AF_UNIX".to_owned()),
        };
    }
    if !LOCAL.contains(&system) {
        return Err(format!(
            "is of a file system that could wait for others ({:#x})",
            system.0
        ));
    }
    // Only now: the file system answers by itself.
    let status = fstat(descriptor).map_err(failed)?;
    let device = (major(status.st_rdev), minor(status.st_rdev));
    match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Ok(()),
        SFlag::S_IFCHR if device == TUN => Ok(()),
        _ => Err("is no regular file, no socket and no tap".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn only_what_waits_for_nobody_goes_on() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("file");
        std::fs::write(&path, "x").unwrap();
        waits_for_nobody(File::open(&path).unwrap().as_fd()).unwrap();
        waits_for_nobody(File::open("/dev/net/tun").unwrap().as_fd()).unwrap();
        let (one, _other) = Pair::pair().unwrap();
        waits_for_nobody(one.as_fd()).unwrap();
        let refused = |descriptor: OwnedFd, why: &str| {
            let said = waits_for_nobody(descriptor.as_fd()).unwrap_err();
            assert!(said.contains(why), "{said}");
        };
        // It could linger (socket(7), SO_LINGER).
        refused(TcpListener::bind("127.0.0.1:0").unwrap().into(), "family");
        refused(UdpSocket::bind("127.0.0.1:0").unwrap().into(), "family");
        refused(File::open("/dev/null").unwrap().into(), "no tap");
        refused(File::open(base.path()).unwrap().into(), "no regular file");
        refused(
            File::open("/proc/self/status").unwrap().into(),
            "file system",
        );
        refused(io::pipe().unwrap().0.into(), "file system");
    }
}
