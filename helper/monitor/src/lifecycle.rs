//! What happens to the VM: the guest's words, QEMU's words, people's requests, deadlines.

use std::time::{Duration, Instant};

use banger_wire::agent::{self, Request};
use banger_wire::monitor::{ControlReply, ControlRequest, Phase};
use banger_wire::mux::Event;
use banger_wire::port;

use crate::control::{Request as Asked, Wait};
use crate::event_loop::Monitor;
use crate::guest::{Own, cut_message};
use crate::qmp::{Command, Message};
use crate::statistics::Statistics;
use crate::stop::{Step, Stop};

/// The guest is ready.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    boot_ms: u64,
    agent: String,
}

impl Monitor {
    pub(crate) fn guest_event(&mut self, event: Event) {
        let Some(agent) = &mut self.agent else {
            return;
        };
        match event {
            Event::Hello(_) => {}
            Event::Opened(stream, port) => self.guest.opened(agent.mux(), stream, port),
            Event::Data(stream, bytes) if self.guest.owns(stream) => {
                self.guest.call_answer(agent.mux(), stream, &bytes);
                let events = self.guest.events(agent.mux(), stream, &bytes);
                let refused = !self.guest.shutdown_answer(agent.mux(), stream, &bytes);
                for event in events {
                    self.boot_event(event);
                }
                if refused {
                    self.power_down();
                }
            }
            Event::Finished(stream) | Event::Reset(stream) if self.guest.owns(stream) => {
                match self.guest.call_ended(stream) {
                    Some((Own::Statistics, answer)) => self.sampled(&answer),
                    Some((Own::Clock, _)) => {}
                    Some((Own::Grow, answer)) => self.disk_grown(&answer),
                    None if self.guest.ended(agent.mux(), stream) => self.power_down(),
                    None => {}
                }
            }
            other => self.clients.event(other, agent),
        }
    }

    fn boot_event(&mut self, event: agent::Event) {
        match event {
            agent::Event::Ready { version, .. } if self.ready.is_none() => {
                let ready = Ready {
                    boot_ms: u64::try_from(self.vm.started.elapsed().as_millis())
                        .unwrap_or(u64::MAX),
                    agent: cut_message(version),
                };
                self.witness.was_ready = true;
                self.answer(Wait::Ready, &ready.reply());
                self.vm
                    .happened("ready", Some(&format!("after {} ms", ready.boot_ms)));
                self.ready = Some(ready);
                let every = self.vm.statistics;
                self.statistics = every.map(|every| Statistics::new(every, Instant::now()));
                self.ask_guest();
            }
            agent::Event::Failed { message }
                if self.ready.is_none() && self.witness.guest_message.is_none() =>
            {
                let message = cut_message(message);
                self.witness.guest_message = Some(message.clone());
                self.answer(Wait::Ready, &ControlReply::GuestFailed { message });
            }
            _ => {}
        }
    }

    pub(crate) fn qmp_message(&mut self, message: Message) {
        match message {
            Message::Greeting => {}
            // A stop may have come before the channel was negotiated.
            Message::Return if self.power_down_wanted => self.power_down(),
            Message::Return => {}
            Message::Error(description) => {
                self.vm.log.line(format_args!("QMP: {description}"));
            }
            Message::Shutdown(reason) => self.witness.shutdown = Some(reason),
            Message::GuestPanicked => self.witness.panicked = true,
            Message::Resumed => self.tell_time(),
            Message::Resized(result) => self.disk_resized(result),
        }
    }

    /// Serves the requests that a control client has sent.
    pub(crate) fn serve_control(&mut self, token: u64) {
        for request in self.control.read(token, &mut self.scratch) {
            self.control_request(token, request);
        }
        if self.control.flush(token) {
            self.control_ready.push(token);
        }
        if self.control.tether_broken() && self.stop != Stop::Killed {
            self.kill();
        }
    }

    fn control_request(&mut self, token: u64, request: Asked) {
        if let Some(record) = &self.ended {
            let reply = ControlReply::Exited(record.clone());
            return self.control.reply(token, &reply);
        }
        if !matches!(request, Ok(ControlRequest::Status)) {
            self.idle.touch(Instant::now());
        }
        match request {
            Ok(ControlRequest::Status) => self.reply_status(token),
            Ok(ControlRequest::Tether) => {
                self.control.tether(token);
                self.reply_status(token);
            }
            Ok(ControlRequest::Untether) => {
                self.control.untether(token);
                self.control.reply(token, &ControlReply::Done);
            }
            Ok(ControlRequest::WaitReady) => match (&self.ready, &self.witness.guest_message) {
                (Some(ready), _) => self.control.reply(token, &ready.reply()),
                (None, Some(message)) => {
                    let message = message.clone();
                    self.control
                        .reply(token, &ControlReply::GuestFailed { message });
                }
                (None, None) => self.control.wait(token, Wait::Ready),
            },
            Ok(ControlRequest::WaitExit) => self.control.wait(token, Wait::Exit),
            Ok(ControlRequest::Stop { grace_ms }) => {
                self.control.wait(token, Wait::Exit);
                self.request_stop(Duration::from_millis(grace_ms));
            }
            Ok(ControlRequest::Kill) => {
                self.control.wait(token, Wait::Exit);
                self.kill();
            }
            Ok(ControlRequest::Publish(publish)) => {
                let reply = self.publish(publish);
                self.control.reply(token, &reply);
            }
            Ok(ControlRequest::Unpublish(publish)) => {
                let reply = self.unpublish(publish);
                self.control.reply(token, &reply);
            }
            Ok(ControlRequest::Pause) => self.reply_commanded(token, &Command::Stop),
            Ok(ControlRequest::Resume) => self.reply_commanded(token, &Command::Continue),
            Ok(ControlRequest::GrowDisk { disk, bytes }) => self.grow_disk(token, disk, bytes),
            Err(message) => self.control.reply(token, &ControlReply::Error { message }),
        }
    }

    fn reply_commanded(&mut self, token: u64, command: &Command) {
        let reply = match self.command(command) {
            true => ControlReply::Done,
            false => ControlReply::Error {
                message: "the VMM cannot be asked".to_owned(),
            },
        };
        self.control.reply(token, &reply);
    }

    /// Opens a stream to the agent and sends a call, unless one of the same kind is unanswered. True when it
    /// was sent.
    pub(crate) fn call_guest(&mut self, own: Own, request: Request) -> bool {
        if !self.guest.can_call(own) {
            return false;
        }
        if let Some(agent) = &mut self.agent
            && let Some(stream) = agent.open(port::AGENT)
        {
            return self.guest.call(agent.mux(), stream, own, request);
        }
        false
    }

    fn reply_status(&mut self, token: u64) {
        let streams = self.agent.as_ref().map_or(0, |agent| agent.streams());
        let reply = ControlReply::Status {
            phase: self.phase(),
            streams: u32::try_from(streams).unwrap_or(u32::MAX),
        };
        self.control.reply(token, &reply);
    }

    /// Answers all who wait for this.
    pub(crate) fn answer(&mut self, wait: Wait, reply: &ControlReply) {
        self.control_ready.extend(self.control.answer(wait, reply));
    }

    fn phase(&self) -> Phase {
        if self.stop != Stop::Running {
            Phase::Stopping
        } else if self.ready.is_some() {
            Phase::Ready
        } else {
            Phase::Booting
        }
    }

    /// Begins a stop, or shortens the one that is under way.
    pub(crate) fn request_stop(&mut self, grace: Duration) {
        if self.exited.is_some() {
            return;
        }
        self.witness.stop_asked = true;
        if self.stop.request(Instant::now(), grace) {
            self.ask_guest();
        }
    }

    /// Asks the guest to shut down by the best way there is now; a better one may come later. A
    /// VMM without either way (Firecracker) is asked by its user and has its grace all the same.
    fn ask_guest(&mut self) {
        if self.called || !matches!(self.stop, Stop::Guest(_)) {
            return;
        }
        let stream = match &mut self.agent {
            Some(agent) if self.ready.is_some() => agent.open(port::AGENT),
            _ => None,
        };
        if let (Some(stream), Some(agent)) = (stream, &mut self.agent) {
            let grace = self.stop.guest_grace(Instant::now()).as_millis();
            let grace_ms = u64::try_from(grace).unwrap_or(u64::MAX);
            self.called = self.guest.call_shutdown(agent.mux(), stream, grace_ms);
        }
        if !self.called {
            self.power_down();
        }
    }

    /// Presses the power button, once.
    pub(crate) fn power_down(&mut self) {
        self.power_down_wanted = true;
        if !self.powered_down && matches!(self.stop, Stop::Guest(_)) {
            self.powered_down = self.command(&Command::PowerDown);
        }
    }

    pub(crate) fn stop_step(&mut self, now: Instant) {
        match self.stop.step(now) {
            Some(Step::Quit) => {
                self.witness.killed = true;
                if !self.command(&Command::Quit) {
                    self.kill();
                }
            }
            Some(Step::Kill) => self.kill(),
            None => {}
        }
    }

    fn kill(&mut self) {
        self.stop = Stop::Killed;
        if self.exited.is_some() {
            return;
        }
        self.witness.stop_asked = true;
        self.witness.killed = true;
        if let Err(error) = self.vm.child.kill() {
            self.vm
                .log
                .line(format_args!("cannot kill the VMM: {error}"));
        }
    }

    /// True when it was sent.
    pub(crate) fn command(&mut self, command: &Command) -> bool {
        let Some(qmp) = self.qmp.as_mut().filter(|qmp| qmp.is_negotiated()) else {
            return false;
        };
        match qmp.send(command) {
            Ok(()) => true,
            Err(error) => {
                self.vm.log.line(format_args!("QMP: {error}"));
                false
            }
        }
    }
}

impl Ready {
    fn reply(&self) -> ControlReply {
        ControlReply::Ready {
            boot_ms: self.boot_ms,
            agent: self.agent.clone(),
        }
    }
}
