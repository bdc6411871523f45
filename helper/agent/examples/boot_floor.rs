//! The least that an init can do, for `cargo xtask bench guests`: it mounts and loads what the agent mounts and loads for a VM
//! with an overlay and no network, says so on the console, and sleeps. What the agent takes beyond it is the agent's.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::process::ExitCode;

use banger_wire::config::{MODULES_PATH, on_demand};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, pause};

/// What the benchmark waits for.
const SAID: &[u8] = b"the floor is reached\n";

fn main() -> ExitCode {
    match boot() {
        Ok(()) => loop {
            pause();
        },
        // The kernel panics when init ends, and QEMU ends.
        Err(error) => {
            let _ = say(format!("the floor: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn boot() -> io::Result<()> {
    for (kind, target) in [
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
        (c"devtmpfs", c"/dev"),
        (c"devpts", c"/dev/pts"),
        (c"tmpfs", c"/dev/shm"),
        (c"tmpfs", c"/run"),
        (c"cgroup2", c"/sys/fs/cgroup"),
    ] {
        attach(kind, kind, target, MsFlags::empty(), None)?;
    }
    let list = fs::read_to_string(MODULES_PATH)?;
    for path in list.lines().filter(|path| wanted(path)) {
        finit_module(File::open(path)?, c"", ModuleInitFlags::empty())?;
    }
    attach(c"/dev/vda", c"ext4", c"/image", MsFlags::MS_RDONLY, None)?;
    attach(c"/dev/vdb", c"ext4", c"/data", MsFlags::empty(), None)?;
    for directory in ["/data/upper", "/data/work"] {
        fs::create_dir_all(directory)?;
    }
    let layers = c"lowerdir=/image,upperdir=/data/upper,workdir=/data/work,redirect_dir=on,index=off,metacopy=off";
    attach(
        c"overlay",
        c"overlay",
        c"/newroot",
        MsFlags::empty(),
        Some(layers),
    )?;
    for (from, to) in [
        (c"/dev", c"/newroot/dev"),
        (c"/sys", c"/newroot/sys"),
        (c"/run", c"/newroot/run"),
        (c"/proc", c"/newroot/proc"),
    ] {
        attach(from, c"", to, MsFlags::MS_MOVE, None)?;
    }
    chdir(c"/newroot")?;
    attach(c".", c"", c"/", MsFlags::MS_MOVE, None)?;
    chroot(c".")?;
    attach(
        c"/dev/vdc",
        c"ext4",
        c"/lib/modules",
        MsFlags::MS_RDONLY,
        None,
    )?;
    say(SAID)
}

/// Not one that only other disks and shares need; files have a number, a dash and the name.
fn wanted(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    let file = file.trim_start_matches(|c: char| c.is_ascii_digit());
    let name = file.trim_start_matches('-').split('.').next();
    let name = name.unwrap_or_default().replace('-', "_");
    let others = [
        &on_demand::SNAPSHOT[..],
        &on_demand::PLAN9,
        &on_demand::VIRTIOFS,
    ];
    !others.concat().contains(&&*name)
}

fn attach(
    source: &CStr,
    kind: &CStr,
    target: &CStr,
    flags: MsFlags,
    options: Option<&CStr>,
) -> io::Result<()> {
    let path = target.to_string_lossy();
    fs::create_dir_all(&*path)?;
    match mount(Some(source), target, Some(kind), flags, options) {
        // CONFIG_DEVTMPFS_MOUNT may have been first.
        Ok(()) | Err(nix::errno::Errno::EBUSY) => Ok(()),
        Err(error) => Err(io::Error::other(format!("mounting {path}: {error}"))),
    }
}

fn say(words: &[u8]) -> io::Result<()> {
    File::options()
        .write(true)
        .open("/dev/console")?
        .write_all(words)
}
