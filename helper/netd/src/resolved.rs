//! Tells systemd-resolved about a link, by resolvectl(1): by absolute path, with an empty environment,
//! from values of our own only. A D-Bus library would be the largest part of this program.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use banger_failpoint::point;
use banger_proto::InterfaceName;
use tokio::process::Command;
use tokio::time::timeout;

/// Debian and others, NixOS.
const PLACES: [&str; 2] = [
    "/usr/bin/resolvectl",
    "/run/current-system/sw/bin/resolvectl",
];

/// It takes milliseconds; a bus that waits for a service to start must not stop everybody for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Names are served without signatures and on this host only.
const SETTINGS: [(&str, &str); 5] = [
    ("default-route", "no"),
    ("dnssec", "no"),
    ("dnsovertls", "no"),
    ("llmnr", "no"),
    ("mdns", "no"),
];

/// The program.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    configured: Option<PathBuf>,
}

impl Resolved {
    pub(crate) fn new(configured: Option<PathBuf>) -> Self {
        Resolved { configured }
    }

    /// Names in these zones are asked of this server, and no others.
    pub(crate) async fn tell(
        &self,
        link: &InterfaceName,
        server: Ipv4Addr,
        zones: &[String],
    ) -> io::Result<()> {
        let link = link.as_str();
        point("netd.resolved.server")?;
        self.run(&["dns", link, &server.to_string()]).await?;
        point("netd.resolved.zones")?;
        // With the tilde they route questions, and complete no names (resolvectl(1)).
        let zones: Vec<String> = zones.iter().map(|zone| format!("~{zone}")).collect();
        let mut words = vec!["domain", link];
        words.extend(zones.iter().map(String::as_str));
        self.run(&words).await?;
        for (setting, value) in SETTINGS {
            point("netd.resolved.setting")?;
            self.run(&[setting, link, value]).await?;
        }
        Ok(())
    }

    /// Whether it would ask this server about the zones. Without a service that runs it would not.
    pub(crate) async fn knows(
        &self,
        link: &InterfaceName,
        server: Ipv4Addr,
        zones: &[String],
    ) -> bool {
        let has = |text: &str, word: &str| text.split_whitespace().any(|part| part == word);
        let Ok(servers) = self.run(&["dns", link.as_str()]).await else {
            return false;
        };
        let Ok(domains) = self.run(&["domain", link.as_str()]).await else {
            return false;
        };
        has(&servers, &server.to_string())
            && zones.iter().all(|zone| has(&domains, &format!("~{zone}")))
    }

    async fn run(&self, arguments: &[&str]) -> io::Result<String> {
        let child = Command::new(self.program()?)
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = timeout(PATIENCE, child.wait_with_output())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "resolvectl does not end"))??;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("it said nothing");
        Err(io::Error::other(format!("resolvectl: {said}")))
    }

    fn program(&self) -> io::Result<&Path> {
        let configured = self.configured.as_deref();
        let places = PLACES.iter().map(Path::new);
        let mut candidates = configured
            .into_iter()
            .chain(places.filter(|_| configured.is_none()));
        candidates.find(|path| path.is_file()).ok_or_else(|| {
            let message = "systemd-resolved is not installed: there is no resolvectl";
            io::Error::new(io::ErrorKind::NotFound, message)
        })
    }
}
