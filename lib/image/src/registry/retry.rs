//! Retries with growing pauses.

use std::time::Duration;

use super::fault::Fault;
use crate::Error;

/// An attempt that brought this many bytes was no failure of the registry's, only a short one.
const WORTHWHILE: u64 = 1 << 20;

/// What happens after transient failures: broken connections, statuses 408, 429 and 5xx.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Attempts in all, the first one included; of a blob, those in a row that brought nothing.
    pub attempts: u32,
    /// Pause before the second attempt; each further one is three times as long, all give or take
    /// a half, so that many clients do not come back at once.
    pub first_pause: Duration,
    /// No pause is longer, whatever the registry asks for by `Retry-After`.
    pub longest_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 4,
            first_pause: Duration::from_millis(300),
            longest_pause: Duration::from_secs(60),
        }
    }
}

impl Retry {
    pub(super) fn start(&self) -> Backoff {
        Backoff {
            rules: self.clone(),
            left: self.attempts.saturating_sub(1),
            pause: self.first_pause,
        }
    }
}

/// The retries of one request.
pub(super) struct Backoff {
    rules: Retry,
    left: u32,
    pause: Duration,
}

impl Backoff {
    /// The last attempt brought so many bytes.
    pub(super) fn progressed(&mut self, bytes: u64) {
        if bytes >= WORTHWHILE {
            *self = self.rules.start();
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The fault's own error when it will not pass, or the attempts are used up.
    pub(super) async fn wait(&mut self, fault: Fault) -> Result<(), Error> {
        if !fault.transient || self.left == 0 {
            return Err(*fault.error);
        }
        self.left -= 1;
        tokio::time::sleep(self.next(fault.after, random())).await;
        Ok(())
    }

    /// The pause; `random` is 0 to 255.
    fn next(&mut self, asked: Option<Duration>, random: u8) -> Duration {
        let pause = self.pause / 2 + self.pause * u32::from(random) / 255;
        self.pause *= 3;
        pause
            .max(asked.unwrap_or_default())
            .min(self.rules.longest_pause)
    }
}

/// Without randomness there is no jitter, which is no reason to fail.
fn random() -> u8 {
    let mut byte = [128];
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_vary_and_end() {
        let rules = Retry {
            attempts: 9,
            first_pause: Duration::from_secs(2),
            longest_pause: Duration::from_secs(20),
        };
        let seconds = Duration::from_secs;
        let mut backoff = rules.start();
        assert_eq!(backoff.next(None, 0), seconds(1));
        assert_eq!(backoff.next(None, 255), seconds(9));
        assert_eq!(backoff.next(None, 0), seconds(9));
        assert_eq!(backoff.next(None, 255), seconds(20));
        let mut backoff = rules.start();
        assert_eq!(backoff.next(Some(seconds(7)), 255), seconds(7));
        assert_eq!(backoff.next(Some(seconds(3600)), 0), seconds(20));
        backoff.progressed(1000);
        assert_eq!(backoff.next(None, 0), seconds(9));
        backoff.progressed(WORTHWHILE);
        assert_eq!(backoff.next(None, 0), seconds(1));
    }
}
