//! Which images or kernels a command is about: names on the command line, or records on standard
//! input.

use lib_cli::{Failure, StdinRecords, stdin_is_data};
use lib_model::Record;

/// Names to act on, one after the other, so that records are acted on as they arrive.
pub(crate) type Selectors<'a> = Box<dyn Iterator<Item = Result<String, Failure>> + 'a>;

/// The names that were given, else the ids of the `kind` records on standard input.
///
/// # Errors
/// Neither was given.
pub(crate) fn selectors<'a>(
    names: &'a [String],
    kind: &'static str,
) -> Result<Selectors<'a>, Failure> {
    let forced = matches!(names, [dash] if dash == "-");
    if !names.is_empty() && !forced {
        return Ok(Box::new(names.iter().cloned().map(Ok)));
    }
    if !forced && !stdin_is_data() {
        let list = if kind == "kernel" {
            "kernel list"
        } else {
            "list"
        };
        return Err(Failure::usage(format!("no {kind} was named")).hint(format!(
            "banger-image {list}   (names can also come as records on standard input)"
        )));
    }
    Ok(Box::new(StdinRecords::new(kind).map(
        move |record| match record? {
            Record::Image(image) if kind == "image" => Ok(image.id.to_string()),
            Record::Kernel(kernel) if kind == "kernel" => Ok(kernel.id.to_string()),
            other => Err(Failure::usage(format!(
                "{kind} records were expected, this is the record of one {}",
                other.kind()
            ))),
        },
    )))
}

/// Acts on each; a failure of one does not keep the others from their turn.
///
/// # Errors
/// The first failure, after all were tried; the others are printed. Input that is no record ends
/// it: what follows cannot be trusted to be one.
pub(crate) fn for_each(
    selectors: Selectors<'_>,
    mut act: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut first: Option<Failure> = None;
    for selector in selectors {
        let (failure, last) = match selector {
            Ok(name) => match act(&name) {
                Ok(()) => continue,
                Err(failure) => (failure, false),
            },
            Err(failure) => (failure, true),
        };
        match &first {
            None => first = Some(failure),
            Some(_) => failure.print(std::io::stderr()),
        }
        if last {
            break;
        }
    }
    first.map_or(Ok(()), Err)
}
