//! `cargo xtask`: what developers and CI run. Needs a Rust toolchain and root or sudo; installs
//! the rest from the distribution, saying so first.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command for people"
)]

mod bench;
mod build;
mod demo;
mod fixtures;
mod git_fixtures;
mod nix_fixtures;
mod packages;
mod step;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::build::Profile;

/// Tasks of banger's developers
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the executables and the helpers, and put the helpers where the executables look
    Build {
        /// Build what users get
        #[arg(long)]
        release: bool,

        /// With the places where tests make steps fail
        #[arg(long, conflicts_with = "release")]
        failpoints: bool,
    },
    /// Boot a real VM from a real OCI image, then delete everything again
    Demo,
    /// Install what the tests need and run them all, VMs included
    Test(test::Args),
    /// Install and make what the tests need, and run none
    Fixtures,
    /// Let many commands fight and die, then check the store
    Storm,
    /// Write the manual and the completions anew from the command lines
    Gen,
    /// Measure what SPEC.md promises
    Bench(bench::Args),
    /// Run a command and print what it costs
    #[command(hide = true)]
    Measure(bench::measure::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Task::Measure(args) = &args.task {
        // A signal ends it, and what it runs, as any other command.
        return bench::measure::measure(args).unwrap_or_else(|error| {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        });
    }
    let result = step::watch_signals().and_then(|()| match args.task {
        Task::Build {
            release,
            failpoints,
        } => {
            let profile = match (release, failpoints) {
                (true, _) => Profile::Release,
                (_, true) => Profile::Test,
                _ => Profile::Dev,
            };
            build::build(profile).map(drop)
        }
        Task::Demo => demo::demo(),
        Task::Test(args) => test::test(&args),
        Task::Fixtures => test::fixtures(),
        Task::Storm => test::storm(),
        Task::Gen => build::generate(),
        Task::Bench(args) => bench::bench(&args),
        Task::Measure(_) => Ok(()),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let interrupted = step::interrupted();
            ExitCode::from(if interrupted { 130 } else { 1 })
        }
    }
}
