//! The Nix archive, of which only the hash is wanted (the Nix manual, "Nix Archive (NAR) format").

use lib_model::Digest;
use sha2::{Digest as _, Sha256};

/// Hashes an archive while its tree is walked: nodes in the order of the bytes of their names.
#[derive(Debug, Clone)]
pub struct Nar {
    hash: Sha256,
    bytes: u64,
    /// Of the content that is being written.
    content: u64,
}

impl Default for Nar {
    fn default() -> Self {
        let mut nar = Nar {
            hash: Sha256::new(),
            bytes: 0,
            content: 0,
        };
        nar.text(b"nix-archive-1");
        nar
    }
}

impl Nar {
    /// A file of so many bytes, which [`Nar::content`] brings, and [`Nar::end_file`].
    pub fn file(&mut self, executable: bool, length: u64) {
        self.texts(&[b"(", b"type", b"regular"]);
        if executable {
            self.texts(&[b"executable", b""]);
        }
        self.text(b"contents");
        self.raw(&length.to_le_bytes());
        self.content = length;
    }

    /// Content of a file.
    pub fn content(&mut self, bytes: &[u8]) {
        self.raw(bytes);
    }

    /// The end of a file.
    pub fn end_file(&mut self) {
        self.pad(self.content);
        self.text(b")");
    }

    /// A symbolic link.
    pub fn link(&mut self, target: &[u8]) {
        self.texts(&[b"(", b"type", b"symlink", b"target", target, b")"]);
    }

    /// A directory; its entries follow, each a node, then [`Nar::end_directory`].
    pub fn directory(&mut self) {
        self.texts(&[b"(", b"type", b"directory"]);
    }

    /// The name of the node that follows, and then [`Nar::end_entry`].
    pub fn entry(&mut self, name: &[u8]) {
        self.texts(&[b"entry", b"(", b"name", name, b"node"]);
    }

    /// The end of an entry.
    pub fn end_entry(&mut self) {
        self.text(b")");
    }

    /// The end of a directory.
    pub fn end_directory(&mut self) {
        self.text(b")");
    }

    /// Hash and length of the whole archive.
    pub fn finish(self) -> (Digest, u64) {
        (Digest::from_sha256(self.hash.finalize().into()), self.bytes)
    }

    fn texts(&mut self, texts: &[&[u8]]) {
        texts.iter().for_each(|text| self.text(text));
    }

    fn text(&mut self, text: &[u8]) {
        self.raw(&(text.len() as u64).to_le_bytes());
        self.raw(text);
        self.pad(text.len() as u64);
    }

    fn pad(&mut self, length: u64) {
        let fill = length.next_multiple_of(8) - length;
        self.raw(&[0; 8][..fill as usize]);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

/// A digest as Nix writes it beside `sha256-` (RFC 4648, section 4).
pub fn base64(digest: &Digest) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let hex = digest.hex().as_bytes();
    let nibble = |index: usize| {
        hex.get(index)
            .and_then(|c| char::from(*c).to_digit(16))
            .unwrap_or(0) as usize
    };
    let mut text = String::new();
    // Three nibbles are two characters; 64 nibbles leave one over.
    for start in (0..hex.len()).step_by(3) {
        let bits = nibble(start) << 8 | nibble(start + 1) << 4 | nibble(start + 2);
        text.push(char::from(ALPHABET[bits >> 6]));
        text.push(char::from(ALPHABET[bits & 63]));
    }
    text.truncate(43);
    text.push('=');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes that `nix hash path` gives for such trees.
    #[test]
    fn hashes_are_those_of_nix() {
        let mut nar = Nar::default();
        nar.file(false, 1);
        nar.content(b"x");
        nar.end_file();
        let (hash, bytes) = nar.finish();
        assert_eq!(bytes, 120);
        assert_eq!(
            hash.hex(),
            "2ca0b8ce996f865db37619bfe91023559305aad8158042fc6ddb0ef1d43c5b67"
        );
        assert_eq!(
            base64(&hash),
            "LKC4zplvhl2zdhm/6RAjVZMFqtgVgEL8bdsO8dQ8W2c="
        );
    }
}
