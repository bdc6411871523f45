//! The few files of the image that depend on the VM. Runs inside the image's root.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use banger_wire::config::{GuestConfig, Network};

use crate::{console, image_file};

/// Marks our line in `/etc/hosts`, so that a renamed VM has one name.
const MARK: &str = "# banger";

/// Writes names and resolvers. An image that does not take them boots without, and says so.
/// systemd is told by drop-ins below /run, which only its own services read.
pub(super) fn write(config: &GuestConfig, systemd: bool) {
    for (path, mode) in [("/etc", 0o755), ("/tmp", 0o1777), ("/root", 0o700)] {
        report(path, make_directory(Path::new(path), mode));
    }
    report(
        "/etc/hostname",
        update("/etc/hostname", |_| format!("{}\n", config.hostname)),
    );
    let own = own_line(&config.hostname, config.network.as_ref());
    report("/etc/hosts", update("/etc/hosts", |old| hosts(old, &own)));
    let Some(network) = &config.network else {
        return;
    };
    if systemd {
        let networkd = networkd(network);
        report(NETWORKD, place(NETWORKD, &networkd));
        report(RESOLVED, place(RESOLVED, &resolved(network)));
    }
    let theirs = systemd && is_resolveds(Path::new("/etc/resolv.conf"));
    if !network.resolvers.is_empty() && !theirs {
        let resolvers = resolv_conf(network);
        report(
            "/etc/resolv.conf",
            update("/etc/resolv.conf", |_| resolvers),
        );
    }
}

/// A file of the same name in /etc replaces it (systemd.network(5)).
const NETWORKD: &str = "/run/systemd/network/00-banger.network";
/// resolved.conf(5).
const RESOLVED: &str = "/run/systemd/resolved.conf.d/00-banger.conf";

/// What the agent has configured already, for networkd not to undo and for resolved to know.
fn networkd(network: &Network) -> String {
    let Network {
        mac,
        address,
        prefix,
        gateway,
        resolvers,
    } = network;
    let mut text = format!(
        "[Match]\nMACAddress={mac}\n\n[Network]\nAddress={address}/{prefix}\nGateway={gateway}\n\
         LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    );
    for resolver in resolvers {
        text.push_str(&format!("DNS={resolver}\n"));
    }
    text
}

/// For a resolved without a networkd.
fn resolved(network: &Network) -> String {
    let resolvers: Vec<String> = network.resolvers.iter().map(ToString::to_string).collect();
    format!("[Resolve]\nDNS={}\n", resolvers.join(" "))
}

/// Whether the file is a link to what systemd-resolved writes, and so its own to keep.
fn is_resolveds(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| {
        let target = target.to_string_lossy();
        target
            .trim_start_matches("../")
            .trim_start_matches('/')
            .starts_with("run/systemd/resolve/")
    })
}

fn place(path: &str, content: &str) -> io::Result<()> {
    let path = Path::new(path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    image_file::write(path, content)
}

fn report(path: &str, result: io::Result<()>) {
    if let Err(error) = result {
        console::say(&format!("{path}: {error}"));
    }
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// An unchanged file is not written: in an overlay that would copy it.
fn update(path: &str, change: impl FnOnce(&str) -> String) -> io::Result<()> {
    let path = Path::new(path);
    let old = image_file::read(path).unwrap_or_default();
    let new = change(&old);
    if old == new {
        return Ok(());
    }
    image_file::write(path, &new)
}

fn own_line(hostname: &str, network: Option<&Network>) -> String {
    let address = network.map_or_else(|| "127.0.1.1".to_owned(), |n| n.address.to_string());
    format!("{address}\t{hostname} {MARK}")
}

fn hosts(old: &str, own: &str) -> String {
    let mut lines: Vec<&str> = old.lines().filter(|line| !line.ends_with(MARK)).collect();
    let has_localhost = lines.iter().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace()
            .skip(1)
            .any(|name| name == "localhost")
    });
    if !has_localhost {
        lines.push("127.0.0.1\tlocalhost");
        lines.push("::1\tlocalhost ip6-localhost ip6-loopback");
    }
    lines.push(own);
    lines.join("\n") + "\n"
}

fn resolv_conf(network: &Network) -> String {
    let lines = network
        .resolvers
        .iter()
        .map(|address| format!("nameserver {address}\n"));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_told_what_the_agent_did() {
        let network = Network {
            mac: "52:54:00:00:00:01".into(),
            address: [10, 0, 2, 15].into(),
            prefix: 24,
            gateway: [10, 0, 2, 2].into(),
            resolvers: vec!["10.0.2.3".parse().unwrap(), "fec0::3".parse().unwrap()],
        };
        assert_eq!(
            networkd(&network),
            "[Match]\nMACAddress=52:54:00:00:00:01\n\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n\
             LinkLocalAddressing=no\nIPv6AcceptRA=no\nDNS=10.0.2.3\nDNS=fec0::3\n"
        );
        assert_eq!(resolved(&network), "[Resolve]\nDNS=10.0.2.3 fec0::3\n");
        let directory = tempfile::tempdir().unwrap();
        for (target, expected) in [
            ("../run/systemd/resolve/stub-resolv.conf", true),
            ("/run/systemd/resolve/resolv.conf", true),
            ("/run/resolvconf/resolv.conf", false),
        ] {
            let link = directory.path().join("link");
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(target, &link).unwrap();
            assert_eq!(is_resolveds(&link), expected, "{target}");
        }
        assert!(!is_resolveds(Path::new("/proc/self/status")));
    }

    #[test]
    fn hosts_keeps_what_the_user_wrote_and_one_line_of_ours() {
        let own = own_line("dev", None);
        let fresh = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tdev # banger\n";
        assert_eq!(hosts("", &own), fresh);
        assert_eq!(hosts(fresh, &own), fresh);
        assert_eq!(
            hosts(
                "127.0.0.1 localhost\n10.0.0.1 mine\n10.0.0.2\told # banger\n",
                &own
            ),
            "127.0.0.1 localhost\n10.0.0.1 mine\n127.0.1.1\tdev # banger\n"
        );
    }
}
