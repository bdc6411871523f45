//! The one reaper: as PID 1 the agent inherits every orphan, so nobody else may call wait(2).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use banger_wire::agent::Exit;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::sync::Notify;

use crate::signals::Signals;

/// The end of a command, for any number of tasks that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    exit: Cell<Option<Exit>>,
    changed: Notify,
}

impl Ended {
    pub(crate) fn has_ended(&self) -> bool {
        self.exit.get().is_some()
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) -> Exit {
        loop {
            if let Some(exit) = self.exit.get() {
                return exit;
            }
            self.changed.notified().await;
        }
    }
}

/// The commands that the agent started, until they are reaped.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    running: RefCell<HashMap<i32, Rc<Ended>>>,
    childless: Cell<bool>,
    reaped: Notify,
}

impl Processes {
    /// Reaps for ever.
    ///
    /// # Errors
    /// Those of [`Signals::new`].
    pub(crate) async fn reap(&self) -> io::Result<()> {
        let children = Signals::new(&[Signal::SIGCHLD])?;
        loop {
            self.reap_now();
            children.next().await?;
        }
    }

    fn reap_now(&self) {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code as u8)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid, Exit::Signal(signal as i32 as u8))
                }
                Ok(WaitStatus::StillAlive) => {
                    self.childless.set(false);
                    break;
                }
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => {
                    self.childless.set(true);
                    break;
                }
            };
            if let Some(waiting) = self.running.borrow_mut().remove(&pid.as_raw()) {
                waiting.exit.set(Some(exit));
                waiting.changed.notify_waiters();
            }
        }
        self.reaped.notify_waiters();
    }

    /// The end of a child that was just started; call it before anything is awaited, so that the
    /// reaper cannot be first.
    pub(crate) fn watch(&self, pid: u32) -> Rc<Ended> {
        let ended = Rc::<Ended>::default();
        self.childless.set(false);
        self.running
            .borrow_mut()
            .insert(pid as i32, Rc::clone(&ended));
        ended
    }

    /// Sends a signal to the process group of every running command.
    pub(crate) fn signal_all(&self, signal: Signal) {
        for pid in self.running.borrow().keys() {
            signal_group(*pid as u32, signal);
        }
    }

    /// Resolves when no child is left.
    pub(crate) async fn all_gone(self: &Rc<Self>) {
        loop {
            self.reap_now();
            if self.childless.get() {
                return;
            }
            self.reaped.notified().await;
        }
    }
}

/// Signals a command's process group; it may be gone already.
pub(crate) fn signal_group(leader: u32, signal: Signal) {
    // A leader of 0 or 1 would mean our own group or everybody.
    if let Ok(leader @ 2..) = i32::try_from(leader) {
        let _ = kill(Pid::from_raw(-leader), signal);
    }
}
