//! The route of names: with a stand-in for resolvectl(1), so that each step can fail. That the real
//! systemd-resolved takes it is proven in a guest (`tests/resolved.rs`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use banger_tests::{Netd, Netns, Sandbox};
use lib_net::{Client, Code, PrivilegedOps, RouteChange};

use super::sandbox;

/// Remembers what it is told about a link for as long as that is there.
const STAND_IN: &str = r#"#!/bin/sh
here=${0%/*}
[ "$(env | grep -c ^HOME=)" = 0 ] || { echo "the environment is not empty" >&2; exit 1; }
number=$(ip -o link show "$2" | cut -d: -f1)
[ -n "$number" ] || exit 1
if [ $# = 2 ]; then
    cat "$here/told-$1-$number" 2> /dev/null
    exit 0
fi
what=$1
link=$2
shift 2
echo "Link ($link): $*" > "$here/told-$what-$number"
"#;

/// Its path.
pub(crate) fn stand_in(sandbox: &Sandbox) -> PathBuf {
    let program = sandbox.path("resolvectl");
    fs::write(&program, STAND_IN).expect("the sandbox can be written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    program
}

fn child(sandbox: &Sandbox, netns: &Netns, points: &str) -> Client {
    let mut command = Netd::child(sandbox, netns, "netd");
    command.arg("--resolvectl").arg(stand_in(sandbox));
    command.env(banger_failpoint::VARIABLE, points);
    Client::child(command).expect("it serves, whatever fails")
}

#[test]
fn each_step_fails_once_and_nothing_is_left() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let before = netns.state(&sandbox);
    for point in [
        "netd.route.add#1",
        "netd.route.alias#1",
        "netd.link.ipv6#1",
        "netd.route.address#1",
        "netd.route.up#1",
        "netd.resolved.server#1",
        "netd.resolved.zones#1",
        "netd.resolved.setting#1",
        "netd.resolved.setting#5",
    ] {
        let error = child(&sandbox, &netns, &format!("{point}=error"))
            .route(RouteChange::Up)
            .expect_err("the step fails");
        assert_eq!(error.code(), Some(Code::Failed), "{point}: {error}");
        assert_eq!(netns.state(&sandbox), before, "{point}");
    }
    let (changed, status) = child(&sandbox, &netns, "").route(RouteChange::Up).unwrap();
    assert!(changed && status.up, "{status:?}");
    assert_eq!(status.zones, ["vm", "83.10.in-addr.arpa"]);
    let link = netns.run(&sandbox, "ip -j -d address show dev banger-dns");
    let link = &serde_json::from_str::<serde_json::Value>(link.ok()).unwrap()[0];
    assert!(
        link["flags"]
            .as_array()
            .unwrap()
            .contains(&"LOWER_UP".into()),
        "{link}"
    );
    let shown = netns.run(&sandbox, "ip link show dev banger-dns");
    assert!(shown.ok().contains("alias banger-netd route"), "{shown}");
    let addresses = link["addr_info"].as_array().unwrap();
    assert_eq!(
        (addresses.len(), &addresses[0]["local"]),
        (1, &"192.0.0.8".into()),
        "{link}"
    );
    // The host's resolver was told all of it, by a link that is not asked for anything else.
    let told = |what: &str| {
        let file = sandbox.path(&format!("told-{what}-{}", link["ifindex"]));
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    assert_eq!(told("dns"), "Link (banger-dns): 127.83.0.53\n");
    assert_eq!(
        told("domain"),
        "Link (banger-dns): ~vm ~83.10.in-addr.arpa\n"
    );
    for setting in ["default-route", "dnssec", "dnsovertls", "llmnr", "mdns"] {
        assert_eq!(told(setting), "Link (banger-dns): no\n", "{setting}");
    }
    let up = netns.state(&sandbox);
    let down = child(&sandbox, &netns, "netd.link.delete#1=error").route(RouteChange::Down);
    assert_eq!(down.expect_err("the step fails").code(), Some(Code::Failed));
    assert_eq!(netns.state(&sandbox), up);
    assert!(
        child(&sandbox, &netns, "")
            .route(RouteChange::Down)
            .unwrap()
            .0
    );
    assert_eq!(netns.state(&sandbox), before);
}

#[test]
fn a_link_of_that_name_that_is_not_ours_is_left() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    netns
        .run(
            &sandbox,
            "ip link add banger-dns type veth peer name other0",
        )
        .ok();
    let before = netns.state(&sandbox);
    for change in [RouteChange::Up, RouteChange::Down, RouteChange::Look] {
        let refused = child(&sandbox, &netns, "")
            .route(change)
            .expect_err("it is not ours");
        assert_eq!(refused.code(), Some(Code::NotOurs), "{refused}");
    }
    assert_eq!(netns.state(&sandbox), before);
}
