//! The daemon behind a socket, or a child of ours on a socket pair.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use banger_proto::{
    Answer, Decoder, Hello, MAX_REPLY, MAX_REQUEST, PROTOCOL, Refusal, Request, Response, decode,
    encode,
};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;

use crate::sys::adopt;
use crate::{NetError, PrivilegedOps};

/// Requests take milliseconds; behind hundreds of others, many seconds.
const PATIENCE: Duration = Duration::from_secs(180);

const PROGRAM: &str = concat!("banger ", env!("CARGO_PKG_VERSION"));

/// Where the daemon is looked for.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The program, for a caller that is root.
    pub helper: PathBuf,
}

impl Endpoint {
    /// As the flags and the environment say.
    pub fn of(context: &lib_store::Context) -> Self {
        Endpoint {
            socket: context.netd_socket().to_owned(),
            helper: context.helper("banger-netd"),
        }
    }

    /// Connects to the daemon; without one, a caller that is root gets a child.
    ///
    /// # Errors
    /// [`NetError::Unreachable`], or what the daemon says of the caller.
    pub fn open(&self) -> Result<Client, NetError> {
        match Client::connect(&self.socket) {
            Err(NetError::Unreachable { .. })
                if nix::unistd::geteuid().is_root() && self.helper.exists() =>
            {
                Client::child(Command::new(&self.helper))
            }
            client => client,
        }
    }

    /// Whether a daemon answers, and takes this caller.
    pub fn answers(&self) -> bool {
        self.socket.exists() && Client::connect(&self.socket).is_ok()
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    /// `None` only while it is dropped.
    stream: Option<UnixStream>,
    decoder: Decoder,
    descriptor: Option<OwnedFd>,
    child: Option<Child>,
}

impl Client {
    /// To the daemon.
    ///
    /// # Errors
    /// [`NetError::Unreachable`]; a refusal.
    pub fn connect(socket: &Path) -> Result<Self, NetError> {
        let unreachable = |source| NetError::Unreachable {
            socket: socket.to_owned(),
            source,
        };
        let stream = UnixStream::connect(socket).map_err(unreachable)?;
        Client::greeted(stream, None)
    }

    /// To a child that is started with `--serve-fd` besides what the command has; it ends with this.
    ///
    /// # Errors
    /// [`NetError::Child`]; a refusal.
    pub fn child(mut command: Command) -> Result<Self, NetError> {
        let program = format!("{command:?}");
        let failed = |source| NetError::Child { program, source };
        let start = || {
            let (ours, theirs) = UnixStream::pair()?;
            command
                .args(["--serve-fd", "0"])
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let child = command.spawn()?;
            // The command holds the other side until it is dropped, and so would hide the child's end.
            drop(command);
            Ok((ours, child))
        };
        let (stream, child) = start().map_err(failed)?;
        Client::greeted(stream, Some(child))
    }

    fn greeted(stream: UnixStream, child: Option<Child>) -> Result<Self, NetError> {
        let timeouts = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        timeouts.map_err(|error| NetError::Broken(error.to_string()))?;
        let mut client = Client {
            stream: Some(stream),
            decoder: Decoder::new(MAX_REPLY),
            descriptor: None,
            child,
        };
        let hello: Result<Hello, Refusal> = client.receive()?;
        let hello = hello?;
        if hello.protocol != PROTOCOL {
            let message = format!(
                "{} speaks protocol {}, {PROGRAM} speaks {PROTOCOL}",
                hello.program, hello.protocol
            );
            return Err(NetError::Broken(message));
        }
        client.send(&Hello::new(PROGRAM), &[])?;
        Ok(client)
    }

    fn stream(&self) -> Result<&UnixStream, NetError> {
        self.stream
            .as_ref()
            .ok_or_else(|| NetError::Broken("it is closed".into()))
    }

    fn send(
        &mut self,
        value: &impl serde::Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), NetError> {
        let bytes = encode(value, MAX_REQUEST).map_err(|e| NetError::Broken(e.to_string()))?;
        let mut stream = self.stream()?;
        let sent = write(stream, &bytes, descriptors);
        sent.and_then(|length| stream.write_all(&bytes[length..]))
            .map_err(|error| NetError::Broken(error.to_string()))
    }

    fn receive<T: DeserializeOwned>(&mut self) -> Result<T, NetError> {
        let broken = |error: String| NetError::Broken(error);
        loop {
            let frame = self.decoder.next_frame();
            if let Some(json) = frame.map_err(|error| broken(error.to_string()))? {
                return decode(&json).map_err(|error| broken(error.to_string()));
            }
            let mut buffer = [0; 4096];
            let (length, descriptor) =
                read(self.stream()?, &mut buffer).map_err(|error| broken(error.to_string()))?;
            if length == 0 {
                return Err(broken("it ended the connection".into()));
            }
            self.decoder.push(&buffer[..length]);
            self.descriptor = descriptor.or(self.descriptor.take());
        }
    }
}

impl PrivilegedOps for Client {
    fn call_with(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Response, Option<OwnedFd>), NetError> {
        self.send(request, descriptors)?;
        let answer: Answer = self.receive()?;
        let descriptor = self.descriptor.take();
        Ok((answer?, descriptor))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The end of the connection ends the child.
        self.stream = None;
        if let Some(child) = &mut self.child {
            // Nothing can be done about one that cannot be waited for.
            let _ = child.wait();
        }
    }
}

/// Writes the beginning, with which descriptors go; returns its length.
fn write(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if descriptors.is_empty() {
        return Ok(0);
    }
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let slices = [IoSlice::new(bytes)];
    loop {
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(stream.as_raw_fd(), &slices, &rights, flags, None) {
            Err(Errno::EINTR) => {}
            sent => return Ok(sent?),
        }
    }
}

fn read(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        let fd = stream.as_raw_fd();
        match recvmsg::<()>(fd, &mut slices, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            message => break message?,
        }
    };
    let mut descriptor = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            for number in numbers {
                descriptor = Some(adopt(number));
            }
        }
    }
    Ok((message.bytes, descriptor))
}
