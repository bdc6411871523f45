//! Device mapper: a snapshot of the image in the guest, without any tool of the image
//! (linux/dm-ioctl.h; the kernel's admin-guide/device-mapper/snapshot.rst).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{BootError, While};
use crate::sys;

const CONTROL: &str = "/dev/mapper/control";
const SECTOR: u64 = 512;
/// Of the snapshot, in sectors: a block of the file system, so that whole blocks are never copied first.
const CHUNK: u64 = 8;

/// Of `struct dm_ioctl`.
mod header {
    pub(super) const LENGTH: usize = 312;
    pub(super) const DATA_SIZE: usize = 12;
    pub(super) const DATA_START: usize = 16;
    pub(super) const TARGET_COUNT: usize = 20;
    pub(super) const FLAGS: usize = 28;
    pub(super) const DEVICE: usize = 40;
    pub(super) const NAME: usize = 48;
    pub(super) const NAME_LENGTH: usize = 128;
}
/// Of `struct dm_target_spec`.
mod target {
    pub(super) const LENGTH: usize = 40;
    pub(super) const NEXT: usize = 20;
    pub(super) const KIND: usize = 24;
}

const VERSION: [u32; 3] = [4, 0, 0];
const DEV_CREATE: u8 = 3;
const DEV_SUSPEND: u8 = 6;
const TABLE_LOAD: u8 = 9;
const READ_ONLY: u32 = 1;

/// A line of a table.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    start: u64,
    sectors: u64,
    kind: &'static str,
    parameters: String,
}

/// Makes the device: `image`, `bytes` long with zeros behind its end, and what is written to it on
/// `exceptions`. Returns its path.
///
/// # Errors
/// The kernel has no device mapper, or refuses a table.
pub(super) fn snapshot(image: &Path, exceptions: &Path, bytes: u64) -> Result<PathBuf, BootError> {
    let length = File::open(image)
        .and_then(|file| io::Seek::seek(&mut &file, io::SeekFrom::End(0)))
        .context(|| format!("looking at {}", image.display()))?;
    let control = File::options().read(true).write(true).open(CONTROL).context(|| {
        format!(
            "opening {CONTROL} (a snapshot needs the kernel's dm-snapshot; a kernel that was imported \
             before banger knew that has to be imported again)"
        )
    })?;
    let origin = Target::origin(image, length / SECTOR, bytes / SECTOR);
    let origin = make(&control, "banger-image", &origin, READ_ONLY)
        .context(|| format!("mapping {}", image.display()))?;
    let over = Target {
        start: 0,
        sectors: bytes / SECTOR,
        kind: "snapshot",
        parameters: format!("{} {} P {CHUNK}", origin.display(), exceptions.display()),
    };
    make(&control, "banger-root", &[over], 0).context(|| {
        format!(
            "a snapshot of {} on {}",
            image.display(),
            exceptions.display()
        )
    })
}

impl Target {
    fn origin(image: &Path, sectors: u64, wanted: u64) -> Vec<Target> {
        let mut table = vec![Target {
            start: 0,
            sectors: sectors.min(wanted),
            kind: "linear",
            parameters: format!("{} 0", image.display()),
        }];
        if wanted > sectors {
            table.push(Target {
                start: sectors,
                sectors: wanted - sectors,
                kind: "zero",
                parameters: String::new(),
            });
        }
        table
    }
}

fn make(control: &File, name: &str, table: &[Target], flags: u32) -> io::Result<PathBuf> {
    let mut created = request(name, &[], 0);
    sys::device_mapper(control, DEV_CREATE, &mut created)?;
    sys::device_mapper(control, TABLE_LOAD, &mut request(name, table, flags))?;
    sys::device_mapper(control, DEV_SUSPEND, &mut request(name, &[], 0))?;
    Ok(PathBuf::from(format!("/dev/dm-{}", minor(&created))))
}

/// huge_encode_dev() of linux/kdev_t.h.
fn minor(reply: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&reply[header::DEVICE..header::DEVICE + 8]);
    let device = u64::from_le_bytes(number);
    device & 0xff | device >> 12 & 0xfff00
}

fn request(name: &str, table: &[Target], flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; header::LENGTH];
    for target in table {
        let at = bytes.len();
        // A zero byte ends the parameters; the next one begins at a multiple of 8.
        let length = (target::LENGTH + target.parameters.len() + 1).next_multiple_of(8);
        bytes.resize(at + length, 0);
        let spec = &mut bytes[at..];
        spec[..8].copy_from_slice(&target.start.to_le_bytes());
        spec[8..16].copy_from_slice(&target.sectors.to_le_bytes());
        spec[target::NEXT..target::NEXT + 4].copy_from_slice(&(length as u32).to_le_bytes());
        spec[target::KIND..][..target.kind.len()].copy_from_slice(target.kind.as_bytes());
        spec[target::LENGTH..][..target.parameters.len()]
            .copy_from_slice(target.parameters.as_bytes());
    }
    let size = bytes.len() as u32;
    for (index, number) in VERSION.into_iter().enumerate() {
        put(&mut bytes, index * 4, number);
    }
    put(&mut bytes, header::DATA_SIZE, size);
    put(&mut bytes, header::DATA_START, header::LENGTH as u32);
    put(&mut bytes, header::TARGET_COUNT, table.len() as u32);
    put(&mut bytes, header::FLAGS, flags);
    let name = &name.as_bytes()[..name.len().min(header::NAME_LENGTH - 1)];
    bytes[header::NAME..header::NAME + name.len()].copy_from_slice(name);
    bytes
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_disk_has_zeros_behind_the_image() {
        let table = Target::origin(Path::new("/dev/vda"), 100, 160);
        let lines: Vec<String> = table
            .iter()
            .map(|t| format!("{} {} {} {}", t.start, t.sectors, t.kind, t.parameters))
            .collect();
        assert_eq!(lines, ["0 100 linear /dev/vda 0", "100 60 zero "]);
        assert_eq!(Target::origin(Path::new("/dev/vda"), 100, 100).len(), 1);
    }

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let table = Target::origin(Path::new("/dev/vda"), 100, 160);
        let bytes = request("n", &table, READ_ONLY);
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        assert_eq!((word(0), word(header::FLAGS)), (4, READ_ONLY));
        assert_eq!(word(header::DATA_SIZE) as usize, bytes.len());
        assert_eq!(word(header::TARGET_COUNT), 2);
        let next = word(header::LENGTH + target::NEXT) as usize;
        assert_eq!(next % 8, 0);
        let second = &bytes[header::LENGTH + next..];
        assert_eq!(second[0], 100);
        assert_eq!(&second[target::KIND..target::KIND + 5], b"zero\0");
        assert_eq!(&bytes[header::NAME..header::NAME + 2], b"n\0");
    }

    #[test]
    fn a_device_number_has_its_minor_in_two_places() {
        let mut reply = request("n", &[], 0);
        reply[header::DEVICE..header::DEVICE + 8].copy_from_slice(&0x0010_fd02_u64.to_le_bytes());
        assert_eq!(minor(&reply), 0x102);
    }
}
