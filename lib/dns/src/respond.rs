//! From a packet to its answer, without a socket: this is what the fuzz target runs.
//!
//! The codec is hickory-server's. What is around it decides before the decoder what is worth decoding, and
//! cuts what is too long: an answer that does not fit is sent without records and with TC, so that no
//! client believes a part (RFC 2181, section 9).

use std::net::{IpAddr, SocketAddr};

use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Metadata, Query, ResponseCode};
use hickory_server::proto::rr::Record;
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::Request;
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::answer::answer;
use crate::table::{Table, View};

/// What a client of UDP gets at most, whatever it says it takes: more would be fragments (DNS flag day 2020).
pub(crate) const MAX_UDP: u16 = 1232;

/// Of clients without EDNS (RFC 1035, section 2.3.4).
const PLAIN_UDP: u16 = 512;

/// Longest question that is looked at, in bytes.
pub const MAX_REQUEST: usize = 4096;

const HEADER: usize = 12;

/// Whom a socket serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The host: our zones, everything else refused.
    Host,
    /// Guests: our zones as their policy says, everything else forwarded.
    Guests,
}

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// What to do about a packet.
#[derive(Debug)]
pub enum Reply {
    /// Nothing: it is no question, or comes from nobody who may ask.
    Silence,
    /// Send this.
    Bytes(Vec<u8>),
    /// Ask the host's resolver.
    Forward(Box<Question>),
}

/// A question that is somebody else's to answer.
#[derive(Debug)]
pub struct Question {
    request: Request,
    transport: Transport,
}

/// Answers a packet.
pub fn respond(
    bytes: &[u8],
    from: SocketAddr,
    transport: Transport,
    role: Role,
    table: &Table,
) -> Reply {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Reply::Silence;
    };
    // An answer (QR) is answered by nobody, or two servers would talk for ever.
    if header[2] & 0x80 != 0 || bytes.len() > MAX_REQUEST {
        return Reply::Silence;
    }
    let view = match (role, from.ip()) {
        (Role::Host, _) => View::Host,
        (Role::Guests, IpAddr::V4(address)) if table.covers(address) => View::Guest(address),
        (Role::Guests, _) => return Reply::Silence,
    };
    if header[2] & 0x78 != 0 {
        return Reply::Bytes(bare(header, ResponseCode::NotImp));
    }
    // Before the decoder makes room for what is announced: one question, nothing but it, and EDNS or the like.
    let counts = [4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    let [1, 0, 0, 0..=2] = counts else {
        return Reply::Bytes(bare(header, ResponseCode::FormErr));
    };
    let protocol = match transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    };
    let question = match Request::from_bytes(bytes.to_vec(), from, protocol) {
        Ok(request) => Question { request, transport },
        Err(_) => return Reply::Bytes(bare(header, ResponseCode::FormErr)),
    };
    let Some(query) = question.query() else {
        return Reply::Bytes(bare(header, ResponseCode::FormErr));
    };
    if question
        .request
        .edns
        .as_ref()
        .is_some_and(|edns| edns.version() > 0)
    {
        return question.refused(ResponseCode::BADVERS);
    }
    match (answer(table, view, query), role) {
        (Some(answer), _) => {
            let mut metadata = question.metadata(answer.code);
            metadata.authoritative = answer.code != ResponseCode::Refused;
            metadata.recursion_available = role == Role::Guests;
            question.reply(
                metadata,
                answer.answer.as_slice(),
                answer.authority.as_slice(),
                &[],
            )
        }
        (None, Role::Host) => question.refused(ResponseCode::Refused),
        (None, Role::Guests) => match view {
            View::Guest(address)
                if table.may_ask_the_world(address)
                    && question.request.metadata.recursion_desired =>
            {
                Reply::Forward(Box::new(question))
            }
            _ => question.refused(ResponseCode::Refused),
        },
    }
}

impl Question {
    fn query(&self) -> Option<&Query> {
        match self.request.queries.queries() {
            [query] => Some(query.original()),
            _ => None,
        }
    }

    /// What is asked; `None` never comes out of [`respond`].
    pub(crate) fn asked(&self) -> Option<&Query> {
        self.query()
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// The client's EDNS.
    pub(crate) fn edns(&self) -> Option<&Edns> {
        self.request.edns.as_ref()
    }

    /// Of the client's question.
    pub(crate) fn asked_metadata(&self) -> &Metadata {
        &self.request.metadata
    }

    /// The header of an answer.
    pub(crate) fn metadata(&self, code: ResponseCode) -> Metadata {
        let mut metadata = Metadata::response_from_request(&self.request.metadata);
        metadata.response_code = code;
        metadata
    }

    /// An answer without records.
    pub(crate) fn refused(&self, code: ResponseCode) -> Reply {
        self.reply(self.metadata(code), &[], &[], &[])
    }

    /// For a client that has too many questions open.
    pub(crate) fn busy(&self) -> Reply {
        self.refused(ResponseCode::ServFail)
    }

    /// An answer, cut to what the client takes.
    pub(crate) fn reply(
        &self,
        metadata: Metadata,
        answers: &[Record],
        authority: &[Record],
        additional: &[Record],
    ) -> Reply {
        let limit = match (self.transport, self.edns()) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => usize::from(PLAIN_UDP),
            (Transport::Udp, Some(edns)) => {
                usize::from(edns.max_payload().clamp(PLAIN_UDP, MAX_UDP))
            }
        };
        let whole = self.encode(metadata, answers, authority, additional);
        if let Some(bytes) = whole.filter(|bytes| bytes.len() <= limit) {
            return Reply::Bytes(bytes);
        }
        let mut cut = metadata;
        cut.truncation = true;
        match self.encode(cut, &[], &[], &[]) {
            Some(bytes) => Reply::Bytes(bytes),
            None => Reply::Silence,
        }
    }

    fn encode(
        &self,
        metadata: Metadata,
        answers: &[Record],
        authority: &[Record],
        additional: &[Record],
    ) -> Option<Vec<u8>> {
        let edns = self.edns().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        let response = MessageResponseBuilder::new(&self.request.queries, edns.as_ref())
            .build(metadata, answers, authority, None, additional);
        let mut bytes = Vec::with_capacity(usize::from(PLAIN_UDP));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        response.destructive_emit(&mut encoder).ok()?;
        Some(bytes)
    }
}

/// An answer that is only a header, to what was not decoded.
fn bare(header: &[u8; HEADER], code: ResponseCode) -> Vec<u8> {
    let mut answer = vec![0; HEADER];
    answer[..2].copy_from_slice(&header[..2]);
    // QR, and of the question: opcode and RD.
    answer[2] = 0x80 | header[2] & 0x79;
    answer[3] = code.low();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::{file, record};
    use hickory_server::proto::op::{Message, MessageType, OpCode};
    use hickory_server::proto::rr::{Name, RecordType};

    fn table() -> Table {
        let mut out = record("dev", "ann", 2);
        out.nat = true;
        Table::parse(&file(&[out, record("in", "ann", 3)])).unwrap()
    }

    fn packet(name: &str, change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        change(&mut message);
        message.to_vec().unwrap()
    }

    fn ask(packet: &[u8], role: Role, from: &str) -> Reply {
        respond(
            packet,
            from.parse().unwrap(),
            Transport::Udp,
            role,
            &table(),
        )
    }

    fn host(packet: &[u8]) -> Message {
        match ask(packet, Role::Host, "127.0.0.1:9") {
            Reply::Bytes(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_case_of_a_question_comes_back() {
        let packet = packet("dEv.Vm.", |_| {});
        let Reply::Bytes(bytes) = ask(&packet, Role::Host, "127.0.0.1:9") else {
            panic!("no answer");
        };
        assert_eq!(
            bytes[12..packet.len()],
            packet[12..],
            "the question as it was"
        );
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.answers[0].name.to_string(), "dEv.Vm.");
        assert!(message.metadata.authoritative && !message.metadata.recursion_available);
        assert!(message.edns.is_none(), "who has no EDNS gets none");
    }

    #[test]
    fn what_is_not_ours_is_refused_and_what_is_no_question_is_not_answered() {
        assert_eq!(
            host(&packet("example.org.", |_| {})).metadata.response_code,
            ResponseCode::Refused
        );
        let update = packet("dev.vm.", |m| m.metadata.op_code = OpCode::Update);
        assert_eq!(host(&update).metadata.response_code, ResponseCode::NotImp);
        let two = packet("dev.vm.", |m| {
            let again = m.queries[0].clone();
            m.add_query(again);
        });
        assert_eq!(host(&two).metadata.response_code, ResponseCode::FormErr);
        let later = packet("dev.vm.", |m| {
            let mut edns = Edns::new();
            edns.set_version(1);
            m.set_edns(edns);
        });
        // BADVERS; 16 has two names.
        assert_eq!(u16::from(host(&later).metadata.response_code), 16);
        let answer = packet("dev.vm.", |m| {
            m.metadata.message_type = MessageType::Response
        });
        for silent in [&answer[..], b"short", &[]] {
            assert!(matches!(
                ask(silent, Role::Host, "127.0.0.1:9"),
                Reply::Silence
            ));
        }
        let mut cut = packet("dev.vm.", |_| {});
        cut.truncate(14);
        assert_eq!(host(&cut).metadata.response_code, ResponseCode::FormErr);
    }

    #[test]
    fn guests_ask_from_the_network_and_about_themselves() {
        let own = packet("dev.vm.", |_| {});
        assert!(matches!(
            ask(&own, Role::Guests, "192.0.2.1:9"),
            Reply::Silence
        ));
        assert!(matches!(
            ask(&own, Role::Guests, "[fe80::1]:9"),
            Reply::Silence
        ));
        assert!(matches!(
            ask(&own, Role::Guests, "10.83.0.2:9"),
            Reply::Bytes(_)
        ));
        let world = packet("example.org.", |_| {});
        assert!(matches!(
            ask(&world, Role::Guests, "10.83.0.2:9"),
            Reply::Forward(_)
        ));
        assert!(matches!(
            ask(&world, Role::Guests, "10.83.0.1:9"),
            Reply::Forward(_)
        ));
        for closed in ["10.83.0.3:9", "10.83.0.99:9"] {
            assert!(
                matches!(ask(&world, Role::Guests, closed), Reply::Bytes(_)),
                "{closed}"
            );
        }
        let mut alone = world.clone();
        alone[2] &= !1;
        assert!(matches!(
            ask(&alone, Role::Guests, "10.83.0.2:9"),
            Reply::Bytes(_)
        ));
    }

    #[test]
    fn what_does_not_fit_is_cut_as_a_whole() {
        let record = Record::from_rdata(
            Name::from_ascii("example.org.").unwrap(),
            1,
            hickory_server::proto::rr::RData::TXT(hickory_server::proto::rr::rdata::TXT::new(
                vec!["x".repeat(200)],
            )),
        );
        let many = vec![record; 5];
        let question = |change: fn(&mut Message), transport| {
            let from = "10.83.0.2:9".parse().unwrap();
            let packet = packet("example.org.", change);
            match respond(&packet, from, transport, Role::Guests, &table()) {
                Reply::Forward(question) => question,
                other => panic!("{other:?}"),
            }
        };
        let length = |question: &Question, count: usize| {
            let metadata = question.metadata(ResponseCode::NoError);
            let Reply::Bytes(bytes) = question.reply(metadata, &many[..count], &[], &[]) else {
                panic!("no answer");
            };
            let message = Message::from_vec(&bytes).unwrap();
            (
                message.answers.len(),
                message.metadata.truncation,
                message.edns.is_some(),
            )
        };
        let plain = question(|_| {}, Transport::Udp);
        assert_eq!(length(&plain, 2), (2, false, false));
        assert_eq!(length(&plain, 3), (0, true, false));
        let large = |m: &mut Message| {
            let mut edns = Edns::new();
            edns.set_max_payload(4096);
            m.set_edns(edns);
        };
        let edns = question(large, Transport::Udp);
        assert_eq!(length(&edns, 5), (5, false, true));
        assert_eq!(
            length(&question(|_| {}, Transport::Tcp), 5),
            (5, false, false)
        );
    }
}
