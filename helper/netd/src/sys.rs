//! The system calls that neither std nor nix offers safely. Unsafe code: this module only.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use banger_failpoint::point;
use banger_proto::InterfaceName;
use nix::libc;

/// Most groups that a process can have (NGROUPS_MAX, getgroups(2)).
const GROUPS: usize = 65_536;

// Declared for an int, but it reads an ifreq (linux/if_tun.h).
nix::ioctl_write_ptr_bad!(
    tun_set_iff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
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
