//! The host's client of a guest agent: exec, info and shutdown over the VM's agent socket.
//!
//! Blocking, without threads and without a runtime: one `poll(2)` loop per call. The guest is
//! hostile: what it sends is bounded and checked, and nothing it says can make the caller panic.

mod archive;
mod copy;
mod error;
mod exec;
mod guest;
mod signals;
mod sink;
mod terminal;
mod watch;
mod wire;
mod workspace;

pub use banger_tree::{Summary, TreeError};
pub use banger_wire::agent::{
    CallError, CallErrorKind, Event, Exec, Exit, Info, Socket, Sockets, Started, Stats,
    TerminalSize, User,
};
pub use banger_wire::watch::{Change, Changes, Watch, What};
pub use wire::Wire;
pub use workspace::Directory;

pub use copy::{CopyIn, CopyOptions, CopyOut};
pub use error::{Error, Result};
pub use exec::{Io, Outcome};
pub use guest::Guest;
pub use signals::{Command, Control, Signals};
pub use sink::Sink;
pub use terminal::{RawTerminal, terminal_size};
