//! Places where a test makes a step fail, kills the process or holds it.
//!
//! Without the feature `armed` a point is nothing at all, and no released executable has it. With it,
//! `BANGER_FAILPOINTS` says what happens, as clauses separated by `;`:
//!
//! * `record=FILE`: appends a line `<microseconds since boot> <pid> <point>` at each point that is passed;
//! * `POINT#N=error`: the Nth time the point is reached (from 1), the step fails for want of space;
//! * `POINT#N=kill`: the process gets SIGKILL there;
//! * `POINT#N=hold:DIR`: the process opens the pipe `DIR/reached` for writing, then `DIR/go` for reading,
//!   and goes on: whoever has the other ends decides when.

#[cfg(feature = "armed")]
mod armed;

use std::io;

/// Name of the variable.
pub const VARIABLE: &str = "BANGER_FAILPOINTS";

/// A step that can fail is about to happen.
///
/// # Errors
/// When a test asks for it.
#[inline(always)]
pub fn point(name: &'static str) -> io::Result<()> {
    #[cfg(feature = "armed")]
    return armed::point(name);
    #[cfg(not(feature = "armed"))]
    {
        let _ = name;
        Ok(())
    }
}

/// Something has happened that cannot fail, such as the release of a lock; a process can be killed here.
#[inline(always)]
pub fn passed(name: &'static str) {
    // A place that cannot fail has nobody to tell.
    let _ = point(name);
}

/// Whether this build has the points.
pub const fn armed() -> bool {
    cfg!(feature = "armed")
}
