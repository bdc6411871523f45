//! Runs of blocks that were given back, found by place and by length.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Free runs below the tail.
#[derive(Default)]
pub(super) struct Free {
    pub(super) by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
}

impl Free {
    pub(super) fn insert(&mut self, mut start: u64, mut len: u64) {
        if len == 0 {
            return;
        }
        if let Some((&before, &n)) = self.by_start.range(..start).next_back()
            && before + n == start
        {
            self.remove(before, n);
            start = before;
            len += n;
        }
        if let Some(&n) = self.by_start.get(&(start + len)) {
            self.remove(start + len, n);
            len += n;
        }
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
    }

    pub(super) fn remove(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }

    /// Takes the shortest run of at least `len` blocks.
    pub(super) fn take(&mut self, len: u64) -> Option<Range<u64>> {
        let &(n, start) = self.by_len.range((len, 0)..).next()?;
        self.remove(start, n);
        Some(start..start + n)
    }
}
