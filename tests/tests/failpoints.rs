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
