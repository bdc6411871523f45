//! Loop devices (loop(4)): a file as a block device. Each says whose it is in its own record in the kernel, and goes
//! when the last one that has it open closes it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use banger_failpoint::point;
use banger_proto::VmId;
use nix::errno::Errno;

use crate::sys::{self, Block};

const CONTROL: &str = "/dev/loop-control";

/// What is in the record of a loop device of ours, before the VM's id.
const MARK: &str = "banger-netd vm=";

/// LO_FLAGS_READ_ONLY and LO_FLAGS_AUTOCLEAR.
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;

/// Of `struct loop_config`: descriptor, block size, then the `struct loop_info64`.
const CONFIG_INFO: usize = 8;
/// Of `struct loop_info64`.
const INFO_FLAGS: usize = 52;
const INFO_NAME: usize = 56;
const NAME: usize = 64;

/// Somebody else may take a free device first; nobody is faster so many times.
const ATTEMPTS: usize = 32;

/// A device of ours.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) vm: VmId,
    file: File,
}

/// Makes one; the descriptor keeps it.
///
/// # Errors
/// No loop devices here; those of ioctl(2). Then nothing is left.
pub(crate) fn make(vm: &VmId, backing: &File, read_only: bool) -> io::Result<(PathBuf, File)> {
    point("netd.loop.control")?;
    let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
    for _ in 0..ATTEMPTS {
        let number = sys::loop_free(&control)?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        point("netd.loop.open")?;
        let device = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(&path)?;
        point("netd.loop.configure")?;
        match sys::loop_configure(&device, &config(vm, backing, read_only)) {
            Ok(()) => return Ok((path, device)),
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EBUSY.into())
}

/// All of ours, found in the kernel.
///
/// # Errors
/// Those of listing /dev.
pub(crate) fn ours() -> io::Result<Vec<Loop>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/dev")? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("loop"));
        let is_loop = number.is_some_and(|n| n.parse::<u32>().is_ok());
        if !is_loop || !entry.file_type()?.is_block_device() {
            continue;
        }
        // One that vanishes, or has no file, is nobody's.
        let Ok(file) = File::open(entry.path()) else {
            continue;
        };
        if let Ok(status) = sys::loop_status(&file)
            && let Some(vm) = owner(&status)
        {
            found.push(Loop { vm, file });
        }
    }
    Ok(found)
}

impl Loop {
    /// Takes it away, or marks it so that it goes when it is closed.
    ///
    /// # Errors
    /// Those of ioctl(2).
    pub(crate) fn clear(self) -> io::Result<()> {
        point("netd.loop.clear")?;
        match sys::loop_clear(&self.file) {
            Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => Ok(()),
            result => result,
        }
    }
}

fn config(vm: &VmId, backing: &File, read_only: bool) -> Block<304> {
    let mut config = Block([0; 304]);
    let mut put = |at: usize, bytes: &[u8]| config.0[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &backing.as_raw_fd().to_ne_bytes());
    let flags = AUTOCLEAR | if read_only { READ_ONLY } else { 0 };
    put(CONFIG_INFO + INFO_FLAGS, &flags.to_ne_bytes());
    put(CONFIG_INFO + INFO_NAME, format!("{MARK}{vm}").as_bytes());
    config
}

fn owner(status: &Block<232>) -> Option<VmId> {
    let name = status.0[INFO_NAME..INFO_NAME + NAME]
        .split(|byte| *byte == 0)
        .next()?;
    VmId::try_from(std::str::from_utf8(name).ok()?.strip_prefix(MARK)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_says_whose_it_is() {
        let vm = VmId::try_from("00112233445566aa").unwrap();
        let backing = tempfile::tempfile().unwrap();
        let config = config(&vm, &backing, true);
        let mut status = Block([0; 232]);
        status
            .0
            .copy_from_slice(&config.0[CONFIG_INFO..CONFIG_INFO + 232]);
        assert_eq!(owner(&status), Some(vm));
        assert_eq!(status.0[INFO_FLAGS], 5);
        status.0[INFO_NAME] = b'x';
        assert_eq!(owner(&status), None);
        assert_eq!(owner(&Block([0xff; 232])), None);
    }
}
