//! The guest's clock, when the host says what time it is: after a pause, a sleep of the host, a restore.

use std::time::Duration;

use banger_wire::agent::{CallError, CallErrorKind};
use nix::time::{ClockId, clock_gettime, clock_settime};

use crate::console;

/// The message was under way for a while; smaller differences are left to the guest's own time keeping.
const TOLERANCE: Duration = Duration::from_millis(500);

/// Steps CLOCK_REALTIME.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn set(unix_ns: u64) -> Result<(), CallError> {
    let host = Duration::from_nanos(unix_ns);
    let guest = clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from);
    let difference = guest.abs_diff(host);
    if difference <= TOLERANCE {
        return Ok(());
    }
    clock_settime(ClockId::CLOCK_REALTIME, host.into()).map_err(|errno| CallError {
        kind: CallErrorKind::Failed,
        message: format!("the guest could not set its clock: {errno}"),
    })?;
    console::say(&format!(
        "the clock was off by {} s; it follows the host again",
        difference.as_secs()
    ));
    Ok(())
}
