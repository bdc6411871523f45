//! The real firewalld beside our rules, on a bus of the test's own: what it stops is explained and mended, and what it
//! does to its own rules leaves ours alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use banger_tests::{Netd, Netns, Outcome, Running, Sandbox, eventually};
use lib_net::{Client, Code, PrivilegedOps};
use serde_json::Value;

use super::coexistence::{host, reaches_the_world};
use super::life::PATIENCE;
use super::packet::{Guest, Heard};
use super::{admission_fails_at, connect, reserve, sandbox, vm};

/// As open as a session's bus: nobody but the test knows of it (dbus-daemon(1)).
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#;

/// With the configuration that the distribution ships, in a namespace.
struct Firewalld<'a> {
    sandbox: &'a Sandbox,
    netns: &'a Netns,
    bus: PathBuf,
    _daemon: Running,
    _bus: Running,
}

impl<'a> Firewalld<'a> {
    fn start(sandbox: &'a Sandbox, netns: &'a Netns) -> Self {
        // The names of sockets are short.
        let bus = sandbox.runtime().join("bus");
        let text = BUS.replace("SOCKET", &bus.display().to_string());
        fs::write(sandbox.path("bus.conf"), text).expect("the sandbox can be written");
        let configuration = sandbox.path("bus.conf").display().to_string();
        let running_bus = sandbox.start(&format!(
            "exec dbus-daemon --config-file={configuration} --nofork --nopidfile --nosyslog"
        ));
        eventually("the bus is there", PATIENCE, || bus.exists().then_some(()));
        let package = sandbox.fixtures().firewalld();
        let settings = sandbox.path("firewalld");
        let copy = format!(
            "cp -r {}/etc/firewalld {}",
            package.display(),
            settings.display()
        );
        sandbox.sh(&copy).ok();
        // What it writes besides goes into namespaces of its own.
        let script = format!(
            "mount -t tmpfs tmpfs /run && mkdir /run/firewalld && export DBUS_SYSTEM_BUS_ADDRESS=unix:path={} && \
             exec {package}/usr/sbin/firewalld --nofork --nopid --log-target console --system-config {} \
             --default-config {package}/usr/lib/firewalld",
            bus.display(),
            settings.display(),
            package = package.display(),
        );
        fs::write(sandbox.path("firewalld.sh"), script).expect("the sandbox can be written");
        let daemon = sandbox.start(&format!(
            "exec {} unshare --mount sh {}",
            netns.enter(),
            sandbox.path("firewalld.sh").display()
        ));
        let firewalld = Firewalld {
            sandbox,
            netns,
            bus,
            _daemon: daemon,
            _bus: running_bus,
        };
        eventually("firewalld runs", PATIENCE, || {
            (firewalld.cmd("--state").status == 0).then_some(())
        });
        firewalld
    }

    /// firewall-cmd(1).
    fn cmd(&self, arguments: &str) -> Outcome {
        let program = self.sandbox.fixtures().firewalld();
        let line = format!(
            "env DBUS_SYSTEM_BUS_ADDRESS=unix:path={} {}/usr/bin/firewall-cmd {arguments}",
            self.bus.display(),
            program.display()
        );
        self.netns.run(self.sandbox, &line)
    }

    /// The real busctl(1), which asks the test's bus and not the machine's.
    fn busctl(&self) -> PathBuf {
        let program = self.sandbox.path("busctl");
        let text = format!(
            "#!/bin/sh\nexec /usr/bin/busctl --address=unix:path={} \"$@\"\n",
            self.bus.display()
        );
        fs::write(&program, text).expect("the sandbox can be written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
        program
    }
}

/// What doctor says of firewalls: of questions to the host, and of packets into the world.
fn doctor(sandbox: &Sandbox, arguments: &str) -> [Value; 2] {
    let said = sandbox.sh(&format!("banger-net doctor {arguments}"));
    let records: Vec<Value> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    ["resolver", "forward"].map(|name| {
        let check = records.iter().find(|check| check["name"] == name);
        check.unwrap_or_else(|| panic!("no {name}: {said}")).clone()
    })
}

fn is_reached_from_the_host(sandbox: &Sandbox, netns: &Netns, guest: &mut Guest) {
    let line = format!(
        "exec {} ping -c 1 -W 60 -s 0 -e 7 {}",
        netns.enter(),
        guest.address
    );
    let ping = sandbox.start(&line);
    let asked = Heard::Echo {
        from: guest.gateway,
        sequence: 1,
    };
    assert_eq!(guest.hear_past_questions(), asked);
    let hop = guest.hop();
    guest.echo_reply(hop, guest.gateway, 1);
    ping.finish().exits(0);
}

/// Our tables, as they are printed.
fn ours(sandbox: &Sandbox, netns: &Netns) -> String {
    let tables = ["bridge", "inet"]
        .map(|family| netns.run(sandbox, &format!("nft list table {family} banger")));
    tables.map(|table| table.ok().to_owned()).concat()
}

#[test]
fn what_firewalld_stops_is_explained_and_mended() {
    let Some(sandbox) = sandbox() else { return };
    let (netns, _world) = host(&sandbox);
    netns.run(&sandbox, "sysctl -qw net.ipv4.ip_forward=1").ok();
    let firewalld = Firewalld::start(&sandbox, &netns);
    assert_eq!(firewalld.cmd("--get-default-zone").ok(), "public\n");
    let zone = || firewalld.cmd("--get-zone-of-interface=banger0");
    let netd = Netd::start(
        &sandbox,
        &netns,
        &format!("--busctl {}", firewalld.busctl().display()),
    );
    let mut ops = connect(&netd);
    let reservation = reserve(&mut ops, 1);
    ops.nat(vm(1), true).unwrap();
    let (_, tap) = ops.attach(vm(1)).unwrap();
    let mut guest = Guest::new(&reservation, tap);

    // Its default zone keeps VMs in, and keeps their questions from the host; the host itself reaches them.
    is_reached_from_the_host(&sandbox, &netns, &mut guest);
    for check in doctor(&sandbox, "") {
        assert_eq!(check["ok"], false, "{check}");
        let detail = check["detail"].as_str().unwrap();
        assert!(detail.contains("refuses"), "{check}");
        let hint = check["hint"].as_str().unwrap();
        assert!(
            hint.contains("--permanent --zone=trusted --add-interface=banger0"),
            "{hint}"
        );
    }
    zone().exits(2);

    let mended = doctor(&sandbox, "--fix");
    assert!(mended.iter().all(|check| check["ok"] == true), "{mended:?}");
    assert_eq!(zone().ok(), "trusted\n");
    assert!(!ops.admit(true).unwrap().0, "twice is as good as once");
    reaches_the_world(&mut guest);

    // Its reload is none of ours, and forgets nothing.
    let before = ours(&sandbox, &netns);
    assert!(before.contains(&guest.address.to_string()), "{before}");
    firewalld.cmd("--reload").ok();
    assert_eq!(ours(&sandbox, &netns), before);
    reaches_the_world(&mut guest);
    is_reached_from_the_host(&sandbox, &netns, &mut guest);

    // What was changed is changed back, and what an administrator keeps stays.
    drop(guest);
    ops.release(vm(1)).unwrap();
    ops.down().unwrap();
    zone().exits(2);
    firewalld
        .cmd("--permanent --zone=trusted --add-interface=banger0")
        .ok();
    firewalld.cmd("--reload").ok();
    let well = doctor(&sandbox, "");
    assert!(well.iter().all(|check| check["ok"] == true), "{well:?}");
    ops.admit(true).unwrap();
    ops.down().unwrap();
    assert_eq!(zone().ok(), "trusted\n");
    firewalld
        .cmd("--permanent --zone=trusted --remove-interface=banger0")
        .ok();
    firewalld.cmd("--zone=home --change-interface=banger0").ok();
    let refused = ops.admit(true).unwrap_err();
    assert_eq!(refused.code(), Some(Code::Failed), "{refused}");
    assert!(refused.to_string().contains("\"home\""), "{refused}");
    assert_eq!(zone().ok(), "home\n");
    assert!(!ops.status().unwrap().admitted);
    firewalld.cmd("--zone=home --remove-interface=banger0").ok();

    // What fails half-way leaves nothing.
    drop((ops, netd));
    for point in ["netd.firewalld.add#1", "netd.firewall.insert#1"] {
        let mut command = Netd::child(&sandbox, &netns, "other");
        command.arg("--busctl").arg(firewalld.busctl());
        admission_fails_at(command, point);
        zone().exits(2);
    }
    // What cannot be taken back is as it was, in both.
    let child = |points: &str| {
        let mut command = Netd::child(&sandbox, &netns, "other");
        command.arg("--busctl").arg(firewalld.busctl());
        command.env(banger_failpoint::VARIABLE, points);
        Client::child(command).expect("it serves, whatever fails")
    };
    child("").admit(true).unwrap();
    let rules = || netns.run(&sandbox, "iptables -S").stdout;
    let before = rules();
    assert!(before.contains("banger-netd"), "{before}");
    for point in ["netd.firewall.remove#1", "netd.firewalld.remove#1"] {
        let refused = child(&format!("{point}=error")).admit(false).unwrap_err();
        assert_eq!(refused.code(), Some(Code::Failed), "{point}: {refused}");
        assert_eq!(
            (zone().ok(), rules()),
            ("trusted\n", before.clone()),
            "{point}"
        );
    }
    assert!(child("").admit(false).unwrap().0);
    zone().exits(2);
    assert!(!rules().contains("banger-netd"));
}
