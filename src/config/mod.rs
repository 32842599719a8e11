//! Fragments, merged, validated: the settings the agent runs by.
//!
//! It promises that a key is refused with file and line, has its effect, or is warned about; and
//! that each value can name where it came from. It must never be read twice: a reload makes new
//! [`Settings`].
//!
//! Order, later wins: defaults, the board's description, the given file, `conf.d/*.toml` beside
//! it by name. `[[database]]` entries append.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod backup;
mod boards;
mod edit;
mod files;
mod fragment;
mod gauge;
mod identify;
mod lines;
mod merge;
mod network;
mod problem;
mod schema;
mod settings;
mod show;
mod suggest;
mod validate;

pub use boards::BUILT_IN as BUILT_IN_BOARDS;
pub use edit::{FORMER, Proposed, propose, would_load};
pub use fragment::{Origin, Value};
pub use identify::{Identity, by_device_tree, identify};
pub use network::{Network, NetworkError, System};
pub use problem::{ConfigError, Place, Problem, is_visible, one_line};
pub use schema::{KEYS, Key, Kind, LINE_TABLE, LINES, OUTPUTS, Scope};
pub use settings::*;
pub use show::Row;

use fragment::{Author, DatabaseEntry, Entry};
use merge::Merged;

/// Where the configuration is unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/holdup/holdup.toml";

/// A configuration, and how it came about.
#[derive(Debug)]
pub struct Loaded {
    /// What to run by.
    pub settings: Settings,
    /// Not wrong, but worth a look.
    pub warnings: Vec<Problem>,
    /// The files that were read, in their order; the board's own last.
    pub files: Vec<PathBuf>,
    origins: BTreeMap<String, Entry>,
    databases: Vec<DatabaseEntry>,
}

impl Loaded {
    /// Where the value of `key` (`power.holdup_ms`) came from; `None` where it is unset.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key).map(|e| &e.origin)
    }
}

/// Reads `path` and what belongs to it.
///
/// # Errors
/// Everything that can be found wrong, not the first thing only.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    load_on(path, &identify)
}

/// The same on a machine that `identify` tells; it is asked only for `power.board = "auto"`.
///
/// # Errors
/// See [`load`].
pub fn load_on(path: &Path, identify: &dyn Fn() -> Identity) -> Result<Loaded, ConfigError> {
    load_given(path, identify, None)
}

/// The same as if one of its files held the text given with it.
fn load_given(
    path: &Path,
    identify: &dyn Fn() -> Identity,
    given: Option<(&Path, &str)>,
) -> Result<Loaded, ConfigError> {
    let mut site = Merged::default();
    let mut files = vec![path.to_owned()];
    match files::drop_ins(path) {
        Ok(more) => files.extend(more),
        Err(problem) => site.problems.push(problem),
    }
    if let Some((file, _)) = given
        && !files.iter().any(|f| f == file)
    {
        files.push(file.to_owned());
        // The main one, then the others by name.
        files[1..].sort();
    }
    for file in &files {
        let text = match given {
            Some((given, text)) if given == file => Ok(text.to_owned()),
            Some(_) | None => files::read(file),
        };
        match text {
            Ok(text) => site.lay(fragment::parse(file, &text, Author::Site)),
            Err(problem) => {
                site.problems.push(problem);
                site.broken = true;
            }
        }
    }
    finish(path, site, files, identify)
}

/// What holds on a machine where nothing is configured.
///
/// # Errors
/// See [`load`].
pub fn defaults() -> Result<Loaded, ConfigError> {
    let nothing = Merged::default();
    finish(Path::new(DEFAULT_PATH), nothing, Vec::new(), &identify)
}

fn finish(
    path: &Path,
    site: Merged,
    mut files: Vec<PathBuf>,
    identify: &dyn Fn() -> Identity,
) -> Result<Loaded, ConfigError> {
    let mut all = Merged::default();
    if site.sound(&["power.board"]) {
        let mut named = Merged::default();
        named.fill();
        let default = named.entries.remove("power.board");
        if let Some(wanted) = site.entries.get("power.board").or(default.as_ref()) {
            let (board, file) = boards::read(path, wanted, identify);
            files.extend(file);
            all.lay(board);
        }
    } else {
        all.broken = true; // an unknown board: nothing can be said about its lines
    }
    let mut board_problems = std::mem::take(&mut all.problems);
    all.lay(fragment::Fragment {
        entries: site.entries,
        databases: site.databases,
        refused: site.refused.into_iter().collect(),
        broken: site.broken,
        problems: site.problems,
    });
    all.problems.append(&mut board_problems);
    all.fill();
    all.compute("gateway.id", host_name());

    let mut warnings = Vec::new();
    let settings = validate::settings(&mut all, &mut warnings);
    if !all.problems.is_empty() {
        let mut problems = all.problems;
        let rank = |p: &Problem| {
            let file = p.place.as_ref().map(|at| &at.file);
            let nth = file.and_then(|f| files.iter().position(|known| known == f));
            let line = p.place.as_ref().and_then(|at| at.line);
            (nth.unwrap_or(usize::MAX), line)
        };
        problems.sort_by_key(rank);
        return Err(ConfigError { problems });
    }
    let mut databases = all.databases;
    databases.sort_by_key(|d| match d.keys.get("priority").map(|e| &e.value) {
        Some(Value::Int(n)) => std::cmp::Reverse(*n),
        _ => std::cmp::Reverse(validate::DEFAULT_PRIORITY.unsigned_abs().into()),
    });
    Ok(Loaded {
        settings,
        warnings,
        files,
        origins: all.entries,
        databases,
    })
}

/// The host's name, made fit for an id.
fn host_name() -> String {
    let system = rustix::system::uname();
    let name: String = system
        .nodename()
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_graphic() && *c != '/')
        .take(64)
        .collect();
    if name.is_empty() || name == "(none)" {
        "localhost".to_owned()
    } else {
        name
    }
}
