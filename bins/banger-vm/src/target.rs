//! Which VMs a command is about: names on the command line, or records on standard input.

use lib_cli::{Failure, StdinRecords, stdin_is_data};
use lib_model::Record;
use lib_store::{Store, VmRow};

/// Names to act on, as an iterator, so that records are acted on as they arrive.
pub(crate) type Selectors = Box<dyn Iterator<Item = Result<String, Failure>>>;

/// The names that were given; else those of VM records on standard input.
///
/// # Errors
/// Neither was given.
pub(crate) fn selectors(names: &[String]) -> Result<Selectors, Failure> {
    let forced = matches!(names, [dash] if dash == "-");
    if !names.is_empty() && !forced {
        let names = names.to_vec();
        return Ok(Box::new(names.into_iter().map(Ok)));
    }
    if !forced && !stdin_is_data() {
        return Err(Failure::usage("no VM was named")
            .hint("banger-vm list   (names can also come as records on standard input)"));
    }
    Ok(Box::new(StdinRecords::new("VM").map(|record| {
        match record? {
            Record::Vm(vm) => Ok(vm.id.to_string()),
            other => Err(Failure::usage(format!(
                "a VM record was expected, this is the record of one {}",
                other.kind()
            ))
            .hint("banger-vm create   makes VMs of image records")),
        }
    })))
}

/// Looks the VMs up one after another; a failure of one does not keep the others from their turn.
///
/// # Errors
/// The first failure, after all were tried.
pub(crate) fn for_each(
    store: &mut Store,
    names: &[String],
    mut act: impl FnMut(&mut Store, VmRow) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut first: Option<Failure> = None;
    for selector in selectors(names)? {
        let result = selector.and_then(|name| {
            let vm = store.vm(&name)?;
            act(store, vm)
        });
        if let Err(failure) = result {
            match &first {
                None => first = Some(failure),
                Some(_) => failure.print(std::io::stderr()),
            }
        }
    }
    first.map_or(Ok(()), Err)
}
