//! What the fuzz targets do. `tests/fuzz.rs` of lib-fs does the same with a bounded number of
//! generated inputs.
//!
//! `cargo +nightly fuzz run layer` from the directory above; with a stable toolchain, set
//! `RUSTC_BOOTSTRAP=1`.

#[path = "../../tests/common/tar.rs"]
mod tar;
mod targets;

pub use targets::{layer, writer};
