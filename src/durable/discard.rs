//! Tells the medium which blocks no file has any more.
//!
//! It is a request: a card may ignore it, do it later, or keep what it promises to forget. It must
//! never be taken for an erasure.

use std::io;
use std::os::fd::BorrowedFd;

/// `struct fstrim_range` of <linux/fs.h>.
#[repr(C)]
#[derive(Debug)]
struct Range {
    start: u64,
    len: u64,
    minlen: u64,
}

// <linux/fs.h>: _IOWR('X', 121, struct fstrim_range).
const FITRIM: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<Range>(b'X', 121);

/// Discards the free blocks between `start` and `start + len` bytes of the file system that `fd` lies
/// on; how many bytes it asked the device for.
///
/// # Errors
/// Not permitted (it needs CAP_SYS_ADMIN), or not something that this file system or device can do.
#[expect(unsafe_code, reason = "FITRIM has no wrapper in rustix")]
pub fn discard(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<u64> {
    let mut range = Range {
        start,
        len,
        minlen: 0,
    };
    // SAFETY: the kernel reads and writes one `fstrim_range`, which is what FITRIM's number says and
    // what `Range` is.
    let asked = unsafe { rustix::ioctl::Updater::<FITRIM, Range>::new(&mut range) };
    // SAFETY: as above; the range outlives the call.
    unsafe { rustix::ioctl::ioctl(fd, asked)? };
    Ok(range.len)
}
