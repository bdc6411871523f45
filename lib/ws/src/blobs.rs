//! A guest's files as git objects: streamed into `git fast-import` of the scratch repository, which sees
//! bytes and lengths and no names.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use banger_tree::TreeError;
use banger_tree::session::chunks;
use lib_guest::Directory;

use crate::error::{Result, WsError};
use crate::fetch::{Fetched, TOO_MUCH, fetch};
use crate::git::{RunningGit, Scratch};
use crate::manifest::{EXECUTABLE, Kept, PLAIN, SYMLINK};
use crate::scan::without_cr;

/// A larger file keeps its line ends.
const LONGEST_TEXT: u64 = 16 << 20;

/// A file of the guest as the repository has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    /// Git's.
    pub(crate) mode: u32,
    /// In hexadecimal.
    pub(crate) oid: String,
    /// Where a link leads.
    pub(crate) target: Option<Vec<u8>>,
}

/// Makes blobs of the guest's files; what is not there any more, or came short, is missing from the result.
///
/// `kept` says how the repository keeps a path. At most `most` bytes are taken.
///
/// # Errors
/// [`WsError::Limit`], [`WsError::Guest`], [`WsError::Git`].
pub(crate) fn import(
    scratch: &Scratch,
    directory: &mut Directory<'_>,
    paths: &[Vec<u8>],
    kept: impl Fn(&[u8]) -> Kept,
    most: u64,
    progress: &dyn Fn(u64),
) -> Result<BTreeMap<Vec<u8>, Blob>> {
    if paths.is_empty() {
        return Ok(BTreeMap::new());
    }
    let marks = scratch.path.join("banger-marks");
    let _ = fs::remove_file(&marks);
    let mut importer = Importer::start(scratch, &marks)?;
    let mut found: Vec<(Vec<u8>, u32, Option<Vec<u8>>)> = Vec::new();
    let mut paths = paths.to_vec();
    paths.sort_unstable();
    let mut left = most;
    let mut failed = Ok(());
    for chunk in chunks(&paths) {
        let fetched = directory.with(|client| {
            fetch(client, chunk, left, |path, what, content| match what {
                Fetched::Symlink(target) => {
                    importer.blob(&target)?;
                    found.push((path.to_owned(), SYMLINK, Some(target)));
                    Ok(())
                }
                Fetched::File { size, mode } => {
                    left = left.saturating_sub(size);
                    let mode = if mode & 0o100 == 0 { PLAIN } else { EXECUTABLE };
                    let whole = if kept(path) == Kept::Crlf && size <= LONGEST_TEXT {
                        let mut text = Vec::new();
                        let count = content.each(&mut |bytes| {
                            text.extend_from_slice(bytes);
                            Ok(())
                        })?;
                        importer.blob(&without_cr(&text))?;
                        count == size
                    } else {
                        importer.begin(size)?;
                        let count = content.each(&mut |bytes| {
                            progress(bytes.len() as u64);
                            importer.data(bytes)
                        })?;
                        importer.fill(size - count)?;
                        count == size
                    };
                    // One that came short stays without a name.
                    if whole {
                        found.push((path.to_owned(), mode, None));
                    } else {
                        found.push((Vec::new(), 0, None));
                    }
                    Ok(())
                }
            })
        });
        failed = fetched.map_err(|error| match error {
            lib_guest::Error::Tree(TreeError::Refused(words)) if words == TOO_MUCH => {
                WsError::Limit {
                    what: format!("more than {most} bytes of changed files"),
                    hint: "banger-ws export --max-size SIZE …   (or diff)",
                }
            }
            lib_guest::Error::Tree(TreeError::Refused(words)) => WsError::Refused(words),
            error => error.into(),
        });
        if failed.is_err() {
            break;
        }
    }
    // What git says comes first: when it stops, the fetch only sees a closed pipe.
    importer.finish(failed)?;
    let text = fs::read_to_string(&marks).map_err(WsError::io("read", &marks))?;
    let mut oids: BTreeMap<usize, &str> = BTreeMap::new();
    for line in text.lines() {
        if let Some((mark, oid)) = line.strip_prefix(':').and_then(|line| line.split_once(' ')) {
            oids.extend(mark.parse().ok().map(|mark: usize| (mark, oid)));
        }
    }
    let mut blobs = BTreeMap::new();
    for (index, (path, mode, target)) in found.into_iter().enumerate() {
        if let Some(oid) = oids.get(&(index + 1)).filter(|_| !path.is_empty()) {
            let oid = (*oid).to_owned();
            blobs.insert(path, Blob { mode, oid, target });
        }
    }
    Ok(blobs)
}

/// `git fast-import` (git-fast-import(1)).
struct Importer {
    running: RunningGit,
    marks: usize,
    /// Git reads no more.
    deaf: bool,
}

impl Importer {
    fn start(scratch: &Scratch, marks: &Path) -> Result<Importer> {
        let mut export = std::ffi::OsString::from("--export-marks=");
        export.push(marks);
        let running = scratch
            .call("fast-import")
            .args(["--quiet", "--done", "--big-file-threshold=1m"])
            .arg(export)
            .spawn(Stdio::null())?;
        Ok(Importer {
            running,
            marks: 0,
            deaf: false,
        })
    }

    fn begin(&mut self, size: u64) -> std::result::Result<(), TreeError> {
        self.marks += 1;
        let head = format!("blob\nmark :{}\ndata {size}\n", self.marks);
        self.data(head.as_bytes())
    }

    fn data(&mut self, bytes: &[u8]) -> std::result::Result<(), TreeError> {
        let Some(stdin) = &mut self.running.stdin else {
            return Ok(());
        };
        stdin.write_all(bytes).map_err(|cause| {
            self.deaf = true;
            TreeError::File {
                action: "write to",
                name: "git fast-import".to_owned(),
                cause,
            }
        })
    }

    fn fill(&mut self, mut count: u64) -> std::result::Result<(), TreeError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while count > 0 {
            let some = count.min(ZEROS.len() as u64);
            self.data(&ZEROS[..some as usize])?;
            count -= some;
        }
        Ok(())
    }

    fn blob(&mut self, bytes: &[u8]) -> std::result::Result<(), TreeError> {
        self.begin(bytes.len() as u64)?;
        self.data(bytes)
    }

    fn finish(mut self, fetched: Result<()>) -> Result<()> {
        if fetched.is_err() && !self.deaf {
            // Dropped: killed; what it had written is swept with the workspace.
            return fetched;
        }
        // Its failure is git's to explain.
        let _ = self.data(b"done\n");
        self.running.finish().and(fetched)
    }
}
