//! What the monitor costs while nothing happens.

use std::fs;

use banger_wire::monitor::ControlRequest;

use crate::fake;
use crate::rig::{Rig, read_all, within_limit};

/// Waits until the process is inside a system call; its number and arguments. Reading the file
/// gives `running` while it is not.
fn system_call(pid: u32) -> Vec<u64> {
    within_limit(move || {
        loop {
            let text = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
            let words: Option<Vec<u64>> = text
                .split_whitespace()
                .map(|word| match word.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16).ok(),
                    None => word.parse().ok(),
                })
                .collect();
            match words {
                Some(words) if words.len() > 4 => return words,
                _ => std::thread::yield_now(),
            }
        }
    })
}

/// Asleep in epoll without a timeout: no system call follows until something happens.
pub(crate) fn assert_idle(rig: &Rig) {
    let call = system_call(rig.handles().monitor_pid);
    // epoll_wait and epoll_pwait of x86-64, epoll_pwait of arm64.
    assert!([232, 281, 22].contains(&call[0]), "{call:x?}");
    assert_eq!(call[4] as u32 as i32, -1, "{call:x?}");
}

#[test]
fn an_idle_monitor_sleeps_without_a_timeout() {
    let rig = Rig::ready("ready");
    assert_idle(&rig);
    // Neither clients that came and went nor those that stay idle leave a deadline.
    let mut echo = rig.connect(fake::ECHO);
    let control = rig.open_control();
    let mut source = rig.connect(fake::SOURCE);
    std::io::Write::write_all(&mut source, &100_000u64.to_le_bytes()).unwrap();
    assert_eq!(read_all(&mut source).len(), 100_000);
    drop(source);
    rig.control(&ControlRequest::Status);
    std::io::Write::write_all(&mut echo, b"x").unwrap();
    std::io::Read::read_exact(&mut echo, &mut [0]).unwrap();
    rig.control(&ControlRequest::Status);
    assert_idle(&rig);
    drop(control);
}

#[test]
fn memory() {
    let rig = Rig::ready("ready");
    let pss = || {
        let path = format!("/proc/{}/smaps_rollup", rig.handles().monitor_pid);
        let text = fs::read_to_string(path).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let idle = pss();
    let mut source = rig.connect(fake::SOURCE);
    std::io::Write::write_all(&mut source, &(16u64 << 20).to_le_bytes()).unwrap();
    assert_eq!(read_all(&mut source).len(), 16 << 20);
    rig.control(&ControlRequest::Status);
    let after = pss();
    println!("PSS: {idle} KiB idle, {after} KiB after 16 MiB");
    // The budget is for the helper profile; a debug build has larger code.
    let budget = if cfg!(debug_assertions) { 8192 } else { 4096 };
    assert!(idle < budget && after < budget, "{idle} and {after} KiB");
}
