//! Images of trees that come from the program, not from an archive.

use std::fs::File;
use std::io::Read;

use crate::data::StreamError;
use crate::error::{Error, Fault, lossy};
use crate::merge::{Merge, New, Refused, View, clean};
use crate::{Attributes, Options, Progress, Summary, begin, finish};

const NAME: &str = "builder";

/// Builds a file system path by path. Missing parents are implied, as in a layer; a path given
/// twice has what came last.
pub struct Builder<'a> {
    merge: Merge<'a, 'a>,
    view: View,
    options: &'a Options,
}

impl<'a> Builder<'a> {
    /// Starts a file system in `image`, which is empty and open for reading and writing.
    ///
    /// # Errors
    /// [`Error::Option`] for options that a file system cannot have.
    pub fn new(image: &'a File, options: &'a Options) -> Result<Self, Error> {
        fn silent(_: Progress) {}
        let mut merge = begin(image, options, &silent)?;
        let view = merge.view(NAME)?;
        Ok(Builder {
            merge,
            view,
            options,
        })
    }

    /// Adds or describes a directory; the empty path is the root.
    ///
    /// # Errors
    /// [`Error::Entry`] for a path that cannot be.
    pub fn directory(&mut self, path: &[u8], attributes: &Attributes) -> Result<(), Error> {
        self.place(path, attributes, New::Directory)
    }

    /// Adds a file with all that `content` yields. `bytes` is a guess that helps to keep the file
    /// in one piece.
    ///
    /// # Errors
    /// [`Error::Read`] when `content` fails, [`Error::Write`] when the image does.
    pub fn file(
        &mut self,
        path: &[u8],
        attributes: &Attributes,
        bytes: u64,
        mut content: impl Read,
    ) -> Result<(), Error> {
        let failed = |error| match error {
            StreamError::Read(source) => Error::Read {
                layer: lossy(path),
                source,
            },
            StreamError::Write(error) => Error::Write(error),
            StreamError::TooLarge => Refused::Fault(Fault::FileSize).at(NAME, path),
        };
        let mut writer = self.merge.data.begin(bytes, bytes, attributes);
        let copied = writer
            .copy(u64::MAX, &mut |buffer| content.read(buffer))
            .map_err(failed)?;
        let stored = writer.finish(0).map_err(failed)?;
        self.merge.take_content(copied)?;
        self.place(path, attributes, New::File(stored))
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// [`Error::Entry`] for an empty target or one of 4,096 bytes or more.
    pub fn symlink(
        &mut self,
        path: &[u8],
        attributes: &Attributes,
        target: &[u8],
    ) -> Result<(), Error> {
        self.place(path, attributes, New::Symlink(target))
    }

    /// Adds a second name for the file at `target`.
    ///
    /// # Errors
    /// [`Error::Entry`] when `target` is a directory, or, at the end, does not exist.
    pub fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), Error> {
        self.merge.count()?;
        let limit = self.options.limits.path_bytes;
        let at = |refused: Refused| refused.at(NAME, path);
        let from = clean(path, limit).map_err(|fault| at(fault.into()))?;
        let to = clean(target, limit).map_err(|fault| at(fault.into()))?;
        self.merge.hardlink(&mut self.view, &from, &to).map_err(at)
    }

    /// Adds a block or character device.
    ///
    /// # Errors
    /// [`Error::Entry`] for a number beyond 12 bits major or 20 bits minor.
    pub fn device(
        &mut self,
        path: &[u8],
        attributes: &Attributes,
        block: bool,
        (major, minor): (u32, u32),
    ) -> Result<(), Error> {
        self.place(
            path,
            attributes,
            New::Device {
                block,
                major,
                minor,
            },
        )
    }

    /// Adds a named pipe.
    ///
    /// # Errors
    /// [`Error::Entry`] for a path that cannot be.
    pub fn fifo(&mut self, path: &[u8], attributes: &Attributes) -> Result<(), Error> {
        self.place(path, attributes, New::Fifo)
    }

    /// Writes the metadata.
    ///
    /// # Errors
    /// [`Error::TooSmall`], [`Error::Unstorable`] or [`Error::Write`].
    pub fn finish(mut self) -> Result<Summary, Error> {
        self.merge.close(self.view)?;
        finish(self.merge, self.options)
    }

    fn place(
        &mut self,
        path: &[u8],
        attributes: &Attributes,
        content: New<'_>,
    ) -> Result<(), Error> {
        self.merge.count()?;
        let at = |refused: Refused| refused.at(NAME, path);
        let clean = clean(path, self.options.limits.path_bytes).map_err(|f| at(f.into()))?;
        self.merge
            .place(&mut self.view, &clean, attributes, content)
            .map_err(at)?;
        Ok(())
    }
}
