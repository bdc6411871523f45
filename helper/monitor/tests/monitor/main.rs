//! The real `banger-monitor` against a simulated VMM (for faults) and against QEMU.
//!
//! The simulated VMM is this test binary itself: the monitor executes it with the filter
//! `fake_vmm` and the descriptors as further filters, which match no test.

mod fake;
mod lifecycle;
mod rig;

#[test]
fn fake_vmm() {
    fake::run_if_asked();
}
