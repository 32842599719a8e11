//! What waits to be delivered, and what else the files say before they go. Read by a verb, while no
//! agent has them open.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::store::{Look, header_fault, suspicion};
use crate::{queue, store};

/// What would be lost undelivered; `None` is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Undelivered {
    /// Messages in the queue.
    pub queued: Option<u64>,
    /// Readings that are not in the queue yet; 0 where nothing is delivered from here.
    pub unqueued: Option<u64>,
}

impl Undelivered {
    /// Nothing waits, and that is known.
    pub fn is_nothing(&self) -> bool {
        self.queued == Some(0) && self.unqueued == Some(0)
    }

    /// `12 messages and 3 readings wait to be delivered`
    pub fn in_words(&self) -> String {
        match (self.queued, self.unqueued) {
            (Some(q), Some(0)) => format!("{q} messages wait to be delivered"),
            (Some(q), Some(u)) => {
                format!("{q} messages, and {u} readings not queued yet, wait to be delivered")
            }
            (q, _) => {
                let known = q.map(|q| format!(" beside {q} messages"));
                let known = known.unwrap_or_default();
                format!("it cannot be read how much waits to be delivered{known}")
            }
        }
    }
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// What waits.
    pub undelivered: Undelivered,
    /// The store's epoch.
    pub epoch: Option<u64>,
    /// File names of damaged databases.
    pub damaged: Vec<String>,
    /// The lowest and the highest id of the readings; `None`: there are none, or that is unknown.
    pub ids: Option<(i64, i64)>,
}

/// Reads the databases of `settings`; nobody may have them open.
pub fn look(settings: &Settings) -> Found {
    let (store, queue) = (settings.gateway.store_path(), settings.gateway.queue_path());
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let damaged: Vec<_> = [&store, &queue]
        .into_iter()
        .filter(|p| is_damaged(p))
        .collect();
    let survey = queue::survey(&queue);
    let fed = match &survey {
        Ok(Some(s)) => Some(s.fed_upto),
        Ok(None) => Some(0),
        Err(_) => None,
    };
    let readings = Readings::of(&store);
    let unqueued = match (settings.queue.enabled, fed, &readings) {
        (false, _, _) => Some(0),
        (true, Some(fed), Some(r)) => r.above(fed),
        (true, _, _) => None,
    };
    Found {
        undelivered: Undelivered {
            queued: survey.ok().map(|s| s.map_or(0, |s| s.depth)),
            unqueued,
        },
        ids: readings.as_ref().and_then(Readings::ids),
        epoch: readings.and_then(|r| r.epoch()),
        damaged: damaged.into_iter().filter_map(|p| name(p)).collect(),
    }
}

fn is_damaged(database: &Path) -> bool {
    suspicion(database).symlink_metadata().is_ok()
        || matches!(header_fault(database), Ok(Some(_)))
        || matches!(store::look(database), Ok(Look::DamagedWal(_)))
}

/// The readings, for reading; `None` inside: there are none.
struct Readings(Option<Connection>);

impl Readings {
    fn of(store: &Path) -> Option<Self> {
        if store::look(store).ok()? == Look::Fresh {
            return Some(Self(None));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(store, flags)
            .ok()
            .map(|conn| Self(Some(conn)))
    }

    fn above(&self, id: i64) -> Option<u64> {
        let Some(conn) = &self.0 else { return Some(0) };
        let sql = "SELECT count(*) FROM readings WHERE id > ?1";
        conn.query_row(sql, [id], |r| r.get::<_, i64>(0))
            .ok()
            .map(i64::unsigned_abs)
    }

    fn ids(&self) -> Option<(i64, i64)> {
        // Two subqueries: with both in one SELECT, SQLite would read the whole table.
        let sql = "SELECT (SELECT min(id) FROM readings), (SELECT max(id) FROM readings)";
        let conn = self.0.as_ref()?;
        conn.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?))).ok()
    }

    fn epoch(&self) -> Option<u64> {
        let sql = "SELECT value FROM holdup_meta WHERE key = 'epoch'";
        let text: Option<String> = self
            .0
            .as_ref()?
            .query_row(sql, [], |r| r.get(0))
            .optional()
            .ok()?;
        u64::from_str_radix(&text?, 16).ok()
    }
}
