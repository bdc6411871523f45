//! Dynamic completion, by driving the real shells with live names; the dispatcher.

use banger_tests::{Outcome, Sandbox, skipped};

/// VMs `alpha-one` and `alpha-two`, image `busybox`.
fn names() -> Sandbox {
    let sandbox = Sandbox::prepared();
    for name in ["alpha-one", "alpha-two"] {
        sandbox
            .sh(&format!(
                "banger-vm create --no-start --name {name} busybox"
            ))
            .ok();
    }
    sandbox
}

/// Types into an interactive shell on a terminal; a tab is the key.
fn typed(sandbox: &Sandbox, shell: &str, lines: &[&str]) -> Outcome {
    let mut terminal = sandbox.start(&format!("TERM=dumb script -qec '{shell}' /dev/null"));
    for line in lines {
        terminal.write(line.as_bytes());
    }
    terminal.finish()
}

/// The files of the tree.
fn completions() -> String {
    format!("{}/../completions", env!("CARGO_MANIFEST_DIR"))
}

/// Each line, completed: it runs `echo` with what stands there.
const LINES: [(&str, &str); 5] = [
    ("banger-vm show alpha-o\t", "show alpha-one"),
    (
        "banger-vm create --no-start bus\t",
        "create --no-start busybox",
    ),
    ("banger-image show bus\t", "show busybox:latest"),
    ("banger-image show busybox:la\t", "show busybox:latest"),
    ("banger-vm star\talpha-t\t", "start alpha-two"),
];

#[test]
fn bash_completes_live_names() {
    if skipped("shells") {
        return;
    }
    let sandbox = names();
    // The file that is installed, and what the others print.
    let setup = format!(
        "source {}/bash/banger-vm.bash; for c in banger banger-image; do source <(COMPLETE=bash $c); done\n",
        completions()
    );
    for (line, completed) in LINES {
        // The line is not run but shown: `#` goes in front, return at its end.
        let shown = typed(
            &sandbox,
            "bash --norc --noprofile -i",
            &[&setup, line, "\x01echo == \x05\n", "exit\n"],
        );
        let wanted = format!("== {} {completed}", line.split(' ').next().unwrap());
        assert!(shown.stdout.contains(&wanted), "{wanted:?} in {shown}");
    }
}

#[test]
fn zsh_completes_live_names() {
    if skipped("shells") {
        return;
    }
    let sandbox = names();
    // As zsh finds installed ones, loading them when they are first needed; and what the others print.
    let setup = format!(
        "fpath=({}/zsh $fpath); autoload -U compinit; compinit -u -D; bindkey -e; \
         for c in banger banger-image; do source <(COMPLETE=zsh $c); done\n",
        completions()
    );
    for (line, completed) in LINES {
        let shown = typed(
            &sandbox,
            "zsh -f -i",
            &[&setup, line, "\x01echo == \x05\n", "exit\n"],
        );
        let wanted = format!("== {} {completed}", line.split(' ').next().unwrap());
        assert!(shown.stdout.contains(&wanted), "{wanted:?} in {shown}");
    }
}

#[test]
fn fish_completes_live_names() {
    if skipped("shells") {
        return;
    }
    let sandbox = names();
    let complete = |line: &str| {
        let script = format!(
            "for c in banger banger-vm banger-image; COMPLETE=fish $c | source; end; \
             complete --do-complete \"{line}\""
        );
        let outcome = sandbox.sh(&format!("fish --no-config --command '{script}'"));
        let names = outcome
            .ok()
            .lines()
            .map(|line| line.split('\t').next().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(complete("banger-vm show alpha"), ["alpha-one", "alpha-two"]);
    assert_eq!(complete("banger-vm create bus"), ["busybox:latest"]);
    assert_eq!(complete("banger-image show bus"), ["busybox:latest"]);
    assert!(complete("banger-vm start ").contains(&"alpha-two".to_owned()));
    assert!(complete("banger-vm sta").contains(&"start".to_owned()));
    assert_eq!(complete("banger vm show alpha-o"), ["alpha-one"]);
    // What is deleted is gone at once.
    sandbox.sh("banger-vm delete alpha-one").ok();
    assert_eq!(complete("banger-vm show alpha"), ["alpha-two"]);
}

#[test]
fn without_a_store_nothing_is_completed_and_nothing_is_made() {
    let sandbox = Sandbox::empty();
    let asked = "_CLAP_COMPLETE_INDEX=2 COMPLETE=bash banger-vm -- banger-vm show";
    let outcome = sandbox.sh(&format!("{asked} ''"));
    let names: Vec<&str> = outcome
        .ok()
        .split_whitespace()
        .filter(|word| !word.starts_with('-'))
        .collect();
    assert!(names.is_empty() && outcome.stderr.is_empty(), "{outcome}");
    assert!(!sandbox.store().exists());
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
    assert!(!sandbox.store().exists(), "`list` makes no store");
}

#[test]
fn the_dispatcher_runs_the_executables() {
    let sandbox = names();
    let direct = sandbox.sh("banger-vm list");
    let through = sandbox.sh("banger vm list");
    assert_eq!(through.records().len(), 2);
    assert_eq!(through.stdout, direct.stdout);
    assert_eq!(
        sandbox
            .sh("banger image list --format ids")
            .ok()
            .lines()
            .count(),
        1
    );
    sandbox.sh("banger vm show no-such").exits(3);
    sandbox.sh("banger vm exec no-such -- true").exits(125);
    sandbox.sh("banger teapot").exits(2);
    let help = sandbox.sh("banger vm --help");
    assert!(help.ok().contains("banger-vm"), "{help}");
    for program in ["banger", "banger-vm", "banger-image"] {
        let version = sandbox.sh(&format!("{program} --version"));
        assert_eq!(version.ok().split(' ').next(), Some(program));
    }
}

#[test]
fn people_get_tables_and_programs_get_records() {
    let sandbox = names();
    let table = sandbox.sh("banger-vm list --format table");
    let mut lines = table.ok().lines();
    assert!(lines.next().unwrap().starts_with("NAME"), "{table}");
    assert!(lines.next().unwrap().starts_with("alpha-"), "{table}");
    let terminal = sandbox.sh("script -qec 'banger-vm list' /dev/null");
    assert!(terminal.stdout.contains("NAME"), "{terminal}");
    for record in sandbox.sh("banger-vm list").records() {
        assert_eq!(
            (&record["kind"], &record["schema"]),
            (&"vm".into(), &1.into())
        );
    }
    let full = sandbox.sh("banger-vm list | head -n 1; banger-vm list > /dev/full");
    full.exits(1).says("error: ");
}
