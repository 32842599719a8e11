//! The names of archives: sortable by time, never twice the same, safe in any shell.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::clock::Wall;

/// What an archive's file name ends with.
const ARCHIVE: &str = ".tar.zst.age";
/// What its manifest's file name ends with.
const MANIFEST: &str = ".json";
/// What both begin with.
const PREFIX: &str = "holdup-";
/// UTC, without what file systems and shells dislike.
const TIME: &str = "%Y%m%dT%H%M%S.%3fZ";
/// Bytes of a time so written.
const TIME_LEN: usize = 20;

/// `holdup-GATEWAY-20261121T151122.123Z-ab12`, without its ending.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveName {
    made: Wall,
    gateway: String,
    salt: u16,
}

/// A name that no archive of ours has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a backup's name: holdup-GATEWAY-20261121T151122.123Z-ab12.tar.zst.age")]
pub struct NameError(String);

impl ArchiveName {
    /// For a backup of `gateway` made at `made`; `salt` is random, so that two of one millisecond
    /// differ. What is not a letter, digit, dot or underscore of ASCII in the gateway's id becomes
    /// `_`: the manifest has the true one.
    pub fn new(gateway: &str, made: Wall, salt: u16) -> Self {
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let gateway = gateway
            .chars()
            .map(|c| if safe(c) { c } else { '_' })
            .collect();
        Self {
            made,
            gateway,
            salt,
        }
    }

    /// When it was made, by the gateway's clock.
    pub fn made(&self) -> Wall {
        self.made
    }

    /// The gateway's id as far as a file name can hold it.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// The archive's file name.
    pub fn archive(&self) -> String {
        format!("{self}{ARCHIVE}")
    }

    /// The manifest's file name.
    pub fn manifest(&self) -> String {
        format!("{self}{MANIFEST}")
    }
}

impl fmt::Display for ArchiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at =
            Timestamp::from_millisecond(self.made.as_millis()).unwrap_or(Timestamp::UNIX_EPOCH);
        let at = at.to_zoned(TimeZone::UTC).strftime(TIME);
        write!(f, "{PREFIX}{}-{at}-{:04x}", self.gateway, self.salt)
    }
}

impl FromStr for ArchiveName {
    type Err = NameError;

    /// Of an archive's file name, or its manifest's, or without an ending.
    fn from_str(name: &str) -> Result<Self, NameError> {
        let no = || NameError(name.to_owned());
        let stem = name
            .strip_suffix(ARCHIVE)
            .or_else(|| name.strip_suffix(MANIFEST))
            .unwrap_or(name);
        let rest = stem.strip_prefix(PREFIX).ok_or_else(no)?;
        let (rest, salt) = rest.rsplit_once('-').ok_or_else(no)?;
        let (gateway, at) = rest.rsplit_once('-').ok_or_else(no)?;
        if at.len() != TIME_LEN || salt.len() != 4 {
            return Err(no());
        }
        let made = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S%.fZ", at)
            .and_then(|t| t.to_zoned(TimeZone::UTC))
            .map_err(|_| no())?;
        let salt = u16::from_str_radix(salt, 16).map_err(|_| no())?;
        let parsed = Self::new(
            gateway,
            Wall::from_millis(made.timestamp().as_millisecond()),
            salt,
        );
        // Only what would be written so again.
        if parsed.to_string() == stem {
            Ok(parsed)
        } else {
            Err(no())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADE: Wall = Wall::from_millis(1_795_274_482_123);

    #[test]
    fn a_name_is_read_back_and_sorts_by_time() {
        let name = ArchiveName::new("plant-7", MADE, 0xab12);
        assert_eq!(
            name.archive(),
            "holdup-plant-7-20261121T152122.123Z-ab12.tar.zst.age"
        );
        for text in [name.archive(), name.manifest(), name.to_string()] {
            assert_eq!(text.parse(), Ok(name.clone()), "{text}");
        }
        let later = ArchiveName::new("a", Wall::from_millis(MADE.as_millis() + 1), 0);
        assert!(name < later);
    }

    #[test]
    fn an_id_with_blanks_newlines_and_umlauts_makes_a_plain_name() {
        let name = ArchiveName::new("Halle 3\n'größe'/..", MADE, 1);
        assert_eq!(name.gateway(), "Halle_3__gr__e__..");
        assert_eq!(name.archive().parse(), Ok(name));
    }

    #[test]
    fn other_files_are_no_archives() {
        for text in [
            "",
            "holdup-",
            "notes.json",
            "holdup-a-20261121T144122.123Z-AB12.json",
            "holdup-a-20261121T144122.123Z-ab12.tar.zst.age.part",
            "holdup-a-20261399T144122.123Z-ab12.json",
            "holdup-a-20261121T144122.123456Z-ab12.json",
        ] {
            assert!(text.parse::<ArchiveName>().is_err(), "{text}");
        }
    }
}
