//! A preallocated file written in whole 4 KiB blocks, each on the medium when the call returns.
//!
//! For what must be noted while time runs out: no allocation, no journal, one write.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::medium::{DurableError, Medium, is_full};

/// Bytes in a block.
const BLOCK: usize = 4096;

/// See the module's text.
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    path: PathBuf,
    blocks: u32,
}

impl BlockFile {
    /// Bytes in a block.
    pub const BLOCK: usize = BLOCK;

    /// Opens or makes the file at `path` with room for `blocks` blocks, written with zeros.
    pub fn open(medium: &Medium, path: &Path, blocks: u32) -> Result<Self, DurableError> {
        medium.preallocate(path, u64::from(blocks) * BLOCK as u64)?;
        let fd = rustix::fs::open(
            path,
            OFlags::RDWR | OFlags::DSYNC | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            rustix::fs::Mode::empty(),
        )
        .map_err(|e| DurableError::Io {
            what: "open",
            path: path.to_owned(),
            source: e.into(),
        })?;
        Ok(Self {
            file: fd.into(),
            path: path.to_owned(),
            blocks,
        })
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Writes block `index`; it is on the medium when this returns. Allocates nothing unless
    /// it fails.
    pub fn write(
        &self,
        medium: &Medium,
        index: u32,
        block: &[u8; BLOCK],
    ) -> Result<(), DurableError> {
        medium.healthy()?;
        self.file
            .write_all_at(block, self.offset(index))
            .map_err(|source| {
                // Nothing was lost for want of room; anything else may have been.
                if !is_full(&source) {
                    medium.latch(&format!("write {}: {source}", self.path.display()));
                }
                DurableError::Io {
                    what: "write",
                    path: self.path.clone(),
                    source,
                }
            })
    }

    /// Reads block `index`.
    pub fn read(&self, index: u32) -> Result<[u8; BLOCK], DurableError> {
        let mut block = [0u8; BLOCK];
        self.file
            .read_exact_at(&mut block, self.offset(index))
            .map_err(|source| DurableError::Io {
                what: "read",
                path: self.path.clone(),
                source,
            })?;
        Ok(block)
    }

    fn offset(&self, index: u32) -> u64 {
        debug_assert!(index < self.blocks, "block {index} of {}", self.blocks);
        u64::from(index % self.blocks) * BLOCK as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block file whose writes meet `path`, opened in this way.
    fn block_file(path: &str, how: OFlags) -> BlockFile {
        let fd = rustix::fs::open(path, how, rustix::fs::Mode::empty()).expect("open");
        BlockFile {
            file: fd.into(),
            path: path.into(),
            blocks: 1,
        }
    }

    #[test]
    fn a_mark_without_room_fails_and_any_other_fault_latches_the_medium() {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("medium");
        let block = [0; BLOCK];
        let full = block_file("/dev/full", OFlags::WRONLY);
        let e = full.write(&medium, 0, &block).expect_err("no room");
        assert!(e.is_full(), "{e}");
        medium.healthy().expect("nothing was lost");
        let broken = block_file("/dev/zero", OFlags::RDONLY);
        broken.write(&medium, 0, &block).expect_err("refused");
        medium.healthy().expect_err("it may have been lost");
    }
}
