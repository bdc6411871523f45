//! The database: opening, migrations and the rules of its connection.
//!
//! Migrations go forward only and add where they can. `user_version` is the format;
//! `meta.oldest_writer` is the oldest format whose banger may still write here.

use std::path::Path;
use std::time::Duration;

use banger_failpoint::{passed, point};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::{Context, FileLock, StoreError};

const FORMAT: i64 = 5;

/// `MIGRATIONS[n]` leads from format n to n + 1; with it, the oldest format that may still write.
const MIGRATIONS: &[(&str, i64)] = &[
    (FIRST, 1),
    // An older banger neither reads nor writes the new table, and all else is as it was.
    (OPERATIONS, 1),
    // The same tables. A banger before this one writes a VM's row without the fields that it does not know.
    ("", 3),
    // The one before makes images without, and boots all with the newest kernel.
    (IMAGE_KERNELS, 3),
    // Likewise; the database itself removes the rows of a VM that an older banger deletes.
    (WORKSPACES, 3),
];

const FIRST: &str = "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE images (
        id TEXT PRIMARY KEY, digest TEXT NOT NULL, source TEXT NOT NULL, architecture TEXT NOT NULL,
        filesystem TEXT NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL, config TEXT NOT NULL,
        created_ms INTEGER NOT NULL) STRICT;
     CREATE INDEX images_by_digest ON images (digest);
     CREATE TABLE image_names (
        name TEXT PRIMARY KEY,
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE) STRICT, WITHOUT ROWID;
     CREATE TABLE kernels (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, release TEXT NOT NULL, architecture TEXT NOT NULL,
        digest TEXT NOT NULL, source TEXT NOT NULL, vmlinux INTEGER NOT NULL, modules INTEGER NOT NULL,
        created_ms INTEGER NOT NULL) STRICT;
     CREATE TABLE vms (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,
        image TEXT NOT NULL REFERENCES images (id) ON DELETE RESTRICT,
        kernel TEXT NOT NULL REFERENCES kernels (id) ON DELETE RESTRICT,
        spec TEXT NOT NULL, created_ms INTEGER NOT NULL) STRICT;
     CREATE INDEX vms_by_image ON vms (image);
     CREATE INDEX vms_by_kernel ON vms (kernel);";

const OPERATIONS: &str = "CREATE TABLE operations (
        id TEXT PRIMARY KEY, operation TEXT NOT NULL, name TEXT NOT NULL, vm TEXT,
        stage TEXT NOT NULL, done INTEGER NOT NULL, total INTEGER,
        created_ms INTEGER NOT NULL, finished_ms INTEGER, outcome TEXT) STRICT;";

const IMAGE_KERNELS: &str =
    "ALTER TABLE images ADD COLUMN kernel TEXT REFERENCES kernels (id) ON DELETE RESTRICT;
     CREATE INDEX images_by_kernel ON images (kernel);";

const WORKSPACES: &str = "CREATE TABLE workspaces (
        id TEXT PRIMARY KEY, vm TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
        path TEXT NOT NULL, source TEXT NOT NULL, spec TEXT NOT NULL,
        created_ms INTEGER NOT NULL, prepared_ms INTEGER, UNIQUE (vm, path)) STRICT;";

/// An open store.
pub struct Store {
    context: Context,
    pub(crate) connection: Connection,
}

impl Store {
    /// Opens the store, making it when it is not there, and sweeps what dead commands left.
    ///
    /// # Errors
    /// Unsafe or unwritable directories, a damaged or newer database.
    pub fn open(context: &Context) -> Result<Self, StoreError> {
        context.make_directories()?;
        let path = context.database();
        refuse_stump(&path)?;
        point("database.open").map_err(crate::io_error("open", &path))?;
        let connection = Connection::open(&path).map_err(database_error(&path))?;
        let mut store = Store {
            context: context.clone(),
            connection,
        };
        store.configure()?;
        store.migrate()?;
        store.sweep_leftovers()?;
        store.prune_operations()?;
        Ok(store)
    }

    /// Opens the store for reading only when it is there; completion must make nothing.
    ///
    /// # Errors
    /// A damaged or newer database.
    pub fn open_existing(context: &Context) -> Result<Option<Self>, StoreError> {
        let path = context.database();
        match std::fs::metadata(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(crate::io_error("open", &path)(error)),
        }
        refuse_stump(&path)?;
        let open = |path: &Path, more: OpenFlags| {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
            let connection =
                Connection::open_with_flags(path, flags).map_err(database_error(path))?;
            let store = Store {
                context: context.clone(),
                connection,
            };
            store.format().map(|format| (store, format))
        };
        let mut opened = open(&path, OpenFlags::empty());
        if opened.is_err() && is_read_only(context.data()) && !has_log(&path) {
            // Readers of a WAL database write into its index; where nobody can write, nobody needs it
            // (sqlite.org, wal.html#readonly; c3ref/open.html, immutable).
            let uri = format!("file:{}?immutable=1", percent_encoded(&path));
            opened = open(Path::new(&uri), OpenFlags::SQLITE_OPEN_URI);
        }
        let (store, format) = opened?;
        match format {
            0 => Ok(None),
            // Its rows lack columns that are read: it is brought up to date where that can be.
            1..FORMAT if !is_read_only(context.data()) => Store::open(context).map(Some),
            _ => Ok(Some(store)),
        }
    }

    /// Where everything is.
    pub fn context(&self) -> &Context {
        &self.context
    }

    fn configure(&self) -> Result<(), StoreError> {
        let failed = self.failed();
        self.connection
            .busy_timeout(Duration::from_secs(10))
            .map_err(&failed)?;
        let pragmas =
            "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;";
        self.connection.execute_batch(pragmas).map_err(&failed)?;
        let mode: String = self
            .connection
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .map_err(&failed)?;
        if mode == "wal" {
            return Ok(());
        }
        // Of two who change the mode at once, SQLite refuses one whatever the timeout.
        let path = self.context.locks().join("journal-mode");
        let lock = FileLock::open(&path).map_err(crate::io_error("open the lock file", &path))?;
        lock.lock().map_err(crate::io_error("lock", &path))?;
        self.connection
            .execute_batch("PRAGMA journal_mode = WAL")
            .map_err(failed)
    }

    fn format(&self) -> Result<i64, StoreError> {
        self.connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(self.failed())
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let found = self.format()?;
        if found == FORMAT {
            return Ok(());
        }
        let path = self.context.database();
        let newer = StoreError::Newer {
            path: path.clone(),
            found,
            known: FORMAT,
        };
        self.write(|transaction| {
            // Another process may have migrated between the look and the lock.
            let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if found > FORMAT {
                let oldest: i64 = transaction.query_row(
                    "SELECT value FROM meta WHERE key = 'oldest_writer'",
                    [],
                    |row| row.get(0),
                )?;
                return Ok(oldest <= FORMAT);
            }
            for (index, (sql, oldest_writer)) in MIGRATIONS
                .iter()
                .enumerate()
                .skip(usize::try_from(found).unwrap_or(0))
            {
                transaction.execute_batch(sql)?;
                transaction.execute(
                    "INSERT OR REPLACE INTO meta (key, value) VALUES ('oldest_writer', ?1)",
                    [oldest_writer],
                )?;
                transaction.pragma_update(None, "user_version", index as i64 + 1)?;
            }
            Ok(true)
        })?
        .then_some(())
        .ok_or(newer)
    }

    /// One write transaction that takes the write lock at its beginning (a deferred one that
    /// upgrades fails with SQLITE_BUSY whatever the timeout).
    pub(crate) fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let path = self.context.database();
        let failed = database_error(&path);
        point("database.begin").map_err(crate::io_error("write", &path))?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&failed)?;
        let value = work(&transaction).map_err(&failed)?;
        point("database.commit").map_err(crate::io_error("write", &path))?;
        transaction.commit().map_err(failed)?;
        passed("database.committed");
        Ok(value)
    }

    /// For `map_err` on a read.
    pub(crate) fn failed(&self) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
        database_error(&self.context.database())
    }
}

/// SQLite takes a file that is shorter than its smallest page for an empty database, and would begin a
/// new one in it (sqlite.org, fileformat.html).
fn refuse_stump(path: &Path) -> Result<(), StoreError> {
    const SMALLEST_PAGE: u64 = 512;
    let length = std::fs::metadata(path).map_or(0, |file| file.len());
    if !(1..SMALLEST_PAGE).contains(&length) {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
    let cut = Some(format!("it was cut to {length} bytes"));
    Err(database_error(path)(rusqlite::Error::SqliteFailure(
        code, cut,
    )))
}

fn is_read_only(directory: &Path) -> bool {
    nix::sys::statvfs::statvfs(directory).is_ok_and(|space| {
        space
            .flags()
            .contains(nix::sys::statvfs::FsFlags::ST_RDONLY)
    })
}

/// Transactions that are not in the database file yet.
fn has_log(database: &Path) -> bool {
    let log = database.with_extension("db-wal");
    std::fs::metadata(log).is_ok_and(|log| log.len() > 0)
}

/// As the path of a URI (RFC 3986, section 2.1).
fn percent_encoded(path: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut encoded = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(*byte)),
            byte => {
                // Writing into a string cannot fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

fn database_error(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Database {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn context(base: &Path) -> Context {
        Context::from_environment(Some(&base.join("s")), |name| {
            (name == "BANGER_RUNTIME_DIR").then(|| base.join("r").into_os_string())
        })
        .unwrap()
    }

    #[test]
    fn an_absent_store_is_made_by_open_and_not_by_open_existing() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        assert!(Store::open_existing(&context).unwrap().is_none());
        assert!(!context.data().exists());
        drop(Store::open(&context).unwrap());
        assert!(Store::open_existing(&context).unwrap().is_some());
    }

    #[test]
    fn a_newer_store_is_shared_if_it_says_so_and_refused_otherwise() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        let store = Store::open(&context).unwrap();
        store
            .connection
            .pragma_update(None, "user_version", FORMAT + 1)
            .unwrap();
        drop(store);
        let store = Store::open(&context).unwrap();
        store
            .connection
            .execute("UPDATE meta SET value = ?1", [FORMAT + 1])
            .unwrap();
        drop(store);
        assert!(matches!(
            Store::open(&context),
            Err(StoreError::Newer {
                found: 6,
                known: 5,
                ..
            })
        ));
    }

    #[test]
    fn a_store_of_the_first_format_is_migrated_with_its_rows() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        context.make_directories().unwrap();
        let old = Connection::open(context.database()).unwrap();
        old.execute_batch(FIRST).unwrap();
        old.execute_batch(
            "INSERT INTO meta VALUES ('oldest_writer', 1); PRAGMA user_version = 1;
             INSERT INTO kernels VALUES ('00112233445566aa', 'k', '6.1', 'amd64',
                'sha256:0000000000000000000000000000000000000000000000000000000000000000', 's', 1, 0, 5);",
        )
        .unwrap();
        drop(old);
        let store = Store::open(&context).unwrap();
        assert_eq!(store.kernel("k").unwrap().created_ms, 5);
        assert!(store.operations().unwrap().is_empty());
        let oldest: i64 = store
            .connection
            .query_row(
                "SELECT value FROM meta WHERE key = 'oldest_writer'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!((store.format().unwrap(), oldest), (FORMAT, 3));
    }

    #[test]
    fn what_is_committed_is_on_the_disk_and_foreign_keys_hold() {
        let base = tempfile::tempdir().unwrap();
        let store = Store::open(&context(base.path())).unwrap();
        let pragma = |name: &str| -> String {
            let sql = format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}");
            store
                .connection
                .query_row(&sql, [], |row| row.get(0))
                .unwrap()
        };
        assert_eq!(pragma("journal_mode"), "wal");
        // 2 is FULL: the WAL is synced at each commit (sqlite.org, pragma.html#pragma_synchronous).
        assert_eq!(pragma("synchronous"), "2");
        assert_eq!(pragma("foreign_keys"), "1");
        let dangling = store.connection.execute(
            "INSERT INTO vms VALUES ('00112233445566aa', 'v', 'no-image', 'no-kernel', '{}', 1)",
            [],
        );
        assert!(dangling.unwrap_err().to_string().contains("FOREIGN KEY"));
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let base = tempfile::tempdir().unwrap();
        let context = context(base.path());
        context.make_directories().unwrap();
        std::fs::write(
            context.database(),
            "this is no database, but long enough to be one".repeat(20),
        )
        .unwrap();
        let error = Store::open(&context).err().unwrap().to_string();
        assert!(error.contains("banger.db"), "{error}");
    }
}
