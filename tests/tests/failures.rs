//! Wrong input and broken surroundings: what is said, what helps, what status, and what is left.

use std::fs;
use std::os::unix::fs::FileExt;

use banger_tests::{Compression, Entry, Image, Layer, Running, Sandbox, skipped};

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let sandbox = Sandbox::prepared();
    sandbox
        .sh("banger-vm create --no-start --name web-server busybox")
        .ok();
    for verb in ["start", "stop", "kill", "show", "delete", "logs", "wait"] {
        sandbox
            .sh(&format!("banger-vm {verb} web-sever"))
            .exits(3)
            .says("error: there is no VM `web-sever`")
            .hints("web-server");
    }
    sandbox
        .sh("banger-vm exec web-sever -- true")
        .exits(125)
        .hints("web-server");
    sandbox
        .sh("banger-vm create --pull never bussybox")
        .exits(3)
        .says("bussybox")
        .hints("busybox");
    sandbox
        .sh("banger-vm run --pull never bussybox -- true")
        .exits(125)
        .hints("busybox");
    sandbox
        .sh("banger-image show bussybox")
        .exits(3)
        .hints("busybox");
    sandbox
        .sh("banger-image delete bussybox")
        .exits(3)
        .hints("busybox");
    sandbox
        .sh("banger-vm create --no-start --kernel no-such busybox")
        .exits(3)
        .hints("banger-image kernel");
    let list = sandbox.sh("banger-vm list").records();
    assert_eq!(list.len(), 1, "nothing half-made: {list:?}");
}

#[test]
fn names_that_are_no_dns_labels_are_refused() {
    let sandbox = Sandbox::prepared();
    let long = "a".repeat(64);
    for name in [
        "-a", "a-", "A", "a.b", "a_b", "a/b", "ä", "a b", "", "../x", &long,
    ] {
        sandbox
            .sh(&format!(
                "banger-vm create --no-start --name='{name}' busybox"
            ))
            .exits(2)
            .says("name");
        sandbox
            .sh(&format!("banger-vm run --name='{name}' busybox -- true"))
            .exits(125)
            .says("name");
    }
    for reference in ["UPPER", "a//b", "-x:y", "x:y:z/", "x@sha256:12", "a b"] {
        let outcome = sandbox.sh(&format!("banger-image pull -- '{reference}'"));
        outcome.exits(2).says("not an image reference");
    }
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
}

#[test]
fn numbers_that_no_vm_can_have_are_refused() {
    let sandbox = Sandbox::prepared();
    for flags in [
        "--cpus 0",
        "--cpus 100000",
        "--memory 1K",
        "--memory 99999T",
        "--memory x",
    ] {
        sandbox
            .sh(&format!("banger-vm create --no-start {flags} busybox"))
            .exits(2)
            .says("error: ");
    }
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
}

#[test]
fn an_image_without_a_shell_runs_what_it_has() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let busybox = fs::read("/bin/busybox").unwrap();
    // A multi-call executable: `/true` is all there is.
    let layer = Layer::new(
        &[Entry::File("true".into(), 0o755, busybox)],
        Compression::None,
    )
    .unwrap();
    let archive = sandbox.path("scratch.tar");
    Image::new(vec![layer])
        .write_archive(&archive, "scratch:latest")
        .unwrap();
    sandbox
        .sh(&format!("banger-image import {}", archive.display()))
        .ok();

    sandbox
        .sh("banger-vm create --name bare --network user scratch")
        .ok();
    sandbox.sh("banger-vm exec bare -- /true").ok();
    sandbox
        .sh("banger-vm exec bare -- sh -c 'exit 0'")
        .exits(127)
        .says("sh");
    // No command, none in the image, no shell: said, not guessed.
    let shell = sandbox.sh("banger-vm exec bare");
    assert!([125, 127].contains(&shell.status), "{shell}");
    shell.says("error: ");
    sandbox.sh("banger-vm stop bare").ok();
    let none = sandbox.sh("banger-vm run scratch");
    assert!([125, 127].contains(&none.status), "{none}");
    none.says("error: ");
}

#[test]
fn a_guest_that_never_gets_ready_shows_its_console_and_the_cause() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let slow = sandbox.start("exec banger-vm create --name slow --boot-timeout 3 busybox");
    sandbox.freeze_vmm();
    slow.finish()
        .exits(1)
        .says("error: slow did not boot")
        .says("hint: ");

    // A root file system without a superblock.
    let disk = sandbox.image_disk("busybox");
    let own = sandbox.path("broken.img");
    fs::copy(&disk, &own).unwrap();
    fs::rename(&own, &disk).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
    file.write_all_at(&[0xff; 4096], 0).unwrap();
    // Known at once: nobody waits so long for a command of a test.
    for line in [
        "banger-vm create --boot-timeout 600 --name broken busybox",
        "banger-vm run --boot-timeout 600 --name broken busybox -- true",
    ] {
        let broken = sandbox.sh(line);
        broken.exits(if line.contains("run") { 125 } else { 1 });
        broken
            .says("error: broken did not boot")
            .says("EXT4-fs")
            .says("hint: ");
    }
    assert_eq!(
        sandbox.sh("banger-vm list").ok(),
        "",
        "nothing of them remains"
    );

    // What was there before stays there, and tells what happened.
    sandbox
        .sh("banger-vm create --no-start --name kept busybox")
        .ok();
    sandbox
        .sh("banger-vm start kept")
        .exits(1)
        .says("kept did not boot")
        .hints("banger-vm logs kept");
    let logs = sandbox.sh("banger-vm logs kept");
    assert!(logs.ok().contains("EXT4-fs"), "{logs}");
    assert_eq!(sandbox.vm("kept")["state"], "stopped");
}

#[test]
fn missing_parts_of_the_system_are_named_before_anything_is_made() {
    let sandbox = Sandbox::prepared();
    let with = |key: &str, value: &str, arguments: &[&str]| {
        let mut command = sandbox.command("banger-vm");
        command.env(key, value).args(arguments);
        Running::spawn(
            command,
            &format!("{key}={value} banger-vm {}", arguments.join(" ")),
        )
        .finish()
    };
    let run = ["run", "busybox", "--", "true"];
    let create = ["create", "busybox"];
    for (arguments, status) in [(&run[..], 125), (&create[..], 1)] {
        // Its standard input would be records.
        let arguments: Vec<&str> = arguments.to_vec();
        with("PATH", "/no/where", &arguments)
            .exits(status)
            .says("qemu-system-x86_64 is not installed")
            .hints("qemu-system-x86");
        with("BANGER_LIBEXEC_DIR", "/no/where", &arguments)
            .exits(status)
            .says("/no/where")
            .hints("BANGER_LIBEXEC_DIR");
    }
    with("BANGER_STORE", "relative", &["list"])
        .exits(2)
        .says("BANGER_STORE");
    sandbox
        .sh("banger-vm create --accel kvm busybox")
        .hints("--accel");
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
}

#[test]
fn a_runtime_directory_that_others_can_reach_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::prepared();
    let hostile = sandbox.path("r");
    fs::create_dir(&hostile).unwrap();
    fs::set_permissions(&hostile, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = sandbox.command("banger-vm");
    command
        .env("BANGER_RUNTIME_DIR", &hostile)
        .args(["create", "--name", "h", "busybox"]);
    let outcome = Running::spawn(command, "banger-vm create").finish();
    outcome
        .exits(1)
        .says("error: ")
        .says(&hostile.display().to_string());
    assert_eq!(fs::read_dir(hostile).unwrap().count(), 0);
}
