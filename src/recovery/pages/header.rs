//! The database header, and what a file without one still shows of itself.
//!
//! It promises that what cannot be believed is left out rather than guessed, but for the page
//! size, without which nothing could be read: there the file's own pages are asked.
//!
//! Source: SQLite's file format, section 1.3 "The Database Header".

use std::io;

use super::super::source::Bytes;
use super::node::Node;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// How text is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// The default.
    #[default]
    Utf8,
    /// Least significant byte first.
    Utf16le,
    /// Most significant byte first.
    Utf16be,
}

impl Encoding {
    /// As `PRAGMA encoding` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Utf16le => "UTF-16le",
            Self::Utf16be => "UTF-16be",
        }
    }
}

/// The first 100 bytes of page 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes in a page.
    pub page_size: usize,
    /// Bytes at the end of each page that hold no cells, 0 to 32.
    pub reserved: usize,
    /// Pages in the file, as its last writer in rollback mode counted them; 0 where unknown.
    pub pages: u32,
    /// First trunk page of the freelist; 0 is none.
    pub freelist: u32,
    /// Pages on the freelist.
    pub free: u32,
    /// How text is stored.
    pub encoding: Encoding,
    /// Are there pointer-map pages?
    pub auto_vacuum: bool,
    /// Is auto-vacuum incremental?
    pub incremental: bool,
    /// `PRAGMA user_version`.
    pub user_version: i32,
    /// `PRAGMA application_id`.
    pub application_id: i32,
}

impl Header {
    /// Reads the header at the start of page 1; none when it is not one.
    pub fn parse(page: &[u8]) -> Option<Self> {
        let head = page.get(..100)?;
        let page_size = match u16::from_be_bytes([head[16], head[17]]) {
            1 => 65_536,
            n => usize::from(n),
        };
        // The payload fractions are constants of the format.
        if &head[..16] != MAGIC
            || !is_page_size(page_size)
            || head[21..24] != [64, 32, 32]
            || head[20] > 32
        {
            return None;
        }
        let encoding = match word(head, 56) {
            // 0: nothing was ever written to it.
            0 | 1 => Encoding::Utf8,
            2 => Encoding::Utf16le,
            3 => Encoding::Utf16be,
            _ => return None,
        };
        Some(Self {
            page_size,
            reserved: usize::from(head[20]),
            pages: word(head, 28),
            freelist: word(head, 32),
            free: word(head, 36),
            encoding,
            auto_vacuum: word(head, 52) != 0,
            incremental: word(head, 64) != 0,
            user_version: i32::from_be_bytes(four(head, 60)),
            application_id: i32::from_be_bytes(four(head, 68)),
        })
    }

    /// What is taken for a file whose header is lost.
    pub fn unknown(page_size: usize) -> Self {
        Self {
            page_size,
            reserved: 0,
            pages: 0,
            freelist: 0,
            free: 0,
            encoding: Encoding::Utf8,
            auto_vacuum: false,
            incremental: false,
            user_version: 0,
            application_id: 0,
        }
    }

    /// Bytes of a page that hold cells, at least 480.
    pub fn usable(&self) -> usize {
        self.page_size - self.reserved
    }
}

/// A power of two from 512 to 65,536.
pub(super) fn is_page_size(n: usize) -> bool {
    n.is_power_of_two() && (512..=65_536).contains(&n)
}

/// The page that holds the lock bytes and nothing else.
pub(super) fn lock_page(page_size: usize) -> u32 {
    const PENDING_BYTE: usize = 0x4000_0000;
    u32::try_from(PENDING_BYTE / page_size + 1).unwrap_or(u32::MAX)
}

/// Does `page` hold a pointer map, in a database with auto-vacuum?
pub(super) fn is_pointer_map(page: u32, usable: usize, page_size: usize) -> bool {
    page >= 2 && page == pointer_map_of(page, usable, page_size)
}

/// The page whose pointer map says where `page`, from 2 on, hangs.
pub(super) fn pointer_map_of(page: u32, usable: usize, page_size: usize) -> u32 {
    let each = u32::try_from(usable / 5).unwrap_or(u32::MAX - 1) + 1;
    let map = (page - 2) / each * each + 2;
    if map == lock_page(page_size) {
        map + 1
    } else {
        map
    }
}

/// The page size of a database file: its header's, else the one under which the most of its
/// pages are b-tree pages. 4,096, SQLite's own choice, where nothing tells.
pub fn page_size_of(file: &impl Bytes) -> io::Result<usize> {
    let mut head = [0; 100];
    if file.read_at(&mut head, 0)? == 100
        && let Some(header) = Header::parse(&head)
    {
        return Ok(header.page_size);
    }
    // Some 4 MB of the file, in eight places, are sample enough.
    const WINDOW: usize = 512 * 1024;
    let mut best = (0, 4096);
    let mut window = vec![0; WINDOW];
    let mut score = [0u64; 8];
    let step = (file.len() / 8 / 65_536 * 65_536).max(WINDOW as u64);
    for i in 0..8 {
        let n = file.read_at(&mut window, i * step)?;
        for (size, score) in (9..=16).map(|bits| 1usize << bits).zip(&mut score) {
            for page in window[..n].chunks_exact(size) {
                if Node::parse(page, 2, size).is_some_and(|node| node.is_orderly()) {
                    *score += size as u64;
                }
            }
        }
    }
    for (bits, score) in score.into_iter().enumerate() {
        if score > best.0 {
            best = (score, 512 << bits);
        }
    }
    Ok(best.1)
}

fn four(bytes: &[u8], at: usize) -> [u8; 4] {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .unwrap_or_default()
}

/// The big-endian number at `at`; 0 behind the end.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(four(bytes, at))
}
