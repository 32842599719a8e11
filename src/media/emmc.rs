//! What an eMMC says of its wear (`life_time`, `pre_eol_info`).
//!
//! Reads `/sys/block/DISK/device/`, which everybody may. The fields are defined from EXT_CSD
//! revision 7 (eMMC 5.0); an older device has zeros there, which say nothing.

use super::device::{Disk, Kind};
use super::evidence::{Evidence, Says};
use super::tree::{Tree, number};
use super::wear::Wear;

const SOURCE: &str = "eMMC wear (life_time)";
const SPARE: &str = "eMMC spare blocks (pre_eol_info)";
const FIRST_REVISION: u64 = 7;

/// Its evidence, and the worn share where it is told.
pub(super) fn collect(tree: &Tree, disk: &Disk) -> (Vec<Evidence>, Option<Wear>) {
    if disk.kind != Kind::Emmc {
        return (Vec::new(), None);
    }
    let device = disk.dir.join("device");
    let text = |name: &str| tree.text(device.join(name));
    decode(
        text("rev").as_deref().and_then(number),
        text("life_time").as_deref(),
        text("pre_eol_info").as_deref(),
    )
}

/// From the texts of the kernel's files.
pub fn decode(
    revision: Option<u64>,
    life_time: Option<&str>,
    pre_eol: Option<&str>,
) -> (Vec<Evidence>, Option<Wear>) {
    if let Some(revision) = revision.filter(|r| *r < FIRST_REVISION) {
        let why = format!(
            "EXT_CSD revision {revision}: wear is told from revision {FIRST_REVISION} (eMMC 5.0) on"
        );
        return (vec![Evidence::unknown(SOURCE, why)], None);
    }
    let mut out = Vec::new();
    let mut worn = None;
    match life_time {
        None => out.push(Evidence::unknown(
            SOURCE,
            "the kernel has no such file for this device",
        )),
        Some(text) => {
            let types: Vec<_> = text.split_whitespace().take(2).map(number).collect();
            let known: Vec<u64> = types
                .iter()
                .filter_map(|n| n.filter(|n| (1..=11).contains(n)))
                .collect();
            match known.iter().max() {
                None => out.push(Evidence::unknown(
                    SOURCE,
                    format!("{text:?} is not defined as a share of life"),
                )),
                Some(worst) => {
                    out.push(life(*worst));
                    worn = Some(Wear::steps(u8::try_from(*worst).unwrap_or(11)));
                }
            }
        }
    }
    out.extend(pre_eol.map(spare));
    (out, worn)
}

fn life(step: u64) -> Evidence {
    let replace = "plan its replacement; take a backup now";
    match step {
        1..=7 => Evidence::card(
            SOURCE,
            Says::Good,
            format!("{}-{} % of its life is used", (step - 1) * 10, step * 10),
        ),
        8 | 9 => Evidence::card(
            SOURCE,
            Says::Watch,
            format!("{}-{} % of its life is used", (step - 1) * 10, step * 10),
        )
        .remedy("have a replacement at hand"),
        10 => Evidence::card(SOURCE, Says::ReplaceSoon, "90-100 % of its life is used")
            .remedy(replace),
        _ => Evidence::card(SOURCE, Says::ReplaceNow, "it is past its estimated life")
            .remedy("replace it; take a backup now"),
    }
}

fn spare(text: &str) -> Evidence {
    match number(text) {
        Some(1) => Evidence::card(SPARE, Says::Note, "normal"),
        Some(2) => Evidence::card(SPARE, Says::ReplaceSoon, "warning: 80 % of them are used")
            .remedy("plan its replacement; take a backup now"),
        Some(3) => Evidence::card(SPARE, Says::ReplaceNow, "urgent: 90 % of them are used")
            .remedy("replace it; take a backup now"),
        Some(_) | None => Evidence::unknown(SPARE, format!("{text:?} is not defined")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(revision: Option<u64>, life: &str, eol: &str) -> Vec<Says> {
        let (all, _) = decode(revision, Some(life), Some(eol));
        all.iter().map(|e| e.says).collect()
    }

    #[test]
    fn the_worse_of_both_wear_estimates_counts() {
        assert_eq!(says(Some(8), "0x01 0x02", "0x01"), [Says::Good, Says::Note]);
        assert_eq!(
            says(Some(8), "0x01 0x09", "0x01"),
            [Says::Watch, Says::Note]
        );
        assert_eq!(
            says(Some(8), "0x0a 0x01", "0x02"),
            [Says::ReplaceSoon, Says::ReplaceSoon]
        );
        assert_eq!(
            says(Some(8), "0x0b 0x01", "0x03"),
            [Says::ReplaceNow, Says::ReplaceNow]
        );
    }

    #[test]
    fn an_old_revision_and_undefined_values_are_unknown_not_unworn() {
        assert_eq!(says(Some(6), "0x01 0x01", "0x01"), [Says::Unknown]);
        for undefined in ["0x00 0x00", "0xff 0xff", "0x0c 0x20", "", "worn", "-1 -1"] {
            let (all, worn) = decode(Some(8), Some(undefined), None);
            assert_eq!(all[0].says, Says::Unknown, "{undefined}");
            assert_eq!(worn, None, "{undefined}");
        }
        assert_eq!(says(Some(8), "0x01 0x01", "0x00")[1], Says::Unknown);
        assert_eq!(decode(Some(8), None, None).0[0].says, Says::Unknown);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(rev: Option<u64>, life: String, eol: String) {
            let (all, worn) = decode(rev, Some(&life), Some(&eol));
            assert!(!all.is_empty());
            if all.iter().any(|e| e.says == Says::Good) {
                assert!(worn.is_some());
            }
        }
    }
}
