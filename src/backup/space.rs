//! Is there room for a backup, before anything of it is written?

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{BackupError, Manifest, catalogue};

/// What an archive may grow by, as a percentage, against the one before.
const GROWTH: u64 = 150;

/// What an archive of `all` bytes may come to, by what the last one came to.
pub(super) fn expected(all: u64, to: &Path, gateway: &str) -> u64 {
    let last = catalogue::list(to).ok().and_then(|found| {
        let own = found
            .into_iter()
            .rev()
            .filter(|l| l.name.gateway() == gateway);
        own.filter_map(|l| l.manifest).find(Manifest::is_verified)
    });
    let Some(last) = last else { return all };
    let plain: u64 = last.plain_bytes();
    let Some(facts) = last.archive.filter(|_| plain > 0) else {
        return all;
    };
    let packed = u128::from(facts.bytes) * u128::from(all) * u128::from(GROWTH);
    let packed = u64::try_from(packed / u128::from(plain) / 100);
    packed.unwrap_or(all).min(all)
}

/// Fails where `dir` has fewer bytes than `needed` free.
pub(super) fn enough(dir: &Path, needed: u64) -> Result<(), BackupError> {
    let free = catalogue::room(dir)?.free;
    if free < needed {
        return Err(BackupError::NoRoom {
            path: dir.to_owned(),
            free,
            needed,
        });
    }
    Ok(())
}

/// On which file system `path` lies.
pub(super) fn device(path: &Path) -> Result<u64, BackupError> {
    let meta = fs::metadata(path).map_err(BackupError::io("look at", path))?;
    Ok(meta.dev())
}
