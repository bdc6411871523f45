//! How library code reports what takes long, without knowing terminals.

/// Where progress goes. Implementations must be cheap: `advance` is called per buffer.
pub trait Progress: Sync {
    /// Begins a step: a short label such as `layer 3f4a…`, and its size in bytes where known.
    fn step(&self, label: &str, total: Option<u64>) -> Box<dyn Step>;
}

/// One step under way; dropped without `done` means that it failed.
pub trait Step: Send + Sync {
    /// This many more bytes (or entries) are done.
    fn advance(&self, amount: u64);
    /// The step is complete; `note` says what came of it, and may be empty.
    fn done(&self, note: &str);
}

/// Reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _label: &str, _total: Option<u64>) -> Box<dyn Step> {
        Box::new(Silent)
    }
}

impl Step for Silent {
    fn advance(&self, _amount: u64) {}

    fn done(&self, _note: &str) {}
}
