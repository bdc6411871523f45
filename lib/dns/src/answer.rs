//! What the zones of VMs say: `vm`, and the reverse zones of the network. Nothing else is ours.
//!
//! Everything is told with a life of 0 s: names follow the start and stop of VMs at once, through caches
//! as well, and asking again costs a packet on the loopback.

use std::net::Ipv4Addr;

use banger_proto::{ZONE, reverse_labels};
use hickory_server::proto::op::{Query, ResponseCode};
use hickory_server::proto::rr::rdata::{A, NS, PTR, SOA};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::table::{Found, Table, View};

const TTL: u32 = 0;

/// Of the SOA records, in seconds; nobody transfers these zones.
const REFRESH: i32 = 3600;

/// An answer from our own zones.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) answer: Option<Record>,
    /// With an answer that has no record (RFC 2308).
    pub(crate) authority: Option<Record>,
}

/// A name in one of our zones.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Apex,
    /// `label.vm`, `label.user.vm`.
    Vm(&'a [u8], Option<&'a [u8]>),
    Address(Ipv4Addr),
    /// Between the apex of a reverse zone and an address.
    Between,
    /// In the zone, but nothing can be there.
    Nowhere,
}

/// Answers a question about a name of ours; `None` when it is not.
pub(crate) fn answer(table: &Table, view: View, query: &Query) -> Option<Answer> {
    let name = query.name();
    let (place, depth) = place(table, name)?;
    // Most answers do without.
    let zone = || name.trim_to(depth);
    if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return Some(refusal());
    }
    let kind = query.query_type();
    if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
        return Some(refusal());
    }
    // To ANY, one of the sets that are there (RFC 8482, section 4.1).
    let asks = |of| kind == of || kind == RecordType::ANY;
    let record = |data| Some(Record::from_rdata(name.clone(), TTL, data));
    let (code, answer) = match place {
        Place::Apex if asks(RecordType::SOA) => (ResponseCode::NoError, Some(soa(table, zone()))),
        // As the empty zones of RFC 6303 have it: nobody needs an address for that name.
        Place::Apex if kind == RecordType::NS => {
            (ResponseCode::NoError, record(RData::NS(NS(zone()))))
        }
        Place::Apex | Place::Between => (ResponseCode::NoError, None),
        Place::Vm(label, user) => match table.find(label, user, view) {
            Found::Nothing => (ResponseCode::NXDomain, None),
            Found::Vm(address) if asks(RecordType::A) => {
                (ResponseCode::NoError, record(RData::A(A(address))))
            }
            Found::Empty | Found::Vm(_) => (ResponseCode::NoError, None),
        },
        Place::Address(address) => match table.name_of(address, view) {
            None => (ResponseCode::NXDomain, None),
            Some(target) if asks(RecordType::PTR) => (
                ResponseCode::NoError,
                record(RData::PTR(PTR(target.clone()))),
            ),
            Some(_) => (ResponseCode::NoError, None),
        },
        Place::Nowhere => (ResponseCode::NXDomain, None),
    };
    let authority = answer.is_none().then(|| soa(table, zone()));
    Some(Answer {
        code,
        answer,
        authority,
    })
}

fn refusal() -> Answer {
    Answer {
        code: ResponseCode::Refused,
        answer: None,
        authority: None,
    }
}

/// RFC 6303, section 3; the last number is how long nothing may be remembered.
fn soa(table: &Table, zone: Name) -> Record {
    let nobody = Name::from_labels(["nobody", "invalid"]).unwrap_or_else(|_| Name::root());
    let soa = SOA::new(
        zone.clone(),
        nobody,
        table.serial(),
        REFRESH,
        REFRESH,
        REFRESH,
        TTL,
    );
    Record::from_rdata(zone, TTL, RData::SOA(soa))
}

/// Where a name is, and how many labels its zone has.
fn place<'a>(table: &Table, name: &'a Name) -> Option<(Place<'a>, usize)> {
    let mut labels = name.iter().rev();
    let top = labels.next()?;
    if top.eq_ignore_ascii_case(ZONE.as_bytes()) {
        let place = match (labels.next(), labels.next(), labels.next()) {
            (None, ..) => Place::Apex,
            (Some(label), None, _) => Place::Vm(label, None),
            (Some(user), Some(label), None) => Place::Vm(label, Some(user)),
            (Some(_), Some(_), Some(_)) => Place::Nowhere,
        };
        return Some((place, 1));
    }
    if table.is_nowhere() || !top.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    if !labels.next()?.eq_ignore_ascii_case(b"in-addr") {
        return None;
    }
    let wanted = reverse_labels(table.prefix());
    let mut octets = [0; 4];
    let mut count = 0;
    let mut all_numbers = true;
    for label in labels {
        match (octets.get_mut(count), octet(label)) {
            (Some(place), Some(octet)) => *place = octet,
            _ if count < wanted => return None,
            _ => all_numbers = false,
        }
        count += 1;
    }
    if count < wanted || !table.covers(octets.into()) {
        return None;
    }
    let place = match count {
        _ if !all_numbers || count > 4 => Place::Nowhere,
        4 => Place::Address(octets.into()),
        count if count == wanted => Place::Apex,
        _ => Place::Between,
    };
    Some((place, wanted + 2))
}

/// A byte in decimal, without zeros before it.
fn octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let canonical =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| canonical)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::{file, record};

    fn asked(name: &str, kind: RecordType) -> Option<(ResponseCode, String)> {
        let table = Table::parse(&file(&[record("dev", "ann", 2)])).unwrap();
        let query = Query::query(Name::from_ascii(name).unwrap(), kind);
        let answer = answer(&table, View::Host, &query)?;
        let soa = answer
            .authority
            .as_ref()
            .map(|soa| format!("SOA of {}", soa.name));
        let shown = answer
            .answer
            .map(|record| format!("{} {}", record.name, record.data));
        Some((answer.code, shown.or(soa).unwrap_or_default()))
    }

    #[test]
    fn zones_say_what_runs_and_nothing_else() {
        use RecordType::{A, AAAA, ANY, AXFR, NS, PTR};
        let none = "SOA of vm.";
        let reverse = "SOA of 83.10.in-addr.arpa.";
        let (no_error, unknown) = (ResponseCode::NoError, ResponseCode::NXDomain);
        for (name, kind, code, shown) in [
            ("dev.vm.", A, no_error, "dev.vm. 10.83.0.2"),
            ("DeV.Vm.", A, no_error, "DeV.Vm. 10.83.0.2"),
            ("dev.ann.vm.", A, no_error, "dev.ann.vm. 10.83.0.2"),
            ("dev.vm.", ANY, no_error, "dev.vm. 10.83.0.2"),
            ("dev.vm.", AAAA, no_error, none),
            ("dev.vm.", RecordType::DS, no_error, none),
            ("ann.vm.", A, no_error, none),
            ("other.vm.", A, unknown, none),
            ("a.b.c.vm.", A, unknown, none),
            ("vm.", NS, no_error, "vm. vm."),
            ("vm.", A, no_error, none),
            ("dev.vm.", AXFR, ResponseCode::Refused, ""),
            (
                "2.0.83.10.in-addr.arpa.",
                PTR,
                no_error,
                "2.0.83.10.in-addr.arpa. dev.vm.",
            ),
            (
                "2.0.83.10.IN-ADDR.ARPA.",
                ANY,
                no_error,
                "2.0.83.10.IN-ADDR.ARPA. dev.vm.",
            ),
            ("2.0.83.10.in-addr.arpa.", A, no_error, reverse),
            ("3.0.83.10.in-addr.arpa.", PTR, unknown, reverse),
            ("0.83.10.in-addr.arpa.", PTR, no_error, reverse),
            ("83.10.in-addr.arpa.", PTR, no_error, reverse),
            ("x.83.10.in-addr.arpa.", PTR, unknown, reverse),
            ("02.0.83.10.in-addr.arpa.", PTR, unknown, reverse),
            ("1.2.0.83.10.in-addr.arpa.", PTR, unknown, reverse),
        ] {
            assert_eq!(
                asked(name, kind),
                Some((code, shown.to_owned())),
                "{name} {kind}"
            );
        }
        let soa = asked("vm.", RecordType::SOA).unwrap();
        assert!(soa.1.starts_with("vm. vm. nobody.invalid. "), "{soa:?}");
        for name in [
            "example.org.",
            ".",
            "vmm.",
            "10.in-addr.arpa.",
            "84.10.in-addr.arpa.",
            "in-addr.arpa.",
            "arpa.",
            "8.b.d.0.1.0.0.2.ip6.arpa.",
        ] {
            assert_eq!(asked(name, A), None, "{name}");
        }
    }

    #[test]
    fn a_network_that_ends_within_a_byte_has_only_its_own_zones() {
        let text = String::from_utf8(file(&[record("dev", "ann", 2)])).unwrap();
        let text = text.replace("\"prefix\":16", "\"prefix\":30");
        let table = Table::parse(text.as_bytes()).unwrap();
        let ours = |name: &str| place(&table, &Name::from_ascii(name).unwrap()).is_some();
        assert!(ours("3.0.83.10.in-addr.arpa."));
        assert!(!ours("4.0.83.10.in-addr.arpa.") && !ours("0.83.10.in-addr.arpa."));
    }
}
