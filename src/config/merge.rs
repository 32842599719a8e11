//! Fragments laid over each other: defaults, the board, then the site's files in their order.

use std::collections::{BTreeMap, BTreeSet};

use super::fragment::{DatabaseEntry, Entry, Fragment, Origin, Value};
use super::problem::Problem;
use super::schema::{self, KEYS, Key, Kind, LINE_TABLE, LINES};

/// The merged keys, and what is known to be wrong with them.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) databases: Vec<DatabaseEntry>,
    pub(super) refused: BTreeSet<String>,
    pub(super) broken: bool,
    pub(super) problems: Vec<Problem>,
}

impl Merged {
    /// Lays `upper` over what is there: its keys win, its databases append.
    pub(super) fn lay(&mut self, upper: Fragment) {
        for (path, entry) in upper.entries {
            // Who names a line one way takes back the other way.
            if let Some((table, name)) = path.rsplit_once('.')
                && schema::table(table) == Some(LINE_TABLE)
            {
                match name {
                    "line" => drop(self.entries.remove(&format!("{table}.offset"))),
                    "offset" => drop(self.entries.remove(&format!("{table}.line"))),
                    _ => {}
                }
            }
            self.entries.insert(path, entry);
        }
        self.databases.extend(upper.databases);
        self.refused.extend(upper.refused);
        self.broken |= upper.broken;
        self.problems.extend(upper.problems);
    }

    /// Fills in what nobody set; a line's keys only where the line is described.
    pub(super) fn fill(&mut self) {
        for key in KEYS {
            let Some(value) = default_of(key) else {
                continue;
            };
            let paths = match key.table {
                "database" => Vec::new(),
                LINE_TABLE => LINES
                    .iter()
                    .filter(|line| self.describes(line))
                    .map(|line| format!("board.{line}.{}", key.name))
                    .collect(),
                table => vec![format!("{table}.{}", key.name)],
            };
            for path in paths {
                self.entries.entry(path).or_insert_with(|| Entry {
                    value: value.clone(),
                    origin: Origin::Default,
                });
            }
        }
    }

    /// Does any layer say anything of this line?
    pub(super) fn describes(&self, line: &str) -> bool {
        let table = format!("board.{line}.");
        self.entries.keys().any(|k| k.starts_with(&table))
            || self.refused.iter().any(|k| k.starts_with(&table))
    }

    /// Are all of these good enough to be judged together?
    pub(super) fn sound(&self, paths: &[&str]) -> bool {
        !self.broken && !paths.iter().any(|p| self.refused.contains(*p))
    }

    /// The number at `path`; for keys with a default.
    pub(super) fn int(&self, path: &str) -> u64 {
        self.maybe_int(path).unwrap_or_default()
    }

    /// The number at `path`, if it is set.
    pub(super) fn maybe_int(&self, path: &str) -> Option<u64> {
        match self.entries.get(path)?.value {
            Value::Int(n) => Some(n),
            Value::Text(_) | Value::Bool(_) | Value::List(_) => None,
        }
    }

    /// The text at `path`; for keys with a default.
    pub(super) fn text(&self, path: &str) -> &str {
        self.maybe_text(path).unwrap_or_default()
    }

    /// The text at `path`, if it is set.
    pub(super) fn maybe_text(&self, path: &str) -> Option<&str> {
        match &self.entries.get(path)?.value {
            Value::Text(t) => Some(t),
            Value::Int(_) | Value::Bool(_) | Value::List(_) => None,
        }
    }

    /// The list at `path`; empty where it is not set.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        match self.entries.get(path).map(|e| &e.value) {
            Some(Value::List(all)) => all.clone(),
            Some(Value::Text(_) | Value::Int(_) | Value::Bool(_)) | None => Vec::new(),
        }
    }

    /// The truth value at `path`; for keys with a default.
    pub(super) fn bool(&self, path: &str) -> bool {
        matches!(
            self.entries.get(path),
            Some(Entry {
                value: Value::Bool(true),
                ..
            })
        )
    }

    /// Sets what is computed rather than tabled.
    pub(super) fn compute(&mut self, path: &str, text: String) {
        self.entries.entry(path.to_owned()).or_insert(Entry {
            value: Value::Text(text),
            origin: Origin::Default,
        });
    }

    /// Something is wrong with the value at `path`.
    pub(super) fn complain(
        &mut self,
        path: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let problem = self.about(path, what, remedy);
        self.problems.push(problem);
    }

    /// The value at `path` does not go with the one at `other`; the file to blame is that of
    /// whichever is set.
    pub(super) fn complain_of_two(
        &mut self,
        path: &str,
        other: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let mut problem = self.about(path, what, remedy);
        if problem.place.is_none() {
            let other = self.entries.get(other);
            problem.place = other.and_then(|e| e.origin.place());
        }
        self.problems.push(problem);
    }

    /// A problem at the place of `path`, or of the first key below it.
    pub(super) fn about(
        &self,
        path: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        let below = format!("{path}.");
        // What the site wrote is more to blame than what the board's description says.
        let rank = |entry: &&Entry| match entry.origin {
            Origin::File(_) => 0,
            Origin::Board { .. } => 1,
            Origin::Default => 2,
        };
        let entry = self.entries.get(path).or_else(|| {
            let inner = self.entries.iter().filter(|(k, _)| k.starts_with(&below));
            inner.map(|(_, e)| e).min_by_key(rank)
        });
        Problem {
            place: entry.and_then(|e| e.origin.place()),
            key: path.to_owned(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// A key's default as a value of its kind.
pub(super) fn default_of(key: &Key) -> Option<Value> {
    let text = key.default?;
    match key.kind {
        Kind::Int { .. } => text.parse().ok().map(Value::Int),
        Kind::Bool => text.parse().ok().map(Value::Bool),
        Kind::Choice(_)
        | Kind::Path
        | Kind::Id
        | Kind::Label
        | Kind::Unit
        | Kind::Board
        | Kind::Text
        | Kind::Paths
        | Kind::Texts => Some(Value::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fragment::check_text;

    #[test]
    fn every_default_is_of_its_kind_and_in_its_range() {
        for key in KEYS.iter().filter(|k| k.default.is_some()) {
            let name = format!("{}.{}", key.table, key.name);
            match (key.kind, default_of(key).expect(&name)) {
                (Kind::Int { min, max }, Value::Int(n)) => {
                    assert!((min..=max).contains(&n), "{name}");
                }
                (Kind::Bool, Value::Bool(_)) => {}
                (kind, Value::Text(t)) => check_text(kind, &t).expect(&name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn every_key_says_what_it_does() {
        for key in KEYS {
            assert!(!key.doc.is_empty(), "{}.{}", key.table, key.name);
            assert_eq!(
                KEYS.iter()
                    .filter(|k| k.table == key.table && k.name == key.name)
                    .count(),
                1
            );
        }
    }
}
