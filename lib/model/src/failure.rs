//! What an error owes the person who reads it: an exit status and, where there is one, a command
//! that helps.

/// Exit statuses of every command; documented in the man pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All was done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line or its input was wrong.
    Usage = 2,
    /// No such image, VM, kernel or file.
    NotFound = 3,
    /// Locked, running, or the name is taken.
    Busy = 4,
    /// The privileged daemon refused.
    Refused = 5,
    /// A defect in banger.
    Bug = 70,
    /// The user pressed Ctrl-C, as a shell reports it: 128 and SIGINT.
    Interrupted = 130,
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> u8 {
        exit as u8
    }
}

/// Implemented by the error type of every library crate.
pub trait Diagnose: std::error::Error + Send + Sync + 'static {
    /// Exit status of a command that ends with this error.
    fn exit(&self) -> Exit {
        Exit::Failed
    }

    /// A command that the user can run, or one sentence that helps; chosen where the facts are.
    fn hint(&self) -> Option<String> {
        None
    }
}
