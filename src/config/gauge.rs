//! `[gauge]`: what its keys mean together.
//!
//! An address or a voltage that cannot be right is refused here: on the bus it would read as a
//! battery that is full or empty. It must never guess a battery's voltages.

use std::path::PathBuf;
use std::time::Duration;

use super::merge::Merged;
use super::problem::Problem;
use super::settings::{GaugeKind, GaugeSettings};

/// The address that every MAX170xx has.
const MAX170XX: u64 = 0x36;
/// The addresses that an INA219's two pins can choose; the first is the default.
const INA219: std::ops::RangeInclusive<u64> = 0x40..=0x4f;

/// Keys that mean something to an INA219 only.
const INA219_KEYS: [&str; 2] = ["gauge.empty_mv", "gauge.full_mv"];

/// The gauge, with complaints in `m.problems`.
pub(super) fn gauge(m: &mut Merged, warnings: &mut Vec<Problem>) -> Option<GaugeSettings> {
    let (default, addresses) = match m.text("gauge.kind") {
        "none" | "" => return none(m, warnings),
        "ina219" => (*INA219.start(), INA219),
        _ => (MAX170XX, MAX170XX..=MAX170XX),
    };
    let address = m.maybe_int("gauge.address").unwrap_or(default);
    if m.sound(&["gauge.kind", "gauge.address"]) && !addresses.contains(&address) {
        let (kind, from, to) = (
            m.text("gauge.kind").to_owned(),
            addresses.start(),
            addresses.end(),
        );
        let remedy = if from == to {
            format!("remove it: a {kind} is always at {from:#x}")
        } else {
            format!("give one from {from:#x} to {to:#x}")
        };
        m.complain(
            "gauge.address",
            format!("{address:#x} is no address of a {kind}"),
            remedy,
        );
    }
    let kind = match m.text("gauge.kind") {
        "max17040" => GaugeKind::Max17040,
        "max17048" => GaugeKind::Max17048,
        _ => ina219(m),
    };
    if !matches!(kind, GaugeKind::Ina219 { .. }) {
        for key in INA219_KEYS {
            if m.entries.contains_key(key) {
                warnings.push(m.about(
                    key,
                    format!("has no effect: a {} measures charge itself", kind.name()),
                    "remove it",
                ));
            }
        }
    }
    Some(GaugeSettings {
        kind,
        bus: PathBuf::from(m.text("gauge.bus")),
        address: u8::try_from(address).unwrap_or(u8::MAX),
        poll: Duration::from_secs(m.int("gauge.poll_s")),
    })
}

fn none(m: &Merged, warnings: &mut Vec<Problem>) -> Option<GaugeSettings> {
    for key in ["gauge.address", INA219_KEYS[0], INA219_KEYS[1]] {
        if m.sound(&["gauge.kind"]) && m.entries.contains_key(key) {
            warnings.push(m.about(key, "has no effect: gauge.kind is none", "set gauge.kind"));
        }
    }
    None
}

fn ina219(m: &mut Merged) -> GaugeKind {
    for key in INA219_KEYS {
        if m.sound(&["gauge.kind", key]) && !m.entries.contains_key(key) {
            m.complain_of_two(
                key,
                "gauge.kind",
                "is missing: an ina219 measures volts, not charge",
                "give the battery's voltage when empty and when full",
            );
        }
    }
    let mv = |m: &Merged, key: &str| u32::try_from(m.int(key)).unwrap_or(u32::MAX);
    let (empty_mv, full_mv) = (mv(m, INA219_KEYS[0]), mv(m, INA219_KEYS[1]));
    if m.sound(&INA219_KEYS) && empty_mv > 0 && full_mv > 0 && full_mv <= empty_mv {
        m.complain_of_two(
            INA219_KEYS[1],
            INA219_KEYS[0],
            format!("{full_mv} mV is not more than empty_mv ({empty_mv})"),
            "correct one of the two",
        );
    }
    GaugeKind::Ina219 {
        shunt_mohm: mv(m, "gauge.shunt_mohm"),
        empty_mv,
        full_mv,
    }
}
