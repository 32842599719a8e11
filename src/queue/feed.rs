//! From the readings to the queue: by a cursor, each reading once.
//!
//! It promises that a reading is in the queue before the cursor passes it, that both are one
//! commit, and that the store learns of the delivered mark only after that commit: after a crash
//! anywhere no reading is left out and none is queued under two ids. It must never hold a read
//! transaction open between batches: that would pin the store's write-ahead log.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::clock::Wall;
use crate::config::QueueSettings;
use crate::store::{Look, look};

use super::error::QueueError;
use super::message::{self, Enqueued, NewMessage, Origin};
use super::outbox::Outbox;

/// Readings in one commit at most.
pub const BATCH: usize = 2_048;
/// Bytes of their payloads, about: what the plan may have to move.
const BATCH_BYTES: usize = 512 << 10;
const COLUMNS: [&str; 5] = ["sensor_name", "timestamp", "value", "unit", "metadata"];

/// Readings read from the store, in the order of their ids.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) readings: Vec<(i64, Vec<u8>)>,
    /// Behind it there may be more.
    pub(super) full: bool,
}

/// What a batch became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fed {
    /// Now in the queue.
    pub(super) added: u64,
    /// There already.
    pub(super) repeats: u64,
    /// Another message was there under the same id.
    pub(super) conflicts: u64,
    /// The queue is full: the cursor stands before the first that had no room.
    pub(super) full: bool,
}

/// Reads the store beside its writer. Open only while the store is.
#[derive(Debug)]
pub(super) struct Readings {
    conn: Connection,
    path: PathBuf,
}

impl Readings {
    /// The caller holds a pass of the gate.
    pub(super) fn open(path: &Path) -> Result<Self, QueueError> {
        let failed = |e| QueueError::sqlite(path, "read the readings of", e);
        let conn = read_only(path).map_err(failed)?;
        conn.busy_timeout(Duration::from_millis(20))
            .map_err(failed)?;
        Ok(Self {
            conn,
            path: path.to_owned(),
        })
    }

    /// The readings above `cursor`, up to a batch. The caller holds a pass of the gate.
    pub(super) fn after(&self, cursor: i64) -> Result<Batch, QueueError> {
        self.read(cursor)
            .map_err(|e| QueueError::sqlite(&self.path, "read the readings of", e))
    }

    fn read(&self, cursor: i64) -> rusqlite::Result<Batch> {
        let mut scan = self.conn.prepare_cached(
            "SELECT id, sensor_name, timestamp, value, unit, metadata FROM readings
             WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let mut rows = scan.query(params![cursor, i64::try_from(BATCH).unwrap_or(i64::MAX)])?;
        let mut batch = Batch::default();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            let mut columns = [("", ValueRef::Null); COLUMNS.len()];
            for (n, (name, column)) in COLUMNS.iter().zip(&mut columns).enumerate() {
                *column = (*name, row.get_ref(n + 1)?);
            }
            let payload = message::payload(&columns);
            bytes += payload.len();
            batch.readings.push((id, payload));
            if bytes >= BATCH_BYTES {
                batch.full = true;
                return Ok(batch);
            }
        }
        batch.full = batch.readings.len() >= BATCH;
        Ok(batch)
    }
}

impl Outbox {
    /// The store is `epoch`'s. A store that is new to the queue is fed from its beginning, under the
    /// gateway's name of today; a known one keeps the name that its messages have.
    pub(super) fn meet(&mut self, gateway: &str, epoch: u64) -> Result<(), QueueError> {
        if self.book.origin.as_ref().is_some_and(|o| o.epoch == epoch) {
            return Ok(());
        }
        let origin = Origin {
            gateway: gateway.to_owned(),
            epoch,
        };
        self.write("take note of the store in", |o| {
            o.book.origin = Some(origin);
            (o.book.fed_upto, o.book.delivered_upto, o.book.highest) = (0, 0, 0);
            Ok(())
        })
    }

    /// Queues the batch and moves the cursor, in one commit.
    pub(super) fn feed(
        &mut self,
        batch: &Batch,
        settings: &QueueSettings,
        wall: Wall,
    ) -> Result<Fed, QueueError> {
        let rejected = self.rejected;
        let done = self.write("queue readings in", |o| {
            let mut fed = Fed::default();
            let Some(origin) = o.book.origin.clone() else {
                return Ok(fed);
            };
            for (id, payload) in &batch.readings {
                let new = NewMessage {
                    message_id: origin.message_id(*id),
                    payload: payload.clone(),
                    priority: 0,
                    created_at: wall,
                    ttl: settings.ttl,
                };
                match o.add(&new)? {
                    Enqueued::Added => fed.added += 1,
                    Enqueued::Duplicate if o.says(&new)? => fed.repeats += 1,
                    Enqueued::Duplicate => {
                        log::error!(
                            "message id {} stands for another reading already; this one is kept in the store only",
                            new.message_id
                        );
                        fed.conflicts += 1;
                    }
                    Enqueued::Rejected => {
                        fed.full = true;
                        return Ok(fed);
                    }
                }
                o.book.fed_upto = *id;
            }
            Ok(fed)
        });
        // Readings that wait in the store are not refused.
        self.rejected = rejected;
        done
    }

    /// Does the message under this id say the same?
    fn says(&self, m: &NewMessage) -> rusqlite::Result<bool> {
        self.conn
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM sync_queue
                               WHERE message_id = ?1 AND CAST(payload AS BLOB) = ?2)
                     OR EXISTS(SELECT 1 FROM dead_letters
                               WHERE message_id = ?1 AND CAST(payload AS BLOB) = ?2)",
            )?
            .query_row(params![m.message_id, m.payload], |r| r.get(0))
    }
}

/// Opens a database to read it, without making, changing or cleaning up anything of it.
pub(super) fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.set_db_config(
        rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
        true,
    )?;
    Ok(conn)
}

/// How far a queue had come with a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The store's epoch.
    pub epoch: u64,
    /// The highest reading id that was ever queued: a store of this epoch must not use it again.
    pub highest: i64,
    /// Every reading up to this one has left the queue.
    pub delivered_upto: i64,
}

/// The mark that the queue at `path` holds; `None` where there is none, or it was never fed. For a
/// store that was salvaged or restored, before it is opened. Not while this process has the queue
/// open.
///
/// # Errors
/// [`QueueError`] where the file cannot be read: then the queue says nothing.
pub fn mark(path: &Path) -> Result<Option<Mark>, QueueError> {
    if look(path)? == Look::Fresh {
        return Ok(None);
    }
    let failed = |e| QueueError::sqlite(path, "read", e);
    let conn = read_only(path).map_err(failed)?;
    if super::schema::columns_of(&conn, "holdup_meta")
        .map_err(failed)?
        .is_empty()
    {
        return Ok(None);
    }
    let book = super::schema::Book::read(&conn).map_err(failed)?;
    Ok(book.origin.map(|o| Mark {
        epoch: o.epoch,
        highest: book.highest.max(book.fed_upto),
        delivered_upto: book.delivered_upto,
    }))
}

/// Epoch and delivered mark that the store at `path` holds. Not while this process has it open.
pub(super) fn store_mark(path: &Path) -> Option<(u64, i64)> {
    if !matches!(look(path), Ok(Look::Database)) {
        return None;
    }
    let conn = read_only(path).ok()?;
    let value = |key: &str| {
        conn.query_row("SELECT value FROM holdup_meta WHERE key = ?1", [key], |r| {
            r.get::<_, rusqlite::types::Value>(0)
        })
        .optional()
        .ok()
        .flatten()
    };
    let rusqlite::types::Value::Text(epoch) = value("epoch")? else {
        return None;
    };
    let delivered = match value("delivered_upto") {
        Some(rusqlite::types::Value::Integer(n)) => n.max(0),
        _ => 0,
    };
    Some((u64::from_str_radix(&epoch, 16).ok()?, delivered))
}
