//! What the network can do here, tried for real.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use lib_model::{CheckRecord, Diagnose, SCHEMA};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    Client, Endpoint, NetError, NetworkStatus, PROBE, PrivilegedOps, Reservation, VmName, ZONE,
    store_tag,
};

/// A host answers at once unless something drops the question.
const PATIENCE: Duration = Duration::from_secs(20);

/// The port that the guest asks from.
const ASKER: u16 = 40_053;

/// What the guest is called that is only there for a moment.
const GUEST: &str = "doctor";

/// struct virtio_net_hdr, which the interface has before each frame (linux/virtio_net.h).
const VNET_HEADER: usize = 10;

/// A firewall that drops says nothing, so there is only so long to wait for; others answer at once.
const SILENCE: Duration = Duration::from_secs(5);

/// What became of a packet into the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It came to the end of all firewalls.
    Passed,
    /// The host knows no way there.
    NoRoute,
    /// Another firewall said no (the code of ICMP 3, RFC 1812 §5.2.7.1).
    Refused(u8),
    Dropped,
}

/// What became of a question about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Answered,
    /// The code of ICMP 3.
    Refused(u8),
    Silence,
}

/// Nobody listens (RFC 1812 §5.2.7.1).
const PORT: u8 = 3;
/// What firewalld answers.
const PROHIBITED: u8 = 13;

/// What else can be tried while there is a guest; gets its place in the network.
pub type More<'a> = &'a dyn Fn(&Reservation) -> Vec<CheckRecord>;

/// Tries one thing after the other, as far as one needs the one before. With `fix`, what keeps VMs from the
/// world in the firewall of another program is changed, until the network is down.
pub fn doctor(endpoint: &Endpoint, fix: bool, more: More<'_>) -> Vec<CheckRecord> {
    let mut checks = Vec::new();
    let mut client = match endpoint.open() {
        Ok(client) => client,
        Err(error) => {
            checks.push(failed("daemon", &error));
            return checks;
        }
    };
    match client.status() {
        Ok(status) => {
            checks.push(well("daemon", format!("{} answers", status.program)));
            if !status.leftovers.is_empty() {
                let left = status.leftovers.join(", ");
                checks.push(CheckRecord {
                    ok: false,
                    hint: Some("banger-net gc".into()),
                    ..well("leftovers", format!("of VMs that are gone: {left}"))
                });
            }
        }
        Err(error) => checks.push(failed("daemon", &error)),
    }
    let status = match client.up() {
        Ok((changed, status)) => {
            let (bridge, gateway, prefix) = (&status.bridge, status.gateway, status.prefix);
            let how = if changed { "was made" } else { "is there" };
            let detail = format!("{bridge} {how}, {gateway}/{prefix}");
            checks.push(well("bridge", detail));
            status
        }
        Err(error) => {
            checks.push(failed("bridge", &error));
            return checks;
        }
    };
    let mut named = Vec::new();
    let answered = as_guest(&mut client, |_, guest| {
        let gateway = guest.gateway();
        named = more(&guest.reservation);
        gateway
    });
    let answers = matches!(answered, Ok(Ok(_)));
    match answered {
        Ok(Ok(_)) => checks.push(well(
            "packet",
            "the host answers a guest by the bridge".into(),
        )),
        Ok(Err(error)) => checks.push(CheckRecord {
            ok: false,
            hint: Some("nft list ruleset   (another firewall may drop what the bridge has)".into()),
            ..well(
                "packet",
                format!("the host does not answer a guest: {error}"),
            )
        }),
        Err(error) => checks.push(failed("packet", &error)),
    }
    checks.extend(named);
    if answers {
        checks.push(match asked(&mut client, fix) {
            Ok(asked) => resolver(&status, asked),
            Err(error) => failed("resolver", &error),
        });
    }
    if status.forwarding {
        checks.push(forward(&mut client, &status, fix));
    }
    checks
}

/// What becomes of a question, and whether that is because another firewall was told.
fn asked(client: &mut Client, fix: bool) -> Result<(Asked, bool), NetError> {
    let ask = |client: &mut Client| {
        let asked = as_guest(client, |_, guest| {
            let hop = guest.gateway()?;
            guest.ask(hop)
        });
        asked?.map_err(|error| NetError::Broken(format!("a guest cannot be tried: {error}")))
    };
    let first = ask(client)?;
    if !fix || matches!(first, Asked::Answered | Asked::Refused(PORT)) {
        return Ok((first, false));
    }
    client.admit(true)?;
    ask(client).map(|asked| (asked, true))
}

/// Whether a VM's questions about names come to the host.
fn resolver(status: &NetworkStatus, (fate, told): (Asked, bool)) -> CheckRecord {
    let gateway = status.gateway;
    let how = if told {
        "; another firewall was told to let them, until banger-net down"
    } else {
        ""
    };
    let why = match fate {
        Asked::Answered => {
            return well(
                "resolver",
                format!("{gateway} answers guests about names{how}"),
            );
        }
        Asked::Refused(PORT) => {
            return well(
                "resolver",
                format!(
                    "guests may ask {gateway} about names{how}, but nothing answers there (banger-dns-guests.socket)"
                ),
            );
        }
        Asked::Refused(code) => format!("refuses (ICMP 3/{code})"),
        Asked::Silence => "drops".to_owned(),
    };
    CheckRecord {
        ok: false,
        hint: Some(match fate {
            Asked::Refused(PROHIBITED) => in_trusted(status),
            _ => "nft list ruleset   (look for a chain at hook input that drops)".into(),
        }),
        ..well(
            "resolver",
            format!("another firewall of this host {why} what guests ask {gateway} about names"),
        )
    }
}

/// What makes firewalld let the bridge through for good.
fn in_trusted(status: &NetworkStatus) -> String {
    let bridge = &status.bridge;
    format!(
        "sudo firewall-cmd --permanent --zone=trusted --add-interface={bridge} && sudo firewall-cmd --reload"
    )
}

/// Whether what a VM with `nat` sends passes the other firewalls of the host.
fn forward(client: &mut Client, status: &NetworkStatus, fix: bool) -> CheckRecord {
    let first = match fate(client) {
        Ok(fate) => fate,
        Err(error) => return failed("forward", &error),
    };
    let mut last = first;
    if fix && matches!(first, Fate::Refused(_) | Fate::Dropped) {
        if let Err(error) = client.admit(true) {
            return failed("forward", &error);
        }
        last = match fate(client) {
            Ok(fate) => fate,
            Err(error) => return failed("forward", &error),
        };
    }
    let bridge = &status.bridge;
    let what = match last {
        Fate::Passed if first != last => {
            format!("another firewall was told to let {bridge} through, until banger-net down")
        }
        Fate::Passed => "what VMs send into the world passes this host's firewalls".into(),
        Fate::NoRoute => "this host has no way into the world itself".into(),
        Fate::Refused(code) => {
            format!(
                "another firewall of this host refuses what VMs send into the world (ICMP 3/{code})"
            )
        }
        Fate::Dropped => "another firewall of this host drops what VMs send into the world".into(),
    };
    let hint = match last {
        Fate::Passed | Fate::NoRoute => return well("forward", what),
        Fate::Refused(PROHIBITED) => in_trusted(status),
        _ if fix => "nft list ruleset   (look for a chain at hook forward that drops)".into(),
        _ => "sudo banger-net doctor --fix   (Docker makes DROP the policy of FORWARD)".into(),
    };
    CheckRecord {
        ok: false,
        hint: Some(hint),
        ..well("forward", what)
    }
}

fn fate(client: &mut Client) -> Result<Fate, NetError> {
    let fate = as_guest(client, |client, guest| {
        let hop = guest.gateway()?;
        client
            .nat(guest.reservation.vm.clone(), true)
            .map_err(io::Error::other)?;
        guest.echo(hop, PROBE)
    });
    fate?.map_err(|error| NetError::Broken(format!("a guest cannot be tried: {error}")))
}

/// A guest for a moment. What it holds goes, whatever happens.
fn as_guest<T>(
    client: &mut Client,
    act: impl FnOnce(&mut Client, &mut Guest) -> io::Result<T>,
) -> Result<io::Result<T>, NetError> {
    let id = lib_model::VmId::random().map_err(|error| NetError::Broken(error.to_string()))?;
    let vm = crate::vm_id(&id);
    // One of its own, so that two doctors at once do not ask for each other.
    let name = VmName::try_from(format!("{GUEST}-{}", &id.as_str()[..8]))?;
    client.reserve(vm.clone(), name, store_tag(Path::new("doctor")))?;
    let done = client.attach(vm.clone()).map(|(reservation, tap)| {
        let tap = File::from(tap);
        act(client, &mut Guest { reservation, tap })
    });
    client.release(vm)?;
    done
}

/// Frames by hand.
struct Guest {
    reservation: Reservation,
    tap: File,
}

impl Guest {
    /// Asks for the host's hardware address (RFC 826).
    fn gateway(&mut self) -> io::Result<[u8; 6]> {
        let own = &self.reservation;
        let (mac, gateway) = (own.mac.0, own.gateway.octets());
        let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
        request.extend(mac);
        request.extend(own.address.octets());
        request.extend([0; 6]);
        request.extend(gateway);
        self.send([0xff; 6], [8, 6], &request)?;
        let answer = self.receive(PATIENCE, |kind, body| {
            let is_reply = kind == [8, 6] && body.get(6..8) == Some(&[0, 2]);
            let from = body.get(14..18) == Some(&gateway);
            let mac = <[u8; 6]>::try_from(body.get(8..14)?).ok()?;
            (is_reply && from).then_some(mac)
        })?;
        answer.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    /// Sends an echo request (RFC 792) to where nobody is, and hears what becomes of it.
    fn echo(&mut self, hop: [u8; 6], to: Ipv4Addr) -> io::Result<Fate> {
        let mut echo = [8, 0, 0, 0, 0, 7, 0, 1];
        let sum = checksum(&echo);
        echo[2..4].copy_from_slice(&sum);
        self.send_packet(hop, to, 1, &echo)?;
        let unreachable = self.receive(SILENCE, |kind, body| {
            let is_icmp = kind == [8, 0] && body.first() == Some(&0x45) && body.get(9) == Some(&1);
            match body.get(20..22) {
                Some([3, code]) if is_icmp => Some(*code),
                _ => None,
            }
        })?;
        Ok(match unreachable {
            // What the bridge's own last chain answers.
            Some(9) => Fate::Passed,
            Some(0 | 1) => Fate::NoRoute,
            Some(code) => Fate::Refused(code),
            None => Fate::Dropped,
        })
    }

    /// Asks the resolver that VMs are told of for its own name (RFC 1035 §4).
    fn ask(&mut self, hop: [u8; 6]) -> io::Result<Asked> {
        let mut question = vec![0x62, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let name = format!("{}.{ZONE}", self.reservation.name);
        for label in name.split('.') {
            question.push(u8::try_from(label.len()).map_err(io::Error::other)?);
            question.extend(label.as_bytes());
        }
        question.extend([0, 0, 1, 0, 1]);
        let length = u16::try_from(question.len() + 8).map_err(io::Error::other)?;
        // Without a checksum, as RFC 768 has it.
        let mut datagram = Vec::from(ASKER.to_be_bytes());
        datagram.extend([0, 53]);
        datagram.extend(length.to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(question);
        let gateway = self.reservation.gateway;
        self.send_packet(hop, gateway, 17, &datagram)?;
        let heard = self.receive(SILENCE, |kind, body| {
            if kind != [8, 0] || body.first() != Some(&0x45) {
                return None;
            }
            match (body.get(9)?, body.get(20..24)?) {
                (17, [0, 53, to @ ..]) if to == ASKER.to_be_bytes() => Some(Asked::Answered),
                (1, [3, code, ..]) => Some(Asked::Refused(*code)),
                _ => None,
            }
        })?;
        Ok(heard.unwrap_or(Asked::Silence))
    }

    /// IPv4 (RFC 791).
    fn send_packet(
        &mut self,
        hop: [u8; 6],
        to: Ipv4Addr,
        protocol: u8,
        body: &[u8],
    ) -> io::Result<()> {
        let length = u16::try_from(20 + body.len()).map_err(io::Error::other)?;
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        packet.extend(self.reservation.address.octets());
        packet.extend(to.octets());
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum);
        packet.extend(body);
        self.send(hop, [8, 0], &packet)
    }

    fn send(&mut self, to: [u8; 6], kind: [u8; 2], body: &[u8]) -> io::Result<()> {
        let mut frame = vec![0; VNET_HEADER];
        frame.extend(to);
        frame.extend(self.reservation.mac.0);
        frame.extend(kind);
        frame.extend(body);
        frame.resize(frame.len().max(VNET_HEADER + 60), 0);
        self.tap.write_all(&frame)
    }

    /// The first frame that `wanted` takes; nothing when none comes in time. Answers questions on the way.
    fn receive<T>(
        &mut self,
        patience: Duration,
        wanted: impl Fn([u8; 2], &[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut polled = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if poll(&mut polled, timeout)? == 0 {
                return Ok(None);
            }
            let mut frame = [0; 4096];
            let length = self.tap.read(&mut frame)?;
            let frame = frame.get(VNET_HEADER..length).unwrap_or_default();
            let (Some(kind), Some(body)) = (frame.get(12..14), frame.get(14..)) else {
                continue;
            };
            let kind = [kind[0], kind[1]];
            if let Some(found) = wanted(kind, body) {
                return Ok(Some(found));
            }
            if kind == [8, 6] && body.get(6..8) == Some(&[0, 1]) {
                self.introduce(body)?;
            }
        }
    }

    /// The host asks before it answers.
    fn introduce(&mut self, question: &[u8]) -> io::Result<()> {
        let (mac, address) = (self.reservation.mac.0, self.reservation.address.octets());
        let (Some(asker), Some(asked)) = (question.get(8..18), question.get(24..28)) else {
            return Ok(());
        };
        if asked != address {
            return Ok(());
        }
        let mut answer = vec![0, 1, 8, 0, 6, 4, 0, 2];
        answer.extend(mac);
        answer.extend(address);
        answer.extend(asker);
        let mut to = [0; 6];
        to.copy_from_slice(&asker[..6]);
        self.send(to, [8, 6], &answer)
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

fn well(name: &str, detail: String) -> CheckRecord {
    CheckRecord {
        schema: SCHEMA,
        name: name.to_owned(),
        ok: true,
        detail,
        hint: None,
    }
}

fn failed(name: &str, error: &NetError) -> CheckRecord {
    CheckRecord {
        ok: false,
        hint: error.hint(),
        ..well(name, error.to_string())
    }
}
