//! At every place where a command can fail or be killed, it fails and is killed once: afterwards the next
//! command works, the lists are true and nothing is left.
//!
//! The run prints how many places it tried. `BANGER_TEST_ALL_POINTS=1` tries both ways at each place of
//! commands that take seconds; otherwise they alternate there.
#![allow(clippy::print_stdout, reason = "what was tried is part of the result")]

use banger_tests::{Image, Point, Registry, Sandbox, clause, recorded, skipped};

/// A command, what makes its store ready, and what undoes it.
struct Case {
    name: &'static str,
    /// Before it.
    setup: &'static str,
    command: String,
    /// True once the command, or its repetition, has done its work.
    done: &'static str,
    guests: bool,
}

impl Case {
    fn sandbox(&self) -> Sandbox {
        let sandbox = match self.guests {
            true => Sandbox::for_guests(),
            false => Sandbox::prepared(),
        };
        if !self.setup.is_empty() {
            sandbox.sh(self.setup).ok();
        }
        sandbox
    }

    /// The places that the command passes when nothing goes wrong.
    fn points(&self) -> Vec<Point> {
        let sandbox = self.sandbox();
        let file = sandbox.path("points");
        let variable = format!("BANGER_FAILPOINTS=record={}", file.display());
        sandbox.sh(&format!("{variable} {}", self.command)).ok();
        sandbox.sh(self.done).ok();
        // The monitor passes its last ones after the command.
        sandbox.assert_nothing_leaked();
        recorded(&file)
    }

    /// Returns what is wrong afterwards.
    fn try_at(&self, point: &Point, action: &str) {
        let sandbox = self.sandbox();
        let line = format!("{} {}", clause(point, action), self.command);
        let outcome = sandbox.sh(&line);
        assert!(
            !outcome.stderr.contains("panicked") && outcome.status != 70,
            "a panic is no failure: {outcome}"
        );
        match action {
            "error" => assert!(
                outcome.status == 0 || outcome.stderr.contains("error: "),
                "a failure says nothing: {outcome}"
            ),
            // Another process than the command, or none that this run starts, may have been the one.
            _ => assert!(
                [0, 1, 2, 4, 125, 130, 137].contains(&outcome.status),
                "{outcome}"
            ),
        }
        sandbox.sh("banger-vm list && banger-image list").ok();
        if sandbox.sh(self.done).status != 0 {
            let again = sandbox.sh(&self.command);
            let finished = sandbox.sh(self.done);
            assert_eq!(finished.status, 0, "after {line}\nand {again}");
        }
        sandbox.assert_nothing_leaked();
        sandbox
            .sh("banger-vm list --format ids | xargs -r banger-vm delete --quiet --force")
            .ok();
        sandbox.assert_nothing_leaked();
    }

    fn run(&self, only_one_way: bool) {
        let points = self.points();
        let mut tried = 0;
        for (number, point) in points.iter().enumerate() {
            let ways: &[&str] = match (only_one_way, number % 2) {
                (false, _) => &["error", "kill"],
                (true, 0) => &["kill"],
                (true, _) => &["error"],
            };
            for action in ways {
                tried += 1;
                let place = format!("{} at {}#{} ({action})", self.name, point.name, point.time);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    self.try_at(point, action);
                }));
                assert!(result.is_ok(), "{place}");
            }
        }
        println!(
            "failpoints: {}: {} places, {tried} tried",
            self.name,
            points.len()
        );
        assert!(points.len() >= 5, "{}: only {points:?}", self.name);
    }
}

fn offline(name: &'static str, setup: &'static str, command: &str, done: &'static str) {
    let case = Case {
        name,
        setup,
        command: command.to_owned(),
        done,
        guests: false,
    };
    case.run(false);
}

#[test]
fn create_without_a_boot() {
    offline(
        "create --no-start",
        "",
        "banger-vm create --quiet --no-start --name v busybox",
        "banger-vm show --quiet v",
    );
}

#[test]
fn create_in_the_background() {
    offline(
        "create --detach",
        "",
        "banger-vm create --quiet --detach --no-start --name v busybox | banger-vm op wait",
        "banger-vm show --quiet v",
    );
}

#[test]
fn set() {
    offline(
        "set",
        "banger-vm create --quiet --no-start --name v busybox",
        "banger-vm set --quiet v --cpus 2 --name w",
        "banger-vm show --json w | grep -q '\"cpus\":2'",
    );
}

#[test]
fn publish() {
    offline(
        "publish",
        "banger-vm create --quiet --no-start --name v busybox",
        "banger-vm publish --quiet v 18080:80",
        "banger-vm ports --published v | grep -q 18080",
    );
}

#[test]
fn delete() {
    offline(
        "delete",
        // With what the sockets of a killed VM leave.
        "banger-vm create --quiet --no-start --name v busybox && \
         mkdir -m 700 $BANGER_RUNTIME_DIR/$(banger-vm list --format ids)",
        "banger-vm delete --quiet v",
        "test -z \"$(banger-vm list)\"",
    );
}

#[test]
fn image_delete_and_tag() {
    offline(
        "image delete",
        "",
        "banger-image delete --quiet busybox",
        "test -z \"$(banger-image list)\"",
    );
    offline(
        "image tag",
        "",
        "banger-image tag --quiet busybox other:1",
        "banger-image show --quiet other:1",
    );
    offline(
        "image untag",
        "banger-image tag --quiet busybox other:1",
        "banger-image untag --quiet other:1",
        "banger-image show --quiet busybox; test -z \"$(banger-image list | grep other)\"",
    );
}

#[test]
fn collection() {
    offline(
        "gc",
        "banger-image delete --quiet busybox",
        "banger-image gc --quiet",
        "test -z \"$(banger-image cache list)\"",
    );
}

#[test]
fn kernel_delete() {
    offline(
        "kernel delete",
        "",
        "banger-image kernel delete --quiet $(banger-image kernel list --format ids)",
        "test -z \"$(banger-image kernel list)\"",
    );
}

#[test]
fn kernel_import() {
    let package = banger_tests::Fixtures::find().kernel_package();
    let case = Case {
        name: "kernel import",
        setup: "banger-image kernel delete --quiet $(banger-image kernel list --format ids)",
        command: format!("banger-image kernel import --quiet {}", package.display()),
        done: "test -n \"$(banger-image kernel list)\"",
        guests: false,
    };
    // A second each.
    case.run(std::env::var_os("BANGER_TEST_ALL_POINTS").is_none());
}

#[test]
fn import() {
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("new.tar");
    let image = Image::busybox().unwrap();
    image.write_archive(&archive, "new:1").unwrap();
    offline(
        "import",
        "banger-image delete --quiet busybox",
        &format!("banger-image import --quiet {}", archive.display()),
        "banger-image show --quiet new:1",
    );
}

#[test]
fn pull() {
    let sandbox = Sandbox::empty();
    let registry: Registry = sandbox.registry();
    let image = Image::busybox().unwrap();
    image.push(registry.address(), "new", "1").unwrap();
    let reference = format!("{}/new:1", registry.address());
    let case = Case {
        name: "pull",
        setup: "banger-image delete --quiet busybox",
        command: format!("banger-image pull --quiet {reference}"),
        done: "test \"$(banger-image list --format ids | wc -l)\" = 1",
        guests: false,
    };
    case.run(false);
}

/// Boots take seconds: unless asked for all, each place is tried one way.
fn with_guests(name: &'static str, setup: &'static str, command: &str, done: &'static str) {
    if skipped("vm") {
        return;
    }
    let case = Case {
        name,
        setup,
        command: command.to_owned(),
        done,
        guests: true,
    };
    case.run(std::env::var_os("BANGER_TEST_ALL_POINTS").is_none());
}

#[test]
fn start() {
    with_guests(
        "start",
        "banger-vm create --quiet --no-start --network none --name v busybox",
        "banger-vm start --quiet v",
        "banger-vm exec v -- true",
    );
}

#[test]
fn stop() {
    with_guests(
        "stop",
        "banger-vm create --quiet --network none --name v busybox",
        "banger-vm stop --quiet v",
        "banger-vm show --json v | grep -q '\"state\":\"stopped\"'",
    );
}

/// A command on the workspaces of one VM, numbered by `$N` so that each try is a new one.
struct Step {
    name: &'static str,
    /// What there is to be done; the host's and the guest's files.
    before: &'static str,
    command: &'static str,
    /// Must hold after a failure: nothing half-made is taken for whole.
    between: &'static str,
    /// True once the command, or its repetition, has done its work.
    done: &'static str,
}

const STEPS: [Step; 5] = [
    Step {
        name: "ws prepare",
        before: "true",
        command: "banger-ws prepare --quiet v app --path /root/$N",
        // Either it is not there, or whole, or says that it is neither.
        between: "banger-ws list --quiet > list && \
                  { ! grep -q \"/root/$N\\\"\" list || banger-ws diff v:/root/$N || banger-ws diff v:/root/$N 2>&1 | grep -q incomplete; }",
        done: "banger-vm exec --no-workspace v -- cat /root/$N/d/b | cmp - app/d/b && banger-ws diff --quiet v:/root/$N > $N.diff && test ! -s $N.diff",
    },
    Step {
        name: "ws prepare, again",
        before: "echo $N > app/a",
        command: "banger-ws prepare --quiet v app --path /root/w",
        between: "banger-ws list --quiet && { banger-ws diff v:/root/w || banger-ws diff v:/root/w 2>&1 | grep -q incomplete; }",
        done: "banger-vm exec --no-workspace v -- cat /root/w/a | cmp - app/a && banger-ws diff --quiet v:/root/w > $N.diff && test ! -s $N.diff",
    },
    Step {
        name: "ws export -o",
        before: "banger-vm exec --no-workspace v -- sh -c \"echo changed-$N > /root/w/d/b\"",
        command: "banger-ws export --quiet v:/root/w -o $N.patch",
        between: "test ! -e $N.patch || grep -q changed-$N $N.patch",
        done: "grep -q changed-$N $N.patch && git -C app apply --check ../$N.patch",
    },
    Step {
        name: "ws export --as bundle",
        before: "banger-vm exec --no-workspace v -- sh -c \"echo changed-$N > /root/w/d/b\"",
        command: "banger-ws export --quiet v:/root/w --as bundle -o $N.bundle",
        between: "test ! -e $N.bundle || git -C app bundle verify -q ../$N.bundle",
        done: "git -C app bundle verify -q ../$N.bundle",
    },
    Step {
        name: "ws apply",
        before: "banger-ws export --quiet v:/root/w > /dev/null",
        command: "banger-ws apply --quiet v:/root/w --to try/$N",
        between: "git -C app fsck --strict --no-dangling && \
                  { ! git -C app rev-parse -q --verify try/$N || git -C app show try/$N:d/b | grep -q changed; }",
        done: "git -C app show try/$N:d/b | grep -q changed && git -C app diff --quiet HEAD -- d",
    },
];

/// One VM for all of it: what fails inside it must leave it usable, too.
#[test]
fn workspaces() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("git init -q -b main app && cd app && git config user.name u && git config user.email u@example.org && \
             mkdir d && echo a > a && echo b > d/b && git add -A && git commit -qm first && cd .. && \
             banger-vm create --quiet --network none --name v busybox && banger-ws prepare --quiet v app --path /root/w")
        .ok();
    let all = std::env::var_os("BANGER_TEST_ALL_POINTS").is_some();
    let mut number = 0;
    for step in &STEPS {
        let numbered = |number: u32, line: &str| sandbox.sh(&format!("N={number}; {line}"));
        number += 1;
        numbered(number, step.before).ok();
        let file = sandbox.path(&format!("{number}.points"));
        let variable = format!("BANGER_FAILPOINTS=record={}", file.display());
        numbered(number, &format!("{variable} {}", step.command)).ok();
        numbered(number, step.done).ok();
        let mut points = recorded(&file);
        // Locks and directories fail in the other tests here, too.
        points.retain(|point| {
            let own = ["workspace.", "database.commit"];
            all || own.iter().any(|own| point.name.starts_with(own))
        });
        for (index, point) in points.iter().enumerate() {
            let ways: &[&str] = match (all, index % 2) {
                (true, _) => &["error", "kill"],
                (false, 0) => &["kill"],
                (false, _) => &["error"],
            };
            for action in ways {
                number += 1;
                numbered(number, step.before).ok();
                let line = format!("{} {}", clause(point, action), step.command);
                let failed = numbered(number, &line);
                let said = failed.stderr.contains("error: ") && !failed.stderr.contains("panicked");
                match *action {
                    "kill" => assert!([0, 137].contains(&failed.status), "{failed}"),
                    _ => assert!(failed.status == 0 || said, "{failed}"),
                }
                let between = numbered(number, step.between);
                assert_eq!(between.status, 0, "after {failed}\n{between}");
                if numbered(number, step.done).status != 0 {
                    numbered(number, step.command).ok();
                }
                let done = numbered(number, step.done);
                assert_eq!(done.status, 0, "after {failed}\n{done}");
            }
        }
        println!("failpoints: {}: {} places", step.name, points.len());
        assert!(points.len() >= 2, "{}: only {points:?}", step.name);
    }
    let left = sandbox.sh("find . -name '*.banger-new'");
    assert_eq!(left.ok(), "", "{left}");
    sandbox.sh("banger-vm delete --quiet --force v").ok();
    sandbox.assert_nothing_leaked();
}
