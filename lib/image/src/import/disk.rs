//! An ext4 file system in a file becomes an image as it is.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use banger_failpoint::point;
use lib_model::{ByteSize, Digest, Filesystem, ImageRecord, Progress};
use lib_store::{Locks, NewImage, Staged, Store};
use sha2::{Digest as _, Sha256};

use super::ImportRequest;
use crate::blob_writer::private_file;
use crate::build::write;
use crate::config::ImageConfig;
use crate::publish::{Wanted, publish};
use crate::{Error, Size, space};

/// The superblock begins here, whatever the block size (the kernel's filesystems/ext4, "Super Block").
const SUPERBLOCK: u64 = 1024;
const MAGIC: [u8; 2] = [0x53, 0xef];
/// Its journal has to be replayed before it can be mounted read-only from a device that is.
const NEEDS_RECOVERY: u32 = 4;
const WIDE_BLOCK_NUMBERS: u32 = 0x80;
/// Read and written at once; all zeros are left out.
const PIECE: usize = 256 << 10;

/// What its superblock says.
#[derive(Debug, PartialEq, Eq)]
struct Superblock {
    bytes: u64,
    used: u64,
    needs_recovery: bool,
}

/// Whether the file begins as an ext4 file system does.
pub(super) fn is_ext4(file: &File) -> bool {
    let mut magic = [0; 2];
    file.read_exact_at(&mut magic, SUPERBLOCK + 56).is_ok() && magic == MAGIC
}

/// Copies it into the store; holes and zeros take no room.
///
/// # Errors
/// [`Error::NotAnImage`] for one that cannot be mounted; options that a copy cannot have.
pub(super) fn import(
    store: &mut Store,
    locks: &mut Locks,
    (path, mut file): (&Path, File),
    request: &ImportRequest,
    progress: &dyn Progress,
) -> Result<ImageRecord, Error> {
    let what = path.to_string_lossy();
    check(request)?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let superblock = superblock(&file, length).map_err(|reason| Error::NotAnImage {
        what: what.clone().into_owned(),
        reason,
    })?;
    if !request.ignore_space {
        space::check(store.context().data(), &what, superblock.used)?;
    }
    let staged = Staged::new(store.context())?;
    let target = staged.path().join("rootfs.img");
    let image = private_file(&target)?;
    let step = progress.step("copying the file system", Some(superblock.bytes));
    let content = (&mut file).take(superblock.bytes);
    let digest =
        copy(content, &image, &|more| step.advance(more)).map_err(Error::io("copy", path))?;
    point("rootfs.sync")
        .and_then(|()| image.set_len(superblock.bytes))
        .and_then(|()| image.sync_all())
        .map_err(Error::io("sync", &target))?;
    step.done("");
    let config = ImageConfig {
        platform: request.platform.clone(),
        run: request.run.clone(),
        diff_ids: Vec::new(),
    };
    write(&staged.path().join("config.json"), &config.to_json()?)?;
    let new = NewImage {
        digest: digest.clone(),
        source: format!("ext4 file system {what}"),
        architecture: config.platform.architecture,
        filesystem: Filesystem::Ext4.as_str().to_owned(),
        size: ByteSize(superblock.bytes),
        used: ByteSize(superblock.used),
        config: config.run,
        kernel: None,
    };
    let wanted = Wanted {
        digest: &digest,
        manifest: None,
        size: Size::Fit,
        filesystem: Filesystem::Ext4,
    };
    let name = request.name.as_ref().map(|name| name.familiar());
    publish(store, locks, staged, &new, wanted, name.as_deref())
}

fn check(request: &ImportRequest) -> Result<(), Error> {
    let refused = |option, value: String| {
        Err(Error::OptionValue {
            option,
            value,
            reason: "does not go with a file system that is taken as it is",
        })
    };
    match (request.size, request.filesystem) {
        (Size::Exactly(size), _) => refused("--size", size.to_string()),
        (Size::Scaled { at_least, .. }, _) => refused("--min-size", at_least.to_string()),
        (Size::Fit, Filesystem::Erofs) => refused("--format", "erofs".to_owned()),
        (Size::Fit, Filesystem::Ext4) => Ok(()),
    }
}

/// Reads the superblock of a file of so many bytes.
fn superblock(file: &File, length: u64) -> Result<Superblock, String> {
    let mut bytes = [0; 1024];
    file.read_exact_at(&mut bytes, SUPERBLOCK)
        .map_err(|error| error.to_string())?;
    let superblock = parse(&bytes)?;
    if superblock.bytes > length {
        return Err(format!(
            "its file system has {} bytes, the file has {length}",
            superblock.bytes
        ));
    }
    if superblock.needs_recovery {
        return Err("its journal has to be replayed first (e2fsck -f, on a copy)".to_owned());
    }
    Ok(superblock)
}

fn parse(bytes: &[u8; 1024]) -> Result<Superblock, String> {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let features = word(0x60);
    let wide = |low: usize, high: usize| {
        let high = if features & WIDE_BLOCK_NUMBERS != 0 {
            word(high)
        } else {
            0
        };
        u64::from(high) << 32 | u64::from(word(low))
    };
    let block_log = word(0x18);
    if block_log > 6 {
        return Err("its superblock is damaged".to_owned());
    }
    let block = 1024u64 << block_log;
    let (blocks, free) = (wide(0x4, 0x150), wide(0xc, 0x158));
    let bytes = blocks.checked_mul(block);
    match bytes {
        Some(bytes) if blocks > 0 && free <= blocks => Ok(Superblock {
            bytes,
            used: (blocks - free) * block,
            needs_recovery: features & NEEDS_RECOVERY != 0,
        }),
        _ => Err("its superblock is damaged".to_owned()),
    }
}

/// Copies and hashes; pieces of zeros become holes.
fn copy(mut from: impl Read, mut to: &File, read: &dyn Fn(u64)) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; PIECE];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_sha256(hash.finalize().into())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let piece = &buffer[..count];
        hash.update(piece);
        if piece.iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(count as i64))?;
        } else {
            to.write_all(piece)?;
        }
        read(count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_of_ours_is_read_and_copied() {
        let place = tempfile::tempdir().unwrap();
        let open = |name: &str| private_file(&place.path().join(name)).unwrap();
        let (image, copied) = (open("a"), open("b"));
        let options = lib_fs::Options::default();
        let summary = lib_fs::format_empty(&image, 8 << 20, &options).unwrap();
        assert!(is_ext4(&image));
        let read = superblock(&image, summary.image_bytes).unwrap();
        assert_eq!((read.bytes, read.used), (8 << 20, summary.used_bytes));
        assert!(
            superblock(&image, (8 << 20) - 1)
                .unwrap_err()
                .contains("the file has")
        );

        let all = std::fs::read(place.path().join("a")).unwrap();
        let digest = copy(&image, &copied, &|_| {}).unwrap();
        copied.set_len(8 << 20).unwrap();
        assert_eq!(digest, Digest::from_sha256(Sha256::digest(&all).into()));
        assert_eq!(std::fs::read(place.path().join("b")).unwrap(), all);

        image
            .write_all_at(&[NEEDS_RECOVERY as u8], SUPERBLOCK + 0x60)
            .unwrap();
        assert!(superblock(&image, 8 << 20).unwrap_err().contains("e2fsck"));
        image.write_all_at(&[0xff], SUPERBLOCK + 0x18).unwrap();
        assert!(superblock(&image, 8 << 20).unwrap_err().contains("damaged"));
    }
}
