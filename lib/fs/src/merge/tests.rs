//! Merge semantics: a table of cases, and random stacks against a model that applies layers
//! bottom-up.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::Merge;
use crate::data::{BLOCK, Data};
use crate::tree::{Content, InodeId, NodeId, Tree};
use crate::{Error, Fault, Layer, Limits};

#[path = "../../tests/common/tar.rs"]
mod tar;
use tar::Tar;

type Listing = BTreeMap<String, String>;

/// Merges layers, topmost first, and lists the tree: directories as their mode, files as their
/// content, links as `-> target`; names of one inode are followed by its first name. Whether hidden
/// files are skipped makes no difference.
fn list(layers: &[Vec<u8>]) -> Result<Listing, Error> {
    let plain = list_once(layers, false);
    let skipping = list_once(layers, true);
    match (&plain, &skipping) {
        (Ok(plain), Ok(skipping)) => assert_eq!(plain, skipping),
        (plain, skipping) => assert_eq!(plain.is_err(), skipping.is_err()),
    }
    plain
}

fn layer<'a>(name: &str, bytes: &'a [u8], again: bool) -> Layer<'a> {
    Layer {
        name: name.to_owned(),
        open: Box::new(move || Ok(Box::new(bytes))),
        again,
    }
}

fn list_once(layers: &[Vec<u8>], again: bool) -> Result<Listing, Error> {
    let file = tempfile::tempfile().unwrap();
    let limits = Limits::default();
    let data = Data::new(&file, |block| block..u64::MAX);
    let mut merge = Merge::new(data, &limits, 0, &|_| {});
    for (i, bytes) in layers.iter().enumerate() {
        merge.layer(&mut self::layer(&format!("layer{i}"), bytes, again))?;
    }
    let root = merge.finish()?;
    merge.data.flush().unwrap();
    let mut listing = Listing::new();
    let mut first = HashMap::new();
    let mut todo = vec![root];
    let mut nodes = Vec::new();
    while let Some(node) = todo.pop() {
        todo.extend(merge.tree.sorted_children(node));
        nodes.push((String::from_utf8(merge.tree.path(node)).unwrap(), node));
    }
    nodes.sort_by(|a, b| a.0.cmp(&b.0));
    let mut names = HashMap::<InodeId, u32>::new();
    for (path, node) in nodes {
        let inode = merge.tree.inode_of(node);
        *names.entry(inode).or_default() += 1;
        let mut line = describe(&merge.tree, &merge.data, &file, node);
        let first = first.entry(inode).or_insert_with(|| path.clone());
        if *first != path {
            line += &format!(" = {first}");
        }
        listing.insert(path, line);
    }
    for (inode, count) in names {
        assert_eq!(merge.tree.inode(inode).refs, count, "link counts are exact");
    }
    Ok(listing)
}

fn describe(tree: &Tree, data: &Data<'_>, file: &File, node: NodeId) -> String {
    let inode = tree.inode(tree.inode_of(node));
    match inode.content {
        Content::Directory(_) => format!("{:o}", inode.mode & 0o7777),
        Content::File(extents) => {
            let mut bytes = vec![0; inode.size as usize];
            for extent in data.extents(extents) {
                let at = extent.logical as usize * BLOCK;
                let end = (at + extent.len as usize * BLOCK).min(bytes.len());
                file.read_exact_at(&mut bytes[at..end], extent.start * BLOCK as u64)
                    .unwrap();
            }
            String::from_utf8(bytes).unwrap()
        }
        Content::Symlink(text) => format!("-> {}", String::from_utf8_lossy(tree.text(text))),
        ref other => format!("{other:?}"),
    }
}

fn tree(layers: Vec<Tar>) -> String {
    let layers: Vec<_> = layers.into_iter().map(Tar::end).collect();
    let listing = list(&layers).unwrap();
    let lines = listing.iter().filter(|(path, _)| !path.is_empty());
    lines
        .map(|(path, line)| format!("{path}: {line}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn fault(layers: Vec<Tar>) -> (String, String, Fault) {
    let layers: Vec<_> = layers.into_iter().map(Tar::end).collect();
    match list(&layers) {
        Err(Error::Entry {
            layer,
            entry,
            fault,
        }) => (layer, entry, fault),
        other => panic!("{other:?}"),
    }
}

fn new() -> Tar {
    Tar::new()
}

#[test]
fn layers_merge_as_the_image_spec_says() {
    let base = || {
        let tar = new()
            .dir_mode("d/", 0o750)
            .file("d/f", b"base f")
            .file("d/g", b"base g");
        tar.dir("d/s")
            .file("d/s/x", b"base x")
            .file("top", b"base top")
    };
    let cases: Vec<(&str, Vec<Tar>, &str)> = vec![
        ("nothing", vec![new()], ""),
        ("no layer", vec![], ""),
        (
            "upper wins",
            vec![new().file("top", b"new"), base()],
            "d: 750, d/f: base f, d/g: base g, d/s: 755, d/s/x: base x, top: new",
        ),
        (
            "whiteout",
            vec![new().whiteout("d/.wh.f").whiteout(".wh.top"), base()],
            "d: 750, d/g: base g, d/s: 755, d/s/x: base x",
        ),
        (
            "whiteout of a directory",
            vec![new().whiteout(".wh.d"), base()],
            "top: base top",
        ),
        (
            "a whiteout creates nothing",
            vec![
                new().whiteout("no/.wh.x").whiteout("n/.wh..wh..opq"),
                new().file("a", b"a"),
            ],
            "a: a",
        ),
        (
            "whiteout then directory, implied",
            vec![new().whiteout(".wh.d").file("d/new", b"n"), base()],
            "d: 755, d/new: n, top: base top",
        ),
        (
            "directory then whiteout",
            vec![
                new()
                    .dir_mode("d", 0o700)
                    .file("d/new", b"n")
                    .whiteout(".wh.d"),
                base(),
            ],
            "d: 700, d/new: n, top: base top",
        ),
        (
            "opaque before its entries",
            vec![new().whiteout("d/.wh..wh..opq").file("d/f", b"n"), base()],
            "d: 750, d/f: n, top: base top",
        ),
        (
            "opaque after its entries",
            vec![new().file("d/f", b"n").whiteout("d/.wh..wh..opq"), base()],
            "d: 750, d/f: n, top: base top",
        ),
        (
            "opaque keeps attributes through an implied directory between",
            vec![
                new().whiteout("d/.wh..wh..opq"),
                new().file("d/m", b"m"),
                base(),
            ],
            "d: 750, top: base top",
        ),
        (
            "opaque root",
            vec![new().whiteout(".wh..wh..opq").file("a", b"a"), base()],
            "a: a",
        ),
        (
            "a file over a directory",
            vec![new().file("d", b"file"), base()],
            "d: file, top: base top",
        ),
        (
            "a directory over a file hides what the file hid",
            vec![
                new().dir("top").file("top/n", b"n"),
                new().file("top", b"file"),
                new().dir("top").file("top/old", b"o"),
            ],
            "top: 755, top/n: n",
        ),
        (
            "a middle whiteout counts for what is below it only",
            vec![new().file("d/n", b"n"), new().whiteout(".wh.d"), base()],
            "d: 755, d/n: n, top: base top",
        ),
        (
            "a masked ghost",
            vec![new().whiteout("d/.wh.f"), new().whiteout(".wh.d"), base()],
            "top: base top",
        ),
        (
            "a ghost over a file",
            vec![new().whiteout("d/.wh.f"), new().file("d", b"file"), base()],
            "d: file, top: base top",
        ),
        (
            "attributes of the upper directory",
            vec![new().dir_mode("d", 0o711), base()],
            "d: 711, d/f: base f, d/g: base g, d/s: 755, d/s/x: base x, top: base top",
        ),
        (
            "later in the layer wins",
            vec![
                new()
                    .file("a", b"1")
                    .file("a", b"2")
                    .dir("b")
                    .file("b/c", b"c")
                    .file("b", b"f"),
            ],
            "a: 2, b: f",
        ),
        (
            "a directory given twice keeps its children",
            vec![new().dir("b").file("b/c", b"c").dir_mode("b", 0o711)],
            "b: 711, b/c: c",
        ),
        (
            "file then directory in one layer hides lower ones",
            vec![new().file("d", b"f").dir("d"), base()],
            "d: 755, top: base top",
        ),
        (
            "hardlink in the layer",
            vec![new().file("a", b"a").link("b", "a").link("c", "./b")],
            "a: a, b: a = a, c: a = a",
        ),
        (
            "hardlink to a lower layer",
            vec![new().link("l", "d/f").link("m", "l"), base()],
            "d: 750, d/f: base f, d/g: base g, d/s: 755, d/s/x: base x, l: base f = d/f, \
             m: base f = d/f, top: base top",
        ),
        (
            "hardlink to what an upper layer replaces or hides",
            vec![
                new().whiteout(".wh.d").file("top", b"new"),
                new().link("l", "d/f").link("t", "top"),
                base(),
            ],
            "l: base f, t: base top, top: new",
        ),
        (
            "hardlink to a hidden file of its own layer",
            vec![
                new().whiteout(".wh.a"),
                new().file("a", b"a").link("b", "a"),
            ],
            "b: a",
        ),
        (
            "hardlink through two layers",
            vec![
                new().link("c", "b"),
                new().link("b", "a").whiteout(".wh.a"),
                new().file("a", b"a"),
            ],
            "b: a, c: a = b",
        ),
        (
            "a link of the same layer is followed",
            vec![
                new()
                    .symlink("lib", b"usr/lib")
                    .file("lib/f", b"f")
                    .link("l", "/lib/f"),
            ],
            "l: f, lib: -> usr/lib, usr: 755, usr/lib: 755, usr/lib/f: f = l",
        ),
        (
            "links never lead out",
            vec![new().symlink("a", b"/../../b").file("a/f", b"f")],
            "a: -> /../../b, b: 755, b/f: f",
        ),
        (
            "a link of a lower layer is replaced",
            vec![
                new().file("lib/f", b"f"),
                new().symlink("lib", b"usr/lib").dir("usr/lib"),
            ],
            "lib: 755, lib/f: f, usr: 755, usr/lib: 755",
        ),
        (
            "absolute and dotted names",
            vec![new().file("/a", b"a").file("./b/./c", b"c").dir("./")],
            "a: a, b: 755, b/c: c",
        ),
        (
            "aufs metadata",
            vec![
                new()
                    .file(".wh..wh.plnk/1.2", b"x")
                    .file(".wh..wh.aufs", b"")
                    .file("a", b"a"),
            ],
            "a: a",
        ),
        (
            "nodes",
            vec![new().entry(b'6', b"p", |_| {}, b"").entry(
                b'3',
                b"c",
                |header| header.device(5, 1),
                b"",
            )],
            "c: Device { major: 5, minor: 1 }, p: Fifo",
        ),
    ];
    for (name, layers, expected) in cases {
        assert_eq!(tree(layers), expected, "{name}");
    }
}

#[test]
fn faults_name_layer_and_entry() {
    let long = "x".repeat(256);
    let cases: Vec<(Vec<Tar>, &str, &str, Fault)> = vec![
        (
            vec![new(), new().file("../a", b"")],
            "layer1",
            "../a",
            Fault::Parent,
        ),
        (
            vec![new().link("a", "b/../c")],
            "layer0",
            "a",
            Fault::Parent,
        ),
        (
            vec![new().file("a/../b", b"")],
            "layer0",
            "a/../b",
            Fault::Parent,
        ),
        (
            vec![new().file(&long, b"")],
            "layer0",
            &long,
            Fault::NameTooLong,
        ),
        (
            vec![new().file("f", b"").file("f/a", b"")],
            "layer0",
            "f/a",
            Fault::NotADirectory,
        ),
        (
            vec![new().link("l", "no"), new()],
            "layer0",
            "l",
            Fault::Dangling("no".into()),
        ),
        (
            vec![
                new().link("l", "f"),
                new().whiteout(".wh.f"),
                new().file("f", b""),
            ],
            "layer0",
            "l",
            Fault::Dangling("f".into()),
        ),
        (
            vec![new().link("l", "d"), new().dir("d")],
            "layer0",
            "l",
            Fault::LinkToDirectory("d".into()),
        ),
        (
            vec![new().symlink("a", b"a").file("a/b", b"")],
            "layer0",
            "a/b",
            Fault::Loop,
        ),
        (
            vec![new().symlink("a", b"")],
            "layer0",
            "a",
            Fault::Target(0),
        ),
        (vec![new().file("./", b"")], "layer0", "./", Fault::Root),
        (
            vec![new().whiteout("d/.wh.")],
            "layer0",
            "d/.wh.",
            Fault::Whiteout,
        ),
        (
            vec![new().entry(b'M', b"m", |_| {}, b"")],
            "layer0",
            "m",
            Fault::Type('M'),
        ),
        (
            vec![new().pax("uid", b"4294967296").file("u", b"")],
            "layer0",
            "u",
            Fault::Owner,
        ),
        (
            vec![new().pax("SCHILY.xattr.", b"v").file("x", b"")],
            "layer0",
            "x",
            Fault::XattrName,
        ),
    ];
    for (layers, layer, entry, expected) in cases {
        assert_eq!(
            fault(layers),
            (layer.to_owned(), entry.to_owned(), expected)
        );
    }
}

#[test]
fn hidden_data_is_given_back() {
    let big = vec![b'x'; 10 * BLOCK];
    let file = tempfile::tempfile().unwrap();
    let limits = Limits::default();
    let data = Data::new(&file, |block| block..u64::MAX);
    let mut merge = Merge::new(data, &limits, 0, &|_| {});
    let upper = new()
        .whiteout(".wh.a")
        .file("b", &big)
        .file("b", b"small")
        .end();
    merge.layer(&mut layer("upper", &upper, false)).unwrap();
    let lower = new().file("a", &big).file("c", b"c").end();
    merge.layer(&mut layer("lower", &lower, false)).unwrap();
    merge.finish().unwrap();
    merge.data.punch().unwrap();
    let free: u64 = merge.data.free_runs().map(|run| run.end - run.start).sum();
    assert_eq!(merge.data.next() - free, 2, "only two small files remain");
}

#[derive(Clone, Debug)]
enum Op {
    File(Vec<u8>),
    Dir(Vec<u8>, u32),
    Symlink(Vec<u8>),
    Link(Vec<u8>, Vec<u8>),
    Whiteout(Vec<u8>),
    Opaque(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Dir(u32),
    Leaf(usize),
}

/// Layers applied bottom-up, whiteouts first; paths are short strings of single-letter names.
#[derive(Default)]
struct Model {
    files: BTreeMap<Vec<u8>, Kind>,
    leaves: Vec<String>,
}

struct Broken;

impl Model {
    /// Applies a layer and returns it as an archive, without the entries that cannot be unless
    /// `strict`.
    fn apply(&mut self, ops: &[Op], strict: bool) -> Result<Tar, (Tar, Broken)> {
        let lower = self.files.clone();
        let mut own: BTreeMap<Vec<u8>, Kind> = BTreeMap::new();
        let mut tar = new();
        let mut broken = false;
        for op in ops {
            match op {
                Op::Whiteout(path) => remove(&mut self.files, path, true),
                Op::Opaque(path) if matches!(lower.get(path), Some(Kind::Dir(_)) | None) => {
                    remove(&mut self.files, path, false);
                }
                _ => {}
            }
        }
        for op in ops {
            let (path, to) = match op {
                Op::File(path) | Op::Dir(path, _) | Op::Symlink(path) => (path, None),
                Op::Link(path, to) => (path, Some(to)),
                Op::Whiteout(path) => {
                    let (last, parent) = path.split_last().unwrap();
                    tar = tar.whiteout(&text(
                        &[parent, b""].concat(),
                        &format!(".wh.{}", *last as char),
                    ));
                    continue;
                }
                Op::Opaque(path) => {
                    tar = tar.whiteout(&text(path, ".wh..wh..opq"));
                    continue;
                }
            };
            if self.through_link(&own, path) || to.is_some_and(|to| self.through_link(&own, to)) {
                continue;
            }
            let name = text(path, "");
            let content = self.leaves.len().to_string();
            if self.entry(op, path, &lower, &mut own).is_err() {
                if !strict {
                    continue;
                }
                broken = true;
            }
            tar = match op {
                Op::File(_) => tar.file(&name, content.as_bytes()),
                Op::Dir(_, mode) => tar.dir_mode(&name, *mode),
                Op::Symlink(_) => tar.symlink(&name, b"a/b"),
                _ => tar.link(&name, &text(to.unwrap(), "")),
            };
        }
        if broken { Err((tar, Broken)) } else { Ok(tar) }
    }

    fn through_link(&self, own: &BTreeMap<Vec<u8>, Kind>, path: &[u8]) -> bool {
        (0..path.len()).any(|end| match own.get(&path[..end]) {
            Some(Kind::Leaf(leaf)) => self.leaves[*leaf].starts_with("->"),
            _ => false,
        })
    }

    fn entry(
        &mut self,
        op: &Op,
        path: &[u8],
        lower: &BTreeMap<Vec<u8>, Kind>,
        own: &mut BTreeMap<Vec<u8>, Kind>,
    ) -> Result<(), Broken> {
        let leaf = |own: &BTreeMap<Vec<u8>, Kind>, path: &[u8]| {
            (0..path.len()).any(|end| matches!(own.get(&path[..end]), Some(Kind::Leaf(_))))
        };
        let kind = match op {
            Op::Dir(_, mode) => Kind::Dir(*mode),
            Op::Link(_, to) => {
                if leaf(own, to) {
                    return Err(Broken);
                }
                match own.get(to).or(lower.get(to)) {
                    Some(Kind::Leaf(leaf)) => Kind::Leaf(*leaf),
                    _ => return Err(Broken),
                }
            }
            Op::Symlink(_) => Kind::Leaf(self.leaf("-> a/b".into())),
            _ => Kind::Leaf(self.leaf(self.leaves.len().to_string())),
        };
        if leaf(own, path) {
            return Err(Broken);
        }
        for end in 0..path.len() {
            let parent = &path[..end];
            own.entry(parent.to_vec()).or_insert(Kind::Dir(0o755));
            if !matches!(self.files.get(parent), Some(Kind::Dir(_))) {
                self.files.insert(parent.to_vec(), Kind::Dir(0o755));
            }
        }
        let keeps = matches!(kind, Kind::Dir(_));
        for files in [&mut self.files, own] {
            if !(keeps && matches!(files.get(path), Some(Kind::Dir(_)))) {
                remove(files, path, true);
            }
            files.insert(path.to_vec(), kind.clone());
        }
        Ok(())
    }

    fn leaf(&mut self, what: String) -> usize {
        self.leaves.push(what);
        self.leaves.len() - 1
    }

    fn listing(&self) -> Listing {
        let mut first = HashMap::new();
        let mut listing = Listing::from([(String::new(), "755".to_owned())]);
        let mut sorted: Vec<_> = self
            .files
            .iter()
            .map(|(path, kind)| (text(path, ""), kind))
            .collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, kind) in sorted {
            let line = match kind {
                Kind::Dir(mode) => format!("{mode:o}"),
                Kind::Leaf(leaf) => {
                    let first = first.entry(leaf).or_insert_with(|| name.clone());
                    match *first == name {
                        true => self.leaves[*leaf].clone(),
                        false => format!("{} = {first}", self.leaves[*leaf]),
                    }
                }
            };
            listing.insert(name, line);
        }
        listing
    }
}

fn remove(files: &mut BTreeMap<Vec<u8>, Kind>, path: &[u8], itself: bool) {
    files.retain(|at, _| !at.starts_with(path) || (!itself && at == path));
}

fn text(path: &[u8], more: &str) -> String {
    let mut parts: Vec<String> = path.iter().map(|&b| char::from(b).to_string()).collect();
    if !more.is_empty() {
        parts.push(more.to_owned());
    }
    parts.join("/")
}

fn op() -> impl Strategy<Value = Op> {
    let letter = || prop::sample::select(b"abc".to_vec());
    let path = move || prop::collection::vec(letter(), 1..4);
    let directory = move || prop::collection::vec(letter(), 0..3);
    let mode = prop::sample::select(vec![0o700, 0o711, 0o777]);
    prop_oneof![
        4 => path().prop_map(Op::File),
        3 => (directory(), mode).prop_map(|(path, mode)| Op::Dir(path, mode)),
        1 => path().prop_map(Op::Symlink),
        2 => (path(), path()).prop_map(|(path, to)| Op::Link(path, to)),
        2 => path().prop_map(Op::Whiteout),
        1 => directory().prop_map(Op::Opaque),
    ]
}

fn agree(stack: &[Vec<Op>], strict: bool) -> TestCaseResult {
    let mut model = Model::default();
    let mut layers = Vec::new();
    let mut broken = false;
    for ops in stack {
        let tar = model.apply(ops, strict).unwrap_or_else(|(tar, Broken)| {
            broken = true;
            tar
        });
        layers.insert(0, tar.end());
    }
    match list(&layers) {
        Ok(listing) => {
            prop_assert!(!broken, "should have failed: {listing:?}");
            prop_assert_eq!(listing, model.listing());
        }
        Err(error) => prop_assert!(broken, "{error}"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn top_down_equals_bottom_up(
        stack in prop::collection::vec(prop::collection::vec(op(), 0..8), 1..5),
        strict in prop::bool::weighted(0.2),
    ) {
        agree(&stack, strict)?;
    }
}
