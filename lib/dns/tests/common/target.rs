//! What the fuzz targets do; `tests/hostile.rs` does the same with a bounded number of inputs.

use std::net::SocketAddr;

use lib_dns::{MAX_REQUEST, Reply, Role, Table, Transport, relayed, respond};

/// Longest answer in a packet (DNS flag day 2020), and to a client without EDNS.
const MAX_UDP: usize = 1232;

/// Two VMs, one of them in a group.
pub(crate) fn table() -> Table {
    let record = |number: u8, name: &str, group: &str| {
        format!(
            r#"{{"vm":"{number:08x}00000000","name":"{name}","user":"ann","uid":7,"address":"10.83.0.{number}",
                "first":true,"attached":true,"nat":true,"group":{group}}}"#
        )
    };
    let records = [record(2, "dev", "null"), record(3, "web", "4")].join(",");
    let text = format!(
        r#"{{"schema":1,"bridge":"b0","gateway":"10.83.0.1","prefix":16,"records":[{records}]}}"#
    );
    Table::parse(text.as_bytes()).expect("it is a table")
}

/// Any bytes as a packet, and as what comes by TCP, from the host and from a guest. Whatever is answered
/// is an answer to it, and fits. Returns how many were answered.
pub(crate) fn packet(table: &Table, bytes: &[u8]) -> usize {
    let mut answered = 0;
    for role in [Role::Host, Role::Guests] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let from = SocketAddr::from(([10, 83, 0, 2], 53));
            match respond(bytes, from, transport, role, table) {
                Reply::Silence => {}
                Reply::Bytes(answer) => {
                    check(bytes, &answer, transport);
                    answered += 1;
                }
                Reply::Forward(question) => {
                    assert_eq!(role, Role::Guests, "the host's side forwards nothing");
                    // Its own bytes as what the other server says.
                    let mut said = bytes.to_vec();
                    said[2] |= 0x80;
                    if let Some(Reply::Bytes(answer)) = relayed(&question, &said) {
                        check(bytes, &answer, transport);
                        answered += 1;
                    }
                }
            }
        }
    }
    answered
}

fn check(question: &[u8], answer: &[u8], transport: Transport) {
    assert!(question.len() <= MAX_REQUEST && question.len() >= 12);
    assert!(answer.len() >= 12 && answer[..2] == question[..2]);
    assert_eq!(answer[2] & 0x80, 0x80, "it is an answer");
    assert!(transport == Transport::Tcp || answer.len() <= MAX_UDP);
}

/// The first bytes as a guest's question to somebody else, the rest as what the other server says.
pub(crate) fn upstream(table: &Table, question: &[u8], said: &[u8]) -> bool {
    let from = SocketAddr::from(([10, 83, 0, 2], 53));
    let Reply::Forward(asked) = respond(question, from, Transport::Udp, Role::Guests, table) else {
        return false;
    };
    match relayed(&asked, said) {
        Some(Reply::Bytes(answer)) => {
            check(question, &answer, Transport::Udp);
            true
        }
        Some(other) => panic!("a relayed answer is one: {other:?}"),
        None => false,
    }
}

/// Any bytes as the file of names. What is taken serves its own network only.
pub(crate) fn file(bytes: &[u8]) -> bool {
    match Table::parse(bytes) {
        Ok(table) => {
            let question = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03dev\x02vm\0\0\x01\0\x01";
            assert!(packet(&table, question) >= 2);
            true
        }
        Err(why) => {
            assert!(!why.is_empty());
            false
        }
    }
}
