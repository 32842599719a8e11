//! Databases that real SQLite wrote, and what can happen to their files. Seeded: the same seed
//! gives the same rows and the same damage.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use rusqlite::Connection;

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// 0 up to, not including, `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n.max(1) as u64).expect("fits")
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for b in bytes {
            *b = u8::try_from(self.roll() >> 56).expect("a byte");
        }
    }
}

/// A reading as it was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Reading {
    pub(crate) sensor: String,
    pub(crate) timestamp: i64,
    /// Bits of the value, so that it can be compared.
    pub(crate) value: u64,
    pub(crate) unit: Option<String>,
    pub(crate) metadata: Option<String>,
}

/// How the rows came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Rows are only added.
    Append,
    /// Rows are added, changed and deleted.
    Mixed,
}

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Append => "added only",
            Self::Mixed => "changed, deleted too",
        }
    }
}

/// The bytes on the medium.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) db: Option<Vec<u8>>,
    pub(crate) wal: Option<Vec<u8>>,
    pub(crate) shm: Option<Vec<u8>>,
    pub(crate) journal: Option<Vec<u8>>,
}

/// A database with everything that was ever acknowledged about it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) workload: Workload,
    pub(crate) page_size: usize,
    pub(crate) files: Files,
    /// The rows that must be there.
    pub(crate) rows: BTreeMap<i64, Reading>,
    /// Every state of a row that was ever committed.
    pub(crate) ever: HashSet<(i64, Reading)>,
}

pub(crate) const READINGS: &str = "CREATE TABLE readings(
    id INTEGER PRIMARY KEY,
    sensor_name TEXT NOT NULL,
    timestamp NOT NULL,
    value REAL NOT NULL,
    unit TEXT,
    metadata TEXT)";

/// Of the store that every case is.
pub(crate) const EPOCH: u64 = 0x0123_4567_89ab_cdef;

/// Where the last commits lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    /// Everything was checkpointed.
    Database,
    /// The second half is only in the log.
    HalfInLog,
    /// Nothing but an empty database was checkpointed.
    Log,
}

/// `rows` readings in transactions of some ten, the last of them not checkpointed.
pub(crate) fn made(
    dice: &mut Dice,
    workload: Workload,
    place: Where,
    page_size: usize,
    rows: usize,
) -> Case {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("edge_store.db");
    let conn = Connection::open(&path).expect("open");
    conn.execute_batch(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
         PRAGMA wal_autocheckpoint = 0; {READINGS};
         CREATE TABLE holdup_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
         INSERT INTO holdup_meta VALUES('epoch', '{EPOCH:016x}'), ('schema', 1);
         CREATE INDEX by_sensor ON readings(sensor_name, timestamp);"
    ))
    .expect("schema");
    let mut case = Case {
        workload,
        page_size,
        files: Files::default(),
        rows: BTreeMap::new(),
        ever: HashSet::new(),
    };
    let mut next = 1;
    let mut halved = false;
    while case.rows.len() < rows {
        conn.execute_batch("BEGIN").expect("begin");
        for _ in 0..=dice.below(20) {
            let kind = match workload {
                Workload::Append => 0,
                Workload::Mixed => dice.below(4),
            };
            let old = case.rows.keys().nth(dice.below(case.rows.len())).copied();
            match (kind, old) {
                (2, Some(id)) => {
                    conn.execute("DELETE FROM readings WHERE id = ?1", [id])
                        .expect("delete");
                    case.rows.remove(&id);
                }
                (3, Some(id)) => {
                    let new = reading(dice, id);
                    write(
                        &conn,
                        "UPDATE readings SET sensor_name = ?2, timestamp = ?3, value = ?4, unit = ?5, metadata = ?6 WHERE id = ?1",
                        id,
                        &new,
                    );
                    case.ever.insert((id, new.clone()));
                    case.rows.insert(id, new);
                }
                _ => {
                    let new = reading(dice, next);
                    write(
                        &conn,
                        "INSERT INTO readings VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
                        next,
                        &new,
                    );
                    case.ever.insert((next, new.clone()));
                    case.rows.insert(next, new);
                    next += 1;
                }
            }
        }
        conn.execute_batch("COMMIT").expect("commit");
        if place == Where::HalfInLog && !halved && case.rows.len() >= rows / 2 {
            halved = true;
            checkpoint(&conn);
        }
    }
    if place == Where::Database {
        checkpoint(&conn);
    }
    let read = |name: &str| fs::read(dir.path().join(name)).ok();
    case.files = Files {
        db: read("edge_store.db"),
        wal: read("edge_store.db-wal").filter(|w| !w.is_empty()),
        shm: read("edge_store.db-shm"),
        journal: None,
    };
    drop(conn);
    case
}

pub(crate) fn checkpoint(conn: &Connection) {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .expect("checkpoint");
}

fn reading(dice: &mut Dice, id: i64) -> Reading {
    let value = match dice.below(3) {
        0 => f64::from(u16::try_from(dice.below(3000)).expect("small")),
        1 => f64::from(u16::try_from(dice.below(60_000)).expect("small")) / 100.0,
        _ => f64::from_bits(0x4030_0000_0000_0000 | dice.roll() >> 12),
    };
    Reading {
        sensor: format!("sensor-{:02}", dice.below(40)),
        timestamp: 1_760_000_000_000 + id * 1000 + i64::try_from(dice.below(1000)).expect("small"),
        value: value.to_bits(),
        unit: [None, Some("°C"), Some("hPa"), Some("%")][dice.below(4)].map(str::to_owned),
        metadata: (dice.below(5) == 0).then(|| {
            format!(
                "{{\"batch\":{},\"note\":\"{}\"}}",
                dice.roll(),
                "x".repeat(dice.below(90))
            )
        }),
    }
}

fn write(conn: &Connection, sql: &str, id: i64, r: &Reading) {
    conn.prepare_cached(sql)
        .and_then(|mut s| {
            s.execute((
                id,
                &r.sensor,
                r.timestamp,
                f64::from_bits(r.value),
                &r.unit,
                &r.metadata,
            ))
        })
        .expect("write");
}

/// What happens to the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    DbMissing,
    DbEmpty,
    DbHeaderZeroed,
    DbFirstPageZeroed,
    DbPageRandom,
    DbPageZeroed,
    DbInteriorZeroed,
    DbFlip,
    DbSectorRandom,
    DbSectorZeroed,
    DbSeveral,
    DbTruncated,
    IndexOnly,
    WalHeaderFlip,
    WalHeadRandom,
    WalPageFlip,
    WalFrameHeaderFlip,
    WalSectorRandom,
    WalBlockZeroed,
    WalBlockRandom,
    WalSeveral,
    WalTruncated,
    ShmRandom,
}

impl Fault {
    pub(crate) const DATABASE: [Self; 13] = [
        Self::DbMissing,
        Self::DbEmpty,
        Self::DbHeaderZeroed,
        Self::DbFirstPageZeroed,
        Self::DbPageRandom,
        Self::DbPageZeroed,
        Self::DbInteriorZeroed,
        Self::DbFlip,
        Self::DbSectorRandom,
        Self::DbSectorZeroed,
        Self::DbSeveral,
        Self::DbTruncated,
        Self::IndexOnly,
    ];

    pub(crate) const LOG: [Self; 10] = [
        Self::WalHeaderFlip,
        Self::WalHeadRandom,
        Self::WalPageFlip,
        Self::WalFrameHeaderFlip,
        Self::WalSectorRandom,
        Self::WalBlockZeroed,
        Self::WalBlockRandom,
        Self::WalSeveral,
        Self::WalTruncated,
        Self::ShmRandom,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DbMissing => "database missing",
            Self::DbEmpty => "database of 0 bytes",
            Self::DbHeaderZeroed => "database header zeroed",
            Self::DbFirstPageZeroed => "first page zeroed",
            Self::DbPageRandom => "random page",
            Self::DbPageZeroed => "zeroed page",
            Self::DbInteriorZeroed => "interior page zeroed",
            Self::DbFlip => "flipped byte in a page",
            Self::DbSectorRandom => "random 512 bytes",
            Self::DbSectorZeroed => "zeroed 512 bytes",
            Self::DbSeveral => "several at once",
            Self::DbTruncated => "database truncated",
            Self::IndexOnly => "index page random",
            Self::WalHeaderFlip => "flipped byte in the log's header",
            Self::WalHeadRandom => "log's first 512 bytes random",
            Self::WalPageFlip => "flipped byte in a logged page",
            Self::WalFrameHeaderFlip => "flipped byte in a frame header",
            Self::WalSectorRandom => "log: random 512 bytes",
            Self::WalBlockZeroed => "log: zeroed 4 KiB",
            Self::WalBlockRandom => "log: random 4 KiB",
            Self::WalSeveral => "log: several at once",
            Self::WalTruncated => "log truncated",
            Self::ShmRandom => "-shm random",
        }
    }

    /// One byte of a page without a checksum becomes another.
    pub(crate) fn changes_single_bytes(self) -> bool {
        self == Self::DbFlip
    }

    /// Frames are lost of which nobody can say what they changed, so that the files do not show
    /// what they deleted.
    pub(crate) fn hides_deletions(self) -> bool {
        matches!(
            self,
            Self::WalTruncated
                | Self::WalSectorRandom
                | Self::WalBlockZeroed
                | Self::WalBlockRandom
                | Self::WalSeveral
        )
    }

    /// Damages the files of `case`.
    pub(crate) fn strike(self, case: &mut Case, dice: &mut Dice) {
        let page = case.page_size;
        let files = &mut case.files;
        let mut none = Vec::new();
        let pages = files.db.as_ref().map_or(0, Vec::len) / page;
        let index = index_root(files);
        let db = files.db.as_mut().unwrap_or(&mut none);
        let some_page = |dice: &mut Dice| (1 + dice.below(pages - 1)) * page;
        let sector =
            |dice: &mut Dice, from: usize, len: usize| from + dice.below((len - from) / 512) * 512;
        let frame = page + 24;
        let frames = files
            .wal
            .as_ref()
            .map_or(0, |w| w.len().saturating_sub(32) / frame);
        let mut no_log = Vec::new();
        let wal = files.wal.as_mut().unwrap_or(&mut no_log);
        let some_frame = |dice: &mut Dice| 32 + dice.below(frames) * frame;
        match self {
            Self::DbMissing => files.db = None,
            Self::DbEmpty => files.db = Some(Vec::new()),
            Self::DbHeaderZeroed => db[..100].fill(0),
            Self::DbFirstPageZeroed => db[..page].fill(0),
            Self::DbPageRandom => {
                let at = some_page(dice);
                dice.fill(&mut db[at..at + page]);
            }
            Self::DbPageZeroed => {
                let at = some_page(dice);
                db[at..at + page].fill(0);
            }
            Self::DbInteriorZeroed => {
                let at = (1..pages).map(|p| p * page).find(|at| db[*at] == 5);
                if let Some(at) = at {
                    db[at..at + page].fill(0);
                }
            }
            Self::DbFlip => {
                let at = some_page(dice) + dice.below(page);
                db[at] ^= u8::try_from(1 + dice.below(255)).expect("a byte");
            }
            Self::DbSectorRandom => {
                let at = sector(dice, page, db.len());
                dice.fill(&mut db[at..at + 512]);
            }
            Self::DbSectorZeroed => {
                let at = sector(dice, page, db.len());
                db[at..at + 512].fill(0);
            }
            Self::DbSeveral => {
                for fault in [
                    Self::DbHeaderZeroed,
                    Self::DbInteriorZeroed,
                    Self::DbSectorRandom,
                    Self::DbPageZeroed,
                ] {
                    fault.strike(case, dice);
                }
            }
            Self::DbTruncated => db.truncate(page * (2 + dice.below(pages - 2)) - dice.below(page)),
            Self::IndexOnly => {
                let at = index * page;
                dice.fill(&mut db[at..at + page]);
            }
            Self::WalHeaderFlip => {
                wal[dice.below(32)] ^= u8::try_from(1 + dice.below(255)).expect("a byte")
            }
            Self::WalHeadRandom => dice.fill(&mut wal[..512]),
            Self::WalPageFlip => {
                let at = some_frame(dice) + 24 + dice.below(page);
                wal[at] ^= u8::try_from(1 + dice.below(255)).expect("a byte");
            }
            Self::WalFrameHeaderFlip => {
                let at = some_frame(dice) + dice.below(24);
                wal[at] ^= u8::try_from(1 + dice.below(255)).expect("a byte");
            }
            Self::WalSectorRandom => {
                let at = sector(dice, 0, wal.len());
                dice.fill(&mut wal[at..at + 512]);
            }
            Self::WalBlockZeroed | Self::WalBlockRandom => {
                let at = dice.below(wal.len() / 4096) * 4096;
                let end = wal.len().min(at + 4096);
                if self == Self::WalBlockZeroed {
                    wal[at..end].fill(0);
                } else {
                    dice.fill(&mut wal[at..end]);
                }
            }
            Self::WalSeveral => {
                for fault in [
                    Self::WalHeaderFlip,
                    Self::WalPageFlip,
                    Self::WalFrameHeaderFlip,
                    Self::WalSectorRandom,
                ] {
                    fault.strike(case, dice);
                }
            }
            Self::WalTruncated => wal.truncate(32 + dice.below(wal.len() - 32)),
            Self::ShmRandom => {
                if let Some(shm) = &mut files.shm {
                    dice.fill(shm);
                }
            }
        }
    }
}

/// The page, from 0, at which the index on readings begins.
fn index_root(files: &Files) -> usize {
    let (Some(db), Ok(dir)) = (&files.db, tempfile::tempdir()) else {
        return 0;
    };
    let path = dir.path().join("a.db");
    write_file(&path, Some(db));
    Connection::open(&path)
        .and_then(|c| {
            c.query_row(
                "SELECT rootpage - 1 FROM sqlite_schema WHERE name = 'by_sensor'",
                [],
                |r| r.get::<_, i64>(0),
            )
        })
        .map_or(0, |n| usize::try_from(n).expect("a page"))
}

/// Writes `bytes` to `path`, or nothing.
#[expect(
    clippy::disallowed_methods,
    reason = "the test makes the files that it damages"
)]
pub(crate) fn write_file(path: &Path, bytes: Option<&Vec<u8>>) {
    if let Some(bytes) = bytes {
        fs::write(path, bytes).expect("write");
    }
}

impl Files {
    /// The files of the database at `db` as they are now.
    pub(crate) fn read(db: &Path) -> Self {
        let read = |suffix: &str| {
            let mut path = db.as_os_str().to_owned();
            path.push(suffix);
            fs::read(path).ok()
        };
        Self {
            db: read(""),
            wal: read("-wal"),
            shm: read("-shm"),
            journal: read("-journal"),
        }
    }

    /// Lays the files down in `dir` and returns the database's path.
    pub(crate) fn lay(&self, dir: &Path) -> std::path::PathBuf {
        let db = dir.join("edge_store.db");
        for (suffix, bytes) in [
            ("", &self.db),
            ("-wal", &self.wal),
            ("-shm", &self.shm),
            ("-journal", &self.journal),
        ] {
            write_file(&dir.join(format!("edge_store.db{suffix}")), bytes.as_ref());
        }
        db
    }
}
