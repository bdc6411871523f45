//! The main job in one command: a real Debian image goes through a real registry into a real VM.
//! Nothing is left: store, sockets and registry are of this run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use banger_tests::{Compression, Entry, Layer, Registry};
use tempfile::TempDir;

use crate::build;
use crate::step::{Result, always_timed, go_on, output, succeeded, timed};
use crate::{fixtures, packages};

/// Runs the demonstration.
pub(crate) fn demo() -> Result<()> {
    let start = Instant::now();
    let missing = timed("packages", || packages::missing(&[packages::DEMO]))?;
    // One waits for the network, the other for the processor.
    let (bin, fixtures) = timed("packages, executables, kernel and base image", || {
        let bin = build::target()?.join("release");
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                missing.install()?;
                fixtures::for_demo(bin)
            });
            let built = build::shown();
            let fixtures = made.join().map_err(|_| "making the fixtures panicked")??;
            Ok((built?, fixtures))
        })
    })?;
    let nonce = nonce()?;
    let registry = timed("a registry on loopback with the image debian:12", || {
        let registry = Registry::start(&fixtures.registry_program())?;
        let file = Entry::File("etc/banger-nonce".into(), 0o644, nonce.clone().into_bytes());
        let layer = Layer::new(&[file], Compression::Gzip)?;
        let mut image = fixtures.debian()?.with(layer);
        image.config = serde_json::json!({"Cmd": ["bash"]});
        image.push(registry.address(), "debian", "12")?;
        println!("   {} (process {})", registry.address(), registry.pid());
        Ok(registry)
    })?;
    let stage = Stage::new(&bin)?;
    let shown = stage.play(&registry, &fixtures.kernel_package(), &nonce);
    let cleaned = always_timed("everything is deleted", || {
        let deleted = stage.delete();
        drop(registry);
        deleted
    });
    shown?;
    cleaned?;
    println!("== done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// A store and a runtime directory that end with the demonstration.
struct Stage {
    store: TempDir,
    runtime: TempDir,
    path: std::ffi::OsString,
}

impl Stage {
    fn new(bin: &Path) -> Result<Stage> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path));
        Ok(Stage {
            store: tempfile::Builder::new().prefix("banger-demo-").tempdir()?,
            runtime: runtime_directory()?,
            path: std::env::join_paths(directories)?,
        })
    }

    /// A shell in a process group of its own: a signal reaches every command of its pipeline once,
    /// and none of those that clean up.
    fn command(&self, line: &str) -> Command {
        let mut shell = Command::new("sh");
        shell
            .process_group(0)
            .args(["-c", line])
            .env("PATH", &self.path)
            .env("BANGER_STORE", self.store.path().join("store"))
            .env("BANGER_RUNTIME_DIR", self.runtime.path());
        shell
    }

    fn play(&self, registry: &Registry, kernel: &Path, nonce: &str) -> Result<()> {
        let image = format!("{}/debian:12", registry.address());
        let import = format!("banger-image kernel import {}", kernel.display());
        timed("import the kernel", || self.show(&import).map(drop))?;

        timed("pull, create, exec", || {
            let said = self.show(&format!(
                "banger-image pull {image} | banger-vm create --name demo | \
                 banger-vm exec -- cat /etc/os-release /etc/banger-nonce"
            ))?;
            if !said.contains(nonce) {
                return Err(format!("the guest did not print this run's nonce {nonce}").into());
            }
            println!("   the guest printed this run's nonce");
            Ok(())
        })?;

        timed("run with an exit code", || {
            let line = format!("banger-vm run {image} -- sh -c 'uname -a; exit 7'");
            println!("$ {line}");
            let status = crate::step::wait(&mut self.command(&line))?;
            match status.code() {
                Some(7) => println!("   exit code 7, as the guest's command asked"),
                _ => return Err(format!("`{line}`: {status}, but 7 was expected").into()),
            }
            Ok(())
        })
    }

    /// Prints a command, runs it, and prints and returns its standard output.
    fn show(&self, line: &str) -> Result<String> {
        println!("$ {line}");
        let mut command = self.command(line);
        command.stderr(std::process::Stdio::inherit());
        go_on()?;
        let said = crate::step::captured(&mut command)?;
        print!("{said}");
        Ok(said)
    }

    /// Deletes VMs and images, and makes sure that nothing of them runs.
    fn delete(&self) -> Result<()> {
        let list = "banger-vm list --format ids";
        let mut failures = Vec::new();
        for id in self.quietly(list).unwrap_or_default().lines() {
            if let Err(error) = self.quietly(&format!("banger-vm delete --force {id}")) {
                failures.push(error.to_string());
            }
        }
        for id in self
            .quietly("banger-image list --format ids")
            .unwrap_or_default()
            .lines()
        {
            if let Err(error) = self.quietly(&format!("banger-image delete {id}")) {
                failures.push(error.to_string());
            }
        }
        match self.quietly(list) {
            Ok(left) if left.is_empty() => {}
            Ok(left) => failures.push(format!("VMs are left: {left}")),
            Err(error) => failures.push(error.to_string()),
        }
        failures.extend(
            self.processes()
                .into_iter()
                .map(|line| format!("still runs: {line}")),
        );
        if failures.is_empty() {
            println!("   no VM, no image, no process is left");
            Ok(())
        } else {
            Err(failures.join("\n").into())
        }
    }

    /// Runs a command even after Ctrl-C: it cleans up.
    fn quietly(&self, line: &str) -> Result<String> {
        let mut command = self.command(line);
        let output = command.stdin(std::process::Stdio::null()).output()?;
        succeeded(&command, output.status)
            .map_err(|error| format!("{error}\n{}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn processes(&self) -> Vec<String> {
        let mark = self.store.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            // Processes come and go while they are listed.
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&mark) {
                found.push(format!("{} {line}", entry.file_name().to_string_lossy()));
            }
        }
        found
    }
}

/// Private, and short: socket paths end at 107 bytes.
pub(crate) fn runtime_directory() -> Result<TempDir> {
    let directory = tempfile::Builder::new()
        .prefix("b-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in("/tmp")?;
    Ok(directory)
}

fn nonce() -> Result<String> {
    let random = output(Command::new("cat").arg("/proc/sys/kernel/random/uuid"))?;
    Ok(random)
}
