//! What a VM will need, looked at before anything is made: all that is missing is said at once.

use std::process::{Command, Stdio};

use lib_model::{ByteSize, ImageRecord, KernelRecord};
use lib_store::Context;

use crate::error::io_error;
use crate::limits::Limits;
use crate::{CreateRequest, DiskKind, VmError, driver, program, share};

const LEAST_FREE_SPACE: u64 = 64 << 20;

/// Checks a start: programs, acceleration, disk space.
///
/// # Errors
/// What is missing; [`VmError::Preflight`] for more than one.
pub fn preflight(context: &Context, vmm: &str, accel: crate::Accel) -> Result<(), VmError> {
    let mut problems = Vec::new();
    basics(context, vmm, accel, 0, &mut problems);
    settle(problems)
}

/// Whether this machine has the memory now that a guest may come to use; it is taken page by page, so a
/// doubt is only said.
///
/// # Errors
/// [`VmError::NotEnough`] when it is not even there with all that could be swapped out.
pub(crate) fn memory(wanted: ByteSize, meminfo: &Meminfo) -> Result<Option<String>, VmError> {
    let (Some(available), Some(swap)) = (meminfo.get("MemAvailable"), meminfo.get("SwapFree"))
    else {
        return Ok(None);
    };
    if wanted.0 > available.saturating_add(swap) {
        return Err(VmError::NotEnough {
            what: "memory",
            needed: wanted.to_string(),
            available: ByteSize(available + swap).to_string(),
        });
    }
    Ok((wanted.0 > available).then(|| {
        format!(
            "the guest may use {wanted}, and this machine has {} free: it may have to swap",
            ByteSize(available)
        )
    }))
}

/// `/proc/meminfo` (proc_meminfo(5)).
pub(crate) struct Meminfo(String);

impl Meminfo {
    pub(crate) fn read() -> Meminfo {
        Meminfo(std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    /// A line of it, in bytes.
    pub(crate) fn get(&self, name: &str) -> Option<u64> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(key, _)| *key == name)?;
        let number = value
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?;
        number.checked_mul(1024)
    }
}

/// Checks what is asked for: the same, and whether the image, the disk and the shares can be had.
///
/// # Errors
/// As [`preflight`].
pub fn preflight_create(
    context: &Context,
    image: &ImageRecord,
    request: &CreateRequest,
) -> Result<(), VmError> {
    let mut problems = Vec::new();
    problems.extend(request.check().err());
    problems.extend(request.disk_kind.check(image, request.disk).err());
    let copied = match request.disk_kind {
        DiskKind::Copy => image.used.0,
        _ => 0,
    };
    basics(context, "qemu", request.accel, copied, &mut problems);
    problems.extend(supported(&driver("qemu").program()).err());
    let limits = Limits {
        cpu: request.cpu_limit,
        memory: request.memory_limit,
    };
    problems.extend(limits.keeper("").err());
    let shares = request.shares.iter();
    problems.extend(shares.filter_map(|wanted| share::resolve(wanted, &request.mount_roots).err()));
    if request.share_store {
        problems.extend(share::nix_store().err());
    }
    settle(problems)
}

/// Checks what can only be said once the kernel is known.
///
/// # Errors
/// A kernel whose guests cannot see what is to be shared with them.
pub fn preflight_kernel(
    context: &Context,
    kernel: &KernelRecord,
    request: &CreateRequest,
) -> Result<(), VmError> {
    match request.shares.is_empty() && !request.share_store {
        true => Ok(()),
        false => share::kind(context, kernel).map(drop),
    }
}

fn basics(
    context: &Context,
    vmm: &str,
    accel: crate::Accel,
    written: u64,
    problems: &mut Vec<VmError>,
) {
    problems.extend(driver(vmm).program().err());
    for helper in ["banger-monitor", "banger-agent"] {
        problems.extend(program::helper(context.helper(helper)).err());
    }
    problems.extend(accel.choose().err());
    problems.extend(space(context, written.saturating_add(LEAST_FREE_SPACE)).err());
}

fn settle(mut problems: Vec<VmError>) -> Result<(), VmError> {
    match problems.len() {
        0 => Ok(()),
        1 => Err(problems.remove(0)),
        _ => Err(VmError::Preflight { problems }),
    }
}

fn space(context: &Context, needed: u64) -> Result<(), VmError> {
    let data = context.data();
    let space =
        nix::sys::statvfs::statvfs(data).map_err(|e| io_error("look at", data)(e.into()))?;
    let available = space
        .blocks_available()
        .saturating_mul(space.fragment_size());
    if available < needed {
        return Err(VmError::NotEnough {
            what: "disk space",
            needed: ByteSize(needed).to_string(),
            available: ByteSize(available).to_string(),
        });
    }
    Ok(())
}

/// The oldest QEMU with the machine and the options that are used.
const OLDEST: (u32, u32) = (7, 2);

/// Asks QEMU itself for its version and whether it has the sandbox: without that, it says so and ends.
fn supported(program: &Result<std::path::PathBuf, VmError>) -> Result<(), VmError> {
    // That it is missing has been said.
    let Ok(program) = program else { return Ok(()) };
    let output = Command::new(program)
        .args(["-sandbox", "on", "-version"])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(io_error("run", program))?;
    let unsupported = |problem: String| {
        Err(VmError::Vmm {
            program: program.clone(),
            problem,
        })
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().next().unwrap_or("it says nothing").trim();
        return unsupported(format!("it has no sandbox ({line})"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    match version(&text) {
        Some(found) if found >= OLDEST => Ok(()),
        Some((major, minor)) => unsupported(format!(
            "version {major}.{minor} is too old, {}.{} is the oldest that works",
            OLDEST.0, OLDEST.1
        )),
        None => unsupported("it does not say its version".to_owned()),
    }
}

/// `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text
        .split_once("version ")?
        .1
        .split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, expected) in [
            (
                "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)",
                Some((7, 2)),
            ),
            ("QEMU emulator version 10.0.0\nCopyright", Some((10, 0))),
            ("something else", None),
        ] {
            assert_eq!(version(text), expected);
        }
    }

    #[test]
    fn memory_that_is_not_free_is_a_doubt_and_memory_that_is_not_there_an_error() {
        let meminfo = Meminfo(
            "MemTotal: 8388608 kB\nMemAvailable:    1048576 kB\nSwapFree:        524288 kB\n"
                .into(),
        );
        assert_eq!(meminfo.get("MemTotal"), Some(8 << 30));
        let memory = |wanted| memory(ByteSize(wanted), &meminfo);
        assert_eq!(memory(1 << 30).unwrap(), None);
        let doubt = memory((1 << 30) + 1).unwrap().unwrap();
        assert!(doubt.contains("1 GiB free"), "{doubt}");
        assert!(matches!(
            memory(2 << 30),
            Err(VmError::NotEnough { what: "memory", available, .. }) if available == "1.5 GiB"
        ));
        assert_eq!(
            super::memory(ByteSize(1), &Meminfo(String::new())).unwrap(),
            None
        );
    }

    #[test]
    fn all_problems_are_said_at_once() {
        let no = |program| VmError::NoVmm {
            program,
            searched: "/x".into(),
        };
        assert!(settle(Vec::new()).is_ok());
        let one = settle(vec![no("a")]).unwrap_err().to_string();
        assert_eq!(one, no("a").to_string());
        let two = settle(vec![no("a"), no("b")]).unwrap_err().to_string();
        assert!(
            two.contains("a is not installed") && two.contains("b is not installed"),
            "{two}"
        );
    }
}
