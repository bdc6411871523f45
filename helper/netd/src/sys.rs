//! The system calls that neither std nor nix offers safely. Unsafe code: this module only.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use banger_failpoint::point;
use banger_proto::InterfaceName;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Most groups that a process can have (NGROUPS_MAX, getgroups(2)).
const GROUPS: usize = 65_536;

// Declared for an int, but it reads an ifreq (linux/if_tun.h).
nix::ioctl_write_ptr_bad!(
    tun_set_iff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

// Declared for an unsigned int, but it writes an ifreq.
nix::ioctl_read_bad!(
    tun_get_iff,
    nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()),
    libc::ifreq
);

/// Takes over a descriptor that the parent process passed by number.
///
/// # Errors
/// `EBADF` when it is not open.
pub(crate) fn passed_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the borrow lasts for one fcntl(2), which fails cleanly when the number is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let owned = borrowed.try_clone_to_owned()?;
    if number > 2 {
        // Nothing else in this process knows the number; children must not inherit it.
        nix::unistd::close(number)?;
    }
    Ok(owned)
}

/// Makes a tap interface that lasts as long as the descriptor is open somewhere.
///
/// # Errors
/// `EBUSY` when somebody has it open; those of open(2) on `/dev/net/tun`.
pub(crate) fn tap(name: &InterfaceName) -> io::Result<OwnedFd> {
    point("netd.tap.open")?;
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: an ifreq is integers and bytes in a union, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // An `InterfaceName` is at most 15 bytes of ASCII, so the name ends with a zero.
    for (place, byte) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *place = byte.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    // The flags are 16 bits (netdevice(7)).
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    point("netd.tap.make")?;
    // SAFETY: the pointer is to a live ifreq, which is what TUNSETIFF reads and writes.
    unsafe { tun_set_iff(tun.as_raw_fd(), &request) }?;
    Ok(tun.into())
}

/// The name of the tap that a descriptor is for.
///
/// # Errors
/// `ENOTTY`, `EBADFD` and the like when it is for none.
pub(crate) fn tap_name(tap: impl AsFd) -> io::Result<String> {
    // SAFETY: as in `tap`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live ifreq, which is what TUNGETIFF writes.
    unsafe { tun_get_iff(tap.as_fd().as_raw_fd(), &mut request) }?;
    let name = request.ifr_name.iter().take_while(|c| **c != 0);
    Ok(name.map(|c| char::from(c.cast_unsigned())).collect())
}

/// How many bytes of a stream have come and were not read (unix(7), SIOCINQ).
///
/// # Errors
/// Those of ioctl(2).
pub(crate) fn unread(socket: impl AsFd) -> io::Result<usize> {
    nix::ioctl_read_bad!(bytes_unread, libc::FIONREAD, libc::c_int);
    let mut count = 0;
    // SAFETY: the pointer is to a live int, which is what FIONREAD writes.
    unsafe { bytes_unread(socket.as_fd().as_raw_fd(), &mut count) }?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Takes over a descriptor that the kernel has just put into a control message (unix(7), SCM_RIGHTS).
pub(crate) fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: recvmsg(2) made this number for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Room for the structures of block devices' requests, aligned as they are in C.
#[repr(C, align(8))]
#[derive(Debug, Clone)]
pub(crate) struct Block<const LENGTH: usize>(pub(crate) [u8; LENGTH]);

/// LOOP_CTL_GET_FREE: the number of a loop device that nobody uses at the moment (loop(4)).
///
/// # Errors
/// Those of ioctl(2).
pub(crate) fn loop_free(control: &File) -> io::Result<u32> {
    // SAFETY: the request has no argument.
    let number = nix::errno::Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), 0x4c82) })?;
    Ok(number.cast_unsigned())
}

/// LOOP_CONFIGURE with a `struct loop_config` (linux/loop.h).
///
/// # Errors
/// `EBUSY` when somebody else was faster; others of ioctl(2).
pub(crate) fn loop_configure(device: &File, config: &Block<304>) -> io::Result<()> {
    // SAFETY: the pointer is to a live loop_config, which the request only reads.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), 0x4c0a, config.0.as_ptr()) };
    nix::errno::Errno::result(result)
        .map(drop)
        .map_err(io::Error::from)
}

/// LOOP_GET_STATUS64: the `struct loop_info64` of a device.
///
/// # Errors
/// `ENXIO` when it has no file; others of ioctl(2).
pub(crate) fn loop_status(device: &File) -> io::Result<Block<232>> {
    let mut status = Block([0; 232]);
    // SAFETY: the pointer is to a live loop_info64, which the request writes.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), 0x4c05, status.0.as_mut_ptr()) };
    nix::errno::Errno::result(result)?;
    Ok(status)
}

/// LOOP_CLR_FD: the device has no file any more, as soon as nobody has it open.
///
/// # Errors
/// Those of ioctl(2).
pub(crate) fn loop_clear(device: &File) -> io::Result<()> {
    // SAFETY: the request has no argument.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), 0x4c01) };
    nix::errno::Errno::result(result)
        .map(drop)
        .map_err(io::Error::from)
}

/// A request to the device mapper: a `struct dm_ioctl` with what follows it, and room for the answer.
///
/// # Errors
/// Those of ioctl(2).
///
/// # Panics
/// When the buffer is not as long as it says: the kernel would write behind its end.
pub(crate) fn device_mapper(control: &File, number: u8, request: &mut [u64]) -> io::Result<()> {
    // data_size is the fourth word of 32 bits.
    let announced = request[1] >> 32;
    assert!(announced as usize <= size_of_val(request) && size_of_val(request) >= 312);
    let code = nix::request_code_readwrite!(0xfd, number, 312);
    // SAFETY: the kernel reads and writes data_size bytes, which are ours; a u64 is aligned as a dm_ioctl.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), code, request.as_mut_ptr()) };
    nix::errno::Errno::result(result)
        .map(drop)
        .map_err(io::Error::from)
}

/// A descriptor of a process (pidfd_open(2)).
///
/// # Errors
/// `ESRCH` when it is gone.
pub(crate) fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers, and returns a descriptor that is ours.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let number = nix::errno::Errno::result(number)?;
    // SAFETY: as above; descriptors are ints.
    Ok(unsafe { OwnedFd::from_raw_fd(number as RawFd) })
}

/// Sends a signal to exactly the process of a descriptor (pidfd_send_signal(2)).
///
/// # Errors
/// `ESRCH` when it has ended.
pub(crate) fn pidfd_send_signal(process: &OwnedFd, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: numbers, and no siginfo.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            none,
            0,
        )
    };
    nix::errno::Errno::result(result)
        .map(drop)
        .map_err(io::Error::from)
}

/// Waits for the end of a process (pidfd_open(2): its descriptor can be read then).
///
/// # Errors
/// Those of watching the descriptor.
pub(crate) async fn ended(process: OwnedFd) -> io::Result<()> {
    // SAFETY: what is watched is an OwnedFd, which always has the same descriptor and closes it last.
    let watched = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    watched
        .map_err(|error| error.into_parts().1)?
        .readable()
        .await?
        .retain_ready();
    Ok(())
}

/// A file whose changes the kernel tells of, as it does of some in /proc, /sys and cgroups (poll(2), POLLPRI).
#[derive(Debug)]
pub(crate) struct Watched(AsyncFd<File>);

impl Watched {
    /// # Errors
    /// A file that cannot be watched.
    pub(crate) fn new(file: File) -> io::Result<Watched> {
        // SAFETY: what is watched is a File, which always has the same descriptor and closes it last.
        let watched = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) };
        Ok(Watched(watched.map_err(|error| error.into_parts().1)?))
    }

    /// What is in it now. A change after this is the next one (kernfs_generic_poll() compares with the last read of the
    /// same open file).
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn text(&self) -> io::Result<String> {
        let mut buffer = [0; 4096];
        let length = self.0.get_ref().read_at(&mut buffer, 0)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// Those of watching.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        self.0.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }
}

/// What is executed next inherits the standard streams and these descriptors, and no others (close_range(2), Linux
/// 5.11).
///
/// # Errors
/// `EBADF` when one is not open.
pub(crate) fn inherit_only(kept: &[RawFd]) -> io::Result<()> {
    // SAFETY: the call takes numbers, and closes nothing yet.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    nix::errno::Errno::result(result)?;
    for number in kept {
        // SAFETY: the call takes numbers.
        let result = unsafe { libc::fcntl(*number, libc::F_SETFD, 0) };
        nix::errno::Errno::result(result)?;
    }
    Ok(())
}

/// Takes a capability out of what this process and its children can ever have (capabilities(7)).
///
/// # Errors
/// `EINVAL` for a number that the kernel does not know.
pub(crate) fn drop_capability(number: i32) -> io::Result<()> {
    // SAFETY: the call takes numbers.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    nix::errno::Errno::result(result)
        .map(drop)
        .map_err(io::Error::from)
}

/// The supplementary groups of the process at the other end, when it connected (socket(7), SO_PEERGROUPS).
///
/// # Errors
/// Those of getsockopt(2).
pub(crate) fn peer_groups(socket: impl AsFd) -> io::Result<Vec<libc::gid_t>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(&groups[..]))
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        // SAFETY: the pointer is to `length` bytes that are ours, and so is the one to the length.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut length,
            )
        };
        let count = length as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || groups.len() >= GROUPS {
            return Err(error);
        }
        groups.resize(count.clamp(groups.len() + 1, GROUPS), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_closed_number_is_refused_and_the_groups_of_a_peer_are_known() {
        assert!(passed_descriptor(99_999).is_err());
        let (one, _other) = UnixStream::pair().unwrap();
        let own = nix::unistd::getgroups().unwrap();
        let own: Vec<u32> = own.into_iter().map(nix::unistd::Gid::as_raw).collect();
        assert_eq!(peer_groups(&one).unwrap(), own);
    }
}
