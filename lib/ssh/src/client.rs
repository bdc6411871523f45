//! The distribution's OpenSSH, with everything that it needs to reach one VM.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use lib_model::VmId;
use lib_store::Context;
use nix::unistd::{AccessFlags, access};

use crate::error::io_error;
use crate::quote::{option_path, shell_word};
use crate::{HostKey, SshError, client_key};

/// Which server in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The agent's.
    Agent,
    /// The image's own, at this TCP port of the guest; pinned when first seen.
    Guest(u16),
}

/// One run of the client.
#[derive(Debug, Clone)]
pub struct Client<'a> {
    /// The store.
    pub context: &'a Context,
    /// The VM.
    pub id: &'a VmId,
    /// What the client calls it.
    pub host: String,
    /// The server.
    pub server: Server,
    /// Who logs in; whoever the client takes, when missing.
    pub user: Option<String>,
    /// Options of the user's, which win over ours.
    pub options: Vec<OsString>,
    /// A configuration of the user's; none is read without it.
    pub config: Option<PathBuf>,
    /// What the guest's shell runs; a login shell, when missing.
    pub command: Option<String>,
}

impl Client<'_> {
    /// The command line; nothing of it but the proxy command, which is ours, reaches a shell here.
    ///
    /// # Errors
    /// No client; keys that cannot be read; [`SshError::Path`].
    pub fn command(&self) -> Result<Command, SshError> {
        let directory = self.context.vm(self.id);
        let mut ssh = Command::new(program("ssh").ok_or(SshError::NoClient)?);
        // The proxy command is quoted for a POSIX shell, whatever the user's own is.
        ssh.env("SHELL", "/bin/sh");
        let config = self.config.as_deref().unwrap_or(Path::new("none"));
        ssh.arg("-F").arg(config).args(&self.options);
        option(&mut ssh, "ProxyCommand", &self.proxy()?);
        option(&mut ssh, "ProxyUseFdpass", b"yes");
        option(&mut ssh, "GlobalKnownHostsFile", b"none");
        match self.server {
            Server::Agent => {
                let pinned = HostKey::existing(&directory)?.known_hosts;
                let key = client_key(self.context)?.path;
                option(&mut ssh, "HostKeyAlias", self.id.as_str().as_bytes());
                option(&mut ssh, "UserKnownHostsFile", &option_path(&pinned)?);
                option(&mut ssh, "StrictHostKeyChecking", b"yes");
                option(&mut ssh, "IdentityFile", &option_path(&key)?);
                option(&mut ssh, "IdentitiesOnly", b"yes");
                option(&mut ssh, "PreferredAuthentications", b"publickey");
            }
            Server::Guest(port) => {
                let pinned = HostKey::guest_known_hosts(&directory);
                let alias = format!("{}-{port}", self.id);
                option(&mut ssh, "HostKeyAlias", alias.as_bytes());
                option(&mut ssh, "UserKnownHostsFile", &option_path(&pinned)?);
                option(&mut ssh, "StrictHostKeyChecking", b"accept-new");
            }
        }
        if let Some(user) = &self.user {
            ssh.arg("-l").arg(user);
        }
        ssh.arg("--").arg(&self.host).args(&self.command);
        Ok(ssh)
    }

    fn proxy(&self) -> Result<Vec<u8>, SshError> {
        let mut line = own_command(self.context)?;
        line.extend(b" ssh-proxy --fdpass ");
        if let Server::Guest(port) = self.server {
            line.extend(format!("--port {port} ").bytes());
        }
        line.extend(self.id.as_str().bytes());
        Ok(line)
    }
}

fn option(ssh: &mut Command, name: &str, value: &[u8]) {
    let mut option = OsString::from(format!("{name}="));
    option.push(OsStr::from_bytes(value));
    ssh.arg("-o").arg(option);
}

/// This program and store, for a shell that ssh(1) starts.
///
/// # Errors
/// No way to this program; [`SshError::Path`].
pub(crate) fn own_command(context: &Context) -> Result<Vec<u8>, SshError> {
    let program = own_program()?;
    // A newline would end the option.
    option_path(&program)?;
    option_path(context.data())?;
    let mut line = shell_word(program.as_os_str());
    line.extend(b" --store ");
    line.extend(shell_word(context.data().as_os_str()));
    Ok(line)
}

/// This program by the path in `PATH` that leads to it, which outlives an upgrade, else by its file. Where
/// nixpkgs has wrapped it, the wrapper is meant.
///
/// # Errors
/// When the kernel does not say what runs.
pub fn own_program() -> Result<PathBuf, SshError> {
    let here = std::env::current_exe().map_err(io_error("find", "/proc/self/exe"))?;
    let here = unwrapped(here);
    let name = here.file_name().unwrap_or_default().to_owned();
    let same = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path == here);
    let found = in_path(&name).find(same);
    Ok(found.unwrap_or(here))
}

/// `bin/name` for `bin/.name-wrapped`, as nixpkgs' wrapProgram calls what it wraps, where both are.
fn unwrapped(program: PathBuf) -> PathBuf {
    let name = program.file_name().and_then(OsStr::to_str);
    let wrapper = name
        .and_then(|name| name.strip_prefix('.')?.strip_suffix("-wrapped"))
        .map(|name| program.with_file_name(name));
    wrapper.filter(|path| path.is_file()).unwrap_or(program)
}

/// An executable of this name in `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    in_path(OsStr::new(name)).find(|path| path.is_file() && access(path, AccessFlags::X_OK).is_ok())
}

fn in_path(name: &OsStr) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let name = name.to_owned();
    directories
        .into_iter()
        .filter(|directory| directory.is_absolute())
        .map(move |directory| directory.join(&name))
}

/// Bytes of ours as a line of a file.
pub(crate) fn text(bytes: Vec<u8>) -> OsString {
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_program_is_called_by_its_wrapper() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        std::fs::write(at("banger-vm"), "").unwrap();
        for (program, called) in [
            (".banger-vm-wrapped", "banger-vm"),
            ("banger-vm", "banger-vm"),
            (".other-wrapped", ".other-wrapped"),
        ] {
            assert_eq!(unwrapped(at(program)), at(called));
        }
    }
}
