//! One session: a process, its pipes or terminal, and how it ended.
//!
//! As with sshd, the end of the process is not the end of the channel: what holds its output open
//! may still write. When the client goes away, a terminal hangs up, and pipes just close.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use banger_wire::agent::{CHUNK, CallError, CallErrorKind, Exit, TerminalSize};
use nix::sys::signal::Signal;
use russh::server::Msg;
use russh::{ChannelWriteHalf, Sig};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use super::command;
use super::connection::Connection;
use super::flow::Held;
use super::inputs::{Input, Start, Terminal};
use crate::account::Account;
use crate::process::{Ended, signal_group};
use crate::spawn::{Ends, on_terminal, pipes};
use crate::sys::{self, Stage};

/// What a program writes to standard error (RFC 4254, section 5.2).
const STDERR: u32 = 1;
/// End of file as a terminal hears it.
const END_OF_TRANSMISSION: &[u8] = &[4];

/// A session channel.
pub(super) struct Session {
    connection: Rc<Connection>,
    channel: ChannelWriteHalf<Msg>,
    account: Account,
    variables: Vec<(String, String)>,
    terminal: Option<Terminal>,
}

type Watched = Rc<AsyncFd<OwnedFd>>;

/// A running process.
struct Running {
    pid: u32,
    ended: Rc<Ended>,
    stdin: Option<Watched>,
    stdout: Watched,
    stderr: Option<Watched>,
    /// The same descriptor as `stdin` and `stdout`.
    terminal: Option<Watched>,
    input: Pending,
}

/// What the process has not taken yet.
#[derive(Default)]
struct Pending {
    held: RefCell<VecDeque<Held>>,
    /// No more comes.
    finished: Cell<bool>,
    /// The process takes no more.
    refused: Cell<bool>,
    changed: Notify,
}

impl Session {
    pub(super) fn new(
        connection: Rc<Connection>,
        channel: ChannelWriteHalf<Msg>,
        account: Account,
    ) -> Session {
        Session {
            connection,
            channel,
            account,
            variables: Vec::new(),
            terminal: None,
        }
    }

    /// Serves the channel until it is closed.
    pub(super) async fn run(mut self, inputs: UnboundedReceiver<Input>) {
        self.obey(inputs).await;
        let _ = self.channel.close().await;
        self.connection.inputs.close(self.channel.id());
    }

    async fn obey(&mut self, mut inputs: UnboundedReceiver<Input>) {
        // Data may come before there is anybody to take it.
        let input = Pending::default();
        while let Some(next) = inputs.recv().await {
            match next {
                Input::Variable(name, value) => self.variables.push((name, value)),
                Input::Terminal(terminal) => self.terminal = Some(terminal),
                Input::Resize(size) => {
                    if let Some(terminal) = &self.terminal {
                        let _ = sys::resize(terminal.slave.as_fd(), size);
                    }
                }
                Input::Data(held) => input.held.borrow_mut().push_back(held),
                Input::Eof => input.finished.set(true),
                Input::Signal(_) => {}
                Input::Closed => return,
                Input::Start(start) => {
                    match self.start(&start, input) {
                        Ok(running) => self.serve(running, &mut inputs).await,
                        Err(error) => self.say(&error).await,
                    }
                    return;
                }
            }
        }
    }

    fn start(&mut self, start: &Start, input: Pending) -> Result<Running, CallError> {
        let terminal = self.terminal.take();
        let mut own = std::mem::take(&mut self.variables);
        if let Some(terminal) = &terminal {
            own.push(("TERM".to_owned(), terminal.kind.clone()));
            own.push(("SSH_TTY".to_owned(), terminal.name.clone()));
        }
        let environment = command::environment(&self.account, &self.connection.defaults, own);
        let child = command::child(start, &self.account, &environment, terminal.is_some())?;
        let file = child.file.to_string_lossy().into_owned();
        let failed = |error: std::io::Error| CallError {
            kind: CallErrorKind::Failed,
            message: format!("the guest could not start a process: {error}"),
        };
        let (standard, ends) = match terminal {
            Some(Terminal { slave, master, .. }) => {
                let standard = on_terminal(slave.into()).map_err(failed)?;
                (standard, Ends::Terminal(master))
            }
            None => pipes(true).map_err(failed)?,
        };
        let spawned = sys::spawn(standard, &child);
        let pid = spawned.map_err(|(stage, error)| match stage {
            Stage::Exec => crate::command::explain(file.as_ref(), &error),
            _ => failed(error),
        })?;
        let ended = self.connection.processes.watch(pid);
        let watch = |fd, interest| sys::watch(fd, interest).map(Rc::new).map_err(failed);
        let (stdin, stdout, stderr, terminal) = match ends {
            Ends::Pipes {
                stdin,
                stdout,
                stderr,
            } => (
                stdin.map(|fd| watch(fd, Interest::WRITABLE)).transpose()?,
                watch(stdout, Interest::READABLE)?,
                Some(watch(stderr, Interest::READABLE)?),
                None,
            ),
            Ends::Terminal(master) => {
                let master = watch(master, Interest::READABLE | Interest::WRITABLE)?;
                (
                    Some(Rc::clone(&master)),
                    Rc::clone(&master),
                    None,
                    Some(master),
                )
            }
        };
        Ok(Running {
            pid,
            ended,
            stdin,
            stdout,
            stderr,
            terminal,
            input,
        })
    }

    async fn serve(&self, mut running: Running, inputs: &mut UnboundedReceiver<Input>) {
        let stdin = running.stdin.take();
        let running = &running;
        let work = async {
            let errors = async {
                if let Some(stderr) = &running.stderr {
                    self.forward(stderr, Some(STDERR)).await;
                }
            };
            let (exit, (), ()) = tokio::join!(
                running.ended.wait(),
                self.forward(&running.stdout, None),
                errors
            );
            self.report(exit).await;
        };
        tokio::select! {
            () = work => {}
            () = running.listen(inputs) => {}
            () = running.feed(stdin) => {}
        }
    }

    /// Sends output until its end, or until the connection's.
    async fn forward(&self, source: &AsyncFd<OwnedFd>, extended: Option<u32>) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let Ok(mut ready) = source.readable().await else {
                return;
            };
            let length = match ready.try_io(|fd| Ok(nix::unistd::read(fd, &mut buffer)?)) {
                // A terminal says EIO when its last process is gone.
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(length)) => length,
                Err(_would_block) => continue,
            };
            let bytes = buffer[..length].to_vec();
            let sent = match extended {
                Some(code) => self.channel.extended_data_bytes(code, bytes).await,
                None => self.channel.data_bytes(bytes).await,
            };
            if sent.is_err() {
                return;
            }
        }
    }

    async fn report(&self, exit: Exit) {
        let (handle, id) = (&self.connection.handle, self.channel.id());
        // The connection may have ended.
        let _ = match exit {
            Exit::Code(code) => handle.exit_status_request(id, code.into()).await,
            Exit::Signal(number) => {
                let (name, no_text) = (signal_name(number), String::new());
                handle
                    .exit_signal_request(id, name, false, no_text.clone(), no_text)
                    .await
            }
        };
        let _ = self.channel.eof().await;
    }

    /// Tells the client why there is no process, as a shell would.
    async fn say(&self, error: &CallError) {
        let text = format!("banger: {}\r\n", error.message);
        let _ = self
            .channel
            .extended_data_bytes(STDERR, text.into_bytes())
            .await;
        self.report(Exit::Code(match error.kind {
            CallErrorKind::NotFound => 127,
            CallErrorKind::NotExecutable => 126,
            _ => 255,
        }))
        .await;
    }
}

impl Running {
    /// Obeys the client until it closes the channel.
    async fn listen(&self, inputs: &mut UnboundedReceiver<Input>) {
        while let Some(input) = inputs.recv().await {
            match input {
                Input::Data(held) if !self.input.refused.get() => {
                    self.input.held.borrow_mut().push_back(held);
                    self.input.changed.notify_one();
                }
                Input::Eof => {
                    self.input.finished.set(true);
                    self.input.changed.notify_one();
                }
                Input::Resize(size) => self.resize(size),
                Input::Signal(signal) => self.signal(signal),
                Input::Closed => return,
                _ => {}
            }
        }
    }

    fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = &self.terminal {
            // The process may have closed its terminal.
            let _ = sys::resize(terminal.as_fd(), size);
        }
    }

    fn signal(&self, signal: Signal) {
        if !self.ended.has_ended() {
            signal_group(self.pid, signal);
        }
    }

    /// Gives the process its input; never ends.
    async fn feed(&self, stdin: Option<Watched>) {
        if let Some(stdin) = stdin {
            self.write_input(&stdin).await;
        }
        // The descriptor is closed by now, which is the end of file for a pipe.
        self.input.refused.set(true);
        self.input.held.borrow_mut().clear();
        std::future::pending().await
    }

    async fn write_input(&self, stdin: &AsyncFd<OwnedFd>) {
        loop {
            let next = self.input.held.borrow_mut().pop_front();
            let Some(held) = next else {
                if self.input.finished.get() {
                    break;
                }
                self.input.changed.notified().await;
                continue;
            };
            let mut rest = &held.bytes[..];
            while !rest.is_empty() {
                let Ok(mut ready) = stdin.writable().await else {
                    return;
                };
                match ready.try_io(|fd| Ok(nix::unistd::write(fd, rest)?)) {
                    Ok(Ok(written)) => rest = &rest[written..],
                    // It closed its input: what is left is for nobody.
                    Ok(Err(_)) => return,
                    Err(_would_block) => {}
                }
            }
        }
        if self.terminal.is_some() {
            let _ = nix::unistd::write(stdin, END_OF_TRANSMISSION);
        }
    }
}

/// A signal's name without `SIG`, as the protocol has it (RFC 4254, section 6.10).
fn signal_name(number: u8) -> Sig {
    let name = Signal::try_from(i32::from(number)).map_or("", Signal::as_str);
    Sig::Custom(name.strip_prefix("SIG").unwrap_or("UNKNOWN").to_owned())
}
