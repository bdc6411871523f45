//! One file for each verb.

pub mod create;
pub mod delete;
pub mod exec;
pub mod list;
pub mod logs;
pub mod run;
pub mod start;
pub mod stop;
pub mod wait;
