//! The server: one thread, sockets of the host's side and of the guests', and the table that all of them
//! read.
//!
//! hickory-server's own loops are not used: they start a task for each packet, count no connections, and
//! turn in circles when there are no descriptors left. Guests are hostile.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{LocalSet, spawn_blocking, spawn_local};
use tokio::time::timeout;

use crate::forward::Forwarder;
use crate::listen::Socket;
use crate::respond::{MAX_REQUEST, Reply, Role, Transport, respond};
use crate::table::Table;
use crate::upstream::Upstream;
use crate::watch::Watch;
use crate::{DnsError, Note};

/// Connections of all clients of one role, and of one client. What is over is closed at once.
const CONNECTIONS: usize = 256;
const CONNECTIONS_OF_ONE: usize = 16;

/// For one question to come and its answer to go, and between two questions (RFC 7766, section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// After an error that the kernel does not say the end of.
const BREATH: Duration = Duration::from_millis(100);

/// What is served, and where.
#[derive(Debug)]
pub struct Options {
    /// The file of names.
    pub names: PathBuf,
    /// Where questions come in.
    pub sockets: Vec<Socket>,
    /// Where questions of guests go that are not about VMs.
    pub upstream: Upstream,
}

/// What connections and packets share. All run in one thread.
#[derive(Debug)]
struct Server {
    table: RefCell<Arc<Table>>,
    forwarder: Rc<Forwarder>,
    connections: RefCell<HashMap<(IsGuest, IpAddr), usize>>,
    note: Note,
}

type IsGuest = bool;

/// Serves until something fails that no client can cause.
///
/// # Errors
/// [`DnsError::Serve`]; [`DnsError::NoSocket`].
pub fn serve(options: Options, note: Note) -> Result<(), DnsError> {
    if options.sockets.is_empty() {
        return Err(DnsError::NoSocket);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Reads a file now and then.
        .max_blocking_threads(1)
        .build()
        .map_err(failed("start"))?;
    LocalSet::new().block_on(&runtime, run(options, note))
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> DnsError {
    move |source| DnsError::Serve { what, source }
}

async fn run(options: Options, note: Note) -> Result<(), DnsError> {
    // Before the first look, so that nothing is missed between the two.
    let mut watch = Watch::new(&options.names).map_err(failed("watch the file of names"))?;
    let own = options
        .sockets
        .iter()
        .filter_map(|socket| socket.address().ok());
    let own: Vec<SocketAddr> = own.collect();
    let server = Rc::new(Server {
        table: RefCell::new(Arc::new(Table::empty())),
        forwarder: Forwarder::new(options.upstream, own.clone(), note.clone()),
        connections: RefCell::default(),
        note: note.clone(),
    });
    server.load(&options.names).await;
    for socket in options.sockets {
        server.clone().listen(socket).map_err(failed("listen"))?;
    }
    let places: Vec<_> = own.iter().map(ToString::to_string).collect();
    note.say(format!("serving names at {}", places.join(", ")));
    ready();
    loop {
        watch
            .changed()
            .await
            .map_err(failed("watch the file of names"))?;
        server.load(&options.names).await;
    }
}

/// Tells systemd that questions are answered from now on (sd_notify(3)).
fn ready() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let place = std::os::unix::ffi::OsStringExt::into_vec(place);
    let address = match place.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(std::ffi::OsStr::new(&*String::from_utf8_lossy(&place))),
    };
    // Nobody waits for it then.
    let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to_addr(b"READY=1", &address?));
}

impl Server {
    /// Takes the file's names, or keeps those that there are.
    async fn load(&self, path: &std::path::Path) {
        let path = path.to_owned();
        let loaded = spawn_blocking(move || Table::load(&path)).await;
        match loaded {
            Ok(Ok(table)) => *self.table.borrow_mut() = Arc::new(table),
            Ok(Err(error)) => {
                let kept = self.table.borrow().len();
                let why = std::error::Error::source(&error).map(|why| format!(": {why}"));
                let why = why.unwrap_or_default();
                self.note.say(format!(
                    "{error}{why}; the {kept} names from before are kept"
                ));
            }
            Err(error) => self.note.say(format!("cannot read the names: {error}")),
        }
    }

    fn listen(self: Rc<Self>, socket: Socket) -> io::Result<()> {
        match socket {
            Socket::Datagrams(role, socket) => {
                socket.set_nonblocking(true)?;
                let socket = Rc::new(UdpSocket::from_std(socket)?);
                spawn_local(self.datagrams(socket, role));
            }
            Socket::Streams(role, listener) => {
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                spawn_local(self.streams(listener, role));
            }
        }
        Ok(())
    }

    fn respond(&self, bytes: &[u8], from: SocketAddr, transport: Transport, role: Role) -> Reply {
        respond(bytes, from, transport, role, &self.table.borrow())
    }

    async fn datagrams(self: Rc<Self>, socket: Rc<UdpSocket>, role: Role) {
        let mut buffer = vec![0; MAX_REQUEST + 1];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    self.note
                        .say(format!("a packet cannot be received: {error}"));
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            match self.respond(&buffer[..length], from, Transport::Udp, role) {
                Reply::Silence => {}
                // Who sends faster than it reads loses answers, as with every server of UDP.
                Reply::Bytes(answer) => drop(socket.try_send_to(&answer, from)),
                Reply::Forward(question) => {
                    let Some(place) = self.forwarder.place(from.ip()) else {
                        if let Reply::Bytes(answer) = question.busy() {
                            drop(socket.try_send_to(&answer, from));
                        }
                        continue;
                    };
                    let (server, socket) = (self.clone(), socket.clone());
                    spawn_local(async move {
                        if let Reply::Bytes(answer) = server.forwarder.ask(&question).await {
                            // As above.
                            let _ = socket.send_to(&answer, from).await;
                        }
                        drop(place);
                    });
                }
            }
        }
    }

    async fn streams(self: Rc<Self>, listener: TcpListener, role: Role) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    if let Some(place) = Connected::new(&self, role, from.ip()) {
                        let server = self.clone();
                        spawn_local(async move {
                            // The other side's affair.
                            let _ = server.converse(stream, from, role).await;
                            drop(place);
                        });
                    }
                }
                Err(error) => {
                    self.note
                        .say(format!("a connection cannot be accepted: {error}"));
                    // Out of descriptors: the kernel does not tell when there are some again.
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    /// One question after the other (RFC 7766).
    async fn converse(
        &self,
        mut stream: TcpStream,
        from: SocketAddr,
        role: Role,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let question = timeout(IDLE, question(&mut stream)).await??;
            let answer = match self.respond(&question, from, Transport::Tcp, role) {
                Reply::Silence => return Ok(()),
                Reply::Bytes(answer) => answer,
                Reply::Forward(question) => {
                    let reply = match self.forwarder.place(from.ip()) {
                        Some(_place) => self.forwarder.ask(&question).await,
                        None => question.busy(),
                    };
                    match reply {
                        Reply::Bytes(answer) => answer,
                        Reply::Silence | Reply::Forward(_) => return Ok(()),
                    }
                }
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes(), &answer[..]].concat();
            timeout(IDLE, stream.write_all(&framed)).await??;
        }
    }
}

async fn question(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_REQUEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// One of a client's connections; gives its place back when dropped.
struct Connected {
    server: Rc<Server>,
    key: (IsGuest, IpAddr),
}

impl Connected {
    fn new(server: &Rc<Server>, role: Role, from: IpAddr) -> Option<Connected> {
        let key = (role == Role::Guests, from);
        let mut all = server.connections.borrow_mut();
        let same = all.iter().filter(|((guest, _), _)| *guest == key.0);
        let total: usize = same.map(|(_, count)| count).sum();
        let own = all.get(&key).copied().unwrap_or_default();
        // On the host all are one address.
        let limit = match role {
            Role::Host => CONNECTIONS,
            Role::Guests => CONNECTIONS_OF_ONE,
        };
        if total >= CONNECTIONS || own >= limit {
            return None;
        }
        all.insert(key, own + 1);
        Some(Connected {
            server: server.clone(),
            key,
        })
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut all = self.server.connections.borrow_mut();
        if let Some(count) = all.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.key);
            }
        }
    }
}
