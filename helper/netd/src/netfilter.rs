//! The way of elements to the kernel: one socket, one message, one transaction.

use std::io;
use std::os::fd::AsRawFd;

use banger_failpoint::point;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

use crate::elements::{Change, acknowledged, batch};

/// Makes the changes, all or none.
///
/// # Errors
/// What the kernel says; `ENOENT` when a set is not there.
pub(crate) fn change(changes: &[Change<'_>]) -> io::Result<()> {
    point("netd.netfilter.change")?;
    if changes.is_empty() {
        return Ok(());
    }
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    send(socket.as_raw_fd(), &batch(changes), MsgFlags::empty())?;
    // The kernel works within send(2), so that all it has to say is there.
    let mut count = 0;
    let mut buffer = [0; 8192];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                count += acknowledged(&buffer[..length]).map_err(io::Error::from_raw_os_error)?;
            }
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if count == changes.len() {
        return Ok(());
    }
    let message = format!(
        "the kernel acknowledged {count} of {} changes",
        changes.len()
    );
    Err(io::Error::other(message))
}
