//! Boots and commands in guests.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use banger_tests::{Image, Registry};

use super::measure::touch_memory;
use super::start_up::wall;
use super::{Bench, Row, alone, middle, remove, shown};
use crate::step::{Result, captured};

impl Bench {
    pub(super) fn guests(&self, runs: usize, rows: &mut Vec<Row>) -> Result<()> {
        let registry = Registry::start(&self.fixtures.registry_program())?;
        let debian = self.fixtures.debian()?;
        debian.push(registry.address(), "debian", "12")?;
        let reference = format!("{}/debian:12", registry.address());
        captured(&mut self.command("banger-image", &["pull", "--quiet", &reference]))?;
        let package = self.fixtures.kernel_package();
        let package = package.to_string_lossy();
        captured(&mut self.command("banger-image", &["kernel", "import", "--quiet", &package]))?;
        let (mut boots, mut execs, mut memory) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..=runs {
            let create = [
                "create",
                "--quiet",
                "--network",
                "none",
                "--name",
                "b",
                &reference,
            ];
            let exec = ["exec", "b", "--", "true"];
            let measured = (|| -> Result<()> {
                let boot = wall(&mut self.command("banger-vm", &create))?;
                let first = wall(&mut self.command("banger-vm", &exec))?;
                // The first one makes the initramfs.
                if number > 0 {
                    boots.push(boot + first);
                    memory.push(self.monitor_pss()?);
                    for _ in 0..10 {
                        execs.push(wall(&mut self.command("banger-vm", &exec))?);
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
        let boot = middle(boots).ok_or("a boot was measured")?;
        let exec = middle(execs).ok_or("an exec was measured")?;
        let memory = middle(memory).ok_or("a monitor was measured")?;
        rows.push(alone("create to the end of the first exec", shown(boot)));
        let own = self.exec_of_a_static_program(runs)?;
        rows.push(alone("exec of busybox's true, static", shown(own)));
        rows.push(alone("exec of Debian's true, dynamic", shown(exec)));
        rows.push(alone("monitor, PSS", format!("{memory} KiB")));
        self.copies(rows)
    }

    /// What [`Bench::copies`] needs.
    pub(super) fn prepare_copies(&self) -> Result<()> {
        let package = self.fixtures.kernel_package();
        let package = package.to_string_lossy();
        captured(&mut self.command("banger-image", &["kernel", "import", "--quiet", &package]))?;
        self.import_busybox()
    }

    /// 500 MB of random bytes by `cp`, to where no file is, against as many that nobody looks at, in turns: the middle
    /// of the rounds' ratios counts. Needs the image `busybox` and a kernel.
    pub(super) fn copies(&self, rows: &mut Vec<Row>) -> Result<()> {
        const SIZE: u64 = 500_000_000;
        const ROUNDS: usize = 5;
        let create = ["create", "--quiet", "--network=none", "--name=c", "busybox"];
        captured(&mut self.command("banger-vm", &create))?;
        let file = self.directory.path().join("large");
        let mut random = fs::File::open("/dev/urandom")?.take(SIZE);
        std::io::copy(&mut random, &mut fs::File::create(&file)?)?;
        let file = file.to_string_lossy();
        let back = format!("{file}-back");
        let ways: [(&str, [&str; 3], &str); 2] = [
            (
                "cp of 500 MB into a guest",
                ["cp", &file, "c:/root/large"],
                "sent_us",
            ),
            (
                "cp of 500 MB out of a guest",
                ["cp", "c:/root/large", &back],
                "received_us",
            ),
        ];
        let mut measured = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let size = SIZE.to_string();
            let ping = ["ping", "--json", "--quiet", "--transfer", &size, "c"];
            let raw = captured(&mut self.command("banger-vm", &ping))?;
            let raw: serde_json::Value = serde_json::from_str(&raw)?;
            let clear = ["exec", "c", "--", "sh", "-c", "rm -f /root/large && sync"];
            captured(&mut self.command("banger-vm", &clear))?;
            remove(Path::new(&back))?;
            for ((_, command, name), measured) in ways.iter().zip(&mut measured) {
                touch_memory(SIZE as usize);
                let raw = raw["transfer"][name].as_f64().unwrap_or(0.0) / 1e6;
                let copy = wall(&mut self.command("banger-vm", command))?.as_secs_f64();
                measured.push((raw / copy, raw, copy));
            }
        }
        captured(&mut self.command("banger-vm", &["delete", "--quiet", "--force", "c"]))?;
        for ((what, ..), measured) in ways.iter().zip(measured) {
            let (ratio, raw, copy) = middle(measured).ok_or("a copy was measured")?;
            let rate = |seconds: f64| format!("{:.0} MB/s", SIZE as f64 / 1e6 / seconds);
            rows.push([
                (*what).into(),
                rate(copy),
                "ping --transfer".into(),
                rate(raw),
                format!("{ratio:.2}"),
            ]);
        }
        remove(Path::new(&back))?;
        remove(Path::new(&*file))
    }

    fn import_busybox(&self) -> Result<()> {
        let archive = self.directory.path().join("busybox.tar");
        Image::busybox()?.write_archive(&archive, "busybox:latest")?;
        let archive = archive.to_string_lossy();
        captured(&mut self.command("banger-image", &["import", "--quiet", &archive]))?;
        Ok(())
    }

    /// Without the dynamic loader's work, which is most of it in an emulated guest.
    fn exec_of_a_static_program(&self, runs: usize) -> Result<Duration> {
        self.import_busybox()?;
        let create = ["create", "--quiet", "--network=none", "--name=s", "busybox"];
        captured(&mut self.command("banger-vm", &create))?;
        let times: Result<Vec<_>> = (0..runs * 10)
            .map(|_| wall(&mut self.command("banger-vm", &["exec", "s", "--", "true"])))
            .collect();
        captured(&mut self.command("banger-vm", &["delete", "--quiet", "--force", "s"]))?;
        middle(times?).ok_or_else(|| "an exec was measured".into())
    }

    fn monitor_pss(&self) -> Result<u64> {
        let vms = self.store().join("vms");
        let vm = fs::read_dir(vms)?.next().ok_or("no VM is there")??;
        let handles: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(vm.path().join("handles.json"))?)?;
        let map = fs::read_to_string(format!("/proc/{}/smaps_rollup", handles["monitor_pid"]))?;
        kibibytes(&map, "Pss")
    }
}

/// A field of /proc/PID/smaps_rollup (proc_pid_smaps(5)).
pub(super) fn kibibytes(map: &str, field: &str) -> Result<u64> {
    map.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .ok_or_else(|| format!("smaps_rollup has no {field}: {map}").into())
}
