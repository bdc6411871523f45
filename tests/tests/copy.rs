//! Files between the host and real guests.

use std::fs;
use std::os::unix::fs::MetadataExt;

use banger_tests::{Sandbox, skipped};
use nix::sys::signal::Signal;

#[test]
fn files_go_in_and_come_back() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --network none --name v busybox")
        .ok();
    sandbox
        .sh(
            "mkdir -p src/d && cd src && echo text > d/file && chmod 640 d/file && touch -d @1000000007 d/file &&
             ln -s /etc/passwd link && ln d/file hard && mkfifo pipe && printf 'o' > \"$(printf 'odd\\377\\n')\" &&
             truncate -s 200M sparse && printf end >> sparse && head -c 3000000 /dev/urandom > big",
        )
        .ok();
    let copied = sandbox.sh("banger-vm cp src v:/root").record();
    assert_eq!(
        (&copied["kind"], &copied["left_out"]),
        (&"copy".into(), &0.into())
    );
    assert!(
        copied["bytes"].as_u64().unwrap() < 4_000_000,
        "holes were sent: {copied}"
    );
    let inside = sandbox.sh(
        "banger-vm exec v -- sh -c 'cd /root/src; stat -c \"%a %Y %h\" d/file; readlink link; \
         test d/file -ef hard && test -p pipe && echo both; du -k sparse | cut -f1; stat -c %s sparse'",
    );
    let lines: Vec<&str> = inside.ok().lines().collect();
    assert_eq!(
        lines[..4],
        ["640 1000000007 2", "/etc/passwd", "both", "4"],
        "{inside}"
    );
    assert_eq!(lines[4], "209715203");

    sandbox.sh("banger-vm cp v:/root/src back").ok();
    sandbox
        .sh("diff -r --no-dereference -x pipe src back && test -p back/pipe && test back/hard -ef back/d/file")
        .ok();
    let file = sandbox.sh("stat -c '%a %Y %h' back/d/file");
    assert_eq!(file.ok(), "640 1000000007 2\n");
    let sparse = fs::metadata(sandbox.path("back/sparse")).unwrap();
    assert!(
        sparse.blocks() * 512 < 1 << 20,
        "{} blocks",
        sparse.blocks()
    );

    // Past the guest's page cache, and a rest that fills no block.
    sandbox
        .sh("head -c 20000003 /dev/urandom > large && banger-vm cp large v:/root/large && banger-vm cp v:/root/large large.back && cmp large large.back")
        .ok();

    // Archives, contents of a directory, several sources, other users.
    sandbox
        .sh("banger-vm cp v:/root/src/. - | tar tv > list && grep -q 'link to [.]/' list")
        .ok();
    sandbox
        .sh("mkdir t && banger-vm cp v:/root/src/d - | tar x -C t && diff -r t/d src/d")
        .ok();
    sandbox
        .sh("tar c -C src d link hard | banger-vm cp - v:/tmp && banger-vm exec v -- test /tmp/hard -ef /tmp/d/file")
        .ok();
    sandbox
        .sh("banger-vm cp src/d src/link v:/tmp/new")
        .exits(1)
        .says("/tmp/new");
    sandbox.sh("banger-vm cp src/d/. src/big v:/tmp").ok();
    sandbox
        .sh("banger-vm exec v -- test -e /tmp/file -a -e /tmp/big")
        .ok();
    sandbox
        .sh("banger-vm cp --user guest src/big v:/root/x")
        .exits(1)
        .says("Permission denied");
    sandbox
        .sh("banger-vm cp --user guest src/big v:/tmp/theirs")
        .ok();
    let owner = sandbox.sh("banger-vm exec v -- stat -c %u /tmp/theirs /tmp/big");
    assert_eq!(owner.ok(), "1000\n0\n");
    sandbox
        .sh("banger-vm cp --user guest v:/root/src/big x")
        .exits(1)
        .says("Permission denied");

    // What cannot be copied is said.
    sandbox
        .sh("banger-vm cp v:/no/such x")
        .exits(1)
        .says("/no/such");
    sandbox
        .sh("banger-vm cp v:/dev/null x")
        .exits(1)
        .says("devices");
    sandbox
        .sh("banger-vm cp v:/etc/hostname no/such/x")
        .exits(1)
        .says("no/such");
    sandbox
        .sh("banger-vm cp --max-size 1M v:/root/src/big x")
        .exits(1)
        .says("refused: more than")
        .hints("--max-size");
    assert!(!sandbox.path("x").exists());
    sandbox
        .sh("banger-vm cp a b")
        .exits(2)
        .hints("banger-vm cp");
    sandbox.sh("banger-vm cp w:/x y").exits(3);
    for point in ["copy.create#1", "copy.rename#1"] {
        sandbox
            .sh(&format!(
                "mkdir -p fail && BANGER_FAILPOINTS='{point}=error' banger-vm cp v:/root/src/big fail"
            ))
            .exits(1)
            .says("big");
        assert_eq!(
            fs::read_dir(sandbox.path("fail")).unwrap().count(),
            0,
            "{point}"
        );
    }
    let devices = sandbox.sh("banger-vm cp v:/dev devices");
    devices
        .exits(1)
        .says("devices are not copied")
        .says("entries were not copied");
    sandbox.sh("banger-vm stop v").ok();
    sandbox
        .sh("banger-vm cp src v:/root")
        .exits(1)
        .hints("banger-vm start v");
}

#[test]
fn nothing_is_half_made_when_a_copy_ends_early() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --network none --name v busybox")
        .ok();
    commands_go_on_beside_a_copy(&sandbox);
    sandbox.sh("banger-vm exec v -- mkdir /tmp/partial").ok();
    // The archive does not end, so the copy is under way whenever the signal comes.
    let mut feed = sandbox.start("exec banger-vm cp - v:/tmp/partial");
    let mut header = tar::Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size(50_000_000);
    header.set_mode(0o644);
    header.set_cksum();
    feed.write(header.as_bytes());
    feed.write(&[b'x'; 4_000_000]);
    banger_tests::eventually(
        "the guest has some of it",
        std::time::Duration::from_secs(60),
        || {
            let list = sandbox.sh("banger-vm exec v -- ls -A /tmp/partial");
            list.ok().contains(".banger-").then_some(())
        },
    );
    feed.signal(Signal::SIGINT);
    feed.wait_for_stderr("interrupted");
    feed.finish().exits(130);
    banger_tests::eventually(
        "the guest has removed it",
        std::time::Duration::from_secs(60),
        || {
            let list = sandbox.sh("banger-vm exec v -- ls -A /tmp/partial");
            list.ok().is_empty().then_some(())
        },
    );
}

/// A command waits for some of a copy's frames, and not for its end: how much of the file is there says how many went
/// by from one command to the next.
fn commands_go_on_beside_a_copy(sandbox: &Sandbox) {
    const FRAME: u64 = 32 << 10;
    const FRAMES: u64 = 300_000_000 / FRAME;
    sandbox.sh("head -c 300000000 /dev/urandom > bulk").ok();
    let copying = sandbox.start("exec banger-vm cp --quiet bulk v:/root/bulk");
    let arrived = || {
        let size = sandbox.sh("banger-vm exec v -- sh -c 'stat -c %s /root/.banger-*'");
        let bytes: u64 = size.stdout.trim().parse().ok()?;
        (bytes > 0).then_some(bytes / FRAME)
    };
    let patience = std::time::Duration::from_secs(60);
    let first = banger_tests::eventually("some of it is there", patience, arrived);
    let second = arrived().expect("a command was quicker than the copy");
    let waited = second - first;
    assert!(
        waited <= FRAMES / 2 && second < FRAMES,
        "{waited} of {FRAMES} frames went by"
    );
    copying.finish().exits(0);
    sandbox
        .sh("banger-vm cp --quiet v:/root/bulk back.bulk && cmp bulk back.bulk && rm bulk back.bulk")
        .ok();
}
