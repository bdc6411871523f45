//! The command line of `banger-image`; doc comments are the help.

use std::path::PathBuf;

use clap::builder::ValueHint;
use clap::{Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use lib_cli::Global;
use lib_image::Platform;
use lib_model::{KernelName, Reference};

/// Pull, import, list and delete images and kernels
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
Examples:
  banger-image pull alpine:3.20
  banger-image pull debian:12 | banger-vm create --name dev
  docker save app:1 | banger-image import -
  banger-image pull host     the host's own distribution, image and kernel

Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 busy, 70 bug."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pull images from their registries
    Pull(PullArgs),
    /// Import an image from a file or from standard input
    Import(Box<ImportArgs>),
    /// Give an image another name
    Tag(TagArgs),
    /// List images
    #[command(visible_alias = "ls")]
    List,
    /// Show everything about images
    Show(ImagesArgs),
    /// Delete images that no VM uses
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Import, list and delete kernels
    #[command(subcommand)]
    Kernel(KernelCommand),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Credentials come from the files of podman and docker: $REGISTRY_AUTH_FILE, containers/auth.json
under $XDG_RUNTIME_DIR or ~/.config, ~/.docker/config.json. Registries on loopback are reached by
plain HTTP.

Examples:
  banger-image pull alpine
  banger-image pull --platform linux/arm64 registry.example:5000/team/app:v1
  banger-image pull app@sha256:…     exactly this manifest")]
pub(crate) struct PullArgs {
    /// References such as alpine:3.20; `host` makes the host's own distribution
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,

    /// Choose the image of this platform
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64")]
    pub(crate) platform: Platform,

    /// Reach this registry by plain HTTP (repeatable)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) plain_http: Vec<String>,

    /// Speak TLS to registries on loopback too
    #[arg(long)]
    pub(crate) tls: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What the file is, is told by its content: an OCI layout directory, an OCI or docker archive, or a
root file system as tar; plain, gzip or zstd.

Examples:
  banger-image import app.tar
  docker save app:1 | banger-image import -
  mmdebstrap bookworm - | banger-image import - --name debian:mine --cmd /bin/bash
  skopeo copy docker://alpine oci:dir:alpine && banger-image import dir --name alpine")]
pub(crate) struct ImportArgs {
    /// File or directory; - is standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub(crate) file: PathBuf,

    /// Name the image; without it, the archive's own names count
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Reference>,

    /// Choose one image of several, by name or digest
    #[arg(long, value_name = "NAME")]
    pub(crate) select: Option<String>,

    /// Choose the image of this platform; for a root file system, say what it is
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64")]
    pub(crate) platform: Platform,

    /// Entry point of a root file system: words, or a JSON array
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true, value_parser = words)]
    pub(crate) entrypoint: Option<Words>,

    /// Command of a root file system: words, or a JSON array
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true, value_parser = words)]
    pub(crate) cmd: Option<Words>,

    /// Environment of a root file system (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,

    /// User of a root file system: name or number, optionally :group
    #[arg(
        long,
        value_name = "USER",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) user: String,

    /// Working directory of a root file system
    #[arg(
        long,
        value_name = "DIR",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) workdir: String,
}

/// The words of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) Vec<String>);

/// A JSON array as in a Dockerfile, or words between blanks; there is no quoting.
fn words(text: &str) -> Result<Words, String> {
    let words: Vec<String> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map_err(|error| format!("not an array of strings: {error}"))?
    } else {
        text.split_whitespace().map(str::to_owned).collect()
    };
    if words.is_empty() {
        Err("no words".to_owned())
    } else {
        Ok(Words(words))
    }
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Name or id of the image
    #[arg(value_name = "IMAGE", add = ArgValueCompleter::new(lib_cli::images))]
    pub(crate) image: String,

    /// Its further name; another image that has it loses it
    #[arg(value_name = "NAME")]
    pub(crate) name: Reference,
}

#[derive(Debug, Args)]
#[command(after_help = "Without names, records are read from standard input.")]
pub(crate) struct ImagesArgs {
    /// Names or ids
    #[arg(value_name = "IMAGE", add = ArgValueCompleter::new(lib_cli::images))]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without names, records are read from standard input. The image goes with all its names; its layers
stay in the blobs, where the next pull of a related image finds them.

Examples:
  banger-image delete alpine:3.20 debian:12
  banger-image list | banger-image delete")]
pub(crate) struct DeleteArgs {
    /// Names or ids
    #[arg(value_name = "IMAGE", add = ArgValueCompleter::new(lib_cli::images))]
    pub(crate) images: Vec<String>,

    /// Succeed when there is no such image
    #[arg(long)]
    pub(crate) if_exists: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KernelCommand {
    /// Import a kernel from a Debian package, a bzImage or a vmlinux
    Import(KernelImportArgs),
    /// List kernels
    #[command(visible_alias = "ls")]
    List,
    /// Show everything about kernels
    Show(KernelsArgs),
    /// Delete kernels that no VM uses
    #[command(visible_alias = "rm")]
    Delete(KernelDeleteArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger-image kernel import linux-image-6.1.0-49-cloud-amd64_6.1.174-1_amd64.deb
  banger-image kernel import /boot/vmlinuz-6.1.0 --modules /lib/modules/6.1.0")]
pub(crate) struct KernelImportArgs {
    /// Package, bzImage or vmlinux; told by its content
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// Take the modules from this directory or package
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) modules: Option<PathBuf>,

    /// Name the kernel; otherwise its release is its name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<KernelName>,
}

#[derive(Debug, Args)]
#[command(after_help = "Without names, records are read from standard input.")]
pub(crate) struct KernelsArgs {
    /// Names or ids
    #[arg(value_name = "KERNEL", add = ArgValueCompleter::new(lib_cli::kernels))]
    pub(crate) kernels: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Without names, records are read from standard input.")]
pub(crate) struct KernelDeleteArgs {
    /// Names or ids
    #[arg(value_name = "KERNEL", add = ArgValueCompleter::new(lib_cli::kernels))]
    pub(crate) kernels: Vec<String>,

    /// Succeed when there is no such kernel
    #[arg(long)]
    pub(crate) if_exists: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_words_or_arrays() {
        for (text, expected) in [
            ("/bin/sh -l", &["/bin/sh", "-l"][..]),
            (r#"["/bin/sh", "-c", "a b"]"#, &["/bin/sh", "-c", "a b"]),
        ] {
            assert_eq!(words(text).unwrap().0, expected);
        }
        for bad in ["", "  ", "[", "[]", "[1]"] {
            assert!(words(bad).is_err(), "{bad}");
        }
    }
}
