//! Changing one key of the site's configuration, in a file of its own.
//!
//! It promises that what a person wrote is never rewritten: a change goes to
//! `conf.d/zz-console.toml`, which is read last, and is refused where the whole would not load with
//! it. It writes nothing itself.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::files::{beside, read};
use super::problem::{Place, Problem};
use super::schema::{KEYS, Key, Kind, Scope};
use super::suggest;
use super::{ConfigError, Loaded, identify, load_given};

/// In `conf.d`: what `config undo` takes back. Hidden, so that it is no part of the configuration.
pub const FORMER: &str = ".console-undo.json";

/// The name of the file; the last of `conf.d`.
const FILE: &str = "zz-console.toml";

/// A console that no longer answers could not take these back.
const NOT_HERE: &[&str] = &["console"];

/// What a change would make.
#[derive(Debug)]
pub struct Proposed {
    /// The file that changes.
    pub file: PathBuf,
    /// What it holds now; `None`: it is not there.
    pub former: Option<String>,
    /// What it would hold.
    pub text: String,
    /// What would be loaded then.
    pub loaded: Loaded,
}

/// What setting `key` (`gateway.id`) to the typed `value` would make of the configuration at
/// `path`.
///
/// # Errors
/// There is no such key, it is not changed this way, or the configuration would be wrong.
pub fn propose(path: &Path, key: &str, value: &str) -> Result<Proposed, ConfigError> {
    let file = beside(path).join("conf.d").join(FILE);
    let refuse = |what: String, remedy: String| ConfigError {
        problems: vec![Problem {
            place: Some(Place {
                file: file.clone(),
                line: None,
            }),
            key: key.to_owned(),
            what,
            remedy,
        }],
    };
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let known = KEYS.iter().find(|k| k.table == table && k.name == name);
    let Some(known) = known.filter(|k| k.scope != Scope::Board && k.table != "database") else {
        let remedy = suggest::for_key(table, name);
        return Err(refuse("is no key that can be set".to_owned(), remedy));
    };
    if NOT_HERE.contains(&table) {
        return Err(refuse(
            "might lock you out of this console".to_owned(),
            format!("change it in {} with an editor", path.display()),
        ));
    }
    let former = match file.symlink_metadata() {
        Ok(_) => Some(read(&file).map_err(|p| ConfigError { problems: vec![p] })?),
        Err(_) => None,
    };
    let mut all: Table = match former.as_deref().unwrap_or_default().parse() {
        Ok(all) => all,
        Err(_) => {
            let remedy = format!("mend {} with an editor, or `config undo`", file.display());
            return Err(refuse(
                "stands in a file that is no TOML".to_owned(),
                remedy,
            ));
        }
    };
    let value = typed(known, value)
        .ok_or_else(|| refuse(format!("cannot be {value:?}"), wanted(known.kind)))?;
    let mut inner = &mut all;
    for part in table.split('.').filter(|p| !p.is_empty()) {
        let below = inner
            .entry(part)
            .or_insert_with(|| Value::Table(Table::new()));
        match below {
            Value::Table(t) => inner = t,
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => {
                let remedy = format!("mend {} with an editor", file.display());
                return Err(refuse(format!("[{part}] is no table"), remedy));
            }
        }
    }
    inner.insert(name.to_owned(), value);
    let text =
        format!("# Written by `holdup config set`; `holdup config undo` takes it back.\n{all}");
    let loaded = load_given(path, &identify, Some((&file, &text)))?;
    Ok(Proposed {
        file,
        former,
        text,
        loaded,
    })
}

/// Would the configuration at `path` load if `file` held `text`?
///
/// # Errors
/// What would be wrong.
pub fn would_load(path: &Path, file: &Path, text: Option<&str>) -> Result<Loaded, ConfigError> {
    load_given(path, &identify, Some((file, text.unwrap_or_default())))
}

/// What was typed, as the key's kind; ranges are judged with the whole.
fn typed(key: &Key, value: &str) -> Option<Value> {
    let value = value.trim();
    let list = || {
        let words = value.split([' ', ',']).filter(|w| !w.is_empty());
        Value::Array(words.map(|w| Value::String(w.to_owned())).collect())
    };
    match key.kind {
        Kind::Int { .. } => value.parse().ok().map(Value::Integer),
        Kind::Bool => value.parse().ok().map(Value::Boolean),
        Kind::Paths | Kind::Texts => Some(list()),
        Kind::Choice(_)
        | Kind::Path
        | Kind::Id
        | Kind::Label
        | Kind::Unit
        | Kind::Board
        | Kind::Text => Some(Value::String(value.to_owned())),
    }
}

fn wanted(kind: Kind) -> String {
    match kind {
        Kind::Int { min, max } => format!("a whole number from {min} to {max}"),
        Kind::Bool => "true or false".to_owned(),
        Kind::Choice(_)
        | Kind::Path
        | Kind::Id
        | Kind::Label
        | Kind::Unit
        | Kind::Board
        | Kind::Text
        | Kind::Paths
        | Kind::Texts => "another value".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn site() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("holdup.toml");
        let text = "[power]\nboard = \"sim\"\nholdup_ms = 4000\n[gateway]\nid = \"plant-7\"\n";
        std::fs::create_dir(dir.path().join("conf.d")).expect("made");
        put(&path, text);
        (dir, path)
    }

    fn put(path: &Path, text: &str) {
        let mut file = std::fs::File::create(path).expect("made");
        file.write_all(text.as_bytes()).expect("written");
    }

    #[test]
    fn a_change_wins_over_what_a_person_wrote_and_leaves_that_alone() {
        let (_dir, path) = site();
        let p = propose(&path, "gateway.id", "plant-8").expect("proposed");
        assert_eq!(p.loaded.settings.gateway.id, "plant-8");
        assert_eq!(p.former, None);
        assert!(p.text.contains("id = \"plant-8\""), "{}", p.text);
        put(&p.file, &p.text);
        let p = propose(&path, "power.holdup_ms", "5000").expect("proposed");
        assert_eq!(p.loaded.settings.gateway.id, "plant-8", "the first stays");
        assert!(p.former.is_some_and(|f| f.contains("plant-8")));
        assert!(would_load(&path, &p.file, None).is_ok());
    }

    #[test]
    fn what_would_not_load_is_refused_with_the_remedy() {
        let (_dir, path) = site();
        for (key, value, why) in [
            ("gateway.id", "a/b", "gateway.id"),
            ("gateway.id", "", "gateway.id"),
            ("gateway.idd", "x", "id"),
            ("power.holdup_ms", "soon", "whole number"),
            ("power.holdup_ms", "-1", "holdup_ms"),
            ("power.holdup_ms", "99999999999", "holdup_ms"),
            ("nonsense", "1", "known here"),
            ("console.port", "/dev/null", "lock you out"),
            ("console.lab", "true", "lock you out"),
            ("database.path", "/x", "no key"),
        ] {
            let e = propose(&path, key, value).expect_err("refused").to_string();
            assert!(e.contains(why), "{key}={value}: {e}");
        }
    }
}
