//! Workspaces with the real agent and real git, without a VM: what goes in, what comes out, and what a
//! hostile guest can do about it.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

#[path = "../serve/monitor.rs"]
mod monitor;

mod gits_own;
mod hostile;
mod prepare;
mod rig;
mod round_trips;
mod shapes;
