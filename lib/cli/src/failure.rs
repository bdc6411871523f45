//! The end of a command that failed: `error:`, `caused by:`, `hint:`.

use std::io::Write;

use lib_model::{Diagnose, Exit};

use crate::printable;

/// Why a command failed, ready to be printed, with its exit status.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    messages: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure in words.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure {
            status: exit.into(),
            messages: vec![message.into()],
            hint: None,
        }
    }

    /// A failure that another process recorded: the error and its causes.
    pub fn from_parts(status: u8, messages: Vec<String>, hint: Option<String>) -> Self {
        Failure {
            status,
            messages,
            hint,
        }
    }

    /// The error and its causes, and the hint.
    pub fn parts(&self) -> (&[String], Option<&str>) {
        (&self.messages, self.hint.as_deref())
    }

    /// The command line or its input was wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, message)
    }

    /// Ends the command with a status and says nothing.
    pub fn silent(status: u8) -> Self {
        Failure {
            status,
            messages: Vec::new(),
            hint: None,
        }
    }

    /// Adds, or replaces, the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Replaces the exit status, for commands that pass a guest's status through.
    #[must_use]
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// An error of standard input or output; a closed pipe ends the command quietly.
    pub fn io(what: &str, error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure::silent(Exit::Done.into());
        }
        Failure {
            status: Exit::Failed.into(),
            messages: vec![format!("cannot {what}"), error.to_string()],
            hint: None,
        }
    }

    /// Writes the failure for people. Messages can hold a guest's or a server's words, so control
    /// characters are escaped.
    pub fn print(&self, mut stderr: impl Write) {
        let mut messages = self.messages.iter();
        if let Some(message) = messages.next() {
            let _ = writeln!(stderr, "error: {}", printable(message));
        }
        for message in messages {
            let _ = writeln!(stderr, "caused by: {}", printable(message));
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(stderr, "hint: {}", printable(hint));
        }
    }
}

impl<E: Diagnose> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut messages = vec![error.to_string()];
        let mut source = error.source();
        let mut full = false;
        while let Some(cause) = source {
            let kind = cause.downcast_ref().map(std::io::Error::kind);
            full |= kind == Some(std::io::ErrorKind::StorageFull);
            let text = cause.to_string();
            // `#[from]` wrappers often repeat what they wrap.
            if !messages.last().is_some_and(|last| last.contains(&text)) {
                messages.push(text);
            }
            source = cause.source();
        }
        Failure {
            status: error.exit().into(),
            messages,
            hint: error
                .hint()
                .or_else(|| full.then(|| "free some disk space, then run it again".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lib_store::StoreError;

    fn printed(failure: &Failure) -> String {
        let mut text = Vec::new();
        failure.print(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn an_error_prints_its_causes_and_a_hint() {
        let error = StoreError::Io {
            action: "create",
            path: "/x".into(),
            source: std::io::Error::from(std::io::ErrorKind::StorageFull),
        };
        let failure = Failure::from(error);
        assert_eq!(failure.status(), 1);
        assert_eq!(
            printed(&failure),
            "error: cannot create /x\ncaused by: no storage space\nhint: free some disk space, then run it again\n"
        );
    }

    #[test]
    fn whatever_finds_the_disk_full_says_what_to_do() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot do it")]
        struct Full(#[source] std::io::Error);
        impl Diagnose for Full {
            fn exit(&self) -> Exit {
                Exit::Failed
            }
        }
        let hint = |kind| {
            let failure = Failure::from(Full(std::io::Error::from(kind)));
            failure.parts().1.map(str::to_owned)
        };
        let full = hint(std::io::ErrorKind::StorageFull);
        assert!(full.is_some_and(|hint| hint.contains("free some disk space")));
        assert_eq!(hint(std::io::ErrorKind::NotFound), None);
    }

    #[test]
    fn escape_sequences_of_a_guest_do_not_reach_the_terminal() {
        let failure = Failure::usage("bad \x1b[2Jname\r");
        assert_eq!(printed(&failure), "error: bad \\u{1b}[2Jname\\r\n");
    }
}
