//! `names.json`: replaced in one step, readable by everybody, because a server of names has no rights.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use banger_failpoint::point;
use banger_proto::{InterfaceName, NAMES_SCHEMA, NameRecord, NamesFile, VmId, VmName};

use crate::accounts;
use crate::journal::Journal;
use crate::pool::Pool;

const FILE: &str = "names.json";

/// Writes what the journal says now.
pub(crate) fn write(
    journal: &Journal,
    attached: &HashSet<VmId>,
    bridge: &InterfaceName,
    pool: Pool,
) -> io::Result<()> {
    let file = NamesFile {
        schema: NAMES_SCHEMA,
        bridge: bridge.clone(),
        gateway: pool.gateway(),
        prefix: pool.prefix(),
        records: records(journal, attached),
    };
    replace(&journal.directory().join(FILE), &serde_json::to_vec(&file)?)
}

fn records(journal: &Journal, attached: &HashSet<VmId>) -> Vec<NameRecord> {
    let mut kept: Vec<_> = journal.kept().values().collect();
    kept.sort_by_key(|kept| (kept.reserved_ms, kept.address));
    let mut seen: HashSet<&VmName> = HashSet::new();
    let mut users: HashMap<u32, String> = HashMap::new();
    kept.iter()
        .map(|kept| NameRecord {
            vm: kept.vm.clone(),
            name: kept.name.clone(),
            user: users
                .entry(kept.uid)
                .or_insert_with(|| accounts::label(kept.uid))
                .clone(),
            uid: kept.uid,
            address: kept.address,
            first: seen.insert(&kept.name),
            attached: attached.contains(&kept.vm),
            nat: kept.nat,
            group: kept.group.as_ref().map(|group| group.number),
        })
        .collect()
}

/// Not synced: it is made anew at each start.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    point("netd.names.write")?;
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o644)
        .open(&new)?;
    // Whatever the umask.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(content)?;
    fs::rename(new, path)
}
