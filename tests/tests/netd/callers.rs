//! Other users: what they may, and what not. A copy of this test program is the other user's side.

use std::fs::{self, Permissions};
use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use banger_proto::{Answer, Code, GroupName, Request};
use banger_tests::{Netd, Netns, Sandbox};
use lib_net::{Client, NetError, PrivilegedOps, RouteChange};
use tempfile::TempDir;

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

    /// Sends requests as another user, all on one connection; nothing when the connection is refused.
    fn ask(&self, sandbox: &Sandbox, uid: u32, groups: &str, requests: &[Request]) -> Vec<Answer> {
        let lines: Vec<_> = requests
            .iter()
            .map(|request| serde_json::to_string(request).expect("it is JSON"))
            .collect();
        let line = format!(
            "{SOCKET}={} setpriv --reuid={uid} --regid={uid} {groups} {} \
             --ignored --exact --nocapture netd::callers::the_other_side",
            self.socket().display(),
            self.0.path().join("user").display()
        );
        let outcome = sandbox.feed(&line, (lines.join("\n") + "\n").as_bytes());
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
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line.unwrap()).unwrap();
        let answer: Answer = match client.call(&request) {
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
    let missing = Some(Code::NotFound);
    assert_eq!(
        codes[..5],
        [Some(Code::Denied), missing, missing, missing, missing]
    );
    // Releasing what one does not have is no error, and changes nothing.
    assert!(
        tried[5..]
            .iter()
            .all(|answer| answer.as_ref().is_ok_and(|r| !r.changed)),
        "{tried:?}"
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

#[test]
fn a_user_has_so_many_connections() {
    let Some(sandbox) = sandbox() else { return };
    let (netns, common) = (Netns::new(&sandbox), Common::new());
    let _netd = start(&sandbox, &netns, &common, "--max-connections 0");
    let refused = common.ask(&sandbox, 4001, "--groups=4050", &[Request::Status {}]);
    assert_eq!(
        (refused.len(), code(&refused[0])),
        (1, Some(Code::Exhausted))
    );
}
