//! Content digests (OCI image-spec, descriptor.md). Only sha256, the one algorithm in use.

use serde::{Deserialize, Serialize};

/// `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Not a sha256 digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a sha256 digest (sha256: and 64 hexadecimal digits)")]
pub struct DigestError(String);

impl Digest {
    /// The digest of which `hash` is the binary form.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        use std::fmt::Write;
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in hash {
            let _ = write!(text, "{byte:02x}");
        }
        Digest(text)
    }

    /// With the algorithm: `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal digits; safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// Twelve hexadecimal digits, for people.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl TryFrom<&str> for Digest {
    type Error = DigestError;

    fn try_from(text: &str) -> Result<Self, DigestError> {
        let valid = text.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        if valid {
            Ok(Digest(text.to_owned()))
        } else {
            Err(DigestError(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        Digest::try_from(text.as_str())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lower_case_sha256_passes() {
        let good = Digest::from_sha256([0xab; 32]);
        assert_eq!(Digest::try_from(good.as_str()), Ok(good.clone()));
        assert_eq!(good.short(), "abababababab");
        for bad in [
            "",
            "sha256:",
            "sha512:ab",
            &good.as_str()[..70],
            &good.as_str().to_uppercase(),
            "sha256:../../../../etc/passwd",
        ] {
            assert!(Digest::try_from(bad).is_err(), "{bad}");
        }
    }
}
