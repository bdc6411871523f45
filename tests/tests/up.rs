//! `banger-vm up`: a VM as a file describes it.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use banger_tests::{Sandbox, skipped};
use nix::sys::signal::Signal;

#[test]
fn a_file_is_what_its_vm_becomes() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let file = sandbox.path("web.toml");
    let describe = |text: &str| fs::write(&file, text).unwrap();
    describe(
        "image = \"busybox\"\nnetwork = \"none\"\nmemory = \"256M\"\npublish = [\"127.0.0.1:0:80\"]\n",
    );

    // As a service manager starts it, and is told (sd_notify(3)).
    let socket = sandbox.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(240)))
        .unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let up = sandbox.start(&format!(
        "NOTIFY_SOCKET={} exec banger-vm up --foreground --grace 10 web.toml",
        socket.display()
    ));
    up.wait_for_stdout("\"name\":\"web\"");
    assert_eq!(told(), "READY=1\nSTATUS=web runs");
    let made = sandbox.vm("web");
    assert_eq!(
        (&made["state"], &made["memory"]),
        (&"running".into(), &(256 << 20).into())
    );
    sandbox.sh("banger-vm exec web -- true").ok();

    // What was chosen for port 0 fits it; what can wait, waits; another image is said.
    describe(
        "image = \"busybox\"\nnetwork = \"none\"\nmemory = \"300M\"\npublish = [\"127.0.0.1:0:80\"]\ndisk-kind = \"copy\"\n",
    );
    let again = sandbox.sh("banger-vm up web.toml");
    again
        .says("memory from its next start on")
        .says("another `disk-kind` needs another VM");
    assert_eq!(again.record()["ports"], made["ports"]);
    assert_eq!(again.record()["pid"], made["pid"]);
    let same = sandbox.sh("banger-vm up web.toml").record();
    assert_eq!(same["changed"], false, "{same}");

    up.signal(Signal::SIGTERM);
    assert_eq!(told(), "STOPPING=1");
    up.finish().exits(0);
    let stopped = sandbox.vm("web");
    assert_eq!(
        (&stopped["state"], &stopped["exit"]),
        (&"stopped".into(), &"stopped".into())
    );

    // A VM that ends badly is a failure, for who restarts on those.
    let up = sandbox.start("exec banger-vm up --foreground web.toml");
    up.wait_for_stdout("\"state\":\"running\"");
    assert_eq!(sandbox.vm("web")["memory"], 300 << 20);
    let vmm = sandbox.handle("web", "vmm_pid");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(vmm.cast_signed()),
        Signal::SIGKILL,
    )
    .unwrap();
    up.finish()
        .exits(1)
        .says("web ended: vmm-failed")
        .hints("banger-vm logs web");
}

#[test]
fn files_that_describe_no_vm_are_refused_before_anything_is_made() {
    let sandbox = Sandbox::empty();
    for (name, text, status, said, hint) in [
        (
            "dev.toml",
            "imag = \"x\"\n",
            2,
            "there is no key `imag`",
            "did you mean `image`?",
        ),
        ("dev.toml", "cpus = 0\n", 2, "cpus", ""),
        ("dev.toml", "image = ", 2, "dev.toml: ", "long flags"),
        ("Dev_1.toml", "", 2, "does not name a VM", ""),
        ("dev.conf", "", 2, "is not called NAME.toml", ""),
    ] {
        fs::write(sandbox.path(name), text).unwrap();
        let refused = sandbox.sh(&format!("banger-vm up {name}"));
        refused.exits(status).says(said);
        if !hint.is_empty() {
            refused.hints(hint);
        }
    }
    sandbox
        .sh("banger-vm up missing.toml")
        .exits(3)
        .says("missing.toml");
    assert!(sandbox.sh("banger-vm list").records().is_empty());
}
