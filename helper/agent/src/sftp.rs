//! The file transfer service: SFTP version 3 with OpenSSH's extensions, on standard input and output.
//!
//! A process of the user's own, so that the kernel checks every access, and a file that never
//! answers stops one transfer. Version 3 is draft-ietf-secsh-filexfer-02; extensions are in OpenSSH's
//! PROTOCOL. Our own, because names are bytes here and text in the libraries there are.

mod attributes;
mod error;
mod extended;
mod files;
mod long_name;
mod packet;

use std::io::{self, Read, Write};

use self::files::Files;
use self::packet::{MAX_PACKET, Reader, kind};

/// Answers are gathered up to so many bytes before they are written.
const OUTPUT: usize = 256 * 1024;
/// Read at once.
const INPUT: usize = 64 * 1024;

/// Serves until the client ends.
///
/// # Errors
/// The client broke the protocol, or went away.
pub(crate) fn main() -> Result<(), String> {
    let (stdin, stdout) = (io::stdin().lock(), io::stdout().lock());
    serve(stdin, stdout).map_err(|error| format!("sftp: {error}"))
}

fn serve(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut files = Files::default();
    let mut received = Vec::new();
    let mut start = 0;
    let mut answers = Vec::new();
    let mut buffer = vec![0; INPUT];
    loop {
        while let Some(packet) = packet::next(&received[start..])? {
            answer(&mut files, packet, &mut answers)?;
            start += 4 + packet.len();
            if answers.len() >= OUTPUT {
                output.write_all(&answers)?;
                answers.clear();
            }
        }
        received.drain(..start);
        start = 0;
        output.write_all(&answers)?;
        output.flush()?;
        answers.clear();
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => received.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        debug_assert!(received.len() <= MAX_PACKET + 4 + INPUT);
    }
}

/// One request, one answer.
fn answer(files: &mut Files, packet: &[u8], answers: &mut Vec<u8>) -> io::Result<()> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let (&kind, rest) = packet.split_first().ok_or_else(broken)?;
    let mut reader = Reader(rest);
    if kind == kind::INIT {
        packet::version(answers);
        return Ok(());
    }
    let id = reader.number().map_err(|_| broken())?;
    let begin = answers.len();
    if let Err(error) = files.request(kind, id, &mut reader, answers) {
        // What was begun of the answer is not one.
        answers.truncate(begin);
        packet::status(answers, id, error.code(), &error.to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_is_an_error_or_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut packets = Vec::new();
            // Reading requests only: what they write would be somebody's.
            for chunk in bytes.chunks(30) {
                let kinds = [kind::INIT, kind::CLOSE, kind::READ, kind::FSTAT, kind::READDIR, 99, 0];
                packets.extend((chunk.len() as u32 + 1).to_be_bytes());
                packets.push(kinds[usize::from(chunk[0]) % kinds.len()]);
                packets.extend(chunk);
            }
            packets.extend(&bytes);
            let mut output = Vec::new();
            let _ = serve(&packets[..], &mut output);
            prop_assert!(output.len() <= 100 * packets.len() + 1000);
        }
    }

    #[test]
    fn a_length_beyond_the_limit_ends_the_service() {
        let mut output = Vec::new();
        let error = serve(&[0xff, 0xff, 0xff, 0xff, 1][..], &mut output).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(output.is_empty());
    }
}
