//! What a command works with: the paths, the output, the bars.

use lib_model::Filesystem;
use lib_store::{Context, Locks, Store};

use crate::{Bars, Failure, Global, Output, Tidy, printable};

/// Made once by `main`, from the global flags and the environment.
pub struct Session {
    /// Where everything is.
    pub context: Context,
    /// Standard output.
    pub output: Output,
    /// What images are made as.
    pub filesystem: Filesystem,
    /// Standard error: progress and notes.
    pub bars: std::sync::Arc<Bars>,
    quiet: bool,
    verbose: bool,
}

impl Session {
    /// Resolves paths and formats; opens nothing.
    ///
    /// # Errors
    /// No home directory, or a relative path in the environment; a `--format` that is a file system.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        if let Some(filesystem) = global.filesystem()? {
            let chosen = filesystem.as_str();
            return Err(Failure::usage(format!(
                "--format {chosen} chooses a file system, and this command makes none"
            ))
            .hint(format!("banger-image pull --format {chosen} IMAGE")));
        }
        Session::making_images(global)
    }

    /// As [`Session::new`], for commands that make images.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn making_images(global: &Global) -> Result<Self, Failure> {
        let filesystem = global.filesystem()?;
        let context = Context::from_environment(global.store.as_deref(), std::env::var_os)?;
        Ok(Session {
            context,
            output: Output::new(global)?,
            filesystem: filesystem.unwrap_or_default(),
            bars: std::sync::Arc::new(Bars::new(global.quiet)),
            quiet: global.quiet,
            verbose: global.verbose,
        })
    }

    /// The same without a terminal: progress goes to `report`, notes go nowhere.
    pub fn reporting(&self, report: Box<dyn lib_model::Progress + Send + Sync>) -> Self {
        Session {
            context: self.context.clone(),
            output: self.output.another(),
            filesystem: self.filesystem,
            bars: std::sync::Arc::new(Bars::reporting(report)),
            quiet: true,
            verbose: false,
        }
    }

    /// Opens the store, making it when it is not there.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn store(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.context)?)
    }

    /// Opens the store only to look at it: nothing is swept, and a store that cannot be written will do.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn store_to_read(&self) -> Result<Store, Failure> {
        match Store::open_existing(&self.context)? {
            Some(store) => Ok(store),
            None => self.store(),
        }
    }

    /// For what takes long and stages files: until this is dropped, Ctrl-C removes them first.
    ///
    /// # Errors
    /// When signals cannot be watched.
    pub fn tidy(&self) -> Result<Tidy, Failure> {
        Tidy::begin().map_err(|error| Failure::io("take over the signals", error))
    }

    /// The right to take locks; a wait is announced with the holder.
    pub fn locks(&self) -> Locks {
        let bars = self.bars.clone();
        let quiet = self.quiet;
        Locks::new(&self.context, move |name, holder| {
            // These are held for milliseconds.
            if quiet || matches!(name, "create" | "images") {
                return;
            }
            let who = match holder {
                Some(holder) => format!(
                    " held by process {} ({})",
                    holder.pid,
                    printable(&holder.command)
                ),
                None => String::new(),
            };
            bars.println(&format!("waiting for the lock `{name}`{who}"));
        })
    }

    /// Says something to people, unless they asked for quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.bars.println(&printable(text));
        }
    }

    /// Says something to people who asked for more.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            self.bars.println(&printable(text));
        }
    }
}
