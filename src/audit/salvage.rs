//! What can still be read of a damaged log, without SQLite.
//!
//! Every entry fits one page and carries its own hash, so that each leaf page is read alone and
//! what it gives is known to have been written. It must never carry over what does not fit its
//! hash: the damaged file is kept, whole, for those who want to look at that.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde_json::json;

use crate::clock::Clock;
use crate::durable::{Gate, Medium};

use super::AGENT;
use super::entry::{BREAK, Draft, Head, NOTHING, Record};
use super::error::AuditError;
use super::file::{self, beside};

const PAGE: usize = 4096;
/// The leaf of a table.
const LEAF: u8 = 0x0d;
/// Entries looked for at most: a file with more is read to here.
const MOST: usize = 2_000_000;
/// Ranges that the entry names one by one.
const RANGES: usize = 20;

/// Nobody waits for a mending: it is done again when writing is allowed.
fn go_on(path: &Path, gate: &Gate) -> Result<(), AuditError> {
    if gate.is_closed() {
        return Err(AuditError::Stopped(path.to_owned()));
    }
    Ok(())
}

/// Where entries were found.
struct Found {
    file: Option<File>,
    /// By sequence; after damage an entry may be found twice.
    at: BTreeMap<i64, Vec<(u64, u16)>>,
}

impl Found {
    /// Looks through the whole file; power goes first.
    fn scan(path: &Path, gate: &Gate) -> Result<Self, AuditError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::open(path, flags, Mode::empty()).ok();
        let file = file
            .map(File::from)
            .filter(|f| f.metadata().is_ok_and(|m| m.is_file()));
        let mut at: BTreeMap<i64, Vec<(u64, u16)>> = BTreeMap::new();
        let len = (file.as_ref())
            .and_then(|f| f.metadata().ok())
            .map_or(0, |m| m.len());
        let mut count = 0;
        for number in 0..len / PAGE as u64 {
            go_on(path, gate)?;
            // A sector that cannot be read takes its page with it, and no other.
            let Some(page) = read(file.as_ref(), number) else {
                continue;
            };
            for cell in 0..cells(&page, number) {
                if let Some(record) = entry(&page, number, cell)
                    && count < MOST
                {
                    at.entry(record.sequence).or_default().push((number, cell));
                    count += 1;
                }
            }
        }
        Ok(Self { file, at })
    }

    /// The entries in order; of two with one sequence, the one that fits the entry before it.
    fn carry(
        &self,
        mut each: impl FnMut(&Record) -> Result<(), AuditError>,
    ) -> Result<(), AuditError> {
        let mut last = NOTHING.to_owned();
        for places in self.at.values() {
            let mut all: Vec<_> = places
                .iter()
                .filter_map(|(n, cell)| entry(&*read(self.file.as_ref(), *n)?, *n, *cell))
                .collect();
            let fits = all.iter().position(|r| r.previous == last).unwrap_or(0);
            if all.is_empty() {
                continue;
            }
            let record = all.swap_remove(fits);
            each(&record)?;
            last = record.hash;
        }
        Ok(())
    }
}

fn read(file: Option<&File>, number: u64) -> Option<Box<[u8; PAGE]>> {
    let mut page = Box::new([0; PAGE]);
    file?
        .read_exact_at(&mut page[..], number * PAGE as u64)
        .ok()?;
    Some(page)
}

fn start(number: u64) -> usize {
    if number == 0 { 100 } else { 0 }
}

fn word(page: &[u8; PAGE], at: usize) -> Option<usize> {
    let bytes = page.get(at..at + 2)?;
    Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
}

fn cells(page: &[u8; PAGE], number: u64) -> u16 {
    let at = start(number);
    if page[at] != LEAF {
        return 0;
    }
    // A cell takes two bytes in the list alone.
    let count = word(page, at + 3).unwrap_or(0).min(PAGE / 2);
    u16::try_from(count).unwrap_or(0)
}

/// SQLite's variable-length integer at `at`, which is moved behind it.
fn varint(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let mut value: u64 = 0;
    for n in 0..9 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if n == 8 {
            return Some(((value << 8) | u64::from(byte)) as i64);
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(value as i64)
}

/// The entry in a cell, where there is one that fits its hash.
fn entry(page: &[u8; PAGE], number: u64, cell: u16) -> Option<Record> {
    let mut at = word(page, start(number) + 8 + 2 * usize::from(cell))?;
    let size = usize::try_from(varint(page, &mut at)?).ok()?;
    let sequence = varint(page, &mut at)?;
    let record = page.get(at..at.checked_add(size)?)?;
    let mut types = 0;
    let header = usize::try_from(varint(record, &mut types)?).ok()?;
    let mut values = header;
    let mut fields: Vec<String> = Vec::with_capacity(10);
    while types < header {
        let kind = varint(record, &mut types)?;
        let len = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 | 7 => 8,
            _ => usize::try_from((kind - 12) / 2).ok()?,
        };
        let bytes = record.get(values..values.checked_add(len)?)?;
        values += len;
        fields.push(match kind {
            // The key, which is the row's own number.
            0 => sequence.to_string(),
            8 => "0".to_owned(),
            9 => "1".to_owned(),
            1..=6 => integer(bytes).to_string(),
            _ if kind >= 13 && kind % 2 == 1 => String::from_utf8(bytes.to_vec()).ok()?,
            _ => return None,
        });
        if fields.len() > 10 {
            return None;
        }
    }
    let fields = <[String; 10]>::try_from(fields).ok()?;
    let [
        _,
        wall,
        mono,
        boot,
        set,
        actor,
        action,
        details,
        previous,
        hash,
    ] = fields;
    let record = Record {
        sequence,
        wall,
        mono_ms: mono.parse().ok()?,
        boot,
        synchronised: set == "1",
        actor,
        action,
        details,
        previous,
        hash,
    };
    (record.sequence > 0 && record.digest() == record.hash).then_some(record)
}

fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    let seed: i64 = if negative { -1 } else { 0 };
    bytes.iter().fold(seed, |n, b| (n << 8) | i64::from(*b))
}

/// For tests/fuzz: the entries on a page, the first one of the file or another.
#[cfg(fuzzing)]
pub fn entries(page: &[u8; PAGE], first: bool) -> Vec<Record> {
    let number = u64::from(!first);
    let cells = 0..cells(page, number);
    cells.filter_map(|cell| entry(page, number, cell)).collect()
}

/// What was carried over, as it is counted.
#[derive(Default)]
struct Tally {
    carried: u64,
    first: Option<i64>,
    last: i64,
    last_hash: String,
    /// The end of the chain that is whole from the first entry on.
    good: Option<Head>,
    broken: bool,
    missing: Vec<(i64, i64)>,
    unlinked: Vec<i64>,
}

impl Tally {
    fn take(&mut self, r: &Record) {
        let due = self.last + 1;
        if r.sequence > due {
            self.missing.push((due, r.sequence - 1));
        } else if r.action != BREAK && r.previous != self.previous() {
            self.unlinked.push(r.sequence);
        }
        self.broken |= r.previous != self.previous() || r.sequence != due;
        if !self.broken {
            self.good = Some(Head {
                sequence: r.sequence,
                hash: r.hash.clone(),
            });
        }
        self.first.get_or_insert(r.sequence);
        self.carried += 1;
        self.last = r.sequence;
        self.last_hash.clone_from(&r.hash);
    }

    fn previous(&self) -> &str {
        if self.carried == 0 {
            NOTHING
        } else {
            &self.last_hash
        }
    }
}

/// Makes a new log in the place of a damaged one: what can be read is carried over in order, then
/// an entry names the break. `known` is the last entry that somebody saw. The damaged file is kept
/// beside it; its name is answered.
pub(super) fn mend(
    path: &Path,
    medium: &Medium,
    gate: &Gate,
    clock: &dyn Clock,
    boot: &str,
    why: &str,
    known: Option<&Head>,
) -> Result<PathBuf, AuditError> {
    let aside = aside(path, clock);
    let found = Found::scan(path, gate)?;
    file::make(path, medium, |put| {
        let mut tally = Tally::default();
        found.carry(|record| {
            go_on(path, gate)?;
            tally.take(record);
            put(record)
        })?;
        let above = known.map_or(tally.last, |k| k.sequence.max(tally.last));
        if above > tally.last {
            tally.missing.push((tally.last + 1, above));
        }
        let details = json!({
            "why": why,
            "kept_as": aside.file_name().map(|n| n.to_string_lossy()),
            "carried": tally.carried,
            "first": tally.first,
            "last": (tally.carried > 0).then_some(tally.last),
            "missing": &tally.missing[..tally.missing.len().min(RANGES)],
            "missing_ranges": tally.missing.len(),
            "unlinked": &tally.unlinked[..tally.unlinked.len().min(RANGES)],
            "last_good": tally.good,
            // Entries at the end that nobody else saw leave no trace.
            "end_known": known.is_some(),
        });
        put(&name(clock, boot, details).at(above + 1, NOTHING))
    })?;
    file::install(path, &aside, medium)?;
    Ok(aside)
}

/// The entry that names a break.
pub(super) fn name(clock: &dyn Clock, boot: &str, details: serde_json::Value) -> Draft {
    Draft::new(clock, boot, AGENT, BREAK, details, None)
}

fn aside(path: &Path, clock: &dyn Clock) -> PathBuf {
    let stamp = clock.wall().to_string().replace(':', "");
    let plain = beside(path, &format!(".damaged-{stamp}"));
    let taken = |p: &PathBuf| std::fs::symlink_metadata(p).is_ok();
    let numbered = |n: u32| beside(&plain, &format!("-{n}"));
    if taken(&plain) {
        (2..).map(numbered).find(|p| !taken(p)).unwrap_or(plain)
    } else {
        plain
    }
}
