//! Files into the guest: from the working tree, from git's objects, and those that we make ourselves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use banger_tree::{Entry, Kind, Name, Send, Summary, TreeError, Writer, session};
use lib_guest::Directory;
use lib_model::Progress;

use crate::error::{Result, WsError};
use crate::git::Git;
use crate::manifest::{EXECUTABLE, GITLINK, SYMLINK};
use crate::repository::Repository;
use crate::scan::{Scan, Seen, batch_size};
use crate::walk::shown;

/// Size and time of each file that was sent.
pub(crate) type Sent = BTreeMap<Vec<u8>, (u64, (i64, u32))>;

/// A file that we make, or an empty directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    path: Vec<u8>,
    content: Option<Vec<u8>>,
}

impl Made {
    pub(crate) fn file(path: &str, content: Vec<u8>) -> Made {
        Made {
            path: path.as_bytes().to_vec(),
            content: Some(content),
        }
    }

    fn directory(path: &str) -> Made {
        Made {
            path: path.as_bytes().to_vec(),
            content: None,
        }
    }
}

/// The files of an empty repository whose HEAD will be on `branch`, or at `base`
/// (gitrepository-layout(5)).
pub(crate) fn repository(format: &str, branch: Option<&str>, base: Option<&str>) -> Vec<Made> {
    let mut config =
        String::from("[core]\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n");
    match format {
        "sha1" => config.push_str("\trepositoryformatversion = 0\n"),
        other => config.push_str(&format!(
            "\trepositoryformatversion = 1\n[extensions]\n\tobjectFormat = {other}\n"
        )),
    }
    let head = match (branch, base) {
        (Some(branch), _) => format!("ref: refs/heads/{branch}\n"),
        (None, Some(base)) => format!("{base}\n"),
        (None, None) => "ref: refs/heads/main\n".to_owned(),
    };
    vec![
        Made::file(".git/HEAD", head.into_bytes()),
        Made::file(".git/config", config.into_bytes()),
        Made::directory(".git/objects/info"),
        Made::directory(".git/objects/pack"),
        Made::directory(".git/refs/heads"),
        Made::directory(".git/refs/tags"),
    ]
}

/// The files that put HEAD at `base`.
pub(crate) fn head(branch: Option<&str>, base: &str) -> Vec<Made> {
    match branch {
        Some(branch) => vec![
            Made::file(
                &format!(".git/refs/heads/{branch}"),
                format!("{base}\n").into_bytes(),
            ),
            Made::file(
                ".git/HEAD",
                format!("ref: refs/heads/{branch}\n").into_bytes(),
            ),
        ],
        None => vec![Made::file(".git/HEAD", format!("{base}\n").into_bytes())],
    }
}

/// A file of a repository's own directory.
pub(crate) fn git_path(git: &Git, repository: &Repository, name: &str) -> Result<PathBuf> {
    let call = git.of_user(&repository.top, "rev-parse");
    let path = call
        .args(["--path-format=absolute", "--git-path", name])
        .line()?;
    Ok(PathBuf::from(path))
}

/// Puts files that we make into the guest.
///
/// # Errors
/// Those of the connection; why the guest did not take them.
pub(crate) fn made(directory: &mut Directory<'_>, mut files: Vec<Made>) -> Result<()> {
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mtime = (now.as_secs().cast_signed(), now.subsec_nanos());
    directory.with(|client| {
        client.place(|writer| {
            let mut walk = Walk::default();
            for file in &files {
                let path = session::path(&file.path)?;
                let Some(content) = &file.content else {
                    walk.enter(writer, &path)?;
                    continue;
                };
                let Some((name, parents)) = path.split_last() else {
                    continue;
                };
                walk.enter(writer, parents)?;
                let size = content.len() as u64;
                writer.entry(&entry(name.clone(), Kind::File { size }, 0o644, mtime))?;
                writer.data(content)?;
                writer.end()?;
            }
            walk.leave(writer)?;
            Ok(Summary::default())
        })
    })?;
    Ok(())
}

/// Sends files of the working tree, which must not change meanwhile.
///
/// # Errors
/// [`WsError::Unstable`] when one did; those of the connection.
pub(crate) fn worktree(
    directory: &mut Directory<'_>,
    repository: &Repository,
    scan: &Scan,
    paths: &[Vec<u8>],
    progress: &dyn Progress,
) -> Result<Sent> {
    if paths.is_empty() {
        return Ok(Sent::new());
    }
    let root = File::open(&repository.top).map_err(WsError::io("open", &repository.top))?;
    let split: std::result::Result<Vec<Vec<Name>>, TreeError> =
        paths.iter().map(|path| session::path(path)).collect();
    let split = split.map_err(lib_guest::Error::from)?;
    let total = paths
        .iter()
        .filter_map(|path| scan.seen.get(path))
        .map(Seen::size)
        .sum();
    let step = progress.step("files", Some(total));
    let summary = directory.with(|client| {
        client.place(|writer| {
            banger_tree::send_chosen(
                writer,
                root.as_fd(),
                &split,
                Send::default(),
                &mut |bytes| {
                    step.advance(bytes);
                },
            )
        })
    })?;
    step.done("");
    if let Some(words) = summary.problems.first() {
        return Err(WsError::Refused(format!("cannot be copied: {words}")));
    }
    let mut sent = Sent::new();
    let mut changed = Vec::new();
    for path in paths {
        if scan
            .manifest
            .items
            .get(path)
            .is_some_and(|item| item.mode == GITLINK)
        {
            continue;
        }
        let file = repository.top.join(crate::scan::os(path));
        match (scan.seen.get(path), Seen::look(&file)) {
            (Some(before), Some(after)) if *before == after => {
                sent.insert(path.clone(), (after.size(), after.mtime()));
            }
            _ => changed.push(shown(path)),
        }
    }
    match changed.is_empty() {
        true => Ok(sent),
        false => Err(WsError::Unstable {
            what: "files changed here while they were copied",
            paths: changed,
        }),
    }
}

/// Sends the files of a commit, from its objects.
///
/// # Errors
/// Those of git and of the connection.
pub(crate) fn objects(
    git: &Git,
    directory: &mut Directory<'_>,
    repository: &Repository,
    scan: &Scan,
    paths: &[Vec<u8>],
    progress: &dyn Progress,
) -> Result<Sent> {
    let commit = scan.manifest.roots[0].base.clone().unwrap_or_default();
    let time = git
        .of_user(&repository.top, "show")
        .args(["-s", "--no-show-signature", "--format=%ct", &commit])
        .line()?;
    let mtime = (time.trim().parse().unwrap_or(0), 0);
    let mut reading = git
        .of_user(&repository.top, "cat-file")
        .arg("--batch")
        .spawn(Stdio::piped())?;
    let (Some(mut stdin), Some(stdout)) = (reading.stdin.take(), reading.child.stdout.take())
    else {
        reading.finish()?;
        return Ok(Sent::new());
    };
    let mut stdout = BufReader::with_capacity(128 * 1024, stdout);
    let step = progress.step("files", None);
    let mut sent = Sent::new();
    let placed = directory.with(|client| {
        client.place(|writer| {
            let mut walk = Walk::default();
            for path in paths {
                let Some(item) = scan.manifest.items.get(path) else {
                    continue;
                };
                let split = session::path(path)?;
                if item.mode == GITLINK {
                    walk.enter(writer, &split)?;
                    continue;
                }
                let Some((name, parents)) = split.split_last() else {
                    continue;
                };
                walk.enter(writer, parents)?;
                let size = batch_size(&mut stdin, &mut stdout, &item.oid)?;
                if item.mode == SYMLINK {
                    let mut target = Vec::new();
                    (&mut stdout).take(size).read_to_end(&mut target)?;
                    let kind = Kind::Symlink { target };
                    writer.entry(&entry(name.clone(), kind, 0o777, mtime))?;
                } else {
                    let mode = if item.mode == EXECUTABLE {
                        0o755
                    } else {
                        0o644
                    };
                    writer.entry(&entry(name.clone(), Kind::File { size }, mode, mtime))?;
                    copy(&mut stdout, writer, size, &mut |bytes| step.advance(bytes))?;
                    writer.end()?;
                }
                stdout.read_exact(&mut [0])?;
                sent.insert(path.clone(), (size, mtime));
            }
            walk.leave(writer)?;
            Ok(Summary::default())
        })
    });
    drop(stdin);
    placed?;
    reading.finish()?;
    step.done("");
    Ok(sent)
}

fn copy<W: std::io::Write>(
    from: &mut impl Read,
    writer: &mut Writer<W>,
    mut left: u64,
    progress: &mut dyn FnMut(u64),
) -> std::result::Result<(), TreeError> {
    while left > 0 {
        let count = writer.data_from(from, left)? as u64;
        if count == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        progress(count);
        left -= count;
    }
    Ok(())
}

fn entry(name: Name, kind: Kind, mode: u32, mtime: (i64, u32)) -> Entry {
    Entry {
        name,
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: Vec::new(),
    }
}

/// The directories that the stream is in.
#[derive(Debug, Default)]
struct Walk(Vec<Name>);

impl Walk {
    fn enter<W: std::io::Write>(
        &mut self,
        writer: &mut Writer<W>,
        wanted: &[Name],
    ) -> std::io::Result<()> {
        let shared = self
            .0
            .iter()
            .zip(wanted)
            .take_while(|(a, b)| a == b)
            .count();
        while self.0.len() > shared {
            self.0.pop();
            writer.end()?;
        }
        for name in &wanted[shared..] {
            writer.entry(&Entry::implied(name.clone()))?;
            self.0.push(name.clone());
        }
        Ok(())
    }

    fn leave<W: std::io::Write>(&mut self, writer: &mut Writer<W>) -> std::io::Result<()> {
        self.0.drain(..).try_for_each(|_| writer.end())
    }
}
