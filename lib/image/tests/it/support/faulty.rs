//! A registry that serves what it is given, and misbehaves where a test says so.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::image::{Image, digest};

/// What happens to one request.
#[derive(Clone)]
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
}

/// A request: path, range, authorisation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<u64>,
    pub(crate) authorization: Option<String>,
}

type Script = dyn Fn(&Request, usize) -> Option<Fault> + Send + Sync;
type Content = HashMap<String, (String, Vec<u8>)>;

/// Serves until the process ends.
pub(crate) struct Faulty {
    pub(crate) address: String,
    log: Arc<Mutex<Vec<Request>>>,
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
        Faulty::start(content, script)
    }

    /// Serves one document as the manifest of `app:latest`, and nothing else.
    pub(crate) fn document(bytes: &[u8], media_type: &str) -> Self {
        let mut content = Content::new();
        content.insert("/v2/".into(), ("application/json".into(), b"{}".to_vec()));
        let path = "/v2/app/manifests/latest".to_owned();
        content.insert(path, (media_type.into(), bytes.to_vec()));
        Faulty::start(content, |_, _| None)
    }

    fn start(
        content: Content,
        script: impl Fn(&Request, usize) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared: Arc<(Content, Box<Script>, _)> =
            Arc::new((content, Box::new(script), log.clone()));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let (content, script, log) = &*shared;
                    // A client that goes away is part of the tests.
                    let _ = answer(stream, content, &**script, log);
                });
            }
        });
        Faulty { address, log }
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

fn answer(
    stream: TcpStream,
    content: &Content,
    script: &Script,
    log: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    let Some(request) = peek(&stream)? else {
        return Ok(());
    };
    let before = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.iter()
            .filter(|there| there.path == request.path)
            .count()
            - 1
    };
    let fault = script(&request, before);
    let known = content.get(request.path.split('?').next().unwrap_or_default());
    let (kind, body) = match (&fault, known) {
        (Some(Fault::Status(status, headers, body)), _) => {
            drain(&stream)?;
            return send(&stream, *status, headers, body.as_bytes(), None);
        }
        (Some(Fault::Instead(other)), _) => ("application/octet-stream".to_owned(), other.clone()),
        (_, Some(known)) => known.clone(),
        (_, None) => {
            drain(&stream)?;
            return send(&stream, 404, "", b"", None);
        }
    };
    let offset = match fault {
        Some(Fault::NoRanges) => None,
        _ => request.range.filter(|&offset| offset < body.len() as u64),
    };
    let body = &body[offset.map_or(0, |offset| usize::try_from(offset).unwrap())..];
    let status = if offset.is_some() { 206 } else { 200 };
    let headers = format!("Content-Type: {kind}\r\n");
    match fault {
        // A socket that is closed with unread bytes sends a reset: the request was only peeked.
        Some(Fault::Reset) => Ok(()),
        Some(Fault::ResetAfter(count)) => send(
            &stream,
            status,
            &headers,
            &body[..count.min(body.len())],
            Some(body.len()),
        ),
        Some(Fault::Short(count)) => {
            drain(&stream)?;
            send(
                &stream,
                status,
                &headers,
                &body[..count.min(body.len())],
                None,
            )
        }
        _ => {
            drain(&stream)?;
            send(&stream, status, &headers, body, None)
        }
    }
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
        path: text.split(' ').nth(1).unwrap_or_default().to_owned(),
        range,
        authorization: header("authorization"),
    }))
}

fn drain(stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.take(65536));
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    Ok(())
}
