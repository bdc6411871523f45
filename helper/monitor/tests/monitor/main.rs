//! The real `banger-monitor` against a simulated VMM (for faults) and against QEMU.
//!
//! The simulated VMM is this test binary itself: the monitor executes it with the filter
//! `fake_vmm` and the descriptors as further filters, which match no test.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "all of it is test code, but clippy sees only what is inside of test functions"
)]

mod fake;
mod footprint;
mod hostile;
mod lifecycle;
mod ports;
mod qemu;
mod rig;
mod streams;
mod tether;

#[test]
fn fake_vmm() {
    fake::run_if_asked();
}
