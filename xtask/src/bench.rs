//! First figures for SPEC.md.

use crate::step::Result;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Runs of each measurement
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

/// Measures, and prints a table.
pub(crate) fn bench(args: &Args) -> Result<()> {
    println!("{}", args.runs);
    Ok(())
}
