//! Snapshots as recovery asks for them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::durable::{Bulk, DurableError, Medium};
use crate::recovery::candidates::Work;
use crate::recovery::{RecoveryError, Snapshot, Snapshots, Unpacked};

use super::archive::unpack;
use super::error::SnapshotError;
use super::shelf::Shelf;

/// The snapshots in one directory.
#[derive(Debug)]
pub struct Recall<'a> {
    dir: PathBuf,
    medium: &'a Medium,
}

impl<'a> Recall<'a> {
    /// The snapshots in `dir`.
    pub fn new(dir: PathBuf, medium: &'a Medium) -> Self {
        Self { dir, medium }
    }

    fn shelf(&self) -> Shelf<'_> {
        Shelf {
            dir: &self.dir,
            medium: self.medium,
        }
    }
}

impl Snapshots for Recall<'_> {
    fn of(&self, database: &Path, refused: &mut dyn FnMut(String)) -> Vec<Snapshot> {
        let name = database.file_name().unwrap_or_default().to_string_lossy();
        let listed = self.shelf().list(&name, &mut |e| {
            refused(format!("passed over a snapshot: {e}"))
        });
        let all = listed.unwrap_or_else(|e| {
            refused(format!("no snapshot can be used: {e}"));
            Vec::new()
        });
        all.into_iter()
            .map(|m| Snapshot {
                epoch: m
                    .epoch
                    .as_deref()
                    .and_then(|e| u64::from_str_radix(e, 16).ok()),
                name: m.archive,
                taken_at: m.taken_at,
                highest: m.highest_id,
                bytes: m.plain_bytes,
            })
            .collect()
    }

    fn unpack(
        &self,
        database: &Path,
        snapshot: &Snapshot,
        out: &Path,
        work: &Work<'_>,
    ) -> Result<Unpacked, RecoveryError> {
        let name = database.file_name().unwrap_or_default().to_string_lossy();
        let refused = |e: SnapshotError| Ok(Unpacked::Refused(e.to_string()));
        let all = match self.shelf().list(&name, &mut |_| ()) {
            Ok(all) => all,
            Err(e) => return refused(e),
        };
        let Some(m) = all.into_iter().find(|m| m.archive == snapshot.name) else {
            return Ok(Unpacked::Refused("it is gone".to_owned()));
        };
        let mut sink = Sink {
            file: Bulk::create(out, work.medium, work.gate, work.stop)?,
            failed: None,
        };
        let done = unpack(&self.shelf().path(&m), &m, &mut sink);
        // Its own fault and the medium's are told apart: after the second no other one is tried.
        if let Some(source) = sink.failed {
            if work.stop.load(Ordering::Relaxed) {
                return Err(RecoveryError::Stopped {
                    path: out.to_owned(),
                });
            }
            return Err(RecoveryError::Io {
                doing: "write",
                path: out.to_owned(),
                source,
            });
        }
        match done {
            Ok(()) => {
                finish(sink.file)?;
                Ok(Unpacked::Whole)
            }
            Err(e) => refused(e),
        }
    }
}

fn finish(file: Bulk<'_>) -> Result<(), DurableError> {
    file.finish().map(drop)
}

struct Sink<'a> {
    file: Bulk<'a>,
    failed: Option<io::Error>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|e| {
            let told = io::Error::new(e.kind(), e.to_string());
            self.failed = Some(e);
            told
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
