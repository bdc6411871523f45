//! One connection: hello, then one request after the other, each in a frame of limited size and time.
//! Descriptors come with the requests that say so, exactly as many, and go out with an answer.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use banger_proto::{
    Answer, Code, Decoder, Hello, MAX_DESCRIPTORS, MAX_REPLY, MAX_REQUEST, PROTOCOL, Refusal,
    Request, decode, encode,
};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::options::Limits;
use crate::{PROGRAM, sys};

pub(crate) struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    /// Came with the frame that is being received.
    descriptors: Vec<OwnedFd>,
    /// Some verb that is offered here has any. Otherwise none come into this process: the server of one of a FUSE file
    /// system could hold up each close(2) and execve(2) of ours (FUSE_FLUSH; fuse_flush() waits without end).
    takes: bool,
    /// Some came with that frame, and were not taken.
    dropped: bool,
    limits: Limits,
    /// A parent on a socket pair may take its time.
    patient: bool,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, limits: Limits, takes: bool, patient: bool) -> Self {
        Connection {
            stream,
            decoder: Decoder::new(MAX_REQUEST),
            descriptors: Vec::new(),
            takes,
            dropped: false,
            limits,
            patient,
        }
    }

    /// Says hello, or why not.
    ///
    /// # Errors
    /// A caller that is gone, or that speaks another protocol.
    pub(crate) async fn greet(&mut self, welcome: Result<(), &Refusal>) -> Result<(), Refusal> {
        let ours: Result<Hello, &Refusal> = welcome.map(|()| Hello::new(PROGRAM));
        self.send(&ours, None).await?;
        if welcome.is_err() {
            return Ok(());
        }
        match self.receive::<Hello>().await? {
            Some(_) if self.dropped || !self.descriptors.is_empty() => {
                Err(invalid("descriptors came with the greeting"))
            }
            Some(hello) if hello.protocol == PROTOCOL => Ok(()),
            Some(hello) => Err(invalid(format!(
                "the caller speaks protocol {}, this is {PROTOCOL}",
                hello.protocol
            ))),
            None => Err(invalid("the caller said nothing")),
        }
    }

    /// The next request; `None` when the caller is done.
    ///
    /// # Errors
    /// A frame that is not understood, too long or too slow, or other descriptors than the request has; the
    /// connection is over.
    pub(crate) async fn request(&mut self) -> Result<Option<(Request, Vec<OwnedFd>)>, Refusal> {
        let Some(request) = self.receive::<Request>().await? else {
            return Ok(None);
        };
        let descriptors = std::mem::take(&mut self.descriptors);
        let dropped = std::mem::take(&mut self.dropped);
        let (came, wanted) = (descriptors.len(), request.descriptors());
        // A verb that has some where none are taken is not offered, and says so itself.
        let fits = match self.takes {
            true => came == wanted,
            false => !dropped || wanted > 0,
        };
        if fits {
            return Ok(Some((request, descriptors)));
        }
        let came = match dropped {
            true => "some".to_owned(),
            false => came.to_string(),
        };
        Err(invalid(format!(
            "{came} descriptors came, but `{}` has {wanted}",
            request.verb()
        )))
    }

    /// Answers, with a descriptor.
    ///
    /// # Errors
    /// A caller that is gone or does not read.
    pub(crate) async fn answer(
        &mut self,
        answer: &Answer,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), Refusal> {
        self.send(answer, descriptor).await
    }

    /// The limit of a frame counts from its first byte; before it, a caller may be idle for longer.
    async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Refusal> {
        let mut deadline = None;
        loop {
            if let Some(json) = self.decoder.next_frame().map_err(invalid)? {
                return decode(&json).map(Some).map_err(invalid);
            }
            let begun = self.decoder.is_inside();
            let limit = if begun {
                Some(*deadline.get_or_insert_with(|| Instant::now() + self.limits.frame))
            } else if self.patient {
                None
            } else {
                Some(Instant::now() + self.limits.idle)
            };
            let mut buffer = [0; 4096];
            let missing = self.decoder.missing().clamp(1, buffer.len());
            let room = &mut buffer[..missing];
            let taken = self.takes.then_some(&mut self.descriptors);
            let read = read(&self.stream, taken, &mut self.dropped, room);
            let read = match limit {
                None => read.await,
                Some(limit) => match timeout_at(limit, read).await {
                    Ok(read) => read,
                    Err(_) if begun => {
                        let limit = self.limits.frame;
                        return Err(invalid(format!("a frame took longer than {limit:?}")));
                    }
                    // A caller that has nothing to say is asked to come again.
                    Err(_) => return Ok(None),
                },
            };
            match read {
                Ok(0) if begun => return Err(invalid("the caller left inside a frame")),
                Ok(0) => return Ok(None),
                Ok(length) => self.decoder.push(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(invalid(error));
                }
                Err(error) => return Err(gone(error)),
            }
        }
    }

    async fn send(
        &self,
        value: &impl Serialize,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), Refusal> {
        let bytes = encode(value, MAX_REPLY)
            .map_err(|error| Refusal::new(Code::Failed, format!("cannot answer: {error}")))?;
        let limit = self.limits.frame;
        match timeout(limit, self.write(&bytes, descriptor)).await {
            Ok(written) => written.map_err(gone),
            Err(_) => Err(invalid(format!("the caller did not read within {limit:?}"))),
        }
    }

    async fn write(&self, mut bytes: &[u8], mut descriptor: Option<OwnedFd>) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            let stream = &self.stream;
            let written = stream.try_io(Interest::WRITABLE, || {
                send(stream, bytes, descriptor.as_ref())
            });
            match written {
                Ok(length) => {
                    bytes = &bytes[length..];
                    // It went with the first byte.
                    descriptor = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn send(stream: &UnixStream, bytes: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<usize> {
    let numbers: Vec<RawFd> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if numbers.is_empty() { &[] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(bytes)],
        rights,
        flags,
        None,
    )?)
}

async fn read(
    stream: &UnixStream,
    mut descriptors: Option<&mut Vec<OwnedFd>>,
    dropped: &mut bool,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        let read = stream.try_io(Interest::READABLE, || match &mut descriptors {
            Some(descriptors) => receive(stream, descriptors, buffer),
            None => receive_bytes(stream, dropped, buffer),
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// The kernel itself drops descriptors for which there is no room, and says so (recvmsg(2), MSG_CTRUNC).
fn receive_bytes(stream: &UnixStream, dropped: &mut bool, buffer: &mut [u8]) -> io::Result<usize> {
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, None, flags)?;
    *dropped |= message.flags.contains(MsgFlags::MSG_CTRUNC);
    Ok(message.bytes)
}

/// Descriptors beyond the limit are closed, and are an error.
fn receive(
    stream: &UnixStream,
    descriptors: &mut Vec<OwnedFd>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    // As many as the kernel passes at once (SCM_MAX_FD).
    let mut space = nix::cmsg_space!([RawFd; 253]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            descriptors.extend(numbers.into_iter().map(sys::adopt));
        }
    }
    let count = descriptors.len();
    if count > MAX_DESCRIPTORS || message.flags.contains(MsgFlags::MSG_CTRUNC) {
        descriptors.clear();
        let what = format!("{count} descriptors came, the limit is {MAX_DESCRIPTORS}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(message.bytes)
}

fn invalid(what: impl ToString) -> Refusal {
    Refusal::new(Code::Invalid, what.to_string())
        .hint("use banger-net and banger-vm of the same version as banger-netd")
}

fn gone(error: io::Error) -> Refusal {
    Refusal::new(Code::Failed, format!("the caller is gone: {error}"))
}
