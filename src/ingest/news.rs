//! The last words about power, for the clients that asked for them.
//!
//! What the words mean is the agent's business. A few are kept, so that a client that reads is
//! told each; one that does not is told the newest only, and costs no memory.

/// Words kept.
const KEPT: usize = 8;

/// See the module's text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PowerNews {
    told: u64,
    words: [&'static str; KEPT],
}

impl PowerNews {
    /// Adds a word.
    pub fn tell(&mut self, word: &'static str) {
        self.words.rotate_left(1);
        self.words[KEPT - 1] = word;
        self.told += 1;
    }

    /// How many were told, ever.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// Those after the first `seen`, in order; the newest alone where more came than are kept.
    pub(super) fn since(&self, seen: u64) -> &[&'static str] {
        let fresh = usize::try_from(self.told.saturating_sub(seen)).unwrap_or(usize::MAX);
        let shown = if fresh > KEPT { 1 } else { fresh };
        &self.words[KEPT - shown..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_keeps_up_is_told_each_and_one_that_does_not_the_newest() {
        let mut news = PowerNews::default();
        assert!(news.since(0).is_empty());
        news.tell("a");
        news.tell("b");
        assert_eq!(news.since(0), ["a", "b"]);
        assert_eq!(news.since(1), ["b"]);
        assert!(news.since(2).is_empty());
        for _ in 0..KEPT {
            news.tell("c");
        }
        news.tell("d");
        assert_eq!(news.since(1), ["d"], "nine came, eight are kept");
        assert_eq!(news.since(news.told() - 2), ["c", "d"]);
    }
}
