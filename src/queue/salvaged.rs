//! The rows of a damaged queue from two readers: what SQLite reads, and where it reads not all of
//! it, what lies in the pages.
//!
//! It promises that rows come in the order of their tables and numbers, that of one number only one
//! row comes, SQLite's where it has one, and that where a reader could not do its work, this is
//! said. Who reads the pages is given from outside: this room knows no page.

use std::iter::Peekable;
use std::path::{Path, PathBuf};

use super::error::QueueError;
use super::rows::{Met, SqlRows, place};
use super::schema::Book;

/// Makes at its second path, where there is nothing, a sound copy of the damaged queue at its
/// first; or says why not. Nobody has the queue open while it works.
pub type Salvage<'a> = &'a dyn Fn(&Path, &Path) -> Result<(), String>;

/// Keeps the queue's files, all of them, as evidence on the medium; says where, or why not. Nobody
/// has the queue open while it works.
pub type Keep<'a> = &'a dyn Fn(&Path) -> Result<PathBuf, String>;

/// See the module's text.
#[derive(Debug)]
pub struct AllRows {
    sql: Option<Peekable<SqlRows>>,
    pages: Option<Peekable<SqlRows>>,
    /// The numbers that go with the tables.
    book: Option<Book>,
    /// What SQLite could not read, if anything.
    pub damage: Option<String>,
    /// Why the pages could not be read, where that was tried.
    pub no_pages: Option<String>,
    /// Rows that only the pages gave, so far.
    pub from_pages: u64,
    copy: PathBuf,
}

impl AllRows {
    /// Reads the queue at `path`, and where SQLite cannot read all of it makes a copy by `salvage`
    /// at `copy`, which goes when this is dropped. Not while this process has the queue open.
    ///
    /// # Errors
    /// [`QueueError`] of SQLite's where neither can read anything.
    pub fn open(path: &Path, copy: &Path, salvage: Salvage<'_>) -> Result<Self, QueueError> {
        let damage = damage(path);
        let mut pages = None;
        let mut no_pages = None;
        if damage.is_some() {
            // Before SQLite has it open again: the copy is made under SQLite's own locks.
            match salvage(path, copy) {
                Ok(()) => match SqlRows::open(copy) {
                    Ok(rows) => pages = Some(rows),
                    Err(e) => no_pages = Some(e.to_string()),
                },
                Err(why) => no_pages = Some(why),
            }
        }
        let sql = match SqlRows::open(path) {
            Ok(rows) => Some(rows),
            Err(_) if pages.is_some() => None,
            Err(e) => {
                if let Some(why) = &no_pages {
                    log::warn!("the pages of {} give nothing: {why}", path.display());
                }
                return Err(e);
            }
        };
        let book = |rows: &Option<SqlRows>| rows.as_ref().and_then(SqlRows::book);
        Ok(Self {
            book: book(&sql).or_else(|| book(&pages)),
            sql: sql.map(Iterator::peekable),
            pages: pages.map(Iterator::peekable),
            damage,
            no_pages,
            from_pages: 0,
            copy: copy.to_owned(),
        })
    }

    /// The numbers that go with the tables, where they can be read.
    pub(super) fn take_book(&mut self) -> Option<Book> {
        self.book.take()
    }
}

/// Why SQLite does not read all of it, if so.
fn damage(path: &Path) -> Option<String> {
    match SqlRows::open(path) {
        Err(e) => Some(e.to_string()),
        Ok(rows) => rows.damaged_log().map(str::to_owned).or_else(|| {
            rows.into_iter().find_map(|met| match met {
                Met::Lost { why, .. } => Some(why),
                Met::Row(_) | Met::Invalid { .. } => None,
            })
        }),
    }
}

impl Iterator for AllRows {
    type Item = Met;

    fn next(&mut self) -> Option<Met> {
        let first = self.sql.as_mut().and_then(|rows| rows.peek().map(place));
        let second = self.pages.as_mut().and_then(|rows| rows.peek().map(place));
        let (Some(sql), Some(pages)) = (&mut self.sql, &mut self.pages) else {
            self.from_pages += u64::from(second.is_some());
            return self.sql.as_mut().or(self.pages.as_mut())?.next();
        };
        match (first, second) {
            (None, None) => None,
            (Some(a), Some(b)) if a > b => {
                self.from_pages += 1;
                pages.next()
            }
            (Some(a), b) => {
                if b == Some(a) {
                    pages.next();
                }
                sql.next()
            }
            (None, Some(_)) => {
                self.from_pages += 1;
                pages.next()
            }
        }
    }
}

impl Drop for AllRows {
    fn drop(&mut self) {
        (self.sql, self.pages) = (None, None);
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let path = crate::store::companion(&self.copy, suffix);
            if let Err(e) = std::fs::remove_file(&path)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                log::warn!("cannot remove {}: {e}", path.display());
            }
        }
    }
}
