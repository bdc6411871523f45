//! What the guest's kernel counts, from /proc and /sys.

use std::path::Path;

use banger_wire::agent::Stats;

use crate::image_file;
use crate::serve::{meminfo, uptime};

/// `USER_HZ`, in which /proc counts time; 100 wherever Linux runs (time(7)).
const TICKS_PER_SECOND: u64 = 100;
/// /proc/diskstats counts in these, whatever the disk (iostats.rst of the kernel).
const SECTOR: u64 = 512;

/// The numbers now.
pub(crate) fn now() -> Stats {
    let read = |path: &str| image_file::read(Path::new(path)).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let (cpus, busy) = cpu(&read("/proc/stat"));
    let (load, processes) = load(&read("/proc/loadavg"));
    let (network_received, network_sent) = network(&read("/proc/net/dev"));
    let (block_read, block_written) = block(&read("/proc/diskstats"));
    let (disk_size, disk_used) = nix::sys::statvfs::statvfs("/").map_or((0, 0), |disk| {
        let block = disk.fragment_size();
        let used = disk.blocks().saturating_sub(disk.blocks_free());
        (disk.blocks() * block, used * block)
    });
    Stats {
        uptime_ms: uptime().as_millis() as u64,
        cpus,
        cpu_busy_ms: busy,
        load,
        memory_total: meminfo(&memory, "MemTotal"),
        memory_available: meminfo(&memory, "MemAvailable"),
        disk_size,
        disk_used,
        processes,
        network_received,
        network_sent,
        block_read,
        block_written,
    }
}

fn numbers(line: &str) -> Vec<u64> {
    let words = line.split_whitespace();
    words.map(|word| word.parse().unwrap_or(0)).collect()
}

/// Processors, and how long they were busy, in milliseconds (proc_stat(5)).
fn cpu(text: &str) -> (u32, u64) {
    let mut count = 0;
    let mut busy = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("cpu")) {
        match line.strip_prefix(' ') {
            // user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user.
            Some(all) => {
                let all = numbers(all);
                let idle: u64 = all.iter().skip(3).take(2).sum();
                busy = all.iter().take(8).sum::<u64>().saturating_sub(idle);
            }
            None => count += 1,
        }
    }
    (count, busy * 1000 / TICKS_PER_SECOND)
}

/// Load averages, and how many processes and threads there are (proc_loadavg(5)).
fn load(text: &str) -> ([f64; 3], u32) {
    let mut words = text.split_whitespace();
    let mut load = [0.0; 3];
    for value in &mut load {
        *value = words
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or(0.0);
    }
    let total = words.next().and_then(|word| word.split_once('/'));
    (
        load,
        total.and_then(|(_, all)| all.parse().ok()).unwrap_or(0),
    )
}

/// Bytes received and sent by all interfaces but loopback (proc_pid_net(5), dev).
fn network(text: &str) -> (u64, u64) {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() != "lo")
        .map(|(_, line)| numbers(line))
        .filter(|numbers| numbers.len() >= 16)
        .fold((0, 0), |(received, sent), numbers| {
            (received + numbers[0], sent + numbers[8])
        })
}

/// Bytes read and written by all virtio disks (iostats.rst of the kernel); no partitions, no layers on top.
fn block(text: &str) -> (u64, u64) {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| {
            words.len() >= 10
                && words[2].starts_with("vd")
                && words[2].bytes().all(|byte| byte.is_ascii_lowercase())
        })
        .fold((0, 0), |(read, written), words| {
            let bytes = |at: usize| words[at].parse::<u64>().unwrap_or(0) * SECTOR;
            (read + bytes(5), written + bytes(9))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        let stat = "cpu  10 1 4 1000 50 2 3 0 7 0\ncpu0 5 0 2 500 25 1 1 0 0 0\ncpu1 5 1 2 500 25 1 2 0 0 0\nintr 5\n";
        assert_eq!(cpu(stat), (2, 200));
        assert_eq!(load("0.50 0.25 0.00 2/117 345\n"), ([0.5, 0.25, 0.0], 117));
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 9 0 0 0 0 0 0 0 9 0 0 0 0 0 0 0\n\
                   eth0: 100 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\neth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(network(dev), (101, 22));
        let disks = " 254 0 vda 10 0 8 5 20 0 16 7 0 1 2\n 254 1 vda1 1 0 8 5 2 0 16 7 0 1 2\n 7 0 loop0 1 0 8 5 2 0 16 7 0 1 2\n";
        assert_eq!(block(disks), (8 * 512, 16 * 512));
        assert_eq!((cpu(""), network(""), block("x")), ((0, 0), (0, 0), (0, 0)));
    }
}
