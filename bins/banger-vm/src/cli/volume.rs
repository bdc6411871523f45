//! `volume`.

use clap::{Args, Subcommand};
use lib_model::{ByteSize, VmName};

#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
    #[command(subcommand)]
    pub(crate) verb: VolumeVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Make a volume; one that is there stays as it is
    Create {
        /// Name of the volume
        name: VmName,

        /// Largest size; only what is written takes space [default: 10G]
        #[arg(long, value_name = "SIZE")]
        size: Option<ByteSize>,
    },
    /// List volumes and the VMs that have them
    #[command(visible_alias = "ls")]
    List,
    /// Remove volumes that no VM has
    #[command(visible_alias = "rm")]
    Delete {
        /// Names of volumes
        #[arg(required = true)]
        names: Vec<VmName>,
    },
}
