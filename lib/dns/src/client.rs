//! One question to one server: what `banger-net dns query` and the doctor do. Blocking, without a runtime.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_server::proto::rr::{Name, RecordType};

use crate::DnsError;
use crate::respond::{MAX_UDP, Transport};

/// An answer, and how it came.
#[derive(Debug)]
pub struct Lookup {
    /// The question's name.
    pub name: String,
    /// The question's type.
    pub kind: String,
    /// The name of the code, such as `NOERROR`.
    pub code: String,
    /// The server answers from its own zones.
    pub authoritative: bool,
    /// Over which transport the whole answer came.
    pub transport: Transport,
    /// How long it took.
    pub took: Duration,
    /// The records that answer.
    pub records: Vec<LookedUp>,
}

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookedUp {
    /// Whose it is.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// How long it may be remembered, in seconds.
    pub ttl: u32,
    /// In the format of master files (RFC 1035, section 5).
    pub data: String,
}

/// Asks a server, by TCP when an answer does not fit into a packet.
///
/// # Errors
/// [`DnsError::Name`] and [`DnsError::Type`] for what cannot be asked; [`DnsError::Ask`] when nothing, or no
/// answer to the question, comes within `patience`.
pub fn look_up(
    server: SocketAddr,
    name: &str,
    kind: &str,
    transport: Option<Transport>,
    patience: Duration,
) -> Result<Lookup, DnsError> {
    let refused = |why: String| DnsError::Name {
        name: name.to_owned(),
        why,
    };
    let mut asked = Name::from_ascii(name).map_err(|error| refused(error.to_string()))?;
    asked.set_fqdn(true);
    let kind: RecordType = kind
        .to_ascii_uppercase()
        .parse()
        .map_err(|_| DnsError::Type(kind.to_owned()))?;
    let failed = |source| DnsError::Ask { server, source };
    let start = Instant::now();
    let deadline = start + patience;
    let (answer, transport) = ask(server, asked, kind, transport, deadline).map_err(failed)?;
    let records = answer.answers.iter().map(|record| LookedUp {
        name: record.name.to_string(),
        kind: record.record_type().to_string(),
        ttl: record.ttl,
        data: record.data.to_string(),
    });
    Ok(Lookup {
        name: answer.queries[0].name().to_string(),
        kind: kind.to_string(),
        code: code(&answer),
        authoritative: answer.metadata.authoritative,
        transport,
        took: start.elapsed(),
        records: records.collect(),
    })
}

/// As RFC 1035 and the registry of codes have it; hickory's own texts are for people.
fn code(answer: &Message) -> String {
    let number = u16::from(answer.metadata.response_code);
    match number {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        16 => "BADVERS",
        _ => return format!("RCODE{number}"),
    }
    .to_owned()
}

fn ask(
    server: SocketAddr,
    name: Name,
    kind: RecordType,
    transport: Option<Transport>,
    deadline: Instant,
) -> io::Result<(Message, Transport)> {
    let mut number = [0; 2];
    getrandom::fill(&mut number).map_err(io::Error::other)?;
    let mut asked = Message::new(
        u16::from_be_bytes(number),
        MessageType::Query,
        OpCode::Query,
    );
    asked.metadata.recursion_desired = true;
    asked.add_query(Query::query(name, kind));
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP);
    asked.set_edns(edns);
    let bytes = asked.to_vec().map_err(io::Error::other)?;
    if transport != Some(Transport::Tcp) {
        let answer = datagram(server, &asked, &bytes, deadline)?;
        if !answer.metadata.truncation || transport == Some(Transport::Udp) {
            return Ok((answer, Transport::Udp));
        }
    }
    let answer = stream(server, &asked, &bytes, deadline)?;
    Ok((answer, Transport::Tcp))
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn datagram(
    server: SocketAddr,
    asked: &Message,
    bytes: &[u8],
    deadline: Instant,
) -> io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.send(bytes)?;
    let mut buffer = [0; 4096];
    loop {
        socket.set_read_timeout(Some(left(deadline)?))?;
        let length = match socket.recv(&mut buffer) {
            // That is how a timeout looks (socket(7), SO_RCVTIMEO).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            length => length?,
        };
        if let Some(answer) = answers(asked, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

fn stream(
    server: SocketAddr,
    asked: &Message,
    bytes: &[u8],
    deadline: Instant,
) -> io::Result<Message> {
    let mut stream = TcpStream::connect_timeout(&server, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat())?;
    stream.set_read_timeout(Some(left(deadline)?))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut buffer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut buffer)?;
    answers(asked, &buffer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn answers(asked: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let fits = answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == asked.queries;
    fits.then_some(answer)
}
