//! The log's 32-byte header: read, checked, and put together again where a byte of it was hit.
//!
//! Source: SQLite's file format, section 4.1 "WAL File Format".

use super::checksum::{Order, Sum, big};

const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;
/// Bytes of the header that its checksum covers.
const SUMMED: usize = 24;

/// What tells one generation of a log from the next: the first word goes up by one at each
/// restart, the second is random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Salts(pub u32, pub u32);

impl Salts {
    /// Both words are one: what filled a sector, not what SQLite drew.
    pub(super) fn is_filling(self) -> bool {
        self.0 == self.1
    }

    /// Could this be a generation a few restarts after `other`?
    pub(super) fn follows(self, other: Self) -> bool {
        (1..=16).contains(&self.0.wrapping_sub(other.0))
    }

    /// Could `other` be left from any generation before this one? A log that was long once keeps
    /// its old frames through many restarts.
    pub(super) fn outlives(self, other: Self) -> bool {
        (1..=1 << 24).contains(&self.0.wrapping_sub(other.0))
    }
}

/// The fields of a log's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How the words of the checksum are read.
    pub order: Order,
    /// Bytes in a page: a power of two from 512 to 65,536.
    pub page_size: u32,
    /// How often the log was restarted, by the connection that did it.
    pub checkpoint: u32,
    /// The salts of its frames.
    pub salts: Salts,
}

/// Why SQLite does not read a log with this header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The file ends inside it.
    #[error("it is shorter than its header")]
    Short,
    /// It does not begin as a log does.
    #[error("its magic number is wrong")]
    Magic,
    /// A version that no SQLite has written.
    #[error("its version is wrong")]
    Version,
    /// No power of two from 512 to 65,536.
    #[error("its page size is wrong")]
    PageSize,
    /// The fields and the checksum do not belong together.
    #[error("its header's checksum is wrong")]
    Checksum,
    /// Sound, but older than the frames behind it: its last write was lost.
    #[error("its header is older than its frames")]
    Older,
}

impl Header {
    /// Its size in bytes.
    pub const BYTES: usize = 32;

    /// Reads and checks the first 32 bytes of a log.
    pub fn read(bytes: &[u8]) -> Result<Self, HeaderFault> {
        if bytes.len() < Self::BYTES {
            return Err(HeaderFault::Short);
        }
        let order = match big(bytes, 0).wrapping_sub(MAGIC) {
            0 => Order::Little,
            1 => Order::Big,
            _ => return Err(HeaderFault::Magic),
        };
        if big(bytes, 4) != VERSION {
            return Err(HeaderFault::Version);
        }
        let page_size = big(bytes, 8);
        if !is_page_size(page_size) {
            return Err(HeaderFault::PageSize);
        }
        if Sum::default().over(order, &bytes[..SUMMED]) != Sum::stored(bytes, SUMMED) {
            return Err(HeaderFault::Checksum);
        }
        Ok(Self {
            order,
            page_size,
            checkpoint: big(bytes, 12),
            salts: Salts(big(bytes, 16), big(bytes, 20)),
        })
    }

    /// The headers of which `bytes` differ in one byte. There may be two or three: a change of
    /// the highest bits leaves the checksum of a change elsewhere.
    pub(super) fn mends(bytes: &[u8]) -> Vec<Self> {
        let mut found = Vec::new();
        let Some(mut tried) = bytes.first_chunk::<{ Self::BYTES }>().copied() else {
            return found;
        };
        for at in 0..Self::BYTES {
            let was = tried[at];
            for change in 1..=u8::MAX {
                tried[at] = was ^ change;
                found.extend(Self::read(&tried));
            }
            tried[at] = was;
        }
        found
    }

    /// The header whose only unknown field is the checkpoint sequence and whose checksum is
    /// `sum`. One of the sum's words is left to prove that the other fields are right.
    pub(super) fn solve(order: Order, page_size: u32, salts: Salts, sum: Sum) -> Option<Self> {
        let mut header = Self {
            order,
            page_size,
            checkpoint: 0,
            salts,
        };
        let bytes = header.encode();
        let begun = Sum::default().over(order, &bytes[..8]);
        let then = sum.before(order, &bytes[16..SUMMED]);
        header.checkpoint = order.field(then.s1.wrapping_sub(begun.s1).wrapping_sub(then.s0));
        (header.sum() == sum).then_some(header)
    }

    /// Its checksum, which is the seed of the first frame's.
    pub fn sum(&self) -> Sum {
        Sum::stored(&self.encode(), SUMMED)
    }

    /// The 32 bytes that stand in the file.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let magic = match self.order {
            Order::Little => MAGIC,
            Order::Big => MAGIC + 1,
        };
        let mut bytes = [0; Self::BYTES];
        let fields = [
            magic,
            VERSION,
            self.page_size,
            self.checkpoint,
            self.salts.0,
            self.salts.1,
        ];
        for (to, field) in bytes.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_be_bytes());
        }
        let sum = Sum::default().over(self.order, &bytes[..SUMMED]);
        bytes[SUMMED..SUMMED + 4].copy_from_slice(&sum.s0.to_be_bytes());
        bytes[SUMMED + 4..].copy_from_slice(&sum.s1.to_be_bytes());
        bytes
    }
}

/// Can a database have pages of this many bytes?
pub(super) fn is_page_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (512..=65_536).contains(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(order: Order, page_size: u32) -> Header {
        Header {
            order,
            page_size,
            checkpoint: 7,
            salts: Salts(0x1234_5678, 0x9abc_def0),
        }
    }

    #[test]
    fn every_page_size_and_both_byte_orders_are_read() {
        for order in [Order::Little, Order::Big] {
            for shift in 9..=16 {
                let h = header(order, 1 << shift);
                assert_eq!(Header::read(&h.encode()), Ok(h));
            }
        }
    }

    #[test]
    fn every_single_changed_byte_is_refused_and_among_few_mends_is_the_right_one() {
        for order in [Order::Little, Order::Big] {
            let h = header(order, 4096);
            for at in 0..Header::BYTES {
                for change in [1, 0x10, 0x80, 0xff] {
                    let mut bytes = h.encode();
                    bytes[at] ^= change;
                    Header::read(&bytes).expect_err("damaged");
                    let mends = Header::mends(&bytes);
                    assert!(mends.contains(&h), "byte {at} ^ {change:#x}");
                    assert!(mends.len() < 4, "byte {at} ^ {change:#x}: {mends:?}");
                }
            }
        }
    }

    #[test]
    fn the_checkpoint_sequence_follows_from_the_checksum_and_a_wrong_salt_is_noticed() {
        for order in [Order::Little, Order::Big] {
            let h = header(order, 512);
            assert_eq!(Header::solve(order, 512, h.salts, h.sum()), Some(h));
            assert_eq!(Header::solve(order, 512, Salts(1, 2), h.sum()), None);
            assert_eq!(Header::solve(order, 1024, h.salts, h.sum()), None);
        }
    }
}
