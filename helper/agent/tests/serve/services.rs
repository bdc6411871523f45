//! Copies, TCP streams, sockets and statistics of an agent on this machine.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use banger_tests::eventually;
use banger_wire::mux::{MAX_DATA, Mux, Side};
use banger_wire::port;
use lib_guest::{CopyIn, CopyOptions, CopyOut, Error, Exit, Outcome};

use crate::harness::Harness;

const LIMIT: Duration = Duration::from_secs(120);

fn no_progress(_: u64) {}

#[test]
fn files_go_in_and_out_with_their_links() {
    let harness = Harness::new();
    let guest = harness.guest();
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    fs::create_dir_all(at("src/d")).unwrap();
    fs::write(at("src/d/file"), vec![7; 3_000_000]).unwrap();
    fs::hard_link(at("src/d/file"), at("src/hard")).unwrap();
    fs::create_dir(at("in")).unwrap();
    let options = CopyOptions::default();
    let sources: [PathBuf; 1] = [at("src")];
    let target = at("in");
    let target = target.as_os_str().as_bytes();
    let mut seen = 0;
    let copied = guest
        .copy_in(CopyIn::Paths(&sources), target, &options, &mut |bytes| {
            seen += bytes;
        })
        .unwrap();
    assert_eq!(
        (copied.entries, copied.bytes, seen),
        (4, 3_000_000, 3_000_000)
    );
    let back = [at("in/src").as_os_str().as_bytes().to_owned()];
    fs::create_dir(at("out")).unwrap();
    let target = at("out");
    guest
        .copy_out(&back, CopyOut::Path(&target), &options, &mut no_progress)
        .unwrap();
    let inode = |name: &str| fs::metadata(at(name)).unwrap().ino();
    assert_eq!(inode("out/src/hard"), inode("out/src/d/file"));
    assert_eq!(fs::read(at("out/src/hard")).unwrap(), vec![7; 3_000_000]);
}

/// What a new host says first makes the agent begin anew; a file may hold the same.
#[test]
fn a_file_that_looks_like_a_channel_is_a_file() {
    let harness = Harness::new();
    let guest = harness.guest();
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    let hello = Mux::new(Side::Host).output().to_vec();
    fs::write(at("from"), hello.repeat(50_000)).unwrap();
    let sources = [at("from")];
    let to = at("to");
    let options = CopyOptions::default();
    guest
        .copy_in(
            CopyIn::Paths(&sources),
            to.as_os_str().as_bytes(),
            &options,
            &mut no_progress,
        )
        .unwrap();
    assert!(fs::read(&to).unwrap() == fs::read(at("from")).unwrap());
}

/// An archive of one file of a megabyte, again and again, until it is told to end.
struct Endless {
    entry: Vec<u8>,
    sent: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

/// Tells it to end, however the test ends.
struct End(Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.over.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("told to end"));
        }
        let sent = self.sent.load(Ordering::Relaxed);
        let at = (sent % self.entry.len() as u64) as usize;
        let count = buffer.len().min(self.entry.len() - at);
        buffer[..count].copy_from_slice(&self.entry[at..at + count]);
        self.sent.store(sent + count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[test]
fn commands_beside_a_copy_wait_for_few_of_its_frames() {
    const COMMANDS: usize = 10;
    let harness = Harness::new();
    let guest = harness.guest();
    let base = tempfile::tempdir().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size(1 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    let entry = [&header.as_bytes()[..], &[7; 1 << 20]].concat();
    let (sent, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let mut archive = Endless {
        entry,
        sent: Arc::clone(&sent),
        over: Arc::clone(&over),
    };
    let copier = harness.guest();
    std::thread::scope(|scope| {
        let copy = scope.spawn(|| {
            let target = base.path().as_os_str().as_bytes();
            let options = CopyOptions::default();
            copier.copy_in(
                CopyIn::Archive(&mut archive),
                target,
                &options,
                &mut no_progress,
            )
        });
        let end = End(over);
        let frames = || sent.load(Ordering::Relaxed) / MAX_DATA as u64;
        let under_way = || base.path().join("large").exists();
        eventually("the copy is under way", LIMIT, || under_way().then_some(()));
        let waited: Vec<u64> = (0..COMMANDS)
            .map(|_| {
                let before = frames();
                let ran = crate::run(&guest, crate::argv(&["true"])).unwrap();
                assert_eq!(ran.outcome, Outcome::Exited(Exit::Code(0)));
                frames() - before
            })
            .collect();
        drop(end);
        let ended = copy.join().unwrap();
        assert!(ended.is_err(), "{ended:?}");
        // On a busy machine a command is long under way; one that has to wait for the copy would never end.
        let (least, most) = (waited.iter().min().unwrap(), waited.iter().max().unwrap());
        assert!(*least <= 1024 && *most <= 16 * 1024, "{waited:?} frames");
    });
}

/// An archive that goes on only when the first of its files is there.
struct Hesitant {
    bytes: std::io::Cursor<Vec<u8>>,
    first: PathBuf,
}

impl Read for Hesitant {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        if count == 0 {
            let there = || self.first.exists().then_some(());
            eventually("the first file is whole", LIMIT, there);
        }
        Ok(count)
    }
}

#[test]
fn files_of_a_slow_caller_are_there_before_it_has_finished() {
    let harness = Harness::new();
    let base = tempfile::tempdir().unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    for name in ["first", "second"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(1 << 20);
        header.set_mode(0o644);
        let content = &[7; 1 << 20][..];
        archive.append_data(&mut header, name, content).unwrap();
    }
    let mut bytes = archive.into_inner().unwrap();
    bytes.truncate((1 << 20) + 300_000);
    let mut archive = Hesitant {
        bytes: std::io::Cursor::new(bytes),
        first: base.path().join("first"),
    };
    let target = base.path().as_os_str().as_bytes();
    let options = CopyOptions::default();
    let ended = harness.guest().copy_in(
        CopyIn::Archive(&mut archive),
        target,
        &options,
        &mut no_progress,
    );
    assert!(ended.is_err(), "{ended:?}");
    let first = fs::read(base.path().join("first")).unwrap();
    assert!(first == [7; 1 << 20]);
    // What came of the other goes with it.
    eventually("the second file is gone", LIMIT, || {
        (fs::read_dir(base.path()).unwrap().count() == 1).then_some(())
    });
}

#[test]
fn a_copy_that_fails_says_why_and_leaves_nothing() {
    let harness = Harness::new();
    let guest = harness.guest();
    let base = tempfile::tempdir().unwrap();
    let options = CopyOptions {
        limit: Some(1000),
        ..CopyOptions::default()
    };
    fs::write(base.path().join("large"), vec![1; 10_000_000]).unwrap();
    let large = base.path().join("large");
    let missing = guest
        .copy_in(
            CopyIn::Paths(std::slice::from_ref(&large)),
            b"/no/such/directory/x",
            &options,
            &mut no_progress,
        )
        .unwrap_err();
    assert!(matches!(missing, Error::Call(_)), "{missing}");
    assert!(
        missing.to_string().contains("/no/such/directory"),
        "{missing}"
    );
    let source = [large.as_os_str().as_bytes().to_owned()];
    let target = base.path().join("copy");
    let refused = guest
        .copy_out(&source, CopyOut::Path(&target), &options, &mut no_progress)
        .unwrap_err();
    assert!(
        refused.to_string().contains("more than 1000 bytes"),
        "{refused}"
    );
    let unknown = CopyOptions {
        user: Some("no-such-user".into()),
        ..CopyOptions::default()
    };
    let refused = guest
        .copy_out(&source, CopyOut::Path(&target), &unknown, &mut no_progress)
        .unwrap_err();
    assert!(refused.to_string().contains("no-such-user"), "{refused}");
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    // The agent serves on.
    guest.info().unwrap();
}

#[test]
fn archives_are_trees_and_trees_are_archives() {
    let harness = Harness::new();
    let guest = harness.guest();
    let base = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, content: &[u8], link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_mtime(1_000_000_007);
        header.set_size(content.len() as u64);
        if link.is_empty() {
            builder.append_data(&mut header, path, content).unwrap();
        } else {
            builder.append_link(&mut header, path, link).unwrap();
        }
    };
    use tar::EntryType::{Link, Regular, Symlink};
    add("a/b/file", Regular, b"text", "");
    add("other", Regular, b"", "");
    add("a/hard", Link, b"", "a/b/file");
    add("a/soft", Symlink, b"", "/etc/passwd");
    let archive = builder.into_inner().unwrap();
    let options = CopyOptions::default();
    let target = base.path().as_os_str().as_bytes();
    let mut input = &archive[..];
    let copied = guest
        .copy_in(
            CopyIn::Archive(&mut input),
            target,
            &options,
            &mut no_progress,
        )
        .unwrap();
    assert_eq!(copied.bytes, 4);
    let meta = |name: &str| fs::symlink_metadata(base.path().join(name)).unwrap();
    assert_eq!(meta("a/b/file").ino(), meta("a/hard").ino());
    assert_eq!(meta("a/b/file").mtime(), 1_000_000_007);
    assert!(meta("a/soft").is_symlink());

    let mut output = Vec::new();
    let source = [base.path().join("a").as_os_str().as_bytes().to_owned()];
    guest
        .copy_out(
            &source,
            CopyOut::Archive(&mut output),
            &options,
            &mut no_progress,
        )
        .unwrap();
    let mut archive = tar::Archive::new(&output[..]);
    let mut names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            format!(
                "{} {:?}",
                entry.path().unwrap().display(),
                entry.header().entry_type()
            )
        })
        .collect();
    names.sort();
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(names.iter().any(|name| name.ends_with("Link")), "{names:?}");

    // Names that lead elsewhere are refused before anything is written there.
    let mut header = tar::Header::new_old();
    header.as_mut_bytes()[..9].copy_from_slice(b"../escape");
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    let mut bad = header.as_bytes().to_vec();
    bad.resize(512 * 3, 0);
    fs::create_dir(base.path().join("inner")).unwrap();
    let inner = base.path().join("inner");
    let refused = guest
        .copy_in(
            CopyIn::Archive(&mut &bad[..]),
            inner.as_os_str().as_bytes(),
            &options,
            &mut no_progress,
        )
        .unwrap_err();
    assert!(
        refused.to_string().contains("no name of a file"),
        "{refused}"
    );
    assert!(!base.path().join("escape").exists());
}

#[test]
fn tcp_ports_are_reached_on_both_loopbacks() {
    let harness = Harness::new();
    let guest = harness.guest();
    let mut addresses = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()];
    // A machine without IPv6 has one way less.
    addresses.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)));
    for listener in addresses {
        let number = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let mut socket = listener.accept().unwrap().0;
            let mut text = String::new();
            socket.read_to_string(&mut text).unwrap();
            socket.write_all(text.to_uppercase().as_bytes()).unwrap();
        });
        let mut stream = guest.dial(port::TCP + u32::from(number)).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "HELLO");
        server.join().unwrap();
    }
    // Nobody listens on tcpmux's port.
    guest.dial(port::TCP + 1).unwrap_err();
}

#[test]
fn listeners_are_listed_with_their_process() {
    let harness = Harness::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let number = listener.local_addr().unwrap().port();
    // Without a probe: it would reach other tests' listeners.
    let sockets = harness.guest().sockets(false).unwrap().sockets;
    let ours = sockets
        .iter()
        .find(|socket| socket.port == number && socket.protocol == "tcp")
        .unwrap();
    assert_eq!((ours.pid, ours.http), (Some(std::process::id()), None));
    assert_eq!(ours.address, Ipv4Addr::LOCALHOST);
}

#[test]
fn statistics_and_transfers_have_numbers() {
    let harness = Harness::new();
    let guest = harness.guest();
    let stats = guest.stats().unwrap();
    assert!(stats.cpus > 0 && stats.memory_total > 0 && stats.processes > 0);
    assert!(stats.disk_size >= stats.disk_used && stats.uptime_ms > 0);
    guest.measure(5_000_000).unwrap();
}
