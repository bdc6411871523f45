//! Other users: what they may, and what not. A copy of this test program is the other user's side.

use std::fs::{self, Permissions};
use std::io::BufRead;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use banger_proto::{Answer, Code, GroupName, Reply, Request};
use banger_tests::{Netd, Netns, Outcome, Sandbox, eventually};
use lib_net::{
    Acceleration, Client, KernelArguments, Machine, NetError, PrivilegedOps, RouteChange, Signal,
};
use tempfile::TempDir;

use super::life::PATIENCE;
use super::route::stand_in;
use super::{connect, name, reserve, sandbox, store, vm};

const SOCKET: &str = "BANGER_TEST_OTHER_USER";
const ANSWER: &str = "ANSWER ";

/// A place that other users can reach, with the socket and the program.
struct Common(TempDir);

impl Common {
    fn new() -> Common {
        let base = tempfile::Builder::new()
            .prefix("b-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .expect("/tmp can be written");
        let own = std::env::current_exe().expect("a process has an executable");
        fs::copy(own, base.path().join("user")).expect("there is space");
        Common(base)
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("s")
    }

    /// Runs a test of this file as another user.
    fn be(&self, sandbox: &Sandbox, uid: u32, groups: &str, test: &str, input: &str) -> Outcome {
        let line = format!(
            "{SOCKET}={} setpriv --reuid={uid} --regid={uid} {groups} {} \
             --ignored --exact --nocapture netd::callers::{test}",
            self.socket().display(),
            self.0.path().join("user").display()
        );
        sandbox.feed(&line, input.as_bytes())
    }

    /// Sends requests as another user, all on one connection; nothing when the connection is refused.
    fn ask(&self, sandbox: &Sandbox, uid: u32, groups: &str, requests: &[Request]) -> Vec<Answer> {
        let lines: Vec<_> = requests
            .iter()
            .map(|request| serde_json::to_string(request).expect("it is JSON"))
            .collect();
        let input = lines.join("\n") + "\n";
        let outcome = self.be(sandbox, uid, groups, "the_other_side", &input);
        let answers = outcome.ok().lines().filter_map(|line| {
            // libtest writes the test's name without an end of line.
            let at = line.find(ANSWER)? + ANSWER.len();
            Some(serde_json::from_str(&line[at..]).expect("it is JSON"))
        });
        answers.collect()
    }
}

#[test]
#[ignore = "the other side of the tests in this file, which they start"]
fn the_other_side() {
    let socket = PathBuf::from(std::env::var_os(SOCKET).expect("a test starts this"));
    let mut client = match Client::connect(&socket) {
        Ok(client) => client,
        Err(NetError::Refused(refusal)) => {
            let answer: Answer = Err(refusal);
            println!("{ANSWER}{}", serde_json::to_string(&answer).unwrap());
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let null = fs::File::open("/dev/null").unwrap();
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line.unwrap()).unwrap();
        let descriptors = vec![null.as_fd(); request.descriptors()];
        let answer: Answer = match client.call_with(&request, &descriptors) {
            Ok((response, _)) => Ok(response),
            Err(NetError::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error}"),
        };
        println!("{ANSWER}{}", serde_json::to_string(&answer).unwrap());
    }
}

fn start(sandbox: &Sandbox, netns: &Netns, common: &Common, arguments: &str) -> Netd {
    let arguments = format!("--socket-group 4050 --allow-group 4050 {arguments}");
    Netd::start_at(sandbox, netns, &common.socket(), "", &arguments)
}

fn reserving(number: u32) -> Request {
    Request::Reserve {
        vm: vm(number),
        name: name(number),
        store: store(),
    }
}

fn machine() -> Machine {
    Machine {
        acceleration: Acceleration::Emulation,
        cpus: 1,
        memory_mib: 64,
        kernel_arguments: KernelArguments::try_from("quiet").expect("it is text"),
        network: false,
        disks: Vec::new(),
    }
}

fn code(answer: &Answer) -> Option<Code> {
    answer.as_ref().err().map(|refusal| refusal.code)
}

#[test]
fn only_who_is_named_gets_in() {
    let Some(sandbox) = sandbox() else { return };
    let (netns, common) = (Netns::new(&sandbox), Common::new());
    let netd = start(&sandbox, &netns, &common, "--allow-uid 4001");
    let ask = |uid, groups: &str| common.ask(&sandbox, uid, groups, &[Request::Status {}]);
    assert!(
        ask(4002, "--groups=4050")[0].is_ok(),
        "a member of the group"
    );
    // The socket itself keeps strangers out; with its mode open, the daemon does.
    fs::set_permissions(common.socket(), Permissions::from_mode(0o666)).unwrap();
    assert!(
        ask(4001, "--clear-groups")[0].is_ok(),
        "a uid that is named"
    );
    for (uid, groups) in [
        (4002, "--clear-groups"),
        (4002, "--groups=4051,27"),
        (65534, "--clear-groups"),
    ] {
        let refused = ask(uid, groups);
        assert_eq!(
            (refused.len(), code(&refused[0])),
            (1, Some(Code::Denied)),
            "{uid} {groups}"
        );
    }
    netd.running()
        .wait_for_stderr("\"audit\":\"connection\",\"uid\":65534");
}

#[test]
fn one_users_objects_are_not_anothers() {
    let Some(sandbox) = sandbox() else { return };
    let (netns, common) = (Netns::new(&sandbox), Common::new());
    let netd = start(&sandbox, &netns, &common, "--max-reservations 3");
    let ask = |uid, requests: &[Request]| common.ask(&sandbox, uid, "--groups=4050", requests);
    let web = || Some(GroupName::try_from("web").unwrap());
    let group = |number| Request::Group {
        vm: vm(number),
        group: web(),
    };
    let mine = ask(4001, &[reserving(1), group(1)]);
    assert!(mine.iter().all(Result::is_ok), "{mine:?}");
    let before = connect(&netd).list().unwrap();

    let tried = ask(
        4002,
        &[
            reserving(1),
            Request::Attach { vm: vm(1) },
            Request::Detach { vm: vm(1) },
            Request::Nat {
                vm: vm(1),
                enabled: true,
            },
            Request::Group {
                vm: vm(1),
                group: None,
            },
            Request::Release { vm: vm(1) },
            Request::Gc {
                store: store(),
                keep: vec![],
                min_age_s: 0,
            },
            Request::List {},
        ],
    );
    let codes: Vec<_> = tried.iter().map(code).collect();
    assert_eq!(codes[0], Some(Code::Denied));
    assert_eq!(codes[1..5], [Some(Code::NotFound); 4]);
    // Releasing what one does not have is no error, and changes nothing.
    assert!(
        tried[5..]
            .iter()
            .all(|answer| answer.as_ref().is_ok_and(|r| !r.changed)),
        "{tried:?}"
    );
    let listed = &tried[7].as_ref().unwrap().reply;
    assert_eq!(
        listed,
        &Reply::Reservations(Vec::new()),
        "to it there is none"
    );
    assert_eq!(connect(&netd).list().unwrap(), before);

    // A group of the same name is another group, and each user has a share.
    let theirs = ask(
        4002,
        &[
            reserving(2),
            group(2),
            reserving(3),
            reserving(4),
            reserving(5),
        ],
    );
    let codes: Vec<_> = theirs.iter().map(code).collect();
    assert_eq!(codes, [None, None, None, None, Some(Code::Exhausted)]);
    let mut ops = connect(&netd);
    let (_, _one) = ops.attach(vm(1)).unwrap();
    let (_, _two) = ops.attach(vm(2)).unwrap();
    let map = netns.run(&sandbox, "nft -j list map bridge banger group");
    let map: serde_json::Value = serde_json::from_str(map.ok()).unwrap();
    let marks = map["nftables"][1]["map"]["elem"].as_array().unwrap();
    assert_eq!(marks.len(), 2, "{map}");
    assert_ne!(marks[0][1], marks[1][1], "{map}");
    // Root is nobody's guest.
    reserve(&mut ops, 9);
    assert!(ops.list().unwrap().len() == 5 && ops.release(vm(1)).unwrap().0);
    netd.running()
        .wait_for_stderr("\"audit\":\"reserve\",\"uid\":4002");
    // What only some daemons offer is no way to them either.
    netd.kill();
    let offers = "--offer disks --offer jails";
    let netd = start(&sandbox, &netns, &common, offers);
    let missing = ask(
        4001,
        &[
            Request::Loop {
                vm: vm(2),
                read_only: true,
            },
            Request::Snapshot {
                vm: vm(2),
                size: 4096,
            },
            Request::Unmap { vm: vm(2) },
            Request::Launch {
                vm: vm(2),
                machine: machine(),
            },
            Request::Signal {
                vm: vm(2),
                signal: Some(Signal::Kill),
            },
        ],
    );
    let codes: Vec<_> = missing.iter().map(code).collect();
    assert_eq!(codes, [Some(Code::NotFound); 5]);
    // It is there for who made it.
    assert!(ask(4002, &[Request::Unmap { vm: vm(2) }])[0].is_ok());
    drop(netd);
}

#[test]
fn the_network_goes_for_root_and_for_who_made_it() {
    let Some(sandbox) = sandbox() else { return };
    let (netns, common) = (Netns::new(&sandbox), Common::new());
    let netd = start(&sandbox, &netns, &common, "");
    let ask = |uid, request| {
        common
            .ask(&sandbox, uid, "--groups=4050", &[request])
            .remove(0)
    };
    // Nothing there is no error for anybody.
    assert!(ask(4001, Request::Down {}).is_ok_and(|r| !r.changed));
    assert!(ask(4001, Request::Up {}).is_ok_and(|r| r.changed));
    let before = netns.state(&sandbox);
    assert_eq!(code(&ask(4002, Request::Down {})), Some(Code::Denied));
    assert_eq!(
        code(&ask(4001, Request::Admit { enabled: true })),
        Some(Code::Denied)
    );
    netd.kill();
    let netd = start(&sandbox, &netns, &common, "");
    assert_eq!(code(&ask(4002, Request::Down {})), Some(Code::Denied));
    assert_eq!(netns.state(&sandbox), before);
    assert!(
        ask(4001, Request::Down {}).is_ok_and(|r| r.changed),
        "it remembers"
    );
    assert!(ask(4001, Request::Up {}).is_ok());
    assert!(connect(&netd).down().unwrap().0);
}

#[test]
fn the_route_goes_for_root_and_for_who_made_it() {
    let Some(sandbox) = sandbox() else { return };
    let (netns, common) = (Netns::new(&sandbox), Common::new());
    let arguments = format!("--resolvectl {}", stand_in(&sandbox).display());
    let netd = start(&sandbox, &netns, &common, &arguments);
    let ask = |uid, change| {
        let request = Request::Route { change };
        common
            .ask(&sandbox, uid, "--groups=4050", &[request])
            .remove(0)
    };
    assert!(ask(4001, RouteChange::Down).is_ok_and(|r| !r.changed));
    assert!(ask(4001, RouteChange::Up).is_ok_and(|r| r.changed));
    let before = netns.state(&sandbox);
    assert_eq!(code(&ask(4002, RouteChange::Down)), Some(Code::Denied));
    assert!(ask(4002, RouteChange::Up).is_ok_and(|r| !r.changed));
    netd.kill();
    let netd = start(&sandbox, &netns, &common, &arguments);
    assert_eq!(code(&ask(4002, RouteChange::Down)), Some(Code::Denied));
    assert_eq!(netns.state(&sandbox), before);
    assert!(
        ask(4001, RouteChange::Down).is_ok_and(|r| r.changed),
        "it remembers"
    );
    assert!(ask(4002, RouteChange::Up).is_ok_and(|r| r.changed));
    assert_eq!(code(&ask(4001, RouteChange::Down)), Some(Code::Denied));
    assert!(connect(&netd).route(RouteChange::Down).unwrap().0);
}

const CONNECTIONS: usize = 3;

#[test]
fn a_user_has_so_many_connections() {
    let Some(sandbox) = sandbox() else { return };
    let (netns, common) = (Netns::new(&sandbox), Common::new());
    let limit = format!("--max-connections {CONNECTIONS}");
    let netd = start(&sandbox, &netns, &common, &limit);
    // Those of another user, and root's, are none of its.
    let mut others: Vec<_> = (0..=CONNECTIONS).map(|_| connect(&netd)).collect();
    let test = "connects_as_often_as_it_may";
    let said = common.be(&sandbox, 4001, "--groups=4050", test, "");
    assert!(said.ok().contains("1 passed"), "{said}");
    let asked = common.ask(&sandbox, 4002, "--groups=4050", &[Request::Status {}]);
    assert!(asked[0].is_ok(), "{asked:?}");
    others.iter_mut().for_each(|ops| {
        ops.status().unwrap();
    });
}

#[test]
#[ignore = "the other side of the test above"]
fn connects_as_often_as_it_may() {
    let socket = PathBuf::from(std::env::var_os(SOCKET).expect("a test starts this"));
    let mut open: Vec<_> = (0..CONNECTIONS)
        .map(|_| Client::connect(&socket).unwrap())
        .collect();
    let refused = Client::connect(&socket).unwrap_err();
    assert_eq!(refused.code(), Some(Code::Exhausted), "{refused}");
    assert!(refused.to_string().contains("3 connections"), "{refused}");
    for client in &mut open {
        client.status().unwrap();
    }
    // One that ends makes place for one.
    open.pop();
    open.push(eventually("there is a place", PATIENCE, || {
        Client::connect(&socket).ok()
    }));
    assert!(Client::connect(&socket).is_err());
}

#[test]
fn each_request_is_a_line_of_the_audit() {
    let Some(sandbox) = sandbox() else { return };
    let (netns, common) = (Netns::new(&sandbox), Common::new());
    let netd = start(&sandbox, &netns, &common, "");
    let nat = |number| Request::Nat {
        vm: vm(number),
        enabled: true,
    };
    let requests = [
        Request::Status {},
        reserving(1),
        reserving(1),
        nat(1),
        nat(2),
        Request::Admit { enabled: true },
        Request::Release { vm: vm(1) },
        Request::List {},
    ];
    let answers = common.ask(&sandbox, 4001, "--groups=4050", &requests);
    assert_eq!(answers.len(), requests.len());
    netd.running().wait_for_stderr("\"audit\":\"list\"");
    netd.running().signal(nix::sys::signal::Signal::SIGTERM);
    let said = netd.finish().stderr;
    let lines: Vec<serde_json::Value> = said
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    let (one, two) = (vm(1).to_string(), vm(2).to_string());
    let expected = [
        ("status", None, "same"),
        ("reserve", Some(&one), "changed"),
        ("reserve", Some(&one), "same"),
        ("nat", Some(&one), "changed"),
        ("nat", Some(&two), "not-found"),
        ("admit", None, "denied"),
        ("release", Some(&one), "changed"),
        ("list", None, "same"),
    ];
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, (verb, object, result)) in lines.iter().zip(expected) {
        assert_eq!(
            (&line["audit"], &line["result"]),
            (&verb.into(), &result.into()),
            "{said}"
        );
        assert_eq!(
            line["object"].as_str(),
            object.map(String::as_str),
            "{said}"
        );
        assert!(
            line["uid"] == 4001 && line["pid"].as_u64() > Some(1),
            "{said}"
        );
        assert!(line["microseconds"].is_u64(), "{said}");
        let refused = !["changed", "same"].contains(&result);
        assert_eq!(line["message"].is_string(), refused, "{said}");
    }
}
