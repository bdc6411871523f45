//! The network's daemon and the server of names, measured by ignored tests, which have namespaces and a client.

use super::{Bench, Row, alone};
use crate::build;
use crate::step::{Result, captured};

/// Modules of the end-to-end tests that have figures.
const TESTS: [&str; 2] = ["netd", "dns"];

impl Bench {
    pub(super) fn net(&self, rows: &mut Vec<Row>) -> Result<()> {
        for name in TESTS {
            self.figures(name, rows)?;
        }
        Ok(())
    }

    fn figures(&self, name: &str, rows: &mut Vec<Row>) -> Result<()> {
        let mut test = build::cargo();
        test.args(["test", "--locked", "--quiet", "-p", "banger-tests"])
            .args(["--test", "e2e"])
            .args(["--", "--ignored", "--exact", "--nocapture"])
            .arg(format!("{name}::figures::figures"))
            .env("BANGER_TEST_BIN_DIR", self.fixtures.bin())
            .env("BANGER_TEST_FIXTURES", build::target()?.join("fixtures"))
            .env("BANGER_LIBEXEC_DIR", self.fixtures.libexec());
        let printed = captured(&mut test)?;
        let figures = printed
            .lines()
            .filter_map(|line| line.split_once("FIGURE "));
        let before = rows.len();
        for (what, figure) in figures.filter_map(|(_, line)| line.split_once('|')) {
            rows.push(alone(what, figure.to_owned()));
        }
        if rows.len() == before {
            return Err(format!("the test printed no figures: {printed}").into());
        }
        Ok(())
    }
}
