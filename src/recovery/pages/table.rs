//! What a CREATE TABLE statement says of the records that lie in the table's pages.
//!
//! It promises to mean by a statement what SQLite means by it: SQLite itself parses it, in an
//! empty database in memory where nothing but making tables and indexes is allowed. It must
//! never run a statement that reads, calls out or does not end.

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::header::Encoding;
use super::record::{Value, text};

/// What may be stored in a column, by its declared type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Numbers are turned into text.
    Text,
    /// Text that looks like a number is turned into one.
    Numeric,
    /// The same, and whole numbers first.
    Integer,
    /// The same, and numbers with a fraction first.
    Real,
    /// Anything is kept as it came.
    Any,
}

/// What the caller knows of a table beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected<'a> {
    /// Its CREATE TABLE statement, for when the schema is lost.
    pub sql: &'a str,
    /// Rows are only added to it, and all from this number on are still valid; none where rows
    /// are changed or deleted. Then rows that once lay in a page whose gap still shows them are
    /// taken too, if the page that held them last is lost.
    pub kept_from: Option<i64>,
}

impl<'a> Expected<'a> {
    /// A table whose rows may be changed and deleted.
    pub fn of(sql: &'a str) -> Self {
        Self {
            sql,
            kept_from: None,
        }
    }
}

/// A column that is stored, in the order of the record.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it may hold.
    pub affinity: Affinity,
    /// NULL is refused.
    pub not_null: bool,
    /// A row that was written before the column was added may lack it.
    pub may_lack: bool,
    /// Computed: read past, and computed anew.
    pub generated: bool,
    /// What text that is none means here.
    pub letters: Letters,
}

/// What is thought of text whose bytes are none in the database's encoding. SQLite stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letters {
    /// Whoever writes this column writes text: it is damage.
    Strict,
    /// An application may have written it, in an encoding of another age.
    Lenient,
    /// The application writes such text all the time.
    Usual,
}

/// A table's records.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The CREATE TABLE statement.
    pub sql: String,
    /// Its root page, where it is known.
    pub root: Option<u32>,
    /// Its columns in the order of the record.
    pub columns: Vec<Column>,
    /// Which of them is the INTEGER PRIMARY KEY, stored as NULL.
    pub alias: Option<usize>,
    /// Rows lie in an index b-tree, under their primary key.
    pub without_rowid: bool,
    /// Columns of that key, where it compares bytes in ascending order.
    pub plain_key: Option<usize>,
    /// Rows are only added, and none from this number on was ever deleted or changed: the caller
    /// knows. What once was a row is one still.
    pub kept_from: Option<i64>,
    /// Declared STRICT: a value of another type cannot be.
    pub strict: bool,
    /// An application's: only its schema says what is in it.
    pub foreign: bool,
}

/// How a record suits a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It cannot be of this table.
    Never,
    /// SQLite would store it if it were asked, which is seldom.
    Odd,
    /// As the columns say.
    Good,
}

impl Table {
    /// What `sql` says; none when it is not a CREATE TABLE that this SQLite understands.
    pub fn parse(sql: &str, root: Option<u32>) -> Option<Self> {
        let conn = made(sql)?;
        let (name, without_rowid, strict): (String, bool, bool) = conn
            .query_row(
                "SELECT name, wr, strict FROM pragma_table_list
                 WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite_%'",
                [],
                |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
            )
            .ok()?;
        let mut table = Self {
            name,
            sql: sql.to_owned(),
            root,
            columns: Vec::new(),
            alias: None,
            without_rowid,
            plain_key: None,
            kept_from: None,
            strict,
            foreign: false,
        };
        table.read_columns(&conn).ok()?;
        Some(table)
    }

    fn read_columns(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let mut all = Vec::new();
        let mut key = Vec::new();
        let mut query = conn.prepare(
            "SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk, hidden
             FROM pragma_table_xinfo(?1) ORDER BY cid",
        )?;
        let mut rows = query.query([&self.name])?;
        while let Some(r) = rows.next()? {
            let (kind, not_null, default): (String, bool, bool) = (r.get(1)?, r.get(2)?, r.get(3)?);
            let (pk, hidden): (i64, i64) = (r.get(4)?, r.get(5)?);
            // A virtual computed column is not stored; SQLite's number for it is 2.
            let column = (hidden != 2).then(|| {
                Ok::<_, rusqlite::Error>(Column {
                    name: r.get(0)?,
                    affinity: affinity(&kind),
                    not_null: not_null || (self.strict || self.without_rowid) && pk > 0,
                    may_lack: (!not_null || default) && pk == 0,
                    generated: hidden == 3,
                    letters: Letters::Strict,
                })
            });
            if pk > 0 {
                key.push((all.len(), kind.to_ascii_uppercase()));
            }
            all.push(column.transpose()?);
        }
        let (own_index, key_len): (Option<String>, usize) = conn
            .query_row(
                "SELECT name, (SELECT count(*) FROM pragma_index_xinfo(name) WHERE key)
                 FROM pragma_index_list(?1) WHERE origin = 'pk'",
                [&self.name],
                |r| Ok((Some(r.get(0)?), small(r.get(1)?))),
            )
            .optional()?
            .unwrap_or((None, 0));
        match (&own_index, self.without_rowid) {
            (Some(index), true) => {
                let mut query = conn.prepare(
                    "SELECT cid, key AND (\"desc\" OR coll <> 'BINARY')
                     FROM pragma_index_xinfo(?1) ORDER BY seqno",
                )?;
                let mut plain = true;
                let mut rows = query.query([index])?;
                while let Some(r) = rows.next()? {
                    let at = small(r.get(0)?);
                    plain &= !r.get::<_, bool>(1)?;
                    if let Some(Some(column)) = all.get(at) {
                        self.columns.push(column.clone());
                    }
                }
                self.plain_key = plain.then_some(key_len);
            }
            (index, _) => {
                if let ([(at, kind)], None) = (&key[..], index)
                    && kind == "INTEGER"
                {
                    self.alias = Some(all[..*at].iter().flatten().count());
                }
                self.columns = all.into_iter().flatten().collect();
            }
        }
        Ok(())
    }

    /// From here on it is an application's.
    pub(super) fn of_an_application(mut self) -> Self {
        self.foreign = true;
        for column in &mut self.columns {
            column.letters = Letters::Lenient;
        }
        self
    }

    /// It is one that the caller knows.
    pub(super) fn of_ours(&mut self) {
        self.foreign = false;
        for column in &mut self.columns {
            column.letters = Letters::Strict;
        }
    }

    /// How a record with these values suits this table.
    pub fn fit(&self, values: &[Value<'_>], encoding: Encoding) -> Fit {
        let missing = self.columns.get(values.len()..);
        if values.is_empty() || !missing.is_some_and(|m| m.iter().all(|c| c.may_lack)) {
            return Fit::Never;
        }
        let mut fit = Fit::Good;
        for (i, (value, column)) in values.iter().zip(&self.columns).enumerate() {
            let one = if self.alias == Some(i) {
                if *value == Value::Null {
                    Fit::Good
                } else {
                    Fit::Never
                }
            } else {
                column.fit(value, self.strict, encoding)
            };
            fit = fit.min(one);
        }
        fit
    }
}

impl Column {
    fn fit(&self, value: &Value<'_>, strict: bool, encoding: Encoding) -> Fit {
        let odd = if strict { Fit::Never } else { Fit::Odd };
        let by_type = match (value, self.affinity) {
            (Value::Null, _) if self.not_null => Fit::Never,
            (Value::Null, _) | (Value::Text(_), Affinity::Any | Affinity::Text) => Fit::Good,
            (Value::Integer(_) | Value::Real(_), Affinity::Text) => Fit::Never,
            (Value::Integer(_), _) | (Value::Blob(_), Affinity::Any) => Fit::Good,
            (Value::Real(x), Affinity::Integer) if x.fract() == 0.0 && x.abs() < 1e15 => odd,
            (Value::Real(_), Affinity::Integer) if strict => Fit::Never,
            (Value::Real(_), _) => Fit::Good,
            (Value::Text(_) | Value::Blob(_), _) => odd,
        };
        let Value::Text(bytes) = value else {
            return by_type;
        };
        let zeros = encoding == Encoding::Utf8 && bytes.contains(&0);
        if text(bytes, encoding).is_none() {
            match (self.letters, is_lettered(bytes, encoding)) {
                (Letters::Strict, _) | (Letters::Lenient, false) => Fit::Never,
                (Letters::Lenient, true) | (Letters::Usual, false) => by_type.min(Fit::Odd),
                (Letters::Usual, true) => by_type,
            }
        } else if zeros && self.affinity != Affinity::Any {
            by_type.min(Fit::Odd)
        } else {
            by_type
        }
    }
}

/// Is it text in some encoding of one byte a letter? Random bytes have control characters among
/// them.
fn is_lettered(bytes: &[u8], encoding: Encoding) -> bool {
    let is_control = |b: &u8| (*b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r')) || *b == 0x7f;
    encoding == Encoding::Utf8 && !bytes.iter().any(is_control)
}

fn small(n: i64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// SQLite's rules, in its order (datatype3, section 3.1).
fn affinity(kind: &str) -> Affinity {
    let kind = kind.to_ascii_uppercase();
    let has = |part: &[&str]| part.iter().any(|p| kind.contains(p));
    if has(&["INT"]) {
        Affinity::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Affinity::Text
    } else if kind.is_empty() || has(&["BLOB"]) || kind == "ANY" {
        Affinity::Any
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}

/// Makes the table in a database in memory that allows nothing else.
fn made(sql: &str) -> Option<Connection> {
    let mut conn = Connection::open_in_memory_with_flags(
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .ok()?;
    conn.authorizer(Some(|ctx: AuthContext<'_>| {
        let own = |table: &str| table.starts_with("sqlite_");
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "what is not named is denied"
        )]
        match ctx.action {
            AuthAction::CreateTable { .. }
            | AuthAction::CreateIndex { .. }
            | AuthAction::Reindex { .. }
            | AuthAction::Read { .. }
            | AuthAction::Function { .. } => Authorization::Allow,
            AuthAction::Insert { table_name } | AuthAction::Update { table_name, .. }
                if own(table_name) =>
            {
                Authorization::Allow
            }
            _ => Authorization::Deny,
        }
    }))
    .ok()?;
    conn.execute(sql, []).ok()?;
    conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)
        .ok()?;
    Some(conn)
}
