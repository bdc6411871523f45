//! Start, readiness, stop, kill, and every way to end.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_wire::monitor::{
    ControlReply, ControlRequest, ExitReason, LaunchReply, Phase, Seed, file,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fake;
use crate::rig::{MONITOR, Rig, at_end, lock_is_held, read_all, run, wait_unlocked, within_limit};

fn stop(grace_ms: u64) -> ControlRequest {
    ControlRequest::Stop { grace_ms }
}

#[test]
fn a_guest_becomes_ready_and_is_stopped() {
    let mut rig = Rig::ready("ready");
    assert!(rig.is_locked());
    let status = rig.control(&ControlRequest::Status);
    assert_eq!(
        status,
        ControlReply::Status {
            phase: Phase::Ready,
            streams: 1
        }
    );
    let ControlReply::Ready { boot_ms, agent } = rig.control(&ControlRequest::WaitReady) else {
        panic!();
    };
    assert!(boot_ms < 60_000);
    assert_eq!(agent, "fake 1");
    for path in [
        rig.socket(file::AGENT_SOCKET),
        rig.socket(file::CONTROL_SOCKET),
    ] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o077, 0);
    }
    let record = rig.exited(&stop(8000));
    assert_eq!(record.reason, ExitReason::Stopped);
    assert_eq!(
        (record.code, record.signal, record.was_ready),
        (Some(0), None, true)
    );
    // A quarter of the grace is for the guest to unmount.
    let log = rig.text(file::VMM_LOG);
    let grace = log
        .rsplit("grace ")
        .next()
        .and_then(|rest| rest.lines().next());
    let grace: u64 = grace.unwrap().parse().unwrap();
    assert!((1..=6000).contains(&grace), "{log}");
    assert!(rig.wait().success());
    rig.assert_cleared();
}

#[test]
fn a_waiter_may_start_the_vm_anew_at_once() {
    let mut rig = Rig::fake("ready");
    for _ in 0..5 {
        rig = rig.start();
        rig.exited(&stop(5000));
        assert!(!rig.is_locked());
    }
}

#[test]
fn a_guest_that_powers_off_by_itself() {
    let mut rig = Rig::ready("ready");
    rig.command("power-off");
    assert!(rig.wait().success());
    assert_eq!(rig.exit_record().reason, ExitReason::GuestPowerOff);
    rig.assert_cleared();
}

#[test]
fn a_guest_that_panics_or_resets() {
    for (command, reason) in [
        ("reset", ExitReason::GuestReboot),
        ("panicked", ExitReason::GuestPanic),
    ] {
        let mut rig = Rig::ready("ready");
        rig.command(command);
        rig.wait();
        assert_eq!(rig.exit_record().reason, reason, "{command}");
    }
}

#[test]
fn a_guest_that_reboots_has_another_vmm_under_the_same_lock() {
    let mut rig = Rig::fake("ready");
    let initrd = rig.path("initrd");
    fs::write(&initrd, "before 0000000000000000 after").unwrap();
    rig.launch.reboot = true;
    rig.launch.seed = Some(Seed {
        file: initrd.clone(),
        offset: 7,
        length: 16,
    });
    let mut rig = rig.start();
    assert!(matches!(
        rig.control(&ControlRequest::WaitReady),
        ControlReply::Ready { .. }
    ));
    let first = rig.handles().vmm_pid;
    let mut waiter = rig.open_control();
    waiter.send(&ControlRequest::WaitExit);
    rig.command("reset");
    let second = rig.wait_for_another_vmm(first);
    assert_ne!(first, second);
    assert!(rig.is_locked());
    assert!(!rig.path(file::EXIT_RECORD).exists());
    let seed = fs::read_to_string(&initrd).unwrap();
    assert!(
        seed.starts_with("before ")
            && seed.ends_with(" after")
            && !seed.contains("0000000000000000"),
        "{seed}"
    );
    assert!(matches!(
        rig.control(&ControlRequest::WaitReady),
        ControlReply::Ready { .. }
    ));
    // Who waits for the end waits on; the end that is asked for is one.
    let record = rig.exited(&stop(5000));
    assert_eq!(record.reason, ExitReason::Stopped);
    assert!(matches!(waiter.reply(), ControlReply::Exited(_)));
    rig.wait();
    rig.assert_cleared();
}

#[test]
fn a_boot_that_fails() {
    let mut rig = Rig::fake("failed").start();
    let message = "no root disk".to_owned();
    let failed = ControlReply::GuestFailed {
        message: message.clone(),
    };
    assert_eq!(rig.control(&ControlRequest::WaitReady), failed);
    assert_eq!(rig.control(&ControlRequest::WaitReady), failed);
    rig.command("power-off");
    rig.wait();
    let record = rig.exit_record();
    assert_eq!(record.guest_message, Some(message));
    assert!(!record.was_ready);
}

#[test]
fn a_vmm_that_fails() {
    let mut rig = Rig::ready("ready");
    let mut waiter = rig.open_control();
    waiter.send(&ControlRequest::WaitExit);
    rig.command("exit 7");
    let ControlReply::Exited(record) = waiter.reply() else {
        panic!();
    };
    assert_eq!(
        (record.reason, record.code),
        (ExitReason::VmmFailed, Some(7))
    );
    rig.wait();
    rig.assert_cleared();
}

#[test]
fn a_vmm_that_exits_at_once() {
    let mut rig = Rig::fake("exit");
    let (monitor, reply) = run(&rig.launch);
    rig.monitor = Some(monitor);
    assert!(matches!(reply, LaunchReply::Started(_)), "{reply:?}");
    rig.wait();
    let record = rig.exit_record();
    assert_eq!(
        (record.reason, record.code),
        (ExitReason::VmmFailed, Some(3))
    );
    assert!(rig.text(file::VMM_LOG).contains("fake: wrong arguments"));
    rig.assert_cleared();
}

#[test]
fn a_killed_vm() {
    let mut rig = Rig::ready("ready");
    let record = rig.exited(&ControlRequest::Kill);
    assert_eq!(
        (record.reason, record.signal),
        (ExitReason::Killed, Some(9))
    );
    rig.wait();
    rig.assert_cleared();
}

#[test]
fn a_guest_that_ignores_the_stop_is_killed_by_quit() {
    let rig = Rig::ready("ready,deaf,ignore-power");
    let record = rig.exited(&stop(50));
    assert_eq!((record.reason, record.code), (ExitReason::Killed, Some(0)));
}

#[test]
fn a_vmm_that_ignores_quit_is_killed() {
    let rig = Rig::ready("ready,deaf,ignore-power,ignore-quit");
    let record = rig.exited(&stop(50));
    assert_eq!(
        (record.reason, record.signal),
        (ExitReason::Killed, Some(9))
    );
}

#[test]
fn an_agent_that_refuses_is_replaced_by_the_power_button() {
    let rig = Rig::ready("ready,refuse-shutdown");
    assert_eq!(rig.exited(&stop(30_000)).reason, ExitReason::Stopped);
}

#[test]
fn a_guest_that_is_not_ready_gets_the_power_button() {
    let rig = Rig::fake("silent").start();
    assert_eq!(rig.exited(&stop(30_000)).reason, ExitReason::Stopped);
}

#[test]
fn a_guest_that_becomes_ready_during_the_stop_is_asked_then() {
    let rig = Rig::fake("silent,ignore-power").start();
    let mut control = rig.open_control();
    control.send(&stop(60_000));
    control.send(&ControlRequest::Status);
    let ControlReply::Status { phase, .. } = control.reply() else {
        panic!();
    };
    assert_eq!(phase, Phase::Stopping);
    rig.command(r#"event {"event":"ready","protocol":1,"version":"x","uptime_ms":1}"#);
    assert!(
        matches!(control.reply(), ControlReply::Exited(record) if record.reason == ExitReason::Stopped)
    );
}

#[test]
fn a_second_stop_shortens_the_grace() {
    let rig = Rig::ready("ready,deaf,ignore-power");
    let mut patient = rig.open_control();
    patient.send(&stop(3_600_000));
    patient.send(&ControlRequest::Status);
    patient.reply();
    assert_eq!(rig.exited(&stop(10)).reason, ExitReason::Killed);
    assert!(matches!(patient.reply(), ControlReply::Exited(_)));
}

#[test]
fn a_stop_goes_on_without_the_client_that_asked() {
    let mut rig = Rig::ready("ready");
    let mut control = rig.open_control();
    control.send(&stop(30_000));
    drop(control);
    rig.wait();
    assert_eq!(rig.exit_record().reason, ExitReason::Stopped);
}

#[test]
fn sigterm_is_a_stop() {
    let mut rig = Rig::ready("ready");
    let monitor = rig.handles().monitor_pid;
    kill(Pid::from_raw(monitor as i32), Signal::SIGTERM).unwrap();
    assert!(rig.wait().success());
    assert_eq!(rig.exit_record().reason, ExitReason::Stopped);
}

#[test]
fn sighup_is_ignored() {
    let rig = Rig::ready("ready");
    let monitor = Pid::from_raw(rig.handles().monitor_pid as i32);
    kill(monitor, Signal::SIGHUP).unwrap();
    assert!(matches!(
        rig.control(&ControlRequest::Status),
        ControlReply::Status { .. }
    ));
}

#[test]
fn the_vmm_dies_with_the_monitor() {
    let mut rig = Rig::ready("ready");
    let mut open = rig.connect(fake::STALL);
    let vmm = rig.handles().vmm_pid;
    let mut monitor = rig.monitor.take().unwrap();
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    wait_unlocked(&rig.path(file::ALIVE_LOCK));
    let state = fs::read_to_string(format!("/proc/{vmm}/stat")).unwrap_or_default();
    // A dying process closes its files before it is a zombie: PF_EXITING is in its flags by then.
    let flags = state
        .split(' ')
        .nth(8)
        .and_then(|flags| flags.parse::<u32>().ok());
    assert!(flags.is_none_or(|flags| flags & 4 != 0), "{state}");
    assert!(at_end(&mut open));
    // The next start finds stale sockets and handles.
    assert!(rig.path(file::HANDLES).exists() && !rig.path(file::EXIT_RECORD).exists());
    let rig = rig.start();
    rig.exited(&stop(5000));
}

#[test]
fn the_vmm_keeps_the_lock() {
    let rig = Rig::ready("ready");
    let lock = fs::canonicalize(rig.path(file::ALIVE_LOCK)).unwrap();
    let vmm = rig.handles().vmm_pid;
    let held = fs::read_dir(format!("/proc/{vmm}/fd"))
        .unwrap()
        .any(|entry| fs::read_link(entry.unwrap().path()).is_ok_and(|target| target == lock));
    assert!(held);
    // With the monitor stopped by SIGKILL, PDEATHSIG would end the VMM as well; a process that
    // only inherited the descriptor shows that the lock outlives the monitor.
    let mut rig = Rig::new(
        Path::new("/bin/sh"),
        &["-c", "(sleep 1000 & echo $! >&2); exit 0"],
    );
    let (monitor, _) = run(&rig.launch);
    rig.monitor = Some(monitor);
    rig.wait();
    assert!(rig.is_locked());
    let (_, reply) = run(&rig.launch);
    assert_eq!(reply, LaunchReply::AlreadyRunning);
    let sleeper: i32 = rig.text(file::VMM_LOG).trim().parse().unwrap();
    kill(Pid::from_raw(sleeper), Signal::SIGKILL).unwrap();
    wait_unlocked(&rig.path(file::ALIVE_LOCK));
}

#[test]
fn a_second_launch_touches_nothing() {
    let rig = Rig::ready("ready");
    let handles = rig.handles();
    let log = rig.text(file::VMM_LOG);
    let (mut second, reply) = run(&rig.launch);
    assert_eq!(reply, LaunchReply::AlreadyRunning);
    assert_eq!(second.wait().unwrap().code(), Some(4));
    assert_eq!((rig.handles(), rig.text(file::VMM_LOG)), (handles, log));
    assert!(matches!(
        rig.control(&ControlRequest::Status),
        ControlReply::Status { .. }
    ));
}

#[test]
fn a_program_that_cannot_be_executed_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    fs::write(&plain, "no program").unwrap();
    for (program, expected) in [
        (
            Path::new("/nonexistent/qemu"),
            "/nonexistent/qemu: No such file",
        ),
        (&plain, "plain: Permission denied"),
        (Path::new("qemu"), "must be an absolute path"),
    ] {
        let rig = Rig::new(program, &["{agent}", "{qmp}", "{console}"]);
        let (mut monitor, reply) = run(&rig.launch);
        assert!(!monitor.wait().unwrap().success());
        let LaunchReply::Failed { message } = reply else {
            panic!("{reply:?}");
        };
        assert!(message.contains(expected), "{message}");
        let left: Vec<_> = [&rig.launch.directory, &rig.launch.runtime]
            .iter()
            .flat_map(|path| fs::read_dir(path).unwrap())
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != file::ALIVE_LOCK)
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_runtime_directory_that_others_can_enter_is_refused() {
    let rig = Rig::fake("ready");
    fs::set_permissions(&rig.launch.runtime, fs::Permissions::from_mode(0o750)).unwrap();
    let (_, reply) = run(&rig.launch);
    assert!(
        matches!(&reply, LaunchReply::Failed { message } if message.contains("mode 0700")),
        "{reply:?}"
    );
    assert!(!rig.path(file::ALIVE_LOCK).exists());
}

#[test]
fn the_vmm_gets_its_channels_and_the_lock_and_nothing_else() {
    let rig = Rig::ready("ready");
    let vmm = rig.handles().vmm_pid;
    let mut sockets = 0;
    for entry in fs::read_dir(format!("/proc/{vmm}/fd")).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = fs::read_link(entry.path()).unwrap();
        let target = target.to_str().unwrap();
        match number {
            0 => assert_eq!(target, "/dev/null"),
            1 | 2 => assert!(target.ends_with(file::VMM_LOG), "{target}"),
            _ if target.starts_with("socket:") => sockets += 1,
            _ => assert!(target.ends_with(file::ALIVE_LOCK), "{target}"),
        }
    }
    assert_eq!(sockets, 3);
}

#[test]
fn a_vmm_without_channels() {
    let mut rig = Rig::new(Path::new("/bin/sleep"), &["1000"]).start();
    assert!(!rig.socket(file::AGENT_SOCKET).exists());
    let vmm = rig.handles().vmm_pid;
    let status = fs::read_to_string(format!("/proc/{vmm}/status")).unwrap();
    let blocked = status
        .lines()
        .find(|line| line.starts_with("SigBlk:"))
        .unwrap();
    assert!(blocked.ends_with("\t0000000000000000"), "{blocked}");
    // Quit cannot be sent, so it is not waited for; a busy machine may be late once.
    let mut at_once = false;
    for _ in 0..5 {
        let begun = Instant::now();
        let record = rig.exited(&stop(20));
        assert_eq!(
            (record.reason, record.signal),
            (ExitReason::Killed, Some(9))
        );
        at_once |= begun.elapsed() < Duration::from_secs(2);
        rig.wait();
        rig.assert_cleared();
        if at_once {
            break;
        }
        rig = rig.start();
    }
    assert!(at_once);
}

#[test]
fn the_guests_last_bytes_reach_client_and_console() {
    let mut rig = Rig::ready("ready");
    let mut echo = rig.connect(fake::ECHO);
    // Nobody reads, so all of it is still under way when the VMM is gone.
    rig.command("last-words 200000");
    let bytes = within_limit(move || read_all(&mut echo));
    let expected: Vec<u8> = (0..200_000).map(fake::pattern).collect();
    assert!(bytes == expected, "{} bytes", bytes.len());
    rig.wait();
    assert!(rig.text(file::CONSOLE_LOG).ends_with("the end\n"));
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_the_end() {
    let mut rig = Rig::ready("ready");
    let echo = rig.connect(fake::ECHO);
    rig.command("last-words 256000");
    rig.wait();
    assert_eq!(rig.exit_record().reason, ExitReason::GuestPowerOff);
    drop(echo);
}

#[test]
fn control_requests_of_many_clients() {
    let rig = Rig::fake("silent").start();
    let mut waiting: Vec<_> = (0..20).map(|_| rig.open_control()).collect();
    for control in &mut waiting {
        control.send(&ControlRequest::WaitReady);
        control.send(&ControlRequest::WaitExit);
        control.send(&ControlRequest::Status);
        assert!(matches!(
            control.reply(),
            ControlReply::Status {
                phase: Phase::Booting,
                ..
            }
        ));
    }
    rig.command(r#"event {"event":"ready","protocol":1,"version":"x","uptime_ms":1}"#);
    for control in &mut waiting {
        assert!(matches!(control.reply(), ControlReply::Ready { .. }));
    }
    // One that will send nothing more still gets its answer.
    waiting[0].0.get_mut().shutdown(Shutdown::Write).unwrap();
    rig.control(&ControlRequest::Kill);
    for control in &mut waiting {
        assert!(matches!(control.reply(), ControlReply::Exited(_)));
    }
}

#[test]
fn control_garbage_is_answered_and_survived() {
    let rig = Rig::ready("ready");
    let mut control = rig.open_control();
    for garbage in ["", "{}", "null", "[1", "{\"op\":\"fly\"}", "\u{0}"] {
        writeln!(control.0.get_mut(), "{garbage}").unwrap();
        assert!(
            matches!(control.reply(), ControlReply::Error { .. }),
            "{garbage}"
        );
    }
    control.send(&ControlRequest::Status);
    assert!(matches!(control.reply(), ControlReply::Status { .. }));
    control.0.get_mut().write_all(&[b'x'; 5000]).unwrap();
    assert!(matches!(control.reply(), ControlReply::Error { .. }));
    assert!(at_end(&mut control.0));
    // A client that asks and does not listen only fills its own socket.
    let mut deaf = rig.open_control();
    deaf.0.get_mut().set_nonblocking(true).unwrap();
    while deaf.0.get_mut().write_all(b"{\"op\":\"status\"}\n").is_ok() {}
    assert!(matches!(
        rig.control(&ControlRequest::Status),
        ControlReply::Status { .. }
    ));
}

#[test]
fn wrong_use_is_explained() {
    let version = Command::new(MONITOR).arg("--version").output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("banger-monitor {}\n", env!("CARGO_PKG_VERSION"))
    );
    let usage = Command::new(MONITOR).arg("--fly").output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&usage.stderr).contains("launch specification"));
    let empty = Command::new(MONITOR).stdin(Stdio::null()).output().unwrap();
    assert_eq!(empty.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&empty.stdout).contains("\"failed\""));
    let exec = Command::new(MONITOR)
        .args(["--exec-vmm", "1", "/bin/true"])
        .output()
        .unwrap();
    assert!(!exec.status.success());
    assert_eq!(String::from_utf8_lossy(&exec.stdout), "the monitor is gone");
    assert!(!lock_is_held(Path::new(MONITOR)));
}

#[test]
fn the_teardown_goes_on_past_failures_and_reports_them() {
    let mut rig = Rig::ready("ready");
    // What cannot be replaced and what cannot be removed.
    fs::create_dir(rig.path("exit.json.tmp")).unwrap();
    fs::remove_file(rig.path(file::HANDLES)).unwrap();
    fs::create_dir(rig.path(file::HANDLES)).unwrap();
    let reply = rig.control(&ControlRequest::Kill);
    assert!(matches!(reply, ControlReply::Exited(_)), "{reply:?}");
    assert_eq!(rig.wait().code(), Some(1));
    assert!(!rig.socket(file::CONTROL_SOCKET).exists());
    assert!(!rig.socket(file::AGENT_SOCKET).exists());
    let log = rig.text(file::VMM_LOG);
    for failure in ["monitor: cannot write", "monitor: cannot remove"] {
        assert_eq!(log.matches(failure).count(), 1, "{log}");
    }
    assert!(!rig.is_locked());
}

#[test]
fn what_leaks_into_the_monitor_does_not_reach_the_vmm() {
    let directory = tempfile::tempdir().unwrap();
    let leak = directory.path().join("leak");
    let mut rig = Rig::new(Path::new("/bin/sleep"), &["1000"]);
    let specification = directory.path().join("launch.json");
    fs::write(&specification, serde_json::to_vec(&rig.launch).unwrap()).unwrap();
    let mut shell = Command::new("/bin/sh")
        .args(["-c", "exec 7>\"$1\"; exec \"$2\" <\"$3\"", "sh"])
        .args([&leak, Path::new(MONITOR), &specification])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reply = String::new();
    shell
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut reply)
        .unwrap();
    rig.monitor = Some(shell);
    let leak = fs::canonicalize(leak).unwrap();
    for pid in [rig.handles().monitor_pid, rig.handles().vmm_pid] {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            // One that is closed meanwhile is not the one that was never closed.
            let target = fs::read_link(entry.unwrap().path()).unwrap_or_default();
            assert_ne!(target, leak, "process {pid}");
        }
    }
    rig.exited(&ControlRequest::Kill);
    rig.wait();
}

#[test]
fn a_vm_that_nobody_uses_is_stopped_and_one_in_use_is_not() {
    let mut rig = Rig::fake("ready");
    rig.launch.idle_stop_s = Some(1);
    let mut rig = rig.start();
    let used = rig.connect(fake::ECHO);
    let mut waiting = rig.open_control();
    waiting.send(&ControlRequest::WaitExit);
    // Twice the limit: a connection to the guest keeps it, one that only waits does not.
    let patience = Some(Duration::from_secs(2));
    waiting.0.get_ref().set_read_timeout(patience).unwrap();
    let early = waiting.0.read(&mut [0]).unwrap_err();
    assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
    drop(used);
    rig.wait();
    assert_eq!(rig.exit_record().reason, ExitReason::Stopped);
    assert!(rig.text(file::VMM_LOG).contains("nobody has used the VM"));
    rig.assert_cleared();
}
