//! Executables and helpers, laid out as they are installed: `<target>/<profile>/banger-vm` finds
//! `<target>/libexec/banger/banger-agent`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step::{Result, output, run};

/// The helpers are linked statically for this target.
const TARGET: &str = "x86_64-unknown-linux-gnu";

const STATIC: &str = "-C target-feature=+crt-static";

/// The executables that people run.
const PROGRAMS: [&str; 5] = [
    "banger",
    "banger-image",
    "banger-net",
    "banger-vm",
    "banger-ws",
];

/// Those that executables run.
const HELPERS: [&str; 3] = ["banger-monitor", "banger-agent", "banger-netd"];

/// Those that one pulled image and one VM need: what the demonstration shows.
const SHOWN: ([&str; 3], [&str; 2]) = (
    ["banger", "banger-image", "banger-vm"],
    ["banger-monitor", "banger-agent"],
);

/// The feature that tests need and users must not have.
pub(crate) const FAILPOINTS: &str = "banger-failpoint/armed";

/// How the executables are built; the helpers are always small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    /// As [`Profile::Dev`], with the places where tests make steps fail.
    Test,
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Profile::Dev | Profile::Test => "debug",
            Profile::Release => "release",
        }
    }
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    without_our_own(&mut cargo);
    cargo
}

/// Takes away what `cargo run` says of xtask: build scripts that watch it would run again each time, and all that depends
/// on them would be built again.
pub(crate) fn without_our_own(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
}

/// The workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a directory of the workspace")
}

/// The target directory, wherever cargo's configuration puts it.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata =
        output(cargo().args(["metadata", "--format-version=1", "--no-deps", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"]
        .as_str()
        .ok_or("cargo metadata names no target directory")?;
    Ok(PathBuf::from(target))
}

/// Builds only these executables, as users get them; returns their directory.
pub(crate) fn programs(packages: &[&str]) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--locked", "--release"]);
    for package in packages {
        build.args(["-p", package]);
    }
    run(&mut build)?;
    Ok(target()?.join(Profile::Release.directory()))
}

/// Builds an example of a library with the settings of what users get; returns the executable.
pub(crate) fn example(package: &str, name: &str) -> Result<PathBuf> {
    run(cargo().args([
        "build",
        "--locked",
        "--release",
        "-p",
        package,
        "--example",
        name,
    ]))?;
    let examples = target()?
        .join(Profile::Release.directory())
        .join("examples");
    Ok(examples.join(name))
}

/// As [`example`], linked as the helpers are.
pub(crate) fn static_example(package: &str, name: &str) -> Result<PathBuf> {
    run(cargo()
        .args([
            "build",
            "--locked",
            "--profile",
            "helper",
            "--target",
            TARGET,
        ])
        .args(["-p", package, "--example", name])
        .env("RUSTFLAGS", STATIC))?;
    let built = target()?.join(TARGET).join("helper/examples").join(name);
    Ok(built)
}

/// Builds executables and helpers; returns the directory of the executables.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    build_these(profile, &PROGRAMS, &HELPERS)
}

/// Builds what the demonstration shows, as users get it; returns the directory of the executables.
pub(crate) fn shown() -> Result<PathBuf> {
    build_these(Profile::Release, &SHOWN.0, &SHOWN.1)
}

fn build_these(profile: Profile, programs: &[&str], helper_names: &[&str]) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--locked"]);
    match profile {
        Profile::Test => {
            build.args(["--workspace", "--bins", "--tests", "--features", FAILPOINTS]);
        }
        Profile::Release => {
            build.arg("--release");
            for program in programs {
                build.args(["-p", program]);
            }
        }
        // As `cargo test --workspace` does it, so that nothing is built for other features again.
        Profile::Dev => {
            build.args(["--workspace", "--bins", "--tests"]);
        }
    }
    // The helpers end with one thread that links and optimises all of the agent: the rest fills the other processors meanwhile.
    std::thread::scope(|scope| {
        let helpers = scope.spawn(|| helpers(profile, helper_names));
        let built = run(&mut build);
        let helpers = helpers
            .join()
            .map_err(|_| "building the helpers panicked")?;
        built.and(helpers)
    })?;
    let directory = target()?.join(profile.directory());
    if profile == Profile::Release {
        refuse_failpoints(&directory, programs, helper_names)?;
        share()?;
    }
    Ok(directory)
}

/// Writes what `lib/generated` keeps: by the same tests that compare, built as all tests are.
pub(crate) fn generate() -> Result<()> {
    run(cargo()
        .args(["test", "--workspace", "--locked", "--quiet", "--bins"])
        .args(["--features", FAILPOINTS])
        .args(["--", "the_manual_and_the_completions"])
        .env("BANGER_GENERATE", "1"))
}

/// A program as users get it, but with failpoints; in a target directory of its own.
pub(crate) fn with_failpoints(program: &str) -> Result<PathBuf> {
    let place = target()?.join("failpoints");
    run(cargo()
        .args(["build", "--locked", "--release", "--target-dir"])
        .arg(&place)
        .args([
            "-p",
            program,
            "-p",
            "banger-failpoint",
            "--features",
            FAILPOINTS,
        ]))?;
    Ok(place.join("release").join(program))
}

/// Manual and completions as below a prefix, where `banger system install` looks for them.
fn share() -> Result<()> {
    let share = target()?.join("share");
    for (from, to) in [
        ("man", "man/man1"),
        ("completions/bash", "bash-completion/completions"),
        ("completions/zsh", "zsh/site-functions"),
        ("completions/fish", "fish/vendor_completions.d"),
    ] {
        let to = share.join(to);
        // Missing before the first build.
        let _ = fs::remove_dir_all(&to);
        fs::create_dir_all(&to)?;
        let mut directories = vec![root().join(from)];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    directories.push(entry.path());
                } else {
                    fs::copy(entry.path(), to.join(entry.file_name()))?;
                }
            }
        }
    }
    Ok(())
}

/// What users get must not be told to fail by a variable.
fn refuse_failpoints(directory: &Path, programs: &[&str], helpers: &[&str]) -> Result<()> {
    let helpers = helpers.iter().map(|name| ("../libexec/banger", name));
    let programs = programs.iter().map(|name| ("", name));
    for (place, name) in programs.chain(helpers) {
        let program = directory.join(place).join(name);
        let content = fs::read(&program)?;
        let variable = b"BANGER_FAILPOINTS";
        if content
            .windows(variable.len())
            .any(|bytes| bytes == variable)
        {
            return Err(format!("{} has failpoints", program.display()).into());
        }
    }
    Ok(())
}

/// Builds the helpers and puts them where the executables look.
fn helpers(profile: Profile, names: &[&str]) -> Result<()> {
    // The agent runs in any guest, so it takes nothing from there; the others are built with it, to
    // compile once what they need. With --target, the flags do not reach build scripts and
    // procedural macros.
    let features: &[&str] = match profile {
        Profile::Test => &["--features", FAILPOINTS],
        Profile::Dev | Profile::Release => &[],
    };
    run(cargo()
        .args([
            "build",
            "--locked",
            "--profile",
            "helper",
            "--target",
            TARGET,
        ])
        .args(
            names
                .iter()
                .chain(&["banger-failpoint"])
                .flat_map(|name| ["-p", name]),
        )
        .args(features)
        .env("RUSTFLAGS", STATIC))?;
    let target = target()?;
    let built = target.join(TARGET).join("helper");
    let helpers: Vec<PathBuf> = names.iter().map(|name| built.join(name)).collect();
    for helper in &helpers {
        if interpreter(helper)? {
            let helper = helper.display();
            return Err(format!("{helper} is not static: it names an interpreter").into());
        }
    }
    let libexec = target.join("libexec/banger");
    fs::create_dir_all(&libexec)?;
    for helper in &helpers {
        install(helper, &libexec)?;
    }
    Ok(())
}

/// Replaces by rename: a monitor of a running VM keeps its own. An unchanged file keeps its time.
fn install(file: &Path, directory: &Path) -> Result<()> {
    let name = file.file_name().ok_or("a helper has a name")?;
    let place = directory.join(name);
    let content = fs::read(file)?;
    if fs::read(&place).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let new = place.with_extension("new");
    fs::copy(file, &new)?;
    fs::rename(new, place)?;
    Ok(())
}

/// Whether an ELF executable has a PT_INTERP segment (elf(5)).
fn interpreter(path: &Path) -> Result<bool> {
    const PT_INTERP: u32 = 3;
    let mut elf = Vec::new();
    fs::File::open(path)?.read_to_end(&mut elf)?;
    let bytes = |at: usize, length: usize| {
        elf.get(at..at + length)
            .ok_or_else(|| format!("{} is no ELF executable", path.display()))
    };
    let number = |at, length| -> Result<usize> {
        let bytes = bytes(at, length)?;
        let value = bytes
            .iter()
            .rev()
            .fold(0, |sum, b| sum << 8 | usize::from(*b));
        Ok(value)
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for header in 0..count {
        if number(table + header * size, 4)? == PT_INTERP as usize {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_has_an_interpreter_and_text_is_no_executable() {
        assert!(interpreter(&std::env::current_exe().unwrap()).unwrap());
        assert!(interpreter(Path::new(file!()).file_name().unwrap().as_ref()).is_err());
    }
}
