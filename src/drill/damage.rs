//! What disasters do to files. Only inside a drill's home.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::DrillError;

/// Bytes that look random and are the same again for the same seed.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `n - 1`; 0 for 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let words = n.div_ceil(8);
        let mut all: Vec<u8> = (0..words).flat_map(|_| self.next().to_le_bytes()).collect();
        all.truncate(n);
        all
    }
}

/// Overwrites `n` bytes at `at` with zeros; never makes the file longer.
pub(super) fn zero(path: &Path, at: u64, n: usize) -> Result<(), DrillError> {
    strike(path, at, &vec![0; n])
}

/// Overwrites `n` bytes at `at` with noise; never makes the file longer.
pub(super) fn noise(path: &Path, at: u64, n: usize, dice: &mut Dice) -> Result<(), DrillError> {
    strike(path, at, &dice.bytes(n))
}

fn strike(path: &Path, at: u64, bytes: &[u8]) -> Result<(), DrillError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        let room = file.metadata()?.len().saturating_sub(at);
        let n = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        if n == 0 {
            return Err(io::Error::other("it ends before the place to damage"));
        }
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&bytes[..n])
    };
    write().map_err(DrillError::io("damage", path))
}

/// The database with its companions, as far as they are there.
pub(super) fn with_companions(database: &Path) -> Vec<PathBuf> {
    ["", "-wal", "-shm", "-journal"]
        .iter()
        .map(|suffix| {
            let mut name = database.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        })
        .filter(|p| p.symlink_metadata().is_ok())
        .collect()
}

/// Deletes the database and its companions.
pub(super) fn delete(database: &Path) -> Result<(), DrillError> {
    for path in with_companions(database) {
        std::fs::remove_file(&path).map_err(DrillError::io("delete", &path))?;
    }
    Ok(())
}

/// The bytes of a file, as SHA-256 in hex.
pub(super) fn sha256(path: &Path) -> Result<String, DrillError> {
    use sha2::{Digest, Sha256};
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 << 10]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(super::census::hex(&hash.finalize())),
                n => hash.update(&buffer[..n]),
            }
        }
    };
    read().map_err(DrillError::io("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_the_same_for_a_seed_and_stays_inside_the_file() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = home.path().join("f");
        let struck = |seed| {
            File::create(&path)
                .and_then(|mut f| f.write_all(&[7; 100]))
                .expect("write");
            noise(&path, 90, 512, &mut Dice::new(seed)).expect("noise");
            std::fs::read(&path).expect("read")
        };
        let once = struck(1);
        assert_eq!(once.len(), 100);
        assert_eq!(once[..90], [7; 90]);
        assert_ne!(once[90..], [7; 10]);
        assert_eq!(once, struck(1));
        assert_ne!(once, struck(2));
        zero(&path, 100, 1).expect_err("a damage that damages nothing is no damage");
    }
}
