//! The agent's own lines on the guest's console, and the last word of a dying PID 1.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use nix::libc;

use crate::role::{Role, role};
use crate::worker;

static CONSOLE: OnceLock<File> = OnceLock::new();

/// Opens `/dev/console`; until then, and when there is none, lines are lost.
pub(crate) fn open() {
    if let Ok(file) = device() {
        let _ = CONSOLE.set(file);
    }
}

/// A new descriptor of the console, for a process's output.
///
/// # Errors
/// Those of open(2).
pub(crate) fn device() -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/console")
}

/// Writes one line for people.
pub(crate) fn say(message: &str) {
    let line = format!("banger-agent: {message}\r\n");
    if let Some(mut console) = CONSOLE.get() {
        let _ = console.write_all(line.as_bytes());
    }
}

/// A panic of PID 1 would be a kernel panic: say why, and power off instead. That of a worker ends its work only, and what
/// it held stays where it is, for the program is not made to unwind.
pub(crate) fn power_off_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        if worker::has_failed() {
            say(&format!("bug: {panic}"));
            loop {
                std::thread::park();
            }
        }
        say(&format!("bug: {panic}; powering off"));
        power_off();
    }));
}

/// Ends the guest now. Returns only when the kernel refuses, as it does outside a guest.
pub(crate) fn power_off() {
    if role() != Role::Test {
        nix::unistd::sync();
        let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    }
}

/// Lets the guest boot again. Returns only when the kernel refuses.
pub(crate) fn restart() {
    if role() != Role::Test {
        nix::unistd::sync();
        let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT);
    }
}
