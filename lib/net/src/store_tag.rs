//! Which store a reservation belongs to.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use banger_proto::StoreTag;

/// Derived from the store's path, so that nothing has to be remembered (FNV-1a, 64 bits; only one user's
/// own stores are told apart by it).
///
/// # Panics
/// Never: 16 hexadecimal digits are a tag.
pub fn store_tag(store: &Path) -> StoreTag {
    let hash = store
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    StoreTag::try_from(format!("{hash:016x}")).expect("16 hexadecimal digits are a tag")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_told_apart() {
        let tags = ["/a", "/b", "/a/b"].map(|path| store_tag(Path::new(path)));
        assert_eq!(tags[0], store_tag(Path::new("/a")));
        assert!(tags[0] != tags[1] && tags[1] != tags[2]);
    }
}
