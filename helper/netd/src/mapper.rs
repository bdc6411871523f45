//! The device mapper: an image and what was written to it, as one block device (linux/dm-ioctl.h; the kernel's
//! admin-guide/device-mapper/snapshot.rst).
//!
//! Names and uuids derive from the VM's id. Each device is marked to go when it is closed, as soon as it is made.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use banger_proto::VmId;
use nix::errno::Errno;

use crate::sys;

const CONTROL: &str = "/dev/mapper/control";

/// Of the snapshot, in sectors: a block of the file system, so that whole blocks are never copied first.
const CHUNK: u64 = 8;
pub(crate) const SECTOR: u64 = 512;

/// What names and uuids of ours begin with; the VM's id follows.
const MARK: &str = "banger-netd-";

/// Of `struct dm_ioctl`.
const HEADER: usize = 312;
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGETS: usize = 20;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const NAME: usize = 48;
const NAME_LENGTH: usize = 128;
const UUID: usize = 176;
const UUID_LENGTH: usize = 129;
/// Of `struct dm_target_spec`.
const TARGET: usize = 40;
const TARGET_NEXT: usize = 20;
const TARGET_KIND: usize = 24;

const DEV_LIST: u8 = 2;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const DEV_STATUS: u8 = 7;
const TABLE_LOAD: u8 = 9;

const READ_ONLY: u32 = 1;
const BUFFER_FULL: u32 = 1 << 8;
const DEFERRED_REMOVE: u32 = 1 << 17;

/// A line of a table.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    start: u64,
    sectors: u64,
    kind: &'static str,
    parameters: String,
}

/// A VM's two devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The image, and zeros behind it.
    Image,
    Root,
}

/// The kernel's device mapper.
#[derive(Debug)]
pub(crate) struct Mapper {
    control: File,
}

impl Mapper {
    /// # Errors
    /// `NotFound` when the kernel has none.
    pub(crate) fn open() -> io::Result<Mapper> {
        point("netd.dm.open")?;
        let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        Ok(Mapper { control })
    }

    /// Makes a VM's device, `size` bytes long. The descriptor keeps it.
    ///
    /// # Errors
    /// `EBUSY` when it is there; what the kernel says to a table. Then nothing is left.
    pub(crate) fn snapshot(
        &self,
        vm: &VmId,
        image: (&Path, u64),
        exceptions: &Path,
        size: u64,
    ) -> io::Result<File> {
        let made = self.make_both(vm, image, exceptions, size);
        if made.is_err() {
            // The cause is told; what is left is found by its name.
            let _ = self.remove(vm);
        }
        made
    }

    fn make_both(
        &self,
        vm: &VmId,
        (image, length): (&Path, u64),
        exceptions: &Path,
        size: u64,
    ) -> io::Result<File> {
        let (length, size) = (length / SECTOR, size / SECTOR);
        let table = origin(image, length, size);
        let origin = self.make(vm, Role::Image, &table, READ_ONLY)?;
        let over = Target {
            start: 0,
            sectors: size,
            kind: "snapshot",
            parameters: format!("{} {} P {CHUNK}", origin.display(), exceptions.display()),
        };
        let root = self.make(vm, Role::Root, &[over], 0)?;
        point("netd.dm.device")?;
        let device = OpenOptions::new().read(true).write(true).open(root)?;
        for role in [Role::Root, Role::Image] {
            self.defer_removal(vm, role)?;
        }
        Ok(device)
    }

    fn make(&self, vm: &VmId, role: Role, table: &[Target], flags: u32) -> io::Result<PathBuf> {
        point("netd.dm.create")?;
        let mut created = Request::new(&name(vm, role), &[], 0);
        created.text(UUID, UUID_LENGTH, &name(vm, role));
        self.ask(DEV_CREATE, &mut created)?;
        point("netd.dm.load")?;
        self.ask(TABLE_LOAD, &mut Request::new(&name(vm, role), table, flags))?;
        point("netd.dm.resume")?;
        self.ask(DEV_SUSPEND, &mut Request::new(&name(vm, role), &[], 0))?;
        Ok(PathBuf::from(format!("/dev/dm-{}", created.minor())))
    }

    /// It goes when it is closed; at once when nobody has it open.
    fn defer_removal(&self, vm: &VmId, role: Role) -> io::Result<()> {
        point("netd.dm.remove")?;
        let mut request = Request::new(&name(vm, role), &[], DEFERRED_REMOVE);
        self.ask(DEV_REMOVE, &mut request)
    }

    /// Takes a VM's devices away. Returns whether there was one.
    ///
    /// # Errors
    /// What the kernel says; a device of that name that is not ours.
    pub(crate) fn remove(&self, vm: &VmId) -> io::Result<bool> {
        let mut changed = false;
        for role in [Role::Root, Role::Image] {
            let mut status = Request::new(&name(vm, role), &[], 0);
            match self.ask(DEV_STATUS, &mut status) {
                Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => continue,
                result => result?,
            }
            if status.read(UUID, UUID_LENGTH) != name(vm, role) {
                let message = format!("there is a device {} of somebody else", name(vm, role));
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            match self.defer_removal(vm, role) {
                // The image's goes with the other one.
                Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => {}
                result => result?,
            }
            changed = true;
        }
        Ok(changed)
    }

    /// VMs with a device of ours.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn ours(&self) -> io::Result<Vec<VmId>> {
        let mut room = 16 << 10;
        loop {
            let mut list = Request::with_room(room);
            self.ask(DEV_LIST, &mut list)?;
            if list.number(FLAGS) & BUFFER_FULL == 0 {
                return Ok(vms(&list));
            }
            room *= 2;
        }
    }

    fn ask(&self, number: u8, request: &mut Request) -> io::Result<()> {
        sys::device_mapper(&self.control, number, &mut request.0)
    }
}

/// In the names of the list (`struct dm_name_list`).
fn vms(list: &Request) -> Vec<VmId> {
    let bytes = list.bytes();
    let mut found = Vec::new();
    let mut at = list.number(DATA_START) as usize;
    while let Some(entry) = bytes.get(at..).filter(|entry| entry.len() > 12) {
        let next = u32::from_ne_bytes([entry[8], entry[9], entry[10], entry[11]]) as usize;
        let name = entry[12..]
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        let vm = std::str::from_utf8(name).ok().and_then(|name| {
            let vm = name.strip_prefix(MARK)?;
            VmId::try_from(vm.strip_suffix("-image").unwrap_or(vm)).ok()
        });
        found.extend(vm);
        if next == 0 {
            break;
        }
        at += next;
    }
    found.sort();
    found.dedup();
    found
}

fn name(vm: &VmId, role: Role) -> String {
    match role {
        Role::Root => format!("{MARK}{vm}"),
        Role::Image => format!("{MARK}{vm}-image"),
    }
}

/// An image that is shorter than wanted has zeros behind it.
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

/// A `struct dm_ioctl` and what follows it.
struct Request(Vec<u64>);

impl Request {
    fn new(name: &str, table: &[Target], flags: u32) -> Request {
        let lengths = table.iter().map(Target::length);
        let mut request = Request::with_room(lengths.sum());
        request.put(TARGETS, &(table.len() as u32).to_ne_bytes());
        request.put(FLAGS, &flags.to_ne_bytes());
        request.text(NAME, NAME_LENGTH, name);
        let mut at = HEADER;
        for target in table {
            request.put(at, &target.start.to_ne_bytes());
            request.put(at + 8, &target.sectors.to_ne_bytes());
            request.put(at + TARGET_NEXT, &(target.length() as u32).to_ne_bytes());
            request.put(at + TARGET_KIND, target.kind.as_bytes());
            request.put(at + TARGET, target.parameters.as_bytes());
            at += target.length();
        }
        request
    }

    fn with_room(room: usize) -> Request {
        let length = (HEADER + room).next_multiple_of(8);
        let mut request = Request(vec![0; length / 8]);
        request.put(0, &4_u32.to_ne_bytes());
        request.put(DATA_SIZE, &(length as u32).to_ne_bytes());
        request.put(DATA_START, &(HEADER as u32).to_ne_bytes());
        request
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let shift = at % 8 * 8;
            let word = u64::from_le(self.0[at / 8]);
            self.0[at / 8] = (word & !(0xff << shift) | u64::from(*byte) << shift).to_le();
        }
    }

    /// Cut off so that a zero byte ends it.
    fn text(&mut self, at: usize, room: usize, text: &str) {
        let bytes = text.as_bytes();
        self.put(at, &bytes[..bytes.len().min(room - 1)]);
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn number(&self, at: usize) -> u32 {
        let bytes = self.bytes();
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    fn read(&self, at: usize, room: usize) -> String {
        let bytes = self.bytes();
        let text = bytes[at..at + room].split(|byte| *byte == 0).next();
        String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
    }

    /// huge_encode_dev() of linux/kdev_t.h.
    fn minor(&self) -> u64 {
        let device = self.0[DEVICE / 8];
        device & 0xff | device >> 12 & 0xfff00
    }
}

impl Target {
    /// A zero byte ends the parameters; the next one begins at a multiple of 8.
    fn length(&self) -> usize {
        (TARGET + self.parameters.len() + 1).next_multiple_of(8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let table = origin(Path::new("/dev/loop7"), 100, 160);
        let lines: Vec<_> = table.iter().map(|t| (t.start, t.sectors, t.kind)).collect();
        assert_eq!(lines, [(0, 100, "linear"), (100, 60, "zero")]);
        let request = Request::new("n", &table, READ_ONLY);
        assert_eq!((request.number(0), request.number(FLAGS)), (4, READ_ONLY));
        assert_eq!(request.number(DATA_SIZE) as usize, request.bytes().len());
        assert_eq!(request.number(TARGETS), 2);
        assert_eq!(request.read(NAME, NAME_LENGTH), "n");
        assert_eq!(request.read(HEADER + TARGET, 20), "/dev/loop7 0");
        let next = request.number(HEADER + TARGET_NEXT) as usize;
        assert_eq!(next % 8, 0);
        assert_eq!(request.bytes()[HEADER + next], 100);
        assert_eq!(request.read(HEADER + next + TARGET_KIND, 16), "zero");
    }

    #[test]
    fn devices_of_ours_are_found_in_a_list() {
        let vm = VmId::try_from("00112233445566aa").unwrap();
        let names = [
            name(&vm, Role::Image),
            "other".into(),
            name(&vm, Role::Root),
            "banger-netd-x".into(),
        ];
        let mut list = Request::with_room(512);
        let mut at = HEADER;
        for (index, text) in names.iter().enumerate() {
            let last = index + 1 == names.len();
            list.put(at + 8, &(if last { 0 } else { 64_u32 }).to_ne_bytes());
            list.put(at + 12, text.as_bytes());
            at += 64;
        }
        assert_eq!(vms(&list), [vm]);
        assert_eq!(vms(&Request::with_room(0)), []);
    }

    #[test]
    fn a_device_number_has_its_minor_in_two_places() {
        let mut reply = Request::new("n", &[], 0);
        reply.put(DEVICE, &0x0010_fd02_u64.to_ne_bytes());
        assert_eq!(reply.minor(), 0x102);
    }
}
