//! Levels and edges between one thread that sets them and one that reads them.
//!
//! Neither ever waits for the other: a ring of atomics, an eventfd to wake the reader.

use std::array;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use super::super::{Edge, Input, Levels};
use crate::clock::Mono;

/// Edges that may wait; more are dropped, and show as a gap in `seq`.
pub(super) const DEPTH: usize = 64;

/// No gauge: a pair of numbers no gauge can give.
const NO_GAUGE: u64 = u64::MAX;

/// See the module's text. One setter, one reader.
#[derive(Debug)]
pub(super) struct SimLines {
    wired: [bool; 3],
    asserted: [AtomicBool; 3],
    edges: [AtomicU32; 3],
    gauge: AtomicU64,
    slots: [Slot; DEPTH],
    /// Next slot to read; written by the reader only. Both count without wrapping.
    head: AtomicUsize,
    /// Next slot to write; written by the setter only.
    tail: AtomicUsize,
    /// Readable when something changed.
    pub(super) news: OwnedFd,
}

#[derive(Debug, Default)]
struct Slot {
    at: AtomicU64,
    seq: AtomicU32,
    /// Input and level: see [`pack`].
    what: AtomicU32,
}

const fn pack(input: Input, asserted: bool) -> u32 {
    ((input as u32) << 1) | asserted as u32
}

impl SimLines {
    /// All wired lines good.
    pub(super) fn new(wired: [bool; 3]) -> Result<Self, rustix::io::Errno> {
        Ok(Self {
            wired,
            asserted: array::from_fn(|_| AtomicBool::new(false)),
            edges: array::from_fn(|_| AtomicU32::new(0)),
            gauge: AtomicU64::new(NO_GAUGE),
            slots: array::from_fn(|_| Slot::default()),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            news: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        })
    }

    pub(super) const fn is_wired(&self, input: Input) -> bool {
        self.wired[input as usize]
    }

    /// Sets a level, at this time; a change is an edge.
    pub(super) fn set(&self, input: Input, asserted: bool, at: Mono) {
        if self.asserted[input as usize].swap(asserted, Ordering::SeqCst) == asserted {
            return;
        }
        let seq = self.edges[input as usize].fetch_add(1, Ordering::SeqCst) + 1;
        let tail = self.tail.load(Ordering::Relaxed);
        if tail - self.head.load(Ordering::Acquire) < DEPTH {
            let slot = &self.slots[tail % DEPTH];
            slot.at.store(at.as_nanos(), Ordering::Relaxed);
            slot.seq.store(seq, Ordering::Relaxed);
            slot.what.store(pack(input, asserted), Ordering::Relaxed);
            self.tail.store(tail + 1, Ordering::Release);
        }
        self.ring();
    }

    /// Sets what the gauge says.
    pub(super) fn set_gauge(&self, reading: Option<(f32, f32)>) {
        let packed = reading.map_or(NO_GAUGE, |(volts, percent)| {
            (u64::from(volts.to_bits()) << 32) | u64::from(percent.to_bits())
        });
        self.gauge.store(packed, Ordering::SeqCst);
        self.ring();
    }

    pub(super) fn gauge(&self) -> Option<(f32, f32)> {
        let packed = self.gauge.load(Ordering::SeqCst);
        if packed == NO_GAUGE {
            return None;
        }
        let half = |bits: u64| f32::from_bits(u32::try_from(bits & 0xffff_ffff).unwrap_or(0));
        Some((half(packed >> 32), half(packed)))
    }

    pub(super) fn levels(&self) -> Levels {
        let mut levels = Levels::default();
        for input in Input::ALL {
            if self.is_wired(input) {
                let level = self.asserted[input as usize].load(Ordering::SeqCst);
                levels.set(input, Some(level));
            }
        }
        levels
    }

    pub(super) fn next_edge(&self) -> Option<Edge> {
        let head = self.head.load(Ordering::Relaxed);
        if head == self.tail.load(Ordering::Acquire) {
            return None;
        }
        let slot = &self.slots[head % DEPTH];
        let what = slot.what.load(Ordering::Relaxed);
        let edge = Edge {
            input: *Input::ALL.get((what >> 1) as usize)?,
            asserted: what & 1 == 1,
            at: Mono::from_nanos(slot.at.load(Ordering::Relaxed)),
            seq: slot.seq.load(Ordering::Relaxed),
        };
        self.head.store(head + 1, Ordering::Release);
        Some(edge)
    }

    fn ring(&self) {
        // Fails only when it is readable anyway.
        let _already = rustix::io::write(&self.news, &1_u64.to_ne_bytes());
    }

    /// Makes `news` unreadable until the next change.
    pub(super) fn hush(&self) {
        let mut count = [0; 8];
        let _nothing = rustix::io::read(&self.news, &mut count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_edges_and_never_the_level() {
        let lines = SimLines::new([true; 3]).unwrap();
        for n in 0..u64::try_from(2 * DEPTH + 1).unwrap() {
            lines.set(Input::PowerFail, n % 2 == 0, Mono::from_nanos(n));
        }
        let mut seen = Vec::new();
        while let Some(edge) = lines.next_edge() {
            seen.push(edge.seq);
        }
        assert_eq!(seen, (1..=64).collect::<Vec<u32>>());
        assert_eq!(lines.levels().power_fail, Some(true));
        lines.set(Input::PowerFail, false, Mono::from_nanos(999));
        let edge = lines.next_edge().expect("there is room again");
        assert_eq!((edge.seq, edge.asserted), (130, false), "the gap tells");
    }

    #[test]
    fn the_same_level_again_is_no_edge() {
        let lines = SimLines::new([true, true, false]).unwrap();
        lines.set(Input::Brownout, false, Mono::from_nanos(1));
        assert_eq!(lines.next_edge(), None);
        assert_eq!(lines.levels().battery_low, None, "not wired");
    }

    #[test]
    fn the_gauge_says_what_it_was_given() {
        let lines = SimLines::new([true; 3]).unwrap();
        assert_eq!(lines.gauge(), None);
        lines.set_gauge(Some((3.7, 42.5)));
        assert_eq!(lines.gauge(), Some((3.7, 42.5)));
        lines.set_gauge(None);
        assert_eq!(lines.gauge(), None);
    }
}
