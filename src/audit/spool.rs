//! Where entries wait: a file of JSON lines in `run_dir`, which outlives the agent but not the
//! boot.
//!
//! Its first line names the last entry that was durable, so that the next agent of this boot sees a
//! log whose end was cut. A line is there before anybody is told that its entry waits.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::durable::read_own_if_there;

use super::entry::{Draft, Head};

const VERSION: u32 = 1;
/// Bytes that may wait.
const MOST: usize = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<Head>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<Draft>,
}

/// An entry that waits, and its place in the spool.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) place: String,
    pub(super) draft: Draft,
}

/// What an earlier agent left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) waiting: Vec<Waiting>,
    /// The last entry that was durable.
    pub(super) head: Option<Head>,
    /// Lines that cannot be read.
    pub(super) damaged: usize,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    /// `None` where it cannot be used: entries wait in memory alone.
    file: Option<File>,
    bytes: usize,
    session: u64,
    next: u64,
}

impl Spool {
    /// Reads what was left and goes on behind it.
    pub(super) fn open(path: &Path, session: u64) -> (Self, Left) {
        let mut spool = Self {
            path: path.to_owned(),
            file: None,
            bytes: 0,
            session,
            next: 0,
        };
        let left = match read_own_if_there(path, (MOST + MOST / 4) as u64) {
            Ok(bytes) => {
                let bytes = bytes.unwrap_or_default();
                spool.file = spool.ready(&bytes).map_err(|e| spool.complain(&e)).ok();
                spool.bytes = bytes.len();
                parse(&bytes)
            }
            Err(e) => {
                spool.complain(&e);
                Left::default()
            }
        };
        (spool, left)
    }

    fn ready(&self, bytes: &[u8]) -> io::Result<File> {
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::APPEND
            | OFlags::CLOEXEC
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK;
        let mut file = File::from(rustix::fs::open(
            &self.path,
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        // An agent that was killed in the middle of a line.
        if bytes.last().is_some_and(|b| *b != b'\n') {
            file.write_all(b"\n")?;
        }
        Ok(file)
    }

    fn complain(&self, e: &io::Error) {
        log::warn!(
            "audit entries that must wait are kept in memory alone: {}: {e}",
            self.path.display()
        );
    }

    /// Takes an entry; `None` when there is no room for it.
    pub(super) fn push(&mut self, draft: Draft) -> Option<Waiting> {
        let place = format!("{:x}:{}", self.session, self.next);
        let line = Line {
            version: VERSION,
            head: None,
            place: Some(place.clone()),
            entry: Some(draft.clone()),
        };
        let text = serde_json::to_string(&line).ok()? + "\n";
        if self.bytes + text.len() > MOST {
            return None;
        }
        self.next += 1;
        self.bytes += text.len();
        self.write(text.as_bytes());
        Some(Waiting { place, draft })
    }

    /// Everything up to here is durable, and `head` is the last entry.
    pub(super) fn clear(&mut self, head: Option<&Head>) {
        self.bytes = 0;
        if let Some(file) = &self.file
            && let Err(e) = file.set_len(0)
        {
            self.complain(&e);
            self.file = None;
        }
        let line = Line {
            version: VERSION,
            head: head.cloned(),
            place: None,
            entry: None,
        };
        if let Ok(text) = serde_json::to_string(&line) {
            self.bytes = text.len() + 1;
            self.write(format!("{text}\n").as_bytes());
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file
            && let Err(e) = file.write_all(bytes)
        {
            self.complain(&e);
            self.file = None;
        }
    }
}

fn parse(bytes: &[u8]) -> Left {
    let mut left = Left::default();
    for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Line {
                version: VERSION,
                place: Some(place),
                entry: Some(draft),
                ..
            }) => left.waiting.push(Waiting {
                place,
                draft: draft.bounded(),
            }),
            Ok(Line {
                version: VERSION,
                head,
                entry: None,
                ..
            }) => left.head = head,
            Ok(Line { .. }) | Err(_) => left.damaged += 1,
        }
    }
    left
}

/// For tests/fuzz: the entries that wait in a spool of these bytes, as lines again, and how many
/// lines cannot be read.
#[cfg(fuzzing)]
pub fn respool(bytes: &[u8]) -> (Vec<String>, usize) {
    let left = parse(bytes);
    let line = |w: Waiting| Line {
        version: VERSION,
        head: None,
        place: Some(w.place),
        entry: Some(w.draft),
    };
    let lines = left.waiting.into_iter().map(line);
    let text = |l: Line| serde_json::to_string(&l).unwrap_or_default();
    (lines.map(text).collect(), left.damaged)
}
