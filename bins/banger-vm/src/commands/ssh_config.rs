//! `banger-vm ssh-config`, and what ssh asks of us because of it.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use lib_cli::{Failure, Session};
use lib_ssh::{HostKey, SshError, UserConfig};

use crate::cli::{SshConfigArgs, SshKnownHostsArgs};

/// Prints the configuration, or changes the user's.
pub(crate) fn run(session: &Session, args: &SshConfigArgs) -> Result<(), Failure> {
    let context = &session.context;
    if !args.install && !args.remove {
        let text = UserConfig::text(context)?;
        return print(text.as_bytes());
    }
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|home| home.is_absolute())
        .ok_or(SshError::NoHome)?;
    let config = UserConfig::new(context, &home)?;
    let path = config.path.display();
    if args.remove {
        session.note(&match config.remove()? {
            true => format!("removed from {path}"),
            false => format!("{path} has no line of ours"),
        });
        return Ok(());
    }
    // Our part of it is in the store.
    let store = session.store()?;
    session.note(&match config.install(context)? {
        true => format!("added to {path}: {}", config.line()),
        false => format!("{path} has the line already"),
    });
    for clash in lib_ssh::clashes(&home, &store.vm_names()?) {
        let place = match clash.line {
            Some(line) => format!("{}:{line}", clash.path.display()),
            None => clash.path.display().to_string(),
        };
        session.note(&format!(
            "note: {place} is about VMs, too ({}); where both say something, banger's comes first",
            clash.what
        ));
    }
    Ok(())
}

/// Prints the key of the VM of this name, if there is one: nothing is no failure, so that ssh itself says
/// what is wrong.
pub(crate) fn known_hosts(session: &Session, args: &SshKnownHostsArgs) -> Result<(), Failure> {
    let store = session.store_to_read()?;
    let Ok(vm) = store.vm(&lib_ssh::selector(&args.host)) else {
        return Ok(());
    };
    let key = HostKey::existing(&session.context.vm(&vm.id))?;
    match lib_ssh::known_hosts_line(&args.host, &key.public) {
        Some(line) => print(format!("{line}\n").as_bytes()),
        None => Ok(()),
    }
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::io("write to standard output", error))
}
