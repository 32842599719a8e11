//! B-tree pages: the header, the cell pointers, the cells.
//!
//! It promises that every pointer and length it gives lies inside the page, whatever the page
//! holds, and that a page it calls orderly has the layout that SQLite gives its pages: cells,
//! free blocks and fragments fill the content area exactly and none overlaps another.
//!
//! Source: SQLite's file format, sections 1.6 "B-tree Pages" and 1.7 "Cell Payload Overflow
//! Pages".

use std::ops::Range;

use super::header::word;
use super::record::varint;

/// What a b-tree page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Leads to the leaves of a table.
    TableInterior,
    /// Holds rows.
    TableLeaf,
    /// Leads to, and holds, entries of an index or rows of a WITHOUT ROWID table.
    IndexInterior,
    /// Holds entries of an index or rows of a WITHOUT ROWID table.
    IndexLeaf,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            2 => Self::IndexInterior,
            5 => Self::TableInterior,
            10 => Self::IndexLeaf,
            13 => Self::TableLeaf,
            _ => return None,
        })
    }

    /// Has it children?
    pub(super) fn is_interior(self) -> bool {
        matches!(self, Self::TableInterior | Self::IndexInterior)
    }

    /// Is it of an index or a WITHOUT ROWID table?
    pub(super) fn is_index(self) -> bool {
        matches!(self, Self::IndexInterior | Self::IndexLeaf)
    }
}

/// A cell: where it lies, and what its first numbers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    /// Its bytes in the page.
    pub(super) place: Range<usize>,
    /// Left child of an interior cell; 0 in a leaf.
    pub(super) child: u32,
    /// Key of a table cell; 0 in an index.
    pub(super) rowid: i64,
    /// Bytes of the whole record; 0 in a table's interior cell.
    pub(super) payload: u64,
    /// The record's bytes that lie in this page.
    pub(super) local: Range<usize>,
    /// First page of the rest; 0 is none.
    pub(super) overflow: u32,
}

/// A page whose header says that it is of a b-tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    bytes: &'a [u8],
    /// The page's number; 0 where it is lost.
    pub(super) number: u32,
    /// Where the page's header begins: 100 in page 1.
    at: usize,
    usable: usize,
    /// What it is.
    pub(super) kind: Kind,
    /// How many cells it says it has.
    pub(super) cells: usize,
}

impl<'a> Node<'a> {
    /// Reads the header of page `number`; none when it is not that of a b-tree page.
    pub(super) fn parse(bytes: &'a [u8], number: u32, usable: usize) -> Option<Self> {
        let at = if number == 1 { 100 } else { 0 };
        let kind = Kind::of(*bytes.get(at)?)?;
        let usable = usable.min(bytes.len());
        let node = Self {
            bytes: bytes.get(..usable)?,
            number,
            at,
            usable,
            kind,
            cells: usize::from(u16::from_be_bytes([
                *bytes.get(at + 3)?,
                *bytes.get(at + 4)?,
            ])),
        };
        (node.pointers_end() <= usable).then_some(node)
    }

    /// A leaf of a table whose own header is lost; it says that it has no cells.
    pub(super) fn headless(bytes: &'a [u8], number: u32, usable: usize) -> Self {
        let usable = usable.min(bytes.len());
        Self {
            bytes: &bytes[..usable],
            number,
            at: if number == 1 { 100 } else { 0 },
            usable,
            kind: Kind::TableLeaf,
            cells: 0,
        }
    }

    fn pointers(&self) -> usize {
        self.at + if self.kind.is_interior() { 12 } else { 8 }
    }

    /// The byte behind the cell pointers.
    pub(super) fn pointers_end(&self) -> usize {
        self.pointers() + self.cells * 2
    }

    /// Where the cells begin. A page of 65,536 bytes without cells writes 0.
    fn content(&self) -> usize {
        match self.short(self.at + 5) {
            0 => 65_536,
            n => n,
        }
    }

    /// The bytes between the pointers and the cells; empty where either is not believable.
    pub(super) fn gap(&self) -> Range<usize> {
        self.pointers_end()..self.content().min(self.usable)
    }

    fn short(&self, at: usize) -> usize {
        match (self.bytes.get(at), self.bytes.get(at + 1)) {
            (Some(a), Some(b)) => usize::from(*a) << 8 | usize::from(*b),
            _ => 0,
        }
    }

    /// Right-most child of an interior page; 0 in a leaf.
    pub(super) fn right(&self) -> u32 {
        if self.kind.is_interior() {
            word(self.bytes, self.at + 8)
        } else {
            0
        }
    }

    /// The cell that pointer `i` points at; none when it cannot be one.
    pub(super) fn cell(&self, i: usize) -> Option<Cell> {
        if i >= self.cells {
            return None;
        }
        let at = self.pointer(i);
        (at >= self.pointers_end()).then(|| self.cell_at(at))?
    }

    /// Where pointer `i` points, sound or not.
    pub(super) fn pointer(&self, i: usize) -> usize {
        self.short(self.pointers() + i * 2)
    }

    /// The cell that begins at `at`; none when it would not end in the page.
    pub(super) fn cell_at(&self, at: usize) -> Option<Cell> {
        let mut next = at;
        let mut child = 0;
        if self.kind.is_interior() {
            self.bytes.get(at..at + 4)?;
            child = word(self.bytes, at);
            next += 4;
        }
        let mut payload = 0;
        if self.kind != Kind::TableInterior {
            let (n, len) = varint(self.bytes.get(next..)?)?;
            (payload, next) = (n, next + len);
        }
        let mut rowid = 0;
        if !self.kind.is_index() {
            let (n, len) = varint(self.bytes.get(next..)?)?;
            (rowid, next) = (n.cast_signed(), next + len);
        }
        let here = local(payload, self.usable, self.kind)?;
        let local = next..next + here;
        let mut end = local.end;
        let mut overflow = 0;
        if payload > here as u64 {
            self.bytes.get(end..end + 4)?;
            overflow = word(self.bytes, end);
            end += 4;
        }
        // A cell is at least as large as the free block that it may become.
        let end = end.max(at + 4);
        (end <= self.usable).then_some(Cell {
            place: at..end,
            child,
            rowid,
            payload,
            local,
            overflow,
        })
    }

    /// Where the free block that begins at `at` ends, if there is one.
    pub(super) fn behind_free(&self, at: usize) -> Option<usize> {
        let (next, len) = (self.short(at), self.short(at + 2));
        let end = at + len;
        let ordered = next == 0 || (next >= end && next < self.usable);
        (len >= 4 && end <= self.usable && ordered).then_some(end)
    }

    /// The bytes of this page that `range` names.
    pub(super) fn bytes(&self, range: Range<usize>) -> &'a [u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Cells, free blocks, fragments and the gap fill the page exactly, and keys ascend.
    pub(super) fn is_orderly(&self) -> bool {
        self.layout().is_some()
    }

    fn layout(&self) -> Option<()> {
        if !(self.pointers_end()..=self.usable).contains(&self.content()) {
            return None;
        }
        let mut places = Vec::with_capacity(self.cells);
        let mut last = None;
        for i in 0..self.cells {
            let cell = self.cell(i)?;
            if !self.kind.is_index() {
                if last.is_some_and(|l| l >= cell.rowid) {
                    return None;
                }
                last = Some(cell.rowid);
            }
            places.push(cell.place);
        }
        let mut free = self.short(self.at + 1);
        let mut before = 0;
        while free != 0 {
            let (next, len) = (self.short(free), self.short(free + 2));
            if free < self.content().max(before) || len < 4 || free + len > self.usable {
                return None;
            }
            if next != 0 && next < free + len {
                return None;
            }
            places.push(free..free + len);
            before = free + len;
            free = next;
        }
        places.sort_by_key(|p| p.start);
        let mut fragments = 0;
        let mut end = self.content();
        for p in places {
            fragments += p.start.checked_sub(end)?;
            end = p.end;
        }
        fragments += self.usable - end.min(self.usable);
        let said = usize::from(*self.bytes.get(self.at + 7)?);
        (fragments == said).then_some(())
    }
}

/// How many of `payload` bytes lie in the page, the rest in overflow pages; none where SQLite
/// would refuse the size.
pub(super) fn local(payload: u64, usable: usize, kind: Kind) -> Option<usize> {
    const LARGEST: u64 = 0x7fff_ffff;
    if payload > LARGEST {
        return None;
    }
    let payload = usize::try_from(payload).ok()?;
    let most = if kind == Kind::TableLeaf {
        usable - 35
    } else {
        (usable - 12) * 64 / 255 - 23
    };
    if payload <= most {
        return Some(payload);
    }
    let least = (usable - 12) * 32 / 255 - 23;
    let fits = least + (payload - least) % (usable - 4);
    Some(if fits <= most { fits } else { least })
}
