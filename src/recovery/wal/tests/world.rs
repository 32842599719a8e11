//! Logs that real SQLite wrote, and the ways in which they are damaged.

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::recovery::wal::checksum::{Order, Sum};
use crate::recovery::wal::header::Header;

/// A database and its log, as bytes.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) db: Vec<u8>,
    pub(crate) wal: Vec<u8>,
    pub(crate) page_size: usize,
}

/// A gateway's database while it is written, in a directory of its own.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) conn: Connection,
    page_size: u32,
    next: u32,
}

impl Gateway {
    /// An empty `readings` table in a database that is already in the file, log restarted.
    pub(crate) fn new(page_size: u32) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let conn = Connection::open(dir.path().join("a.db")).expect("open");
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .expect("config");
        conn.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
             PRAGMA wal_autocheckpoint=0;
             CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL,
                 timestamp INTEGER NOT NULL, value REAL NOT NULL, unit TEXT, metadata TEXT);
             PRAGMA wal_checkpoint(TRUNCATE);"
        ))
        .expect("schema");
        Self {
            dir,
            conn,
            page_size,
            next: 0,
        }
    }

    /// Writes `n` readings, one commit each.
    pub(crate) fn readings(&mut self, n: u32) -> &mut Self {
        for _ in 0..n {
            self.next += 1;
            let i = self.next;
            self.conn
                .execute(
                    "INSERT INTO readings VALUES(?1, 'boiler/' || (?1 % 7), 1700000000000 + ?1 * 977,
                     20.5 + ?1 * 0.125, 'degC', '{\"seq\":' || ?1 || '}')",
                    [i],
                )
                .expect("insert");
        }
        self
    }

    /// Moves the log into the database, so that the next commit begins a new generation.
    pub(crate) fn restart(&mut self) -> &mut Self {
        self.conn
            .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
            .expect("checkpoint");
        self
    }

    /// The files as they are now.
    pub(crate) fn files(&self) -> Files {
        let path = self.dir.path().join("a.db");
        Files {
            db: std::fs::read(&path).expect("db"),
            wal: std::fs::read(log_of(&path)).expect("wal"),
            page_size: self.page_size as usize,
        }
    }
}

/// `readings` commits in the log of a database with this page size.
pub(crate) fn written(page_size: u32, readings: u32) -> Files {
    Gateway::new(page_size).readings(readings).files()
}

impl Files {
    pub(crate) fn frame(&self) -> usize {
        24 + self.page_size
    }

    pub(crate) fn frames(&self) -> usize {
        (self.wal.len() - 32) / self.frame()
    }

    /// Where slot `slot` begins.
    pub(crate) fn at(&self, slot: usize) -> usize {
        32 + slot * self.frame()
    }

    /// The same log with its checksums in the other byte order.
    pub(crate) fn big_endian(mut self) -> Self {
        let header = Header::read(&self.wal).expect("sound");
        let turned = Header {
            order: Order::Big,
            ..header
        };
        self.wal[..32].copy_from_slice(&turned.encode());
        self.seal();
        self
    }

    /// Computes all checksums of the frames anew, with the salts of the header.
    pub(crate) fn seal(&mut self) {
        let header = Header::read(&self.wal).expect("sound");
        let mut sum = header.sum();
        let salts: [u8; 8] = self.wal[16..24].try_into().expect("salts");
        let frame = self.frame();
        for bytes in self.wal[32..].chunks_exact_mut(frame) {
            sum = sum.over(header.order, &bytes[..8]);
            sum = sum.over(header.order, &bytes[24..]);
            bytes[8..16].copy_from_slice(&salts);
            bytes[16..24].copy_from_slice(&stored(sum));
        }
    }

    /// Both files in a fresh directory.
    pub(crate) fn put(&self) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.db");
        std::fs::write(&path, &self.db).expect("db");
        std::fs::write(log_of(&path), &self.wal).expect("wal");
        (dir, path)
    }

    /// The ids that SQLite itself reads from these files, and how many frames it keeps.
    pub(crate) fn sqlite(&self) -> (Vec<i64>, u32) {
        let (_dir, path) = self.put();
        let conn = Connection::open(&path).expect("open");
        let ids = ids(&conn).unwrap_or_default();
        let frames: i64 = conn
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |r| r.get(1))
            .expect("frames");
        (ids, u32::try_from(frames).unwrap_or(0))
    }
}

/// The ids in the table, in order.
pub(crate) fn ids(conn: &Connection) -> rusqlite::Result<Vec<i64>> {
    conn.prepare("SELECT id FROM readings NOT INDEXED ORDER BY id")?
        .query_map([], |r| r.get(0))?
        .collect()
}

/// The ids in the database file alone.
pub(crate) fn ids_in(path: &Path) -> Vec<i64> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("open");
    ids(&conn).expect("read")
}

pub(crate) fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn stored(sum: Sum) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&sum.s0.to_be_bytes());
    bytes[4..].copy_from_slice(&sum.s1.to_be_bytes());
    bytes
}

/// Bytes without order that are the same at each run.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}
