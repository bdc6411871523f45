//! What the network can do here, tried for real.

use lib_model::{CheckRecord, Diagnose, SCHEMA};

use crate::{Endpoint, NetError, PrivilegedOps};

/// Tries one thing after the other, as far as one needs the one before.
pub fn doctor(endpoint: &Endpoint) -> Vec<CheckRecord> {
    let mut checks = Vec::new();
    let mut client = match endpoint.open() {
        Ok(client) => client,
        Err(error) => {
            checks.push(failed("daemon", &error));
            return checks;
        }
    };
    match client.status() {
        Ok(status) => checks.push(well("daemon", format!("{} answers", status.program))),
        Err(error) => checks.push(failed("daemon", &error)),
    }
    match client.up() {
        Ok((changed, status)) => {
            let (bridge, gateway, prefix) = (status.bridge, status.gateway, status.prefix);
            let how = if changed { "was made" } else { "is there" };
            checks.push(well(
                "bridge",
                format!("{bridge} {how}, {gateway}/{prefix}"),
            ));
        }
        Err(error) => checks.push(failed("bridge", &error)),
    }
    checks
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
