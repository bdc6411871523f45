//! Operations: work that goes on without the command that began it.
//!
//! A worker holds `locks/operation/<id>` from before its row appears until after it has recorded its
//! outcome. So a row without an outcome whose lock is free belongs to a worker that was killed.

use std::fs;
use std::time::Duration;

use lib_model::{OperationId, OperationRecord, OperationState, SCHEMA, VmId};
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::locks::{read_holder, write_holder};
use crate::look_up::Table;
use crate::{Context, FileLock, Holder, Store, StoreError, io_error, now_ms};

/// Finished operations are forgotten after this long.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Not `running`.
    pub state: OperationState,
    /// Exit status.
    pub status: u8,
    /// The error and its causes; empty when all went well.
    #[serde(default)]
    pub error: Vec<String>,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
}

/// A row of the `operations` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRow {
    /// Random id.
    pub id: OperationId,
    operation: String,
    name: String,
    /// The VM, once it is made.
    pub vm: Option<VmId>,
    stage: String,
    done: u64,
    total: Option<u64>,
    created_ms: u64,
    finished_ms: Option<u64>,
    outcome: Option<Outcome>,
}

impl Store {
    /// Records that an operation begins. Its worker inherits the lock.
    ///
    /// # Errors
    /// When the lock or the row cannot be made.
    pub fn begin_operation(
        &mut self,
        operation: &str,
        name: &str,
    ) -> Result<(OperationId, FileLock), StoreError> {
        let id = OperationId::random()
            .map_err(io_error("name an operation in", self.context().data()))?;
        let path = self.context().operation_lock(&id);
        let failed = || std::io::Error::other("somebody else holds it");
        let mut lock = FileLock::try_take(&path)
            .and_then(|lock| lock.ok_or_else(failed))
            .map_err(io_error("lock", &path))?;
        write_holder(lock.file()).map_err(io_error("write", &path))?;
        self.write(|transaction| {
            transaction.execute(
                "INSERT INTO operations (id, operation, name, stage, done, created_ms)
                 VALUES (?1, ?2, ?3, 'starting', 0, ?4)",
                rusqlite::params![id.as_str(), operation, name, now_ms().cast_signed()],
            )
        })?;
        Ok((id, lock))
    }

    /// The worker takes over: `lock` is what it inherited.
    ///
    /// # Errors
    /// When the lock file cannot be written.
    pub fn hold_operation(&self, id: &OperationId, lock: &mut FileLock) -> Result<(), StoreError> {
        let path = self.context().operation_lock(id);
        write_holder(lock.file()).map_err(io_error("write", &path))
    }

    /// Records what the worker is busy with.
    ///
    /// # Errors
    /// When the row cannot be written.
    pub fn set_operation_stage(
        &mut self,
        id: &OperationId,
        stage: &str,
        done: u64,
        total: Option<u64>,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "UPDATE operations SET stage = ?2, done = ?3, total = ?4 WHERE id = ?1",
                rusqlite::params![
                    id.as_str(),
                    stage,
                    done.cast_signed(),
                    total.map(u64::cast_signed)
                ],
            )
        })
        .map(drop)
    }

    /// Records which VM the operation makes, by the name it will have; before the VM is there.
    ///
    /// # Errors
    /// When the row cannot be written.
    pub fn set_operation_vm(&mut self, id: &OperationId, vm: &VmId) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "UPDATE operations SET vm = ?2 WHERE id = ?1",
                [id.as_str(), vm.as_str()],
            )
        })
        .map(drop)
    }

    /// Records the outcome, once; returns whether it was the first one.
    ///
    /// # Errors
    /// When the row cannot be written.
    pub fn finish_operation(
        &mut self,
        id: &OperationId,
        outcome: &Outcome,
    ) -> Result<bool, StoreError> {
        let text = serde_json::to_string(outcome).map_err(|error| StoreError::DamagedRow {
            what: format!("operation {id}"),
            reason: error.to_string(),
        })?;
        let changed = self.write(|transaction| {
            transaction.execute(
                "UPDATE operations SET finished_ms = ?2, outcome = ?3
                 WHERE id = ?1 AND finished_ms IS NULL",
                rusqlite::params![id.as_str(), now_ms().cast_signed(), text],
            )
        })?;
        Ok(changed > 0)
    }

    /// All operations, newest first.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn operations(&self) -> Result<Vec<OperationRow>, StoreError> {
        self.rows(&OPERATIONS, "ORDER BY created_ms DESC, id")
    }

    /// All ids of operations; for completion.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn operation_ids(&self) -> Result<Vec<String>, StoreError> {
        self.strings(OPERATIONS.names)
    }

    /// The operation of this id, unique id prefix, or the newest one with this VM name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`].
    pub fn operation(&self, selector: &str) -> Result<OperationRow, StoreError> {
        self.look_up(&OPERATIONS, selector, selector, |id| id)
    }

    /// The record of an operation with its state now.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn operation_record(&self, row: &OperationRow) -> Result<OperationRecord, StoreError> {
        let alive = FileLock::is_held(&self.context().operation_lock(&row.id));
        // A worker records its outcome before it lets go of the lock, so a free lock says that the row
        // does not change any more.
        let row = match alive || row.finished_ms.is_some() {
            true => row.clone(),
            false => self.row_by_id(&OPERATIONS, row.id.as_str())?,
        };
        let outcome = row.outcome.clone();
        let (state, status, error, hint) = match outcome {
            Some(Outcome {
                state,
                status,
                error,
                hint,
            }) => (state, Some(status), error, hint),
            None if alive => (OperationState::Running, None, Vec::new(), None),
            None => (
                OperationState::Failed,
                None,
                vec![format!("its process was killed while {}", row.stage)],
                row.vm
                    .as_ref()
                    .map(|vm| format!("banger-vm list   (if {vm} is there, it is yours)")),
            ),
        };
        Ok(OperationRecord {
            schema: SCHEMA,
            id: row.id,
            operation: row.operation,
            name: row.name,
            vm: row.vm,
            state,
            stage: row.stage,
            done: row.done,
            total: row.total,
            created_ms: row.created_ms,
            finished_ms: row.finished_ms,
            status,
            error,
            hint,
            changed: false,
        })
    }

    /// The worker, while it lives.
    pub fn operation_worker(&self, id: &OperationId) -> Option<Holder> {
        let path = self.context().operation_lock(id);
        if !FileLock::is_held(&path) {
            return None;
        }
        read_holder(&mut fs::File::open(&path).ok()?)
    }

    /// Forgets operations that ended long ago. Returns how many.
    ///
    /// # Errors
    /// When rows cannot be removed.
    pub fn prune_operations(&mut self) -> Result<usize, StoreError> {
        let kept = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
        self.prune_operations_before(now_ms().saturating_sub(kept))
    }

    fn prune_operations_before(&mut self, time_ms: u64) -> Result<usize, StoreError> {
        // Nearly always there is nothing: no write, no lock.
        let old = self.rows(
            &OPERATIONS,
            &format!("WHERE COALESCE(finished_ms, created_ms) < {time_ms}"),
        )?;
        let mut pruned = 0;
        for row in old {
            let path = self.context().operation_lock(&row.id);
            if row.finished_ms.is_none() && FileLock::is_held(&path) {
                continue;
            }
            pruned += self.write(|transaction| {
                transaction.execute("DELETE FROM operations WHERE id = ?1", [row.id.as_str()])
            })?;
            // Its id is never used again, so nobody can wait for this file and mean another.
            let _ = fs::remove_file(path);
        }
        Ok(pruned)
    }
}

/// Waits until the worker of an operation is gone, however it went.
///
/// # Errors
/// When the lock file cannot be opened.
pub fn wait_operation(context: &Context, id: &OperationId) -> Result<(), StoreError> {
    let path = context.operation_lock(id);
    FileLock::wait_free(&path).map_err(io_error("wait for", &path))
}

const OPERATIONS: Table<OperationRow> = Table {
    kind: "operation",
    name: "operations",
    select: "SELECT id, operation, name, vm, stage, done, total, created_ms, finished_ms, outcome FROM operations",
    by_name: "id = (SELECT id FROM operations WHERE name = ?1 ORDER BY created_ms DESC LIMIT 1)",
    names: "SELECT id FROM operations ORDER BY created_ms DESC",
    name_of: "SELECT name FROM operations WHERE id = ?1",
    read: operation,
};

fn operation(row: &Row<'_>) -> Result<OperationRow, Box<dyn std::error::Error>> {
    let outcome: Option<String> = row.get(9)?;
    let vm: Option<String> = row.get(3)?;
    Ok(OperationRow {
        id: OperationId::try_from(row.get::<_, String>(0)?)?,
        operation: row.get(1)?,
        name: row.get(2)?,
        vm: vm.map(VmId::try_from).transpose()?,
        stage: row.get(4)?,
        done: row.get::<_, i64>(5)?.cast_unsigned(),
        total: row.get::<_, Option<i64>>(6)?.map(i64::cast_unsigned),
        created_ms: row.get::<_, i64>(7)?.cast_unsigned(),
        finished_ms: row.get::<_, Option<i64>>(8)?.map(i64::cast_unsigned),
        outcome: outcome
            .map(|text| serde_json::from_str(&text))
            .transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::tests::context;

    #[test]
    fn a_row_without_an_outcome_runs_as_long_as_its_lock_is_held() {
        let base = tempfile::tempdir().unwrap();
        let mut store = Store::open(&context(base.path())).unwrap();
        let (id, lock) = store.begin_operation("create", "dev").unwrap();
        store
            .set_operation_stage(&id, "pulling", 3, Some(10))
            .unwrap();
        let row = store.operation("dev").unwrap();
        let record = store.operation_record(&row).unwrap();
        assert_eq!(record.state, OperationState::Running);
        assert_eq!(
            (record.stage.as_str(), record.done, record.total),
            ("pulling", 3, Some(10))
        );
        assert_eq!(store.operation_worker(&id).unwrap().pid, std::process::id());
        assert_eq!(store.prune_operations_before(u64::MAX >> 1).unwrap(), 0);

        drop(lock);
        let record = store.operation_record(&row).unwrap();
        assert_eq!(record.state, OperationState::Failed);
        assert_eq!(record.error, ["its process was killed while pulling"]);
        assert!(store.operation_worker(&id).is_none());
        wait_operation(store.context(), &id).unwrap();
        assert_eq!(store.prune_operations_before(u64::MAX >> 1).unwrap(), 1);
        assert!(store.operations().unwrap().is_empty());
    }

    #[test]
    fn the_first_outcome_stays() {
        let base = tempfile::tempdir().unwrap();
        let mut store = Store::open(&context(base.path())).unwrap();
        let (id, lock) = store.begin_operation("create", "dev").unwrap();
        let before = store.operation(id.as_str()).unwrap();
        let done = Outcome {
            state: OperationState::Done,
            status: 0,
            error: Vec::new(),
            hint: None,
        };
        assert!(store.finish_operation(&id, &done).unwrap());
        let cancelled = Outcome {
            state: OperationState::Cancelled,
            ..done.clone()
        };
        assert!(!store.finish_operation(&id, &cancelled).unwrap());
        drop(lock);
        // A row that was read before the outcome is not taken for one of a killed worker.
        let record = store.operation_record(&before).unwrap();
        assert_eq!(
            (record.state, record.status),
            (OperationState::Done, Some(0))
        );
    }
}
