//! The board's part of the settings: which line is where.

use std::path::PathBuf;

use super::merge::Merged;
use super::schema::LINES;
use super::settings::{Bias, BoardKind, BoardSettings, GpioAbi, LineAt, LineSpec};
use super::validate::fits_a_socket;

/// The board, with complaints in `m.problems`.
pub(super) fn board(m: &mut Merged) -> BoardSettings {
    let kind = match m.text("board.kind") {
        "sim" => BoardKind::Sim {
            control: control(m),
        },
        _ => BoardKind::Gpio,
    };
    // A broken board file or site file hides lines: say nothing about what is left.
    let found = LINES.map(|name| if m.broken { None } else { line(m, name) });
    clashes(m, &found);
    let [
        power_fail,
        brownout,
        battery_low,
        presence,
        status,
        safe_to_cut,
    ] = found;
    BoardSettings {
        name: m.text("board.name").to_owned(),
        kind,
        abi: match m.text("gpio.abi") {
            "v1" => GpioAbi::V1,
            "v2" => GpioAbi::V2,
            _ => GpioAbi::Auto,
        },
        cycles_supply: m.bool("board.cycles_supply"),
        power_fail,
        brownout,
        battery_low,
        presence,
        status,
        safe_to_cut,
    }
}

fn control(m: &mut Merged) -> PathBuf {
    let set = m.maybe_text("board.sim.control").map(PathBuf::from);
    let refused = !m.sound(&["board.sim.control", "gateway.run_dir"]);
    let path = set.unwrap_or_else(|| PathBuf::from(m.text("gateway.run_dir")).join("sim.sock"));
    if !refused {
        m.compute("board.sim.control", path.to_string_lossy().into_owned());
        fits_a_socket(m, "board.sim.control", &path);
    }
    path
}

fn line(m: &mut Merged, name: &str) -> Option<LineSpec> {
    let table = format!("board.{name}");
    let key = |k: &str| format!("{table}.{k}");
    if !m.describes(name) || !m.bool(&key("wired")) {
        return None;
    }
    let offset = m.maybe_int(&key("offset"));
    let named = m.maybe_text(&key("line")).map(ToOwned::to_owned);
    // One mistake in a line is enough to know that it is not as it was meant.
    let below = format!("{table}.");
    if m.refused.iter().any(|k| k.starts_with(&below)) || !m.sound(&["board.chip"]) {
        return None;
    }
    let own_chip = m.maybe_text(&key("chip")).map(ToOwned::to_owned);
    let board_chip = m.maybe_text("board.chip").map(ToOwned::to_owned);
    let (chip, at) = match (offset, named) {
        (_, Some(named)) => (own_chip, LineAt::Name(named)),
        (Some(offset), None) => {
            let chip = own_chip.or(board_chip);
            if chip.is_none() {
                m.complain(
                    &key("offset"),
                    "is on no chip",
                    "add chip with the chip's label, or give the line's name as `line`",
                );
            }
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            (chip, LineAt::Offset(offset))
        }
        (None, None) => {
            m.complain(
                &table,
                "says neither which offset nor which line",
                "add offset or line, or wired = false",
            );
            return None;
        }
    };
    Some(LineSpec {
        chip,
        at,
        active_high: m.text(&key("active")) != "low",
        bias: match m.text(&key("bias")) {
            "disabled" => Bias::Disabled,
            "pull-up" => Bias::PullUp,
            "pull-down" => Bias::PullDown,
            _ => Bias::AsIs,
        },
    })
}

/// Two meanings on one wire.
fn clashes(m: &mut Merged, found: &[Option<LineSpec>; 6]) {
    let wired: Vec<(&str, &LineSpec)> = LINES
        .iter()
        .zip(found)
        .filter_map(|(name, spec)| Some((*name, spec.as_ref()?)))
        .collect();
    for (i, (name, spec)) in wired.iter().enumerate() {
        let twin = wired[..i]
            .iter()
            .find(|(_, other)| other.chip == spec.chip && other.at == spec.at);
        if let Some((other, _)) = twin {
            m.complain(
                &format!("board.{name}"),
                format!("is the same line as board.{other}"),
                "give each its own, or unwire one with wired = false",
            );
        }
    }
}
