//! kmod's binary index (libkmod-index.h): a trie of keys, without which modprobe finds nothing,
//! since kmod dropped the fallback to the text files.
//!
//! A file is a magic, a version and the offset of the root node, all big-endian words. A node has,
//! as flags in the top bits of its offset say: a prefix, children (first and last byte, offsets),
//! values (count, then priority and text of each). Nodes follow their children.

use std::collections::BTreeMap;

const MAGIC: u32 = 0xb007_f457;
const VERSION: u32 = 0x0002_0001;
const PREFIX: u32 = 0x8000_0000;
const VALUES: u32 = 0x4000_0000;
const CHILDREN: u32 = 0x2000_0000;
/// Offsets end here; no set of modules comes near.
const LARGEST: usize = 0x0fff_ffff;
/// Bounds the depth of the trie.
const LONGEST_KEY: usize = 4096;

/// Collects keys, each with values by priority.
#[derive(Debug, Default)]
pub(crate) struct Trie {
    keys: BTreeMap<Vec<u8>, Vec<(u32, String)>>,
}

impl Trie {
    /// Adds a value. Keys are ASCII without NUL; others cannot be asked for and are left out.
    pub(crate) fn insert(&mut self, key: &str, value: &str, priority: u32) {
        let valid = |text: &str| text.bytes().all(|b| b != 0 && b.is_ascii());
        if key.len() <= LONGEST_KEY && valid(key) && !value.contains('\0') {
            let values = self.keys.entry(key.into()).or_default();
            values.push((priority, value.to_owned()));
        }
    }

    /// The file's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut output = Vec::new();
        for word in [MAGIC, VERSION, 0] {
            output.extend(word.to_be_bytes());
        }
        let entries: Vec<Entry<'_>> = self
            .keys
            .iter()
            .map(|(key, values)| (&key[..], &values[..]))
            .collect();
        let root = write_node(&entries, 0, &mut output);
        output[8..12].copy_from_slice(&root.to_be_bytes());
        output
    }
}

type Entry<'a> = (&'a [u8], &'a [(u32, String)]);

/// Writes the node of sorted `entries`, which agree in their first `depth` bytes.
fn write_node(entries: &[Entry<'_>], depth: usize, output: &mut Vec<u8>) -> u32 {
    let (first, last) = match entries {
        [] => (&[][..], &[][..]),
        [(only, _)] => (*only, *only),
        [(first, _), .., (last, _)] => (*first, *last),
    };
    // Sorted: what the first and the last key share, all share.
    let common = first
        .iter()
        .zip(last)
        .skip(depth)
        .take_while(|(a, b)| a == b)
        .count();
    let end = depth + common;
    let (values, mut rest) = match entries {
        [(key, values), rest @ ..] if key.len() == end => (*values, rest),
        all => (&[][..], all),
    };
    let mut children = Vec::new();
    while let Some((key, _)) = rest.first() {
        let byte = key[end];
        let count = rest.iter().take_while(|(key, _)| key[end] == byte).count();
        children.push((byte, write_node(&rest[..count], end + 1, output)));
        rest = &rest[count..];
    }
    let offset = output.len();
    debug_assert!(offset <= LARGEST, "a trie of {offset} bytes");
    let mut reference = u32::try_from(offset.min(LARGEST)).unwrap_or_default();
    if common > 0 {
        reference |= PREFIX;
        output.extend(&first[depth..end]);
        output.push(0);
    }
    if let [(low, _), ..] = children[..] {
        reference |= CHILDREN;
        let high = children[children.len() - 1].0;
        output.extend([low, high]);
        let mut next = children.iter().peekable();
        for byte in low..=high {
            let offset = next
                .next_if(|(child, _)| *child == byte)
                .map_or(0, |(_, offset)| *offset);
            output.extend(offset.to_be_bytes());
        }
    }
    if !values.is_empty() {
        reference |= VALUES;
        let mut values: Vec<_> = values.iter().collect();
        values.sort_by_key(|(priority, _)| *priority);
        output.extend(
            u32::try_from(values.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        for (priority, value) in values {
            output.extend(priority.to_be_bytes());
            output.extend(value.as_bytes());
            output.push(0);
        }
    }
    reference
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn text(bytes: &[u8], at: &mut usize) -> String {
        let end = *at + bytes[*at..].iter().position(|&b| b == 0).unwrap();
        let text = String::from_utf8(bytes[*at..end].to_vec()).unwrap();
        *at = end + 1;
        text
    }

    /// A look-up as libkmod does it, without wildcards.
    fn find(bytes: &[u8], key: &str) -> Vec<String> {
        let mut key = key.as_bytes();
        let mut node = word(bytes, 8);
        loop {
            let mut at = (node & 0x0fff_ffff) as usize;
            if node & PREFIX != 0 {
                match key.strip_prefix(text(bytes, &mut at).as_bytes()) {
                    Some(rest) => key = rest,
                    None => return Vec::new(),
                }
            }
            let mut next = 0;
            if node & CHILDREN != 0 {
                let (low, high) = (bytes[at], bytes[at + 1]);
                if let Some(byte) = key.first().filter(|b| (low..=high).contains(b)) {
                    next = word(bytes, at + 2 + 4 * usize::from(byte - low));
                }
                at += 2 + 4 * (usize::from(high - low) + 1);
            }
            if key.is_empty() {
                if node & VALUES == 0 {
                    return Vec::new();
                }
                let count = word(bytes, at);
                at += 4;
                return (0..count)
                    .map(|_| {
                        at += 4;
                        text(bytes, &mut at)
                    })
                    .collect();
            }
            if next == 0 {
                return Vec::new();
            }
            (key, node) = (&key[1..], next);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_was_inserted_is_found(keys in proptest::collection::btree_set("[a-c]{0,6}", 0..40)) {
            let mut trie = Trie::default();
            for key in &keys {
                trie.insert(key, &format!("low {key}"), 9);
                trie.insert(key, &format!("high {key}"), 1);
            }
            let bytes = trie.to_bytes();
            for key in &keys {
                proptest::prop_assert_eq!(
                    find(&bytes, key),
                    vec![format!("high {key}"), format!("low {key}")]
                );
            }
            proptest::prop_assert!(find(&bytes, "abcabcabc").is_empty());
            proptest::prop_assert!(find(&bytes, "d").is_empty());
        }
    }
}
