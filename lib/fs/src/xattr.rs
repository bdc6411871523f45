//! Extended attributes, stored once for each distinct set.

use std::collections::HashMap;

/// A name and its value.
pub(crate) type Attribute = (Box<[u8]>, Box<[u8]>);

/// Sorted by name.
pub(crate) type Set = Box<[Attribute]>;

/// A distinct set; zero is the empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct XattrId(u32);

#[derive(Default)]
pub(crate) struct Xattrs {
    sets: Vec<Set>,
    ids: HashMap<Set, XattrId>,
    /// Bytes of all sets.
    pub(crate) bytes: u64,
}

impl XattrId {
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Xattrs {
    /// The id of a set; a name given twice has the later value.
    pub(crate) fn intern(&mut self, attributes: &[(Vec<u8>, Vec<u8>)]) -> XattrId {
        if attributes.is_empty() {
            return XattrId(0);
        }
        let mut sorted: std::collections::BTreeMap<&[u8], &[u8]> = Default::default();
        for (name, value) in attributes {
            sorted.insert(name, value);
        }
        let set: Set = sorted
            .into_iter()
            .map(|(n, v)| (n.into(), v.into()))
            .collect();
        if let Some(&id) = self.ids.get(&set) {
            return id;
        }
        self.bytes += set
            .iter()
            .map(|(name, value)| (name.len() + value.len()) as u64)
            .sum::<u64>();
        self.sets.push(set.clone());
        let id = XattrId(self.sets.len() as u32);
        self.ids.insert(set, id);
        id
    }

    pub(crate) fn get(&self, id: XattrId) -> &[Attribute] {
        match id.0 {
            0 => &[],
            n => &self.sets[n as usize - 1],
        }
    }
}
