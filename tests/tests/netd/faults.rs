//! Each step of each verb fails once, and what the kernel has is what it had.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use banger_tests::{Netd, Netns, Sandbox, eventually};
use lib_net::{Client, GroupName, PrivilegedOps, Request, Reservation};

use super::life::PATIENCE;
use super::{name, sandbox, store, vm};

fn child(sandbox: &Sandbox, netns: &Netns, points: &str) -> Client {
    let mut command = Netd::child(sandbox, netns, "netd");
    command.env(banger_failpoint::VARIABLE, points);
    Client::child(command).expect("it serves, whatever fails")
}

/// What can be seen from outside: the kernel's state, and the reservations.
fn seen(sandbox: &Sandbox, netns: &Netns) -> (String, Vec<Reservation>) {
    let list = child(sandbox, netns, "").list().expect("nothing fails");
    (netns.state(sandbox), list)
}

/// Every point that a child passes while it does `request`, each time that it passes it.
fn passed(
    sandbox: &Sandbox,
    netns: &Netns,
    request: &Request,
) -> (Vec<(String, u32)>, Option<OwnedFd>) {
    let log = sandbox.path("points");
    // Missing before the first request.
    let _ = std::fs::remove_file(&log);
    let mut client = child(sandbox, netns, &format!("record={}", log.display()));
    let (_, descriptor) = client.call(request).expect("nothing fails");
    drop(client);
    let mut counts = HashMap::new();
    let text = std::fs::read_to_string(log).expect("points are recorded");
    let points = text.lines().map(|line| {
        let point = line
            .rsplit(' ')
            .next()
            .expect("a line has a point")
            .to_owned();
        let count = counts.entry(point.clone()).or_insert(0);
        *count += 1;
        (point, *count)
    });
    (points.collect(), descriptor)
}

#[test]
fn what_fails_is_undone() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let group = GroupName::try_from("web").ok();
    let reserve = Request::Reserve {
        vm: vm(1),
        name: name(1),
        store: store(),
    };
    let out = |enabled| Request::Nat { vm: vm(1), enabled };
    let joined = |group| Request::Group { vm: vm(1), group };
    let release = Request::Release { vm: vm(1) };
    let (up, down) = (Request::Up {}, Request::Down {});
    let attach = Request::Attach { vm: vm(1) };
    // Each with what takes it back.
    let verbs: Vec<(&Request, Vec<Request>, usize)> = vec![
        (&reserve, vec![release.clone()], 3),
        // Makes the bridge as well.
        (
            &attach,
            vec![down.clone(), release.clone(), reserve.clone()],
            10,
        ),
        (&up, vec![down.clone()], 6),
    ];
    let later: Vec<(Request, Vec<Request>, usize)> = vec![
        (out(true), vec![out(false), down.clone(), up.clone()], 2),
        (joined(group.clone()), vec![joined(None)], 2),
        (attach.clone(), vec![release.clone(), reserve.clone()], 4),
        (release.clone(), vec![reserve.clone()], 1),
        (down.clone(), vec![up.clone()], 2),
    ];
    let mut failures = 0;
    let all = verbs
        .into_iter()
        .map(|(verb, back, least)| (verb.clone(), back, least));
    for (verb, back, least) in all.chain(later) {
        failures += fails_once(&sandbox, &netns, &verb, &back, least);
        if verb != attach {
            child(&sandbox, &netns, "")
                .call(&verb)
                .expect("nothing fails");
        }
    }
    println!("{failures} steps failed and were undone");
}

#[test]
fn what_cannot_be_taken_away_stays() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let reserve = |number| Request::Reserve {
        vm: vm(number),
        name: name(number),
        store: store(),
    };
    let mut ops = child(&sandbox, &netns, "");
    for request in [Request::Up {}, reserve(1), reserve(2)] {
        ops.call(&request).unwrap();
    }
    drop(ops);
    let gc = Request::Gc {
        store: store(),
        keep: vec![vm(1)],
        min_age_s: 0,
    };
    fails_once(&sandbox, &netns, &gc, &[reserve(2)], 2);
    // An interface that somebody has open is there until it is taken away.
    let detach = Request::Detach { vm: vm(1) };
    let attach = || child(&sandbox, &netns, "").attach(vm(1)).unwrap().1;
    let tap = attach();
    let (points, _) = passed(&sandbox, &netns, &detach);
    drop(tap);
    let mut failed = 0;
    for (point, count) in points {
        let _tap = attach();
        let before = seen(&sandbox, &netns);
        let result = child(&sandbox, &netns, &format!("{point}#{count}=error")).call(&detach);
        if result.is_err() {
            assert_eq!(
                seen(&sandbox, &netns),
                before,
                "{point} for the {count}. time"
            );
            failed += 1;
        }
    }
    assert!(failed > 0);
}

fn go_back(sandbox: &Sandbox, netns: &Netns, back: &[Request], tap: Option<OwnedFd>) {
    drop(tap);
    let mut client = child(sandbox, netns, "");
    eventually("the interface goes with its descriptor", PATIENCE, || {
        (client.status().ok()?.attached == 0).then_some(())
    });
    for request in back {
        client.call(request).expect("nothing fails");
    }
}

fn fails_once(
    sandbox: &Sandbox,
    netns: &Netns,
    verb: &Request,
    back: &[Request],
    least: usize,
) -> usize {
    let (points, tap) = passed(sandbox, netns, verb);
    go_back(sandbox, netns, back, tap);
    let mut failed = Vec::new();
    for (point, count) in &points {
        let before = seen(sandbox, netns);
        let mut client = child(sandbox, netns, &format!("{point}#{count}=error"));
        let result = client.call(verb);
        drop(client);
        match result {
            // It failed before the verb, or there is another way.
            Ok((_, tap)) => go_back(sandbox, netns, back, tap),
            Err(error) => {
                assert!(error.code().is_some(), "{error}");
                let after = seen(sandbox, netns);
                assert_eq!(
                    after,
                    before,
                    "{}: {point} for the {count}. time",
                    verb.verb()
                );
                failed.push(format!("{point}#{count}"));
            }
        }
    }
    assert!(
        failed.len() >= least,
        "{}: only {failed:?} of {points:?}",
        verb.verb()
    );
    failed.len()
}
