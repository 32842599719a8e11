//! Which scripts there are for an event, and which of them may be run.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::one_line;
use crate::power::Word;

/// A path for one line of a log or a terminal: who names a file may put anything into its name.
pub fn shown(path: &Path) -> String {
    one_line(&path.to_string_lossy())
}

/// A script that is not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub path: PathBuf,
    /// Why, and what to do.
    pub why: String,
}

/// A script that is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// As it stands in the directory.
    pub path: PathBuf,
    /// What was found trustworthy behind any links, and is run: a link may be turned meanwhile.
    pub real: PathBuf,
}

/// The scripts of one event, in the order in which they are run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// To be run.
    pub scripts: Vec<Script>,
    /// For this event by name, and not to be run.
    pub refused: Vec<Refused>,
}

/// The scripts for `word` in `dir`, for an agent that runs as this process's user. A directory
/// that is not there has none.
pub fn list(dir: &Path, word: Word) -> Listing {
    list_for(dir, word, rustix::process::geteuid().as_raw())
}

/// All there is in `dir`, for an agent that runs as `user`: what is run, by event, and what is
/// not.
pub fn survey(dir: &Path, user: u32) -> (Vec<(Word, Vec<Script>)>, Vec<Refused>) {
    let mut refused = Vec::new();
    let mut found = Vec::new();
    for word in Word::ALL {
        let listing = list_for(dir, word, user);
        found.push((word, listing.scripts));
        for r in listing.refused {
            if !refused.contains(&r) {
                refused.push(r);
            }
        }
    }
    for path in names(dir).unwrap_or_default() {
        let astray = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0);
        if astray && !Word::ALL.iter().any(|w| is_for(&path, *w)) {
            let why = "is for no event: begin its name with onbattery, offbattery, brownout, \
                       parked, resumed or media, and `-` or `.`";
            let why = why.to_owned();
            refused.push(Refused { path, why });
        }
    }
    (found, refused)
}

fn list_for(dir: &Path, word: Word, user: u32) -> Listing {
    let mut listing = Listing::default();
    let refuse = |path: &Path, why: String| Refused {
        path: path.to_owned(),
        why,
    };
    let names = match names(dir) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return listing,
        Err(e) => {
            let why = format!("cannot be read: {e}");
            listing.refused.push(refuse(dir, why));
            return listing;
        }
    };
    let mut names: Vec<_> = names.into_iter().filter(|p| is_for(p, word)).collect();
    if names.is_empty() {
        return listing;
    }
    if let Err(why) = trusted(dir, user) {
        listing.refused.push(refuse(dir, why));
        return listing;
    }
    names.sort();
    for path in names {
        match fs::metadata(&path) {
            Ok(m) if !m.is_file() => {}
            Ok(m) if m.mode() & 0o111 == 0 => {
                let why = "is not executable: chmod +x, or remove it".to_owned();
                listing.refused.push(refuse(&path, why));
            }
            Ok(_) => match trusted(&path, user) {
                Ok(real) => listing.scripts.push(Script { path, real }),
                Err(why) => listing.refused.push(refuse(&path, why)),
            },
            // Removed meanwhile, or a link that leads nowhere.
            Err(e) => listing.refused.push(refuse(&path, e.to_string())),
        }
    }
    listing
}

fn names(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect()
}

/// The event's name, alone or followed by `-` or `.` and more.
fn is_for(path: &Path, word: Word) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.strip_prefix(word.name().as_bytes())
        .is_some_and(|rest| matches!(rest, [] | [b'-' | b'.', _, ..]))
}

/// What is really at `path`; nobody but root and `user` can have written it, nor put it there.
fn trusted(path: &Path, user: u32) -> Result<PathBuf, String> {
    let real = fs::canonicalize(path).map_err(|e| e.to_string())?;
    for (depth, place) in real.ancestors().enumerate() {
        let m = fs::symlink_metadata(place).map_err(|e| e.to_string())?;
        if let Err(why) = owned(&m, user, depth) {
            return Err(if depth == 0 {
                why
            } else {
                format!("lies in {}, which {why}", shown(place))
            });
        }
    }
    Ok(real)
}

fn owned(m: &Metadata, user: u32, depth: usize) -> Result<(), String> {
    if m.uid() != 0 && m.uid() != user {
        return Err(format!(
            "belongs to user {}: give it to root or to the agent's user",
            m.uid()
        ));
    }
    // Further up, what lies in a directory like /tmp can only be replaced by its owner.
    let sticky = depth > 1 && m.is_dir() && m.mode() & 0o1000 != 0;
    if m.mode() & 0o022 != 0 && !sticky {
        return Err("may be written by others: chmod go-w".to_owned());
    }
    Ok(())
}
