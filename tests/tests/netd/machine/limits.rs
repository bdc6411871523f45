//! Limits of a VM that `banger-vm` starts, as the kernel has them where cgroups are of version 2 and systemd keeps them.

use std::fs;
use std::process::{Command, Stdio};

use banger_tests::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::life::PATIENCE;
use super::{progress, property};

/// In place of QEMU: a guest's boot within a guest would take minutes, and is not what is looked at.
const STAND_IN: &str = "#!/bin/sh
case \"$*\" in
    *guest=limited*) exec sleep 1000 ;;
    *) exec /usr/bin/qemu-system-x86_64 \"$@\" ;;
esac
";

fn banger_vm(arguments: &[&str]) -> Command {
    let mut command = Command::new("banger-vm");
    command
        .args(arguments)
        .env("PATH", "/root/stand-in:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("BANGER_STORE", "/root/store")
        .stdin(Stdio::null());
    command
}

fn done(arguments: &[&str]) -> String {
    let output = banger_vm(arguments).output().expect("it is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("records are text")
}

/// The store is a copy of the host's.
pub(super) fn are_kept() {
    fs::create_dir_all("/root/stand-in").expect("it works in the machine");
    let stand_in = "/root/stand-in/qemu-system-x86_64";
    fs::write(stand_in, STAND_IN).expect("it works in the machine");
    super::executable(stand_in);
    let limits = "--memory-limit 1G --cpu-limit 0.75".split(' ');
    let create = "create --quiet --no-start --network none --memory 256M --name limited busybox";
    let create: Vec<_> = create.split(' ').chain(limits).collect();
    let made: serde_json::Value = serde_json::from_str(&done(&create)).expect("it is a record");
    let unit = format!("banger-{}.scope", made["id"].as_str().expect("it has one"));
    let mut starting = banger_vm(&["start", "--quiet", "limited"])
        .spawn()
        .expect("it is installed");
    let read = |name: &str| {
        let path = format!("/sys/fs/cgroup/system.slice/{unit}/{name}");
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    eventually("the monitor and its VMM are in the scope", PATIENCE, || {
        (read("cgroup.procs").lines().count() == 2).then_some(())
    });
    assert_eq!(
        property(&unit, "ControlGroup"),
        format!("/system.slice/{unit}")
    );
    assert_eq!(
        (&*read("memory.max"), &*read("cpu.max")),
        ("1073741824", "75000 100000")
    );
    progress("a VM has its limits");
    let pid = Pid::from_raw(starting.id().cast_signed());
    kill(pid, Signal::SIGINT).expect("it is ours");
    assert!(!starting.wait().expect("it is ours").success());
    eventually("the scope goes with its VM", PATIENCE, || {
        (property(&unit, "ActiveState") == "inactive").then_some(())
    });
    done(&["delete", "--quiet", "limited"]);
}
