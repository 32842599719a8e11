//! The line that is being typed.
//!
//! It promises a fixed amount of memory, that nothing typed in secret is ever shown or kept, and
//! that what it draws is one row of at most [`WIDTH`] columns, whatever was typed. It is a state
//! machine: keys in, bytes for the terminal out.

use super::keys::Key;

/// Columns that are used: the last one of 80 makes some terminals wrap.
pub const WIDTH: usize = 79;

/// Bytes of a line at most.
pub const LINE: usize = 256;

/// Lines that Up brings back.
const HISTORY: usize = 16;

/// A typed line.
pub type Line = heapless::String<LINE>;

/// Where bytes for the terminal go.
pub trait Terminal {
    /// Shows `bytes`.
    fn put(&mut self, bytes: &[u8]);

    /// Shows `text`.
    fn say(&mut self, text: &str) {
        self.put(text.as_bytes());
    }
}

impl Terminal for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nothing is allocated for a line")]
pub enum Edited {
    /// The line goes on.
    Typing,
    /// The line is done.
    Done(Line),
    /// It was thrown away (Ctrl-C).
    Interrupted,
    /// Ctrl-D on an empty line.
    Left,
    /// Tab: whoever knows the words may call [`Editor::complete`].
    Complete,
}

/// The editor of one line.
#[derive(Debug)]
pub struct Editor {
    prompt: heapless::String<40>,
    line: Line,
    /// In bytes, on a character's boundary.
    cursor: usize,
    /// First character that is drawn, counted in characters.
    from: usize,
    history: heapless::Deque<Line, HISTORY>,
    /// Which line of the history is shown; none: a new one.
    recalled: Option<usize>,
    secret: bool,
    pasting: bool,
}

impl Default for Editor {
    fn default() -> Self {
        Self {
            prompt: heapless::String::new(),
            line: Line::new(),
            cursor: 0,
            from: 0,
            history: heapless::Deque::new(),
            recalled: None,
            secret: false,
            pasting: false,
        }
    }
}

impl Editor {
    /// Begins a line behind `prompt` (cut where it is longer than half a row).
    pub fn begin(&mut self, prompt: &str, out: &mut dyn Terminal) {
        self.prompt.clear();
        for c in prompt.chars().take(38) {
            // Full: the rest of a prompt is not missed.
            if self.prompt.push(c).is_err() {
                break;
            }
        }
        self.secret = false;
        self.clear();
        self.draw(out);
    }

    /// Begins a line of which nothing is shown and nothing is kept.
    pub fn begin_secret(&mut self, prompt: &str, out: &mut dyn Terminal) {
        self.begin(prompt, out);
        self.secret = true;
    }

    /// The line so far.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Nothing is remembered of who typed before.
    pub fn forget(&mut self) {
        self.history.clear();
        self.clear();
    }

    /// Draws the row anew, for example behind what somebody else printed.
    pub fn draw(&mut self, out: &mut dyn Terminal) {
        let shown = if self.secret { "" } else { self.line.as_str() };
        let room = WIDTH - self.prompt.chars().count();
        let at = if self.secret {
            0
        } else {
            self.line[..self.cursor].chars().count()
        };
        // The cursor stays inside the row.
        if at < self.from {
            self.from = at;
        }
        if at - self.from >= room {
            self.from = at + 1 - room;
        }
        out.say("\r");
        out.say(&self.prompt);
        let mut utf8 = [0; 4];
        for c in shown.chars().skip(self.from).take(room) {
            out.say(c.encode_utf8(&mut utf8));
        }
        out.say("\x1b[K");
        let drawn = shown.chars().skip(self.from).take(room).count();
        left(drawn - (at - self.from).min(drawn), out);
    }

    /// One key.
    pub fn key(&mut self, key: Key, out: &mut dyn Terminal) -> Edited {
        match key {
            Key::Char(c) => self.insert(c, out),
            Key::Enter if self.pasting && !self.secret => self.insert(' ', out),
            Key::Enter => return self.done(out),
            Key::Interrupt => {
                out.say("^C\r\n");
                self.clear();
                return Edited::Interrupted;
            }
            Key::Leave if self.line.is_empty() => return Edited::Left,
            Key::Complete if !self.secret && !self.pasting => return Edited::Complete,
            Key::PasteBegin => self.pasting = true,
            Key::PasteEnd => self.pasting = false,
            Key::Backspace => self.erase_before(1, out),
            Key::KillWord => {
                let before = &self.line[..self.cursor];
                let word = before.trim_end();
                let start = word.rfind(' ').map_or(0, |i| i + 1);
                let count = before[start..].chars().count();
                self.erase_before(count, out);
            }
            Key::KillBefore => {
                let count = self.line[..self.cursor].chars().count();
                self.erase_before(count, out);
            }
            Key::Delete | Key::Leave => self.erase_under(out),
            Key::KillAfter => {
                self.line.truncate(self.cursor);
                self.draw(out);
            }
            Key::Left => self.go(self.before(), out),
            Key::Right => self.go(self.after(), out),
            Key::Home => self.go(0, out),
            Key::End => self.go(self.line.len(), out),
            Key::Up => self.recall(true, out),
            Key::Down => self.recall(false, out),
            Key::Redraw => {
                out.say("\x1b[2J\x1b[H");
                self.draw(out);
            }
            Key::Complete | Key::Escape => {}
        }
        Edited::Typing
    }

    /// Completes the last word by the `words` that begin with it: as far as they agree; where that
    /// is nothing new they are listed.
    pub fn complete(&mut self, words: &[&str], out: &mut dyn Terminal) {
        if self.cursor != self.line.len() {
            return;
        }
        let start = self.line.rfind(' ').map_or(0, |i| i + 1);
        let begun = Line::try_from(&self.line[start..]).unwrap_or_default();
        let mut fitting = words.iter().filter(|w| w.starts_with(begun.as_str()));
        let Some(first) = fitting.next() else {
            out.say("\x07");
            return;
        };
        let mut agreed = *first;
        let mut others = false;
        for word in fitting {
            others = true;
            let same = agreed.bytes().zip(word.bytes());
            agreed = &agreed[..same.take_while(|(a, b)| a == b).count()];
        }
        if agreed.len() == begun.len() && others {
            out.say("\r\n");
            for word in words.iter().filter(|w| w.starts_with(begun.as_str())) {
                out.say(word);
                out.say("  ");
            }
            out.say("\r\n");
            self.draw(out);
            return;
        }
        let rest = agreed.get(begun.len()..).unwrap_or_default();
        for c in rest.chars() {
            self.insert(c, out);
        }
        if !others {
            self.insert(' ', out);
        }
    }

    fn clear(&mut self) {
        self.line.clear();
        (self.cursor, self.from) = (0, 0);
        self.recalled = None;
        self.pasting = false;
    }

    fn done(&mut self, out: &mut dyn Terminal) -> Edited {
        out.say("\r\n");
        let line = std::mem::take(&mut self.line);
        let is_new = self.history.back() != Some(&line);
        if !self.secret && !line.trim().is_empty() && is_new {
            if self.history.is_full() {
                self.history.pop_front();
            }
            // There is room now.
            self.history.push_back(line.clone()).ok();
        }
        self.clear();
        Edited::Done(line)
    }

    fn insert(&mut self, c: char, out: &mut dyn Terminal) {
        if self.line.len() + c.len_utf8() > LINE {
            out.say("\x07");
            return;
        }
        let at_end = self.cursor == self.line.len();
        let tail = Line::try_from(&self.line[self.cursor..]).unwrap_or_default();
        self.line.truncate(self.cursor);
        // There is room: it was looked at.
        self.line.push(c).ok();
        self.cursor = self.line.len();
        self.line.push_str(&tail).ok();
        if self.secret {
            return;
        }
        let used = self.prompt.chars().count() + self.line.chars().count();
        if at_end && self.from == 0 && used < WIDTH {
            out.say(c.encode_utf8(&mut [0; 4]));
        } else {
            self.draw(out);
        }
    }

    fn erase_before(&mut self, count: usize, out: &mut dyn Terminal) {
        let start = self.line[..self.cursor]
            .char_indices()
            .rev()
            .nth(count.wrapping_sub(1))
            .map_or(self.cursor, |(i, _)| i);
        self.cut(start, self.cursor, out);
    }

    fn erase_under(&mut self, out: &mut dyn Terminal) {
        self.cut(self.cursor, self.after(), out);
    }

    fn cut(&mut self, from: usize, upto: usize, out: &mut dyn Terminal) {
        if from == upto {
            return;
        }
        let tail = Line::try_from(&self.line[upto..]).unwrap_or_default();
        self.line.truncate(from);
        // What was longer had room.
        self.line.push_str(&tail).ok();
        self.cursor = from;
        self.show(out);
    }

    fn go(&mut self, to: usize, out: &mut dyn Terminal) {
        self.cursor = to;
        self.show(out);
    }

    fn show(&mut self, out: &mut dyn Terminal) {
        if !self.secret {
            self.draw(out);
        }
    }

    fn before(&self) -> usize {
        let before = self.line[..self.cursor].char_indices().next_back();
        before.map_or(0, |(i, _)| i)
    }

    fn after(&self) -> usize {
        let under = self.line[self.cursor..].chars().next();
        self.cursor + under.map_or(0, char::len_utf8)
    }

    fn recall(&mut self, older: bool, out: &mut dyn Terminal) {
        if self.secret {
            return;
        }
        let newest = self.history.len().checked_sub(1);
        let wanted = match (self.recalled, older) {
            (None, true) => newest,
            (None, false) => return,
            (Some(i), true) => Some(i.saturating_sub(1)),
            (Some(i), false) => Some(i + 1).filter(|i| *i < self.history.len()),
        };
        let line = wanted.and_then(|i| self.history.iter().nth(i)).cloned();
        if older && line.is_none() {
            return;
        }
        self.recalled = wanted;
        self.line = line.unwrap_or_default();
        self.cursor = self.line.len();
        self.from = 0;
        self.draw(out);
    }
}

fn left(columns: usize, out: &mut dyn Terminal) {
    if columns > 0 {
        // A row has two digits of columns.
        let mut text = heapless::String::<8>::new();
        if core::fmt::write(&mut text, format_args!("\x1b[{columns}D")).is_ok() {
            out.say(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::Keys;
    use super::*;
    use proptest::prelude::*;

    /// One row of a terminal, as far as the editor draws on it.
    #[derive(Default)]
    struct Row {
        cells: Vec<char>,
        at: usize,
        widest: usize,
    }

    impl Row {
        fn shown(bytes: &[u8]) -> Self {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let mut row = Self::default();
            let mut chars = text.chars();
            while let Some(c) = chars.next() {
                match c {
                    '\r' => row.at = 0,
                    '\n' => row.cells.clear(),
                    '\x07' => {}
                    '\x1b' => {
                        let mut number = String::new();
                        assert_eq!(chars.next(), Some('['));
                        let last = loop {
                            match chars.next().expect("the rest of a sequence") {
                                c if c.is_ascii_digit() => number.push(c),
                                c => break c,
                            }
                        };
                        match last {
                            'K' => row.cells.truncate(row.at),
                            'D' => row.at -= number.parse::<usize>().expect("a number"),
                            'J' => row.cells.clear(),
                            'H' => row.at = 0,
                            other => panic!("the editor drew {other}"),
                        }
                    }
                    c => {
                        if row.at < row.cells.len() {
                            row.cells[row.at] = c;
                        } else {
                            row.cells.push(c);
                        }
                        row.at += 1;
                        row.widest = row.widest.max(row.cells.len());
                    }
                }
            }
            row
        }

        fn text(&self) -> String {
            self.cells.iter().collect()
        }
    }

    fn typed(editor: &mut Editor, bytes: &[u8]) -> (Vec<Edited>, Vec<u8>) {
        let (mut keys, mut out) = (Keys::default(), Vec::new());
        editor.begin("> ", &mut out);
        let done = bytes
            .iter()
            .filter_map(|b| keys.byte(*b))
            .map(|k| editor.key(k, &mut out))
            .filter(|e| *e != Edited::Typing)
            .collect();
        (done, out)
    }

    fn line(bytes: &[u8]) -> String {
        match typed(&mut Editor::default(), bytes).0.as_slice() {
            [Edited::Done(line)] => line.as_str().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_edit_the_line_as_a_shell_does() {
        assert_eq!(line(b"statsu\x7f\x7fus\r"), "status");
        assert_eq!(line(b"tatus\x01s\r"), "status");
        assert_eq!(line(b"stus\x1b[D\x1b[Dat\r"), "status");
        assert_eq!(line(b"audit show\x17\x17queue\r"), "queue");
        assert_eq!(line(b"garbage\x15status\r"), "status");
        assert_eq!(line("Kälte\x7f\x7f\x7f\x7fälte\r".as_bytes()), "Kälte");
        assert_eq!(line(b"xstatus\x01\x1b[3~\r"), "status");
    }

    #[test]
    fn what_was_pasted_runs_only_when_somebody_presses_enter() {
        let mut e = Editor::default();
        let (done, _) = typed(&mut e, b"\x1b[200~reboot\rreset\r\x1b[201~");
        assert_eq!(done, []);
        assert_eq!(e.line(), "reboot reset ");
    }

    #[test]
    fn a_secret_is_neither_shown_nor_kept() {
        let (mut e, mut out) = (Editor::default(), Vec::new());
        e.begin_secret("passphrase: ", &mut out);
        out.clear();
        for c in "correct horse".chars() {
            e.key(Key::Char(c), &mut out);
        }
        for key in [Key::Left, Key::Home, Key::End, Key::Up, Key::Backspace] {
            e.key(key, &mut out);
        }
        assert!(out.is_empty(), "{out:?}");
        assert!(matches!(e.key(Key::Enter, &mut out), Edited::Done(l) if l == "correct hors"));
        assert_eq!(out, b"\r\n");
        e.begin("> ", &mut out);
        e.key(Key::Up, &mut out);
        assert_eq!(e.line(), "");
    }

    #[test]
    fn older_lines_come_back_in_order() {
        let mut e = Editor::default();
        typed(&mut e, b"one\rtwo\rtwo\rthree\r");
        let (_, _) = typed(&mut e, b"\x1b[A\x1b[A");
        assert_eq!(e.line(), "two");
        typed(&mut e, b"\x1b[A\x1b[A\x1b[A\x1b[A\x1b[B");
        assert_eq!(e.line(), "two");
        typed(&mut e, b"\x1b[A\x1b[B");
        assert_eq!(e.line(), "");
        e.forget();
        typed(&mut e, b"\x1b[A");
        assert_eq!(e.line(), "");
    }

    #[test]
    fn tab_completes_as_far_as_the_words_agree() {
        let words = ["status", "queue", "quit"];
        let mut e = Editor::default();
        let mut out = Vec::new();
        e.begin("> ", &mut out);
        e.key(Key::Char('s'), &mut out);
        assert_eq!(e.key(Key::Complete, &mut out), Edited::Complete);
        e.complete(&words, &mut out);
        assert_eq!(e.line(), "status ");
        e.key(Key::KillBefore, &mut out);
        e.key(Key::Char('q'), &mut out);
        e.complete(&words, &mut out);
        assert_eq!(e.line(), "qu");
        out.clear();
        e.complete(&words, &mut out);
        assert!(String::from_utf8_lossy(&out).contains("queue  quit"));
        assert_eq!(e.line(), "qu");
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_with_a_bell() {
        let mut e = Editor::default();
        let (_, out) = typed(&mut e, &[b'a'; 400]);
        assert_eq!(e.line().len(), LINE);
        assert_eq!(out.iter().filter(|b| **b == 7).count(), 400 - LINE);
    }

    proptest! {
        /// Whatever is typed, the row shows the prompt and the part of the line around the cursor,
        /// and never more than the row.
        #[test]
        fn the_row_shows_the_line_and_never_wraps(
            keys in prop::collection::vec(prop_oneof![
                4 => any::<u8>().prop_map(|b| Key::Char(char::from(b' ' + b % 95))),
                1 => Just(Key::Char('é')),
                1 => prop::sample::select(vec![
                    Key::Left, Key::Right, Key::Home, Key::End, Key::Backspace, Key::Delete,
                    Key::KillWord, Key::KillAfter, Key::Up, Key::Down, Key::Redraw,
                ]),
            ], 0..300)
        ) {
            let (mut e, mut out) = (Editor::default(), Vec::new());
            e.begin("gateway> ", &mut out);
            for key in keys {
                e.key(key, &mut out);
            }
            let row = Row::shown(&out);
            prop_assert!(row.widest <= WIDTH);
            let room = WIDTH - 9;
            let expected: String = e.line().chars().skip(e.from).take(room).collect();
            prop_assert_eq!(row.text(), format!("gateway> {expected}"));
            let cursor = e.line()[..e.cursor].chars().count();
            prop_assert_eq!(row.at, 9 + cursor - e.from);
        }
    }
}
