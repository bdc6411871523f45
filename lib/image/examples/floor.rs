//! The parts of a pull that no program can do without, each alone, for `cargo xtask bench image`:
//! `floor download ADDRESS PATH…`, `digest BLOB…`, `unpack BLOB…`, `write FILE BYTES`.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc::O_DIRECT;
use sha2::{Digest, Sha256};

type Result = std::result::Result<(), Box<dyn Error>>;

const BUFFER: usize = 256 << 10;

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &words[..] {
        ["download", address, paths @ ..] => paths.iter().try_for_each(|p| download(address, p)),
        ["digest", blobs @ ..] => blobs.iter().try_for_each(|blob| digest(blob)),
        ["unpack", blobs @ ..] => blobs.iter().try_for_each(|blob| unpack(blob)),
        ["write", file, bytes] => write(file, bytes.parse()?),
        _ => Err("usage: floor download|digest|unpack|write …".into()),
    }
}

/// Receives a blob over HTTP and forgets it.
fn download(address: &str, path: &str) -> Result {
    let mut stream = TcpStream::connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::with_capacity(BUFFER, stream);
    let mut status = String::new();
    reader.read_line(&mut status)?;
    if !status.contains(" 200 ") {
        return Err(format!("{path}: {status}").into());
    }
    drain(reader, |_| {})
}

/// Reads a blob and computes its digest.
fn digest(blob: &str) -> Result {
    let mut hasher = Sha256::new();
    drain(File::open(blob)?, |bytes| hasher.update(bytes))?;
    shown(hasher)
}

/// Decompresses a blob and computes the digest of what comes out.
fn unpack(blob: &str) -> Result {
    let mut reader = BufReader::with_capacity(BUFFER, File::open(blob)?);
    let mut hasher = Sha256::new();
    if reader.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        let gzip = flate2::bufread::MultiGzDecoder::new(reader);
        drain(gzip, |bytes| hasher.update(bytes))?;
    } else {
        let zstd = zstd::stream::read::Decoder::with_buffer(reader)?;
        drain(zstd, |bytes| hasher.update(bytes))?;
    }
    shown(hasher)
}

/// Writes a file, past the page cache where that is possible, and waits until it is on the disk.
fn write(path: &str, bytes: u64) -> Result {
    const ALIGN: usize = 4096;
    const WRITE: usize = 1 << 20;
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    let direct = options.clone().custom_flags(O_DIRECT).open(path);
    let mut file = direct.or_else(|_| options.open(path))?;
    let memory = vec![0x5a; WRITE + ALIGN];
    let start = memory.as_ptr().align_offset(ALIGN);
    let mut left = bytes.next_multiple_of(ALIGN as u64);
    while left > 0 {
        let count = left.min(WRITE as u64) as usize;
        file.write_all(&memory[start..start + count])?;
        left -= count as u64;
    }
    Ok(file.sync_data()?)
}

fn drain(mut reader: impl Read, mut take: impl FnMut(&[u8])) -> Result {
    let mut buffer = vec![0; BUFFER];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Prints the digest, so that nothing of it can be left out.
fn shown(hasher: Sha256) -> Result {
    let digest = hasher.finalize();
    let mut out = io::stdout();
    for byte in digest {
        write!(out, "{byte:02x}")?;
    }
    Ok(writeln!(out)?)
}
