//! Every process of a VM is killed at every stage of its life: the lists are true at once, the VM can be
//! started again, and nothing is left.

use std::fs;
use std::time::Duration;

use banger_tests::{Hold, Sandbox, eventually, skipped};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(60);

fn kill_9(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("it runs");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Command,
    Monitor,
    Vmm,
}

const VICTIMS: [Victim; 3] = [Victim::Command, Victim::Monitor, Victim::Vmm];

fn strike(sandbox: &Sandbox, victim: Victim, command: u32) {
    match victim {
        Victim::Command => kill_9(command),
        Victim::Monitor => kill_9(sandbox.handle("v", "monitor_pid")),
        Victim::Vmm => kill_9(sandbox.handle("v", "vmm_pid")),
    }
}

/// After a strike: the state settles without any repair, a start works, and the VM serves.
fn recovers(sandbox: &Sandbox, when: &str) {
    eventually("the list tells the truth", SOON, || {
        let state = sandbox.vm("v")["state"].clone();
        let machines = sandbox
            .processes()
            .iter()
            .filter(|(_, line)| line.contains("qemu-system"))
            .count();
        (machines == usize::from(state != "stopped")).then_some(())
    });
    sandbox.sh("banger-vm start --quiet v").ok();
    sandbox.sh("banger-vm exec v -- true").ok();
    assert_eq!(sandbox.vm("v")["state"], "running", "{when}");
    sandbox.assert_nothing_leaked();
}

fn vm() -> Sandbox {
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --quiet --no-start --network none --memory 200M --name v busybox")
        .ok();
    sandbox
}

#[test]
fn while_it_boots() {
    if skipped("vm") {
        return;
    }
    let sandbox = vm();
    for victim in VICTIMS {
        let start = sandbox.start("exec banger-vm start --quiet v");
        let vmm = sandbox.freeze_vmm();
        eventually("the monitor has written its handles", SOON, || {
            let written = sandbox.vm_directory("v").join("handles.json").exists();
            (written && sandbox.handle("v", "vmm_pid") == vmm).then_some(())
        });
        assert_eq!(sandbox.vm("v")["state"], "starting");
        strike(&sandbox, victim, start.pid());
        let outcome = start.finish();
        assert_ne!(outcome.status, 0, "{victim:?}: {outcome}");
        if victim == Victim::Command {
            kill(Pid::from_raw(vmm.cast_signed()), Signal::SIGCONT).expect("it runs");
        } else {
            outcome.says("error: ");
        }
        recovers(&sandbox, &format!("{victim:?} in the boot"));
        sandbox.sh("banger-vm kill --quiet v").ok();
    }
}

#[test]
fn while_a_command_runs_in_it() {
    if skipped("vm") {
        return;
    }
    let sandbox = vm();
    for victim in VICTIMS {
        sandbox.sh("banger-vm start --quiet v").ok();
        let exec = sandbox.start("exec banger-vm exec v -- sh -c 'echo here; sleep 1000'");
        exec.wait_for_stdout("here\n");
        strike(&sandbox, victim, exec.pid());
        let expected = if victim == Victim::Command { 137 } else { 255 };
        exec.finish().exits(expected);
        if victim == Victim::Command {
            eventually("the guest ends the command", SOON, || {
                let left =
                    sandbox.sh("banger-vm exec v -- sh -c 'grep -qx sleep /proc/[0-9]*/comm'");
                ([1, 2].contains(&left.status)).then_some(())
            });
        }
        recovers(&sandbox, &format!("{victim:?} in an exec"));
    }
}

#[test]
fn while_it_stops() {
    if skipped("vm") {
        return;
    }
    let sandbox = vm();
    for victim in VICTIMS {
        sandbox.sh("banger-vm start --quiet v").ok();
        // A guest that takes its time: it ignores what a stop sends before SIGKILL.
        let stubborn = sandbox
            .start("exec banger-vm exec v -- sh -c 'trap \"\" TERM HUP; echo here; sleep 1000'");
        stubborn.wait_for_stdout("here\n");
        let stop = sandbox.start("exec banger-vm stop --quiet --grace 60 v");
        eventually("the stop has begun", SOON, || {
            (sandbox.vm("v")["state"] == "stopping").then_some(())
        });
        strike(&sandbox, victim, stop.pid());
        stop.finish();
        if victim == Victim::Command {
            // What was asked for goes on; asking again waits for the rest.
            sandbox.sh("banger-vm kill --quiet v").ok();
        }
        drop(stubborn);
        recovers(&sandbox, &format!("{victim:?} in the stop"));
    }
}

#[test]
fn a_create_that_is_killed_at_its_boot_leaves_a_vm_or_none() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let hold = Hold::new();
    let create = sandbox.start(&format!(
        "exec env {} banger-vm create --quiet --network none --name v busybox",
        hold.at("start.spawn", 1)
    ));
    hold.wait();
    create.signal(Signal::SIGKILL);
    create.finish().exits(137);
    assert_eq!(sandbox.vm("v")["state"], "stopped");
    recovers(&sandbox, "create killed before its monitor");
}

#[test]
fn after_a_reboot_nothing_runs_and_everything_starts() {
    if skipped("vm") {
        return;
    }
    let sandbox = vm();
    sandbox.sh("banger-vm start --quiet v").ok();
    let directory = sandbox.vm_directory("v");
    let handles = fs::read_to_string(directory.join("handles.json")).unwrap();
    kill_9(sandbox.handle("v", "monitor_pid"));
    eventually("the VMM follows its monitor", SOON, || {
        (sandbox.vm("v")["state"] == "stopped").then_some(())
    });
    // What a power failure leaves: scratch files that name processes of others, and no sockets.
    let mut stale: serde_json::Value = serde_json::from_str(&handles).unwrap();
    stale["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
    stale["vmm_pid"] = std::process::id().into();
    stale["monitor_pid"] = std::process::id().into();
    fs::write(directory.join("handles.json"), stale.to_string()).unwrap();
    for entry in fs::read_dir(sandbox.runtime()).unwrap().flatten() {
        fs::remove_dir_all(entry.path()).unwrap();
    }
    let seen = sandbox.vm("v");
    assert_eq!(
        (&seen["state"], &seen["pid"]),
        (&"stopped".into(), &serde_json::Value::Null)
    );
    sandbox.sh("banger-vm stop v").ok();
    sandbox.sh("banger-vm kill v").ok();
    recovers(&sandbox, "reboot");
}

#[test]
fn handles_that_are_lost_or_lie_are_asked_of_the_kernel() {
    if skipped("vm") {
        return;
    }
    let sandbox = vm();
    sandbox.sh("banger-vm start --quiet v").ok();
    let file = sandbox.vm_directory("v").join("handles.json");
    let good = fs::read_to_string(&file).unwrap();
    let truth = sandbox.vm("v");
    let mut of_another: serde_json::Value = serde_json::from_str(&good).unwrap();
    of_another["vm"] = "0123456789abcdef".into();
    of_another["vmm_pid"] = 1.into();
    let elsewhere = format!("env BANGER_RUNTIME_DIR={}", sandbox.path("other").display());
    for lie in ["", "{\"vm\":", &of_another.to_string()] {
        fs::write(&file, lie).unwrap();
        assert_eq!(sandbox.vm("v")["pid"], truth["pid"], "{lie:?}");
        assert_eq!(sandbox.vm("v")["state"], "running", "{lie:?}");
        // The sockets are found where they are bound, not where this environment would put them.
        sandbox
            .sh(&format!("{elsewhere} banger-vm exec v -- true"))
            .ok();
    }
    fs::remove_file(&file).unwrap();
    assert_eq!(sandbox.vm("v")["pid"], truth["pid"]);
    sandbox
        .sh("banger-vm reconcile --dry-run")
        .says("handles.json");
    assert!(!file.exists(), "a dry run changes nothing");
    sandbox.sh("banger-vm reconcile").says("handles.json");
    let rebuilt: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let good: serde_json::Value = serde_json::from_str(&good).unwrap();
    for key in ["vm", "monitor_pid", "vmm_pid", "boot_id", "runtime"] {
        assert_eq!(rebuilt[key], good[key], "{key}");
    }
    sandbox
        .sh("banger-vm reconcile")
        .says("all is as it should be");
    sandbox.sh("banger-vm stop --quiet v").ok();
    sandbox.assert_nothing_leaked();
}

#[test]
fn a_monitor_outlives_the_terminal_of_its_command() {
    if skipped("vm") {
        return;
    }
    let sandbox = vm();
    // script(1) gives the command a terminal of its own, which closes with it.
    sandbox
        .sh("script -qec 'banger-vm start --quiet v' /dev/null")
        .ok();
    sandbox.sh("banger-vm exec v -- true").ok();
    assert_eq!(sandbox.vm("v")["state"], "running");
}

#[test]
fn the_disk_grows_at_once_memory_at_the_next_start_and_an_idle_monitor_sleeps() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --quiet --network none --disk 300M --name v busybox")
        .ok();
    let blocks = |sandbox: &Sandbox| -> u64 {
        let df = sandbox.sh("banger-vm exec v -- df -k /");
        let line = df.ok().lines().last().unwrap_or_default().to_owned();
        line.split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    };
    sandbox
        .sh("banger-vm exec v -- sh -c 'echo kept > /file'")
        .ok();
    let before = blocks(&sandbox);
    let changed = sandbox.sh("banger-vm set v --disk 3G --memory 300M");
    changed.says("banger-vm restart v");
    let after = blocks(&sandbox);
    assert!(after > before * 8, "{before} KiB, then {after} KiB");
    sandbox.sh("banger-vm restart --quiet v").ok();
    assert_eq!(blocks(&sandbox), after, "it was grown once");
    assert_eq!(sandbox.sh("banger-vm exec v -- cat /file").ok(), "kept\n");
    let memory = sandbox.sh("banger-vm exec v -- grep MemTotal /proc/meminfo");
    let kilobytes: u64 = memory
        .ok()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!((200_000..310_000).contains(&kilobytes), "{kilobytes}");
    sandbox.sh("banger-vm stop --quiet v").ok();
    let disk = sandbox.vm_directory("v").join("data.img");
    sandbox.sh(&format!("e2fsck -fn {}", disk.display())).ok();

    sandbox.sh("banger-vm start --quiet v").ok();
    let monitor = sandbox.handle("v", "monitor_pid");
    let switches = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{monitor}/status")).unwrap();
        let line = status
            .lines()
            .find(|l| l.starts_with("voluntary_ctxt"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // Whoever makes a blocking system call gives the processor up; a sleeping process never does.
    eventually(
        "ten seconds without a wake-up",
        Duration::from_secs(60),
        || {
            let before = switches();
            std::thread::sleep(Duration::from_secs(10));
            (switches() == before).then_some(())
        },
    );
}
