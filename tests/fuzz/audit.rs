//! The audit log's spool of any bytes, and the entries on any page of a damaged log.
#![no_main]

use holdup::audit::{entries, respool};
use holdup_fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

const MEMORY: usize = 16 << 20;
/// An entry fits one page of the file.
const ENTRY: usize = 4096;

// A byte of options, and a spool (option 0) or a page.
fuzz_target!(|bytes: &[u8]| {
    let Some((options, rest)) = bytes.split_first() else {
        return;
    };
    bounded(MEMORY, || {
        if options & 1 == 1 {
            spool(rest);
        } else {
            let mut page = [0; 4096];
            let n = rest.len().min(page.len());
            page[..n].copy_from_slice(&rest[..n]);
            salvaged(&page, options & 2 != 0);
        }
    });
});

/// Each line is an entry, a head or damaged; what waits fits a page and is read again as it is.
fn spool(bytes: &[u8]) {
    let (waiting, damaged) = respool(bytes);
    let lines = bytes
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .count();
    assert!(waiting.len() + damaged <= lines);
    for line in &waiting {
        let entry = serde_json::from_str::<serde_json::Value>(line).expect("JSON");
        let size: usize = ["wall", "boot", "actor", "action", "details"]
            .iter()
            .map(|f| entry["entry"][f].as_str().expect("text").len())
            .sum();
        // Two hashes, the numbers and the record's header beside them.
        assert!(size + 200 < ENTRY, "an entry of {size} bytes");
    }
    let again = respool(waiting.join("\n").as_bytes());
    assert_eq!(again, (waiting, 0));
}

/// No entry is carried over whose hash does not fit its fields.
fn salvaged(page: &[u8; 4096], first: bool) {
    for r in entries(page, first) {
        let fields = [
            "holdup-audit-1",
            &r.sequence.to_string(),
            &r.wall,
            &r.mono_ms.to_string(),
            &r.boot,
            if r.synchronised { "1" } else { "0" },
            &r.actor,
            &r.action,
            &r.details,
            &r.previous,
        ];
        let form: String = fields.iter().map(|f| format!("{}:{f},", f.len())).collect();
        let hash = Sha256::digest(form);
        let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, r.hash);
    }
}
