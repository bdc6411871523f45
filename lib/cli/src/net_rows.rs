//! Rows of records about the network of VMs.

use lib_model::{AddressRecord, CheckRecord, NetworkRecord, Record};

use crate::age;

/// The columns of a record's table.
pub(crate) fn heading(record: &Record) -> &'static [&'static str] {
    match record {
        Record::Network(_) => &[
            "BRIDGE",
            "STATE",
            "ADDRESS",
            "RESERVED",
            "ATTACHED",
            "FREE",
            "FORWARDING",
        ],
        Record::Address(_) => &[
            "NAME",
            "ID",
            "ADDRESS",
            "STATE",
            "OUT",
            "GROUP",
            "INTERFACE",
            "AGE",
        ],
        Record::Check(_) => &["CHECK", "STATE", "DETAIL", "HINT"],
        _ => &[],
    }
}

/// The cells of a record.
pub(crate) fn row(record: &Record) -> Vec<String> {
    match record {
        Record::Network(network) => network_row(network).into(),
        Record::Address(address) => address_row(address, lib_store::now_ms()).into(),
        Record::Check(check) => check_row(check).into(),
        _ => Vec::new(),
    }
}

fn network_row(network: &NetworkRecord) -> [String; 7] {
    let forwarding = match (network.forwarding, network.forwarding_is_ours) {
        (true, true) => "on, by banger",
        (true, false) => "on",
        (false, _) => "off",
    };
    [
        network.bridge.clone(),
        if network.up { "up" } else { "down" }.to_owned(),
        format!("{}/{}", network.gateway, network.prefix),
        network.reserved.to_string(),
        network.attached.to_string(),
        network.free.to_string(),
        forwarding.to_owned(),
    ]
}

fn address_row(address: &AddressRecord, now: u64) -> [String; 8] {
    let either = |is, yes: &str, no: &str| if is { yes } else { no }.to_owned();
    [
        address.name.to_string(),
        address.id.as_str()[..12].to_owned(),
        address.address.to_string(),
        either(address.attached, "attached", "reserved"),
        either(address.nat, "nat", "-"),
        address.group.clone().unwrap_or_else(|| "-".into()),
        address.interface.clone(),
        age(address.created_ms, now),
    ]
}

fn check_row(check: &CheckRecord) -> [String; 4] {
    [
        check.name.clone(),
        if check.ok { "ok" } else { "failed" }.to_owned(),
        check.detail.clone(),
        check.hint.clone().unwrap_or_else(|| "-".into()),
    ]
}
