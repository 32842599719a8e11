//! The database with its log laid over it: every version of every page.

use std::io;

use super::checksum::big;
use super::{Mend, Wal};
use crate::recovery::source::bytes_before_end;
use crate::recovery::wal::header::is_page_size;
use crate::recovery::{Bytes, Pages, Version};

/// A database file (which may be missing) and its log.
#[derive(Clone, Copy)]
pub struct Overlay<'a> {
    database: Option<&'a dyn Bytes>,
    log: Option<&'a dyn Bytes>,
    wal: &'a Wal,
    page_size: usize,
}

impl<'a> Overlay<'a> {
    /// Lays `wal`, which was read from `log`, over `database`. `page_size` counts where the log
    /// does not say it, and is taken for 4096 where it is none.
    pub fn new(
        database: Option<&'a dyn Bytes>,
        log: Option<&'a dyn Bytes>,
        wal: &'a Wal,
        page_size: Option<u32>,
    ) -> Self {
        let stated = page_size.filter(|s| is_page_size(*s)).unwrap_or(4096);
        Self {
            database,
            log,
            wal,
            page_size: wal.page_size().unwrap_or(stated as usize),
        }
    }

    /// Pages of the database file; the last may be cut off.
    pub fn database_pages(&self) -> u32 {
        let len = self.database.map_or(0, Bytes::len);
        u32::try_from(len.div_ceil(self.page_size as u64)).unwrap_or(u32::MAX)
    }

    /// Pages of the database as its header states them, where SQLite would believe it; else
    /// those of the file.
    pub(in crate::recovery) fn stated_pages(&self) -> u32 {
        let mut head = [0; 100];
        let read = self.database.map(|d| d.read_at(&mut head, 0));
        let (size, file) = (big(&head, 28), self.database_pages());
        let whole = matches!(read, Some(Ok(n)) if n == head.len());
        // Each change notes its number beside the size: an old library does not.
        let believed = whole && big(&head, 24) == big(&head, 92) && (1..=file).contains(&size);
        if believed { size } else { file }
    }

    /// The log that is laid over it.
    pub fn wal(&self) -> &'a Wal {
        self.wal
    }

    /// The version of `page` in the frame at `slot`.
    pub(in crate::recovery) fn frame(&self, page: u32, slot: u32) -> Option<Version> {
        let geometry = self.wal.geometry?;
        let frame = self.wal.frames.get(slot as usize)?;
        // Behind the last commit stands what may have been the next one.
        let next = u32::try_from(self.wal.transactions.len()).unwrap_or(u32::MAX);
        Some(Version {
            page,
            transaction: Some(self.wal.transaction_of(slot).unwrap_or(next)),
            at: geometry.at(slot) + super::slot::FRAME_HEADER as u64,
            proven: frame.state.is_proven(),
        })
    }

    /// The version of `page` in the database file.
    pub(in crate::recovery) fn below(&self, page: u32) -> Option<Version> {
        (1..=self.database_pages())
            .contains(&page)
            .then(|| Version {
                page,
                transaction: None,
                at: u64::from(page - 1) * self.page_size as u64,
                proven: false,
            })
    }
}

impl<'a> Overlay<'a> {
    /// What mends a version, where it is known.
    fn mend(&self, v: Version) -> Option<&'a Mend> {
        let slot = v.transaction.and(self.wal.geometry)?.slot_of(v.at)?;
        self.wal.mends.get(&slot)
    }

    /// Where the bytes of a version lie.
    fn place(&self, v: Version) -> (Option<&'a dyn Bytes>, u64) {
        match (v.transaction, self.mend(v)) {
            (None, _) => (self.database, v.at),
            (Some(_), Some(Mend::Database)) => {
                let below = self.below(v.page).map_or(u64::MAX, |v| v.at);
                (self.database, below)
            }
            (Some(_), _) => (self.log, v.at),
        }
    }
}

impl Pages for Overlay<'_> {
    fn page_size(&self) -> usize {
        self.page_size
    }

    fn highest(&self) -> u32 {
        let last = self.wal.by_page.last();
        let logged = last.map_or(0, |s| self.wal.frames[*s as usize].page);
        self.database_pages().max(logged)
    }

    fn versions(&self, page: u32) -> Vec<Version> {
        let logged = self.wal.slots_of(page);
        self.below(page)
            .into_iter()
            .chain(logged.iter().filter_map(|s| self.frame(page, *s)))
            .collect()
    }

    fn read(&self, v: Version, buf: &mut [u8]) -> io::Result<()> {
        let (source, at) = self.place(v);
        let got = match source {
            Some(source) => source.read_at(buf, at)?,
            None => 0,
        };
        buf[got..].fill(0);
        if let Some(Mend::Byte { at, value }) = self.mend(v)
            && let Some(byte) = buf.get_mut(*at as usize)
        {
            *byte = *value;
        }
        Ok(())
    }

    fn present(&self, v: Version) -> usize {
        let (source, at) = self.place(v);
        source.map_or(0, |s| bytes_before_end(s.len(), at, self.page_size))
    }

    fn transaction_torn(&self, t: u32) -> bool {
        match self.wal.transactions.get(t as usize) {
            Some(t) => t.damaged > 0,
            None => true,
        }
    }
}

impl std::fmt::Debug for Overlay<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay")
            .field("page_size", &self.page_size)
            .field("database_pages", &self.database_pages())
            .field("wal", &self.wal.verdict())
            .finish_non_exhaustive()
    }
}
