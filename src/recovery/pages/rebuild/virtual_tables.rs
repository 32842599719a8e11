//! Virtual tables in the new database.
//!
//! It promises that one whose own tables are not whole does not spoil the others: a full-text index
//! is made anew from what it indexes, and what cannot be mended is left out, with the rows of its
//! tables left as they are. It must never make those tables anew.

use super::super::super::search;
use super::super::schema::Object;
use super::{Fresh, is_fatal};

impl Fresh<'_> {
    /// Their rows lie in tables of their own, which are kept; to make them by their statement
    /// would make those anew. SQLite does not look at a statement that is put there so, and one
    /// that it cannot read would make the whole database unreadable.
    pub(super) fn virtual_tables(&mut self) -> rusqlite::Result<()> {
        let schema = self.schema;
        for o in schema.others.iter().filter(|o| o.kind == "table") {
            self.conn
                .execute_batch("BEGIN; PRAGMA writable_schema = ON")?;
            self.conn.execute(
                "INSERT INTO sqlite_schema(type, name, tbl_name, rootpage, sql)
                 VALUES('table', ?1, ?1, 0, ?2)",
                (&o.name, &o.sql),
            )?;
            match self.reload() {
                Ok(()) => self.conn.execute_batch("COMMIT")?,
                Err(e) if is_fatal(&e) => return Err(e),
                Err(e) => {
                    self.conn.execute_batch("ROLLBACK")?;
                    self.reload()?;
                    self.left_out.push((o.name.clone(), e.to_string()));
                    continue;
                }
            }
            if let Some(why) = self.mend(o)? {
                self.take_out(o)?;
                self.left_out.push((o.name.clone(), why));
            }
        }
        Ok(())
    }

    /// What is wrong with it and cannot be mended, if anything.
    fn mend(&self, o: &Object) -> rusqlite::Result<Option<String>> {
        let Some(fault) = search::fault(&self.conn, &o.name)? else {
            return Ok(None);
        };
        match search::rebuild(&self.conn, &o.name, o.sql.as_deref().unwrap_or("")) {
            Ok(()) => search::fault(&self.conn, &o.name),
            Err(e) if is_fatal(&e) => Err(e),
            Err(e) => Ok(Some(format!("{fault}; {e}"))),
        }
    }

    fn take_out(&self, o: &Object) -> rusqlite::Result<()> {
        self.conn
            .execute_batch("BEGIN; PRAGMA writable_schema = ON")?;
        self.conn.execute(
            "DELETE FROM sqlite_schema WHERE type = 'table' AND name = ?1 AND rootpage = 0",
            [&o.name],
        )?;
        self.reload()?;
        self.conn.execute_batch("COMMIT")
    }

    /// Has SQLite read the schema anew.
    fn reload(&self) -> rusqlite::Result<()> {
        self.conn.execute_batch("PRAGMA writable_schema = RESET")?;
        self.conn
            .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
    }
}
