//! Every slot of the log judged: is there a frame of the current generation, and is it sound?
//!
//! A frame is proven where its bytes lead from the checksum before it to the one behind it. Of
//! those two each is known from more than one side, so that a damaged field of a header can be
//! told from a damaged page, and in many cases put right:
//!
//! | damaged | what still proves the frame |
//! |---|---|
//! | its salts | the checksum runs through it |
//! | its checksum | the next frame follows from the computed one |
//! | one byte of the page | its place and value follow from them too, in half of the cases |
//! | the page | the database file has it since a checkpoint, and the checksum runs through that |
//!
//! Where its whole header is lost, page number and size after commit follow from the checksums
//! before and behind it; that is no proof, but it is a place for the page. The checksum behind it is
//! then worked out from the next frame, which cannot vouch for itself: that one is unproven too,
//! unless the database file has the same page.
//!
//! Several frames of the log that a card wrote to another place of it, one behind the other, link
//! among themselves: the first is found damaged, those behind it are taken for what they say.
//!
//! It must never call a frame proven on less than 40 bits of evidence.

use std::collections::BTreeMap;

use super::checksum::{Sum, one_byte};
use super::generation::{Found, Seed};
use super::header::Salts;
use super::slot::{FRAME_HEADER, Geometry, Slot, Slots};
use super::{Known, MOST_PAGES};
use crate::recovery::Bytes;

/// Most frames that are put right; those behind them stay damaged.
const MOST_MENDS: usize = 1 << 16;

/// What is known of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// SQLite accepts it, as far as the frames before it let it come here.
    Intact,
    /// Damaged, and all of its fields and its page are proven again.
    Mended,
    /// It belongs here and nothing speaks against it, but what would vouch for it is damaged.
    Unproven,
    /// Its page is damaged or cut off; its own page number and commit mark can be believed.
    DamagedPage,
    /// Nothing in it can be relied on.
    Lost,
    /// Behind the last frame: left from an older generation.
    Stale,
    /// Behind the last frame: never written.
    Blank,
    /// Behind the last frame: neither of these.
    Garbage,
}

impl State {
    /// A checksum vouches for page number, commit mark and page.
    pub fn is_proven(self) -> bool {
        matches!(self, Self::Intact | Self::Mended)
    }

    /// Its page or more is lost.
    pub fn is_damaged(self) -> bool {
        matches!(self, Self::DamagedPage | Self::Lost)
    }

    fn is_tail(self) -> bool {
        matches!(self, Self::Stale | Self::Blank | Self::Garbage)
    }
}

/// How a damaged frame is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mend {
    /// The byte of the page at `at` is `value`.
    Byte { at: u32, value: u8 },
    /// The page was checkpointed: the database file has it.
    Database,
    /// Not mended: its page number may just as well be this one.
    Rival { page: u32 },
}

/// A judged slot, kept small: there may be millions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged {
    pub(super) page: u32,
    pub(super) size_after: u32,
    pub(super) state: State,
    /// Unproven, but that a frame was written here is beyond doubt: with the header that the one
    /// before lost it makes sense.
    pub(super) written: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Scan {
    /// The slots of the current generation, to the last one that belongs to it.
    pub(super) frames: Vec<Judged>,
    /// What lies behind them.
    pub(super) tail: Tail,
    pub(super) mends: BTreeMap<u32, Mend>,
    /// Bytes that the medium did not give.
    pub(super) unreadable: u64,
    /// Slots behind those that were looked at.
    pub(super) skipped: u64,
}

/// Slots behind the last frame of the current generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tail {
    /// Frames of older generations.
    pub stale: u32,
    /// Never written.
    pub blank: u32,
    /// Neither.
    pub garbage: u32,
}

/// Judges all slots of the log beside the database that is `known`.
pub(super) fn scan(source: &dyn Bytes, found: &Found, known: Known<'_>) -> Scan {
    let there = found.geometry.all_slots(source.len());
    let most = known.most_frames.unwrap_or(u32::MAX);
    let all = found.geometry.slots(source.len()).min(most);
    let mut judge = Judge {
        source,
        geometry: found.geometry,
        salts: found.salts,
        database: known.database,
        bound: known.pages.min(MOST_PAGES).saturating_add(all),
        mends: BTreeMap::new(),
        frame: Vec::new(),
        summed: Vec::new(),
    };
    let mut slots = Slots::new(source, found.geometry, 0, all);
    let mut frames = Vec::with_capacity(all as usize);
    let mut before = Before {
        seed: found.seed,
        ours: true,
        borrowed: false,
    };
    let mut at = 0;
    let mut current = slots.next();
    while let Some(slot) = current {
        let next = slots.next();
        let (judged, after) = judge.slot(at, &slot, next.as_ref(), before);
        frames.push(judged);
        before = after;
        current = next;
        at += 1;
    }
    let end = end_of(&frames);
    let mut tail = Tail::default();
    for f in &frames[end..] {
        match f.state {
            State::Stale => tail.stale += 1,
            // The current generation never came past an older frame: what an older one left torn
            // there says nothing of it.
            State::Garbage if tail.stale > 0 => tail.stale += 1,
            State::Blank => tail.blank += 1,
            State::Garbage
            | State::Intact
            | State::Mended
            | State::Unproven
            | State::DamagedPage
            | State::Lost => tail.garbage += 1,
        }
    }
    frames.truncate(end);
    for f in &mut frames {
        // A frame of the current generation behind it: here was one too.
        if f.state.is_tail() {
            f.state = State::Lost;
        }
    }
    Scan {
        frames,
        tail,
        mends: judge.mends,
        unreadable: slots.unreadable,
        skipped: there - u64::from(all),
    }
}

/// Where the current generation ends. What bears its salts but is not proven belongs to it only
/// as far as no older frame lies between: such a place was never written again.
fn end_of(frames: &[Judged]) -> usize {
    let proven = frames
        .iter()
        .rposition(|f| f.state.is_proven())
        .map_or(0, |last| last + 1);
    let mut end = proven;
    for (i, f) in frames.iter().enumerate().skip(proven) {
        if f.state == State::Stale {
            break;
        }
        if !f.state.is_tail() {
            end = i + 1;
        }
    }
    end
}

/// What is known in front of a slot.
#[derive(Debug, Clone, Copy)]
struct Before {
    seed: Seed,
    /// The slot before belongs to the current generation.
    ours: bool,
    /// The seed was worked out from the frame that it is the seed of.
    borrowed: bool,
}

struct Judge<'a> {
    source: &'a dyn Bytes,
    database: Option<&'a dyn Bytes>,
    geometry: Geometry,
    salts: Salts,
    /// The highest page number that is believed without proof.
    bound: u32,
    mends: BTreeMap<u32, Mend>,
    frame: Vec<u8>,
    summed: Vec<u8>,
}

impl Judge<'_> {
    fn slot(
        &mut self,
        at: u32,
        slot: &Slot,
        next: Option<&Slot>,
        before: Before,
    ) -> (Judged, Before) {
        let proven = |state, sum, page, size_after| {
            let seed = Seed { sum, certain: true };
            let judged = Judged {
                page,
                size_after,
                state,
                written: state.is_proven() || before.borrowed,
            };
            let after = Before {
                seed,
                ours: true,
                borrowed: false,
            };
            (judged, after)
        };
        if let Some((state, sum)) = self.vouched(slot, next, before) {
            if before.borrowed && !self.is_same_in_database(at, slot) {
                return proven(State::Unproven, sum, slot.page, slot.size_after);
            }
            self.bound = self.bound.max(slot.page).max(slot.size_after);
            return proven(state, sum, slot.page, slot.size_after);
        }
        if let Some((sum, page, size_after)) = self.mend(at, slot, next, before) {
            return proven(State::Mended, sum, page, size_after);
        }
        if let Some((sum, page, size_after)) = self.solve(slot, next, before) {
            let (judged, after) = proven(State::Unproven, sum, page, size_after);
            let borrowed = sum != slot.stored;
            return (judged, Before { borrowed, ..after });
        }
        let ours = slot.salts == self.salts;
        let state = self.unproven(at, slot, before);
        let seed = Seed {
            sum: slot.stored,
            certain: false,
        };
        let judged = Judged {
            page: slot.page,
            size_after: slot.size_after,
            state,
            written: false,
        };
        let after = Before {
            seed,
            ours,
            borrowed: false,
        };
        (judged, after)
    }

    /// Is the page in the database file the one that is here, byte for byte?
    fn is_same_in_database(&mut self, at: u32, slot: &Slot) -> bool {
        let Some(database) = self.database else {
            return false;
        };
        if slot.page == 0 || !self.geometry.read(self.source, at, &mut self.frame) {
            return false;
        }
        let page = &self.frame[FRAME_HEADER..];
        let mut there = vec![0; page.len()];
        let from = u64::from(slot.page - 1) * page.len() as u64;
        let read = database.read_at(&mut there, from);
        read.is_ok_and(|n| n == page.len()) && there == page
    }

    /// Proven as it stands, or with a damaged salt or checksum; and the checksum behind it.
    fn vouched(&self, slot: &Slot, next: Option<&Slot>, before: Before) -> Option<(State, Sum)> {
        let g = &self.geometry;
        let ours = slot.salts == self.salts;
        if !slot.whole || slot.page == 0 || !(ours || before.ours) {
            return None;
        }
        let computed = g.after(before.seed.sum, slot);
        if computed == slot.stored {
            let state = if ours { State::Intact } else { State::Mended };
            return Some((state, computed));
        }
        let next = next.filter(|n| n.whole && n.salts == self.salts);
        next.is_some_and(|n| g.after(computed, n) == n.stored)
            .then_some((State::Mended, computed))
    }

    /// Page number and size after commit of a frame whose header was lost, if its page was not.
    ///
    /// They take up all that the checksums say, so nothing is left to prove the page with: a
    /// change of its high bits alone may lead to fields that are as plausible as the right ones.
    fn solve(&self, slot: &Slot, next: Option<&Slot>, before: Before) -> Option<(Sum, u32, u32)> {
        let next = next.filter(|n| n.whole && n.salts == self.salts);
        let is_ours = slot.salts == self.salts || next.is_some();
        let is_hit = !self.is_plausible(slot.page, slot.size_after);
        if !slot.whole || !before.seed.certain || !is_ours || !is_hit {
            return None;
        }
        let behind = next.map(|n| self.geometry.before(n));
        [Some(slot.stored), behind]
            .into_iter()
            .flatten()
            .map(|right| {
                let (page, size_after) = self.geometry.fields(slot, before.seed.sum, right);
                (right, page, size_after)
            })
            .find(|(_, page, size_after)| self.is_plausible(*page, *size_after))
    }

    /// Puts right what the checksums before and behind leave only one answer for, and prove.
    fn mend(
        &mut self,
        at: u32,
        slot: &Slot,
        next: Option<&Slot>,
        before: Before,
    ) -> Option<(Sum, u32, u32)> {
        if !slot.whole || !before.seed.certain || slot.salts != self.salts {
            return None;
        }
        let next = next.filter(|n| n.whole && n.salts == self.salts);
        let seed = before.seed.sum;
        let behind = next.map(|n| self.geometry.before(n));
        let hit = !self.is_plausible(slot.page, slot.size_after);
        if !hit && self.is_in_database(at, slot, seed) {
            self.mends.insert(at, Mend::Database);
            return Some((slot.stored, slot.page, slot.size_after));
        }
        let (place, value) = self.one_byte(at, slot, seed)?;
        // Damage to the checksum itself, unless the next frame confirms it, looks like damage to
        // the last words.
        let confirmed = behind == Some(slot.stored);
        if !confirmed && place + 8 >= self.summed.len() {
            return None;
        }
        let (page, size_after) = self.with_byte(at, slot, place, value)?;
        Some((slot.stored, page, size_after))
    }

    /// Do the checksums say that the page in the database file is the one that was here?
    fn is_in_database(&mut self, at: u32, slot: &Slot, seed: Sum) -> bool {
        let Some(database) = self.database else {
            return false;
        };
        if self.mends.len() >= MOST_MENDS || !self.geometry.read(self.source, at, &mut self.frame) {
            return false;
        }
        let page = &mut self.frame[FRAME_HEADER..];
        let from = u64::from(slot.page - 1) * page.len() as u64;
        let whole = database.read_at(page, from).is_ok_and(|n| n == page.len());
        let there = self.geometry.parse(&self.frame, true);
        whole && self.geometry.after(seed, &there) == slot.stored
    }

    fn one_byte(&mut self, at: u32, slot: &Slot, seed: Sum) -> Option<(usize, u8)> {
        if self.mends.len() >= MOST_MENDS || !self.geometry.read(self.source, at, &mut self.frame) {
            return None;
        }
        let bytes = self.geometry.summed(&self.frame, &mut self.summed);
        let wrong = self.geometry.after(seed, slot);
        one_byte(self.geometry.order, bytes, wrong, slot.stored)
    }

    /// Page number and size after commit once the summed byte at `place` is `value`.
    fn with_byte(&mut self, at: u32, slot: &Slot, place: usize, value: u8) -> Option<(u32, u32)> {
        let mut fields = [slot.page.to_be_bytes(), slot.size_after.to_be_bytes()];
        let in_page = place.checked_sub(fields.as_flattened().len());
        if let Some(byte) = fields.as_flattened_mut().get_mut(place) {
            *byte = value;
        }
        let [page, size_after] = fields.map(u32::from_be_bytes);
        if !self.is_plausible(page, size_after) {
            return None;
        }
        if let Some(place) = in_page {
            let at_byte = u32::try_from(place).ok()?;
            self.mends.insert(at, Mend::Byte { at: at_byte, value });
        }
        Some((page, size_after))
    }

    fn unproven(&mut self, at: u32, slot: &Slot, before: Before) -> State {
        if slot.salts != self.salts {
            return if slot.blank {
                State::Blank
            } else if self.salts.outlives(slot.salts)
                && self.is_plausible(slot.page, slot.size_after)
            {
                State::Stale
            } else {
                State::Garbage
            };
        }
        if !self.is_plausible(slot.page, slot.size_after) {
            return State::Lost;
        }
        if !slot.whole {
            return State::DamagedPage;
        }
        if !before.seed.certain {
            return State::Unproven;
        }
        let (page, size_after) = self.geometry.fields(slot, before.seed.sum, slot.stored);
        if page != slot.page && self.is_plausible(page, size_after) && self.mends.len() < MOST_MENDS
        {
            self.mends.insert(at, Mend::Rival { page });
        }
        State::DamagedPage
    }

    /// Could a frame with this page number and size after commit exist?
    fn is_plausible(&self, page: u32, size_after: u32) -> bool {
        (1..=self.bound).contains(&page)
            && (size_after == 0 || (page..=self.bound).contains(&size_after))
    }
}
