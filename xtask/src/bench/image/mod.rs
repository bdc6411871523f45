//! From a registry on loopback to a file system image: ours beside other tools, in turns, and
//! beside what no program can do without.

mod check;
mod floor;
mod large;
mod peers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use banger_tests::Registry;

use super::measure::{Cost, spent};
use super::{Bench, Row, alone, bytes, compared, medians, middle, remove, shown};
use crate::build;
use crate::step::{Result, captured, go_on, output, timed};
use check::Used;
use floor::Floor;
use large::{Blob, Large, MANY};
use peers::{Peer, Peers};

/// What peak memory may be, up to 500,000 entries.
const PEAK: u64 = 128 << 20;
/// What each further entry may take, in bytes.
const PEAK_ENTRY: usize = 128;

/// More than a manifest has, and less than any layer.
const DOCUMENT: u64 = 64 << 10;

/// A command line on `$REF`, which leaves its result below `$WORK`.
const OURS: &str = r#"banger-image pull --quiet "$REF""#;

/// Measures everything; `rounds` for each pair of ours and a peer.
pub(super) fn measure(bench: &Bench, rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    timed("a small image", || small(bench, rounds, rows))?;
    let cache = build::target()?.join("bench");
    let peers = timed("peers", || Peers::fetch(&cache.join("peers")))?;
    let large = timed("a development image", || {
        Large::prepare(&cache, &bench.fixtures, &peers)
    })?;
    let floor = build::example("lib-image", "floor")?;
    let registry = large.serve()?;
    let stage = Stage {
        bench,
        peers: &peers,
        registry,
        work: bench.directory.path().join("work"),
    };
    for variant in large::VARIANTS {
        timed(&format!("large, {variant}: peers"), || {
            stage.rounds(variant, &large.layers(variant)?, rounds, rows)
        })?;
        timed(&format!("large, {variant}: the floor"), || {
            stage.floor(&floor, &large, variant, rounds, rows)
        })?;
    }
    timed("blobs and images that are here", || {
        stage.again(rounds, rows)
    })?;
    timed("many entries", || stage.many(rows))
}

/// Debian's minimal system beside what the distribution has.
fn small(bench: &Bench, rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let registry = Registry::start(&bench.fixtures.registry_program())?;
    let debian = bench.fixtures.debian()?;
    debian.push(registry.address(), "debian", "12")?;
    drop(debian);
    let stage = Stage {
        bench,
        peers: &Peers::none(),
        registry,
        work: bench.directory.path().join("work"),
    };
    let peer = Peer::usual("skopeo, umoci, mke2fs of this release");
    let (ours, theirs) = (0..rounds)
        .map(|_| {
            let ours = stage.cold("debian:12", OURS)?;
            Ok((ours, stage.cold("debian:12", peer.script)?))
        })
        .collect::<Result<(Vec<Cost>, Vec<Cost>)>>()?;
    remove(&stage.work)?;
    rows.extend(pairs("pull of Debian", &peer, &ours, &theirs));
    Ok(())
}

/// Where commands run, and on what.
struct Stage<'a> {
    bench: &'a Bench,
    peers: &'a Peers,
    registry: Registry,
    work: PathBuf,
}

impl Stage<'_> {
    /// Ours and each peer, in turns; a peer that is not there is a row that says why.
    fn rounds(
        &self,
        variant: &str,
        layers: &[Blob],
        rounds: usize,
        rows: &mut Vec<Row>,
    ) -> Result<()> {
        let image = format!("large:{variant}");
        let peers = peers::all();
        let mut costs = vec![(Vec::new(), Vec::new()); peers.len()];
        let mut used: Vec<Option<Used>> = vec![None; peers.len()];
        let mut unable: Vec<Option<String>> = peers
            .iter()
            .map(|peer| self.peers.missing(peer).map(str::to_owned))
            .collect();
        let mut own = None;
        for _ in 0..rounds {
            for (number, peer) in peers.iter().enumerate() {
                if unable[number].is_some() {
                    continue;
                }
                let our = self.cold(&image, OURS)?;
                own = Some(check::ext4(&check::ours(&self.work)?)?);
                let their = match self.cold(&image, peer.script) {
                    Ok(their) => their,
                    Err(error) => {
                        go_on()?;
                        println!("   {error}");
                        unable[number] = Some(reason(&error.to_string()));
                        continue;
                    }
                };
                used[number] = check::peer(peer, &self.work, self.peers)?;
                costs[number].0.push(our);
                costs[number].1.push(their);
                println!(
                    "   {:6} {:6}   {:32} {:6} {:6}   seconds: wall, CPU",
                    seconds(our.wall),
                    seconds(our.cpu),
                    peer.name,
                    seconds(their.wall),
                    seconds(their.cpu)
                );
            }
        }
        remove(&self.work)?;
        let all: Vec<Cost> = costs.iter().flat_map(|(ours, _)| ours).copied().collect();
        for (number, peer) in peers.iter().enumerate() {
            if let Some(why) = &unable[number] {
                rows.push(unmeasured(&format!("large {variant}"), peer.name, why));
                continue;
            }
            let (ours, theirs) = &costs[number];
            rows.extend(pairs(&format!("large {variant}"), peer, ours, theirs));
            if let (Some(ours), Some(theirs)) = (own, used[number]) {
                agree(peer, ours, theirs)?;
            }
        }
        let Some(own) = own else {
            return Err("no peer is there to measure beside".into());
        };
        let cost = medians(&all);
        rows.push(limited(
            &format!("large {variant}, peak memory"),
            cost.peak,
            "the budget",
            PEAK,
        ));
        let blobs: u64 = layers.iter().map(|layer| layer.size).sum();
        rows.push(limited(
            &format!("large {variant}, written"),
            cost.written,
            "blobs and used blocks",
            blobs + own.bytes,
        ));
        Ok(())
    }

    /// The unavoidable parts, each alone.
    fn floor(
        &self,
        program: &Path,
        large: &Large,
        variant: &str,
        rounds: usize,
        rows: &mut Vec<Row>,
    ) -> Result<()> {
        let image = format!("large:{variant}");
        let mut ratios = Vec::new();
        for _ in 0..rounds {
            let ours = self.cold(&image, OURS)?;
            let used = check::ext4(&check::ours(&self.work)?)?;
            remove(&self.work)?;
            let layers = large.layers(variant)?;
            let floor = Floor::measure(
                program,
                self.registry.address(),
                &layers,
                used.bytes,
                &self.work,
            )?;
            println!(
                "   ours {} {}; {floor}",
                seconds(ours.wall),
                seconds(ours.cpu)
            );
            ratios.push((ours, floor));
        }
        let of = |figure: &dyn Fn(&(Cost, Floor)) -> f64| {
            middle(ratios.iter().map(figure).collect()).unwrap_or_default()
        };
        let costs: Vec<Cost> = ratios.iter().map(|(ours, _)| *ours).collect();
        let ours = medians(&costs);
        for (what, ours, floor, ratio) in [
            (
                "wall",
                ours.wall,
                of(&|(_, floor)| floor.wall()),
                of(&|(ours, floor)| ours.wall.as_secs_f64() / floor.wall()),
            ),
            (
                "CPU",
                ours.cpu,
                of(&|(_, floor)| floor.cpu()),
                of(&|(ours, floor)| ours.cpu.as_secs_f64() / floor.cpu()),
            ),
        ] {
            rows.push([
                format!("large {variant}, {what}"),
                shown(ours),
                "the physical floor".into(),
                format!("{floor:.2} s"),
                format!("{ratio:.2} (budget 1.30)"),
            ]);
        }
        Ok(())
    }

    /// With all blobs here, and with the image here.
    fn again(&self, rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
        self.cold("large:gzip", OURS)?;
        let (mut rebuilt, mut sent) = (Vec::new(), 0);
        for _ in 0..rounds {
            let ids = output(&mut self.command("large:gzip", "banger-image list --format ids"))?;
            captured(&mut self.command(
                "large:gzip",
                &format!("banger-image delete --quiet {}", ids.trim()),
            ))?;
            let before = self.sent()?;
            rebuilt.push(self.timed("large:gzip", OURS)?);
            sent = sent.max(self.sent()? - before);
        }
        let mut known = Vec::new();
        for _ in 0..rounds * 5 {
            known.push(spent(&self.command("large:gzip", OURS))?);
        }
        remove(&self.work)?;
        let rebuilt = medians(&rebuilt);
        let known = medians(&known).wall;
        rows.push(alone("large gzip, blobs here, wall", shown(rebuilt.wall)));
        rows.push(alone("large gzip, blobs here, CPU", shown(rebuilt.cpu)));
        rows.push(limited(
            "large gzip, blobs here, received",
            sent,
            "a manifest's limit",
            DOCUMENT,
        ));
        let budget = Duration::from_millis(50);
        rows.push(compared(
            "large gzip, image here",
            known,
            "the budget",
            budget,
        ));
        Ok(())
    }

    /// Bytes that the registry wrote so far: to its clients and its log.
    fn sent(&self) -> Result<u64> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.registry.pid()))?;
        let wchar = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        Ok(wchar.ok_or("/proc/PID/io has no wchar")?.parse()?)
    }

    /// Memory with as many entries as the budget speaks of, and with more.
    fn many(&self, rows: &mut Vec<Row>) -> Result<()> {
        let more = PEAK + ((large::MORE_ENTRIES - large::ENTRIES) * PEAK_ENTRY) as u64;
        for (image, entries, budget) in [
            (MANY, large::ENTRIES, PEAK),
            (large::MORE, large::MORE_ENTRIES, more),
        ] {
            let cost = self.cold(image, OURS)?;
            check::ext4(&check::ours(&self.work)?)?;
            remove(&self.work)?;
            rows.push(limited(
                &format!("{entries} entries, peak memory"),
                cost.peak,
                "the budget",
                budget,
            ));
            rows.push(alone(&format!("{entries} entries, wall"), shown(cost.wall)));
        }
        Ok(())
    }

    /// The cost of a script that starts with nothing, and with a file system that is written out.
    fn cold(&self, image: &str, script: &str) -> Result<Cost> {
        remove(&self.work)?;
        std::fs::create_dir(&self.work)?;
        output(Command::new("sync").arg("-f").arg(&self.work))?;
        self.timed(image, script)
    }

    /// The cost of a script up to the moment when what it wrote is on the disk.
    fn timed(&self, image: &str, script: &str) -> Result<Cost> {
        spent(&self.command(image, &format!("{script}; sync -f \"$WORK\"")))
    }

    fn command(&self, image: &str, script: &str) -> Command {
        let mut paths = vec![self.bench.fixtures.bin().to_owned(), self.peers.bin()];
        let path = std::env::var_os("PATH").unwrap_or_default();
        paths.extend(std::env::split_paths(&path));
        let mut shell = Command::new("sh");
        shell
            .args(["-ec", script])
            .env("PATH", std::env::join_paths(paths).unwrap_or(path))
            .env("BANGER_STORE", self.work.join("store"))
            .env("BANGER_RUNTIME_DIR", self.bench.runtime.path())
            .env("REF", format!("{}/{image}", self.registry.address()))
            .env("WORK", &self.work);
        shell
    }
}

/// Wall and processor time beside a peer's, with the median of the rounds' ratios.
fn pairs(what: &str, peer: &Peer, ours: &[Cost], theirs: &[Cost]) -> [Row; 2] {
    let row = |name: &str, figure: &dyn Fn(&Cost) -> Duration| {
        let both = ours.iter().zip(theirs);
        let ratios =
            both.map(|(our, their)| figure(our).as_secs_f64() / figure(their).as_secs_f64());
        let ratio = middle(ratios.collect()).unwrap_or_default();
        [
            format!("{what}, {name}"),
            shown(figure(&medians(ours))),
            peer.name.into(),
            shown(figure(&medians(theirs))),
            format!("{ratio:.2} (budget {:.2})", peer.budget),
        ]
    };
    [row("wall", &|cost| cost.wall), row("CPU", &|cost| cost.cpu)]
}

fn limited(what: &str, found: u64, limit: &str, allowed: u64) -> Row {
    [
        what.into(),
        bytes(found),
        limit.into(),
        bytes(allowed),
        format!("{:.2}", found as f64 / allowed as f64),
    ]
}

fn unmeasured(what: &str, peer: &str, why: &str) -> Row {
    [
        what.into(),
        "-".into(),
        peer.into(),
        format!("not measured: {why}"),
        "-".into(),
    ]
}

/// What a tool said last; the first line is the command.
fn reason(error: &str) -> String {
    let said: Vec<&str> = error.lines().skip(1).collect();
    let own = |line: &&&str| !line.starts_with("error: sh: ");
    let last = said.iter().rev().find(own).copied();
    last.unwrap_or(error).to_owned()
}

/// Fails when the file system of the reference has other inodes than ours; says so of others.
fn agree(peer: &Peer, ours: Used, theirs: Used) -> Result<()> {
    if ours.inodes == theirs.inodes {
        println!("   {}: {} inodes, as ours", peer.name, theirs.inodes);
        return Ok(());
    }
    let said = format!(
        "{} made {} inodes, ours has {}",
        peer.name, theirs.inodes, ours.inodes
    );
    if peer.is_reference() {
        return Err(said.into());
    }
    println!("   {said}");
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_what_the_tool_said() {
        let error = "`xtask measure -- sh -ec x`: exit status: 1\nfirst\nmke2fs: no such file\n\
                     error: sh: exit status: 1";
        assert_eq!(reason(error), "mke2fs: no such file");
        assert_eq!(reason("only this"), "only this");
    }
}
