//! Images with an init of their own, and images whose command is what runs.

use std::time::Duration;

use banger_tests::{Compression, Entry, Image, Layer, Sandbox, eventually, skipped};
use serde_json::json;

/// Systemd in emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

fn import(sandbox: &Sandbox, name: &str, image: &Image) {
    let archive = sandbox.path("image.tar");
    image
        .write_archive(&archive, name)
        .expect("the sandbox can be written");
    sandbox
        .sh(&format!(
            "banger-image import --quiet {}",
            archive.display()
        ))
        .ok();
    std::fs::remove_file(archive).expect("it was just written");
}

/// The tests' busybox with more files and another configuration.
fn busybox(entries: &[Entry], config: serde_json::Value) -> Image {
    let layer = Layer::new(entries, Compression::Gzip).expect("entries can be packed");
    let mut image = Image::busybox().expect("busybox is installed").with(layer);
    image.config = config;
    image
}

fn script(path: &str, text: &str) -> Entry {
    Entry::File(
        path.into(),
        0o755,
        format!("#!/bin/sh\n{text}\n").into_bytes(),
    )
}

fn boot_id(sandbox: &Sandbox) -> String {
    let id = sandbox.sh("banger-vm exec v -- cat /proc/sys/kernel/random/boot_id");
    id.ok().to_owned()
}

/// Waits until the guest is another boot's.
fn wait_for_reboot(sandbox: &Sandbox, before: &str) {
    eventually("the guest has booted again", PATIENCE, || {
        let id = sandbox.sh("banger-vm exec v -- cat /proc/sys/kernel/random/boot_id");
        (id.status == 0 && id.stdout != before).then_some(())
    });
}

#[test]
fn a_guest_may_reboot_and_what_run_runs_ends_instead() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let made = sandbox
        .sh("banger-vm create --network none --publish 0:80 --name v busybox")
        .record();
    let port = made["ports"][0].as_str().unwrap().to_owned();
    let port = port.split(':').nth(1).unwrap().to_owned();
    let before = boot_id(&sandbox);
    let monitor = sandbox.handle("v", "monitor_pid");
    sandbox.sh("banger-vm exec v -- sh -c 'echo kept > /root/file; sync; reboot'");
    wait_for_reboot(&sandbox, &before);
    assert_eq!(sandbox.handle("v", "monitor_pid"), monitor);
    assert_eq!(sandbox.vm("v")["state"], "running");
    assert_eq!(
        sandbox.sh("banger-vm exec v -- cat /root/file").ok(),
        "kept\n"
    );
    sandbox
        .sh("banger-vm exec v -- sh -c 'httpd -p 80 -h /root'")
        .ok();
    let answer = sandbox.sh(&format!(
        "wget -qO- http://127.0.0.1:{port}/file || busybox wget -qO- http://127.0.0.1:{port}/file"
    ));
    assert_eq!(answer.ok(), "kept\n");
    let events = sandbox.sh("banger-vm events v").records();
    let words: Vec<_> = events.iter().map(|event| &event["event"]).collect();
    let tail = &words[words.len() - 2..];
    assert_eq!(tail, [&json!("rebooted"), &json!("ready")], "{words:?}");
    // What was on the console before the reboot is there still.
    let console = sandbox.sh("banger-vm logs v");
    assert!(
        console.ok().matches("reboot: Restarting").count() == 1,
        "{console}"
    );
    sandbox.sh("banger-vm delete --quiet --force v").ok();

    let ran = sandbox.sh("banger-vm run --network none busybox -- sh -c 'reboot -f'");
    assert_eq!(ran.status, 255, "{ran}");
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
}

#[test]
fn systemd_runs_a_machine_with_the_agent_beside_it() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::with_system();
    sandbox
        .sh("banger-vm create --quiet --name v --memory 512M system")
        .ok();
    let state = sandbox.sh("banger-vm exec v -- systemctl is-system-running --wait");
    let failed = sandbox.sh("banger-vm exec v -- systemctl --failed --no-pager");
    assert_eq!(state.stdout, "running\n", "{state}\n{failed}");
    let facts = sandbox.sh(
        "banger-vm exec v -- sh -c 'cat /proc/1/comm; systemctl is-active multi-user.target; hostname; \
         cat /etc/resolv.conf; grep -ls ^@ /proc/[0-9]*/cmdline | wc -l; cat /run/systemd/network/00-banger.network'",
    );
    let text = facts.ok();
    assert!(
        // systemd's killer spares who has an @ first.
        text.starts_with("systemd\nactive\nv\nnameserver 10.0.2.3\n1\n"),
        "{facts}"
    );
    assert!(text.contains("Address=10.0.2.15/24"), "{facts}");
    // A service of the guest, which must be told to end, and its journal.
    let service = "[Unit]\n[Service]\nExecStart=/bin/sh -c \"echo service-speaks; exec sleep infinity\"\n\
                   ExecStop=/bin/sh -c \"echo stopped > /root/stopped\"\n[Install]\nWantedBy=multi-user.target\n";
    sandbox
        .feed(
            "banger-vm exec v -- sh -c 'cat > /etc/systemd/system/talk.service && systemctl enable --now talk'",
            service.as_bytes(),
        )
        .ok();
    eventually("the journal has what the service said", PATIENCE, || {
        let journal = sandbox.sh("banger-vm exec v -- journalctl --no-pager -u talk");
        journal.stdout.contains("service-speaks").then_some(())
    });
    // A reboot is one of the guest, not the VM's end.
    let before = boot_id(&sandbox);
    let vmm = sandbox.handle("v", "vmm_pid");
    sandbox.sh("banger-vm exec v -- systemctl reboot");
    wait_for_reboot(&sandbox, &before);
    assert_ne!(sandbox.handle("v", "vmm_pid"), vmm);
    assert_eq!(
        sandbox.sh("banger-vm exec v -- cat /root/stopped").ok(),
        "stopped\n"
    );
    sandbox.sh("banger-vm exec v -- systemctl is-system-running --wait");
    let stopped = sandbox.sh("banger-vm stop --grace 200 v").record();
    assert_eq!(stopped["state"], "stopped", "{stopped}");
    let directory = sandbox.vm_directory("v");
    let exit = std::fs::read_to_string(directory.join("exit.json")).unwrap();
    assert!(exit.contains("\"stopped\""), "{exit}");
    let logs = sandbox.sh("banger-vm logs v");
    assert!(logs.ok().contains("reboot: Power down"), "{logs}");
    assert!(
        !logs.stdout.contains("did not end the guest in time"),
        "{logs}"
    );
    let data = directory.join("data.img");
    sandbox.sh(&format!("e2fsck -fn {}", data.display())).ok();
    let superblock = sandbox.sh(&format!("dumpe2fs -h {}", data.display()));
    assert!(
        !superblock.ok().contains("needs_recovery"),
        "the file system was left without being made read-only:\n{superblock}"
    );

    sandbox.sh("banger-vm start --quiet v").ok();
    assert_eq!(
        sandbox.sh("banger-vm exec v -- cat /root/stopped").ok(),
        "stopped\n"
    );
    // The guest's own end, by its own program.
    sandbox.sh("banger-vm exec v -- systemctl is-system-running --wait");
    let waiting = sandbox.start("banger-vm wait v");
    sandbox.sh("banger-vm exec v -- systemctl poweroff");
    assert_eq!(waiting.finish().record()["state"], "stopped");
    sandbox.sh(&format!("e2fsck -fn {}", data.display())).ok();
}

#[test]
fn the_agent_is_process_1_when_asked_and_for_run() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::with_system();
    let ran = sandbox.sh("banger-vm run --quiet --network none system -- cat /proc/1/comm");
    assert_eq!(ran.ok(), "init\n", "the agent is /init of the initramfs");
    sandbox
        .sh("banger-vm create --quiet --network none --init none --name v system")
        .ok();
    let first =
        sandbox.sh("banger-vm exec v -- sh -c 'cat /proc/1/comm; ls -d /run/systemd/system'");
    assert!(first.exits(2).stdout.starts_with("init\n"), "{first}");
}

#[test]
fn an_init_that_is_missing_ends_the_boot_with_its_name() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --quiet --network none --init /sbin/other --name v busybox")
        .exits(1)
        .says("/sbin/other");
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
    // An init that cannot be executed is found out only when it is.
    let image = busybox(
        &[Entry::File(
            "sbin/init".into(),
            0o755,
            b"no program".to_vec(),
        )],
        json!({}),
    );
    import(&sandbox, "broken:1", &image);
    sandbox
        .sh("banger-vm create --quiet --network none --init image --name v broken:1")
        .exits(1)
        .says("executing the image's init /sbin/init");
}

#[test]
fn busybox_init_boots_its_script_and_ends_it() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let inittab = "::sysinit:/etc/init.d/rcS\n::shutdown:/bin/touch /root/was-shut-down\n";
    let image = busybox(
        &[
            Entry::Symlink("sbin/init".into(), "../bin/busybox".into()),
            Entry::File("etc/inittab".into(), 0o644, inittab.into()),
            script("etc/init.d/rcS", "echo from-rcS; touch /tmp/ran"),
        ],
        json!({"Cmd": ["/sbin/init"], "Env": ["PATH=/bin"]}),
    );
    import(&sandbox, "box:1", &image);
    sandbox
        .sh("banger-vm create --quiet --network none --name v box:1")
        .ok();
    let name = sandbox.sh("banger-vm exec v -- readlink /proc/1/exe");
    assert_eq!(name.ok(), "/bin/busybox\n");
    eventually("the script has run", PATIENCE, || {
        (sandbox.sh("banger-vm exec v -- test -e /tmp/ran").status == 0).then_some(())
    });
    sandbox.sh("banger-vm stop --grace 100 v").ok();
    let exit = std::fs::read_to_string(sandbox.vm_directory("v").join("exit.json")).unwrap();
    assert!(exit.contains("\"stopped\""), "{exit}");
    let data = sandbox.vm_directory("v").join("data.img");
    sandbox.sh(&format!("e2fsck -fn {}", data.display())).ok();
    sandbox.sh("banger-vm start --quiet v").ok();
    sandbox
        .sh("banger-vm exec v -- test -e /root/was-shut-down")
        .ok();
}

#[test]
fn an_images_command_runs_from_each_start_on_as_the_image_says() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let serve = "echo \"I am $(id -u):$(id -g) in $(pwd) with $GREETING\"
trap 'echo asked-by-quit > /data/end; exit 3' QUIT
trap 'echo asked-by-term > /data/end; exit 4' TERM
while :; do sleep 1; done";
    let image = busybox(
        &[
            script("bin/serve", serve),
            Entry::Directory("data/".into(), 0o777),
        ],
        json!({
            "Entrypoint": ["/bin/serve"], "User": "1000:2000", "WorkingDir": "/not/there/yet",
            "Env": ["PATH=/bin", "GREETING=hello"], "StopSignal": "SIGQUIT",
            "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}},
        }),
    );
    import(&sandbox, "app:1", &image);
    sandbox
        .sh("banger-vm create --quiet --network none --name v app:1")
        .ok();
    let said = "I am 1000:2000 in /not/there/yet with hello";
    eventually("the console has the command's output", PATIENCE, || {
        sandbox
            .sh("banger-vm logs v")
            .stdout
            .contains(said)
            .then_some(())
    });
    sandbox.sh("banger-vm stop --quiet v").ok();
    sandbox.sh("banger-vm start --quiet v").ok();
    let end = sandbox.sh("banger-vm exec v -- cat /data/end");
    assert_eq!(end.ok(), "asked-by-quit\n");
    sandbox.sh("banger-vm delete --quiet --force v").ok();

    // Another command instead; its end is said, and the VM stays.
    sandbox
        .sh("banger-vm create --quiet --network none --name w app:1 -- sh -c 'echo instead; exit 7'")
        .ok();
    eventually("its end is on the console", PATIENCE, || {
        let logs = sandbox.sh("banger-vm logs w").stdout;
        (logs.contains("instead") && logs.contains("entry point ended with status 7")).then_some(())
    });
    sandbox.sh("banger-vm exec w -- true").ok();
}
