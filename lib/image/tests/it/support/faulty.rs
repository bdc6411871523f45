//! A registry that serves what it is given, or passes on what another serves, and misbehaves where
//! a test says so.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::image::{Image, digest};

/// What happens to one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A status with header lines and a body.
    Status(u16, String, &'static str),
    /// The whole length is announced, then the connection is reset after this many bytes.
    ResetAfter(usize),
    /// Only this many bytes are announced and sent.
    Short(usize),
    /// Other bytes.
    Instead(Vec<u8>),
    /// The connection is reset without an answer.
    Reset,
    /// As [`Fault::Status`] 200, whatever was asked for, without ranges.
    NoRanges,
    /// Ranges begin one byte too late.
    WrongRange,
    /// The whole length is announced; after this many bytes nothing more comes.
    Stall(usize),
    /// Byte by byte, each in a packet of its own.
    Trickle,
    /// The byte at this place is another one.
    Corrupt(usize),
    /// A status, then bytes without end; with this length announced, if any.
    Endless(u16, Option<u64>),
}

/// A request: path, range, authorisation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) body: String,
    pub(crate) path: String,
    pub(crate) range: Option<u64>,
    pub(crate) authorization: Option<String>,
}

type Script = dyn Fn(&Request, usize) -> Option<Fault> + Send + Sync;
type Content = HashMap<String, (String, Vec<u8>)>;

/// Where answers come from.
enum Origin {
    Content(Content),
    /// Address of another registry.
    Upstream(String),
}

/// What the origin answers.
struct Known {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

/// Serves until the process ends.
pub(crate) struct Faulty {
    pub(crate) address: String,
    log: Arc<Mutex<Vec<Request>>>,
    sent: Arc<AtomicU64>,
}

/// What the threads of a server share.
struct Shared {
    origin: Origin,
    script: Box<Script>,
    log: Arc<Mutex<Vec<Request>>>,
    sent: Arc<AtomicU64>,
}

impl Faulty {
    /// Serves an image as `app:latest`. `script` sees each request and how often its path was
    /// asked for before.
    pub(crate) fn serve(
        image: &Image,
        script: impl Fn(&Request, usize) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let manifest = image.manifest();
        let kind = super::image::MANIFEST.to_owned();
        let mut content = Content::new();
        content.insert("/v2/".into(), ("application/json".into(), b"{}".to_vec()));
        for name in ["latest".to_owned(), digest(&manifest).to_string()] {
            let path = format!("/v2/app/manifests/{name}");
            content.insert(path, (kind.clone(), manifest.clone()));
        }
        for blob in image.blobs() {
            let path = format!("/v2/app/blobs/{}", digest(&blob));
            content.insert(path, ("application/octet-stream".into(), blob));
        }
        Faulty::start(Origin::Content(content), script)
    }

    /// Stands before another registry.
    pub(crate) fn before(
        address: &str,
        script: impl Fn(&Request, usize) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        Faulty::start(Origin::Upstream(address.to_owned()), script)
    }

    /// Serves one document as the manifest of `app:latest`, and nothing else.
    pub(crate) fn document(bytes: &[u8], media_type: &str) -> Self {
        let mut content = Content::new();
        content.insert("/v2/".into(), ("application/json".into(), b"{}".to_vec()));
        let path = "/v2/app/manifests/latest".to_owned();
        content.insert(path, (media_type.into(), bytes.to_vec()));
        Faulty::start(Origin::Content(content), |_, _| None)
    }

    fn start(
        origin: Origin,
        script: impl Fn(&Request, usize) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::new(AtomicU64::new(0));
        let shared = Arc::new(Shared {
            origin,
            script: Box::new(script),
            log: log.clone(),
            sent: sent.clone(),
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    // A client that goes away is part of the tests.
                    let _ = shared.answer(stream);
                });
            }
        });
        Faulty { address, log, sent }
    }

    /// Bytes of endless answers that could be sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    pub(crate) fn reference(&self) -> String {
        format!("{}/app", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// How often blobs were asked for.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.requests()
            .iter()
            .filter(|request| request.path.contains(path))
            .count()
    }
}

impl Shared {
    fn answer(&self, stream: TcpStream) -> io::Result<()> {
        let Some(mut request) = peek(&stream)? else {
            return Ok(());
        };
        if request.method == "POST" {
            request.body = drain(&stream)?;
        }
        let before = {
            let mut log = self.log.lock().unwrap();
            log.push(request.clone());
            log.iter()
                .filter(|there| there.path == request.path)
                .count()
                - 1
        };
        let fault = (self.script)(&request, before);
        // A socket that is closed with unread bytes sends a reset: the request was only peeked.
        if !matches!(fault, Some(Fault::Reset | Fault::ResetAfter(_))) && request.method != "POST" {
            drain(&stream)?;
        }
        match &fault {
            Some(Fault::Reset) => return Ok(()),
            Some(Fault::Status(status, headers, body)) => {
                return send(&stream, *status, headers, body.as_bytes(), None);
            }
            Some(Fault::Endless(status, length)) => return self.endless(&stream, *status, *length),
            _ => {}
        }
        let known = match &fault {
            Some(Fault::Instead(other)) => Known {
                status: 200,
                headers: "Content-Type: application/octet-stream\r\n".to_owned(),
                body: other.clone(),
            },
            _ => self.origin.get(&request)?,
        };
        if known.status != 200 {
            return send(&stream, known.status, &known.headers, &known.body, None);
        }
        let whole = &known.body;
        let late = u64::from(matches!(fault, Some(Fault::WrongRange)));
        let offset = match fault {
            Some(Fault::NoRanges) => None,
            _ => request
                .range
                .filter(|&offset| offset + late < whole.len() as u64),
        };
        let mut headers = known.headers;
        if let Some(offset) = offset {
            let (first, last) = (offset + late, whole.len() - 1);
            headers += &format!("Content-Range: bytes {first}-{last}/{}\r\n", whole.len());
        }
        let start = usize::try_from(offset.map_or(0, |offset| offset + late)).unwrap();
        let mut body = whole[start..].to_vec();
        let status = if offset.is_some() { 206 } else { 200 };
        let length = body.len();
        let some = |count: usize| &body[..count.min(length)];
        match fault {
            Some(Fault::ResetAfter(count)) => {
                send(&stream, status, &headers, some(count), Some(length))
            }
            Some(Fault::Short(count)) => send(&stream, status, &headers, some(count), None),
            Some(Fault::Stall(count)) => {
                send(&stream, status, &headers, some(count), Some(length))?;
                // Until the client closes.
                (&stream).read_exact(&mut [0])
            }
            Some(Fault::Trickle) => {
                stream.set_nodelay(true)?;
                send(&stream, status, &headers, &[], Some(length))?;
                body.chunks(1)
                    .try_for_each(|byte| (&stream).write_all(byte))
            }
            Some(Fault::Corrupt(at)) => {
                let at = at.min(length - 1);
                body[at] ^= 1;
                send(&stream, status, &headers, &body, None)
            }
            _ => send(&stream, status, &headers, &body, None),
        }
    }

    fn endless(&self, mut stream: &TcpStream, status: u16, length: Option<u64>) -> io::Result<()> {
        let length = length.map_or(String::new(), |length| {
            format!("Content-Length: {length}\r\n")
        });
        write!(
            stream,
            "HTTP/1.1 {status} Test\r\nConnection: close\r\nContent-Type: application/json\r\n{length}\r\n"
        )?;
        let chunk = [b' '; 64 << 10];
        loop {
            stream.write_all(&chunk)?;
            self.sent.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        }
    }
}

impl Origin {
    fn get(&self, request: &Request) -> io::Result<Known> {
        let path = request.path.split('?').next().unwrap_or_default();
        match self {
            Origin::Content(content) => Ok(match content.get(path) {
                Some((kind, body)) => Known {
                    status: 200,
                    headers: format!("Content-Type: {kind}\r\n"),
                    body: body.clone(),
                },
                None => Known {
                    status: 404,
                    headers: String::new(),
                    body: Vec::new(),
                },
            }),
            Origin::Upstream(address) => upstream(address, request),
        }
    }
}

/// Asks another registry for the whole of it.
fn upstream(address: &str, request: &Request) -> io::Result<Known> {
    let mut stream = TcpStream::connect(address)?;
    let authorization = match &request.authorization {
        Some(authorization) => format!("Authorization: {authorization}\r\n"),
        None => String::new(),
    };
    write!(
        stream,
        "GET {} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Accept: application/vnd.oci.image.manifest.v1+json, application/octet-stream\r\n{authorization}\r\n",
        request.path
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or(io::ErrorKind::InvalidData)?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let kept = [
        "content-type:",
        "www-authenticate:",
        "docker-content-digest:",
    ];
    let headers = lines
        .filter(|line| {
            kept.iter()
                .any(|name| line.to_ascii_lowercase().starts_with(name))
        })
        .map(|line| format!("{line}\r\n"))
        .collect();
    Ok(Known {
        status: status.ok_or(io::ErrorKind::InvalidData)?,
        headers,
        body: answer.split_off(end + 4),
    })
}

fn send(
    mut stream: &TcpStream,
    status: u16,
    headers: &str,
    body: &[u8],
    announced: Option<usize>,
) -> io::Result<()> {
    let length = announced.unwrap_or(body.len());
    write!(
        stream,
        "HTTP/1.1 {status} Test\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    stream.flush()
}

fn peek(stream: &TcpStream) -> io::Result<Option<Request>> {
    let mut buffer = [0; 8192];
    let text = loop {
        let count = stream.peek(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        if count == 0 {
            return Ok(None);
        }
        if text.contains("\r\n\r\n") {
            break text;
        }
        std::thread::yield_now();
    };
    let header = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let range = header("range").and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    });
    Ok(Some(Request {
        method: text.split(' ').next().unwrap_or_default().to_owned(),
        body: String::new(),
        path: text.split(' ').nth(1).unwrap_or_default().to_owned(),
        range,
        authorization: header("authorization"),
    }))
}

/// Reads the request; returns its body.
fn drain(stream: &TcpStream) -> io::Result<String> {
    let mut reader = BufReader::new(stream.take(65536));
    let mut line = String::new();
    let mut length = 0;
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}
