//! Retries with growing pauses.

use std::time::Duration;

use super::fault::Fault;
use crate::Error;

/// What happens after transient failures: broken connections, statuses 408, 429 and 5xx.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Attempts in all, the first one included.
    pub attempts: u32,
    /// Pause before the second attempt; each further one is three times as long.
    pub first_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 4,
            first_pause: Duration::from_millis(300),
        }
    }
}

impl Retry {
    pub(super) fn start(&self) -> Backoff {
        Backoff {
            left: self.attempts.saturating_sub(1),
            pause: self.first_pause,
        }
    }
}

/// The retries of one request.
pub(super) struct Backoff {
    left: u32,
    pause: Duration,
}

impl Backoff {
    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The fault's own error when it will not pass, or the attempts are used up.
    pub(super) async fn wait(&mut self, fault: Fault) -> Result<(), Error> {
        if !fault.transient || self.left == 0 {
            return Err(fault.error);
        }
        self.left -= 1;
        tokio::time::sleep(self.pause).await;
        self.pause *= 3;
        Ok(())
    }
}
