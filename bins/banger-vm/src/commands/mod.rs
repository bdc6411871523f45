//! One file for each verb.

pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod operation;
pub(crate) mod ping;
pub(crate) mod ports;
pub(crate) mod prune;
pub(crate) mod publish;
pub(crate) mod reconcile;
pub(crate) mod run;
pub(crate) mod run_workspace;
pub(crate) mod set;
pub(crate) mod ssh;
pub(crate) mod ssh_config;
pub(crate) mod ssh_proxy;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod up;
pub(crate) mod volume;
pub(crate) mod wait;
