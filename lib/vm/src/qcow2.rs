//! An empty qcow2 file over a raw one (QEMU's docs/interop/qcow2.txt, version 3). Three clusters are not worth a
//! program of another package; what is written later is QEMU's.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const SIZE_AT: u64 = 24;
const HEADER_LENGTH: u32 = 104;
/// A table of the first level for 4 TiB: a disk grows by a change of one number. It is a hole at first.
const LARGEST: u64 = 4 << 40;
const L1_ENTRIES: u64 = LARGEST / (CLUSTER * (CLUSTER / 8));
/// Header, refcount table, refcount block, then the table.
const L1_AT: u64 = 3 * CLUSTER;

/// Writes a qcow2 file of `size` bytes that reads as `backing`, by whose absolute path other tools find it.
///
/// # Errors
/// `InvalidInput` for more than 4 TiB or a path of more than 1,023 bytes; those of the file system.
pub(crate) fn write(file: &File, size: u64, backing: &Path) -> io::Result<()> {
    let backing = backing.as_os_str().as_bytes();
    /// Of the specification.
    const LONGEST: usize = 1023;
    if size > LARGEST || backing.len() > LONGEST {
        let why = "a qcow2 disk ends at 4 TiB, and the path of its image at 1,023 bytes";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    // Extension 0xE2792ACA: the format of the backing file, padded to 8 bytes; then the end.
    let mut extensions = Vec::new();
    extensions.extend(0xE279_2ACA_u32.to_be_bytes());
    extensions.extend(3_u32.to_be_bytes());
    extensions.extend(b"raw\0\0\0\0\0");
    extensions.extend([0; 8]);
    let name_at = u64::from(HEADER_LENGTH) + extensions.len() as u64;

    let mut header = Vec::new();
    header.extend(b"QFI\xfb");
    header.extend(3_u32.to_be_bytes());
    header.extend(name_at.to_be_bytes());
    header.extend((backing.len() as u32).to_be_bytes());
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size.to_be_bytes());
    header.extend(0_u32.to_be_bytes());
    header.extend((L1_ENTRIES as u32).to_be_bytes());
    header.extend(L1_AT.to_be_bytes());
    header.extend(CLUSTER.to_be_bytes());
    header.extend(1_u32.to_be_bytes());
    // No internal snapshots, no feature bits, refcounts of 16 bits.
    header.extend([0; 4 + 8 + 3 * 8]);
    header.extend(4_u32.to_be_bytes());
    header.extend(HEADER_LENGTH.to_be_bytes());
    header.resize(HEADER_LENGTH as usize, 0);
    header.extend(extensions);
    header.extend(backing);

    let l1_clusters = (L1_ENTRIES * 8).div_ceil(CLUSTER);
    let used = L1_AT / CLUSTER + l1_clusters;
    let refcounts: Vec<u8> = (0..used).flat_map(|_| 1_u16.to_be_bytes()).collect();
    file.set_len(used * CLUSTER)?;
    file.write_all_at(&header, 0)?;
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    file.write_all_at(&refcounts, 2 * CLUSTER)
}

/// The size of the disk, in bytes.
///
/// # Errors
/// `InvalidData` for another file.
pub(crate) fn size(file: &File) -> io::Result<u64> {
    let mut start = [0; 32];
    file.read_exact_at(&mut start, 0)?;
    if !start.starts_with(b"QFI\xfb\0\0\0\x03") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is no qcow2 file",
        ));
    }
    let mut size = [0; 8];
    size.copy_from_slice(&start[SIZE_AT as usize..]);
    Ok(u64::from_be_bytes(size))
}

/// Makes the disk of a VM that does not run larger.
///
/// # Errors
/// As [`write`].
pub(crate) fn set_size(file: &File, size: u64) -> io::Result<()> {
    if size > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a qcow2 disk ends at 4 TiB",
        ));
    }
    file.write_all_at(&size.to_be_bytes(), SIZE_AT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_changed() {
        let place = tempfile::tempdir().unwrap();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(place.path().join("d"))
            .unwrap();
        assert!(write(&file, LARGEST + 1, Path::new("/i")).is_err());
        write(&file, 10 << 30, Path::new("/images/i")).unwrap();
        assert_eq!(size(&file).unwrap(), 10 << 30);
        set_size(&file, 20 << 30).unwrap();
        assert_eq!(size(&file).unwrap(), 20 << 30);
        assert!(set_size(&file, LARGEST + 1).is_err());
        file.write_all_at(b"x", 0).unwrap();
        assert!(size(&file).is_err());
    }
}
