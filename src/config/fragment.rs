//! One file, read as far as it can be: typed values with the line each stands on, and everything
//! that is wrong with it.
//!
//! It must never panic or take long, whatever the bytes are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Place, Problem, SHOWN, printable};
use super::schema::{self, Key, Kind, Scope};
use super::suggest;

/// Entries of a list.
const MOST_IN_LIST: usize = 64;

/// A value of its key's kind, in its key's range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of every kind that is text.
    Text(String),
    /// Of [`Kind::Int`].
    Int(u64),
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of every kind that is a list.
    List(Vec<String>),
}

impl fmt::Display for Value {
    /// As TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(t) => write!(f, "{}", toml::Value::String(t.clone())),
            Self::Int(n) => write!(f, "{n}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::List(all) => {
                let all = all.iter().map(|t| toml::Value::String(t.clone()));
                write!(f, "{}", toml::Value::Array(all.collect()))
            }
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the site's files.
    File(Place),
    /// The board's description.
    Board {
        /// The board.
        name: String,
        /// Where in its file.
        place: Place,
    },
    /// Nobody set it.
    Default,
}

impl Origin {
    /// The file and line to blame, if any.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::File(place) | Self::Board { place, .. } => Some(place.clone()),
            Self::Default => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(place) => place.fmt(f),
            Self::Board { name, .. } => write!(f, "board {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// One `[[database]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DatabaseEntry {
    pub(super) keys: BTreeMap<&'static str, Entry>,
    pub(super) origin: Origin,
}

/// What one file says, every key optional.
#[derive(Debug, Default)]
pub(super) struct Fragment {
    /// By whole path, such as `board.power_fail.offset`.
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) databases: Vec<DatabaseEntry>,
    /// Keys whose value was refused; what depends on them is not judged.
    pub(super) refused: Vec<String>,
    /// It is not TOML: nothing is known of it.
    pub(super) broken: bool,
    pub(super) problems: Vec<Problem>,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Author<'a> {
    Site,
    Board(&'a str),
}

/// Reads `text`, which stands in `file`.
pub(super) fn parse(file: &Path, text: &str, author: Author<'_>) -> Fragment {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        file,
        author,
        line_starts: line_starts(text),
        out: Fragment::default(),
    };
    // A file with a syntax error may hang a key on the wrong table: judge nothing else in it.
    for error in &errors {
        let at = error.span().map(|s| s.start);
        reader.out.broken = true;
        reader.complain(at, "", printable(error.message()), "correct the TOML");
    }
    if errors.is_empty() {
        reader.table("", table.get_ref());
    }
    reader.out
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect()
}

struct Reader<'a> {
    file: &'a Path,
    author: Author<'a>,
    line_starts: Vec<usize>,
    out: Fragment,
}

impl Reader<'_> {
    fn place(&self, at: Option<usize>) -> Place {
        Place {
            file: PathBuf::from(self.file),
            line: at.map(|at| self.line_starts.partition_point(|start| *start <= at)),
        }
    }

    fn origin(&self, at: usize) -> Origin {
        let place = self.place(Some(at));
        match self.author {
            Author::Site => Origin::File(place),
            Author::Board(name) => Origin::Board {
                name: name.to_owned(),
                place,
            },
        }
    }

    fn complain(
        &mut self,
        at: Option<usize>,
        key: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let place = Some(self.place(at));
        self.out.problems.push(Problem {
            place,
            key: printable(key),
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    /// What an unknown key was meant to be: looked for as long as anybody will read it, since a
    /// file has room for a hundred thousand of them.
    fn suggest(&self, table: &str, name: &str) -> String {
        if self.out.problems.len() < SHOWN {
            suggest::for_key(table, name)
        } else {
            "remove it".to_owned()
        }
    }

    fn table(&mut self, path: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let at = name.span().start;
            let name = name.get_ref();
            let whole = if path.is_empty() {
                name.to_string()
            } else {
                format!("{path}.{name}")
            };
            // A dot inside a quoted name must not pass for a table's dot.
            let plain = !name.contains('.');
            if plain && whole == "database" {
                self.databases(at, value);
            } else if plain && schema::table(&whole).is_some() {
                if let DeValue::Table(inner) = value.get_ref() {
                    self.table(&whole, inner);
                } else {
                    let what = format!("is {}, not a table", name_of(value.get_ref()));
                    self.complain(Some(at), &whole, what, format!("write [{whole}]"));
                }
            } else if let Some(key) = schema::lookup(path, name).filter(|_| plain) {
                if let Some(entry) = self.entry(key, &whole, value) {
                    self.out.entries.insert(whole, entry);
                } else {
                    self.out.refused.push(whole);
                }
            } else {
                let table = matches!(value.get_ref(), DeValue::Table(_));
                let what = if table {
                    "unknown table"
                } else {
                    "unknown key"
                };
                let remedy = self.suggest(path, name);
                self.complain(Some(at), &whole, what, remedy);
            }
        }
        if schema::table(path) == Some(schema::LINE_TABLE) {
            self.one_way_to_find(path);
        }
    }

    /// A file names a line by offset or by name; a later file may change its mind.
    fn one_way_to_find(&mut self, path: &str) {
        let (by_offset, by_name) = (format!("{path}.offset"), format!("{path}.line"));
        if !self.out.entries.contains_key(&by_offset) {
            return;
        }
        if let Some(entry) = self.out.entries.remove(&by_name) {
            self.out.problems.push(Problem {
                place: entry.origin.place(),
                key: by_name.clone(),
                what: "is given beside `offset`".to_owned(),
                remedy: "keep one of the two".to_owned(),
            });
            self.out.refused.push(by_name);
        }
    }

    fn databases(&mut self, at: usize, value: &Spanned<DeValue<'_>>) {
        let remedy = "write [[database]] above each one's keys";
        let DeValue::Array(list) = value.get_ref() else {
            let what = format!("is {}, not a list of tables", name_of(value.get_ref()));
            return self.complain(Some(at), "database", what, remedy);
        };
        if matches!(self.author, Author::Board(_)) {
            return self.complain(
                Some(at),
                "database",
                "does not belong into a board's description",
                "move it to holdup.toml",
            );
        }
        self.database_list(list, remedy);
    }

    fn database_list(&mut self, list: &DeArray<'_>, remedy: &str) {
        for item in list {
            let at = item.span().start;
            let DeValue::Table(table) = item.get_ref() else {
                let what = format!("holds {}, not a table", name_of(item.get_ref()));
                self.complain(Some(at), "database", what, remedy);
                continue;
            };
            let mut keys = BTreeMap::new();
            let mut whole = true;
            for (name, value) in table {
                let path = format!("database.{}", name.get_ref());
                if let Some(key) = schema::lookup("database", name.get_ref()) {
                    match self.entry(key, &path, value) {
                        Some(entry) => drop(keys.insert(key.name, entry)),
                        None => whole = false,
                    }
                } else {
                    let remedy = self.suggest("database", name.get_ref());
                    self.complain(Some(name.span().start), &path, "unknown key", remedy);
                }
            }
            let origin = self.origin(at);
            if whole {
                self.out.databases.push(DatabaseEntry { keys, origin });
            }
        }
    }

    fn entry(&mut self, key: &Key, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Entry> {
        let at = value.span().start;
        let astray = match (key.scope, self.author) {
            (Scope::Site, Author::Board(_)) => Some((
                "does not belong into a board's description",
                "move it to holdup.toml",
            )),
            (Scope::Board, Author::Site) => Some((
                "belongs into a board's description",
                "name your board.toml in power.board",
            )),
            (Scope::Site | Scope::Both, Author::Site)
            | (Scope::Board | Scope::Both, Author::Board(_)) => None,
        };
        if let Some((what, remedy)) = astray {
            self.complain(Some(at), path, what, remedy);
            return None;
        }
        match convert(key, value.get_ref()) {
            Ok(value) => Some(Entry {
                value,
                origin: self.origin(at),
            }),
            Err(what) => {
                self.complain(Some(at), path, what, format!("give {}", key.expected()));
                None
            }
        }
    }
}

/// The value, or what is wrong with it.
fn convert(key: &Key, value: &DeValue<'_>) -> Result<Value, String> {
    match (key.kind, value) {
        (Kind::Bool, DeValue::Boolean(b)) => Ok(Value::Bool(*b)),
        (Kind::Int { min, max }, DeValue::Integer(number)) => {
            let shown = printable(&number.to_string());
            // What does not fit 128 bits does not fit the range either.
            let n = i128::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| format!("{shown} is out of range"))?;
            if n < i128::from(min) || n > i128::from(max) {
                return Err(format!("{shown} is out of range"));
            }
            let n = u64::try_from(n).map_err(|_| format!("{shown} is out of range"))?;
            Ok(Value::Int(n))
        }
        (Kind::Bool | Kind::Int { .. }, other) => Err(format!("is {}", name_of(other))),
        (Kind::Paths | Kind::Texts, DeValue::Array(list)) => {
            if list.len() > MOST_IN_LIST {
                return Err(format!("has {} entries", list.len()));
            }
            let one = if key.kind == Kind::Paths {
                Kind::Path
            } else {
                Kind::Text
            };
            let text = |item: &Spanned<DeValue<'_>>| {
                let DeValue::String(text) = item.get_ref() else {
                    return Err(format!("holds {}", name_of(item.get_ref())));
                };
                check_text(one, text).map(|()| text.to_string())
            };
            list.iter()
                .map(text)
                .collect::<Result<_, _>>()
                .map(Value::List)
        }
        (Kind::Paths | Kind::Texts, other) => Err(format!("is {}", name_of(other))),
        (_, DeValue::String(text)) => {
            check_text(key.kind, text)?;
            Ok(Value::Text(text.to_string()))
        }
        (_, other) => Err(format!("is {}", name_of(other))),
    }
}

/// What is wrong with a text of this kind, if anything.
pub(super) fn check_text(kind: Kind, text: &str) -> Result<(), String> {
    let shown = || format!("\"{}\"", printable(text));
    if text.chars().any(char::is_control) {
        return Err(format!("{} holds a control character", shown()));
    }
    let sized = |max: usize| match text.trim().len() {
        0 => Err("is empty".to_owned()),
        _ if text.len() > max => Err(format!("has {} bytes", text.len())),
        _ => Ok(()),
    };
    match kind {
        Kind::Choice(words) if !words.contains(&text) => Err(format!("{} is not known", shown())),
        Kind::Path => {
            sized(4_095)?;
            let path = Path::new(text);
            if !path.is_absolute() {
                return Err(format!("{} is relative", shown()));
            }
            let up = |c| c == std::path::Component::ParentDir;
            if path.components().any(up) {
                return Err(format!("{} holds `..`", shown()));
            }
            Ok(())
        }
        Kind::Id => {
            sized(64)?;
            if text.contains('/') {
                return Err(format!("{} holds a slash", shown()));
            }
            Ok(())
        }
        Kind::Label => sized(31),
        Kind::Unit => {
            sized(255)?;
            let stem = [".service", ".scope", ".slice"]
                .iter()
                .find_map(|end| text.strip_suffix(end));
            let legal = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
            match stem {
                Some(stem) if !stem.is_empty() && stem.chars().all(legal) => Ok(()),
                _ => Err(format!("{} is no unit", shown())),
            }
        }
        Kind::Board => sized(4_095),
        Kind::Choice(_)
        | Kind::Text
        | Kind::Bool
        | Kind::Int { .. }
        | Kind::Paths
        | Kind::Texts => Ok(()),
    }
}

fn name_of(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(t) => format!("text (\"{}\")", printable(t)),
        DeValue::Integer(n) => format!("a whole number ({})", printable(&n.to_string())),
        DeValue::Float(n) => format!("a fraction ({})", printable(n.as_str())),
        DeValue::Boolean(b) => format!("{b}"),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_unknown_key_was_meant_to_be_is_looked_for_only_while_somebody_will_read_it() {
        let text: String = (0..2 * SHOWN).map(|n| format!("zz{n} = 1\n")).collect();
        let found = parse(Path::new("holdup.toml"), &text, Author::Site).problems;
        assert_eq!(found.len(), 2 * SHOWN);
        let looked_for = |p: &Problem| p.remedy.starts_with("known here");
        assert!(found[..SHOWN].iter().all(looked_for), "{:?}", found[0]);
        assert!(!found[SHOWN..].iter().any(looked_for));
    }
}
