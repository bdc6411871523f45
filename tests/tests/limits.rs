//! Limits on what a VM takes of the host: kept by the kernel, and refused where nobody keeps them.

use std::path::{Path, PathBuf};

use banger_tests::{Sandbox, skipped};

/// Where a process is in the hierarchy of a controller, and what a file says there (cgroups(7), "/proc/[pid]/cgroup").
fn limit(pid: u32, controller: &str, file: &str) -> Option<(PathBuf, String)> {
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts: Vec<Vec<&str>> = mounts
        .lines()
        .map(|line| line.split(' ').skip(1).collect())
        .collect();
    own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let mount = mounts.iter().find(|mount| match controllers {
            "" => mount[1] == "cgroup2",
            _ => mount[1] == "cgroup" && mount[2].split(',').any(|word| word == controller),
        })?;
        let named = controllers.split(',').any(|name| name == controller);
        let directory = Path::new(mount[0]).join(path.trim_start_matches('/'));
        let text = std::fs::read_to_string(directory.join(file)).ok()?;
        (controllers.is_empty() || named).then(|| (directory, text.trim().to_owned()))
    })
}

#[test]
fn the_kernel_keeps_the_limits_of_a_vm() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --quiet --no-start --network none --memory 256M --memory-limit 1G --cpu-limit 0.75 --name v busybox")
        .ok();
    sandbox
        .sh("banger-vm set v --memory-limit 100M")
        .exits(2)
        .says("memory-limit");
    sandbox.sh("banger-vm start --quiet v").ok();
    let vmm = sandbox.handle("v", "vmm_pid");
    let memory = limit(vmm, "memory", "memory.max")
        .or_else(|| limit(vmm, "memory", "memory.limit_in_bytes"));
    let (directory, bytes) = memory.expect("the VMM is in a cgroup with a limit of memory");
    assert_eq!(bytes, (1u64 << 30).to_string(), "{}", directory.display());
    let cpu = limit(vmm, "cpu", "cpu.max").or_else(|| limit(vmm, "cpu", "cpu.cfs_quota_us"));
    let (_, quota) = cpu.expect("the VMM is in a cgroup with a limit of processor time");
    assert!(["75000 100000", "75000"].contains(&&*quota), "{quota}");
    sandbox.sh("banger-vm exec v -- true").ok();
    sandbox.sh("banger-vm stop --quiet v").ok();
    assert!(!directory.exists(), "{} is left", directory.display());

    // Without limits there is none.
    sandbox
        .sh("banger-vm set --quiet v --memory-limit 0 --cpu-limit 0")
        .ok();
    sandbox.sh("banger-vm start --quiet v").ok();
    let vmm = sandbox.handle("v", "vmm_pid");
    let own = std::fs::read_to_string(format!("/proc/{vmm}/cgroup")).unwrap();
    let id = sandbox.vm("v")["id"].as_str().unwrap().to_owned();
    assert!(!own.contains(&format!("banger-{id}\n")), "{own}");
}

#[test]
fn limits_that_nobody_keeps_are_refused_before_anything_is_made() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::prepared();
    // A machine without cgroups: nothing is mounted there, and systemd does not run.
    let refused = sandbox.sh(
        "unshare --mount sh -c 'umount -R /sys/fs/cgroup; mount -t tmpfs none /run; \
         exec banger-vm create --no-start --network none --memory-limit 2G --name v busybox'",
    );
    refused
        .exits(1)
        .says("limits cannot be kept here")
        .says("no cgroup here has the memory controller")
        .hints("--memory-limit");
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
}
