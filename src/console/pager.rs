//! What a command prints, as pages of a small screen.
//!
//! It promises rows of at most [`WIDTH`] columns, a stop before anything scrolls away, and that no
//! control byte of what is printed reaches the terminal. Its memory is fixed: who fills it stops
//! while it is full.

use super::editor::{Terminal, WIDTH};

/// Rows of a page; one of the 24 is for the question whether to go on.
pub const ROWS: usize = 22;

/// Bytes that it takes at a time.
pub const PORTION: usize = 512;

/// Pages of one command's output.
#[derive(Debug, Default)]
pub struct Pager {
    /// What is not shown yet.
    rest: heapless::Vec<u8, PORTION>,
    /// The row that is being put together: at most [`WIDTH`] characters of up to four bytes.
    row: heapless::String<{ WIDTH * 4 }>,
    rows: usize,
    is_full: bool,
}

impl Pager {
    /// Bytes it takes now.
    pub fn room(&self) -> usize {
        if self.is_full {
            0
        } else {
            PORTION - self.rest.len()
        }
    }

    /// Is a page full? Then [`Pager::next_page`] goes on.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Shows what fits the page; `bytes` beyond [`Pager::room`] are lost.
    pub fn put(&mut self, bytes: &[u8], out: &mut dyn Terminal) {
        let room = PORTION - self.rest.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        // It has room for what was taken.
        self.rest.extend_from_slice(taken).ok();
        self.show(out);
    }

    /// One more page.
    pub fn next_page(&mut self, out: &mut dyn Terminal) {
        self.rows = 0;
        self.is_full = false;
        self.show(out);
    }

    /// The output has ended: shows the last row, if it had no end of its own.
    pub fn end(&mut self, out: &mut dyn Terminal) {
        if !self.row.is_empty() {
            self.end_row(out);
        }
    }

    fn show(&mut self, out: &mut dyn Terminal) {
        let mut used = 0;
        while !self.is_full && used < self.rest.len() {
            match next(&self.rest[used..]) {
                Next::Char(c, n) => {
                    used += n;
                    self.char(c, out);
                }
                Next::Broken(n) => {
                    used += n;
                    self.char('?', out);
                }
                Next::Unfinished => break,
            }
        }
        let left = self.rest.len() - used;
        self.rest.copy_within(used.., 0);
        self.rest.truncate(left);
    }

    fn char(&mut self, c: char, out: &mut dyn Terminal) {
        match c {
            '\n' => self.end_row(out),
            '\t' => self.visible(' ', out),
            c if c.is_control() => {}
            c => self.visible(c, out),
        }
    }

    fn visible(&mut self, c: char, out: &mut dyn Terminal) {
        if self.row.chars().count() >= WIDTH {
            // At a blank in the second half, where there is one.
            let blank = self.row.rfind(' ').filter(|i| *i > WIDTH / 2);
            let (at, skip) = blank.map_or((self.row.len(), 0), |i| (i, 1));
            let mut tail = heapless::String::<{ WIDTH * 4 }>::new();
            // Both are no longer than the row was, or the page's indent.
            tail.push_str("  ").ok();
            tail.push_str(self.row.get(at + skip..).unwrap_or_default())
                .ok();
            self.row.truncate(at);
            self.end_row(out);
            self.row = tail;
        }
        // There is room: it was looked at.
        self.row.push(c).ok();
    }

    fn end_row(&mut self, out: &mut dyn Terminal) {
        out.say(self.row.trim_end());
        out.say("\r\n");
        self.row.clear();
        self.rows += 1;
        self.is_full = self.rows >= ROWS;
    }
}

enum Next {
    Char(char, usize),
    Broken(usize),
    Unfinished,
}

fn next(bytes: &[u8]) -> Next {
    let head = &bytes[..bytes.len().min(4)];
    let good = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.valid_up_to() > 0 => {
            std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(e) => return e.error_len().map_or(Next::Unfinished, Next::Broken),
    };
    match good.chars().next() {
        Some(c) => Next::Char(c, c.len_utf8()),
        None => Next::Unfinished,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(bytes: &[u8]) -> (String, usize) {
        let (mut pager, mut out, mut pages) = (Pager::default(), Vec::new(), 1);
        let mut rest = bytes;
        while !rest.is_empty() || pager.is_full() {
            if pager.is_full() {
                pages += 1;
                pager.next_page(&mut out);
                continue;
            }
            let n = pager.room().min(rest.len());
            let (now, later) = rest.split_at(n);
            pager.put(now, &mut out);
            rest = later;
        }
        pager.end(&mut out);
        (String::from_utf8(out).expect("text"), pages)
    }

    #[test]
    fn a_long_row_breaks_at_a_blank_and_a_word_without_one_in_two() {
        let (text, _) = shown(format!("{} end\n", "word ".repeat(20)).as_bytes());
        let rows: Vec<_> = text.lines().collect();
        assert_eq!(rows.len(), 2, "{text}");
        assert!(
            rows[0].ends_with("word") && rows[1].starts_with("  word"),
            "{text}"
        );
        let (text, _) = shown(&[b'x'; 200]);
        assert!(text.lines().all(|l| l.len() <= WIDTH));
        assert_eq!(text.matches('x').count(), 200);
    }

    #[test]
    fn a_page_waits_before_anything_scrolls_away() {
        let text: String = (0..50).map(|i| format!("{i}\n")).collect();
        let (mut pager, mut out) = (Pager::default(), Vec::new());
        pager.put(text.as_bytes(), &mut out);
        assert!(pager.is_full());
        assert_eq!(pager.room(), 0);
        assert_eq!(String::from_utf8_lossy(&out).lines().count(), ROWS);
        assert_eq!(shown(text.as_bytes()).1, 3);
    }

    #[test]
    fn what_is_printed_cannot_drive_the_terminal() {
        let (text, _) = shown("a\x1b[2Jb\x07\u{9b}c\rd\n".as_bytes());
        assert_eq!(text, "a[2Jbcd\r\n");
        assert_eq!(shown(b"a\xffb\n").0, "a?b\r\n");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_row_is_too_long(text in "[ -~é\\n]{0,600}") {
            let (out, _) = shown(text.as_bytes());
            for row in out.lines() {
                prop_assert!(row.chars().count() <= WIDTH);
            }
            let bare = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(bare(&out), bare(&text));
        }
    }
}
