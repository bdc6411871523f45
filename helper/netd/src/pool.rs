//! The addresses of the network: the first is the host's, the rest are for VMs.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::str::FromStr;

use banger_proto::Mac;

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    network: Ipv4Addr,
    prefix: u8,
}

impl Pool {
    /// # Errors
    /// A prefix that leaves no address for a VM, or bits behind it.
    pub(crate) fn new(network: Ipv4Addr, prefix: u8) -> Result<Self, String> {
        let pool = Pool { network, prefix };
        if !(8..=30).contains(&prefix) {
            return Err(format!(
                "{network}/{prefix}: the prefix must be 8 to 30 bits"
            ));
        }
        if u32::from(network) & !pool.mask() != 0 {
            return Err(format!(
                "{network}/{prefix}: there are bits behind the prefix"
            ));
        }
        if network.is_loopback() || network.is_multicast() || network.is_unspecified() {
            return Err(format!("{network}/{prefix} is no network for machines"));
        }
        Ok(pool)
    }

    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    /// The host's address.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// Addresses for VMs: all but the network's, the host's and the broadcast address.
    pub(crate) fn size(self) -> u32 {
        !self.mask() - 2
    }

    /// The number of an address in the network.
    pub(crate) fn number(self, address: Ipv4Addr) -> u32 {
        u32::from(address) & !self.mask()
    }

    /// Whether a VM can have it.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        let (first, address) = (u32::from(self.gateway()), u32::from(address));
        (first + 1..=first + self.size()).contains(&address)
    }

    /// Whether a network shares addresses with this one.
    pub(crate) fn overlaps(self, network: Ipv4Addr, prefix: u8) -> bool {
        let mask = self.mask() & mask(prefix);
        u32::from(network) & mask == u32::from(self.network) & mask
    }

    /// The first free one behind `last`, so that an address is not used again at once.
    pub(crate) fn free(
        self,
        taken: &HashSet<Ipv4Addr>,
        last: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let first = u32::from(self.gateway()) + 1;
        let start = match last {
            Some(last) if self.contains(last) => u32::from(last) - first + 1,
            _ => 0,
        };
        (0..self.size())
            .map(|offset| Ipv4Addr::from(first + (start + offset) % self.size()))
            .find(|address| !taken.contains(address))
    }

    fn mask(self) -> u32 {
        mask(self.prefix)
    }
}

/// A locally administered address with the IPv4 address in it: as unique as that one.
pub(crate) fn mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0x52, 0x54, a, b, c, d])
}

fn mask(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

impl FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text}: not a network such as 10.83.0.0/16");
        let (network, prefix) = text.split_once('/').ok_or_else(refused)?;
        Pool::new(
            network.parse().map_err(|_| refused())?,
            prefix.parse().map_err(|_| refused())?,
        )
    }
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_given_once_and_late_again() {
        let pool: Pool = "10.9.8.0/29".parse().unwrap();
        assert_eq!(
            (pool.size(), pool.gateway()),
            (5, Ipv4Addr::new(10, 9, 8, 1))
        );
        let mut taken = HashSet::new();
        let mut last = None;
        while let Some(address) = pool.free(&taken, last) {
            assert!(pool.contains(address) && taken.insert(address));
            last = Some(address);
        }
        assert_eq!(taken.len(), 5);
        taken.remove(&Ipv4Addr::new(10, 9, 8, 2));
        taken.remove(&Ipv4Addr::new(10, 9, 8, 4));
        let next = pool.free(&taken, Some(Ipv4Addr::new(10, 9, 8, 2)));
        assert_eq!(next, Some(Ipv4Addr::new(10, 9, 8, 4)));
        for outside in ["10.9.8.0", "10.9.8.1", "10.9.8.7", "10.9.8.8", "0.0.0.0"] {
            assert!(!pool.contains(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn overlap_goes_both_ways() {
        let pool: Pool = "10.83.0.0/16".parse().unwrap();
        for (network, prefix, overlaps) in [
            ("10.0.0.0", 8, true),
            ("10.83.7.0", 24, true),
            ("10.83.0.1", 32, true),
            ("10.84.0.0", 16, false),
            ("192.168.0.0", 16, false),
            ("0.0.0.0", 0, true),
        ] {
            let network = network.parse().unwrap();
            assert_eq!(
                pool.overlaps(network, prefix),
                overlaps,
                "{network}/{prefix}"
            );
        }
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/x",
            "127.0.0.0/8",
            "224.0.0.0/8",
        ] {
            assert!(bad.parse::<Pool>().is_err(), "{bad}");
        }
    }
}
