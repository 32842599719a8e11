//! The agent, the board, the lines and their levels, the hold-up time.

use crate::agent::{Gpio, Status};
use crate::board::{self, LinesDescription};
use crate::config::{self, Identity};

use super::{Check, Patient};

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    match p.agent {
        Some(s) => agent(s, out),
        None if p.hidden => out.push(Check::warn(
            "agent",
            "an agent may run, it does not talk to this user",
            "ask as root or as a member of the agent's group",
        )),
        None if p.silent => out.push(Check::bad(
            "agent",
            format!(
                "the one in {} does not answer",
                p.settings.gateway.run_dir.display()
            ),
            "look at `journalctl -u holdup`, restart it",
        )),
        None => out.push(Check::bad(
            "agent",
            format!("none runs for {}", p.settings.gateway.run_dir.display()),
            "start it: `systemctl start holdup`, or `holdup run`",
        )),
    }
    let b = &p.settings.board;
    if b.is_sim() {
        out.push(Check::warn(
            "board",
            format!("{} is simulated: no real loss of power is seen", b.name),
            "set power.board to the board that this is",
        ));
    } else {
        out.push(board_check(&b.name, &config::identify()));
    }
    lines(p, out);
    match p.settings.power.holdup {
        Some(d) => out.push(Check::ok("hold-up", format!("{} ms", d.as_millis()))),
        None => out.push(Check::bad(
            "hold-up",
            "power.holdup_ms is not set",
            "run `holdup power measure`, pull the plug, set power.holdup_ms to what it proposes",
        )),
    }
}

/// Is the board that is configured the one that this machine is? Boards of a site's own, and
/// machines that nobody knows, cannot be compared.
fn board_check(configured: &str, machine: &Identity) -> Check {
    let found = format!("{configured}; this machine is {machine}");
    match machine.profile {
        Some(profile) if is_built_in(configured) && profile != configured => Check::warn(
            "board",
            found,
            format!("set power.board = \"{profile}\" or \"auto\""),
        ),
        Some(_) | None => Check::ok("board", found),
    }
}

fn is_built_in(board: &str) -> bool {
    config::BUILT_IN_BOARDS
        .iter()
        .any(|(name, _)| *name == board)
}

fn agent(s: &Status, out: &mut Vec<Check>) {
    let found = format!(
        "pid {}, supply {}, readiness {}",
        s.pid, s.supply, s.readiness
    );
    let is_damage = |code: &&str| s.damage.iter().any(|d| d.code == **code);
    let reasons = s.reasons.iter().map(String::as_str).zip(&s.advice);
    let other: Vec<_> = reasons
        .filter(|(code, _)| !is_damage(code))
        .map(|(_, advice)| advice.as_str())
        .collect();
    let other = other.join("; ");
    match s.readiness.as_str() {
        "Ready" => out.push(Check::ok("agent", found)),
        "AtRisk" => out.push(Check::warn("agent", found, other)),
        _ => out.push(Check::bad("agent", found, other)),
    }
    for d in &s.damage {
        out.push(Check::bad("damage", d.found.clone(), d.remedy.clone()));
    }
}

/// Which lines were found, and how they are spoken to.
fn described(seen: &LinesDescription, out: &mut Vec<Check>) {
    let gpio = Gpio {
        abi: seen.abi.to_owned(),
        abi_forced: seen.forced,
        ..Gpio::default()
    };
    let found: Vec<_> = seen
        .lines
        .iter()
        .map(|l| format!("{} is {} line {}", l.line, l.chip, l.offset))
        .collect();
    let found = format!("{}; {}", found.join(", "), gpio.abi_in_words());
    out.push(Check::ok("lines", found));
    for missing in &seen.missing {
        let remedy = "correct it, or set wired = false";
        let found = format!("{}: {}", missing.line, missing.why);
        out.push(Check::warn("lines", found, remedy));
    }
    for note in &seen.notes {
        let found = format!("{}: {}", note.line, note.why);
        out.push(Check::warn(
            "lines",
            found,
            "do that, or set bias = \"as-is\"",
        ));
    }
}

fn lines(p: &Patient<'_>, out: &mut Vec<Check>) {
    if let Some(s) = p.agent {
        let found = match (&s.gpio.chip, s.gpio.line, &s.gpio.error) {
            (Some(chip), Some(line), _) => format!("{chip} line {line}, {}", s.gpio.abi_in_words()),
            (Some(chip), None, _) => format!("{chip}, {}", s.gpio.abi_in_words()),
            (None, _, Some(why)) => {
                out.push(Check::bad(
                    "power_fail",
                    why.clone(),
                    "check power.board, gpio.abi and the wiring",
                ));
                return;
            }
            (None, _, None) => "not wired".to_owned(),
        };
        let reads = s.gpio.reads.as_deref().unwrap_or("unknown");
        let found = format!("held by the agent: {found}; reads {reads}");
        out.push(if reads == "lost" {
            Check::warn(
                "power_fail",
                found,
                "if power is good, check its wiring, active level and bias",
            )
        } else {
            Check::ok("power_fail", found)
        });
        for note in &s.gpio.notes {
            out.push(Check::warn(
                "lines",
                note.clone(),
                "do that, or set bias = \"as-is\"",
            ));
        }
        return;
    }
    if p.settings.board.is_sim() {
        return;
    }
    if p.hidden || p.silent {
        out.push(Check::skip("lines", "the agent may hold them"));
        return;
    }
    let read = board::open_inputs(&p.settings.board)
        .and_then(|mut inputs| Ok((inputs.levels()?, inputs.describe())));
    let levels = match read {
        Ok((levels, seen)) => {
            described(&seen, out);
            levels
        }
        Err(e) => {
            let why = crate::agent::explain(&e);
            out.push(Check::bad(
                "lines",
                why,
                "check power.board, gpio.abi, [board.*] and the wiring",
            ));
            return;
        }
    };
    match levels.power_fail {
        None => out.push(Check::bad(
            "power_fail",
            "the board has no such line",
            "name it under [board.power_fail]",
        )),
        Some(true) => out.push(Check::bad(
            "power_fail",
            "reads lost now",
            "if power is good, check its wiring, active level and bias",
        )),
        Some(false) => out.push(Check::ok("power_fail", "reads good")),
    }
    for (name, level) in [
        ("brownout", levels.brownout),
        ("battery_low", levels.battery_low),
    ] {
        match level {
            None => {}
            Some(true) => out.push(Check::warn(
                name,
                "reads low now",
                "check the supply and the wiring",
            )),
            Some(false) => out.push(Check::ok(name, "reads good")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn machine(profile: Option<&'static str>) -> Identity {
        Identity {
            model: Some("Raspberry Pi 4 B".to_owned()),
            soc: Some("BCM2711".to_owned()),
            profile,
        }
    }

    #[test]
    fn the_board_of_another_pi_is_warned_about() {
        let check = board_check("rpi5", &machine(Some("rpi4")));
        assert_eq!(check.level, Level::Warn);
        assert_eq!(
            (check.found.as_str(), check.remedy.as_str()),
            (
                "rpi5; this machine is Raspberry Pi 4 B (BCM2711)",
                "set power.board = \"rpi4\" or \"auto\""
            )
        );
    }

    #[test]
    fn the_right_board_a_sites_own_and_an_unknown_machine_are_left_alone() {
        for (board, profile) in [
            ("rpi4", Some("rpi4")),
            ("our-hat", Some("rpi4")),
            ("rpi5", None),
        ] {
            let check = board_check(board, &machine(profile));
            assert_eq!(check.level, Level::Ok, "{board}");
        }
    }
}
