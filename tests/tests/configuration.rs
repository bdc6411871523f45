//! What is configured counts where nothing is typed.

use std::fs;

use banger_tests::Sandbox;

#[test]
fn new_vms_are_as_configured_unless_flags_say_otherwise() {
    let sandbox = Sandbox::prepared();
    let file = sandbox.path("config.toml");
    let text = "[default]\nimage = \"busybox\"\n\n[vm]\ncpus = 3\nmemory = \"300M\"\ndisk = \"5G\"\nnetwork = \"none\"\n";
    fs::write(&file, text).unwrap();
    let with = format!("BANGER_CONFIG={}", file.display());
    let made = sandbox
        .sh(&format!("{with} banger-vm create --no-start --name a"))
        .record();
    assert_eq!(made["cpus"], 3, "{made}");
    assert_eq!(made["memory"], 300 << 20, "{made}");
    assert_eq!(made["network"], "none");
    let typed = sandbox.sh(&format!(
        "{with} banger-vm create --no-start --name b --cpus 1 busybox"
    ));
    assert_eq!(
        (&typed.record()["cpus"], &typed.record()["memory"]),
        (&1.into(), &(300 << 20).into())
    );
    // The worker of an operation reads the same.
    sandbox
        .sh(&format!(
            "{with} banger-vm create --detach --no-start --name c | banger-vm op wait"
        ))
        .ok();
    assert_eq!(sandbox.vm("c")["cpus"], 3);

    fs::write(&file, "[vm]\ncpu = 3\n").unwrap();
    let wrong = sandbox.sh(&format!(
        "{with} banger-vm create --no-start --name d busybox"
    ));
    wrong.exits(2).says("config.toml").says("cpus");
    assert_eq!(sandbox.sh("banger-vm list").records().len(), 3);
}
