//! A store that somebody damaged, filled, moved or opened to others: what is wrong is named, with what to do.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use banger_tests::{Sandbox, skipped};

#[test]
fn a_database_that_is_none_is_named_and_kept() {
    let sandbox = Sandbox::prepared();
    let database = sandbox.store().join("banger.db");
    for tail in ["-wal", "-shm"] {
        let _ = fs::remove_file(sandbox.store().join(format!("banger.db{tail}")));
    }
    let good = fs::read(&database).unwrap();
    let mut torn = good.clone();
    torn[100..4096].fill(0xa5);
    let cases: [(&str, Vec<u8>); 3] = [
        (
            "text",
            b"this is text, and not a database at all\n".repeat(200),
        ),
        ("half a header", good[..50].to_vec()),
        ("a torn page", torn),
    ];
    for (what, content) in cases {
        fs::write(&database, &content).unwrap();
        for command in [
            "banger-vm list",
            "banger-vm create busybox",
            "banger-image list",
            "banger-vm reconcile",
        ] {
            let outcome = sandbox.sh(command);
            outcome.exits(1).says("banger.db").hints("banger.db");
            assert!(
                outcome.stderr.contains(&database.display().to_string()),
                "{what}: {outcome}"
            );
        }
        assert_eq!(fs::read(&database).unwrap(), content, "{what}");
        for tail in ["-wal", "-shm"] {
            let _ = fs::remove_file(sandbox.store().join(format!("banger.db{tail}")));
        }
    }
    fs::write(&database, good).unwrap();
    sandbox.sh("banger-image show busybox").ok();
}

#[test]
fn a_row_that_is_damaged_is_named() {
    let sandbox = Sandbox::prepared();
    sandbox
        .sh("banger-vm create --quiet --no-start --name v busybox")
        .ok();
    sandbox.sql("UPDATE vms SET spec = '{'");
    sandbox
        .sh("banger-vm show v")
        .exits(1)
        .says("the database row of VM");
}

#[test]
fn a_newer_store_is_shared_when_it_allows_that_and_refused_otherwise() {
    let sandbox = Sandbox::prepared();
    sandbox.sql("PRAGMA user_version = 1000");
    sandbox
        .sh("banger-vm create --quiet --no-start --name v busybox")
        .ok();
    sandbox.sql("UPDATE meta SET value = 1000 WHERE key = 'oldest_writer'");
    let refused = sandbox.sh("banger-vm create --quiet --no-start --name w busybox");
    refused.exits(1).says("format 1000").hints("newer banger");
    sandbox.sql("UPDATE meta SET value = 1; PRAGMA user_version = 2");
}

#[test]
fn a_database_that_is_missing_is_a_new_store_and_what_lay_there_is_swept() {
    let sandbox = Sandbox::prepared();
    sandbox
        .sh("banger-vm create --quiet --no-start --name v busybox")
        .ok();
    for tail in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(sandbox.store().join(format!("banger.db{tail}")));
    }
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
    sandbox.sh("banger-vm show v").exits(3);
    sandbox.assert_nothing_leaked();
}

#[test]
fn a_store_that_can_only_be_read_can_be_listed() {
    let sandbox = Sandbox::prepared();
    sandbox
        .sh("banger-vm create --quiet --no-start --name v busybox")
        .ok();
    let store = sandbox.store();
    // A bind mount that is read-only, in a mount namespace of its own: root obeys that too.
    let read_only = |command: &str| {
        sandbox.sh(&format!(
            "unshare --mount --map-root-user sh -c 'mount --bind {0} {0} && mount -o remount,bind,ro {0} && exec {command}'",
            store.display()
        ))
    };
    let listed = read_only("banger-vm list --json").record();
    assert_eq!(listed["name"], "v");
    read_only("banger-vm show --json v").ok();
    read_only("banger-image list --json").ok();
    read_only("banger-vm delete v")
        .exits(1)
        .says(&store.display().to_string());
    read_only("banger-vm create busybox")
        .exits(1)
        .says("error: ");
    sandbox.assert_nothing_leaked();
    assert_eq!(sandbox.vm("v")["state"], "stopped");
}

#[test]
fn a_full_disk_at_every_step() {
    let sandbox = Sandbox::prepared();
    let archive = sandbox.path("new.tar");
    banger_tests::Image::busybox()
        .unwrap()
        .write_archive(&archive, "new:1")
        .unwrap();
    // File systems of growing size, each in a mount namespace that ends with its shell.
    let mut refused = 0;
    for kilobytes in [64, 160, 256, 512, 1024, 2048, 4096, 8192, 64 << 10] {
        let script = format!(
            "mount -t tmpfs -o size={kilobytes}k,mode=700 none {place} && export BANGER_STORE={place}/store
             banger-image import --quiet {archive} > /dev/null; status=$?
             if [ $status = 0 ]; then exit 0; fi
             # What failed is said, the lists work, and what is left over is not in the way.
             banger-image list > /dev/null || exit 99
             ls -A {place}/store/staging {place}/store/images | grep -v : | grep . && exit 98
             exit $status",
            place = sandbox.path("home").display(),
            archive = archive.display(),
        );
        let file = sandbox.path("script");
        fs::write(&file, script).unwrap();
        let outcome = sandbox.sh(&format!(
            "unshare --mount --map-root-user sh {}",
            file.display()
        ));
        match outcome.status {
            0 => {}
            1 => {
                refused += 1;
                outcome.says("error: ").says("hint: ");
            }
            _ => panic!("{kilobytes} KiB: {outcome}"),
        }
    }
    assert!((2..9).contains(&refused), "{refused} sizes were too small");
}

#[test]
fn links_in_place_of_lock_files_are_refused() {
    let sandbox = Sandbox::prepared();
    let precious = sandbox.path("precious");
    fs::write(&precious, "text").unwrap();
    let lock = sandbox.store().join("locks/create");
    let _ = fs::remove_file(&lock);
    symlink(&precious, &lock).unwrap();
    let refused = sandbox.sh("banger-vm create --no-start busybox");
    refused.exits(1).says("locks/create").says("symbolic link");
    assert_eq!(fs::read_to_string(precious).unwrap(), "text");
    fs::remove_file(lock).unwrap();
    sandbox.assert_nothing_leaked();
}

#[test]
fn another_user_who_was_there_first_gets_nothing() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::prepared();
    sandbox
        .sh("banger-vm create --quiet --no-start --name v busybox")
        .ok();
    let open = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let runtime = open.path().join("r");
    // Another uid makes the directory that our sockets would be in.
    sandbox
        .sh(&format!(
            "setpriv --reuid=65534 --regid=65534 --clear-groups mkdir --mode=0777 {}",
            runtime.display()
        ))
        .ok();
    let start = sandbox.sh(&format!(
        "BANGER_RUNTIME_DIR={} banger-vm start v",
        runtime.display()
    ));
    start.exits(1).says("65534").hints("BANGER_RUNTIME_DIR");
    assert_eq!(
        fs::read_dir(&runtime).unwrap().count(),
        0,
        "nothing was bound there"
    );
    // The same with a link of theirs to a directory of ours.
    let ours = sandbox.path("ours");
    fs::create_dir(&ours).unwrap();
    let link = open.path().join("link");
    sandbox
        .sh(&format!(
            "setpriv --reuid=65534 --regid=65534 --clear-groups ln -s {} {}",
            ours.display(),
            link.display()
        ))
        .ok();
    sandbox
        .sh(&format!(
            "BANGER_RUNTIME_DIR={} banger-vm start v",
            link.display()
        ))
        .exits(1)
        .says("not safe to use");
    assert_eq!(fs::read_dir(ours).unwrap().count(), 0);
    assert_eq!(sandbox.vm("v")["state"], "stopped");
}

#[test]
fn names_and_ids_at_their_limits() {
    let sandbox = Sandbox::prepared();
    for (length, status) in [(1, 0), (63, 0), (64, 2), (65, 2)] {
        let name = "n".repeat(length);
        let made = sandbox.sh(&format!(
            "banger-vm create --quiet --no-start --name {name} busybox"
        ));
        made.exits(status);
        if status == 0 {
            assert_eq!(sandbox.vm(&name)["name"], name.as_str());
        } else {
            made.says("63");
        }
        sandbox.sh(&format!("banger-vm delete --quiet --if-exists {name}"));
    }
    // Two ids with one beginning; the rows are as a store could have them by chance.
    for name in ["one", "two"] {
        sandbox
            .sh(&format!(
                "banger-vm create --quiet --no-start --name {name} busybox"
            ))
            .ok();
        let id = sandbox.vm(name)["id"].as_str().unwrap().to_owned();
        let twin = format!("abcdef0123{}", &id[10..]);
        fs::rename(
            sandbox.store().join("vms").join(&id),
            sandbox.store().join("vms").join(&twin),
        )
        .unwrap();
        sandbox.sql(&format!("UPDATE vms SET id = '{twin}' WHERE id = '{id}'"));
    }
    let ambiguous = sandbox.sh("banger-vm show abcdef01");
    ambiguous.exits(2).hints("more characters");
    for name in ["one", "two"] {
        let id = sandbox.vm(name)["id"].as_str().unwrap().to_owned();
        ambiguous.says(&id).says(&format!("({name})"));
        assert_eq!(
            sandbox.sh(&format!("banger-vm show --json {id}")).record()["name"],
            name
        );
    }
}

#[test]
fn a_clock_that_was_set_back() {
    let sandbox = Sandbox::prepared();
    sandbox
        .sh("banger-vm create --quiet --no-start --name v busybox")
        .ok();
    sandbox
        .sh("banger-vm create --quiet --detach --no-start --name w busybox | banger-vm op wait")
        .ok();
    // As if all had been made a year from now.
    for table in ["vms", "images", "kernels", "operations"] {
        sandbox.sql(&format!(
            "UPDATE {table} SET created_ms = created_ms + 31536000000"
        ));
    }
    let table = sandbox.sh("banger-vm list --format table");
    assert!(table.ok().contains("in the future"), "{table}");
    sandbox.sh("banger-image list --format table").ok();
    sandbox.sh("banger-vm op list --format table").ok();
    sandbox.sh("banger-vm set --quiet v --cpus 2").ok();
    sandbox.sh("banger-vm delete --quiet v w").ok();
    sandbox.assert_nothing_leaked();
}

#[test]
fn a_closed_standard_input_is_no_pipe() {
    let sandbox = Sandbox::prepared();
    sandbox
        .sh("banger-vm create --quiet --no-start --name v busybox <&-")
        .ok();
    sandbox.sh("banger-vm list <&- >/dev/null").ok();
    sandbox.sh("banger-vm set --quiet v --cpus 2 <&- 2>&-").ok();
    sandbox
        .sh("banger-vm create --quiet --detach --no-start --name w busybox <&- | banger-vm op wait")
        .ok();
    sandbox
        .sh("banger-vm delete <&-")
        .exits(2)
        .hints("banger-vm list");
    sandbox.sh("banger-vm delete --quiet v w <&- >&-").ok();
    sandbox.assert_nothing_leaked();
}
