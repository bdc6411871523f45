//! OCI layer tar streams directly into a file system image, without root, mount or extraction.
//!
//! Nothing in a layer can touch the host: paths exist only in a tree in memory, content goes
//! straight to blocks of the image, and metadata follows when the last layer has been read. The
//! output is a function of layers and options alone; neither clock nor randomness takes part.

mod acl;
mod builder;
mod checksum;
mod data;
mod erofs;
mod error;
mod ext4;
mod merge;
mod put;
mod tar;
mod tree;
mod xattr;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

pub use builder::Builder;
pub use error::{Error, Fault};

use data::Data;
use merge::Merge;

/// Opens a layer's uncompressed tar stream. Content goes from its buffer to the image without
/// another copy; the larger the buffer, the fewer writes.
pub type Open<'a> = Box<dyn FnMut() -> io::Result<Box<dyn BufRead + 'a>> + 'a>;

/// Bytes that are read at once of a stream without a buffer of its own.
const BUFFER: usize = 128 << 10;

/// One layer of an image.
pub struct Layer<'a> {
    /// Name for errors, such as the digest.
    pub name: String,
    /// Called when the layers above have been read. The stream is read to its end, past the end of
    /// the archive, so that it can verify itself there.
    pub open: Open<'a>,
    /// Whether `open` may be called a second time. Then the content of files that the layers above
    /// hide is skipped; the second time is for the rare one that turns out to have another name.
    pub again: bool,
}

impl<'a> Layer<'a> {
    /// A layer read from `stream`, once.
    pub fn new(name: impl Into<String>, stream: impl Read + 'a) -> Self {
        let mut stream = Some(stream);
        Layer {
            name: name.into(),
            open: Box::new(move || match stream.take() {
                Some(stream) => Ok(Box::new(BufReader::with_capacity(BUFFER, stream))),
                None => Err(io::Error::other("the stream was read already")),
            }),
            again: false,
        }
    }
}

/// A file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Can be written on.
    #[default]
    Ext4,
    /// Read-only, as large as its content.
    Erofs(Compression),
}

/// How contents of files are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// In the LZ4 block format, which Linux 5.13 and later read in clusters of several blocks.
    #[default]
    Lz4,
}

/// How the image is made. The same options and layers give the same bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is written.
    pub format: Format,
    /// Size of the file system; EROFS is as large as its content.
    pub size: SizeChoice,
    /// Volume label, at most 16 bytes.
    pub label: String,
    /// Volume id; not all zeros. Derive it from the manifest's digest.
    pub uuid: [u8; 16],
    /// Seed of ext4's directory hash.
    pub hash_seed: [u8; 16],
    /// Whether ext4 gets a journal, as one that is written to should. It then has at
    /// least 8 MiB, unless [`SizeChoice::Exactly`] says less: then there is no journal.
    pub journal: bool,
    /// Seconds since the epoch, for what no layer dates: implied directories, `lost+found`, the
    /// superblock.
    pub time: i64,
    /// Bytes of ext4 for each inode beyond those in use.
    pub bytes_per_inode: u64,
    /// What a layer may ask of this machine.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            format: Format::Ext4,
            size: SizeChoice::Fit,
            label: String::new(),
            uuid: *b"banger\x00\x00\x40\x00\x80\x00ext4",
            hash_seed: *b"banger\x00\x00\x40\x00\x80\x00hash",
            journal: true,
            time: 0,
            bytes_per_inode: 16384,
            limits: Limits::default(),
        }
    }
}

/// Size of the file system, always a multiple of 4,096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeChoice {
    /// The content, about 2 % and 1 MiB.
    Fit,
    /// The content, but no fewer bytes than this.
    AtLeast(u64),
    /// The content and about as many free bytes.
    Free(u64),
    /// What the content needs times a factor, but no fewer bytes than a floor.
    Scaled {
        /// At least 100.
        percent: u32,
        /// Bytes.
        at_least: u64,
    },
    /// This many bytes, rounded down; an error when the content does not fit.
    Exactly(u64),
}

/// Bounds against hostile layers.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Entries of all layers together, implied directories included.
    pub entries: u64,
    /// Stored bytes of all files of all layers together.
    pub content_bytes: u64,
    /// Bytes of one path.
    pub path_bytes: u64,
    /// Bytes of names, link targets and distinct sets of extended attributes, which are kept in
    /// memory.
    pub metadata_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            entries: 10_000_000,
            content_bytes: 256 << 30,
            path_bytes: 4096,
            metadata_bytes: 1 << 30,
        }
    }
}

/// How far the work is; reported after each layer and every few megabytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Layers completely read.
    pub layers: usize,
    /// Entries read.
    pub entries: u64,
    /// Bytes of file content read.
    pub content_bytes: u64,
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the image file, holes included.
    pub image_bytes: u64,
    /// Bytes the file system counts as used.
    pub used_bytes: u64,
    /// Entries read from all layers.
    pub entries: u64,
    /// Inodes in use, reserved ones included.
    pub inodes: u64,
    /// Inodes with extended attributes that Linux has no namespace for, which were left out.
    pub dropped_xattrs: u64,
}

/// Seconds and nanoseconds since the epoch; before it, seconds are negative and nanoseconds count
/// forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// Metadata of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, 0 to 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time; access, change and birth get the same.
    pub mtime: Time,
    /// Extended attributes by full name, such as `security.capability`; POSIX ACLs as getxattr(2)
    /// returns them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    /// Root's, at the epoch.
    pub fn new(mode: u16) -> Self {
        Attributes {
            mode,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Vec::new(),
        }
    }
}

/// Writes the merged `layers`, topmost first, to `image` as a file system.
///
/// `image` is empty and open for reading and writing; it is neither synced nor, on error, cleaned.
///
/// # Errors
/// See [`Error`]; every one that a layer causes names the layer.
pub fn build<'a>(
    layers: impl IntoIterator<Item = Layer<'a>>,
    image: &File,
    options: &Options,
    progress: &dyn Fn(Progress),
) -> Result<Summary, Error> {
    write(layers, image, None, options, progress)
}

/// As [`build`], with writes past the page cache where that is possible: `direct` is the same file
/// as `image`, opened for writing with O_DIRECT. For images that are larger than what is read
/// of them soon.
///
/// # Errors
/// As [`build`].
pub fn build_direct<'a>(
    layers: impl IntoIterator<Item = Layer<'a>>,
    image: &File,
    direct: File,
    options: &Options,
    progress: &dyn Fn(Progress),
) -> Result<Summary, Error> {
    write(layers, image, Some(direct), options, progress)
}

fn write<'a>(
    layers: impl IntoIterator<Item = Layer<'a>>,
    image: &File,
    direct: Option<File>,
    options: &Options,
    progress: &dyn Fn(Progress),
) -> Result<Summary, Error> {
    let mut merge = begin(image, options, progress)?;
    if let Some(direct) = direct {
        merge.data.divert(direct).map_err(Error::Write)?;
    }
    for mut layer in layers {
        merge.layer(&mut layer)?;
    }
    finish(merge, options)
}

fn begin<'a, 'f>(
    image: &'f File,
    options: &'a Options,
    progress: &'a dyn Fn(Progress),
) -> Result<Merge<'a, 'f>, Error> {
    check(options, image)?;
    let data = match options.format {
        Format::Ext4 => Data::new(image, ext4::usable),
        Format::Erofs(compression) => erofs::data(image, compression),
    };
    Ok(Merge::new(data, &options.limits, options.time, progress))
}

fn finish(merge: Merge<'_, '_>, options: &Options) -> Result<Summary, Error> {
    match options.format {
        Format::Ext4 => ext4::finish(merge, options),
        Format::Erofs(_) => erofs::finish(merge, options),
    }
}

/// Refuses options that no file system has a form for, and a file whose old content would show in
/// holes.
fn check(options: &Options, image: &File) -> Result<(), Error> {
    if image.metadata().map_err(Error::Write)?.len() > 0 {
        return Err(Error::NotEmpty);
    }
    if options.label.len() > 16 {
        return Err(Error::Option {
            option: "label",
            reason: "longer than 16 bytes",
        });
    }
    if options.uuid == [0; 16] {
        return Err(Error::Option {
            option: "uuid",
            reason: "all zeros",
        });
    }
    Ok(())
}

/// Makes an empty ext4 file system of `size` bytes, rounded down to 4,096, in the empty `image`.
/// `options.size` does not matter.
///
/// # Errors
/// [`Error::TooSmall`] below about 300 KiB; [`Error::NotEmpty`]; [`Error::Write`].
pub fn format_empty(image: &File, size: u64, options: &Options) -> Result<Summary, Error> {
    let options = Options {
        format: Format::Ext4,
        size: SizeChoice::Exactly(size),
        ..options.clone()
    };
    build([], image, &options, &|_| {})
}
