//! One file to the laptop by ZMODEM.
//!
//! It promises that the receiver's checksums decide when the file is there, that an interrupted
//! transfer ends by itself, and that the memory is fixed: the file is read piece by piece as the
//! receiver asks. It is a state machine: bytes and time in, bytes for the line out.

use std::fmt;
use std::io;
use std::time::Duration;

use zmodem2::{Action, Event, FileInfo, Position, Sender};

use crate::clock::Mono;

use super::editor::Terminal;

/// How often a receiver that has not begun is asked again.
const AGAIN: Duration = Duration::from_secs(5);

/// Without a word from the receiver for so long, it is over.
const PATIENCE: Duration = Duration::from_secs(60);

/// After the end the receiving program may still swallow what comes.
const TAIL: Duration = Duration::from_millis(1500);

/// Bytes for the line at a time: a third of a second at 115,200 baud.
const PORTION: usize = 4 << 10;

/// The longest piece that the protocol takes.
const PIECE: usize = 1024;

/// So many of them in a row from the receiver: it has given up.
const CANCELS: u8 = 5;
const CAN: u8 = 0x18;
const CTRL_C: u8 = 0x03;

/// What is sent.
pub trait Source: fmt::Debug + Send {
    /// Its name for the receiver: no path.
    fn name(&self) -> &str;

    /// Bytes of it: less than 4 GiB.
    fn size(&self) -> u32;

    /// Fills `piece` as far as it goes from `offset` on; how many bytes.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&mut self, offset: u32, piece: &mut [u8]) -> io::Result<usize>;
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The receiver has all of it.
    Done(u32),
    /// Somebody gave up.
    Cancelled,
    /// The receiver said nothing more, or never began.
    Silent,
    /// The file could not be read on.
    Unreadable(String),
    /// The receiver's words are not understood.
    Confused(String),
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(bytes) => write!(f, "Sent: {bytes} bytes."),
            Self::Cancelled => write!(f, "Given up; nothing was changed here."),
            Self::Silent => write!(
                f,
                "Nobody receives: start `rz` in the terminal program, and send again."
            ),
            Self::Unreadable(why) => write!(f, "The file cannot be read: {why}"),
            Self::Confused(why) => write!(f, "The transfer failed ({why}): send again."),
        }
    }
}

/// See the module's text.
pub struct Transfer {
    source: Box<dyn Source>,
    sender: Option<Sender>,
    began: bool,
    /// Of the last word of the receiver.
    heard: Mono,
    /// When the receiver is asked again.
    again: Mono,
    /// Bytes that wait for the line to be free.
    waits: bool,
    cancels: u8,
    completed: bool,
    end: Option<Sent>,
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer")
            .field("source", &self.source)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Transfer {
    /// Offers `source`.
    pub fn new(source: Box<dyn Source>, now: Mono) -> Self {
        let info = FileInfo::new(source.name().as_bytes(), Some(Position::new(source.size())));
        let ready = Sender::new().and_then(|mut s| {
            s.start_file(info)?;
            s.finish()?;
            Ok(s)
        });
        let (sender, end) = match ready {
            Ok(sender) => (Some(sender), None),
            Err(e) => (None, Some(Sent::Confused(format!("{e:?}")))),
        };
        Self {
            source,
            sender,
            began: false,
            heard: now,
            again: now + AGAIN,
            waits: true,
            cancels: 0,
            completed: false,
            end,
        }
    }

    /// How it ended; none: it has not, or the receiver would swallow what is said of it.
    pub fn ended(&self, now: Mono) -> Option<&Sent> {
        self.end.as_ref().filter(|_| now >= self.heard + TAIL)
    }

    /// When [`Transfer::timeout`] is due.
    pub fn deadline(&self) -> Mono {
        if self.end.is_some() {
            return self.heard + TAIL;
        }
        if self.waits {
            return Mono::default();
        }
        let again = if self.began { Mono::NEVER } else { self.again };
        again.min(self.heard + PATIENCE)
    }

    /// Bytes of the receiver.
    pub fn received(&mut self, bytes: &[u8], now: Mono, out: &mut dyn Terminal) {
        if self.end.is_some() {
            return;
        }
        self.heard = now;
        for byte in bytes {
            self.cancels = if *byte == CAN { self.cancels + 1 } else { 0 };
            // Before a receiver begins the other end is a keyboard.
            if self.cancels >= CANCELS || !self.began && *byte == CTRL_C {
                return self.cancel(out);
            }
        }
        let mut rest = bytes;
        while !rest.is_empty() && self.end.is_none() {
            let Some(sender) = &mut self.sender else {
                return;
            };
            match sender.submit_wire(rest) {
                // It has something to say first.
                Ok(0) => {
                    if !self.pump(out) {
                        break;
                    }
                }
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                // Noise: it has asked for the same once more.
                Err(_) => rest = rest.get(1..).unwrap_or_default(),
            }
        }
        self.pump(out);
    }

    /// Time has passed, or the line is free again.
    pub fn timeout(&mut self, now: Mono, out: &mut dyn Terminal) {
        if self.end.is_some() {
            return;
        }
        if now >= self.heard + PATIENCE {
            if let Some(sender) = &mut self.sender {
                sender.abort();
            }
            self.flush(out);
            self.end.get_or_insert(Sent::Silent);
            return;
        }
        if !self.began && now >= self.again {
            self.again = now + AGAIN;
            if let Some(sender) = &mut self.sender
                && let Err(e) = sender.timeout()
            {
                log::debug!("ZMODEM: {e:?}");
            }
        }
        self.pump(out);
    }

    /// Tells the receiver that it is over.
    pub fn cancel(&mut self, out: &mut dyn Terminal) {
        if let Some(sender) = &mut self.sender {
            sender.abort();
        }
        self.flush(out);
        self.end.get_or_insert(Sent::Cancelled);
    }

    /// Says what is to be said, as much as a portion holds; was there anything?
    fn pump(&mut self, out: &mut dyn Terminal) -> bool {
        let mut said = 0;
        self.waits = false;
        while self.end.is_none() {
            let Some(sender) = &mut self.sender else {
                break;
            };
            if said >= PORTION {
                self.waits = true;
                break;
            }
            match sender.poll() {
                Action::WriteWire(bytes) => {
                    out.put(bytes);
                    let n = bytes.len();
                    said += n;
                    sender.wire_written(n);
                }
                Action::ReadFile { offset, max_len } => {
                    self.began = true;
                    let mut piece = [0; PIECE];
                    let room = piece.get_mut(..max_len.min(PIECE)).unwrap_or_default();
                    match self.source.read(offset.get(), room) {
                        Ok(n) if n > 0 => {
                            let piece = room.get(..n).unwrap_or_default();
                            if let Err(e) = sender.submit_file(piece) {
                                self.end = Some(Sent::Confused(format!("{e:?}")));
                            }
                        }
                        Ok(_) => self.unreadable("it became shorter meanwhile", out),
                        Err(e) => self.unreadable(&e.to_string(), out),
                    }
                }
                Action::Event(Event::FileCompleted) => self.completed = true,
                Action::Event(Event::SessionCompleted) => {
                    self.end = Some(if self.completed {
                        Sent::Done(self.source.size())
                    } else {
                        Sent::Cancelled
                    });
                    // The receiver waits for the last word.
                    self.flush(out);
                }
                Action::Event(Event::Aborted) => self.end = Some(Sent::Cancelled),
                Action::WriteFile(_) | Action::Event(_) | Action::Idle | _ => break,
            }
        }
        said > 0
    }

    fn unreadable(&mut self, why: &str, out: &mut dyn Terminal) {
        if let Some(sender) = &mut self.sender {
            sender.abort();
        }
        self.flush(out);
        self.end = Some(Sent::Unreadable(why.to_owned()));
    }

    /// Says what is left, whatever it is.
    fn flush(&mut self, out: &mut dyn Terminal) {
        let Some(sender) = &mut self.sender else {
            return;
        };
        while let Action::WriteWire(bytes) = sender.poll() {
            out.put(bytes);
            let n = bytes.len();
            sender.wire_written(n);
        }
    }
}

#[cfg(test)]
mod tests;
