//! The right to write for work that its caller cannot cut in pieces: a statement of SQLite's that
//! takes long.
//!
//! It promises that such work rests in its middle while the gate is closed and goes on from there,
//! that little of what it wrote is unsynced then, and that it ends when it is told to. It must be
//! asked often: SQLite does that by its progress handler.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bulk::{LOOK, PIECE};
use super::gate::{Gate, OwnPass};
use super::medium::{DurableError, Medium, fault};

/// Where the kernel cannot tell what was written: a sync after so many questions.
const ASKED: u32 = 64;

/// See the module's text.
#[derive(Debug)]
pub struct Stride {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
    pass: Option<OwnPass>,
    /// Kept open: closing one descriptor drops SQLite's own locks on the file.
    file: Option<File>,
    account: Option<File>,
    /// Bytes that this thread had written at the last sync.
    synced_at: u64,
    asked: u32,
    failed: Option<std::io::Error>,
}

impl Stride {
    /// For work on the file `path`, which may not be there yet. Nothing is entered by it.
    pub fn new(path: &Path, gate: &Arc<Gate>, stop: &Arc<AtomicBool>) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                path: path.to_owned(),
                gate: Arc::clone(gate),
                stop: Arc::clone(stop),
                pass: None,
                file: None,
                account: None,
                synced_at: 0,
                asked: 0,
                failed: None,
            })),
        }
    }

    /// Waits for the gate; false where it is told to stop. On the thread that does the work.
    pub fn enter(&self) -> bool {
        let mut inner = lock(&self.inner);
        if inner.account.is_none() {
            inner.account = File::open("/proc/thread-self/io").ok();
            inner.synced_at = inner.written().unwrap_or(0);
        }
        inner.enter()
    }

    /// What was written since [`Stride::enter`] is on the medium, and the pass is given back.
    pub fn leave(&self, medium: &Medium) -> Result<(), DurableError> {
        let mut inner = lock(&self.inner);
        if inner.pass.is_some() && inner.written() != Some(inner.synced_at) {
            inner.sync();
        }
        inner.pass = None;
        match inner.failed.take() {
            None => medium.healthy(),
            Some(e) => {
                medium.latch(&format!("sync {}: {e}", inner.path.display()));
                Err(fault("sync", &inner.path, e))
            }
        }
    }

    /// For SQLite's progress handler: true is "give up".
    pub fn rest(&self) -> impl FnMut() -> bool + Send + 'static {
        let inner = Arc::clone(&self.inner);
        move || lock(&inner).rest()
    }
}

impl Drop for Stride {
    fn drop(&mut self) {
        // The handler may live longer.
        lock(&self.inner).pass = None;
    }
}

impl Inner {
    fn enter(&mut self) -> bool {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            if self.pass.is_some() {
                return true;
            }
            self.pass = Gate::enter_own(&self.gate, LOOK);
        }
    }

    fn rest(&mut self) -> bool {
        let stopped = self.stop.load(Ordering::Relaxed);
        if stopped || self.pass.is_none() {
            return stopped;
        }
        if self.gate.is_closed() {
            self.pass = None;
            return !self.enter();
        }
        self.asked += 1;
        let due = match self.written() {
            Some(written) => written.saturating_sub(self.synced_at) >= PIECE as u64,
            None => self.asked >= ASKED,
        };
        if due {
            self.sync();
        }
        self.failed.is_some()
    }

    /// Bytes that this thread has made dirty, ever.
    /// Source: the kernel's Documentation/filesystems/proc.rst, "write_bytes".
    fn written(&self) -> Option<u64> {
        let mut text = [0; 512];
        let n = self.account.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..n]).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("write_bytes: "));
        line?.parse().ok()
    }

    fn sync(&mut self) {
        (self.asked, self.synced_at) = (0, self.written().unwrap_or(0));
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(e) => self.failed = Some(e),
            }
        }
        if let Some(file) = &self.file
            && let Err(e) = rustix::fs::fdatasync(file)
        {
            self.failed = Some(e.into());
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Closer;
    use std::io::Write;

    struct World {
        home: tempfile::TempDir,
        medium: Medium,
        gate: Arc<Gate>,
        stop: Arc<AtomicBool>,
    }

    impl World {
        fn new() -> Self {
            let home = tempfile::tempdir().expect("temp dir");
            Self {
                medium: Medium::open(home.path()).expect("medium"),
                home,
                gate: Arc::default(),
                stop: Arc::default(),
            }
        }

        fn stride(&self) -> (Stride, File) {
            let path = self.home.path().join("copy");
            let file = File::create(&path).expect("create");
            (Stride::new(&path, &self.gate, &self.stop), file)
        }
    }

    #[test]
    fn work_in_its_middle_gives_the_gate_free_and_goes_on_when_it_opens() {
        let w = World::new();
        let (stride, _file) = w.stride();
        assert!(stride.enter());
        let mut rest = stride.rest();
        assert!(!rest());
        assert_eq!(w.gate.in_flight(), 1);
        w.gate.close(Closer::Power);
        std::thread::scope(|all| {
            let (gate, medium) = (&w.gate, &w.medium);
            let resting = all.spawn(rest);
            assert!(gate.wait_quiet(std::time::Duration::from_secs(60)));
            assert!(!resting.is_finished(), "it waits");
            gate.open(Closer::Power);
            assert!(!resting.join().expect("thread"), "it goes on");
            assert_eq!(gate.in_flight(), 1);
            stride.leave(medium).expect("leave");
        });
        assert_eq!(w.gate.in_flight(), 0);
    }

    #[test]
    fn it_ends_when_it_is_told_to_though_the_gate_is_closed() {
        let w = World::new();
        let (stride, _file) = w.stride();
        assert!(stride.enter());
        let mut rest = stride.rest();
        w.gate.close(Closer::Power);
        w.stop.store(true, Ordering::Relaxed);
        assert!(rest());
        assert!(!stride.enter());
        drop(stride);
        assert_eq!(w.gate.in_flight(), 0);
    }

    #[test]
    fn what_was_written_is_synced_each_piece_and_a_sync_that_fails_ends_it() {
        let w = World::new();
        let (stride, mut file) = w.stride();
        assert!(stride.enter());
        let mut rest = stride.rest();
        let synced_at = || lock(&stride.inner).synced_at;
        let before = synced_at();
        file.write_all(&vec![1; PIECE / 2]).expect("write");
        assert!(!rest());
        assert_eq!(synced_at(), before, "too little for a flush");
        let counted = lock(&stride.inner).written().filter(|n| *n > before);
        file.write_all(&vec![1; PIECE]).expect("write");
        match counted {
            Some(_) => {
                assert!(!rest());
                assert!(synced_at() > before);
            }
            // A file system in memory, or a kernel that does not count.
            None => eprintln!("skipped: what is written here is not counted"),
        }
        lock(&stride.inner).failed = Some(std::io::ErrorKind::Other.into());
        assert!(rest());
        stride.leave(&w.medium).expect_err("it failed");
        w.medium.healthy().expect_err("and is remembered");
    }
}
