//! Records that another command wrote into our standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;

use lib_model::Record;

use crate::Failure;

const LINE_LIMIT: u64 = 4 << 20;

/// Standard input is a pipe, a socket or a file: somebody may have written records into it. A
/// terminal and `/dev/null` are not.
pub fn stdin_is_data() -> bool {
    let Ok(descriptor) = io::stdin().as_fd().try_clone_to_owned() else {
        return false;
    };
    File::from(descriptor).metadata().is_ok_and(|metadata| {
        let kind = metadata.file_type();
        kind.is_fifo() || kind.is_file() || kind.is_socket()
    })
}

/// Records from standard input, each as soon as its line is there.
pub struct StdinRecords<R> {
    reader: BufReader<R>,
    expected: &'static str,
    line: u64,
    ended: bool,
}

impl StdinRecords<io::Stdin> {
    /// `expected` says what the command needs: `image`, `VM`.
    pub fn new(expected: &'static str) -> Self {
        StdinRecords::from_reader(io::stdin(), expected)
    }
}

impl<R: Read> StdinRecords<R> {
    pub(crate) fn from_reader(reader: R, expected: &'static str) -> Self {
        StdinRecords {
            reader: BufReader::new(reader),
            expected,
            line: 0,
            ended: false,
        }
    }

    fn refused(&self, reason: &str) -> Failure {
        Failure::usage(format!("line {} of standard input {reason}", self.line)).hint(format!(
            "pipe the output of a banger command into this one, or name the {} as an argument",
            self.expected
        ))
    }

    fn next_record(&mut self) -> Result<Option<Record>, Failure> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.reader)
                .take(LINE_LIMIT)
                .read_until(b'\n', &mut line)
                .map_err(|error| Failure::io("read standard input", error))?;
            if read == 0 && self.line == 0 {
                return Err(Failure::usage(format!(
                    "standard input is empty, but {} records were expected",
                    self.expected
                ))
                .hint(format!(
                    "name the {} as an argument; if this is the end of a pipe, the command before it failed",
                    self.expected
                )));
            }
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if read as u64 == LINE_LIMIT && line.last() != Some(&b'\n') {
                return Err(self.refused("is too long to be a record"));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            return match serde_json::from_slice(&line) {
                Ok(record) => Ok(Some(record)),
                Err(error) => Err(self.refused(&format!("is no record ({error})"))),
            };
        }
    }
}

impl<R: Read> Iterator for StdinRecords<R> {
    type Item = Result<Record, Failure>;

    /// The first error is the last item: what follows a line that is no record cannot be trusted.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_record().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Record>, String> {
        StdinRecords::from_reader(text.as_bytes(), "VM")
            .collect::<Result<_, _>>()
            .map_err(|failure: Failure| {
                let mut text = Vec::new();
                failure.print(&mut text);
                String::from_utf8(text).unwrap()
            })
    }

    #[test]
    fn nothing_and_nonsense_are_usage_errors_that_say_what_was_expected() {
        let error = all("").unwrap_err();
        assert!(
            error.contains("VM records were expected") && error.contains("hint:"),
            "{error}"
        );
        assert_eq!(StdinRecords::from_reader(&b""[..], "VM").count(), 1);
        let error = all("\nhello\n").unwrap_err();
        assert!(
            error.contains("line 2 of standard input is no record"),
            "{error}"
        );
        let error = all(r#"{"kind":"teapot"}"#).unwrap_err();
        assert!(error.contains("teapot"), "{error}");
    }
}
