//! `holdup audit show|verify|head`: what was done on this gateway, and whether that is whole.
//!
//! It only reads. While the agent has stopped writing for power, the log is left alone.

use std::io::{self, Write};
use std::path::Path;

use clap::Subcommand;
use serde_json::json;

use crate::audit::{AuditError, Broken, Head, Reader, Record, Verdict};
use crate::config::{self, Settings};

use super::console_enter;

#[derive(Debug, Subcommand)]
pub(super) enum AuditVerb {
    /// The entries.
    Show {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        /// From this entry on; else the last ones.
        #[arg(long, value_name = "SEQUENCE", value_parser = clap::value_parser!(i64).range(1..))]
        since: Option<i64>,
        /// So many at most.
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: u32,
    },
    /// Is the log whole? Names the first broken link.
    Verify {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
        /// From this entry on, which is trusted: for a log with a break that is known.
        #[arg(long, value_name = "SEQUENCE", default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..))]
        since: i64,
        /// A head that was noted elsewhere: the log must still hold it. The first 8 digits of the
        /// hash are enough.
        #[arg(long, value_name = "SEQUENCE:HASH", value_parser = parse_head)]
        head: Option<Head>,
    },
    /// The last entry's sequence and hash, to be noted elsewhere: it shows a cut tail.
    Head {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Enters what a technician did, while no agent runs: the console's own.
    #[command(hide = true)]
    Enter {
        /// Begins with `console.`.
        action: String,
        /// The technician.
        by: String,
        /// More of it, as JSON.
        details: String,
    },
}

impl AuditVerb {
    pub(super) fn wants_json(&self) -> bool {
        match self {
            Self::Show { json, .. } | Self::Verify { json, .. } | Self::Head { json } => *json,
            Self::Enter { .. } => false,
        }
    }
}

/// Refused: exit code 3.
const REFUSED: u8 = 3;
/// Entries read at once.
const PAGE: u32 = 256;
/// Hex digits of a hash, and the fewest of them that are taken for it.
const HASH: usize = 64;
const SHORTEST_HASH: usize = 8;

fn parse_head(text: &str) -> Result<Head, String> {
    let (sequence, hash) = text
        .split_once(':')
        .ok_or("a head is SEQUENCE:HASH, as `holdup audit head` prints it")?;
    let sequence: i64 = sequence.parse().map_err(|e| format!("{sequence}: {e}"))?;
    if sequence < 1 {
        return Err(format!("{sequence}: entries count from 1"));
    }
    let hash = hash.to_ascii_lowercase();
    if !hash.bytes().all(|b| b.is_ascii_hexdigit()) || hash.len() > HASH {
        return Err(format!("{hash:?} is no hash: it has {HASH} hex digits"));
    }
    if hash.len() < SHORTEST_HASH {
        return Err(format!(
            "{hash:?} is too short to tell entries apart: give at least {SHORTEST_HASH} of the \
             hash's {HASH} hex digits"
        ));
    }
    Ok(Head { sequence, hash })
}

pub(super) fn run(config: &Path, verb: &AuditVerb, out: &mut dyn Write) -> anyhow::Result<u8> {
    let settings = config::load(config)?.settings;
    let json = match verb {
        AuditVerb::Show { json, .. }
        | AuditVerb::Verify { json, .. }
        | AuditVerb::Head { json } => json,
        AuditVerb::Enter {
            action,
            by,
            details,
        } => return console_enter::by_hand(&settings, action, by, details),
    };
    if let Some(why) = must_wait(&settings) {
        if *json {
            writeln!(out, "{:#}", json!({ "refused": why }))?;
        } else {
            writeln!(io::stderr(), "holdup: refused: {why}")?;
        }
        return Ok(REFUSED);
    }
    let path = settings.gateway.audit_path();
    let log = match Reader::open(&path) {
        Err(e @ AuditError::Damaged { .. }) if matches!(verb, AuditVerb::Verify { .. }) => {
            let verdict = Verdict {
                entries: 0,
                head: None,
                broken: Some(Broken {
                    sequence: 1,
                    why: e.to_string(),
                    named_by: None,
                }),
            };
            return tell(&verdict, *json, out);
        }
        other => other?,
    };
    match verb {
        AuditVerb::Show { json, since, limit } => show(&log, *since, *limit, *json, out),
        AuditVerb::Verify { json, since, head } => {
            tell(&log.verify(*since, head.as_ref())?, *json, out)
        }
        AuditVerb::Head { json } => {
            let head = log.head()?;
            match (json, head) {
                (true, head) => writeln!(out, "{:#}", json!({ "head": head }))?,
                (false, Some(h)) => writeln!(out, "{}:{}", h.sequence, h.hash)?,
                (false, None) => writeln!(out, "the log is empty")?,
            }
            Ok(0)
        }
        // It was done above.
        AuditVerb::Enter { .. } => Ok(0),
    }
}

/// Why the log must be left alone now. Without an agent that answers nothing is in the way: a
/// reader of this log writes nothing, not even beside it.
fn must_wait(settings: &Settings) -> Option<String> {
    let supply = super::status::ask(settings).ok()?.supply;
    let serves = ["Starting", "Good", "Brownout", "OnBattery", "Stopping"];
    (!serves.contains(&supply.as_str())).then(|| {
        format!(
            "the supply is {supply}, the data file system may be frozen: ask again when power is \
             back; `holdup status --json` has the head"
        )
    })
}

fn show(
    log: &Reader,
    since: Option<i64>,
    limit: u32,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let mut next = match since {
        Some(since) => since,
        None => {
            let last = log.head()?.map_or(0, |h| h.sequence);
            last.saturating_sub(i64::from(limit))
                .saturating_add(1)
                .max(1)
        }
    };
    let mut left = limit;
    while left > 0 {
        let entries = log.page(next, left.min(PAGE))?;
        for r in &entries {
            if as_json {
                writeln!(out, "{}", r.to_json())?;
            } else {
                print(r, out)?;
            }
        }
        let Some(last) = entries.last() else {
            if left == limit && !as_json {
                let last = log.head()?.map_or(0, |h| h.sequence);
                writeln!(io::stderr(), "no entry from {next} on: the last is {last}")?;
            }
            break;
        };
        left -= u32::try_from(entries.len()).unwrap_or(left).min(left);
        let Some(following) = last.sequence.checked_add(1) else {
            break;
        };
        next = following;
    }
    Ok(0)
}

fn print(r: &Record, out: &mut dyn Write) -> io::Result<()> {
    // What is printed came from a file: nothing in it reaches the terminal as a command.
    let plain = |s: &str| s.replace(char::is_control, "?");
    let clock = if r.synchronised { ' ' } else { '~' };
    writeln!(
        out,
        "{:>6}  {}{clock} {:<10} {:<18} {}",
        r.sequence,
        plain(&r.wall),
        plain(&r.actor),
        plain(&r.action),
        plain(&r.details)
    )
}

fn tell(verdict: &Verdict, as_json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(verdict)?)?;
        return Ok(u8::from(verdict.broken.is_some()));
    }
    let Some(broken) = &verdict.broken else {
        match &verdict.head {
            Some(h) => writeln!(
                out,
                "{} entries, unbroken; head {}:{}",
                verdict.entries, h.sequence, h.hash
            )?,
            None => writeln!(out, "no entries")?,
        }
        return Ok(0);
    };
    writeln!(out, "BROKEN at entry {}: {}", broken.sequence, broken.why)?;
    match &broken.named_by {
        Some((by, says)) => {
            writeln!(out, "named by entry {by}: {says}")?;
            writeln!(
                out,
                "`holdup audit verify --since {by}` checks what came after it"
            )?;
        }
        None => writeln!(
            out,
            "no entry names this break: the log was changed, or is damaged since the agent started"
        )?,
    }
    Ok(1)
}
