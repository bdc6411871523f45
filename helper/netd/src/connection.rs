//! One connection: hello, then one request after the other, each in a frame of limited size and time.
//! Descriptors come with the requests that say so, exactly as many, by way of a receiver, and go out with an answer.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use banger_proto::{
    Answer, Code, Decoder, Hello, MAX_DESCRIPTORS, MAX_REPLY, MAX_REQUEST, PROTOCOL, Refusal,
    Request, decode, encode,
};
use nix::sys::socket::{
    ControlMessage, MsgFlags, Shutdown, recv, recvmsg, sendmsg, setsockopt, shutdown, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::operations::Passed;
use crate::options::Limits;
use crate::receiver::{self, Received, Receiver, Receivers};
use crate::{PROGRAM, audit, sys};

/// Until a receiver is started again when that failed: the kernel does not tell when there are processes again.
const PAUSE: Duration = Duration::from_secs(1);

/// Who is at the other end, and what is done with what they pass.
pub(crate) struct Terms {
    pub(crate) uid: u32,
    pub(crate) limits: Limits,
    pub(crate) receivers: Rc<Receivers>,
    /// Some verb that is offered here has descriptors.
    pub(crate) takes: bool,
    /// A parent on a socket pair may take its time.
    pub(crate) patient: bool,
}

/// What came with a frame beside its bytes.
#[derive(Debug, Default)]
struct Beside {
    descriptors: Vec<OwnedFd>,
    came: usize,
    /// Why none of them are here.
    refused: Option<Refusal>,
    /// The last reference to them is its own.
    receiver: Option<Receiver>,
}

/// A request, and what is passed with it.
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) descriptors: Passed,
    /// To be dropped after them.
    pub(crate) receiver: Option<Receiver>,
}

pub(crate) struct Connection {
    stream: UnixStream,
    terms: Terms,
    decoder: Decoder,
    beside: Beside,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, terms: Terms) -> Self {
        // What is urgent would be dropped when what follows it is read (tcp(7), SO_OOBINLINE; unix sockets have it, too).
        let _ = setsockopt(&stream, sockopt::OobInline, &true);
        Connection {
            stream,
            terms,
            decoder: Decoder::new(MAX_REQUEST),
            beside: Beside::default(),
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
            Some(_) if self.beside.came > 0 => Err(invalid("descriptors came with the greeting")),
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
    pub(crate) async fn request(&mut self) -> Result<Option<Asked>, Refusal> {
        let Some(request) = self.receive::<Request>().await? else {
            return Ok(None);
        };
        let beside = std::mem::take(&mut self.beside);
        let wanted = request.descriptors();
        // A verb that has some where none are taken is not offered, and says so itself.
        if beside.came != wanted && (self.terms.takes || wanted == 0) {
            return Err(invalid(format!(
                "{} descriptors came, but `{}` has {wanted}",
                beside.came,
                request.verb()
            )));
        }
        Ok(Some(Asked {
            request,
            descriptors: beside.refused.map_or(Ok(beside.descriptors), Err),
            receiver: beside.receiver,
        }))
    }

    /// Ends it; what the caller passed and nobody received is not ours when it goes.
    pub(crate) async fn end(self) {
        // Neither hears any more of the other, so nothing more comes; it may have ended already.
        let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Both);
        let Terms { uid, receivers, .. } = &self.terms;
        let mut receiver = None;
        while receiver.is_none() && passes_something(&self.stream) {
            match receivers.hold(*uid, &self.stream).await {
                Ok(holder) => receiver = Some(holder),
                Err(error) => {
                    audit::note(&format!("what a caller passed has to wait: {error}"));
                    sleep(PAUSE).await;
                }
            }
        }
        drop(self);
        drop(receiver);
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
                Some(*deadline.get_or_insert_with(|| Instant::now() + self.terms.limits.frame))
            } else if self.terms.patient {
                None
            } else {
                Some(Instant::now() + self.terms.limits.idle)
            };
            let mut buffer = [0; 4096];
            let missing = self.decoder.missing().clamp(1, buffer.len());
            let read = self.read(&mut buffer[..missing]);
            let read = match limit {
                None => read.await,
                Some(limit) => match timeout_at(limit, read).await {
                    Ok(read) => read,
                    Err(_) if begun => {
                        let limit = self.terms.limits.frame;
                        return Err(invalid(format!("a frame took longer than {limit:?}")));
                    }
                    // A caller that has nothing to say is asked to come again.
                    Err(_) => return Ok(None),
                },
            };
            match read? {
                0 if begun => return Err(invalid("the caller left inside a frame")),
                0 => return Ok(None),
                length => self.decoder.push(&buffer[..length]),
            }
        }
    }

    /// At most as many bytes as there is room for.
    async fn read(&mut self, room: &mut [u8]) -> Result<usize, Refusal> {
        loop {
            self.stream.readable().await.map_err(gone)?;
            let stream = &self.stream;
            let peeked = stream.try_io(Interest::READABLE, || peek(stream, room));
            return match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => Err(gone(error)),
                Ok((_, true)) => self.receive_beside(room).await,
                Ok((length, false)) => {
                    // Nothing else reads them, and nothing is passed with them.
                    let number = stream.as_raw_fd();
                    recv(number, &mut room[..length], MsgFlags::empty())
                        .map_err(|error| gone(error.into()))
                }
            };
        }
    }

    /// Lets a receiver have what is next, and what is passed with it.
    async fn receive_beside(&mut self, room: &mut [u8]) -> Result<usize, Refusal> {
        let Terms {
            uid,
            limits,
            receivers,
            takes,
            ..
        } = &self.terms;
        let receiving = receivers.receive(*uid, &self.stream, room.len(), *takes);
        let received = match timeout(limits.frame, receiving).await {
            Ok(received) => received,
            Err(_) if receivers.exhausted(*uid) => {
                let message = "file systems of files that came before have not answered yet";
                return Err(Refusal::new(Code::Exhausted, message).hint(receiver::HINT));
            }
            Err(_) => {
                return Err(invalid(
                    "a descriptor that came could not be looked at in time",
                ));
            }
        };
        let received = received.map_err(|error| {
            Refusal::new(Code::Failed, format!("cannot receive descriptors: {error}"))
        })?;
        let length = received.bytes.len();
        room[..length].copy_from_slice(&received.bytes);
        // The kernel also tells of those behind these bytes.
        if received.came > 0 {
            self.keep(received)?;
        }
        Ok(length)
    }

    fn keep(&mut self, received: Received) -> Result<(), Refusal> {
        let came = received.came;
        if self.beside.came > 0 {
            return Err(invalid("descriptors came twice with a frame"));
        }
        if came > MAX_DESCRIPTORS {
            return Err(invalid(format!(
                "{came} descriptors came, the limit is {MAX_DESCRIPTORS}"
            )));
        }
        let (descriptors, refused) = match received.descriptors {
            Ok(descriptors) => (descriptors, None),
            Err(why) => {
                let message = format!("a descriptor that came {why}");
                let refusal = Refusal::new(Code::Invalid, message).hint(receiver::HINT);
                (Vec::new(), Some(refusal))
            }
        };
        self.beside = Beside {
            descriptors,
            came,
            refused,
            receiver: Some(received.receiver),
        };
        Ok(())
    }

    async fn send(
        &self,
        value: &impl Serialize,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), Refusal> {
        let bytes = encode(value, MAX_REPLY)
            .map_err(|error| Refusal::new(Code::Failed, format!("cannot answer: {error}")))?;
        let limit = self.terms.limits.frame;
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

/// What is next and fits, and whether descriptors are passed with any of it, or right behind it: for them there is no room,
/// and the kernel says so (recvmsg(2), MSG_CTRUNC; MSG_PEEK). They stay where they are.
fn peek(stream: &UnixStream, room: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut slices = [IoSliceMut::new(room)];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, None, flags)?;
    Ok((message.bytes, message.flags.contains(MsgFlags::MSG_CTRUNC)))
}

/// Whether there are descriptors in what nobody has read. One that cannot be asked may have some.
fn passes_something(stream: &UnixStream) -> bool {
    let Ok(unread) = sys::unread(stream) else {
        return true;
    };
    // As far as the first of them.
    unread > 0 && !peek(stream, &mut vec![0; unread]).is_ok_and(|(_, passes)| !passes)
}

fn invalid(what: impl ToString) -> Refusal {
    Refusal::new(Code::Invalid, what.to_string())
        .hint("use banger-net and banger-vm of the same version as banger-netd")
}

fn gone(error: io::Error) -> Refusal {
    Refusal::new(Code::Failed, format!("the caller is gone: {error}"))
}
