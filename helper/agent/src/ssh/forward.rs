//! Forwarded connections, both ways: TCP, Unix sockets and the client's key agent.
//!
//! This process is the user by now, so that the kernel says what it may connect to and bind.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as UnixSocket;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use russh::server::{ChannelOpenHandle, Msg};
use russh::{ChannelId, ChannelOpenFailure, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::spawn_local;

use super::connection::Connection;
use super::inputs::Input;
use super::resolve::resolve;

/// As much is read at once.
const CHUNK: usize = 32 * 1024;
/// Connections on their way to the client at a time; more are closed at once.
const MAX_OFFERED: usize = 200;
/// Before connections are accepted again after that failed (no descriptors, no memory).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How long one address may take to answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// What a channel leads to.
#[derive(Debug)]
pub(super) enum Target {
    /// A host, by name or address, and a port.
    Tcp(String, u16),
    /// A socket.
    Unix(PathBuf),
}

/// What is forwarded to the client, as the client named it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// Address and port.
    Tcp(String, u32),
    /// Path.
    Unix(String),
    /// The key agent, for the session that asked for it.
    Agent(ChannelId),
}

/// Sockets that wait for connections; what they have in the file system goes with them.
#[derive(Debug)]
pub(super) enum Listener {
    /// Both loopback addresses, where the guest has both.
    Tcp(TcpListener, Option<TcpListener>),
    /// One socket.
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "removes the path when dropped")] Remove,
    ),
}

/// A path that is removed when this is dropped, and its directory if that is ours, too.
#[derive(Debug)]
pub(super) struct Remove {
    path: PathBuf,
    directory: bool,
}

impl Drop for Remove {
    fn drop(&mut self) {
        // The guest's user may have been first.
        let _ = fs::remove_file(&self.path);
        if let Some(directory) = self.path.parent().filter(|_| self.directory) {
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Listener {
    /// Listens on loopback, whatever address was asked for, as sshd does without GatewayPorts.
    /// Returns the port, which is a free one for 0.
    ///
    /// # Errors
    /// Those of bind(2).
    pub(super) fn tcp(port: u16) -> io::Result<(Listener, u16)> {
        let first = bind((Ipv4Addr::LOCALHOST, port).into())?;
        let port = first.local_addr()?.port();
        let second = bind((Ipv6Addr::LOCALHOST, port).into()).ok();
        Ok((Listener::Tcp(first, second), port))
    }

    /// Listens on a new socket that only the user may connect to.
    ///
    /// # Errors
    /// Those of bind(2): a file that is there already stays.
    pub(super) fn unix(path: &str) -> io::Result<Listener> {
        Listener::at(path.into(), false)
    }

    /// Listens where programs look for a key agent; returns the path.
    ///
    /// # Errors
    /// Those of mkdtemp(3) and bind(2).
    pub(super) fn agent() -> io::Result<(Listener, String)> {
        let directory = nix::unistd::mkdtemp(Path::new("/tmp/ssh-XXXXXX"))?;
        let path = directory.join(format!("agent.{}", std::process::id()));
        let text = path.display().to_string();
        Ok((Listener::at(path, true)?, text))
    }

    fn at(path: PathBuf, directory: bool) -> io::Result<Listener> {
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixSocket::bind(&path);
        umask(before);
        let socket = bound?;
        let remove = Remove { path, directory };
        fs::set_permissions(&remove.path, Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        Ok(Listener::Unix(UnixListener::from_std(socket)?, remove))
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Connects a channel of the client's to something in the guest.
pub(super) async fn dial(
    connection: Rc<Connection>,
    target: Target,
    channel: ChannelWriteHalf<Msg>,
    reply: ChannelOpenHandle,
) {
    let Some(inputs) = connection.inputs.receiver(channel.id()) else {
        return;
    };
    let failed = ChannelOpenFailure::ConnectFailed;
    match target {
        Target::Tcp(host, port) => match connect(&host, port).await {
            Ok(socket) => {
                let _ = socket.set_nodelay(true);
                reply.accept().await;
                relay(&connection, socket, channel, inputs).await;
            }
            Err(_) => reject(&connection, &channel, reply, failed).await,
        },
        Target::Unix(path) => match UnixStream::connect(path).await {
            Ok(socket) => {
                reply.accept().await;
                relay(&connection, socket, channel, inputs).await;
            }
            Err(_) => reject(&connection, &channel, reply, failed).await,
        },
    }
}

async fn reject(
    connection: &Connection,
    channel: &ChannelWriteHalf<Msg>,
    reply: ChannelOpenHandle,
    reason: ChannelOpenFailure,
) {
    connection.inputs.close(channel.id());
    reply.reject(reason).await;
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in resolve(host).await {
        let connecting = TcpStream::connect((address, port));
        match tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Opens a channel to the client for each connection, until `cancelled` says so.
pub(super) async fn listen(
    connection: Rc<Connection>,
    listener: Listener,
    origin: Origin,
    mut cancelled: watch::Receiver<()>,
) {
    let accepting = async {
        match &listener {
            Listener::Tcp(first, second) => {
                let accept = async || match second {
                    Some(second) => tokio::select! {
                        accepted = first.accept() => accepted,
                        accepted = second.accept() => accepted,
                    },
                    None => first.accept().await,
                };
                accept_each(accept, |(socket, from): (TcpStream, _)| {
                    let _ = socket.set_nodelay(true);
                    offer(&connection, &origin, socket, Some(from));
                })
                .await;
            }
            Listener::Unix(listener, _) => {
                let accept = async || listener.accept().await;
                accept_each(accept, |(socket, _)| {
                    offer(&connection, &origin, socket, None)
                })
                .await;
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = cancelled.changed() => {}
    }
}

/// Takes connections for ever. One that cannot be had now cannot be had a moment later either, and nobody may spin
/// meanwhile.
async fn accept_each<T>(mut accept: impl AsyncFnMut() -> io::Result<T>, mut take: impl FnMut(T)) {
    loop {
        match accept().await {
            Ok(accepted) => take(accepted),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Offers an accepted connection to the client, unless it has too many of them: anybody in the guest may connect.
fn offer(
    connection: &Rc<Connection>,
    origin: &Origin,
    socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
    from: Option<SocketAddr>,
) {
    let offered = &connection.offered;
    if offered.get() >= MAX_OFFERED {
        return;
    }
    offered.set(offered.get() + 1);
    let (connection, origin) = (Rc::clone(connection), origin.clone());
    spawn_local(async move {
        pass_on(&connection, origin, socket, from).await;
        connection.offered.set(connection.offered.get() - 1);
    });
}

async fn pass_on(
    connection: &Connection,
    origin: Origin,
    socket: impl AsyncRead + AsyncWrite + Unpin,
    from: Option<SocketAddr>,
) {
    let handle = &connection.handle;
    let opened = match origin {
        Origin::Tcp(address, port) => {
            let from = from.unwrap_or((Ipv4Addr::LOCALHOST, 0).into());
            let host = from.ip().to_string();
            handle
                .channel_open_forwarded_tcpip(address, port, host, from.port().into())
                .await
        }
        Origin::Unix(path) => handle.channel_open_forwarded_streamlocal(path).await,
        Origin::Agent(_) => handle.channel_open_agent().await,
    };
    // A client that refuses hangs up on who connected.
    if let Ok(channel) = opened {
        let (_, channel) = channel.split();
        if let Some(inputs) = connection.inputs.receiver(channel.id()) {
            relay(connection, socket, channel, inputs).await;
        }
    }
}

/// Moves bytes until both directions have ended or the client closes the channel.
async fn relay(
    connection: &Connection,
    socket: impl AsyncRead + AsyncWrite,
    channel: ChannelWriteHalf<Msg>,
    mut inputs: UnboundedReceiver<Input>,
) {
    let (mut reader, mut writer) = tokio::io::split(socket);
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            if channel.data_bytes(buffer[..length].to_vec()).await.is_err() {
                break;
            }
        }
        // The connection may have ended.
        let _ = channel.eof().await;
    };
    let inward = async {
        while let Some(input) = inputs.recv().await {
            match input {
                Input::Data(held) => {
                    let written = writer.write_all(&held.bytes).await;
                    drop(held);
                    if written.is_err() {
                        return Ended::Early;
                    }
                }
                Input::Eof => {
                    let _ = writer.shutdown().await;
                    return Ended::Eof;
                }
                Input::Closed => return Ended::Closed,
                _ => {}
            }
        }
        Ended::Closed
    };
    let mut outward = std::pin::pin!(outward);
    let mut inward = std::pin::pin!(inward);
    tokio::select! {
        () = &mut outward => {
            // The other side may still be told something.
            inward.await;
        }
        ended = &mut inward => {
            if ended != Ended::Closed {
                outward.await;
            }
        }
    }
    let _ = channel.close().await;
    connection.inputs.close(channel.id());
}

/// How the client's direction ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// In order.
    Eof,
    /// The socket takes no more.
    Early,
    /// The channel is gone.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_accepted_is_not_asked_for_again_at_once() {
        let runtime = crate::runtime().unwrap();
        let (mut asked, mut taken) = (0, 0);
        let accept = async || {
            asked += 1;
            // Without a pause this never gives up the processor, and the time below never comes.
            assert!(asked < 100, "asked again and again");
            match asked {
                1 | 2 => Ok(()),
                _ => Err(nix::errno::Errno::EMFILE.into()),
            }
        };
        let accepting = accept_each(accept, |()| taken += 1);
        let a_moment = ACCEPT_PAUSE / 20;
        let ended = runtime.block_on(async { tokio::time::timeout(a_moment, accepting).await });
        assert!(ended.is_err(), "it goes on for ever");
        assert_eq!(taken, 2);
        assert!(asked >= 3);
    }
}
