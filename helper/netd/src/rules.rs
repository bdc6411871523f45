//! The rules, as text for nft(8), made from validated types only.
//!
//! Rules never change: what changes is elements of sets and maps, so a change costs the same whether
//! there are ten VMs or thousands. Two tables, because only the bridge family sees what guests say to
//! each other, and only inet sees what they say to the host and to the world.

use std::fmt::Write;

use banger_proto::{InterfaceName, PROBE, TAP_PREFIX};

use crate::elements::{Change, Element};
use crate::journal::Kept;
use crate::pool::{Pool, mac};

/// Both tables.
pub(crate) const TABLE: &str = "banger";

/// A set without elements in each table; a table without it is somebody else's.
pub(crate) const OWNER: &str = "banger_netd";

/// The families of the tables.
pub(crate) const FAMILIES: [&str; 2] = ["bridge", "inet"];

/// Marks of packets within a group begin with this byte; the rest is the group's number.
const MARK: u32 = 0xb600_0000;

/// Both tables anew, in one transaction: what was there is replaced without a gap.
pub(crate) fn whole<'a>(
    bridge: &InterfaceName,
    pool: Pool,
    kept: impl Iterator<Item = &'a Kept>,
) -> String {
    let gateway = pool.gateway();
    let mut text = remove();
    // Guests speak IPv4 and ARP with their own addresses; nothing else passes, no VLAN and no IPv6.
    // The host's own table of neighbours is safe from them, as ARP is checked inside and outside.
    // Who has a tap's descriptor can give its host's side any hardware address (SIOCSIFHWADDR), and the bridge
    // would send that address's frames there: what is delivered is checked as well.
    // The first two chains are before priority 0: there br_netfilter takes frames out, and goes on behind it.
    let _ = write!(
        text,
        "table bridge {TABLE} {{
  set {OWNER} {{ type mark; }}
  set source {{ type ifname . ether_addr . ipv4_addr; }}
  map group {{ type ifname : mark; }}
  set member {{ type ifname . mark; }}
  chain spoofing {{
    type filter hook prerouting priority -300; policy accept;
    iifname != \"{TAP_PREFIX}*\" accept
    meta mark set 0x0
    iifname . arp saddr ether . arp saddr ip @source iifname . ether saddr . arp saddr ip @source accept
    iifname . ether saddr . ip saddr @source accept
    drop
  }}
  chain between {{
    type filter hook forward priority -200; policy accept;
    iifname \"{TAP_PREFIX}*\" jump guests
    oifname \"{TAP_PREFIX}*\" jump guests
  }}
  chain delivery {{
    type filter hook postrouting priority 0; policy accept;
    oifname != \"{TAP_PREFIX}*\" accept
    ether daddr and 01:00:00:00:00:00 == 01:00:00:00:00:00 accept
    oifname . ether daddr . ip daddr @source accept
    oifname . ether daddr . arp daddr ip @source accept
    drop
  }}
  chain guests {{
    meta mark set iifname map @group
    oifname . meta mark @member accept
    drop
  }}
}}
"
    );
    // What reaches `probe` has passed all other firewalls, and is told so: an address of no machine, and an answer
    // that no firewall gives.
    // With br_netfilter, what passes within a group is seen here again, with its mark; what a guest
    // sends to another one by way of the host has none.
    let _ = write!(
        text,
        "table inet {TABLE} {{
  set {OWNER} {{ type mark; }}
  set nat {{ type ipv4_addr; }}
  chain host {{
    type filter hook input priority filter; policy accept;
    iifname != \"{bridge}\" accept
    ct state established,related accept
    ip daddr {gateway} meta l4proto . th dport {{ tcp . 53, udp . 53 }} accept
    ip daddr {gateway} icmp type echo-request accept
    drop
  }}
  chain through {{
    type filter hook forward priority filter; policy accept;
    iifname \"{bridge}\" oifname \"{bridge}\" meta mark and 0xff000000 == {MARK:#x} accept
    iifname \"{bridge}\" oifname \"{bridge}\" drop
    iifname \"{bridge}\" ip saddr @nat accept
    iifname \"{bridge}\" drop
    oifname \"{bridge}\" ct state established,related accept
    oifname \"{bridge}\" drop
  }}
  chain probe {{
    type filter hook forward priority 200; policy accept;
    iifname \"{bridge}\" ip daddr {PROBE} reject with icmp type net-prohibited
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname != \"{bridge}\" ip saddr @nat masquerade
  }}
}}
"
    );
    for kept in kept {
        for element in elements(kept, &kept.interface()) {
            let _ = writeln!(text, "add element {element}");
        }
    }
    text
}

/// Takes both tables away, whether they are there or not.
pub(crate) fn remove() -> String {
    FAMILIES
        .map(|family| format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n"))
        .concat()
}

/// What a VM has in the sets.
fn elements<'a>(kept: &Kept, interface: &'a InterfaceName) -> Vec<Element<'a>> {
    let mut elements = vec![Element::Source(interface, mac(kept.address), kept.address)];
    elements.extend(kept.nat.then_some(Element::Nat(kept.address)));
    if let Some(group) = &kept.group {
        let mark = MARK | u32::from(group.number);
        elements.extend([
            Element::Group(interface, mark),
            Element::Member(interface, mark),
        ]);
    }
    elements
}

/// From one state of a VM to another; `None` is one that is not in the sets. What may be there already, or gone
/// already, is no error: what goes is added first, as only what is there can be deleted.
pub(crate) fn change<'a>(
    interface: &'a InterfaceName,
    before: Option<&Kept>,
    after: Option<&Kept>,
) -> Vec<Change<'a>> {
    let there = |kept: Option<&Kept>| kept.map(|kept| elements(kept, interface));
    let (gone, new) = (
        there(before).unwrap_or_default(),
        there(after).unwrap_or_default(),
    );
    let change = |add| move |element| Change { add, element };
    let gone = gone.into_iter().filter(|element| !new.contains(element));
    gone.flat_map(|element| [true, false].map(|add| change(add)(element)))
        .chain(new.iter().copied().map(change(true)))
        .collect()
}
