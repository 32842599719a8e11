//! Cuts a plain line into its fields without a JSON parser's machinery.
//!
//! It promises that what it cuts is what the parser would have cut, byte for byte: a flat object
//! of texts without escapes, numbers and the three words. It must never guess: anything else is
//! `None`, and the parser decides.

/// Calls `take` with each key and its value's bytes; `None` when the line is not plain, or when
/// `take` says so. What was taken until then is to be thrown away.
pub(super) fn fields<'a>(
    line: &'a str,
    mut take: impl FnMut(&'a str, &'a str) -> Option<()>,
) -> Option<()> {
    let mut rest = Rest { line, at: 0 };
    rest.skip(b'{')?;
    if rest.skip(b'}').is_none() {
        loop {
            let key = rest.text()?;
            rest.skip(b':')?;
            let value = rest.value()?;
            take(&key[1..key.len() - 1], value)?;
            if rest.skip(b',').is_none() {
                rest.skip(b'}')?;
                break;
            }
        }
    }
    rest.blank();
    (rest.at == line.len()).then_some(())
}

/// A line and how far it was read.
struct Rest<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Rest<'a> {
    fn peek(&self) -> Option<u8> {
        self.line.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Goes past blanks and this byte, if it is next.
    fn skip(&mut self, byte: u8) -> Option<()> {
        self.blank();
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// A text with its quotes; without escapes, so that it means what it says.
    fn text(&mut self) -> Option<&'a str> {
        self.blank();
        let start = self.at;
        if self.peek()? != b'"' {
            return None;
        }
        let inside = &self.line.as_bytes()[start + 1..];
        let end = inside
            .iter()
            .position(|b| matches!(b, b'"' | b'\\' | 0..0x20))?;
        self.at = start + end + 2;
        (inside[end] == b'"').then(|| &self.line[start..self.at])
    }

    fn value(&mut self) -> Option<&'a str> {
        self.blank();
        let start = self.at;
        match self.peek()? {
            b'"' => return self.text(),
            b'-' | b'0'..=b'9' => self.number()?,
            _ => {
                let after = &self.line[start..];
                let word = ["null", "true", "false"];
                let word = word.into_iter().find(|w| after.starts_with(w))?;
                self.at += word.len();
            }
        }
        Some(&self.line[start..self.at])
    }

    /// Source: RFC 8259, section 6.
    fn number(&mut self) -> Option<()> {
        self.at += usize::from(self.peek()? == b'-');
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Some(())
    }

    /// At least one.
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}
