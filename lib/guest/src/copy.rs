//! Files between host and guest.

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use banger_tree::{Limits, Reader, Receive, Send, Summary, TreeError, Writer};
use banger_wire::agent::{Copied, Copy, Direction, Request, kind};

use crate::archive;
use crate::error::{Error, Result};
use crate::guest::{Guest, encode, parse};
use crate::wire::Wire;

/// How to copy.
#[derive(Default)]
pub struct CopyOptions<'a> {
    /// Keep owners, set-user-id bits and all attributes, as far as permitted.
    pub archive: bool,
    /// Follow a source that is a link.
    pub follow: bool,
    /// Whose rights count in the guest, as in [`crate::Exec::user`].
    pub user: Option<String>,
    /// The most that a guest may send, in bytes of content.
    pub limit: Option<u64>,
    /// Readable when the user wants to end it.
    pub interrupt: Option<BorrowedFd<'a>>,
}

/// What goes into a guest.
pub enum CopyIn<'a> {
    /// Files and directories of the host; `/.` at the end stands for the content of a directory.
    Paths(&'a [PathBuf]),
    /// A tar archive.
    Archive(&'a mut dyn Read),
}

/// Where the guest's files go.
pub enum CopyOut<'a> {
    /// To this path of the host, as cp(1) does.
    Path(&'a Path),
    /// Into a tar archive.
    Archive(&'a mut dyn Write),
}

impl Guest {
    /// Copies into the guest; `progress` hears of bytes.
    ///
    /// # Errors
    /// See [`Error`]. What was whole by then stays in the guest.
    pub fn copy_in(
        &self,
        source: CopyIn<'_>,
        target: &[u8],
        options: &CopyOptions<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Summary> {
        let several = match &source {
            CopyIn::Paths(paths) => paths.len() > 1,
            CopyIn::Archive(_) => true,
        };
        let call = Copy {
            direction: Direction::In,
            paths: vec![target.to_owned()],
            several,
            archive: options.archive,
            follow: false,
            user: options.user.clone(),
        };
        let wire = self.begin_copy(call, options)?;
        let mut writer = Writer::new(wire);
        let sent = match source {
            CopyIn::Paths(paths) => {
                let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
                let send = Send {
                    archive: options.archive,
                    follow: options.follow,
                    ..Send::default()
                };
                banger_tree::send(&mut writer, &paths, send, progress)
            }
            CopyIn::Archive(input) => archive::send(&mut writer, input, progress),
        };
        let sent = sent.and_then(|summary| {
            writer.done()?;
            Ok(summary)
        });
        let wire = writer.output();
        let mut summary = sent.map_err(|error| explain(wire, error))?;
        // So the guest need not wait for more. One that is gone has said why.
        let _ = wire.finish();
        let reply = wire.frame()?;
        if reply.kind != kind::REPLY {
            return Err(Error::Protocol(format!("a reply of kind {}", reply.kind)));
        }
        let copied: Copied = parse(&reply.payload)?;
        (summary.entries, summary.bytes) = (copied.entries, copied.bytes);
        Ok(summary)
    }

    /// Copies out of the guest; `progress` hears of bytes.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Tree`] for what the guest sent and was refused. What was whole by then
    /// stays.
    pub fn copy_out(
        &self,
        sources: &[Vec<u8>],
        target: CopyOut<'_>,
        options: &CopyOptions<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Summary> {
        let call = Copy {
            direction: Direction::Out,
            paths: sources.to_vec(),
            several: false,
            archive: options.archive,
            follow: options.follow,
            user: options.user.clone(),
        };
        let mut wire = self.begin_copy(call, options)?;
        let limits = Limits {
            bytes: options.limit.unwrap_or(u64::MAX),
            ..Limits::default()
        };
        let mut reader = Reader::new(&mut wire, limits);
        let received = match target {
            CopyOut::Path(path) => {
                let receive = Receive {
                    archive: options.archive,
                    several: sources.len() > 1,
                    ..Receive::default()
                };
                banger_tree::receive(&mut reader, path, &receive, progress)
            }
            CopyOut::Archive(output) => archive::receive(&mut reader, output, progress),
        };
        received.map_err(|error| explain(&mut wire, error))
    }

    fn begin_copy<'a>(&self, call: Copy, options: &CopyOptions<'a>) -> Result<Wire<'a>> {
        self.begin(&Request::Copy(call), options.interrupt)
    }

    /// Opens a call whose stream is raw behind the first answer.
    pub(crate) fn begin<'a>(
        &self,
        request: &Request,
        interrupt: Option<BorrowedFd<'a>>,
    ) -> Result<Wire<'a>> {
        let stream = self.dial(banger_wire::port::AGENT)?;
        let mut wire = Wire::new(stream, interrupt)?;
        wire.begin(&encode(request)?, self.patience())?;
        Ok(wire)
    }

    /// Sends and receives so many bytes that nobody looks at; returns how long each way took.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn measure(&self, bytes: u64) -> Result<(std::time::Duration, std::time::Duration)> {
        let mut wire = self.begin(&Request::Measure { bytes }, None)?;
        let mut buffer = vec![0; 64 * 1024];
        let begun = std::time::Instant::now();
        let mut left = bytes;
        while left > 0 {
            let count = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let sent = wire.write_all(&buffer[..count]);
            sent.map_err(|error| wire.explain(error))?;
            left -= count as u64;
        }
        wire.finish()?;
        // The guest begins to send when it has taken everything.
        let mut received = 0;
        let mut there = None;
        while received < bytes {
            match wire.read(&mut buffer) {
                Ok(0) => return Err(Error::ConnectionLost),
                Ok(count) => received += count as u64,
                Err(error) => return Err(wire.explain(error)),
            }
            there.get_or_insert_with(std::time::Instant::now);
        }
        let there = there.unwrap_or(begun);
        Ok((there - begun, there.elapsed()))
    }
}

pub(crate) fn explain(wire: &mut Wire<'_>, error: TreeError) -> Error {
    match error {
        TreeError::Stream(error) => wire.explain(error),
        error => Error::Tree(error),
    }
}
