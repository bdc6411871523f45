//! Names that cross the boundary. Each has one door, which serde uses too.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::TAP_PREFIX;

/// Why a name was refused. Says the rule, and not the name: that may be anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {what}: {rule}")]
pub struct NameError {
    /// What it should have been.
    pub what: &'static str,
    /// What is allowed.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;

            fn try_from(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok($name(text.to_owned()))
                } else {
                    Err(NameError { what: $what, rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                $name::try_from(text.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $name::try_from(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// A VM's id.
    VmId,
    "the id of a VM",
    "16 lower-case hexadecimal digits",
    |text| text.len() == 16 && is_hex(text)
);

name!(
    /// A VM's name: one DNS label (RFC 1123 §2.1).
    VmName,
    "the name of a VM",
    "1 to 63 lower-case letters, digits and dashes, with a letter or digit first and last",
    |text| is_label(text, 63)
);

name!(
    /// A group of VMs that reach each other; each user has names of their own.
    GroupName,
    "the name of a group",
    "1 to 32 lower-case letters, digits and dashes, with a letter or digit first and last",
    |text| is_label(text, 32)
);

name!(
    /// Says which of a user's stores a VM is in.
    StoreTag,
    "the tag of a store",
    "16 lower-case hexadecimal digits",
    |text| text.len() == 16 && is_hex(text)
);

name!(
    /// A network interface of ours: fewer characters than the kernel allows (IFNAMSIZ, netdevice(7)).
    InterfaceName,
    "the name of an interface",
    "1 to 15 lower-case letters, digits and dashes, with a letter first",
    |text| text.len() <= 15
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && is_label_text(text)
);

impl InterfaceName {
    /// The interface of a VM: derived from its id, so that a teardown needs to remember nothing.
    pub fn of_vm(vm: &VmId) -> Self {
        InterfaceName(format!("{TAP_PREFIX}{}", &vm.as_str()[..12]))
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_label_text(text: &str) -> bool {
    text.bytes()
        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'-'))
}

fn is_label(text: &str, limit: usize) -> bool {
    (1..=limit).contains(&text.len())
        && is_label_text(text)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A hardware address, as `52:54:0a:53:00:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl TryFrom<&str> for Mac {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        let refused = NameError {
            what: "a hardware address",
            rule: "six pairs of lower-case hexadecimal digits with colons between them",
        };
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            *byte = pairs
                .next()
                .filter(|pair| pair.len() == 2 && is_hex(pair))
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .ok_or(refused.clone())?;
        }
        match pairs.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(refused),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Mac::try_from(text.as_str())
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_door() {
        let sixteen = "a".repeat(16);
        for bad in ["", "a/b", "a\0b", "..", "A", "a b", "1a", "-a", &sixteen] {
            assert!(InterfaceName::try_from(bad).is_err(), "{bad:?}");
        }
        assert!(InterfaceName::try_from("banger0").is_ok());
        let long = "a".repeat(33);
        for bad in ["", "-", "a-", "a_b", "a\nb", "é", "a\"", &long] {
            assert!(GroupName::try_from(bad).is_err(), "{bad:?}");
        }
        for bad in [
            "",
            "00112233445566a",
            "00112233445566AA",
            "../../../../etc/",
        ] {
            assert!(VmId::try_from(bad).is_err(), "{bad:?}");
        }
        for bad in [
            "",
            "52:54:00:00:00",
            "52:54:00:00:00:00:00",
            "52:54:00:00:00:+1",
            "5254:0:0:0:0",
        ] {
            assert!(Mac::try_from(bad).is_err(), "{bad:?}");
        }
        let name: Result<VmName, _> = serde_json::from_str("\"a/b\"");
        assert!(name.unwrap_err().to_string().contains("lower-case"));
    }

    #[test]
    fn an_interface_is_named_after_its_vm() {
        let vm = VmId::try_from("00112233445566aa").unwrap();
        let name = InterfaceName::of_vm(&vm);
        assert_eq!(name.as_str(), "bgt001122334455");
        assert_eq!(InterfaceName::try_from(name.as_str()), Ok(name));
    }
}
