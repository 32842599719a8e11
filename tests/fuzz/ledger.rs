//! The ledger of any bytes: it never says more than one of its whole notes does.
#![no_main]

use std::path::PathBuf;

use holdup::store::Ledger;
use holdup_fuzz::{Desk, bounded};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sha2::{Digest, Sha256};

const MEMORY: usize = 4 << 20;
const MAGIC: &[u8; 8] = b"HOLDUPL\n";
const BLOCK: usize = 4096;
const FIELDS: [&str; 9] = [
    "version", "counter", "epoch", "highest", "lowest", "at", "wall_ms", "previous", "hash",
];

thread_local! {
    static PATH: (Desk, PathBuf) = {
        let desk = Desk::new();
        let path = desk.free("ledger");
        (desk, path)
    };
}

// A byte of options, and what is in the two slots. Options 0 and 1: the slot is such text, with
// its header; 2 and 3: and with the hash that its fields have; 4: the file ends early.
fuzz_target!(|bytes: &[u8]| {
    let Some((options, rest)) = bytes.split_first() else {
        return;
    };
    let (first, second) = rest.split_at(rest.len() / 2);
    let mut file = Vec::new();
    for (n, part) in [first, second].into_iter().enumerate() {
        let mut part = part.to_vec();
        if options & 1 << (n + 2) != 0 {
            part = hashed(&part).unwrap_or(part);
        }
        if options & 1 << n != 0 {
            part = sealed(&part);
        }
        part.resize(BLOCK, 0);
        file.extend(part);
    }
    if options & 1 << 4 != 0 {
        file.truncate(8192 - first.len().min(8192));
    }
    PATH.with(|(_, path)| {
        std::fs::write(path, &file).expect("room for it");
        bounded(MEMORY, || holds(&file, Ledger::read(path)));
    });
});

fn holds(file: &[u8], read: Result<Option<holdup::store::Noted>, holdup::store::LedgerError>) {
    let notes: Vec<Note> = file.chunks(BLOCK).filter_map(note).collect();
    match read {
        Ok(Some(said)) => {
            let like = |n: &&Note| {
                n.counter == said.counter
                    && n.highest == said.highest
                    && n.lowest == said.lowest
                    && n.hash == said.hash
            };
            assert!(
                notes.iter().any(|n| like(&n)),
                "{said:?} is in no whole note"
            );
            assert!(said.highest >= 0 && said.lowest >= 0);
        }
        Ok(None) | Err(_) => {}
    }
}

struct Note {
    counter: u64,
    highest: i64,
    lowest: i64,
    hash: String,
}

/// A whole note: magic, length, checksum and hash fit.
fn note(block: &[u8]) -> Option<Note> {
    let word = |at: usize| Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?));
    let text = block.get(16..)?.get(..word(8)? as usize)?;
    if block.get(..8)? != MAGIC || crc32fast::hash(text) != word(12)? {
        return None;
    }
    let value: Value = serde_json::from_slice(text).ok()?;
    let field = |name: &str| {
        let place = FIELDS.iter().position(|f| *f == name)?;
        // serde takes an array for a struct, too.
        value.get(name).or_else(|| value.get(place)).cloned()
    };
    let hash = field("hash")?.as_str()?.to_owned();
    (hash == digest(&field)?).then_some(Note {
        counter: field("counter")?.as_u64()?,
        highest: field("highest")?.as_i64()?,
        lowest: field("lowest")?.as_i64()?,
        hash,
    })
}

/// As the room documents it.
fn digest(field: &dyn Fn(&str) -> Option<Value>) -> Option<String> {
    let text = format!(
        "holdup-ledger-{}\n{}\n{}\n{}\n{}\n{}\n{}\n",
        field("version")?.as_u64()?,
        field("counter")?.as_u64()?,
        field("epoch")?.as_str()?,
        field("highest")?.as_i64()?,
        field("lowest")?.as_i64()?,
        field("wall_ms")?.as_i64()?,
        field("previous")?.as_str()?,
    );
    let hash = Sha256::digest(text);
    Some(hash.iter().map(|b| format!("{b:02x}")).collect())
}

fn hashed(text: &[u8]) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(text).ok()?;
    let hash = digest(&|name| value.get(name).cloned())?;
    value
        .as_object_mut()?
        .insert("hash".to_owned(), hash.into());
    serde_json::to_vec(&value).ok()
}

fn sealed(text: &[u8]) -> Vec<u8> {
    let text = &text[..text.len().min(BLOCK - 16)];
    let mut block = MAGIC.to_vec();
    block.extend(u32::try_from(text.len()).expect("a block").to_le_bytes());
    block.extend(crc32fast::hash(text).to_le_bytes());
    block.extend(text);
    block
}
