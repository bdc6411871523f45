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
pub(super) fn write(config: &GuestConfig) {
    for (path, mode) in [("/etc", 0o755), ("/tmp", 0o1777), ("/root", 0o700)] {
        report(path, make_directory(Path::new(path), mode));
    }
    report(
        "/etc/hostname",
        update("/etc/hostname", |_| format!("{}\n", config.hostname)),
    );
    let own = own_line(&config.hostname, config.network.as_ref());
    report("/etc/hosts", update("/etc/hosts", |old| hosts(old, &own)));
    if let Some(network) = config.network.as_ref().filter(|n| !n.resolvers.is_empty()) {
        let resolvers = resolv_conf(network);
        report(
            "/etc/resolv.conf",
            update("/etc/resolv.conf", |_| resolvers),
        );
    }
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
