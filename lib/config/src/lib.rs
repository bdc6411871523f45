//! Settings: the system's file, the user's file, the environment; flags come last and are the
//! commands' own.
//!
//! One strict structure is what every file must fit: an unknown key is an error that names the
//! nearest known one, with file and line. Nothing is parsed when no file exists.

mod error;
mod keys;
mod layer;
mod load;
mod mirror;
mod settings;

pub use error::ConfigError;
pub use load::{Config, Environment, Origin, Setting};
pub use mirror::{Mirror, MirrorError};
pub use settings::{Acceleration, Defaults, Limits, Network, Registry, Settings, Vm};
