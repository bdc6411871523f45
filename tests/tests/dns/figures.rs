//! Figures for SPEC.md; `cargo xtask bench net` prints them.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use banger_tests::{NameServer, Netns, Running, Sandbox};
use lib_net::PrivilegedOps;

use super::{connect, dnsmasq, host, reserve, vm};

const NAMES: u32 = 1000;
const ROUNDS: usize = 5;

/// One run of dnsperf(1): queries per second, and the 99th percentile of how long an answer takes, in ms.
fn run(sandbox: &Sandbox, netns: &Netns, server: &str, limit: &str) -> f64 {
    let line = format!("dnsperf -s {server} -d queries -l 3 -c 4 {limit}");
    let outcome = netns.run(sandbox, &line);
    let text = outcome.ok();
    let number = |label: &str| -> f64 {
        let line = text.lines().find(|line| line.contains(label));
        let line = line.unwrap_or_else(|| panic!("no {label} in {text}"));
        let rest = line.split(label).nth(1).expect("it was found");
        rest.split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .expect("a number")
    };
    assert!(number("Queries lost:") < 10.0, "{text}");
    number("Queries per second:")
}

fn middle(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn resident(running: &Running) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.expect("the kernel says it").trim().to_owned()
}

/// One question after the other, each timed: the 99th percentile, in ms. Runs in the namespace.
#[test]
#[ignore = "runs in a namespace of another test"]
fn asks_one_after_the_other() {
    let server: std::net::SocketAddr = std::env::var("BANGER_FIGURES_SERVER")
        .unwrap()
        .parse()
        .unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    let mut times = Vec::new();
    for number in 0..20_000_u32 {
        let name = format!("v{}", number % NAMES);
        let mut question = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8];
        question.extend(name.as_bytes());
        question.extend(b"\x02vm\0\0\x01\0\x01");
        let mut answer = [0; 512];
        let start = Instant::now();
        socket.send(&question).unwrap();
        let length = socket.recv(&mut answer).unwrap();
        times.push(start.elapsed());
        assert!(length > question.len() && answer[3] & 15 == 0);
    }
    times.sort();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e3;
    println!("P50 {:.4} P99 {:.4}", at(50), at(99));
}

fn latency(sandbox: &Sandbox, netns: &Netns, server: &str) -> f64 {
    let program = std::env::current_exe().expect("a process has an executable");
    let line = format!(
        "env BANGER_FIGURES_SERVER={server}:53 {} --exact --nocapture --ignored dns::figures::asks_one_after_the_other",
        program.display()
    );
    let outcome = netns.run(sandbox, &line);
    let word = outcome
        .ok()
        .split("P99 ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    word.and_then(|word| word.parse().ok())
        .expect("it prints it")
}

/// Lines of figures: from the answer of the daemon, that a VM has its interface or has none, to the name's.
fn follows(sandbox: &Sandbox, netns: &Netns, socket: &Path) -> String {
    let program = std::env::current_exe().expect("a process has an executable");
    let line = format!(
        "env BANGER_FIGURES_SOCKET={} {} --exact --nocapture --ignored dns::figures::starts_and_stops",
        socket.display(),
        program.display()
    );
    netns.run(sandbox, &line).ok().to_owned()
}

#[test]
#[ignore = "runs in a namespace of another test"]
fn starts_and_stops() {
    let socket = std::env::var("BANGER_FIGURES_SOCKET").unwrap();
    let mut ops = lib_net::Client::connect(Path::new(&socket)).unwrap();
    let server = "127.83.0.53:53".parse().unwrap();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let number = NAMES + 1;
    reserve(&mut ops, number, "coming");
    let until = |is_there: bool| {
        let start = Instant::now();
        loop {
            let lookup =
                lib_dns::look_up(server, "coming.vm", "A", None, Duration::from_secs(60)).unwrap();
            if lookup.records.is_empty() != is_there {
                return start.elapsed().as_secs_f64() * 1e3;
            }
        }
    };
    for _ in 0..20 {
        let (_, tap) = ops.attach(vm(number)).unwrap();
        up.push(until(true));
        drop(tap);
        down.push(until(false));
    }
    let worst = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    println!(
        "FIGURE a name after the start of its VM, longest of 20|{:.1} ms",
        worst(&up)
    );
    println!(
        "FIGURE no name after the end of its VM, longest of 20|{:.1} ms",
        worst(&down)
    );
}

#[test]
#[ignore = "measures; `cargo xtask bench net` runs it"]
fn figures() {
    let sandbox = Sandbox::empty();
    let (netns, netd) = host(&sandbox);
    let mut ops = connect(&netd);
    let mut taps: Vec<OwnedFd> = Vec::new();
    let (mut queries, mut lines) = (String::new(), String::new());
    for number in 0..NAMES {
        let reservation = reserve(&mut ops, number, &format!("v{number}"));
        taps.push(ops.attach(vm(number)).unwrap().1);
        queries += &format!("v{number}.vm A\n");
        lines += &format!("host-record=v{number}.vm,{}\n", reservation.address);
    }
    fs::write(sandbox.path("queries"), queries).unwrap();
    fs::write(sandbox.path("peer.conf"), lines).unwrap();
    let server = NameServer::start(&sandbox, &netns);
    let more = format!(
        "--conf-file={} --local=/vm/ --cache-size=0",
        sandbox.path("peer.conf").display()
    );
    let peer = dnsmasq(&sandbox, &netns, "127.0.0.1", &more);
    let (ours, theirs) = (NameServer::HOST, "127.0.0.1");
    let (mut rates, mut ratios, mut others, mut p99, mut their_p99) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let rate = run(&sandbox, &netns, ours, "-q 100");
        let other = run(&sandbox, &netns, theirs, "-q 100");
        rates.push(rate);
        others.push(other);
        ratios.push(rate / other);
        p99.push(latency(&sandbox, &netns, ours));
        their_p99.push(latency(&sandbox, &netns, theirs));
    }
    println!(
        "FIGURE DNS, {NAMES} names: questions a second|{:.0} (dnsmasq {:.0}, ratio {:.2})",
        middle(rates),
        middle(others),
        middle(ratios)
    );
    println!(
        "FIGURE DNS, {NAMES} names: p99 of one question after the other|{:.3} ms (dnsmasq {:.3})",
        middle(p99),
        middle(their_p99)
    );
    println!(
        "FIGURE DNS, {NAMES} names: resident|{} (dnsmasq {})",
        resident(server.running()),
        resident(&peer)
    );
    print!("{}", follows(&sandbox, &netns, netd.socket()));
}
