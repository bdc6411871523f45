//! Paths, locks, staging and the SQLite database: the only state there is.
//!
//! Durable intent is in the database; momentary reality (process ids, sockets) is not. Nothing
//! here runs slowly under a lock, and no transaction outlives a call.

mod context;
mod error;
mod file_lock;
mod image_rows;
mod kernel_rows;
mod locks;
mod look_up;
mod operation_rows;
mod runtime_dir;
mod schema;
mod staging;
mod vm_rows;
mod workspace_rows;

pub use banger_journal::{Line as JournalLine, Reader as JournalReader};
pub use context::Context;
pub use error::{StoreError, io_error};
pub use file_lock::FileLock;
pub use image_rows::NewImage;
pub use kernel_rows::NewKernel;
pub use locks::{CreateGuard, Holder, ImagesGuard, Locks, VmGuard, WorkspaceGuard};
pub use operation_rows::{OperationRow, Outcome, wait_operation};
pub use runtime_dir::private_dir;
pub use schema::Store;
pub use staging::{Complete, Staged, Trash, abandon_staging};
pub use vm_rows::{NewVm, ShareUse, VmRow, VmSpec, VolumeUse};
pub use workspace_rows::{WorkspaceRow, WorkspaceSpec};

/// Milliseconds since 1970, for records.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
