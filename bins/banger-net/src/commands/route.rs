//! `banger-net route`.

use lib_cli::{Failure, Session};
use lib_model::{RouteRecord, SCHEMA};
use lib_net::{PrivilegedOps, RouteChange};

use crate::cli::RouteCommand;

pub(crate) fn run(session: &mut Session, command: &RouteCommand) -> Result<(), Failure> {
    let change = match command {
        RouteCommand::Up => RouteChange::Up,
        RouteCommand::Down => RouteChange::Down,
        RouteCommand::Status => RouteChange::Look,
    };
    let (changed, status) = super::open(session)?.route(change)?;
    if change == RouteChange::Look && !status.up {
        session.note(&otherwise(&status.server.to_string(), &status.zones));
    }
    session.output.emit(RouteRecord {
        schema: SCHEMA,
        up: status.up,
        link: status.link.to_string(),
        server: status.server,
        zones: status.zones,
        changed,
    })
}

/// What to write where there is no systemd-resolved. Each of these has a test.
fn otherwise(server: &str, zones: &[String]) -> String {
    let mut text = String::from("systemd-resolved does not ask the server of names. With it:\n");
    text += "  banger-net route up\nWith dnsmasq, or NetworkManager's (dns=dnsmasq, /etc/NetworkManager/dnsmasq.d/banger.conf):\n";
    for zone in zones {
        text += &format!("  server=/{zone}/{server}\n");
    }
    text += "With neither, the first line of /etc/resolv.conf:\n";
    text += &format!("  nameserver {server}");
    text
}
