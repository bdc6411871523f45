//! Start: preflight, initramfs, monitor, readiness. The caller holds `vm[id]` throughout.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use banger_failpoint::point;
use banger_wire::monitor::{
    ControlReply, ControlRequest, ExitRecord, Launch, LaunchReply, Seed, file,
};
use lib_model::{ImageRecord, KernelRecord};
use lib_store::{Context, Store, VmGuard, VmRow};

use crate::boot_report::{boot_error, timeout_error};
use crate::create::WORK_DISK;
use crate::error::io_error;
use crate::guest_config::{guest_config, mac, serial, ssh};
use crate::limits::{Keeper, Limits};
use crate::liveness::monitor;
use crate::preflight::Meminfo;
use crate::{
    Accel, Acceleration, Control, DiskKind, DiskPlan, Driver, Format, Interrupt, LaunchPlan, Life,
    VmError, bridge, disk, driver, life, preflight, publish, scope, share, stop, volume,
};

const CONSOLE_LIMIT: u64 = 4 << 20;
/// Between two samples of what a VM uses.
const STATISTICS: Duration = Duration::from_secs(60);

/// What a start came to.
pub struct Started {
    /// It was not running before.
    pub changed: bool,
    /// From the VMM's start to a guest that serves commands.
    pub boot: Duration,
    /// Of an ephemeral VM: it is killed when this is dropped, or its holder dies.
    pub tether: Option<Control>,
}

/// Boots a VM and waits until the guest serves commands. A VM that lives already is waited for.
///
/// `note` hears what the user should know, such as that the processor is emulated.
///
/// # Errors
/// [`VmError::Boot`] with the console's last lines; nothing runs then. [`VmError::Interrupted`]
/// likewise.
pub fn start(
    store: &Store,
    guard: &VmGuard<'_>,
    vm: &VmRow,
    patience: Duration,
    interrupt: &Interrupt,
    note: &dyn Fn(&str),
) -> Result<Started, VmError> {
    let context = store.context();
    let changed = match life(context, vm) {
        Life::Dead => {
            launch(store, vm, note)?;
            true
        }
        Life::Alive(_) => false,
        Life::Unattended => {
            if let Some(pid) = monitor(context, vm) {
                return Err(VmError::Unattended {
                    vm: vm.name.to_string(),
                    pid,
                });
            }
            // The VMM alone; it is about to die, as its monitor did.
            stop::kill(context, guard, vm)?;
            launch(store, vm, note)?;
            true
        }
    };
    let ready = tether(context, vm).and_then(|tether| {
        let boot = wait_ready(context, vm, patience, interrupt)?;
        Ok(Started {
            changed,
            boot,
            tether,
        })
    });
    match ready {
        Ok(started) => Ok(started),
        Err(error) => {
            if changed {
                // Why it failed matters more than how its end went.
                let _ = stop::kill(context, guard, vm);
            }
            Err(error)
        }
    }
}

/// Binds the life of an ephemeral VM to ours. A VM that is gone already is for [`wait_ready`] to
/// explain.
fn tether(context: &Context, vm: &VmRow) -> Result<Option<Control>, VmError> {
    if !vm.spec.ephemeral {
        return Ok(None);
    }
    let Ok(mut control) = Control::connect(context, vm) else {
        return Ok(None);
    };
    let patience = Some(Duration::from_secs(10));
    match control.ask(&ControlRequest::Tether, patience, &Interrupt::never()) {
        Ok(_) => Ok(Some(control)),
        Err(VmError::Monitor { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn wait_ready(
    context: &Context,
    vm: &VmRow,
    patience: Duration,
    interrupt: &Interrupt,
) -> Result<Duration, VmError> {
    let directory = context.vm(&vm.id);
    let gone = |exit: Option<&ExitRecord>| boot_error(vm, &directory, exit, None);
    let Ok(mut control) = Control::connect(context, vm) else {
        return Err(gone(exit_record(&directory).as_ref()));
    };
    match control.ask(&ControlRequest::WaitReady, Some(patience), interrupt) {
        Ok(Some(ControlReply::Ready { boot_ms, .. })) => Ok(Duration::from_millis(boot_ms)),
        Ok(Some(ControlReply::GuestFailed { message })) => {
            Err(boot_error(vm, &directory, None, Some(&message)))
        }
        Ok(Some(ControlReply::Exited(exit))) => Err(gone(Some(&exit))),
        Ok(Some(_)) => Err(VmError::Monitor {
            vm: vm.name.to_string(),
            source: io::Error::other("an answer that does not fit the question"),
        }),
        Ok(None) => Err(timeout_error(vm, &directory, patience.as_secs())),
        Err(VmError::Monitor { .. }) if life(context, vm) == Life::Dead => {
            Err(gone(exit_record(&directory).as_ref()))
        }
        Err(error) => Err(error),
    }
}

fn exit_record(directory: &Path) -> Option<ExitRecord> {
    serde_json::from_slice(&std::fs::read(directory.join(file::EXIT_RECORD)).ok()?).ok()
}

fn launch(store: &Store, vm: &VmRow, note: &dyn Fn(&str)) -> Result<(), VmError> {
    let context = store.context();
    let accel: Accel = vm.spec.accel.parse().unwrap_or_default();
    preflight(context, &vm.spec.vmm, accel)?;
    if let Some(doubt) = preflight::memory(vm.spec.memory, &Meminfo::read())? {
        note(&doubt);
    }
    let (acceleration, why_emulated) = accel.choose()?;
    if let Some(why) = why_emulated {
        note(&format!(
            "no KVM: {why}; emulating the processor, which is many times slower"
        ));
    }
    let image = store.image(vm.image.as_str())?;
    let kernel = store.kernel(vm.kernel.as_str())?;
    let directory = context.vm(&vm.id);
    let runtime = context.make_vm_runtime(&vm.id)?;
    volume::check_free(store, vm)?;
    let shares = share::plans(context, vm, &kernel)?;
    let kind: DiskKind = vm.spec.disk_kind.parse().unwrap_or_default();
    disk::remove_others(context, vm).map_err(io_error("clear", &directory))?;
    kind.grow(&DiskKind::path(context, vm), vm.spec.disk.0)?;

    let initrd = directory.join("initrd.img");
    point("start.initrd").map_err(io_error("write", &initrd))?;
    let base = lib_kernel::base_initramfs(context, &kernel, &context.helper("banger-agent"))?;
    let ssh = ssh(context, &vm.id, note)?;
    let attachment = bridge::attach(context, vm)?;
    let reservation = attachment.as_ref().map(|attached| &attached.reservation);
    let config = guest_config(vm, &image, &kernel, &shares, ssh, reservation)
        .map_err(io_error("configure", &initrd))?;
    let seed = lib_kernel::boot_initramfs(&base, &config, &initrd)?.map(|offset| Seed {
        file: initrd.clone(),
        offset,
        length: config.entropy.len(),
    });

    let vmlinux = lib_kernel::vmlinux(context, &kernel);
    let mac = reservation.map_or_else(|| mac(&vm.id), |reserved| reserved.mac.to_string());
    let tap = attachment.as_ref().map(bridge::Attachment::descriptor);
    let driver = driver(&vm.spec.vmm);
    let plan = LaunchPlan {
        name: vm.name.as_str(),
        acceleration,
        machine: machine(vm, driver, acceleration),
        cpus: vm.spec.cpus,
        memory: vm.spec.memory,
        vmlinux: &vmlinux,
        kernel_parameters: &image.config.kernel_parameters,
        initrd: &initrd,
        disks: disks(context, vm, &image, &kernel),
        shares,
        mac: matches!(&*vm.spec.network, "user" | "bridge").then_some(&*mac),
        tap,
    };
    let keeper = Limits::of(&vm.spec).keeper(vm.id.as_str())?;
    let spec = Launch {
        vm: vm.id.to_string(),
        directory: directory.clone(),
        runtime,
        program: driver.program()?,
        arguments: driver.arguments(&plan)?,
        console_limit: CONSOLE_LIMIT,
        idle_stop_s: vm.spec.idle_stop_s,
        name: vm.name.to_string(),
        journal: Some(context.journal()),
        publish: vm.spec.publish.iter().copied().map(publish::wire).collect(),
        statistics_s: Some(STATISTICS.as_secs()),
        descriptors: tap.into_iter().collect(),
        shares: share::servers(&plan.shares)?,
        // What `run` runs ends with its command.
        reboot: !vm.spec.ephemeral,
        cgroups: keeper.directories(),
        seed,
    };
    match run_monitor(context, &spec, &keeper)? {
        LaunchReply::Started(_) | LaunchReply::AlreadyRunning => Ok(()),
        LaunchReply::PortInUse { address } => Err(publish::port_in_use(store, address)),
        LaunchReply::Failed { message } => Err(VmError::Launch {
            vm: vm.name.to_string(),
            message,
        }),
    }
}

fn disks(
    context: &Context,
    vm: &VmRow,
    image: &ImageRecord,
    kernel: &KernelRecord,
) -> Vec<DiskPlan> {
    let kind: DiskKind = vm.spec.disk_kind.parse().unwrap_or_default();
    let directory = context.vm(&vm.id);
    let mut disks = kind.plans(context.image_disk(&image.id), DiskKind::path(context, vm));
    let raw = |path, serial, read_only| DiskPlan {
        path,
        serial,
        read_only,
        format: Format::Raw,
    };
    if let Some(path) = lib_kernel::modules_image(context, kernel) {
        disks.push(raw(path, serial::MODULES.to_owned(), true));
    }
    if vm.spec.work_disk.is_some() {
        disks.push(raw(
            directory.join(WORK_DISK),
            serial::WORK.to_owned(),
            false,
        ));
    }
    for (index, volume) in vm.spec.volumes.iter().enumerate() {
        let path = volume::file(context, &volume.name);
        disks.push(raw(path, serial::volume(index), volume.read_only));
    }
    disks
}

/// What is recorded, unless the VM was made where KVM worked and is now emulated, or the other way.
fn machine<'a>(vm: &'a VmRow, driver: &dyn Driver, acceleration: Acceleration) -> &'a str {
    let usual = driver.machine(acceleration);
    let other = match acceleration {
        Acceleration::Kvm => Acceleration::Tcg,
        Acceleration::Tcg => Acceleration::Kvm,
    };
    match vm.spec.machine.as_str() {
        "" => usual,
        recorded if recorded == driver.machine(other) => usual,
        recorded => recorded,
    }
}

/// Starts the monitor and reads its one line. The monitor detaches itself; its own error output goes
/// to the VM's log, so that nobody's terminal or pipe is kept open.
fn run_monitor(context: &Context, spec: &Launch, keeper: &Keeper) -> Result<LaunchReply, VmError> {
    let program = context.helper("banger-monitor");
    let failed = io_error("run", &program);
    point("start.log").map_err(&failed)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(spec.directory.join(file::VMM_LOG))
        .map_err(&failed)?;
    point("start.spawn").map_err(&failed)?;
    let properties = match keeper {
        Keeper::Scope(properties) => &properties[..],
        Keeper::Nobody | Keeper::Cgroups(_) => &[],
    };
    let mut monitor = scope::command(&program, &spec.vm, properties);
    if banger_failpoint::armed() {
        let points = banger_failpoint::VARIABLE;
        monitor.envs(std::env::var_os(points).map(|value| (points, value)));
    }
    let mut monitor = monitor
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(&failed)?;
    // It waits for its specification, and has no child yet.
    if let Err(error) = keeper.place(monitor.id()) {
        drop(monitor.stdin.take());
        let _ = monitor.wait();
        return Err(error);
    }
    specify(&mut monitor, spec).map_err(&failed)
}

fn specify(monitor: &mut Child, spec: &Launch) -> io::Result<LaunchReply> {
    point("start.specification")?;
    if let Some(mut stdin) = monitor.stdin.take() {
        stdin.write_all(&serde_json::to_vec(spec)?)?;
    }
    let mut line = String::new();
    point("start.reply")?;
    if let Some(stdout) = monitor.stdout.take() {
        BufReader::new(stdout).take(1 << 20).read_line(&mut line)?;
    }
    match serde_json::from_str(&line) {
        Ok(LaunchReply::Started(handles)) => Ok(LaunchReply::Started(handles)),
        Ok(reply) => {
            monitor.wait()?;
            Ok(reply)
        }
        Err(_) => {
            let status = monitor.wait()?;
            Ok(LaunchReply::Failed {
                message: format!("the monitor ended early ({status})"),
            })
        }
    }
}
