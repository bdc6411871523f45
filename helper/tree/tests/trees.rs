//! Trees there and back, and what a hostile sender cannot do.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use banger_tree::{Limits, MAX_DEPTH, Reader, Receive, Result, Send, Summary, TreeError, Writer};

fn sent(paths: &[&Path], options: Send) -> (Vec<u8>, Summary) {
    let mut writer = Writer::new(Vec::new());
    let summary = banger_tree::send(&mut writer, paths, options, &mut |_| {}).unwrap();
    writer.done().unwrap();
    let bytes = std::mem::take(writer.output());
    (bytes, summary)
}

fn received(bytes: &[u8], target: &Path, options: &Receive) -> Result<Summary> {
    let mut reader = Reader::new(bytes, Limits::default());
    banger_tree::receive(&mut reader, target, options, &mut |_| {})
}

fn copy(from: &Path, to: &Path) -> Summary {
    received(&sent(&[from], Send::default()).0, to, &Receive::default()).unwrap()
}

/// Path → what it is, with content, mode and time.
fn look(top: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(top: &Path, at: &Path, seen: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let what = if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                walk(top, &path, seen);
                "directory".to_owned()
            } else if kind.is_fifo() {
                "pipe".to_owned()
            } else {
                let content = fs::read(&path).unwrap();
                let end = content.len().min(20);
                format!("{} {}", content.len(), content[..end].escape_ascii())
            };
            let (mode, time) = (meta.mode() & 0o7777, (meta.mtime(), meta.mtime_nsec()));
            let mode = if kind.is_symlink() { 0 } else { mode };
            seen.insert(
                path.strip_prefix(top).unwrap().to_owned(),
                format!("{what} {mode:o} {time:?}"),
            );
        }
    }
    let mut seen = BTreeMap::new();
    walk(top, top, &mut seen);
    seen
}

fn example(at: &Path) {
    fs::create_dir_all(at.join("d/e")).unwrap();
    fs::write(at.join("d/file"), "text").unwrap();
    fs::write(at.join("d/e/empty"), "").unwrap();
    fs::write(at.join("big"), vec![b'x'; 400_000]).unwrap();
    fs::write(at.join(std::ffi::OsStr::from_bytes(b"odd \xff\n\x1b")), "o").unwrap();
    symlink("/etc/passwd", at.join("absolute")).unwrap();
    symlink("nowhere", at.join("d/dangling")).unwrap();
    symlink("d", at.join("to-directory")).unwrap();
    nix::unistd::mkfifo(&at.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    fs::set_permissions(at.join("d/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_007, 123_456_789);
    for name in ["d/file", "d/e"] {
        let file = File::open(at.join(name)).unwrap();
        file.set_modified(old).unwrap();
    }
    fs::set_permissions(at.join("d/e"), fs::Permissions::from_mode(0o555)).unwrap();
}

#[test]
fn a_tree_arrives_as_it_was() {
    let base = tempfile::tempdir().unwrap();
    let from = base.path().join("from");
    fs::create_dir(&from).unwrap();
    example(&from);
    let to = base.path().join("to");
    let summary = copy(&from, &to);
    let mut expected = look(&from);
    // Without `archive` nobody gains rights by what arrives.
    for what in expected.values_mut() {
        *what = what.replace(" 4751 ", " 751 ");
    }
    assert_eq!(look(&to), expected);
    assert_eq!((summary.left_out, summary.bytes), (0, 400_005));

    let archive = Send {
        archive: true,
        ..Send::default()
    };
    let options = Receive {
        archive: true,
        ..Receive::default()
    };
    received(
        &sent(&[&from], archive).0,
        &base.path().join("all"),
        &options,
    )
    .unwrap();
    assert_eq!(look(&base.path().join("all")), look(&from));
}

#[test]
fn targets_are_those_of_cp() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/f"), "1").unwrap();
    fs::write(at("file"), "2").unwrap();
    fs::create_dir(at("into")).unwrap();
    copy(&at("dir"), &at("into"));
    copy(&at("file"), &at("into"));
    copy(&at("dir/."), &at("into"));
    copy(&at("dir/."), &at("new"));
    copy(&at("file"), &at("name"));
    copy(&at("file"), &at("dir/f"));
    for (path, content) in [
        ("into/dir/f", "1"),
        ("into/file", "2"),
        ("into/f", "1"),
        ("new/f", "1"),
        ("name", "2"),
        ("dir/f", "2"),
    ] {
        assert_eq!(fs::read_to_string(at(path)).unwrap(), content, "{path}");
    }
    // A link to a file stays one, a link to a directory is one.
    symlink("name", at("link")).unwrap();
    symlink("into", at("link-to-directory")).unwrap();
    fs::write(at("file"), "3").unwrap();
    copy(&at("file"), &at("link"));
    copy(&at("file"), &at("link-to-directory"));
    assert_eq!(fs::read_to_string(at("name")).unwrap(), "3");
    assert!(at("link").is_symlink());
    assert_eq!(fs::read_to_string(at("into/file")).unwrap(), "3");

    let refused = |from: &str, to: &str| {
        let bytes = sent(&[&at(from)], Send::default()).0;
        received(&bytes, &base.path().join(to), &Receive::default()).unwrap_err()
    };
    assert!(matches!(refused("dir", "file"), TreeError::Refused(_)));
    assert!(matches!(
        refused("file", "missing/"),
        TreeError::File { .. }
    ));
    assert!(matches!(
        refused("file", "missing/x"),
        TreeError::File { .. }
    ));
    let several = Receive {
        several: true,
        ..Receive::default()
    };
    let bytes = sent(&[&at("dir/f"), &at("file")], Send::default()).0;
    assert!(received(&bytes, &at("missing"), &several).is_err());
    received(&bytes, &at("new"), &several).unwrap();
    let unsent = |path: &Path| {
        let mut writer = Writer::new(Vec::new());
        let sent = banger_tree::send(&mut writer, &[path], Send::default(), &mut |_| {});
        sent.unwrap_err()
    };
    let missing = unsent(&at("no"));
    // Once, whoever prints it.
    assert!(
        missing.to_string().contains("no: No such file"),
        "{missing}"
    );
    assert!(std::error::Error::source(&missing).is_none());
    let kernels = unsent(Path::new("/proc/self/status")).to_string();
    assert!(kernels.contains("of the kernel's own"), "{kernels}");

    // What other programs know by its name is no file to replace.
    let pipe = at("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for (name, kind) in [("pipe", "a pipe"), ("socket", "a socket")] {
        let said = refused("file", name).to_string();
        assert!(
            said.ends_with(&format!("is here already and is {kind}")),
            "{said}"
        );
    }
    copy(&pipe, &at("into"));
    copy(&pipe, &at("into"));
}

#[test]
fn links_between_files_and_holes_are_kept() {
    let base = tempfile::tempdir().unwrap();
    let from = base.path().join("from");
    fs::create_dir_all(from.join("d")).unwrap();
    fs::write(from.join("a"), "same").unwrap();
    fs::hard_link(from.join("a"), from.join("d/b")).unwrap();
    fs::hard_link(from.join("a"), from.join("c")).unwrap();
    let mut sparse = File::create(from.join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(64 << 20)).unwrap();
    sparse.write_all(b"middle").unwrap();
    sparse.set_len(128 << 20).unwrap();
    drop(sparse);
    for (source, target, sub) in [
        (from.clone(), base.path().join("to"), ""),
        (from.join("."), base.path().join("contents"), ""),
        (from.clone(), base.path().to_owned(), "from"),
    ] {
        if sub.is_empty() {
            let (bytes, summary) = sent(&[&source], Send::default());
            assert!(bytes.len() < 1 << 20, "holes are not sent");
            assert!(summary.bytes < 1 << 20, "{summary:?}");
            received(&bytes, &target, &Receive::default()).unwrap();
        }
        let inode = |name: &str| fs::metadata(target.join(sub).join(name)).unwrap().ino();
        assert_eq!((inode("a"), inode("c")), (inode("d/b"), inode("a")));
        let copy = target.join(sub).join("sparse");
        let meta = fs::metadata(&copy).unwrap();
        assert_eq!(meta.len(), 128 << 20);
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        let mut file = File::open(&copy).unwrap();
        file.seek(SeekFrom::Start(64 << 20)).unwrap();
        let mut middle = [0; 6];
        file.read_exact(&mut middle).unwrap();
        assert_eq!(&middle, b"middle");
    }
    // Onto itself: the names are replaced, and nothing is left beside them.
    let (bytes, _) = sent(&[&from], Send::default());
    received(&bytes, &base.path().join("to"), &Receive::default()).unwrap();
    let names = |at: &Path| fs::read_dir(at).unwrap().count();
    assert_eq!(names(&base.path().join("to/from")), names(&from));
}

#[test]
fn what_cannot_be_copied_is_said() {
    let base = tempfile::tempdir().unwrap();
    let from = base.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("file"), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let (bytes, summary) = sent(&[&from], Send::default());
    assert_eq!(summary.problems, ["from/socket: sockets are not copied"]);
    let there = received(&bytes, &base.path().join("to"), &Receive::default()).unwrap();
    assert_eq!((there.problems, there.left_out), (summary.problems, 1));
    assert_eq!(look(&base.path().join("to")).len(), 1);
    let mut writer = Writer::new(Vec::new());
    for (path, why) in [("/dev/null", "devices"), ("/proc", "kernel")] {
        let refused = banger_tree::send(
            &mut writer,
            &[Path::new(path)],
            Send::default(),
            &mut |_| {},
        );
        assert!(refused.unwrap_err().to_string().contains(why), "{path}");
    }
}

/// Frames as a hostile sender writes them: it does not use our names.
struct Hostile(Vec<u8>);

impl Hostile {
    fn raw(mut self, kind: u8, payload: &[u8]) -> Self {
        self.0.push(kind);
        self.0
            .extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.0.extend_from_slice(payload);
        self
    }

    fn entry(self, kind: u8, extra: u64, name: &[u8], more: &[&[u8]]) -> Self {
        let mut payload = vec![kind];
        payload.extend_from_slice(&extra.to_le_bytes());
        for word in [0o755u32, 0, 0, 0] {
            payload.extend_from_slice(&word.to_le_bytes());
        }
        payload.extend_from_slice(&0i64.to_le_bytes());
        for string in [name].iter().chain(more) {
            payload.extend_from_slice(&(string.len() as u32).to_le_bytes());
            payload.extend_from_slice(string);
        }
        payload.extend_from_slice(&0u32.to_le_bytes());
        self.raw(1, &payload)
    }

    fn directory(self, name: &[u8]) -> Self {
        self.entry(0, 0, name, &[])
    }

    fn file(self, name: &[u8], content: &[u8]) -> Self {
        self.entry(1, 3, name, &[]).raw(2, content).raw(4, &[])
    }

    fn leave(self) -> Self {
        self.raw(4, &[])
    }

    fn done(self) -> Vec<u8> {
        self.raw(5, &[]).0
    }
}

fn hostile() -> Hostile {
    Hostile(Vec::new())
}

#[test]
fn nothing_outside_the_target_is_written() {
    let names: [&[u8]; 7] = [b"..", b".", b"", b"/etc", b"../x", b"a/b", b"a\0b"];
    let mut streams: Vec<Vec<u8>> = Vec::new();
    for name in names {
        streams.push(hostile().file(name, b"bad").done());
        streams.push(hostile().directory(name).file(b"x", b"bad").leave().done());
        streams.push(hostile().directory(b"d").file(name, b"bad").leave().done());
        streams.push(hostile().entry(2, 0, name, &[b"/etc"]).done());
        streams.push(hostile().entry(3, 1, b"h", &[name]).done());
        streams.push(hostile().entry(4, 0, name, &[]).done());
    }
    // Through links of its own, and through one that is there.
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().as_os_str().as_bytes();
    for link in [b"l", b"t"] {
        let stream = || hostile().entry(2, 0, b"l", &[path]);
        streams.push(stream().directory(link).file(b"x", b"bad").leave().done());
        streams.push(stream().entry(3, 2, b"h", &[link, b"secret"]).done());
    }
    // Up, and out of what was entered.
    streams.push(hostile().leave().file(b"x", b"bad").done());
    streams.push(hostile().directory(b"d").leave().leave().done());
    streams.push(
        hostile()
            .directory(b"d")
            .file(b"x", b"bad")
            .leave()
            .leave()
            .done(),
    );
    fs::write(outside.path().join("secret"), "secret").unwrap();
    for (number, stream) in streams.iter().enumerate() {
        let base = tempfile::tempdir().unwrap();
        let target = base.path().join("target");
        fs::create_dir(&target).unwrap();
        symlink(outside.path(), target.join("t")).unwrap();
        let error = received(stream, &target, &Receive::default()).unwrap_err();
        let names: Vec<_> = fs::read_dir(base.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{number}: {error}: {names:?}");
        let names: Vec<_> = fs::read_dir(outside.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{number}: {error}: {names:?}");
        assert_eq!(
            fs::metadata(outside.path().join("secret")).unwrap().nlink(),
            1
        );
        for name in fs::read_dir(&target).unwrap() {
            let name = name.unwrap().file_name();
            assert!(
                !name.as_bytes().starts_with(b".banger"),
                "{number}: {name:?}"
            );
        }
    }
}

#[test]
fn a_file_takes_the_place_of_a_link_and_not_of_its_target() {
    let base = tempfile::tempdir().unwrap();
    let target = base.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(base.path().join("precious"), "mine").unwrap();
    let stream = hostile()
        .entry(2, 0, b"l", &[b"../precious"])
        .file(b"l", b"bad")
        .done();
    received(&stream, &target, &Receive::default()).unwrap();
    assert_eq!(fs::read(base.path().join("precious")).unwrap(), b"mine");
    assert_eq!(fs::read(target.join("l")).unwrap(), b"bad");
    assert!(!target.join("l").is_symlink());
}

#[test]
fn limits_stop_what_does_not_end() {
    let base = tempfile::tempdir().unwrap();
    let limited = |bytes: &[u8], limits| {
        let mut reader = Reader::new(bytes, limits);
        let options = Receive::default();
        banger_tree::receive(&mut reader, base.path(), &options, &mut |_| {}).unwrap_err()
    };
    let bytes = |most| Limits {
        bytes: most,
        ..Limits::default()
    };
    let mut endless = hostile().entry(1, 5, b"endless", &[]);
    for _ in 0..10 {
        endless = endless.raw(2, &[b'x'; 1000]);
    }
    let error = limited(&endless.0, bytes(5000)).to_string();
    assert_eq!(error, "refused: more than 5000 bytes of content");

    let mut many = hostile();
    for number in 0..20 {
        many = many.entry(4, 0, format!("p{number}").as_bytes(), &[]);
    }
    let entries = Limits {
        entries: 10,
        ..Limits::default()
    };
    let error = limited(&many.0, entries).to_string();
    assert_eq!(error, "refused: more than 10 entries");
    // Nor do what is left out, and pieces with nothing in them, go on for ever.
    let mut excuses = hostile();
    for _ in 0..20 {
        excuses = excuses.raw(6, b"it is secret");
    }
    let error = limited(&excuses.0, entries).to_string();
    assert_eq!(error, "refused: more than 10 entries");
    for nothing in [(2, &b""[..]), (3, &[0; 8])] {
        let file = hostile().entry(1, 5, b"endless", &[]);
        let error = limited(&file.raw(nothing.0, nothing.1).0, Limits::default());
        assert!(error.to_string().contains("empty piece"), "{error}");
    }

    let mut deep = hostile();
    for _ in 0..=MAX_DEPTH {
        deep = deep.directory(b"d");
    }
    let error = limited(&deep.0, Limits::default()).to_string();
    assert!(error.contains("directories within each other"), "{error}");

    let file = || hostile().entry(1, 0, b"lies", &[]);
    for lie in [
        file().raw(3, &u64::MAX.to_le_bytes()).0,
        file().raw(3, &[1]).0,
        file().raw(5, &[]).0,
        file().directory(b"d").0,
        hostile().raw(2, b"no file").0,
        hostile().raw(99, b"").0,
        vec![1, 255, 255, 255, 255],
        file().0,
        Vec::new(),
    ] {
        limited(&lie, Limits::default());
    }
    assert!(!base.path().join("lies").exists());
    assert!(!base.path().join("endless").exists());
    let words = hostile().raw(7, b"no\x1b[2J such file").0;
    let error = limited(&words, Limits::default()).to_string();
    assert_eq!(error, "no\u{fffd}[2J such file");
}

#[test]
fn noise_is_an_error_and_nothing_else() {
    let mut state = 11u64;
    for _ in 0..300 {
        let base = tempfile::tempdir().unwrap();
        let good = hostile()
            .directory(b"d")
            .file(b"f", b"abc")
            .entry(2, 0, b"l", &[b"x"])
            .leave()
            .done();
        let mut bytes = good.clone();
        for _ in 0..3 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] ^= 1 << ((state >> 20) % 8);
        }
        let target = base.path().join("target");
        fs::create_dir(&target).unwrap();
        // Some changes, as of a letter of a name, are as good as what was there.
        let _ = received(&bytes, &target, &Receive::default());
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }
}
