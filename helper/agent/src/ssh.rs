//! The SSH server: one process of its own for each connection, `/proc/self/exe ssh`.
//!
//! PID 1 only moves bytes. What parses them has an address space, a share of the OOM killer's
//! attention and an end of its own, so that a client that floods or breaks it hurts its own
//! connection; and after the login it is the user, so that the kernel checks what it does.

mod command;
mod connection;
mod flow;
mod forward;
mod handler;
mod identity;
mod inputs;
mod resolve;
mod server;
mod session;
mod terminal;

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as Socket;
use std::time::Duration;

use banger_wire::config::{Process, Ssh};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

pub(crate) use self::server::main;

use crate::channel::Stream;
use crate::console;
use crate::loopback;
use crate::process::{Processes, signal_group};
use crate::relay::relay;
use crate::role::{Role, role};
use crate::sys::{self, Child, Standard};

/// More at once are refused.
const MAX_CONNECTIONS: usize = 64;
/// What a connection's process has to end itself once its client is gone, and the client to take what is left once
/// the process is gone.
const GRACE: Duration = Duration::from_secs(10);

/// What a connection's process is told first: a little-endian `u32` of the length, then this as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Briefing {
    ssh: Ssh,
    process: Process,
}

impl Briefing {
    fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut briefing = (json.len() as u32).to_le_bytes().to_vec();
        briefing.extend(json);
        briefing
    }
}

/// Starts the processes of connections.
#[derive(Debug)]
pub(crate) struct Server {
    briefing: RefCell<Briefing>,
    connections: Cell<usize>,
}

impl Server {
    pub(crate) fn new(ssh: Ssh, process: Process) -> Server {
        Server {
            briefing: RefCell::new(Briefing { ssh, process }),
            connections: Cell::new(0),
        }
    }

    /// Lets these in from the next connection on, and nobody else.
    pub(crate) fn authorize(&self, keys: Vec<String>) {
        self.briefing.borrow_mut().ssh.authorized_keys = keys;
    }

    /// Serves one connection until both sides have ended; one too many is reset.
    pub(crate) async fn serve(&self, processes: &Processes, stream: Stream) {
        if self.connections.get() >= MAX_CONNECTIONS {
            return;
        }
        self.connections.set(self.connections.get() + 1);
        if let Err(error) = self.connect(processes, stream).await {
            console::say(&format!("an SSH connection could not be served: {error}"));
        }
        self.connections.set(self.connections.get() - 1);
    }

    async fn connect(&self, processes: &Processes, stream: Stream) -> io::Result<()> {
        let (ours, theirs) = Socket::pair()?;
        ours.set_nonblocking(true)?;
        let pid = start(theirs.into())?;
        let ended = processes.watch(pid);
        stream.accept();
        let mut socket = UnixStream::from_std(ours)?;
        // A process that is gone already is an end of file below.
        let briefing = self.briefing.borrow().encode();
        if socket.write_all(&briefing).await.is_ok() {
            // The client may have more to say, and nobody listens: a log-in that took too long ends here.
            let abandoned = async {
                ended.wait().await;
                tokio::time::sleep(GRACE).await;
            };
            tokio::select! {
                () = relay(stream, socket) => {}
                () = abandoned => {}
            }
        }
        if tokio::time::timeout(GRACE, ended.wait()).await.is_err() {
            signal_group(pid, Signal::SIGKILL);
        }
        Ok(())
    }
}

fn start(socket: OwnedFd) -> io::Result<u32> {
    let standard = Standard {
        input: socket,
        output: sys::null()?,
        error: match console::device() {
            Ok(device) => device.into(),
            Err(_) => sys::null()?,
        },
    };
    let child = Child {
        file: CString::new(sys::OWN_PROGRAM)?,
        arguments: vec![c"banger-agent".to_owned(), c"ssh".to_owned()],
        environment: Vec::new(),
        terminal: false,
        reset: role() != Role::Test,
        credentials: None,
        directory: c"/".to_owned(),
    };
    loopback::ensure();
    sys::spawn(standard, &child).map_err(|(_, error)| error)
}

/// Reads the briefing from a connection's process's socket.
fn read_briefing(mut socket: &Socket) -> io::Result<Briefing> {
    use std::io::Read;
    /// Keys of a person, not of an organisation.
    const LONGEST: usize = 4 << 20;
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut json = vec![0; length];
    socket.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// Our standard input, which is the connection, as a socket of its own.
fn own_socket() -> io::Result<Socket> {
    Ok(Socket::from(io::stdin().as_fd().try_clone_to_owned()?))
}
