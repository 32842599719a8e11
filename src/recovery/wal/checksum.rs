//! The log's checksum, forwards, backwards and as what it is: an affine map of its seed.
//!
//! One pair of words turns `(s0, s1)` into `M * (s0, s1) + (x, x + y)` with `M = [[1,1],[1,2]]`,
//! all modulo 2^32. `M` has determinant 1, so that every step can be undone, and the bytes of a
//! frame have to be summed once only, whatever seeds are tried on them afterwards.
//!
//! Source: SQLite's file format, section 4.2 "Checksum Algorithm".

use std::ops::{Add, Sub};

/// In which byte order the words are read that are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Least significant byte first: what a Raspberry Pi or a PC writes.
    Little,
    /// Most significant byte first.
    Big,
}

impl Order {
    /// Four bytes of the file as the word that is summed.
    pub(super) fn word(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The word that is summed for a field that the file stores big-endian, and back.
    pub(super) fn field(self, value: u32) -> u32 {
        self.word(value.to_be_bytes())
    }
}

/// A running checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// The first word.
    pub s0: u32,
    /// The second word.
    pub s1: u32,
}

impl Sum {
    /// The sum that a header stores in its eight bytes at `at`.
    pub(super) fn stored(bytes: &[u8], at: usize) -> Self {
        Self {
            s0: big(bytes, at),
            s1: big(bytes, at + 4),
        }
    }

    /// The sum after `bytes`, whose number is a multiple of 8.
    pub fn over(self, order: Order, bytes: &[u8]) -> Self {
        match order {
            Order::Little => self.run(bytes, u32::from_le_bytes),
            Order::Big => self.run(bytes, u32::from_be_bytes),
        }
    }

    /// The sum after `bytes` from a seed of zero. Their four quarters, each of which `quarter`
    /// spans, are summed side by side: a single run waits for its own last step all the time.
    pub(super) fn of(order: Order, bytes: &[u8], quarter: Span) -> Self {
        match order {
            Order::Little => Self::side_by_side(bytes, quarter, u32::from_le_bytes),
            Order::Big => Self::side_by_side(bytes, quarter, u32::from_be_bytes),
        }
    }

    fn side_by_side(bytes: &[u8], quarter: Span, word: impl Fn([u8; 4]) -> u32) -> Self {
        let pairs = bytes.as_chunks::<8>().0;
        let n = pairs.len() / 4;
        let (a, rest) = pairs.split_at(n);
        let (b, rest) = rest.split_at(n);
        let (c, d) = rest.split_at(n);
        let mut sums = [Self::default(); 4];
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            for (sum, [p, q, r, s, t, u, v, w]) in sums.iter_mut().zip([a, b, c, d]) {
                let first = word([*p, *q, *r, *s]);
                let second = word([*t, *u, *v, *w]);
                sum.s0 = sum.s0.wrapping_add(first).wrapping_add(sum.s1);
                sum.s1 = sum.s1.wrapping_add(second).wrapping_add(sum.s0);
            }
        }
        sums.into_iter()
            .reduce(|before, sum| quarter.carry(before) + sum)
            .unwrap_or_default()
    }

    /// The sum before `bytes`, if it is `self` after them.
    pub fn before(self, order: Order, bytes: &[u8]) -> Self {
        let mut sum = self;
        for pair in bytes.as_chunks::<8>().0.iter().rev() {
            let (x, y) = words(order, pair);
            sum.s1 = sum.s1.wrapping_sub(y).wrapping_sub(sum.s0);
            sum.s0 = sum.s0.wrapping_sub(x).wrapping_sub(sum.s1);
        }
        sum
    }

    fn run(self, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> Self {
        let (mut s0, mut s1) = (self.s0, self.s1);
        for [a, b, c, d, e, f, g, h] in bytes.as_chunks::<8>().0 {
            s0 = s0.wrapping_add(word([*a, *b, *c, *d])).wrapping_add(s1);
            s1 = s1.wrapping_add(word([*e, *f, *g, *h])).wrapping_add(s0);
        }
        Self { s0, s1 }
    }
}

impl Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            s0: self.s0.wrapping_add(other.s0),
            s1: self.s1.wrapping_add(other.s1),
        }
    }
}

impl Sub for Sum {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            s0: self.s0.wrapping_sub(other.s0),
            s1: self.s1.wrapping_sub(other.s1),
        }
    }
}

/// What a number of pairs does to a seed, whatever their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span([[u32; 2]; 2]);

impl Span {
    const ONE: Self = Self([[1, 0], [0, 1]]);
    const FORTH: Self = Self([[1, 1], [1, 2]]);
    const BACK: Self = Self([[2, u32::MAX], [u32::MAX, 1]]);

    /// Over `bytes` bytes, a multiple of 8.
    pub(super) fn forth(bytes: usize) -> Self {
        Self::FORTH.power(bytes / 8)
    }

    /// Back over `bytes` bytes, a multiple of 8.
    pub(super) fn back(bytes: usize) -> Self {
        Self::BACK.power(bytes / 8)
    }

    pub(super) fn carry(self, sum: Sum) -> Sum {
        let row = |r: [u32; 2]| {
            r[0].wrapping_mul(sum.s0)
                .wrapping_add(r[1].wrapping_mul(sum.s1))
        };
        Sum {
            s0: row(self.0[0]),
            s1: row(self.0[1]),
        }
    }

    fn power(self, mut n: usize) -> Self {
        let (mut all, mut square) = (Self::ONE, self);
        while n > 0 {
            if n & 1 == 1 {
                all = all.times(square);
            }
            square = square.times(square);
            n >>= 1;
        }
        all
    }

    fn times(self, other: Self) -> Self {
        let column = |i: usize| {
            self.carry(Sum {
                s0: other.0[0][i],
                s1: other.0[1][i],
            })
        };
        let (a, b) = (column(0), column(1));
        Self([[a.s0, b.s0], [a.s1, b.s1]])
    }
}

/// The one byte whose change explains why `bytes` give `wrong` instead of `right`: its place
/// and what it was.
///
/// Only a byte of the lower half of its word is ever named. `M` modulo a small power of two has
/// a short period, so that a change of high bits alone can be explained at many places; one that
/// reaches into the lower half has a single place in a page, and random damage of several words
/// is taken for it once in 2^40.
pub(super) fn one_byte(order: Order, bytes: &[u8], wrong: Sum, right: Sum) -> Option<(usize, u8)> {
    let mut missing = right - wrong;
    if (missing.s0 | missing.s1).trailing_zeros() >= 16 {
        return None;
    }
    // Walks back over the pairs: a change of a pair by (x, y) is `(x, x + y)` right behind it.
    for (i, pair) in bytes.as_chunks::<8>().0.iter().enumerate().rev() {
        let (first, second) = words(order, pair);
        let (at, word, was) = if missing.s0 == 0 {
            (i * 8 + 4, second, second.wrapping_add(missing.s1))
        } else if missing.s0 == missing.s1 {
            (i * 8, first, first.wrapping_add(missing.s0))
        } else {
            missing = Span::BACK.carry(missing);
            continue;
        };
        let (now, then) = (word.to_ne_bytes(), was.to_ne_bytes());
        let mut differ = (0..4).filter(|b| now[*b] != then[*b]);
        if let (Some(_), None) = (differ.next(), differ.next()) {
            // Which byte of the file that is, depends on the order in which the word was read.
            return (0..4).find_map(|b| {
                let mut file: [u8; 4] = std::array::from_fn(|k| bytes[at + k]);
                let mut mark = [0; 4];
                mark[b] = 0xff;
                let mask = order.word(mark);
                (mask & (word ^ was) != 0).then(|| {
                    let shift = mask.trailing_zeros();
                    file[b] = u8::try_from((was & mask) >> shift).unwrap_or(0);
                    (at + b, file[b])
                })
            });
        }
        missing = Span::BACK.carry(missing);
    }
    None
}

fn words(order: Order, pair: &[u8; 8]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = *pair;
    (order.word([a, b, c, d]), order.word([e, f, g, h]))
}

/// The big-endian word at `at`.
pub(super) fn big(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order() -> impl Strategy<Value = Order> {
        prop_oneof![Just(Order::Little), Just(Order::Big)]
    }

    proptest! {
        #[test]
        fn backwards_undoes_forwards(
            order in order(), s0: u32, s1: u32,
            words in proptest::collection::vec(any::<[u8; 8]>(), 0..40),
        ) {
            let seed = Sum { s0, s1 };
            let bytes = words.concat();
            prop_assert_eq!(seed.over(order, &bytes).before(order, &bytes), seed);
        }

        #[test]
        fn a_seed_can_be_put_under_bytes_that_were_summed_without_it(
            order in order(), s0: u32, s1: u32,
            words in proptest::collection::vec(any::<[u8; 8]>(), 0..40),
        ) {
            let (seed, bytes) = (Sum { s0, s1 }, words.concat());
            let own = Sum::default().over(order, &bytes);
            let fours = &bytes[..bytes.len() / 32 * 32];
            let quarter = Span::forth(fours.len() / 4);
            prop_assert_eq!(Sum::of(order, fours, quarter), Sum::default().over(order, fours));
            let after = seed.over(order, &bytes);
            prop_assert_eq!(Span::forth(bytes.len()).carry(seed) + own, after);
            prop_assert_eq!(Span::back(bytes.len()).carry(after - own), seed);
        }

        #[test]
        fn one_changed_byte_is_restored_where_only_one_place_explains_it(
            order in order(), s0: u32, s1: u32, change in 1u8..,
            words in proptest::collection::vec(any::<[u8; 8]>(), 1..70), place: prop::sample::Index,
        ) {
            let (seed, good) = (Sum { s0, s1 }, words.concat());
            let at = place.index(good.len());
            let mut bad = good.clone();
            bad[at] ^= change;
            let found = one_byte(order, &bad, seed.over(order, &bad), seed.over(order, &good));
            let low = match order {
                Order::Little => at % 4 < 2,
                Order::Big => at % 4 > 1,
            };
            prop_assert_eq!(found, low.then_some((at, good[at])));
        }

        #[test]
        fn two_changed_words_are_not_taken_for_one_byte(
            order in order(), a in 1u8.., b in 1u8..,
            words in proptest::collection::vec(any::<[u8; 8]>(), 8..70),
        ) {
            let good = words.concat();
            let mut bad = good.clone();
            bad[5] ^= a;
            bad[6] ^= b;
            bad[42] ^= b;
            let sum = |bytes: &[u8]| Sum::default().over(order, bytes);
            prop_assert_eq!(one_byte(order, &bad, sum(&bad), sum(&good)), None);
        }
    }
}
