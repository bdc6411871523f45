//! The VM of a `run` goes away with it, however the command ends.

use std::time::Duration;

use banger_tests::{Sandbox, eventually, skipped};
use nix::sys::signal::Signal;

#[test]
fn a_killed_run_takes_its_vm_with_it() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let run = sandbox.start(
        "exec banger-vm run --name eph --memory 200M busybox -- sh -c 'echo up; sleep 1000'",
    );
    run.wait_for_stdout("up");
    let directory = sandbox.vm_directory("eph");
    assert_eq!(sandbox.vm("eph")["state"], "running");
    assert_eq!(
        sandbox.sh("banger-vm prune").ok(),
        "",
        "nothing is removed while the command lives"
    );

    run.signal(Signal::SIGKILL);
    run.finish();
    // The VMM dies with the monitor's connection; from then on the list is true and prune removes it.
    eventually(
        "the VM ends with its command",
        Duration::from_secs(20),
        || (sandbox.vm("eph")["state"] == "stopped").then_some(()),
    );
    assert_eq!(sandbox.sh("banger-vm prune").record()["name"], "eph");
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
    assert!(!directory.exists());
}
