//! What the user asks Nix to build.

use crate::Error;

const LONGEST: usize = 4096;

/// A flake reference with an attribute, a store path or a link to one, as `nix build` takes it. Never an
/// option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installable(String);

impl Installable {
    /// As it was typed, but that a derivation stands for its outputs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Installable {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        let refused = |reason| {
            Err(Error::Installable {
                text: text.chars().take(200).collect(),
                reason,
            })
        };
        if text.is_empty() {
            return refused("is empty");
        }
        if text.starts_with('-') {
            return refused("begins with `-`, as options do");
        }
        if text.len() > LONGEST {
            return refused("is too long");
        }
        if text.chars().any(char::is_control) {
            return refused("has control characters");
        }
        // Newer ones take a derivation's own file otherwise ("Derivation output selection" of nix(1)).
        let outputs = if text.ends_with(".drv") { "^*" } else { "" };
        Ok(Installable(format!("{text}{outputs}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_no_installables() {
        for good in [
            "nixpkgs#hello",
            ".#x^dev",
            "./result",
            "github:o/r/b?dir=x#y.z",
        ] {
            assert_eq!(Installable::try_from(good).unwrap().as_str(), good);
        }
        let drv = Installable::try_from("/nix/store/x.drv").unwrap();
        assert_eq!(drv.as_str(), "/nix/store/x.drv^*");
        for bad in ["", "--impure", "-f", "a\nb", "a\0"] {
            assert!(Installable::try_from(bad).is_err(), "{bad:?}");
        }
    }
}
