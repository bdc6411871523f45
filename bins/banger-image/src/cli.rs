//! The command line of `banger-image`; doc comments are the help.

use std::path::PathBuf;

use clap::builder::ValueHint;
use clap::{Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use lib_cli::Global;
use lib_image::{Limits, Platform, Size};
use lib_model::{ByteSize, KernelName, Reference};

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
    /// Take names from images, which stay
    Untag(UntagArgs),
    /// List images
    #[command(visible_alias = "ls")]
    List,
    /// Show everything about images
    #[command(visible_alias = "inspect")]
    Show(ImagesArgs),
    /// Delete images that no VM uses
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Check that images are what their digests say
    Verify(ImagesArgs),
    /// Write an image as an OCI layout, or as a Nix derivation that makes one
    Export(ExportArgs),
    /// Remove layers that no image has, and old beginnings of downloads
    Gc(GcArgs),
    /// Show and empty what is kept for later pulls
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Import, list and delete kernels
    #[command(subcommand)]
    Kernel(KernelCommand),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Credentials come from the files of podman and docker: $REGISTRY_AUTH_FILE, containers/auth.json
under $XDG_RUNTIME_DIR or ~/.config, ~/.docker/config.json, and from the credential helpers that they
name. Registries on loopback are reached by plain HTTP. Mirrors, certificates and more are settings:
see `banger config show`.

What a failed download brought is kept, and the next pull goes on from there.

Examples:
  banger-image pull alpine
  banger-image pull --platform linux/arm64 registry.example:5000/team/app:v1
  banger-image pull app@sha256:…     exactly this manifest
  banger-image pull --format erofs debian:12     read-only and compressed; ext4 without
  banger-image pull --lock-file images.lock --frozen alpine:3.20
  banger-image pull --offline alpine:3.20     without the network
  banger-image pull --oci-layout dir alpine:3.20     for other tools")]
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

    /// Trust the certificates (PEM) in this file too (repeatable)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca_file: Vec<PathBuf>,

    /// Use no network: only what is here
    #[arg(long)]
    pub(crate) offline: bool,

    /// Record in this file which digests the names mean
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "offline")]
    pub(crate) lock_file: Option<PathBuf>,

    /// Refuse what is not in the lock file, or differs from it
    #[arg(long, requires = "lock_file")]
    pub(crate) frozen: bool,

    /// Write an OCI layout into this new directory, and use no store
    #[arg(
        long,
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        conflicts_with_all = ["offline", "lock_file", "size", "size_factor", "min_size"]
    )]
    pub(crate) oci_layout: Option<PathBuf>,

    /// Do not look at the free space first
    #[arg(long)]
    pub(crate) no_space_check: bool,

    #[command(flatten)]
    pub(crate) size: SizeArgs,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// Size of an image's file system; without any, it is what the content needs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Size of the file system")]
pub(crate) struct SizeArgs {
    /// Make it this large; otherwise it fits the content
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["size_factor", "min_size"])]
    size: Option<ByteSize>,

    /// Make it so many times as large as the content needs
    #[arg(long, value_name = "N", value_parser = factor)]
    size_factor: Option<u32>,

    /// Make it no smaller than this
    #[arg(long, value_name = "SIZE")]
    min_size: Option<ByteSize>,
}

impl SizeArgs {
    /// What is meant.
    pub(crate) fn choice(&self) -> Size {
        match (self.size, self.size_factor, self.min_size) {
            (Some(size), ..) => Size::Exactly(size),
            (None, None, None) => Size::Fit,
            (None, percent, at_least) => Size::Scaled {
                percent: percent.unwrap_or(100),
                at_least: at_least.unwrap_or(ByteSize(0)),
            },
        }
    }
}

/// A factor such as 1.5, in percent.
fn factor(text: &str) -> Result<u32, String> {
    match text.parse::<f64>() {
        Ok(factor) if (1.0..=1000.0).contains(&factor) => Ok((factor * 100.0).round() as u32),
        _ => Err("a number from 1 to 1000 is expected, such as 1.5".to_owned()),
    }
}

/// What an image may ask of this machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Allow this much to be downloaded or read [default: 128G]
    #[arg(long, value_name = "SIZE")]
    max_download: Option<ByteSize>,

    /// Allow layers to unpack to this much [default: 256G]
    #[arg(long, value_name = "SIZE")]
    max_unpacked: Option<ByteSize>,

    /// Allow this many files, directories and links [default: 10000000]
    #[arg(long, value_name = "N")]
    max_entries: Option<u64>,

    /// Allow a layer to unpack to N times its size [default: 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_ratio: Option<u32>,
}

impl LimitArgs {
    /// The limits in force: the flags, then the settings, then the defaults.
    pub(crate) fn over(&self, settings: &lib_config::Limits) -> Limits {
        Limits::configured(&lib_config::Limits {
            download: self.max_download.or(settings.download),
            unpacked: self.max_unpacked.or(settings.unpacked),
            entries: self.max_entries.or(settings.entries),
            ratio: self.max_ratio.or(settings.ratio),
        })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
What the file is, is told by its content: an OCI layout directory, an OCI or docker archive, or a
root file system as tar; plain, gzip or zstd.

--nix takes what `nix build` takes. A NixOS system (config.system.build.toplevel) brings its kernel
and boots its own init. A package becomes an image of its closure, with the store's database. Both
keep what they came from from Nix's garbage collector until they are deleted. Docker archives,
nix2container's descriptions and, with --allow-exec, streamed images are imported as images.

Examples:
  banger-image import app.tar
  docker save app:1 | banger-image import -
  banger-image import --format erofs app.tar     read-only and compressed; ext4 without
  banger-image import --nix nixpkgs#hello --name hello
  banger-image import --nix .#nixosConfigurations.box.config.system.build.toplevel --name box
  mmdebstrap bookworm - | banger-image import - --name debian:mine --cmd /bin/bash
  skopeo copy docker://alpine oci:dir:alpine && banger-image import dir --name alpine")]
pub(crate) struct ImportArgs {
    /// File or directory; - is standard input
    #[arg(
        value_name = "FILE",
        value_hint = ValueHint::AnyPath,
        required_unless_present = "nix",
        conflicts_with = "nix"
    )]
    pub(crate) file: Option<PathBuf>,

    /// Let Nix build this, or fetch it, and import what comes out
    #[arg(long, value_name = "INSTALLABLE", value_hint = ValueHint::AnyPath)]
    pub(crate) nix: Option<String>,

    /// Run what Nix built when it is a program that writes an archive (streamLayeredImage)
    #[arg(long, requires = "nix", conflicts_with = "file")]
    pub(crate) allow_exec: bool,

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

    /// Do not look at the free space first
    #[arg(long)]
    pub(crate) no_space_check: bool,

    #[command(flatten)]
    pub(crate) size: SizeArgs,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,
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
pub(crate) struct UntagArgs {
    /// Names to take; an image without any has its id
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(lib_cli::images))]
    pub(crate) names: Vec<Reference>,
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
stay, where the next pull of a related image finds them, until `banger-image gc`.

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

#[derive(Debug, Args)]
#[command(after_help = "\
The derivation pulls the image by its digest, with banger-image, and has the layout as its output: an
image becomes an input of Nix builds. Equal images have equal layouts.

Examples:
  banger-image export alpine:3.20 --oci alpine
  banger-image export alpine:3.20 --nix > alpine.nix")]
pub(crate) struct ExportArgs {
    /// Name or id of the image
    #[arg(value_name = "IMAGE", add = ArgValueCompleter::new(lib_cli::images))]
    pub(crate) image: String,

    /// Write an OCI layout into this new directory
    #[arg(
        long,
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        required_unless_present = "nix",
        conflicts_with = "nix"
    )]
    pub(crate) oci: Option<PathBuf>,

    /// Print a fixed-output derivation
    #[arg(long)]
    pub(crate) nix: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What a pull or import under way needs is kept; so is, for a day, the beginning of a download that
ended early.

Example:
  banger-image delete old:1 && banger-image gc")]
pub(crate) struct GcArgs {
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List layers, manifests and configurations, and the images that have them
    #[command(visible_alias = "ls")]
    List,
    /// Remove what no image has, and every beginning of a download that nobody continues
    Prune(GcArgs),
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

    #[test]
    fn factors_are_kept_in_percent() {
        assert_eq!(
            (factor("1.5"), factor("2"), factor("1")),
            (Ok(150), Ok(200), Ok(100))
        );
        for bad in ["", "0.9", "nan", "inf", "-2", "1001", "x"] {
            assert!(factor(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_count_more_than_settings() {
        let flags = LimitArgs {
            max_download: Some(ByteSize(1)),
            max_unpacked: None,
            max_entries: None,
            max_ratio: Some(2),
        };
        let settings = lib_config::Limits {
            download: Some(ByteSize(3)),
            unpacked: Some(ByteSize(4)),
            ..lib_config::Limits::default()
        };
        let limits = flags.over(&settings);
        assert_eq!(
            (limits.layer_bytes, limits.unpacked_bytes, limits.ratio),
            (1, 4, 2)
        );
        assert_eq!(limits.filesystem.content_bytes, 4);
        assert_eq!(
            limits.filesystem.entries,
            Limits::default().filesystem.entries
        );
    }
}
