//! What the host does before a VMM runs, what the guest does beside what any init must, and many boots at once.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, mkfifo};

use super::measure::touch_memory;
use super::start_up::wall;
use super::{Bench, Row, alone, compared, middle, shown};
use crate::build;
use crate::step::{Result, captured, go_on};

const VMM: &str = "qemu-system-x86_64";
/// What the example `floor` of the agent says on the console.
const FLOOR: &str = "the floor is reached";
/// Whatever has not happened by then does not happen.
const PATIENCE: Duration = Duration::from_secs(120);
/// Boots beside the floor, of each run: their difference is a tenth of what is measured.
const ROUNDS: usize = 3;
/// What a VMM and its guest use to boot, in bytes.
const TOUCHED: usize = 320 << 20;
/// As many boots at once as the budget speaks of.
const AT_ONCE: usize = 8;

impl Bench {
    /// Needs the image `busybox` and a kernel.
    pub(super) fn boots(&self, runs: usize, rows: &mut Vec<Row>) -> Result<()> {
        let gate = Gate::new(&self.directory.path().join("gate"))?;
        let mut costs = Vec::new();
        for _ in 0..runs * 2 {
            let create = ["create", "--quiet", "--network=none", "--name=g", "busybox"];
            let mut command = self.command("banger-vm", &create);
            let (mut child, monitor) = gate.start(&mut command)?;
            let cost = consumed(child.pid()?)? + consumed(monitor)?;
            gate.open()?;
            child.finish()?;
            captured(&mut self.command("banger-vm", &["delete", "--quiet", "--force", "g"]))?;
            costs.push(cost);
        }
        let cost = middle(costs).ok_or("a create was measured")?;
        let budget = Duration::from_millis(50);
        rows.push(compared(
            "create, processor time until the VMM",
            cost,
            "the budget",
            budget,
        ));
        self.over_the_floor(&gate, runs, rows)?;
        self.many_boots(rows)
    }

    /// From the VMM's start: the agent to the end of the first `exec`, beside an init that does nothing.
    fn over_the_floor(&self, gate: &Gate, runs: usize, rows: &mut Vec<Row>) -> Result<()> {
        let floor = self.floor()?;
        let create = [
            "create",
            "--quiet",
            "--no-start",
            "--network=none",
            "--name=f",
            "busybox",
        ];
        captured(&mut self.command("banger-vm", &create))?;
        let start = || self.command("banger-vm", &["start", "--quiet", "f"]);
        let end = || captured(&mut self.command("banger-vm", &["kill", "--quiet", "f"]));
        let (mut ours, mut least, mut over) = (Vec::new(), Vec::new(), Vec::new());
        // The first of each makes its initramfs.
        for number in 0..=runs * ROUNDS {
            let (mut child, _) = gate.start(&mut start())?;
            touch_memory(TOUCHED);
            let begun = gate.open()?;
            child.finish()?;
            wall(&mut self.command("banger-vm", &["exec", "f", "--", "true"]))?;
            let our = begun.elapsed();
            end()?;
            let (child, _) = gate.start(start().env("BANGER_LIBEXEC_DIR", &floor))?;
            let console = Console::watch(&self.console()?)?;
            touch_memory(TOUCHED);
            let begun = gate.open()?;
            console.wait_for(FLOOR)?;
            let their = begun.elapsed();
            // It waits for an agent; without it the VM goes, too.
            child.interrupt()?;
            if number > 0 {
                ours.push(our);
                least.push(their);
                over.push(our.saturating_sub(their));
            }
        }
        captured(&mut self.command("banger-vm", &["delete", "--quiet", "--force", "f"]))?;
        let ours = middle(ours).ok_or("a boot was measured")?;
        let least = middle(least).ok_or("the floor was measured")?;
        rows.push(compared(
            "the VMM's start to the end of the first exec",
            ours,
            "an init that does nothing",
            least,
        ));
        // The middle of the rounds' differences: what both take wanders by more than that.
        let over = middle(over).ok_or("both were measured")?;
        let budget = Duration::from_millis(150).max(least / 10);
        rows.push(compared(
            "of it above that init",
            over,
            "the budget",
            budget,
        ));
        Ok(())
    }

    /// Helpers with an agent that does nothing.
    fn floor(&self) -> Result<PathBuf> {
        let directory = self.directory.path().join("floor-libexec");
        fs::create_dir(&directory)?;
        fs::copy(
            build::static_example("banger-agent", "boot_floor")?,
            directory.join("banger-agent"),
        )?;
        let monitor = "banger-monitor";
        fs::copy(
            self.fixtures.libexec().join(monitor),
            directory.join(monitor),
        )?;
        Ok(directory)
    }

    /// The console's log of the only VM there is.
    fn console(&self) -> Result<PathBuf> {
        let mut vms = fs::read_dir(self.store().join("vms"))?;
        let vm = vms.next().ok_or("no VM is there")??;
        Ok(vm.path().join("console.log"))
    }

    /// All succeed and answer.
    fn many_boots(&self, rows: &mut Vec<Row>) -> Result<()> {
        let names: Vec<String> = (0..AT_ONCE)
            .map(|number| format!("many-{number}"))
            .collect();
        let start = Instant::now();
        let children = names
            .iter()
            .map(|name| {
                let create = [
                    "create",
                    "--quiet",
                    "--network=none",
                    "--name",
                    name,
                    "busybox",
                ];
                Started::new(&mut self.command("banger-vm", &create))
            })
            .collect::<Result<Vec<_>>>()?;
        for mut child in children {
            child.finish()?;
        }
        let took = start.elapsed();
        for name in &names {
            wall(&mut self.command("banger-vm", &["exec", name, "--", "true"]))?;
            captured(&mut self.command("banger-vm", &["delete", "--quiet", "--force", name]))?;
        }
        rows.push(alone(&format!("{AT_ONCE} boots at once, all"), shown(took)));
        Ok(())
    }
}

/// Processor time of a process and all its threads so far.
fn consumed(process: Pid) -> Result<Duration> {
    Ok(clock_gettime(clock_getcpuclockid(process)?)?.into())
}

/// A command under way; killed when the measurement fails.
struct Started(Option<std::process::Child>);

impl Started {
    fn new(command: &mut Command) -> Result<Started> {
        go_on()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Started(Some(child)))
    }

    fn pid(&self) -> Result<Pid> {
        let child = self.0.as_ref().ok_or("the command has ended")?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    fn finish(&mut self) -> Result<()> {
        let child = self.0.take().ok_or("the command has ended")?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("a command failed, {}:\n{said}", output.status).into())
    }

    fn interrupt(mut self) -> Result<()> {
        kill(self.pid()?, Signal::SIGINT)?;
        let child = self.0.take().ok_or("the command has ended")?;
        child.wait_with_output()?;
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Stands before the VMM on the search path: it says who started it, waits, and becomes the VMM. Who
/// only asks for the version need not wait.
struct Gate {
    directory: PathBuf,
    said: File,
    go: File,
}

impl Gate {
    fn new(directory: &Path) -> Result<Gate> {
        fs::create_dir(directory)?;
        let pipe = |name: &str| -> Result<(PathBuf, File)> {
            let path = directory.join(name);
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            // Both ways, so that opening waits for nobody (fifo(7)).
            let file = File::options().read(true).write(true).open(&path)?;
            Ok((path, file))
        };
        let ((said_path, said), (go_path, go)) = (pipe("said")?, pipe("go")?);
        let script = directory.join(VMM);
        let text = format!(
            "#!/bin/sh\n\
             case \" $* \" in *' -version '*) exec '{vmm}' \"$@\" ;; esac\n\
             echo $PPID >'{}'\nread -r go <'{}'\nexec '{vmm}' \"$@\"\n",
            said_path.display(),
            go_path.display(),
            vmm = vmm()?.display()
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(Gate {
            directory: directory.to_owned(),
            said,
            go,
        })
    }

    /// Starts a command that starts a VMM, and returns when it has: with the process that did.
    fn start(&self, command: &mut Command) -> Result<(Started, Pid)> {
        let mut path = self.directory.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut started = Started::new(command.env("PATH", path))?;
        if !readable(&self.said, PATIENCE)? {
            let pid = started.pid()?;
            kill(pid, Signal::SIGKILL)?;
            started.finish()?;
            return Err("a command started no VMM".into());
        }
        let mut line = [0; 32];
        let length = (&self.said).read(&mut line)?;
        let pid = std::str::from_utf8(&line[..length])?.trim().parse()?;
        Ok((started, Pid::from_raw(pid)))
    }

    /// Lets the VMM begin; returns when.
    fn open(&self) -> Result<Instant> {
        let now = Instant::now();
        (&self.go).write_all(b"\n")?;
        Ok(now)
    }
}

fn vmm() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(VMM));
    let found = found.into_iter().find(|program| program.is_file());
    found.ok_or_else(|| format!("{VMM} is not on the search path").into())
}

fn readable(file: &impl AsFd, patience: Duration) -> Result<bool> {
    let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut polled, timeout)? > 0)
}

/// A log that grows.
struct Console {
    path: PathBuf,
    changes: Inotify,
}

impl Console {
    fn watch(path: &Path) -> Result<Console> {
        let changes = Inotify::init(InitFlags::IN_CLOEXEC)?;
        changes.add_watch(path, AddWatchFlags::IN_MODIFY)?;
        Ok(Console {
            path: path.to_owned(),
            changes,
        })
    }

    fn wait_for(&self, words: &str) -> Result<()> {
        while !fs::read_to_string(&self.path)?.contains(words) {
            go_on()?;
            if !readable(&self.changes, PATIENCE)? {
                let said = fs::read_to_string(&self.path)?;
                return Err(format!("the console never said `{words}`:\n{said}").into());
            }
            self.changes.read_events()?;
        }
        Ok(())
    }
}
