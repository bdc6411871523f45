//! `banger-vm ssh`: becomes the distribution's ssh, which ends with the guest command's status.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use lib_cli::{Failure, Session};
use lib_ssh::{Client, Server};
use lib_store::{Store, VmRow};
use lib_vm::{Life, VmError};

use crate::OWN_FAILURE;
use crate::cli::SshArgs;

/// Returns only failures of banger itself.
pub(crate) fn run(session: &Session, args: SshArgs) -> Result<u8, Failure> {
    // It must be quick, so it sweeps nothing.
    let store = session
        .store_to_read()
        .map_err(|failure| failure.with_status(OWN_FAILURE))?;
    connect(session, &store, args).map_err(|failure| failure.with_status(OWN_FAILURE))
}

fn connect(session: &Session, store: &Store, args: SshArgs) -> Result<u8, Failure> {
    let vm = store.vm(&lib_ssh::selector(&args.vm))?;
    if lib_vm::life(&session.context, &vm) == Life::Dead {
        return Err(VmError::NotRunning {
            vm: vm.name.to_string(),
        }
        .into());
    }
    let options = options(&args);
    let server = match args.guest_sshd {
        None => Server::Agent,
        Some(port) => Server::Guest(port),
    };
    let user = match (args.user, server) {
        (Some(user), _) => Some(user),
        (None, Server::Agent) => Some(image_user(store, &vm)?),
        (None, Server::Guest(_)) => None,
    };
    let client = Client {
        context: &session.context,
        id: &vm.id,
        host: format!("{}.vm", vm.name),
        server,
        user,
        options,
        config: args.config,
        command: lib_ssh::remote_command(&args.command),
    };
    let error = client.command()?.exec();
    Err(Failure::io("run ssh", error))
}

/// As `exec` without `--user`.
fn image_user(store: &Store, vm: &VmRow) -> Result<String, Failure> {
    let user = store.image(vm.image.as_str())?.config.user;
    Ok(if user.is_empty() {
        "root".to_owned()
    } else {
        user
    })
}

fn options(args: &SshArgs) -> Vec<OsString> {
    let mut options: Vec<OsString> = Vec::new();
    let lists = [
        ("-o", &args.option),
        ("-L", &args.local_forward),
        ("-R", &args.remote_forward),
        ("-D", &args.dynamic_forward),
    ];
    for (flag, values) in lists {
        for value in values {
            options.extend([flag.into(), value.into()]);
        }
    }
    for (flag, set) in [
        ("-A", args.forward_agent),
        ("-t", args.tty),
        ("-N", args.no_command),
    ] {
        if set {
            options.push(flag.into());
        }
    }
    options
}
