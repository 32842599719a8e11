//! What is to be said of a gateway's backups, as a list of issues.
//!
//! It must never say that all is well for want of data.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Wall;

use super::catalogue::{self, Listed};
use super::state::BackupState;
use super::{ArchiveName, BackupError};

/// A backup is missing after this.
const MISSING: Duration = Duration::from_secs(24 * 3600);
/// The owner's key is to be tried this often.
const REHEARSE_DAYS: i64 = 90;
/// Fewer than these are few.
const FEW: usize = 5;
const FEW_VERIFIED: usize = 3;
/// Less room than this is little.
const LITTLE: u64 = 1 << 30;
const LITTLE_PERCENT: u64 = 10;

/// How a gateway's own backups stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Backups in the gateway's own directory.
    pub count: usize,
    /// Those that were decrypted again after they were written.
    pub verified: usize,
    /// Their bytes.
    pub bytes: u64,
    /// When the newest verified one was made, RFC 3339 in UTC.
    pub newest: Option<String>,
    /// Bytes free there.
    pub free_bytes: u64,
    /// Was none made for 24 hours?
    pub missing: bool,
    /// What there is to say, in words with the remedy; empty: nothing.
    pub warnings: Vec<String>,
}

/// How long things have been as they are, by the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// Since the agent started; `None`: none runs.
    pub start: Option<Duration>,
    /// Since it made the last backup.
    pub made: Option<Duration>,
}

/// Looks at `dir` and judges.
///
/// # Errors
/// The directory cannot be listed.
pub fn health(
    dir: &Path,
    gateway: &str,
    state: &BackupState,
    has_recipient: bool,
    now: Wall,
    since: Since,
) -> Result<Health, BackupError> {
    let own = ArchiveName::new(gateway, Wall::default(), 0);
    let all: Vec<_> = catalogue::list(dir)?
        .into_iter()
        .filter(|l| l.name.gateway() == own.gateway())
        .collect();
    let verified = || all.iter().filter(|l| l.counts());
    let newest = verified().map(|l| l.name.made()).max();
    let mut health = Health {
        count: all.len(),
        verified: verified().count(),
        bytes: all.iter().map(|l| l.bytes).sum(),
        newest: newest.map(|w| w.to_string()),
        free_bytes: 0,
        missing: is_missing(newest, now, since),
        warnings: Vec::new(),
    };
    let room = dir.ancestors().find_map(|d| catalogue::room(d).ok());
    health.free_bytes = room.map_or(0, |r| r.free);
    let little = room.is_some_and(|r| {
        r.free < LITTLE || r.free.saturating_mul(100) < r.total.saturating_mul(LITTLE_PERCENT)
    });
    let mut say = |words: String| health.warnings.push(words);
    if !has_recipient {
        say(
            "no backup can be made: run `holdup backup keygen` once, and keep the key elsewhere"
                .into(),
        );
    }
    match (is_missing(newest, now, since), newest) {
        (true, None) => say("there is no verified backup: `holdup backup create` makes one".into()),
        (true, Some(at)) => say(format!(
            "no backup was made for 24 hours; the last is of {at}"
        )),
        (false, _) => {}
    }
    if let Some(failed) = state.failed.as_ref().filter(|_| has_recipient) {
        say(format!(
            "the backup of {} failed: {}",
            failed.at, failed.why
        ));
    }
    if verified().count() < FEW_VERIFIED {
        say(format!(
            "fewer than {FEW_VERIFIED} verified backups are kept here"
        ));
    } else if all.len() < FEW {
        say(format!("fewer than {FEW} backups are kept here"));
    }
    for odd in all.iter().filter(|l| !l.counts()) {
        say(format!("{}: {}", odd.archive().display(), in_words(odd)));
    }
    let last = verified().max_by_key(|l| l.name.made());
    for lacks in last.into_iter().flat_map(Listed::lacks) {
        say(format!("the newest backup lacks {lacks}"));
    }
    if little {
        say(format!(
            "{} has {} MiB free: make room, or lower backup.keep_last and backup.keep_days",
            dir.display(),
            health.free_bytes >> 20
        ));
    }
    for (target, last) in &state.targets {
        if let Some(why) = &last.problem {
            health
                .warnings
                .push(format!("{target} lacks {}: {why}", last.name));
        }
    }
    if newest.is_some() && !rehearsed_lately(state, now) {
        let since = state.last_key_rehearsal.as_deref().unwrap_or("ever");
        health.warnings.push(format!(
            "no backup was opened with the owner's key since {since}: \
             `holdup backup verify all --identity FILE` shows that it can be"
        ));
    }
    Ok(health)
}

/// What is odd about one that does not count.
fn in_words(one: &Listed) -> String {
    use super::catalogue::Standing;
    match &one.standing {
        Standing::Whole => "it was never verified".to_owned(),
        Standing::NoManifest => {
            "its manifest is missing: `holdup backup verify` with the key makes \
                                 it anew"
                .to_owned()
        }
        Standing::NoArchive => "the archive is missing".to_owned(),
        Standing::Odd(why) => why.clone(),
        Standing::Pruning => "it is being pruned; `holdup backup prune` finishes that".to_owned(),
    }
}

fn is_missing(newest: Option<Wall>, now: Wall, since: Since) -> bool {
    if let Some(made) = since.made {
        return made > MISSING;
    }
    let Some(newest) = newest else { return true };
    let age = now.as_millis().saturating_sub(newest.as_millis());
    match u64::try_from(age) {
        Ok(age) => Duration::from_millis(age) > MISSING,
        // The clock was set back: only the time since the start is sure.
        Err(_) => since.start.is_some_and(|s| s > MISSING),
    }
}

fn rehearsed_lately(state: &BackupState, now: Wall) -> bool {
    let at = state.last_key_rehearsal.as_deref();
    let Some(at) = at.and_then(|t| t.parse::<jiff::Timestamp>().ok()) else {
        return false;
    };
    now.as_millis().saturating_sub(at.as_millisecond()) < REHEARSE_DAYS * 86_400_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_backup_is_missing_after_a_day_whatever_the_wall_clock_does() {
        let at = |h: i64| Wall::from_millis(1_700_000_000_000 + h * 3_600_000);
        let idle = |start: u32| Since {
            start: Some(HOUR * start),
            made: None,
        };
        assert!(is_missing(None, at(0), idle(0)));
        assert!(!is_missing(Some(at(0)), at(23), idle(0)));
        assert!(is_missing(Some(at(0)), at(25), idle(0)));
        // Set back by a year: a day of running shows it all the same.
        assert!(!is_missing(Some(at(0)), at(-9000), idle(1)));
        assert!(is_missing(Some(at(0)), at(-9000), idle(25)));
        // Made in this run: only the monotonic clock counts.
        let made = |h: u32| Since {
            start: Some(HOUR * 100),
            made: Some(HOUR * h),
        };
        assert!(!is_missing(Some(at(0)), at(9000), made(1)));
        assert!(is_missing(Some(at(0)), at(0), made(25)));
    }

    #[test]
    fn nothing_known_is_not_called_well() {
        let home = tempfile::tempdir().expect("temp dir");
        let since = Since {
            start: None,
            made: None,
        };
        let state = BackupState::default();
        let dir = home.path().join("none yet");
        let found = health(&dir, "g", &state, false, Wall::from_millis(0), since).expect("health");
        assert!(found.missing);
        let all = found.warnings.join("\n");
        for words in ["keygen", "no verified backup", "fewer than 3"] {
            assert!(all.contains(words), "{words}: {all}");
        }
    }
}
