//! From what was typed to a row: the exact name, then the id, then a unique prefix of an id.

use lib_model::nearest;
use rusqlite::{OptionalExtension, Row};

use crate::{Store, StoreError};

/// Shorter ones could be mistyped names: `a`, `bad`, `cafe`.
const SHORTEST_PREFIX: usize = 6;

/// A table whose rows are found by id, and most of them by name.
pub(crate) struct Table<T: 'static> {
    /// For people: `image`, `kernel`, `VM`.
    pub(crate) kind: &'static str,
    /// In SQL.
    pub(crate) name: &'static str,
    /// `SELECT … FROM …` without a condition; the id is the first column.
    pub(crate) select: &'static str,
    /// The condition that finds a row by its name `?1`.
    pub(crate) by_name: &'static str,
    /// Names that a mistyped one may have meant, one a row.
    pub(crate) names: &'static str,
    /// The statement that gives a name of the id `?1`.
    pub(crate) name_of: &'static str,
    /// From the columns of `select` to a value.
    pub(crate) read: fn(&Row<'_>) -> Result<T, Box<dyn std::error::Error>>,
}

impl<T> Table<T> {
    fn value(&self, row: &Row<'_>) -> Result<T, StoreError> {
        (self.read)(row).map_err(|error| StoreError::DamagedRow {
            what: format!(
                "{} {}",
                self.kind,
                row.get::<_, String>(0).unwrap_or_default()
            ),
            reason: error.to_string(),
        })
    }

    pub(crate) fn not_found(&self, selector: &str, nearest: Option<String>) -> StoreError {
        StoreError::NotFound {
            kind: self.kind,
            selector: selector.to_owned(),
            nearest,
        }
    }
}

impl Store {
    /// The rows that `tail` (`WHERE …`, `ORDER BY …`) leaves.
    pub(crate) fn rows<T>(&self, table: &Table<T>, tail: &str) -> Result<Vec<T>, StoreError> {
        let failed = self.failed();
        let mut statement = self
            .connection
            .prepare_cached(&format!("{} {tail}", table.select))
            .map_err(&failed)?;
        let rows = statement
            .query_map([], |row| Ok(table.value(row)))
            .map_err(&failed)?;
        rows.map(|row| row.map_err(&failed)?).collect()
    }

    /// The first row for which `condition` holds of `?1`.
    pub(crate) fn row<T>(
        &self,
        table: &Table<T>,
        condition: &str,
        value: &str,
    ) -> Result<Option<T>, StoreError> {
        let failed = self.failed();
        self.connection
            .prepare_cached(&format!("{} WHERE {condition}", table.select))
            .map_err(&failed)?
            .query_row([value], |row| Ok(table.value(row)))
            .optional()
            .map_err(failed)?
            .transpose()
    }

    pub(crate) fn row_by_id<T>(&self, table: &Table<T>, id: &str) -> Result<T, StoreError> {
        self.row(table, "id = ?1", id)?
            .ok_or_else(|| table.not_found(id, None))
    }

    /// By name (as the table spells names), id, or unique prefix of an id. `alike` makes names comparable.
    pub(crate) fn look_up<T>(
        &self,
        table: &Table<T>,
        selector: &str,
        name: &str,
        alike: fn(&str) -> &str,
    ) -> Result<T, StoreError> {
        if let Some(found) = self.row(table, table.by_name, name)? {
            return Ok(found);
        }
        let ids = self.ids_by_prefix(table.name, selector)?;
        match &ids[..] {
            [id] => self.row_by_id(table, id),
            [] => {
                let names = self.strings(table.names)?;
                let near = nearest(alike(name), names.iter().map(|n| alike(n)));
                Err(table.not_found(selector, near.map(str::to_owned)))
            }
            _ => Err(StoreError::Ambiguous {
                kind: table.kind,
                selector: selector.to_owned(),
                matches: self.with_names(table, ids)?,
            }),
        }
    }

    /// `id (name)` for each id that has a name.
    fn with_names<T>(&self, table: &Table<T>, ids: Vec<String>) -> Result<Vec<String>, StoreError> {
        let named = ids.into_iter().map(|id| {
            let name = self.string(table.name_of, &id)?;
            Ok(match name {
                Some(name) => format!("{id} ({name})"),
                None => id,
            })
        });
        named.collect()
    }

    fn string(&self, sql: &'static str, value: &str) -> Result<Option<String>, StoreError> {
        let failed = self.failed();
        let mut statement = self.connection.prepare_cached(sql).map_err(&failed)?;
        let row = statement.query_row([value], |row| row.get(0));
        row.optional().map_err(failed)
    }

    pub(crate) fn strings(&self, sql: &str) -> Result<Vec<String>, StoreError> {
        let failed = self.failed();
        let mut statement = self.connection.prepare_cached(sql).map_err(&failed)?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(&failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// All ids in `table`.
    pub(crate) fn ids(&self, table: &'static str) -> Result<Vec<String>, StoreError> {
        self.strings(&format!("SELECT id FROM {table}"))
    }

    /// Ids in `table` that begin with `prefix`, at most ten; none for what is no hexadecimal text or too
    /// short.
    pub(crate) fn ids_by_prefix(
        &self,
        table: &'static str,
        prefix: &str,
    ) -> Result<Vec<String>, StoreError> {
        if prefix.len() < SHORTEST_PREFIX || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Vec::new());
        }
        let failed = self.failed();
        let sql = format!(
            "SELECT id FROM {table} WHERE id >= ?1 AND id < ?1 || 'g' ORDER BY id LIMIT 10"
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(&failed)?;
        let rows = statement
            .query_map([prefix.to_ascii_lowercase()], |row| row.get(0))
            .map_err(&failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }
}
