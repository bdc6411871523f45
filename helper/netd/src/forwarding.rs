//! `ip_forward`: switched on only for the first VM that may go out, and back off with `down`.

use std::fs;
use std::io;

use banger_failpoint::point;

const PATH: &str = "/proc/sys/net/ipv4/ip_forward";

pub(crate) fn is_on() -> io::Result<bool> {
    Ok(fs::read_to_string(PATH)?.trim() != "0")
}

pub(crate) fn switch(on: bool) -> io::Result<()> {
    point("netd.forwarding.write")?;
    fs::write(PATH, if on { "1" } else { "0" })
}
