//! The agent at work: serves calls from the host and reports events to it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use banger_wire::PROTOCOL;
use banger_wire::agent::{
    Call, CallError, CallErrorKind, Event, Exec, Exit, Info, Request, User, kind,
};
use banger_wire::config::{Process, Ssh};
use banger_wire::frame::{Decoder, Frame};
use banger_wire::port;
use tokio::sync::Notify;
use tokio::task::{spawn_blocking, spawn_local};

use crate::boot::grow::Growing;
use crate::caller::Caller;
use crate::channel::{Channel, ChannelError, Gone, Stream};
use crate::port::Port;
use crate::process::{Ended, Processes};
use crate::spawn::spawn_on_console;
use crate::worker::Workers;
use crate::{
    account, clock, console, copy, exec, image_file, loopback, sockets, splice, ssh, stats, tcp,
    watch, workspace,
};

/// The agent's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything that the agent's tasks share.
#[derive(Debug)]
pub(crate) struct Agent {
    channel: Rc<Channel>,
    /// The commands.
    pub(crate) processes: Rc<Processes>,
    /// The copies.
    pub(crate) workers: Workers,
    defaults: Process,
    ssh: Option<ssh::Server>,
    events: RefCell<VecDeque<Event>>,
    events_changed: Notify,
    stop: Cell<Option<Duration>>,
    stopping: Notify,
    reboot: Cell<bool>,
    entrypoint: RefCell<Option<Entrypoint>>,
    growing: Option<Arc<Growing>>,
}

/// The image's own command while it runs.
#[derive(Debug, Clone)]
pub(crate) struct Entrypoint {
    pub(crate) pid: u32,
    /// Asks it to end.
    pub(crate) stop_signal: i32,
    pub(crate) ended: Rc<Ended>,
}

impl Agent {
    /// Without `ssh` there is no SSH server; without `growing` the root cannot be grown while it is used.
    pub(crate) fn new(defaults: Process, ssh: Option<Ssh>, growing: Option<Growing>) -> Rc<Agent> {
        let ssh = ssh.map(|ssh| ssh::Server::new(ssh, defaults.clone()));
        Rc::new(Agent {
            ssh,
            channel: Channel::new(),
            processes: Rc::default(),
            workers: Workers::default(),
            defaults,
            events: RefCell::default(),
            events_changed: Notify::new(),
            stop: Cell::new(None),
            stopping: Notify::new(),
            reboot: Cell::new(false),
            entrypoint: RefCell::default(),
            growing: growing.map(Arc::new),
        })
    }

    /// Serves the host on `port` until the channel ends; then every call on it has ended, too. A
    /// host that begins anew on the same port is served without a return.
    pub(crate) async fn serve(self: &Rc<Self>, port: &Port) -> ChannelError {
        let ended = self
            .channel
            .run(port, |stream, number| self.opened(stream, number))
            .await;
        self.channel.restart();
        ended
    }

    fn opened(self: &Rc<Self>, stream: Stream, number: u32) {
        // A stream that is dropped is reset.
        match number {
            port::AGENT => {
                stream.accept();
                spawn_local(Rc::clone(self).call(stream));
            }
            port::SSH if self.ssh.is_some() && self.stop.get().is_none() => {
                let agent = Rc::clone(self);
                spawn_local(async move {
                    if let Some(ssh) = &agent.ssh {
                        ssh.serve(&agent.processes, stream).await;
                    }
                });
            }
            _ => {
                if let Some(port) = port::tcp(number) {
                    spawn_local(tcp::serve(stream, port));
                }
            }
        }
    }

    /// Tells every host that connects that the agent is ready, and what happened since.
    pub(crate) async fn push_events(self: Rc<Self>) {
        loop {
            let generation = self.channel.generation();
            if let Ok(stream) = self.channel.open(port::EVENTS) {
                self.push_events_to(&stream).await;
            }
            self.channel.restarted_since(generation).await;
        }
    }

    async fn push_events_to(&self, stream: &Stream) {
        let ready = Event::Ready {
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
            uptime_ms: uptime().as_millis() as u64,
        };
        if stream.send(&line(&ready)).await == Err(Gone) {
            return;
        }
        loop {
            let next = self.events.borrow().front().cloned();
            let Some(event) = next else {
                tokio::select! {
                    () = self.events_changed.notified() => continue,
                    () = stream.ended() => return,
                }
            };
            if stream.send(&line(&event)).await == Err(Gone) {
                return;
            }
            self.events.borrow_mut().pop_front();
        }
    }

    /// Tells the host, now or when it connects.
    pub(crate) fn report(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
        self.events_changed.notify_one();
    }

    async fn call(self: Rc<Self>, stream: Stream) {
        let caller = Caller::new(stream);
        let mut decoder = Decoder::default();
        let answered = match first_frame(&caller, &mut decoder).await {
            Ok(frame) => match parse(&frame) {
                Ok(request) => self.answer(request, &caller, decoder).await,
                Err(error) => Err(error),
            },
            Err(Some(error)) => Err(error),
            Err(None) => return,
        };
        if let Err(error) = answered
            && caller.fail(&error).await == Err(Gone)
        {
            return;
        }
        caller.close().await;
        // Now nobody waits.
        loopback::ensure();
    }

    async fn answer(
        &self,
        request: Request,
        caller: &Caller,
        decoder: Decoder,
    ) -> Result<(), CallError> {
        let sent = match request {
            Request::Exec(_) | Request::Copy(_) if self.stop.get().is_some() => {
                return Err(CallError {
                    kind: CallErrorKind::Failed,
                    message: "the guest is shutting down".to_owned(),
                });
            }
            Request::Exec(command) => {
                return exec::run(&command, &self.defaults, &self.processes, caller, decoder).await;
            }
            Request::Copy(what) => {
                return copy::run(what, &self.defaults, &self.workers, caller, decoder).await;
            }
            Request::Watch(what) => {
                let (defaults, processes) = (&self.defaults, &self.processes);
                return watch::run(&what, defaults, processes, caller, decoder).await;
            }
            Request::User { user } => {
                let user = user.as_deref().unwrap_or(&self.defaults.user);
                caller.send_json(kind::REPLY, &self::user(user)?).await
            }
            Request::AuthorizeKeys { keys } => {
                let Some(ssh) = &self.ssh else {
                    return Err(bad_request(
                        "the guest has no SSH server of banger's".into(),
                    ));
                };
                ssh.authorize(keys);
                caller.send(kind::REPLY, b"{}").await
            }
            Request::Workspace(what) => {
                return workspace::run(what, &self.defaults, &self.processes, caller, decoder)
                    .await;
            }
            Request::Protect { path, readonly } => {
                workspace::protect(&path, readonly)?;
                caller.send(kind::REPLY, b"{}").await
            }
            Request::Measure { bytes } => splice::measure(caller, bytes).await,
            Request::Info => caller.send_json(kind::REPLY, &info()).await,
            Request::Sockets { probe } => {
                caller
                    .send_json(kind::REPLY, &sockets::listening(probe).await)
                    .await
            }
            Request::Stats => caller.send_json(kind::REPLY, &stats::now()).await,
            Request::SetClock { unix_ns } => {
                clock::set(unix_ns)?;
                caller.send(kind::REPLY, b"{}").await
            }
            Request::GrowDisk { bytes } => {
                self.grow_disk(bytes).await?;
                caller.send(kind::REPLY, b"{}").await
            }
            Request::Shutdown { grace_ms } => {
                let sent = caller.send(kind::REPLY, b"{}").await;
                self.request_stop(Duration::from_millis(grace_ms));
                sent
            }
        };
        // A caller that does not wait for the answer has hung up.
        let _: Result<(), Gone> = sent;
        Ok(())
    }

    async fn grow_disk(&self, bytes: u64) -> Result<(), CallError> {
        let failed = |message: String| CallError {
            kind: CallErrorKind::Failed,
            message,
        };
        let Some(growing) = self.growing.clone() else {
            return Err(failed("this kind of disk grows at a start only".to_owned()));
        };
        // The kernel writes the new groups meanwhile.
        let grown = spawn_blocking(move || growing.follow(bytes)).await;
        let grown = grown.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        grown.map_err(|error| failed(format!("growing the root's file system: {error}")))
    }

    /// Asks for the end of the guest, with this long for processes to end.
    pub(crate) fn request_stop(&self, grace: Duration) {
        self.stop.set(Some(grace));
        self.stopping.notify_one();
    }

    /// The end that is asked for next is a reboot.
    pub(crate) fn reboot_in_the_end(&self) {
        self.reboot.set(true);
    }

    /// What that end is.
    pub(crate) fn reboots(&self) -> bool {
        self.reboot.get()
    }

    /// Waits until somebody asked for the end; returns the grace.
    pub(crate) async fn stop_requested(&self) -> Duration {
        loop {
            if let Some(grace) = self.stop.get() {
                return grace;
            }
            self.stopping.notified().await;
        }
    }

    /// Waits until the host has everything that was sent.
    pub(crate) async fn flushed(&self) {
        self.channel.flushed().await;
    }

    /// Runs the image's own `poweroff`, for inits that are asked in no other way.
    pub(crate) fn run_power_off(&self) {
        let command = Exec {
            argv: vec!["poweroff".to_owned()],
            user: Some("root".to_owned()),
            ..Exec::default()
        };
        match spawn_on_console(&command, &Process::default()) {
            Ok(pid) => drop(self.processes.watch(pid)),
            Err(error) => console::say(&format!("asking init to power off: {error}")),
        }
    }

    /// The image's entry point while it runs.
    pub(crate) fn entrypoint(&self) -> Option<Entrypoint> {
        self.entrypoint.borrow().clone()
    }

    /// Runs the image's entry point on the console and reports its end, there too.
    pub(crate) async fn run_entrypoint(self: Rc<Self>, argv: Vec<String>, stop_signal: i32) {
        let command = Exec {
            argv,
            ..Exec::default()
        };
        let exit = match spawn_on_console(&command, &self.defaults) {
            Ok(pid) => {
                let ended = self.processes.watch(pid);
                *self.entrypoint.borrow_mut() = Some(Entrypoint {
                    pid,
                    stop_signal,
                    ended: Rc::clone(&ended),
                });
                let exit = ended.wait().await;
                *self.entrypoint.borrow_mut() = None;
                console::say(&match exit {
                    Exit::Code(code) => format!("the entry point ended with status {code}"),
                    Exit::Signal(number) => {
                        format!("the entry point was killed by signal {number}")
                    }
                });
                exit
            }
            Err(error) => {
                console::say(&format!("the entry point did not start: {error}"));
                Exit::Code(match error.kind {
                    CallErrorKind::NotFound => 127,
                    CallErrorKind::NotExecutable => 126,
                    _ => 125,
                })
            }
        };
        self.report(Event::EntrypointExited { exit });
    }
}

/// One event as the host reads it.
pub(crate) fn line(event: &Event) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line
}

/// `Err(None)` when the caller hung up before it said anything.
async fn first_frame(caller: &Caller, decoder: &mut Decoder) -> Result<Frame, Option<CallError>> {
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(error) => return Err(Some(unsupported(error.to_string()))),
        }
        match caller.receive().await {
            Ok(Some(bytes)) => decoder.push(&bytes),
            Ok(None) | Err(Gone) => return Err(None),
        }
    }
}

fn parse(frame: &Frame) -> Result<Request, CallError> {
    if frame.kind != kind::CALL {
        return Err(unsupported(format!(
            "the first frame is of kind {}, not a call",
            frame.kind
        )));
    }
    let call: Call = serde_json::from_slice(&frame.payload).map_err(|error| {
        unsupported(format!(
            "the guest's agent, version {VERSION}, does not know this call: {error}"
        ))
    })?;
    if call.protocol != PROTOCOL {
        return Err(unsupported(format!(
            "the guest's agent speaks protocol {PROTOCOL}, the caller {}",
            call.protocol
        )));
    }
    Ok(call.request)
}

fn user(specification: &str) -> Result<User, CallError> {
    let account = account::find(specification).map_err(bad_request)?;
    Ok(User {
        uid: account.uid,
        gid: account.gid,
        home: account.home,
    })
}

fn bad_request(message: String) -> CallError {
    CallError {
        kind: CallErrorKind::BadRequest,
        message,
    }
}

fn unsupported(message: String) -> CallError {
    CallError {
        kind: CallErrorKind::Unsupported,
        message,
    }
}

/// Time since the kernel's start.
pub(crate) fn uptime() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .unwrap_or_default()
}

fn info() -> Info {
    let kernel = nix::sys::utsname::uname()
        .map(|names| names.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let memory = image_file::read("/proc/meminfo".as_ref()).unwrap_or_default();
    Info {
        protocol: PROTOCOL,
        version: VERSION.to_owned(),
        kernel,
        uptime_ms: uptime().as_millis() as u64,
        memory_total: meminfo(&memory, "MemTotal"),
        memory_available: meminfo(&memory, "MemAvailable"),
    }
}

/// A line of `/proc/meminfo` in bytes (proc_meminfo(5)).
pub(crate) fn meminfo(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        .saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_bytes() {
        let text = "MemTotal:       2048 kB\nMemFree: 1 kB\nMemAvailable:    x kB\n";
        assert_eq!(meminfo(text, "MemTotal"), 2048 * 1024);
        assert_eq!(meminfo(text, "MemAvailable"), 0);
        assert_eq!(meminfo("", "MemTotal"), 0);
    }

    #[test]
    fn unknown_calls_are_answered_as_unsupported() {
        let parse = |kind, text: &str| {
            parse(&Frame {
                kind,
                payload: text.as_bytes().to_vec(),
            })
        };
        assert_eq!(
            parse(kind::CALL, r#"{"protocol":1,"request":{"op":"info"}}"#),
            Ok(Request::Info)
        );
        for (kind, text) in [
            (kind::CALL, r#"{"protocol":2,"request":{"op":"info"}}"#),
            (kind::CALL, r#"{"protocol":1,"request":{"op":"fly"}}"#),
            (kind::CALL, "\u{0}"),
            (kind::STDIN, r#"{"protocol":1,"request":{"op":"info"}}"#),
        ] {
            let error = parse(kind, text).unwrap_err();
            assert_eq!(error.kind, CallErrorKind::Unsupported, "{text}");
        }
    }
}
