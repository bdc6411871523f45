//! One running command and its stream: input, output, signals, end.
//!
//! Credit flows both ways. Output waits for the stream, so a stalled caller stops its own command
//! only; input beyond [`STDIN_WINDOW`] is a broken caller. When the caller is gone the command's
//! process group gets SIGHUP, and SIGKILL after the command's end or [`HANGUP_GRACE`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use banger_wire::agent::{
    CHUNK, CallError, CallErrorKind, Exec, STDIN_WINDOW, Started, TerminalSize, kind,
};
use banger_wire::config::Process;
use banger_wire::frame::{Decoder, Frame};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::caller::Caller;
use crate::channel::Gone;
use crate::process::{Ended, Processes, signal_group};
use crate::spawn::{Ends, spawn};
use crate::sys;

/// What a command whose caller is gone has to end itself after SIGHUP.
const HANGUP_GRACE: Duration = Duration::from_secs(2);
/// The most that a pipe holds (/proc/sys/fs/pipe-max-size); what a background process writes after
/// the command's end is not waited for.
const DRAIN_LIMIT: usize = 1 << 20;
/// End of file as a terminal hears it.
const END_OF_TRANSMISSION: &[u8] = &[4];

/// Runs a command for a caller until both have ended. `decoder` holds what came behind the call.
///
/// # Errors
/// Why the command could not be started.
pub(crate) async fn run(
    exec: &Exec,
    defaults: &Process,
    processes: &Processes,
    caller: &Caller,
    decoder: Decoder,
) -> Result<(), CallError> {
    let spawned = spawn(exec, defaults)?;
    let session = Session {
        pid: spawned.pid,
        caller,
        ended: processes.watch(spawned.pid),
        input: Input::default(),
    };
    let served = match Descriptors::new(spawned.ends) {
        Ok(descriptors) => session.serve(descriptors, decoder).await,
        Err(error) => {
            signal_group(session.pid, Signal::SIGKILL);
            return Err(CallError {
                kind: CallErrorKind::Failed,
                message: format!("the guest could not watch the command's output: {error}"),
            });
        }
    };
    if served == Err(Gone) {
        session.hang_up().await;
    }
    Ok(())
}

struct Session<'a> {
    pid: u32,
    caller: &'a Caller,
    ended: Rc<Ended>,
    input: Input,
}

/// Bytes that the command has not taken yet.
#[derive(Default)]
struct Input {
    bytes: RefCell<VecDeque<u8>>,
    closed: Cell<bool>,
    changed: Notify,
}

type Watched = Rc<AsyncFd<OwnedFd>>;

struct Descriptors {
    stdin: Option<Watched>,
    stdout: Watched,
    stderr: Option<Watched>,
    /// The same descriptor as `stdin` and `stdout`.
    terminal: Option<Watched>,
}

impl Descriptors {
    fn new(ends: Ends) -> io::Result<Descriptors> {
        let watch = |fd, interest| io::Result::Ok(Rc::new(sys::watch(fd, interest)?));
        Ok(match ends {
            Ends::Pipes {
                stdin,
                stdout,
                stderr,
            } => Descriptors {
                stdin: stdin.map(|fd| watch(fd, Interest::WRITABLE)).transpose()?,
                stdout: watch(stdout, Interest::READABLE)?,
                stderr: Some(watch(stderr, Interest::READABLE)?),
                terminal: None,
            },
            Ends::Terminal(master) => {
                let master = watch(master, Interest::READABLE | Interest::WRITABLE)?;
                Descriptors {
                    stdin: Some(Rc::clone(&master)),
                    stdout: Rc::clone(&master),
                    stderr: None,
                    terminal: Some(master),
                }
            }
        })
    }
}

impl Session<'_> {
    async fn serve(&self, descriptors: Descriptors, decoder: Decoder) -> Result<(), Gone> {
        let Descriptors {
            stdin,
            stdout,
            stderr,
            terminal,
        } = descriptors;
        let work = async {
            let started = Started { pid: self.pid };
            self.caller.send_json(kind::STARTED, &started).await?;
            let errors = async {
                match &stderr {
                    Some(stderr) => self.forward(stderr, kind::STDERR).await,
                    None => Ok(()),
                }
            };
            let (exit, output, errors) = tokio::join!(
                self.ended.wait(),
                self.forward(&stdout, kind::STDOUT),
                errors
            );
            output.and(errors)?;
            self.caller.send_json(kind::EXIT, &exit).await
        };
        tokio::select! {
            result = work => result,
            gone = self.listen(decoder, terminal.as_deref()) => Err(gone),
            gone = self.feed(stdin, terminal.is_some()) => Err(gone),
        }
    }

    /// Sends output until its end, or until the command has ended and nothing is left to read.
    async fn forward(&self, source: &AsyncFd<OwnedFd>, kind: u8) -> Result<(), Gone> {
        let mut buffer = vec![0; CHUNK];
        while !self.ended.has_ended() {
            let mut ready = tokio::select! {
                ready = source.readable() => match ready {
                    Ok(ready) => ready,
                    Err(_) => return Ok(()),
                },
                _ = self.ended.wait() => break,
            };
            match ready.try_io(|source| Ok(nix::unistd::read(source, &mut buffer)?)) {
                // A terminal says EIO when its last process is gone.
                Ok(Ok(0) | Err(_)) => return Ok(()),
                Ok(Ok(n)) => self.caller.send(kind, &buffer[..n]).await?,
                Err(_would_block) => {}
            }
        }
        let mut drained = 0;
        while drained < DRAIN_LIMIT {
            match nix::unistd::read(source, &mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    drained += n;
                    self.caller.send(kind, &buffer[..n]).await?;
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Obeys the caller's frames; ends when it is gone or breaks the protocol.
    async fn listen(&self, mut decoder: Decoder, terminal: Option<&AsyncFd<OwnedFd>>) -> Gone {
        loop {
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => {
                        if self.obey(&frame, terminal).is_err() {
                            return Gone;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return Gone,
                }
            }
            match self.caller.receive().await {
                Ok(Some(bytes)) => decoder.push(&bytes),
                Ok(None) | Err(Gone) => return Gone,
            }
        }
    }

    fn obey(&self, frame: &Frame, terminal: Option<&AsyncFd<OwnedFd>>) -> Result<(), Gone> {
        match (frame.kind, &frame.payload[..]) {
            (kind::STDIN, bytes) => {
                let mut input = self.input.bytes.borrow_mut();
                if self.input.closed.get() || input.len() + bytes.len() > STDIN_WINDOW {
                    return Err(Gone);
                }
                input.extend(bytes);
                self.input.changed.notify_one();
            }
            (kind::STDIN_END, _) => {
                self.input.closed.set(true);
                self.input.changed.notify_one();
            }
            (kind::SIGNAL, [number]) => {
                if let Ok(signal) = Signal::try_from(i32::from(*number))
                    && !self.ended.has_ended()
                {
                    signal_group(self.pid, signal);
                }
            }
            (kind::RESIZE, json) => {
                let size: TerminalSize = serde_json::from_slice(json).map_err(|_| Gone)?;
                if let Some(terminal) = terminal {
                    // The command may have closed its terminal.
                    let _ = sys::resize(terminal.as_fd(), size);
                }
            }
            _ => return Err(Gone),
        }
        Ok(())
    }

    /// Writes the caller's input to the command; ends only when the caller is gone.
    async fn feed(&self, stdin: Option<Watched>, terminal: bool) -> Gone {
        if let Some(stdin) = stdin
            && self.write_input(&stdin, terminal).await == Err(Gone)
        {
            return Gone;
        }
        // The descriptor is closed by now, which is the end of file for a pipe.
        std::future::pending().await
    }

    async fn write_input(&self, stdin: &AsyncFd<OwnedFd>, terminal: bool) -> Result<(), Gone> {
        let mut taken = 0;
        loop {
            let empty = self.input.bytes.borrow().is_empty();
            if taken >= STDIN_WINDOW / 4 || (empty && taken > 0) {
                let credit = (taken as u32).to_le_bytes();
                self.caller.send(kind::STDIN_CREDIT, &credit).await?;
                taken = 0;
            } else if !empty {
                let Ok(mut ready) = stdin.writable().await else {
                    return Ok(());
                };
                let written = ready.try_io(|stdin| {
                    let mut input = self.input.bytes.borrow_mut();
                    let written = nix::unistd::write(stdin, input.as_slices().0)?;
                    input.drain(..written);
                    Ok(written)
                });
                match written {
                    Ok(Ok(n)) => taken += n,
                    // The command closed its input: the rest is thrown away and never credited.
                    Ok(Err(_)) => return Ok(()),
                    Err(_would_block) => {}
                }
            } else if self.input.closed.get() {
                if terminal {
                    let _ = nix::unistd::write(stdin, END_OF_TRANSMISSION);
                }
                return Ok(());
            } else {
                self.input.changed.notified().await;
            }
        }
    }

    async fn hang_up(&self) {
        if !self.ended.has_ended() {
            signal_group(self.pid, Signal::SIGHUP);
            signal_group(self.pid, Signal::SIGCONT);
            let _ = tokio::time::timeout(HANGUP_GRACE, self.ended.wait()).await;
            signal_group(self.pid, Signal::SIGKILL);
        }
    }
}
