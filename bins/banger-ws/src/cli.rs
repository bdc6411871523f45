//! The command line of `banger-ws`; doc comments are the help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;
use lib_cli::Global;
use lib_model::ByteSize;

/// Repositories in VMs
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
A git repository goes into a VM; what was changed there comes out as a patch, a bundle or a branch.
The VM never sees the repository itself, and nothing that it says is executed by this host's git.

Examples:
  banger-ws prepare dev ~/src/app            files and the last commit, at ~/app in the VM
  banger-vm exec dev -- make test            runs there
  banger-ws diff dev                         look at what changed
  banger-ws apply dev --to try/fix           exactly what was looked at, as a branch
  banger-ws export dev -o fix.patch          or as a patch
  banger-vm run debian:12 ./app -- make test all at once, in a VM that goes when nothing changed

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
    /// Copy a repository into a VM; again, only what changed
    Prepare(PrepareArgs),
    /// Get what changed since: a patch, a bundle, a branch
    Export(ExportArgs),
    /// Show what changed since
    Diff(DiffArgs),
    /// Apply what `diff` or `export` showed last
    Apply(ApplyArgs),
    /// Say how workspaces are: what changed in the VM, whether the host has moved on
    #[command(visible_alias = "show")]
    Status(WorkspacesArgs),
    /// Show what changes in a VM's workspace, as it changes
    Watch(WatchArgs),
    /// Give running VMs the keys, git identity and files that they would get at their next start
    SyncKeys(SyncKeysArgs),
    /// List workspaces
    #[command(visible_alias = "ls")]
    List(ListArgs),
}

/// How much history goes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// The last commit
    Shallow,
    /// Everything that leads to it
    Full,
    /// Files only, no repository
    WorktreeOnly,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What goes: tracked files as they are in the working tree, and untracked ones that are not ignored.
With --from, the files of that commit instead. The VM gets no remotes, no configuration and no hooks.

Examples:
  banger-ws prepare dev                      the repository of the current directory
  banger-ws prepare dev ~/src/app --mode full --path /src
  banger-ws prepare dev --branch try/fix --from v1.2
  banger-vm create --name dev debian:12 | banger-ws prepare ~/src/app")]
pub(crate) struct PrepareArgs {
    /// The VM, and the repository or a directory in it; without a VM, records are read from standard input
    #[arg(value_names = ["VM", "REPOSITORY"], num_args = 0..=2, add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) words: Vec<String>,

    /// Where in the VM; relative to the user's home [default: the repository's name]
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,

    /// How much history goes along
    #[arg(long, value_enum, default_value_t = ModeArg::Shallow)]
    pub(crate) mode: ModeArg,

    /// Check out this branch in the VM; it is made there when it is another than the host's
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,

    /// Send the files of this commit, not those of the working tree
    #[arg(long, value_name = "COMMIT")]
    pub(crate) from: Option<String>,

    /// Send ignored files, too, that match (as a line of .gitignore); may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) include_ignored: Vec<String>,

    /// Nobody in the VM can change it, until the VM's next start
    #[arg(long)]
    pub(crate) readonly: bool,

    /// User of the VM who gets it, as in exec
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,

    /// Throw away what was changed in the VM and is in the way
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Selected {
    /// VM, VM:PATH or id [default: the workspace of the current directory's repository]
    #[arg(value_name = "WORKSPACE", add = ArgValueCompleter::new(lib_cli::workspaces))]
    pub(crate) workspace: Option<String>,

    /// Take no more than this from the VM
    #[arg(long, value_name = "SIZE", default_value = "4G")]
    pub(crate) max_size: ByteSize,
}

/// What comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// For git apply
    Patch,
    /// A git bundle, with the commits that were made in the VM
    Bundle,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --output and --apply-to, the patch goes to standard output; with --json, the list of changes
and their risks instead.

Examples:
  banger-ws export dev | git apply           into the working tree
  banger-ws export dev --apply-to try/fix    a branch, with the commits of the VM
  banger-ws export dev --json | jq -r 'select(.kind == \"change\" and .risks != []) | .path'")]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) selected: Selected,

    /// Write to this file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,

    /// What to write; not --format, which chooses records
    #[arg(long = "as", value_enum, value_name = "FORMAT", default_value_t = FormatArg::Patch)]
    pub(crate) form: FormatArg,

    /// Make or advance this branch of the repository that it came from; nothing is checked out
    #[arg(long, value_name = "BRANCH", conflicts_with_all = ["output", "form"])]
    pub(crate) apply_to: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
On a terminal the patch is shown in colour (unless NO_COLOR is set) by $PAGER, or less; characters
that would drive the terminal, or hide something, are shown as what they are. In a pipe it is what
`git apply` takes.

What deserves a look is said first: hook, ci, autorun and build run by themselves; executable;
symlink, symlink-out (leads out of the repository); attributes and submodules, by which git does
things; odd-name; filtered (as the VM has it: what this host's git does to such files, as for Git
LFS, is not done yet).

Examples:
  banger-ws diff dev
  banger-ws diff --stat dev                  the files, and what deserves a look of its own")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) selected: Selected,

    /// List the files, not their lines
    #[arg(long)]
    pub(crate) stat: bool,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["to", "worktree"]))]
#[command(after_help = "\
Applies what the last `diff` or `export` of the workspace got, whatever happened in the VM since.

Examples:
  banger-ws apply dev --to try/fix
  banger-ws apply dev --worktree --hash sha256:1f3a…")]
pub(crate) struct ApplyArgs {
    /// VM, VM:PATH or id [default: the workspace of the current directory's repository]
    #[arg(value_name = "WORKSPACE", add = ArgValueCompleter::new(lib_cli::workspaces))]
    pub(crate) workspace: Option<String>,

    /// Make or advance this branch; nothing is checked out
    #[arg(long, value_name = "BRANCH")]
    pub(crate) to: Option<String>,

    /// Change the files of the working tree, uncommitted
    #[arg(long)]
    pub(crate) worktree: bool,

    /// Only if this is the hash, or its beginning
    #[arg(long, value_name = "HASH")]
    pub(crate) hash: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WorkspacesArgs {
    /// VMs, VM:PATH or ids; records are read from standard input if none is given there
    #[arg(value_name = "WORKSPACE", add = ArgValueCompleter::new(lib_cli::workspaces))]
    pub(crate) workspaces: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A file is known by its kind, size, time and permissions: one that was only touched shows, too. What the
host's repository ignores is left out, and so is every .git.

Examples:
  banger-ws watch dev
  banger-ws watch --json dev | jq -r 'select(.change == \"added\") | .path'")]
pub(crate) struct WatchArgs {
    /// VM, VM:PATH or id [default: the workspace of the current directory's repository]
    #[arg(value_name = "WORKSPACE", add = ArgValueCompleter::new(lib_cli::workspaces))]
    pub(crate) workspace: Option<String>,

    /// Show ignored files, too
    #[arg(long)]
    pub(crate) ignored: bool,

    /// Watch no more files and directories than this
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The keys are the store's own and those of vm.authorized-keys; the files are those of vm.file-sync. A git
identity that the VM's user has chosen stays.")]
pub(crate) struct SyncKeysArgs {
    /// Names or ids; - or nothing reads records from standard input
    #[arg(value_name = "VM", add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vms: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those of this VM
    #[arg(value_name = "VM", add = ArgValueCompleter::new(lib_cli::vms))]
    pub(crate) vm: Option<String>,
}
