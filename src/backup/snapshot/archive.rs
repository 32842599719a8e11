//! The archive's bytes: compressed, and read back before anybody relies on them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use crate::durable::{Bulk, Gate, Medium, open_own};

use super::error::SnapshotError;
use super::manifest::SnapshotManifest;

/// Dearer levels save little on readings and cost much time on a small machine.
const LEVEL: i32 = 3;
/// What this level needs at most to read back; a file that asks for more is not ours.
const WINDOW_LOG: u32 = 23;
const PORTION: usize = 128 << 10;

/// Where bytes are written.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) medium: &'a Medium,
    pub(super) gate: &'a Arc<Gate>,
    pub(super) stop: &'a Arc<AtomicBool>,
}

/// What went in and what came out.
pub(super) struct Packed {
    pub(super) plain_bytes: u64,
    pub(super) plain_sha256: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Compresses the file `from` into the new file `to`.
pub(super) fn pack(from: &Path, to: &Path, place: Place<'_>) -> Result<Packed, SnapshotError> {
    let write = |e| SnapshotError::io("write", to)(e);
    let read = |e| SnapshotError::io("read", from)(e);
    let mut plain = File::open(from).map_err(read)?;
    let bulk = Bulk::create(to, place.medium, place.gate, place.stop)?;
    let sink = Hashed::new(bulk);
    let mut packer = zstd::stream::write::Encoder::new(sink, LEVEL).map_err(write)?;
    let mut source = Sha256::new();
    let mut plain_bytes = 0;
    let mut portion = vec![0; PORTION];
    loop {
        let n = plain.read(&mut portion).map_err(read)?;
        if n == 0 {
            break;
        }
        source.update(&portion[..n]);
        plain_bytes += n as u64;
        packer.write_all(&portion[..n]).map_err(write)?;
    }
    let sink = packer.finish().map_err(write)?;
    let sha256 = hex(sink.hash);
    let bytes = sink.inner.finish()?;
    Ok(Packed {
        plain_bytes,
        plain_sha256: hex(source),
        bytes,
        sha256,
    })
}

/// Reads the archive `from`, which must be what `m` says, into `sink`. What came out so far is
/// worth nothing unless this returns well.
pub(super) fn unpack(
    from: &Path,
    m: &SnapshotManifest,
    sink: &mut dyn Write,
) -> Result<(), SnapshotError> {
    let damaged = |why: &str| SnapshotError::damaged(from, why);
    // Broken or not to be read: neither can be relied on.
    let read = |e: io::Error| SnapshotError::damaged(from, e.to_string());
    let file = open_own(from, false).map_err(SnapshotError::io("open", from))?;
    let mut packed = HashedSource {
        inner: file,
        hash: Sha256::new(),
        bytes: 0,
    };
    let mut plain = Sha256::new();
    let mut done: u64 = 0;
    {
        let mut unpacker = zstd::stream::read::Decoder::new(&mut packed).map_err(read)?;
        unpacker.window_log_max(WINDOW_LOG).map_err(read)?;
        let mut portion = vec![0; PORTION];
        loop {
            let n = unpacker.read(&mut portion).map_err(read)?;
            if n == 0 {
                break;
            }
            done += n as u64;
            // Before it is written: a file that lies must not fill the medium.
            if done > m.plain_bytes {
                return Err(damaged("it holds more than its manifest says"));
            }
            plain.update(&portion[..n]);
            sink.write_all(&portion[..n])
                .map_err(SnapshotError::io("write what comes out of", from))?;
        }
    }
    // What lies behind the last frame counts too.
    io::copy(&mut packed, &mut io::sink()).map_err(read)?;
    if (packed.bytes, hex(packed.hash)) != (m.bytes, m.sha256.clone()) {
        return Err(damaged("its SHA-256 is not the one of its manifest"));
    }
    if (done, hex(plain)) != (m.plain_bytes, m.plain_sha256.clone()) {
        return Err(damaged(
            "the database in it is not the one that was verified",
        ));
    }
    Ok(())
}

struct Hashed<'a> {
    inner: Bulk<'a>,
    hash: Sha256,
}

impl<'a> Hashed<'a> {
    fn new(inner: Bulk<'a>) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct HashedSource {
    inner: File,
    hash: Sha256,
    bytes: u64,
}

impl Read for HashedSource {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

fn hex(hash: Sha256) -> String {
    use std::fmt::Write as _;
    hash.finalize().iter().fold(String::new(), |mut text, b| {
        // Writing to a string cannot fail.
        write!(text, "{b:02x}").unwrap_or_default();
        text
    })
}
