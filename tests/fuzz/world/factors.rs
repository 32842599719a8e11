//! Was a value handed out whose bytes are in none of the pages?

use memchr::memmem;

/// The pages' bytes, one behind the other.
#[derive(Debug, Default)]
pub struct Haystack {
    bytes: Vec<u8>,
}

impl Haystack {
    /// One more page.
    pub fn add(&mut self, page: &[u8]) {
        self.bytes.extend(page);
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The fewest pieces of the pages that make up `value`; none where a byte is nowhere.
    fn pieces(&self, value: &[u8]) -> Option<usize> {
        let (mut rest, mut pieces) = (value, 0);
        while !rest.is_empty() {
            let there = |n: usize| memmem::find(&self.bytes, &rest[..n]).is_some();
            // What is there in one piece is so with every shorter beginning.
            let (mut longest, mut short_of) = (0, rest.len() + 1);
            if there(rest.len()) {
                longest = rest.len();
            }
            while longest + 1 < short_of && longest < rest.len() {
                let middle = usize::midpoint(longest, short_of);
                if there(middle) {
                    longest = middle;
                } else {
                    short_of = middle;
                }
            }
            if longest == 0 {
                return None;
            }
            rest = &rest[longest..];
            pieces += 1;
        }
        Some(pieces)
    }

    /// Does `value` consist of bytes of the pages, in no more pieces than a cell and its overflow
    /// pages can have?
    pub fn gives(&self, value: &[u8], usable: usize) -> bool {
        let most = 2 + value.len() / (usable - 4);
        self.pieces(value).is_some_and(|n| n <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_in_no_page_is_not_given() {
        let mut pages = Haystack::default();
        pages.add(b"0123456789abcdef");
        assert_eq!(pages.pieces(b"456"), Some(1));
        assert_eq!(pages.pieces(b"4560"), Some(2));
        assert_eq!(pages.pieces(b"45x"), None);
        assert!(pages.gives(b"efab", 480) && !pages.gives(b"fedc", 480));
    }
}
