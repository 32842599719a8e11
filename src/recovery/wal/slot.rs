//! Where the frames of a log lie, and what one of them says.
//!
//! A slot is the place of a frame: 24 bytes of header, then a page. Places follow from the page
//! size alone, so that damage to one frame never moves another.

use super::checksum::{Order, Span, Sum, big};
use super::header::{Header, Salts};
use crate::recovery::Bytes;

/// Bytes before the page.
pub(super) const FRAME_HEADER: usize = 24;
/// Bytes of the frame's header that the checksum covers: page number and size after commit.
const SUMMED: usize = 8;
/// Most slots that are looked at: 8 GiB of log at 4 KiB a page, and 60 MB of notes about them.
pub(super) const MOST_SLOTS: u32 = 1 << 21;
/// Bytes read at a time.
const CHUNK: usize = 1 << 18;
/// What a card fails to read it fails to read in such pieces.
const SECTOR: usize = 512;

/// Page size and byte order, and what follows from them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) page_size: usize,
    pub(super) order: Order,
    forth: Span,
    back: Span,
    page_forth: Span,
    page_back: Span,
    quarter: Span,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) page: u32,
    pub(super) size_after: u32,
    pub(super) salts: Salts,
    /// The checksum as it is stored.
    pub(super) stored: Sum,
    /// The sum over its summed bytes from a seed of zero.
    own: Sum,
    /// Not cut off by the end of the file.
    pub(super) whole: bool,
    /// Nothing but zeros.
    pub(super) blank: bool,
}

impl Geometry {
    pub(super) fn new(page_size: u32, order: Order) -> Self {
        let page_size = page_size as usize;
        Self {
            page_size,
            order,
            forth: Span::forth(SUMMED + page_size),
            back: Span::back(SUMMED + page_size),
            page_forth: Span::forth(page_size),
            page_back: Span::back(page_size),
            quarter: Span::forth(page_size / 4),
        }
    }

    /// Bytes in a frame.
    pub(super) fn frame(&self) -> usize {
        FRAME_HEADER + self.page_size
    }

    /// Where slot `slot` begins.
    pub(super) fn at(&self, slot: u32) -> u64 {
        Header::BYTES as u64 + u64::from(slot) * self.frame() as u64
    }

    /// The slot whose page lies at `at`.
    pub(super) fn slot_of(&self, at: u64) -> Option<u32> {
        let body = at.checked_sub((Header::BYTES + FRAME_HEADER) as u64)?;
        u32::try_from(body / self.frame() as u64).ok()
    }

    /// How many slots begin in a file of `len` bytes with a whole header.
    pub(super) fn all_slots(&self, len: u64) -> u64 {
        let body = len.saturating_sub(Header::BYTES as u64);
        let frame = self.frame() as u64;
        body / frame + u64::from(body % frame >= FRAME_HEADER as u64)
    }

    /// How many of them are looked at.
    pub(super) fn slots(&self, len: u64) -> u32 {
        u32::try_from(self.all_slots(len)).map_or(MOST_SLOTS, |n| n.min(MOST_SLOTS))
    }

    /// What the bytes of a frame say; they are as many as one has.
    pub(super) fn parse(&self, bytes: &[u8], whole: bool) -> Slot {
        let (head, page) = bytes.split_at(FRAME_HEADER);
        let fields = Sum::default().over(self.order, &head[..SUMMED]);
        let own = self.page_forth.carry(fields) + Sum::of(self.order, page, self.quarter);
        Slot {
            page: big(head, 0),
            size_after: big(head, 4),
            salts: Salts(big(head, 8), big(head, 12)),
            stored: Sum::stored(head, 16),
            own,
            whole,
            blank: own == Sum::default() && bytes.iter().all(|b| *b == 0),
        }
    }

    /// The checksum after `slot` if `seed` is the one before.
    pub(super) fn after(&self, seed: Sum, slot: &Slot) -> Sum {
        self.forth.carry(seed) + slot.own
    }

    /// The checksum before `slot` if its bytes and its stored checksum are sound.
    pub(super) fn before(&self, slot: &Slot) -> Sum {
        self.back.carry(slot.stored - slot.own)
    }

    /// Page number and size after commit that lead from `seed` to `right` if the page is sound.
    pub(super) fn fields(&self, slot: &Slot, seed: Sum, right: Sum) -> (u32, u32) {
        let wrong = self.after(seed, slot);
        // Of the state right behind the two words: (x, x + y), so that y is the difference.
        let change = self.page_back.carry(right - wrong);
        let (x, y) = (
            self.order.field(slot.page).wrapping_add(change.s0),
            self.order
                .field(slot.size_after)
                .wrapping_add(change.s1.wrapping_sub(change.s0)),
        );
        (self.order.field(x), self.order.field(y))
    }

    /// The summed bytes of a frame, one behind the other.
    pub(super) fn summed<'a>(&self, frame: &[u8], into: &'a mut Vec<u8>) -> &'a [u8] {
        into.clear();
        into.extend_from_slice(&frame[..SUMMED]);
        into.extend_from_slice(&frame[FRAME_HEADER..]);
        into
    }

    /// Reads one slot into `frame`; false where the file ends before it does.
    pub(super) fn read(&self, source: &dyn Bytes, slot: u32, frame: &mut Vec<u8>) -> bool {
        frame.resize(self.frame(), 0);
        let (got, _) = read_what_can_be(source, frame, self.at(slot));
        got == frame.len()
    }
}

/// Reads the slots from one on, in order.
pub(super) struct Slots<'a> {
    source: &'a dyn Bytes,
    geometry: Geometry,
    next: u32,
    end: u32,
    chunk: Vec<u8>,
    /// Slots in `chunk` that were not given yet begin here.
    at: usize,
    got: usize,
    /// Bytes that could not be read so far.
    pub(super) unreadable: u64,
}

impl<'a> Slots<'a> {
    pub(super) fn new(source: &'a dyn Bytes, geometry: Geometry, from: u32, end: u32) -> Self {
        let frame = geometry.frame();
        let room = (CHUNK / frame).max(1) * frame;
        Self {
            source,
            geometry,
            next: from,
            end: end.min(geometry.slots(source.len())),
            chunk: vec![0; room],
            at: 0,
            got: 0,
            unreadable: 0,
        }
    }

    pub(super) fn next(&mut self) -> Option<Slot> {
        if self.next >= self.end {
            return None;
        }
        if self.at >= self.got {
            let left = (self.end - self.next) as usize;
            let want = self
                .chunk
                .len()
                .min(left.saturating_mul(self.geometry.frame()));
            let at = self.geometry.at(self.next);
            let (got, failed) = read_what_can_be(self.source, &mut self.chunk[..want], at);
            self.chunk[got..].fill(0);
            self.got = got;
            self.unreadable += failed;
            self.at = 0;
        }
        let end = self.at + self.geometry.frame();
        let slot = self
            .geometry
            .parse(&self.chunk[self.at..end], end <= self.got);
        self.at = end;
        self.next += 1;
        Some(slot)
    }
}

/// Reads at `at`, and says how many bytes the file has there and how many of them could not be
/// read. Those count as zeros, for which no checksum will vouch.
pub(super) fn read_what_can_be(source: &dyn Bytes, buf: &mut [u8], at: u64) -> (usize, u64) {
    if let Ok(n) = source.read_at(buf, at) {
        buf[n..].fill(0);
        return (n, 0);
    }
    let left = source.len().saturating_sub(at);
    let there = usize::try_from(left).map_or(buf.len(), |n| n.min(buf.len()));
    let (mut done, mut failed) = (0, 0);
    while done < there {
        // Pieces end where the sectors of the file do.
        let here = at + done as u64;
        let into = usize::try_from(here % SECTOR as u64).unwrap_or(0);
        let n = (SECTOR - into).min(there - done);
        let piece = &mut buf[done..done + n];
        let got = source.read_at(piece, here).unwrap_or(0);
        piece[got..].fill(0);
        failed += (n - got) as u64;
        done += n;
    }
    buf[there..].fill(0);
    (there, failed)
}
