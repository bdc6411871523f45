//! The real QEMU, in emulation: what lib/vm will pass, as far as a supervisor sees it.

use std::fs;
use std::path::Path;

use banger_wire::monitor::{ControlReply, ControlRequest, ExitReason, Phase, file};

use crate::rig::{Rig, wait_unlocked};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// Without a disk: SeaBIOS looks for one and stays.
fn qemu(more: &[&str]) -> Rig {
    let mut arguments = vec![
        "-machine",
        "q35,accel=tcg",
        "-m",
        "64",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-chardev",
        "socket,id=qmp,fd={qmp}",
        "-mon",
        "chardev=qmp,mode=control",
        "-chardev",
        "socket,id=agent,fd={agent}",
        "-device",
        "virtio-serial-pci",
        "-device",
        "virtserialport,chardev=agent,name=org.banger.agent.1",
        "-chardev",
        "socket,id=console,fd={console}",
        "-serial",
        "chardev:console",
    ];
    arguments.extend(more);
    Rig::new(Path::new(QEMU), &arguments).start()
}

/// The power button, which a paused guest does not see, then `quit`: so QMP was negotiated.
#[test]
fn stop_reaches_qemu_through_qmp() {
    for more in [&[][..], &["-S"]] {
        let mut rig = qemu(more);
        let record = rig.exited(&ControlRequest::Stop { grace_ms: 1500 });
        assert_eq!(record.reason, ExitReason::Killed);
        // By quit, not by a signal.
        assert_eq!(
            (record.code, record.signal),
            (Some(0), None),
            "{}",
            rig.text(file::VMM_LOG)
        );
        rig.wait();
        rig.assert_cleared();
    }
}

#[test]
fn kill_ends_qemu() {
    let mut rig = qemu(&[]);
    let ControlReply::Status { phase, streams } = rig.control(&ControlRequest::Status) else {
        panic!();
    };
    assert_eq!((phase, streams), (Phase::Booting, 0));
    let record = rig.exited(&ControlRequest::Kill);
    assert_eq!(
        (record.reason, record.signal),
        (ExitReason::Killed, Some(9))
    );
    rig.wait();
    rig.assert_cleared();
}

#[test]
fn qemu_dies_with_its_monitor() {
    let mut rig = qemu(&[]);
    let mut monitor = rig.monitor.take().unwrap();
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    wait_unlocked(&rig.path(file::ALIVE_LOCK));
}

#[test]
fn wrong_arguments_are_in_the_log() {
    let mut rig = qemu(&["-frobnicate"]);
    rig.wait();
    let record = rig.exit_record();
    assert_eq!(
        (record.reason, record.code),
        (ExitReason::VmmFailed, Some(1))
    );
    assert!(
        rig.text(file::VMM_LOG)
            .contains("-frobnicate: invalid option")
    );
}

/// Boot sectors that say something on the serial port and end the machine.
#[test]
fn a_guest_that_ends_by_itself() {
    // mov dx, 0x3f8; mov al, 'B'; out dx, al
    let hello = [0xba, 0xf8, 0x03, 0xb0, b'B', 0xee];
    // mov dx, 0x604; mov ax, 0x2000; out dx, ax: ACPI soft-off on q35.
    let power_off: &[u8] = &[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4];
    // mov al, 0xfe; out 0x64, al: reset through the keyboard controller.
    let reset: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xf4];
    // mov dx, 0x505; mov al, 1; out dx, al: pvpanic.
    let panic: &[u8] = &[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xf4];
    for (code, reason) in [
        (power_off, ExitReason::GuestPowerOff),
        (reset, ExitReason::GuestReboot),
        (panic, ExitReason::GuestPanic),
    ] {
        let mut sector = hello.to_vec();
        sector.extend_from_slice(code);
        sector.resize(510, 0);
        sector.extend_from_slice(&[0x55, 0xaa]);
        // SeaBIOS cannot read a disk of one sector.
        sector.resize(1 << 20, 0);
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("boot");
        fs::write(&image, sector).unwrap();
        let drive = format!("file={},format=raw,if=ide,snapshot=on", image.display());
        let mut rig = qemu(&["-device", "pvpanic", "-drive", &drive]);
        rig.wait();
        let log = rig.text(file::VMM_LOG);
        assert_eq!(rig.exit_record().reason, reason, "{log}");
        assert_eq!(rig.text(file::CONSOLE_LOG), "B");
    }
}
