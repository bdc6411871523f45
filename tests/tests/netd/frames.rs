//! What a hostile or broken caller sends.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use banger_proto::{Answer, Code, Decoder, Hello, MAX_REPLY, MAX_REQUEST, Refusal, decode, encode};
use banger_tests::{Netd, Netns, eventually};
use lib_net::PrivilegedOps;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::fuse::{FLUSH, Fuse, STATFS, WRITE};
use super::life::PATIENCE;
use super::{connect, reserve, sandbox, vm};

/// How often a caller that drips says a byte: far more often than frames take.
const DRIP: Duration = Duration::from_millis(50);

/// A connection that can say anything.
struct Raw {
    stream: UnixStream,
    decoder: Decoder,
}

impl Raw {
    fn connect(netd: &Netd) -> Raw {
        let stream = UnixStream::connect(netd.socket()).expect("the daemon listens");
        let timeout = stream.set_read_timeout(Some(PATIENCE));
        timeout.expect("a socket has timeouts");
        Raw {
            stream,
            decoder: Decoder::new(MAX_REPLY),
        }
    }

    fn greeted(netd: &Netd) -> Raw {
        let mut raw = Raw::connect(netd);
        raw.stream.write_all(&hello()).expect("the daemon reads");
        let _: Result<Hello, Refusal> = raw.receive().expect("it says hello");
        raw
    }

    /// With so many descriptors of a file.
    fn send_with(&self, bytes: &[u8], file: &File, count: usize) {
        let descriptors = vec![file.as_raw_fd(); count];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let slices = [IoSlice::new(bytes)];
        let number = self.stream.as_raw_fd();
        sendmsg::<()>(number, &slices, &rights, MsgFlags::empty(), None).expect("the daemon reads");
    }

    fn send(&mut self, bytes: &[u8]) {
        // The daemon may have had enough before the end.
        let _ = self.stream.write_all(bytes);
    }

    fn receive<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            if let Some(json) = self
                .decoder
                .next_frame()
                .expect("the daemon's frames are short")
            {
                return Some(decode(&json).expect("the daemon's frames are understood"));
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(length @ 1..) => self.decoder.push(&buffer[..length]),
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// It is told why, and that is all.
    fn is_refused(&mut self, why: &str) {
        let answer: Answer = self.receive().expect("it is told why");
        let refusal = answer.expect_err("it is refused");
        assert_eq!(refusal.code, Code::Invalid, "{refusal:?}");
        assert!(refusal.message.contains(why), "{refusal:?} without {why:?}");
        assert!(self.receive::<Answer>().is_none(), "the connection goes on");
    }
}

fn hello() -> Vec<u8> {
    encode(&Hello::new("a test"), MAX_REQUEST).expect("it is short")
}

fn framed(json: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(json.len())
        .expect("it is short")
        .to_le_bytes()
        .to_vec();
    bytes.extend(json.as_bytes());
    bytes
}

#[test]
fn bad_frames_end_their_connection_and_nothing_else() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "");
    let before = netns.state(&sandbox);
    let vm = "00112233445566aa";
    let reserving = |name: &str| {
        framed(&format!(
            "{{\"reserve\":{{\"vm\":\"{vm}\",\"name\":\"{name}\",\"store\":\"{vm}\"}}}}"
        ))
    };
    for (bytes, why) in [
        (framed("{\"status\":{}"), "not understood"),
        (framed("\u{0}\u{1}garbage"), "not understood"),
        (framed("{\"explode\":{}}"), "unknown variant"),
        (framed("{\"status\":{\"loud\":true}}"), "unknown field"),
        (
            framed(&format!(
                "{{\"attach\":{{\"vm\":\"{vm}\",\"path\":\"/etc\"}}}}"
            )),
            "unknown field",
        ),
        (framed("{\"attach\":{}}"), "missing field"),
        (
            framed("{\"attach\":{\"vm\":\"../../../../etc/\"}}"),
            "not the id of a VM",
        ),
        (
            framed("{\"attach\":{\"vm\":\"0011223344556677889\"}}"),
            "not the id of a VM",
        ),
        (
            framed("{\"release\":{\"vm\":\"0011223344\\u0000566a\"}}"),
            "not the id of a VM",
        ),
        (
            framed(&format!(
                "{{\"group\":{{\"vm\":\"{vm}\",\"group\":\"a/b\"}}}}"
            )),
            "not the name of a group",
        ),
        (
            framed(&format!(
                "{{\"group\":{{\"vm\":\"{vm}\",\"group\":\"a\\\" }}; flush ruleset\"}}}}"
            )),
            "not the name",
        ),
        (
            framed(&format!(
                "{{\"group\":{{\"vm\":\"{vm}\",\"group\":\"a\\u0000b\"}}}}"
            )),
            "not the name of a group",
        ),
        (
            framed(&format!(
                "{{\"group\":{{\"vm\":\"{vm}\",\"group\":\"{}\"}}}}",
                "a".repeat(33)
            )),
            "not the name of a group",
        ),
        (reserving("a/b"), "not the name of a VM"),
        (reserving("../b"), "not the name of a VM"),
        (reserving("a\\u0000"), "not the name of a VM"),
        (reserving(&"a".repeat(64)), "not the name of a VM"),
        (u32::MAX.to_le_bytes().to_vec(), "the limit is 65536"),
        (
            65_537_u32.to_le_bytes().to_vec(),
            "65537 bytes was announced",
        ),
    ] {
        let mut raw = Raw::greeted(&netd);
        raw.send(&bytes);
        raw.is_refused(why);
    }
    // Torn: the caller leaves inside a frame.
    let mut raw = Raw::greeted(&netd);
    raw.send(&framed("{\"status\":{}}")[..7]);
    raw.stream.shutdown(std::net::Shutdown::Write).unwrap();
    raw.is_refused("left inside a frame");
    // What is not understood is told, and kept by the log, in part only.
    let mut raw = Raw::greeted(&netd);
    raw.send(&framed(&format!("{{\"{}\":{{}}}}", "x".repeat(60_000))));
    let refused: Answer = raw.receive().unwrap();
    let said = refused.unwrap_err().message;
    assert!(
        said.len() < 400 && said.contains("unknown variant `xxx"),
        "{said}"
    );
    netd.running().wait_for_stderr("unknown variant `xxx");
    // Another protocol.
    let mut raw = Raw::connect(&netd);
    raw.send(&framed("{\"protocol\":99,\"program\":\"x\"}"));
    let _: Result<Hello, Refusal> = raw.receive().unwrap();
    raw.is_refused("speaks protocol 99");
    assert_eq!(netns.state(&sandbox), before);
    connect(&netd).status().unwrap();
}

#[test]
fn slow_frames_and_idle_callers_are_let_go() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let netd = Netd::start(&sandbox, &netns, "--frame-timeout 3000");
    let mut raw = Raw::greeted(&netd);
    raw.send(&framed("{\"status\":{}}")[..6]);
    raw.is_refused("took longer than");
    // It is the whole frame that has a limit: who says a byte now and then gets no more.
    let mut raw = Raw::greeted(&netd);
    raw.stream.set_read_timeout(Some(DRIP)).unwrap();
    let long = framed(&" ".repeat(MAX_REQUEST));
    let mut bytes = long.iter();
    let refused: Answer = loop {
        match raw.receive() {
            Some(answer) => break answer,
            None => raw.send(&[*bytes.next().expect("the daemon has had enough long before")]),
        }
    };
    let refusal = refused.unwrap_err();
    assert!(refusal.message.contains("took longer than"), "{refusal:?}");
    // Nor does who asks and does not read.
    let mut raw = Raw::greeted(&netd);
    while raw.stream.write_all(&framed("{\"status\":{}}")).is_ok() {}
    netd.running().wait_for_stderr("did not read within");
    // The others were served meanwhile, and are now.
    connect(&netd).status().unwrap();
    netd.kill();
    let netd = Netd::start(&sandbox, &netns, "--idle-timeout 5000");
    let mut raw = Raw::greeted(&netd);
    assert!(
        raw.receive::<Answer>().is_none(),
        "the connection is closed"
    );
}

#[test]
fn descriptors_are_refused() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let path = sandbox.path("passed");
    let file = File::create(&path).unwrap();
    let status = || framed("{\"status\":{}}");
    for offer in ["", "--offer disks"] {
        let netd = Netd::start(&sandbox, &netns, offer);
        for count in [3, 17] {
            let mut raw = Raw::greeted(&netd);
            raw.send_with(&status(), &file, count);
            raw.is_refused(&format!("{count} descriptors came"));
        }
        let mut raw = Raw::greeted(&netd);
        raw.send_with(&status()[..7], &file, 1);
        raw.send_with(&status()[7..], &file, 1);
        raw.is_refused("came twice with a frame");
        let mut raw = Raw::connect(&netd);
        raw.send_with(&hello(), &file, 1);
        let _: Result<Hello, Refusal> = raw.receive().unwrap();
        raw.is_refused("descriptors came with the greeting");
        // Too few.
        let mut raw = Raw::greeted(&netd);
        let vm = "00112233445566aa";
        raw.send(&framed(&format!(
            "{{\"loop\":{{\"vm\":\"{vm}\",\"read_only\":true}}}}"
        )));
        if offer.is_empty() {
            let answer: Answer = raw.receive().unwrap();
            assert_eq!(answer.unwrap_err().code, Code::NotFound);
        } else {
            raw.is_refused("0 descriptors came, but `loop` has 1");
        }
        let open = format!("/proc/{}/fd", netd.running().pid());
        let left = std::fs::read_dir(open).unwrap().flatten();
        let left = left.filter(|entry| entry.path().read_link().is_ok_and(|to| to == path));
        assert_eq!(left.count(), 0, "they are closed");
        netd.kill();
    }
}

/// fstatfs(2), close(2), and execve(2) of a child that inherits it, wait for the server of such a file.
#[test]
fn a_file_whose_server_does_not_answer_holds_nobody_up() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    let looping = |number| {
        let vm = vm(number);
        framed(&format!(
            "{{\"loop\":{{\"vm\":\"{vm}\",\"read_only\":true}}}}"
        ))
    };
    let fuse = Fuse::new(&sandbox.path("fuse"));
    fuse.withhold(&[FLUSH], true);
    let netd = Netd::start(&sandbox, &netns, "");
    let mut raw = Raw::greeted(&netd);
    raw.send_with(&framed("{\"status\":{}}"), &fuse.file, 1);
    raw.is_refused("1 descriptors came");
    // Neither while it is on its way.
    let raw = Raw::greeted(&netd);
    raw.send_with(&framed("{\"status\":{}}")[..7], &fuse.file, 16);
    eventually("two processes wait for the server", PATIENCE, || {
        (fuse.withheld() == 2).then_some(())
    });
    assert!(
        connect(&netd).up().unwrap().0,
        "programs are started for others"
    );
    assert!(connect(&netd).down().unwrap().0);
    drop(raw);
    connect(&netd).status().unwrap();
    fuse.relent();
    netd.kill();

    fuse.withhold(&[FLUSH], true);
    let netd = Netd::start(&sandbox, &netns, "--offer disks --frame-timeout 3000");
    reserve(&mut connect(&netd), 1);
    let asks = |number, file: &File| -> Refusal {
        let mut raw = Raw::greeted(&netd);
        raw.send_with(&looping(number), file, 1);
        let answer: Answer = raw.receive().expect("it is told why");
        answer.expect_err("it is refused")
    };
    for _ in 0..4 {
        let refusal = asks(1, &fuse.file);
        assert_eq!(refusal.code, Code::Invalid, "{refusal:?}");
        assert!(refusal.message.contains("file system"), "{refusal:?}");
    }
    // As many as one user may have waiting; whatever they pass then is not even looked at.
    let path = sandbox.path("file");
    std::fs::write(&path, "x").unwrap();
    let file = File::open(&path).unwrap();
    assert_eq!(asks(1, &file).code, Code::Exhausted);
    assert!(connect(&netd).up().unwrap().0, "the others go on");
    fuse.relent();
    // It is looked at: there is no such VM.
    assert_eq!(asks(2, &file).code, Code::NotFound);
    // A server that does not even say what it has.
    fuse.withhold(&[STATFS], true);
    let refusal = asks(1, &fuse.file);
    assert!(refusal.message.contains("in time"), "{refusal:?}");
    assert!(connect(&netd).down().unwrap().0);
}

/// The last reference to a file writes back what is dirty in its cache (fuse_release(); fput() in whatever process has it).
#[test]
fn a_cache_that_cannot_be_written_back_holds_nobody_up() {
    let Some(sandbox) = sandbox() else { return };
    let netns = Netns::new(&sandbox);
    for offer in ["", "--offer disks"] {
        let netd = Netd::start(&sandbox, &netns, offer);
        let mut fuse = Fuse::new(&sandbox.path(&format!("fuse{offer}")));
        // With a frame, beside a frame that never ends, and on a connection that is over.
        let mut raw = [(); 3].map(|()| Raw::greeted(&netd));
        netd.running().signal(Signal::SIGSTOP);
        let file = std::mem::replace(&mut fuse.file, File::open("/dev/null").unwrap());
        raw[0].send_with(&framed("{\"status\":{}}"), &file, 1);
        raw[1].send(&framed("{\"status\":{}}")[..7]);
        raw[1].send_with(b"{", &file, 1);
        raw[2].send(&framed("{\"explode\":{}}"));
        raw[2].send_with(b"{", &file, 1);
        drop(file);
        fuse.withhold(&[WRITE], false);
        fuse.writer.write_all(b"dirty").unwrap();
        netd.running().signal(Signal::SIGCONT);
        raw[0].is_refused("1 descriptors came");
        raw[2].is_refused("unknown variant");
        drop(raw);
        eventually("a process waits for the server", PATIENCE, || {
            (fuse.withheld() > 0).then_some(())
        });
        assert!(connect(&netd).up().unwrap().0, "the others go on");
        assert!(connect(&netd).down().unwrap().0);
        fuse.relent();
    }
}
