//! Ending a VM in three steps: the guest's own shutdown, the VMM's `quit`, SIGKILL.

use std::time::{Duration, Instant};

/// Grace of a stop by signal.
pub(crate) const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// Longer graces are cut to this.
const MAX_GRACE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the VMM has after `quit`.
const QUIT_TIME: Duration = Duration::from_secs(2);
/// What the guest may keep at most for unmounting, out of the grace.
const UNMOUNT_TIME: Duration = Duration::from_secs(5);

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stop {
    /// Nobody asked.
    #[default]
    Running,
    /// The guest has until then.
    Guest(Instant),
    /// The VMM was told to quit and has until then.
    Quit(Instant),
    /// SIGKILL was sent.
    Killed,
}

/// What the deadline asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Quit,
    Kill,
}

impl Stop {
    /// Takes a request; true when it is the first. A later one can only shorten the grace.
    pub(crate) fn request(&mut self, now: Instant, grace: Duration) -> bool {
        let deadline = now + grace.min(MAX_GRACE);
        match self {
            Stop::Running => {
                *self = Stop::Guest(deadline);
                true
            }
            Stop::Guest(old) => {
                *old = deadline.min(*old);
                false
            }
            Stop::Quit(_) | Stop::Killed => false,
        }
    }

    /// When [`Stop::step`] has something to say.
    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Stop::Guest(at) | Stop::Quit(at) => Some(at),
            Stop::Running | Stop::Killed => None,
        }
    }

    /// What is due now; the caller does it.
    pub(crate) fn step(&mut self, now: Instant) -> Option<Step> {
        match *self {
            Stop::Guest(at) if now >= at => {
                *self = Stop::Quit(now + QUIT_TIME);
                Some(Step::Quit)
            }
            Stop::Quit(at) if now >= at => {
                *self = Stop::Killed;
                Some(Step::Kill)
            }
            _ => None,
        }
    }

    /// The part of the remaining grace that the guest may give its processes.
    pub(crate) fn guest_grace(self, now: Instant) -> Duration {
        let Stop::Guest(at) = self else {
            return Duration::ZERO;
        };
        let left = at.saturating_duration_since(now);
        left - (left / 4).min(UNMOUNT_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_follow_each_other() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut stop = Stop::default();
        assert_eq!((stop.deadline(), stop.step(start)), (None, None));
        assert!(stop.request(start, 10 * second));
        assert_eq!(stop.guest_grace(start), Duration::from_millis(7500));
        assert_eq!(stop.step(start + 9 * second), None);
        assert!(!stop.request(start + second, 60 * second));
        assert_eq!(stop.deadline(), Some(start + 10 * second));
        assert!(!stop.request(start + second, 2 * second));
        assert_eq!(stop.deadline(), Some(start + 3 * second));
        assert_eq!(stop.step(start + 3 * second), Some(Step::Quit));
        assert!(!stop.request(start, second));
        assert_eq!(stop.step(start + 4 * second), None);
        assert_eq!(stop.step(start + 5 * second), Some(Step::Kill));
        assert_eq!(
            (stop.deadline(), stop.step(start + 9 * second)),
            (None, None)
        );
    }

    #[test]
    fn an_endless_grace_does_not_overflow() {
        let mut stop = Stop::default();
        assert!(stop.request(Instant::now(), Duration::from_millis(u64::MAX)));
        assert!(stop.deadline().is_some());
    }
}
