//! What a command is about: names on the command line, or records on standard input.

use lib_model::{Exit, Record};

use crate::{Failure, StdinRecords, stdin_is_data};

/// Kinds of things that can be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Images.
    Image,
    /// Kernels.
    Kernel,
    /// VMs.
    Vm,
    /// Operations.
    Operation,
    /// Workspaces; a VM stands for the one that it has.
    Workspace,
}

impl Kind {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Image => "image",
            Kind::Kernel => "kernel",
            Kind::Vm => "VM",
            Kind::Operation => "operation",
            Kind::Workspace => "workspace",
        }
    }

    fn list_command(self) -> &'static str {
        match self {
            Kind::Image => "banger-image list",
            Kind::Kernel => "banger-image kernel list",
            Kind::Vm => "banger-vm list",
            Kind::Operation => "banger-vm op list",
            Kind::Workspace => "banger-ws list",
        }
    }

    /// The id of a record of this kind.
    fn id(self, record: &Record) -> Option<&str> {
        let fits = match record {
            Record::Image(_) => self == Kind::Image,
            Record::Kernel(_) => self == Kind::Kernel,
            // An address has the id of its VM, and so has a name.
            Record::Vm(_) => matches!(self, Kind::Vm | Kind::Workspace),
            Record::Address(_) | Record::Name(_) => self == Kind::Vm,
            Record::Operation(_) => self == Kind::Operation,
            Record::Workspace(workspace) if self == Kind::Vm => return Some(workspace.vm.as_str()),
            Record::Workspace(_) | Record::Export(_) => self == Kind::Workspace,
            Record::Blob(_)
            | Record::Volume(_)
            | Record::Layout(_)
            | Record::Network(_)
            | Record::Check(_)
            | Record::Answer(_)
            | Record::Route(_)
            | Record::Change(_)
            | Record::Watch(_)
            | Record::Sync(_)
            | Record::Copy(_)
            | Record::Socket(_)
            | Record::Published(_)
            | Record::Ping(_)
            | Record::Stats(_)
            | Record::Event(_) => false,
        };
        fits.then(|| record.id())
    }
}

/// Names to act on, one after the other, so that records are acted on as they arrive.
pub type Selectors<'a> = Box<dyn Iterator<Item = Result<String, Failure>> + 'a>;

/// The names that were given; else, or with `-`, the ids of the records on standard input.
///
/// # Errors
/// Neither was given. A record of another kind is an error when its turn comes.
pub fn selectors(names: &[String], kind: Kind) -> Result<Selectors<'_>, Failure> {
    let forced = matches!(names, [dash] if dash == "-");
    if !names.is_empty() && !forced {
        return Ok(Box::new(names.iter().cloned().map(Ok)));
    }
    if !forced && !stdin_is_data() {
        return Err(
            Failure::usage(format!("no {} was named", kind.as_str())).hint(format!(
                "{}   (names can also come as records on standard input)",
                kind.list_command()
            )),
        );
    }
    Ok(Box::new(StdinRecords::new(kind.as_str()).map(
        move |record| {
            let record = record?;
            kind.id(&record).map(str::to_owned).ok_or_else(|| {
                Failure::usage(format!(
                    "{} records were expected, this is the record of one {}",
                    kind.as_str(),
                    record.kind()
                ))
            })
        },
    )))
}

/// Acts on each; a failure of one does not keep the others from their turn, Ctrl-C does.
///
/// # Errors
/// The first failure, after all were tried; the others are printed.
pub fn for_each(
    selectors: Selectors<'_>,
    mut act: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut first: Option<Failure> = None;
    for selector in selectors {
        if let Err(failure) = selector.and_then(|name| act(&name)) {
            let interrupted = failure.status() == u8::from(Exit::Interrupted);
            match &first {
                None => first = Some(failure),
                Some(_) => failure.print(std::io::stderr()),
            }
            if interrupted {
                break;
            }
        }
    }
    first.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_does_not_keep_the_others_from_their_turn() {
        let names = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let mut seen = Vec::new();
        let result = for_each(selectors(&names, Kind::Vm).unwrap(), |name| {
            seen.push(name.to_owned());
            if name == "a" {
                Err(Failure::usage("a is bad"))
            } else {
                Ok(())
            }
        });
        assert_eq!(seen, names);
        assert_eq!(result.unwrap_err().status(), 2);
    }
}
