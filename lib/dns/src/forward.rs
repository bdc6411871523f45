//! Questions of guests that are not about VMs: asked again of the host's resolver, from a socket and with a
//! number of their own, so that nobody can answer in its place by guessing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use crate::Note;
use crate::respond::{MAX_UDP, Question, Reply, Transport};
use crate::upstream::Upstream;

/// For one server, before the next is asked.
const TRY: Duration = Duration::from_millis(1500);

/// For all of them: less than what a guest's libc waits for (5 s, resolv.conf(5)), so that it gets an answer.
const PATIENCE: Duration = Duration::from_millis(4500);

/// Questions that wait for an answer, of all guests and of one.
const IN_FLIGHT: usize = 512;
const IN_FLIGHT_OF_ONE: usize = 128;

/// Longest datagram of an upstream server that is read, in bytes.
const DATAGRAM: usize = 4096;

/// The forwarder; all of it runs in one thread.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstream: Upstream,
    own: Vec<SocketAddr>,
    in_flight: RefCell<HashMap<IpAddr, usize>>,
    note: Note,
}

/// A place among the questions in flight; given back when dropped.
pub(crate) struct Place {
    forwarder: Rc<Forwarder>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.forwarder.in_flight.borrow_mut();
        if let Some(count) = all.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.from);
            }
        }
    }
}

impl Forwarder {
    /// `own` are never asked.
    pub(crate) fn new(upstream: Upstream, own: Vec<SocketAddr>, note: Note) -> Rc<Self> {
        Rc::new(Forwarder {
            upstream,
            own,
            in_flight: RefCell::default(),
            note,
        })
    }

    /// Room for a question, or none.
    pub(crate) fn place(self: &Rc<Self>, from: IpAddr) -> Option<Place> {
        let mut all = self.in_flight.borrow_mut();
        let total: usize = all.values().sum();
        let own = all.entry(from).or_default();
        if total >= IN_FLIGHT || *own >= IN_FLIGHT_OF_ONE {
            if *own == 0 {
                all.remove(&from);
            }
            return None;
        }
        *own += 1;
        Some(Place {
            forwarder: self.clone(),
            from,
        })
    }

    /// Asks one server after the other; the answer says so when none has one.
    pub(crate) async fn ask(&self, question: &Question) -> Reply {
        let servers = self.upstream.servers(&self.own).unwrap_or_else(|error| {
            self.note
                .say(format!("the host's resolvers are not known: {error}"));
            Vec::new()
        });
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        // A packet may be lost: each server has two chances.
        for server in servers.iter().chain(&servers) {
            match timeout_at(deadline, timeout(TRY, self.ask_one(question, *server))).await {
                Ok(Ok(Ok(answer))) if is_final(&answer) => return relay(question, answer),
                Ok(Ok(Ok(answer))) => last = Some(answer),
                // It failed, or took too long: the next one.
                Ok(Ok(Err(_)) | Err(_)) => {}
                Err(_) => break,
            }
        }
        match last {
            Some(answer) => relay(question, answer),
            None => question.refused(ResponseCode::ServFail),
        }
    }

    async fn ask_one(&self, question: &Question, server: SocketAddr) -> io::Result<Message> {
        let mut number = [0; 2];
        getrandom::fill(&mut number).map_err(io::Error::other)?;
        let asked = upstream_question(question, u16::from_be_bytes(number))
            .ok_or(io::ErrorKind::InvalidInput)?;
        let bytes = asked.to_vec().map_err(io::Error::other)?;
        match question.transport() {
            Transport::Udp => datagram(&asked, &bytes, server).await,
            Transport::Tcp => stream(&asked, &bytes, server).await,
        }
    }
}

/// Another server may know better.
fn is_final(answer: &Message) -> bool {
    !matches!(
        answer.metadata.response_code,
        ResponseCode::ServFail
            | ResponseCode::Refused
            | ResponseCode::NotImp
            | ResponseCode::FormErr
    )
}

/// What is asked for a guest: its question and what it wants of it, and nothing else that it sent.
fn upstream_question(question: &Question, number: u16) -> Option<Message> {
    let mut message = Message::new(number, MessageType::Query, OpCode::Query);
    let from = question.asked_metadata();
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = from.checking_disabled;
    message.metadata.authentic_data = from.authentic_data;
    message.add_query(question.asked()?.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP);
    let secure = question.edns().is_some_and(|edns| edns.flags().dnssec_ok);
    edns.set_dnssec_ok(secure);
    message.set_edns(edns);
    Some(message)
}

/// A server's answer as the guest's.
fn relay(question: &Question, answer: Message) -> Reply {
    let mut metadata = question.metadata(answer.metadata.response_code);
    // What a guest without EDNS cannot be told is a failure (RFC 6891, section 7).
    if answer.metadata.response_code.high() > 0 && question.edns().is_none() {
        metadata.response_code = ResponseCode::ServFail;
    }
    metadata.recursion_available = true;
    metadata.truncation = answer.metadata.truncation;
    metadata.authentic_data = answer.metadata.authentic_data;
    if metadata.truncation {
        return question.reply(metadata, &[], &[], &[]);
    }
    question.reply(
        metadata,
        &answer.answers,
        &answer.authorities,
        &answer.additionals,
    )
}

/// An answer to what was asked, and to nothing else.
fn answers(asked: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let fits = answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.metadata.op_code == OpCode::Query
        && answer.queries == asked.queries;
    fits.then_some(answer)
}

async fn datagram(asked: &Message, bytes: &[u8], server: SocketAddr) -> io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // The kernel takes packets of this server only.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Something else: the right one may still come.
        if let Some(answer) = answers(asked, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

async fn stream(asked: &Message, bytes: &[u8], server: SocketAddr) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), bytes].concat();
    stream.write_all(&framed).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    answers(asked, &buffer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What a guest gets of an upstream server's bytes, for the fuzz target: the answer to the question, or
/// nothing when they are no answer to it.
pub fn relayed(question: &Question, bytes: &[u8]) -> Option<Reply> {
    // The number is the fuzzer's own.
    let number = bytes
        .first_chunk()
        .map_or(0, |chunk| u16::from_be_bytes(*chunk));
    let asked = upstream_question(question, number)?;
    Some(relay(question, answers(&asked, bytes)?))
}
