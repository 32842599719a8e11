//! Bytes that count what is read of them, so that work stays linear whatever the clock says.

use std::cell::Cell;
use std::io;

use holdup::recovery::Bytes;

/// Bytes of which at most so many may be read, all reads together.
#[derive(Debug)]
pub struct Counted<'a> {
    bytes: &'a [u8],
    left: Cell<u64>,
}

impl<'a> Counted<'a> {
    /// `times` their number may be read, and a MiB.
    pub fn new(bytes: &'a [u8], times: u64) -> Self {
        let left = Cell::new(bytes.len() as u64 * times + (1 << 20));
        Self { bytes, left }
    }

    /// Begins to count anew.
    pub fn again(&self, times: u64) {
        self.left.set(self.bytes.len() as u64 * times + (1 << 20));
    }
}

impl Bytes for Counted<'_> {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let n = self.bytes.read_at(buf, at)?;
        let left = self.left.get().checked_sub(n as u64);
        self.left
            .set(left.expect("reads stay linear in the number of bytes"));
        Ok(n)
    }
}
