//! A VM that lives only as long as the command that made it.

use banger_wire::monitor::{ControlReply, ControlRequest, ExitReason};

use crate::rig::Rig;

#[test]
fn the_vm_ends_with_the_connection_it_is_tethered_to() {
    let mut rig = Rig::ready("ready");
    let mut tether = rig.open_control();
    tether.send(&ControlRequest::Tether);
    assert!(matches!(tether.reply(), ControlReply::Status { .. }));
    let other = rig.open_control();
    drop(other);
    assert!(matches!(
        rig.control(&ControlRequest::Status),
        ControlReply::Status { .. }
    ));
    drop(tether);
    assert!(rig.wait().success());
    assert_eq!(rig.exit_record().reason, ExitReason::Killed);
    rig.assert_cleared();
}

#[test]
fn a_tether_can_be_undone() {
    let mut rig = Rig::ready("ready");
    let mut tether = rig.open_control();
    tether.send(&ControlRequest::Tether);
    tether.reply();
    tether.send(&ControlRequest::Untether);
    assert_eq!(tether.reply(), ControlReply::Done);
    drop(tether);
    assert!(matches!(
        rig.control(&ControlRequest::Stop { grace_ms: 8000 }),
        ControlReply::Exited(record) if record.reason == ExitReason::Stopped
    ));
    assert!(rig.wait().success());
}

#[test]
fn a_tethered_vm_can_be_ended_in_the_usual_ways() {
    let mut rig = Rig::ready("ready");
    let mut tether = rig.open_control();
    tether.send(&ControlRequest::Tether);
    tether.reply();
    tether.send(&ControlRequest::Stop { grace_ms: 8000 });
    assert!(
        matches!(tether.reply(), ControlReply::Exited(record) if record.reason == ExitReason::Stopped)
    );
    assert!(rig.wait().success());
}
