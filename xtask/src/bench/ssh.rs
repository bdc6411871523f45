//! `ssh true` to the agent, beside the same to Dropbear in the same guest over the same transport.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_tests::{Compression, Entry, Image, Layer, programs};

use super::guests::kibibytes;
use super::start_up::wall;
use super::{Bench, Row, compared, middle};
use crate::step::{Result, captured};

/// Dropbear, with keys of its own made when first needed, on loopback.
const SERVE: &str = "/usr/sbin/dropbear -R -s -p 127.0.0.1:22 -P /tmp/dropbear.pid";
/// A server that does not come up never does.
const PATIENCE: Duration = Duration::from_secs(60);

impl Bench {
    pub(super) fn ssh(&self, runs: usize, rows: &mut Vec<Row>) -> Result<()> {
        let key = self.directory.path().join("key");
        let mut keygen = Command::new("ssh-keygen");
        captured(
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&key),
        )?;
        let public = key.with_extension("pub");
        let archive = self.directory.path().join("dropbear.tar");
        let home = [
            Entry::Directory("etc/dropbear/".into(), 0o755),
            Entry::Directory("root/.ssh/".into(), 0o700),
            Entry::File(
                "root/.ssh/authorized_keys".into(),
                0o600,
                fs::read(&public)?,
            ),
            Entry::File("etc/shells".into(), 0o644, b"/bin/sh\n".to_vec()),
        ];
        let image = Image::busybox()?
            .with(programs(&["/usr/sbin/dropbear"])?)
            .with(Layer::new(&home, Compression::Gzip)?);
        image.write_archive(&archive, "dropbear:latest")?;
        let archive = archive.to_string_lossy();
        captured(&mut self.command("banger-image", &["import", "--quiet", &archive]))?;
        let create = [
            "create",
            "--quiet",
            "--network=none",
            "--name=d",
            "dropbear",
        ];
        let mut create = self.command("banger-vm", &create);
        captured(create.env("BANGER_VM_AUTHORIZED_KEYS", &public))?;
        let start = ["exec", "d", "--", "sh", "-c", SERVE];
        captured(&mut self.command("banger-vm", &start))?;
        let client = |proxy: &str, command: &str| {
            let program = self.fixtures.bin().join("banger-vm");
            let mut ssh = Command::new("ssh");
            ssh.args(["-F", "none", "-o", "ProxyUseFdpass=yes", "-o"])
                .arg(format!("ProxyCommand={} {proxy}", program.display()))
                .args([
                    "-o",
                    "IdentitiesOnly=yes",
                    "-o",
                    "LogLevel=ERROR",
                    "-o",
                    "BatchMode=yes",
                ])
                .args([
                    "-o",
                    "StrictHostKeyChecking=no",
                    "-o",
                    "UserKnownHostsFile=/dev/null",
                    "-i",
                ])
                .arg(&key)
                .args(["-l", "root", "d", command])
                .env("BANGER_STORE", self.store())
                .env("BANGER_RUNTIME_DIR", self.runtime.path());
            ssh
        };
        let own = "ssh-proxy --fdpass d";
        let theirs = "ssh-proxy --fdpass --port 22 d";
        let begin = Instant::now();
        while !client(theirs, "true")
            .stderr(Stdio::null())
            .status()?
            .success()
        {
            if begin.elapsed() > PATIENCE {
                return Err("dropbear does not answer in the guest".into());
            }
        }
        let (mut ours, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..runs * 5 {
            ours.push(wall(&mut client(own, "true"))?);
            peers.push(wall(&mut client(theirs, "true"))?);
        }
        // Of a command's parent, which is the connection's process.
        let map = "cat /proc/$PPID/smaps_rollup";
        let maps = [own, theirs].map(|proxy| captured(&mut client(proxy, map)));
        captured(&mut self.command("banger-vm", &["delete", "--quiet", "--force", "d"]))?;
        let ours = middle(ours).ok_or("ssh was measured")?;
        let peers = middle(peers).ok_or("ssh was measured")?;
        rows.push(compared(
            "ssh true, a new connection",
            ours,
            "Dropbear in the guest",
            peers,
        ));
        let [ours, peers] = maps;
        let (ours, peers) = (ours?, peers?);
        for (what, field) in [
            ("process of an SSH connection, resident", "Rss"),
            ("the same, written by itself", "Private_Dirty"),
        ] {
            let (ours, peers) = (kibibytes(&ours, field)?, kibibytes(&peers, field)?);
            rows.push([
                what.into(),
                format!("{ours} KiB"),
                "Dropbear in the guest".into(),
                format!("{peers} KiB"),
                format!("{:.2}", ours as f64 / peers as f64),
            ]);
        }
        Ok(())
    }
}
