//! The initramfs: a base per kernel and agent, cached, and a second archive per boot.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use banger_wire::config::{GuestConfig, MODULES_PATH, PATH};
use lib_model::{Digest, KernelRecord};
use lib_store::Context;
use sha2::{Digest as _, Sha256};

use crate::cpio::{Cpio, padding};
use crate::error::io_error;
use crate::{BOOT_MODULES, KernelError, elf};

/// Raised whenever the base archive's content changes for the same kernel and agent.
const FORMAT: u32 = 1;
const MODULES: &str = "banger/modules";

/// The base archive of a kernel: the agent as `/init` and the modules to boot with. It is made at
/// first need and kept in the cache; processes that make it at once replace each other's equal file.
///
/// # Errors
/// [`KernelError::Agent`] unless the agent is a static x86-64 program.
pub fn base_initramfs(
    context: &Context,
    kernel: &KernelRecord,
    agent: &Path,
) -> Result<PathBuf, KernelError> {
    let agent_bytes = match fs::read(agent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(KernelError::NoAgent {
                path: agent.to_owned(),
            });
        }
        other => other.map_err(io_error("read", agent))?,
    };
    check_agent(agent, &agent_bytes)?;
    let digest = Digest::from_sha256(Sha256::digest(&agent_bytes).into());
    let cache = context.cache();
    let target = cache.join(format!(
        "initramfs-{}-{}-{FORMAT}.cpio",
        kernel.id,
        digest.short()
    ));
    if target.exists() {
        return Ok(target);
    }
    let failed = io_error("write", &target);
    point("initramfs.base.create").map_err(&failed)?;
    let mut file = tempfile::NamedTempFile::new_in(&cache).map_err(&failed)?;
    let modules = boot_modules(&context.kernel(&kernel.id).join(BOOT_MODULES))?;
    let buffered = io::BufWriter::with_capacity(256 << 10, file.as_file_mut());
    write_base(buffered, &agent_bytes, &modules).map_err(&failed)?;
    point("initramfs.base.sync").map_err(&failed)?;
    // Renamed only when durable: after a crash, a name in the cache has its content.
    file.as_file().sync_data().map_err(&failed)?;
    point("initramfs.base.rename").map_err(&failed)?;
    file.persist(&target).map_err(|error| failed(error.error))?;
    Ok(target)
}

/// Writes what `-initrd` gets to `target`: the base and an archive with this boot's configuration.
/// The file holds secrets and is readable by its owner only. Returns where in it the entropy is, in bytes.
///
/// # Errors
/// When one of the files cannot be read or written.
pub fn boot_initramfs(
    base: &Path,
    config: &GuestConfig,
    target: &Path,
) -> Result<Option<u64>, KernelError> {
    let failed = io_error("write", target);
    let mut input = File::open(base).map_err(io_error("read", base))?;
    // A file of somebody else's making, or with other permissions, is not reused.
    match fs::remove_file(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut output = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)
        .map_err(&failed)?;
    point("initramfs.write").map_err(&failed)?;
    // copy_file_range(2) where the kernel can.
    let length = io::copy(&mut input, &mut output).map_err(&failed)?;
    let mut archive = padding(usize::try_from(length % 4).unwrap_or(0)).to_vec();
    let json = serde_json::to_vec(config).map_err(|error| failed(error.into()))?;
    let mut cpio = Cpio::new(&mut archive);
    cpio.file(PATH.trim_start_matches('/'), 0o600, &json)
        .map_err(&failed)?;
    cpio.finish().map_err(&failed)?;
    point("initramfs.configuration").map_err(&failed)?;
    output.write_all(&archive).map_err(&failed)?;
    let entropy = memchr::memmem::find(&archive, config.entropy.as_bytes());
    Ok(entropy.map(|at| length + at as u64))
}

fn write_base(output: impl Write, agent: &[u8], modules: &[(String, PathBuf)]) -> io::Result<()> {
    let mut cpio = Cpio::new(output);
    for directory in [
        "banger", MODULES, "dev", "etc", "proc", "root", "run", "sys", "tmp",
    ] {
        cpio.directory(directory, if directory == "root" { 0o700 } else { 0o755 })?;
    }
    // The kernel opens it for init before anything is mounted (init/main.c, console_on_rootfs).
    cpio.device("dev/console", 0o600, (5, 1))?;
    cpio.file("init", 0o755, agent)?;
    let mut list = String::new();
    for (name, path) in modules {
        let mut content = Vec::new();
        File::open(path)?.read_to_end(&mut content)?;
        cpio.file(&format!("{MODULES}/{name}"), 0o644, &content)?;
        list.push_str(&format!("/{MODULES}/{name}\n"));
    }
    cpio.file(MODULES_PATH.trim_start_matches('/'), 0o644, list.as_bytes())?;
    cpio.finish()?.flush()
}

/// File names, which are in load order, and paths.
fn boot_modules(directory: &Path) -> Result<Vec<(String, PathBuf)>, KernelError> {
    let failed = io_error("read", directory);
    let mut modules = Vec::new();
    for entry in fs::read_dir(directory).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        modules.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        ));
    }
    modules.sort();
    Ok(modules)
}

fn check_agent(path: &Path, bytes: &[u8]) -> Result<(), KernelError> {
    let fail = |reason: String| {
        Err(KernelError::Agent {
            path: path.to_owned(),
            reason,
        })
    };
    match elf::program(bytes, bytes.len() as u64) {
        Ok(program) if program.interpreted => {
            fail("it is linked dynamically, a static one is needed".into())
        }
        Ok(_) => Ok(()),
        Err(fault) => fail(fault.to_string()),
    }
}
