//! What a VM uses, once a minute, in a bounded file that outlives it.

use std::fs;
use std::time::{Duration, Instant};

use banger_wire::agent::{Request, Stats, kind};
use banger_wire::frame::Decoder;
use banger_wire::monitor::Sample;

use crate::console::ConsoleLog;
use crate::event_loop::Monitor;
use crate::guest::Own;
use crate::launch::now_ms;

/// Bytes of the file: more than half a day of samples.
const LIMIT: u64 = 512 * 1024;
const PAGE: u64 = 4096;
/// `USER_HZ` (time(7)).
const MS_PER_TICK: u64 = 10;

/// When to ask next, and where the answers go.
#[derive(Debug)]
pub(crate) struct Statistics {
    every: Duration,
    next: Instant,
    log: Option<ConsoleLog>,
}

impl Statistics {
    /// The first sample is due one interval after the guest became ready.
    pub(crate) fn new(every: Duration, now: Instant) -> Statistics {
        Statistics {
            every,
            next: now + every,
            log: None,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.next
    }
}

impl Monitor {
    /// Asks the guest; what it answers is written by [`Monitor::sampled`].
    pub(crate) fn ask_for_sample(&mut self, now: Instant) {
        if let Some(statistics) = &mut self.statistics {
            // From now and not from when it was due: after a sleep of the host one sample is enough.
            statistics.next = now + statistics.every;
        }
        self.vm.log.trim();
        self.call_guest(Own::Statistics, Request::Stats);
    }

    /// The guest's answer, whole; nonsense is not written.
    pub(crate) fn sampled(&mut self, answer: &[u8]) {
        let mut decoder = Decoder::default();
        decoder.push(answer);
        let Ok(Some(frame)) = decoder.next_frame() else {
            return;
        };
        if frame.kind != kind::REPLY {
            return;
        }
        let Ok(guest) = serde_json::from_slice::<Stats>(&frame.payload) else {
            return;
        };
        let pid = self.vm.child.id();
        let (vmm_cpu_ms, vmm_rss) =
            vmm(&fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default());
        let sample = Sample {
            time_ms: now_ms(),
            guest,
            vmm_cpu_ms,
            vmm_rss,
        };
        let Ok(mut line) = serde_json::to_vec(&sample) else {
            return;
        };
        line.push(b'\n');
        let Some(statistics) = &mut self.statistics else {
            return;
        };
        if statistics.log.is_none() {
            statistics.log = ConsoleLog::create(&self.vm.paths.statistics, LIMIT).ok();
        }
        if let Some(log) = &mut statistics.log {
            // A full disk costs a sample.
            let _ = log.append(&line, &mut self.scratch);
        }
    }
}

/// Processor time and resident memory of a process (proc_pid_stat(5), fields 14, 15 and 24).
fn vmm(stat: &str) -> (Option<u64>, Option<u64>) {
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return (None, None);
    };
    let words: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| words.get(field - 3)?.parse::<u64>().ok();
    let cpu = number(14).zip(number(15));
    (
        cpu.map(|(user, system)| (user + system) * MS_PER_TICK),
        number(24).map(|pages| pages * PAGE),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_measured_whatever_its_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4 1 0 0 0 150 50 0 0 20 0 1 0 9 1000 25 1 1 1";
        assert_eq!(vmm(stat), (Some(2000), Some(25 * 4096)));
        assert_eq!(vmm(""), (None, None));
    }
}
