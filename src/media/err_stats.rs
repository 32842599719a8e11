//! The MMC core's own count of errors on the bus, since boot.
//!
//! Reads `/sys/kernel/debug/mmcN/err_stats`: Linux 6.0 or later, debugfs mounted, root. Errors on
//! the bus accuse contacts, supply and controller before the card.

use super::device::{Disk, Kind};
use super::evidence::{Evidence, Says, Suspect};
use super::tree::Tree;

const SOURCE: &str = "bus errors (err_stats)";
/// A few transfers are repeated on any bus.
const FEW: u64 = 3;

/// Its evidence.
pub(super) fn collect(tree: &Tree, disk: &Disk) -> Vec<Evidence> {
    let (Kind::Sd | Kind::Emmc, Some(host)) = (disk.kind, &disk.host) else {
        return Vec::new();
    };
    match tree.read(format!("/sys/kernel/debug/{host}/err_stats")) {
        Ok(text) => vec![decode(&text)],
        Err(e) => vec![
            Evidence::unknown(SOURCE, format!("cannot read debugfs: {e}"))
                .remedy("ask as root with debugfs mounted, on Linux 6.0 or later"),
        ],
    }
}

/// From the file's text: lines of `# Data CRC Errors Occurred:\t 0`.
pub fn decode(text: &str) -> Evidence {
    let mut lines = 0;
    let mut seen = Vec::new();
    let mut total = 0u64;
    for line in text.lines() {
        let Some((what, count)) = line.rsplit_once(':') else {
            continue;
        };
        let Ok(count) = count.trim().parse::<u64>() else {
            continue;
        };
        lines += 1;
        let what = what.trim_start_matches(['#', ' ']).trim();
        // While a card is recognised it is asked what it does not answer.
        if count == 0 || what.starts_with("Command Timeout") {
            continue;
        }
        total = total.saturating_add(count);
        if seen.len() < 6 {
            let what: String = what.chars().take(40).collect();
            seen.push(format!("{what} {count}"));
        }
    }
    if lines == 0 {
        return Evidence::unknown(SOURCE, "the file has no counts");
    }
    if seen.is_empty() {
        return Evidence::of(Suspect::Host, SOURCE, Says::Note, "none since boot");
    }
    let says = if total > FEW { Says::Watch } else { Says::Note };
    let told = Evidence::of(Suspect::Host, SOURCE, says, seen.join(", "));
    if says == Says::Note {
        return told;
    }
    told.remedy("reseat the card, clean its contacts, try another supply")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_on_the_bus_accuse_the_host_and_those_of_recognition_nobody() {
        let text = "# Command Timeout Occurred:\t 4\n# Command CRC Errors Occurred:\t 0\n\
                    # Data Timeout Occurred:\t 0\n# Data CRC Errors Occurred:\t 0\n";
        assert_eq!(decode(text).says, Says::Note);
        let told = decode(&text.replace(
            "Data CRC Errors Occurred:\t 0",
            "Data CRC Errors Occurred:\t 9",
        ));
        assert_eq!((told.of, told.says), (Suspect::Host, Says::Watch));
        assert!(
            told.value.contains("Data CRC Errors Occurred 9"),
            "{}",
            told.value
        );
        let told = decode("# \u{1b}[2J Errors:\t 9\n");
        assert!(!told.value.contains('\u{1b}'), "{told:?}");
        for nothing in ["", "# :", "a: b\nc: -1", "\0\0:"] {
            assert_eq!(decode(nothing).says, Says::Unknown, "{nothing:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text: String, n: u64) {
            decode(&text);
            decode(&format!("{text}: {n}\nx: {n}"));
        }
    }
}
