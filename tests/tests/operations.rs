//! `create --detach` and what follows it: progress, waiting, cancelling at every stage.

use std::time::Duration;

use banger_tests::{
    Answer, Compression, Entry, FaultyRegistry, Hold, Image, Layer, Sandbox, eventually, skipped,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn an_operation_is_followed_to_its_end() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let begun = sandbox
        .sh("banger-vm create --detach --network none --name v busybox")
        .record();
    assert_eq!(
        (
            &begun["kind"],
            &begun["operation"],
            &begun["state"],
            &begun["changed"]
        ),
        (
            &"operation".into(),
            &"create".into(),
            &"running".into(),
            &true.into()
        )
    );
    let id = begun["id"].as_str().unwrap();
    let listed = sandbox.sh("banger-vm op list").record();
    assert_eq!(listed["id"], begun["id"]);
    let ended = sandbox
        .sh(&format!("banger-vm op wait {}", &id[..8]))
        .record();
    assert_eq!(
        (&ended["state"], &ended["status"], &ended["stage"]),
        (&"done".into(), &0.into(), &"booting v".into()),
        "{ended}"
    );
    assert_eq!(ended["vm"], sandbox.vm("v")["id"]);
    sandbox.sh("banger-vm exec v -- true").ok();
    // Too late to cancel: it says so, and the VM stays.
    let late = sandbox.sh("banger-vm op cancel v");
    assert_eq!(late.record()["changed"], false, "{late}");
    late.says("banger-vm delete v");
    assert_eq!(sandbox.vm("v")["state"], "running");
    sandbox.assert_nothing_leaked();
}

#[test]
fn a_failure_is_told_as_the_command_would_have_told_it() {
    let sandbox = Sandbox::prepared();
    sandbox
        .sh("banger-vm create --quiet --no-start --name v busybox")
        .ok();
    let waited =
        sandbox.sh("banger-vm create --detach --no-start --name v busybox | banger-vm op wait");
    waited
        .exits(4)
        .says("error: the VM name `v` is taken")
        .hints("--name");
    let missing =
        sandbox.sh("banger-vm create --detach --no-start --pull never nothing | banger-vm op wait");
    missing.exits(3).says("there is no image `nothing`");
    sandbox
        .sh("banger-vm op status 00aabbccddeeff11")
        .exits(3)
        .hints("banger-vm op list");
    sandbox
        .sh("banger-vm op wait")
        .exits(2)
        .hints("banger-vm op list");
    sandbox.assert_nothing_leaked();
}

#[test]
fn what_is_too_late_to_cancel_is_named_by_its_own_name() {
    let sandbox = Sandbox::prepared();
    let done = sandbox
        .sh("banger-vm create --detach --no-start busybox | banger-vm op wait")
        .record();
    let id = done["id"].as_str().unwrap();
    let vm = sandbox.sh("banger-vm list --json").record();
    let name = vm["name"].as_str().unwrap();
    sandbox
        .sh(&format!("banger-vm op cancel {id}"))
        .says(&format!("banger-vm delete {name}\n"));
    sandbox.sh(&format!("banger-vm delete --quiet {name}")).ok();
    sandbox
        .sh(&format!("banger-vm op cancel {id}"))
        .says("its VM is gone");
}

#[test]
fn cancelled_while_it_pulls() {
    let sandbox = Sandbox::prepared();
    // Not the image that is here already: nothing of that would be asked for.
    let only = Entry::File("only".into(), 0o644, "elsewhere\n".into());
    let layer = Layer::new(&[only], Compression::Gzip).unwrap();
    let image = Image::new(vec![layer]);
    let registry = FaultyRegistry::serve(&image, |path| {
        path.contains("/blobs/")
            .then(|| Answer::Stalled("application/octet-stream", vec![b'x'; 2]))
    });
    let begun = sandbox
        .sh(&format!(
            "banger-vm create --detach --no-start --name v {}",
            registry.reference()
        ))
        .record();
    let id = begun["id"].as_str().unwrap().to_owned();
    eventually("a blob is asked for", SOON, || {
        let requests = registry.requests();
        let mut blobs = requests.iter().filter(|path| path.contains("/blobs/"));
        blobs.next().map(drop)
    });
    cancel(&sandbox, &id);
    assert_eq!(
        sandbox
            .sh("banger-image list --format ids")
            .ok()
            .lines()
            .count(),
        1
    );
}

#[test]
fn cancelled_at_each_step_of_the_creation() {
    for point in [
        "staging.create",
        "vm.disk.sync",
        "staging.publish",
        "database.commit",
    ] {
        let sandbox = Sandbox::prepared();
        let hold = Hold::new();
        // The worker's first transactions record its progress.
        let time = if point == "database.commit" { 2 } else { 1 };
        let begun = sandbox
            .sh(&format!(
                "{} banger-vm create --detach --no-start --name v busybox",
                hold.at(point, time)
            ))
            .record();
        hold.wait();
        let id = begun["id"].as_str().unwrap().to_owned();
        let cancelling = sandbox.start(&format!("exec banger-vm op cancel {id}"));
        // The worker sees its signal after the step that it is held in.
        eventually("the worker is told", SOON, || {
            worker_is_told(&sandbox, &id).then_some(())
        });
        hold.release();
        let record = cancelling.finish().record();
        assert_eq!(record["state"], "cancelled", "{point}: {record}");
        assert_eq!(sandbox.sh("banger-vm list").ok(), "", "{point}");
        sandbox.assert_nothing_leaked();
    }
}

/// The worker has a signal that it will see.
fn worker_is_told(sandbox: &Sandbox, id: &str) -> bool {
    let worker = sandbox
        .processes()
        .into_iter()
        .find(|(_, line)| line.contains("worker") && line.contains(id));
    let Some((pid, _)) = worker else {
        return false;
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status.lines().find(|line| line.starts_with("ShdPnd:"));
    pending.is_some_and(|line| !line.ends_with("0000000000000000"))
}

#[test]
fn cancelled_while_it_boots() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let begun = sandbox
        .sh("banger-vm create --detach --network none --name v busybox")
        .record();
    sandbox.freeze_vmm();
    cancel(&sandbox, begun["id"].as_str().unwrap());
    assert!(sandbox.processes().is_empty());
}

#[test]
fn a_worker_that_was_killed_is_said_to_be_and_can_still_be_cancelled() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let begun = sandbox
        .sh("banger-vm create --detach --network none --name v busybox")
        .record();
    let id = begun["id"].as_str().unwrap();
    sandbox.freeze_vmm();
    let processes = sandbox.processes();
    let (worker, _) = processes
        .iter()
        .find(|(_, line)| line.contains(id))
        .expect("the worker waits for the guest");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(worker.cast_signed()),
        Signal::SIGKILL,
    )
    .unwrap();
    let waited = sandbox.sh(&format!("banger-vm op wait {id}"));
    waited
        .exits(1)
        .says("its process was killed while booting v");
    cancel(&sandbox, id);
    assert_eq!(
        sandbox.sh("banger-vm op list").record()["state"],
        "cancelled"
    );
}

fn cancel(sandbox: &Sandbox, id: &str) {
    let cancelled = sandbox.sh(&format!("banger-vm op cancel {id}")).record();
    assert_eq!(
        (&cancelled["state"], &cancelled["changed"]),
        (&"cancelled".into(), &true.into()),
        "{cancelled}"
    );
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
    sandbox
        .sh(&format!("banger-vm op wait {id}"))
        .exits(130)
        .says("cancelled");
    sandbox.assert_nothing_leaked();
}

#[test]
fn ctrl_c_at_each_step_of_a_create_leaves_nothing() {
    for point in [
        "staging.create",
        "vm.disk.sync",
        "staging.published",
        "database.committed",
    ] {
        let sandbox = Sandbox::prepared();
        let hold = Hold::new();
        let create = sandbox.start(&format!(
            "exec env {} banger-vm create --no-start --name v busybox",
            hold.at(point, 1)
        ));
        hold.wait();
        create.signal(Signal::SIGINT);
        hold.release();
        let outcome = create.finish();
        assert_eq!(outcome.status, 130, "{point}: {outcome}");
        // Not even until the next command.
        assert!(sandbox.entries("staging").is_empty(), "{point}");
        assert_eq!(sandbox.sh("banger-vm list").ok(), "", "{point}");
        sandbox.assert_nothing_leaked();
    }
}
