//! What a service manager needs, as it is in the tree, which packages of distributions install too.

use std::path::Path;

/// A file below the prefix, with the paths that a distribution's package has.
pub(crate) struct Unit {
    pub(crate) place: &'static str,
    text: &'static str,
}

macro_rules! unit {
    ($place:literal, $file:literal) => {
        Unit {
            place: $place,
            text: include_str!(concat!("../../../../", $file)),
        }
    };
}

pub(crate) const UNITS: &[Unit] = &[
    unit!(
        "lib/systemd/system/banger-netd.service",
        "helper/netd/systemd/banger-netd.service"
    ),
    unit!(
        "lib/systemd/system/banger-netd.socket",
        "helper/netd/systemd/banger-netd.socket"
    ),
    unit!(
        "lib/systemd/system/banger-dns.service",
        "helper/netd/systemd/banger-dns.service"
    ),
    unit!(
        "lib/systemd/system/banger-dns.socket",
        "helper/netd/systemd/banger-dns.socket"
    ),
    unit!(
        "lib/systemd/system/banger-dns-guests.socket",
        "helper/netd/systemd/banger-dns-guests.socket"
    ),
    unit!(
        "lib/systemd/system/banger-dns-route.service",
        "helper/netd/systemd/banger-dns-route.service"
    ),
    unit!(
        "lib/systemd/system/banger-vm@.service",
        "bins/banger/systemd/banger-vm@.service"
    ),
    unit!(
        "lib/systemd/system/banger-reconcile.service",
        "bins/banger/systemd/banger-reconcile.service"
    ),
    unit!(
        "lib/systemd/system/banger-reconcile.timer",
        "bins/banger/systemd/banger-reconcile.timer"
    ),
    unit!(
        "lib/systemd/network/70-banger.network",
        "helper/netd/systemd/70-banger.network"
    ),
    unit!(
        "lib/sysusers.d/banger.conf",
        "bins/banger/systemd/sysusers.conf"
    ),
    unit!(
        "lib/tmpfiles.d/banger.conf",
        "bins/banger/systemd/tmpfiles.conf"
    ),
    unit!(
        "lib/modules-load.d/banger.conf",
        "bins/banger/systemd/modules-load.conf"
    ),
];

/// Only where NetworkManager is: it reads no directory below /usr/local.
pub(crate) const NETWORK_MANAGER: Unit = unit!(
    "/etc/NetworkManager/conf.d/banger.conf",
    "helper/netd/systemd/banger-networkmanager.conf"
);

/// What banger-netd does beyond the network, each in a drop-in of its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Offer {
    /// Loop devices and snapshots of files that callers pass
    Disks,
    /// VMMs in jails
    Jails,
    /// Neither; also takes away what an earlier installation offers
    None,
}

impl Offer {
    /// Those that have a drop-in.
    pub(crate) const WITH_DROP_IN: [Offer; 2] = [Offer::Disks, Offer::Jails];

    pub(crate) fn drop_in(self) -> Option<&'static Unit> {
        const DISKS: Unit = unit!(
            "lib/systemd/system/banger-netd.service.d/disks.conf",
            "helper/netd/systemd/disks.conf"
        );
        const JAILS: Unit = unit!(
            "lib/systemd/system/banger-netd.service.d/jails.conf",
            "helper/netd/systemd/jails.conf"
        );
        match self {
            Offer::Disks => Some(&DISKS),
            Offer::Jails => Some(&JAILS),
            Offer::None => None,
        }
    }
}

/// Those that are started with the machine.
pub(crate) const ENABLED: &[&str] = &[
    "banger-netd.socket",
    "banger-dns.socket",
    "banger-dns-guests.socket",
    "banger-reconcile.timer",
];

/// Only where systemd-resolved is, which it tells where names of VMs are answered.
pub(crate) const ROUTE: &str = "banger-dns-route.service";
pub(crate) const RESOLVED: &str = "/usr/lib/systemd/systemd-resolved";

impl Unit {
    /// With the places of the programs below `prefix`.
    pub(crate) fn text(&self, prefix: &Path) -> String {
        let prefix = prefix.display();
        self.text
            .replace("=/usr/bin/", &format!("={prefix}/bin/"))
            .replace("=/usr/libexec/", &format!("={prefix}/libexec/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_name_programs_below_the_prefix() {
        for unit in UNITS {
            let text = unit.text(Path::new("/opt/b"));
            for line in text.lines().filter(|line| line.starts_with("Exec")) {
                assert!(line.contains("=/opt/b/"), "{}: {line}", unit.place);
            }
        }
    }
}
