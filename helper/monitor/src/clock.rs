//! When the guest must be told what time it is: after a pause, and when the host's own clock jumped, as
//! it does at the end of a sleep.

use std::io;

use banger_wire::agent::Request;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::event_loop::Monitor;
use crate::guest::Own;
use crate::launch::now_ns;

/// A timer that never expires and is cancelled when somebody sets the clock (timerfd_create(2),
/// TFD_TIMER_CANCEL_ON_SET); the end of a sleep counts as that.
#[derive(Debug)]
pub(crate) struct Jump(TimerFd);

/// Seconds since 1970 that no clock will show.
const NEVER: i64 = 1 << 40;

impl Jump {
    pub(crate) fn watch() -> io::Result<Jump> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
        let jump = Jump(timer);
        jump.set()?;
        Ok(jump)
    }

    pub(crate) fn timer(&self) -> &TimerFd {
        &self.0
    }

    fn set(&self) -> io::Result<()> {
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        Ok(self
            .0
            .set(Expiration::OneShot(TimeSpec::new(NEVER, 0)), flags)?)
    }
}

impl Monitor {
    /// The host's clock jumped.
    pub(crate) fn clock_jumped(&mut self) {
        if let Some(jump) = &self.jump {
            // ECANCELED is the news; it is told until the timer is set again.
            let _ = jump.timer().wait();
            if jump.set().is_err() {
                self.jump = None;
            }
        }
        self.tell_time();
    }

    /// Tells a guest that is ready; others read the time when they boot.
    pub(crate) fn tell_time(&mut self) {
        if self.ready.is_some() {
            let request = Request::SetClock { unix_ns: now_ns() };
            self.call_guest(Own::Clock, request);
        }
    }
}
