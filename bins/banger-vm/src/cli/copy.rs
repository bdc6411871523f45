//! `cp`.

use std::ffi::OsString;

use clap::Args;
use clap::builder::ValueHint;
use clap_complete::engine::ArgValueCompleter;
use lib_model::ByteSize;

#[derive(Debug, Args)]
#[command(
    override_usage = "banger-vm cp [OPTIONS] <SRC>... <DST>",
    after_help = "\
A directory goes into a directory that is there, and else becomes the target; DIR/. is its content.
- is a tar archive on standard input or output. Paths in the VM begin at /.

Examples:
  banger-vm cp src dev:/root
  banger-vm cp dev:/var/log/. logs
  banger-vm cp dev:/etc - | tar t"
)]
pub(crate) struct CopyArgs {
    /// Sources, then the target; one side is VM:PATH
    #[arg(value_name = "PATH", required = true, num_args = 2.., value_hint = ValueHint::AnyPath,
          add = ArgValueCompleter::new(lib_cli::vm_paths))]
    pub(crate) paths: Vec<OsString>,

    /// Keep owners, set-user-id bits and all attributes, as far as permitted
    #[arg(long, short)]
    pub(crate) archive: bool,

    /// Follow a source that is a symbolic link
    #[arg(long, short = 'L')]
    pub(crate) follow_link: bool,

    /// Whose rights count in the VM, by name or number, with an optional group
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,

    /// Refuse more content from the VM than this [default: what its disk, image and memory can hold]
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_size: Option<ByteSize>,
}
