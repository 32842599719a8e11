//! What on this gateway would make holdup's promises false, and what to do about it.
//!
//! It looks and never changes anything. What it cannot see it says, instead of calling it well.

mod data;
mod databases;
mod dirty;
mod eeprom;
mod events;
mod gauge;
mod journal;
mod medium;
mod mounts;
mod pi;
mod port;
mod queueing;
mod rail;
mod rights;
mod supply;
mod swap;
mod time;
mod watchdog;

use std::fmt;

use serde::Serialize;

use crate::agent::Status;
use crate::config::{Loaded, Settings, one_line};
use crate::media::Tree;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Not looked at; what was found says why.
    Skip,
    /// It could not be found out: neither well nor ill.
    Unknown,
    /// A promise is weaker than it could be.
    Warn,
    /// A promise does not hold.
    Bad,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Skip => "skip",
            Self::Unknown => "?",
            Self::Warn => "warn",
            Self::Bad => "BAD",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// How it is.
    pub level: Level,
    /// What was seen.
    pub found: String,
    /// What to do; empty when nothing.
    pub remedy: String,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            level: Level::Ok,
            found: found.into(),
            remedy: String::new(),
        }
    }

    /// What only the agent's own user could judge.
    fn skip(name: &str, what: &str) -> Self {
        Self {
            level: Level::Skip,
            ..Self::ok(name, format!("skipped: {what}"))
        }
    }

    fn unknown(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Unknown,
            ..Self::warn(name, found, remedy)
        }
    }

    fn warn(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            level: Level::Warn,
            found: found.into(),
            remedy: remedy.into(),
        }
    }

    fn bad(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Bad,
            ..Self::warn(name, found, remedy)
        }
    }
}

/// What whoever asks sees of the agent.
#[derive(Debug, Clone, Copy)]
pub enum Agent<'a> {
    /// It runs and says this.
    Runs(&'a Status),
    /// None runs.
    None,
    /// One may run; it does not talk to this user.
    Hidden,
    /// Somebody has its socket and does not answer.
    Silent,
}

/// What the checks look at.
#[derive(Debug)]
struct Patient<'a> {
    settings: &'a Settings,
    /// The running agent's status; `None` when none is seen.
    agent: Option<&'a Status>,
    /// An agent may run of which nothing is seen: the caller's rights are not the agent's.
    hidden: bool,
    /// An agent has its lines and files, and does not answer.
    silent: bool,
    /// The kernel's files and the system's settings.
    tree: Tree,
}

/// Looks at everything; at the machine itself by the files in `tree`.
pub fn examine(loaded: &Loaded, agent: Agent<'_>, tree: Tree) -> Vec<Check> {
    let patient = Patient {
        settings: &loaded.settings,
        agent: match agent {
            Agent::Runs(status) => Some(status),
            Agent::None | Agent::Hidden | Agent::Silent => None,
        },
        hidden: matches!(agent, Agent::Hidden),
        silent: matches!(agent, Agent::Silent),
        tree,
    };
    let files: Vec<_> = loaded
        .files
        .iter()
        .map(|f| f.display().to_string())
        .collect();
    let mut checks = vec![Check::ok("config", files.join(", "))];
    checks.extend(
        loaded
            .warnings
            .iter()
            .map(|w| Check::warn("config", w.to_string(), "see `holdup config show`")),
    );
    supply::checks(&patient, &mut checks);
    gauge::checks(&patient, &mut checks);
    events::checks(&patient, &mut checks);
    data::checks(&patient, &mut checks);
    databases::checks(&patient, &mut checks);
    rights::checks(&patient, &mut checks);
    medium::checks(&patient, &mut checks);
    machine(&patient, &mut checks);
    checks
}

/// What of the machine and its settings weakens a promise.
fn machine(p: &Patient<'_>, out: &mut Vec<Check>) {
    for look in [
        mounts::checks,
        dirty::checks,
        swap::checks,
        journal::checks,
        queueing::checks,
        port::checks,
        watchdog::checks,
        time::checks,
        eeprom::checks,
        rail::checks,
    ] {
        let before = out.len();
        look(p, out);
        // Who mounts, and what is plugged in, chooses names.
        for check in &mut out[before..] {
            check.found = one_line(&check.found);
        }
    }
}

#[cfg(test)]
mod tests;
