//! A file system in user space (linux/fuse.h) whose server leaves some requests unanswered.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
pub(super) const WRITE: u32 = 16;
pub(super) const STATFS: u32 = 17;
const RELEASE: u32 = 18;
pub(super) const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// The root is 1.
const FILE: u64 = 2;

/// FUSE_WRITEBACK_CACHE.
const WRITEBACK_CACHE: u32 = 1 << 16;

const NOT_THERE: i32 = 2;
const FAILED: i32 = 5;
const NOT_IMPLEMENTED: i32 = 38;

/// Mounted in a namespace that nobody enters; it goes with its files.
pub(super) struct Fuse {
    device: Arc<File>,
    state: Arc<Mutex<State>>,
    /// Root's, for reading.
    pub(super) file: File,
    /// The same one, for writing.
    pub(super) writer: File,
}

/// What is not answered.
#[derive(Default)]
struct State {
    codes: Vec<u32>,
    /// Of them, what the daemon and its processes ask only.
    daemon_only: bool,
    withheld: Vec<u64>,
}

impl Fuse {
    pub(super) fn new(place: &Path) -> Fuse {
        fs::create_dir(place).expect("the sandbox can be written");
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let device = Arc::new(device.expect("this kernel has FUSE"));
        let state = Arc::default();
        let (mounted, is_mounted) = mpsc::channel();
        thread::spawn({
            let (device, state) = (Arc::clone(&device), Arc::clone(&state));
            move || {
                // Before, there is nothing to read.
                is_mounted.recv().expect("it is mounted");
                serve(&device, &state);
            }
        });
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let place = place.to_owned();
        // A thread has a namespace of its own, and then none of this is seen by anybody else.
        let opened = thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("root may");
            let (none, private): (Option<&str>, _) = (None, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
            mount(none, "/", none, private, none).expect("root may");
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(Some("test"), &place, Some("fuse"), flags, Some(&*options)).expect("root may");
            mounted.send(()).expect("the server waits");
            let path = place.join("file");
            let writer = OpenOptions::new().write(true).open(&path);
            [File::open(path), writer].map(|file| file.expect("the server answers"))
        });
        let [file, writer] = opened.join().expect("it is mounted");
        Fuse {
            device,
            state,
            file,
            writer,
        }
    }

    /// From now on these are not answered; to the daemon and its processes, or to nobody.
    pub(super) fn withhold(&self, codes: &[u32], daemon_only: bool) {
        let mut state = lock(&self.state);
        state.codes = codes.to_vec();
        state.daemon_only = daemon_only;
    }

    /// Requests that are waited for.
    pub(super) fn withheld(&self) -> usize {
        lock(&self.state).withheld.len()
    }

    /// Answers those, and whatever comes.
    pub(super) fn relent(&self) {
        let mut state = lock(&self.state);
        state.codes.clear();
        for unique in state.withheld.drain(..) {
            answer(&self.device, unique, FAILED, &[]);
        }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // Who waits could not even be killed.
        self.relent();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_of_daemon(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "banger-netd\n")
}

fn serve(mut device: &File, state: &Mutex<State>) {
    let mut buffer = vec![0; 64 << 10];
    // It fails when the file system is gone.
    while let Ok(length) = device.read(&mut buffer) {
        let request = &buffer[..length];
        let word = |at: usize| u32::from_ne_bytes(*request[at..].first_chunk().expect("a header"));
        let (code, unique) = (word(4), u64::from(word(8)) | u64::from(word(12)) << 32);
        let (node, pid) = (u64::from(word(16)), word(32));
        if [FORGET, BATCH_FORGET, INTERRUPT].contains(&code) {
            continue;
        }
        let mut state = lock(state);
        if state.codes.contains(&code) && (!state.daemon_only || is_of_daemon(pid)) {
            state.withheld.push(unique);
            continue;
        }
        drop(state);
        match code {
            INIT => answer(device, unique, 0, &init()),
            GETATTR | SETATTR => answer(
                device,
                unique,
                0,
                &[&[0; 16][..], &attributes(node)].concat(),
            ),
            LOOKUP if request[40..].starts_with(b"file\0") => {
                let node = FILE.to_ne_bytes();
                let entry = [&node[..], &[0; 32], &attributes(FILE)].concat();
                answer(device, unique, 0, &entry);
            }
            LOOKUP => answer(device, unique, NOT_THERE, &[]),
            OPEN => answer(device, unique, 0, &[0; 16]),
            // struct fuse_write_in has its size behind handle and offset.
            WRITE => answer(device, unique, 0, &u64::from(word(56)).to_ne_bytes()),
            STATFS => answer(device, unique, 0, &[0; 80]),
            FLUSH | RELEASE => answer(device, unique, 0, &[]),
            _ => answer(device, unique, NOT_IMPLEMENTED, &[]),
        }
    }
}

/// `struct fuse_out_header`, and what follows it.
fn answer(mut device: &File, unique: u64, error: i32, body: &[u8]) {
    let length = u32::try_from(16 + body.len()).expect("it is short");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend((-error).to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(body);
    // Who asked may be gone.
    let _ = device.write_all(&bytes);
}

/// `struct fuse_init_out`: version 7.31, and of what can be chosen a cache for writing, and how much is written at once.
fn init() -> Vec<u8> {
    let mut words = [0_u32; 16];
    (words[0], words[1], words[3], words[5]) = (7, 31, WRITEBACK_CACHE, 4096);
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// `struct fuse_attr`, never kept.
fn attributes(node: u64) -> Vec<u8> {
    let mut bytes = node.to_ne_bytes().to_vec();
    // Sizes and times.
    bytes.extend([0; 52]);
    let mode: u32 = if node == FILE { 0o100_644 } else { 0o040_755 };
    bytes.extend(mode.to_ne_bytes());
    bytes.extend(1_u32.to_ne_bytes());
    bytes.resize(88, 0);
    bytes
}
