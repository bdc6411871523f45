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
mod driver;
mod error;
mod guest_config;
mod holders;
mod liveness;
mod names;
mod program;
mod publish;
mod qemu;
mod reconcile;
mod scope;
mod start;
mod statistics;
mod stop;
mod sweep;
mod worker;

pub use accel::{Accel, Acceleration};
pub use boot_report::console_tail;
pub use bridge::bridge_answers;
pub use change::{Change, Changed, set};
pub use control::{Control, Interrupt};
pub use create::{CreateRequest, Created, Network, create};
pub use driver::{DiskPlan, Driver, LaunchPlan, driver};
pub use error::VmError;
pub use liveness::{Life, life, record, records, runtime};
pub use publish::{Published, publish, unpublish};
pub use reconcile::{Repair, reconcile};
pub use start::{Started, preflight, start};
pub use statistics::{last_sample, statistics};
pub use stop::{delete, kill, kill_now, stop};
pub use sweep::sweep;
pub use worker::{WorkerSignal, signal_worker};
