//! Readings, kept: the schema, one writer with group commit, checkpoints and what they cost.
//!
//! It promises that a reading is acknowledged only when the commit that holds it is on the
//! medium, that nothing is written while the gate is closed but what the power-fail plan
//! orders, and that retention never takes the newest row. It must never acknowledge before the
//! sync, hold a transaction open while it waits, or open files it has not looked at.

mod account;
mod batch;
mod error;
mod ledger;
mod look;
mod mailbox;
mod open;
mod retention;
mod retraction;
mod rows;
mod schema;
mod stats;
mod upkeep;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{Clock, Mono};
use crate::config::StoreSettings;
use crate::durable::{Gate, Medium, Reserve};

pub use account::{BEHIND, UNKNOWN};
pub(crate) use error::without_sql;
pub use error::{REMEDY, StoreError};
pub use ledger::{Ledger, LedgerError, Noted};
pub use look::{Look, companion, header_fault, keep_evidence, look, suspicion, wal_fault};
pub use mailbox::{CheckpointReport, CommitReport, Intake, Mode, OrderError, Orders};
pub use open::open;
pub use retraction::{
    Found, Retract, RetractError, Retraction, Span, check_actor, check_reason, find, retract_alone,
    retractions,
};
pub use rows::{Acks, Chunk, Reading, ReadingId, Rows, Stamp};
pub use schema::TABLES;
pub use stats::{LedgerView, StoreState, StoreStats};

/// Frames that a routine checkpoint waits for until the governor says otherwise: 4 MiB.
pub const WAL_LIMIT: u32 = 1000;

/// Learns what writing costs on this card. Called on the writer's thread: must not block.
pub trait Observer: Send + Sync {
    /// A commit of `rows` rows took this long; the log holds `wal_frames` frames now.
    fn committed(&self, took: Duration, rows: usize, wal_frames: u32);
    /// A checkpoint copied `frames` frames in this time.
    fn checkpointed(&self, took: Duration, frames: u32);
    /// The store's state changed.
    fn state(&self, state: StoreState);
}

/// Where ingest, guard and writer meet. It is made before the database is open: readings that
/// come early wait, and orders find nothing to do.
#[derive(Debug, Clone)]
pub struct Desk {
    mailbox: Arc<mailbox::Mailbox>,
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}

impl Desk {
    /// A desk without a writer.
    pub fn new() -> Self {
        Self {
            mailbox: Arc::new(mailbox::Mailbox::new(WAL_LIMIT)),
        }
    }

    /// The database cannot be opened for want of room: said until it is.
    pub fn no_room(&self) {
        self.mailbox.stats.set_state(&StoreState::DiskFull);
    }

    /// The writer has stopped, and another is to come: readings wait again. What was said of the
    /// store before is of another one.
    pub fn reopen(&self) {
        self.mailbox.reopen();
    }

    /// Where connections hand over readings.
    pub fn intake(&self) -> Intake {
        Intake {
            mailbox: Arc::clone(&self.mailbox),
        }
    }

    /// Controls for guard and agent.
    pub fn orders(&self) -> Orders {
        Orders {
            mailbox: Arc::clone(&self.mailbox),
        }
    }
}

/// Makes an empty store at `path`, with everything in the database file, and closes it; one that is
/// there is adopted. Its epoch.
///
/// # Errors
/// As [`open`]; the tables cannot be made.
pub fn found(
    path: &std::path::Path,
    medium: &Medium,
    gate: &Gate,
    clock: &dyn Clock,
    index: bool,
) -> Result<u64, StoreError> {
    let (mut conn, _pass) = open(path, medium, gate, clock.wall())?;
    let book = schema::prepare(&mut conn, path, index, retention::day(clock), false)?;
    let failed = |e| StoreError::sqlite(path, "close", e);
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .map_err(failed)?;
    conn.close().map_err(|(_, e)| failed(e))?;
    Ok(book.epoch)
}

/// What a store is made of.
pub struct StoreOptions {
    /// Where the others leave what they want.
    pub desk: Desk,
    /// `[store]`
    pub settings: StoreSettings,
    /// The database file.
    pub path: PathBuf,
    /// Where what is acknowledged is noted outside SQLite.
    pub ledger: PathBuf,
    /// The file system it lies on; evidence goes under its directory.
    pub medium: Arc<Medium>,
    /// Passed before each transaction.
    pub gate: Arc<Gate>,
    /// Room for the worst day; given up when the disk is full.
    pub reserve: Arc<Reserve>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Learns what writing costs.
    pub observer: Arc<dyn Observer>,
    /// The database was salvaged since it was last open: its rows are counted anew.
    pub salvaged: bool,
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("settings", &self.settings)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// A running store. Dropping it stops the writer and waits for it.
#[derive(Debug)]
pub struct Store {
    mailbox: Arc<mailbox::Mailbox>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens or makes the database, measures one commit and one checkpoint, and starts the
    /// writer. The gate must be open.
    pub fn start(options: StoreOptions) -> Result<Self, StoreError> {
        let mailbox = Arc::clone(&options.desk.mailbox);
        let (tell, opened) = std::sync::mpsc::sync_channel(1);
        // The connection never leaves its thread.
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || match Self::open(options) {
                Ok(writer) => {
                    tell.send(Ok(())).ok();
                    writer.run();
                }
                Err(e) => drop(tell.send(Err(e))),
            })
            .map_err(StoreError::Thread)?;
        let gone = || StoreError::Thread(std::io::Error::other("it ended while it opened"));
        opened.recv().unwrap_or_else(|_| Err(gone()))?;
        Ok(Self {
            mailbox,
            thread: Some(thread),
        })
    }

    fn open(options: StoreOptions) -> Result<writer::Writer, StoreError> {
        let StoreOptions {
            settings,
            path,
            ledger,
            medium,
            gate,
            reserve,
            clock,
            observer,
            desk,
            salvaged,
        } = options;
        let failed = |e| StoreError::sqlite(&path, "make a first commit to", e);
        let wall = clock.wall();
        let (mut conn, pass) = open(&path, &medium, &gate, wall)?;
        let mut book = schema::prepare(
            &mut conn,
            &path,
            settings.index,
            retention::day(&*clock),
            salvaged,
        )?;
        let frames = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&frames);
        // After the pragma: setting wal_autocheckpoint takes the hook away.
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, n: i32| {
            seen.store(n.unsigned_abs(), SeqCst);
            Ok(())
        }))
        .map_err(failed)?;
        conn.set_prepared_statement_cache_capacity(32);
        let mailbox = desk.mailbox;
        mailbox.stats.book(&book);
        let bytes = retention::bytes(&conn).map_err(failed)?;
        mailbox.stats.bytes.store(bytes, SeqCst);
        let ledger = account::open(
            &ledger, &mut book, salvaged, &mailbox, &medium, &gate, &clock,
        );
        let mut writer = writer::Writer {
            ledger,
            conn: Rc::new(conn),
            path: path.clone(),
            book,
            settings,
            mailbox: Arc::clone(&mailbox),
            medium,
            gate: Arc::clone(&gate),
            reserve,
            clock,
            observer,
            frames,
            clients: batch::Clients::default(),
            last_commit: None,
            gather: (0, Mono::default()),
            blocked: None,
            routine_after: Mono::default(),
            gate_retry: writer::GATE_RETRY,
            backlog: false,
            turn: false,
            copied: false,
            look_at: Mono::default(),
        };
        writer.sample().map_err(failed)?;
        // Its failure ends the store, which says so by its state.
        writer.checkpoint(Mode::Passive).ok();
        writer.keep_room();
        drop(pass);
        mailbox.lock().open = true;
        Ok(writer)
    }

    /// Where connections hand over readings.
    pub fn intake(&self) -> Intake {
        self.desk().intake()
    }

    /// Controls for guard and agent.
    pub fn orders(&self) -> Orders {
        self.desk().orders()
    }

    fn desk(&self) -> Desk {
        Desk {
            mailbox: Arc::clone(&self.mailbox),
        }
    }

    /// The numbers, without touching the disk.
    pub fn stats(&self) -> StoreStats {
        self.mailbox.stats()
    }

    /// Commits what the gate lets through, checkpoints, and stops the writer.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.orders().stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the store's writer thread panicked");
        }
    }
}
