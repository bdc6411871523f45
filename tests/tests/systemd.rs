//! Under the real systemd, in namespaces of its own: a VM's monitor gets a scope.

use std::fs;
use std::time::Duration;

use banger_tests::{Outcome, Running, Sandbox, eventually, skipped};

/// systemd as process 1 of a namespace that it thinks is a container (systemd(1), container interface).
struct Systemd<'a> {
    sandbox: &'a Sandbox,
    init: u32,
    _unshare: Running,
}

const SCRIPT: &str = "set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd /run/lock
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
exec env -i container=banger PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=$1 \\
    /lib/systemd/systemd --system --unit=default.target";

impl<'a> Systemd<'a> {
    fn start(sandbox: &'a Sandbox) -> Self {
        let units = sandbox.path("units");
        fs::create_dir_all(&units).expect("the sandbox can be written");
        // What every service has as its dependencies (systemd.service(5), default dependencies).
        for target in ["default", "sysinit", "basic", "shutdown", "network"] {
            let text = format!("[Unit]\nDescription={target} of a test\n");
            fs::write(units.join(format!("{target}.target")), text)
                .expect("the sandbox can be written");
        }
        fs::write(sandbox.path("init.sh"), SCRIPT).expect("the sandbox can be written");
        let unshare = sandbox.start(&format!(
            "exec unshare --pid --fork --kill-child --mount --cgroup --uts --ipc sh {} {}",
            sandbox.path("init.sh").display(),
            units.display()
        ));
        let pid = unshare.pid();
        let init = eventually("process 1 is there", Duration::from_secs(60), || {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        });
        let systemd = Systemd {
            sandbox,
            init,
            _unshare: unshare,
        };
        eventually("systemd answers", Duration::from_secs(60), || {
            (systemd.inside("systemctl list-units --no-pager").status == 0).then_some(())
        });
        systemd
    }

    fn inside(&self, line: &str) -> Outcome {
        self.sandbox.sh(&format!(
            "nsenter --target {} --mount --pid {line}",
            self.init
        ))
    }
}

#[test]
fn a_monitor_gets_a_scope_of_its_own() {
    if skipped("vm") || skipped("root") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let made = sandbox
        .sh("banger-vm create --quiet --no-start --network none --name v busybox")
        .record();
    let scope = format!("banger-{}.scope", made["id"].as_str().unwrap());
    let systemd = Systemd::start(&sandbox);
    // As a login session does: what is in it is ended with it.
    let script = "banger-vm start --quiet v && echo up && exec sleep 1000";
    let session = sandbox.start(&format!(
        "exec nsenter --target {} --mount --pid systemd-run --quiet --scope --collect --unit=session sh -c '{script}'",
        systemd.init
    ));
    session.wait_for_stdout("up\n");
    systemd.inside("systemctl stop session.scope").ok();
    session.finish().exits(143);
    assert_eq!(sandbox.vm("v")["state"], "running");
    let cgroups = systemd.inside(&format!(
        "systemctl show --property=ControlGroup --value {scope}"
    ));
    assert_eq!(cgroups.ok().trim(), format!("/system.slice/{scope}"));
    let inside = systemd.inside(&format!(
        "cat /sys/fs/cgroup/systemd/system.slice/{scope}/cgroup.procs"
    ));
    assert_eq!(
        inside.ok().lines().count(),
        2,
        "the monitor and its VMM: {inside}"
    );
    systemd.inside("banger-vm exec v -- true").ok();
    systemd.inside("banger-vm stop --quiet v").ok();
    eventually(
        "the scope goes with its VM",
        Duration::from_secs(60),
        || {
            let state = systemd.inside(&format!("systemctl is-active {scope}"));
            (state.stdout.trim() == "inactive").then_some(())
        },
    );
    systemd.inside("banger-vm start --quiet v").ok();
    // The machine goes down without a word.
    drop(systemd);
    eventually("nothing runs any more", Duration::from_secs(60), || {
        (sandbox.vm("v")["state"] == "stopped").then_some(())
    });
    sandbox.sh("banger-vm start --quiet v").ok();
    sandbox.sh("banger-vm exec v -- true").ok();
}

/// What a test's store wants otherwise than the machine's: its places, and its user.
const DROP_IN: &str = "[Unit]
ConditionPathExists=

[Service]
User=root
Group=root
PrivateTmp=no
ReadWritePaths=
ExecStart=
";

#[test]
fn the_unit_of_a_vm_starts_when_the_guest_is_ready_and_shuts_it_down() {
    if skipped("vm") || skipped("root") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let units = sandbox.path("units");
    fs::create_dir_all(units.join("banger-vm@.service.d")).unwrap();
    let unit = include_str!("../../bins/banger/systemd/banger-vm@.service");
    fs::write(units.join("banger-vm@.service"), unit).unwrap();
    let bin = sandbox.fixtures().bin();
    // There is no journal in this machine.
    let log = sandbox.path("v.log").display().to_string();
    // As the NixOS module does it for `workspace`.
    sandbox
        .sh("git init -q app && echo from the host > app/file")
        .ok();
    let drop_in = format!(
        "{DROP_IN}ExecStart={}/banger-vm up --foreground {}/%i.toml\n\
         ExecStartPost=-{}/banger-ws prepare --quiet %i {}/app\n\
         Environment=BANGER_STORE={} BANGER_RUNTIME_DIR={} BANGER_NETD_SOCKET={} PATH={}\n\
         ReadWritePaths={} {}\n\
         StandardOutput=append:{log}\nStandardError=append:{log}\n",
        bin.display(),
        sandbox.path("").display(),
        bin.display(),
        sandbox.path("").display(),
        sandbox.store().display(),
        sandbox.runtime().display(),
        sandbox.netd_socket().display(),
        sandbox.search_path(),
        sandbox.path("").display(),
        sandbox.runtime().display(),
    );
    fs::write(units.join("banger-vm@.service.d/test.conf"), drop_in).unwrap();
    fs::write(
        sandbox.path("v.toml"),
        "image = \"busybox\"\nnetwork = \"none\"\n",
    )
    .unwrap();
    let systemd = Systemd::start(&sandbox);
    let started = systemd.inside("systemctl start banger-vm@v.service");
    let said = || {
        let status = systemd.inside("systemctl status --no-pager --full banger-vm@v.service");
        format!("{started}\n{status}\n{:?}", fs::read_to_string(&log))
    };
    assert_eq!(started.status, 0, "{}", said());
    // It is ready by then, not only begun.
    let file = sandbox.sh("banger-vm exec v -- cat file");
    assert_eq!(file.stdout, "from the host\n", "{file} {}", said());
    let status = systemd.inside("systemctl show --property=StatusText --value banger-vm@v.service");
    assert_eq!(status.ok().trim(), "v runs");
    systemd.inside("systemctl stop banger-vm@v.service").ok();
    let stopped = sandbox.vm("v");
    assert_eq!(
        (&stopped["state"], &stopped["exit"]),
        (&"stopped".into(), &"stopped".into())
    );
    let result = systemd.inside("systemctl show --property=Result --value banger-vm@v.service");
    assert_eq!(result.ok().trim(), "success");
}
