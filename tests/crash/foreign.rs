//! Databases of applications: schemas that holdup knows nothing of, and rows of every kind. Seeded,
//! and struck and scored like the readings.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql};

use crate::corpus::{Case, Dice, Files, Where, Workload};
use crate::score::Score;

/// A value as a query gives it; text as UTF-8, or as the bytes that were stored where it is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Val {
    Null,
    Int(i64),
    /// Its bits.
    Real(u64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Val {
    fn of(v: ValueRef<'_>) -> Self {
        match v {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(n) => Self::Int(n),
            ValueRef::Real(x) => Self::Real(x.to_bits()),
            ValueRef::Text(t) => Self::Text(t.to_vec()),
            ValueRef::Blob(b) => Self::Blob(b.to_vec()),
        }
    }
}

impl ToSql for Val {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(n) => ValueRef::Integer(*n),
            Self::Real(x) => ValueRef::Real(f64::from_bits(*x)),
            Self::Text(t) => ValueRef::Text(t),
            Self::Blob(b) => ValueRef::Blob(b),
        }))
    }
}

/// What kind of application it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum App {
    /// Keys of text, numbers that are never used again, columns that are computed, pictures, a
    /// trigger, a view, and text of another age.
    Plain,
    /// The same in UTF-16, in a file that gives pages back.
    Utf16,
    /// The same with a full-text index.
    Search,
}

impl App {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Utf16, Self::Search];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "an application's tables",
            Self::Utf16 => "UTF-16, auto-vacuum",
            Self::Search => "with fts5",
        }
    }

    fn pragmas(self) -> &'static str {
        match self {
            Self::Plain | Self::Search => "",
            Self::Utf16 => "PRAGMA encoding = 'UTF-16le'; PRAGMA auto_vacuum = FULL;",
        }
    }
}

/// A table of which rows are counted.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// The columns that are compared, the key first.
    columns: &'static str,
    /// Fields of its record; by these `.recover` files what it finds under no table.
    fields: usize,
    rowid: bool,
    /// Damage in a blob shows in nothing.
    pub(crate) blobs: bool,
}

const SCHEMA: &str = "
    CREATE TABLE device(code TEXT PRIMARY KEY, site TEXT NOT NULL, note TEXT) WITHOUT ROWID;
    CREATE TABLE event(id INTEGER PRIMARY KEY AUTOINCREMENT, device TEXT, at INTEGER NOT NULL,
        level REAL, body TEXT, day INTEGER GENERATED ALWAYS AS (at / 86400) STORED,
        head TEXT AS (substr(body, 1, 4)) VIRTUAL);
    CREATE INDEX by_sensor ON event(device, at);
    CREATE TABLE picture(id INTEGER PRIMARY KEY, name TEXT UNIQUE, kind INTEGER, data BLOB);
    CREATE TABLE word(id INTEGER PRIMARY KEY, text TEXT);
    CREATE TABLE trail(id INTEGER PRIMARY KEY, event INTEGER, at INTEGER, what TEXT, why TEXT);
    CREATE TRIGGER noted AFTER INSERT ON event BEGIN
        INSERT INTO trail(event, at, what) VALUES(new.id, new.at, 'seen'); END;
    CREATE VIEW loud AS SELECT id, body FROM event WHERE level > 50;";
const SEARCH: &str = "CREATE VIRTUAL TABLE note USING fts5(title, body);";

const DEVICE: usize = 0;
const EVENT: usize = 1;
const PICTURE: usize = 2;
const WORD: usize = 3;
const TRAIL: usize = 4;
const NOTE: usize = 5;

pub(crate) const SHAPES: [Shape; 6] = [
    shape("device", "code, site, note", 3, false, false),
    shape("event", "id, device, at, level, body", 6, true, false),
    shape("picture", "id, name, kind, data", 4, true, true),
    shape("word", "id, text", 2, true, false),
    shape("trail", "id, event, at, what, why", 5, true, false),
    shape("note_content", "id, c0, c1", 3, true, false),
];

const fn shape(
    name: &'static str,
    columns: &'static str,
    fields: usize,
    rowid: bool,
    blobs: bool,
) -> Shape {
    Shape {
        name,
        columns,
        fields,
        rowid,
        blobs,
    }
}

type Key = (usize, Val);

/// A database with everything that was ever acknowledged about it.
pub(crate) struct World {
    pub(crate) app: App,
    pub(crate) case: Case,
    pub(crate) rows: BTreeMap<Key, Vec<Val>>,
    ever: HashSet<(usize, Vec<Val>)>,
    /// Places of the files, before they were struck, where nothing lives: what lies there was
    /// moved or deleted.
    dead: [Vec<std::ops::Range<usize>>; 2],
}

impl World {
    /// `rows` rows in transactions of some ten; where they lie is `place`.
    pub(crate) fn made(
        dice: &mut Dice,
        app: App,
        place: Where,
        page_size: usize,
        rows: usize,
    ) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("edge_store.db");
        let conn = Connection::open(&path).expect("open");
        conn.execute_batch(&format!(
            "PRAGMA page_size = {page_size}; {} PRAGMA journal_mode = WAL;
             PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 0; {SCHEMA}",
            app.pragmas()
        ))
        .expect("schema");
        if app == App::Search {
            conn.execute_batch(SEARCH).expect("schema");
        }
        let mut world = Self {
            app,
            case: Case {
                workload: Workload::Mixed,
                page_size,
                files: Files::default(),
                rows: BTreeMap::new(),
                ever: HashSet::new(),
            },
            rows: BTreeMap::new(),
            ever: HashSet::new(),
            dead: Default::default(),
        };
        let mut next = 1;
        let mut halved = false;
        while world.rows.len() < rows {
            conn.execute_batch("BEGIN").expect("begin");
            for _ in 0..=dice.below(20) {
                world.change(dice, &conn, &mut next);
            }
            conn.execute_batch("COMMIT").expect("commit");
            if place == Where::HalfInLog && !halved && world.rows.len() >= rows / 2 {
                halved = true;
                crate::corpus::checkpoint(&conn);
            }
        }
        if place == Where::Database {
            crate::corpus::checkpoint(&conn);
        }
        world.case.files = Files::read(&path);
        world.case.files.wal = world.case.files.wal.filter(|w| !w.is_empty());
        let Files { db, wal, .. } = &world.case.files;
        let pages = |bytes: &Option<Vec<u8>>, first, step| {
            let len = bytes.as_ref().map_or(0, Vec::len);
            let starts = (first..len).step_by(step);
            let bytes = bytes.clone().unwrap_or_default();
            starts
                .filter_map(|at| gap(&bytes, at, page_size))
                .collect::<Vec<_>>()
        };
        world.dead = [pages(db, 0, page_size), pages(wal, 32 + 24, page_size + 24)];
        world
    }

    /// The log was cut off: what lies behind its last whole commit was never committed, as far as
    /// the files say.
    pub(crate) fn cut_off(&mut self) {
        let frame = self.case.page_size + 24;
        let wal = self.case.files.wal.as_deref().unwrap_or_default();
        let frames = wal.get(32..).unwrap_or_default().chunks_exact(frame);
        let is_commit = |f: &&[u8]| f[4..8] != [0; 4];
        let whole = frames.map(|f| is_commit(&f)).collect::<Vec<_>>();
        let kept = whole.iter().rposition(|c| *c).map_or(0, |last| last + 1);
        let end = 32 + kept * frame;
        self.dead[1].retain(|d| d.end <= end);
        self.dead[1].push(end..usize::MAX);
    }

    fn change(&mut self, dice: &mut Dice, conn: &Connection, next: &mut i64) {
        let old = self.rows.keys().nth(dice.below(self.rows.len())).cloned();
        let run = |sql: &str, values: &[Val]| {
            let mut statement = conn.prepare_cached(sql).expect("prepare");
            let values = rusqlite::params_from_iter(values);
            statement.execute(values).expect("write");
        };
        match (dice.below(5), old) {
            (3, Some((table, key))) if table != TRAIL => {
                let (name, column) = (stem(table), key_column(table));
                run(
                    &format!("DELETE FROM {name} WHERE {column} = ?1"),
                    std::slice::from_ref(&key),
                );
                self.rows.remove(&(table, key));
            }
            (4, Some((table, key))) if table != TRAIL => {
                let mut new = self.row(dice, table, 0);
                new[0] = key;
                let set = set_columns(table);
                run(
                    &format!(
                        "UPDATE {} SET {set} WHERE {} = ?1",
                        stem(table),
                        key_column(table)
                    ),
                    &new,
                );
                self.put(table, new);
            }
            _ => {
                let tables = if self.app == App::Search { 6 } else { 4 };
                let table = match dice.below(tables) {
                    TRAIL => NOTE,
                    table => table,
                };
                let new = self.row(dice, table, *next);
                *next += 1;
                let places = (1..=new.len()).map(|n| format!("?{n}")).collect::<Vec<_>>();
                let columns = insert_columns(table);
                run(
                    &format!(
                        "INSERT INTO {}({columns}) VALUES({})",
                        stem(table),
                        places.join(",")
                    ),
                    &new,
                );
                if table == EVENT {
                    let seen = Val::Text(b"seen".to_vec());
                    let id = conn.query_row("SELECT max(id) FROM trail", [], |r| r.get(0));
                    let trail = vec![
                        Val::Int(id.expect("noted")),
                        new[0].clone(),
                        new[2].clone(),
                        seen,
                        Val::Null,
                    ];
                    self.put(TRAIL, trail);
                }
                self.put(table, new);
            }
        }
    }

    fn put(&mut self, table: usize, row: Vec<Val>) {
        self.ever.insert((table, row.clone()));
        self.rows.insert((table, row[0].clone()), row);
    }

    fn row(&self, dice: &mut Dice, table: usize, n: i64) -> Vec<Val> {
        let int = |n: usize| Val::Int(i64::try_from(n).expect("small"));
        match table {
            DEVICE => vec![
                text(&format!("dev-{:04x}-{n}", dice.below(65_536))),
                text(["Zürich", "Kraków", "plant 7"][dice.below(3)]),
                if dice.below(3) == 0 {
                    Val::Null
                } else {
                    prose(dice, 60)
                },
            ],
            EVENT => vec![
                Val::Int(n),
                text(&format!("dev-{:02}", dice.below(30))),
                int(1_760_000_000 + dice.below(1 << 24)),
                Val::Real(
                    (f64::from(u16::try_from(dice.below(10_000)).expect("small")) / 64.0 + 0.001)
                        .to_bits(),
                ),
                prose(dice, 120),
            ],
            PICTURE => {
                let most = [200, 900, 3_000, 9_000][dice.below(4)];
                let mut data = vec![0; dice.below(most)];
                dice.fill(&mut data);
                vec![
                    Val::Int(n),
                    text(&format!("picture {}", self.ever.len())),
                    int(dice.below(5)),
                    Val::Blob(data),
                ]
            }
            WORD => vec![
                Val::Int(n),
                match prose(dice, 40) {
                    // As applications of another age wrote it: a byte for each letter.
                    Val::Text(t) if self.app != App::Utf16 => Val::Text(latin(&t, dice)),
                    other @ (Val::Null
                    | Val::Int(_)
                    | Val::Real(_)
                    | Val::Text(_)
                    | Val::Blob(_)) => other,
                },
            ],
            _ => vec![Val::Int(n), prose(dice, 30), prose(dice, 200)],
        }
    }

    /// Holds `got` against what was acknowledged, table by table, and what the files still hold.
    pub(crate) fn score(
        &self,
        there: &HashSet<Key>,
        got: &[(usize, Vec<Val>)],
        blobs: bool,
    ) -> Score {
        let counted = |table: usize| SHAPES[table].blobs == blobs;
        let mut score = Score {
            there: there.iter().filter(|k| counted(k.0)).count(),
            ..Score::default()
        };
        let mut best: BTreeMap<Key, bool> = BTreeMap::new();
        for (table, row) in got.iter().filter(|(t, _)| counted(*t)) {
            let key = (*table, row[0].clone());
            match self.rows.get(&key) {
                Some(now) if now == row => {
                    best.insert(key, true);
                }
                _ if !self.ever.contains(&(*table, row.clone())) => score.invented += 1,
                Some(_) => {
                    best.entry(key).or_insert(false);
                }
                None => score.deleted += 1,
            }
        }
        for key in there.iter().filter(|k| counted(k.0)) {
            match best.get(key) {
                Some(true) => score.back += 1,
                Some(false) => score.older += 1,
                None => {}
            }
        }
        score
    }

    /// Rows that nobody wrote, for a closer look.
    pub(crate) fn invented<'g>(&self, got: &'g [(usize, Vec<Val>)]) -> Vec<&'g (usize, Vec<Val>)> {
        got.iter().filter(|g| !self.ever.contains(*g)).collect()
    }

    /// Keys of the rows of which every byte still lies somewhere in the files.
    pub(crate) fn still_there(&self) -> HashSet<Key> {
        let parts: Vec<(&Key, Vec<Vec<u8>>)> = self
            .rows
            .iter()
            .map(|(key, row)| (key, self.parts(key.0, row)))
            .collect();
        let mut by_head: HashMap<[u8; 8], Vec<(usize, usize)>> = HashMap::new();
        let mut missing: Vec<HashSet<usize>> = Vec::new();
        for (row, (_, chunks)) in parts.iter().enumerate() {
            let mut wanted = HashSet::new();
            for (n, chunk) in chunks.iter().enumerate() {
                // Shorter ends cannot be told apart.
                if let Some(head) = chunk.first_chunk::<8>() {
                    by_head.entry(*head).or_default().push((row, n));
                    wanted.insert(n);
                }
            }
            missing.push(wanted);
        }
        let mut begins = vec![false; 1 << 16];
        for head in by_head.keys() {
            begins[usize::from(head[0]) << 8 | usize::from(head[1])] = true;
        }
        let Files { db, wal, .. } = &self.case.files;
        for (bytes, dead) in [db, wal].into_iter().zip(&self.dead) {
            let bytes = bytes.as_deref().unwrap_or_default();
            for (at, head) in bytes.windows(8).enumerate() {
                if !begins[usize::from(head[0]) << 8 | usize::from(head[1])] {
                    continue;
                }
                let before = dead.partition_point(|d| d.end <= at);
                if dead.get(before).is_some_and(|d| d.contains(&at)) {
                    continue;
                }
                let head: [u8; 8] = head.try_into().expect("8 bytes");
                for (row, n) in by_head.get(&head).into_iter().flatten() {
                    if bytes[at..].starts_with(&parts[*row].1[*n]) {
                        missing[*row].remove(n);
                    }
                }
            }
        }
        let all = parts.into_iter().zip(missing);
        all.filter(|(_, m)| m.is_empty())
            .map(|((key, _), _)| key.clone())
            .collect()
    }

    /// A row as it lies in a leaf and its overflow pages. See SQLite's file format, 1.6 and 2.1.
    fn parts(&self, table: usize, row: &[Val]) -> Vec<Vec<u8>> {
        let rowid = SHAPES[table].rowid;
        let mut stored: Vec<Val> = row.to_vec();
        if rowid {
            stored[0] = Val::Null;
        }
        if table == EVENT
            && let Val::Int(at) = &row[2]
        {
            stored.push(Val::Int(at / 86_400));
        }
        let (mut head, mut body) = (Vec::new(), Vec::new());
        for value in &stored {
            self.field(value, &mut head, &mut body);
        }
        let mut payload = Vec::new();
        let len = head.len() + 1;
        varint(if len < 128 { len } else { len + 1 }, &mut payload);
        payload.extend(head);
        payload.extend(body);
        let mut cell = Vec::new();
        varint(payload.len(), &mut cell);
        if let (true, Val::Int(n)) = (rowid, &row[0]) {
            varint(usize::try_from(*n).expect("positive"), &mut cell);
        }
        let usable = self.case.page_size;
        let least = (usable - 12) * 32 / 255 - 23;
        let most = if rowid {
            usable - 35
        } else {
            (usable - 12) * 64 / 255 - 23
        };
        let local = if payload.len() <= most {
            payload.len()
        } else {
            let fits = least + (payload.len() - least) % (usable - 4);
            if fits <= most { fits } else { least }
        };
        cell.extend(&payload[..local]);
        let mut parts = vec![cell];
        parts.extend(payload[local..].chunks(usable - 4).map(<[u8]>::to_vec));
        parts
    }

    fn field(&self, value: &Val, head: &mut Vec<u8>, body: &mut Vec<u8>) {
        match value {
            Val::Null => head.push(0),
            Val::Int(0) => head.push(8),
            Val::Int(1) => head.push(9),
            Val::Int(n) => {
                let bytes = n.to_be_bytes();
                let wide = [1usize, 2, 3, 4, 6, 8];
                let fits =
                    |w: &usize| *w == 8 || (*n >> (8 * w - 1)) == 0 || (*n >> (8 * w - 1)) == -1;
                let (serial, w) = wide
                    .into_iter()
                    .enumerate()
                    .find(|(_, w)| fits(w))
                    .expect("fits");
                head.push(u8::try_from(serial + 1).expect("small"));
                body.extend(&bytes[8 - w..]);
            }
            Val::Real(bits) => {
                head.push(7);
                body.extend(bits.to_be_bytes());
            }
            Val::Text(t) => {
                let bytes = match self.app {
                    App::Utf16 => String::from_utf8(t.clone())
                        .expect("text")
                        .encode_utf16()
                        .flat_map(u16::to_le_bytes)
                        .collect(),
                    App::Plain | App::Search => t.clone(),
                };
                varint(13 + 2 * bytes.len(), head);
                body.extend(bytes);
            }
            Val::Blob(b) => {
                varint(12 + 2 * b.len(), head);
                body.extend(b);
            }
        }
    }
}

/// Of the b-tree page at `at`, what lies between the pointers and the cells.
fn gap(bytes: &[u8], at: usize, page_size: usize) -> Option<std::ops::Range<usize>> {
    let page = bytes.get(at..at + page_size)?;
    let head = if page.starts_with(b"SQLite format 3") {
        100
    } else {
        0
    };
    let word = |i: usize| usize::from(page[i]) << 8 | usize::from(page[i + 1]);
    let pointers = match page[head] {
        2 | 5 => head + 12,
        10 | 13 => head + 8,
        _ => return None,
    };
    let (first, cells) = (pointers + 2 * word(head + 3), word(head + 5));
    let cells = if cells == 0 { 65_536 } else { cells };
    (first <= cells).then(|| at + first..at + cells.min(page_size))
}

fn varint(n: usize, to: &mut Vec<u8>) {
    for shift in [14, 7] {
        if n >> shift != 0 {
            to.push(u8::try_from(n >> shift & 0x7f).expect("7 bits") | 0x80);
        }
    }
    to.push(u8::try_from(n & 0x7f).expect("7 bits"));
}

/// The table that is written to.
fn stem(table: usize) -> &'static str {
    if table == NOTE {
        "note"
    } else {
        SHAPES[table].name
    }
}

fn key_column(table: usize) -> &'static str {
    match table {
        DEVICE => "code",
        NOTE => "rowid",
        _ => "id",
    }
}

fn insert_columns(table: usize) -> &'static str {
    if table == NOTE {
        "rowid, title, body"
    } else {
        SHAPES[table].columns
    }
}

fn set_columns(table: usize) -> String {
    let all = insert_columns(table).split(", ").enumerate().skip(1);
    let each = all.map(|(n, c)| format!("{c} = ?{}", n + 1));
    each.collect::<Vec<_>>().join(", ")
}

fn text(s: &str) -> Val {
    Val::Text(s.as_bytes().to_vec())
}

fn prose(dice: &mut Dice, most: usize) -> Val {
    const WORDS: [&str; 10] = [
        "valve",
        "größer",
        "pump",
        "ok",
        "überhitzt",
        "naïve",
        "reset",
        "drift",
        "12 °C",
        "seal",
    ];
    let mut s = String::from(WORDS[dice.below(10)]);
    let long = dice.below(most);
    while s.len() < long {
        s.push(' ');
        s.push_str(WORDS[dice.below(10)]);
    }
    text(&s)
}

/// In Latin-1, with a letter beyond ASCII in it at least.
fn latin(t: &[u8], dice: &mut Dice) -> Vec<u8> {
    let letters = String::from_utf8(t.to_vec()).expect("text");
    let mut bytes: Vec<u8> = letters
        .chars()
        .map(|c| u8::try_from(u32::from(c)).expect("Latin-1"))
        .collect();
    bytes.push([0xe9, 0xfc, 0xdf, 0xb0][dice.below(4)]);
    bytes.push(b'n');
    bytes
}

/// All rows of all tables that a SELECT gives before it fails; with the rows for which `.recover`
/// found no table.
pub(crate) fn readable(path: &Path, found: Option<&World>) -> Vec<(usize, Vec<Val>)> {
    let mut got = Vec::new();
    let Ok(conn) = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE) else {
        return got;
    };
    for (table, shape) in SHAPES.iter().enumerate() {
        let sql = format!("SELECT {} FROM {} NOT INDEXED", shape.columns, shape.name);
        selected(&conn, &sql, table, &mut got);
        if let Some(world) = found {
            world.unnamed(&conn, table, shape, &mut got);
        }
        if found.is_some() && shape.rowid {
            let fields = shape.columns.split(", ").count();
            let columns: String = (1..fields).map(|n| format!(", c{n}")).collect();
            let sql = format!(
                "SELECT id{columns} FROM lost_and_found WHERE nfield = {} AND id IS NOT NULL",
                shape.fields
            );
            selected(&conn, &sql, table, &mut got);
        }
    }
    got
}

impl World {
    /// Rows of the tables that have lost their name and are this one: of the tables that are nobody's
    /// business, as those of an index, some have as many fields.
    fn unnamed(
        &self,
        conn: &Connection,
        table: usize,
        shape: &Shape,
        got: &mut Vec<(usize, Vec<Val>)>,
    ) {
        let sql = "SELECT s.name FROM sqlite_schema s WHERE s.name LIKE 'lost_and_found_%'
               AND (SELECT count(*) FROM pragma_table_info(s.name)) = ?1";
        let Ok(mut query) = conn.prepare(sql) else {
            return;
        };
        let names = query.query_map([i64::try_from(shape.fields).expect("few")], |r| {
            r.get::<_, String>(0)
        });
        let Ok(names) = names else { return };
        let fields = shape.columns.split(", ").count();
        let columns: String = (1..fields).map(|n| format!(", c{n}")).collect();
        for name in names.flatten() {
            let sql = if shape.rowid {
                format!("SELECT _rowid_{columns} FROM {name} WHERE c0 IS NULL")
            } else {
                format!("SELECT c0{columns} FROM {name} WHERE c0 IS NOT NULL")
            };
            let mut here = Vec::new();
            selected(conn, &sql, table, &mut here);
            let known = here.iter().filter(|row| self.ever.contains(*row)).count();
            if known * 2 >= here.len() {
                got.extend(here);
            }
        }
    }
}

fn selected(conn: &Connection, sql: &str, table: usize, got: &mut Vec<(usize, Vec<Val>)>) {
    let Ok(mut query) = conn.prepare(sql) else {
        return;
    };
    let columns = query.column_count();
    let Ok(mut rows) = query.query([]) else {
        return;
    };
    while let Ok(Some(row)) = rows.next() {
        let values = (0..columns).map(|i| row.get_ref(i).map_or(Val::Null, Val::of));
        got.push((table, values.collect()));
    }
}
