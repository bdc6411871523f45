//! What changes in a directory of the guest, as it tells of it.

use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use banger_wire::agent::Request;
use banger_wire::watch::{CHANGES, Change, Changes, MOST_CHANGES, Watch};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};
use crate::guest::{Guest, parse};

/// A guest that tells more than this in a second is read no faster: it waits, and so does its kernel.
const MOST_A_SECOND: u32 = 20_000;

impl Guest {
    /// Watches a directory until `each` breaks, `interrupt` is readable or the guest ends. The first that
    /// `each` hears has no changes: from then on nothing is missed.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Interrupted`] when `interrupt` was readable, [`Error::Call`] for what the guest
    /// cannot watch. A guest that does not know how answers with [`crate::CallErrorKind::Unsupported`].
    pub fn watch(
        &self,
        what: Watch,
        interrupt: Option<BorrowedFd<'_>>,
        each: &mut dyn FnMut(Changes) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut wire = self.begin(&Request::Watch(what), interrupt)?;
        wire.listen();
        let mut pace = Pace::new();
        loop {
            let frame = wire.frame()?;
            if frame.kind != CHANGES {
                return Err(Error::Protocol(format!("a change of kind {}", frame.kind)));
            }
            let changes: Changes = parse(&frame.payload)?;
            if changes.changes.len() > MOST_CHANGES
                || !changes.changes.iter().all(Change::is_lawful)
            {
                return Err(Error::Protocol("a change that cannot be".to_owned()));
            }
            let wait = pace.after(changes.changes.len(), Instant::now());
            if each(changes).is_break() {
                return Ok(());
            }
            if !wait.is_zero() && interrupted_within(interrupt, wait)? {
                return Err(Error::Interrupted);
            }
        }
    }
}

/// Counts what came in the current second.
struct Pace {
    since: Instant,
    count: u32,
}

impl Pace {
    fn new() -> Pace {
        Pace {
            since: Instant::now(),
            count: 0,
        }
    }

    /// How long to read nothing more. Frames without changes count, too.
    fn after(&mut self, changes: usize, now: Instant) -> Duration {
        let spent = now.saturating_duration_since(self.since);
        if spent >= Duration::from_secs(1) {
            (self.since, self.count) = (now, 0);
        }
        let changes = u32::try_from(changes).unwrap_or(u32::MAX);
        self.count = self.count.saturating_add(changes).saturating_add(20);
        match self.count > MOST_A_SECOND {
            true => Duration::from_secs(1).saturating_sub(spent),
            false => Duration::ZERO,
        }
    }
}

fn interrupted_within(interrupt: Option<BorrowedFd<'_>>, wait: Duration) -> Result<bool> {
    let mut polled: Vec<_> = interrupt
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .into_iter()
        .collect();
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
    match poll(&mut polled, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(Error::host("waiting")(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_read_a_second_at_a_time() {
        let mut pace = Pace::new();
        let begun = pace.since;
        let mut waits = (0..100).map(|_| pace.after(MOST_CHANGES, begun));
        assert!(waits.by_ref().take(30).all(|wait| wait.is_zero()));
        assert_eq!(waits.last(), Some(Duration::from_secs(1)));
        let later = begun + Duration::from_secs(1);
        assert_eq!(pace.after(MOST_CHANGES, later), Duration::ZERO);
        // Empty frames are no way around it.
        let empty: Vec<_> = (0..2000).map(|_| pace.after(0, later)).collect();
        assert!(!empty[1999].is_zero());
    }
}
