//! Names that people choose.

use serde::{Deserialize, Serialize};

/// A VM's name: one DNS label (RFC 1123 §2.1), so that `<name>.vm` is a host name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

/// A kernel's name: as a file name, without separators or a leading dot or dash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelName(String);

/// Why a name was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Nothing was given.
    #[error("a {what} name is empty")]
    Empty {
        /// Kind of thing.
        what: &'static str,
    },
    /// Longer than the limit.
    #[error("the {what} name `{name}` has {length} characters, the limit is {limit}")]
    TooLong {
        /// Kind of thing.
        what: &'static str,
        /// As given.
        name: String,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A character that must not be there.
    #[error("the {what} name `{name}` is not valid: {rule}")]
    BadCharacter {
        /// Kind of thing.
        what: &'static str,
        /// As given.
        name: String,
        /// What is allowed.
        rule: &'static str,
    },
}

impl super::Diagnose for NameError {
    fn exit(&self) -> super::Exit {
        super::Exit::Usage
    }
}

/// Records are passed on by id, so no name may look like one.
fn looks_like_an_id(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

const ID_RULE: &str = "16 hexadecimal digits are an id";

impl TryFrom<&str> for VmName {
    type Error = NameError;

    fn try_from(name: &str) -> Result<Self, NameError> {
        check(name, "VM", 63)?;
        let rule =
            "use lower-case letters, digits and dashes, with a letter or digit first and last";
        let allowed = name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !allowed || name.starts_with('-') || name.ends_with('-') {
            return Err(NameError::BadCharacter {
                what: "VM",
                name: name.to_owned(),
                rule,
            });
        }
        if looks_like_an_id(name) {
            return Err(NameError::BadCharacter {
                what: "VM",
                name: name.to_owned(),
                rule: ID_RULE,
            });
        }
        Ok(VmName(name.to_owned()))
    }
}

impl TryFrom<&str> for KernelName {
    type Error = NameError;

    fn try_from(name: &str) -> Result<Self, NameError> {
        check(name, "kernel", 128)?;
        let rule = "use letters, digits and . _ + -, with a letter or digit first";
        let allowed = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b));
        if !allowed || !name.as_bytes()[0].is_ascii_alphanumeric() {
            return Err(NameError::BadCharacter {
                what: "kernel",
                name: name.to_owned(),
                rule,
            });
        }
        if looks_like_an_id(name) {
            return Err(NameError::BadCharacter {
                what: "kernel",
                name: name.to_owned(),
                rule: ID_RULE,
            });
        }
        Ok(KernelName(name.to_owned()))
    }
}

fn check(name: &str, what: &'static str, limit: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > limit {
        let length = name.len();
        return Err(NameError::TooLong {
            what,
            name: name.to_owned(),
            length,
            limit,
        });
    }
    Ok(())
}

macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                $name::try_from(name.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                $name::try_from(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

text!(VmName);
text!(KernelName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_names_are_dns_labels() {
        for good in ["a", "dev", "web-1", "0x", &"a".repeat(63)] {
            assert!(VmName::try_from(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "a/b",
            "ä",
            "a\0",
            "a b",
            "0123456789abcdef",
            &"a".repeat(64),
        ] {
            assert!(VmName::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kernel_names_are_file_names() {
        for good in ["6.1.0-49-cloud-amd64", "debian", "a+b_c"] {
            assert!(KernelName::try_from(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-x", "a/b", "a\n"] {
            assert!(KernelName::try_from(bad).is_err(), "{bad}");
        }
    }
}
