//! What a card, a controller and a kernel's log may say: any bytes are refused or within bounds.
#![no_main]

use std::path::PathBuf;

use holdup::media::{
    BlockStat, Disk, History, KernelLog, Kind, Layout, NVME_PAGE, Says, SmartLog, Suspect, Verdict,
    cmd56, decode_emmc, decode_err_stats, judge, mmc_cid, sd_cid, sd_csd, sd_speed,
};
use holdup_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

const MEMORY: usize = 4 << 20;

// A byte that chooses, then a page, a register or a text.
fuzz_target!(|bytes: &[u8]| {
    let Some((choice, rest)) = bytes.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    let mut page = [0; 512];
    let len = rest.len().min(512);
    page[..len].copy_from_slice(&rest[..len]);
    let register = |at: usize| -> [u8; 16] {
        let mut it = [0; 16];
        it.copy_from_slice(&page[at..at + 16]);
        it
    };
    bounded(MEMORY, || match choice % 12 {
        n @ 0..=8 => vendor(Layout::ALL[usize::from(n)], &page),
        9 => {
            let page: &[u8; NVME_PAGE] = &page;
            if let Ok(log) = SmartLog::decode(page) {
                assert!(log.spare <= 100 && log.spare_threshold <= 100);
                assert!(page.iter().any(|b| *b != page[0]));
                assert!(!log.evidence().is_empty());
            }
        }
        10 => {
            let mut it = sd_cid(&register(0));
            sd_csd(&register(16), &mut it);
            mmc_cid(&register(32));
            let mut status = [0; 64];
            status.copy_from_slice(&page[64..128]);
            sd_speed(&status);
            for name in [it.product, it.oem].into_iter().flatten() {
                assert!(name.bytes().all(|b| (b' '..=b'~').contains(&b)), "{name:?}");
            }
        }
        _ => texts(&text, rest),
    });
});

/// A page is believed with its maker's signature alone, and never says more than all of its life.
fn vendor(layout: Layout, page: &[u8; 512]) {
    let found = cmd56::judge(layout, page, None);
    assert_eq!(found.raw.expect("kept").hex.len(), 1024);
    if found.evidence[0].says == Says::Unknown {
        assert!(found.worn.is_none());
        return;
    }
    assert!(page.iter().any(|b| *b != page[0]));
    if let Some(worn) = found.worn {
        assert!(worn.low <= 100);
    }
    let again = cmd56::judge(layout, page, Some(page));
    assert_eq!(
        again.evidence[0].says,
        Says::Unknown,
        "it is the first sector"
    );
}

fn texts(text: &str, bytes: &[u8]) {
    let (first, second) = text.split_once('\n').unwrap_or((text, ""));
    let (mut all, worn) = decode_emmc(first.len().try_into().ok(), Some(first), Some(second));
    assert_eq!(
        worn.is_none(),
        all.iter()
            .all(|e| !e.source.starts_with("eMMC wear") || e.says == Says::Unknown)
    );
    all.push(decode_err_stats(text));
    BlockStat::decode(text);
    let disk = Disk {
        name: "mmcblk0".to_owned(),
        kind: Kind::Sd,
        dir: PathBuf::new(),
        bytes: None,
        layers: Vec::new(),
        devices: vec!["mmcblk0p2".to_owned(), "mmcblk0".to_owned()],
        fs: "ext4".to_owned(),
        host: Some("mmc0".to_owned()),
    };
    let mut log = KernelLog::default();
    for line in bytes.split(|b| *b == b'\n') {
        log.record(&disk, line);
    }
    all.extend(log.evidence());
    let is_proof = all
        .iter()
        .any(|e| e.says == Says::Good && e.of == Suspect::Card);
    if judge(&mut all).verdict == Verdict::Good {
        assert!(is_proof, "good for want of data");
    }
    History::parse(bytes);
}
