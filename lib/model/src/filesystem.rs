//! File systems that images can be made as.

/// The file system of an image, by the kernel's name for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Filesystem {
    /// Can be written on.
    #[default]
    Ext4,
    /// Read-only and compressed.
    Erofs,
}

impl Filesystem {
    /// As in mount(2) and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Erofs => "erofs",
        }
    }
}
