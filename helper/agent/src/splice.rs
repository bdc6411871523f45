//! Bytes between a stream to the host and a descriptor, both ways, with both ends of file.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use banger_wire::agent::kind;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{Shutdown, shutdown};
use nix::sys::uio::writev;
use tokio::io::unix::AsyncFd;

use crate::caller::Caller;
use crate::channel::{Gone, Stream};

/// Read from the descriptor at once.
const BUFFER: usize = 64 * 1024;
/// Written at once, when so much is here: two frames of a copy.
const GATHERED: usize = 256 * 1024;
/// Of the port's reader without anything for us; a frame comes in one or two.
const TURNS: usize = 3;
/// Of what is written at once; writev(2) takes a thousand.
const MOST_PIECES: usize = 64;

/// Why bytes stopped before both sides had finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The stream is gone.
    Stream,
    /// The descriptor failed.
    Descriptor,
}

impl From<Gone> for Broken {
    fn from(_: Gone) -> Broken {
        Broken::Stream
    }
}

/// What the host sends, to a non-blocking socket; its end of file too. `early` came before.
///
/// # Errors
/// [`Broken`].
pub(crate) async fn to_socket(
    stream: &Stream,
    socket: &AsyncFd<OwnedFd>,
    early: Vec<u8>,
) -> Result<(), Broken> {
    write_all(socket, &[early]).await?;
    while let Some(bytes) = stream.receive().await? {
        let mut gathered = bytes.len();
        let mut pieces = vec![bytes];
        let mut turns = 0;
        // Each write may switch to the process behind the socket, which costs an emulated processor its caches.
        while gathered < GATHERED && pieces.len() < MOST_PIECES {
            match stream.receive_more() {
                Some(more) => {
                    gathered += more.len();
                    pieces.push(more);
                    turns = 0;
                }
                // While others' bytes come, ours do not wait for long.
                None if turns < TURNS && stream.more_may_come() => {
                    turns += 1;
                    tokio::task::yield_now().await;
                }
                None => break,
            }
        }
        write_all(socket, &pieces).await?;
    }
    // A peer that has closed already has nothing left to hear.
    let _ = shutdown(raw(socket), Shutdown::Write);
    Ok(())
}

/// What a non-blocking socket sends, to the host, until its end of file.
///
/// # Errors
/// [`Broken`].
pub(crate) async fn from_socket(stream: &Stream, socket: &AsyncFd<OwnedFd>) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut ready = socket.readable().await.map_err(|_| Broken::Descriptor)?;
        match ready.try_io(|socket| Ok(nix::unistd::read(socket, &mut buffer)?)) {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(count)) => stream.send(&buffer[..count]).await?,
            Ok(Err(error)) if error.raw_os_error() == Some(libc::EINTR) => {}
            Ok(Err(_)) => return Err(Broken::Descriptor),
            Err(_would_block) => {}
        }
    }
}

async fn write_all(socket: &AsyncFd<OwnedFd>, pieces: &[Vec<u8>]) -> Result<(), Broken> {
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut left = &mut slices[..];
    // Empty ones go, too.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        // First without asking: mostly there is room.
        match writev(socket, left) {
            Ok(count) => {
                IoSlice::advance_slices(&mut left, count);
                continue;
            }
            Err(Errno::EAGAIN) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return Err(Broken::Descriptor),
        }
        let mut ready = socket.writable().await.map_err(|_| Broken::Descriptor)?;
        match ready.try_io(|socket| Ok(writev(socket, left)?)) {
            Ok(Ok(count)) => IoSlice::advance_slices(&mut left, count),
            Ok(Err(error)) if error.raw_os_error() == Some(libc::EINTR) => {}
            Ok(Err(_)) => return Err(Broken::Descriptor),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

fn raw(socket: &AsyncFd<OwnedFd>) -> std::os::fd::RawFd {
    use std::os::fd::AsRawFd;
    socket.get_ref().as_raw_fd()
}

/// Takes what the host sends and forgets it, then sends so many bytes: the transport and nothing else.
///
/// # Errors
/// [`Gone`].
pub(crate) async fn measure(caller: &Caller, bytes: u64) -> Result<(), Gone> {
    caller.send(kind::STARTED, br#"{"pid":0}"#).await?;
    while caller.receive().await?.is_some() {}
    let buffer = vec![0; BUFFER];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
        caller.stream().send(&buffer[..count]).await?;
        left -= count as u64;
    }
    Ok(())
}
