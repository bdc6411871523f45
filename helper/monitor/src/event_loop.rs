//! The event loop: one epoll, one thread, and a timeout only while something is due.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use banger_wire::monitor::ExitRecord;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::accept::ACCEPT_PAUSE;
use crate::agent::{Agent, ChannelEnd};
use crate::clients::Clients;
use crate::clock::Jump;
use crate::console::{Console, ConsoleRead, Kept};
use crate::control::Control;
use crate::exit::Witness;
use crate::growth::Growth;
use crate::guest::Guest;
use crate::idle::Idle;
use crate::launch::{LaunchError, Vm};
use crate::lifecycle::Ready;
use crate::log::chain;
use crate::process;
use crate::publish::{self, Ports};
use crate::qmp::{Qmp, QmpRead};
use crate::statistics::Statistics;
use crate::stop::{DEFAULT_GRACE, Stop};

const SIGNALS: u64 = 0;
const AGENT: u64 = 1;
const QMP: u64 = 2;
const CONSOLE: u64 = 3;
pub(crate) const AGENT_LISTENER: u64 = 4;
pub(crate) const CONTROL_LISTENER: u64 = 5;
const CLOCK: u64 = 6;
/// Clients of agent.sock have even tokens from here, those of control.sock odd ones.
const FIRST_CLIENT: u64 = 16;

const SCRATCH: usize = 64 * 1024;
const EVENTS: usize = 64;
/// For clients to take what the guest left for them when the VMM has ended.
const LAST_BYTES_TIME: Duration = Duration::from_millis(500);
/// Reads of one channel after the VMM's end: more than a socket buffer holds, but an end, should
/// some child of the VMM hold the other side and go on writing.
const LAST_READS: usize = 256;

/// Everything about one VM.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) vm: Vm,
    pub(crate) epoll: Epoll,
    pub(crate) scratch: Vec<u8>,
    pub(crate) agent: Option<Agent>,
    pub(crate) guest: Guest,
    pub(crate) clients: Clients,
    pub(crate) qmp: Option<Qmp>,
    pub(crate) console: Option<Console>,
    /// Of a console whose VMM is gone.
    kept: Option<Kept>,
    pub(crate) control: Control,
    /// Tokens of control clients that may have something to read.
    pub(crate) control_ready: Vec<u64>,
    pub(crate) witness: Witness,
    pub(crate) ready: Option<Ready>,
    pub(crate) stop: Stop,
    pub(crate) idle: Idle,
    pub(crate) ports: Ports,
    pub(crate) jump: Option<Jump>,
    pub(crate) statistics: Option<Statistics>,
    pub(crate) growth: Option<Growth>,
    /// The shutdown call was sent.
    pub(crate) called: bool,
    /// `system_powerdown` was sent.
    pub(crate) powered_down: bool,
    /// It is to be sent as soon as QMP is negotiated.
    pub(crate) power_down_wanted: bool,
    /// The teardown is done.
    pub(crate) ended: Option<ExitRecord>,
    signals: SignalFd,
    pub(crate) agent_listener: Option<UnixListener>,
    pub(crate) next_token: u64,
    /// Accepting failed; until then it is not tried.
    pub(crate) deaf_until: Option<Instant>,
    console_failed: bool,
    /// The VMM has ended.
    pub(crate) exited: Option<ExitStatus>,
}

/// Supervises a VM until it is gone and everything is cleared away.
pub(crate) fn run(vm: Vm) -> ExitCode {
    let mut vm = vm;
    let parts = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).and_then(|epoll| {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok((
            epoll,
            SignalFd::with_flags(&process::handled_signals(), flags)?,
        ))
    });
    let (epoll, signals) = match parts {
        Ok(parts) => parts,
        Err(error) => {
            vm.log.line(format_args!("cannot supervise: {error}"));
            let _ = vm.child.kill();
            let _ = vm.child.wait();
            let _ = vm.paths.remove_runtime();
            return ExitCode::FAILURE;
        }
    };
    let mut monitor = Monitor::new(vm, epoll, signals);
    monitor.vm.happened("started", None);
    let status = monitor.watch().and_then(|()| monitor.supervise_boots());
    let status = status.or_else(|error| {
        let what = format_args!("cannot supervise any more, so the VM is killed: {error}");
        monitor.vm.log.line(what);
        monitor.witness.killed = true;
        monitor.vm.child.kill()?;
        monitor.vm.child.wait()
    });
    match status {
        Ok(status) => monitor.tear_down(status),
        Err(error) => {
            monitor
                .vm
                .log
                .line(format_args!("cannot wait for the VMM: {error}"));
            ExitCode::FAILURE
        }
    }
}

impl Monitor {
    fn new(mut vm: Vm, epoll: Epoll, signals: SignalFd) -> Self {
        let (agent_listener, agent) = vm.agent.take().unzip();
        let qmp = vm.qmp.take().map(Qmp::new);
        let console = vm.console.take();
        Monitor {
            epoll,
            scratch: vec![0; SCRATCH],
            agent: agent.map(Agent::new),
            guest: Guest::default(),
            clients: Clients::default(),
            console: console.map(|(kept, socket)| Console::new(socket, kept)),
            kept: None,
            control: Control::default(),
            control_ready: Vec::new(),
            witness: Witness {
                qmp: qmp.is_some(),
                ..Witness::default()
            },
            qmp,
            ready: None,
            stop: Stop::default(),
            idle: Idle::new(vm.idle_stop),
            ports: Ports::new(std::mem::take(&mut vm.ports)),
            // Without it the clock follows after pauses only.
            jump: Jump::watch().ok(),
            statistics: None,
            growth: None,
            called: false,
            powered_down: false,
            power_down_wanted: false,
            ended: None,
            signals,
            agent_listener,
            next_token: FIRST_CLIENT,
            deaf_until: None,
            console_failed: false,
            exited: None,
            vm,
        }
    }

    fn watch(&mut self) -> io::Result<()> {
        add(&self.epoll, &self.signals, SIGNALS, EpollFlags::EPOLLIN)?;
        if let Some(jump) = &self.jump {
            add(&self.epoll, jump.timer(), CLOCK, EpollFlags::EPOLLIN)?;
        }
        self.watch_vmm()?;
        self.listen()
    }

    fn watch_vmm(&self) -> io::Result<()> {
        if let Some(agent) = &self.agent {
            add(&self.epoll, agent.socket(), AGENT, edge_triggered())?;
        }
        if let Some(qmp) = &self.qmp {
            add(&self.epoll, qmp.socket(), QMP, EpollFlags::EPOLLIN)?;
        }
        if let Some(console) = &self.console {
            add(&self.epoll, console.socket(), CONSOLE, EpollFlags::EPOLLIN)?;
        }
        Ok(())
    }

    /// Runs until the VM has ended. A guest that reboots gets another VMM, under the same lock.
    fn supervise_boots(&mut self) -> io::Result<ExitStatus> {
        loop {
            let status = self.supervise()?;
            if !self.vm.launch.reboot || !self.witness.rebooted() {
                return Ok(status);
            }
            if let Err(error) = self.boot_again() {
                let what = format_args!("the guest rebooted, and cannot: {}", chain(&error));
                self.vm.log.line(what);
                return Ok(status);
            }
        }
    }

    /// Everything of the last boot is forgotten; listeners, published ports and those who wait stay.
    fn boot_again(&mut self) -> Result<(), LaunchError> {
        let channels = self.vm.relaunch()?;
        self.agent = channels.agent.map(Agent::new);
        self.qmp = channels.qmp.map(Qmp::new);
        // One that was flooded to the end may not have been read to its own.
        let unread = self.console.take().map(Console::into_kept);
        let console = channels.console.zip(self.kept.take().or(unread));
        self.console = console.map(|(socket, kept)| Console::new(socket, kept));
        self.guest = Guest::default();
        self.witness = Witness {
            qmp: self.qmp.is_some(),
            ..Witness::default()
        };
        (self.ready, self.statistics, self.exited) = (None, None, None);
        (self.called, self.powered_down, self.power_down_wanted) = (false, false, false);
        self.stop = Stop::default();
        self.idle = Idle::new(self.vm.idle_stop);
        self.vm.happened("rebooted", None);
        self.watch_vmm().map_err(LaunchError::Channels)
    }

    /// Runs until the VMM has ended and clients have taken the guest's last bytes.
    fn supervise(&mut self) -> io::Result<ExitStatus> {
        let status = loop {
            self.poll(None)?;
            self.turn();
            if let Some(status) = self.exited {
                break status;
            }
        };
        self.read_what_is_left();
        let deadline = Instant::now() + LAST_BYTES_TIME;
        while !self.clients.is_empty() && Instant::now() < deadline {
            self.poll(Some(deadline))?;
            self.turn();
        }
        Ok(status)
    }

    /// Waits for something to happen, at most until `limit`, and notes what it is.
    pub(crate) fn poll(&mut self, limit: Option<Instant>) -> io::Result<()> {
        let timeout = self.timeout(limit);
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            self.dispatch(event.data(), event.events())?;
        }
        Ok(())
    }

    fn timeout(&self, limit: Option<Instant>) -> EpollTimeout {
        let busy = self.clients.has_work()
            || !self.control_ready.is_empty()
            || self.agent.as_ref().is_some_and(Agent::has_work);
        if busy {
            return EpollTimeout::ZERO;
        }
        let due = [
            limit,
            self.stop.deadline(),
            self.idle_deadline(),
            self.clients.next_deadline(),
            self.deaf_until,
            self.statistics.as_ref().map(Statistics::deadline),
        ];
        let Some(next) = due.into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up, or the last millisecond would be spent polling.
        let milliseconds = u32::try_from(left.as_millis())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        EpollTimeout::try_from(milliseconds).unwrap_or(EpollTimeout::MAX)
    }

    fn dispatch(&mut self, token: u64, flags: EpollFlags) -> io::Result<()> {
        let hung_up = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        let readable = hung_up || flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
        let writable = hung_up || flags.contains(EpollFlags::EPOLLOUT);
        match token {
            SIGNALS => return self.read_signals(),
            AGENT => {
                if let Some(agent) = &mut self.agent {
                    agent.wake(readable, writable);
                }
            }
            QMP => _ = self.read_qmp(),
            CONSOLE => _ = self.read_console(),
            AGENT_LISTENER => self.accept_agent_clients(),
            CONTROL_LISTENER => self.accept_control_clients(),
            CLOCK => self.clock_jumped(),
            token if token & publish::TOKEN != 0 => self.accept_on_port(token),
            _ if token.is_multiple_of(2) => self.clients.wake(token, readable, writable, hung_up),
            _ => {
                self.control.wake(token, readable, writable, hung_up);
                self.control_ready.push(token);
            }
        }
        Ok(())
    }

    /// Does what there is to do, a bounded piece of each.
    pub(crate) fn turn(&mut self) {
        self.read_agent();
        self.clients.run(self.agent.as_mut(), &mut self.scratch);
        for token in std::mem::take(&mut self.control_ready) {
            self.serve_control(token);
        }
        self.flush_agent();
        let now = Instant::now();
        if self.stop.deadline().is_some_and(|at| at <= now) {
            self.stop_step(now);
        }
        if self.ready.is_some() {
            self.idle.observe(!self.clients.is_empty(), now);
        }
        if self.idle_deadline().is_some_and(|at| at <= now) {
            self.vm
                .log
                .line("nobody has used the VM for long: it is stopped");
            self.request_stop(DEFAULT_GRACE);
        }
        if self.clients.next_deadline().is_some_and(|at| at <= now) {
            self.clients.expire(self.agent.as_mut(), now);
        }
        let sample = self.statistics.as_ref().map(Statistics::deadline);
        if sample.is_some_and(|at| at <= now) {
            self.ask_for_sample(now);
        }
        if self.deaf_until.is_some_and(|at| at <= now) {
            self.deaf_until = None;
            if self.listen().is_err() {
                self.deaf_until = Some(now + ACCEPT_PAUSE);
            }
        }
    }

    /// Only a VM that nobody stops yet can be stopped for being idle.
    fn idle_deadline(&self) -> Option<Instant> {
        self.idle.deadline().filter(|_| self.stop == Stop::Running)
    }

    fn read_signals(&mut self) -> io::Result<()> {
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo == Signal::SIGCHLD as u32 {
                if self.exited.is_none() {
                    self.exited = self.vm.child.try_wait()?;
                    if self.exited.is_some() {
                        self.stop = Stop::Killed;
                    }
                }
                if self.exited.is_none() {
                    for lost in self.vm.shares.failed() {
                        self.vm.log.line(&lost);
                        self.vm.happened("share-lost", Some(&lost));
                    }
                }
            } else {
                self.request_stop(DEFAULT_GRACE);
            }
        }
        Ok(())
    }

    fn read_agent(&mut self) {
        let Some(agent) = self.agent.as_mut().filter(|agent| agent.wants_read()) else {
            return;
        };
        let read = agent.read(&mut self.scratch);
        while let Some(event) = self.agent.as_mut().and_then(Agent::next_event) {
            self.guest_event(event);
        }
        if let Err(end) = read {
            self.end_channel(&end);
        }
    }

    fn flush_agent(&mut self) {
        let Some(agent) = self.agent.as_mut() else {
            return;
        };
        agent.flush();
        self.clients.open_queued(agent);
        self.clients.feed_starved(agent);
    }

    /// The guest cannot be talked to any more; the VM goes on.
    fn end_channel(&mut self, end: &ChannelEnd) {
        if !matches!(end, ChannelEnd::Closed) {
            self.vm
                .log
                .line(format_args!("the channel to the guest is closed: {end}"));
        }
        self.agent = None;
        self.clients.cut_all();
        self.lose_growth();
        if self.called {
            self.power_down();
        }
    }

    /// True when there may be more.
    fn read_qmp(&mut self) -> bool {
        let Some(qmp) = &mut self.qmp else {
            return false;
        };
        match qmp.read(&mut self.scratch) {
            QmpRead::Messages(messages) => {
                for message in messages {
                    self.qmp_message(message);
                }
                true
            }
            QmpRead::Empty => false,
            QmpRead::End(reason) => {
                if let Some(reason) = reason.filter(|_| self.exited.is_none()) {
                    self.vm.log.line(format_args!("QMP is closed: {reason}"));
                }
                self.qmp = None;
                false
            }
        }
    }

    /// True when there may be more.
    fn read_console(&mut self) -> bool {
        let Some(console) = &mut self.console else {
            return false;
        };
        let read = console.read(&mut self.scratch);
        self.witness.panic_words = console.panicked();
        match read {
            ConsoleRead::Read(Ok(())) => true,
            ConsoleRead::Read(Err(error)) => {
                if !std::mem::replace(&mut self.console_failed, true) {
                    let what = format_args!("console output is lost: {}", chain(&error));
                    self.vm.log.line(what);
                }
                true
            }
            ConsoleRead::Empty => false,
            ConsoleRead::End => {
                self.kept = self.console.take().map(Console::into_kept);
                false
            }
        }
    }

    /// After the VMM's end: what is still in the sockets.
    fn read_what_is_left(&mut self) {
        for _ in 0..LAST_READS {
            if !self.read_qmp() {
                break;
            }
        }
        for _ in 0..LAST_READS {
            if !self.read_console() {
                break;
            }
        }
        if let Some(agent) = &mut self.agent {
            agent.wake(true, false);
        }
        for _ in 0..LAST_READS {
            if !self.agent.as_ref().is_some_and(Agent::wants_read) {
                break;
            }
            self.read_agent();
        }
        if self.agent.is_some() {
            self.end_channel(&ChannelEnd::Closed);
        }
    }
}

pub(crate) fn add(epoll: &Epoll, fd: impl AsFd, token: u64, flags: EpollFlags) -> io::Result<()> {
    Ok(epoll.add(fd, EpollEvent::new(flags, token))?)
}

pub(crate) fn edge_triggered() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}
