//! The look at a database's files as bytes, before SQLite opens them.
//!
//! It promises that nothing recoverable is lost by the opening itself: SQLite deletes a
//! write-ahead log beside a missing or empty database, and ignores one with a damaged header
//! without a word, to delete it later. It must never be done while this process holds a
//! connection to the database: closing any descriptor of the file drops its POSIX locks.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::clock::Wall;
use crate::durable::{DurableError, Medium};

use super::error::StoreError;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const WAL_HEADER: usize = 32;

/// What stands in the place of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing, or an empty file: SQLite makes a new one.
    Fresh,
    /// A database; its log, if any, is one that SQLite will read.
    Database,
    /// A database whose log SQLite would ignore and later delete; says what is wrong with it.
    DamagedWal(&'static str),
}

/// Looks at `path` and its -wal.
pub fn look(path: &Path) -> Result<Look, StoreError> {
    let wal = companion(path, "-wal");
    let wal_bytes = size(&wal)?.unwrap_or(0);
    // SQLite would wait for the other end of a FIFO here.
    for other in ["-shm", "-journal"] {
        size(&companion(path, other))?;
    }
    let bytes = size(path)?;
    let Some(bytes @ 1..) = bytes else {
        if wal_bytes > 0 {
            return Err(StoreError::OrphanWal {
                path: path.to_owned(),
                state: if bytes.is_none() { "missing" } else { "empty" },
                wal_bytes,
            });
        }
        return Ok(Look::Fresh);
    };
    let first = head(path, usize::try_from(bytes.min(16)).unwrap_or(16))?;
    if first != MAGIC {
        return Err(StoreError::NotSqlite {
            path: path.to_owned(),
            starts_with: format!("\"{}\"", first.escape_ascii()),
        });
    }
    if wal_bytes == 0 {
        return Ok(Look::Database);
    }
    let header = head(
        &wal,
        usize::try_from(wal_bytes).map_or(WAL_HEADER, |n| n.min(WAL_HEADER)),
    )?;
    match wal_fault(&header) {
        Some(why) if !all_zero(&wal)? => Ok(Look::DamagedWal(why)),
        _ => Ok(Look::Database),
    }
}

/// What is wrong with the header of the database at `path`, if anything: for those who look at a
/// database that may be in use. One that is missing or empty has no header.
///
/// Source: SQLite's file format, section 1.3 "The Database Header".
pub fn header_fault(path: &Path) -> Result<Option<&'static str>, StoreError> {
    const HEADER: u64 = 100;
    let bytes = size(path)?.unwrap_or(0);
    if bytes == 0 {
        return Ok(None);
    }
    let h = head(path, usize::try_from(bytes.min(HEADER)).unwrap_or(0))?;
    if !h.starts_with(MAGIC) {
        return Ok(Some("it is not an SQLite database"));
    }
    if bytes < HEADER {
        return Ok(Some("it is shorter than its header"));
    }
    let page = u32::from(h[16]) << 8 | u32::from(h[17]);
    let page = if page == 1 { 65_536 } else { page };
    Ok(
        if !page.is_power_of_two() || !(512..=65_536).contains(&page) {
            Some("its header's page size is wrong")
        } else if !(1..=2).contains(&h[18]) || !(1..=2).contains(&h[19]) {
            Some("its header's format version is wrong")
        } else if h[21..24] != [64, 32, 32] {
            Some("its header's payload fractions are wrong")
        } else if h[44..48] > [0, 0, 0, 4][..] || h[56..60] > [0, 0, 0, 3][..] {
            Some("its header's schema format or text encoding is wrong")
        } else {
            None
        },
    )
}

/// What is wrong with a log's header, if anything.
///
/// Source: SQLite's file format, section 4.1 "WAL File Format".
pub fn wal_fault(header: &[u8]) -> Option<&'static str> {
    if header.len() < WAL_HEADER {
        return Some("it is shorter than its header");
    }
    let word = |i: usize| {
        let b = &header[i * 4..i * 4 + 4];
        u32::from_be_bytes([b[0], b[1], b[2], b[3]])
    };
    let magic = word(0);
    if magic & !1 != 0x377f_0682 {
        return Some("its magic number is wrong");
    }
    if word(1) != 3_007_000 {
        return Some("its version is wrong");
    }
    let page = word(2);
    if !page.is_power_of_two() || !(512..=65_536).contains(&page) {
        return Some("its page size is wrong");
    }
    // The lowest bit of the magic says in which byte order the words are summed.
    let sum_word = |i: usize| {
        if magic & 1 == 1 {
            word(i)
        } else {
            word(i).swap_bytes()
        }
    };
    let (mut s0, mut s1) = (0u32, 0u32);
    for pair in 0..3 {
        s0 = s0.wrapping_add(sum_word(pair * 2)).wrapping_add(s1);
        s1 = s1.wrapping_add(sum_word(pair * 2 + 1)).wrapping_add(s0);
    }
    ((s0, s1) != (word(6), word(7))).then_some("its header's checksum is wrong")
}

/// Copies the database and its companions to `evidence/<UTC time>/` under the medium's
/// directory; they are on the medium when this returns.
pub fn keep_evidence(path: &Path, medium: &Medium, now: Wall) -> Result<PathBuf, StoreError> {
    let stamp = now.to_string().replace(':', "");
    let root = medium.dir().join("evidence");
    let mut into = root.join(&stamp);
    let mut n = 1;
    while into.exists() {
        n += 1;
        into = root.join(format!("{stamp}-{n}"));
    }
    let copy = || -> Result<(), io::Error> {
        fs::create_dir_all(&into)?;
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let from = companion(path, suffix);
            if !from.exists() {
                continue;
            }
            let to = into.join(from.file_name().unwrap_or_default());
            fs::copy(&from, &to)?;
            medium
                .sync_data(&File::open(&to)?, &to)
                .map_err(io::Error::other)?;
        }
        let durable = |e: DurableError| io::Error::other(e);
        medium.sync_parent(&into.join("-")).map_err(durable)?;
        medium.sync_parent(&into).map_err(durable)?;
        medium.sync_parent(&root).map_err(durable)
    };
    copy().map_err(|source| StoreError::Evidence {
        path: path.to_owned(),
        into: into.clone(),
        source,
    })?;
    Ok(into)
}

/// Where it is noted that SQLite found the database at `path` malformed.
pub fn suspicion(path: &Path) -> PathBuf {
    companion(path, "-suspect")
}

/// `path` with `suffix` behind its name.
pub fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn size(path: &Path) -> Result<Option<u64>, StoreError> {
    // Behind a link the companions of another name would be looked at than those that SQLite uses.
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_file() => Ok(Some(m.len())),
        Ok(m) => {
            let what = if m.is_symlink() {
                "a link: put the file itself here"
            } else {
                "not a regular file: move it out of the way"
            };
            Err(looked(path, io::Error::other(format!("it is {what}"))))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(looked(path, e)),
    }
}

fn head(path: &Path, len: usize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; len];
    File::open(path)
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| looked(path, e))?;
    Ok(bytes)
}

/// Is there nothing but zeros in it? Holes, of which a damaged file may have a terabyte, are passed
/// over where the file system tells of them.
fn all_zero(path: &Path) -> Result<bool, StoreError> {
    let file = File::open(path).map_err(|e| looked(path, e))?;
    let mut block = vec![0u8; 64 * 1024];
    let mut at = 0;
    loop {
        match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => at = data,
            Err(Errno::NXIO) => return Ok(true),
            Err(_) => {}
        }
        match file.read_at(&mut block, at).map_err(|e| looked(path, e))? {
            0 => return Ok(true),
            n if block[..n].iter().any(|b| *b != 0) => return Ok(false),
            n => at += n as u64,
        }
    }
}

fn looked(path: &Path, source: io::Error) -> StoreError {
    let kind = source.kind();
    let source = if kind == io::ErrorKind::PermissionDenied {
        let why = format!("{source}: check its owner and the rights of its directory");
        io::Error::new(kind, why)
    } else {
        source
    };
    StoreError::Look {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests plant damaged files")]
mod tests {
    use super::*;

    fn database(dir: &Path) -> PathBuf {
        let path = dir.join("a.db");
        let conn = rusqlite::Connection::open(&path).expect("open");
        conn.set_db_config(
            rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
            true,
        )
        .expect("config");
        conn.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)")
            .expect("fill");
        path
    }

    #[test]
    fn a_sound_log_is_left_to_sqlite() {
        let home = tempfile::tempdir().expect("temp dir");
        assert_eq!(look(&database(home.path())).expect("look"), Look::Database);
    }

    #[test]
    fn a_log_that_is_a_hole_of_a_terabyte_is_passed_over_at_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = database(dir.path());
        let wal = companion(&path, "-wal");
        let log = File::create(&wal).expect("a log");
        // To read it would take hours; not every file system has files so large.
        if log.set_len(1 << 40).is_err() {
            return;
        }
        assert_eq!(look(&path).expect("look"), Look::Database);
        // One byte somewhere is what somebody wrote.
        log.write_all_at(b"x", 1 << 39).expect("write");
        assert!(matches!(look(&path), Ok(Look::DamagedWal(_))));
    }

    #[test]
    fn every_damaged_header_byte_is_seen() {
        let home = tempfile::tempdir().expect("temp dir");
        let wal = companion(&database(home.path()), "-wal");
        let good = head(&wal, WAL_HEADER).expect("read");
        assert_eq!(wal_fault(&good), None);
        for at in 0..WAL_HEADER {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(wal_fault(&bad).is_some(), "byte {at}");
        }
    }

    #[test]
    fn a_damaged_database_header_is_named_and_a_sound_one_is_not() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = database(home.path());
        assert_eq!(header_fault(&path).expect("look"), None);
        let good = fs::read(&path).expect("read");
        for at in (0..20).chain([21, 22, 23, 44, 45, 46, 56, 57, 58]) {
            let mut bad = good.clone();
            bad[at] ^= 0x51;
            fs::write(&path, &bad).expect("write");
            assert!(header_fault(&path).expect("look").is_some(), "byte {at}");
        }
        fs::write(&path, &good[..60]).expect("write");
        assert!(header_fault(&path).expect("look").is_some(), "cut short");
        fs::write(&path, b"").expect("write");
        assert_eq!(header_fault(&path).expect("look"), None, "empty");
    }

    #[test]
    fn a_log_of_zeros_is_no_evidence_but_zeros_before_frames_are() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = database(home.path());
        let wal = companion(&path, "-wal");
        let mut bytes = fs::read(&wal).expect("read");
        bytes[..WAL_HEADER].fill(0);
        fs::write(&wal, &bytes).expect("write");
        assert!(matches!(look(&path), Ok(Look::DamagedWal(_))));
        bytes.fill(0);
        fs::write(&wal, &bytes).expect("write");
        assert_eq!(look(&path).expect("look"), Look::Database);
    }

    #[test]
    fn a_log_beside_a_missing_or_empty_database_is_refused_and_kept() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = database(home.path());
        fs::remove_file(&path).expect("remove");
        let e = look(&path).expect_err("missing");
        assert!(e.to_string().contains("is missing, but"), "{e}");
        fs::write(&path, b"").expect("write");
        let e = look(&path).expect_err("empty");
        assert!(e.to_string().contains("is empty, but"), "{e}");
        assert!(companion(&path, "-wal").exists());
    }

    #[test]
    fn a_file_that_is_no_database_is_named_with_its_first_bytes() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = home.path().join("edge_store.db");
        fs::write(&path, b"{\"a\":1}\n").expect("write");
        let e = look(&path).expect_err("json").to_string();
        assert!(
            e.contains("edge_store.db") && e.contains(r#"{\"a\":1}"#),
            "{e}"
        );
        assert_eq!(fs::read(&path).expect("read"), b"{\"a\":1}\n");
    }

    #[test]
    fn evidence_is_a_copy_of_all_files() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = database(home.path());
        let medium = Medium::open(home.path()).expect("medium");
        let wall = Wall::from_millis(1_767_225_600_123);
        let first = keep_evidence(&path, &medium, wall).expect("copy");
        let again = keep_evidence(&path, &medium, wall).expect("copy");
        assert_ne!(first, again);
        for suffix in ["", "-wal"] {
            let from = companion(&path, suffix);
            let copy = again.join(from.file_name().expect("name"));
            assert_eq!(
                fs::read(&from).expect("read"),
                fs::read(copy).expect("read copy")
            );
        }
        assert!(first.ends_with("evidence/2026-01-01T000000.123Z"));
    }
}
