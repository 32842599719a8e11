//! The schema: read where it can be, looked for where it cannot, else as the caller knows it.
//!
//! It promises that a schema row is taken only from a record that is one, and that a table the
//! caller knows is not forgotten because page 1 is lost.

use std::collections::{BTreeSet, HashSet};

use super::super::source::Pages;
use super::header::{Encoding, Header};
use super::node::{Kind, Node};
use super::record::{Value, decode, text};
use super::table::{Expected, Table};
use super::unnamed::unnamed;
use super::view::{View, when};

/// Deeper trees do not exist: 2^31 pages of two children each.
const DEEPEST: usize = 32;

/// More objects than this are no schema.
const MOST_OBJECTS: usize = 20_000;

/// A statement of at most this many bytes.
const LONGEST_SQL: usize = 1 << 20;

/// Anything in the schema that is not a table with rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// `index`, `view`, `trigger`, or `table` for a virtual one.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table that it belongs to.
    pub table: String,
    /// Its root page; 0 is none.
    pub root: u32,
    /// Its statement; an index that a constraint made has none.
    pub sql: Option<String>,
}

/// Where the schema came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Read from page 1.
    Read,
    /// From an older state of page 1.
    Older,
    /// From pages that nothing leads to any more.
    Scanned,
    /// From the caller.
    Known,
}

/// All that is known of the database's form.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The header, or what is taken for it.
    pub header: Header,
    /// Was the header readable?
    pub header_read: bool,
    /// Where the schema came from.
    pub found: Found,
    /// Tables that have rows, sqlite_sequence among them.
    pub tables: Vec<Table>,
    /// The rest, in the order of the schema.
    pub others: Vec<Object>,
    /// Tables whose statement this SQLite does not understand.
    pub unknown: Vec<String>,
}

impl Schema {
    /// Reads the schema of `pages`; `known` are tables that the caller expects.
    pub fn read(pages: &dyn Pages, known: &[Expected<'_>]) -> Self {
        let mut header = None;
        let mut first = pages.versions(1);
        while let Some(v) = first.pop() {
            let mut page = vec![0; pages.page_size()];
            if pages.read(v, &mut page).is_ok()
                && (v.proven || v.transaction.is_none())
                && let Some(read) = Header::parse(&page)
                && read.page_size == pages.page_size()
            {
                header = Some(read);
                break;
            }
        }
        let mut view = View::new(
            pages,
            header.unwrap_or_else(|| Header::unknown(pages.page_size())),
        );
        if header.is_none() {
            view.header.encoding = guess_encoding(&view);
        }
        let (found, complete, objects) = objects(&view);
        let mut schema = Self::build(view.header, header.is_some(), found, objects, known);
        // Of ours there is nothing that the caller does not know.
        if known.is_empty() && !complete {
            let more = unnamed(&view, &schema);
            let taken = |t: &Table| schema.tables.iter().any(|o| o.name == t.name);
            let more: Vec<_> = more.into_iter().filter(|t| !taken(t)).collect();
            schema.tables.extend(more);
        }
        schema
    }

    fn build(
        header: Header,
        header_read: bool,
        found: Found,
        objects: Vec<Object>,
        known: &[Expected<'_>],
    ) -> Self {
        let mut schema = Self {
            header,
            header_read,
            found,
            tables: Vec::new(),
            others: Vec::new(),
            unknown: Vec::new(),
        };
        for o in objects {
            if o.kind != "table" || o.root == 0 {
                schema.others.push(o);
                continue;
            }
            // SQLite made these itself; a statement of that name is refused to anybody else.
            if let Some(rest) = o.name.strip_prefix("sqlite_") {
                if rest == "sequence"
                    && let Some(mut t) = Table::parse("CREATE TABLE s(name,seq)", Some(o.root))
                {
                    t.name = o.name;
                    schema.tables.push(t);
                }
                continue;
            }
            match Table::parse(o.sql.as_deref().unwrap_or(""), Some(o.root)) {
                Some(table) => schema.tables.push(table.of_an_application()),
                None => schema.unknown.push(o.name),
            }
        }
        for expected in known {
            let Some(mut table) = Table::parse(expected.sql, None) else {
                continue;
            };
            let same = |t: &&mut Table| t.name.eq_ignore_ascii_case(&table.name);
            if let Some(read) = schema.tables.iter_mut().find(same) {
                read.kept_from = expected.kept_from;
                read.of_ours();
            } else if !schema
                .unknown
                .iter()
                .any(|n| n.eq_ignore_ascii_case(&table.name))
            {
                table.kept_from = expected.kept_from;
                schema.tables.push(table);
            }
        }
        schema
    }
}

/// The schema as the newest page 1 leads to it, if all of it is whole.
pub(super) fn at_hand(view: &View<'_>) -> Option<Vec<Object>> {
    let mut walk = Walk {
        view,
        at: when(view.newest(1)?),
        seen: HashSet::new(),
        rows: Vec::new(),
        whole: true,
    };
    walk.page(1, 0);
    walk.whole.then_some(walk.rows)
}

/// What is left of the schema, and whether a whole one is.
fn objects(view: &View<'_>) -> (Found, bool, Vec<Object>) {
    let mut all = Vec::new();
    let mut found = Found::Read;
    let mut complete = false;
    for (age, v) in view.pages.versions(1).into_iter().rev().enumerate() {
        if complete || (v.transaction.is_some() && !v.proven) {
            continue;
        }
        let mut walk = Walk {
            view,
            at: when(v),
            seen: HashSet::new(),
            rows: Vec::new(),
            whole: true,
        };
        walk.page(1, 0);
        if age > 0 && all.is_empty() && !walk.rows.is_empty() {
            found = Found::Older;
        }
        complete = walk.whole;
        merge(&mut all, walk.rows);
    }
    if !complete {
        let mut rows = Vec::new();
        for page in 2..=view.pages.highest() {
            if let Some(v) = view.newest(page)
                && let Some(bytes) = view.load(v)
                && let Some(node) = Node::parse(&bytes, page, view.usable())
                && node.kind == Kind::TableLeaf
            {
                let mut here = Vec::new();
                if rows_of(view, &node, when(v), &mut here) && !here.is_empty() {
                    rows.append(&mut here);
                }
            }
            if rows.len() >= MOST_OBJECTS {
                break;
            }
        }
        if all.is_empty() && !rows.is_empty() {
            found = Found::Scanned;
        }
        merge(&mut all, rows);
    }
    if all.is_empty() && !complete {
        found = Found::Known;
    }
    (found, complete, all)
}

fn merge(all: &mut Vec<Object>, more: Vec<Object>) {
    let mut have: BTreeSet<(String, String)> = all
        .iter()
        .map(|o| (o.kind.clone(), o.name.clone()))
        .collect();
    for o in more {
        if all.len() < MOST_OBJECTS && have.insert((o.kind.clone(), o.name.clone())) {
            all.push(o);
        }
    }
}

struct Walk<'v, 'a> {
    view: &'v View<'a>,
    at: u64,
    seen: HashSet<u32>,
    rows: Vec<Object>,
    whole: bool,
}

impl Walk<'_, '_> {
    fn page(&mut self, page: u32, depth: usize) {
        let bytes = (depth < DEEPEST && self.view.may_hold_data(page) && self.seen.insert(page))
            .then(|| self.view.as_of(page, self.at))
            .flatten()
            .and_then(|v| self.view.load(v));
        let node = bytes
            .as_deref()
            .and_then(|b| Node::parse(b, page, self.view.usable()));
        match node {
            Some(node) if node.kind == Kind::TableLeaf => {
                self.whole &= rows_of(self.view, &node, self.at, &mut self.rows);
            }
            Some(node) if node.kind == Kind::TableInterior => {
                for i in 0..node.cells {
                    match node.cell(i) {
                        Some(cell) => self.page(cell.child, depth + 1),
                        None => self.whole = false,
                    }
                }
                self.page(node.right(), depth + 1);
            }
            _ => self.whole = false,
        }
    }
}

/// Adds the schema rows of a leaf; says whether all its cells were ones.
fn rows_of(view: &View<'_>, node: &Node<'_>, at: u64, rows: &mut Vec<Object>) -> bool {
    let mut whole = true;
    for i in 0..node.cells {
        let object = node
            .cell(i)
            .and_then(|cell| view.payload(node, &cell, at).ok())
            .and_then(|payload| object(&decode(&payload)?, view.header.encoding));
        match object {
            Some(o) if rows.len() < MOST_OBJECTS => rows.push(o),
            _ => whole = false,
        }
    }
    whole
}

fn object(values: &[Value<'_>], encoding: Encoding) -> Option<Object> {
    let [
        Value::Text(kind),
        Value::Text(name),
        Value::Text(table),
        root,
        sql,
    ] = values
    else {
        return None;
    };
    let kind = text(kind, encoding)?.into_owned();
    let root = match root {
        Value::Integer(n) => u32::try_from(*n).ok()?,
        // Views, triggers and virtual tables in old files.
        Value::Null => 0,
        Value::Real(_) | Value::Text(_) | Value::Blob(_) => return None,
    };
    let sql = match sql {
        Value::Text(sql) if sql.len() <= LONGEST_SQL => Some(text(sql, encoding)?.into_owned()),
        Value::Null => None,
        Value::Integer(_) | Value::Real(_) | Value::Text(_) | Value::Blob(_) => return None,
    };
    let starts = |word: &str| {
        sql.as_deref()
            .and_then(|s| s.get(..word.len()))
            .is_some_and(|s| s.eq_ignore_ascii_case(word))
    };
    let told = match kind.as_str() {
        "table" | "view" | "trigger" => starts("CREATE "),
        "index" => sql.is_none() || starts("CREATE "),
        _ => false,
    };
    told.then_some(Object {
        kind,
        name: text(name, encoding)?.into_owned(),
        table: text(table, encoding)?.into_owned(),
        root,
        sql,
    })
}

/// Latin text in UTF-16 has a zero in every second byte.
fn guess_encoding(view: &View<'_>) -> Encoding {
    let (mut le, mut be, mut eight) = (0u32, 0u32, 0u32);
    let highest = view.pages.highest();
    for page in 1..=highest.min(2000) {
        let Some(bytes) = view.newest(page).and_then(|v| view.load(v)) else {
            continue;
        };
        let Some(node) = Node::parse(&bytes, page, view.usable()) else {
            continue;
        };
        if node.kind != Kind::TableLeaf {
            continue;
        }
        for cell in (0..node.cells.min(20)).filter_map(|i| node.cell(i)) {
            let Some(values) = decode(node.bytes(cell.local.clone())) else {
                continue;
            };
            for v in values {
                let Value::Text(t) = v else { continue };
                let zeros = |odd: usize| t.iter().skip(odd).step_by(2).all(|b| *b == 0);
                match t.len() {
                    0 | 1 => {}
                    n if n % 2 == 0 && zeros(1) && !zeros(0) => le += 1,
                    n if n % 2 == 0 && zeros(0) && !zeros(1) => be += 1,
                    _ => eight += 1,
                }
            }
        }
    }
    if le > be.max(eight) {
        Encoding::Utf16le
    } else if be > le.max(eight) {
        Encoding::Utf16be
    } else {
        Encoding::Utf8
    }
}
