//! A fresh database from what was salvaged.
//!
//! It promises that the new file has the schema, page size, encoding and versions of the old one
//! as far as they are known, that of two rows which exclude each other the newer is kept and the
//! other counted, and that memory stays bounded. It must never write to a file that exists, and
//! it does not sync: the caller does, when the file is to last.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql};

use super::super::error::RecoveryError;
use super::super::files::sort_beside;
use super::super::source::Pages;
use super::header::Encoding;
use super::record::{Value, text};
use super::salvage::{Keeper, Offer, Origin, Row, Salvaged, Tally, salvage};
use super::schema::{Found, Schema};
use super::table::{Expected, Table};

mod virtual_tables;

/// A portion of the new file ends after this many bytes of rows.
const BATCH_BYTES: usize = 1 << 20;

/// Or after this many pages were read for it.
const BATCH_PAGES: u32 = 256;

/// Statements that are kept.
const MOST_INSERTS: usize = 4_096;

/// SQLite's own steps between two questions whether to rest.
const STEPS: i32 = 10_000;

/// Asked by SQLite in the middle of a statement: true is "give up".
pub type Rest = Box<dyn FnMut() -> bool + Send>;

/// Asked before each portion that is written, so that a power failure can still the work.
pub trait Pace {
    /// Waits until writing is allowed.
    fn begin(&mut self) -> Result<(), RecoveryError>;

    /// What waits in the middle of a statement; an index is made by one, whatever its size.
    fn rest(&mut self) -> Option<Rest> {
        None
    }

    /// The portion is written.
    fn end(&mut self) -> Result<(), RecoveryError>;
}

/// Writing is always allowed.
impl Pace for () {
    fn begin(&mut self) -> Result<(), RecoveryError> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), RecoveryError> {
        Ok(())
    }
}

/// What the new database holds.
#[derive(Debug, Clone)]
pub struct Rebuilt {
    /// Where the schema came from.
    pub schema: Found,
    /// What was kept of each table, and what not.
    pub tables: Vec<(String, Tally)>,
    /// Leaves of which not every cell was sound.
    pub damaged_leaves: u64,
    /// Pages that the medium did not give.
    pub unreadable: u64,
    /// Objects of the schema that could not be made, each with SQLite's reason.
    pub left_out: Vec<(String, String)>,
}

impl Rebuilt {
    /// Rows kept in all.
    pub fn kept(&self) -> u64 {
        self.tables.iter().map(|(_, t)| t.kept).sum()
    }
}

/// Writes all rows that `pages` still give to a new database at `into`. `known` are tables that are
/// to be looked for where the schema is lost. Where it fails, what it had begun stays there.
pub fn rebuild(
    pages: &dyn Pages,
    known: &[Expected<'_>],
    into: &Path,
    pace: &mut dyn Pace,
) -> Result<Rebuilt, RecoveryError> {
    let schema = Schema::read(pages, known);
    if into.exists() {
        return Err(RecoveryError::Io {
            doing: "make anew",
            path: into.to_owned(),
            source: std::io::ErrorKind::AlreadyExists.into(),
        });
    }
    let mut fresh = Fresh::make(&schema, into, pace)?;
    let salvaged = salvage(pages, &schema, &mut fresh)?;
    fresh.drop_unfound(&salvaged)?;
    let left_out = fresh.finish()?;
    Ok(told(&schema, salvaged, left_out))
}

fn told(schema: &Schema, salvaged: Salvaged, left_out: Vec<(String, String)>) -> Rebuilt {
    let names = schema.tables.iter().map(|t| t.name.clone());
    Rebuilt {
        schema: schema.found,
        tables: names.zip(salvaged.tables).collect(),
        damaged_leaves: salvaged.damaged_leaves,
        unreadable: salvaged.unreadable,
        left_out,
    }
}

struct Fresh<'s> {
    conn: Connection,
    into: &'s Path,
    pace: &'s mut dyn Pace,
    /// A portion is begun.
    writing: bool,
    /// Pages read since.
    pages: u32,
    schema: &'s Schema,
    /// INSERT statements by table, number of values, and which of them are bytes to be text.
    inserts: BTreeMap<(usize, usize, Vec<usize>), String>,
    /// The table is not there to be filled.
    missing: Vec<bool>,
    /// What a row adds to the portion beside its own bytes, by table.
    beside: Vec<usize>,
    sequence: Vec<(String, i64)>,
    left_out: Vec<(String, String)>,
    pending: usize,
}

fn failed(into: &Path) -> impl FnOnce(rusqlite::Error) -> RecoveryError {
    |source| RecoveryError::sqlite("write", into, source)
}

impl<'s> Fresh<'s> {
    fn make(
        schema: &'s Schema,
        into: &'s Path,
        pace: &'s mut dyn Pace,
    ) -> Result<Self, RecoveryError> {
        pace.begin()?;
        let mut conn = Self::open(schema, into).map_err(failed(into))?;
        conn.progress_handler(STEPS, pace.rest())
            .map_err(failed(into))?;
        let mut fresh = Self {
            conn,
            into,
            pace,
            writing: false,
            pages: 0,
            schema,
            inserts: BTreeMap::new(),
            missing: Vec::new(),
            beside: Vec::new(),
            sequence: Vec::new(),
            left_out: Vec::new(),
            pending: 0,
        };
        fresh.tables().map_err(failed(into))?;
        fresh.pace.end()?;
        Ok(fresh)
    }

    fn open(schema: &Schema, into: &Path) -> rusqlite::Result<Connection> {
        let conn = Connection::open_with_flags(
            into,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        conn.set_prepared_statement_cache_capacity(64);
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        let header = &schema.header;
        let vacuum = match (header.auto_vacuum, header.incremental) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        };
        conn.execute_batch(&format!(
            "PRAGMA page_size = {}; PRAGMA encoding = '{}'; PRAGMA auto_vacuum = {vacuum};
             PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;
             PRAGMA cache_size = -2048; PRAGMA foreign_keys = OFF;
             PRAGMA ignore_check_constraints = ON;
             PRAGMA user_version = {}; PRAGMA application_id = {};",
            header.page_size,
            header.encoding.name(),
            header.user_version,
            header.application_id,
        ))?;
        sort_beside(&conn, into)?;
        Ok(conn)
    }

    fn tables(&mut self) -> rusqlite::Result<()> {
        let schema = self.schema;
        for table in &schema.tables {
            let internal = table.name == "sqlite_sequence";
            let made = internal || self.object(&table.name, &table.sql)?;
            self.missing.push(!made);
        }
        for name in &schema.unknown {
            let why = "its statement is not understood".to_owned();
            self.left_out.push((name.clone(), why));
        }
        // Before the rows, so that the second of two rows that exclude each other is seen.
        for o in schema.others.iter().filter(|o| o.kind == "index") {
            if let Some(sql) = o.sql.as_deref().filter(|sql| is_unique(sql)) {
                self.object(&o.name, sql)?;
            }
        }
        // A row may change any page of each unique index, which is kept until the portion ends:
        // at most eight times a portion's bytes.
        let page = schema.header.page_size;
        for table in &schema.tables {
            let uniques = self.conn.query_row(
                "SELECT count(*) FROM pragma_index_list(?1)",
                [&table.name],
                |r| r.get::<_, i64>(0),
            )?;
            let uniques = usize::try_from(uniques).unwrap_or(0);
            self.beside.push(64 + uniques * page / 8);
        }
        Ok(())
    }

    /// Begins a portion where none is begun.
    fn begin(&mut self) -> Result<(), RecoveryError> {
        if !self.writing {
            self.pace.begin()?;
            self.conn
                .execute_batch("BEGIN")
                .map_err(failed(self.into))?;
            self.writing = true;
            (self.pages, self.pending) = (0, 0);
        }
        Ok(())
    }

    /// Ends the portion that is begun.
    fn end(&mut self) -> Result<(), RecoveryError> {
        if self.writing {
            self.conn
                .execute_batch("COMMIT")
                .map_err(failed(self.into))?;
            self.writing = false;
            self.pace.end()?;
        }
        Ok(())
    }

    /// Makes an object of the schema; what its statement asks for beyond that is denied.
    fn object(&mut self, name: &str, sql: &str) -> rusqlite::Result<bool> {
        self.conn.authorizer(Some(|ctx: AuthContext<'_>| {
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "what is not named is denied"
            )]
            match ctx.action {
                AuthAction::CreateTable { .. }
                | AuthAction::CreateIndex { .. }
                | AuthAction::CreateView { .. }
                | AuthAction::CreateTrigger { .. }
                | AuthAction::Reindex { .. }
                | AuthAction::Read { .. }
                | AuthAction::Function { .. } => Authorization::Allow,
                AuthAction::Insert { table_name } | AuthAction::Update { table_name, .. }
                    if table_name.starts_with("sqlite_") =>
                {
                    Authorization::Allow
                }
                _ => Authorization::Deny,
            }
        }))?;
        let made = self.conn.execute(sql, []);
        self.conn
            .authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
        match made {
            Ok(_) => Ok(true),
            Err(e) if is_fatal(&e) => Err(e),
            Err(e) => {
                self.left_out.push((name.to_owned(), e.to_string()));
                Ok(false)
            }
        }
    }

    fn insert(&mut self, row: &Row<'_>) -> rusqlite::Result<usize> {
        let table = &self.schema.tables[row.table];
        let encoding = self.schema.header.encoding;
        let raw = raw_text(row.values, encoding);
        if self.inserts.len() > MOST_INSERTS {
            self.inserts.clear();
        }
        let sql = self
            .inserts
            .entry((row.table, row.values.len(), raw))
            .or_insert_with_key(|(_, n, raw)| insert_sql(table, *n, row.rowid.is_some(), raw));
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut at = 1;
        if let (Some(rowid), None) = (row.rowid, table.alias) {
            statement.raw_bind_parameter(at, rowid)?;
            at += 1;
        }
        for (i, (value, column)) in row.values.iter().zip(&table.columns).enumerate() {
            if column.generated {
                continue;
            }
            match (row.rowid, table.alias) {
                (Some(rowid), Some(alias)) if alias == i => {
                    statement.raw_bind_parameter(at, rowid)?;
                }
                _ => statement.raw_bind_parameter(at, Bound(*value, encoding))?,
            }
            at += 1;
        }
        statement.raw_execute()
    }

    /// Removes the tables that were only looked for, and of which there is nothing.
    fn drop_unfound(&mut self, salvaged: &Salvaged) -> Result<(), RecoveryError> {
        self.end()?;
        let schema = self.schema;
        for (i, table) in schema.tables.iter().enumerate() {
            let found = table.root.is_some() || salvaged.tables.get(i).is_some_and(|t| t.kept > 0);
            if found || self.missing.get(i).is_none_or(|missing| *missing) {
                continue;
            }
            self.begin()?;
            self.conn
                .execute_batch(&format!("DROP TABLE {}", quoted(&table.name)))
                .map_err(failed(self.into))?;
            self.end()?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<(String, String)>, RecoveryError> {
        self.begin()?;
        self.numbers().map_err(failed(self.into))?;
        self.end()?;
        let schema = self.schema;
        for (kind, unique) in [("index", false), ("view", true), ("trigger", true)] {
            for o in schema.others.iter().filter(|o| o.kind == kind) {
                if let Some(sql) = o.sql.as_deref().filter(|sql| unique || !is_unique(sql)) {
                    self.begin()?;
                    self.object(&o.name, sql).map_err(failed(self.into))?;
                    self.end()?;
                }
            }
        }
        self.pace.begin()?;
        self.virtual_tables().map_err(failed(self.into))?;
        let left_out = std::mem::take(&mut self.left_out);
        self.conn.flush_prepared_statement_cache();
        self.conn.close().map_err(|(_, e)| failed(self.into)(e))?;
        self.pace.end()?;
        Ok(left_out)
    }

    /// How far the numbers of AUTOINCREMENT tables have been used.
    fn numbers(&mut self) -> rusqlite::Result<()> {
        for (name, seq) in std::mem::take(&mut self.sequence) {
            let known = self.conn.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1",
                (&name, seq),
            )?;
            if known == 0 {
                self.conn
                    .execute("INSERT INTO sqlite_sequence VALUES(?1, ?2)", (&name, seq))?;
            }
        }
        Ok(())
    }
}

impl Keeper for Fresh<'_> {
    type Error = RecoveryError;

    fn offer(&mut self, row: Row<'_>) -> Result<Offer, RecoveryError> {
        let table = &self.schema.tables[row.table];
        if table.name == "sqlite_sequence" {
            return Ok(self.number(&row));
        }
        if self.missing[row.table] {
            return Ok(Offer::Refused);
        }
        self.begin()?;
        if let Err(e) = self.insert(&row) {
            let offer = refusal(&e, table).ok_or(e).map_err(failed(self.into))?;
            if offer == Offer::Conflict && row.origin == Origin::Current {
                log::warn!(
                    "{}: two rows have one value that must be unique",
                    table.name
                );
            }
            return Ok(offer);
        }
        self.pending += self.beside[row.table] + row.values.iter().map(size).sum::<usize>();
        if self.pending > BATCH_BYTES {
            self.end()?;
        }
        Ok(Offer::Kept)
    }

    fn page_done(&mut self) -> Result<(), RecoveryError> {
        self.pages += 1;
        if self.pages > BATCH_PAGES {
            self.end()?;
        }
        Ok(())
    }
}

/// What SQLite's refusal of a row means; none where it is not the row's fault.
fn refusal(e: &rusqlite::Error, table: &Table) -> Option<Offer> {
    use rusqlite::ffi;
    let keyed = table.alias.is_some() || table.without_rowid;
    match e.sqlite_error()?.extended_code {
        ffi::SQLITE_CONSTRAINT_ROWID => Some(Offer::Known),
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY if keyed => Some(Offer::Known),
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_UNIQUE => Some(Offer::Conflict),
        code => matches!(
            code & 0xff,
            ffi::SQLITE_CONSTRAINT | ffi::SQLITE_MISMATCH | ffi::SQLITE_TOOBIG
        )
        .then_some(Offer::Refused),
    }
}

impl Fresh<'_> {
    /// A row of sqlite_sequence: how far a table's numbers have been used.
    fn number(&mut self, row: &Row<'_>) -> Offer {
        let [Value::Text(name), Value::Integer(seq)] = row.values else {
            return Offer::Refused;
        };
        let Some(name) = text(name, self.schema.header.encoding) else {
            return Offer::Refused;
        };
        let numbered =
            |t: &Table| t.name == name && t.sql.to_ascii_uppercase().contains("AUTOINCREMENT");
        let made = self.schema.tables.iter().zip(&self.missing);
        if self.sequence.iter().any(|(n, _)| *n == name) {
            return Offer::Known;
        }
        if !made.into_iter().any(|(t, missing)| numbered(t) && !missing) {
            return Offer::Refused;
        }
        self.sequence.push((name.into_owned(), *seq));
        Offer::Kept
    }
}

/// A stored value on its way into a statement.
struct Bound<'v>(Value<'v>, Encoding);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(n) => ValueRef::Integer(n),
            Value::Real(x) => ValueRef::Real(x),
            Value::Blob(b) => ValueRef::Blob(b),
            // Text that is no text is kept byte for byte, as SQLite did.
            Value::Text(t) if self.1 == Encoding::Utf8 => ValueRef::Text(t),
            Value::Text(t) => match text(t, self.1) {
                Some(text) => return Ok(ToSqlOutput::Owned(text.into_owned().into())),
                // Its statement makes text of it.
                None => ValueRef::Blob(t),
            },
        }))
    }
}

fn size(value: &Value<'_>) -> usize {
    match value {
        Value::Null | Value::Integer(_) | Value::Real(_) => 8,
        Value::Text(b) | Value::Blob(b) => b.len(),
    }
}

/// Texts of UTF-16 that are none, by their place in the record: a statement takes only text that is
/// one, but makes text of any bytes.
fn raw_text(values: &[Value<'_>], encoding: Encoding) -> Vec<usize> {
    if encoding == Encoding::Utf8 {
        return Vec::new();
    }
    let raw = |v: &Value<'_>| matches!(v, Value::Text(t) if text(t, encoding).is_none());
    let all = values.iter().enumerate();
    all.filter(|(_, v)| raw(v)).map(|(i, _)| i).collect()
}

fn insert_sql(table: &Table, values: usize, has_rowid: bool, raw: &[usize]) -> String {
    let mut names: Vec<String> = Vec::new();
    if has_rowid && table.alias.is_none() {
        // One of its three names that no column has.
        let free = ["_rowid_", "rowid", "oid"].into_iter().find(|name| {
            !table
                .columns
                .iter()
                .any(|c| c.name.eq_ignore_ascii_case(name))
        });
        names.push(free.unwrap_or("_rowid_").to_owned());
    }
    let mut places = vec!["?"; names.len()];
    let stored = table.columns.iter().enumerate().take(values);
    for (i, column) in stored.filter(|(_, c)| !c.generated) {
        names.push(quoted(&column.name));
        places.push(if raw.contains(&i) {
            "CAST(? AS TEXT)"
        } else {
            "?"
        });
    }
    let places = places.join(",");
    // OR ABORT: a conflict clause of the table's own might delete rows that are kept already.
    format!(
        "INSERT OR ABORT INTO {}({}) VALUES({places})",
        quoted(&table.name),
        names.join(",")
    )
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn is_unique(sql: &str) -> bool {
    let mut words = sql.split_ascii_whitespace();
    words.next();
    words
        .next()
        .is_some_and(|w| w.eq_ignore_ascii_case("unique"))
}

/// Did the writing fail, rather than the statement?
fn is_fatal(e: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as C;
    matches!(
        e.sqlite_error_code(),
        Some(
            C::DiskFull
                | C::SystemIoFailure
                | C::CannotOpen
                | C::ReadOnly
                | C::OutOfMemory
                | C::OperationInterrupted
        )
    )
}
