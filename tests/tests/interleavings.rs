//! Two commands about one thing, each held where it hurts the other most.

use banger_tests::{Hold, Image, Outcome, Running, Sandbox, sha256};

/// Starts a command and returns when it is at the point.
fn held(sandbox: &Sandbox, hold: &Hold, point: &str, command: &str) -> Running {
    let running = sandbox.start(&format!("exec env {} {command}", hold.at(point, 1)));
    hold.wait();
    running
}

fn let_go(hold: &Hold, running: Running) -> Outcome {
    hold.release();
    running.finish()
}

const CREATE: &str = "banger-vm create --quiet --no-start --name v busybox";

#[test]
fn an_image_deleted_before_its_vm_appears() {
    // The create has looked at the image and holds `create`; the delete needs `images` only.
    for point in ["staging.publish", "database.begin", "database.commit"] {
        let sandbox = Sandbox::prepared();
        let hold = Hold::new();
        let create = held(&sandbox, &hold, point, CREATE);
        let delete = match point {
            // The row is written, but not committed: the delete waits for the database.
            "database.commit" => {
                let delete = sandbox.start("exec banger-image delete --quiet busybox");
                let created = let_go(&hold, create);
                created.ok();
                delete
                    .finish()
                    .exits(4)
                    .says("in use by v")
                    .hints("banger-vm delete v");
                sandbox.assert_nothing_leaked();
                continue;
            }
            _ => sandbox.sh("banger-image delete --quiet busybox"),
        };
        delete.ok();
        let create = let_go(&hold, create);
        create.exits(3).says("there is no image");
        assert_eq!(sandbox.sh("banger-vm list").ok(), "");
        sandbox.assert_nothing_leaked();
    }
}

#[test]
fn a_vm_that_appears_while_its_image_is_being_deleted() {
    let sandbox = Sandbox::prepared();
    let hold = Hold::new();
    // It has seen that no VM uses the image.
    let delete = held(
        &sandbox,
        &hold,
        "database.begin",
        "banger-image delete --quiet busybox",
    );
    sandbox.sh(CREATE).ok();
    let_go(&hold, delete)
        .exits(4)
        .says("in use by v")
        .hints("banger-vm delete v");
    assert!(sandbox.image_disk("busybox").exists());
    sandbox.assert_nothing_leaked();
}

#[test]
fn a_kernel_deleted_before_its_vm_appears() {
    let sandbox = Sandbox::prepared();
    let hold = Hold::new();
    let create = held(&sandbox, &hold, "staging.publish", CREATE);
    sandbox
        .sh("banger-image kernel delete --quiet $(banger-image kernel list --format ids)")
        .ok();
    let_go(&hold, create).exits(3).says("there is no kernel");
    sandbox.assert_nothing_leaked();
}

#[test]
fn an_image_pulled_again_while_it_is_being_deleted() {
    let sandbox = Sandbox::empty();
    let registry = sandbox.registry();
    let image = Image::busybox().unwrap();
    image.push(registry.address(), "again", "1").unwrap();
    let pull = format!("banger-image pull --quiet {}/again:1", registry.address());
    for point in [
        "database.begin",
        "database.committed",
        "trash.move",
        "trash.unlink",
    ] {
        sandbox.sh(&pull).ok();
        let hold = Hold::new();
        let delete = format!("banger-image delete --quiet {}/again:1", registry.address());
        let delete = held(&sandbox, &hold, point, &delete);
        let again = sandbox.start(&format!("exec {pull}"));
        let_go(&hold, delete).ok();
        let again = again.finish();
        again.ok();
        // It found the image before the delete, or it has made it anew; never a row without files.
        let left = sandbox.sh("banger-image list --json").records();
        assert!(left.len() <= 1, "{point}: {left:?}");
        for image in &left {
            let disk = sandbox
                .store()
                .join("images")
                .join(image["id"].as_str().unwrap());
            assert!(disk.join("rootfs.img").exists(), "{point}");
        }
        sandbox.assert_nothing_leaked();
        sandbox.sh(&pull).ok();
        sandbox
            .sh(&format!(
                "banger-image delete --quiet {}/again:1",
                registry.address()
            ))
            .ok();
        sandbox.assert_nothing_leaked();
    }
}

#[test]
fn an_image_imported_in_the_middle_of_a_collection() {
    let sandbox = Sandbox::empty();
    let archive = sandbox.path("image.tar");
    let image = Image::busybox().unwrap();
    image.write_archive(&archive, "kept:1").unwrap();
    let import = format!("banger-image import --quiet {}", archive.display());
    sandbox.sh(&import).ok();
    sandbox.sh("banger-image delete --quiet kept:1").ok();
    let blobs = sandbox.store().join("blobs/blobs/sha256");
    for number in 0..250 {
        let content = format!("nobody has blob {number}\n");
        let digest = sha256(content.as_bytes());
        std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), content).unwrap();
    }
    let hold = Hold::new();
    // It has listed what nobody has, and removed the first of it.
    let gc = held(
        &sandbox,
        &hold,
        "collect.next",
        "banger-image gc --quiet --json",
    );
    let left = std::fs::read_dir(&blobs).unwrap().count();
    assert!((100..253).contains(&left), "{left} blobs");
    // It has not got the lock meanwhile: nobody waits for the rest.
    sandbox.sh(&import).ok();
    let removed = let_go(&hold, gc).records().len();
    sandbox.sh("banger-image verify kept:1").ok();
    assert!((250..=253).contains(&removed), "{removed} blobs");
    assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 3);
    sandbox.assert_nothing_leaked();
}

#[test]
fn an_image_deleted_while_it_is_pulled_again() {
    let sandbox = Sandbox::empty();
    let registry = sandbox.registry();
    let image = Image::busybox().unwrap();
    image.push(registry.address(), "again", "1").unwrap();
    let name = format!("{}/again:1", registry.address());
    sandbox
        .sh(&format!("banger-image pull --quiet {name}"))
        .ok();
    sandbox
        .sh(&format!("banger-image tag --quiet {name} kept:1"))
        .ok();
    // Another image under the same name.
    let mut newer = Image::busybox().unwrap();
    newer.config["config"]["Env"] = serde_json::json!(["NEW=1"]);
    newer.push(registry.address(), "again", "1").unwrap();
    let hold = Hold::new();
    let pull = format!("banger-image pull --quiet {name}");
    let pull = held(&sandbox, &hold, "staging.publish", &pull);
    // The pull holds `images`, so the delete waits; then the name is the new image's.
    let delete = sandbox.start(&format!("exec banger-image delete --quiet {name}"));
    let new = let_go(&hold, pull).record();
    let deleted = delete.finish().record();
    let left = sandbox.sh("banger-image list --json").records();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_ne!(left[0]["id"], deleted["id"]);
    assert!([&new["id"], &left[0]["id"]].contains(&&deleted["id"]) || left[0]["id"] == new["id"]);
    sandbox.assert_nothing_leaked();
}

#[test]
fn a_vm_deleted_while_another_command_waits_for_it() {
    let sandbox = Sandbox::prepared();
    sandbox.sh(CREATE).ok();
    let hold = Hold::new();
    let delete = held(
        &sandbox,
        &hold,
        "database.begin",
        "banger-vm delete --quiet v",
    );
    let waiters: Vec<Running> = [
        "start v",
        "stop v",
        "set v --cpus 2",
        "delete v",
        "delete --if-exists v",
    ]
    .iter()
    .map(|verb| sandbox.start(&format!("exec banger-vm {verb}")))
    .collect();
    for waiter in &waiters {
        waiter.wait_for_stderr("waiting for the lock");
    }
    let_go(&hold, delete).ok();
    for (number, waiter) in waiters.into_iter().enumerate() {
        let outcome = waiter.finish();
        // Who holds it was said, with its process and command.
        outcome.says("banger-vm delete --quiet v)");
        if number == 4 {
            outcome.ok();
        } else {
            outcome.exits(3).says("there is no VM `v`");
        }
    }
    sandbox.assert_nothing_leaked();
}

#[test]
fn what_is_being_made_is_not_swept() {
    let sandbox = Sandbox::prepared();
    for point in [
        "vm.disk.create",
        "vm.disk.sync",
        "staging.publish",
        "staging.published",
    ] {
        let hold = Hold::new();
        let create = held(&sandbox, &hold, point, CREATE);
        sandbox.sh("banger-vm reconcile --quiet").ok();
        sandbox.sh("banger-vm prune --quiet").ok();
        sandbox.sh("banger-image tag --quiet busybox other").ok();
        let_go(&hold, create).ok();
        sandbox.sh("banger-vm set --quiet v --cpus 2").ok();
        sandbox.assert_nothing_leaked();
        sandbox.sh("banger-vm delete --quiet v").ok();
    }
}

#[test]
fn sixty_four_creates_at_once_all_succeed_under_names_of_their_own() {
    let sandbox = Sandbox::prepared();
    let create = "exec banger-vm create --quiet --no-start --format ids busybox";
    let creates: Vec<Running> = (0..64).map(|_| sandbox.start(create)).collect();
    let ids: std::collections::BTreeSet<String> = creates
        .into_iter()
        .map(|create| create.finish().ok().trim().to_owned())
        .collect();
    assert_eq!(ids.len(), 64);
    assert_eq!(sandbox.entries("vms"), ids);
    sandbox.assert_nothing_leaked();
}
