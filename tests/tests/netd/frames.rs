//! What a hostile or broken caller sends.

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use banger_proto::{Answer, Code, Decoder, Hello, MAX_REPLY, MAX_REQUEST, Refusal, decode, encode};
use banger_tests::{Netd, Netns};
use lib_net::PrivilegedOps;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::{connect, sandbox};

/// A connection that can say anything.
struct Raw {
    stream: UnixStream,
    decoder: Decoder,
}

impl Raw {
    fn connect(netd: &Netd) -> Raw {
        Raw {
            stream: UnixStream::connect(netd.socket()).expect("the daemon listens"),
            decoder: Decoder::new(MAX_REPLY),
        }
    }

    fn greeted(netd: &Netd) -> Raw {
        let mut raw = Raw::connect(netd);
        let hello = encode(&Hello::new("a test"), MAX_REQUEST).expect("it is short");
        raw.stream.write_all(&hello).expect("the daemon reads");
        let _: Result<Hello, Refusal> = raw.receive().expect("it says hello");
        raw
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
                "{{\"reserve\":{{\"vm\":\"{vm}\",\"name\":\"{}\",\"store\":\"{vm}\"}}}}",
                "a".repeat(64)
            )),
            "not the name of a VM",
        ),
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
    let netd = Netd::start(&sandbox, &netns, "");
    let mut raw = Raw::greeted(&netd);
    let path = sandbox.path("passed");
    let file = std::fs::File::create(&path).unwrap();
    let descriptors = [file.as_raw_fd(); 3];
    sendmsg::<()>(
        raw.stream.as_raw_fd(),
        &[IoSlice::new(&framed("{\"status\":{}}"))],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    raw.is_refused("3 descriptors came");
    let open = format!("/proc/{}/fd", netd.running().pid());
    let left = std::fs::read_dir(open).unwrap().flatten();
    let left = left.filter(|entry| entry.path().read_link().is_ok_and(|to| to == path));
    assert_eq!(left.count(), 0, "they are closed");
}
