//! The end: the exit record, the files, the waiters; in this order, past every failure.

use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use banger_failpoint::passed;
use banger_wire::monitor::ControlReply;

use crate::control::Wait;
use crate::event_loop::Monitor;
use crate::files::{self, FileError};
use crate::launch::now_ms;
use crate::log::chain;
use crate::process;
use crate::publish::Ports;
use crate::share::Servers;

/// For waiters to take their answers.
const ANSWER_TIME: Duration = Duration::from_secs(1);

impl Monitor {
    /// Clears away what says that the VM runs, then tells those who wait.
    pub(crate) fn tear_down(mut self, status: ExitStatus) -> ExitCode {
        let record = self.witness.record(status, now_ms());
        passed("monitor.teardown");
        let mut errors = Vec::new();
        // They end with the VMM's connection; a start that comes next must not find one.
        self.vm.shares = Servers::default();
        self.vm.let_go();
        process::leave(&self.vm.launch.cgroups);
        let path = &self.vm.paths.exit_record;
        let written = serde_json::to_vec(&record)
            .map_err(|error| FileError::new("write", path)(error.into()))
            .and_then(|text| files::replace_durably(path, &text));
        errors.extend(written.err());
        self.vm.happened("stopped", Some(record.reason.as_str()));
        errors.extend(self.vm.paths.remove_runtime());
        for error in &errors {
            self.vm.log.line(chain(error));
        }

        // Nobody can find the socket any more; those who had found it get their answer.
        self.accept_control_clients();
        self.console = None;
        // The next run may want the same ports at once.
        self.ports = Ports::default();
        // A waiter may start the VM anew at once: from here on its files are not ours.
        passed("monitor.release");
        self.vm.lock.release();
        let reply = ControlReply::Exited(record.clone());
        self.ended = Some(record);
        self.answer(Wait::Ready, &reply);
        self.answer(Wait::Exit, &reply);
        self.flush_answers();
        if errors.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn flush_answers(&mut self) {
        let deadline = Instant::now() + ANSWER_TIME;
        loop {
            for token in std::mem::take(&mut self.control_ready) {
                self.serve_control(token);
            }
            let more = self.control.has_output() || !self.control_ready.is_empty();
            if !more || Instant::now() >= deadline || self.poll(Some(deadline)).is_err() {
                return;
            }
        }
    }
}
