//! SSH from the host's side: keys, the distribution's client, and the user's configuration of it.
//!
//! Every VM has a host key that is made before its first boot and lies in its directory beside the
//! `known_hosts` that pins it, so both go with the VM. The store has one client key. Nothing here
//! reads or writes the user's own known hosts.

mod authorized;
mod client;
mod config;
mod error;
mod host_name;
mod keys;
mod quote;

pub use authorized::authorized_keys;
pub use client::{Client, Server, own_program, program};
pub use config::{Clash, UserConfig, clashes};
pub use error::SshError;
pub use host_name::{known_hosts_line, selector};
pub use keys::{ClientKey, HostKey, client_key, host_key};
pub use quote::remote_command;
