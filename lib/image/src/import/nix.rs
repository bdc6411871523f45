//! Images of what is in the host's Nix store.
//!
//! Such an image has no layers and no manifest: its digest is that of the names and hashes of all that is in it. A
//! root of Nix's garbage collector is there before its row, and goes after it.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use banger_failpoint::point;
use lib_fs::Builder;
use lib_model::{ByteSize, Digest, ImageRecord, KernelId, OciConfig, Progress};
use lib_nix::{Content, Nix, Script, StorePath};
use lib_store::{Locks, NewImage, Staged, Store};
use sha2::{Digest as _, Sha256};

use super::{ImportRequest, Input, check_run, import};
use crate::blob_writer::private_file;
use crate::build::{How, options, write};
use crate::claim::{self, Claim, Thing, waiting_for};
use crate::config::ImageConfig;
use crate::publish::{Wanted, name_existing, publish};
use crate::{Error, Platform, size, space};

/// What Nix built, as an image.
#[derive(Debug, Clone)]
pub struct NixImage {
    /// What is in it.
    pub content: Content,
    /// What it is kept from Nix's garbage collector by; `content` is in its closure.
    pub root: StorePath,
    /// How to run it, where the request does not say.
    pub run: OciConfig,
    /// The kernel that it brings.
    pub kernel: Option<KernelId>,
    /// OCI architecture; none when it has no programs.
    pub architecture: Option<String>,
    /// What the user asked for.
    pub source: String,
}

/// Makes an image of a closure. The same closure gives the same digest, and is not built twice.
///
/// # Errors
/// [`Error::NoPlatform`], [`Error::Nix`] when the closure vanishes or is damaged; nothing is published then, and no
/// root stays.
pub fn import_nix(
    store: &mut Store,
    locks: &mut Locks,
    nix: &Nix,
    image: &NixImage,
    request: &ImportRequest,
    progress: &dyn Progress,
) -> Result<ImageRecord, Error> {
    check_run(&request.run)?;
    request.size.check(request.filesystem)?;
    let what = &image.source;
    let config = ImageConfig {
        platform: platform(image, &request.platform, what)?,
        run: merged(&image.run, &request.run),
        diff_ids: Vec::new(),
    };
    let config_json = config.to_json()?;
    let digest = digest(&image.content, &config_json);
    let wanted = Wanted {
        digest: &digest,
        manifest: None,
        size: request.size,
        filesystem: request.filesystem,
    };
    let name = request.name.as_ref().map(|name| name.familiar());
    let name = name.as_deref();
    if let Some(record) = name_existing(store, locks, wanted, name)? {
        return Ok(record);
    }
    let _claim = claim(store, &digest, progress)?;
    if let Some(record) = name_existing(store, locks, wanted, name)? {
        return Ok(record);
    }
    if !request.ignore_space {
        space::check(store.context().data(), what, image.content.bytes())?;
    }
    let staged = Staged::new(store.context())?;
    let root = Root::add(
        nix,
        store.context().image_root(staged.image_id()),
        &image.root,
    )?;
    let (size, used) = build(&image.content, &staged, &digest, request, what, progress)?;
    write(&staged.path().join("config.json"), &config_json)?;
    if let Some(note) = request.size.note() {
        write(&staged.path().join(size::FILE), note.as_bytes())?;
    }
    let new = NewImage {
        digest: digest.clone(),
        source: format!("nix {what}"),
        architecture: config.platform.architecture.clone(),
        filesystem: request.filesystem.as_str().to_owned(),
        size: ByteSize(size),
        used: ByteSize(used),
        config: config.run,
        kernel: image.kernel.clone(),
    };
    let record = publish(store, locks, staged, &new, wanted, name)?;
    if store.context().image_root(&record.id) == root.0 {
        root.keep();
    }
    Ok(record)
}

/// Runs a program of the store that writes an archive, and imports that.
///
/// # Errors
/// As [`import`]; [`Error::Nix`] when the program says that it failed, whatever it wrote.
pub fn import_program(
    store: &mut Store,
    locks: &mut Locks,
    path: &StorePath,
    request: &ImportRequest,
    progress: &dyn Progress,
) -> Result<ImageRecord, Error> {
    let mut script = Script::start(path)?;
    let output = script
        .output()
        .map_err(Error::io("read from", path.path()))?;
    let input = Input::Stream {
        name: path.to_string(),
        reader: Box::new(Written {
            output,
            script: Some(script),
        }),
    };
    import(store, locks, input, request, progress)
}

/// What a program writes; it ends well only when the program does.
struct Written<R> {
    output: R,
    script: Option<Script>,
}

impl<R: Read> Read for Written<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.output.read(buffer)?;
        if count == 0
            && !buffer.is_empty()
            && let Some(script) = self.script.take()
        {
            script
                .finish()
                .map_err(|error| io::Error::other(Error::Nix(error)))?;
        }
        Ok(count)
    }
}

/// A root of the garbage collector, removed again unless it is kept.
struct Root(PathBuf);

impl Root {
    fn add(nix: &Nix, link: PathBuf, path: &StorePath) -> Result<Root, Error> {
        let root = Root(link);
        nix.add_root(&root.0, path)?;
        Ok(root)
    }

    fn keep(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // What stays is swept by the next command.
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn claim(store: &Store, digest: &Digest, progress: &dyn Progress) -> Result<Claim, Error> {
    let mut step = None;
    let directory = claim::directory(store.context())?;
    let claim = Claim::take(&directory, Thing::Image, digest, &mut |holder| {
        step = Some(progress.step(&waiting_for("the same import", holder), None));
    })?;
    if let Some(step) = step {
        step.done("");
    }
    Ok(claim)
}

fn digest(content: &Content, config_json: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(b"banger nix image 1\0");
    hash.update(config_json);
    hash.update(b"\0");
    hash.update(content.identity());
    Digest::from_sha256(hash.finalize().into())
}

/// Writes `rootfs.img`; returns its length, and how much of it is used.
fn build(
    content: &Content,
    staged: &Staged,
    digest: &Digest,
    request: &ImportRequest,
    what: &str,
    progress: &dyn Progress,
) -> Result<(u64, u64), Error> {
    let step = progress.step("writing the closure", Some(content.bytes()));
    let path = staged.path().join("rootfs.img");
    let image = private_file(&path)?;
    let options = options(
        digest,
        How {
            limits: &request.limits,
            size: request.size,
            filesystem: request.filesystem,
        },
    );
    let failed = |source: lib_fs::Error| Error::Build {
        image: what.to_owned(),
        source,
    };
    let mut builder = Builder::new(&image, &options).map_err(failed)?;
    point("nix.write").map_err(Error::io("write", &path))?;
    content
        .write(&mut builder, staged.path(), &|more| step.advance(more))
        .map_err(|error| match error {
            lib_nix::Error::FileSystem(source) => failed(source),
            error => Error::Nix(error),
        })?;
    let summary = builder.finish().map_err(failed)?;
    point("rootfs.sync")
        .and_then(|()| image.sync_all())
        .map_err(Error::io("sync", &path))?;
    step.done(&format!(
        "{} entries, {}",
        summary.entries,
        ByteSize(summary.used_bytes)
    ));
    Ok((summary.image_bytes, summary.used_bytes))
}

/// The request's words count more than the closure's.
fn merged(own: &OciConfig, asked: &OciConfig) -> OciConfig {
    let words = |asked: &Vec<String>, own: &Vec<String>| match asked.is_empty() {
        true => own.clone(),
        false => asked.clone(),
    };
    let text = |asked: &String, own: &String| match asked.is_empty() {
        true => own.clone(),
        false => asked.clone(),
    };
    let named = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let given: Vec<String> = asked.env.iter().map(|pair| named(pair)).collect();
    let kept = own.env.iter().filter(|pair| !given.contains(&named(pair)));
    let command = asked.entrypoint.is_empty() && asked.cmd.is_empty();
    OciConfig {
        env: kept.chain(&asked.env).cloned().collect(),
        user: text(&asked.user, &own.user),
        working_dir: text(&asked.working_dir, &own.working_dir),
        // One of them replaces both: the closure's program is no default argument of another.
        entrypoint: match command {
            true => own.entrypoint.clone(),
            false => asked.entrypoint.clone(),
        },
        cmd: words(&asked.cmd, if command { &own.cmd } else { &asked.cmd }),
        stop_signal: text(&asked.stop_signal, &own.stop_signal),
        work_seed: text(&asked.work_seed, &own.work_seed),
        kernel_parameters: own.kernel_parameters.clone(),
    }
}

fn platform(image: &NixImage, asked: &Platform, what: &str) -> Result<Platform, Error> {
    let Some(architecture) = &image.architecture else {
        return Ok(asked.clone());
    };
    let there = Platform {
        os: "linux".to_owned(),
        architecture: architecture.clone(),
        variant: None,
    };
    if asked.accepts(&there) {
        return Ok(there);
    }
    Err(Error::NoPlatform {
        what: what.to_owned(),
        wanted: asked.to_string(),
        available: vec![there.to_string()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_was_asked_for_counts_more() {
        let own = OciConfig {
            env: words("PATH=/a LANG=C"),
            entrypoint: words("/bin/own"),
            cmd: words("-x"),
            ..OciConfig::default()
        };
        let asked = OciConfig {
            env: words("PATH=/b"),
            cmd: words("/bin/other"),
            ..OciConfig::default()
        };
        let both = merged(&own, &asked);
        assert_eq!(both.env, words("LANG=C PATH=/b"));
        assert_eq!(
            (both.entrypoint, both.cmd),
            (Vec::new(), words("/bin/other"))
        );
        assert_eq!(merged(&own, &OciConfig::default()), own);
    }
}
