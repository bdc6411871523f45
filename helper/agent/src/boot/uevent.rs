//! Waits for devices by the kernel's own announcements, for those that come after their driver.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// The kernel's own multicast group; udev's is 2.
const KERNEL_GROUP: u32 = 1;

/// Looks until `look` finds something, again after every announcement.
///
/// # Errors
/// `TimedOut` at the deadline; those of the socket and of `look`.
pub(super) fn wait_for<T>(
    limit: Duration,
    mut look: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<T> {
    if let Some(found) = look()? {
        return Ok(found);
    }
    let deadline = Instant::now() + limit;
    let socket = subscribe()?;
    loop {
        // After subscribing, so that nothing falls between looking and waiting.
        if let Some(found) = look()? {
            return Ok(found);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if left.is_zero() || poll(&mut polled, timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut buffer = [0; 8192];
        while recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    }
}

fn subscribe() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_is_not_times_out() {
        assert_eq!(wait_for(Duration::ZERO, || Ok(Some(7))).unwrap(), 7);
        let missing = wait_for(Duration::from_millis(5), || Ok(None::<()>));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
