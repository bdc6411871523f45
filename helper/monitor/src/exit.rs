//! How a VM ended: from what was seen to the exit record.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use banger_wire::monitor::{ExitReason, ExitRecord};

use crate::qmp::Shutdown;

/// What was seen while the VM lived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Witness {
    /// A stop or kill was asked for.
    pub(crate) stop_asked: bool,
    /// We sent `quit` or SIGKILL.
    pub(crate) killed: bool,
    /// The VMM speaks QMP, so it says why it ends.
    pub(crate) qmp: bool,
    /// QEMU's own reason.
    pub(crate) shutdown: Option<Shutdown>,
    /// The guest's kernel said that it panicked.
    pub(crate) panicked: bool,
    /// So said its console in the end.
    pub(crate) panic_words: bool,
    /// The guest was ready once.
    pub(crate) was_ready: bool,
    /// Why the guest's boot failed, in its words.
    pub(crate) guest_message: Option<String>,
}

impl Witness {
    /// The record for a VMM that ended with `status` at `ended_ms`.
    pub(crate) fn record(&self, status: ExitStatus, ended_ms: u64) -> ExitRecord {
        ExitRecord {
            reason: self.reason(status),
            code: status.code(),
            signal: status.signal(),
            guest_message: self.guest_message.clone(),
            was_ready: self.was_ready,
            ended_ms,
        }
    }

    /// The guest reset itself in good health, and nobody wants its end.
    pub(crate) fn rebooted(&self) -> bool {
        let reset = self.shutdown == Some(Shutdown::GuestReset);
        let panicked = self.panicked || self.panic_words;
        reset && self.was_ready && !panicked && !self.stop_asked && !self.killed
    }

    fn reason(&self, status: ExitStatus) -> ExitReason {
        if self.panicked {
            return ExitReason::GuestPanic;
        }
        match self.shutdown {
            Some(Shutdown::GuestPanic) => ExitReason::GuestPanic,
            Some(Shutdown::GuestPowerOff) if self.stop_asked => ExitReason::Stopped,
            Some(Shutdown::GuestReset) if self.stop_asked && !self.panic_words => {
                ExitReason::Stopped
            }
            Some(Shutdown::GuestReset) if self.panic_words => ExitReason::GuestPanic,
            Some(Shutdown::GuestReset) => ExitReason::GuestReboot,
            Some(Shutdown::GuestPowerOff) => ExitReason::GuestPowerOff,
            _ if self.killed => ExitReason::Killed,
            // A signal from outside that QEMU turned into an orderly end.
            Some(Shutdown::Host) if status.success() => ExitReason::Killed,
            // A VMM that could have said why, and did not, has not run its guest.
            None if status.success() && !self.qmp && self.stop_asked => ExitReason::Stopped,
            None if status.success() && !self.qmp => ExitReason::GuestPowerOff,
            _ => ExitReason::VmmFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(letters: &str, shutdown: Option<Shutdown>) -> Witness {
        Witness {
            stop_asked: letters.contains('s'),
            killed: letters.contains('k'),
            qmp: letters.contains('q'),
            panicked: letters.contains('p'),
            panic_words: letters.contains('w'),
            shutdown,
            ..Witness::default()
        }
    }

    #[test]
    fn reasons() {
        let (ok, failed, sigkill) = (0, 1 << 8, 9);
        let (off, panic, reset, host) = (
            Some(Shutdown::GuestPowerOff),
            Some(Shutdown::GuestPanic),
            Some(Shutdown::GuestReset),
            Some(Shutdown::Host),
        );
        let table = [
            ("q", off, ok, ExitReason::GuestPowerOff),
            ("qs", off, ok, ExitReason::Stopped),
            // It powered off in the moment in which it was to be killed.
            ("qsk", off, sigkill, ExitReason::Stopped),
            ("qsk", host, ok, ExitReason::Killed),
            ("qsk", None, sigkill, ExitReason::Killed),
            ("sk", None, sigkill, ExitReason::Killed),
            ("q", host, ok, ExitReason::Killed),
            ("q", panic, ok, ExitReason::GuestPanic),
            ("qs", panic, ok, ExitReason::GuestPanic),
            ("q", reset, ok, ExitReason::GuestReboot),
            ("qs", reset, ok, ExitReason::Stopped),
            ("qp", reset, ok, ExitReason::GuestPanic),
            ("qsw", reset, ok, ExitReason::GuestPanic),
            // It only showed an old log.
            ("qw", off, ok, ExitReason::GuestPowerOff),
            ("qp", host, ok, ExitReason::GuestPanic),
            ("q", None, failed, ExitReason::VmmFailed),
            ("q", None, sigkill, ExitReason::VmmFailed),
            ("q", None, ok, ExitReason::VmmFailed),
            ("qs", None, failed, ExitReason::VmmFailed),
            ("", None, ok, ExitReason::GuestPowerOff),
            ("s", None, ok, ExitReason::Stopped),
            ("", None, failed, ExitReason::VmmFailed),
        ];
        for (letters, shutdown, status, reason) in table {
            let record = seen(letters, shutdown).record(ExitStatus::from_raw(status), 0);
            assert_eq!(record.reason, reason, "{letters:?} {shutdown:?} {status}");
        }
    }

    #[test]
    fn a_guest_reboots_when_it_was_ready_and_nobody_ends_it() {
        let rebooted = |letters: &str, was_ready, shutdown| {
            let witness = Witness {
                was_ready,
                ..seen(letters, shutdown)
            };
            witness.rebooted()
        };
        let reset = Some(Shutdown::GuestReset);
        assert!(rebooted("q", true, reset));
        assert!(!rebooted("q", false, reset), "it would never end");
        assert!(!rebooted("q", true, Some(Shutdown::GuestPowerOff)));
        for ended in ["qs", "qk", "qp", "qw"] {
            assert!(!rebooted(ended, true, reset), "{ended}");
        }
    }
}
