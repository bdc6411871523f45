//! Names of VMs, tried with real questions.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use lib_model::{CheckRecord, SCHEMA};

use crate::{DnsError, look_up};

/// A server follows within 100 ms; on a busy machine it may take longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two questions: a server does not tell when it knows a name.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks the server, then this host's own resolver, about a VM that runs at `address` for as long as this takes.
pub fn doctor(server: SocketAddr, name: &str, address: Ipv4Addr) -> Vec<CheckRecord> {
    let start = Instant::now();
    let mut checks = Vec::new();
    let is_served = match served(server, name, address, start + PATIENCE) {
        Ok(()) => {
            let took = start.elapsed().as_millis();
            checks.push(well(
                "names",
                format!("{server} knows {name} as {address}, after {took} ms"),
            ));
            true
        }
        Err(why) => {
            let hint = "sudo systemctl start banger-dns.socket   (or banger-net dns serve)";
            checks.push(failed("names", why, hint));
            false
        }
    };
    let hint = match is_served {
        true => "banger-net route up   (banger-net route status says what there is besides)",
        false => "the server of names first",
    };
    let start = Instant::now();
    checks.push(match resolved(name, address) {
        Ok(()) => {
            let took = start.elapsed().as_millis();
            well(
                "route",
                format!("this host's resolver knows {name} as {address}, in {took} ms"),
            )
        }
        Err(why) => failed("route", why, hint),
    });
    checks
}

/// By name and by address.
fn served(
    server: SocketAddr,
    name: &str,
    address: Ipv4Addr,
    deadline: Instant,
) -> Result<(), String> {
    let told = |error: DnsError| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    loop {
        let lookup = look_up(server, name, "A", None, PATIENCE).map_err(told)?;
        let data: Vec<_> = lookup
            .records
            .iter()
            .map(|record| record.data.clone())
            .collect();
        if data == [address.to_string()] {
            break;
        }
        if Instant::now() > deadline {
            let code = lookup.code;
            return Err(format!(
                "{server} says {code} {} to {name}, which is {address}",
                data.join(" ")
            ));
        }
        std::thread::sleep(PAUSE);
    }
    let [a, b, c, d] = address.octets();
    let reverse = format!("{d}.{c}.{b}.{a}.in-addr.arpa.");
    let lookup = look_up(server, &reverse, "PTR", None, PATIENCE).map_err(told)?;
    let data: Vec<_> = lookup
        .records
        .into_iter()
        .map(|record| record.data)
        .collect();
    if data == [format!("{name}.")] {
        return Ok(());
    }
    let code = lookup.code;
    Err(format!(
        "{server} says {code} {} to {address}, which is {name}",
        data.join(" ")
    ))
}

/// As every program of this host asks: getaddrinfo(3), for IPv6 as well.
fn resolved(name: &str, address: Ipv4Addr) -> Result<(), String> {
    let found = (name, 0)
        .to_socket_addrs()
        .map_err(|error| format!("this host's resolver does not know {name}: {error}"))?;
    let found: Vec<IpAddr> = found.map(|at| at.ip()).collect();
    if found.contains(&address.into()) {
        return Ok(());
    }
    Err(format!(
        "this host's resolver knows {name} as {found:?}, which is {address}"
    ))
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

fn failed(name: &str, detail: String, hint: &str) -> CheckRecord {
    CheckRecord {
        ok: false,
        hint: Some(hint.to_owned()),
        ..well(name, detail)
    }
}
