//! QEMU: `q35` in emulation, `microvm` with KVM.
//!
//! In emulation microvm has no timer that the kernel can calibrate the TSC against, and hangs when the
//! host is busy. The machine has no device but those that are named here.

use std::path::{Path, PathBuf};

use banger_wire::SERIAL_PORT_NAME;
use banger_wire::config::ShareKind;
use banger_wire::monitor::placeholder;
use serde_json::json;

use crate::{Acceleration, Driver, Format, LaunchPlan, SharePlan, VmError, program};

/// The hardware of 7.2, which every newer QEMU can still be.
const Q35: &str = "pc-q35-7.2";
/// It has no versions.
const MICROVM: &str = "microvm";

/// All that QEMU can emulate, but for two things that cost more than they give. With ERMS the guest's kernel and C library copy
/// by `rep movsb`, which QEMU emulates byte by byte; with LA57 page walks have a level more.
const EMULATED_CPU: &str = "max,erms=off,la57=off";

/// The driver for `qemu-system-x86_64`, 7.2 or newer.
pub(crate) struct Qemu;

impl Driver for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn machine(&self, acceleration: Acceleration) -> &'static str {
        match acceleration {
            Acceleration::Kvm => MICROVM,
            Acceleration::Tcg => Q35,
        }
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
            Acceleration::Tcg if plan.cpus > 1 => ("tcg,thread=single", EMULATED_CPU),
            Acceleration::Tcg => ("tcg", EMULATED_CPU),
        };
        arguments.pair("-accel", accel);
        let mut machine = match plan.machine {
            MICROVM => format!(
                "{MICROVM},acpi=on,pcie=on,rtc=on,pit=off,pic=off,isa-serial=on,\
                 auto-kernel-cmdline=off,x-option-roms=off"
            ),
            version => {
                format!("{version},usb=off,vmport=off,smbus=off,sata=off,hpet=off,graphics=off")
            }
        };
        let virtiofs = |share: &SharePlan| share.kind == ShareKind::Virtiofs;
        if plan.shares.iter().any(virtiofs) {
            // The server reads and writes the guest's memory itself (vhost-user).
            arguments.json(
                "-object",
                json!({"qom-type": "memory-backend-memfd", "id": "memory", "size": plan.memory.0,
                       "share": true}),
            );
            machine.push_str(",memory-backend=memory");
        }
        arguments.pair("-machine", machine);
        arguments.pair("-cpu", cpu);
        arguments.pair("-smp", plan.cpus.to_string());
        arguments.pair("-m", format!("{}B", plan.memory.0));
        arguments.pair("-rtc", "base=utc");
        kernel(&mut arguments, plan)?;
        for disk in &plan.disks {
            let node = &disk.serial;
            let mut block = block_file(&disk.path, disk.read_only)?;
            block["node-name"] = json!(node);
            if let Format::Qcow2 { backing } = &disk.format {
                block["driver"] = json!("qcow2");
                // Whatever the header says: the place of the image is what we know now.
                block["backing"] = block_file(backing, true)?;
            }
            arguments.json("-blockdev", block);
            arguments.json(
                "-device",
                json!({"driver": "virtio-blk-pci", "drive": node, "serial": disk.serial, "id": disk.serial}),
            );
        }
        let mut served = 0;
        for share in &plan.shares {
            match share.kind {
                ShareKind::Plan9 => shared(&mut arguments, share)?,
                ShareKind::Virtiofs => {
                    served_elsewhere(&mut arguments, share, served);
                    served += 1;
                }
            }
        }
        // Memory that the guest frees goes back to the host.
        arguments.json(
            "-device",
            json!({"driver": "virtio-balloon-pci", "id": "balloon", "free-page-reporting": true}),
        );
        arguments.json("-device", json!({"driver": "virtio-rng-pci", "id": "rng"}));
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

/// A raw file as a block device.
fn block_file(path: &Path, read_only: bool) -> Result<serde_json::Value, VmError> {
    Ok(json!({
        "driver": "raw", "read-only": read_only, "discard": "unmap", "detect-zeroes": "off",
        "file": {"driver": "file", "filename": text(path)?, "read-only": read_only,
                 "auto-read-only": false, "discard": "unmap"},
    }))
}

/// QEMU's 9P server resolves names beneath the directory without following links (its 9p-local.c), so links
/// that a guest makes are its own business. Files belong to whoever runs QEMU.
fn shared(arguments: &mut Arguments, share: &SharePlan) -> Result<(), VmError> {
    // A comma ends a value; two of them are one.
    let path = text(&share.source)?.replace(',', ",,");
    let tag = &share.tag;
    let read_only = if share.read_only { "on" } else { "off" };
    arguments.pair(
        "-fsdev",
        format!(
            "local,id={tag},path={path},security_model=none,readonly={read_only},multidevs=remap"
        ),
    );
    arguments.json(
        "-device",
        json!({"driver": "virtio-9p-pci", "fsdev": tag, "mount_tag": tag, "id": format!("{tag}-device")}),
    );
    Ok(())
}

/// The `index`th of those that processes of their own serve.
fn served_elsewhere(arguments: &mut Arguments, share: &SharePlan, index: usize) {
    let tag = &share.tag;
    arguments.pair(
        "-chardev",
        format!("socket,id={tag}-server,fd={}", placeholder::share(index)),
    );
    arguments.json(
        "-device",
        json!({"driver": "vhost-user-fs-pci", "chardev": format!("{tag}-server"), "tag": tag,
               "id": format!("{tag}-device")}),
    );
}

/// The ELF kernel through PVH and qboot starts a second faster than a bzImage through SeaBIOS.
fn kernel(arguments: &mut Arguments, plan: &LaunchPlan<'_>) -> Result<(), VmError> {
    arguments.pair("-bios", "qboot.rom");
    arguments.pair("-kernel", text(plan.vmlinux)?);
    arguments.pair("-initrd", text(plan.initrd)?);
    // Of two that say the same, the kernel takes the later one.
    let mut options = plan.kernel_parameters.join(" ");
    if !options.is_empty() {
        options.push(' ');
    }
    options.push_str(
        "console=ttyS0 quiet panic=-1 reboot=t i8042.noaux i8042.nokbd i8042.dumbkbd \
                       i8042.nopnp cryptomgr.notests random.trust_cpu=on net.ifnames=0 rdinit=/init",
    );
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
    let reserved = [
        placeholder::AGENT,
        placeholder::QMP,
        placeholder::CONSOLE,
        placeholder::SHARE,
    ];
    if reserved.iter().any(|p| text.contains(p)) {
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
            machine: Q35,
            cpus: 2,
            memory: ByteSize(512 << 20),
            vmlinux: Path::new("/k/vmlinux"),
            kernel_parameters: &[],
            initrd: Path::new("/i"),
            disks: vec![DiskPlan {
                path: disk.into(),
                serial: "root".into(),
                read_only: true,
                format: Format::Raw,
            }],
            shares: Vec::new(),
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
    fn what_an_image_tells_the_kernel_comes_before_what_the_boot_needs() {
        let parameters = ["loglevel=4".to_owned(), "console=tty0".to_owned()];
        let plan = LaunchPlan {
            kernel_parameters: &parameters,
            ..plan("/d")
        };
        let arguments = Qemu.arguments(&plan).unwrap();
        let at = arguments.iter().position(|a| a == "-append").unwrap();
        let line = &arguments[at + 1];
        assert!(
            line.starts_with("loglevel=4 console=tty0 console=ttyS0 "),
            "{line}"
        );
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
    fn a_shared_path_cannot_add_options() {
        let mut plan = plan("/d");
        plan.shares.push(SharePlan {
            source: "/a,readonly=off,b".into(),
            path: "/src".into(),
            tag: "t".into(),
            read_only: true,
            kind: ShareKind::Plan9,
        });
        let arguments = Qemu.arguments(&plan).unwrap();
        let at = arguments.iter().position(|a| a == "-fsdev").unwrap();
        assert_eq!(
            arguments[at + 1],
            "local,id=t,path=/a,,readonly=off,,b,security_model=none,readonly=on,multidevs=remap"
        );
    }

    #[test]
    fn a_share_that_others_serve_has_a_socket_and_shared_memory() {
        let mut plan = plan("/d");
        for (tag, kind) in [
            ("a", ShareKind::Plan9),
            ("b", ShareKind::Virtiofs),
            ("c", ShareKind::Virtiofs),
        ] {
            plan.shares.push(SharePlan {
                source: "/never,said".into(),
                path: "/src".into(),
                tag: tag.into(),
                read_only: true,
                kind,
            });
        }
        let arguments = Qemu.arguments(&plan).unwrap().join(" ");
        for wanted in [
            "socket,id=b-server,fd={share-0}",
            "socket,id=c-server,fd={share-1}",
            "hpet=off,graphics=off,memory-backend=memory",
            "\"share\":true",
        ] {
            assert!(arguments.contains(wanted), "{arguments}");
        }
        assert_eq!(arguments.matches("never,,said").count(), 1, "{arguments}");
    }

    #[test]
    fn a_qcow2_disk_reads_the_image_that_is_known_now() {
        let mut plan = plan("/d");
        plan.disks[0].read_only = false;
        plan.disks[0].format = Format::Qcow2 {
            backing: "/image".into(),
        };
        let arguments = Qemu.arguments(&plan).unwrap();
        let at = arguments.iter().position(|a| a == "-blockdev").unwrap();
        let value: serde_json::Value = serde_json::from_str(&arguments[at + 1]).unwrap();
        assert_eq!(
            (&value["driver"], &value["read-only"]),
            (&json!("qcow2"), &json!(false))
        );
        assert_eq!(value["backing"]["file"]["filename"], "/image");
        assert_eq!(value["backing"]["read-only"], true);
    }

    #[test]
    fn the_machine_is_the_recorded_one_and_microvm_only_with_kvm() {
        let machine = |machine, acceleration| {
            let mut plan = plan("/d");
            plan.machine = machine;
            plan.acceleration = acceleration;
            let arguments = Qemu.arguments(&plan).unwrap();
            let after = |flag: &str| {
                arguments[arguments.iter().position(|a| a == flag).unwrap() + 1].clone()
            };
            (after("-machine"), after("-accel"), after("-cpu"))
        };
        let (q35, accel, cpu) = machine(Q35, Acceleration::Tcg);
        assert!(q35.starts_with("pc-q35-7.2,usb=off"), "{q35}");
        assert_eq!((&*accel, &*cpu), ("tcg,thread=single", EMULATED_CPU));
        let (microvm, accel, cpu) = machine(Qemu.machine(Acceleration::Kvm), Acceleration::Kvm);
        assert!(microvm.starts_with("microvm,acpi=on,pcie=on"), "{microvm}");
        assert_eq!((&*accel, &*cpu), ("kvm", "host"));
        assert_eq!(Qemu.machine(Acceleration::Tcg), Q35);
    }

    #[test]
    fn the_sandbox_denies_all_that_it_can_and_nothing_is_there_by_default() {
        let arguments = Qemu.arguments(&plan("/d")).unwrap().join(" ");
        for wanted in [
            "-nodefaults",
            "-no-user-config",
            "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        ] {
            assert!(arguments.contains(wanted), "{arguments}");
        }
    }

    #[test]
    fn without_a_network_there_is_no_device() {
        let arguments = Qemu.arguments(&plan("/d")).unwrap();
        assert!(
            !arguments
                .iter()
                .any(|a| a.contains("netdev") || a.contains("virtio-net")),
            "{arguments:?}"
        );
    }
}
