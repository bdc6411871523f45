//! Runs nft(8), with text on standard input. Each run is one transaction.

use std::io;
use std::path::{Path, PathBuf};

use banger_failpoint::point;

use crate::programs::{self, Output};
use crate::rules::{FAMILIES, OWNER, TABLE};

/// Debian, others, NixOS.
const PLACES: [&str; 4] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/bin/nft",
    "/run/current-system/sw/bin/nft",
];

/// The program.
#[derive(Debug)]
pub(crate) struct Nft {
    configured: Option<PathBuf>,
}

/// Whose our tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    Absent,
    Ours,
    /// Somebody else made one; the family.
    Foreign(&'static str),
}

impl Nft {
    pub(crate) fn new(configured: Option<PathBuf>) -> Self {
        Nft { configured }
    }

    /// Executes text as one transaction.
    pub(crate) async fn apply(&self, text: &str) -> io::Result<()> {
        point("netd.nft.apply")?;
        let output = self.run(&["-f", "-"], text).await?;
        if output.well {
            Ok(())
        } else {
            Err(output.error("nft"))
        }
    }

    /// Looks whose the tables are.
    pub(crate) async fn tables(&self) -> io::Result<Tables> {
        point("netd.nft.tables")?;
        let mut state = Tables::Absent;
        for family in FAMILIES {
            // Terse: without elements (nft(8), -t).
            let list = ["-t", "list", "table", family, TABLE];
            let output = self.run(&list, "").await?;
            if !output.well && output.stderr.contains("No such file") {
                continue;
            }
            if !output.well {
                return Err(output.error("nft"));
            }
            if !output.stdout.contains(&format!("set {OWNER} {{")) {
                return Ok(Tables::Foreign(family));
            }
            state = Tables::Ours;
        }
        Ok(state)
    }

    async fn run(&self, arguments: &[&str], input: &str) -> io::Result<Output> {
        let configured = self.configured.as_deref();
        let places = PLACES.iter().map(Path::new);
        let places = configured
            .into_iter()
            .chain(places.filter(|_| configured.is_none()));
        let program = programs::find(places, "nftables")?;
        programs::run(&program, arguments, input).await
    }
}
