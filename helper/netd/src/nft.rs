//! Runs nft(8): by absolute path, with an empty environment, text on standard input. Each run is one
//! transaction.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use banger_failpoint::point;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::rules::{FAMILIES, OWNER, TABLE};

/// Debian, others, NixOS.
const PLACES: [&str; 4] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/bin/nft",
    "/run/current-system/sw/bin/nft",
];

/// It takes milliseconds; one that waits for the kernel must not stop everybody for ever.
const PATIENCE: Duration = Duration::from_secs(20);

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
        let (status, _, stderr) = self.run(&["-f", "-"], text).await?;
        if status {
            Ok(())
        } else {
            Err(io::Error::other(format!("nft: {}", first_line(&stderr))))
        }
    }

    /// Looks whose the tables are.
    pub(crate) async fn tables(&self) -> io::Result<Tables> {
        point("netd.nft.tables")?;
        let mut state = Tables::Absent;
        for family in FAMILIES {
            // Terse: without elements (nft(8), -t).
            let list = ["-t", "list", "table", family, TABLE];
            let (there, text, stderr) = self.run(&list, "").await?;
            if !there && stderr.contains("No such file") {
                continue;
            }
            if !there {
                return Err(io::Error::other(format!("nft: {}", first_line(&stderr))));
            }
            if !text.contains(&format!("set {OWNER} {{")) {
                return Ok(Tables::Foreign(family));
            }
            state = Tables::Ours;
        }
        Ok(state)
    }

    async fn run(&self, arguments: &[&str], input: &str) -> io::Result<(bool, String, String)> {
        let program = self.program()?;
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let work = async {
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(input.as_bytes()).await?;
            }
            child.wait_with_output().await
        };
        let output = timeout(PATIENCE, work)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "nft does not end"))??;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok((
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        ))
    }

    fn program(&self) -> io::Result<&Path> {
        let configured = self.configured.as_deref();
        let places = PLACES.iter().map(Path::new);
        let mut candidates = configured
            .into_iter()
            .chain(places.filter(|_| configured.is_none()));
        candidates.find(|path| path.is_file()).ok_or_else(|| {
            let place = configured.unwrap_or(Path::new(PLACES[0]));
            let message = format!("{} is not there: install nftables", place.display());
            io::Error::new(io::ErrorKind::NotFound, message)
        })
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("it said nothing")
}
