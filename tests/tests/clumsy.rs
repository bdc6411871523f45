//! What a clumsy or unlucky user does, and what must not come of it.

use banger_tests::{Sandbox, skipped};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn nobody_kills_a_vm_on_suspicion() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --quiet --name web --memory 200M busybox")
        .ok();
    sandbox
        .sh("banger-vm create --quiet --no-start --name idle busybox")
        .ok();

    // Another environment, such as cron's or sudo's, finds the sockets all the same.
    let elsewhere = format!(
        "env BANGER_RUNTIME_DIR={}",
        sandbox.path("elsewhere").display()
    );
    sandbox
        .sh(&format!("{elsewhere} banger-vm exec web -- true"))
        .ok();
    let started = sandbox
        .sh(&format!("{elsewhere} banger-vm start web"))
        .record();
    assert_eq!(
        (&started["state"], &started["changed"]),
        (&"running".into(), &false.into())
    );

    // A monitor that does not answer is not a dead one.
    let monitor = Pid::from_raw(sandbox.handle("web", "monitor_pid").cast_signed());
    kill(monitor, Signal::SIGSTOP).unwrap();
    let refused = sandbox.sh("banger-vm start web");
    kill(monitor, Signal::SIGCONT).unwrap();
    refused
        .exits(1)
        .says("its monitor")
        .hints("banger-vm kill web");
    sandbox.sh("banger-vm exec web -- true").ok();

    // One that is stopped does not keep the others from their turn.
    let all = sandbox.sh("banger-vm list | banger-vm exec -- echo hello");
    all.exits(125).says("idle is not running");
    assert_eq!(all.stdout, "hello\n");

    // Ids that are shorter than names are names.
    let id = sandbox.vm("web")["id"].as_str().unwrap().to_owned();
    sandbox
        .sh(&format!(
            "banger-vm delete --force --if-exists {}",
            &id[..4]
        ))
        .ok();
    assert_eq!(sandbox.vm("web")["state"], "running");
    sandbox
        .sh(&format!("banger-vm create --no-start --name {id} busybox"))
        .exits(2)
        .says("16 hexadecimal digits are an id");
    let gone = sandbox
        .sh(&format!("banger-vm delete --force {}", &id[..6]))
        .record();
    assert_eq!(gone["name"], "web");
}

#[test]
fn an_empty_pipe_is_a_usage_error_for_every_command_that_reads_records() {
    let sandbox = Sandbox::empty();
    for command in [
        "banger-vm start",
        "banger-vm stop",
        "banger-vm restart",
        "banger-vm kill",
        "banger-vm delete",
        "banger-vm show",
        "banger-vm wait",
        "banger-vm create",
        "banger-image show",
        "banger-image delete",
        "banger-image kernel show",
        "banger-image kernel delete",
    ] {
        let outcome = sandbox.sh(&format!("true | {command}"));
        outcome.exits(2).says("standard input is empty");
    }
    sandbox
        .sh("true | banger-vm exec -- true")
        .exits(125)
        .says("standard input is empty");
}

#[test]
fn what_other_tools_have_is_understood_or_explained() {
    let sandbox = Sandbox::empty();
    for (line, status, says, hint) in [
        (
            "run -d busybox",
            125,
            "run waits for its command",
            "banger-vm create IMAGE",
        ),
        (
            "run -v /a:/b busybox",
            125,
            "-v is --verbose",
            "banger-vm run --mount /a:/b busybox",
        ),
        (
            "run busybox ls -l",
            125,
            "unexpected argument '-l'",
            "banger-vm run … -- COMMAND",
        ),
        (
            "exec dev uname -a",
            125,
            "there is no VM `dev`",
            "banger-vm list",
        ),
        (
            "exec -it - -- true",
            125,
            "standard input has records",
            "leave out --interactive",
        ),
        (
            "volume delete one two",
            3,
            "there is no volume two",
            "banger-vm volume list",
        ),
    ] {
        sandbox
            .sh(&format!("banger-vm {line} </dev/null"))
            .exits(status)
            .says(says)
            .hints(hint);
    }
    sandbox
        .sh("banger-vm create --volume /a:/b busybox")
        .exits(2)
        .says("--mount /a:/b");
    // Nothing there is nothing to stop.
    sandbox.sh("banger-vm stop --all").ok();
    // A paragraph is as wide as the terminal.
    let help = sandbox.sh("banger-vm --help").ok().to_owned();
    assert!(
        help.contains("\nwith the guest command's status: "),
        "{help}"
    );
}
