//! What can be seen of another application's database without opening it as one.
//!
//! Looks at bytes, locks and names, changes nothing and never blocks. It opens and closes the
//! database file, which drops every POSIX lock that this process has on it: never called while a
//! connection of ours is open.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags, StatVfsMountFlags, access, statvfs};
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};

use crate::config::one_line;

/// SQLite's lock bytes, see os.h and wal.c: those of the database (pending, reserved, shared),
/// the reserved one among them, the -shm's slots, and the writer's among those.
const DB_LOCKS: (u64, u64) = (0x4000_0000, 512);
const RESERVED: (u64, u64) = (0x4000_0001, 1);
const SHM_LOCKS: (u64, u64) = (120, 9);
const SHM_WRITER: (u64, u64) = (120, 1);
/// The version in a WAL's index.
const WAL_VERSION: u32 = 3_007_000;
/// The headers of a WAL and of a frame, in bytes.
const WAL_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;
/// So often an index that changes under the eyes is read again.
const SHM_TRIES: u32 = 8;
/// The first bytes of every SQLite database.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The first release without the WAL-reset bug (sqlite.org/wal.html).
const WAL_RESET_FIXED: u32 = 3_051_003;

/// How a database keeps a transaction that a cut interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// A write-ahead log.
    Wal,
    /// A rollback journal, whatever becomes of it at a commit.
    Rollback,
}

impl Journal {
    /// As people say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wal => "WAL",
            Self::Rollback => "rollback journal",
        }
    }
}

/// A database's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its journal.
    pub journal: Journal,
    /// The number of the SQLite that wrote it last, such as 3051003.
    pub sqlite: u32,
}

impl Header {
    /// May two connections of the application that wrote it corrupt it?
    pub fn has_wal_reset_bug(self) -> bool {
        // Backports; the numbers are those of sqlite.org/wal.html.
        let mended = matches!(self.sqlite, 3_044_006..3_045_000 | 3_050_007..3_051_000);
        self.journal == Journal::Wal && self.sqlite < WAL_RESET_FIXED && !mended
    }
}

/// Who else has the file open, as far as this process may see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// Process ids.
    pub pids: Vec<u32>,
    /// There are processes whose files cannot be seen.
    pub unseen: bool,
}

/// The file itself, where `path` may be a link: SQLite puts -wal and -journal beside that.
pub(super) fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// `app.db` -> `app.db-wal`.
pub(super) fn beside(real: &Path, suffix: &str) -> PathBuf {
    let mut name = real.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The header; `None` where there is nothing, or nothing was written yet.
pub fn header(path: &Path) -> Result<Option<Header>, String> {
    let Some(file) = open_plain(path).map_err(|e| cannot_open(path, &e))? else {
        return Ok(None);
    };
    let mut head = [0u8; 100];
    let read = file.read_at(&mut head, 0);
    match read.map_err(|e| cannot_open(path, &e))? {
        0 => Ok(None),
        100 if head.starts_with(SQLITE_MAGIC) => Ok(Some(Header {
            journal: if head[18] == 2 || head[19] == 2 {
                Journal::Wal
            } else {
                Journal::Rollback
            },
            sqlite: u32::from_be_bytes([head[96], head[97], head[98], head[99]]),
        })),
        _ => Err(format!("{} is not an SQLite database", path.display())),
    }
}

/// Is each companion a regular file, or missing? SQLite would open a FIFO and wait for good.
pub(super) fn companions(real: &Path) -> Result<(), String> {
    for suffix in ["-journal", "-wal", "-shm"] {
        let path = beside(real, suffix);
        open_plain(&path).map_err(|e| cannot_open(&path, &e))?;
    }
    Ok(())
}

/// Is there a rollback journal with a transaction in it?
pub(super) fn journal_is_live(real: &Path) -> io::Result<bool> {
    Ok(live_journal(real)?.is_some())
}

/// The header of a rollback journal with a transaction in it, by SQLite's own test: the first
/// byte. A random number in it tells one transaction's journal from the next one's.
fn live_journal(real: &Path) -> io::Result<Option<[u8; 28]>> {
    let Some(file) = open_plain(&beside(real, "-journal"))? else {
        return Ok(None);
    };
    let mut head = [0u8; 28];
    let n = file.read_at(&mut head, 0)?;
    Ok((n > 0 && head[0] != 0).then_some(head))
}

/// Did its last writer die in a transaction? Whoever opens it next rolls that back in place.
pub(super) fn is_hot(real: &Path) -> io::Result<bool> {
    // A living writer holds its lock for as long as its journal lives: one and the same journal
    // before and after a moment without the lock is nobody's.
    let before = live_journal(real)?;
    Ok(before.is_some() && lock_holder(real, RESERVED)?.is_none() && live_journal(real)? == before)
}

/// Does another process have it open in WAL mode? A rollback database that is idle holds no lock.
pub(super) fn is_open_in_wal(real: &Path) -> io::Result<bool> {
    let any = FlockType::WriteLock;
    Ok(holder(real, DB_LOCKS, any)?.is_some()
        || holder(&beside(real, "-shm"), SHM_LOCKS, any)?.is_some())
}

/// What lies in a WAL and not in its database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Log {
    /// Frames; `None` where nobody has it open, so that nobody may move them.
    pub(super) frames: Option<u32>,
    /// Their pages.
    pub(super) bytes: u64,
}

/// The WAL of `real`, by the index that its owner keeps in the -shm; never more than the file
/// itself has room for. What cannot be read counts as nothing.
pub(super) fn log_of(real: &Path, header: Header) -> Log {
    if header.journal != Journal::Wal || !matches!(is_open_in_wal(real), Ok(true)) {
        return Log::default();
    }
    let Some((page, frames)) = index_of(real) else {
        return Log::default();
    };
    let log = fs::metadata(beside(real, "-wal")).map_or(0, |m| m.len());
    let room = log.saturating_sub(WAL_HEADER) / (u64::from(page) + FRAME_HEADER);
    let frames = frames.min(u32::try_from(room).unwrap_or(u32::MAX));
    Log {
        frames: Some(frames),
        bytes: u64::from(frames) * u64::from(page),
    }
}

/// Page size, and frames that are not in the database, from the -shm (sqlite.org/walformat.html).
fn index_of(real: &Path) -> Option<(u32, u32)> {
    let file = open_plain(&beside(real, "-shm")).ok()??;
    // Its two copies differ while a writer changes it.
    (0..SHM_TRIES).find_map(|_| {
        let mut index = [0u8; 100];
        file.read_exact_at(&mut index, 0).ok()?;
        let word = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&index[at..at + 4]);
            u32::from_ne_bytes(bytes)
        };
        let whole = index[..48] == index[48..96] && word(0) == WAL_VERSION && index[12] == 1;
        let page = match u32::from(u16::from_ne_bytes([index[14], index[15]])) {
            1 => 65_536,
            page => page,
        };
        whole.then(|| (page, word(16).saturating_sub(word(96))))
    })
}

/// Who keeps others from writing now: the process id, 0 where the kernel does not tell it.
pub fn writer_now(path: &Path) -> io::Result<Option<u32>> {
    let real = real(path);
    match lock_holder(&real, DB_LOCKS)? {
        None => lock_holder(&beside(&real, "-shm"), SHM_WRITER),
        found => Ok(found),
    }
}

/// Who holds a write lock there.
fn lock_holder(path: &Path, range: (u64, u64)) -> io::Result<Option<u32>> {
    holder(path, range, FlockType::ReadLock)
}

/// Who would keep us from such a lock. A missing file has none.
fn holder(path: &Path, (start, length): (u64, u64), typ: FlockType) -> io::Result<Option<u32>> {
    let Some(file) = open_plain(path)? else {
        return Ok(None);
    };
    let probe = Flock {
        start,
        length,
        pid: None,
        typ,
        offset_type: FlockOffsetType::Set,
    };
    let found = fcntl_getlk(&file, &probe)?;
    Ok(found.map(|f| {
        f.pid
            .map_or(0, |p| p.as_raw_nonzero().get().cast_unsigned())
    }))
}

/// Does it lie on a file system that nobody can write?
pub fn is_read_only(path: &Path) -> bool {
    statvfs(path).is_ok_and(|s| s.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Why this process cannot take its write lock, if it cannot.
pub fn not_writable(path: &Path) -> Option<String> {
    let real = real(path);
    let folder = real.parent().unwrap_or(Path::new("/"));
    [real.as_path(), folder].into_iter().find_map(|p| {
        let e = access(p, Access::WRITE_OK).err()?;
        Some(format!(
            "the agent may not write {} ({e}): give its user the right",
            p.display()
        ))
    })
}

/// Who has it open, from /proc/PID/fd by device and inode; `None` when `hurry` ended the search.
pub fn holders(path: &Path, hurry: &dyn Fn() -> bool) -> io::Result<Option<Holders>> {
    let real = real(path);
    let wanted = fs::metadata(&real)?;
    let mut found = Holders::default();
    for entry in fs::read_dir("/proc")?.flatten() {
        if hurry() {
            return Ok(None);
        }
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let open = match fs::read_dir(entry.path().join("fd")) {
            Ok(open) => open,
            Err(e) => {
                found.unseen |= e.kind() == io::ErrorKind::PermissionDenied;
                continue;
            }
        };
        let it = open.flatten().any(|fd| {
            // The link's text first: looking at any file could wait for a dead server.
            fs::read_link(fd.path()).is_ok_and(|to| to.file_name() == real.file_name())
                && fs::metadata(fd.path())
                    .is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()))
        });
        if it {
            found.pids.push(pid);
        }
    }
    Ok(Some(found))
}

/// `123 (python3)`.
pub fn process_in_words(pid: u32) -> String {
    named(
        pid,
        &fs::read(format!("/proc/{pid}/comm")).unwrap_or_default(),
    )
}

/// A process gives itself any name of up to 15 bytes.
fn named(pid: u32, comm: &[u8]) -> String {
    match String::from_utf8_lossy(comm).trim() {
        "" => format!("pid {pid}"),
        name => format!("pid {pid} ({})", one_line(name)),
    }
}

/// Opens a regular file for reading; `None` where there is nothing. Never blocks: whoever owns the
/// directory could have put a FIFO there.
pub(super) fn open_plain(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => {
            let file = File::from(fd);
            if file.metadata()?.is_file() {
                Ok(Some(file))
            } else {
                Err(io::Error::other("it is not a regular file"))
            }
        }
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn cannot_open(path: &Path, e: &io::Error) -> String {
    format!("cannot open {}: {e}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_names_itself_to_command_a_terminal_is_shown_escaped() {
        for (comm, words) in [
            (&b"python3\n"[..], "pid 7 (python3)"),
            (b"", "pid 7"),
            (b"\x1b]0;root\x07\n", r"pid 7 (\u{1b}]0;root\u{7})"),
            ("\u{202e}diputs".as_bytes(), r"pid 7 (\u{202e}diputs)"),
            (b"\xff\xfe", "pid 7 (\u{fffd}\u{fffd})"),
        ] {
            assert_eq!(named(7, comm), words);
        }
    }
}
