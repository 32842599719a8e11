//! SHA-256 of what passes by; of much, on a thread beside the one that reads or writes it.
//!
//! It promises the hash of exactly the bytes that it was given, in their order, and memory of a few
//! pieces. It must never answer before all of them were hashed.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use sha2::{Digest, Sha256};

use super::hex::hex;

/// Below so many bytes a thread costs more than it saves.
const WORTH: u64 = 1 << 20;
/// What is handed over at once.
const PIECE: usize = 128 << 10;
/// Pieces that are filled, on their way or being hashed.
const PIECES: usize = 4;

/// See the module's text.
pub(super) struct Hashing(Where);

enum Where {
    Here(Sha256),
    Beside(Beside),
}

struct Beside {
    piece: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Sha256>,
}

impl Hashing {
    /// Of so many bytes, as far as that is known; `u64::MAX`: of many.
    pub(super) fn of(bytes: u64) -> Self {
        let beside = (bytes >= WORTH).then(Beside::start).flatten();
        Self(beside.map_or_else(|| Where::Here(Sha256::new()), Where::Beside))
    }

    /// These come next.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Where::Here(hash) => hash.update(bytes),
            Where::Beside(beside) => beside.take(bytes),
        }
    }

    /// Of all of them, in lower-case hex. Waits for the thread.
    pub(super) fn finish(self) -> String {
        let hash = match self.0 {
            Where::Here(hash) => hash,
            Where::Beside(beside) => beside.finish(),
        };
        hex(&hash.finalize())
    }
}

impl Beside {
    /// `None`: there is no thread to be had.
    fn start() -> Option<Self> {
        let (full, came) = sync_channel::<Vec<u8>>(PIECES);
        let (give_back, empty) = channel();
        for _ in 1..PIECES {
            give_back.send(Vec::new()).ok()?;
        }
        let thread = Builder::new()
            .name("holdup-hash".into())
            .spawn(move || hash(&came, &give_back))
            .ok()?;
        Some(Self {
            piece: Vec::with_capacity(PIECE),
            full,
            empty,
            thread,
        })
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = PIECE - self.piece.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE {
                self.hand_over();
            }
        }
    }

    fn hand_over(&mut self) {
        // A thread that is gone has panicked, which shows when it is joined.
        let next = self.empty.recv().unwrap_or_default();
        let piece = std::mem::replace(&mut self.piece, next);
        self.full.send(piece).ok();
    }

    fn finish(mut self) -> Sha256 {
        self.hand_over();
        drop(self.full);
        self.thread.join().unwrap_or_else(|e| resume_unwind(e))
    }
}

fn hash(came: &Receiver<Vec<u8>>, give_back: &Sender<Vec<u8>>) -> Sha256 {
    let mut hash = Sha256::new();
    for mut piece in came {
        hash.update(&piece);
        piece.clear();
        // At the end nobody wants it back.
        give_back.send(piece).ok();
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_of_all_the_bytes_in_their_order_wherever_it_is_worked_out() {
        let mut bytes = vec![0u8; 3 * PIECE * PIECES + 17];
        for (n, b) in bytes.iter_mut().enumerate() {
            *b = u8::try_from(n * n % 251).expect("below 256");
        }
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, bytes.len()] {
            let wanted = hex(&Sha256::digest(&bytes[..length]));
            for expected in [0, u64::MAX] {
                for step in [1009, PIECE, bytes.len()] {
                    let mut hashing = Hashing::of(expected);
                    let beside = matches!(hashing.0, Where::Beside(_));
                    assert_eq!(beside, expected > 0);
                    for part in bytes[..length].chunks(step) {
                        hashing.update(part);
                    }
                    assert_eq!(hashing.finish(), wanted, "{length} in steps of {step}");
                }
            }
        }
    }
}
