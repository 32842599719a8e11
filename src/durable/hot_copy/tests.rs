//! A writer's thread as small as it can be, and a card that goes away.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::*;
use crate::clock::SystemClock;
use crate::durable::Closer;

/// Commits a row before each order, as a busy writer would.
struct Busy {
    orders: Sender<CopyOrder>,
    thread: Option<JoinHandle<()>>,
}

// The sender is only cloned behind `&self`.
struct Hot(std::sync::Mutex<Option<Sender<CopyOrder>>>);

impl HotCopy for Hot {
    fn hand_over(&self, order: CopyOrder) {
        if let Some(orders) = self.0.lock().expect("lock").as_ref() {
            orders.send(order).ok();
        }
    }
}

struct World {
    home: tempfile::TempDir,
    medium: Medium,
    gate: Arc<Gate>,
    stop: AtomicBool,
    hot: Hot,
    writer: Busy,
    committed: Arc<AtomicU64>,
}

const ROWS: u64 = 3000;

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("medium");
        let gate = Arc::new(Gate::new());
        let committed = Arc::new(AtomicU64::new(ROWS));
        let (orders, incoming) = channel();
        let (path, passed, count) = (
            home.path().join("a.db"),
            Arc::clone(&gate),
            Arc::clone(&committed),
        );
        let thread = std::thread::spawn(move || write(&path, &passed, &incoming, &count));
        Self {
            home,
            medium,
            gate,
            stop: AtomicBool::new(false),
            hot: Hot(std::sync::Mutex::new(Some(orders.clone()))),
            writer: Busy {
                orders,
                thread: Some(thread),
            },
            committed,
        }
    }

    fn to(&self) -> PathBuf {
        self.home.path().join("copy")
    }

    fn copy(
        &self,
        heed: &dyn Fn() -> Heed,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Receipt, CopyError> {
        self.hot.copy(
            &self.to(),
            &CopyHow {
                medium: &self.medium,
                gate: &self.gate,
                stop: &self.stop,
                clock: &SystemClock,
                heed,
                progress,
            },
        )
    }

    /// Integrity, rows of the first half of each transaction, rows of the second.
    fn copied(&self) -> (String, u64, u64) {
        let conn = Connection::open(self.to()).expect("open");
        let count = |half: u8| {
            let sql = format!("SELECT count(*) FROM t WHERE half = {half}");
            conn.query_row(&sql, [], |r| r.get::<_, i64>(0))
                .expect("count")
                .unsigned_abs()
        };
        let says = conn
            .query_row("PRAGMA integrity_check", [], |r| r.get(0))
            .expect("check");
        (says, count(0), count(1))
    }

    fn end(mut self) {
        *self.hot.0.lock().expect("lock") = None;
        drop(self.writer.orders);
        self.writer
            .thread
            .take()
            .expect("thread")
            .join()
            .expect("join");
    }
}

/// Each transaction writes a row at either end of the table, and changes one in its middle.
fn commit(conn: &Connection, n: u64) {
    conn.execute_batch(&format!(
        "BEGIN; INSERT INTO t VALUES({n}, 0, zeroblob(200)); INSERT INTO t VALUES(-{n}, 1, zeroblob(200));
         UPDATE t SET body = randomblob(200) WHERE id = {}; COMMIT",
        n / 2
    ))
    .expect("commit");
}

fn write(path: &Path, gate: &Gate, incoming: &Receiver<CopyOrder>, count: &AtomicU64) {
    let conn = Connection::open(path).expect("open");
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, half, body)",
    )
    .expect("create");
    for n in 1..=ROWS {
        commit(&conn, n);
    }
    let mut n = ROWS;
    let mut next = || {
        let order = incoming.recv().ok()?;
        if let Some(_pass) = gate.try_enter() {
            n += 1;
            commit(&conn, n);
            count.store(n, SeqCst);
        }
        Some(order)
    };
    while let Some(order) = next() {
        let Some(mut target) = Target::open(order) else {
            continue;
        };
        let Some(mut copying) = target.begin(&conn) else {
            continue;
        };
        while let Some(order) = next() {
            if copying.obey(order, gate).is_break() {
                break;
            }
        }
    }
}

#[test]
fn a_commit_between_every_two_steps_neither_stops_the_copy_nor_tears_it() {
    let w = World::new();
    let steps = AtomicU64::new(0);
    let receipt = w
        .copy(&|| Heed::Go, &|done, all| {
            steps.fetch_add(1, SeqCst);
            assert!(done <= all);
        })
        .expect("copy");
    let (says, first, second) = w.copied();
    assert_eq!(says, "ok");
    assert!(steps.load(SeqCst) > 10, "{steps:?}");
    // What was committed while it ran is in it, but for the last step's and the end's own.
    let committed = w.committed.load(SeqCst);
    assert_eq!(first, second);
    assert!(
        first > ROWS && committed - first <= 2,
        "{first} of {committed}"
    );
    assert_eq!(
        receipt.bytes,
        std::fs::metadata(w.to()).expect("copy").len()
    );
    let head = std::fs::read(w.to()).expect("read");
    assert_eq!(&head[18..20], &[1, 1], "it needs no log");
    let names = std::fs::read_dir(w.home.path()).expect("list");
    let beside = names.filter(|n| {
        let name = n.as_ref().expect("entry").file_name();
        name.to_string_lossy().starts_with("copy-")
    });
    assert_eq!(beside.count(), 0);
    w.end();
}

#[test]
fn behind_a_closed_gate_nothing_is_written_and_then_it_goes_on() {
    let w = World::new();
    let seen = AtomicU64::new(0);
    let heeded = AtomicU64::new(0);
    let (gate, to) = (Arc::clone(&w.gate), w.to());
    let copied = w.copy(
        &|| {
            if gate.is_closed() {
                let bytes = std::fs::metadata(&to).expect("copy").len();
                let turns = heeded.fetch_add(1, SeqCst);
                assert!(
                    turns == 0 || bytes == seen.load(SeqCst),
                    "written behind the gate"
                );
                seen.store(bytes, SeqCst);
                assert_eq!(gate.in_flight(), 0);
                // Whoever asks for a step is told so, and nothing is written for it.
                let (answer, wait) = sync_channel(1);
                let what = What::Step;
                w.hot.hand_over(CopyOrder { what, answer });
                let told = wait.recv().expect("an answer");
                assert!(matches!(told, Ok(State::Closed)), "{told:?}");
                if turns == 3 {
                    gate.open(Closer::Power);
                }
            }
            Heed::Go
        },
        &|done, all| {
            if done > all / 2 && heeded.load(SeqCst) == 0 {
                gate.close(Closer::Power);
            }
        },
    );
    copied.expect("copy");
    assert!(heeded.load(SeqCst) > 3);
    assert_eq!(w.copied().0, "ok");
    w.end();
}

#[test]
fn asked_for_behind_a_closed_gate_it_begins_when_that_opens() {
    let w = World::new();
    let heeded = AtomicU64::new(0);
    let (gate, to) = (Arc::clone(&w.gate), w.to());
    gate.close(Closer::Power);
    let copied = w.copy(
        &|| {
            if gate.is_closed() {
                assert!(!to.exists(), "begun behind the gate");
                if heeded.fetch_add(1, SeqCst) == 2 {
                    gate.open(Closer::Power);
                }
            }
            Heed::Go
        },
        &|_, _| (),
    );
    copied.expect("copy");
    assert!(heeded.load(SeqCst) > 2);
    assert_eq!(w.copied().0, "ok");
    w.end();
}

#[test]
fn given_up_in_the_middle_it_leaves_nothing_and_the_next_one_is_whole() {
    let w = World::new();
    let half = AtomicBool::new(false);
    let given_up = w.copy(
        &|| {
            if half.load(SeqCst) {
                Heed::GiveUp("power fails")
            } else {
                Heed::Go
            }
        },
        &|done, all| half.store(done > all / 2, SeqCst),
    );
    assert!(
        matches!(given_up, Err(CopyError::GivenUp("power fails"))),
        "{given_up:?}"
    );
    assert!(half.load(SeqCst) && !w.to().exists());
    w.copy(&|| Heed::Go, &|_, _| {}).expect("the next one");
    assert_eq!(w.copied().0, "ok");
    let again = w.copy(&|| Heed::Go, &|_, _| {});
    assert!(
        matches!(again, Err(CopyError::Durable(_))),
        "never over another file: {again:?}"
    );
    assert_eq!(w.copied().0, "ok");
    w.end();
}

#[test]
fn a_copy_that_could_not_be_synced_is_none() {
    let w = World::new();
    w.medium.cut_after(2);
    w.copy(&|| Heed::Go, &|_, _| {})
        .expect_err("the card is gone");
    w.end();
}

#[test]
fn two_at_once_get_in_nobodys_way_and_nobody_waits_for_a_writer_that_has_gone() {
    let w = World::new();
    let second = AtomicBool::new(false);
    w.copy(&|| Heed::Go, &|_, _| {
        if !second.swap(true, SeqCst) {
            let (answer, wait) = sync_channel(1);
            let path = w.home.path().join("other");
            w.hot.hand_over(CopyOrder {
                what: What::Begin(path),
                answer,
            });
            let busy = wait.recv().expect("an answer");
            assert!(matches!(busy, Err(CopyError::Busy)), "{busy:?}");
        }
    })
    .expect("the first goes on");
    assert!(second.load(SeqCst));
    *w.hot.0.lock().expect("lock") = None;
    let e = w.hot.copy(
        &w.home.path().join("third"),
        &CopyHow {
            medium: &w.medium,
            gate: &w.gate,
            stop: &w.stop,
            clock: &SystemClock,
            heed: &|| Heed::Go,
            progress: &|_, _| {},
        },
    );
    assert!(matches!(e, Err(CopyError::NotOpen)), "{e:?}");
    w.end();
}
