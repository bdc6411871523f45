//! `banger-vm create`: from images to VMs.

use std::time::Duration;

use lib_cli::{Failure, Session, StdinRecords, stdin_is_data};
use lib_config::{Config, Environment};
use lib_model::{
    ByteSize, ImageRecord, OperationId, OperationRecord, Progress, ProxyUrl, Record, VmId, VmName,
};
use lib_store::{Locks, Store, VmGuard, VmRow};
use lib_vm::{Control, CreateRequest, Created, Interrupt, Network, Processes, VmError};
use lib_ws::Files;

use crate::cli::{CreateArgs, MachineArgs, ProxyChoice};
use crate::{resolve, sync, worker};

const DEFAULT_MEMORY: ByteSize = ByteSize(1 << 30);
const DEFAULT_DISK: ByteSize = ByteSize(10 << 30);

/// Makes a VM of the named image, or one of each image record on standard input.
pub(crate) fn run(session: &mut Session, mut args: CreateArgs) -> Result<(), Failure> {
    let config = Config::load(&Environment::process())?;
    args.machine = args.machine.configured(&config);
    request(args.name.as_ref(), &args.machine, false).check()?;
    let files = sync::files(session, &config)?;
    let mut store = session.store()?;
    let mut locks = session.locks();
    let from_records = match args.image.as_deref() {
        Some("-") => true,
        Some(_) => false,
        None => stdin_is_data(),
    };
    if !from_records {
        let image = args.image.as_deref().or(config.default.image.as_deref());
        return one(session, &mut store, &mut locks, image, &args, &files);
    }
    let mut made = 0;
    for record in StdinRecords::new("image") {
        let image = match record? {
            Record::Image(image) => image,
            other => {
                return Err(Failure::usage(format!(
                    "an image record was expected, this is the record of one {}",
                    other.kind()
                ))
                .hint("banger-image pull … | banger-vm create"));
            }
        };
        made += 1;
        if made > 1 && args.name.is_some() {
            return Err(Failure::usage(
                "--name fits one VM, but standard input has more images",
            ));
        }
        one(
            session,
            &mut store,
            &mut locks,
            Some(image.id.as_str()),
            &args,
            &files,
        )?;
    }
    Ok(())
}

fn one(
    session: &mut Session,
    store: &mut Store,
    locks: &mut Locks,
    image: Option<&str>,
    args: &CreateArgs,
    files: &Files,
) -> Result<(), Failure> {
    if args.detach {
        let id = worker::begin(session, store, args, image)?;
        let record = store.operation_record(&store.operation(id.as_str())?)?;
        return session.output.emit(OperationRecord {
            changed: true,
            ..record
        });
    }
    let vm = make(session, store, locks, image, args, files, None)?;
    session
        .output
        .emit(lib_vm::record(&session.context, &vm, true))
}

/// The same for an operation, which knows its VM before it is made, so that who cancels finds it.
pub(crate) fn for_operation(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    args: &CreateArgs,
    operation: &OperationId,
) -> Result<(), Failure> {
    let id = VmId::random().map_err(|error| Failure::io("name a VM", error))?;
    store.set_operation_vm(operation, &id)?;
    let files = sync::files(session, &Config::load(&Environment::process())?)?;
    let image = args.image.as_deref();
    make(session, store, locks, image, args, &files, Some(id)).map(drop)
}

fn make(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    image: Option<&str>,
    args: &CreateArgs,
    files: &Files,
    id: Option<VmId>,
) -> Result<VmRow, Failure> {
    let image = resolve::image(session, store, locks, image, args.machine.pull)?;
    let name = args.name.as_ref();
    let choice = args.machine.init.clone().unwrap_or_default();
    let request = CreateRequest {
        id,
        processes: lib_vm::processes(&choice, &image.config, &args.command),
        ..request(name, &args.machine, false)
    };
    let made = machine(session, store, locks, &image, &request, &args.machine)?;
    if args.no_start {
        give_up_if_interrupted(session, store, locks, &made)?;
    } else {
        let identity = sync::ask_identity();
        boot(session, store, locks, &made, args.machine.boot_timeout)?;
        sync::deliver(session, &made.created.vm, files, Some(identity));
    }
    Ok(made.created.vm)
}

/// A VM that was made, and the signals that would have ended us on the way; from its publication on
/// they end waits, so that it can be taken back.
pub(crate) struct Made {
    pub(crate) created: Created,
    pub(crate) interrupt: Interrupt,
}

/// Makes a stopped VM of an image and a kernel, after all that can be checked was checked.
pub(crate) fn machine(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    image: &ImageRecord,
    request: &CreateRequest,
    args: &MachineArgs,
) -> Result<Made, Failure> {
    lib_vm::sweep(store, locks)?;
    let mut request = network(session, request, args);
    if let Some(ProxyChoice::Url(url)) = &args.proxy {
        let proxies = proxies(session, url, request.network);
        // What was given by name wins.
        request.env.splice(0..0, proxies);
    }
    let request = &request;
    lib_vm::preflight_create(&session.context, image, request)?;
    if let Some(name) = &request.name
        && store.vm_names()?.iter().any(|taken| taken == name.as_str())
    {
        // Checked again under the lock; this spares the wait for a kernel.
        return Err(lib_store::StoreError::NameTaken {
            kind: "VM",
            name: name.to_string(),
        }
        .into());
    }
    let kernel = resolve::kernel(session, store, locks, image, args.kernel.as_deref())?;
    lib_vm::preflight_kernel(&session.context, &kernel, request)?;
    let interrupt =
        Interrupt::install().map_err(|error| Failure::io("take over the signals", error))?;
    let created = lib_vm::create(store, locks, image, &kernel, request)?;
    Ok(Made { created, interrupt })
}

/// Where nobody chose, the bridge is taken if it can be had, with the way out that `user` would have.
fn network(session: &Session, request: &CreateRequest, args: &MachineArgs) -> CreateRequest {
    let mut request = request.clone();
    if args.network.is_none() && lib_vm::bridge_answers(&session.context) {
        session.note(
            "the VM is on the bridge, as banger-netd answers (--network user for none of it)",
        );
        request.network = Network::Bridge;
        request.nat = true;
    }
    request
}

/// What was typed as what is meant.
pub(crate) fn request(name: Option<&VmName>, args: &MachineArgs, ephemeral: bool) -> CreateRequest {
    CreateRequest {
        name: name.cloned(),
        cpus: args.cpus.unwrap_or(1),
        memory: args.memory.unwrap_or(DEFAULT_MEMORY),
        disk: args.disk.unwrap_or(DEFAULT_DISK),
        network: args.network(),
        nat: args.nat,
        accel: args.accel(),
        processes: Processes {
            init: "none".to_owned(),
            entrypoint: Vec::new(),
        },
        env: environment(args, &|name| std::env::var(name).ok()),
        disk_kind: args.disk_kind(),
        work_disk: args.work_disk,
        volumes: args.volumes.clone(),
        shares: args.shares.clone(),
        share_store: args.share_store,
        mount_roots: args.mount_roots.clone(),
        ephemeral,
        idle_stop: args.idle_stop.filter(|idle| !idle.is_zero()),
        publish: args.publish.clone(),
        cpu_limit: args.cpu_limit.filter(|limit| *limit > 0),
        memory_limit: args.memory_limit.filter(|limit| limit.0 > 0),
        id: None,
    }
}

/// Of both spellings that programs know.
const PROXIES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// What an environment has beside proxies, which come from the configuration, too.
pub(crate) fn unproxied(environment: &[String]) -> Vec<&String> {
    let proxy = |entry: &str| {
        let name = entry.split_once('=').map_or(entry, |(name, _)| name);
        PROXIES.contains(&name)
    };
    environment.iter().filter(|entry| !proxy(entry)).collect()
}

/// What is recorded with the VM; a name alone stands for the host's value, and for nothing without one.
fn environment(args: &MachineArgs, host: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let pair = |name: &str| Some(format!("{name}={}", host(name)?));
    let proxies = PROXIES.iter().filter(|_| args.env_proxy);
    let proxies = proxies.filter_map(|name| pair(name));
    let given = args
        .vm_env
        .iter()
        .filter_map(|word| match word.contains('=') {
            true => Some(word.clone()),
            false => pair(word),
        });
    proxies.chain(given).collect()
}

/// This machine inside QEMU's network (its documentation, "Using the user mode network stack").
const HOST_IN_USER_NETWORK: &str = "10.0.2.2";
/// What no proxy is asked for: the guest itself.
const UNPROXIED: &str = "localhost,127.0.0.1,::1";

/// Variables for one proxy.
fn proxies(session: &Session, url: &ProxyUrl, network: Network) -> Vec<String> {
    let url = match network {
        Network::User if url.is_local() => url.at(HOST_IN_USER_NETWORK),
        _ => url.clone(),
    };
    if network == Network::None || url.is_local() {
        let mode = network.as_str();
        session.note(&format!(
            "a guest on the network `{mode}` does not reach the proxy {url}"
        ));
    }
    let names = PROXIES
        .iter()
        .map(|name| match name.to_ascii_lowercase().as_str() {
            "no_proxy" => format!("{name}={UNPROXIED}"),
            _ => format!("{name}={url}"),
        });
    names.collect()
}

fn give_up_if_interrupted(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    made: &Made,
) -> Result<(), Failure> {
    let Err(interrupted) = made.interrupt.check() else {
        return Ok(());
    };
    let vm = &made.created.vm;
    let guard = locks.vm(&vm.id)?;
    Err(take_back(session, store, &guard, vm, interrupted))
}

/// Boots a VM that was just made; takes it back when that fails or is interrupted. An ephemeral one
/// lives as long as what is returned.
pub(crate) fn boot(
    session: &Session,
    store: &mut Store,
    locks: &mut Locks,
    made: &Made,
    timeout: u64,
) -> Result<Option<Control>, Failure> {
    let vm = &made.created.vm;
    let guard = locks.vm(&vm.id)?;
    let patience = Duration::from_secs(timeout);
    let step = session.bars.step(&format!("booting {}", vm.name), None);
    let started = store
        .vm_again(&guard, vm)
        .map_err(VmError::from)
        .and_then(|vm| {
            made.interrupt.check()?;
            let note = |text: &str| session.note(text);
            lib_vm::start(store, &guard, &vm, patience, &made.interrupt, &note)
        });
    match started {
        Ok(started) => {
            step.done("");
            let seconds = started.boot.as_secs_f64();
            session.detail(&format!("{} was ready after {seconds:.2} s", vm.name));
            Ok(started.tether)
        }
        Err(error) => Err(take_back(session, store, &guard, vm, error)),
    }
}

fn take_back(
    session: &Session,
    store: &mut Store,
    guard: &VmGuard<'_>,
    vm: &VmRow,
    error: VmError,
) -> Failure {
    // Its logs go with it; every other hint still helps.
    let logs_are_gone = matches!(error, VmError::Boot { .. });
    let removed = lib_vm::delete(store, guard, vm, true);
    let failure = Failure::from(error);
    let name = &vm.name;
    match removed {
        Ok(()) if logs_are_gone => {
            failure.hint(format!("{name} was removed again; nothing of it remains"))
        }
        Ok(()) => {
            session.note(&format!("{name} was removed again; nothing of it remains"));
            failure
        }
        Err(_) => failure.hint(format!("banger-vm delete --force {name}")),
    }
}
