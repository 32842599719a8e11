//! One group commit: the rows, the ids that make repeats harmless, and the arrival mark, in
//! one transaction.
//!
//! It promises that the book changes only when COMMIT returned. A row that the table refuses
//! takes nothing else down with it.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::error::{Fault, fault};
use super::rows::Chunk;
use super::schema::{Book, set_meta};

/// More client names than this are looked up again.
const CLIENTS_CACHED: usize = 256;

/// What a batch was.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Rows now in the table.
    pub(super) rows: usize,
    /// Rows that were there already.
    pub(super) repeats: usize,
    /// Rows that the table refused.
    pub(super) refused: Vec<Refused>,
}

/// Chunk, line, why.
type Refused = (usize, u64, String);

enum Outcome {
    Committed(Written),
    /// A row's conflict clause rolled the transaction back; the row is marked, the rest is to
    /// be tried again.
    Undone(Refused),
}

/// Numbers that clients' names have in `holdup_client`.
#[derive(Debug, Default)]
pub(super) struct Clients(HashMap<Arc<str>, i64>);

const INSERT: &str = "INSERT INTO readings(id, sensor_name, timestamp, value, unit, metadata)
                      VALUES(?1, ?2, ?3, ?4, ?5, ?6)";
const SEEN: &str = "INSERT INTO holdup_seen(client, id) VALUES(?1, ?2) ON CONFLICT DO NOTHING";

/// Commits `batch`. After an error nothing of it is in the database, and the book is as it was.
pub(super) fn write(
    conn: &Connection,
    book: &mut Book,
    clients: &mut Clients,
    batch: &mut [Chunk],
    today: Option<i64>,
    remember_ids: u64,
) -> rusqlite::Result<Written> {
    let mut earlier = Vec::new();
    loop {
        let mut fresh = book.clone();
        match attempt(conn, &mut fresh, clients, batch, today, remember_ids) {
            Ok(Outcome::Committed(mut written)) => {
                *book = fresh;
                written.refused.append(&mut earlier);
                return Ok(written);
            }
            Ok(Outcome::Undone(refused)) => {
                clients.0.clear();
                earlier.push(refused);
            }
            Err(e) => {
                clients.0.clear();
                if !conn.is_autocommit()
                    && let Err(also) = conn.execute_batch("ROLLBACK")
                {
                    log::warn!("rollback after \"{e}\": {also}");
                }
                return Err(e);
            }
        }
    }
}

/// Gives what arrives now its day, once a day.
fn date(conn: &Connection, book: &mut Book, today: Option<i64>) -> rusqlite::Result<()> {
    let Some(today) = today else {
        if book.undated_from.is_none() {
            set_meta(conn, "undated_from", book.next_id)?;
            book.undated_from = Some(book.next_id);
        }
        return Ok(());
    };
    let undated = book.undated_from.take();
    if undated.is_some() {
        conn.execute("DELETE FROM holdup_meta WHERE key = 'undated_from'", [])?;
    }
    if book.newest_day.is_none_or(|newest| today > newest) {
        conn.prepare_cached("INSERT OR IGNORE INTO holdup_arrival(day, first_id) VALUES(?1, ?2)")?
            .execute(params![today, undated.unwrap_or(book.next_id)])?;
        book.newest_day = Some(today);
    }
    Ok(())
}

fn attempt(
    conn: &Connection,
    book: &mut Book,
    clients: &mut Clients,
    batch: &mut [Chunk],
    today: Option<i64>,
    remember_ids: u64,
) -> rusqlite::Result<Outcome> {
    conn.prepare_cached("BEGIN IMMEDIATE")?.raw_execute()?;
    meet_others(conn, book)?;
    keep_above(conn, book)?;
    keep_mark(conn, book)?;
    date(conn, book, today)?;
    let mut written = Written::default();
    let mut insert = conn.prepare_cached(INSERT)?;
    let mut seen: Option<CachedStatement<'_>> = None;
    let mut noted = 0;
    for (at, chunk) in batch.iter_mut().enumerate() {
        let client = match &chunk.client {
            Some(name) if remember_ids > 0 => Some(number(conn, clients, name)?),
            _ => None,
        };
        for n in 0..chunk.rows.len() {
            let row = &chunk.rows.rows[n];
            if row.refused {
                continue;
            }
            let mut note = None;
            if let (Some(client), Some(id)) = (client, chunk.rows.id(row)) {
                let seen = match &mut seen {
                    Some(s) => s,
                    none => none.insert(conn.prepare_cached(SEEN)?),
                };
                seen.raw_bind_parameter(1, client)?;
                seen.raw_bind_parameter(2, id)?;
                if seen.raw_execute()? == 0 {
                    written.repeats += 1;
                    continue;
                }
                note = Some(conn.last_insert_rowid());
            }
            let rows = &chunk.rows;
            insert.raw_bind_parameter(1, book.next_id)?;
            insert.raw_bind_parameter(2, rows.name(row))?;
            insert.raw_bind_parameter(3, rows.timestamp(row))?;
            insert.raw_bind_parameter(4, row.value)?;
            insert.raw_bind_parameter(5, rows.unit(row))?;
            insert.raw_bind_parameter(6, rows.metadata(row))?;
            match insert.raw_execute() {
                Ok(_) => {
                    written.rows += 1;
                    book.next_id += 1;
                    if let Some(seq) = note {
                        noted += 1;
                        book.newest_seen = seq;
                    }
                }
                Err(e) if fault(&e) == Fault::Row => {
                    let refused = (at, row.line, format!("the table readings refuses it: {e}"));
                    if conn.is_autocommit() {
                        chunk.rows.rows[n].refused = true;
                        return Ok(Outcome::Undone(refused));
                    }
                    written.refused.push(refused);
                    if let Some(seq) = note {
                        conn.prepare_cached("DELETE FROM holdup_seen WHERE seq = ?1")?
                            .execute([seq])?;
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }
    forget(conn, book, noted, remember_ids)?;
    conn.prepare_cached("COMMIT")?.raw_execute()?;
    Ok(Outcome::Committed(written))
}

/// Counts rows that another program added since the last commit, and goes on above them.
fn meet_others(conn: &Connection, book: &mut Book) -> rusqlite::Result<()> {
    let newest: Option<i64> = conn
        .prepare_cached("SELECT max(id) FROM readings")?
        .query_row([], |r| r.get(0))?;
    let Some(newest) = newest.filter(|n| *n >= book.next_id) else {
        return Ok(());
    };
    let theirs: i64 = conn.query_row(
        "SELECT count(*) FROM readings WHERE id >= ?1",
        [book.next_id],
        |r| r.get(0),
    )?;
    let next = newest
        .checked_add(1)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(0, newest))?;
    book.holes += next - book.next_id - theirs;
    book.next_id = next;
    set_meta(conn, "holes", book.holes)
}

/// Goes on above what was given out before: an id of a row that was lost is never used again.
fn keep_above(conn: &Connection, book: &mut Book) -> rusqlite::Result<()> {
    if book.next_id > book.floor {
        return Ok(());
    }
    let next = book.floor + 1;
    if book.lowest_id == book.next_id {
        book.lowest_id = next;
    } else {
        book.holes += next - book.next_id;
    }
    book.next_id = next;
    set_meta(conn, "holes", book.holes)
}

/// Keeps the delivered mark, in a transaction that is made anyway.
pub(super) fn keep_mark(conn: &Connection, book: &mut Book) -> rusqlite::Result<()> {
    if let Some(upto) = book.delivered_upto
        && book.delivered_kept != Some(upto)
    {
        set_meta(conn, "delivered_upto", upto)?;
        book.delivered_kept = Some(upto);
    }
    Ok(())
}

/// Forgets the oldest client ids beyond `keep`; never much more than came in.
fn forget(conn: &Connection, book: &mut Book, noted: i64, keep: u64) -> rusqlite::Result<()> {
    let keep = i64::try_from(keep).unwrap_or(i64::MAX);
    let upto = book.newest_seen.saturating_sub(keep);
    if noted == 0 || upto < book.oldest_seen {
        return Ok(());
    }
    let upto = upto.min(book.oldest_seen + 2 * noted);
    conn.prepare_cached("DELETE FROM holdup_seen WHERE seq <= ?1")?
        .execute([upto])?;
    book.oldest_seen = upto + 1;
    Ok(())
}

fn number(conn: &Connection, clients: &mut Clients, name: &Arc<str>) -> rusqlite::Result<i64> {
    if let Some(n) = clients.0.get(name) {
        return Ok(*n);
    }
    let known: Option<i64> = conn
        .prepare_cached("SELECT client FROM holdup_client WHERE name = ?1")?
        .query_row([name], |r| r.get(0))
        .optional()?;
    let n = match known {
        Some(n) => n,
        None => {
            conn.prepare_cached("INSERT INTO holdup_client(name) VALUES(?1)")?
                .execute([name])?;
            conn.last_insert_rowid()
        }
    };
    if clients.0.len() >= CLIENTS_CACHED {
        clients.0.clear();
    }
    clients.0.insert(Arc::clone(name), n);
    Ok(n)
}
