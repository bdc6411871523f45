//! A bound on what clients send and the guest does not take.
//!
//! russh gives a channel's window back when bytes arrive, not when they were taken, and has no
//! other say in it than [`Handler::adjust_window`](russh::server::Handler::adjust_window), the next
//! window of all channels. Not to read the connection would be no answer: the client's own window
//! adjustments come the same way, so that output could never go on and free the input (a
//! decompressor deadlocks so). Hence, above [`HIGH`], windows are [`DRIP`] bytes, each of which is
//! the client's next look at them, and one read of the connection takes [`PAUSE`].

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// Each channel's window while the guest keeps up, in bytes.
pub(super) const WINDOW: u32 = 1 << 20;
/// Bytes of all channels that may wait before the client is slowed down.
const HIGH: usize = 8 << 20;
/// A client that sends more than its windows allow is cut off here.
const LIMIT: usize = 256 << 20;
/// The least window that russh ever gives back: it does so below half of it.
const DRIP: u32 = 2;
/// Between two reads of the connection while too much waits.
const PAUSE: Duration = Duration::from_millis(20);
/// Read at once.
const BUFFER: usize = 64 * 1024;

/// How many bytes wait.
#[derive(Debug, Default)]
pub(super) struct Flow {
    waiting: AtomicUsize,
    fell: Notify,
}

/// Bytes that wait; dropping it tells the flow that they do no more.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    flow: Arc<Flow>,
}

impl Flow {
    /// Counts bytes that arrived.
    ///
    /// # Errors
    /// The client ignores its windows.
    pub(super) fn hold(self: &Arc<Self>, bytes: &[u8]) -> Result<Held, russh::Error> {
        let before = self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        let held = Held {
            bytes: bytes.to_vec(),
            flow: Arc::clone(self),
        };
        if before > LIMIT {
            return Err(russh::Error::Inconsistent);
        }
        Ok(held)
    }

    /// The next window of all channels.
    pub(super) fn window(&self) -> u32 {
        if self.is_high() { DRIP } else { WINDOW }
    }

    fn is_high(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= HIGH
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let length = self.bytes.len();
        let before = self.flow.waiting.fetch_sub(length, Ordering::Relaxed);
        if before >= HIGH && before - length < HIGH {
            self.flow.fell.notify_one();
        }
    }
}

/// The connection, slowed down by a [`Flow`].
pub(super) struct Throttled {
    socket: BufReader<UnixStream>,
    flow: Arc<Flow>,
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// The pause before the next read is over.
    paused: bool,
}

impl Throttled {
    pub(super) fn new(socket: UnixStream, flow: Arc<Flow>) -> Throttled {
        Throttled {
            socket: BufReader::with_capacity(BUFFER, socket),
            flow,
            pause: None,
            paused: false,
        }
    }
}

impl AsyncRead for Throttled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // What is in the buffer is part of the last read.
        if !this.paused && this.socket.buffer().is_empty() && this.flow.is_high() {
            let flow = &this.flow;
            let pause = this.pause.get_or_insert_with(|| {
                let flow = Arc::clone(flow);
                Box::pin(async move {
                    let fell = pin!(flow.fell.notified());
                    let _ = tokio::time::timeout(PAUSE, fell).await;
                })
            });
            if pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            this.pause = None;
            this.paused = true;
        }
        let read = Pin::new(&mut this.socket).poll_read(context, buffer);
        if read.is_ready() {
            this.paused = false;
        }
        read
    }
}

impl AsyncWrite for Throttled {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn run<T>(test: impl Future<Output = T>) -> T {
        crate::runtime().unwrap().block_on(test)
    }

    #[test]
    fn windows_shrink_while_too_much_waits() {
        let flow = Arc::<Flow>::default();
        assert_eq!(flow.window(), WINDOW);
        let chunk = vec![0; HIGH / 4];
        let mut held: Vec<Held> = (0..4).map(|_| flow.hold(&chunk).unwrap()).collect();
        assert_eq!(flow.window(), DRIP);
        held.pop();
        assert_eq!(flow.window(), WINDOW);
    }

    #[test]
    fn a_client_that_ignores_its_windows_is_cut_off() {
        let flow = Arc::<Flow>::default();
        let chunk = vec![0; 16 << 20];
        let held: Vec<_> = (0..32).map_while(|_| flow.hold(&chunk).ok()).collect();
        assert!(
            held.len() <= LIMIT / chunk.len() + 1,
            "{} were taken",
            held.len()
        );
        assert!(flow.hold(b"more").is_err());
        drop(held);
        assert!(flow.hold(b"more").is_ok());
    }

    #[test]
    fn reads_go_on_slowly_and_all_arrives() {
        run(async {
            let flow = Arc::<Flow>::default();
            let held = flow.hold(&vec![0; HIGH]).unwrap();
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut throttled = Throttled::new(ours, flow);
            let text: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
            let writing = async {
                theirs.write_all(&text[..50_000]).await.unwrap();
                theirs.write_all(&text[50_000..]).await.unwrap();
                drop(theirs);
            };
            let mut read = Vec::new();
            let (_, result) = tokio::join!(writing, throttled.read_to_end(&mut read));
            result.unwrap();
            assert!(read == text, "{} bytes", read.len());
            drop(held);
        });
    }
}
