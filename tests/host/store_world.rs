//! A store in a temporary home, with a gate, a clock and a record of what it observed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdup::clock::{Clock, SystemClock};
use holdup::config::{IngestSettings, StoreSettings};
use holdup::durable::{Gate, Medium, Reserve};
use holdup::store::{
    Acks, Chunk, Desk, Observer, Reading, ReadingId, Rows, Stamp, Store, StoreError, StoreOptions,
    StoreState,
};

pub(crate) const SETTINGS: StoreSettings = StoreSettings {
    commit_window: Duration::ZERO,
    batch_rows: 512,
    keep_days: None,
    max_bytes: None,
    index: false,
    remember_ids: 1000,
    reserve: 0,
};

pub(crate) const INGEST: IngestSettings = IngestSettings {
    max_line_bytes: 4096,
    max_clients: 64,
    queue_bytes: 4 << 20,
};

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) states: Mutex<Vec<StoreState>>,
    pub(crate) commits: Mutex<Vec<usize>>,
    pub(crate) checkpoints: Mutex<Vec<u32>>,
}

impl Observer for Seen {
    fn committed(&self, _: Duration, rows: usize, _: u32) {
        self.commits.lock().expect("lock").push(rows);
    }
    fn checkpointed(&self, _: Duration, frames: u32) {
        self.checkpoints.lock().expect("lock").push(frames);
    }
    fn state(&self, state: StoreState) {
        self.states.lock().expect("lock").push(state);
    }
}

/// What the store told a connection.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) committed: Mutex<Vec<u64>>,
    pub(crate) refused: Mutex<Vec<(u64, String)>>,
    pub(crate) stopped: Mutex<Option<String>>,
}

impl Told {
    pub(crate) fn upto(&self) -> u64 {
        self.committed
            .lock()
            .expect("lock")
            .last()
            .copied()
            .unwrap_or(0)
    }
}

impl Acks for Told {
    fn refused(&self, line: u64, why: String) {
        self.refused.lock().expect("lock").push((line, why));
    }
    fn committed(&self, upto: u64) {
        self.committed.lock().expect("lock").push(upto);
    }
    fn stopped(&self, why: &str) {
        *self.stopped.lock().expect("lock") = Some(why.to_owned());
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) home: tempfile::TempDir,
    pub(crate) gate: Arc<Gate>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) seen: Arc<Seen>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    pub(crate) fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            home: tempfile::tempdir().expect("temp dir"),
            gate: Arc::new(Gate::new()),
            clock,
            seen: Arc::default(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.home.path().join("edge_store.db")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.home.path().join("ledger")
    }

    pub(crate) fn try_start(&self, settings: StoreSettings) -> Result<Store, StoreError> {
        self.try_start_at(Desk::new(), settings)
    }

    /// The same with a desk at which something was said before.
    pub(crate) fn try_start_at(
        &self,
        desk: Desk,
        settings: StoreSettings,
    ) -> Result<Store, StoreError> {
        Store::start(StoreOptions {
            desk,
            settings,
            path: self.path(),
            ledger: self.ledger(),
            medium: Arc::new(Medium::open(self.home.path()).expect("medium")),
            gate: Arc::clone(&self.gate),
            reserve: Arc::new(Reserve::new(
                &self.home.path().join("reserve"),
                settings.reserve,
            )),
            clock: Arc::clone(&self.clock),
            observer: Arc::clone(&self.seen) as Arc<_>,
            salvaged: false,
        })
    }

    pub(crate) fn start(&self, settings: StoreSettings) -> Store {
        self.try_start(settings).expect("start the store")
    }

    /// One number from the database, through a connection of its own.
    pub(crate) fn ask(&self, sql: &str) -> i64 {
        let conn = rusqlite::Connection::open(self.path()).expect("open");
        conn.query_row(sql, [], |r| r.get(0)).expect(sql)
    }

    pub(crate) fn rows(&self) -> i64 {
        self.ask("SELECT count(*) FROM readings")
    }
}

pub(crate) fn reading(n: u64) -> Reading<'static> {
    Reading {
        sensor_name: "boiler".into(),
        timestamp: Stamp::Int(1_767_225_600 + n as i64),
        value: n as f64,
        unit: Some("C".into()),
        metadata: None,
        id: None,
    }
}

/// Lines `from..from + n` as one chunk.
pub(crate) fn chunk(told: &Arc<Told>, from: u64, n: u64, client: Option<&str>) -> Chunk {
    let mut rows = Rows::default();
    for line in from..from + n {
        let mut r = reading(line);
        if client.is_some() {
            r.id = Some(ReadingId::Int(line as i64));
        }
        rows.push(line, &r);
    }
    Chunk {
        rows,
        client: client.map(Arc::from),
        upto: from + n - 1,
        acks: Arc::clone(told) as Arc<_>,
    }
}

/// Looks again and again; a minute is for a machine that is busy with other things.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = SystemClock.mono() + Duration::from_secs(60);
    while !done() {
        assert!(SystemClock.mono() < end, "waited in vain until {what}");
        std::thread::yield_now();
    }
}
