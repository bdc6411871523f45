//! Nix with a store of the test's own at /nix, in a mount namespace: the machine needs none, and gets none.

use std::fs;
use std::path::PathBuf;

use crate::{Outcome, Running, Sandbox};

/// A root directory that is the machine's own but for /nix. Directories are bound one by one, because /nix
/// is not to be made on the machine; it goes with the last process in it.
const ENTER: &str = r#"set -eu
store=$1 root=$2
shift 2
mkdir -p "$store" "$root"
mount -t tmpfs -o mode=0755 root "$root"
for entry in /* /.[!.]*; do
    if [ -L "$entry" ]; then
        cp -P "$entry" "$root$entry"
    elif [ -d "$entry" ] && [ "$entry" != /nix ]; then
        mkdir "$root$entry"
        mount --rbind "$entry" "$root$entry"
    fi
done
mkdir "$root/nix"
mount --bind "$store" "$root/nix"
exec chroot "$root" /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$PWD" "$@"
"#;

/// Neither caches nor registries: there is no network. As root without users for builds, and without a
/// sandbox of its own, for that wants more of the kernel than a container has (nix.conf(5)).
const CONFIGURATION: &str = "\
experimental-features = nix-command flakes
substituters =
build-users-group =
sandbox = false
flake-registry =
build-hook =
warn-dirty = false
";

/// Runs commands where Nix and an own, at first empty store are.
#[derive(Debug)]
pub struct Nix<'a> {
    sandbox: &'a Sandbox,
    script: PathBuf,
}

impl<'a> Nix<'a> {
    /// With an empty store, which goes with the sandbox.
    ///
    /// # Panics
    /// When the fixture is missing; `cargo xtask test` makes it.
    pub fn new(sandbox: &'a Sandbox) -> Nix<'a> {
        let programs = sandbox.fixtures().nix_programs();
        assert!(
            programs.join("nix").exists(),
            "{} has no nix; run the tests with `cargo xtask test`",
            programs.display()
        );
        let script = sandbox.path("nix-enter.sh");
        fs::write(&script, ENTER).expect("the sandbox can be written");
        fs::create_dir_all(sandbox.path("nix-configuration")).expect("the sandbox can be written");
        fs::write(sandbox.path("nix-configuration/nix.conf"), CONFIGURATION)
            .expect("the sandbox can be written");
        Nix { sandbox, script }
    }

    /// The directory that is /nix there.
    pub fn root(&self) -> PathBuf {
        self.sandbox.path("nix")
    }

    /// Runs a shell's command line, as [`Sandbox::sh`], where `nix` is on the PATH and /nix is the own one.
    #[track_caller]
    pub fn sh(&self, line: &str) -> Outcome {
        self.sandbox.sh(&self.entered(line))
    }

    /// As [`Sandbox::start`], there.
    #[track_caller]
    pub fn start(&self, line: &str) -> Running {
        self.sandbox.start(&format!("exec {}", self.entered(line)))
    }

    fn entered(&self, line: &str) -> String {
        let programs = self.sandbox.fixtures().nix_programs();
        format!(
            "env PATH={}:\"$PATH\" NIX_BIN_DIR={} NIX_CONF_DIR={} NIX_REMOTE= \
             unshare {} --mount sh {} {} {} sh -c {}",
            programs.display(),
            programs.display(),
            self.sandbox.path("nix-configuration").display(),
            user(),
            self.script.display(),
            self.root().display(),
            self.sandbox.path("nix-root").display(),
            quoted(line)
        )
    }
}

/// Whoever is not root is it in a user namespace (unshare(1)).
fn user() -> &'static str {
    if nix::unistd::geteuid().is_root() {
        ""
    } else {
        "--user --map-root-user"
    }
}

fn quoted(line: &str) -> String {
    format!("'{}'", line.replace('\'', r"'\''"))
}
