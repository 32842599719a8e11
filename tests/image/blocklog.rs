//! What reached the card, and in which order: QEMU's log of every write below the emulated card,
//! in the format of the kernel's dm-log-writes.
//!
//! The log is complete at any instant, while the machine runs and after it died: QEMU writes the
//! superblock again after every entry. The card gets no flushes (QEMU's sd-card has no cache to
//! flush), so "written" is "durable" here. It also takes one sector of 512 bytes at a time,
//! whatever the guest's request was: count bytes or runs of sectors, not entries.
//!
//! Format: a superblock sector (u64 magic, u64 version, u64 entries, u32 sector size; little
//! endian), then for each entry a sector (u64 sector, u64 count, u64 flags, u64 data length)
//! followed by its data.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: u64 = 0x006a_7366_7773_6872;
/// Sparse room for the log: QEMU does not let it grow.
const ROOM: u64 = 64 << 30;
const FLAG_FLUSH: u64 = 1;
const FLAG_DISCARD: u64 = 4;

/// The log of one machine's writes to its card.
#[derive(Debug, Clone)]
pub(crate) struct BlockLog {
    path: PathBuf,
}

/// A place in the log: everything before it had reached the card by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(u64);

/// One request that reached the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// First sector of 512 bytes, counted from the start of the card.
    pub(crate) sector: u64,
    /// Length in sectors; 0 for a mere flush.
    pub(crate) sectors: u64,
    pub(crate) kind: EntryKind,
    /// Where the written bytes are in the log file.
    data_at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Write,
    Flush,
    Discard,
}

impl BlockLog {
    /// An empty log at `path`, for a machine that is yet to boot.
    pub(crate) fn create(path: &Path) -> Self {
        File::create(path)
            .and_then(|file| file.set_len(ROOM))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self {
            path: path.to_owned(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.superblock().map_or(0, |(entries, _)| entries))
    }

    /// Every entry so far.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let Some((count, sector_size)) = self.superblock() else {
            return Vec::new();
        };
        let file = self.open();
        let mut entries = Vec::new();
        let mut at = sector_size;
        for _ in 0..count {
            let [sector, sectors, flags, _] = read_words(&file, at);
            let data_at = at + sector_size;
            let discard = flags & FLAG_DISCARD != 0;
            at = data_at + if discard { 0 } else { sectors * sector_size };
            let kind = match (discard, flags & FLAG_FLUSH != 0 && sectors == 0) {
                (true, _) => EntryKind::Discard,
                (false, true) => EntryKind::Flush,
                (false, false) => EntryKind::Write,
            };
            let scale = sector_size / 512;
            entries.push(Entry {
                sector: sector * scale,
                sectors: sectors * scale,
                kind,
                data_at,
            });
        }
        entries
    }

    /// What reached the card after `mark`.
    pub(crate) fn since(&self, mark: Mark) -> Vec<Entry> {
        let skip = usize::try_from(mark.0).expect("an entry count fits");
        self.entries().split_off(skip)
    }

    /// What reaches the card from now on, while it does.
    pub(crate) fn follow(&self) -> Follower<'_> {
        let entries = self.entries();
        let end = |e: &Entry| match e.kind {
            EntryKind::Write => e.data_at + e.sectors * 512,
            EntryKind::Flush | EntryKind::Discard => e.data_at,
        };
        Follower {
            log: self,
            file: self.open(),
            seen: entries.len() as u64,
            at: entries.last().map_or(512, end),
        }
    }

    /// The bytes that `entry` wrote.
    pub(crate) fn data(&self, entry: &Entry) -> Vec<u8> {
        let mut data = vec![0; usize::try_from(entry.sectors * 512).expect("a write fits")];
        if entry.kind == EntryKind::Write {
            self.open()
                .read_exact_at(&mut data, entry.data_at)
                .expect("reading the block log");
        }
        data
    }

    /// Applies the first `count` entries to `image`, a copy of the card as it was before the log.
    pub(crate) fn replay(&self, count: usize, image: &Path) {
        let card = File::options()
            .write(true)
            .open(image)
            .expect("opening the card's copy");
        for entry in self.entries().iter().take(count) {
            if entry.kind == EntryKind::Write {
                card.write_all_at(&self.data(entry), entry.sector * 512)
                    .expect("writing the card's copy");
            }
        }
    }

    /// Entries and sector size; nothing before the machine's first write.
    fn superblock(&self) -> Option<(u64, u64)> {
        let file = self.open();
        let [magic, _version, entries, sector_size] = read_words(&file, 0);
        if magic == 0 {
            return None;
        }
        assert_eq!(magic, MAGIC, "{} is no block log", self.path.display());
        Some((entries, sector_size & 0xffff_ffff))
    }

    fn open(&self) -> File {
        File::open(&self.path).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()))
    }
}

/// The end of a log that grows.
#[derive(Debug)]
pub(crate) struct Follower<'l> {
    log: &'l BlockLog,
    file: File,
    seen: u64,
    at: u64,
}

impl Follower<'_> {
    /// The bytes of the next write (none for a flush); `None`: there was none since.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let (entries, sector_size) = self.log.superblock()?;
        if self.seen == entries {
            return None;
        }
        let [_, sectors, flags, _] = read_words(&self.file, self.at);
        let length = match flags & FLAG_DISCARD {
            0 => sectors * sector_size,
            _ => 0,
        };
        let mut data = vec![0; usize::try_from(length).expect("a write fits")];
        self.file
            .read_exact_at(&mut data, self.at + sector_size)
            .expect("reading the block log");
        self.at += sector_size + length;
        self.seen += 1;
        Some(data)
    }
}

fn read_words(file: &File, at: u64) -> [u64; 4] {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at)
        .expect("reading the block log");
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }
    words
}
