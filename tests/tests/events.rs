//! What happens to VMs is told: the journal, the console that is followed, statistics, pings, the clock.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use banger_tests::{Sandbox, eventually, skipped};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime, clock_settime};

const PATIENCE: Duration = Duration::from_secs(60);

fn the_clock_follows(sandbox: &Sandbox) {
    eventually("the clock follows", PATIENCE, || {
        let guest = sandbox.sh("banger-vm exec v -- date +%s");
        let guest: u64 = guest.ok().trim().parse().expect("date prints seconds");
        let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        (host.expect("it is after 1970").as_secs().abs_diff(guest) < 600).then_some(())
    });
}

#[test]
fn the_journal_is_kept_without_a_guest() {
    let sandbox = Sandbox::prepared();
    let following = sandbox.start("exec banger-vm events --follow v --json");
    // It follows once the journal's directory is watched, which nothing tells; so until it says something.
    sandbox
        .sh("banger-vm create --no-start --name v busybox")
        .ok();
    eventually("the follower has begun", PATIENCE, || {
        sandbox.sh("banger-vm set v --cpus 2").ok();
        sandbox.sh("banger-vm set v --cpus 1").ok();
        following.has_stdout("changed").then_some(())
    });
    sandbox.sh("banger-vm delete v").ok();
    following.wait_for_stdout("\"event\":\"deleted\"");
    following.signal(Signal::SIGTERM);
    drop(following.finish());

    let events = sandbox.sh("banger-vm events").records();
    assert_eq!(
        (&events[0]["event"], &events[0]["name"]),
        (&"created".into(), &"v".into())
    );
    assert_eq!(events[0]["detail"], "busybox:latest");
    assert_eq!(events[0]["kind"], "event");
    assert_eq!(events.last().unwrap()["event"], "deleted");
    assert_eq!(sandbox.sh("banger-vm events w").ok(), "");
    assert_eq!(
        sandbox.sh("banger-vm events v --since 1d").records().len(),
        events.len()
    );
    let table = sandbox.sh("banger-vm events --format table v");
    assert!(table.ok().starts_with("TIME "), "{table}");
    // A journal that cannot be written is no reason to fail.
    sandbox
        .sh("rm store/events.log && mkdir store/events.log && banger-vm create --no-start --name w busybox")
        .ok();
}

#[test]
fn a_life_is_told_and_measured() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    sandbox
        .sh("banger-vm create --no-start --network none --name v busybox")
        .ok();
    // Followed before the first start there is nothing to follow.
    sandbox.sh("banger-vm logs -f v").ok();
    sandbox.sh("banger-vm start v").ok();
    let logs = sandbox.start("exec banger-vm logs -f v");
    sandbox
        .sh("banger-vm exec v -- sh -c 'echo first-mark > /dev/console'")
        .ok();
    logs.wait_for_stdout("first-mark");
    // By the time at which it came.
    let stamped = sandbox.sh("banger-vm logs --timestamps --tail 1 v");
    let (time, text) = stamped.ok().split_once("Z ").expect("a time");
    assert_eq!((time.len(), text.trim()), (19, "first-mark"), "{stamped}");
    let today = sandbox.sh("date -u +%Y-%m").ok().trim().to_owned();
    assert!(time.starts_with(&today), "{stamped}");
    for (flags, expected) in [
        ("--since 1h", true),
        ("--until 1h", false),
        ("--since 0s", false),
    ] {
        let logs = sandbox.sh(&format!("banger-vm logs {flags} v"));
        assert_eq!(
            logs.ok().contains("first-mark"),
            expected,
            "{flags}: {logs}"
        );
    }

    let pings = sandbox
        .sh("banger-vm ping --count 3 --interval 0s v")
        .records();
    assert_eq!(pings.len(), 3);
    assert!(
        pings
            .iter()
            .all(|ping| ping["round_trip_us"].as_u64().unwrap() > 0)
    );
    assert_eq!(pings[2]["sequence"], 3);
    sandbox
        .sh("banger-vm ping --transfer 4M v")
        .says("MB/s to the guest")
        .ok();

    sandbox
        .sh("banger-vm exec v -- dd if=/dev/zero of=/root/x bs=1M count=20")
        .ok();
    let looks = sandbox
        .sh("banger-vm top --count 2 --interval 0s")
        .records();
    assert_eq!(looks.len(), 2, "{looks:#?}");
    let number = |name: &str| {
        looks[1][name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name}: {looks:#?}"))
    };
    assert!(number("memory_total") > 500 << 20 && number("memory_used") < number("memory_total"));
    assert!(number("disk_used") >= 20 << 20 && number("disk_size") > number("disk_used"));
    assert!(number("vmm_rss") > 10 << 20 && number("vmm_pss") > 10 << 20);
    assert!(number("vmm_cpu_ms") > 0 && number("processes") > 0 && number("cpus") == 1);
    assert!(number("block_read") > 0);
    assert_eq!(looks[0]["name"], "v");

    // A clock that was set wrong follows the host once the VM went on after a pause.
    sandbox.sh("banger-vm exec v -- date -s @1000000000").ok();
    let runtime = sandbox.vm("v")["runtime"].as_str().unwrap().to_owned();
    for request in ["pause", "resume"] {
        let mut control = UnixStream::connect(format!("{runtime}/control.sock")).unwrap();
        writeln!(control, "{{\"op\":\"{request}\"}}").unwrap();
        let mut reply = String::new();
        let mut reader = std::io::BufReader::new(control);
        std::io::BufRead::read_line(&mut reader, &mut reply).unwrap();
        assert_eq!(reply.trim(), r#"{"reply":"done"}"#);
    }
    the_clock_follows(&sandbox);
    logs.wait_for_stdout("follows the host again");

    // At the end of a sleep the kernel says that the host's clock was set (timerfd_create(2)), as it does now.
    if !skipped("root") {
        sandbox.sh("banger-vm exec v -- date -s @1000000000").ok();
        let realtime = ClockId::CLOCK_REALTIME;
        clock_settime(realtime, clock_gettime(realtime).unwrap()).unwrap();
        the_clock_follows(&sandbox);
    }

    // The kernel has entropy from the beginning: getrandom(2) does not wait, and the pool is seeded.
    let pool = sandbox.sh("banger-vm exec v -- cat /proc/sys/kernel/random/entropy_avail");
    assert!(pool.ok().trim().parse::<u32>().unwrap() >= 256, "{pool}");

    sandbox
        .sh("banger-vm exec v -- sh -c 'echo last-mark > /dev/console'")
        .ok();
    logs.wait_for_stdout("last-mark");
    sandbox.sh("banger-vm stop v").ok();
    // The follower ends with the VM, and has missed nothing.
    let followed = logs.finish();
    followed.exits(0);
    let all = sandbox.sh("banger-vm logs v");
    assert_eq!(followed.ok(), all.ok());
    let last = sandbox.sh("banger-vm logs -f --tail 1 v");
    assert!(
        all.stdout.ends_with(&last.stdout) && last.stdout.lines().count() == 1,
        "{last}"
    );

    let events: Vec<String> = sandbox
        .sh("banger-vm events v")
        .records()
        .iter()
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(events, ["created", "started", "ready", "stopped"]);
    assert_eq!(sandbox.vm("v")["exit"], "stopped");
    sandbox
        .sh("banger-vm ping v")
        .exits(1)
        .hints("banger-vm start v");
    sandbox.sh("banger-vm stats v").ok();
}
