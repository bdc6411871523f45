//! What layers are made of, at random.

use proptest::prelude::*;

use crate::common::acl;

/// Components of a path.
pub(crate) type Path = Vec<Vec<u8>>;

/// One entry of a layer.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    File(Path, Meta, Content),
    Directory(Path, Meta),
    /// Bytes of the target.
    Symlink(Path, Meta, usize),
    Fifo(Path, Meta),
    Device(Path, Meta, bool, (u32, u32)),
    /// Of the second path.
    Link(Path, Path),
    Whiteout(Path),
    Opaque(Path),
    /// The same entry twice.
    Twice(Box<Op>),
}

#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(&'static str, Vec<u8>)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// Hole, length, first byte, whether every byte is another one.
    pub(crate) pieces: Vec<(u64, u64, u8, bool)>,
    pub(crate) end: u64,
    pub(crate) form: Form,
}

/// How a tar archive has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Gnu,
    Pax00,
    Pax01,
    Pax10,
}

impl Content {
    /// Offset and length of each piece, and what they hold one after the other.
    pub(crate) fn stored(&self) -> (Vec<(u64, u64)>, Vec<u8>) {
        let (mut map, mut bytes, mut at) = (Vec::new(), Vec::new(), 0);
        for &(hole, length, first, varied) in &self.pieces {
            at += hole;
            map.push((at, length));
            let mut state = u64::from(first) << 8 | 1;
            bytes.extend((0..length).map(|_| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                if varied { (state >> 40) as u8 } else { first }
            }));
            at += length;
        }
        (map, bytes)
    }

    /// The file with its holes.
    pub(crate) fn whole(&self) -> Vec<u8> {
        let (map, bytes) = self.stored();
        let end = map.last().map_or(0, |(at, length)| at + length);
        let mut whole = vec![0; (end + self.end) as usize];
        let mut rest = &bytes[..];
        for (at, length) in map {
            let (piece, after) = rest.split_at(length as usize);
            whole[at as usize..][..piece.len()].copy_from_slice(piece);
            rest = after;
        }
        whole
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => prop::sample::select(b"abc".to_vec()).prop_map(|letter| vec![letter]),
        1 => Just(vec![b'n'; 255]),
        1 => Just(b"\xff\xfe".to_vec()),
        1 => Just([&b"\xe9 "[..], &[b'l'; 120]].concat()),
        1 => Just(b"!before the dots".to_vec()),
    ]
}

fn path() -> impl Strategy<Value = Path> {
    prop::collection::vec(name(), 1..4)
}

fn directory() -> impl Strategy<Value = Path> {
    prop::collection::vec(name(), 0..3)
}

fn xattrs() -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    const NONE: u32 = u32::MAX;
    let access = acl(&[
        (1, 6, NONE),
        (2, 7, 1000),
        (4, 4, NONE),
        (0x10, 7, NONE),
        (0x20, 0, NONE),
    ]);
    let capability = vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    prop_oneof![
        8 => Just(Vec::new()),
        1 => Just(vec![("security.capability", capability)]),
        1 => Just(vec![("system.posix_acl_access", access), ("user.x", b"\0=\n".to_vec())]),
        1 => (1usize..3500).prop_map(|size| vec![("user.some", vec![b's'; size])]),
        1 => (1usize..100, 1usize..3000).prop_map(|(one, two)| {
            vec![("trusted.one", vec![1; one]), ("user.two", vec![2; two])]
        }),
    ]
}

fn meta() -> impl Strategy<Value = Meta> {
    let mtime = prop::sample::select(vec![
        (0, 0),
        (-1, 999_999_999),
        (1_700_000_000, 1),
        (5_000_000_000, 500_000_000),
        (-2_147_483_648, 0),
    ]);
    let ids = prop::sample::select(vec![0, 1000, 65_536, 4_294_967_294]);
    (0u16..=0o7777, ids.clone(), ids, mtime, xattrs()).prop_map(
        |(mode, uid, gid, mtime, xattrs)| Meta {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        },
    )
}

fn content() -> impl Strategy<Value = Content> {
    let hole = prop_oneof![4 => Just(0u64), 1 => 1u64..9000, 1 => 100_000u64..600_000];
    let length = prop_oneof![
        6 => 1u64..200,
        2 => 3900u64..4200,
        2 => 1u64..20_000,
        1 => 120_000u64..140_000,
        1 => 200_000u64..400_000,
    ];
    let piece = (hole.clone(), length, any::<u8>(), any::<bool>());
    let form = prop::sample::select(vec![
        Form::Plain,
        Form::Plain,
        Form::Gnu,
        Form::Pax00,
        Form::Pax01,
        Form::Pax10,
    ]);
    (prop::collection::vec(piece, 0..4), hole, form).prop_map(|(pieces, end, form)| Content {
        pieces,
        end,
        form,
    })
}

/// Any entry.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    let one = prop_oneof![
        6 => (path(), meta(), content()).prop_map(|(path, meta, content)| Op::File(path, meta, content)),
        4 => (directory(), meta()).prop_map(|(path, meta)| Op::Directory(path, meta)),
        2 => (path(), meta(), prop_oneof![1usize..70, 90usize..110, 3500usize..4096])
            .prop_map(|(path, meta, length)| Op::Symlink(path, meta, length)),
        1 => (path(), meta()).prop_map(|(path, meta)| Op::Fifo(path, meta)),
        1 => (path(), meta(), any::<bool>(), (0u32..4096, 0u32..1_048_576))
            .prop_map(|(path, meta, block, number)| Op::Device(path, meta, block, number)),
        3 => (path(), path()).prop_map(|(path, to)| Op::Link(path, to)),
        3 => path().prop_map(Op::Whiteout),
        1 => directory().prop_map(Op::Opaque),
    ];
    (one, prop::bool::weighted(0.1)).prop_map(|(op, twice)| match twice {
        true => Op::Twice(Box::new(op)),
        false => op,
    })
}
