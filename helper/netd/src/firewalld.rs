//! firewalld, by busctl(1): by absolute path, with an empty environment, from values of our own only.
//!
//! What no zone has belongs to its default zone, which refuses what is forwarded and what asks the host for names. In
//! the zone `trusted` it lets everything of the bridge through, and what these let through is what `rules` lets through.
//! Only what runs is changed, not what firewalld keeps: a reload keeps that (firewall-cmd(1), --reload), a restart of
//! firewalld forgets it.

use std::io;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use banger_proto::InterfaceName;

use crate::programs::{self, Output};

const PLACES: [&str; 2] = ["/usr/bin/busctl", "/run/current-system/sw/bin/busctl"];

const NAME: &str = "org.fedoraproject.FirewallD1";
/// firewalld.dbus(5): what runs, and what is kept.
const RUNNING: [&str; 3] = [
    NAME,
    "/org/fedoraproject/FirewallD1",
    "org.fedoraproject.FirewallD1.zone",
];
const KEPT: [&str; 3] = [
    NAME,
    "/org/fedoraproject/FirewallD1/config",
    "org.fedoraproject.FirewallD1.config",
];
const BUS: [&str; 3] = [
    "org.freedesktop.DBus",
    "/org/freedesktop/DBus",
    "org.freedesktop.DBus",
];

const ZONE: &str = "trusted";

/// The program that asks it.
#[derive(Debug, Clone)]
pub(crate) struct Firewalld {
    configured: Option<PathBuf>,
}

impl Firewalld {
    pub(crate) fn new(configured: Option<PathBuf>) -> Self {
        Firewalld { configured }
    }

    /// Puts the bridge into the zone that lets everything through. Returns whether that was new; nothing where no
    /// firewalld runs.
    ///
    /// # Errors
    /// A zone that somebody else put the bridge into; what firewalld says.
    pub(crate) async fn admit(&self, bridge: &InterfaceName) -> io::Result<Option<bool>> {
        let Some(program) = self.program().await? else {
            return Ok(None);
        };
        match zone(&program, RUNNING, bridge).await?.as_str() {
            ZONE => Ok(Some(false)),
            "" => {
                point("netd.firewalld.add")?;
                call(&program, RUNNING, "addInterface", &[ZONE, bridge.as_str()]).await?;
                Ok(Some(true))
            }
            other => {
                let message = format!(
                    "somebody put {bridge} into firewalld's zone {other:?}, where it stays"
                );
                Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
            }
        }
    }

    /// Takes it out again, unless an administrator keeps it there. Returns whether it was in.
    ///
    /// # Errors
    /// What firewalld says.
    pub(crate) async fn admit_no_more(&self, bridge: &InterfaceName) -> io::Result<bool> {
        let Some(program) = self.program().await? else {
            return Ok(false);
        };
        if zone(&program, RUNNING, bridge).await? != ZONE
            || zone(&program, KEPT, bridge).await? == ZONE
        {
            return Ok(false);
        }
        point("netd.firewalld.remove")?;
        let words = [ZONE, bridge.as_str()];
        call(&program, RUNNING, "removeInterface", &words).await?;
        Ok(true)
    }

    /// The program where firewalld runs. Where there is no bus or nothing that asks it, there is none.
    async fn program(&self) -> io::Result<Option<PathBuf>> {
        let configured = self.configured.as_deref();
        let places = PLACES.iter().map(Path::new);
        let candidates = configured
            .into_iter()
            .chain(places.filter(|_| configured.is_none()));
        let Ok(program) = programs::find(candidates, "systemd") else {
            return Ok(None);
        };
        let asked = run(&program, BUS, "NameHasOwner", &[NAME]).await?;
        let runs = asked.well && asked.stdout.trim() == "b true";
        Ok(runs.then_some(program))
    }
}

/// Empty when it is in none.
async fn zone(program: &Path, of: [&str; 3], bridge: &InterfaceName) -> io::Result<String> {
    let method = "getZoneOfInterface";
    let said = call(program, of, method, &[bridge.as_str()]).await?;
    // A zone's name has no quotes in it (firewalld.zone(5)).
    let name = said.trim().strip_prefix("s \"");
    let name = name.and_then(|rest| rest.strip_suffix('"'));
    name.map(str::to_owned).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("firewalld's answer to {method} is {:?}", said.trim()),
        )
    })
}

async fn call(program: &Path, of: [&str; 3], method: &str, words: &[&str]) -> io::Result<String> {
    let output = run(program, of, method, words).await?;
    if output.well {
        Ok(output.stdout)
    } else {
        Err(output.error("firewalld"))
    }
}

/// All that is said to it are strings.
async fn run(program: &Path, of: [&str; 3], method: &str, words: &[&str]) -> io::Result<Output> {
    let signature = "s".repeat(words.len());
    let mut arguments = vec!["--system", "--auto-start=no", "call"];
    arguments.extend(of);
    arguments.extend([method, &signature]);
    arguments.extend(words);
    programs::run(program, &arguments, "").await
}
