//! One line in, one line out.

use super::super::Input;
use super::lines::SimLines;
use crate::clock::Mono;

/// The longest line taken, without its newline.
pub(super) const LONGEST: usize = 256;

const ALLOWED: &str = "allowed: power_fail lost|ok, brownout low|ok, battery_low low|ok, \
                       gauge VOLTS PERCENT, gauge none, state";

/// Does what `line`, received at `now`, says. Answers `ok`, the state, or `error: ...`.
pub(super) fn answer(lines: &SimLines, line: &[u8], now: Mono) -> String {
    let Ok(text) = std::str::from_utf8(line) else {
        return format!("error: not text; {ALLOWED}");
    };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (input, asserted) = match words[..] {
        ["power_fail", "lost"] => (Input::PowerFail, true),
        ["power_fail", "ok"] => (Input::PowerFail, false),
        ["brownout", "low"] => (Input::Brownout, true),
        ["brownout", "ok"] => (Input::Brownout, false),
        ["battery_low", "low"] => (Input::BatteryLow, true),
        ["battery_low", "ok"] => (Input::BatteryLow, false),
        ["gauge", "none"] => {
            lines.set_gauge(None);
            return "ok".to_owned();
        }
        ["gauge", volts, percent] => return gauge(lines, volts, percent),
        ["state"] => return state(lines),
        _ => return format!("error: unknown line; {ALLOWED}"),
    };
    if !lines.is_wired(input) {
        return format!("error: {} is not wired on this board", input.name());
    }
    lines.set(input, asserted, now);
    "ok".to_owned()
}

fn gauge(lines: &SimLines, volts: &str, percent: &str) -> String {
    let within = |text: &str, max: f32| {
        let number = text.parse::<f32>().ok();
        number.filter(|n| (0.0..=max).contains(n))
    };
    match (within(volts, 60.0), within(percent, 100.0)) {
        (Some(volts), Some(percent)) => {
            lines.set_gauge(Some((volts, percent)));
            "ok".to_owned()
        }
        _ => "error: gauge takes VOLTS from 0 to 60 and PERCENT from 0 to 100".to_owned(),
    }
}

/// `power_fail ok, brownout low, gauge 3.7 42`
fn state(lines: &SimLines) -> String {
    let levels = lines.levels();
    let mut parts: Vec<String> = Vec::new();
    for input in Input::ALL {
        let Some(asserted) = levels.get(input) else {
            continue;
        };
        let word = match (input, asserted) {
            (_, false) => "ok",
            (Input::PowerFail, true) => "lost",
            (Input::Brownout | Input::BatteryLow, true) => "low",
        };
        parts.push(format!("{} {word}", input.name()));
    }
    if let Some((volts, percent)) = lines.gauge() {
        parts.push(format!("gauge {volts} {percent}"));
    }
    parts.join(", ")
}
