//! Frames by hand, through the descriptor of a tap: a guest that says what it likes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use lib_net::{Mac, Reservation};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// struct virtio_net_hdr, which a tap with IFF_VNET_HDR has before each frame (linux/virtio_net.h).
const HEADER: usize = 10;

const BROADCAST: Mac = Mac([0xff; 6]);

/// What a frame says, as far as tests care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    ArpRequest {
        from: Ipv4Addr,
        to: Ipv4Addr,
    },
    ArpReply {
        from: Ipv4Addr,
        mac: Mac,
    },
    Echo {
        from: Ipv4Addr,
        sequence: u16,
    },
    EchoReply {
        from: Ipv4Addr,
        sequence: u16,
    },
    Tcp {
        from: Ipv4Addr,
        port: u16,
        reset: bool,
    },
    Other,
}

/// A guest: its descriptor, and what it was told about itself.
pub(crate) struct Guest {
    tap: File,
    pub(crate) mac: Mac,
    pub(crate) address: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
}

impl Guest {
    pub(crate) fn new(reservation: &Reservation, tap: OwnedFd) -> Guest {
        Guest {
            tap: tap.into(),
            mac: reservation.mac,
            address: reservation.address,
            gateway: reservation.gateway,
        }
    }

    pub(crate) fn send(&mut self, to: Mac, from: Mac, kind: u16, payload: &[u8]) {
        let mut frame = vec![0; HEADER];
        frame.extend(to.0);
        frame.extend(from.0);
        frame.extend(kind.to_be_bytes());
        frame.extend(payload);
        frame.resize(frame.len().max(HEADER + 60), 0);
        self.tap
            .write_all(&frame)
            .expect("the interface takes frames");
    }

    pub(crate) fn arp(&mut self, outer: Mac, inner: Mac, from: Ipv4Addr, to: Ipv4Addr) {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(inner.0);
        arp.extend(from.octets());
        arp.extend([0; 6]);
        arp.extend(to.octets());
        self.send(BROADCAST, outer, 0x0806, &arp);
    }

    /// Echo request (RFC 792).
    pub(crate) fn echo(&mut self, hop: Mac, from: (Mac, Ipv4Addr), to: Ipv4Addr, sequence: u16) {
        let mut icmp = vec![8, 0, 0, 0, 0, 7];
        icmp.extend(sequence.to_be_bytes());
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        self.ipv4(hop, from, to, 1, &icmp);
    }

    /// The answer to a ping(8) with `-s 0 -e 7`.
    pub(crate) fn echo_reply(&mut self, hop: Mac, to: Ipv4Addr, sequence: u16) {
        let mut icmp = vec![0, 0, 0, 0, 0, 7];
        icmp.extend(sequence.to_be_bytes());
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        self.ipv4(hop, (self.mac, self.address), to, 1, &icmp);
    }

    /// A SYN (RFC 9293).
    pub(crate) fn syn(&mut self, hop: Mac, to: Ipv4Addr, port: u16) {
        let mut tcp = Vec::new();
        tcp.extend(40_000_u16.to_be_bytes());
        tcp.extend(port.to_be_bytes());
        tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x20, 0, 0, 0, 0, 0]);
        let mut pseudo = Vec::new();
        pseudo.extend(self.address.octets());
        pseudo.extend(to.octets());
        pseudo.extend([0, 6, 0, 20]);
        pseudo.extend(&tcp);
        let sum = checksum(&pseudo);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let from = (self.mac, self.address);
        self.ipv4(hop, from, to, 6, &tcp);
    }

    fn ipv4(&mut self, hop: Mac, from: (Mac, Ipv4Addr), to: Ipv4Addr, protocol: u8, body: &[u8]) {
        let length = u16::try_from(20 + body.len()).expect("it is short");
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        packet.extend(from.1.octets());
        packet.extend(to.octets());
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(body);
        self.send(hop, from.0, 0x0800, &packet);
    }

    /// The next frame that says something.
    pub(crate) fn hear(&mut self) -> Heard {
        loop {
            let mut polled = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
            let ready =
                poll(&mut polled, PollTimeout::from(60_000_u16)).expect("it can be watched");
            assert_eq!(ready, 1, "no frame comes");
            let mut frame = [0; 4096];
            let length = self.tap.read(&mut frame).expect("there is a frame");
            match heard(&frame[HEADER..length]) {
                Heard::Other => {}
                heard => return heard,
            }
        }
    }

    /// The hardware address of the host; answers what the host asks on the way.
    pub(crate) fn hop(&mut self) -> Mac {
        let (mac, address, gateway) = (self.mac, self.address, self.gateway);
        // Asked again, as a kernel does: a bridge without carrier, such as one whose first port has just come, drops frames.
        for _ in 0..60 {
            self.arp(mac, mac, address, gateway);
            let mut polled = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
            let second = PollTimeout::from(1_000_u16);
            if poll(&mut polled, second).expect("it can be watched") == 1 {
                break;
            }
        }
        loop {
            match self.hear_past_questions() {
                Heard::ArpReply { from, mac } if from == gateway => return mac,
                _ => {}
            }
        }
    }

    /// As [`Guest::hear`], but requests for our own hardware address are answered, as a kernel does.
    pub(crate) fn hear_past_questions(&mut self) -> Heard {
        loop {
            match self.hear() {
                Heard::ArpRequest { to, .. } if to == self.address => self.announce(),
                heard => return heard,
            }
        }
    }

    fn announce(&mut self) {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 2];
        arp.extend(self.mac.0);
        arp.extend(self.address.octets());
        arp.extend([0xff; 6]);
        arp.extend(self.gateway.octets());
        self.send(BROADCAST, self.mac, 0x0806, &arp);
    }
}

fn heard(frame: &[u8]) -> Heard {
    let (Some(kind), Some(body)) = (frame.get(12..14), frame.get(14..)) else {
        return Heard::Other;
    };
    let address = |at: usize| {
        let bytes = body
            .get(at..at + 4)
            .and_then(|b| <[u8; 4]>::try_from(b).ok());
        bytes.map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from)
    };
    let number = |at: usize| match body.get(at..at + 2) {
        Some([high, low]) => u16::from_be_bytes([*high, *low]),
        _ => 0,
    };
    match (kind, body.get(9)) {
        ([8, 6], _) if number(6) == 1 => Heard::ArpRequest {
            from: address(14),
            to: address(24),
        },
        ([8, 6], _) => Heard::ArpReply {
            from: address(14),
            mac: Mac(body[8..14].try_into().expect("6 bytes")),
        },
        ([8, 0], Some(1)) if body[20] == 8 => Heard::Echo {
            from: address(12),
            sequence: number(26),
        },
        ([8, 0], Some(1)) if body[20] == 0 => Heard::EchoReply {
            from: address(12),
            sequence: number(26),
        },
        ([8, 0], Some(6)) => Heard::Tcp {
            from: address(12),
            port: number(20),
            reset: body[33] & 4 != 0,
        },
        _ => Heard::Other,
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).expect("folded twice")
}
