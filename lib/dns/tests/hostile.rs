//! Packets and files from nobody who is trusted.

#![allow(clippy::unwrap_used)]

#[path = "common/target.rs"]
mod target;

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType, rdata};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    let label = "[a-zA-Z0-9_-]{1,20}";
    prop_oneof![
        prop::sample::select(vec![
            "dev.vm.",
            "DEV.vm.",
            "web.ann.VM.",
            "ann.vm.",
            "vm.",
            ".",
            "a.b.c.vm.",
            "2.0.83.10.in-addr.arpa.",
            "83.10.in-addr.arpa.",
            "example.org.",
            "localhost.",
        ])
        .prop_map(str::to_owned),
        prop::collection::vec(label, 1..6).prop_map(|labels| labels.join(".") + "."),
        prop::collection::vec(label, 1..4).prop_map(|labels| labels.join(".") + ".vm."),
    ]
}

fn question() -> impl Strategy<Value = Message> {
    let edns = proptest::option::of((any::<u16>(), 0..2_u8, any::<bool>()));
    (
        any::<u16>(),
        name(),
        any::<u16>(),
        any::<bool>(),
        edns,
        0..6_u8,
    )
        .prop_map(|(id, name, kind, recursion, edns, odd)| {
            let opcode = if odd == 0 {
                OpCode::Notify
            } else {
                OpCode::Query
            };
            let mut message = Message::new(id, MessageType::Query, opcode);
            message.metadata.recursion_desired = recursion;
            // Half of them are types that somebody asks for.
            let kind = if kind % 2 == 0 { 1 + kind % 64 } else { kind };
            // Some of what is made is no name, such as a label that begins with a hyphen.
            let name = Name::from_ascii(name).unwrap_or_else(|_| Name::root());
            let mut query = Query::query(name, RecordType::from(kind));
            if odd == 1 {
                query.set_query_class(DNSClass::CH);
            }
            message.add_query(query);
            if let Some((payload, version, secure)) = edns {
                let mut edns = Edns::new();
                edns.set_max_payload(payload)
                    .set_version(version)
                    .set_dnssec_ok(secure);
                message.set_edns(edns);
            }
            message
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_server_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        target::packet(&target::table(), &bytes);
        target::file(&bytes);
    }

    #[test]
    fn questions_with_changed_bytes_are_answered_or_not_but_survived(
        question in question(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = question.to_vec().unwrap();
        let is_whole = changes.is_empty() && !is_cut;
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let answered = target::packet(&target::table(), &bytes);
        // The host's side answers every question, by both transports.
        prop_assert!(!is_whole || answered >= 2, "{answered} {question:?}");
    }

    #[test]
    fn what_another_server_says_is_relayed_or_not_but_fits(
        question in question(),
        length in 1..200_usize,
        count in 0..120_usize,
        code in 0..24_u16,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut said = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        said.metadata.response_code = ResponseCode::from((code >> 4) as u8, (code & 15) as u8);
        said.add_queries(question.queries.clone());
        let owner = question.queries[0].name().clone();
        for _ in 0..count {
            let text = rdata::TXT::new(vec!["x".repeat(length)]);
            said.add_answer(Record::from_rdata(owner.clone(), 1, RData::TXT(text)));
        }
        let mut bytes = said.to_vec().unwrap();
        let is_whole = changes.is_empty();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let relayed = target::upstream(&target::table(), &question.to_vec().unwrap(), &bytes);
        let foreign = question.metadata.op_code == OpCode::Query
            && question.metadata.recursion_desired
            && question.edns.as_ref().is_none_or(|edns| edns.version() == 0)
            && question.queries[0].name().iter().next_back().is_none_or(|top| {
                !top.eq_ignore_ascii_case(b"vm") && !top.eq_ignore_ascii_case(b"arpa")
            });
        prop_assert!(!(foreign && is_whole) || relayed, "{question:?}");
    }
}

#[test]
fn what_announces_more_than_it_has_costs_nothing() {
    // Sixty thousand questions in twelve bytes, and pointers that lead to themselves.
    for bytes in [
        &b"\0\x01\x01\0\xff\xff\0\0\0\0\0\0"[..],
        b"\0\x01\x01\0\0\x01\xff\xff\0\0\0\0\x02vm\0\0\x01\0\x01",
        b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01",
        b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\xc0\x0e\xc0\x0c\0\x01\0\x01",
    ] {
        assert_eq!(target::packet(&target::table(), bytes), 4, "{bytes:?}");
    }
    assert!(target::file(
        br#"{"schema":1,"bridge":"b","gateway":"10.1.0.1","prefix":30,"records":[]}"#
    ));
    assert!(!target::file(b"{}"));
}
