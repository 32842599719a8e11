//! Entries of a process that cannot reach the log: while its file system is frozen, gone or full
//! and no agent answers. They wait in a file of their own beside the spool, in `run_dir`, and the
//! next process that opens the log takes them over.
//!
//! It promises that nothing is lost between the two: both hold the file's lock. It must never touch
//! the log's own directory, which may never answer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde_json::Value;

use crate::clock::Clock;

use super::entry::Draft;

/// Bytes that may wait.
const MOST: u64 = 1 << 20;

/// Where they wait, for the log whose spool is `spool`.
fn path(spool: &Path) -> PathBuf {
    let mut name = spool.as_os_str().to_owned();
    name.push(".aside");
    name.into()
}

/// Lays an entry aside for the log whose spool is `spool`, with the time of now.
///
/// # Errors
/// It cannot be kept, or too many wait.
pub fn lay_aside(
    spool: &Path,
    clock: &dyn Clock,
    boot: &str,
    (action, actor, details): (&str, &str, Value),
) -> io::Result<()> {
    let draft = Draft::new(clock, boot, actor, action, details, None);
    let line = serde_json::to_string(&draft).map_err(io::Error::other)? + "\n";
    let path = path(spool);
    loop {
        let mut file = open(&path, OFlags::CREATE | OFlags::APPEND)?;
        flock(&file, FlockOperation::LockExclusive)?;
        // Taken over between the opening and the lock: that one is nobody's any more.
        if is_gone(&file)? {
            continue;
        }
        if file.metadata()?.len() + line.len() as u64 > MOST {
            return Err(io::Error::other("too many entries wait already"));
        }
        return file.write_all(line.as_bytes());
    }
}

/// Hands over what was laid aside, in order, and how many lines cannot be read; whoever takes them
/// has them when `take` returns.
pub(super) fn take_over(spool: &Path, take: impl FnOnce(Vec<Draft>, usize)) -> io::Result<()> {
    let path = path(spool);
    let file = match open(&path, OFlags::empty()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Somebody is writing: the next one takes it over.
        Err(Errno::WOULDBLOCK) => return Ok(()),
        other => other?,
    }
    if is_gone(&file)? {
        return Ok(());
    }
    let mut bytes = Vec::new();
    (&file).take(MOST).read_to_end(&mut bytes)?;
    let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    let (mut drafts, mut damaged) = (Vec::new(), 0);
    for line in lines {
        match serde_json::from_slice::<Draft>(line) {
            Ok(draft) => drafts.push(draft.bounded()),
            Err(_) => damaged += 1,
        }
    }
    take(drafts, damaged);
    rustix::fs::unlink(&path)?;
    Ok(())
}

fn open(path: &Path, more: OFlags) -> io::Result<File> {
    let flags = OFlags::RDWR
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | more;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no regular file"))
    }
}

fn is_gone(file: &File) -> io::Result<bool> {
    Ok(rustix::fs::fstat(file)?.st_nlink == 0)
}
