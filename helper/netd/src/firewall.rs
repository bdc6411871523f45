//! Another program's firewall, by iptables(8), which whoever makes one that way has installed.
//!
//! Docker sets the policy of FORWARD to DROP, and says that rules of others belong into its chain DOCKER-USER. A
//! packet passes only when all firewalls let it, so ours cannot make an exception for itself. The bridge's own
//! rules come besides: what these let through is what `rules` lets through.

use std::io;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use banger_proto::InterfaceName;

use crate::programs::{self, Output};

const PLACES: [&str; 3] = [
    "/usr/sbin/iptables",
    "/sbin/iptables",
    "/run/current-system/sw/bin/iptables",
];

/// Where rules may be; the first that is there gets them.
const CHAINS: [&str; 2] = ["DOCKER-USER", "FORWARD"];

/// Nobody put more of them there.
const MOST: usize = 16;

/// Lets the bridge through. Returns whether that was new.
///
/// # Errors
/// Without iptables; what it says.
pub(crate) async fn admit(bridge: &InterfaceName) -> io::Result<bool> {
    point("netd.firewall.admit")?;
    let program = program()?;
    let docker = run(&program, &["-n", "-L", CHAINS[0]]).await?.well;
    let chain = CHAINS[usize::from(!docker)];
    let mut changed = false;
    for rule in rules(bridge) {
        if !with_rule(&program, "-C", chain, &rule).await?.well {
            point("netd.firewall.insert")?;
            let inserted = with_rule(&program, "-I", chain, &rule).await?;
            if !inserted.well {
                return Err(inserted.error("iptables"));
            }
            changed = true;
        }
    }
    Ok(changed)
}

/// Takes our rules away, wherever they are. Returns whether there were some.
///
/// # Errors
/// As [`admit`].
pub(crate) async fn admit_no_more(bridge: &InterfaceName) -> io::Result<bool> {
    point("netd.firewall.remove")?;
    let program = program()?;
    let mut changed = false;
    for chain in CHAINS {
        for rule in rules(bridge) {
            for _ in 0..MOST {
                // A chain or a rule that is not there is an error of iptables.
                if !with_rule(&program, "-D", chain, &rule).await?.well {
                    break;
                }
                changed = true;
            }
        }
    }
    Ok(changed)
}

/// What goes out of the bridge, and what belongs to it on the way back.
fn rules(bridge: &InterfaceName) -> [Vec<&str>; 2] {
    let bridge = bridge.as_str();
    let comment = ["-m", "comment", "--comment", "banger-netd", "-j", "ACCEPT"];
    let back = [
        "-o",
        bridge,
        "-m",
        "conntrack",
        "--ctstate",
        "RELATED,ESTABLISHED",
    ];
    [
        ["-i", bridge].into_iter().chain(comment).collect(),
        back.into_iter().chain(comment).collect(),
    ]
}

async fn with_rule(program: &Path, verb: &str, chain: &str, rule: &[&str]) -> io::Result<Output> {
    let arguments: Vec<&str> = [verb, chain].iter().chain(rule).copied().collect();
    run(program, &arguments).await
}

async fn run(program: &Path, arguments: &[&str]) -> io::Result<Output> {
    // Waits while somebody else changes rules, which only the old kind of tables needs.
    let arguments: Vec<&str> = ["-w", "5"].iter().chain(arguments).copied().collect();
    programs::run(program, &arguments, "").await
}

fn program() -> io::Result<PathBuf> {
    programs::find(PLACES.iter().map(Path::new), "iptables")
}
