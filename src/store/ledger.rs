//! What was acknowledged, noted outside SQLite: the lower bound that a damaged store is held to.
//!
//! Two preallocated 4 KiB slots in turns, so that a torn write leaves the older one whole. A slot
//! is a header (magic, length, CRC-32) and one JSON object that a person can read with `strings`:
//! version, counter, epoch, highest acknowledged id, lowest kept id, time, and a hash chained to
//! the note before it. It names ranges of ids, never contents.
//!
//! At most one note is written a second, by a thread of its own, and only when something new was
//! acknowledged; it never stands before an acknowledgement. The store must hold at least what is
//! noted; it may hold more. It must never be a reason to stop.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::{Clock, Mono, Wall};
use crate::durable::{
    Block, BlockFile, DurableError, Gate, Medium, read_own_if_there, seal, unseal,
};

const MAGIC: &[u8; 8] = b"HOLDUPL\n";
const VERSION: u32 = 1;
const SLOTS: u32 = 2;
const BYTES: usize = SLOTS as usize * BlockFile::BLOCK;
/// From one write to the next, unless the plan orders one.
const EVERY: Duration = Duration::from_secs(1);
/// No store gets here; a note beyond it is none, and ids can be counted on.
const HIGHEST: i64 = 1 << 62;
/// What the first note is chained to.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A ledger that cannot be used. The store goes on without.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be read.
    #[error("cannot read the ledger {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither slot can be read, and both were written.
    #[error(
        "neither note of the ledger {} can be read: what it said of acknowledged readings is lost",
        .0.display()
    )]
    Damaged(PathBuf),
    /// It cannot be made or opened for writing.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// No thread for it.
    #[error("cannot start the ledger's thread")]
    Thread(#[source] io::Error),
}

/// What the ledger says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Notes written before this one, ever.
    pub counter: u64,
    /// Of which store it speaks.
    pub epoch: u64,
    /// Ids up to this one were acknowledged.
    pub highest: i64,
    /// The lowest id that retention had kept.
    pub lowest: i64,
    /// When it was noted.
    pub at: Wall,
    /// SHA-256, in hex, of this note and the hash of the note before it.
    pub hash: String,
}

/// One slot.
#[derive(Debug, Serialize, Deserialize)]
struct Slot {
    version: u32,
    counter: u64,
    epoch: String,
    highest: i64,
    lowest: i64,
    at: String,
    wall_ms: i64,
    previous: String,
    hash: String,
}

impl Slot {
    fn next(after: Option<&Noted>, mark: Mark, now: Wall) -> Self {
        let mut slot = Self {
            version: VERSION,
            counter: after.map_or(0, |n| n.counter.wrapping_add(1)),
            epoch: format!("{:016x}", mark.epoch),
            highest: mark.highest,
            lowest: mark.lowest,
            at: now.to_string(),
            wall_ms: now.as_millis(),
            previous: after.map_or_else(|| NOTHING.to_owned(), |n| n.hash.clone()),
            hash: String::new(),
        };
        slot.hash = slot.digest();
        slot
    }

    /// Over the fields as the text has them, one a line.
    fn digest(&self) -> String {
        let text = format!(
            "holdup-ledger-{}\n{}\n{}\n{}\n{}\n{}\n{}\n",
            self.version,
            self.counter,
            self.epoch,
            self.highest,
            self.lowest,
            self.wall_ms,
            self.previous
        );
        let hash = Sha256::digest(text);
        hash.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// What a block says, if it is whole.
    fn read(block: &Block) -> Option<Noted> {
        let slot: Self = unseal(MAGIC, block)?;
        let ids = 0..=HIGHEST;
        let sane = ids.contains(&slot.highest) && ids.contains(&slot.lowest);
        if slot.version != VERSION || slot.hash != slot.digest() || !sane {
            return None;
        }
        Some(Noted {
            counter: slot.counter,
            epoch: u64::from_str_radix(&slot.epoch, 16).ok()?,
            highest: slot.highest,
            lowest: slot.lowest,
            at: Wall::from_millis(slot.wall_ms),
            hash: slot.hash,
        })
    }
}

/// What the store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) epoch: u64,
    pub(super) highest: i64,
    pub(super) lowest: i64,
}

/// What ledger and store say of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing was ever noted.
    Nothing,
    /// The store holds what it must.
    Agrees,
    /// The store lacks these ids, which were acknowledged.
    Missing { from: i64, upto: i64 },
    /// It speaks of another store.
    Foreign,
}

/// Holds the store to what was noted.
pub(super) fn compare(noted: Option<&Noted>, store: Mark) -> Standing {
    match noted {
        None => Standing::Nothing,
        Some(n) if n.epoch != store.epoch => Standing::Foreign,
        Some(n) if n.highest > store.highest => Standing::Missing {
            from: n.lowest.max(store.highest.saturating_add(1)).min(n.highest),
            upto: n.highest,
        },
        Some(_) => Standing::Agrees,
    }
}

/// What became of the last note, for status.
pub(super) type Told = Box<dyn Fn(Result<i64, String>) + Send>;

#[derive(Debug, Default)]
struct Desk {
    /// Not written yet.
    want: Option<Mark>,
    /// It is newer than the last look at the gate.
    fresh: bool,
    /// It waits for its second.
    early: bool,
    ordered: u64,
    done: u64,
    stop: bool,
    /// The thread has ended.
    ended: bool,
}

/// The writing end. Dropping it stops the thread; what was ordered is written before.
#[derive(Debug)]
pub struct Ledger {
    desk: Arc<(Mutex<Desk>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Ledger {
    /// The newest whole note at `path`, without opening it for writing. `None`: no ledger, or
    /// nothing was noted yet; a first note that was cut is nothing.
    ///
    /// # Errors
    /// It cannot be read, is no regular file, is too large, or both its slots are damaged.
    pub fn read(path: &Path) -> Result<Option<Noted>, LedgerError> {
        let bytes = read_own_if_there(path, BYTES as u64).map_err(|source| LedgerError::Io {
            path: path.to_owned(),
            source,
        })?;
        let mut damaged = 0;
        let mut newest: Option<Noted> = None;
        for part in bytes.unwrap_or_default().chunks(BlockFile::BLOCK) {
            let mut block = [0; BlockFile::BLOCK];
            block[..part.len()].copy_from_slice(part);
            match Slot::read(&block) {
                Some(n) if newest.as_ref().is_none_or(|m| n.counter > m.counter) => {
                    newest = Some(n);
                }
                Some(_) => {}
                None => damaged += u32::from(part.iter().any(|b| *b != 0)),
            }
        }
        if newest.is_none() && damaged == SLOTS {
            return Err(LedgerError::Damaged(path.to_owned()));
        }
        Ok(newest)
    }

    /// Opens or makes the ledger and starts its thread, which goes on after `last`. `told` is
    /// called on that thread after each write. The caller holds a pass of the gate.
    pub(super) fn open(
        path: &Path,
        last: Option<Noted>,
        medium: Arc<Medium>,
        gate: Arc<Gate>,
        clock: Arc<dyn Clock>,
        told: Told,
    ) -> Result<Self, LedgerError> {
        let file = BlockFile::open(&medium, path, SLOTS)?;
        let desk = Arc::new((Mutex::new(Desk::default()), Condvar::new()));
        let mut scribe = Scribe {
            desk: Arc::clone(&desk),
            file,
            last,
            medium,
            gate,
            clock,
            told,
        };
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || scribe.serve())
            .map_err(LedgerError::Thread)?;
        Ok(Self {
            desk,
            thread: Some(thread),
        })
    }

    /// So much is acknowledged now. Costs a lock; the writing is somebody else's.
    pub(super) fn note(&self, mark: Mark) {
        let mut desk = lock(&self.desk.0);
        let idle = desk.want.is_none() || !desk.fresh;
        desk.want = Some(mark);
        desk.fresh = true;
        drop(desk);
        if idle {
            self.desk.1.notify_all();
        }
    }

    /// The plan's order: what is noted is written now, gate or not.
    pub(super) fn order(&self) {
        lock(&self.desk.0).ordered += 1;
        self.desk.1.notify_all();
    }

    /// Waits until what was ordered is written, or cannot be.
    pub(super) fn wait(&self) {
        let busy = |d: &mut Desk| d.done < d.ordered && !d.ended;
        drop(
            self.desk
                .1
                .wait_while(lock(&self.desk.0), busy)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        lock(&self.desk.0).stop = true;
        self.desk.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends when its write returns; a panic there has been reported already.
            thread.join().ok();
        }
    }
}

struct Scribe {
    desk: Arc<(Mutex<Desk>, Condvar)>,
    file: BlockFile,
    last: Option<Noted>,
    medium: Arc<Medium>,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
    told: Told,
}

impl Scribe {
    fn serve(&mut self) {
        let desk = Arc::clone(&self.desk);
        let mut written: Option<Mono> = None;
        let mut held = lock(&desk.0);
        let mut works = true;
        while works && (held.ordered > held.done || !held.stop) {
            let ordered = held.ordered;
            let by_order = ordered > held.done;
            let Some(mark) = held.want.filter(|_| by_order || held.fresh) else {
                held.done = ordered;
                desk.1.notify_all();
                held = desk.1.wait(held).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = self.clock.mono();
            let due = written.map_or(now, |at| at + EVERY);
            if !by_order && now < due {
                let left = due.since(now);
                held.early = true;
                let woken = desk.1.wait_timeout(held, left);
                held = woken.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            held.fresh = false;
            held.early = false;
            held.want = None;
            drop(held);
            let gate = Arc::clone(&self.gate);
            // Held while it is written, so that nobody calls it quiet meanwhile.
            let pass = gate.try_enter();
            let goes = by_order || pass.is_some();
            if goes {
                written = Some(now);
                works = self.write(mark);
            }
            drop(pass);
            held = lock(&desk.0);
            if goes {
                held.done = ordered;
            } else if held.want.is_none() {
                // The next acknowledgement, or the plan, looks again.
                held.want = Some(mark);
            }
            desk.1.notify_all();
        }
        held.ended = true;
        desk.1.notify_all();
    }

    /// False when nothing more can be written.
    fn write(&mut self, mark: Mark) -> bool {
        let slot = Slot::next(self.last.as_ref(), mark, self.clock.wall());
        let mut block = [0; BlockFile::BLOCK];
        seal(MAGIC, &slot, &mut block);
        let place = u32::from(slot.counter % 2 == 1);
        match self.file.write(&self.medium, place, &block) {
            Ok(()) => {
                (self.told)(Ok(slot.highest));
                self.last = Slot::read(&block);
                true
            }
            Err(e) => {
                let why = format!("acknowledged readings are not noted any more: {e}");
                log::error!("{why}");
                (self.told)(Err(why));
                false
            }
        }
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "the tests plant torn and damaged slots"
)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, SystemClock};
    use crate::durable::Closer;
    use std::fs;

    fn noted(counter: u64, highest: i64) -> Noted {
        let before = (counter > 0).then(|| Noted {
            counter: counter - 1,
            epoch: 7,
            highest: 0,
            lowest: 0,
            at: Wall::from_millis(0),
            hash: NOTHING.to_owned(),
        });
        let mark = Mark {
            epoch: 7,
            highest,
            lowest: 1,
        };
        Slot::read(&block(before.as_ref(), mark)).expect("whole")
    }

    fn block(before: Option<&Noted>, mark: Mark) -> Block {
        let slot = Slot::next(before, mark, Wall::from_millis(1_767_225_600_000));
        let mut block = [0; BlockFile::BLOCK];
        assert!(seal(MAGIC, &slot, &mut block));
        block
    }

    /// Notes of 100 (slot 0) and, newer, of 200 (slot 1).
    fn two(dir: &Path) -> (PathBuf, Vec<u8>) {
        let path = dir.join("ledger");
        let mark = |highest| Mark {
            epoch: 7,
            highest,
            lowest: 1,
        };
        // A counter that is odd goes to slot 1.
        let older = block(Some(&noted(1, 50)), mark(100));
        let newer = block(Some(&noted(2, 50)), mark(200));
        let bytes = [&older[..], &newer[..]].concat();
        fs::write(&path, &bytes).expect("write");
        (path, bytes)
    }

    #[test]
    fn a_note_torn_at_any_sector_leaves_the_older_one() {
        let home = tempfile::tempdir().expect("temp dir");
        let (path, good) = two(home.path());
        assert_eq!(
            Ledger::read(&path).expect("read").expect("noted").highest,
            200
        );
        let last = Ledger::read(&path).expect("read").expect("noted");
        let next = block(
            Some(&last),
            Mark {
                epoch: 7,
                highest: 1 << 40,
                lowest: 1,
            },
        );
        let text = 16 + usize::from(u16::from_le_bytes([next[8], next[9]]));
        // Cut at each sector, and at each byte of the text: what is on the medium is new before
        // the cut and old behind it, or the other way round, or never came.
        let cuts = (0..=BlockFile::BLOCK).step_by(512).chain(1..512);
        for cut in cuts {
            for (head, tail) in [
                (&next[..cut], &good[cut..4096]),
                (&good[..cut], &next[cut..]),
                (&next[..cut], &[0xff; 4096][cut..]),
                (&[0; 4096][..cut], &next[cut..]),
            ] {
                fs::write(&path, [head, tail, &good[4096..]].concat()).expect("write");
                let read = Ledger::read(&path).expect("read").expect("the older one");
                // Whole when all that the slot says has arrived, and only then.
                let is_whole = [head, tail].concat()[..text] == next[..text];
                let wanted = if is_whole { 1 << 40 } else { 200 };
                assert_eq!(read.highest, wanted, "cut at {cut}");
            }
        }
    }

    #[test]
    fn both_slots_bad_is_said_and_one_that_was_never_written_is_not() {
        let home = tempfile::tempdir().expect("temp dir");
        let (path, good) = two(home.path());
        for at in [20, 4096 + 20] {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).expect("write");
            let left = Ledger::read(&path).expect("read").expect("one is whole");
            assert_eq!(left.highest, if at < 4096 { 200 } else { 100 });
        }
        let mut bytes = good.clone();
        bytes[20] ^= 1;
        bytes[4096 + 20] ^= 1;
        fs::write(&path, &bytes).expect("write");
        let e = Ledger::read(&path).expect_err("both");
        assert!(matches!(e, LedgerError::Damaged(_)), "{e}");
        assert!(e.to_string().contains("neither note"), "{e}");
        bytes[4096..].fill(0);
        fs::write(&path, &bytes).expect("write");
        assert_eq!(Ledger::read(&path).expect("the first note was cut"), None);
        fs::write(&path, b"").expect("write");
        assert_eq!(Ledger::read(&path).expect("empty"), None);
        fs::write(&path, &good[..4096 + 300]).expect("write");
        let left = Ledger::read(&path).expect("read").expect("shortened");
        assert_eq!(left.highest, 100);
    }

    #[test]
    fn what_is_no_regular_file_or_too_large_is_refused_at_once() {
        let home = tempfile::tempdir().expect("temp dir");
        let (target, good) = two(home.path());
        let at = |name: &str| home.path().join(name);
        std::os::unix::fs::symlink(&target, at("link")).expect("link");
        fs::create_dir(at("dir")).expect("dir");
        let made = std::process::Command::new("mkfifo")
            .arg(at("fifo"))
            .status();
        assert!(made.expect("mkfifo").success());
        fs::write(at("large"), [&good[..], b"x"].concat()).expect("write");
        for name in ["link", "dir", "fifo", "large"] {
            let e = Ledger::read(&at(name)).expect_err(name);
            assert!(e.to_string().contains(name), "{e}");
        }
        assert_eq!(Ledger::read(&at("missing")).expect("missing"), None);
    }

    #[test]
    fn a_changed_number_with_a_right_checksum_does_not_fit_its_hash() {
        let mark = Mark {
            epoch: 7,
            highest: 100,
            lowest: 1,
        };
        let mut slot = Slot::next(None, mark, Wall::from_millis(0));
        slot.highest = 90;
        let mut block = [0; BlockFile::BLOCK];
        assert!(seal(MAGIC, &slot, &mut block));
        assert_eq!(Slot::read(&block), None);
    }

    struct Written {
        home: tempfile::TempDir,
        gate: Arc<Gate>,
        told: Arc<Mutex<Vec<i64>>>,
    }

    impl Written {
        fn new() -> Self {
            Self {
                home: tempfile::tempdir().expect("temp dir"),
                gate: Arc::new(Gate::new()),
                told: Arc::default(),
            }
        }

        fn path(&self) -> PathBuf {
            self.home.path().join("ledger")
        }

        fn open(&self, clock: Arc<dyn Clock>) -> Ledger {
            let medium = Arc::new(Medium::open(self.home.path()).expect("medium"));
            let told = Arc::clone(&self.told);
            Ledger::open(
                &self.path(),
                Ledger::read(&self.path()).expect("read"),
                medium,
                Arc::clone(&self.gate),
                clock,
                Box::new(move |done| {
                    let upto = done.expect("written");
                    told.lock().expect("lock").push(upto);
                }),
            )
            .expect("open")
        }

        fn told(&self) -> Vec<i64> {
            self.told.lock().expect("lock").clone()
        }

        fn wait_told(&self, upto: i64) {
            self.until("it is written", || self.told().last() == Some(&upto));
        }

        fn until(&self, what: &str, done: impl Fn() -> bool) {
            let end = SystemClock.mono() + Duration::from_secs(60);
            while !done() {
                let told = self.told();
                assert!(
                    SystemClock.mono() < end,
                    "waited in vain until {what}: {told:?}"
                );
                std::thread::yield_now();
            }
        }
    }

    fn upto(highest: i64) -> Mark {
        Mark {
            epoch: 7,
            highest,
            lowest: 1,
        }
    }

    #[test]
    fn one_note_a_second_whatever_is_acknowledged_and_none_when_nothing_is() {
        let clock = Arc::new(ManualClock::new());
        let world = Written::new();
        let ledger = world.open(Arc::clone(&clock) as Arc<_>);
        ledger.note(upto(1));
        world.wait_told(1);
        ledger.note(upto(2));
        world.until("it waits for its second", || {
            lock(&ledger.desk.0).early || world.told().len() > 1
        });
        for n in 3..500 {
            ledger.note(upto(n));
        }
        assert_eq!(world.told(), [1], "more than one write a second");
        clock.advance(EVERY);
        world.wait_told(499);
        assert_eq!(world.told(), [1, 499], "more than one write a second");
        clock.advance(EVERY * 100);
        // Nothing new: an order, too, finds nothing to write.
        ledger.order();
        ledger.wait();
        assert_eq!(world.told(), [1, 499]);
        drop(ledger);
        let read = Ledger::read(&world.path()).expect("read").expect("noted");
        assert_eq!((read.counter, read.highest, read.epoch), (1, 499, 7));
    }

    #[test]
    fn a_closed_gate_keeps_it_from_writing_but_for_the_plans_order() {
        let clock = Arc::new(ManualClock::new());
        let world = Written::new();
        let ledger = world.open(Arc::clone(&clock) as Arc<_>);
        ledger.note(upto(1));
        world.wait_told(1);
        clock.advance(EVERY);
        world.gate.close(Closer::Power);
        ledger.note(upto(2));
        // It has looked at the gate when it has put its wish back.
        world.until("it looks at the gate", || {
            let desk = lock(&ledger.desk.0);
            (desk.want.is_some() && !desk.fresh) || world.told().len() > 1
        });
        assert_eq!(world.told(), [1], "written past a closed gate");
        ledger.order();
        ledger.wait();
        assert_eq!(world.told(), [1, 2]);
        drop(ledger);
        // The next run goes on in the other slot, chained to this one.
        let before = Ledger::read(&world.path()).expect("read").expect("noted");
        world.gate.open(Closer::Power);
        let ledger = world.open(clock);
        ledger.note(upto(3));
        ledger.order();
        ledger.wait();
        let bytes = fs::read(world.path()).expect("read");
        assert_eq!(bytes.len(), BYTES);
        let (first, second) = bytes.split_at(BlockFile::BLOCK);
        let text = String::from_utf8_lossy(first);
        assert!(text.contains(&format!("\"previous\":\"{}\"", before.hash)));
        let kept = String::from_utf8_lossy(second);
        let hash = format!("\"hash\":\"{}\"", before.hash);
        assert!(kept.contains(&hash), "the older note was written over");
    }

    #[test]
    fn a_store_that_ends_before_its_ledger_lacks_what_lies_between() {
        let n = noted(1, 100);
        let store = |epoch, highest, lowest| Mark {
            epoch,
            highest,
            lowest,
        };
        let is = |m| compare(Some(&n), m);
        assert_eq!(is(store(7, 100, 1)), Standing::Agrees);
        assert_eq!(is(store(7, 180, 90)), Standing::Agrees);
        let missing = |from| Standing::Missing { from, upto: 100 };
        assert_eq!(is(store(7, 60, 1)), missing(61));
        assert_eq!(is(store(7, 0, 1)), missing(1));
        assert_eq!(is(store(8, 100, 1)), Standing::Foreign);
        assert_eq!(compare(None, store(7, 0, 1)), Standing::Nothing);
    }
}
