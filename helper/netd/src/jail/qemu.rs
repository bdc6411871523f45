//! QEMU's command line, made of numbers, switches and one word of the caller's: the guest's kernel command line, which
//! is an argument of its own.

use std::os::fd::AsRawFd;

use banger_proto::{Acceleration, Mac, Machine, VmId};
use serde_json::json;

use super::Inherited;
use super::inside::{INITRD, KERNEL};

pub(super) fn arguments(
    vm: &VmId,
    machine: &Machine,
    files: &Inherited,
    mac: Option<Mac>,
) -> Vec<String> {
    let mut line: Vec<String> = ["-nodefaults", "-no-user-config", "-no-reboot"]
        .map(Into::into)
        .into();
    let mut pair = |flag: &str, value: String| line.extend([flag.to_owned(), value]);
    pair("-display", "none".into());
    pair("-L", "/usr/share/qemu".into());
    pair(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into(),
    );
    pair("-name", format!("guest={vm}"));
    let (accel, cpu) = match machine.acceleration {
        Acceleration::Kvm => ("kvm", "host"),
        // With a thread for each processor, a boot on a busy host can end in a soft lockup.
        Acceleration::Emulation if machine.cpus > 1 => ("tcg,thread=single", "max"),
        Acceleration::Emulation => ("tcg", "max"),
    };
    pair("-accel", accel.into());
    pair("-cpu", cpu.into());
    // The hardware of 7.2, which every newer QEMU still has.
    pair(
        "-machine",
        "pc-q35-7.2,usb=off,vmport=off,smbus=off,sata=off,hpet=off,graphics=off".into(),
    );
    pair("-smp", machine.cpus.to_string());
    pair("-m", format!("{}M", machine.memory_mib));
    pair("-rtc", "base=utc".into());
    pair("-bios", "qboot.rom".into());
    pair("-kernel", KERNEL.into());
    pair("-initrd", INITRD.into());
    pair("-append", machine.kernel_arguments.as_str().to_owned());
    for (number, (disk, file)) in machine.disks.iter().zip(&files.disks).enumerate() {
        let read_only = disk.read_only;
        let (set, node) = (number + 1, format!("disk{number}"));
        pair("-add-fd", format!("fd={},set={set}", file.as_raw_fd()));
        let block = json!({
            "driver": "raw", "node-name": node, "read-only": read_only, "discard": "unmap",
            "file": {"driver": "file", "filename": format!("/dev/fdset/{set}"), "read-only": read_only,
                     "auto-read-only": false, "discard": "unmap"},
        });
        pair("-blockdev", block.to_string());
        let device = json!({"driver": "virtio-blk-pci", "drive": node, "serial": node});
        pair("-device", device.to_string());
    }
    if let (Some(tap), Some(mac)) = (&files.tap, mac) {
        let tap = tap.as_raw_fd().to_string();
        pair(
            "-netdev",
            json!({"type": "tap", "id": "net0", "fd": tap, "vhost": false}).to_string(),
        );
        pair(
            "-device",
            json!({"driver": "virtio-net-pci", "netdev": "net0", "mac": mac, "romfile": ""})
                .to_string(),
        );
    }
    for device in [
        json!({"driver": "virtio-balloon-pci", "free-page-reporting": true}),
        json!({"driver": "virtio-rng-pci"}),
        json!({"driver": "virtio-serial-pci", "id": "serial", "max_ports": 2}),
    ] {
        pair("-device", device.to_string());
    }
    for (id, socket) in [
        ("console", &files.console),
        ("qmp", &files.qmp),
        ("agent", &files.agent),
    ] {
        pair(
            "-chardev",
            format!("socket,id={id},fd={}", socket.as_raw_fd()),
        );
    }
    pair("-serial", "chardev:console".into());
    pair("-mon", "chardev=qmp,mode=control".into());
    let port = json!({"driver": "virtserialport", "bus": "serial.0", "nr": 1, "chardev": "agent",
                      "name": "org.banger.agent.1"});
    pair("-device", port.to_string());
    line
}
