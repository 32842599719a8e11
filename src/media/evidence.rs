//! What was seen, where, and what it bears: every verdict stands on a list of these.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::tree::printable;

/// What one observation says, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Says {
    /// A counter of wear that the device itself keeps, and it is low. Nothing else is `good`.
    Good,
    /// Nothing wrong here; absence of trouble is no proof of health.
    Note,
    /// This source tells nothing; its value says why.
    Unknown,
    /// Look again, look closer.
    Watch,
    /// Plan a replacement.
    ReplaceSoon,
    /// Data is in danger.
    ReplaceNow,
}

/// Whom an observation accuses, in the order in which they are to be ruled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Suspect {
    /// The supply.
    Power,
    /// The host controller, its driver, command queueing or the contacts.
    Host,
    /// The medium itself.
    Card,
    /// The file system on it.
    FileSystem,
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Power => "power supply",
            Self::Host => "host controller",
            Self::Card => "medium",
            Self::FileSystem => "file system",
        })
    }
}

/// One observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Where it was read.
    pub source: String,
    /// What was read, in words.
    pub value: String,
    /// What that says.
    pub says: Says,
    /// Of whom.
    pub of: Suspect,
    /// The supply or the host could have caused it as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doubtful: bool,
    /// What to do about it; empty when nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Evidence {
    /// Something about the medium.
    pub fn card(source: &str, says: Says, value: impl Into<String>) -> Self {
        Self::of(Suspect::Card, source, says, value)
    }

    /// A source that tells nothing, and why.
    pub fn unknown(source: &str, why: impl Into<String>) -> Self {
        Self::card(source, Says::Unknown, why)
    }

    /// Something about `of`.
    pub fn of(of: Suspect, source: &str, says: Says, value: impl Into<String>) -> Self {
        Self {
            source: source.to_owned(),
            // Devices, kernels and mounts choose some of the words.
            value: printable(value.into().as_bytes()),
            says,
            of,
            doubtful: false,
            remedy: String::new(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}
