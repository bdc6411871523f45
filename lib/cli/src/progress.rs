//! Progress bars on a terminal; nothing elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lib_model::{ByteSize, Progress, Step};

/// One bar a step: bytes, rate and time to go, or a spinner when the size is unknown.
pub struct Bars {
    bars: Option<MultiProgress>,
    report: Option<Box<dyn Progress + Send + Sync>>,
}

impl Bars {
    /// Bars on standard error, if that is a terminal and they are wanted.
    pub fn new(quiet: bool) -> Self {
        let wanted = !quiet && std::io::stderr().is_terminal();
        Bars {
            bars: wanted.then(MultiProgress::new),
            report: None,
        }
    }

    /// No bars and no lines: all goes to `report`.
    pub fn reporting(report: Box<dyn Progress + Send + Sync>) -> Self {
        Bars {
            bars: None,
            report: Some(report),
        }
    }

    /// Prints a line above the bars.
    pub fn println(&self, line: &str) {
        match &self.bars {
            // Fails only when the terminal is gone.
            Some(bars) => drop(bars.println(line)),
            None if self.report.is_some() => {}
            None => eprintln!("{line}"),
        }
    }
}

impl Progress for Bars {
    fn step(&self, label: &str, total: Option<u64>) -> Box<dyn Step> {
        if let Some(report) = &self.report {
            return report.step(label, total);
        }
        let Some(bars) = &self.bars else {
            return lib_model::Silent.step(label, total);
        };
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let template = match total {
            Some(_) => {
                "{prefix:<28} {bar:24} {binary_bytes:>10}/{binary_total_bytes:<10} {binary_bytes_per_sec:>12} {eta:>4}"
            }
            None => "{prefix:<28} {spinner} {elapsed:>5} {msg}",
        };
        // A template is a constant; an error would be a defect that only costs the look.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        let bar = bars.add(bar);
        bar.set_prefix(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Box::new(Bar(bar))
    }
}

struct Bar(ProgressBar);

impl Step for Bar {
    fn advance(&self, amount: u64) {
        self.0.inc(amount);
        if self.0.length().is_none() {
            self.0.set_message(ByteSize(self.0.position()).to_string());
        }
    }

    fn done(&self, note: &str) {
        if note.is_empty() {
            self.0.finish_and_clear();
        } else {
            self.0.finish_with_message(note.to_owned());
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if !self.0.is_finished() {
            self.0.finish_and_clear();
        }
    }
}
