//! What a copy has to do: what went in last, what the host has now and what the guest has, compared.

use std::collections::BTreeSet;

use crate::collect::Collected;
use crate::manifest::{GITLINK, Manifest};
use crate::scan::Scan;
use crate::walk::shown;

/// What is to be done in the guest.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) send: BTreeSet<Vec<u8>>,
    pub(super) remove: BTreeSet<Vec<u8>>,
    pub(super) conflicts: Vec<String>,
}

/// Compares three sides: what went in last, what the host has now, what the guest has. Files that need
/// no sending keep what is known of them.
pub(super) fn plan(
    scan: &mut Scan,
    old: Option<&Manifest>,
    cut_off: &[Manifest],
    collected: &Collected,
) -> Plan {
    let mut plan = Plan::default();
    // The guest has there what a copy that was cut off had sent, or removed.
    let ours = |path: &[u8]| {
        let has = collected.changed.get(path);
        cut_off.iter().any(|sent| {
            let item = sent.items.get(path).filter(|item| !item.absent);
            match (item, has) {
                (Some(item), Some(has)) => item.is(has.mode, &has.oid),
                (item, has) => item.is_none() && has.is_none(),
            }
        })
    };
    for (path, new) in &mut scan.manifest.items {
        if new.absent {
            continue;
        }
        let before = old
            .and_then(|old| old.items.get(path))
            .filter(|item| !item.absent);
        let host_changed = before.is_none_or(|before| {
            (before.mode, &before.oid, before.kept) != (new.mode, &new.oid, new.kept)
        });
        if new.mode == GITLINK {
            if host_changed {
                plan.send.insert(path.clone());
            }
            continue;
        }
        if collected.deleted.contains(path) {
            if ours(path) {
                plan.send.insert(path.clone());
            } else if host_changed {
                plan.conflicts.push(shown(path));
                plan.send.insert(path.clone());
            }
        } else if let Some(blob) = collected.changed.get(path) {
            let same = new.is(blob.mode, &blob.oid);
            if !same && ours(path) {
                plan.send.insert(path.clone());
            } else if host_changed && !same {
                plan.conflicts.push(shown(path));
                plan.send.insert(path.clone());
            }
        } else if host_changed {
            plan.send.insert(path.clone());
        } else {
            new.guest = before.and_then(|before| before.guest);
        }
    }
    let Some(old) = old else {
        return plan;
    };
    for (path, before) in &old.items {
        let stays = scan
            .manifest
            .items
            .get(path)
            .is_some_and(|item| !item.absent);
        if stays || before.absent || before.mode == GITLINK || collected.deleted.contains(path) {
            continue;
        }
        if collected.changed.contains_key(path) && !ours(path) {
            plan.conflicts.push(shown(path));
        }
        plan.remove.insert(path.clone());
    }
    for path in collected.changed.keys() {
        let known = scan.manifest.items.contains_key(path) || old.items.contains_key(path);
        if !known && ours(path) {
            plan.remove.insert(path.clone());
        }
    }
    // A directory cannot take a file's name before the file is gone.
    for path in plan.send.clone() {
        let mut above = &path[..];
        while let Some(slash) = above.iter().rposition(|byte| *byte == b'/') {
            above = &above[..slash];
            if collected.changed.contains_key(above) {
                plan.conflicts.push(shown(above));
                plan.remove.insert(above.to_vec());
            }
        }
    }
    plan
}
