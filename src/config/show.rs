//! The merged result, key by key, with where each value came from.

use std::fmt::Write as _;

use super::Loaded;
use super::fragment::{Entry, Origin, Value};
use super::schema::{KEYS, Key, LINE_TABLE, LINES, OUTPUTS};

/// One line of `config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The table, such as `power`; `database` for each `[[database]]`.
    pub table: String,
    /// Which of the table's entries; 0 but for `[[database]]`.
    pub index: usize,
    /// The key in it.
    pub name: &'static str,
    /// The value; `None` is unset.
    pub value: Option<Value>,
    /// `FILE:LINE`, `board NAME` or `default`.
    pub origin: String,
    /// Only a board's description may set it: shown, but not to be copied.
    pub board_only: bool,
}

impl Row {
    /// The whole key, such as `power.holdup_ms` or `database[0].path`.
    pub fn key(&self) -> String {
        if self.table == "database" {
            format!("database[{}].{}", self.index, self.name)
        } else {
            format!("{}.{}", self.table, self.name)
        }
    }
}

impl Loaded {
    /// Every key that can be set here, in the order of [`KEYS`].
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut last = "";
        for key in KEYS {
            if std::mem::replace(&mut last, key.table) == key.table && key.table == LINE_TABLE {
                continue; // all of a line's keys were shown with its first
            }
            match key.table {
                LINE_TABLE => self.line_rows(&mut rows),
                "database" => {}
                "board.sim" if !self.settings.board.is_sim() => {}
                table => rows.push(row(table, 0, key, self.origins.get(&path(table, key)))),
            }
        }
        for (index, database) in self.databases.iter().enumerate() {
            for key in KEYS.iter().filter(|k| k.table == "database") {
                let filled = database.keys.get(key.name).cloned().or_else(|| {
                    Some(Entry {
                        value: super::merge::default_of(key)?,
                        origin: Origin::Default,
                    })
                });
                rows.push(row("database", index, key, filled.as_ref()));
            }
        }
        rows
    }

    fn line_rows(&self, rows: &mut Vec<Row>) {
        for line in LINES {
            let table = format!("board.{line}");
            let at = |key: &Key| self.origins.get(&path(&table, key));
            let keys = KEYS.iter().filter(|k| k.table == LINE_TABLE);
            let wired = |k: &&Key| k.name == "wired";
            let unwired = keys
                .clone()
                .find(wired)
                .and_then(at)
                .is_some_and(|e| e.value == Value::Bool(false));
            for key in keys {
                let means_something = !(key.name == "bias" && OUTPUTS.contains(&line));
                // Of the two ways to find a line and the optional chip, show what is set.
                if (key.name == "wired") == unwired && means_something && at(key).is_some() {
                    rows.push(row(&table, 0, key, at(key)));
                }
            }
        }
    }

    /// [`Self::rows`] as TOML that loads to the same settings, each origin as a comment.
    pub fn to_toml(&self) -> String {
        let rows = self.rows();
        let body: Vec<String> = rows.iter().map(assignment).collect();
        let width = body
            .iter()
            .map(|b| b.chars().count())
            .filter(|w| *w <= 48)
            .max()
            .unwrap_or(0);
        let mut text = String::new();
        let mut open: Option<(&str, usize)> = None;
        for (row, body) in rows.iter().zip(&body) {
            if open != Some((&row.table, row.index)) {
                let gap = if open.is_some() { "\n" } else { "" };
                let head = if row.table == "database" {
                    "[[database]]".to_owned()
                } else {
                    format!("[{}]", row.table)
                };
                let _infallible = writeln!(text, "{gap}{head}");
                open = Some((&row.table, row.index));
            }
            let _infallible = writeln!(text, "{body:width$}  # {}", row.origin);
        }
        text
    }
}

fn assignment(row: &Row) -> String {
    match &row.value {
        None => format!("# {} is not set", row.name),
        Some(value) if row.board_only => format!("# {} = {value}", row.name),
        Some(value) => format!("{} = {value}", row.name),
    }
}

fn path(table: &str, key: &Key) -> String {
    format!("{table}.{}", key.name)
}

fn row(table: &str, index: usize, key: &Key, entry: Option<&Entry>) -> Row {
    Row {
        table: table.to_owned(),
        index,
        name: key.name,
        value: entry.map(|e| e.value.clone()),
        origin: entry
            .map_or(Origin::Default, |e| e.origin.clone())
            .to_string(),
        board_only: key.scope == super::schema::Scope::Board,
    }
}
