//! A registry that misbehaves on demand: it serves one image, except where the test says otherwise.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::{Image, sha256};

/// What is sent for a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Status and header lines, without a body.
    Status(u16, &'static [&'static str]),
    /// Content type and body.
    Body(&'static str, Vec<u8>),
    /// As [`Answer::Body`], but the connection ends in the middle.
    Truncated(&'static str, Vec<u8>),
    /// As [`Answer::Truncated`], but the connection stays open until the client closes it.
    Stalled(&'static str, Vec<u8>),
    /// The connection is reset before anything is sent.
    Reset,
}

type Fault = dyn Fn(&str) -> Option<Answer> + Send + Sync;

/// Serves `test:latest` on a free port of loopback until the process ends.
#[derive(Debug)]
pub struct FaultyRegistry {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FaultyRegistry {
    /// Serves an image; `fault` sees each path (`/v2/test/manifests/latest`) and may answer it.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn serve(
        image: &Image,
        fault: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
    ) -> FaultyRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        let content = Arc::new(content(image));
        let fault: Arc<Fault> = Arc::new(fault);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (content, fault, log) = (content.clone(), fault.clone(), log.clone());
                // A client that goes away is its own affair.
                thread::spawn(move || answer(stream, &content, &*fault, &log));
            }
        });
        FaultyRegistry { address, requests }
    }

    /// The reference to pull.
    pub fn reference(&self) -> String {
        format!("{}/test:latest", self.address)
    }

    /// Paths that were asked for, in order.
    ///
    /// # Panics
    /// When a serving thread panicked.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no thread panicked").clone()
    }
}

fn content(image: &Image) -> HashMap<String, Answer> {
    let manifest = image.manifest();
    let config = image.config_blob();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let mut content = HashMap::from([
        (
            "/v2/".into(),
            Answer::Body("application/json", b"{}".into()),
        ),
        (
            format!("/v2/test/manifests/{}", sha256(&manifest)),
            Answer::Body(kind, manifest.clone()),
        ),
        (
            "/v2/test/manifests/latest".into(),
            Answer::Body(kind, manifest),
        ),
        (
            format!("/v2/test/blobs/{}", sha256(&config)),
            Answer::Body("application/octet-stream", config),
        ),
    ]);
    for layer in &image.layers {
        content.insert(
            format!("/v2/test/blobs/{}", layer.digest()),
            Answer::Body("application/octet-stream", layer.blob.clone()),
        );
    }
    content
}

fn answer(
    mut stream: TcpStream,
    content: &HashMap<String, Answer>,
    fault: &Fault,
    log: &Mutex<Vec<String>>,
) -> io::Result<()> {
    // Peeked, not read: a socket closed with unread bytes sends a reset.
    let mut peeked = [0; 4096];
    let mut line = String::new();
    while !line.contains('\n') {
        let length = stream.peek(&mut peeked)?;
        if length == 0 {
            return Ok(());
        }
        line = String::from_utf8_lossy(&peeked[..length]).into_owned();
    }
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let answer = fault(&path)
        .or_else(|| content.get(&path).cloned())
        .unwrap_or(Answer::Status(404, &[]));
    log.lock()
        .map_err(|_| io::Error::other("a thread panicked"))?
        .push(path);
    if matches!(answer, Answer::Reset) {
        return Ok(());
    }
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
    }
    let (status, headers, body) = match &answer {
        Answer::Status(status, headers) => (*status, headers.join("\r\n"), &[][..]),
        Answer::Body(kind, body) | Answer::Truncated(kind, body) | Answer::Stalled(kind, body) => (
            200,
            format!(
                "Content-Type: {kind}\r\nDocker-Content-Digest: {}",
                sha256(body)
            ),
            &body[..],
        ),
        Answer::Reset => return Ok(()),
    };
    let headers = if headers.is_empty() {
        headers
    } else {
        headers + "\r\n"
    };
    write!(
        stream,
        "HTTP/1.1 {status} Test\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )?;
    let end = match answer {
        _ if method == "HEAD" => 0,
        Answer::Truncated(..) | Answer::Stalled(..) => body.len() / 2,
        _ => body.len(),
    };
    stream.write_all(&body[..end])?;
    if matches!(answer, Answer::Stalled(..)) {
        reader.read_line(&mut String::new())?;
    }
    Ok(())
}
