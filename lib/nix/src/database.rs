//! The database of the guest's store.
//!
//! It is made here, not by `nix-store --load-db` in the guest: then it is valid from the first moment, whoever is
//! process 1, and in a closure without Nix, too. Its format is that of all Nix since 2.0 (`schema` 10). It holds no
//! times and no derivers, so that equal closures have equal bytes.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, params};

use crate::{Error, PathInfo};

/// What the file `schema` beside it says.
pub(crate) const FORMAT: &str = "10";
/// Nix itself gives all files this time.
const REGISTERED: i64 = 1;

/// Columns, keys and the trigger as Nix's own statements expect them (nix/src/libstore/local-store.cc).
const TABLES: &str = "
CREATE TABLE ValidPaths (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, path TEXT UNIQUE NOT NULL, hash TEXT NOT NULL,
    registrationTime INTEGER NOT NULL, deriver TEXT, narSize INTEGER, ultimate INTEGER, sigs TEXT, ca TEXT);
CREATE TABLE Refs (
    referrer INTEGER NOT NULL REFERENCES ValidPaths (id) ON DELETE CASCADE,
    reference INTEGER NOT NULL REFERENCES ValidPaths (id) ON DELETE RESTRICT,
    PRIMARY KEY (referrer, reference));
CREATE INDEX IndexReferrer ON Refs (referrer);
CREATE INDEX IndexReference ON Refs (reference);
CREATE TRIGGER DeleteSelfRefs BEFORE DELETE ON ValidPaths BEGIN
    DELETE FROM Refs WHERE referrer = old.id AND reference = old.id; END;
CREATE TABLE DerivationOutputs (
    drv INTEGER NOT NULL REFERENCES ValidPaths (id) ON DELETE CASCADE, id TEXT NOT NULL, path TEXT NOT NULL,
    PRIMARY KEY (drv, id));
CREATE INDEX IndexDerivationOutputs ON DerivationOutputs (path);";

/// Writes the database of `paths` into a new file; all that they refer to is among them.
pub(crate) fn write(path: &Path, paths: &[PathInfo]) -> Result<(), Error> {
    File::create_new(path).map_err(Error::io("create", path))?;
    let mut connection = Connection::open(path)?;
    // Nobody else sees it, and a crash throws it away.
    connection.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         PRAGMA foreign_keys = ON;",
    )?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    {
        let mut valid = transaction.prepare(
            "INSERT INTO ValidPaths (path, hash, registrationTime, narSize) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for info in paths {
            valid.execute(params![
                info.path.as_str(),
                info.hash.as_str(),
                REGISTERED,
                info.size.cast_signed()
            ])?;
        }
        let mut refers = transaction.prepare(
            "INSERT INTO Refs (referrer, reference) SELECT a.id, b.id FROM ValidPaths a, ValidPaths b
             WHERE a.path = ?1 AND b.path = ?2",
        )?;
        for info in paths {
            for reference in &info.references {
                let rows = refers.execute([info.path.as_str(), reference.as_str()])?;
                if rows != 1 {
                    return Err(Error::Answer {
                        command: "nix-store -qR",
                        reason: format!("{} refers to {reference}, which is not there", info.path),
                    });
                }
            }
        }
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StorePath;
    use lib_model::Digest;

    fn info(name: &str, references: &[&str]) -> PathInfo {
        let path = |name: &str| {
            StorePath::try_from(&*format!("/nix/store/{}-{name}", "0".repeat(32))).unwrap()
        };
        PathInfo {
            path: path(name),
            hash: Digest::from_sha256([7; 32]),
            size: 5,
            references: references.iter().map(|name| path(name)).collect(),
        }
    }

    #[test]
    fn equal_closures_have_equal_bytes_and_whole_references() {
        let place = tempfile::tempdir().unwrap();
        let paths = [info("a", &["a", "b"]), info("b", &[])];
        let (first, second) = (place.path().join("1"), place.path().join("2"));
        write(&first, &paths).unwrap();
        write(&second, &paths).unwrap();
        assert_eq!(
            std::fs::read(&first).unwrap(),
            std::fs::read(&second).unwrap()
        );
        let open = Connection::open(&first).unwrap();
        let count = |sql: &str| open.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM ValidPaths"), 2);
        assert_eq!(count("SELECT count(*) FROM Refs"), 2);
        let hash: String = open
            .query_row("SELECT hash FROM ValidPaths", [], |row| row.get(0))
            .unwrap();
        assert_eq!(hash, format!("sha256:{}", "07".repeat(32)));
        let open = write(&place.path().join("3"), &[info("a", &["gone"])]);
        assert!(open.unwrap_err().to_string().contains("nix-store -qR"));
    }
}
