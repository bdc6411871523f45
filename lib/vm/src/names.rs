//! Names for VMs that nobody named: two short words, such as `calm-otter`.

use std::io;

use lib_model::VmName;

const FIRST: [&str; 32] = [
    "able", "amber", "bold", "brave", "brisk", "calm", "clear", "crisp", "deft", "eager", "fair",
    "fleet", "fond", "gentle", "glad", "happy", "keen", "kind", "light", "lucid", "mellow",
    "merry", "neat", "noble", "plain", "proud", "quick", "quiet", "ready", "sharp", "sunny",
    "swift",
];
const SECOND: [&str; 32] = [
    "badger", "beaver", "bison", "crane", "dingo", "eagle", "falcon", "ferret", "finch", "gecko",
    "heron", "hound", "ibis", "koala", "lark", "lemur", "lynx", "marten", "mole", "moose", "newt",
    "okapi", "otter", "owl", "panda", "quail", "raven", "robin", "seal", "stoat", "tapir", "wren",
];

/// A random name; after a few attempts that were taken, one with a number that hardly can be.
///
/// # Errors
/// When the kernel has no randomness.
pub(crate) fn random(attempt: u32) -> io::Result<VmName> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let (first, second) = (
        FIRST[bytes[0] as usize % 32],
        SECOND[bytes[1] as usize % 32],
    );
    let name = match attempt {
        0..4 => format!("{first}-{second}"),
        _ => format!(
            "{first}-{second}-{}",
            u16::from_le_bytes([bytes[2], bytes[3]])
        ),
    };
    VmName::try_from(name).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_makes_a_valid_name() {
        for first in FIRST {
            for second in SECOND {
                assert!(VmName::try_from(format!("{first}-{second}-65535")).is_ok());
            }
        }
        assert!(random(0).unwrap().as_str().contains('-'));
        assert!(
            random(9)
                .unwrap()
                .as_str()
                .chars()
                .filter(|c| *c == '-')
                .count()
                == 2
        );
    }
}
