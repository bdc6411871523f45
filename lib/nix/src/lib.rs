//! What the host's Nix builds, as images.
//!
//! Nix is run, not linked: by its absolute path, with arguments as they are and a cleared environment, and only
//! its standard output is read. What it built is told by its content. A closure is written into a file system
//! while its hashes are checked, together with the database by which Nix in the guest knows it.

mod bootspec;
mod closure;
mod command;
mod database;
mod error;
mod installable;
mod layers;
mod nar;
mod output;
mod program;
mod registration;
mod run;
mod store_path;

pub use bootspec::System;
pub use closure::Content;
pub use command::Nix;
pub use error::Error;
pub use installable::Installable;
pub use layers::Layers;
pub use nar::{Nar, base64};
pub use output::{Disk, Output, classify};
pub use program::{Program, main_program};
pub use registration::PathInfo;
pub use run::Script;
pub use store_path::{STORE, StorePath};
