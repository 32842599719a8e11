//! Writing an archive, entry by entry.
//!
//! It promises that what it answers of an entry (bytes, SHA-256) is what it wrote of it, and that
//! memory stays flat whatever the size. It must never finish an archive that ends early: without
//! [`ArchiveWriter::finish`] nothing opens it to its end.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use age::Encryptor;
use age::stream::StreamWriter;
use tar::{Builder, EntryType, Header};

use crate::backup::hashing::Hashing;
use crate::backup::{ArchiveFacts, Recipient};

/// zstd's level: above it the time grows faster than the size falls.
const LEVEL: i32 = 3;

/// Whose an entry is, and when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Seconds since 1970-01-01 UTC; before that counts as then.
    pub modified_s: i64,
}

/// A file as it went into the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its size.
    pub bytes: u64,
    /// Of its bytes, in lower-case hex.
    pub sha256: String,
    /// The source gave fewer bytes than was said; the rest is zeros.
    pub ended_early: bool,
}

type Packed<W> = zstd::Encoder<'static, StreamWriter<Counted<W>>>;

/// An archive that is being written.
pub struct ArchiveWriter<W: Write> {
    tar: Builder<Packed<W>>,
}

impl<W: Write> std::fmt::Debug for ArchiveWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveWriter").finish_non_exhaustive()
    }
}

impl<W: Write> ArchiveWriter<W> {
    /// An empty archive for `recipients`, of whom there must be one.
    ///
    /// # Errors
    /// No recipient, or the output fails.
    pub fn new(out: W, recipients: &[Recipient]) -> io::Result<Self> {
        let counted = Counted {
            out,
            hash: Hashing::of(u64::MAX),
            bytes: 0,
        };
        let keys = recipients.iter().map(Recipient::key);
        let sealed = Encryptor::with_recipients(keys)
            .map_err(io::Error::other)?
            .wrap_output(counted)?;
        let packed = zstd::Encoder::new(sealed, LEVEL)?;
        Ok(Self {
            tar: Builder::new(packed),
        })
    }

    /// A file of `bytes` bytes from `from`, which may have changed meanwhile: what it has more is
    /// left out, what it lacks is zeros.
    ///
    /// # Errors
    /// The source or the output fails; the archive is of no use then.
    pub fn file(
        &mut self,
        name: &[u8],
        attributes: Attributes,
        bytes: u64,
        from: &mut dyn Read,
    ) -> io::Result<Written> {
        let mut header = header(EntryType::Regular, attributes);
        header.set_size(bytes);
        let mut exact = Exact {
            from,
            left: bytes,
            hash: Hashing::of(bytes),
            ended_early: false,
        };
        self.tar.append_data(&mut header, path(name), &mut exact)?;
        Ok(Written {
            bytes,
            sha256: exact.hash.finish(),
            ended_early: exact.ended_early,
        })
    }

    /// A directory.
    ///
    /// # Errors
    /// The output fails.
    pub fn directory(&mut self, name: &[u8], attributes: Attributes) -> io::Result<()> {
        let mut header = header(EntryType::Directory, attributes);
        header.set_size(0);
        let mut slashed = name.to_owned();
        slashed.push(b'/');
        self.tar
            .append_data(&mut header, path(&slashed), io::empty())
    }

    /// A symbolic link to `to`.
    ///
    /// # Errors
    /// The output fails.
    pub fn link(&mut self, name: &[u8], to: &[u8], attributes: Attributes) -> io::Result<()> {
        let mut header = header(EntryType::Symlink, attributes);
        header.set_size(0);
        self.tar.append_link(&mut header, path(name), path(to))
    }

    /// Ends the archive; its output, and what was written to it (without the manifest's hash).
    ///
    /// # Errors
    /// The output fails.
    pub fn finish(self) -> io::Result<(W, ArchiveFacts)> {
        let counted = self.tar.into_inner()?.finish()?.finish()?;
        let facts = ArchiveFacts {
            bytes: counted.bytes,
            sha256: counted.hash.finish(),
            manifest_sha256: String::new(),
        };
        Ok((counted.out, facts))
    }
}

fn path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

fn header(kind: EntryType, a: Attributes) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(a.mode & 0o7777);
    header.set_uid(a.uid.into());
    header.set_gid(a.gid.into());
    header.set_mtime(u64::try_from(a.modified_s).unwrap_or(0));
    header
}

/// The ciphertext, counted and hashed on its way.
struct Counted<W> {
    out: W,
    hash: Hashing,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// So many bytes and no other number, hashed on their way.
struct Exact<'a> {
    from: &'a mut dyn Read,
    left: u64,
    hash: Hashing,
    ended_early: bool,
}

impl Read for Exact<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buf.len(), |l| l.min(buf.len()));
        let buf = &mut buf[..most];
        if buf.is_empty() {
            return Ok(0);
        }
        let n = match self.ended_early {
            true => 0,
            false => self.from.read(buf)?,
        };
        let n = if n == 0 {
            self.ended_early = true;
            buf.fill(0);
            buf.len()
        } else {
            n
        };
        self.hash.update(&buf[..n]);
        self.left -= n as u64;
        Ok(n)
    }
}
