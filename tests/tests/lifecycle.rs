//! VMs from their making to their end, and the truth about them whatever happens.

use std::time::Duration;

use banger_tests::{Sandbox, eventually, sha256, skipped};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn kill_9(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("it runs");
}

fn alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
        && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn data_survives_a_stop_and_the_image_never_changes() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let image = sandbox.image_disk("busybox");
    let before = sha256(&std::fs::read(&image).unwrap());

    let made = sandbox
        .sh("banger-vm create --name web --cpus 2 --memory 300M busybox")
        .record();
    assert_eq!(
        (&made["kind"], &made["state"]),
        (&"vm".into(), &"running".into()),
        "{made}"
    );
    assert_eq!(
        (&made["cpus"], &made["changed"]),
        (&2.into(), &true.into()),
        "{made}"
    );
    sandbox
        .sh("banger-vm exec web -- sh -c 'echo kept > /root/file; rm /etc/group'")
        .ok();
    let cpus = sandbox.sh("banger-vm exec web -- grep -c ^processor /proc/cpuinfo");
    assert_eq!(cpus.ok(), "2\n", "{cpus}");

    let again = sandbox.sh("banger-vm start web").record();
    assert_eq!(
        again["changed"], false,
        "a second start changes nothing: {again}"
    );

    // Not synced in the guest: a clean stop does that.
    let stopped = sandbox.sh("banger-vm stop web").record();
    assert_eq!(
        (&stopped["state"], &stopped["changed"]),
        (&"stopped".into(), &true.into())
    );
    assert_eq!(sandbox.sh("banger-vm stop web").record()["changed"], false);
    let data = sandbox.vm_directory("web").join("data.img");
    sandbox.sh(&format!("e2fsck -fn {}", data.display())).ok();
    let exit = std::fs::read_to_string(sandbox.vm_directory("web").join("exit.json")).unwrap();
    assert!(exit.contains("\"stopped\""), "{exit}");

    // The initramfs of the kernel is made once.
    let cached = || {
        let entries = std::fs::read_dir(sandbox.store().join("cache")).unwrap();
        let files = entries.map(|entry| {
            let entry = entry.unwrap();
            (
                entry.file_name(),
                entry.metadata().unwrap().modified().unwrap(),
            )
        });
        files.collect::<Vec<_>>()
    };
    let made = cached();
    assert_eq!(made.len(), 1, "{made:?}");
    sandbox.sh("banger-vm start web").ok();
    assert_eq!(cached(), made);
    let kept = sandbox.sh("banger-vm exec web -- sh -c 'cat /root/file; ls /etc'");
    assert_eq!(kept.ok().lines().next(), Some("kept"), "{kept}");
    assert!(!kept.stdout.lines().any(|line| line == "group"), "{kept}");

    // The guest ends itself.
    let waiting = sandbox.start("banger-vm wait web");
    sandbox.sh("banger-vm exec web -- poweroff");
    let waited = waiting.finish().record();
    assert_eq!(waited["state"], "stopped", "{waited}");
    sandbox.sh(&format!("e2fsck -fn {}", data.display())).ok();

    let logs = sandbox.sh("banger-vm logs web");
    assert!(logs.ok().contains("reboot: Power down"), "{logs}");
    let last = sandbox.sh("banger-vm logs -n 1 web");
    assert_eq!(last.ok().lines().count(), 1, "{last}");
    sandbox.sh("banger-vm delete web").ok();
    assert!(!data.exists());
    assert_eq!(sha256(&std::fs::read(&image).unwrap()), before);
}

#[test]
fn a_running_vm_is_deleted_only_by_force() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox.sh("banger-vm create --name busy busybox").ok();
    sandbox
        .sh("banger-vm delete busy")
        .exits(4)
        .says("error: busy is running")
        .hints("banger-vm stop busy");
    sandbox
        .sh("banger-vm create --name busy busybox")
        .exits(4)
        .says("busy");
    sandbox
        .sh("banger-image delete busybox")
        .exits(4)
        .says("busy");
    assert_eq!(sandbox.vm("busy")["state"], "running");
    let vmm = sandbox.handle("busy", "vmm_pid");
    assert_eq!(sandbox.vm("busy")["pid"], vmm);
    let monitor = sandbox.handle("busy", "monitor_pid");
    sandbox.sh("banger-vm delete --force busy").ok();
    assert!(!alive(vmm) && !alive(monitor));
    sandbox.sh("banger-vm delete busy").exits(3);
    sandbox.sh("banger-vm delete --if-exists busy").ok();
    sandbox.sh("banger-image delete busybox").ok();
}

#[test]
fn the_truth_is_seen_after_the_vmm_or_the_monitor_is_killed() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox.sh("banger-vm create --name v busybox").ok();
    let monitor = sandbox.handle("v", "monitor_pid");
    kill_9(sandbox.handle("v", "vmm_pid"));
    // The lock falls with the last process; no command repairs anything.
    eventually("list says stopped", Duration::from_secs(60), || {
        (sandbox.vm("v")["state"] == "stopped").then_some(())
    });
    assert_eq!(sandbox.vm("v")["pid"], serde_json::Value::Null);
    eventually("the monitor ends", Duration::from_secs(60), || {
        (!alive(monitor)).then_some(())
    });
    sandbox
        .sh("banger-vm exec v -- true")
        .exits(125)
        .hints("banger-vm start v");

    assert_eq!(sandbox.sh("banger-vm start v").record()["state"], "running");
    sandbox.sh("banger-vm exec v -- true").ok();
    let vmm = sandbox.handle("v", "vmm_pid");
    kill_9(sandbox.handle("v", "monitor_pid"));
    // Either the VMM lives on and is said to, or it is gone and is said to be.
    eventually("list is true", Duration::from_secs(60), || {
        let state = sandbox.vm("v")["state"].clone();
        (state == if alive(vmm) { "orphaned" } else { "stopped" }).then_some(())
    });
    if alive(vmm) {
        // Never two of them on one disk.
        let start = sandbox.sh("banger-vm start v");
        assert!(start.status != 0 || !alive(vmm), "two VMMs: {start}");
        sandbox.sh("banger-vm kill v").ok();
    }
    assert!(!alive(vmm));
    assert_eq!(sandbox.vm("v")["state"], "stopped");
    sandbox.sh("banger-vm start v").ok();
    sandbox.sh("banger-vm exec v -- true").ok();
    // Scratch files may be lost.
    std::fs::remove_file(sandbox.vm_directory("v").join("handles.json")).unwrap();
    assert_eq!(sandbox.vm("v")["state"], "running");
    sandbox.sh("banger-vm kill v").ok();
    assert_eq!(sandbox.vm("v")["state"], "stopped");
}

#[test]
fn two_starts_at_once_make_one_vm() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let made = sandbox
        .sh("banger-vm create --no-start --name twice busybox")
        .record();
    assert_eq!(made["state"], "stopped");
    let starts: Vec<_> = (0..3)
        .map(|_| sandbox.start("banger-vm start twice"))
        .collect();
    let changed: Vec<bool> = starts
        .into_iter()
        .map(|start| start.finish().record()["changed"] == true)
        .collect();
    assert_eq!(
        changed.iter().filter(|changed| **changed).count(),
        1,
        "{changed:?}"
    );
    let machines = sandbox
        .processes()
        .into_iter()
        .filter(|(_, line)| line.contains("qemu-system"))
        .count();
    assert_eq!(machines, 1);
}

#[test]
fn run_ends_with_its_command_whatever_happens() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let nothing_left = |when: &str| {
        eventually(when, Duration::from_secs(60), || {
            let none = sandbox.sh("banger-vm list").ok().is_empty();
            (none && sandbox.processes().is_empty()).then_some(())
        });
    };
    let piped = sandbox.feed(
        "banger-vm run busybox -- sh -c 'tr a-z A-Z; exit 3'",
        b"text",
    );
    assert_eq!(
        (piped.status, piped.stdout.as_str()),
        (3, "TEXT"),
        "{piped}"
    );
    sandbox
        .sh("banger-vm run busybox -- no-such-command")
        .exits(127);
    sandbox
        .sh("banger-vm run --timeout 1 busybox -- sleep 1000")
        .exits(124);
    nothing_left("after commands that ended");

    // Interrupted while it runs, and while it boots.
    let running = sandbox.start("exec banger-vm run busybox -- sh -c 'echo ready; sleep 1000'");
    running.wait_for_stdout("ready\n");
    running.signal(Signal::SIGINT);
    running.finish().exits(130);
    nothing_left("after SIGINT in the command");
    let booting = sandbox.start("exec banger-vm run busybox -- sleep 1000");
    sandbox.freeze_vmm();
    booting.signal(Signal::SIGTERM);
    let interrupted = booting.finish();
    assert_ne!(interrupted.status, 0, "{interrupted}");
    nothing_left("after SIGTERM in the boot");

    let kept = sandbox.sh("banger-vm run --keep --name kept busybox -- touch /root/here");
    kept.ok();
    assert_eq!(sandbox.vm("kept")["state"], "stopped");
    sandbox.sh("banger-vm start kept").ok();
    sandbox.sh("banger-vm exec kept -- test -e /root/here").ok();
}

#[test]
fn the_vm_of_a_run_that_was_killed_goes_away() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let running = sandbox.start("exec banger-vm run busybox -- sh -c 'echo ready; sleep 1000'");
    running.wait_for_stdout("ready\n");
    running.signal(Signal::SIGKILL);
    running.finish().exits(137);
    // Nobody is left to end it, so it is at least seen and can be ended.
    let id = sandbox
        .sh("banger-vm list --format ids")
        .ok()
        .trim()
        .to_owned();
    if !id.is_empty() {
        sandbox.sh(&format!("banger-vm delete --force {id}")).ok();
    }
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
}

#[test]
fn records_flow_through_pipes() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let made = sandbox.sh(
        "banger-image list | banger-vm create --name a --no-start | banger-vm start | \
         banger-vm exec -- hostname",
    );
    assert_eq!(made.ok(), "a\n", "{made}");
    let stopped = sandbox
        .sh("banger-vm list | banger-vm stop | banger-vm delete")
        .record();
    assert_eq!(stopped["name"], "a");
    assert_eq!(sandbox.sh("banger vm list").ok(), "");

    sandbox
        .sh("true | banger-vm start")
        .exits(2)
        .says("VM records were expected")
        .hints("name the VM");
    sandbox
        .sh("echo hello | banger-vm stop")
        .exits(2)
        .says("line 1");
    sandbox
        .sh("banger-image list | banger-vm stop")
        .exits(2)
        .says("VM records were expected");
    sandbox
        .sh("true | banger-vm exec -- true")
        .exits(125)
        .says("standard input is empty");
    sandbox
        .sh("banger-vm stop")
        .exits(2)
        .hints("banger-vm list");
    // The failure of the first command is the last one's end, without a VM.
    let failed = sandbox.sh("banger-image pull 127.0.0.1:1/no:1 | banger-vm create --name x");
    failed
        .exits(2)
        .says("error: ")
        .says("the command before it failed");
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
}
