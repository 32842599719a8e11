//! One agent at a time: the lock in `run_dir`.
//!
//! It lives on a tmpfs and is taken before anything is thawed, so that a second agent cannot
//! open the databases of a parked one. A holder that was killed while the data file system was
//! frozen cannot die before the thaw and keeps its lock: with SIGKILL pending it counts as dead.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::clock::{Clock, SystemClock};
use crate::durable::open_own;

use super::machine::Machine;

/// Bytes of the lock that are read.
const LONGEST_PID: u64 = 32;

/// The lock, held until dropped.
#[derive(Debug)]
pub struct Instance {
    _run: File,
    _data: File,
}

/// Why the agent may not run.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Another one runs.
    #[error(
        "another holdup (pid {pid}) runs with {}; stop it first, or give this one directories of its own",
        lock.display()
    )]
    Running {
        /// Its process id as it wrote it.
        pid: String,
        /// The lock.
        lock: PathBuf,
    },
    /// Another one has the data directory, with a run_dir of its own.
    #[error(
        "another holdup has {} open, with another run_dir; stop it first",
        .0.display()
    )]
    DataInUse(PathBuf),
    /// A directory of ours cannot be used.
    #[error(
        "cannot open {} as user {user}: {key} must belong to that user; give it to them, or set \
         {key} elsewhere",
        path.display()
    )]
    Rights {
        /// The key that names the directory.
        key: &'static str,
        /// What was opened.
        path: PathBuf,
        /// The agent's user id.
        user: u32,
        /// Why it failed.
        source: io::Error,
    },
    /// The lock cannot be made.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Instance {
    /// Takes the lock in `run_dir` and one on `data_dir`, then thaws what an earlier agent left
    /// frozen; `true` when it had.
    pub fn take(
        run_dir: &Path,
        data_dir: &Path,
        machine: &dyn Machine,
    ) -> Result<(Self, bool), InstanceError> {
        let path = run_dir.join("holdup.lock");
        let io = |what| {
            let path = path.clone();
            move |source| InstanceError::Io { what, path, source }
        };
        let mut file = open_own(&path, true).map_err(|e| {
            if e.kind() == io::ErrorKind::PermissionDenied {
                rights("gateway.run_dir", &path)(e)
            } else {
                io("open")(e)
            }
        })?;
        let mut thawed = false;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let pid = written_in(&file).map_err(io("read"))?;
            if !is_dying(&pid) {
                return Err(InstanceError::Running { pid, lock: path });
            }
            log::warn!("an earlier holdup (pid {pid}) was killed while parked; thawing for it");
            thawed = machine
                .thaw()
                .map_err(io("thaw the data file system for"))?;
            if !wait_for_lock(&file) {
                return Err(InstanceError::Running { pid, lock: path });
            }
        }
        // Before the thaw: what another agent froze is not ours to thaw.
        let data = File::open(data_dir).map_err(rights("gateway.data_dir", data_dir))?;
        if flock(&data, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(InstanceError::DataInUse(data_dir.to_owned()));
        }
        thawed |= machine
            .thaw()
            .map_err(io("thaw the data file system for"))?;
        file.set_len(0).map_err(io("write"))?;
        file.rewind().map_err(io("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(io("write"))?;
        Ok((
            Self {
                _run: file,
                _data: data,
            },
            thawed,
        ))
    }
}

fn rights(key: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstanceError {
    let path = path.to_owned();
    move |source| InstanceError::Rights {
        key,
        path,
        user: rustix::process::geteuid().as_raw(),
        source,
    }
}

/// The process id in a lock; `unknown` where it holds anything else.
fn written_in(file: &File) -> io::Result<String> {
    let mut text = Vec::new();
    file.take(LONGEST_PID).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(text.trim_ascii()).into_owned();
    let is_pid = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    Ok(if is_pid { text } else { "unknown".to_owned() })
}

#[expect(
    clippy::disallowed_methods,
    reason = "flock has no time-out; the holder dies within milliseconds of the thaw"
)]
fn wait_for_lock(file: &File) -> bool {
    let clock = SystemClock;
    let end = clock.mono() + Duration::from_secs(10);
    loop {
        if flock(file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return true;
        }
        if clock.mono() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Is SIGKILL pending for that process?
fn is_dying(pid: &str) -> bool {
    const SIGKILL: u64 = 1 << (9 - 1);
    if pid.is_empty() || !pid.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let pending = |status: String| {
        status
            .lines()
            .filter_map(|l| {
                l.strip_prefix("SigPnd:")
                    .or_else(|| l.strip_prefix("ShdPnd:"))
            })
            .filter_map(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .any(|bits| bits & SIGKILL != 0)
    };
    // A thread in an uninterruptible sleep shows the signal that the process got.
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(pending)
        || tasks
            .filter_map(|t| fs::read_to_string(t.path().join("status")).ok())
            .any(pending)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::SimMachine;

    #[test]
    fn a_second_agent_is_refused_and_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().expect("temp dir");
        let data = tempfile::tempdir().expect("temp dir");
        let take = |run: &Path| Instance::take(run, data.path(), &SimMachine);
        let (first, _) = take(dir.path()).expect("first");
        let e = take(dir.path()).expect_err("second");
        assert!(
            e.to_string().contains(&std::process::id().to_string()),
            "{e}"
        );
        let other = tempfile::tempdir().expect("temp dir");
        let e = take(other.path()).expect_err("with another run_dir");
        assert!(matches!(e, InstanceError::DataInUse(_)), "{e}");
        drop(first);
        take(dir.path()).expect("after the first has gone");
    }

    #[test]
    fn a_lock_that_is_a_link_or_a_fifo_is_refused_and_nothing_behind_it_is_emptied() {
        let dir = tempfile::tempdir().expect("temp dir");
        let data = tempfile::tempdir().expect("temp dir");
        let lock = dir.path().join("holdup.lock");
        let notes = data.path().join("notes");
        File::create(&notes)
            .and_then(|mut f| f.write_all(b"somebody's"))
            .expect("write");
        std::os::unix::fs::symlink(&notes, &lock).expect("link");
        let e = Instance::take(dir.path(), data.path(), &SimMachine).expect_err("a link");
        let InstanceError::Io { path, source, .. } = e else {
            panic!("{e}");
        };
        assert_eq!(path, lock);
        assert!(source.to_string().contains("a link"), "{source}");
        assert_eq!(fs::read(&notes).expect("read"), b"somebody's");
        fs::remove_file(&lock).expect("remove");
        let fifo = rustix::fs::FileType::Fifo;
        let rights = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &lock, fifo, rights, 0).expect("fifo");
        Instance::take(dir.path(), data.path(), &SimMachine).expect_err("a fifo");
    }

    #[test]
    fn a_lock_that_holds_anything_but_a_process_id_is_not_shown() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("holdup.lock");
        for (text, pid) in [
            (&b"4711\n"[..], "4711"),
            (b"", "unknown"),
            (b"\x1b[2J", "unknown"),
            (b"\xff\xfe", "unknown"),
            (&[b'x'; 1 << 16], "unknown"),
        ] {
            File::create(&path)
                .and_then(|mut f| f.write_all(text))
                .expect("write");
            let file = open_own(&path, false).expect("open");
            assert_eq!(written_in(&file).expect("read"), pid);
        }
    }
}
