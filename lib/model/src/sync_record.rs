//! Records of what goes between a host and a running guest's workspace without being asked for each time.

use serde::{Deserialize, Serialize};

use crate::{VmId, VmName};

/// A file that changed in a guest just now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// When the host heard of it, milliseconds since 1970.
    pub time_ms: u64,
    /// `added`, `modified`, `mode`, `type`, `renamed`, `removed`; `more` stands for `count` files that are not
    /// shown one by one.
    pub change: String,
    /// In the workspace; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// What it was called before.
    #[serde(default)]
    pub from: Option<String>,
    /// Octal permissions before, where they differ.
    #[serde(default)]
    pub old_mode: Option<String>,
    /// Octal permissions now, where they differ.
    #[serde(default)]
    pub new_mode: Option<String>,
    /// Bytes before.
    pub old_size: u64,
    /// Bytes now.
    pub new_size: u64,
    /// How many files this stands for.
    pub count: u64,
}

/// What a guest was given of its owner's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRecord {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// How many keys may log in by SSH.
    pub keys: u64,
    /// What became of the git identity: `set`, `kept` (the guest has one), `no-git` or `unknown` (the host has
    /// none).
    pub identity: String,
    /// Files of `vm.file-sync` that were sent.
    pub files: u64,
}
