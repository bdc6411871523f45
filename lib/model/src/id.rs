//! Random identifiers: 16 hexadecimal digits, never reused, found by any unique prefix.

use serde::{Deserialize, Serialize};

const DIGITS: usize = 16;

/// Not an identifier.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an id (16 hexadecimal digits)")]
pub struct IdError(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new one, from the kernel's random generator.
            ///
            /// # Errors
            /// When the kernel has no randomness (it always has, after boot).
            pub fn random() -> std::io::Result<Self> {
                let mut bytes = [0; DIGITS / 2];
                getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
                Ok($name(bytes.iter().map(|b| format!("{b:02x}")).collect()))
            }

            /// The 16 digits; safe as a file name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = IdError;

            fn try_from(text: &str) -> Result<Self, IdError> {
                let valid = text.len() == DIGITS
                    && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if valid { Ok($name(text.to_owned())) } else { Err(IdError(text.to_owned())) }
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                $name::try_from(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                $name::try_from(text.as_str())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

id!(
    /// Identifies an image; its digest is an attribute.
    ImageId
);
id!(
    /// Identifies a kernel.
    KernelId
);
id!(
    /// Identifies a workspace.
    WorkspaceId
);
id!(
    /// Identifies a VM; directories, sockets and locks are named after it.
    VmId
);
id!(
    /// Identifies an operation that goes on without its command.
    OperationId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_differ_and_survive_text() {
        let (a, b) = (VmId::random().unwrap(), VmId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(VmId::try_from(a.as_str()), Ok(a));
        assert!(VmId::try_from("../../etc").is_err());
        assert!(VmId::try_from("0123456789ABCDEF").is_err());
    }
}
