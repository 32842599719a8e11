//! What the agent's process may do: real-time priority, locked memory, freeze, power off.

use crate::guard::rights::{IPC_LOCK, Rights, SYS_ADMIN, SYS_BOOT, SYS_NICE};

use super::{Check, Patient};

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    if p.hidden {
        out.push(Check::skip(
            "rights",
            "they would be yours, not the agent's",
        ));
        return;
    }
    // The agent's own rights where one runs, else those of whoever asks.
    let pid = p
        .agent
        .map_or_else(|| "self".to_owned(), |s| s.pid.to_string());
    let Some(rights) = Rights::of(&pid) else {
        out.push(Check::warn(
            "rights",
            format!("cannot read /proc/{pid}/status"),
            "run `holdup doctor` as root",
        ));
        return;
    };
    let has = |capability| rights.has(capability);
    let mut check = |name: &str, held: bool, what: &str, cap: &str| {
        out.push(if held {
            Check::ok(name, what)
        } else {
            Check::warn(
                name,
                format!("no right to: {what}"),
                format!("give the service {cap}"),
            )
        });
    };
    let realtime = p.agent.map_or(has(SYS_NICE), |s| s.realtime);
    check(
        "real-time",
        realtime,
        "run guard and plan before everything else",
        "CAP_SYS_NICE",
    );
    check(
        "memory",
        has(IPC_LOCK),
        "lock the guard's memory",
        "CAP_IPC_LOCK",
    );
    if !p.settings.board.is_sim() {
        check(
            "freeze",
            has(SYS_ADMIN),
            "freeze and thaw the data file system",
            "CAP_SYS_ADMIN",
        );
        if p.settings.power.allow_poweroff {
            check(
                "power-off",
                has(SYS_BOOT),
                "power the machine off",
                "CAP_SYS_BOOT",
            );
        }
    }
}
