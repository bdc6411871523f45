//! One guest, reached through its VM's agent socket.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_wire::agent::{
    Call, CallError, Exec, Info, Request, Sockets, Stats, TerminalSize, User, kind,
};
use banger_wire::frame::{self, Decoder, Frame};
use banger_wire::{PROTOCOL, port};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result, printable};
use crate::exec::{Io, Outcome, Session};
use crate::signals::{Command, Control};

/// How long a guest may take to answer, unless the caller says otherwise. Emulated guests under
/// load are slow; a guest that is gone answers at once, by a closed socket.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How a [`Deadlined`] says that the caller gave up; no system call fails with it here.
const GIVEN_UP: io::ErrorKind = io::ErrorKind::Other;
/// Longest answer to `CONNECT`, in bytes.
const LONGEST_ANSWER: usize = 256;

/// A running guest. Holds no connection: each call makes its own.
#[derive(Debug, Clone)]
pub struct Guest {
    socket: PathBuf,
    answer_timeout: Duration,
}

impl Guest {
    /// The guest behind a VM's `agent.sock`.
    pub fn new(socket: impl Into<PathBuf>) -> Guest {
        Guest {
            socket: socket.into(),
            answer_timeout: ANSWER_TIMEOUT,
        }
    }

    /// Changes how long the guest may take to answer a call or to start a command.
    #[must_use]
    pub fn answer_timeout(mut self, timeout: Duration) -> Guest {
        self.answer_timeout = timeout;
        self
    }

    pub(crate) fn patience(&self) -> Duration {
        self.answer_timeout
    }

    /// The agent's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Opens a raw stream to a mux port of the guest, on which both sides may be silent for as long as they like.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Refused`], [`Error::NoAnswer`].
    pub fn dial(&self, port: u32) -> Result<UnixStream> {
        let deadline = Instant::now() + self.answer_timeout;
        let (stream, _) = self.dial_until(port, deadline, None)?;
        // The deadline was for the answer.
        stream
            .set_read_timeout(None)
            .and_then(|()| stream.set_write_timeout(None))
            .map_err(|error| self.lost(error))?;
        Ok(stream)
    }

    /// Any signal of the caller's gives up: there is no command yet that could get it. A new size of
    /// its terminal is returned.
    fn dial_until<'c>(
        &self,
        port: u32,
        deadline: Instant,
        control: Option<&'c mut (dyn Control + 'c)>,
    ) -> Result<(UnixStream, Option<TerminalSize>)> {
        let connect = |source| Error::Connect {
            socket: self.socket.clone(),
            source,
        };
        let mut stream = UnixStream::connect(&self.socket).map_err(connect)?;
        let refused = |answer: &str| Error::Refused {
            port,
            answer: printable(answer),
        };
        let mut deadlined = Deadlined {
            stream: &mut stream,
            deadline,
            control,
            resized: None,
        };
        deadlined
            .write_all(format!("CONNECT {port}\n").as_bytes())
            .map_err(|error| self.lost(error))?;
        // Byte by byte: what follows the line belongs to the stream's user.
        let mut answer = Vec::new();
        let mut byte = [0];
        while answer.len() < LONGEST_ANSWER {
            match deadlined
                .read(&mut byte)
                .map_err(|error| self.lost(error))?
            {
                0 => {
                    let text = String::from_utf8_lossy(&answer);
                    let empty = "the connection was closed";
                    return Err(refused(if text.is_empty() { empty } else { &text }));
                }
                _ if byte == *b"\n" => break,
                _ => answer.push(byte[0]),
            }
        }
        let resized = deadlined.resized;
        let text = String::from_utf8_lossy(&answer);
        match text.strip_prefix("OK ").map(str::parse::<u32>) {
            Some(Ok(_)) => Ok((stream, resized)),
            _ => Err(refused(&text)),
        }
    }

    /// Asks the agent about itself and the guest.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn info(&self) -> Result<Info> {
        parse(&self.call(Request::Info)?.payload)
    }

    /// Asks who listens in the guest, and with `probe` who of them speaks HTTP.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn sockets(&self, probe: bool) -> Result<Sockets> {
        parse(&self.call(Request::Sockets { probe })?.payload)
    }

    /// Asks who a user of the guest is; without a name, the image's own.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn user(&self, user: Option<&str>) -> Result<User> {
        let user = user.map(str::to_owned);
        let user: User = parse(&self.call(Request::User { user })?.payload)?;
        match user.home.starts_with('/') && !user.home.contains('\0') {
            true => Ok(user),
            false => Err(Error::Protocol("a home that is no directory".to_owned())),
        }
    }

    /// Lets the owners of these public keys in by SSH, and nobody else, until the guest's end.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn authorize_keys(&self, keys: Vec<String>) -> Result<()> {
        self.call(Request::AuthorizeKeys { keys })?;
        Ok(())
    }

    /// Asks what the guest's kernel counts.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn stats(&self) -> Result<Stats> {
        parse(&self.call(Request::Stats)?.payload)
    }

    /// Asks the guest to end: processes get SIGTERM and then this long. Returns when the agent has
    /// answered, before the guest is gone.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn shutdown(&self, grace: Duration) -> Result<()> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.call(Request::Shutdown { grace_ms })?;
        Ok(())
    }

    /// Runs a command and moves its input and output until it has ended.
    ///
    /// # Errors
    /// [`Error::Call`] when the command could not start; see [`Error::status`]. When this returns
    /// early, the guest's command gets SIGHUP and then SIGKILL.
    pub fn exec(&self, exec: Exec, mut io: Io<'_>) -> Result<Outcome> {
        let started = Instant::now();
        let answer = started + self.answer_timeout;
        let exec = Exec {
            stdin: io.stdin.is_some(),
            ..exec
        };
        let control = io
            .control
            .as_mut()
            .map(|control| &mut **control as &mut dyn Control);
        let (stream, resized) = self.dial_until(port::AGENT, answer, control)?;
        let terminal = exec.terminal.is_some();
        let exec = Exec {
            terminal: exec.terminal.map(|size| resized.unwrap_or(size)),
            ..exec
        };
        let call = encode(&Request::Exec(exec))?;
        Session::new(stream, call, io, started, self.answer_timeout, terminal)?.run()
    }

    pub(crate) fn call(&self, request: Request) -> Result<Frame> {
        let deadline = Instant::now() + self.answer_timeout;
        let mut stream = self.dial_until(port::AGENT, deadline, None)?.0;
        let mut stream = Deadlined {
            stream: &mut stream,
            deadline,
            control: None,
            resized: None,
        };
        stream
            .write_all(&encode(&request)?)
            .map_err(|error| self.lost(error))?;
        let mut decoder = Decoder::default();
        let mut buffer = [0; 4096];
        loop {
            let next = decoder.next_frame();
            if let Some(frame) = next.map_err(|e| Error::Protocol(e.to_string()))? {
                return match frame.kind {
                    kind::REPLY => Ok(frame),
                    kind::ERROR => Err(Error::Call(parse::<CallError>(&frame.payload)?)),
                    other => Err(Error::Protocol(format!("a reply of kind {other}"))),
                };
            }
            match stream.read(&mut buffer).map_err(|error| self.lost(error))? {
                0 => return Err(Error::ConnectionLost),
                n => decoder.push(&buffer[..n]),
            }
        }
    }

    fn lost(&self, error: io::Error) -> Error {
        match error.kind() {
            GIVEN_UP => Error::Interrupted,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                Error::NoAnswer(self.answer_timeout)
            }
            _ => Error::ConnectionLost,
        }
    }
}

/// A stream whose reads and writes all end by one deadline, however slowly bytes trickle in.
struct Deadlined<'a, 'c> {
    stream: &'a mut UnixStream,
    deadline: Instant,
    /// Says when the caller wants to give up.
    control: Option<&'c mut (dyn Control + 'c)>,
    /// The last size of the caller's terminal that it told of meanwhile.
    resized: Option<TerminalSize>,
}

impl Deadlined<'_, '_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Deadlined<'_, '_> {
    /// Waits for the stream or the caller's wish to give up, whichever comes first.
    fn wait_readable(&mut self) -> io::Result<()> {
        let left = self.left()?.unwrap_or_default();
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let Some(control) = &mut self.control else {
            return Ok(());
        };
        let signalled = {
            let mut polled = [
                PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
                PollFd::new(control.descriptor(), PollFlags::POLLIN),
            ];
            match poll(&mut polled, timeout) {
                Ok(_) => polled[0].any() != Some(true) && polled[1].any() == Some(true),
                Err(Errno::EINTR) => false,
                Err(error) => return Err(error.into()),
            }
        };
        if signalled {
            while let Some(command) = control.next_command()? {
                match command {
                    Command::Resize(size) => self.resized = Some(size),
                    Command::Signal(_) | Command::Abandon => return Err(GIVEN_UP.into()),
                }
            }
        }
        Ok(())
    }
}

impl Read for Deadlined<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait_readable()?;
            self.stream.set_read_timeout(self.left()?)?;
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

impl Write for Deadlined<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

pub(crate) fn encode(request: &Request) -> Result<Vec<u8>> {
    let call = Call {
        protocol: PROTOCOL,
        request: request.clone(),
    };
    let json = serde_json::to_vec(&call).map_err(|e| Error::Protocol(e.to_string()))?;
    if json.len() > frame::MAX_PAYLOAD {
        return Err(Error::Call(CallError {
            kind: banger_wire::agent::CallErrorKind::BadRequest,
            message: "arguments and environment are too long".to_owned(),
        }));
    }
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, kind::CALL, &json);
    Ok(bytes)
}

/// Parses what the guest sent.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|e| Error::Protocol(e.to_string()))
}
