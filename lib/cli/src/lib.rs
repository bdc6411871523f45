//! Conventions of every command: stdout is data, stderr is for people, records travel in pipes.
//!
//! Only executables depend on this crate; it is the one place that prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod bash;
mod complete;
mod failure;
mod guest_rows;
mod net_rows;
mod output;
mod patch;
mod progress;
mod records;
mod review;
mod run;
mod select;
mod session;
mod table;
mod text;
mod tidy;
mod workspace_rows;

pub use args::{Choice, Format, Global};
pub use complete::{candidates, images, kernels, operations, vm_paths, vms, workspaces};
pub use failure::Failure;
pub use guest_rows::utc;
pub use output::Output;
pub use patch::show_patch;
pub use progress::Bars;
pub use records::{StdinRecords, stdin_is_data};
pub use review::{explain_review, listed};
pub use run::{registrations, run};
pub use select::{Kind, Selectors, for_each, selectors};
pub use session::Session;
pub use table::Table;
pub use text::{age, printable};
pub use tidy::Tidy;
