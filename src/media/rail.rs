//! What the firmware says of 5 V since boot: a sagging supply makes a sound card look dead.
//!
//! Reads `get_throttled` of Raspberry Pi's firmware driver, which everybody may; elsewhere there is
//! none.

use super::evidence::{Evidence, Says, Suspect};
use super::tree::Tree;

const PLATFORM: &str = "/sys/devices/platform";
/// 5 V is too low now, and was since boot.
const NOW: u32 = 0x1;
const SINCE_BOOT: u32 = 0x1_0000;

/// What the firmware saw of the rail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rail {
    /// 5 V held since boot.
    Held,
    /// It was too low.
    Sagged,
    /// It is too low.
    TooLow,
}

/// The rail; `None` where nobody watches it.
pub fn rail(tree: &Tree) -> Option<Rail> {
    // The folder's name differs between boards.
    let socs = tree.names(PLATFORM).into_iter();
    let text = socs.filter(|n| n.starts_with("soc")).find_map(|soc| {
        let folder = format!("{PLATFORM}/{soc}");
        let names = tree.names(&folder).into_iter();
        let mut firmware = names.filter(|n| n.ends_with("firmware"));
        firmware.find_map(|n| tree.text(format!("{folder}/{n}/get_throttled")))
    })?;
    let flags = u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()?;
    Some(if flags & NOW != 0 {
        Rail::TooLow
    } else if flags & SINCE_BOOT != 0 {
        Rail::Sagged
    } else {
        Rail::Held
    })
}

/// Its evidence.
pub(super) fn collect(tree: &Tree) -> Option<Evidence> {
    const SOURCE: &str = "5 V rail (firmware)";
    let remedy = "use a 5 V / 5 A supply and a short cable; a card fails like this too";
    Some(match rail(tree)? {
        Rail::Held => Evidence::of(Suspect::Power, SOURCE, Says::Note, "held since boot"),
        Rail::Sagged => {
            Evidence::of(Suspect::Power, SOURCE, Says::Watch, "too low since boot").remedy(remedy)
        }
        Rail::TooLow => {
            Evidence::of(Suspect::Power, SOURCE, Says::Watch, "too low now").remedy(remedy)
        }
    })
}
