//! Images of what a real Nix builds: closures, NixOS-shaped systems, archives; and derivations of images.
//!
//! Nix comes from a folder and its store is the test's own (`Nix`). There is no nixpkgs: a "NixOS system" here is
//! boot.json, a kernel, joined modules and a second stage as NixOS has them, around busybox. So this shows that
//! what banger reads and does is right, and not that a stock NixOS comes up.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_tests::{Hold, Image, Nix, Outcome, Sandbox, clause, eventually, recorded, skipped};
use serde_json::Value;

/// A copy of the flake, with what it needs of this machine.
struct Flake<'a> {
    sandbox: &'a Sandbox,
    nix: Nix<'a>,
    directory: PathBuf,
}

impl<'a> Flake<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        let directory = sandbox.path("flake");
        fs::create_dir(&directory).expect("the sandbox can be written");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("nix/images/flake.nix");
        fs::copy(source, directory.join("flake.nix")).expect("the flake is in the tree");
        let archive = sandbox.path("image.tar");
        Image::busybox()
            .and_then(|image| image.write_archive(&archive, "from-nix:1"))
            .expect("busybox is installed");
        let fixtures = sandbox.fixtures();
        let programs = fixtures.nix_programs();
        let nix = programs.join("../..").canonicalize().expect("Nix is there");
        let package = fixtures
            .kernel_package()
            .canonicalize()
            .expect("the package is there");
        let host = format!(
            "{{ nix = {:?}; nixVersion = \"2.26\"; kernel = {package:?}; kernelRelease = {:?}; archive = {archive:?}; }}\n",
            nix,
            kernel_release(sandbox, &package),
        );
        fs::write(directory.join("host.nix"), host).expect("the sandbox can be written");
        Flake {
            sandbox,
            nix: Nix::new(sandbox),
            directory,
        }
    }

    fn installable(&self, package: &str) -> String {
        format!("path:{}#{package}", self.directory.display())
    }

    fn import(&self, package: &str, more: &str) -> Outcome {
        let installable = self.installable(package);
        self.nix.sh(&format!(
            "banger-image import --json --nix '{installable}' {more}"
        ))
    }

    /// The store path of a package.
    fn build(&self, package: &str) -> String {
        let installable = self.installable(package);
        let line = format!("nix build --no-link --print-out-paths '{installable}'");
        self.nix.sh(&line).ok().trim().to_owned()
    }

    /// Collects, and tells what of these is still there.
    fn collect(&self, paths: &[&str]) -> Vec<bool> {
        self.nix.sh("nix-collect-garbage").ok();
        let there = |path: &&str| {
            let name = path.trim_start_matches("/nix/");
            self.nix.root().join(name).symlink_metadata().is_ok()
        };
        paths.iter().map(there).collect()
    }

    fn roots(&self) -> usize {
        self.sandbox.entries("gcroots").len()
    }
}

fn kernel_release(sandbox: &Sandbox, package: &Path) -> String {
    let line = format!(
        "dpkg-deb --contents {} | sed -n 's,.*/boot/vmlinuz-,,p'",
        package.display()
    );
    sandbox.sh(&line).ok().trim().to_owned()
}

#[test]
fn a_closure_becomes_an_image_that_nix_in_the_guest_knows() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let flake = Flake::new(&sandbox);
    let record = flake.import("toolbox", "--name toolbox").record();
    assert_eq!(record["architecture"], "amd64");
    let toolbox = flake.build("toolbox");
    let path = record["config"]["env"][0].as_str().unwrap();
    assert!(path.starts_with(&format!("PATH={toolbox}/bin:")), "{path}");
    // Root, image and rootfs are there; the same again is the same image.
    let again = flake.import("toolbox", "").record();
    assert_eq!(
        (&again["id"], &again["changed"]),
        (&record["id"], &Value::Bool(false))
    );
    assert_eq!(flake.roots(), 1);

    // Nothing of the closure is collected as long as the image lives; what nobody needs is.
    let busybox = flake.build("busybox");
    let text = flake.build("text");
    let paths = [&*toolbox, &*busybox, &*text];
    assert_eq!(flake.collect(&paths), [true, true, false]);

    sandbox
        .sh("banger-vm create --quiet --network none --name v toolbox")
        .ok();
    // Content and hashes of every path, and the references between them.
    let verify = sandbox.sh("banger-vm exec v -- nix-store --verify --check-contents");
    verify.ok();
    assert!(!verify.stderr.contains("path '"), "{verify}");
    let requisites = sandbox.sh(&format!("banger-vm exec v -- nix-store -qR {toolbox}"));
    let on_host = flake.nix.sh(&format!("nix-store -qR {toolbox}"));
    assert_eq!(lines(requisites.ok()), lines(on_host.ok()));
    assert_eq!(lines(requisites.ok()).len(), 4);
    // What a damaged path looks like: so the look above looked.
    let damaged = sandbox.sh(&format!(
        "banger-vm exec v -- sh -c 'chmod u+w {busybox}/bin && rm {busybox}/bin/yes && \
         nix-store --verify-path {busybox}'"
    ));
    assert_ne!(damaged.status, 0, "{damaged}");
    // The guest's own collector leaves it all.
    let collected = sandbox.sh("banger-vm exec v -- nix-store --gc --print-dead");
    assert_eq!(collected.ok(), "");
    let modes = sandbox.sh(&format!(
        "banger-vm exec v -- stat -c '%a %u %g %Y' {toolbox} {toolbox}/bin/greet"
    ));
    assert_eq!(modes.ok(), "555 0 0 1\n777 0 0 1\n");

    flake
        .nix
        .sh("banger-image delete toolbox")
        .exits(4)
        .hints("banger-vm delete v");
    assert_eq!(flake.roots(), 1);
    sandbox.sh("banger-vm delete --quiet --force v").ok();
    sandbox.sh("banger-image delete --quiet toolbox").ok();
    assert_eq!(flake.roots(), 0);
    assert_eq!(flake.collect(&paths), [false, false, false]);
}

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_same_closure_gives_the_same_image() {
    let sandbox = Sandbox::empty();
    let flake = Flake::new(&sandbox);
    let first = flake.import("hello", "--name hello").record();
    let disk = fs::read(sandbox.image_disk("hello")).unwrap();
    sandbox.sh("banger-image delete --quiet hello").ok();
    // Files that the host's store joins are no difference.
    flake.nix.sh("nix-store --optimise").ok();
    let second = flake.import("hello", "--name hello").record();
    assert_eq!(first["digest"], second["digest"]);
    assert_ne!(first["id"], second["id"]);
    assert!(
        disk == fs::read(sandbox.image_disk("hello")).unwrap(),
        "other bytes"
    );
    let hello = flake.build("hello");
    assert_eq!(
        second["config"]["entrypoint"][0],
        format!("{hello}/bin/greet")
    );
    // By its path there is no meta.mainProgram, and there are two programs.
    let by_path = flake
        .nix
        .sh(&format!(
            "banger-image import --json --nix {hello} --cmd /bin/sh"
        ))
        .record();
    assert_eq!(by_path["config"]["entrypoint"], serde_json::json!([]));
    assert_eq!(by_path["config"]["cmd"], serde_json::json!(["/bin/sh"]));
    let disk = sandbox.image_disk("hello");
    sandbox.sh(&format!("e2fsck -fn {}", disk.display())).ok();
    let erofs = flake.import("hello", "--format erofs").record();
    assert_eq!(
        (&erofs["filesystem"], &erofs["digest"]),
        (&"erofs".into(), &first["digest"])
    );
    assert_eq!(flake.roots(), 3);
    sandbox.assert_nothing_leaked();
}

#[test]
fn a_nixos_system_boots_its_own_init_with_its_own_kernel() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let flake = Flake::new(&sandbox);
    let imported = flake.import("system", "--name box");
    let record = imported.record();
    imported.says("boots kernel");
    let system = flake.build("system");
    let init = format!("{system}/init");
    assert_eq!(record["config"]["entrypoint"], serde_json::json!([init]));
    let kernels = sandbox.sh("banger-image kernel list --json").records();
    assert_eq!(kernels.len(), 2, "the prepared one, and the system's");
    let own = kernels
        .iter()
        .find(|kernel| kernel["id"] == record["kernel"])
        .unwrap();
    assert!(own["modules"].as_u64().unwrap() > 50, "{own}");
    assert!(
        own["source"]
            .as_str()
            .unwrap()
            .contains("bzImage (NixOS-shaped")
    );
    let own = own["name"].as_str().unwrap();
    let kernel_delete = format!("banger-image kernel delete {own}");
    sandbox
        .sh(&kernel_delete)
        .exits(4)
        .hints("banger-image delete box");

    sandbox
        .sh("banger-vm create --quiet --network none --name v box")
        .ok();
    let vm = sandbox.vm("v");
    assert_eq!(vm["kernel"], record["kernel"], "{vm}");
    // The second stage makes what the PATH leads to; nobody but systemd says when it is done.
    eventually("the system is activated", Duration::from_secs(60), || {
        let there = sandbox.sh("banger-vm exec v -- test -e /run/activated");
        (there.status == 0).then_some(())
    });
    let init = sandbox
        .sh("banger-vm exec v -- sh -c 'readlink /proc/1/exe; readlink /run/current-system'");
    let busybox = flake.build("busybox");
    assert_eq!(init.ok(), format!("{busybox}/bin/busybox\n{system}\n"));
    // The kernel was told what the system says, but for what is the boot's own matter.
    let told = sandbox.sh("banger-vm exec v -- cat /proc/cmdline");
    assert!(
        told.ok()
            .starts_with("loglevel=4 banger.told=yes console=ttyS0 "),
        "{told}"
    );
    assert!(!told.stdout.contains("root=fstab"), "{told}");
    // Its modules are there, and its own profile leads to it.
    let seen = sandbox.sh(
        "banger-vm exec v -- sh -c 'ls -d /lib/modules/$(uname -r)/kernel; \
         readlink -f /nix/var/nix/profiles/system; nix-store --verify && echo clean'",
    );
    let release = kernel_release(&sandbox, &sandbox.fixtures().kernel_package());
    assert_eq!(
        seen.ok(),
        format!("/lib/modules/{release}/kernel\n{system}\nclean\n")
    );
    let container = flake.import("container", "--name container").record();
    let init = format!("{}/init", flake.build("container"));
    assert_eq!(container["config"]["entrypoint"], serde_json::json!([init]));
    assert_eq!(container["kernel"], Value::Null);
    sandbox.sh("banger-vm stop --quiet v").ok();
    sandbox
        .sh("banger-vm delete --quiet v && banger-image delete --quiet box")
        .ok();
    sandbox.sh(&kernel_delete).ok();
    sandbox.assert_nothing_leaked();
}

#[test]
fn the_hosts_store_is_below_the_guests_own() {
    if skipped("vm") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let flake = Flake::new(&sandbox);
    flake.import("toolbox", "--name toolbox").record();
    let text = flake.build("text");
    let exec = |line: &str| sandbox.sh(&format!("banger-vm exec v -- sh -c '{line}'"));
    flake
        .nix
        .sh("banger-vm create --quiet --network none --share-store --name v toolbox")
        .ok();
    // What only the host has is there to be read, and is not the guest's: its database is the image's.
    assert_eq!(exec(&format!("cat {text}")).ok(), "just text\n");
    assert_ne!(exec(&format!("nix-store -qR {text}")).status, 0);
    exec("nix-store --verify --check-contents").ok();
    exec("echo kept > /nix/store/written").ok();
    assert!(!flake.nix.root().join("store/written").exists());
    sandbox.sh("banger-vm stop --quiet v").ok();
    flake.nix.sh("banger-vm start --quiet v").ok();
    assert_eq!(exec("cat /nix/store/written").ok(), "kept\n");
}

#[test]
fn a_machine_without_nix_has_no_store_to_share() {
    let sandbox = Sandbox::prepared();
    if Path::new("/nix/store").exists() {
        return;
    }
    sandbox
        .sh("banger-vm create --no-start --share-store --name v busybox")
        .exits(2)
        .says("has no Nix store");
}

#[test]
fn archives_and_descriptions_are_imported_as_images() {
    let sandbox = Sandbox::empty();
    let flake = Flake::new(&sandbox);
    let plain = flake.import("archive", "").record();
    assert_eq!(plain["names"], serde_json::json!(["from-nix:1"]));
    let zstd = flake.import("zstdArchive", "").record();
    assert_eq!(zstd["id"], plain["id"]);
    let refused = flake.import("stream", "");
    refused.exits(2).says("is a program").hints("--allow-exec");
    let streamed = flake.import("stream", "--allow-exec").record();
    assert_eq!(streamed["id"], plain["id"]);
    // Archives are copied whole, and need nothing of the store.
    assert_eq!(flake.roots(), 0);
    sandbox.sh("banger-image delete --quiet from-nix:1").ok();
    flake
        .import("brokenStream", "--allow-exec")
        .exits(1)
        .says("exit status: 3")
        .says("no more");
    assert_eq!(sandbox.sh("banger-image list").ok(), "");

    let layers = flake.import("layers", "--name layers").record();
    assert_eq!(layers["config"]["env"], serde_json::json!(["A=b"]));
    let debugfs = |command: &str| {
        let disk = sandbox.image_disk("layers");
        sandbox
            .sh(&format!("debugfs -R '{command}' {}", disk.display()))
            .stdout
    };
    assert_eq!(debugfs("cat /etc/motd"), "from nix2container\n");
    let (hello, etc) = (flake.build("hello"), flake.build("etc"));
    assert!(debugfs(&format!("stat {hello}/bin/greet")).contains("Mode:  0555"));
    assert!(
        !debugfs(&format!("stat {etc}")).contains("Mode:"),
        "only what is needed"
    );

    let disk = flake.import("disk", "--name disk").record();
    assert_eq!(
        (&disk["filesystem"], &disk["size"]),
        (&"ext4".into(), &(8 << 20).into())
    );
    let copied = fs::read(sandbox.image_disk("disk")).unwrap();
    let built = flake.build("disk");
    let built = flake.nix.root().join(built.trim_start_matches("/nix/"));
    assert!(copied == fs::read(built).unwrap(), "a copy");
    sandbox.assert_nothing_leaked();
}

#[test]
fn what_cannot_be_imported_is_said_and_leaves_nothing() {
    let sandbox = Sandbox::empty();
    let flake = Flake::new(&sandbox);
    // Whatever the machine has, it is not on this PATH; Debian's own would be in /usr/bin.
    if !Path::new("/usr/bin/nix").exists() {
        sandbox
            .sh("banger-image import --nix nixpkgs#hello")
            .exits(3)
            .says("nix is not installed")
            .hints("apt-get install nix-bin");
    }
    for option in ["--nix=--impure", "--nix=-f", "--nix=", "--nix='a\nb'"] {
        let refused = flake.nix.sh(&format!("banger-image import {option}"));
        refused.exits(2).says("error: ");
        assert_eq!(refused.stdout, "");
    }
    flake
        .import("hello --option sandbox true", "")
        .exits(1)
        .says("nix build")
        .says("sandbox true");
    flake
        .import("broken", "")
        .exits(1)
        .says("broken on purpose");
    flake
        .import("missing", "")
        .exits(1)
        .says("does not provide attribute");
    flake.import("text", "").exits(1).says("it is a text file");
    flake
        .import("qcow2", "")
        .exits(2)
        .says("nixos.qcow2 is a qcow2 disk")
        .hints("toplevel");
    flake
        .import("otherMachine", "")
        .exits(1)
        .says("aarch64-linux");
    for foreign in ["foreign", "foreignSystem"] {
        flake
            .import(foreign, "")
            .exits(3)
            .says("only for linux/arm64")
            .hints("--platform linux/arm64");
    }
    let there = flake.import("foreign", "--platform linux/arm64").record();
    assert_eq!(there["architecture"], "arm64");
    sandbox
        .sh(&format!(
            "banger-image delete --quiet {}",
            there["id"].as_str().unwrap()
        ))
        .ok();
    flake
        .nix
        .sh("banger-image import --nix /nix/store/00000000000000000000000000000000-gone")
        .exits(1)
        .says("nix build");
    flake.nix.sh("banger-image import --allow-exec x").exits(2);
    assert_eq!(flake.roots(), 0);
    sandbox.assert_nothing_leaked();
}

#[test]
fn a_closure_that_vanishes_or_changes_is_no_image() {
    let sandbox = Sandbox::empty();
    let flake = Flake::new(&sandbox);
    let busybox = flake.build("busybox");
    let hello = flake.build("hello");
    let inside = |path: &str| flake.nix.root().join(path.trim_start_matches("/nix/"));
    let hold = Hold::new();
    let line = format!(
        "{} banger-image import --nix '{}'",
        hold.at("nix.write", 1),
        flake.installable("hello")
    );
    let running = flake.nix.start(&line);
    hold.wait();
    // Somebody who is stronger than any root of the collector.
    let away = sandbox.path("away");
    fs::rename(inside(&busybox), &away).unwrap();
    hold.release();
    let outcome = running.finish();
    outcome
        .exits(1)
        .says(&format!("{busybox} vanished while it was imported"));
    fs::rename(&away, inside(&busybox)).unwrap();
    assert_eq!(flake.roots(), 0);

    let greet = inside(&hello).join("bin/greet");
    sandbox
        .sh(&format!("chmod u+w {0} && echo >> {0}", greet.display()))
        .ok();
    flake
        .import("hello", "")
        .exits(1)
        .says(&format!("{hello} is damaged"))
        .hints("nix-store --verify-path");
    assert_eq!(sandbox.sh("banger-image list").ok(), "");
    sandbox.assert_nothing_leaked();
}

/// Wherever the import is killed or fails, the root is there as long as the image is, and no longer.
#[test]
fn roots_follow_images_whatever_happens() {
    let sandbox = Sandbox::empty();
    let flake = Flake::new(&sandbox);
    let hello = flake.build("hello");
    let import = format!("banger-image import --quiet --name hello --nix {hello}");
    let delete = "banger-image delete --quiet hello";
    let mut tried = 0;
    for (command, image_at_first) in [(&*import, false), (delete, true)] {
        let file = sandbox.path(&format!("points-{image_at_first}"));
        let record = format!("BANGER_FAILPOINTS=record={}", file.display());
        flake.nix.sh(&format!("{record} {command}")).ok();
        let points = recorded(&file);
        let named = |name: &str| points.iter().any(|point| point.name == name);
        assert!(named("database.commit") && (named("nix.root") || named("root.remove")));
        for (number, point) in points.iter().filter(|point| point.time == 1).enumerate() {
            let state = sandbox.sh("banger-image list --format ids");
            match (state.ok().is_empty(), image_at_first) {
                (true, true) => drop(flake.nix.sh(&import).ok()),
                (false, false) => drop(sandbox.sh(delete).ok()),
                _ => {}
            }
            let action = if number % 2 == 0 { "kill" } else { "error" };
            flake
                .nix
                .sh(&format!("{} {command}", clause(point, action)));
            // The next command sweeps.
            let images =
                sandbox.sh("banger-image list --format ids && banger-image show --quiet none");
            let images: Vec<&str> = images.stdout.lines().collect();
            let roots: Vec<String> = sandbox.entries("gcroots").into_iter().collect();
            assert_eq!(
                roots, images,
                "after {} ({action}) of {command}",
                point.name
            );
            tried += 1;
        }
        if image_at_first {
            sandbox.sh(&format!("{delete} --if-exists")).ok();
        }
    }
    assert!(tried > 20, "{tried} places");
    assert_eq!(flake.collect(&[&hello]), [false]);
    sandbox.assert_nothing_leaked();
}

#[test]
fn an_image_of_a_registry_becomes_a_part_of_a_nix_build() {
    let sandbox = Sandbox::empty();
    let registry = sandbox.registry();
    let image = Image::busybox().unwrap();
    image.push(registry.address(), "team/app", "v1").unwrap();
    let reference = format!("{}/team/app:v1", registry.address());
    sandbox
        .sh(&format!("banger-image pull --quiet {reference}"))
        .ok();

    let oci = sandbox.path("oci");
    let record = sandbox
        .sh(&format!(
            "banger-image export --json {reference} --oci {}",
            oci.display()
        ))
        .record();
    assert_eq!(record["kind"], "layout");
    let digest = banger_tests::sha256(&image.manifest());
    assert_eq!(record["digest"], *digest);
    // Another tool reads it.
    let seen = sandbox.sh(&format!("skopeo inspect --raw oci:{}", oci.display()));
    assert_eq!(seen.ok().as_bytes(), image.manifest());
    sandbox
        .sh(&format!(
            "banger-image export {reference} --oci {}",
            oci.display()
        ))
        .exits(2)
        .says("is not empty");

    // The derivation's own pull, in a real build, comes to the hash that was computed without it.
    let expression = sandbox.sh(&format!("banger-image export {reference} --nix"));
    fs::write(sandbox.path("app.nix"), expression.ok()).unwrap();
    fs::create_dir(sandbox.path("banger")).unwrap();
    std::os::unix::fs::symlink(sandbox.fixtures().bin(), sandbox.path("banger/bin")).unwrap();
    let nix = Nix::new(&sandbox);
    let build = format!(
        "nix-build --no-out-link {} --argstr banger-image {}",
        sandbox.path("app.nix").display(),
        sandbox.path("banger").display()
    );
    let built = nix.sh(&build).ok().trim().to_owned();
    assert!(built.ends_with("-app-v1-oci"), "{built}");
    let output = nix.root().join(built.trim_start_matches("/nix/"));
    sandbox
        .sh(&format!("diff -r {} {}", oci.display(), output.display()))
        .ok();
    let pulled = sandbox.path("pulled");
    sandbox
        .sh(&format!(
            "banger-image pull --quiet --oci-layout {} {reference}",
            pulled.display()
        ))
        .ok();
    sandbox
        .sh(&format!("diff -r {} {}", oci.display(), pulled.display()))
        .ok();

    // Something else under the name does not pass.
    let wrong = expression
        .stdout
        .replace("outputHash = \"sha256-", "outputHash = \"sha256-AAAA");
    let cut: String = wrong
        .lines()
        .map(|line| match line.split_once("sha256-AAAA") {
            Some((before, rest)) => format!("{before}sha256-AAAA{}\n", &rest[4..]),
            None => format!("{line}\n"),
        })
        .collect();
    fs::write(sandbox.path("app.nix"), cut).unwrap();
    nix.sh(&build).exits(102).says("hash mismatch");

    // What no registry has cannot be pulled by a build.
    let archive = sandbox.path("a.tar");
    image.write_archive(&archive, "local:1").unwrap();
    sandbox
        .sh("banger-image delete --quiet $(banger-image list --format ids)")
        .ok();
    sandbox
        .sh(&format!(
            "banger-image import --quiet {}",
            archive.display()
        ))
        .ok();
    sandbox
        .sh("banger-image export local:1 --nix")
        .exits(2)
        .says("came from no registry");
    sandbox.sh("banger-image export local:1").exits(2);
    sandbox.assert_nothing_leaked();
}
