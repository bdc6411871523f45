//! The life of a VM: creation, boot, truth about its state, and its end.
//!
//! Intent is a row in the store. Whether a VM runs is asked of the kernel each time: its
//! `alive.lock` is held by the monitor and the VMM, and falls only when both are gone. Start,
//! stop and delete hold `vm[id]` for their whole length; `create` is held for the row only.

mod accel;
mod boot_report;
mod bridge;
mod change;
mod control;
mod create;
mod disk;
mod driver;
mod error;
mod guest_config;
mod holders;
mod init;
mod limits;
mod liveness;
mod names;
mod preflight;
mod program;
mod publish;
mod qcow2;
mod qemu;
mod reconcile;
mod scope;
mod share;
mod start;
mod statistics;
mod stop;
mod sweep;
mod virtiofsd;
mod volume;
mod worker;

pub use accel::{Accel, Acceleration};
pub use boot_report::console_tail;
pub use bridge::bridge_answers;
pub use change::{Change, Changed, keep, set};
pub use control::{Control, Interrupt};
pub use create::{CreateRequest, Created, Network, create};
pub use disk::DiskKind;
pub use driver::{DiskPlan, Driver, Format, LaunchPlan, SharePlan, driver};
pub use error::VmError;
pub use guest_config::authorized_keys;
pub use init::{InitChoice, Processes, is_init, processes};
pub use liveness::{Life, life, record, records, runtime};
pub use preflight::{preflight, preflight_create, preflight_kernel};
pub use publish::{Published, publish, unpublish};
pub use reconcile::{Repair, reconcile};
pub use share::{ShareRequest, VolumeRequest};
pub use start::{Started, start};
pub use statistics::{last_sample, statistics};
pub use stop::{delete, kill, kill_now, stop};
pub use sweep::sweep;
pub use volume::{DEFAULT_VOLUME, create_volume, delete_volume, volumes};
pub use worker::{WorkerSignal, signal_worker};
