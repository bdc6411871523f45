//! A review: the changes of a workspace as trees, a patch, a list with risks, and the hash that stands for
//! them. Kept in the workspace's directory, so that exactly this can be applied later.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use lib_model::{ChangeRecord, ChangeStatus, ExportRecord, Risk, SCHEMA};
use lib_store::{VmRow, WorkspaceRow};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::collect::Collected;
use crate::error::{Result, WsError};
use crate::git::Scratch;
use crate::manifest::{Kept, Manifest, Root, write_durably};
use crate::risk::risks;
use crate::walk::shown;

const FILE: &str = "review.json";
const PATCH: &str = "review.patch";
/// What `diff` says to git, so that the same trees give the same bytes whatever the configuration.
const DIFF: [&str; 12] = [
    "-r",
    "-p",
    "--binary",
    "--full-index",
    "-M",
    "-l5000",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--no-relative",
    "--diff-algorithm=myers",
    "--unified=3",
];

/// One repository's two sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sides {
    /// What went in, and from which commit.
    pub(crate) root: Root,
    /// The tree of what the guest has now.
    pub(crate) tree: String,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Review {
    /// One for each repository, the named one first.
    pub(crate) sides: Vec<Sides>,
    /// `sha1` or `sha256`.
    pub(crate) format: String,
    /// The last commit that was made in the guest.
    pub(crate) tip: Option<String>,
    /// What to say, with its hash.
    pub record: ExportRecord,
    /// File by file.
    pub changes: Vec<ChangeRecord>,
    /// Of [`ExportRecord::left_out`], what was refused for its name.
    pub refused: Vec<String>,
    /// Where everything is; not stored.
    #[serde(skip)]
    pub(crate) directory: PathBuf,
    #[serde(skip)]
    held: Held,
}

/// The patch, open since `ws[id]` was held: a later review takes its name, not its content.
#[derive(Debug, Clone, Default)]
struct Held(Option<Arc<File>>);

impl PartialEq for Held {
    fn eq(&self, _: &Held) -> bool {
        true
    }
}

impl Review {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.record.commits == 0
    }

    /// The patch, as `git apply` takes it, from its beginning; empty when nothing changed. It is the one that has the
    /// hash, whatever was reviewed since.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn patch(&self) -> Result<File> {
        let path = self.patch_path();
        let opened = match &self.held.0 {
            Some(held) => held.try_clone().and_then(|mut held| {
                held.rewind()?;
                Ok(held)
            }),
            None => File::open(&path),
        };
        opened.map_err(WsError::io("open", &path))
    }

    /// Keeps the patch open, while `ws[id]` is held.
    pub(crate) fn hold(&mut self) -> Result<()> {
        let path = self.patch_path();
        let file = File::open(&path).map_err(WsError::io("open", &path))?;
        self.held = Held(Some(Arc::new(file)));
        Ok(())
    }

    pub(crate) fn patch_path(&self) -> PathBuf {
        self.directory.join(PATCH)
    }

    fn new_patch(&self) -> PathBuf {
        self.directory.join(format!("{PATCH}.new"))
    }

    /// Makes it what was reviewed last.
    pub(crate) fn keep(&self) -> Result<()> {
        let (list, patch) = (self.directory.join(FILE), self.patch_path());
        // First the patch: a list that has another's patch fails its check.
        fs::rename(self.new_patch(), &patch).map_err(WsError::io("write", &patch))?;
        write_durably(&list, |out| Ok(serde_json::to_writer(out, self)?))
    }

    /// The one that was made last; none before the first.
    ///
    /// # Errors
    /// When it is damaged: when the patch has not the hash that was recorded.
    pub(crate) fn load(directory: &Path) -> Result<Option<Review>> {
        let path = directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(WsError::io("read", &path)(error)),
        };
        let mut review: Review = serde_json::from_slice(&bytes)
            .map_err(io::Error::from)
            .map_err(WsError::io("read", &path))?;
        review.directory = directory.to_owned();
        Ok(Some(review))
    }
}

/// Makes the trees of both sides, the patch and the list.
///
/// # Errors
/// When git fails or a file cannot be written.
pub(crate) fn make(
    scratch: &Scratch,
    directory: &Path,
    manifest: &Manifest,
    collected: &Collected,
    filtered: &HashSet<Vec<u8>>,
    (vm, row): (&VmRow, &WorkspaceRow),
) -> Result<Review> {
    let mut sides = Vec::new();
    for (index, root) in manifest.roots.iter().enumerate() {
        let tree = tree(scratch, manifest, index, collected)?;
        let root = root.clone();
        sides.push(Sides { root, tree });
    }
    let mut left_out = collected.refused.clone();
    left_out.extend(collected.left_out.iter().cloned());
    left_out.extend(collected.commits.lost.clone());
    let mut review = Review {
        sides,
        format: manifest.format.clone(),
        tip: collected.commits.tip.clone(),
        record: ExportRecord {
            schema: SCHEMA,
            id: row.id.clone(),
            name: vm.name.clone(),
            hash: String::new(),
            base: row.spec.base.clone(),
            tip: collected.commits.tip.clone(),
            commits: collected.commits.count,
            files: 0,
            risky: 0,
            left_out,
            format: None,
            target: None,
            changed: false,
        },
        changes: Vec::new(),
        refused: collected.refused.clone(),
        directory: directory.to_owned(),
        held: Held::default(),
    };
    let new = review.new_patch();
    // Both are git's work for a while, and there is more than one processor.
    let (patched, changes) = std::thread::scope(|scope| {
        let patched = scope.spawn(|| write_patch(scratch, &review, &new));
        let changes = changes(scratch, manifest, &review, (collected, filtered));
        (patched.join(), changes)
    });
    patched.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    review.changes = changes?;
    review.record.hash = hash(scratch, &review, &new)?;
    review.record.files = review.changes.len() as u64;
    let risky = review
        .changes
        .iter()
        .filter(|change| !change.risks.is_empty());
    review.record.risky = risky.count() as u64;
    Ok(review)
}

/// The tree of a root as the guest has it.
fn tree(
    scratch: &Scratch,
    manifest: &Manifest,
    index: usize,
    collected: &Collected,
) -> Result<String> {
    let root = &manifest.roots[index];
    let zeros = "0".repeat(root.tree.len());
    let mut info = Vec::new();
    let mut line = |text: String, path: &[u8]| {
        info.extend(text.into_bytes());
        info.extend_from_slice(path);
        info.push(0);
    };
    for path in &collected.deleted {
        if let (found, inner) = manifest.root_of(path)
            && found == index
        {
            line(format!("0 {zeros}\t"), inner);
        }
    }
    for (path, blob) in &collected.changed {
        if let (found, inner) = manifest.root_of(path)
            && found == index
        {
            line(format!("{:o} {} 0\t", blob.mode, blob.oid), inner);
        }
    }
    if info.is_empty() {
        return Ok(root.tree.clone());
    }
    edit(scratch, &root.tree, &info)
}

/// A tree with changes in `update-index --index-info`'s form, NUL-terminated.
pub(crate) fn edit(scratch: &Scratch, tree: &str, info: &[u8]) -> Result<String> {
    let index = scratch.path.join("banger-index");
    let _ = fs::remove_file(&index);
    let call = |name: &str| scratch.call(name).env("GIT_INDEX_FILE", &index);
    call("read-tree").arg(tree).output()?;
    call("update-index")
        .args(["-z", "--index-info"])
        .output_of(info)?;
    let tree = call("write-tree").arg("--missing-ok").line();
    let _ = fs::remove_file(&index);
    tree
}

/// Patches of all repositories after each other, with paths from the top.
fn write_patch(scratch: &Scratch, review: &Review, path: &Path) -> Result<()> {
    let file = File::create(path).map_err(WsError::io("write", path))?;
    for sides in &review.sides {
        if sides.root.tree == sides.tree {
            continue;
        }
        let file = file.try_clone().map_err(WsError::io("write", path))?;
        let prefix = |side: &[u8]| {
            use std::os::unix::ffi::OsStringExt;
            std::ffi::OsString::from_vec([side, &sides.root.prefix].concat())
        };
        let running = scratch
            .call("diff-tree")
            .args(DIFF)
            // Lines such as `rename from` have no prefix.
            .args((!sides.root.prefix.is_empty()).then_some("--no-renames"))
            .arg(prefix(b"--src-prefix=a/"))
            .arg(prefix(b"--dst-prefix=b/"))
            .args([&sides.root.tree, &sides.tree])
            .spawn(Stdio::from(file))?;
        running.finish()?;
    }
    Ok(())
}

/// The patch's digest; commits that are kept count, too, by their names.
pub(crate) fn hash(scratch: &Scratch, review: &Review, patch: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    let mut file = File::open(patch).map_err(WsError::io("read", patch))?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).map_err(WsError::io("read", patch))? {
            0 => break,
            count => digest.update(&buffer[..count]),
        }
    }
    if let Some(tip) = &review.tip {
        let base = review.sides[0].root.base.as_ref();
        let list = scratch
            .call("rev-list")
            .arg(tip)
            .args(base.map(|base| format!("^{base}")))
            .output()?;
        digest.update(&list);
    }
    let hex: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(format!("sha256:{hex}"))
}

/// Checks that what is stored is what was reviewed: the patch has the hash.
///
/// # Errors
/// [`WsError::OtherHash`].
pub(crate) fn verify_patch(scratch: &Scratch, review: &Review) -> Result<()> {
    refuse_other(review, hash(scratch, review, &review.patch_path())?)
}

/// As [`verify_patch`], and the trees still give the patch that has the hash: for who uses the trees.
///
/// # Errors
/// [`WsError::OtherHash`].
pub(crate) fn verify_trees(scratch: &Scratch, review: &Review) -> Result<()> {
    verify_patch(scratch, review)?;
    let again = review.directory.join(format!("{PATCH}.check"));
    let found = write_patch(scratch, review, &again).and_then(|()| hash(scratch, review, &again));
    let _ = fs::remove_file(&again);
    refuse_other(review, found?)
}

fn refuse_other(review: &Review, found: String) -> Result<()> {
    match found == review.record.hash {
        true => Ok(()),
        false => Err(WsError::OtherHash {
            found,
            wanted: review.record.hash.clone(),
        }),
    }
}

fn changes(
    scratch: &Scratch,
    manifest: &Manifest,
    review: &Review,
    (collected, filtered): (&Collected, &HashSet<Vec<u8>>),
) -> Result<Vec<ChangeRecord>> {
    let mut changes = Vec::new();
    for sides in &review.sides {
        if sides.root.tree == sides.tree {
            continue;
        }
        let listed = scratch
            .call("diff-tree")
            .args(["-r", "-z", "-M", "-l5000", "--raw", "--numstat"])
            .args([&sides.root.tree, &sides.tree])
            .output()?;
        let mut words = listed.split(|byte| *byte == 0).peekable();
        let listed = raw(&mut words);
        let lines = numbers(words);
        for raw in listed {
            let whole = |path: &[u8]| [&sides.root.prefix, path].concat();
            let path = whole(&raw.path);
            // What is a link now came from the guest.
            let came = collected.changed.get(&path);
            let target = came.and_then(|blob| blob.target.as_deref());
            let mut found = match raw.status {
                // What is gone runs no more, but what it kept from running may.
                ChangeStatus::Deleted => risks(&path, 0, raw.old_mode, None),
                _ => risks(&path, raw.new_mode, raw.old_mode, target),
            };
            let kept = manifest.items.get(&path).map(|item| item.kept);
            let raw_bytes = kept == Some(Kept::Filtered) || filtered.contains(&path);
            if raw_bytes && raw.status != ChangeStatus::Deleted {
                found.push(Risk::Filtered);
            }
            let (added, removed) = lines.get(&raw.path).copied().unwrap_or_default();
            let mode = |mode: u32| (mode != 0).then(|| format!("{mode:06o}"));
            changes.push(ChangeRecord {
                schema: SCHEMA,
                id: review.record.id.clone(),
                name: review.record.name.clone(),
                path: text(&path),
                from: raw.from.as_ref().map(|from| text(&whole(from))),
                status: raw.status,
                old_mode: mode(raw.old_mode),
                new_mode: mode(raw.new_mode),
                added,
                removed,
                risks: found,
            });
        }
    }
    // A commit can do something that a later one takes back: the branch has it all the same.
    let known: HashSet<String> = changes.iter().map(|change| change.path.clone()).collect();
    for path in &collected.commits.touched {
        let shown = text(path);
        let found = risks(path, 0, 0, None);
        if !found.is_empty() && !known.contains(&shown) {
            changes.push(ChangeRecord {
                schema: SCHEMA,
                id: review.record.id.clone(),
                name: review.record.name.clone(),
                path: shown,
                from: None,
                status: ChangeStatus::Modified,
                old_mode: None,
                new_mode: None,
                added: None,
                removed: None,
                risks: found,
            });
        }
    }
    Ok(changes)
}

fn text(path: &[u8]) -> String {
    shown(path)
}

struct Raw {
    old_mode: u32,
    new_mode: u32,
    status: ChangeStatus,
    path: Vec<u8>,
    from: Option<Vec<u8>>,
}

/// `diff-tree -z --raw` (git-diff-tree(1), "Raw output format"), which what `--numstat` says follows: no word of its
/// own begins with a colon.
fn raw<'w>(words: &mut Peekable<impl Iterator<Item = &'w [u8]>>) -> Vec<Raw> {
    let mut found = Vec::new();
    while let Some(head) = words.next_if(|word| word.starts_with(b":")) {
        let head = String::from_utf8_lossy(&head[1..]).into_owned();
        let fields: Vec<&str> = head.split(' ').collect();
        let &[old_mode, new_mode, _, _, status] = &fields[..] else {
            continue;
        };
        let Some(first) = words.next() else { break };
        let (status, from) = match status.chars().next() {
            Some('A') => (ChangeStatus::Added, None),
            Some('D') => (ChangeStatus::Deleted, None),
            Some('T') => (ChangeStatus::TypeChanged, None),
            Some('R') => (ChangeStatus::Renamed, Some(first.to_owned())),
            _ => (ChangeStatus::Modified, None),
        };
        let path = match from {
            Some(_) => words.next().unwrap_or_default(),
            None => first,
        };
        let mode = |text: &str| u32::from_str_radix(text, 8).unwrap_or(0);
        found.push(Raw {
            old_mode: mode(old_mode),
            new_mode: mode(new_mode),
            status,
            path: path.to_owned(),
            from,
        });
    }
    found
}

/// `--numstat -z`: lines that came and went by path; none for binary files.
fn numbers<'w>(
    mut words: impl Iterator<Item = &'w [u8]>,
) -> HashMap<Vec<u8>, (Option<u64>, Option<u64>)> {
    let mut found = HashMap::new();
    while let Some(head) = words.next() {
        let mut fields = head.splitn(3, |byte| *byte == b'\t');
        let (Some(added), Some(removed), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let number = |text: &[u8]| {
            std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
        };
        let path = match path {
            // Renamed: both names follow.
            b"" => {
                words.next();
                words.next().unwrap_or_default()
            }
            path => path,
        };
        found.insert(path.to_owned(), (number(added), number(removed)));
    }
    found
}

/// `ls-tree -r -z`: mode, object, path.
pub(crate) fn tree_entries(output: &[u8]) -> Vec<(u32, String, Vec<u8>)> {
    let records = output.split(|byte| *byte == 0);
    records
        .filter_map(|record| {
            let tab = record.iter().position(|byte| *byte == b'\t')?;
            let head = std::str::from_utf8(&record[..tab]).ok()?;
            let mut words = head.split(' ');
            let mode = u32::from_str_radix(words.next()?, 8).ok()?;
            let oid = words.nth(1)?.to_owned();
            Some((mode, oid, record[tab + 1..].to_owned()))
        })
        .collect()
}

/// A tree as a map.
pub(crate) fn tree_map(scratch: &Scratch, tree: &str) -> Result<BTreeMap<Vec<u8>, (u32, String)>> {
    let listed = scratch
        .call("ls-tree")
        .args(["-r", "-z", "--full-tree", tree])
        .output()?;
    let entries = tree_entries(&listed).into_iter();
    Ok(entries
        .map(|(mode, oid, path)| (path, (mode, oid)))
        .collect())
}
