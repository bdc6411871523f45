//! Workspaces: which repository is where in which guest.
//!
//! The row is written before anything goes into the guest, and says when the copy was whole. What was
//! sent is in the workspace's directory. Both go with their VM.

use std::path::PathBuf;

use lib_model::{SCHEMA, VmId, WorkspaceId, WorkspaceRecord};
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::look_up::Table;
use crate::{Store, StoreError, VmRow, WorkspaceGuard, now_ms};

/// What was asked for, and what is known of the copy. Fields are only added, with a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkspaceSpec {
    /// `shallow`, `full` or `worktree-only`.
    pub mode: String,
    /// The branch that is checked out in the guest.
    pub branch: Option<String>,
    /// The commit that was asked for instead of the working tree.
    pub from: Option<String>,
    /// The commit that the copy was made from; none without commits.
    pub base: Option<String>,
    /// Ignored files that go along.
    pub include_ignored: Vec<String>,
    /// The guest's user whose files they are; the image's own when missing.
    pub user: Option<String>,
    /// The guest has a git repository there.
    pub git: bool,
    /// Commands in the guest cannot change it.
    pub readonly: bool,
    /// Files that the last copy sent.
    pub sent_files: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Hash of the changes that were last exported or looked at.
    pub reviewed: Option<String>,
    /// Hash of the changes that were last written somewhere: a patch, a branch.
    pub exported: Option<String>,
}

/// A row of the `workspaces` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceRow {
    /// Random id.
    pub id: WorkspaceId,
    /// Its VM.
    pub vm: VmId,
    /// Absolute path in the guest.
    pub path: String,
    /// Top of the working tree on the host.
    pub source: PathBuf,
    /// The rest.
    pub spec: WorkspaceSpec,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// When the copy was whole; none when it is not.
    pub prepared_ms: Option<u64>,
}

impl WorkspaceRow {
    /// The record, as far as the row knows it.
    pub fn record(&self, vm: &VmRow) -> WorkspaceRecord {
        WorkspaceRecord {
            schema: SCHEMA,
            id: self.id.clone(),
            vm: self.vm.clone(),
            name: vm.name.clone(),
            path: self.path.clone(),
            source: self.source.clone(),
            mode: self.spec.mode.clone(),
            branch: self.spec.branch.clone(),
            base: self.spec.base.clone(),
            git: self.spec.git,
            readonly: self.spec.readonly,
            ready: self.prepared_ms.is_some(),
            prepared_ms: self.prepared_ms,
            sent_files: self.spec.sent_files,
            sent_bytes: self.spec.sent_bytes,
            head: None,
            stale: false,
            changes: None,
            commits: None,
            changed: false,
        }
    }
}

impl Store {
    /// All workspaces, by age.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn workspaces(&self) -> Result<Vec<WorkspaceRow>, StoreError> {
        self.rows(&WORKSPACES, "ORDER BY created_ms, id")
    }

    /// The workspaces of a VM, by age.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn workspaces_of(&self, vm: &VmId) -> Result<Vec<WorkspaceRow>, StoreError> {
        let mut all = self.workspaces()?;
        all.retain(|workspace| workspace.vm == *vm);
        Ok(all)
    }

    /// The workspace of this id or unique id prefix, `VM:PATH`, or the only one of a VM.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`].
    pub fn workspace(&self, selector: &str) -> Result<WorkspaceRow, StoreError> {
        let (vm, path) = match selector.split_once(':') {
            Some((vm, path)) => (vm, Some(path)),
            None => (selector, None),
        };
        let vm = match self.vm(vm) {
            Ok(vm) => vm,
            Err(StoreError::NotFound { .. }) if path.is_none() => {
                return self.look_up(&WORKSPACES, selector, selector, |name| name);
            }
            Err(error) => return Err(error),
        };
        let mut found = self.workspaces_of(&vm.id)?;
        found.retain(|workspace| path.is_none_or(|path| workspace.path == path));
        match found.len() {
            0 => Err(WORKSPACES.not_found(selector, None)),
            1 => Ok(found.remove(0)),
            _ => Err(StoreError::Ambiguous {
                kind: WORKSPACES.kind,
                selector: selector.to_owned(),
                matches: found
                    .iter()
                    .map(|workspace| format!("{}:{}", vm.name, workspace.path))
                    .collect(),
            }),
        }
    }

    /// What selects workspaces: names of VMs, and with the path for a VM with several; for completion.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn workspace_names(&self) -> Result<Vec<String>, StoreError> {
        self.strings(WORKSPACES.names)
    }

    /// Records that a copy begins: until [`Store::finish_workspace`] the workspace is not whole.
    ///
    /// # Errors
    /// When the VM was deleted meanwhile, or the row cannot be written.
    pub fn begin_workspace(
        &mut self,
        guard: &WorkspaceGuard<'_>,
        path: &str,
        source: &std::path::Path,
        spec: &WorkspaceSpec,
    ) -> Result<WorkspaceRow, StoreError> {
        let vm = guard.vm();
        let known = self.workspaces_of(vm)?;
        let known = known.into_iter().find(|workspace| workspace.path == path);
        let new = WorkspaceId::random().map_err(crate::io_error(
            "name a workspace in",
            self.context().data(),
        ))?;
        let row = WorkspaceRow {
            id: known.as_ref().map_or(new, |known| known.id.clone()),
            vm: vm.clone(),
            path: path.to_owned(),
            source: source.to_owned(),
            spec: spec.clone(),
            created_ms: known.map_or_else(now_ms, |known| known.created_ms),
            prepared_ms: None,
        };
        self.write_workspace(&row)?;
        Ok(row)
    }

    /// Records that the copy is whole, and what it became.
    ///
    /// # Errors
    /// When the row cannot be written.
    pub fn finish_workspace(
        &mut self,
        _guard: &WorkspaceGuard<'_>,
        row: &mut WorkspaceRow,
    ) -> Result<(), StoreError> {
        row.prepared_ms = Some(now_ms());
        self.write_workspace(row)
    }

    /// Records what changed about a workspace.
    ///
    /// # Errors
    /// When the row cannot be written.
    pub fn update_workspace(
        &mut self,
        _guard: &WorkspaceGuard<'_>,
        row: &WorkspaceRow,
    ) -> Result<(), StoreError> {
        self.write_workspace(row)
    }

    fn write_workspace(&mut self, row: &WorkspaceRow) -> Result<(), StoreError> {
        let damaged = |reason: String| StoreError::DamagedRow {
            what: format!("workspace {}", row.id),
            reason,
        };
        let spec = serde_json::to_string(&row.spec).map_err(|error| damaged(error.to_string()))?;
        let source = row
            .source
            .to_str()
            .ok_or_else(|| damaged("its path on the host is no UTF-8".into()))?;
        self.row_by_id(&crate::vm_rows::VMS, row.vm.as_str())?;
        self.write(|transaction| {
            transaction.execute(
                "INSERT INTO workspaces (id, vm, path, source, spec, created_ms, prepared_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (id) DO UPDATE SET source = ?4, spec = ?5, prepared_ms = ?7",
                rusqlite::params![
                    row.id.as_str(),
                    row.vm.as_str(),
                    row.path,
                    source,
                    spec,
                    row.created_ms.cast_signed(),
                    row.prepared_ms.map(u64::cast_signed),
                ],
            )
        })?;
        Ok(())
    }
}

const WORKSPACES: Table<WorkspaceRow> = Table {
    kind: "workspace",
    name: "workspaces",
    select: "SELECT id, vm, path, source, spec, created_ms, prepared_ms FROM workspaces",
    by_name: "id = ?1",
    names: "SELECT vms.name || CASE WHEN (SELECT count(*) FROM workspaces AS other WHERE other.vm = vms.id) > 1
                THEN ':' || workspaces.path ELSE '' END
            FROM workspaces JOIN vms ON vms.id = workspaces.vm ORDER BY 1",
    name_of: "SELECT vms.name || ':' || workspaces.path FROM workspaces JOIN vms ON vms.id = workspaces.vm
              WHERE workspaces.id = ?1",
    read: workspace,
};

fn workspace(row: &Row<'_>) -> Result<WorkspaceRow, Box<dyn std::error::Error>> {
    Ok(WorkspaceRow {
        id: WorkspaceId::try_from(row.get::<_, String>(0)?)?,
        vm: VmId::try_from(row.get::<_, String>(1)?)?,
        path: row.get(2)?,
        source: PathBuf::from(row.get::<_, String>(3)?),
        spec: serde_json::from_str(&row.get::<_, String>(4)?)?,
        created_ms: row.get::<_, i64>(5)?.cast_unsigned(),
        prepared_ms: row.get::<_, Option<i64>>(6)?.map(i64::cast_unsigned),
    })
}
