//! What has to be looked at again.

use std::collections::{BTreeMap, BTreeSet};

/// With more names than this, everything is looked at instead: that is bounded.
const MOST_NAMES: usize = 50_000;

/// Names by directory, both relative to the watched one.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    names: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    count: usize,
    everything: bool,
}

impl Dirty {
    /// One entry of a directory.
    pub(super) fn mark(&mut self, directory: &[u8], name: &[u8]) {
        if self.everything {
            return;
        }
        let names = match self.names.get_mut(directory) {
            Some(names) => names,
            None => self.names.entry(directory.to_vec()).or_default(),
        };
        if names.insert(name.to_vec()) {
            self.count += 1;
        }
        if self.count > MOST_NAMES {
            self.mark_everything();
        }
    }

    /// Nobody knows what; so all of it.
    pub(super) fn mark_everything(&mut self) {
        *self = Dirty {
            everything: true,
            ..Dirty::default()
        };
    }

    pub(super) fn everything(&self) -> bool {
        self.everything
    }

    /// Unless everything is.
    pub(super) fn names(&self) -> &BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_names_are_everything() {
        let mut dirty = Dirty::default();
        for number in 0..MOST_NAMES {
            dirty.mark(b"d", number.to_string().as_bytes());
            dirty.mark(b"d", number.to_string().as_bytes());
        }
        assert!(!dirty.everything());
        dirty.mark(b"e", b"one more");
        assert!(dirty.everything() && dirty.names().is_empty());
    }
}
