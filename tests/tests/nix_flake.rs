//! The project's flake under a real Nix, with an empty store and without any cache. nixpkgs is a stand-in
//! (tests/nix/stub): its real library, and executables that the test run has built. So this shows what our own
//! Nix and shell code does, and not that nixpkgs would compile banger.

use std::fs;
use std::path::{Path, PathBuf};

use banger_tests::{Nix, Outcome, Sandbox, skipped};

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A copy of what a checkout has in version control: a flake is copied whole, and target/ is large.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("files of the test are its own");
    for entry in fs::read_dir(from).expect("files of the test are its own") {
        let entry = entry.expect("files of the test are its own");
        let name = entry.file_name();
        if name == "target" || name == ".git" {
            continue;
        }
        let target = to.join(&name);
        if entry
            .file_type()
            .expect("files of the test are its own")
            .is_dir()
        {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("files of the test are its own");
        }
    }
}

/// The flake, and what stands for nixpkgs.
struct Flake<'a> {
    sandbox: &'a Sandbox,
    nix: Nix<'a>,
}

/// The checkout as a user has it.
pub(crate) fn copy_checkout(to: &Path) {
    copy(&root(), to);
}

/// What stands for nixpkgs, in `nixpkgs` of the sandbox.
pub(crate) fn stub(sandbox: &Sandbox) {
    let stub = sandbox.path("nixpkgs");
    copy(&root().join("tests/nix/stub"), &stub);
    let fixtures = sandbox.fixtures();
    copy(&fixtures.nixpkgs_library().join("lib"), &stub.join("lib"));
    let prebuilt = sandbox.path("prebuilt");
    fs::create_dir(&prebuilt).expect("files of the test are its own");
    // Helpers are there twice; those of libexec are the static ones.
    for directory in [&fixtures.libexec(), fixtures.bin()] {
        for entry in fs::read_dir(directory).expect("executables were built") {
            let entry = entry.expect("executables were built");
            let name = entry.file_name();
            let program = name.to_string_lossy();
            let place = prebuilt.join(&name);
            if program.starts_with("banger") && !program.contains('.') && !place.exists() {
                std::os::unix::fs::symlink(entry.path(), place)
                    .expect("files of the test are its own");
            }
        }
    }
    let kernel = fixtures.kernel_package();
    let host = serde_json::json!({
        "prebuilt": prebuilt,
        "busybox": "/bin/busybox",
        "kernel": kernel.canonicalize().expect("the kernel was downloaded"),
        "kernelRelease": kernel_release(sandbox),
    });
    fs::write(stub.join("host.json"), host.to_string()).expect("files of the test are its own");
}

impl<'a> Flake<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        copy_checkout(&sandbox.path("banger"));
        stub(sandbox);
        Flake {
            sandbox,
            nix: Nix::new(sandbox),
        }
    }

    /// A command of nix about the flake, `.` in its arguments.
    fn nix(&self, arguments: &str) -> Outcome {
        // Words for the program that is run come last.
        let (arguments, words) = arguments.split_once(" -- ").unwrap_or((arguments, ""));
        let separator = if words.is_empty() { "" } else { "--" };
        self.nix.sh(&format!(
            "cd {} && nix {arguments} --override-input nixpkgs path:{} --no-write-lock-file {separator} {words}",
            self.sandbox.path("banger").display(),
            self.sandbox.path("nixpkgs").display()
        ))
    }
}

/// The release of the kernel package, by the name of its module directory.
fn kernel_release(sandbox: &Sandbox) -> String {
    let package = sandbox.fixtures().kernel_package();
    let list = sandbox.sh(&format!("dpkg-deb --contents {}", package.display()));
    let line = list.ok().lines().find_map(|line| {
        let (_, release) = line.split_once(" ./lib/modules/")?;
        release
            .strip_suffix('/')
            .filter(|release| !release.contains('/'))
    });
    line.map(str::to_owned)
        .expect("a kernel package has modules")
}

#[test]
fn the_flake_shows_checks_builds_and_runs() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty_for_guests();
    let flake = Flake::new(&sandbox);

    let shown = flake.nix("flake show --json --all-systems path:.");
    let shown: serde_json::Value = serde_json::from_str(shown.ok()).unwrap();
    for system in ["x86_64-linux", "aarch64-linux"] {
        for package in [
            "default",
            "banger",
            "banger-image",
            "banger-net",
            "banger-vm",
            "banger-ws",
        ] {
            let kind = &shown["packages"][system][package]["type"];
            assert_eq!(kind, "derivation", "{system} {package}");
        }
        for app in ["default", "banger", "image", "net", "vm", "ws", "ephemeral"] {
            assert_eq!(shown["apps"][system][app]["type"], "app", "{system} {app}");
        }
        assert_eq!(shown["devShells"][system]["default"]["type"], "derivation");
        assert_eq!(shown["formatter"][system]["type"], "derivation");
    }
    assert_eq!(shown["nixosModules"]["default"]["type"], "nixos-module");
    assert_eq!(shown["overlays"]["default"]["type"], "nixpkgs-overlay");
    assert_eq!(shown["templates"]["default"]["type"], "template");

    let metadata = flake.nix("flake metadata --json path:.");
    let metadata: serde_json::Value = serde_json::from_str(metadata.ok()).unwrap();
    let inputs = metadata["locks"]["nodes"]["root"]["inputs"]
        .as_object()
        .unwrap();
    assert_eq!(inputs.keys().collect::<Vec<_>>(), ["nixpkgs"]);
    let overlay = flake.nix(
        "eval --json path:.#overlays.default --apply 'overlay: overlay { callPackage = _: _: \"made\"; } { }'",
    );
    assert_eq!(overlay.ok().trim(), "{\"banger\":\"made\"}");
    // The template's flake is one, with what it names.
    let template = flake.nix.sh(&format!(
        "nix eval --raw --impure --expr '((import {}/templates/vm/flake.nix).outputs {{ nixpkgs.lib.nixosSystem = host: host; \
         banger.nixosModules.default = null; }}).nixosConfigurations.host.system'",
        sandbox.path("banger").display()
    ));
    assert_eq!(template.ok(), "x86_64-linux");

    flake.nix("flake check path:.").ok();

    // The package is whole: programs find their helpers beside them, and each other.
    let built = flake.nix("build --no-link --print-out-paths path:.");
    let package = built.ok().trim().to_owned();
    let there = |path: &str| {
        let path = sandbox
            .path("nix")
            .join(package.trim_start_matches("/nix/"))
            .join(path);
        assert!(
            path.symlink_metadata().is_ok(),
            "{} is missing",
            path.display()
        );
    };
    for file in [
        "bin/banger-vm",
        "bin/.banger-vm-wrapped",
        "libexec/banger",
        "share/man/man1/banger-vm-create.1.gz",
        "share/bash-completion/completions/banger-vm.bash",
        "share/zsh/site-functions/_banger-vm",
        "share/fish/vendor_completions.d/banger-vm.fish",
        "lib/systemd/system/banger-netd.service",
        "lib/systemd/system/banger-vm@.service",
    ] {
        there(file);
    }
    let units = flake
        .nix
        .sh(&format!("grep -h ^Exec {package}/lib/systemd/system/*"));
    for line in units.ok().lines() {
        assert!(line.contains("=/nix/store/"), "{line}");
        let netd = line.contains("banger-netd ");
        assert!(!netd || line.contains(" --nft /nix/store/"), "{line}");
    }
    // Each program finds the others that it calls in the store, whatever the user has.
    for program in [
        "banger",
        "banger-image",
        "banger-net",
        "banger-vm",
        "banger-ws",
    ] {
        let path = flake.nix.sh(&format!(
            "sed -n 's/^PATH=\\(.*\\):$PATH$/\\1/p' {package}/bin/{program}"
        ));
        let path: Vec<&str> = path.ok().trim().split(':').collect();
        for tool in ["qemu-system-x86_64", "mke2fs", "nft", "ssh", "git"] {
            let found = path.iter().any(|directory| {
                let inside = directory.strip_prefix("/nix/");
                inside.is_some_and(|inside| {
                    let file = sandbox.path("nix").join(inside).join(tool);
                    file.symlink_metadata().is_ok()
                })
            });
            assert!(found, "{program} has no {tool}: {path:?}");
        }
    }
    // What the build reads is a workspace to cargo.
    let source = flake.nix("eval --raw path:.#default.src");
    let inside = source.ok().strip_prefix("/nix/").unwrap();
    let manifest = sandbox.path("nix").join(inside).join("Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let read = std::process::Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .args(["--offline", "--manifest-path"])
        .arg(manifest)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success(), "{words}");

    let one = flake.nix("build --no-link --print-out-paths path:.#banger-image");
    let one = flake
        .nix
        .sh(&format!("{}/bin/banger-image --version", one.ok().trim()));
    assert!(one.ok().starts_with("banger-image "));

    let help = flake.nix("run path:.#vm -- --help");
    assert!(help.ok().contains("Make, run and end microVMs"));
    let version = flake.nix("run path:. -- vm --version");
    assert!(version.ok().starts_with("banger-vm "));

    // A guest of a closure, with a kernel of the store; nothing of it stays but what was imported.
    let booted = flake.nix("run path:.#ephemeral -- uname -r");
    assert_eq!(booted.ok().trim(), kernel_release(&sandbox), "{booted}");
    let images = sandbox.sh("banger-image list --json").records();
    let names = images[0]["names"][0].as_str().unwrap();
    assert!(names.starts_with("nix/ephemeral:"), "{names}");
    assert_eq!(images.len(), 1);
    assert_eq!(sandbox.sh("banger-vm list").ok(), "");
}
