//! Files for tests.

use std::net::Ipv4Addr;

use banger_proto::{InterfaceName, NAMES_SCHEMA, NameRecord, NamesFile, VmId, VmName};

pub(crate) fn record(name: &str, user: &str, number: u8) -> NameRecord {
    NameRecord {
        vm: VmId::try_from(format!("{number:08x}00000000")).unwrap(),
        name: VmName::try_from(name).unwrap(),
        user: user.to_owned(),
        uid: 1000,
        address: Ipv4Addr::new(10, 83, 0, number),
        first: true,
        attached: true,
        nat: false,
        group: None,
    }
}

pub(crate) fn file(records: &[NameRecord]) -> Vec<u8> {
    let file = NamesFile {
        schema: NAMES_SCHEMA,
        bridge: InterfaceName::try_from("banger0").unwrap(),
        gateway: Ipv4Addr::new(10, 83, 0, 1),
        prefix: 16,
        records: records.to_vec(),
    };
    serde_json::to_vec(&file).unwrap()
}
