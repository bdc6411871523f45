//! Workspaces: a repository goes into a guest, a reviewed patch comes out.
//!
//! The guest is hostile from the first byte: its files are compared, limited and turned into git objects
//! of a scratch repository of ours, without its configuration, hooks, filters or attributes; what was
//! reviewed is what has the hash, and nothing else is applied. Who calls holds no lock: each verb takes
//! `ws[id]` of the VM for as long as files move, and `vm[id]` never together with it.

mod apply;
mod blobs;
mod collect;
mod commits;
mod error;
mod export;
mod fetch;
mod files;
mod filtered;
mod git;
mod guest_git;
mod identity;
mod ignored;
mod index;
mod manifest;
mod mise;
mod place;
mod prepare;
mod repository;
mod request;
mod review;
mod risk;
mod rules;
mod scan;
mod stale;
mod walk;

pub use apply::apply;
pub use error::{Result, WsError};
pub use export::{head, look, review, reviewed, status};
pub use files::{Files, FilesError};
pub use identity::{Identity, Told, introduce};
pub use ignored::Ignored;
pub use mise::{MiseError, Tools, is_wanted as wants_tools};
pub use prepare::prepare;
pub use request::{Env, Limits, Mode, Prepare, Target};
pub use review::Review;
pub use stale::{Look, check_source};
