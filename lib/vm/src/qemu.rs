//! QEMU: `q35` in emulation, `microvm` not at all yet.
//!
//! In emulation the machine is always q35: microvm has no timer that the kernel can calibrate the
//! TSC against, and hangs when the host is busy.

use std::path::{Path, PathBuf};

use banger_wire::SERIAL_PORT_NAME;
use banger_wire::monitor::placeholder;
use serde_json::json;

use crate::{Acceleration, Driver, LaunchPlan, VmError, program};

/// The driver for `qemu-system-x86_64`, 7.2 or newer.
pub(crate) struct Qemu;

impl Driver for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn program(&self) -> Result<PathBuf, VmError> {
        program::find("qemu-system-x86_64")
    }

    fn arguments(&self, plan: &LaunchPlan<'_>) -> Result<Vec<String>, VmError> {
        let mut arguments = Arguments::default();
        arguments
            .flag("-nodefaults")
            .flag("-no-user-config")
            .flag("-no-reboot");
        arguments.pair("-display", "none");
        arguments.pair(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        arguments.pair(
            "-name",
            format!("guest={},process=banger-{}", plan.name, plan.name),
        );
        let (accel, cpu) = match plan.acceleration {
            Acceleration::Kvm => ("kvm", "host"),
            // With a thread for each processor, a boot on a busy host can end in a soft lockup.
            Acceleration::Tcg if plan.cpus > 1 => ("tcg,thread=single", "max"),
            Acceleration::Tcg => ("tcg", "max"),
        };
        arguments.pair("-accel", accel);
        arguments.pair(
            "-machine",
            "q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off,graphics=off",
        );
        arguments.pair("-cpu", cpu);
        arguments.pair("-smp", plan.cpus.to_string());
        arguments.pair("-m", format!("{}B", plan.memory.0));
        arguments.pair("-rtc", "base=utc");
        kernel(&mut arguments, plan)?;
        for (index, disk) in plan.disks.iter().enumerate() {
            let node = format!("disk{index}");
            arguments.json(
                "-blockdev",
                json!({
                    "driver": "raw", "node-name": node, "read-only": disk.read_only,
                    "discard": "unmap", "detect-zeroes": "off",
                    "file": {"driver": "file", "filename": text(&disk.path)?, "read-only": disk.read_only,
                             "auto-read-only": false, "discard": "unmap"},
                }),
            );
            arguments.json(
                "-device",
                json!({"driver": "virtio-blk-pci", "drive": node, "serial": disk.serial, "id": disk.serial}),
            );
        }
        if let Some(mac) = plan.mac {
            arguments.json(
                "-netdev",
                match plan.tap {
                    Some(tap) => {
                        json!({"type": "tap", "id": "net0", "fd": tap.to_string(), "vhost": false})
                    }
                    None => json!({"type": "user", "id": "net0", "ipv6": false}),
                },
            );
            arguments.json(
                "-device",
                json!({"driver": "virtio-net-pci", "netdev": "net0", "mac": mac, "romfile": ""}),
            );
        }
        channels(&mut arguments);
        Ok(arguments.0)
    }
}

/// The ELF kernel through PVH and qboot starts a second faster than a bzImage through SeaBIOS.
fn kernel(arguments: &mut Arguments, plan: &LaunchPlan<'_>) -> Result<(), VmError> {
    arguments.pair("-bios", "qboot.rom");
    arguments.pair("-kernel", text(plan.vmlinux)?);
    arguments.pair("-initrd", text(plan.initrd)?);
    let mut options =
        "console=ttyS0 quiet panic=-1 reboot=t i8042.noaux i8042.nokbd i8042.dumbkbd \
                       i8042.nopnp cryptomgr.notests random.trust_cpu=on rdinit=/init"
            .to_owned();
    if plan.acceleration == Acceleration::Tcg {
        // Emulation has no speculation to mitigate, and its TSC needs no calibration.
        options.push_str(" mitigations=off tsc=reliable no_timer_check");
    }
    arguments.pair("-append", options);
    Ok(())
}

fn channels(arguments: &mut Arguments) {
    arguments.pair(
        "-chardev",
        format!("socket,id=console,fd={}", placeholder::CONSOLE),
    );
    arguments.pair("-serial", "chardev:console");
    arguments.pair("-chardev", format!("socket,id=qmp,fd={}", placeholder::QMP));
    arguments.pair("-mon", "chardev=qmp,mode=control");
    arguments.json(
        "-device",
        json!({"driver": "virtio-serial-pci", "id": "serial", "max_ports": 2}),
    );
    arguments.pair(
        "-chardev",
        format!("socket,id=agent,fd={}", placeholder::AGENT),
    );
    arguments.json(
        "-device",
        json!({"driver": "virtserialport", "bus": "serial.0", "nr": 1, "chardev": "agent",
               "name": SERIAL_PORT_NAME}),
    );
}

/// QEMU's options and our JSON are text, so paths must be UTF-8; the monitor replaces placeholders
/// wherever they stand, so paths must not look like one.
fn text(path: &Path) -> Result<String, VmError> {
    let refused = |why: &str| VmError::Io {
        action: "pass on the path",
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, why.to_owned()),
    };
    let text = path.to_str().ok_or_else(|| refused("it is not UTF-8"))?;
    if [placeholder::AGENT, placeholder::QMP, placeholder::CONSOLE]
        .iter()
        .any(|p| text.contains(p))
    {
        return Err(refused("it contains a word in braces that is reserved"));
    }
    Ok(text.to_owned())
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    fn pair(&mut self, flag: &str, value: impl Into<String>) {
        self.0.extend([flag.to_owned(), value.into()]);
    }

    /// JSON instead of `key=value,…`: no character of a path can end a value.
    fn json(&mut self, flag: &str, value: serde_json::Value) {
        self.pair(flag, value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DiskPlan;
    use lib_model::ByteSize;

    fn plan<'a>(disk: &str) -> LaunchPlan<'a> {
        LaunchPlan {
            name: "dev",
            acceleration: Acceleration::Tcg,
            cpus: 2,
            memory: ByteSize(512 << 20),
            vmlinux: Path::new("/k/vmlinux"),
            initrd: Path::new("/i"),
            disks: vec![DiskPlan {
                path: disk.into(),
                serial: "root",
                read_only: true,
            }],
            mac: None,
            tap: None,
        }
    }

    #[test]
    fn a_path_cannot_add_options() {
        let arguments = Qemu.arguments(&plan("/s/a,readonly=off,b=\"x\"")).unwrap();
        let at = arguments.iter().position(|a| a == "-blockdev").unwrap();
        let value: serde_json::Value = serde_json::from_str(&arguments[at + 1]).unwrap();
        assert_eq!(value["file"]["filename"], "/s/a,readonly=off,b=\"x\"");
        assert_eq!(value["read-only"], true);
        assert!(Qemu.arguments(&plan("/s/{agent}/disk")).is_err());
    }

    #[test]
    fn a_tap_is_passed_by_number() {
        let plan = LaunchPlan {
            mac: Some("52:54:0a:53:00:02"),
            tap: Some(17),
            ..plan("/d")
        };
        let arguments = Qemu.arguments(&plan).unwrap();
        let at = arguments.iter().position(|a| a == "-netdev").unwrap();
        let value: serde_json::Value = serde_json::from_str(&arguments[at + 1]).unwrap();
        assert_eq!(
            (&value["type"], &value["fd"]),
            (&json!("tap"), &json!("17"))
        );
    }

    #[test]
    fn without_a_network_there_is_no_device() {
        let arguments = Qemu.arguments(&plan("/d")).unwrap();
        assert!(
            !arguments.iter().any(|a| a.contains("net")),
            "{arguments:?}"
        );
    }
}
