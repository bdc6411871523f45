//! Names of VMs, served without rights.
//!
//! `banger-netd` writes who runs where into a file; this serves it: to the host as the zone `vm` and the
//! reverse zones of the network, to guests the same as far as they may know, and besides whatever the host's
//! own resolver says. Nothing here is done before `serve` is called.

mod answer;
mod client;
mod doctor;
mod error;
#[cfg(test)]
mod example;
mod forward;
mod listen;
mod respond;
mod serve;
mod sys;
mod table;
mod upstream;
mod watch;

use std::fmt;
use std::rc::Rc;

pub use client::{LookedUp, Lookup, look_up};
pub use doctor::doctor;
pub use error::DnsError;
pub use forward::relayed;
pub use listen::{Socket, bind, passed};
pub use respond::{MAX_REQUEST, Question, Reply, Role, Transport, respond};
pub use serve::{Options, serve};
pub use table::{MAX_FILE, MAX_RECORDS, Table, View, records};
pub use upstream::{ResolvConf, Upstream};

/// Where the server says what the administrator should know.
#[derive(Clone)]
pub struct Note(Rc<dyn Fn(&str)>);

impl Note {
    /// By this function, a line at a time.
    pub fn new(say: impl Fn(&str) + 'static) -> Self {
        Note(Rc::new(say))
    }

    pub(crate) fn say(&self, text: impl AsRef<str>) {
        (self.0)(text.as_ref());
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Note")
    }
}
