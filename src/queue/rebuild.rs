//! A new queue from what can be read of the old one.
//!
//! It promises that the old files are copied to the evidence before anything changes, that every
//! message that could be read is in the new queue once, with its retries and its place, and that
//! what could not is named. After a cut either the old queue is in its place or the new one, and
//! no log of the old one is ever left beside the new one. Only while no agent runs.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use rusqlite::params;
use serde::Serialize;

use crate::clock::Clock;
use crate::config::QueueSettings;
use crate::durable::{Gate, Medium, read_own_if_there};
use crate::store::{Mode, StoreError, companion, look};

use super::backoff;
use super::error::QueueError;
use super::feed::store_mark;
use super::jsonl::Lines;
use super::message;
use super::outbox::Outbox;
use super::rows::{Met, Row};
use super::salvaged::{AllRows, Keep, Salvage};
use super::schema::Book;

/// What the journal of a swap says.
const SAID: &[u8] = b"holdup queue swap 1\n";
/// Messages in one transaction.
const STEP: usize = 5_000;
/// Named one by one in a report at most; the rest is counted.
const NAMED: usize = 100;

/// Where a repair works.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The file system; evidence goes under its directory.
    pub medium: &'a Medium,
    /// Passed before anything is written.
    pub gate: &'a Gate,
    /// The time.
    pub clock: &'a dyn Clock,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Imported {
    /// Messages now in the queue or among the dead letters.
    pub imported: u64,
    /// Messages that were there already, under their id.
    pub duplicates: u64,
    /// Messages that the full queue refused.
    pub rejected: u64,
    /// Bad lines, all of them.
    pub bad: u64,
    /// The first bad lines: number, and what is wrong.
    pub bad_lines: Vec<(u64, String)>,
}

/// Rows that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Their table.
    pub table: &'static str,
    /// First row number that may be missing.
    pub from: i64,
    /// Last one; `None`: to the end.
    pub upto: Option<i64>,
    /// Why.
    pub why: String,
}

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Rebuilt {
    /// Where the old files were copied to; `None`: there were none.
    pub evidence: Option<PathBuf>,
    /// Messages in the new queue.
    pub kept: u64,
    /// Dead letters in the new queue.
    pub kept_dead: u64,
    /// Messages that were there twice.
    pub duplicates: u64,
    /// Rows that are no messages, all of them.
    pub invalid: u64,
    /// The first of them: table, row number, what is wrong.
    pub invalid_rows: Vec<(&'static str, i64, String)>,
    /// Rows that SQLite could not read.
    pub lost: Vec<Gap>,
    /// Messages and dead letters that only the pages gave; many of `lost` are among them.
    pub from_pages: u64,
    /// Why the pages could not be read, where SQLite could not read all.
    pub no_pages: Option<String>,
    /// The agent fills in, from the store, readings above this id that are not there; `None`: the
    /// store could not be asked, the queue's own cursor counts.
    pub fed_from: Option<i64>,
    /// Why SQLite could not read all of the old file.
    pub unreadable: Option<String>,
}

/// Reads lines into the queue at `path`. Bad ones are named and skipped, a message that is there is
/// never stored again.
///
/// # Errors
/// [`QueueError`]; what was imported before it stays, and doing it again is harmless.
pub fn import(
    path: &Path,
    settings: QueueSettings,
    site: Site<'_>,
    input: impl BufRead,
) -> Result<Imported, QueueError> {
    finish_swap(path, site.medium)?;
    let mut outbox = Outbox::open(path, settings, site.medium, site.gate, site.clock)?;
    let mut lines = Lines::new(input);
    let mut done = Imported::default();
    let mut rows = Vec::new();
    loop {
        let line = lines.next_row().map_err(|source| QueueError::Io {
            what: "read",
            path: PathBuf::from("the lines"),
            source,
        })?;
        let end = line.is_none();
        match line {
            Some((_, Ok(row))) => rows.push(row),
            Some((number, Err(why))) => {
                done.bad += 1;
                if done.bad_lines.len() < NAMED {
                    done.bad_lines.push((number, why));
                }
            }
            None => {}
        }
        let bytes: usize = rows.iter().map(|r| r.payload.len()).sum();
        if end || rows.len() >= STEP || bytes >= 4 << 20 {
            let before = outbox.rejected;
            let part = inject(&mut outbox, &rows, true, site)?;
            done.imported += part.kept + part.kept_dead;
            done.duplicates += part.duplicates;
            done.rejected += outbox.rejected - before;
            rows.clear();
        }
        if end {
            outbox.checkpoint(Mode::Truncate, site.clock)?;
            return Ok(done);
        }
    }
}

/// Rebuilds the queue at `path` from what SQLite can read of it, and `salvage` where it cannot, after
/// `keep` has kept it; `store` says what was delivered, `gateway` names a queue that has lost its own name.
///
/// # Errors
/// [`QueueError`]: the old queue is still in its place, or [`finish_swap`] puts the new one there.
pub fn rebuild(
    path: &Path,
    store: &Path,
    gateway: &str,
    settings: QueueSettings,
    site: Site<'_>,
    (keep, salvage): (Keep<'_>, Salvage<'_>),
) -> Result<Rebuilt, QueueError> {
    finish_swap(path, site.medium)?;
    // Something that is no file is neither copied nor replaced.
    if let Err(e @ StoreError::Look { .. }) = look(path) {
        return Err(e.into());
    }
    let copy = companion(path, "-salvaged");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        // Of a rebuild that was cut.
        remove(&companion(&copy, suffix), site.medium)?;
    }
    let mut report = Rebuilt::default();
    let present = ["", "-wal", "-shm", "-journal"]
        .iter()
        .any(|s| companion(path, s).exists());
    if present {
        let kept = keep(path).map_err(|why| QueueError::NoEvidence {
            path: path.to_owned(),
            why,
        })?;
        report.evidence = Some(kept);
    }
    let store = store_mark(store);
    let mut opened = AllRows::open(path, &copy, salvage);
    let mut none = std::iter::empty();
    let (book, rows): (_, &mut dyn Iterator<Item = Met>) = match &mut opened {
        Ok(rows) => (rows.take_book(), rows),
        Err(_) => (None, &mut none),
    };
    fill(
        path,
        rows,
        book,
        store,
        gateway,
        settings,
        site,
        &mut report,
    )?;
    match opened {
        Ok(rows) => {
            (report.from_pages, report.no_pages) = (rows.from_pages, rows.no_pages.clone());
            report.unreadable.clone_from(&rows.damage);
        }
        Err(e) if present => report.unreadable = Some(e.to_string()),
        Err(_) => {}
    }
    swap(path, site.medium)?;
    Ok(report)
}

/// Makes the new database beside the old one and puts in what `rows` gives.
#[expect(clippy::too_many_arguments, reason = "what a rebuild is made of, once")]
fn fill(
    path: &Path,
    rows: &mut dyn Iterator<Item = Met>,
    book: Option<Book>,
    store: Option<(u64, i64)>,
    gateway: &str,
    settings: QueueSettings,
    site: Site<'_>,
    report: &mut Rebuilt,
) -> Result<(), QueueError> {
    let fresh = staged(path);
    for suffix in ["", "-wal", "-shm", "-journal"] {
        remove(&companion(&fresh, suffix), site.medium)?;
    }
    let mut outbox = Outbox::open(&fresh, settings, site.medium, site.gate, site.clock)?;
    let mut step = Vec::new();
    // The highest reading of each store that a message names.
    let mut named: BTreeMap<u64, (String, i64)> = BTreeMap::new();
    let mut bytes = 0;
    loop {
        let met = rows.next();
        let end = met.is_none();
        match met {
            Some(Met::Row(row)) => {
                if let Some((origin, id)) = message::parse(&row.message_id) {
                    let entry = named.entry(origin.epoch).or_insert((origin.gateway, id));
                    entry.1 = entry.1.max(id);
                }
                bytes += row.payload.len();
                step.push(row);
            }
            Some(Met::Invalid { table, id, why }) => {
                report.invalid += 1;
                if report.invalid_rows.len() < NAMED {
                    report.invalid_rows.push((table, id, why));
                }
            }
            Some(Met::Lost {
                table,
                from,
                upto,
                why,
            }) => report.lost.push(Gap {
                table,
                from,
                upto,
                why,
            }),
            None => {}
        }
        if end || step.len() >= STEP || bytes >= 4 << 20 {
            let part = inject(&mut outbox, &step, false, site)?;
            report.kept += part.kept;
            report.kept_dead += part.kept_dead;
            report.duplicates += part.duplicates;
            step.clear();
            bytes = 0;
        }
        if end {
            break;
        }
    }
    let book = cursor(book.unwrap_or_default(), store, &named, gateway);
    report.fed_from = store.map(|_| book.fed_upto);
    outbox.write("set the cursor of", |o| {
        o.book = book;
        Ok(())
    })?;
    outbox.checkpoint(Mode::Truncate, site.clock)?;
    drop(outbox);
    for suffix in ["-wal", "-shm"] {
        remove(&companion(&fresh, suffix), site.medium)?;
    }
    Ok(())
}

/// The new queue's book: the cursor goes back to what is known to be delivered, so that the agent
/// asks the store for everything behind it; what is in the queue already is not stored again.
fn cursor(
    mut book: Book,
    store: Option<(u64, i64)>,
    named: &BTreeMap<u64, (String, i64)>,
    gateway: &str,
) -> Book {
    let known = book.origin.as_ref().map(|o| o.epoch);
    if let Some((epoch, delivered)) = store {
        if known != Some(epoch) {
            (book.fed_upto, book.delivered_upto, book.highest) = (0, 0, 0);
            let name = named.get(&epoch).map_or(gateway, |(name, _)| name);
            book.origin = Some(message::Origin {
                gateway: name.to_owned(),
                epoch,
            });
        }
        book.delivered_upto = book.delivered_upto.max(delivered);
        book.highest = book.highest.max(book.fed_upto);
        book.fed_upto = book.delivered_upto;
    }
    if let Some(origin) = &book.origin
        && let Some((_, id)) = named.get(&origin.epoch)
    {
        book.highest = book.highest.max(*id);
    }
    book
}

#[derive(Debug, Default)]
struct Injected {
    kept: u64,
    kept_dead: u64,
    duplicates: u64,
}

/// Puts rows in as they are, in one transaction. With `limited` the settings' limits hold.
fn inject(
    outbox: &mut Outbox,
    rows: &[Row],
    limited: bool,
    site: Site<'_>,
) -> Result<Injected, QueueError> {
    let now = site.clock.wall().as_millis();
    let _pass = site.gate.try_enter().ok_or(QueueError::GateClosed)?;
    outbox.write("put messages into", |o| {
        let mut done = Injected::default();
        for row in rows {
            let fresh = !o.is_known(&row.message_id)?;
            if !fresh {
                done.duplicates += 1;
                continue;
            }
            match &row.dead {
                Some((why, at)) => {
                    o.inject_dead(row, why, *at)?;
                    done.kept_dead += 1;
                }
                None if limited && !o.make_room(row.priority, row.payload.len() as u64)? => {
                    o.rejected += 1;
                }
                None => {
                    o.inject_row(row, now)?;
                    done.kept += 1;
                }
            }
        }
        Ok(done)
    })
}

impl Outbox {
    fn inject_row(&mut self, row: &Row, now: i64) -> rusqlite::Result<()> {
        let created = row.created_at.unwrap_or(now);
        self.conn
            .prepare_cached(
                "INSERT INTO sync_queue(payload, priority, created_at, ttl_seconds, retry_count,
                                        next_retry_at, message_id)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                row.payload,
                row.priority,
                created,
                row.ttl_seconds,
                row.retry_count,
                row.next_retry_at,
                row.message_id
            ])?;
        let dies = backoff::expires_at(Some(created), row.ttl_seconds);
        self.note_added(row.payload.len() as u64, dies);
        Ok(())
    }
}

/// Where the new database is made.
fn staged(path: &Path) -> PathBuf {
    companion(path, "-rebuilt")
}

/// Says that the new database is whole and takes its place.
fn journal(path: &Path) -> PathBuf {
    companion(path, "-swap")
}

fn swap(path: &Path, medium: &Medium) -> Result<(), QueueError> {
    let note = journal(path);
    // The staged file's name must last before the journal speaks of it.
    medium
        .sync_parent(path)
        .and_then(|()| medium.replace(&note, SAID))
        .map_err(|source| QueueError::Durable { path: note, source })?;
    finish_swap(path, medium)
}

/// Ends a swap that a cut interrupted; without one it does nothing. Before the queue is opened.
pub(super) fn finish_swap(path: &Path, medium: &Medium) -> Result<(), QueueError> {
    let note = journal(path);
    let said = read_own_if_there(&note, SAID.len() as u64 * 2).unwrap_or_default();
    if said.is_none_or(|said| said != SAID) {
        return forget(&note, medium);
    }
    let fresh = staged(path);
    if fresh.exists() {
        // First the log of the old one: beside the new one SQLite would replay it.
        for suffix in ["-wal", "-shm", "-journal"] {
            remove(&companion(path, suffix), medium)?;
        }
        medium
            .rename(&fresh, path)
            .map_err(|source| QueueError::Durable {
                path: path.to_owned(),
                source,
            })?;
    }
    remove(&note, medium)
}

/// A journal that is none keeps its bytes under another name: what lies beside it replaces nothing.
fn forget(note: &Path, medium: &Medium) -> Result<(), QueueError> {
    if note.symlink_metadata().is_err() {
        return Ok(());
    }
    let aside = medium.set_aside(note);
    let aside = aside.map_err(|source| QueueError::Durable {
        path: note.to_owned(),
        source,
    })?;
    log::error!(
        "{} was no note of a rebuild: it was set aside as {}",
        note.display(),
        aside.display()
    );
    Ok(())
}

fn remove(path: &Path, medium: &Medium) -> Result<(), QueueError> {
    medium.remove(path).map_err(|source| QueueError::Durable {
        path: path.to_owned(),
        source,
    })
}
