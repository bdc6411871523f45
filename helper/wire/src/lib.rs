//! What the host, the monitor and the guest agent say to each other.
//!
//! Everything here is sans-IO: bytes in, values out. The guest is hostile, so every decoder has a
//! limit and returns an error instead of panicking. The protocol carries a version from the first
//! byte, because an old VM and a new command line must be able to talk.

pub mod agent;
pub mod config;
pub mod frame;
pub mod monitor;
pub mod mux;
pub mod proc_net;
pub mod watch;

/// Version of everything in this crate; raised on an incompatible change.
pub const PROTOCOL: u16 = 1;

/// Mux ports. Ports from 1024 up are dialled by the host, ports below are dialled by the guest.
pub mod port {
    /// The guest reports its boot here: one JSON [`crate::agent::Event`] per line.
    pub const EVENTS: u32 = 1;
    /// The agent's own requests: one [`crate::agent::Call`] per stream.
    pub const AGENT: u32 = 1024;
    /// The agent's SSH server: the bytes of one connection.
    pub const SSH: u32 = 1025;
    /// This plus a TCP port: the agent connects to it on the guest's loopback, 127.0.0.1 and then ::1,
    /// and accepts the stream once it is connected. Bytes and both ends of file go through as they are.
    pub const TCP: u32 = 0x1_0000;

    /// The TCP port that a mux port stands for.
    pub fn tcp(port: u32) -> Option<u16> {
        u16::try_from(port.checked_sub(TCP)?)
            .ok()
            .filter(|port| *port > 0)
    }
}

/// Name of the virtio-serial port that carries the mux (`/sys/class/virtio-ports/*/name`).
pub const SERIAL_PORT_NAME: &str = "org.banger.agent.1";
