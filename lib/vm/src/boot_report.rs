//! Why a guest did not boot, in words: never only "timeout".

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use banger_wire::monitor::{ExitReason, ExitRecord, file};
use lib_store::VmRow;

use crate::VmError;

const TAIL_BYTES: u64 = 16 * 1024;
const TAIL_LINES: usize = 12;

/// The last lines of a VM's console, without escape sequences; empty when there is none.
pub fn console_tail(directory: &Path, lines: usize) -> Vec<String> {
    tail(&directory.join(file::CONSOLE_LOG), lines)
}

/// The error for a guest that ended or gave up before it was ready.
pub(crate) fn boot_error(
    vm: &VmRow,
    directory: &Path,
    exit: Option<&ExitRecord>,
    guest: Option<&str>,
) -> VmError {
    let console = console_tail(directory, TAIL_LINES);
    let vmm = tail(&directory.join(file::VMM_LOG), 3);
    VmError::Boot {
        vm: vm.name.to_string(),
        cause: cause(exit, guest, &console, &vmm),
        console: indented(&console),
    }
}

/// The error for a guest that was not ready in time.
pub(crate) fn timeout_error(vm: &VmRow, directory: &Path, seconds: u64) -> VmError {
    let console = console_tail(directory, TAIL_LINES);
    let cause = match kernel_cause(&console) {
        Some(cause) => cause,
        None if console.is_empty() => {
            format!(
                "not ready after {seconds} s, and the console is empty: the kernel may not run on this VMM"
            )
        }
        None => format!("not ready after {seconds} s"),
    };
    VmError::Boot {
        vm: vm.name.to_string(),
        cause,
        console: indented(&console),
    }
}

fn cause(
    exit: Option<&ExitRecord>,
    guest: Option<&str>,
    console: &[String],
    vmm: &[String],
) -> String {
    if let Some(message) = guest.or(exit.and_then(|e| e.guest_message.as_deref())) {
        return message.chars().take(500).collect();
    }
    if let Some(cause) = kernel_cause(console) {
        return cause;
    }
    let last_words = vmm
        .last()
        .map(|line| format!(": {line}"))
        .unwrap_or_default();
    match exit.map(|e| (e.reason, e.code, e.signal)) {
        Some((ExitReason::VmmFailed, Some(code), _)) => {
            format!("the VMM ended with status {code}{last_words}")
        }
        Some((ExitReason::VmmFailed, _, Some(signal))) => {
            format!("the VMM was killed by signal {signal}{last_words}")
        }
        Some((ExitReason::GuestPanic, ..)) => "the guest's kernel panicked".into(),
        Some((ExitReason::GuestReboot, ..)) => "the guest reset itself".into(),
        Some((ExitReason::GuestPowerOff, ..)) => "the guest powered off before it was ready".into(),
        Some((ExitReason::Killed | ExitReason::Stopped, ..)) => {
            "it was stopped while it booted".into()
        }
        _ => format!("the VMM and its monitor are gone{last_words}"),
    }
}

/// What the kernel's own last words mean.
fn kernel_cause(console: &[String]) -> Option<String> {
    console.iter().rev().find_map(|line| {
        let after = |marker: &str| {
            line.find(marker)
                .map(|at| line[at + marker.len()..].trim().to_owned())
        };
        if let Some(reason) = after("banger-agent: cannot boot: ") {
            return Some(reason);
        }
        if let Some(reason) = after("Kernel panic - not syncing: ") {
            return Some(format!("the guest's kernel panicked: {reason}"));
        }
        if line.contains("Out of memory") {
            return Some("the guest ran out of memory; choose more with --memory".into());
        }
        None
    })
}

fn indented(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nlast lines of the console:");
    for line in lines {
        text.push_str("\n    ");
        text.push_str(line);
    }
    text
}

fn tail(path: &Path, lines: usize) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        file.take(TAIL_BYTES).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<String> = text
        .lines()
        .map(|line| {
            line.chars()
                .filter(|c| !c.is_control() || *c == '\t')
                .collect::<String>()
        })
        .filter(|line| !line.trim().is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_most_telling_words_win() {
        let exit = ExitRecord {
            reason: ExitReason::VmmFailed,
            code: Some(1),
            signal: None,
            guest_message: None,
            was_ready: false,
            ended_ms: 0,
        };
        let panic =
            lines("[ 1.0] x\n[ 1.1] Kernel panic - not syncing: VFS: no root\n[ 1.2] ---[ end");
        assert_eq!(
            cause(Some(&exit), Some("no such disk"), &panic, &[]),
            "no such disk"
        );
        assert_eq!(
            cause(Some(&exit), None, &panic, &[]),
            "the guest's kernel panicked: VFS: no root"
        );
        let vmm = lines("qemu: could not open '/x'");
        assert_eq!(
            cause(Some(&exit), None, &[], &vmm),
            "the VMM ended with status 1: qemu: could not open '/x'"
        );
        assert_eq!(
            cause(None, None, &[], &[]),
            "the VMM and its monitor are gone"
        );
    }

    #[test]
    fn a_tail_is_short_and_without_escapes() {
        let base = tempfile::tempdir().unwrap();
        let mut text = "x\r\n".repeat(40_000);
        text.push_str("\x1b[31mlast\x07\r\n\r\n");
        std::fs::write(base.path().join(file::CONSOLE_LOG), text).unwrap();
        assert_eq!(console_tail(base.path(), 2), ["x", "[31mlast"]);
    }
}
