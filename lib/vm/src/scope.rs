//! Where systemd manages processes, a VM's monitor gets a scope of its own: it then survives the end of the
//! login session and of the service that started it, and its resources are accounted together.

use std::path::Path;
use std::process::Command;

/// Debian's and others' place, and NixOS'.
const SYSTEMD_RUN: [&str; 2] = [
    "/usr/bin/systemd-run",
    "/run/current-system/sw/bin/systemd-run",
];

/// A directory that exists exactly where systemd is the service manager (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// The command that runs `program` for the VM `id` with an empty environment, in a scope where there
/// can be one, with these properties.
pub(crate) fn command(program: &Path, id: &str, properties: &[String]) -> Command {
    let mut command = match (manager(), systemd_run()) {
        (Some(manager), Some(systemd_run)) => {
            in_scope(systemd_run, program, id, (manager, properties))
        }
        _ => Command::new(program),
    };
    command.env_clear();
    // How systemd-run finds the user's manager.
    let bus = ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];
    command.envs(
        bus.into_iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?))),
    );
    command
}

fn systemd_run() -> Option<&'static str> {
    SYSTEMD_RUN
        .into_iter()
        .find(|path| Path::new(path).exists())
}

/// Which manager would make the scope, as a flag of systemd-run.
pub(crate) fn manager() -> Option<&'static str> {
    if !Path::new(BOOTED).exists() || systemd_run().is_none() {
        return None;
    }
    if nix::unistd::geteuid().is_root() {
        return Some("--system");
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")?;
    // The socket of the user's own manager (systemd-run(1), --user).
    let private = Path::new(&runtime).join("systemd/private");
    private.exists().then_some("--user")
}

/// systemd-run executes the program in its own place, so streams and process id stay
/// (systemd-run(1), --scope).
fn in_scope(
    systemd_run: &str,
    program: &Path,
    id: &str,
    (manager, properties): (&str, &[String]),
) -> Command {
    let mut command = Command::new(systemd_run);
    command
        .args([manager, "--scope", "--quiet", "--collect"])
        .arg(format!("--unit=banger-{id}"))
        .args(
            properties
                .iter()
                .map(|property| format!("--property={property}")),
        )
        .arg("--")
        .arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_is_named_after_the_vm_and_nothing_reaches_a_shell() {
        let limit = ["MemoryMax=1".to_owned()];
        let program = Path::new("/x/banger-monitor");
        let how = ("--user", &limit[..]);
        let command = in_scope(SYSTEMD_RUN[0], program, "00112233445566aa", how);
        let words: Vec<&str> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .filter_map(|word| word.to_str())
            .collect();
        assert_eq!(
            words.join(" "),
            "/usr/bin/systemd-run --user --scope --quiet --collect --unit=banger-00112233445566aa --property=MemoryMax=1 -- /x/banger-monitor"
        );
    }
}
