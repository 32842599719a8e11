//! The NVMe SMART / Health Information log (page 02h).
//!
//! Asked of `/dev/nvmeN` by the admin ioctl, which needs CAP_SYS_ADMIN; nothing is written.
//! Offsets: NVM Express Base Specification, 5.16.1.3.

use super::evidence::{Evidence, Says, Suspect};
use super::wear::Wear;

/// The log's length.
pub const PAGE: usize = 512;
const SOURCE: &str = "NVMe SMART log";

/// What the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmartLog {
    /// Bits, see [`Self::evidence`].
    pub critical: u8,
    /// Kelvin.
    pub temperature: u16,
    /// Percent.
    pub spare: u8,
    /// Percent; below it the device warns.
    pub spare_threshold: u8,
    /// Percent of the rated life; may pass 100, 255 stands for more.
    pub used: u8,
    /// Bytes that the host wrote.
    pub written: u128,
    /// How often it was switched on.
    pub power_cycles: u128,
    /// Hours.
    pub power_on_hours: u128,
    /// Losses of power that were not announced to it.
    pub unsafe_shutdowns: u128,
    /// Errors of data that it could not correct.
    pub media_errors: u128,
}

impl SmartLog {
    /// Reads the log.
    ///
    /// # Errors
    /// It is no such log; says why.
    pub fn decode(page: &[u8; PAGE]) -> Result<Self, String> {
        if page.iter().all(|b| *b == page[0]) {
            return Err(format!("all its bytes are 0x{:02x}: no answer", page[0]));
        }
        let wide = |at: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&page[at..at + 16]);
            u128::from_le_bytes(bytes)
        };
        let log = Self {
            critical: page[0],
            temperature: u16::from_le_bytes([page[1], page[2]]),
            spare: page[3],
            spare_threshold: page[4],
            used: page[5],
            // In thousands of 512 bytes.
            written: wide(48).saturating_mul(512_000),
            power_cycles: wide(112),
            power_on_hours: wide(128),
            unsafe_shutdowns: wide(144),
            media_errors: wide(160),
        };
        if log.spare > 100 || log.spare_threshold > 100 {
            return Err(format!(
                "spare {} %, threshold {} %: not percentages",
                log.spare, log.spare_threshold
            ));
        }
        // 0: not measured.
        if log.temperature != 0 && !(173..=473).contains(&log.temperature) {
            return Err(format!("{} K is no temperature", log.temperature));
        }
        if log.critical & 0xc0 != 0 {
            return Err(format!("warning bits 0x{:02x} are reserved", log.critical));
        }
        Ok(log)
    }

    /// The share of life.
    pub fn wear(&self) -> Wear {
        Wear::percent(self.used)
    }

    /// What it bears.
    pub fn evidence(&self) -> Vec<Evidence> {
        let now = "replace it; take a backup now";
        let soon = "plan its replacement; take a backup now";
        let mut out = vec![match self.used {
            0..=79 => Evidence::card(
                SOURCE,
                Says::Good,
                format!("{} % of its life is used", self.used),
            ),
            80..=89 => Evidence::card(
                SOURCE,
                Says::Watch,
                format!("{} % of its life is used", self.used),
            )
            .remedy("have a replacement at hand"),
            used => Evidence::card(
                SOURCE,
                Says::ReplaceSoon,
                format!("{used} % of its life is used"),
            )
            .remedy(soon),
        }];
        if self.spare < self.spare_threshold || self.critical & 0x01 != 0 {
            let value = format!(
                "spare {} %, its own limit is {} %",
                self.spare, self.spare_threshold
            );
            out.push(Evidence::card(SOURCE, Says::ReplaceNow, value).remedy(now));
        }
        if self.critical & 0x04 != 0 {
            let value = "it calls itself unreliable";
            out.push(Evidence::card(SOURCE, Says::ReplaceNow, value).remedy(now));
        }
        if self.critical & 0x08 != 0 {
            let value = "it takes no more writes";
            out.push(Evidence::card(SOURCE, Says::ReplaceNow, value).remedy(now));
        }
        if self.critical & 0x10 != 0 {
            let value = "its own backup of volatile memory failed: a loss of power loses data";
            out.push(Evidence::card(SOURCE, Says::ReplaceSoon, value).remedy(soon));
        }
        if self.critical & 0x02 != 0 {
            let value = format!(
                "too hot or too cold: {} C",
                i32::from(self.temperature) - 273
            );
            out.push(
                Evidence::of(Suspect::Host, SOURCE, Says::Watch, value).remedy("mend its cooling"),
            );
        }
        if self.media_errors > 0 {
            let value = format!("{} errors that it could not correct", self.media_errors);
            out.push(Evidence::card(SOURCE, Says::ReplaceSoon, value).remedy(soon));
        }
        out.push(Evidence::card(
            SOURCE,
            Says::Note,
            format!(
                "{:.1} TB written, {} h on, {} unannounced losses of power",
                self.written as f64 / 1e12,
                self.power_on_hours,
                self.unsafe_shutdowns
            ),
        ));
        out
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::media) fn page(used: u8) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[1..3].copy_from_slice(&310u16.to_le_bytes());
        page[3] = 100;
        page[4] = 10;
        page[5] = used;
        page[48..50].copy_from_slice(&2000u16.to_le_bytes());
        page
    }

    fn worst(page: &[u8; PAGE]) -> Says {
        let log = SmartLog::decode(page).expect("a log");
        log.evidence().iter().map(|e| e.says).max().expect("some")
    }

    #[test]
    fn wear_spare_and_media_errors_are_told_apart() {
        assert_eq!(
            SmartLog::decode(&page(3)).expect("a log").evidence()[0].says,
            Says::Good
        );
        assert_eq!(worst(&page(85)), Says::Watch);
        assert_eq!(
            worst(&page(200)),
            Says::ReplaceSoon,
            "past its rating, as the standard allows"
        );
        let mut low = page(3);
        low[3] = 5;
        assert_eq!(worst(&low), Says::ReplaceNow);
        let mut errors = page(3);
        errors[160] = 1;
        assert_eq!(worst(&errors), Says::ReplaceSoon);
        let mut read_only = page(3);
        read_only[0] = 0x08;
        assert_eq!(worst(&read_only), Says::ReplaceNow);
    }

    #[test]
    fn a_page_that_is_no_log_is_refused() {
        for (why, bad) in [
            ("zeros", [0; PAGE]),
            ("ones", [0xff; PAGE]),
            ("spare of 200 %", {
                let mut p = page(3);
                p[3] = 200;
                p
            }),
            ("absolute zero", {
                let mut p = page(3);
                p[1..3].copy_from_slice(&1u16.to_le_bytes());
                p
            }),
        ] {
            SmartLog::decode(&bad).expect_err(why);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_page_is_read_without_a_panic(bytes in proptest::collection::vec(0u8.., PAGE)) {
            let page: [u8; PAGE] = bytes.try_into().expect("512");
            if let Ok(log) = SmartLog::decode(&page) {
                assert!(log.spare <= 100);
                assert!(!log.evidence().is_empty());
            }
        }
    }
}
