//! One line for each request, on standard error: JSON, which the journal takes as it is. What a caller
//! wrote is in it only as validated names.

use std::io::Write;
use std::time::Duration;

use banger_proto::{Refusal, Request};
use serde::Serialize;

use crate::peer::Peer;

#[derive(Serialize)]
struct Line<'a> {
    audit: &'a str,
    uid: u32,
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    microseconds: u64,
}

/// A request was answered.
pub(crate) fn request(
    peer: &Peer,
    request: &Request,
    changed: Result<bool, &Refusal>,
    took: Duration,
) {
    write(&Line {
        audit: request.verb(),
        uid: peer.uid,
        pid: peer.pid,
        object: request.vm().map(|vm| vm.as_str()),
        result: match changed {
            Ok(true) => "changed",
            Ok(false) => "same",
            Err(refusal) => refusal.code.as_str(),
        },
        message: changed.err().map(|refusal| refusal.message.as_str()),
        microseconds: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    });
}

/// A connection was refused or ended because of what came through it.
pub(crate) fn connection(peer: &Peer, refusal: &Refusal) {
    write(&Line {
        audit: "connection",
        uid: peer.uid,
        pid: peer.pid,
        object: None,
        result: refusal.code.as_str(),
        message: Some(&refusal.message),
        microseconds: 0,
    });
}

/// Something for the administrator.
pub(crate) fn note(text: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr(), "banger-netd: {text}");
}

fn write(line: &Line<'_>) {
    if let Ok(mut text) = serde_json::to_string(line) {
        text.push('\n');
        // One write, so that lines stay whole.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}
