//! A store, a runtime directory and an environment of its own for each test.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::fixtures::copy_store;
use crate::slots::Slot;
use crate::{Fixtures, Outcome, Registry, Running, eventually};

/// Everything that a test makes; dropping it deletes its VMs and fails the test when a process
/// survives that.
#[derive(Debug)]
pub struct Sandbox {
    fixtures: Fixtures,
    directory: TempDir,
    runtime: TempDir,
    _slot: Option<Slot>,
}

impl Sandbox {
    /// With an empty store.
    ///
    /// # Panics
    /// When fixtures are missing.
    pub fn empty() -> Sandbox {
        let fixtures = Fixtures::find();
        let scratch = fixtures
            .scratch()
            .expect("the target directory can be written");
        let directory = tempfile::tempdir_in(scratch).expect("the target directory can be written");
        fs::create_dir(directory.path().join("home")).expect("the directory is new");
        // Socket paths end at 107 bytes: as short as it gets.
        let runtime = tempfile::Builder::new()
            .prefix("b-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in("/tmp")
            .expect("/tmp can be written");
        Sandbox {
            fixtures,
            directory,
            runtime,
            _slot: None,
        }
    }

    /// With a kernel and the image `busybox`; no guest is started in it.
    ///
    /// # Panics
    /// When the store cannot be prepared.
    pub fn prepared() -> Sandbox {
        let sandbox = Sandbox::empty();
        let prepared = sandbox
            .fixtures
            .prepared_store()
            .expect("the store can be prepared");
        copy_store(&prepared, &sandbox.store()).expect("the store can be copied");
        sandbox
    }

    /// As [`Sandbox::prepared`], with the right to run guests; waits for it.
    ///
    /// # Panics
    /// When the store cannot be prepared.
    pub fn for_guests() -> Sandbox {
        let mut sandbox = Sandbox::prepared();
        sandbox.wait_for_slot();
        sandbox
    }

    /// As [`Sandbox::for_guests`], with the image `system`, too: Debian with systemd and Docker.
    ///
    /// # Panics
    /// When the store cannot be prepared.
    pub fn with_system() -> Sandbox {
        let mut sandbox = Sandbox::empty();
        let prepared = sandbox
            .fixtures
            .prepared_system_store()
            .expect("the store can be prepared");
        copy_store(&prepared, &sandbox.store()).expect("the store can be copied");
        sandbox.wait_for_slot();
        sandbox
    }

    /// As [`Sandbox::empty`], with the right to run guests; waits for it.
    ///
    /// # Panics
    /// When locks cannot be taken.
    pub fn empty_for_guests() -> Sandbox {
        let mut sandbox = Sandbox::empty();
        sandbox.wait_for_slot();
        sandbox
    }

    fn wait_for_slot(&mut self) {
        self._slot = Some(Slot::wait(&self.fixtures.slots()).expect("slots can be locked"));
    }

    /// A file in the sandbox.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The directory of the sockets.
    pub fn runtime(&self) -> &Path {
        self.runtime.path()
    }

    /// Where a daemon of the sandbox's own would listen; the machine's is not used.
    pub fn netd_socket(&self) -> PathBuf {
        self.runtime.path().join("netd.sock")
    }

    /// The fixtures it uses.
    pub fn fixtures(&self) -> &Fixtures {
        &self.fixtures
    }

    /// Starts a registry.
    ///
    /// # Panics
    /// When it does not start.
    pub fn registry(&self) -> Registry {
        Registry::start(&self.fixtures.registry_program()).expect("the registry starts")
    }

    /// A command in the sandbox's environment, which has nothing of the caller's.
    pub fn command(&self, program: &str) -> Command {
        let bin = self.fixtures.bin();
        let own = bin.join(program);
        let mut command = Command::new(if own.exists() {
            &own
        } else {
            Path::new(program)
        });
        command
            .env_clear()
            .env("PATH", self.search_path())
            .env("HOME", self.path("home"))
            .env("LC_ALL", "C.UTF-8")
            // What is no repository in here is not one because of the checkout around it.
            .env(
                "GIT_CEILING_DIRECTORIES",
                self.directory.path().parent().unwrap_or(Path::new("/")),
            )
            .env("BANGER_STORE", self.store())
            .env("BANGER_RUNTIME_DIR", self.runtime.path())
            .env("BANGER_NETD_SOCKET", self.netd_socket())
            .env("BANGER_NAMES_FILE", self.path("netd/names.json"))
            .current_dir(self.directory.path());
        command
    }

    /// The directory of the executables, then the system's.
    pub fn search_path(&self) -> String {
        let bin = self.fixtures.bin().display();
        format!("{bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// Starts a shell's command line; begin it with `exec` to send signals to the command.
    #[track_caller]
    pub fn start(&self, line: &str) -> Running {
        let mut shell = self.command("/bin/sh");
        shell.args(["-c", line]);
        Running::spawn(shell, line)
    }

    /// Runs a shell's command line with an empty standard input, that is no pipe.
    #[track_caller]
    pub fn sh(&self, line: &str) -> Outcome {
        let mut shell = self.command("/bin/sh");
        shell.args(["-c", "exec < /dev/null; eval \"$1\"", "sh", line]);
        Running::spawn(shell, line).finish()
    }

    /// Runs a shell's command line with `input` on standard input.
    #[track_caller]
    pub fn feed(&self, line: &str, input: &[u8]) -> Outcome {
        let mut running = self.start(line);
        running.write(input);
        running.finish()
    }

    /// The record of a VM.
    #[track_caller]
    pub fn vm(&self, name: &str) -> serde_json::Value {
        self.sh(&format!("banger-vm show --json {name}")).record()
    }

    /// The directory of a VM in the store.
    #[track_caller]
    pub fn vm_directory(&self, name: &str) -> PathBuf {
        let id = self.vm(name)["id"].as_str().unwrap_or_default().to_owned();
        self.store().join("vms").join(id)
    }

    /// The file system of an image.
    #[track_caller]
    pub fn image_disk(&self, name: &str) -> PathBuf {
        let record = self
            .sh(&format!("banger-image show --json {name}"))
            .record();
        let id = record["id"].as_str().unwrap_or_default();
        self.store().join("images").join(id).join("rootfs.img")
    }

    /// A process id from a running VM's `handles.json`: `vmm_pid` or `monitor_pid`.
    ///
    /// # Panics
    /// When the VM does not run.
    #[track_caller]
    pub fn handle(&self, name: &str, key: &str) -> u32 {
        let file = self.vm_directory(name).join("handles.json");
        let text =
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let handles: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        handles[key]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or_else(|| panic!("no {key} in {text}"))
    }

    /// Waits until a VMM of this sandbox runs, and stops it there: its guest gets no further.
    ///
    /// # Panics
    /// When none runs within a minute.
    #[track_caller]
    pub fn freeze_vmm(&self) -> u32 {
        eventually("a VMM runs", Duration::from_secs(60), || {
            let processes = self.processes();
            let vmm = processes
                .iter()
                .find(|(_, line)| line.contains("qemu-system"));
            let pid = vmm.map(|(pid, _)| *pid)?;
            let stopped = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP);
            stopped.ok().map(|()| pid)
        })
    }

    /// Processes whose command line or environment names this sandbox.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let marks = [
            self.directory.path().as_os_str().as_bytes(),
            self.runtime.path().as_os_str().as_bytes(),
        ];
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // Processes come and go while they are listed.
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let ours = marks
                .iter()
                .any(|mark| contains(&line, mark) || contains(&environment, mark));
            if ours && pid != std::process::id() {
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                found.push((pid, line));
            }
        }
        found
    }

    fn delete_everything(&self) {
        if !self.store().exists() {
            return;
        }
        let list = self.sh("banger-vm list --format ids");
        for id in list.stdout.lines() {
            self.sh(&format!("banger-vm delete --force {id}"));
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The first failure is the one to read, so nothing in here may panic.
            for (pid, _) in self.processes() {
                end(pid);
            }
            return;
        }
        self.delete_everything();
        let deadline = Duration::from_secs(60);
        let left = std::panic::catch_unwind(|| {
            eventually("no process is left", deadline, || {
                self.processes().is_empty().then_some(())
            });
        });
        if left.is_err() {
            let processes = self.processes();
            for (pid, _) in &processes {
                end(*pid);
            }
            panic!("processes survive the deletion of their VM: {processes:#?}");
        }
    }
}

fn end(pid: u32) {
    // Gone already is as good.
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
