//! The seam between recovery and the files it reads: bytes at a position, pages in versions.
//!
//! It promises that a reader needs neither SQLite nor the whole file in memory. It must never
//! write: what is read here may be the only copy.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes that can be read at any position.
pub trait Bytes {
    /// How many there are.
    fn len(&self) -> u64;

    /// Fills `buf` from position `at` and returns how many bytes it got: fewer than asked only
    /// at the end, 0 behind it.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;

    /// Are there none?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file, with the length it had when it was taken.
#[derive(Debug)]
pub struct FileBytes {
    file: File,
    len: u64,
}

impl FileBytes {
    /// Takes `file`, opened for reading.
    pub fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }

    /// Leaves out the hole at its end, but not what lies in front of `least`; returns its size.
    pub(super) fn leave_out_hole(&mut self, least: u64) -> u64 {
        let end = data_end(&self.file, self.len).max(least.min(self.len));
        let hole = self.len - end;
        self.len = end;
        hole
    }
}

/// A file counts as sparse where so many bytes of it, at least, take no room.
const SPARSE: u64 = 1 << 20;
/// The end of the data is rounded up to whole pages of any size.
const ROUND: u64 = 64 << 10;
/// Pieces of a sparse file that are looked at.
const MOST_PIECES: u32 = 1 << 16;

/// Where the last data of `file`, `len` bytes long, ends: behind it is a hole, which nobody wrote.
/// `len` where there is none, or the file system does not tell.
pub(super) fn data_end(file: &File, len: u64) -> u64 {
    let taken = file
        .metadata()
        .map_or(len, |m| m.blocks().saturating_mul(512));
    if taken.saturating_add(SPARSE) >= len {
        return len;
    }
    let mut end = 0;
    for _ in 0..MOST_PIECES {
        let data = match seek(file, SeekFrom::Data(end)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return end.next_multiple_of(ROUND).min(len),
            Err(_) => return len,
        };
        match seek(file, SeekFrom::Hole(data)) {
            Ok(hole) if hole > data => end = hole,
            Ok(_) | Err(_) => return len,
        }
    }
    len
}

#[cfg(test)]
thread_local! {
    /// Bytes that this thread has read from files, for tests of what a look costs.
    pub(super) static READ: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

impl Bytes for FileBytes {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let want = buf.len().min(left);
        let mut got = 0;
        while got < want {
            match self.file.read_at(&mut buf[got..want], at + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        #[cfg(test)]
        READ.set(READ.get() + got as u64);
        Ok(got)
    }
}

impl Bytes for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let Some(rest) = usize::try_from(at).ok().and_then(|at| self.get(at..)) else {
            return Ok(0);
        };
        let n = buf.len().min(<[u8]>::len(rest));
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

impl Bytes for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.as_slice().read_at(buf, at)
    }
}

impl<T: Bytes + ?Sized> Bytes for &T {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        (**self).read_at(buf, at)
    }
}

/// One stored state of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The page's number, from 1.
    pub page: u32,
    /// The transaction that wrote it, counted from 0 in the order of the log; `None`: it lies
    /// in the database file.
    pub transaction: Option<u32>,
    /// Where its bytes begin, in the database file or in the log.
    pub at: u64,
    /// A checksum vouches for its bytes. The database file has none, so `false` there says
    /// nothing against it; in the log it says that the page is damaged or could not be judged.
    pub proven: bool,
}

/// The pages of a database in all versions that still exist.
pub trait Pages {
    /// Bytes in a page: a power of two from 512 to 65,536.
    fn page_size(&self) -> usize;

    /// The highest page number of which there may be a version; 0 is none.
    fn highest(&self) -> u32;

    /// All versions of `page`, oldest first: the database file's, then the log's. Page 0 stands
    /// for those whose page number is lost.
    fn versions(&self, page: u32) -> Vec<Version>;

    /// Reads a version into `buf`, which has the size of a page. What lies behind the end of
    /// the file is zero.
    fn read(&self, v: Version, buf: &mut [u8]) -> io::Result<()>;

    /// How many bytes of a version are there, before the end of its file: the rest is no zeros that
    /// anybody wrote.
    fn present(&self, v: Version) -> usize;

    /// Are frames of transaction `t` damaged or missing, so that pages it wrote may be unknown?
    fn transaction_torn(&self, t: u32) -> bool;
}

/// Bytes of a page at `at` before the end of a file of `length` bytes.
pub(super) fn bytes_before_end(length: u64, at: u64, page_size: usize) -> usize {
    let left = length.saturating_sub(at);
    usize::try_from(left).map_or(page_size, |n| n.min(page_size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_a_slice_answer_alike_and_end_at_their_length() {
        let bytes: Vec<u8> = (0..=255).collect();
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a");
        #[expect(
            clippy::disallowed_methods,
            reason = "the test makes the file it reads"
        )]
        std::fs::write(&path, &bytes).expect("write");
        let file = FileBytes::new(File::open(&path).expect("open")).expect("length");
        for (at, want) in [(0, 256), (250, 6), (256, 0), (u64::MAX, 0)] {
            let (mut a, mut b) = ([7; 300], [7; 300]);
            assert_eq!(file.read_at(&mut a, at).expect("file"), want);
            assert_eq!(bytes.read_at(&mut b, at).expect("slice"), want);
            assert_eq!(a, b);
        }
    }
}
