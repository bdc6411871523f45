//! Elements of the sets and maps in `rules`, as the kernel takes them (linux/netfilter/nf_tables.h).
//!
//! A change is a few elements in one transaction. As a message it costs the kernel some 50 microseconds; the start
//! of nft(8) alone takes a hundred times as long. Tables and rules are still text: they change only when all is loaded.

use std::fmt;
use std::net::Ipv4Addr;

use banger_proto::{InterfaceName, Mac};

use crate::rules::TABLE;

const SUBSYSTEM: u16 = 10;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// NFPROTO_INET and NFPROTO_BRIDGE.
const INET: u8 = 1;
const BRIDGE: u8 = 7;

/// NLM_F_REQUEST, NLM_F_ACK and NLM_F_CREATE (netlink(7)). Without NLM_F_EXCL an element may be there already.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;

/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;

/// NFTA_SET_ELEM_LIST_TABLE, …_SET and …_ELEMENTS.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
/// NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA and NFTA_DATA_VALUE.
const ELEMENT: u16 = 1;
const KEY: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;

/// IFNAMSIZ: how long a name is in a key.
const NAME: usize = 16;

/// What a VM has in the sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element<'a> {
    /// An interface speaks with these addresses.
    Source(&'a InterfaceName, Mac, Ipv4Addr),
    /// An address goes out.
    Nat(Ipv4Addr),
    /// Frames of an interface get a mark.
    Group(&'a InterfaceName, u32),
    /// Frames with a mark go to an interface.
    Member(&'a InterfaceName, u32),
}

/// A step of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) add: bool,
    pub(crate) element: Element<'a>,
}

impl Element<'_> {
    fn family(self) -> u8 {
        match self {
            Element::Nat(_) => INET,
            Element::Source(..) | Element::Group(..) | Element::Member(..) => BRIDGE,
        }
    }

    fn set(self) -> &'static str {
        match self {
            Element::Source(..) => "source",
            Element::Nat(_) => "nat",
            Element::Group(..) => "group",
            Element::Member(..) => "member",
        }
    }

    /// Parts of a key are in registers of 4 bytes each; marks are in the byte order of the machine.
    fn key(self) -> Vec<u8> {
        match self {
            Element::Source(interface, mac, address) => {
                [&name(interface)[..], &mac.0, &[0; 2], &address.octets()].concat()
            }
            Element::Nat(address) => address.octets().to_vec(),
            Element::Group(interface, _) => name(interface).to_vec(),
            Element::Member(interface, mark) => {
                [&name(interface)[..], &mark.to_ne_bytes()].concat()
            }
        }
    }

    fn data(self) -> Option<[u8; 4]> {
        match self {
            Element::Group(_, mark) => Some(mark.to_ne_bytes()),
            _ => None,
        }
    }
}

/// As nft(8) reads it behind `add element`.
impl fmt::Display for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family() == INET {
            "inet"
        } else {
            "bridge"
        };
        write!(f, "{family} {TABLE} {} {{ ", self.set())?;
        match self {
            Element::Source(interface, mac, address) => {
                write!(f, "\"{interface}\" . {mac} . {address}")
            }
            Element::Nat(address) => write!(f, "{address}"),
            Element::Group(interface, mark) => write!(f, "\"{interface}\" : {mark:#x}"),
            Element::Member(interface, mark) => write!(f, "\"{interface}\" . {mark:#x}"),
        }?;
        f.write_str(" }")
    }
}

fn name(interface: &InterfaceName) -> [u8; NAME] {
    let mut name = [0; NAME];
    let text = interface.as_str().as_bytes();
    name[..text.len()].copy_from_slice(text);
    name
}

/// One transaction. Its messages are numbered from 1; those between the first and the last are acknowledged.
pub(crate) fn batch(changes: &[Change<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    edge(&mut bytes, BATCH_BEGIN, 0);
    for (number, change) in (1..).zip(changes) {
        let (kind, flags) = match change.add {
            true => (NEW_ELEMENT, REQUEST | ACKNOWLEDGE | CREATE),
            false => (DELETE_ELEMENT, REQUEST | ACKNOWLEDGE),
        };
        let element = change.element;
        let kind = SUBSYSTEM << 8 | kind;
        message(
            &mut bytes,
            kind,
            flags,
            number,
            element.family(),
            0,
            |bytes| {
                attribute(bytes, LIST_TABLE, |b| string(b, TABLE));
                attribute(bytes, LIST_SET, |b| string(b, element.set()));
                attribute(bytes, LIST_ELEMENTS | NESTED, |bytes| {
                    attribute(bytes, ELEMENT | NESTED, |bytes| {
                        value(bytes, KEY, &element.key());
                        if let Some(data) = element.data().filter(|_| change.add) {
                            value(bytes, DATA, &data);
                        }
                    });
                });
            },
        );
    }
    edge(&mut bytes, BATCH_END, u32::MAX);
    bytes
}

fn edge(bytes: &mut Vec<u8>, kind: u16, number: u32) {
    message(bytes, kind, REQUEST, number, 0, SUBSYSTEM.to_be(), |_| {});
}

/// `struct nlmsghdr` and `struct nfgenmsg`, then attributes.
fn message(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    number: u32,
    family: u8,
    resource: u16,
    content: impl FnOnce(&mut Vec<u8>),
) {
    let start = bytes.len();
    bytes.extend([0; 4]);
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_ne_bytes());
    content(bytes);
    let length = (bytes.len() - start) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn value(bytes: &mut Vec<u8>, kind: u16, content: &[u8]) {
    attribute(bytes, kind | NESTED, |bytes| {
        attribute(bytes, VALUE, |bytes| bytes.extend(content));
    });
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

/// `struct nlattr`: the length counts the header and not what fills up to a multiple of 4.
fn attribute(bytes: &mut Vec<u8>, kind: u16, content: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 4]);
    content(bytes);
    // Elements are shorter than a kilobyte.
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// What the kernel says to a transaction: how many messages it acknowledges.
///
/// # Errors
/// The first error number in it; `EBADMSG` for what is no answer.
pub(crate) fn acknowledged(mut answers: &[u8]) -> Result<usize, i32> {
    const ERROR: u16 = 2;
    const HEADER: usize = 16;
    let mut count = 0;
    while !answers.is_empty() {
        let malformed = nix::libc::EBADMSG;
        let length = number(answers, 0).ok_or(malformed)? as usize;
        let answer = answers.get(..length).filter(|a| a.len() >= HEADER + 4);
        let answer = answer.ok_or(malformed)?;
        if u16::from_ne_bytes([answer[4], answer[5]]) == ERROR {
            match number(answer, HEADER).map(u32::cast_signed) {
                Some(0) => count += 1,
                Some(error) => return Err(error.wrapping_neg()),
                None => return Err(malformed),
            }
        }
        answers = answers
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(count)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is in a message, read as the kernel reads it.
    #[derive(Debug, PartialEq, Eq)]
    struct Read {
        kind: u16,
        flags: u16,
        number: u32,
        family: u8,
        strings: Vec<Vec<u8>>,
        key: Vec<u8>,
        data: Option<Vec<u8>>,
    }

    fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
            let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & !NESTED;
            found.push((kind, &bytes[4..length]));
            let end = length.next_multiple_of(4);
            assert!(bytes[length..end].iter().all(|byte| *byte == 0));
            bytes = &bytes[end..];
        }
        found
    }

    fn only(bytes: &[u8], kind: u16) -> &[u8] {
        let found = attributes(bytes);
        assert!(found.len() == 1 && found[0].0 == kind, "{found:?}");
        found[0].1
    }

    fn read(mut bytes: &[u8]) -> Vec<Read> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let length = number(bytes, 0).unwrap() as usize;
            assert_eq!(length % 4, 0);
            let (message, rest) = bytes.split_at(length);
            bytes = rest;
            let half = |at| u16::from_ne_bytes([message[at], message[at + 1]]);
            let mut read = Read {
                kind: half(4),
                flags: half(6),
                number: number(message, 8).unwrap(),
                family: message[16],
                strings: Vec::new(),
                key: Vec::new(),
                data: None,
            };
            for (kind, content) in attributes(&message[20..]) {
                if kind != LIST_ELEMENTS {
                    read.strings.push(content.to_vec());
                    continue;
                }
                for (kind, content) in attributes(only(content, ELEMENT)) {
                    let content = only(content, VALUE).to_vec();
                    match kind {
                        KEY => read.key = content,
                        _ => read.data = Some(content),
                    }
                }
            }
            messages.push(read);
        }
        messages
    }

    #[test]
    fn an_element_is_laid_out_as_the_kernel_reads_it() {
        let name = InterfaceName::try_from("bgt001122334455").unwrap();
        let mac = Mac([0x52, 0x54, 10, 83, 0, 2]);
        let source = Element::Source(&name, mac, Ipv4Addr::new(10, 83, 0, 2));
        assert_eq!(
            source.to_string(),
            "bridge banger source { \"bgt001122334455\" . 52:54:0a:53:00:02 . 10.83.0.2 }"
        );
        let bytes = batch(&[Change {
            add: true,
            element: source,
        }]);
        let messages = read(&bytes);
        assert_eq!(
            (messages[0].kind, messages[2].kind),
            (BATCH_BEGIN, BATCH_END)
        );
        assert_eq!(&bytes[18..20], [0, 10], "the subsystem, big endian");
        let element = &messages[1];
        assert_eq!(
            (element.kind, element.flags, element.number, element.family),
            (0xa0c, 0x405, 1, 7)
        );
        assert_eq!(
            element.strings,
            [b"banger\0".to_vec(), b"source\0".to_vec()]
        );
        assert_eq!(
            element.key,
            b"bgt001122334455\0\x52\x54\x0a\x53\x00\x02\0\0\x0a\x53\x00\x02"
        );
    }

    #[test]
    fn answers_are_counted_and_the_first_error_is_told() {
        let answer = |error: i32| {
            let mut bytes = vec![0; 36];
            bytes[0] = 36;
            bytes[4] = 2;
            bytes[16..20].copy_from_slice(&(-error).to_ne_bytes());
            bytes
        };
        assert_eq!(acknowledged(&[answer(0), answer(0)].concat()), Ok(2));
        let failed = [answer(0), answer(2), answer(17)].concat();
        assert_eq!(acknowledged(&failed), Err(2));
        assert_eq!(acknowledged(&failed[..50]), Err(nix::libc::EBADMSG));
        assert_eq!(acknowledged(&[]), Ok(0));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_again(
            steps in prop::collection::vec(("[a-z][a-z0-9-]{0,14}", any::<[u8; 6]>(), any::<u32>(), 0..4, any::<bool>()), 0..20)
        ) {
            let names: Vec<_> = steps.iter().map(|s| InterfaceName::try_from(&*s.0).unwrap()).collect();
            let changes: Vec<_> = steps.iter().zip(&names).map(|(step, name)| Change {
                add: step.4,
                element: match step.3 {
                    0 => Element::Source(name, Mac(step.1), step.2.into()),
                    1 => Element::Nat(step.2.into()),
                    2 => Element::Group(name, step.2),
                    _ => Element::Member(name, step.2),
                },
            }).collect();
            let messages = read(&batch(&changes));
            prop_assert_eq!(messages.len(), changes.len() + 2);
            for (number, (change, message)) in changes.iter().zip(&messages[1..]).enumerate() {
                let kind = if change.add { NEW_ELEMENT } else { DELETE_ELEMENT };
                prop_assert_eq!(message.kind, SUBSYSTEM << 8 | kind);
                prop_assert_eq!(message.number as usize, number + 1);
                prop_assert_eq!(message.family, change.element.family());
                prop_assert_eq!(&message.key, &change.element.key());
                let data = change.element.data().filter(|_| change.add);
                prop_assert_eq!(&message.data, &data.map(|d| d.to_vec()));
            }
        }

        #[test]
        fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = acknowledged(&bytes);
        }
    }
}
