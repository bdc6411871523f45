//! File trees over a byte stream, between two sides that do not trust each other.
//!
//! Who sends walks its tree and never follows a link. Who receives is told single names, never
//! paths: it holds a descriptor of each directory on the way and makes each entry in the innermost
//! one, so whatever the peer says, nothing outside the target is written. Contents go to a
//! temporary name and are renamed when they are whole. Memory is bounded by one frame, one
//! descriptor a level, and a path for each file with several names (on the sending side).
//!
//! Blocking; the caller's reader and writer decide about deadlines.

mod direct;
mod entry;
mod error;
mod listing;
mod place;
mod receive;
mod send;
pub mod session;
mod stream;

pub use entry::{Entry, Kind, Name};
pub use error::{Result, TreeError};
pub use listing::{Listed, Piece};
pub use receive::{Receive, Summary, receive, receive_into};
pub use send::{Send, send, send_chosen};
pub use stream::{Chunk, Limits, MAX_DEPTH, Reader, Step, Writer};
