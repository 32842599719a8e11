//! Bytes of a line become keys.
//!
//! It promises that one Enter comes of CR, LF, CRLF and CR NUL, that no escape sequence is longer
//! than its bound, and that noise (NUL, stray control bytes, broken UTF-8) becomes nothing. It
//! allocates nothing and never waits: who calls it says when a sequence took too long.
//!
//! Source of the sequences: ECMA-48 (CSI), xterm's ctlseqs (SS3, bracketed paste), VT220 (tilde
//! keys).

use std::time::Duration;

/// Bytes of an escape sequence behind its introducer; what is longer is noise.
const LONGEST: usize = 16;

/// An escape byte with nothing behind it for so long is the key itself. A byte takes 87 us at
/// 115,200 baud; a USB adapter holds bytes back for up to 16 ms.
pub const ESCAPE: Duration = Duration::from_millis(100);

/// What a person did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character that can be shown.
    Char(char),
    /// The end of a line.
    Enter,
    /// Backspace, by BS or DEL.
    Backspace,
    /// Delete what is under the cursor.
    Delete,
    /// The arrow, or Ctrl-B.
    Left,
    /// The arrow, or Ctrl-F.
    Right,
    /// The arrow, or Ctrl-P.
    Up,
    /// The arrow, or Ctrl-N.
    Down,
    /// Home, or Ctrl-A.
    Home,
    /// End, or Ctrl-E.
    End,
    /// Ctrl-U: all that is left of the cursor goes.
    KillBefore,
    /// Ctrl-K: all from the cursor on goes.
    KillAfter,
    /// Ctrl-W: the word left of the cursor goes.
    KillWord,
    /// Tab.
    Complete,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    Leave,
    /// Ctrl-L.
    Redraw,
    /// Escape alone.
    Escape,
    /// What follows was pasted (bracketed paste).
    PasteBegin,
    /// What was pasted ends.
    PasteEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// After ESC O.
    Single,
    /// After ESC [: the first number, how many bytes came, and whether there is more than that
    /// number.
    Control { number: u16, bytes: usize },
    /// Inside a character of more than one byte: what is known of it and how many bytes miss.
    Character { bits: u32, missing: u8, least: u32 },
}

/// The decoder of one line.
#[derive(Debug, Default)]
pub struct Keys {
    state: State,
    /// The last byte was CR: an LF that follows is the same Enter.
    after_cr: bool,
}

impl Keys {
    /// One byte.
    pub fn byte(&mut self, byte: u8) -> Option<Key> {
        let after_cr = std::mem::take(&mut self.after_cr);
        match self.state {
            State::Ground => self.ground(byte, after_cr),
            State::Escape => {
                self.state = match byte {
                    b'[' => State::Control {
                        number: 0,
                        bytes: 0,
                    },
                    b'O' => State::Single,
                    0x1b => State::Escape,
                    _ => State::Ground,
                };
                None
            }
            State::Single => {
                self.state = State::Ground;
                arrow(byte)
            }
            State::Control { number, bytes } => self.control(byte, number, bytes),
            State::Character {
                bits,
                missing,
                least,
            } => self.character(byte, bits, missing, least),
        }
    }

    /// Does a sequence wait for its rest? Then [`Keys::too_late`] is due after [`ESCAPE`].
    pub fn is_waiting(&self) -> bool {
        self.state != State::Ground
    }

    /// The rest did not come.
    pub fn too_late(&mut self) -> Option<Key> {
        let state = std::mem::take(&mut self.state);
        (state == State::Escape).then_some(Key::Escape)
    }

    fn ground(&mut self, byte: u8, after_cr: bool) -> Option<Key> {
        match byte {
            b'\r' => {
                self.after_cr = true;
                Some(Key::Enter)
            }
            b'\n' => (!after_cr).then_some(Key::Enter),
            0x1b => {
                self.state = State::Escape;
                None
            }
            0x01 => Some(Key::Home),
            0x02 => Some(Key::Left),
            0x03 => Some(Key::Interrupt),
            0x04 => Some(Key::Leave),
            0x05 => Some(Key::End),
            0x06 => Some(Key::Right),
            0x08 | 0x7f => Some(Key::Backspace),
            b'\t' => Some(Key::Complete),
            0x0b => Some(Key::KillAfter),
            0x0c => Some(Key::Redraw),
            0x0e => Some(Key::Down),
            0x10 => Some(Key::Up),
            0x15 => Some(Key::KillBefore),
            0x17 => Some(Key::KillWord),
            0x20..=0x7e => Some(Key::Char(char::from(byte))),
            0xc2..=0xdf => self.begin(byte & 0x1f, 1, 0x80),
            0xe0..=0xef => self.begin(byte & 0x0f, 2, 0x800),
            0xf0..=0xf4 => self.begin(byte & 0x07, 3, 0x1_0000),
            _ => None,
        }
    }

    fn begin(&mut self, bits: u8, missing: u8, least: u32) -> Option<Key> {
        self.state = State::Character {
            bits: u32::from(bits),
            missing,
            least,
        };
        None
    }

    fn character(&mut self, byte: u8, bits: u32, missing: u8, least: u32) -> Option<Key> {
        if byte & 0xc0 != 0x80 {
            // The broken one is dropped; what broke it counts.
            self.state = State::Ground;
            return self.ground(byte, false);
        }
        let bits = bits << 6 | u32::from(byte & 0x3f);
        if missing > 1 {
            self.state = State::Character {
                bits,
                missing: missing - 1,
                least,
            };
            return None;
        }
        self.state = State::Ground;
        let c = char::from_u32(bits).filter(|c| bits >= least && !c.is_control())?;
        Some(Key::Char(c))
    }

    fn control(&mut self, byte: u8, number: u16, bytes: usize) -> Option<Key> {
        match byte {
            0x20..=0x3f if bytes < LONGEST => {
                // Only the first number counts: modifiers stand behind a semicolon.
                let number = match byte {
                    b'0'..=b'9' if number < 1000 => number * 10 + u16::from(byte - b'0'),
                    // What follows the first semicolon must not be added to it.
                    b';' => number.saturating_add(1000),
                    _ => number,
                };
                self.state = State::Control {
                    number,
                    bytes: bytes + 1,
                };
                None
            }
            0x40..=0x7e => {
                self.state = State::Ground;
                let first = number % 1000;
                match (byte, first) {
                    (b'~', 1 | 7) => Some(Key::Home),
                    (b'~', 3) => Some(Key::Delete),
                    (b'~', 4 | 8) => Some(Key::End),
                    (b'~', 200) => Some(Key::PasteBegin),
                    (b'~', 201) => Some(Key::PasteEnd),
                    _ => arrow(byte),
                }
            }
            _ => {
                // Noise in the middle of a sequence, or a sequence without end. A new line and a
                // new sequence are not part of it.
                self.state = State::Ground;
                match byte {
                    b'\r' | b'\n' | 0x1b | 0x03 => self.ground(byte, false),
                    _ => None,
                }
            }
        }
    }
}

fn arrow(byte: u8) -> Option<Key> {
    match byte {
        b'A' => Some(Key::Up),
        b'B' => Some(Key::Down),
        b'C' => Some(Key::Right),
        b'D' => Some(Key::Left),
        b'H' => Some(Key::Home),
        b'F' => Some(Key::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        bytes.iter().filter_map(|b| keys.byte(*b)).collect()
    }

    #[test]
    fn cr_lf_and_crlf_are_one_enter_each() {
        use Key::{Char, Enter};
        assert_eq!(
            keys(b"a\rb\nc\r\nd\r\0"),
            [
                Char('a'),
                Enter,
                Char('b'),
                Enter,
                Char('c'),
                Enter,
                Char('d'),
                Enter
            ]
        );
        assert_eq!(keys(b"\r\r\n\n"), [Enter, Enter, Enter]);
    }

    #[test]
    fn arrows_and_named_keys_come_in_every_dialect() {
        use Key::{Delete, Down, End, Home, Left, Right, Up};
        assert_eq!(keys(b"\x1b[A\x1bOA\x1b[1;5A"), [Up, Up, Up]);
        assert_eq!(keys(b"\x1b[B\x1b[C\x1b[D"), [Down, Right, Left]);
        assert_eq!(keys(b"\x1b[H\x1bOH\x1b[1~\x1b[7~\x01"), [Home; 5]);
        assert_eq!(keys(b"\x1b[F\x1bOF\x1b[4~\x1b[8~\x05"), [End; 5]);
        assert_eq!(keys(b"\x1b[3~"), [Delete]);
        assert_eq!(
            keys(b"\x1b[200~x\x1b[201~"),
            [Key::PasteBegin, Key::Char('x'), Key::PasteEnd]
        );
    }

    #[test]
    fn an_escape_alone_is_a_key_once_its_time_is_over() {
        let mut k = Keys::default();
        assert_eq!(k.byte(0x1b), None);
        assert!(k.is_waiting());
        assert_eq!(k.too_late(), Some(Key::Escape));
        assert!(!k.is_waiting());
        // Half a sequence is nothing.
        assert_eq!(k.byte(0x1b), None);
        assert_eq!(k.byte(b'['), None);
        assert_eq!(k.too_late(), None);
        assert_eq!(k.byte(b'A'), Some(Key::Char('A')));
    }

    #[test]
    fn a_sequence_without_end_gives_the_line_back() {
        let mut bytes = b"\x1b[".to_vec();
        bytes.extend([b'1'; 500]);
        bytes.extend(b"\rok");
        assert!(keys(&bytes).ends_with(&[Key::Enter, Key::Char('o'), Key::Char('k')]));
        assert_eq!(keys(b"\x1b[1\rx"), [Key::Enter, Key::Char('x')]);
    }

    #[test]
    fn characters_of_several_bytes_are_whole_or_nothing() {
        let chars = |s: &str| s.chars().map(Key::Char).collect::<Vec<_>>();
        assert_eq!(keys("Kühlhaus €😀".as_bytes()), chars("Kühlhaus €😀"));
        // Too long a form, a surrogate, a lone continuation, a beginning that breaks off.
        assert_eq!(keys(b"\xe0\x80\x80\xed\xa0\x80\x80\xc3a"), [Key::Char('a')]);
        // A control character of two bytes.
        assert_eq!(keys(b"\xc2\x9b"), []);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_line_that_can_be_typed_on(mut bytes: Vec<u8>) {
            bytes.extend(b"\r\r");
            let mut k = Keys::default();
            for b in bytes {
                k.byte(b);
            }
            prop_assert!(!k.is_waiting());
            prop_assert_eq!(k.byte(b'x'), Some(Key::Char('x')));
        }
    }
}
