//! Which frames are the log's: page size, byte order and salts of its current generation.
//!
//! A sound header says it. Where it is damaged the frames do: a frame whose checksum follows
//! from the one before proves page size and byte order at once, and since a restarted log is
//! written from the front, the generation that comes first in the file is the current one
//! however many frames of older ones stand behind it.

use super::checksum::{Order, Sum, big};
use super::header::{Header, HeaderFault, Salts, is_page_size};
use super::slot::{Geometry, Slot, Slots};
use super::{HeaderState, Known};
use crate::recovery::Bytes;

/// Slots looked at in one place of the file when page sizes are tried.
const WINDOW: u32 = 16;
/// Places in the file where they are tried.
const PLACES: u32 = 16;
/// Generations that are told apart; those further back in the file are older still.
const MOST_GENERATIONS: usize = 64;

/// What the frames are judged by.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) geometry: Geometry,
    pub(super) salts: Salts,
    /// The checksum before the first frame.
    pub(super) seed: Seed,
    pub(super) state: HeaderState,
    /// Nothing but the place in the file says that this generation is the current one.
    pub(super) certain: bool,
}

/// A checksum that the next frame's is to follow from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed {
    /// The best that is known.
    pub(super) sum: Sum,
    /// It was proven, not only read.
    pub(super) certain: bool,
}

/// Finds the current generation; `None` where no frame proves one.
pub(super) fn find(source: &dyn Bytes, known: Known<'_>) -> Option<Found> {
    let mut bytes = [0; Header::BYTES];
    let (got, _) = super::slot::read_what_can_be(source, &mut bytes, 0);
    let fault = match Header::read(&bytes[..got]) {
        Ok(header) if is_older(source, &header) => HeaderFault::Older,
        Ok(header) => return Some(told(&header, HeaderState::Intact)),
        Err(fault) => fault,
    };
    if fault != HeaderFault::Older
        && let Some(header) = mend(source, &bytes[..got])
    {
        return Some(told(&header, HeaderState::Mended(fault)));
    }
    by_frames(source, &bytes, known, fault)
}

/// The header that one changed byte explains: the one that the first frame follows from, or the
/// only one.
fn mend(source: &dyn Bytes, bytes: &[u8]) -> Option<Header> {
    let all = Header::mends(bytes);
    let vouched = |h: &&Header| {
        let geometry = Geometry::new(h.page_size, h.order);
        let first = Slots::new(source, geometry, 0, 1).next();
        first.is_some_and(|slot| {
            slot.salts == h.salts && geometry.after(h.sum(), &slot) == slot.stored
        })
    };
    let only = || all.first().filter(|_| all.len() == 1);
    all.iter().find(vouched).or_else(only).copied()
}

/// What a header says of its log.
fn told(header: &Header, state: HeaderState) -> Found {
    let sum = header.sum();
    Found {
        geometry: Geometry::new(header.page_size, header.order),
        salts: header.salts,
        seed: Seed { sum, certain: true },
        state,
        certain: true,
    }
}

/// Do the first frames belong together and to a generation after the header's?
fn is_older(source: &dyn Bytes, header: &Header) -> bool {
    let geometry = Geometry::new(header.page_size, header.order);
    let mut slots = Slots::new(source, geometry, 0, 2);
    match (slots.next(), slots.next()) {
        (Some(a), Some(b)) => {
            a.salts.follows(header.salts) && links(&geometry, &a, &b) && a.page > 0
        }
        _ => false,
    }
}

/// `b` follows from `a`, in the same generation.
fn links(geometry: &Geometry, a: &Slot, b: &Slot) -> bool {
    b.whole && !b.blank && a.salts == b.salts && geometry.after(a.stored, b) == b.stored
}

fn by_frames(
    source: &dyn Bytes,
    header: &[u8],
    known: Known<'_>,
    fault: HeaderFault,
) -> Option<Found> {
    let stated = [known.page_size, Some(big(header, 8))];
    let mut sizes: Vec<u32> = stated
        .into_iter()
        .flatten()
        .filter(|s| is_page_size(*s))
        .collect();
    for size in [4096, 1024, 512, 2048, 8192, 16_384, 32_768, 65_536] {
        sizes.push(size);
    }
    let mut tried = Vec::new();
    sizes.retain(|s| {
        let fresh = !tried.contains(s);
        tried.push(*s);
        fresh
    });
    let geometries: Vec<Geometry> = sizes
        .iter()
        .flat_map(|s| [Order::Little, Order::Big].map(|o| Geometry::new(*s, o)))
        .collect();
    let sampled = geometries.iter().copied().filter(|g| sample(source, g));
    let searched = geometries.iter().copied();
    sampled
        .chain(searched)
        .find_map(|g| settle(source, header, g, fault))
        .or_else(|| single(source, header, &geometries, fault))
}

/// Does any frame in some places of the file follow from the one before it?
fn sample(source: &dyn Bytes, geometry: &Geometry) -> bool {
    let all = geometry.slots(source.len());
    let step = (all / PLACES).max(WINDOW);
    (0..all).step_by(step as usize).any(|from| {
        let mut slots = Slots::new(source, *geometry, from, from.saturating_add(WINDOW));
        let mut last = slots.next();
        std::iter::from_fn(|| {
            let before = last?;
            last = slots.next();
            Some(links(geometry, &before, &last?))
        })
        .any(|linked| linked)
    })
}

/// The generations that frames of this geometry prove, and the current one among them.
fn settle(
    source: &dyn Bytes,
    header: &[u8],
    geometry: Geometry,
    fault: HeaderFault,
) -> Option<Found> {
    let mut slots = Slots::new(source, geometry, 0, u32::MAX);
    let first = slots.next()?;
    let mut before = first;
    let mut generations: Vec<Salts> = Vec::new();
    while let Some(slot) = slots.next() {
        if !generations.contains(&slot.salts) && links(&geometry, &before, &slot) {
            generations.push(slot.salts);
            if generations.len() == MOST_GENERATIONS {
                break;
            }
        }
        before = slot;
    }
    let front = *generations.first()?;
    if let Some(found) = proven_by_header(header, geometry, &first, fault) {
        return Some(found);
    }
    let stored = Salts(big(header, 16), big(header, 20));
    let is_frame = first.whole && first.page > 0;
    // A sector that was filled with one byte shows the same "salts" in header and frame.
    let newer = !first.salts.is_filling() && (first.salts == stored || first.salts.follows(front));
    // The one whose salts the header still shows; else what stands at the front of the file.
    let (salts, certain) = if first.salts == front || (is_frame && newer) {
        (first.salts, true)
    } else if !stored.is_filling() && generations.contains(&stored) {
        (stored, true)
    } else {
        (front, false)
    };
    Some(guessed(header, geometry, salts, fault, certain))
}

/// One frame alone, or none that another vouches for: the header's remains may still do.
fn single(
    source: &dyn Bytes,
    header: &[u8],
    geometries: &[Geometry],
    fault: HeaderFault,
) -> Option<Found> {
    let firsts: Vec<(Geometry, Slot)> = geometries
        .iter()
        .filter_map(|g| Some((*g, Slots::new(source, *g, 0, 1).next()?)))
        .filter(|(_, slot)| slot.whole && slot.page > 0)
        .collect();
    firsts
        .iter()
        .find_map(|(g, slot)| proven_by_header(header, *g, slot, fault))
        .or_else(|| {
            let stored = Salts(big(header, 16), big(header, 20));
            let (g, slot) = firsts
                .iter()
                .find(|(_, slot)| slot.salts == stored && !stored.is_filling())?;
            Some(guessed(header, *g, slot.salts, fault, true))
        })
}

/// The first frame's checksum, taken back over its bytes, is the header's.
fn proven_by_header(
    header: &[u8],
    geometry: Geometry,
    first: &Slot,
    fault: HeaderFault,
) -> Option<Found> {
    if !first.whole || first.page == 0 || first.salts.is_filling() {
        return None;
    }
    let sum = geometry.before(first);
    let page_size = u32::try_from(geometry.page_size).ok()?;
    let solved = Header::solve(geometry.order, page_size, first.salts, sum);
    let raw = Sum::stored(header, 24);
    (solved.is_some() || sum == raw).then_some(Found {
        geometry,
        salts: first.salts,
        seed: Seed { sum, certain: true },
        state: HeaderState::Mended(fault),
        certain: true,
    })
}

fn guessed(
    header: &[u8],
    geometry: Geometry,
    salts: Salts,
    fault: HeaderFault,
    certain: bool,
) -> Found {
    let raw = Sum::stored(header, 24);
    let rebuilt = u32::try_from(geometry.page_size)
        .ok()
        .map(|page_size| Header {
            order: geometry.order,
            page_size,
            checkpoint: big(header, 12),
            salts,
        });
    let proven = rebuilt.is_some_and(|h| h.sum() == raw);
    Found {
        geometry,
        salts,
        seed: Seed {
            sum: raw,
            certain: proven,
        },
        state: if proven {
            HeaderState::Mended(fault)
        } else {
            HeaderState::Rebuilt(fault)
        },
        certain,
    }
}
