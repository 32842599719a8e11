//! The block layer's counts for the whole disk, since boot.
//!
//! Reads `/sys/block/DISK/{stat,ro}` and `/proc/uptime`, which everybody may. They tell load, not
//! health.

use serde::{Deserialize, Serialize};

use super::device::Disk;
use super::evidence::{Evidence, Says};
use super::tree::Tree;

const SOURCE: &str = "block layer (stat)";

/// Counts since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStat {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Writes that were completed.
    pub writes: u64,
    /// Time that those took together, in milliseconds.
    pub write_ms: u64,
}

impl BlockStat {
    /// From the file's text; Linux, Documentation/block/stat.rst.
    pub fn decode(text: &str) -> Option<Self> {
        let n: Vec<u64> = text
            .split_whitespace()
            .take(17)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        let at = |i: usize| n.get(i).copied();
        at(10)?;
        Some(Self {
            read: at(2)?.saturating_mul(512),
            writes: at(4)?,
            written: at(6)?.saturating_mul(512),
            write_ms: at(7)?,
        })
    }
}

/// The counts, and how long they were counted in seconds.
pub fn stat(tree: &Tree, disk: &Disk) -> Option<(BlockStat, u64)> {
    let stat = BlockStat::decode(&tree.text(disk.dir.join("stat"))?)?;
    let uptime = tree.text("/proc/uptime")?;
    let seconds = uptime.split('.').next()?.parse().ok()?;
    Some((stat, seconds))
}

/// Its evidence.
pub(super) fn collect(tree: &Tree, disk: &Disk) -> (Vec<Evidence>, Option<(BlockStat, u64)>) {
    let mut out = Vec::new();
    if tree.text(disk.dir.join("ro")).as_deref() == Some("1") {
        let value = "the whole disk is read-only";
        out.push(
            Evidence::card("block layer (ro)", Says::ReplaceSoon, value)
                .remedy("look at the card's write-protect switch; without one, replace the card"),
        );
    }
    let stat = stat(tree, disk);
    out.push(match stat {
        None => Evidence::unknown(SOURCE, "cannot be read"),
        Some((s, seconds)) => {
            let mean = s.write_ms as f64 / s.writes.max(1) as f64;
            let value = format!(
                "{:.1} MB read, {:.1} MB written in {:.1} h; a write took {mean:.1} ms on average",
                s.read as f64 / 1e6,
                s.written as f64 / 1e6,
                seconds as f64 / 3600.0
            );
            Evidence::card(SOURCE, Says::Note, value)
        }
    });
    (out, stat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_those_of_the_kernel() {
        let text = "  100 1 2048 30 40 5 4096 80 0 90 110 0 0 0 0 3 7\n";
        let s = BlockStat::decode(text).expect("read");
        assert_eq!(
            (s.read, s.written, s.writes, s.write_ms),
            (2048 * 512, 4096 * 512, 40, 80)
        );
        for bad in ["", "1 2 3", "a b c d e f g h i j k"] {
            assert_eq!(BlockStat::decode(bad), None, "{bad}");
        }
        let most = format!("{} ", u64::MAX).repeat(17);
        assert!(BlockStat::decode(&most).is_some(), "nothing overflows");
    }
}
