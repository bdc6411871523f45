//! Where names of VMs are served, and which zones they are in.

use std::net::Ipv4Addr;

/// Where the host asks for names of VMs, at port 53. In 127.0.0.0/8, which the kernel takes from no other
/// interface, so neither a guest nor another machine reaches it.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 83, 0, 53);

/// What names of VMs end with.
pub const ZONE: &str = "vm";

/// The link that tells systemd-resolved where to ask.
pub const ROUTE_LINK: &str = "banger-dns";

/// How many labels before `in-addr.arpa` a zone of the network has: the fewest that name no address
/// outside of it.
pub fn reverse_labels(prefix: u8) -> usize {
    usize::from(prefix.clamp(1, 32)).div_ceil(8)
}

/// The zones below `in-addr.arpa` that are wholly the network's, without a dot at the end. There are at
/// most 128: a prefix that ends within a byte takes one for each value that the byte can have.
pub fn reverse_zones(network: Ipv4Addr, prefix: u8) -> Vec<String> {
    let labels = reverse_labels(prefix);
    let bits = 8 * u32::try_from(labels).unwrap_or(4);
    let prefix = u32::from(prefix.clamp(1, 32));
    let base = u32::from(network) >> (32 - prefix) << (bits - prefix);
    (0..1_u32 << (bits - prefix))
        .map(|number| {
            let octets = (base + number).to_be_bytes();
            let named = octets[4 - labels..].iter().rev();
            let mut zone = String::new();
            for octet in named {
                zone += &format!("{octet}.");
            }
            zone + "in-addr.arpa"
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_cover_the_network_and_nothing_else() {
        let zones = |text: &str, prefix| reverse_zones(text.parse().unwrap(), prefix);
        assert_eq!(zones("10.83.0.0", 16), ["83.10.in-addr.arpa"]);
        assert_eq!(zones("10.0.0.0", 8), ["10.in-addr.arpa"]);
        assert_eq!(
            zones("10.9.8.0", 23),
            ["8.9.10.in-addr.arpa", "9.9.10.in-addr.arpa"]
        );
        let small = zones("10.9.8.4", 30);
        assert_eq!((small.len(), &*small[0]), (4, "4.8.9.10.in-addr.arpa"));
        assert_eq!(small[3], "7.8.9.10.in-addr.arpa");
        for prefix in 0..=32 {
            assert!(reverse_zones(Ipv4Addr::new(10, 0, 0, 0), prefix).len() <= 128);
        }
    }
}
