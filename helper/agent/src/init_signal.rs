//! How an init is asked to power the machine off.

/// The first real-time signal as glibc counts them (signal(7)); systemd's numbers begin there.
const SIGRTMIN: i32 = 34;

/// The signal by which process 1 powers off; none when its own program has to be run for that.
pub(crate) fn power_off() -> Option<i32> {
    let program = std::fs::read_link("/proc/1/exe").ok()?;
    of_program(program.file_name()?.to_str()?)
}

fn of_program(name: &str) -> Option<i32> {
    match name {
        // systemd(1), "Signals": SIGRTMIN+4 starts poweroff.target.
        "systemd" => Some(SIGRTMIN + 4),
        // busybox's init.c: SIGUSR2 is power off.
        "busybox" => Some(nix::libc::SIGUSR2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_inits_have_a_signal_and_others_a_program() {
        assert_eq!(of_program("systemd"), Some(38));
        assert_eq!(of_program("busybox"), Some(nix::libc::SIGUSR2));
        assert_eq!(of_program("openrc-init"), None);
    }
}
