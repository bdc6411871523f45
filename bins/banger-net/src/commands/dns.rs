//! `banger-net dns`.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use lib_cli::{Failure, Session};
use lib_dns::{Note, Options, ResolvConf, Role, Transport, Upstream};
use lib_model::{AnswerRecord, AnsweredRecord, Exit, NameRecord, SCHEMA};
use lib_net::{NAME_SERVER, ZONE};

use crate::cli::{QueryArgs, ServeArgs};

/// As long as libc waits for one server (resolv.conf(5)).
const PATIENCE: Duration = Duration::from_secs(5);

const PORT: u16 = 53;

/// Where the host's server is, unless it was told otherwise.
pub(crate) fn name_server() -> SocketAddr {
    (NAME_SERVER, PORT).into()
}

/// Serves for ever.
pub(crate) fn serve(session: &Session, args: &ServeArgs) -> Result<(), Failure> {
    let mut sockets = lib_dns::passed()?;
    let host = args.listen.iter().map(|address| (address, Role::Host));
    let guests = args
        .listen_guests
        .iter()
        .map(|address| (address, Role::Guests));
    for (address, role) in host.chain(guests) {
        sockets.extend(lib_dns::bind(address.0, role)?);
    }
    let upstream = if args.upstream.is_empty() {
        Upstream::File(ResolvConf::new(&args.resolv_conf))
    } else {
        Upstream::Fixed(args.upstream.iter().map(|address| address.0).collect())
    };
    let names = args.names.clone();
    let options = Options {
        names: names.unwrap_or_else(|| session.context.names_file().to_owned()),
        sockets,
        upstream,
    };
    let note = Note::new(|text| {
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(
            std::io::stderr(),
            "banger-net: {}",
            lib_cli::printable(text)
        );
    });
    Ok(lib_dns::serve(options, note)?)
}

/// Asks a server; the status says whether there is such a name.
pub(crate) fn query(session: &mut Session, args: &QueryArgs) -> Result<u8, Failure> {
    let server = args.server.map_or_else(name_server, |address| address.0);
    let (name, kind) = meant(&args.name, args.r#type.as_deref());
    let transport = args.tcp.then_some(Transport::Tcp);
    let lookup = lib_dns::look_up(server, &name, &kind, transport, PATIENCE)?;
    let status = match (&*lookup.code, lookup.records.is_empty()) {
        ("NOERROR", false) => Exit::Done,
        ("NOERROR" | "NXDOMAIN", _) => Exit::NotFound,
        _ => Exit::Failed,
    };
    let records = lookup.records.into_iter().map(|record| AnsweredRecord {
        name: record.name,
        r#type: record.kind,
        ttl: record.ttl,
        data: record.data,
    });
    session.output.emit(AnswerRecord {
        schema: SCHEMA,
        name: lookup.name,
        r#type: lookup.kind,
        server: server.ip(),
        port: server.port(),
        code: lookup.code,
        authoritative: lookup.authoritative,
        transport: match lookup.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        }
        .to_owned(),
        microseconds: u64::try_from(lookup.took.as_micros()).unwrap_or(u64::MAX),
        records: records.collect(),
    })?;
    Ok(status.into())
}

/// An address is asked for its name, a name without a dot is a VM's.
fn meant(name: &str, kind: Option<&str>) -> (String, String) {
    if let (Ok(address), None) = (name.parse::<Ipv4Addr>(), kind) {
        let [a, b, c, d] = address.octets();
        return (format!("{d}.{c}.{b}.{a}.in-addr.arpa."), "PTR".to_owned());
    }
    let name = match name.contains('.') || name == ZONE {
        true => name.to_owned(),
        false => format!("{name}.{ZONE}"),
    };
    (name, kind.unwrap_or("A").to_owned())
}

/// Prints the names of all VMs on the bridge, of those that do not run as well.
pub(crate) fn list(session: &mut Session) -> Result<(), Failure> {
    let records = lib_dns::records(session.context.names_file())?;
    for record in records {
        let broken = |error: String| Failure::new(Exit::Failed, error);
        let long = format!("{}.{}.{ZONE}", record.name, record.user);
        let short = record.first.then(|| format!("{}.{ZONE}", record.name));
        session.output.emit(NameRecord {
            schema: SCHEMA,
            id: lib_model::VmId::try_from(record.vm.as_str()).map_err(|e| broken(e.to_string()))?,
            name: lib_model::VmName::try_from(record.name.as_str())
                .map_err(|e| broken(e.to_string()))?,
            names: short.into_iter().chain([long]).collect(),
            address: record.address,
            user: record.user,
            uid: record.uid,
            attached: record.attached,
        })?;
    }
    Ok(())
}

/// An address with or without a port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At(pub(crate) SocketAddr);

impl std::str::FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.parse::<IpAddr>().map(|address| (address, PORT).into());
        address
            .or_else(|_| text.parse())
            .map(At)
            .map_err(|_| "not an address such as 127.0.0.1, 127.0.0.1:5353 or [::1]:53".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_becomes_a_question() {
        let asked = |name, kind| {
            let (name, kind) = meant(name, kind);
            format!("{kind} {name}")
        };
        assert_eq!(asked("dev", None), "A dev.vm");
        assert_eq!(asked("dev.ann.vm", Some("AAAA")), "AAAA dev.ann.vm");
        assert_eq!(asked("vm", Some("SOA")), "SOA vm");
        assert_eq!(asked("10.83.0.2", None), "PTR 2.0.83.10.in-addr.arpa.");
        let at = |text: &str| text.parse::<At>().map(|at| at.0.to_string());
        assert_eq!(at("127.0.0.1").unwrap(), "127.0.0.1:53");
        assert_eq!(at("[::1]:5353").unwrap(), "[::1]:5353");
        assert!(at("localhost").is_err());
    }
}
