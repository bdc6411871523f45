//! All tests, with everything real that they need.

use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::build::{self, Profile};
use crate::step::{Result, run, timed};
use crate::{fixtures, packages};

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out tests of this kind, and count them: vm, archive, shells, root
    #[arg(long, value_name = "KIND", value_parser = ["vm", "archive", "shells", "root"])]
    skip: Vec<String>,

    /// Passed on to `cargo test`
    #[arg(last = true, value_name = "ARGUMENTS")]
    rest: Vec<String>,
}

/// The full storm of `tests/tests/storm.rs`.
pub(crate) fn storm() -> Result<()> {
    let rest = [
        "--test",
        "e2e",
        "--",
        "--ignored",
        "--nocapture",
        "storm::a_full_storm",
    ];
    test(&Args {
        skip: Vec::new(),
        rest: rest.map(str::to_owned).to_vec(),
    })
}

/// Installs and makes what is missing.
pub(crate) fn fixtures() -> Result<()> {
    packages::missing(&[packages::DEMO, packages::TEST])?.install()?;
    fixtures::prepare(build::target()?.join("debug")).map(drop)
}

/// Installs what is missing, builds, and runs the tests.
pub(crate) fn test(args: &Args) -> Result<()> {
    let start = Instant::now();
    let missing = timed("packages", || {
        packages::missing(&[packages::DEMO, packages::TEST])
    })?;
    let bin = build::target()?.join("debug");
    let fixtures = timed("packages, executables, kernel and base images", || {
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                missing.install()?;
                fixtures::prepare(bin)
            });
            let built = build::build(Profile::Test);
            let fixtures = made.join().map_err(|_| "making the fixtures panicked")??;
            built.map(|_| fixtures)
        })
    })?;
    let target = build::target()?;
    let skipped = target.join("fixtures/skipped");
    // Missing unless an earlier run skipped something.
    let _ = fs::remove_file(&skipped);
    let result = timed("tests", || {
        // Tests send signals to what they start; a CI runner may have started us with some ignored.
        let mut tests = Command::new("env");
        build::without_our_own(&mut tests);
        tests
            .arg("--default-signal")
            .arg(build::cargo().get_program())
            .current_dir(build::root())
            .args(["test", "--workspace", "--locked", "--no-fail-fast"])
            .args(["--features", build::FAILPOINTS])
            .args(&args.rest)
            .env("BANGER_TEST_BIN_DIR", fixtures.bin())
            .env("BANGER_TEST_FIXTURES", target.join("fixtures"))
            .env("BANGER_LIBEXEC_DIR", fixtures.libexec())
            .env("BANGER_TEST_SKIP", args.skip.join(","))
            .env("BANGER_TEST_SKIPPED", &skipped);
        run(&mut tests)
    });
    if let Ok(names) = fs::read_to_string(&skipped) {
        println!("== {} tests skipped by name:", names.lines().count());
        print!("{names}");
    }
    println!("== {:.0} s in all", start.elapsed().as_secs_f64());
    result
}
