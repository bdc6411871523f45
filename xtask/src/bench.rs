//! First figures for SPEC.md, each beside something measured in the same run: read the ratios.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_tests::{Fixtures, Registry};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use tempfile::TempDir;

use crate::build::{self, Profile};
use crate::demo::runtime_directory;
use crate::step::{Result, captured, go_on, line, run, timed};
use crate::{fixtures, packages};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Runs of each measurement; the median is shown, of start-up the best decile
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

/// Wall and processor time of a command and all that it started.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

/// Measures, and prints a table.
pub(crate) fn bench(args: &Args) -> Result<()> {
    timed("packages", || {
        packages::install(&[packages::DEMO, packages::TEST])
    })?;
    let bin = timed("executables", || build::build(Profile::Release))?;
    let fixtures = timed("kernel package and base image", || fixtures::prepare(bin))?;
    let runs = args.runs.max(1);
    let bench = Bench::new(fixtures)?;
    let mut rows = Vec::new();
    timed("start-up", || bench.start_up(runs * 20, &mut rows))?;
    timed("from a registry to a file system", || {
        bench.pull(runs, &mut rows)
    })?;
    timed("guests", || bench.guests(runs, &mut rows))?;
    table(&rows);
    Ok(())
}

/// What, how much, beside what, how much that takes, and the ratio.
type Row = [String; 5];

struct Bench {
    fixtures: Fixtures,
    directory: TempDir,
    runtime: TempDir,
}

impl Bench {
    fn new(fixtures: Fixtures) -> Result<Bench> {
        Ok(Bench {
            fixtures,
            directory: tempfile::Builder::new().prefix("banger-bench-").tempdir()?,
            runtime: runtime_directory()?,
        })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.fixtures.bin().join(program));
        command
            .args(arguments)
            .env("BANGER_STORE", self.directory.path().join("store"))
            .env("BANGER_RUNTIME_DIR", self.runtime.path());
        command
    }

    fn start_up(&self, runs: usize, rows: &mut Vec<Row>) -> Result<()> {
        let source = self.directory.path().join("empty.rs");
        let empty = self.directory.path().join("empty");
        fs::write(&source, "fn main() {}\n")?;
        run(Command::new("rustc")
            .args(["-O", "-C", "strip=debuginfo", "-o"])
            .args([&empty, &source]))?;
        let mut commands = vec![(String::new(), Command::new(&empty))];
        for program in ["banger", "banger-image", "banger-vm"] {
            for argument in ["--version", "--help"] {
                let command = self.command(program, &[argument]);
                commands.push((format!("{program} {argument}"), command));
            }
        }
        let list = self.command("banger-vm", &["list"]);
        commands.push(("banger-vm list".into(), list));
        // In turns, so that a busy moment of the machine hits all of them.
        let mut times = vec![Vec::new(); commands.len()];
        for _ in 0..runs {
            for ((_, command), times) in commands.iter_mut().zip(&mut times) {
                times.push(spent(command)?.wall);
            }
        }
        let mut best = times.into_iter().map(best_decile);
        let base = best.next().ok_or("the empty program was measured")?;
        for ((what, _), time) in commands[1..].iter().zip(best) {
            rows.push(compared(what, time, "an empty Rust program", base));
        }
        Ok(())
    }

    fn pull(&self, runs: usize, rows: &mut Vec<Row>) -> Result<()> {
        let registry = Registry::start(&self.fixtures.registry_program())?;
        self.fixtures
            .debian()?
            .push(registry.address(), "debian", "12")?;
        let reference = format!("{}/debian:12", registry.address());
        let store = self.directory.path().join("store");
        let pull = median(runs, || {
            remove(&store)?;
            spent(&mut self.command("banger-image", &["pull", "--quiet", &reference]))
        })?;
        let peer = self.directory.path().join("peer");
        // The distribution's skopeo, umoci and mke2fs: the usual pipeline.
        let script = format!(
            "set -e; cd {}; skopeo --insecure-policy copy -q --src-tls-verify=false \
             docker://{reference} oci:layout:image; \
             umoci raw unpack --image layout:image rootfs; truncate -s 2G disk; \
             mke2fs -q -t ext4 -d rootfs disk",
            peer.display()
        );
        let usual = median(runs, || {
            remove(&peer)?;
            fs::create_dir(&peer)?;
            spent(Command::new("sh").args(["-c", &script]))
        })?;
        remove(&peer)?;
        let name = "skopeo, umoci, mke2fs -d";
        rows.push(compared(
            "pull of Debian, wall",
            pull.wall,
            name,
            usual.wall,
        ));
        rows.push(compared("pull of Debian, CPU", pull.cpu, name, usual.cpu));
        Ok(())
    }

    fn guests(&self, runs: usize, rows: &mut Vec<Row>) -> Result<()> {
        let package = self.fixtures.kernel_package();
        let package = package.to_string_lossy();
        captured(&mut self.command("banger-image", &["kernel", "import", "--quiet", &package]))?;
        let image = captured(&mut self.command("banger-image", &["list", "--format", "ids"]))?;
        let image = image.trim();
        let (mut boots, mut execs, mut memory) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..=runs {
            let create = [
                "create",
                "--quiet",
                "--network",
                "none",
                "--name",
                "b",
                image,
            ];
            let exec = ["exec", "b", "--", "true"];
            let measured = (|| -> Result<()> {
                let boot = spent(&mut self.command("banger-vm", &create))?;
                let first = spent(&mut self.command("banger-vm", &exec))?;
                // The first one makes the initramfs.
                if number > 0 {
                    boots.push(boot.wall + first.wall);
                    memory.push(self.monitor_pss()?);
                    for _ in 0..10 {
                        execs.push(spent(&mut self.command("banger-vm", &exec))?.wall);
                    }
                }
                Ok(())
            })();
            let deleted = self
                .command("banger-vm", &["delete", "--force", "b"])
                .stdout(Stdio::null())
                .status();
            measured?;
            deleted?;
        }
        boots.sort();
        execs.sort();
        memory.sort_unstable();
        rows.push(alone(
            "create to the end of the first exec",
            boots[boots.len() / 2],
        ));
        rows.push(alone("exec of true", execs[execs.len() / 2]));
        rows.push([
            "monitor, PSS".into(),
            format!("{} KiB", memory[memory.len() / 2]),
            "-".into(),
            "-".into(),
            "-".into(),
        ]);
        Ok(())
    }

    fn monitor_pss(&self) -> Result<u64> {
        let vms = self.directory.path().join("store/vms");
        let vm = fs::read_dir(vms)?.next().ok_or("no VM is there")??;
        let handles: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(vm.path().join("handles.json"))?)?;
        let map = fs::read_to_string(format!("/proc/{}/smaps_rollup", handles["monitor_pid"]))?;
        map.lines()
            .find_map(|line| line.strip_prefix("Pss:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .ok_or_else(|| "smaps_rollup has no Pss".into())
    }
}

fn remove(directory: &PathBuf) -> Result<()> {
    if Path::new(directory).exists() {
        fs::remove_dir_all(directory)?;
    }
    Ok(())
}

fn spent(command: &mut Command) -> Result<Cost> {
    go_on()?;
    let before = children_cpu()?;
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let wall = start.elapsed();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{}`: {}\n{said}", line(command), output.status).into());
    }
    Ok(Cost {
        wall,
        cpu: children_cpu()?.saturating_sub(before),
    })
}

fn children_cpu() -> Result<Duration> {
    let usage: Usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |value: nix::sys::time::TimeVal| {
        Duration::new(
            value.tv_sec().cast_unsigned(),
            u32::try_from(value.tv_usec() * 1000).unwrap_or(0),
        )
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

/// Medians of wall and processor time, each on its own.
fn median(runs: usize, mut measure: impl FnMut() -> Result<Cost>) -> Result<Cost> {
    let mut costs = Vec::new();
    for _ in 0..runs {
        costs.push(measure()?);
    }
    let middle = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    Ok(Cost {
        wall: middle(costs.iter().map(|cost| cost.wall).collect()),
        cpu: middle(costs.iter().map(|cost| cost.cpu).collect()),
    })
}

/// What start-up takes when nothing disturbs it.
fn best_decile(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 10]
}

fn compared(what: &str, ours: Duration, other: &str, theirs: Duration) -> Row {
    [
        what.into(),
        shown(ours),
        other.into(),
        shown(theirs),
        format!("{:.2}", ours.as_secs_f64() / theirs.as_secs_f64()),
    ]
}

fn alone(what: &str, time: Duration) -> Row {
    [what.into(), shown(time), "-".into(), "-".into(), "-".into()]
}

fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.2} ms", time.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

fn table(rows: &[Row]) {
    let head = ["what", "banger", "beside", "takes", "ratio"].map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).map(|row| row[column].len());
        cells.max().unwrap_or(0)
    };
    for row in [&head].into_iter().chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:width$}", width = width(column)))
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
}
