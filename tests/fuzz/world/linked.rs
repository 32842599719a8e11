//! The write-ahead log a second time, as plainly as it can be: what SQLite's own recovery keeps.
//!
//! Source: SQLite's file format, section 4, and walIndexRecover in its wal.c.

const HEADER: usize = 32;
const FRAME: usize = 24;

type Sum = (u32, u32);

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn sum(big: bool, (mut a, mut b): Sum, bytes: &[u8]) -> Sum {
    for pair in bytes.chunks_exact(8) {
        let read = |four: &[u8]| {
            let four = four.try_into().expect("four bytes");
            if big {
                u32::from_be_bytes(four)
            } else {
                u32::from_le_bytes(four)
            }
        };
        a = a.wrapping_add(read(&pair[..4])).wrapping_add(b);
        b = b.wrapping_add(read(&pair[4..])).wrapping_add(a);
    }
    (a, b)
}

/// A log with a header that SQLite accepts.
#[derive(Debug, Clone, Copy)]
pub struct Log<'a> {
    bytes: &'a [u8],
    big: bool,
    /// Bytes in a page.
    pub page_size: usize,
}

impl<'a> Log<'a> {
    /// `None`: SQLite takes it for empty, or refuses it.
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        let log = Self::claimed(bytes)?;
        let sound = word(bytes, 4) == 3_007_000
            && sum(log.big, (0, 0), &bytes[..24]) == (word(bytes, 24), word(bytes, 28));
        sound.then_some(log)
    }

    /// By magic and page size alone.
    fn claimed(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < HEADER || word(bytes, 0) & !1 != 0x377f_0682 {
            return None;
        }
        let page_size = usize::try_from(word(bytes, 8)).ok()?;
        (page_size.is_power_of_two() && (512..=65_536).contains(&page_size)).then(|| Self {
            bytes,
            big: word(bytes, 0) & 1 == 1,
            page_size,
        })
    }

    fn at(&self, slot: usize) -> usize {
        HEADER + slot * (FRAME + self.page_size)
    }

    fn slots(&self) -> usize {
        (self.bytes.len() - HEADER) / (FRAME + self.page_size)
    }

    /// Does the frame at `slot` bear the header's salts, and does its checksum follow from the
    /// one stored before it?
    pub fn links(&self, slot: usize) -> bool {
        let before = match slot.checked_sub(1) {
            Some(before) => self.at(before) + 16,
            None => 24,
        };
        let at = self.at(slot);
        if slot >= self.slots() || self.bytes[at + 8..at + 16] != self.bytes[16..24] {
            return false;
        }
        let seed = (word(self.bytes, before), word(self.bytes, before + 4));
        let seed = sum(self.big, seed, &self.bytes[at..at + 8]);
        let page = &self.bytes[at + FRAME..at + FRAME + self.page_size];
        let stored = (word(self.bytes, at + 16), word(self.bytes, at + 20));
        word(self.bytes, at) != 0 && sum(self.big, seed, page) == stored
    }

    /// How many commits SQLite's recovery finds.
    pub fn commits(&self) -> usize {
        (0..self.slots())
            .take_while(|slot| self.links(*slot))
            .filter(|slot| word(self.bytes, self.at(*slot) + 4) != 0)
            .count()
    }
}

/// Makes the checksums of a log fit what it holds, so that a fuzzer gets behind them; with `gaps`
/// each fourth frame is left as it is.
pub fn reseal(bytes: &mut [u8], gaps: bool) {
    let Some(claimed) = Log::claimed(bytes) else {
        return;
    };
    let (big, page_size, slots) = (claimed.big, claimed.page_size, claimed.slots());
    put(bytes, 4, 3_007_000);
    let mut last = sum(big, (0, 0), &bytes[..24]);
    put(bytes, 24, last.0);
    put(bytes, 28, last.1);
    for slot in 0..slots {
        let at = HEADER + slot * (FRAME + page_size);
        if gaps && slot % 4 == 3 {
            last = (word(bytes, at + 16), word(bytes, at + 20));
            continue;
        }
        bytes.copy_within(16..24, at + 8);
        let seed = sum(big, last, &bytes[at..at + 8]);
        last = sum(big, seed, &bytes[at + FRAME..at + FRAME + page_size]);
        put(bytes, at + 16, last.0);
        put(bytes, at + 20, last.1);
    }
}
