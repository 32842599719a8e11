//! Files of ours, met by their names: whatever lies there is found out before it is used.
//!
//! It promises never to follow a link, never to wait for the other end of a FIFO, and never to
//! read more than was asked for.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Read and written by us, read by others.
const RIGHTS: Mode = Mode::RUSR
    .union(Mode::WUSR)
    .union(Mode::RGRP)
    .union(Mode::ROTH);

const QUIETLY: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Opens a regular file of ours for reading and writing, and makes it where it is missing.
///
/// # Errors
/// It is missing and not to be made, cannot be opened, or is not a regular file.
pub fn open_own(path: &Path, create: bool) -> io::Result<File> {
    let create = if create {
        OFlags::CREATE
    } else {
        OFlags::empty()
    };
    regular(path, OFlags::RDWR | create)
}

/// Reads a regular file of ours that holds at most `most` bytes.
///
/// # Errors
/// It is missing, cannot be read, is not a regular file or longer.
pub fn read_own(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = regular(path, OFlags::RDONLY)?;
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// The same; `None` where there is none.
///
/// # Errors
/// As [`read_own`], but for a missing file.
pub fn read_own_if_there(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    match read_own(path, most) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Makes an empty file in place of whatever lies at `path`, which is nobody's but ours.
pub(super) fn make_fresh(path: &Path) -> io::Result<File> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | QUIETLY;
    Ok(rustix::fs::open(path, flags, RIGHTS)?.into())
}

/// Writes `bytes` to a new file in place of whatever lies at `path`. Nothing is synced: for notes
/// that need not outlive the boot.
///
/// # Errors
/// What lies there is a directory, or the file cannot be made or written.
pub fn write_own(path: &Path, bytes: &[u8]) -> io::Result<()> {
    make_fresh(path)?.write_all(bytes)
}

fn regular(path: &Path, flags: OFlags) -> io::Result<File> {
    let file = match rustix::fs::open(path, flags | QUIETLY, RIGHTS) {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP) => return Err(not_ours("a link")),
        Err(Errno::ISDIR) => return Err(not_ours("a directory")),
        // A socket.
        Err(Errno::NXIO) => return Err(not_ours("not a regular file")),
        Err(e) => return Err(e.into()),
    };
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        Ok(file)
    } else if kind.is_dir() {
        Err(not_ours("a directory"))
    } else {
        Err(not_ours("not a regular file"))
    }
}

fn not_ours(what: &str) -> io::Error {
    io::Error::other(format!("it is {what}: move it out of the way"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_a_directory_a_pipe_and_too_much_are_refused_by_name() {
        let home = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| home.path().join(name);
        std::os::unix::fs::symlink("/etc/hostname", at("link")).expect("link");
        std::fs::create_dir(at("dir")).expect("directory");
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), fifo, RIGHTS, 0).expect("fifo");
        for (name, what) in [
            ("link", "a link"),
            ("dir", "a directory"),
            ("fifo", "not a regular file"),
        ] {
            for e in [
                read_own(&at(name), 10).expect_err(name),
                open_own(&at(name), true).expect_err(name),
            ] {
                assert!(e.to_string().contains(what), "{name}: {e}");
            }
        }
        let mut file = make_fresh(&at("fifo")).expect("a file in its place");
        Write::write_all(&mut file, b"eleven byte").expect("write");
        assert!(read_own(&at("fifo"), 10).is_err(), "longer than asked for");
        assert_eq!(read_own(&at("fifo"), 11).expect("read"), b"eleven byte");
    }
}
