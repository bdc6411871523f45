//! `banger-vm cp`: files between host and guest.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use lib_cli::{Failure, Format, Session};
use lib_guest::{CopyIn, CopyOptions, CopyOut, Error, Summary, TreeError};
use lib_model::{CopyRecord, Exit, Progress, SCHEMA};
use lib_store::{Store, VmRow};
use lib_vm::Interrupt;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::CopyArgs;
use crate::guest;

/// What one word of the command line means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// `-`: an archive on standard input or output.
    Archive,
    /// A path of the host.
    Host(PathBuf),
    /// A path in a guest.
    Guest { vm: String, path: Vec<u8> },
}

impl Place {
    /// As docker has it: what begins with `/` or `.`, and what has a `/` before its first colon, is a
    /// path of the host.
    fn of(word: &OsStr) -> Place {
        let bytes = word.as_bytes();
        if bytes == b"-" {
            return Place::Archive;
        }
        let colon = bytes.iter().position(|byte| *byte == b':');
        let vm = colon.and_then(|colon| std::str::from_utf8(&bytes[..colon]).ok());
        match (vm, colon) {
            (Some(vm), Some(colon))
                if !vm.is_empty() && !vm.starts_with('.') && !vm.contains('/') =>
            {
                Place::Guest {
                    vm: vm.to_owned(),
                    path: bytes[colon + 1..].to_owned(),
                }
            }
            _ => Place::Host(word.into()),
        }
    }

    fn vm_without_path(&self) -> Option<&str> {
        match self {
            Place::Guest { vm, path } if path.is_empty() => Some(vm),
            _ => None,
        }
    }
}

/// What is meant: one VM, and which way.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    In {
        vm: String,
        sources: Vec<PathBuf>,
        target: Vec<u8>,
    },
    InArchive {
        vm: String,
        target: Vec<u8>,
    },
    Out {
        vm: String,
        sources: Vec<Vec<u8>>,
        target: PathBuf,
    },
    OutArchive {
        vm: String,
        sources: Vec<Vec<u8>>,
    },
}

impl Request {
    fn of(words: &[OsString]) -> Result<Request, Failure> {
        let usage = |text: &str| {
            Failure::usage(text).hint("banger-vm cp SRC… VM:PATH   (or: cp VM:SRC… PATH)")
        };
        let places: Vec<Place> = words.iter().map(|word| Place::of(word)).collect();
        if let Some(vm) = places.iter().find_map(Place::vm_without_path) {
            let text = format!("`{vm}:` names no path in the VM");
            return Err(Failure::usage(text).hint(format!("paths begin at /, such as {vm}:/root")));
        }
        let Some((target, sources)) = places.split_last().filter(|(_, rest)| !rest.is_empty())
        else {
            return Err(usage("a source and a target are needed"));
        };
        if let Place::Guest { vm, path } = target {
            let (vm, target) = (vm.clone(), path.clone());
            if sources == [Place::Archive] {
                return Ok(Request::InArchive { vm, target });
            }
            let sources: Option<Vec<PathBuf>> = sources
                .iter()
                .map(|source| match source {
                    Place::Host(path) => Some(path.clone()),
                    Place::Archive | Place::Guest { .. } => None,
                })
                .collect();
            let sources = sources.ok_or_else(|| {
                usage("what goes into a VM must be on this host: copy between VMs in two steps")
            })?;
            return Ok(Request::In {
                vm,
                sources,
                target,
            });
        }
        let mut from = None;
        let mut paths = Vec::new();
        for source in sources {
            match source {
                Place::Guest { vm, path } if from.is_none() || from.as_ref() == Some(vm) => {
                    from = Some(vm.clone());
                    paths.push(path.clone());
                }
                Place::Guest { .. } => return Err(usage("all sources must be in one VM")),
                Place::Host(_) | Place::Archive => {
                    return Err(usage("neither the source nor the target is in a VM"));
                }
            }
        }
        let vm = from.ok_or_else(|| usage("no VM was named"))?;
        Ok(match target {
            Place::Host(path) => Request::Out {
                vm,
                sources: paths,
                target: path.clone(),
            },
            _ => Request::OutArchive { vm, sources: paths },
        })
    }

    fn vm(&self) -> &str {
        match self {
            Request::In { vm, .. }
            | Request::InArchive { vm, .. }
            | Request::Out { vm, .. }
            | Request::OutArchive { vm, .. } => vm,
        }
    }
}

/// Copies, says what was left out, and prints a record unless standard output is the archive.
pub(crate) fn run(session: &mut Session, args: &CopyArgs) -> Result<(), Failure> {
    let request = Request::of(&args.paths)?;
    let store = session.store_to_read()?;
    let vm = store.vm(request.vm())?;
    let interrupt =
        Interrupt::install().map_err(|error| Failure::io("take over the signals", error))?;
    let options = CopyOptions {
        archive: args.archive,
        follow: args.follow_link,
        user: args.user.clone(),
        limit: Some(
            args.max_size
                .map_or_else(|| most(&store, &vm), |size| size.0),
        ),
        interrupt: interrupt.signals().map(AsFd::as_fd),
    };
    let step = session.bars.step(&format!("copying {}", vm.name), None);
    let copied = copy(session, &vm, &request, &options, &mut |bytes| {
        if bytes > 0 {
            step.advance(bytes);
        }
    });
    step.done("");
    let summary = copied.map_err(|error| match interrupt.check() {
        // Found while the archive was waited for.
        Err(_) => failure(session, &vm, Error::Interrupted),
        Ok(()) => failure(session, &vm, error),
    })?;
    for problem in &summary.problems {
        session.note(&format!("not copied: {problem}"));
    }
    let archive = matches!(request, Request::OutArchive { .. });
    if !archive && session.output.format() != Format::Table {
        session.output.emit(CopyRecord {
            schema: SCHEMA,
            id: vm.id.clone(),
            name: vm.name.clone(),
            entries: summary.entries,
            bytes: summary.bytes,
            left_out: summary.left_out,
        })?;
    }
    match summary.left_out {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failed, "1 entry was not copied")),
        more => Err(Failure::new(
            Exit::Failed,
            format!("{more} entries were not copied"),
        )),
    }
}

fn copy(
    session: &Session,
    vm: &VmRow,
    request: &Request,
    options: &CopyOptions<'_>,
    progress: &mut dyn FnMut(u64),
) -> lib_guest::Result<Summary> {
    let agent = guest::of(session, vm);
    match request {
        Request::In {
            sources, target, ..
        } => agent.copy_in(CopyIn::Paths(sources), target, options, progress),
        Request::InArchive { target, .. } => {
            let mut stdin = Input(options.interrupt);
            agent.copy_in(CopyIn::Archive(&mut stdin), target, options, progress)
        }
        Request::Out {
            sources, target, ..
        } => agent.copy_out(sources, CopyOut::Path(target), options, progress),
        Request::OutArchive { sources, .. } => {
            let mut stdout = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
            agent.copy_out(sources, CopyOut::Archive(&mut stdout), options, progress)
        }
    }
}

/// Standard input, until the user wants to end it.
struct Input<'a>(Option<BorrowedFd<'a>>);

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        let mut polled = vec![PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        polled.extend(self.0.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        poll(&mut polled, PollTimeout::NONE)?;
        if polled.get(1).is_some_and(|fd| fd.any() == Some(true)) {
            return Err(io::Error::other("interrupted"));
        }
        Ok(nix::unistd::read(&stdin, buffer)?)
    }
}

/// A guest has no more than its disk, its image and its memory can hold, so whoever sends more lies.
fn most(store: &Store, vm: &VmRow) -> u64 {
    let image = store.image(vm.image.as_str());
    let image = image.map_or(u64::MAX / 4, |image| image.size.0);
    vm.spec
        .disk
        .0
        .saturating_add(vm.spec.memory.0)
        .saturating_add(image)
}

fn failure(session: &Session, vm: &VmRow, error: Error) -> Failure {
    match error {
        Error::Tree(TreeError::File { cause, .. }) if cause.kind() == io::ErrorKind::BrokenPipe => {
            Failure::silent(Exit::Done.into())
        }
        Error::Interrupted => Failure::new(
            Exit::Interrupted,
            "interrupted; what was copied whole by then remains, nothing is half made",
        ),
        Error::Tree(TreeError::Refused(ref words)) if words.contains("bytes of content") => {
            guest::failure(session, vm, "cp", error).hint("banger-vm cp --max-size SIZE …")
        }
        Error::Tree(TreeError::Peer(ref words)) if words.contains('*') => {
            let hint = format!(
                "nothing expands patterns in the VM but a shell: banger-vm exec {} -- sh -c 'tar c PATTERN' | tar x",
                vm.name
            );
            guest::failure(session, vm, "cp", error).hint(hint)
        }
        error => guest::failure(session, vm, "cp", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&str]) -> Result<Request, Failure> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Request::of(&words)
    }

    #[test]
    fn words_mean_what_docker_takes_them_for() {
        let guest = |vm: &str, path: &str| Place::Guest {
            vm: vm.into(),
            path: path.into(),
        };
        for (word, place) in [
            ("-", Place::Archive),
            ("a", Place::Host("a".into())),
            ("./a:b", Place::Host("./a:b".into())),
            ("/a:b", Place::Host("/a:b".into())),
            (":b", Place::Host(":b".into())),
            ("v:", guest("v", "")),
            ("v:/x:y", guest("v", "/x:y")),
            ("d/v:x", Place::Host("d/v:x".into())),
        ] {
            assert_eq!(Place::of(OsStr::new(word)), place, "{word}");
        }
    }

    #[test]
    fn one_side_is_one_vm() {
        assert_eq!(
            request(&["a", "b", "v:/x"]).unwrap(),
            Request::In {
                vm: "v".into(),
                sources: vec!["a".into(), "b".into()],
                target: b"/x".to_vec(),
            }
        );
        assert_eq!(
            request(&["v:a", "v:b", "-"]).unwrap(),
            Request::OutArchive {
                vm: "v".into(),
                sources: vec![b"a".to_vec(), b"b".to_vec()],
            }
        );
        for wrong in [
            &["v:a"][..],
            &["a", "v:"],
            &["v:", "a"],
            &["a", "b"],
            &["v:a", "w:b"],
            &["v:a", "w:b", "c"],
            &["a", "v:b", "c"],
            &["-", "a"],
            &["-", "a", "v:b"],
        ] {
            assert_eq!(request(wrong).unwrap_err().status(), 2, "{wrong:?}");
        }
    }
}
