//! Threads of the agent that work on files as a user, and whose bytes it passes on.
//!
//! A process of the user's would do ([`crate::helper`]), but an emulated processor empties its caches at each change of
//! address space, and bytes that cross from one to the other cost two. A thread has credentials, a directory and a umask
//! of its own for the kernel (credentials(7)); it gives its rights away for good and ends with its work. Only its
//! effective ids are the user's, so that other processes of the user's cannot send it signals (kill(2)).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::pin::pin;
use std::sync::mpsc as spares;
use std::thread;
use std::time::Duration;

use banger_wire::agent::{CallError, CallErrorKind, Started, kind};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::caller::Caller;
use crate::channel::{Gone, Stream};
use crate::{account, spawn, sys};

/// Passed to a worker at once, in bytes: each time it wakes, and waits again.
const BATCH: usize = 512 * 1024;
/// On the way to a worker, beside the one that it works on.
const BATCHES: usize = 4;
/// Pieces on the way from a worker, each a frame of a tree: as many as it reads at once, so that they leave while it reads.
const PIECES: usize = 16;
/// What a caller sends waits for more at most so long: it may want an answer.
const PATIENCE: Duration = Duration::from_millis(20);

thread_local! {
    /// In a worker, where it says that it panicked.
    static PANICKED: RefCell<Option<oneshot::Sender<()>>> = const { RefCell::new(None) };
}

/// For the hook of panics: whether this thread is a worker; then its work has failed, and nothing else. Such a
/// thread must not go on, not even to unwind.
pub(crate) fn has_failed() -> bool {
    let panicked = PANICKED.try_with(|sender| sender.try_borrow_mut().ok()?.take());
    match panicked {
        Ok(Some(sender)) => sender.send(()).is_ok(),
        _ => false,
    }
}

/// What a worker does last, whatever ends it: it wakes who waits, and what that needs is gone when a thread's own values
/// are dropped.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        drop(PANICKED.take());
    }
}

/// All workers.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    running: Cell<usize>,
    closed: Cell<bool>,
    changed: Notify,
}

impl Workers {
    /// Lets a thread work with a user's rights until it has ended, which is soon after the caller is gone.
    ///
    /// # Errors
    /// No such user; whatever keeps the thread from beginning; its panic.
    pub(crate) async fn run(
        &self,
        user: &str,
        caller: &Caller,
        early: Vec<u8>,
        work: impl FnOnce(Input, Output) + Send + 'static,
    ) -> Result<(), CallError> {
        let account = account::find(user).map_err(spawn::bad_request)?;
        let credentials = spawn::credentials(&account);
        let (batches, receiver) = mpsc::channel(BATCHES);
        let (sender, pieces) = mpsc::channel(PIECES);
        let (used, spares) = spares::channel();
        let input = Input {
            receiver,
            pieces: VecDeque::new(),
            at: 0,
        };
        let output = Output { sender, spares };
        let (ready, begun) = oneshot::channel();
        let (panicking, mut ended) = oneshot::channel();
        let body = move || {
            PANICKED.set(Some(panicking));
            let _leave = Leave;
            let rights = sys::take_rights(credentials.as_ref());
            let allowed = rights.is_ok();
            if ready.send(rights).is_ok() && allowed {
                // Who interrupts nobody gets larger batches.
                let _ = sys::never_preempt();
                work(input, output);
            }
        };
        let failed = |error: io::Error| spawn::failed("start a thread", &error);
        sys::keep_freed_memory();
        thread::Builder::new()
            .name("worker".to_owned())
            .spawn(body)
            .map_err(failed)?;
        self.running.set(self.running.get() + 1);
        let begun = match begun.await {
            Ok(rights) => rights.map_err(failed),
            Err(_) => Err(failed(io::ErrorKind::Other.into())),
        };
        let mut panicked = None;
        if begun.is_ok() {
            // One that panicked holds its ends for ever.
            let panic = async {
                panicked = Some((&mut ended).await.is_ok());
                if panicked == Some(false) {
                    std::future::pending::<()>().await;
                }
            };
            // Dropping our ends is what ends the worker when the caller is gone.
            tokio::select! {
                _gone = self.pass(caller, batches, early, pieces, used) => {}
                () = panic => {}
            }
        }
        let panicked = match panicked {
            Some(panicked) => panicked,
            None => ended.await.is_ok(),
        };
        self.running.set(self.running.get() - 1);
        self.changed.notify_waiters();
        if self.running.get() == 0 {
            sys::free_kept_memory();
        }
        begun?;
        match panicked {
            false => Ok(()),
            true => Err(CallError {
                kind: CallErrorKind::Failed,
                message: "a bug in the guest's agent; it is on the guest's console".to_owned(),
            }),
        }
    }

    async fn pass(
        &self,
        caller: &Caller,
        batches: mpsc::Sender<Batch>,
        early: Vec<u8>,
        mut pieces: mpsc::Receiver<Vec<u8>>,
        used: spares::Sender<Vec<u8>>,
    ) -> Result<(), Gone> {
        caller.send_json(kind::STARTED, &Started { pid: 0 }).await?;
        let up = async {
            feed(caller.stream(), batches, early).await?;
            // What the worker says is still to be passed on.
            std::future::pending::<Result<(), Gone>>().await
        };
        let down = async {
            while let Some(piece) = pieces.recv().await {
                caller.stream().send(&piece).await?;
                let _ = used.send(piece);
            }
            Ok(())
        };
        tokio::select! {
            gone = up => gone,
            ended = down => ended,
            () = self.close_requested() => Err(Gone),
        }
    }

    /// Ends all work, as if the callers were gone; for the guest's end.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.changed.notify_waiters();
    }

    async fn close_requested(&self) {
        self.until(|workers| workers.closed.get()).await;
    }

    /// Resolves when no worker is left.
    pub(crate) async fn all_gone(&self) {
        self.until(|workers| workers.running.get() == 0).await;
    }

    async fn until(&self, reached: impl Fn(&Workers) -> bool) {
        loop {
            let changed = self.changed.notified();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }
}

type Batch = VecDeque<Vec<u8>>;

/// What the caller sends, gathered into batches, until it has finished.
async fn feed(stream: &Stream, batches: mpsc::Sender<Batch>, early: Vec<u8>) -> Result<(), Gone> {
    let mut length = early.len();
    let mut batch = Batch::from([early]);
    let mut patience = pin!(sleep(PATIENCE));
    loop {
        let next = tokio::select! {
            biased;
            next = stream.receive() => Some(next?),
            // One timer a batch, and not a piece: they are not cheap to an emulated processor.
            () = &mut patience, if length > 0 => None,
        };
        let finished = next == Some(None);
        let more = next.flatten();
        let due = more.is_none();
        if let Some(bytes) = more {
            if length == 0 {
                patience.as_mut().reset(Instant::now() + PATIENCE);
            }
            length += bytes.len();
            batch.push_back(bytes);
        }
        if due || length >= BATCH {
            length = 0;
            if batches.send(std::mem::take(&mut batch)).await.is_err() {
                // The worker has heard enough.
                return Ok(());
            }
        }
        if finished {
            return Ok(());
        }
    }
}

/// What the caller sends, for a worker.
pub(crate) struct Input {
    receiver: mpsc::Receiver<Batch>,
    pieces: Batch,
    /// Read of the first piece.
    at: usize,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(piece) = self.pieces.front() else {
                match self.receiver.blocking_recv() {
                    Some(batch) => self.pieces = batch,
                    None => return Ok(0),
                }
                continue;
            };
            let count = buffer.len().min(piece.len() - self.at);
            buffer[..count].copy_from_slice(&piece[self.at..self.at + count]);
            self.at += count;
            if self.at == piece.len() {
                self.pieces.pop_front();
                self.at = 0;
            }
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
        }
    }
}

/// What a worker sends to the caller.
pub(crate) struct Output {
    sender: mpsc::Sender<Vec<u8>>,
    /// Buffers that have been sent.
    spares: spares::Receiver<Vec<u8>>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut piece = self.spares.try_recv().unwrap_or_default();
        piece.clear();
        for slice in slices {
            piece.extend_from_slice(slice);
        }
        let length = piece.len();
        let sent = self.sender.blocking_send(piece);
        sent.map_err(|_gone| io::ErrorKind::BrokenPipe)?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{Gid, Uid};

    fn status(thread: &str) -> Vec<String> {
        let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
        let lines = status.lines().filter_map(|line| line.split_once(":\t"));
        let of = |name: &str| {
            lines
                .clone()
                .find(|(key, _)| *key == name)
                .unwrap()
                .1
                .to_owned()
        };
        ["Uid", "Gid", "Groups", "CapEff", "CapPrm"].map(of).into()
    }

    #[test]
    fn a_worker_has_its_users_rights_and_the_others_keep_theirs() {
        if banger_tests::skipped("root") {
            return;
        }
        let before = status("thread-self");
        let worker = thread::spawn(|| {
            let groups = vec![Gid::from_raw(2000), Gid::from_raw(1001)];
            let user = (Uid::from_raw(1000), Gid::from_raw(1001), groups);
            sys::take_rights(Some(&user)).unwrap();
            let denied = std::fs::File::open("/etc/shadow").unwrap_err();
            assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
            status("thread-self")
        });
        let none = "0000000000000000";
        assert_eq!(
            worker.join().unwrap(),
            [
                "0\t1000\t0\t1000",
                "0\t1001\t0\t1001",
                "1001 2000 ",
                none,
                none
            ]
        );
        assert_eq!(status("thread-self"), before);
    }

    #[test]
    fn pieces_are_read_as_one_stream() {
        let (sender, receiver) = mpsc::channel(2);
        let batch = |pieces: &[&[u8]]| pieces.iter().map(|piece| piece.to_vec()).collect();
        sender.try_send(batch(&[b"", b"ab", b"c"])).unwrap();
        sender.try_send(batch(&[b"", b"def"])).unwrap();
        drop(sender);
        let mut input = Input {
            receiver,
            pieces: VecDeque::new(),
            at: 0,
        };
        let mut text = [0; 4];
        input.read_exact(&mut text).unwrap();
        let mut rest = String::new();
        input.read_to_string(&mut rest).unwrap();
        assert_eq!((&text[..], &*rest), (&b"abcd"[..], "ef"));
    }
}
