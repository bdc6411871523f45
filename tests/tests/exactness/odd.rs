//! Four layers with every odd entry that layers have, and what follows where umoci and the OCI
//! image specification part ways.

use super::tree::Tree;

#[path = "../../../lib/fs/tests/common/tar.rs"]
mod tar;
use tar::{Header, Tar};

/// Directories that are only implied by what is in them, never described.
pub(crate) const IMPLIED: &[&str] = &["implied", "implied/deep", "replaced-by-implied", "t/to-aim"];

/// capabilities(7): version 2, `cap_net_raw+ep`.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const NO_ID: u32 = u32::MAX;

/// Who reads the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Us,
    /// It refuses what other readers of tar know: sparse files of old GNU tar (type `S`), contiguous
    /// files (`7`), global headers (`g`). It gets the same files in another form.
    Umoci,
}

/// The layers, lowest first.
pub(crate) fn layers(reader: For) -> Vec<Vec<u8>> {
    vec![base(reader), changes(), links_and_types(), top()]
}

/// Changes what umoci unpacked where it is not what the specification asks for.
pub(crate) fn decide(tree: &mut Tree) {
    // A directory that takes a file's place is implied: it gets defaults, not what the file had.
    node(tree, "replaced-by-implied").mode = 0o755;
    // umoci counts nanoseconds in 64 bits, which end in 2262; ext4 and EROFS go on.
    for path in ["times/8", "times/link8"] {
        node(tree, path).mtime = (15_032_385_535, 999_999_999);
    }
    // A directory has the time that its own entry says; umoci changes it when it makes an implied
    // directory inside.
    for path in ["w", "t"] {
        node(tree, path).mtime = (1_600_000_000, 0);
    }
}

fn node<'t>(tree: &'t mut Tree, path: &str) -> &'t mut super::tree::Node {
    tree.get_mut(path).expect("it is there")
}

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// Bytes without a pattern that a compressor would find, the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8))
        .flat_map(|_| next())
        .take(length)
        .collect()
}

fn text(length: usize) -> Vec<u8> {
    b"All work and no play makes a dull image.\n"
        .iter()
        .copied()
        .cycle()
        .take(length)
        .collect()
}

fn xattr(tar: Tar, name: &str, value: &[u8]) -> Tar {
    tar.pax(&format!("SCHILY.xattr.{name}"), value)
}

fn base(reader: For) -> Vec<u8> {
    let mut tar = Tar::new()
        .pax("mtime", b"1500000000.123456789")
        .dir_mode("./", 0o751);
    for (path, mode) in [
        ("etc/", 0o755),
        ("bin", 0o755),
        ("d/", 0o700),
        ("s", 0o2775),
    ] {
        tar = tar.dir_mode(path, mode);
    }
    tar = tar.dir_mode("tmp/", 0o1777);
    tar = tar.entry(b'0', b"bin/su", |header| header.mode(0o4755), b"");
    tar = tar.entry(b'0', b"bin/sg", |header| header.mode(0o6711), b"");
    tar = tar.entry(b'0', b"bin/none", |header| header.mode(0), b"");
    // Of before POSIX: a file without a type, and a directory that only its name tells.
    tar = tar
        .entry(0, b"bin/old", |_| {}, b"")
        .entry(0, b"bin/old-dir/", |_| {}, b"");
    let contiguous = if reader == For::Us { b'7' } else { b'0' };
    tar = tar.entry(contiguous, b"bin/contiguous", |_| {}, b"");
    if reader == For::Us {
        let comment = b"26 comment=of every entry\n";
        let size = |header: &mut Header| header.size(comment.len() as u64);
        tar = tar.entry(b'g', b"global", size, comment);
    }
    tar = sizes(tar);
    tar = times(tar);
    tar = owners(tar);
    tar = names(tar);
    tar = attributes(tar);
    tar = nodes(tar);
    tar = sparse(tar, reader);
    tar = tar.file("implied/deep/file", b"its directories are not listed");
    for path in [
        "keep",
        "hide",
        "hide-all/a",
        "hide-all/b/c",
        "opaque/old",
        "opaque/sub/old",
    ] {
        tar = tar.file(&format!("w/{path}"), path.as_bytes());
    }
    for path in [
        "w",
        "w/hide-all",
        "w/hide-all/b",
        "w/opaque",
        "w/opaque/sub",
        "w/parent",
    ] {
        tar = tar.dir(path);
    }
    tar = tar
        .file("w/parent/below", b"its parent is whited out")
        .file("w/.dot", b"");
    for name in ["file", "dir", "link", "fifo", "dir-to-link"] {
        tar = match name {
            "file" => tar.file("t/file", b"becomes a directory"),
            "dir" => tar.dir("t/dir").file("t/dir/gone", b"with its directory"),
            "link" => tar.symlink("t/link", b"dir"),
            "fifo" => tar.entry(b'6', b"t/fifo", |_| {}, b""),
            _ => tar.dir("t/dir-to-link").file("t/dir-to-link/gone", b""),
        };
    }
    tar = tar
        .dir("t")
        .file("h/one", b"three names")
        .link("h/two", "h/one");
    tar = tar
        .link("h/three", "./h/two")
        .file("h/alone", b"one name")
        .dir("h");
    tar = tar
        .symlink("h/symlink", b"one")
        .link("h/symlink2", "h/symlink");
    tar = tar
        .entry(b'6', b"h/fifo", |_| {}, b"")
        .link("h/fifo2", "h/fifo");
    // The same path twice: what comes last counts, and a directory keeps what is in it.
    tar = tar
        .file("twice/file", b"first")
        .file("twice/file", b"second, and longer");
    tar = tar
        .dir_mode("twice", 0o711)
        .file("twice/now-dir", b"x")
        .dir("twice/now-dir");
    tar = tar
        .file("twice/now-dir/in", b"in")
        .file("replaced-by-implied", b"a file");
    tar.end()
}

fn sizes(mut tar: Tar) -> Tar {
    for size in [
        0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, 131_073, 1_000_000,
    ] {
        tar = tar.file(&format!("sizes/noise-{size}"), &noise(size));
        tar = tar.file(&format!("sizes/text-{size}"), &text(size));
    }
    let mut holes = noise(300_000);
    holes[8192..200_000].fill(0);
    tar.file("sizes/zeros", &[0; 100_000])
        .file("sizes/zeros-within", &holes)
        .dir("sizes")
}

fn times(mut tar: Tar) -> Tar {
    for (i, time) in [
        "0",
        "-1",
        "-1.000000001",
        "-2147483648",
        "1.999999999",
        "2147483647.5",
        "2147483648.000000001",
        "4294967296.25",
        "15032385535.999999999",
    ]
    .iter()
    .enumerate()
    {
        tar = tar
            .pax("mtime", time.as_bytes())
            .file(&format!("times/{i}"), b"");
        tar = tar
            .pax("mtime", time.as_bytes())
            .symlink(&format!("times/link{i}"), b"nowhere");
    }
    let far = |header: &mut Header| header.base256(136, 12, 8_000_000_000);
    tar = tar.entry(b'0', b"times/base256", far, b"");
    // The directory's own time stands although files come after it.
    tar = tar.pax("mtime", b"1234567890.987654321").dir("times");
    tar.file("times/later", b"")
}

fn owners(mut tar: Tar) -> Tar {
    for (uid, gid) in [
        (0, 0),
        (1000, 100),
        (65534, 65535),
        (65536, 70000),
        (2_097_152, 1),
    ] {
        let own = |header: &mut Header| {
            header.base256(108, 8, uid);
            header.base256(116, 8, gid);
        };
        tar = tar.entry(b'0', format!("owners/{uid}").as_bytes(), own, b"");
    }
    tar = tar.pax("uid", b"4294967294").pax("gid", b"3000000000");
    tar = tar.file("owners/huge", b"").pax("uid", b"4000000000");
    tar.symlink("owners/link", b"huge").dir("owners")
}

fn names(mut tar: Tar) -> Tar {
    let deep = (0..12).map(|i| format!("level-{i:02}-{}", "x".repeat(60)));
    let deep = deep.collect::<Vec<_>>().join("/");
    tar = tar
        .dir("names")
        .file(&format!("names/{}", "n".repeat(255)), b"255");
    tar = tar.entry(b'0', b"names/\xff\xfe\x80", |_| {}, b"");
    tar = tar
        .pax("path", b"names/pax-\xe9\xff")
        .file("x", b"not UTF-8 either");
    for name in [
        "names/with space",
        "names/new\nline",
        "names/back\\slash",
        "names/\u{1f980}",
    ] {
        tar = tar.file(name, name.as_bytes());
    }
    for name in ["names/-", "names/!", "names/...", "names/a:b", "names/#x"] {
        tar = tar.file(name, b"");
    }
    // ustar: prefix and name; GNU: an entry that only carries the name.
    let prefixed = |header: &mut Header| {
        let prefix = b"names/prefix-of-ustar";
        header.raw[345..345 + prefix.len()].copy_from_slice(prefix);
    };
    tar = tar.entry(b'0', b"and/its-name", prefixed, b"");
    let long = format!("names/gnu/{}", "long/".repeat(40)) + "file";
    tar = gnu_long(tar, b'L', long.as_bytes());
    tar = tar.entry(b'0', b"short", gnu, b"");
    tar = gnu_long(tar, b'K', long.as_bytes());
    tar = tar.entry(b'1', b"names/gnu/hardlink", gnu, b"");
    tar = gnu_long(tar, b'K', &[b't'; 300]);
    tar = tar.entry(b'2', b"names/gnu/symlink", gnu, b"");
    for length in [59, 60, 100, 1000, 4000] {
        tar = tar.symlink(&format!("names/target-{length}"), &vec![b'T'; length]);
    }
    tar = tar.entry(
        b'2',
        b"names/target-raw",
        |header| header.link(b"\xff\x80"),
        b"",
    );
    tar = tar
        .symlink("names/self", b"self")
        .symlink("names/up", b"/../../etc");
    for directory in [
        "names/gnu",
        "names/prefix-of-ustar",
        "names/prefix-of-ustar/and",
    ] {
        tar = tar.dir(directory);
    }
    for end in 2..=42 {
        let path = long.split('/').take(end).collect::<Vec<_>>().join("/");
        tar = tar.dir(&path);
    }
    let deep = format!("names/{deep}");
    for (end, _) in deep.match_indices('/') {
        tar = tar.dir(&deep[..end]);
    }
    tar.file(&deep, b"deep")
}

fn gnu(header: &mut Header) {
    header.raw[257..265].copy_from_slice(b"ustar  \0");
}

fn gnu_long(tar: Tar, kind: u8, name: &[u8]) -> Tar {
    let name = [name, b"\0"].concat();
    let header = |header: &mut Header| {
        gnu(header);
        header.size(name.len() as u64);
    };
    tar.entry(kind, b"././@LongLink", header, &name)
}

fn attributes(mut tar: Tar) -> Tar {
    tar = xattr(tar, "security.capability", &CAPABILITY);
    tar = tar.entry(b'0', b"x/capable", |header| header.mode(0o755), b"");
    tar = tar.link("x/capable-too", "x/capable");
    // Version 3 belongs to a user namespace.
    let mut namespaced = CAPABILITY.to_vec();
    namespaced[3] = 3;
    namespaced.extend_from_slice(&100_000u32.to_le_bytes());
    tar = xattr(tar, "security.capability", &namespaced).file("x/namespaced", b"elf");
    let access = acl(&[
        (1, 6, NO_ID),
        (2, 7, 1000),
        (2, 4, 70000),
        (4, 4, NO_ID),
        (8, 5, 5),
        (0x10, 7, NO_ID),
        (0x20, 0, NO_ID),
    ]);
    let default = acl(&[
        (1, 7, NO_ID),
        (4, 5, NO_ID),
        (8, 7, 4_000_000_000),
        (0x10, 7, NO_ID),
        (0x20, 5, NO_ID),
    ]);
    tar = xattr(tar, "system.posix_acl_access", &access);
    tar = tar.entry(b'0', b"x/acl", |header| header.mode(0o670), b"");
    tar = xattr(tar, "system.posix_acl_default", &default);
    tar = xattr(tar, "user.beside-acl", b"x")
        .dir("x/acl-default")
        .file("x/acl-default/heir", b"");
    // An ACL that says what the mode says is none.
    let minimal = acl(&[(1, 6, NO_ID), (4, 4, NO_ID), (0x20, 4, NO_ID)]);
    tar = xattr(tar, "system.posix_acl_access", &minimal).file("x/acl-minimal", b"");
    tar = xattr(tar, "user.empty", b"");
    tar = xattr(tar, "user.binary", b"\0\xff\n=").file("x/values", b"");
    tar = xattr(tar, "user.large", &noise(3000));
    tar = xattr(tar, "trusted.small", b"t").file("x/large", b"");
    for i in 0..40 {
        tar = xattr(tar, &format!("user.{}", "k".repeat(i + 1)), &vec![b'v'; i]);
    }
    tar = tar.file("x/many", b"");
    for i in 0..50 {
        tar = xattr(tar, "user.shared", &text(600)).file(&format!("x/shared-{i}"), b"");
    }
    tar = xattr(tar, "user.dir", b"d").dir("x");
    tar = xattr(tar, "trusted.on-symlink", b"s").symlink("x/symlink", b"values");
    xattr(tar, "trusted.on-fifo", b"f").entry(b'6', b"x/fifo", |_| {}, b"")
}

fn nodes(mut tar: Tar) -> Tar {
    for (kind, name, major, minor) in [
        (b'3', "null", 1, 3),
        (b'3', "tty", 5, 1),
        (b'4', "loop", 7, 255),
        (b'4', "nvme", 259, 70_000),
        (b'3', "far", 4095, 1_048_575),
    ] {
        let header = |header: &mut Header| {
            header.mode(0o660);
            header.device(major, minor);
        };
        tar = tar.entry(kind, format!("dev/{name}").as_bytes(), header, b"");
    }
    tar.dir("dev")
        .entry(b'6', b"dev/fifo", |header| header.mode(0o622), b"")
}

/// The same file in every sparse format, and its content once without any.
fn sparse(mut tar: Tar, reader: For) -> Tar {
    let size = 3_000_000u64;
    let pieces = [
        (0u64, 1000u64),
        (8192, 4096),
        (1_000_000, 70_000),
        (2_999_000, 500),
    ];
    let data: Vec<u8> = noise(pieces.iter().map(|piece| piece.1).sum::<u64>() as usize);
    let gnu_sparse = |header: &mut Header| {
        gnu(header);
        header.size(data.len() as u64);
        for (i, (offset, length)) in pieces.iter().enumerate() {
            header.octal(386 + i * 24, 12, *offset);
            header.octal(398 + i * 24, 12, *length);
        }
        header.octal(483, 12, size);
    };
    let (mut whole, mut rest) = (vec![0; size as usize], &data[..]);
    for (offset, length) in pieces {
        let (piece, after) = rest.split_at(length as usize);
        whole[offset as usize..][..piece.len()].copy_from_slice(piece);
        rest = after;
    }
    tar = match reader {
        For::Us => tar.entry(b'S', b"sparse/gnu", gnu_sparse, &data),
        For::Umoci => tar.file("sparse/gnu", &whole),
    };
    let decimal = |number: u64| number.to_string().into_bytes();
    tar = tar.pax("GNU.sparse.size", &decimal(size));
    tar = tar.pax("GNU.sparse.numblocks", &decimal(pieces.len() as u64));
    for (offset, length) in pieces {
        tar = tar.pax("GNU.sparse.offset", &decimal(offset));
        tar = tar.pax("GNU.sparse.numbytes", &decimal(length));
    }
    tar = tar.file("sparse/pax-0.0", &data);
    let map: Vec<String> = pieces.iter().map(|(o, l)| format!("{o},{l}")).collect();
    tar = tar.pax("GNU.sparse.size", &decimal(size));
    tar = tar.pax("GNU.sparse.numblocks", &decimal(pieces.len() as u64));
    tar = tar.pax("GNU.sparse.name", b"sparse/pax-0.1");
    tar = tar.pax("GNU.sparse.map", map.join(",").as_bytes());
    tar = tar.file("GNUSparseFile.0/pax", &data);
    let lines = pieces.iter().map(|(o, l)| format!("{o}\n{l}\n"));
    let mut stored = format!("{}\n{}", pieces.len(), lines.collect::<String>()).into_bytes();
    stored.resize(512, 0);
    stored.extend_from_slice(&data);
    tar = tar
        .pax("GNU.sparse.major", b"1")
        .pax("GNU.sparse.minor", b"0");
    tar = tar.pax("GNU.sparse.name", b"sparse/pax-1.0");
    tar = tar.pax("GNU.sparse.realsize", &decimal(size));
    tar = tar.file("GNUSparseFile.0/one", &stored);
    tar.file("sparse/plain", &whole).dir("sparse")
}

/// Whiteouts and changed metadata.
fn changes() -> Vec<u8> {
    let mut tar = Tar::new();
    for path in [
        "w/.wh.hide",
        "w/.wh.hide-all",
        "w/.wh.never-there",
        "w/..wh.dot",
        "w/.wh..dot",
    ] {
        tar = tar.whiteout(path);
    }
    tar = tar
        .file("w/opaque/before", b"before the marker")
        .whiteout("w/opaque/.wh..wh..opq");
    tar = tar.file("w/opaque/after", b"after the marker");
    tar = tar.whiteout("w/.wh.parent");
    // Relisted with other metadata; what is in them stays.
    tar = tar.pax("mtime", b"1600000000.5").dir_mode("d", 0o1711);
    tar = xattr(tar, "user.new", b"n").dir_mode("x/acl-default", 0o750);
    let content = b"has no capability now";
    let own = |header: &mut Header| {
        header.mode(0o640);
        header.octal(108, 8, 77);
        header.size(content.len() as u64);
    };
    tar = tar.entry(b'0', b"x/capable", own, content);
    tar.end()
}

/// Types change, and hardlinks reach into lower layers.
fn links_and_types() -> Vec<u8> {
    let mut tar = Tar::new()
        .dir("t/file")
        .file("t/file/in", b"a directory now");
    tar = tar
        .file("t/dir", b"a file now")
        .dir("t/link")
        .file("t/link/in", b"no link");
    tar = tar
        .symlink("t/fifo", b"file")
        .symlink("t/dir-to-link", b"file");
    tar = tar.file("replaced-by-implied/in", b"its parent was a file");
    tar = tar.file("t/to-aim/in", b"its parent was a link");
    // Two of three names are given to another file; the third keeps the old content.
    tar = tar.file("h/one", b"a new file").link("h/two", "h/one");
    tar = tar
        .link("h/alone-too", "h/alone")
        .link("h/deep", "implied/deep/file");
    tar = tar.file("w/parent/new", b"in a new parent").dir("w/parent");
    tar.end()
}

fn top() -> Vec<u8> {
    let mut tar = Tar::new().link("h/through-layers", "h/alone-too");
    tar = tar.whiteout("h/.wh.alone").whiteout("h/.wh.deep");
    tar = tar
        .whiteout("w/opaque/.wh.before")
        .whiteout("sizes/.wh.noise-511");
    tar = tar
        .pax("mtime", b"1700000000.000000001")
        .dir_mode("./", 0o755);
    tar.end()
}
