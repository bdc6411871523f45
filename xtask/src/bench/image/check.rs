//! Whether a measured command made what it should: outside the time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::peers::{Made, Peer, Peers};
use crate::step::{Result, output};

/// What a file system has in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub(super) inodes: u64,
    pub(super) bytes: u64,
}

/// The image in our store below `work`.
pub(super) fn ours(work: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    for image in fs::read_dir(work.join("store/images"))? {
        let disk = image?.path().join("rootfs.img");
        if disk.is_file() {
            found.push(disk);
        }
    }
    match found.pop() {
        Some(disk) if found.is_empty() => Ok(disk),
        _ => Err("the store has not one image".into()),
    }
}

/// What a peer left in `work`; `None` when it counts nothing that can be compared.
pub(super) fn peer(peer: &Peer, work: &Path, peers: &Peers) -> Result<Option<Used>> {
    match peer.made {
        Made::Ext4(file) => ext4(&work.join(file)).map(Some),
        Made::ErofsLayers(directory) => erofs(&work.join(directory), peers).map(|()| None),
    }
}

/// Checks an ext4 file system and counts.
pub(super) fn ext4(disk: &Path) -> Result<Used> {
    output(Command::new("/sbin/e2fsck").arg("-fn").arg(disk))?;
    let said = output(Command::new("/sbin/dumpe2fs").arg("-h").arg(disk))?;
    let number = |name: &str| field(&said, name);
    Ok(Used {
        inodes: number("Inode count")? - number("Free inodes")?,
        bytes: (number("Block count")? - number("Free blocks")?) * number("Block size")?,
    })
}

/// Checks that every layer became a file system with files in it.
fn erofs(directory: &Path, peers: &Peers) -> Result<()> {
    let (mut layers, mut files) = (0, 0);
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "erofs")
        {
            output(Command::new(peers.bin().join("fsck.erofs")).arg(&path))?;
            let said = output(
                Command::new(peers.bin().join("dump.erofs"))
                    .arg("-S")
                    .arg(&path),
            )?;
            files += field(&said, "Filesystem total file count")?;
            layers += 1;
        }
    }
    if layers < 2 || files == 0 {
        let directory = directory.display();
        return Err(format!("{layers} layers with {files} files in {directory}").into());
    }
    println!("   {layers} erofs layers with {files} files in all");
    Ok(())
}

/// The number after `name:` in what a tool says.
fn field(said: &str, name: &str) -> Result<u64> {
    let mut lines = said.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.and_then(|value| value.trim().parse().ok());
    value.ok_or_else(|| format!("no {name} in what was said:\n{said}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_whole_names() {
        let said = "Inode count:              88\nFree inodes:   7\nFree inodes count: 9\n";
        assert_eq!(field(said, "Inode count").unwrap(), 88);
        assert_eq!(field(said, "Free inodes").unwrap(), 7);
        assert!(field(said, "Free").is_err());
    }
}
