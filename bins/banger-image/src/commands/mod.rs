//! One file for each verb.

pub(crate) mod cache;
pub(crate) mod delete;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod import_nix;
pub(crate) mod kernel;
pub(crate) mod list;
pub(crate) mod pull;
pub(crate) mod show;
pub(crate) mod tag;
pub(crate) mod verify;
