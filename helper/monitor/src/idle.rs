//! Stopping a VM that nobody uses. In use is a VM with a connection to its agent: exec, ssh, copies, ports.

use std::time::{Duration, Instant};

/// How long the VM has not been used.
#[derive(Debug)]
pub(crate) struct Idle {
    limit: Option<Duration>,
    /// None while it is in use, or not ready yet.
    since: Option<Instant>,
}

impl Idle {
    /// Without a limit a VM is never idle.
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Idle { limit, since: None }
    }

    /// Notes whether it is in use now.
    pub(crate) fn observe(&mut self, in_use: bool, now: Instant) {
        if in_use {
            self.since = None;
        } else if self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// Somebody asked something of it: the time begins anew.
    pub(crate) fn touch(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
    }

    /// When it has been idle for too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.since?.checked_add(self.limit?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_runs_only_while_nobody_uses_it() {
        let start = Instant::now();
        let minute = Duration::from_secs(60);
        let mut idle = Idle::new(Some(10 * minute));
        idle.touch(start);
        assert_eq!(idle.deadline(), None, "not ready yet");
        idle.observe(false, start);
        idle.observe(false, start + minute);
        assert_eq!(idle.deadline(), Some(start + 10 * minute));
        idle.touch(start + minute);
        assert_eq!(idle.deadline(), Some(start + 11 * minute));
        idle.observe(true, start + 2 * minute);
        assert_eq!(idle.deadline(), None);
        let mut never = Idle::new(None);
        never.observe(false, start);
        assert_eq!(never.deadline(), None);
    }
}
