//! One JSON object in one block: magic, length, CRC-32, text that a person can read with
//! `strings`. What is torn or damaged reads as nothing, never as something else.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::BlockFile;

const HEADER: usize = 16;

/// One block's bytes.
pub type Block = [u8; BlockFile::BLOCK];

/// Writes `value` into `block`; false when it does not fit, and the block reads as nothing then.
pub fn seal(magic: &[u8; 8], value: &impl Serialize, block: &mut Block) -> bool {
    block.fill(0);
    let mut room = &mut block[HEADER..];
    let size = room.len();
    if serde_json::to_writer(&mut room, value).is_err() {
        block.fill(0);
        return false;
    }
    let len = size - room.len();
    let crc = crc32fast::hash(&block[HEADER..HEADER + len]);
    block[..8].copy_from_slice(magic);
    block[8..12].copy_from_slice(&(len as u32).to_le_bytes());
    block[12..16].copy_from_slice(&crc.to_le_bytes());
    true
}

/// What a block says, if it is whole.
pub fn unseal<T: DeserializeOwned>(magic: &[u8; 8], block: &Block) -> Option<T> {
    if &block[..8] != magic {
        return None;
    }
    let word =
        |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let payload = block.get(HEADER..HEADER + usize::try_from(word(8)).ok()?)?;
    if crc32fast::hash(payload) != word(12) {
        return None;
    }
    serde_json::from_slice(payload).ok()
}
