//! One candidate written out: a database file alone, with the frames of its log applied.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::backfill::Backfill;
use super::choice::{self, Choice, Rule};
use super::{Candidate, Class, Traits, Work};
use crate::recovery::wal::{Overlay, Verdict};
use crate::recovery::{Pages, RecoveryError, Version};

/// Where the first page says by which journal the database is written: 2 is a log.
const JOURNAL: usize = 18;
const SIZE: usize = 28;
/// Written between two syncs.
const PORTION: usize = 1 << 20;

/// A database made of the pages that a [`Rule`] chooses.
#[derive(Debug)]
pub struct FromLog<'a> {
    overlay: Overlay<'a>,
    rule: Rule,
    choice: Choice,
    holes: u32,
    /// The database file below shows a later state than the frames laid over it.
    past: bool,
    mixed: bool,
    journal: Option<[u8; 2]>,
}

impl<'a> FromLog<'a> {
    /// The different candidates that the log gives, the likeliest first.
    pub fn all(overlay: Overlay<'a>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        // It reads the log again, so it is asked only where the log is not simply applied.
        let moved = match overlay.wal().verdict() {
            Verdict::Damaged(_) => Backfill::of(&overlay),
            Verdict::Absent
            | Verdict::Empty
            | Verdict::Clean { .. }
            | Verdict::TornTail { .. }
            | Verdict::Unreadable => Backfill::default(),
        };
        for rule in [
            Rule::Exact,
            Rule::Database,
            Rule::Proven,
            Rule::Plausible,
            Rule::Complete,
            Rule::Sqlite,
        ] {
            let choice = Choice::of(rule, &overlay, &moved);
            let past = choice.end(&overlay) > 0 && moved.is_past(choice.end(&overlay));
            let same = |c: &Self| (c.choice.size, &c.choice.used) == (choice.size, &choice.used);
            if is_fit(&choice, &overlay) && !all.iter().any(same) {
                all.push(Self {
                    overlay,
                    rule,
                    choice,
                    holes: 0,
                    past,
                    mixed: false,
                    journal: None,
                });
            }
        }
        all
    }

    fn read(&self, page: u32, buf: &mut [u8]) -> bool {
        let version = self.choice.version(page, &self.overlay);
        let read = version.is_some_and(|v| self.overlay.read(v, buf).is_ok());
        if !read {
            buf.fill(0);
        }
        read
    }

    /// Do pages of different times meet in a row?
    fn mixes(&self) -> bool {
        let mut page = vec![0; self.overlay.page_size()];
        self.read(1, &mut page);
        let usable = choice::usable(&self.overlay, &page);
        let mut mixes = |version: Option<Version>| {
            version.is_none_or(|v| {
                self.overlay.read(v, &mut page).is_err()
                    || choice::may_mix(&page, v.page == 1, usable)
            })
        };
        // A lost frame may have been any page: one like those that are left, for want of better.
        let like = self.choice.used.iter().filter(|_| self.choice.blind);
        self.choice.behind(&self.overlay).any(&mut mixes)
            || like
                .map(|(page, slot)| self.overlay.frame(*page, *slot))
                .any(&mut mixes)
    }

    /// The first page, for a file that is opened without a log; keeps what it said before.
    fn prepare(&mut self, page: &mut [u8]) {
        self.journal = match page.get(JOURNAL..JOURNAL + 2) {
            Some(&[a @ 1..=2, b @ 1..=2]) => Some([a, b]),
            Some(_) | None => None,
        };
        if self.journal.is_some() {
            page[JOURNAL..JOURNAL + 2].fill(1);
        }
        if let Some(size) = page.get_mut(SIZE..SIZE + 4) {
            size.copy_from_slice(&self.choice.size.to_be_bytes());
        }
    }

    fn write(&mut self, out: &Path, work: &Work<'_>) -> Result<(), RecoveryError> {
        let page_size = self.overlay.page_size();
        let io = |e| RecoveryError::io("write", out)(e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(out)
            .map_err(RecoveryError::io("create", out))?;
        let len = u64::from(self.choice.size) * page_size as u64;
        {
            let _pass = work.enter(out)?;
            file.set_len(len).map_err(io)?;
        }
        let mut portion = Vec::with_capacity(PORTION + page_size);
        let mut page = vec![0; page_size];
        let mut from = 0;
        for number in 1..=self.choice.size {
            if !self.read(number, &mut page) {
                self.holes += 1;
            }
            if number == 1 {
                self.prepare(&mut page);
            }
            portion.extend_from_slice(&page);
            if portion.len() >= PORTION || number == self.choice.size {
                let _pass = work.enter(out)?;
                put(&file, &portion, from).map_err(io)?;
                work.sync(&file, out)?;
                from += portion.len() as u64;
                (work.progress)(from, len);
                portion.clear();
            }
        }
        Ok(())
    }
}

impl Candidate for FromLog<'_> {
    fn name(&self) -> &'static str {
        self.rule.name()
    }

    fn traits(&self) -> Traits {
        let wal = self.overlay.wal();
        let all_seen = !wal.is_tail_suspected() && wal.skipped() == 0;
        let whole = self.choice.is_all_of(&self.overlay) && all_seen;
        let certain = self.overlay.wal().is_generation_certain()
            && self.overlay.wal().verdict() != Verdict::Unreadable;
        Traits {
            class: match self.rule {
                Rule::Plausible if self.choice.unproven > 0 => Class::Unvouched,
                _ if !certain => Class::Newest,
                _ if whole => Class::Whole,
                Rule::Database if self.choice.through > 0 => Class::Newest,
                Rule::Proven | Rule::Plausible => Class::Newest,
                Rule::Complete => Class::Transactions,
                Rule::Exact | Rule::Sqlite | Rule::Database => Class::Earlier,
            },
            through: self.choice.through,
            pages_behind: u32::try_from(self.choice.behind.len()).unwrap_or(u32::MAX),
            pages_unproven: self.choice.unproven,
            holes: self.holes,
            mixed: self.mixed,
        }
    }

    fn build(&mut self, out: &Path, work: &Work<'_>) -> Result<(), RecoveryError> {
        self.holes = 0;
        self.mixed = self.past || self.mixes();
        self.write(out, work)
    }

    fn finish(&mut self, out: &Path, work: &Work<'_>) -> Result<(), RecoveryError> {
        let Some(journal) = self.journal else {
            return Ok(());
        };
        let _pass = work.enter(out)?;
        let file = OpenOptions::new()
            .write(true)
            .open(out)
            .map_err(RecoveryError::io("open", out))?;
        file.write_all_at(&journal, JOURNAL as u64)
            .map_err(RecoveryError::io("write", out))?;
        work.sync(&file, out)
    }
}

/// Is there something to write, and not a size that a few bytes claim to fill the medium?
fn is_fit(choice: &Choice, overlay: &Overlay<'_>) -> bool {
    let known = choice.used.len() as u64 + u64::from(overlay.database_pages());
    let room = (64 << 20) / overlay.page_size() as u64;
    choice.size > 0 && u64::from(choice.size) <= known.saturating_mul(64).saturating_add(room)
}

/// Writes `bytes` and leaves out what is zero already.
fn put(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut from = at;
    for piece in bytes.chunks(4096) {
        if piece.iter().any(|b| *b != 0) {
            file.write_all_at(piece, from)?;
        }
        from += piece.len() as u64;
    }
    Ok(())
}
