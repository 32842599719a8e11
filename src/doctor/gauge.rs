//! The battery's gauge: does it answer, and with what?

use crate::agent::explain;
use crate::board::gauge::read_once;

use super::{Check, Patient};

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    let Some(settings) = &p.settings.gauge else {
        return;
    };
    if p.hidden || p.silent {
        out.push(Check::skip("gauge", "the agent may be reading it"));
        return;
    }
    let at = format!(
        "{} at {:#04x} on {}",
        settings.kind.name(),
        settings.address,
        settings.bus.display()
    );
    let remedy = "`holdup status` shows what it says; check its wiring and [gauge]";
    // A running agent says what it reads: the bus is asked by one at a time.
    match p.agent.map(|s| s.gauge.as_ref()) {
        Some(None) => out.push(Check::warn(
            "gauge",
            format!("the agent does not read the {at}"),
            "restart the agent: [gauge] has changed",
        )),
        Some(Some(g)) => match (g.volts, g.percent, &g.problem) {
            (Some(volts), Some(percent), None) => {
                out.push(Check::ok(
                    "gauge",
                    format!("{at}: {volts:.2} V, {percent:.0} %"),
                ));
            }
            (_, _, Some(why)) => out.push(Check::warn("gauge", why.clone(), remedy)),
            (..) => out.push(Check::warn(
                "gauge",
                format!("{at}: no reading yet"),
                remedy,
            )),
        },
        None => out.push(match read_once(settings) {
            Ok(m) => Check::ok(
                "gauge",
                format!("{at}: {:.2} V, {:.0} %", m.volts, m.percent),
            ),
            Err(e) => Check::warn("gauge", explain(&e), remedy),
        }),
    }
}
