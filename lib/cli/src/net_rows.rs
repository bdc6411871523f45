//! Rows of records about the network of VMs.

use lib_model::{
    AddressRecord, AnswerRecord, CheckRecord, NameRecord, NetworkRecord, Record, RouteRecord,
};

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
        Record::Name(_) => &["NAME", "ALSO", "ADDRESS", "STATE", "USER"],
        Record::Answer(_) => &["QUESTION", "CODE", "ANSWER", "SERVER", "BY", "MILLISECONDS"],
        Record::Route(_) => &["LINK", "STATE", "SERVER", "ZONES"],
        _ => &[],
    }
}

/// The cells of a record.
pub(crate) fn row(record: &Record) -> Vec<String> {
    match record {
        Record::Network(network) => network_row(network).into(),
        Record::Address(address) => address_row(address, lib_store::now_ms()).into(),
        Record::Check(check) => check_row(check).into(),
        Record::Name(name) => name_row(name).into(),
        Record::Answer(answer) => answer_row(answer).into(),
        Record::Route(route) => route_row(route).into(),
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
        match (address.attached, address.jailed) {
            (_, true) => "jailed",
            (true, _) => "attached",
            (false, _) => "reserved",
        }
        .to_owned(),
        either(address.nat, "nat", "-"),
        address.group.clone().unwrap_or_else(|| "-".into()),
        address.interface.clone(),
        age(address.created_ms, now),
    ]
}

fn name_row(name: &NameRecord) -> [String; 5] {
    let (first, others) = name
        .names
        .split_first()
        .map_or(("-", &[][..]), |(first, others)| (first, others));
    [
        first.to_owned(),
        others.join(" "),
        name.address.to_string(),
        if name.attached { "running" } else { "stopped" }.to_owned(),
        name.user.clone(),
    ]
}

fn answer_row(answer: &AnswerRecord) -> [String; 6] {
    let data: Vec<_> = answer
        .records
        .iter()
        .map(|record| record.data.as_str())
        .collect();
    [
        format!("{} {}", answer.name, answer.r#type),
        answer.code.clone(),
        if data.is_empty() {
            "-".to_owned()
        } else {
            data.join(", ")
        },
        std::net::SocketAddr::new(answer.server, answer.port).to_string(),
        answer.transport.clone(),
        format!(
            "{}.{:03}",
            answer.microseconds / 1000,
            answer.microseconds % 1000
        ),
    ]
}

fn route_row(route: &RouteRecord) -> [String; 4] {
    [
        route.link.clone(),
        if route.up { "up" } else { "down" }.to_owned(),
        route.server.to_string(),
        route.zones.join(" "),
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
