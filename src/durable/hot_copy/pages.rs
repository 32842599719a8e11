//! The writer's side: pages by SQLite's backup API, on its own connection.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::super::gate::Gate;
use super::{CopyError, CopyOrder, STEP, State, What};

/// KiB of the copy that SQLite holds back before it writes.
const CACHE_KIB: u32 = 256;

/// The file that a copy is written to, open.
#[derive(Debug)]
pub struct Target {
    conn: Connection,
    order: CopyOrder,
    path: PathBuf,
}

impl Target {
    /// Opens the file that a beginning order names; answers where that fails, and every order that
    /// begins nothing.
    pub fn open(order: CopyOrder) -> Option<Self> {
        let What::Begin(path) = &order.what else {
            order.idle();
            return None;
        };
        let path = path.clone();
        match open(&path) {
            Ok(conn) => Some(Self { conn, order, path }),
            Err(source) => {
                order.reply(Err(CopyError::Sqlite { path, source }));
                None
            }
        }
    }

    /// Begins the copy of `source`; answers the order.
    pub fn begin<'c>(&'c mut self, source: &'c Connection) -> Option<Copying<'c>> {
        let size = source.query_row("PRAGMA page_size", [], |r| r.get::<_, u32>(0));
        let begun = size.and_then(|size| {
            let backup = Backup::new(source, &mut self.conn)?;
            Ok((backup, size))
        });
        // The order stays here for its answer's sake only.
        match begun {
            Ok((backup, size)) => {
                self.order.answer.try_send(Ok(State::Begun)).ok();
                Some(Copying {
                    backup,
                    page_size: u64::from(size.max(512)),
                    path: &self.path,
                })
            }
            Err(source) => {
                let path = self.path.clone();
                let failed = CopyError::Sqlite { path, source };
                self.order.answer.try_send(Err(failed)).ok();
                None
            }
        }
    }
}

/// Nothing is kept back for a rollback: an unfinished copy is thrown away.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KIB};"
    ))?;
    Ok(conn)
}

/// A copy that is being made. Between two steps it holds no lock of the source.
pub struct Copying<'c> {
    backup: Backup<'c, 'c>,
    page_size: u64,
    path: &'c Path,
}

impl std::fmt::Debug for Copying<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copying")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Copying<'_> {
    /// Carries out one order, and says whether the copy goes on. Pages are written only with a
    /// pass.
    pub fn obey(&mut self, order: CopyOrder, gate: &Gate) -> ControlFlow<()> {
        match order.what {
            What::Begin(_) => order.reply(Err(CopyError::Busy)),
            What::End => {
                order.reply(Ok(State::Ended));
                return ControlFlow::Break(());
            }
            What::Step => {
                let Some(pass) = gate.try_enter() else {
                    order.reply(Ok(State::Closed));
                    return ControlFlow::Continue(());
                };
                let stepped = self.step();
                drop(pass);
                let goes_on = matches!(stepped, Ok(State::More { .. }));
                order.reply(stepped);
                if !goes_on {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn step(&self) -> Result<State, CopyError> {
        let failed = |source| CopyError::Sqlite {
            path: self.path.to_owned(),
            source,
        };
        let pages = i32::try_from(STEP / self.page_size).unwrap_or(1).max(1);
        if self.backup.step(pages).map_err(failed)? == StepResult::Done {
            return Ok(State::Done);
        }
        // Where somebody else's lock kept it from moving the next step tries again.
        let p = self.backup.progress();
        let bytes = |pages: i32| u64::from(pages.unsigned_abs()) * self.page_size;
        Ok(State::More {
            done: bytes(p.pagecount - p.remaining),
            all: bytes(p.pagecount),
        })
    }
}
