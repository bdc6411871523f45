//! The harness of the end-to-end tests: sandboxes, a real registry, images, guests.
//!
//! Executables come from `BANGER_TEST_BIN_DIR`, what is slow to make from `BANGER_TEST_FIXTURES`;
//! `cargo xtask test` makes both. Without the variables they are looked for in the target directory.

mod faulty;
mod fixtures;
mod http;
mod image;
mod layer;
mod leaks;
mod names;
mod netns;
mod nix_store;
mod points;
mod process;
mod programs;
mod registry;
mod sandbox;
mod slots;
mod storm;
mod tree;

pub use faulty::{Answer, FaultyRegistry};
pub use fixtures::{Fixtures, pack, skipped};
pub use image::Image;
pub use layer::{Compression, Entry, Layer, sha256};
pub use names::{NameServer, resolving};
pub use netns::{Netd, Netns};
pub use nix_store::Nix;
pub use points::{Hold, Point, clause, recorded};
pub use process::{Outcome, Running, eventually};
pub use programs::programs;
pub use registry::Registry;
pub use sandbox::Sandbox;
pub use storm::{Report, Storm};
pub use tree::{Tree, tree};
