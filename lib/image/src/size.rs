//! How large the file system of an image becomes.

use std::fs;
use std::path::Path;

use lib_fs::SizeChoice;
use lib_model::{ByteSize, Filesystem};

use crate::Error;

/// Beside an image whose size was asked for: what was asked.
pub(crate) const FILE: &str = "size";

/// Size of an image's file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Size {
    /// The content and a little: VMs have their own disk above it.
    #[default]
    Fit,
    /// This many bytes; an error when the content needs more.
    Exactly(ByteSize),
    /// The content times a factor, but not less than a floor.
    Scaled {
        /// Of what the content needs, in percent; at least 100.
        percent: u32,
        /// The least.
        at_least: ByteSize,
    },
}

impl Size {
    /// # Errors
    /// [`Error::OptionValue`] when a size is asked for that the file system cannot have.
    pub(crate) fn check(self, filesystem: Filesystem) -> Result<(), Error> {
        let (option, value) = match (filesystem, self) {
            (Filesystem::Ext4, _) | (_, Size::Fit) => return Ok(()),
            (Filesystem::Erofs, Size::Exactly(size)) => ("--size", size.to_string()),
            (
                Filesystem::Erofs,
                Size::Scaled {
                    percent: 100,
                    at_least,
                },
            ) => ("--min-size", at_least.to_string()),
            (Filesystem::Erofs, Size::Scaled { percent, .. }) => {
                ("--size-factor", percent.to_string())
            }
        };
        Err(Error::OptionValue {
            option,
            value,
            reason: "does not go with EROFS, which is read-only and as large as its content",
        })
    }

    pub(crate) fn choice(self) -> SizeChoice {
        match self {
            Size::Fit => SizeChoice::Fit,
            Size::Exactly(size) => SizeChoice::Exactly(size.0),
            Size::Scaled { percent, at_least } => SizeChoice::Scaled {
                percent,
                at_least: at_least.0,
            },
        }
    }

    /// What is kept beside the image; none when nothing was asked for.
    pub(crate) fn note(self) -> Option<String> {
        match self {
            Size::Fit => None,
            Size::Exactly(size) => Some(format!("exactly {}\n", size.0)),
            Size::Scaled { percent, at_least } => {
                Some(format!("scaled {percent} {}\n", at_least.0))
            }
        }
    }

    /// The image in this directory will do: any, when no size is asked for.
    pub(crate) fn fits(self, image: &Path) -> bool {
        self.note().is_none_or(|note| {
            fs::read_to_string(image.join(FILE)).is_ok_and(|there| there == note)
        })
    }
}
