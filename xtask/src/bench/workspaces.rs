//! Repositories into guests and changes out of them, beside git archive, tar and rsync over ssh.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use banger_tests::{Compression, Entry, Image, Layer};

use super::measure::spent;
use super::{Bench, Row, alone, bytes, compared, shown};
use crate::step::{Result, captured};

/// Files in the repository; 500 MB, half of it text that compresses.
const FILES: usize = 50_000;
const FILE: usize = 10_000;
/// Files beside them that are not committed.
const UNTRACKED: usize = 500;
/// Files that change in the guest.
const CHANGED: usize = 1_000;

impl Bench {
    pub(super) fn workspaces(&self, rows: &mut Vec<Row>) -> Result<()> {
        let key = self.directory.path().join("ws-key");
        let mut keygen = Command::new("ssh-keygen");
        captured(
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&key),
        )?;
        let public = key.with_extension("pub");
        self.guest(&public)?;
        let source = self.directory.path().join("repository");
        repository(&source)?;
        let measured = self.measured(&source, &key, rows);
        let mut delete = self.command("banger-vm", &["delete", "--quiet", "--force", "ws"]);
        delete.stdout(Stdio::null()).status()?;
        measured
    }

    fn guest(&self, public: &Path) -> Result<()> {
        let package = self.fixtures.kernel_package();
        let package = package.to_string_lossy();
        // Another measurement may have imported it.
        let mut import = self.command("banger-image", &["kernel", "import", "--quiet", &package]);
        import
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        let shells = [Entry::File(
            "etc/shells".into(),
            0o644,
            b"/bin/sh\n".to_vec(),
        )];
        let image = Image::busybox()?
            .with_programs(&["/usr/bin/git", "/usr/bin/rsync"])?
            .with(Layer::new(&shells, Compression::Gzip)?);
        let archive = self.directory.path().join("ws.tar");
        image.write_archive(&archive, "ws:latest")?;
        let archive = archive.to_string_lossy();
        captured(&mut self.command("banger-image", &["import", "--quiet", &archive]))?;
        let create = [
            "create",
            "--quiet",
            "--network=none",
            "--name=ws",
            "--memory=2G",
            "ws",
        ];
        captured(
            self.command("banger-vm", &create)
                .env("BANGER_VM_AUTHORIZED_KEYS", public),
        )?;
        Ok(())
    }

    fn measured(&self, source: &Path, key: &Path, rows: &mut Vec<Row>) -> Result<()> {
        let repository = source.to_string_lossy();
        let prepare = |arguments: &[&str]| {
            let all = [&["prepare", "--quiet", "ws", &repository], arguments].concat();
            spent(&self.command("banger-ws", &all))
        };
        let files = prepare(&["--path=/root/files", "--mode=worktree-only"])?;
        let proxy = format!(
            "ProxyCommand={} ssh-proxy --fdpass ws",
            self.fixtures.bin().join("banger-vm").display()
        );
        let ssh = format!(
            "ssh -F none -o ProxyUseFdpass=yes -o '{proxy}' -o IdentityFile={} -o IdentitiesOnly=yes \
             -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -l root",
            key.display()
        );
        // Both of the peer's halves in one run.
        let line = format!(
            "set -e; cd {repository}; {ssh} ws mkdir /root/peer; git archive HEAD | {ssh} ws tar x -C /root/peer; \
             git ls-files -o --exclude-standard -z | rsync -a --from0 --files-from=- -e \"$SSH\" . ws:/root/peer/"
        );
        let mut peer = self.command("/bin/sh", &["-c", &line]);
        let peer = spent(peer.env("SSH", &ssh))?;
        rows.push(compared(
            "prepare of 50,000 files, 500 MB, files only: wall",
            files.wall,
            "git archive | ssh tar x, rsync of untracked",
            peer.wall,
        ));
        rows.push(compared(
            "the same: CPU of the host",
            files.cpu,
            "the same",
            peer.cpu,
        ));
        let first = prepare(&["--path=/root/app"])?;
        rows.push(compared(
            "prepare with the last commit: wall",
            first.wall,
            "the same",
            peer.wall,
        ));
        let largest = files.peak.max(first.peak);
        rows.push(alone(
            "prepare, the largest process of the host",
            bytes(largest),
        ));
        fs::write(source.join("d1/f1"), "changed\n")?;
        let again = prepare(&["--path=/root/app"])?;
        rows.push(compared(
            "prepare again after one change: wall",
            again.wall,
            "the first one",
            first.wall,
        ));
        let change = format!(
            "cd /root/app; for d in $(seq 0 9); do for f in $(seq 0 {}); do echo changed >> d$d/f$f; done; done",
            CHANGED / 10 - 1
        );
        captured(&mut self.command("banger-vm", &["exec", "ws", "--", "sh", "-c", &change]))?;
        let status = [
            "exec",
            "ws",
            "--",
            "git",
            "-C",
            "/root/app",
            "status",
            "--porcelain",
        ];
        // Once more, with the guest's cache as warm as for us.
        spent(&self.command("banger-vm", &status))?;
        let git = spent(&self.command("banger-vm", &status))?;
        let file = self.directory.path().join("out.patch");
        let export = ["export", "--quiet", "ws:/root/app", "-o"];
        let file = file.to_string_lossy();
        let export = [&export[..], &[&file]].concat();
        let export = spent(&self.command("banger-ws", &export))?;
        rows.push(compared(
            "export of 1,000 changed files: wall",
            export.wall,
            "git status in the guest",
            git.wall,
        ));
        let beyond = export.wall.checked_sub(git.wall).unwrap_or(Duration::ZERO);
        rows.push(alone("export beyond the guest's git", shown(beyond)));
        rows.push(alone(
            "export, the largest process of the host",
            bytes(export.peak),
        ));
        Ok(())
    }
}

fn repository(source: &Path) -> Result<()> {
    let mut random = File::open("/dev/urandom")?;
    let mut noise = vec![0; FILE];
    let text: Vec<u8> = b"the quick brown fox jumps over the lazy dog\n".repeat(FILE / 44 + 1);
    let file =
        |number: usize| -> PathBuf { source.join(format!("d{}/f{}", number % 200, number / 200)) };
    for directory in 0..200 {
        fs::create_dir_all(source.join(format!("d{directory}")))?;
    }
    for number in 0..FILES + UNTRACKED {
        if number == FILES {
            let commit = "git init -q -b main . && git add -A && \
                git -c user.name=b -c user.email=b@example.org commit -q -m all && git repack -adq --window=0";
            captured(
                Command::new("/bin/sh")
                    .args(["-c", commit])
                    .current_dir(source),
            )?;
        }
        let mut target = File::create(file(number))?;
        if number % 2 == 0 {
            random.read_exact(&mut noise)?;
            target.write_all(&noise)?;
        } else {
            write!(target, "{number}")?;
            target.write_all(&text[..FILE])?;
        }
    }
    Ok(())
}
