//! One command in the guest, from the host's side: a poll loop between descriptors.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use banger_wire::agent::{CHUNK, CallError, Exit, STDIN_WINDOW, Started, kind};
use banger_wire::frame::{self, Decoder, Frame};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};
use crate::guest::parse;
use crate::signals::{Command, Control};
use crate::sink::{Closed, Pending, Sink};

/// The guest is not read while this many bytes of output wait on the host.
const OUTPUT_HIGH_WATER: usize = 256 * 1024;
/// Standard input is not read while this many bytes wait for the guest.
const INPUT_HIGH_WATER: usize = 64 * 1024;
/// How long a command has after SIGTERM, and again after SIGKILL, before it is left to the agent.
const END_GRACE: Duration = Duration::from_secs(1);

/// A command's input and output on the host.
#[derive(Default)]
pub struct Io<'a> {
    /// Read only as far as the command reads; `None` gives the command `/dev/null`.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Standard output, or everything from the command's terminal.
    pub stdout: Sink<'a>,
    /// Standard error.
    pub stderr: Sink<'a>,
    /// Signals and resizes for the command.
    pub control: Option<&'a mut dyn Control>,
    /// From the call on; then the command gets SIGTERM, SIGKILL a second later.
    pub timeout: Option<Duration>,
}

/// How a command that was started ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By itself or by a signal.
    Exited(Exit),
    /// [`Io::timeout`] passed.
    TimedOut,
    /// The reader of our standard output is gone; the command got SIGPIPE.
    OutputClosed,
}

impl Outcome {
    /// The exit status that says this: the command's own, 128+n for signals, 124 for a timeout, 141
    /// for a closed output.
    pub fn status(self) -> u8 {
        match self {
            Outcome::Exited(exit) => exit.status(),
            Outcome::TimedOut => 124,
            Outcome::OutputClosed => 141,
        }
    }
}

/// Why we end the command before it ends itself.
#[derive(Debug, Clone, Copy)]
struct Ending {
    outcome: Outcome,
    killed: bool,
    deadline: Instant,
}

pub(crate) struct Session<'a> {
    stream: UnixStream,
    decoder: Decoder,
    /// Bytes for the guest.
    output: Vec<u8>,
    stdin: Option<BorrowedFd<'a>>,
    terminal: bool,
    credit: usize,
    stdout: Pending<'a>,
    stderr: Pending<'a>,
    control: Option<&'a mut dyn Control>,
    started: bool,
    answer_timeout: Duration,
    answer_deadline: Instant,
    deadline: Option<Instant>,
    ending: Option<Ending>,
    /// The connection has ended; frames that came before are still to be taken.
    lost: bool,
    /// What is returned once the output is written.
    result: Option<Result<Outcome>>,
}

/// What `poll` found ready.
#[derive(Debug, Default)]
struct Ready {
    stream: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    control: bool,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        stream: UnixStream,
        call: Vec<u8>,
        io: Io<'a>,
        begun: Instant,
        answer_timeout: Duration,
        terminal: bool,
    ) -> Result<Session<'a>> {
        stream
            .set_nonblocking(true)
            .map_err(Error::host("setting up the connection"))?;
        Ok(Session {
            stream,
            decoder: Decoder::default(),
            output: call,
            stdin: io.stdin,
            terminal,
            credit: STDIN_WINDOW,
            stdout: Pending::new(io.stdout),
            stderr: Pending::new(io.stderr),
            control: io.control,
            started: false,
            answer_timeout,
            answer_deadline: begun + answer_timeout,
            deadline: io.timeout.and_then(|timeout| begun.checked_add(timeout)),
            ending: None,
            lost: false,
            result: None,
        })
    }

    pub(crate) fn run(mut self) -> Result<Outcome> {
        loop {
            self.take_frames()?;
            if self.stdout.len() + self.stderr.len() == 0
                && let Some(result) = self.result.take()
            {
                return match (result, self.ending) {
                    (Ok(_), Some(ending)) => Ok(ending.outcome),
                    (result, _) => result,
                };
            }
            if let Some(outcome) = self.pass_deadlines()? {
                return Ok(outcome);
            }
            let ready = self.wait()?;
            if ready.control {
                self.obey_control()?;
            }
            if ready.stdin {
                self.read_stdin()?;
            }
            if ready.stdout {
                let written = self.stdout.write();
                self.wrote_stdout(written)?;
            }
            if ready.stderr {
                // Without a reader of standard error the command goes on.
                self.stderr
                    .write()
                    .map_err(Error::host("writing standard error"))?
                    .ok();
            }
            if ready.stream {
                self.write_stream();
                self.read_stream();
            }
        }
    }

    fn backlogged(&self) -> bool {
        self.stdout.len() + self.stderr.len() >= OUTPUT_HIGH_WATER
    }

    fn wait(&self) -> Result<Ready> {
        let mut descriptors = Vec::with_capacity(5);
        let mut slots = Vec::with_capacity(5);
        let mut add = |fd: BorrowedFd<'a>, flags, slot: fn(&mut Ready) -> &mut bool| {
            descriptors.push(PollFd::new(fd, flags));
            slots.push(slot);
        };
        if let Some(fd) = self.stdin
            && self.started
            && self.credit > 0
            && self.output.len() < INPUT_HIGH_WATER
            && self.result.is_none()
        {
            add(fd, PollFlags::POLLIN, |ready| &mut ready.stdin);
        }
        if let Some(fd) = self.stdout.polled() {
            add(fd, PollFlags::POLLOUT, |ready| &mut ready.stdout);
        }
        if let Some(fd) = self.stderr.polled() {
            add(fd, PollFlags::POLLOUT, |ready| &mut ready.stderr);
        }
        let mut flags = PollFlags::empty();
        if !self.backlogged() {
            flags |= PollFlags::POLLIN;
        }
        if !self.output.is_empty() {
            flags |= PollFlags::POLLOUT;
        }
        // A connection that is over polls ready for ever, and so does one that hung up while we do
        // not want to read from it.
        if self.result.is_none() && !self.lost && !flags.is_empty() {
            descriptors.push(PollFd::new(self.stream.as_fd(), flags));
            slots.push(|ready| &mut ready.stream);
        }
        if let Some(control) = &self.control {
            descriptors.push(PollFd::new(control.descriptor(), PollFlags::POLLIN));
            slots.push(|ready| &mut ready.control);
        }
        match poll(&mut descriptors, self.poll_timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Error::host("waiting for input and output")(error.into())),
        }
        let mut ready = Ready::default();
        for (descriptor, slot) in descriptors.iter().zip(slots) {
            *slot(&mut ready) = descriptor.any().unwrap_or(true);
        }
        Ok(ready)
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.result.is_some() {
            return None;
        }
        if let Some(ending) = self.ending {
            return Some(ending.deadline);
        }
        let answer = (!self.started).then_some(self.answer_deadline);
        [answer, self.deadline].into_iter().flatten().min()
    }

    fn poll_timeout(&self) -> PollTimeout {
        let Some(deadline) = self.next_deadline() else {
            return PollTimeout::NONE;
        };
        // Rounded up, so that the deadline has passed when poll returns.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn pass_deadlines(&mut self) -> Result<Option<Outcome>> {
        if self
            .next_deadline()
            .is_none_or(|deadline| Instant::now() < deadline)
        {
            return Ok(None);
        }
        match self.ending {
            Some(ending) if ending.killed => return Ok(Some(ending.outcome)),
            Some(ending) => {
                self.signal(libc::SIGKILL as u8);
                self.ending = Some(Ending {
                    killed: true,
                    deadline: Instant::now() + END_GRACE,
                    ..ending
                });
            }
            None if self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline) =>
            {
                self.end(libc::SIGTERM as u8, Outcome::TimedOut);
            }
            None => return Err(Error::NoAnswer(self.answer_timeout)),
        }
        Ok(None)
    }

    fn end(&mut self, signal: u8, outcome: Outcome) {
        if self.ending.is_none() {
            self.signal(signal);
            self.ending = Some(Ending {
                outcome,
                killed: false,
                deadline: Instant::now() + END_GRACE,
            });
        }
    }

    fn signal(&mut self, number: u8) {
        frame::encode(&mut self.output, kind::SIGNAL, &[number]);
    }

    fn take_frames(&mut self) -> Result<()> {
        while self.result.is_none() && !self.backlogged() {
            let next = self.decoder.next_frame();
            let Some(frame) = next.map_err(|e| Error::Protocol(e.to_string()))? else {
                if self.lost {
                    self.result = Some(Err(Error::ConnectionLost));
                }
                return Ok(());
            };
            self.take_frame(&frame)?;
        }
        Ok(())
    }

    fn take_frame(&mut self, frame: &Frame) -> Result<()> {
        match (frame.kind, self.started) {
            (kind::STARTED, false) => {
                parse::<Started>(&frame.payload)?;
                self.started = true;
            }
            (kind::STDOUT, true) => {
                let pushed = self.stdout.push(&frame.payload);
                self.wrote_stdout(pushed)?;
            }
            (kind::STDERR, true) => {
                let pushed = self.stderr.push(&frame.payload);
                pushed.map_err(Error::host("writing standard error"))?.ok();
            }
            (kind::STDIN_CREDIT, true) => {
                let Ok(credit) = <[u8; 4]>::try_from(&frame.payload[..]) else {
                    return Err(Error::Protocol("a malformed credit".to_owned()));
                };
                let credit = self
                    .credit
                    .saturating_add(u32::from_le_bytes(credit) as usize);
                if credit > STDIN_WINDOW {
                    return Err(Error::Protocol("credit for more than was sent".to_owned()));
                }
                self.credit = credit;
            }
            (kind::EXIT, true) => {
                self.result = Some(Ok(Outcome::Exited(parse(&frame.payload)?)));
            }
            (kind::ERROR, _) => {
                self.result = Some(Err(Error::Call(parse::<CallError>(&frame.payload)?)));
            }
            (kind, _) => {
                return Err(Error::Protocol(format!(
                    "an unexpected frame of kind {kind}"
                )));
            }
        }
        Ok(())
    }

    fn wrote_stdout(&mut self, written: io::Result<std::result::Result<(), Closed>>) -> Result<()> {
        if written.map_err(Error::host("writing standard output"))? == Err(Closed) {
            self.end(libc::SIGPIPE as u8, Outcome::OutputClosed);
        }
        Ok(())
    }

    fn obey_control(&mut self) -> Result<()> {
        let Some(control) = &mut self.control else {
            return Ok(());
        };
        while let Some(command) = control
            .next_command()
            .map_err(Error::host("reading signals"))?
        {
            match command {
                Command::Signal(number) => {
                    frame::encode(&mut self.output, kind::SIGNAL, &[number]);
                }
                Command::Resize(size) => {
                    if self.terminal {
                        let json = serde_json::to_vec(&size).unwrap_or_default();
                        frame::encode(&mut self.output, kind::RESIZE, &json);
                    }
                }
                Command::Abandon => return Err(Error::Interrupted),
            }
        }
        Ok(())
    }

    fn read_stdin(&mut self) -> Result<()> {
        let Some(stdin) = self.stdin else {
            return Ok(());
        };
        let mut buffer = [0; CHUNK];
        let limit = self.credit.min(CHUNK);
        match nix::unistd::read(stdin, &mut buffer[..limit]) {
            // A terminal that went away says EIO.
            Ok(0) | Err(Errno::EIO) => {
                self.stdin = None;
                frame::encode(&mut self.output, kind::STDIN_END, &[]);
            }
            Ok(n) => {
                self.credit -= n;
                frame::encode(&mut self.output, kind::STDIN, &buffer[..n]);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(Error::host("reading standard input")(error.into())),
        }
        Ok(())
    }

    fn write_stream(&mut self) {
        if self.output.is_empty() {
            return;
        }
        match (&self.stream).write(&self.output) {
            Ok(written) => {
                self.output.drain(..written);
            }
            Err(error) if is_transient(&error) => {}
            // What the guest said before it hung up is still to be read.
            Err(_) => self.output.clear(),
        }
    }

    fn read_stream(&mut self) {
        if self.backlogged() {
            return;
        }
        let mut buffer = [0; 64 * 1024];
        match (&self.stream).read(&mut buffer) {
            Ok(n) if n > 0 => self.decoder.push(&buffer[..n]),
            Err(error) if is_transient(&error) => {}
            Ok(_) | Err(_) => self.lost = true,
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
