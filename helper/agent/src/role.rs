//! What this process is in its guest; it decides what it may end.

use std::sync::OnceLock;

/// The agent's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Process 1: every other process is ours.
    Init,
    /// Beside the image's own init, whose child it is.
    Beside,
    /// Started by a test: only what it started itself is its own.
    Test,
}

static ROLE: OnceLock<Role> = OnceLock::new();

/// Says that the image's init is process 1; before anybody asks.
pub(crate) fn set_beside() {
    let _ = ROLE.set(Role::Beside);
}

/// The role of this process.
pub(crate) fn role() -> Role {
    *ROLE.get_or_init(|| match nix::unistd::getpid().as_raw() {
        1 => Role::Init,
        _ => Role::Test,
    })
}
