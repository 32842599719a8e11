//! What the fuzz targets share: inputs in two parts, bounds on memory and reading, and a second,
//! plainer reader of each format to hold the first one to.
//!
//! A target must not end well when a promise is broken: everything here panics or aborts.

mod factors;
mod keeper;
mod linked;
mod memory;
mod reading;
mod rolled;

pub use factors::Haystack;
pub use keeper::Strict;
pub use linked::{Log, reseal};
pub use memory::bounded;
pub use reading::Counted;
pub use rolled::{originals, reseal_journal};

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use holdup::durable::{Gate, Medium};
use holdup::recovery::candidates::Work;

/// What a fuzzer varies: options, the bytes of a database, and of what lies beside it.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    options: u8,
    /// The database file.
    pub database: &'a [u8],
    /// Its log or journal.
    pub beside: &'a [u8],
}

impl<'a> Input<'a> {
    /// A byte of options, the size of the database in 512 bytes (little-endian, 2 bytes), the
    /// database, and what lies beside it.
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<3>()?;
        let size = usize::from(u16::from_le_bytes([head[1], head[2]])) * 512;
        let (database, beside) = rest.split_at(size.min(rest.len()));
        Some(Self {
            options: head[0],
            database,
            beside,
        })
    }

    /// The same as bytes.
    pub fn bytes(options: u8, database: &[u8], beside: &[u8]) -> Vec<u8> {
        let units = u16::try_from(database.len().div_ceil(512)).expect("a small database");
        let mut bytes = vec![options];
        bytes.extend(units.to_le_bytes());
        bytes.extend(database);
        bytes.resize(3 + usize::from(units) * 512, 0);
        bytes.extend(beside);
        bytes
    }

    /// Is option `n`, from 0 to 7, set?
    pub fn option(&self, n: u8) -> bool {
        self.options & 1 << n != 0
    }
}

/// A directory for what a target writes; `run` has it in memory.
pub struct Desk {
    dir: tempfile::TempDir,
    medium: Medium,
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
}

impl Desk {
    /// Made once, before the first input.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory in TMPDIR");
        let medium = Medium::open(dir.path()).expect("a medium");
        Self {
            dir,
            medium,
            gate: Arc::new(Gate::new()),
            stop: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Where a file goes; whatever is there is removed.
    pub fn free(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            if let Err(e) = std::fs::remove_file(&name) {
                assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "{name:?}");
            }
        }
        path
    }

    /// What work on copies needs.
    pub fn work(&self) -> Work<'_> {
        Work {
            medium: &self.medium,
            gate: &self.gate,
            stop: &self.stop,
            progress: &|_, _| {},
        }
    }
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}
