//! What a technician does is entered in the audit log, whoever writes that just now.

use std::time::Duration;

use serde_json::Value;

use crate::agent::{ByHand, ControlAnswer, ControlRequest};
use crate::config::Settings;

use super::power;

/// What an entry in the audit log gets from a running agent.
const ENTER: Duration = Duration::from_secs(8);

/// Enters what a technician does; where that cannot be had, says so. Nothing waits for it: a
/// technician must be able to mend what keeps the log from being written.
pub(super) fn enter(settings: &Settings, action: &str, by: &str, details: Value) -> Option<String> {
    let why = match entered(settings, action, by, details.clone()) {
        Ok(true) => return None,
        Ok(false) => "it waits in memory until the log can be written".to_owned(),
        Err(why) => why,
    };
    // The journal is the second witness.
    log::warn!("not in the audit log yet: {action} by {by} {details}: {why}");
    Some(format!("(The audit log does not have this yet: {why})\n"))
}

fn entered(settings: &Settings, action: &str, by: &str, details: Value) -> Result<bool, String> {
    let request = ControlRequest::Enter {
        action: action.to_owned(),
        by: by.to_owned(),
        details: details.clone(),
    };
    let path = settings.gateway.control_socket();
    match power::talk(&path, request, ENTER, &mut |_| {}) {
        Ok(power::Talk::Answer(ControlAnswer::Entered(durable))) => Ok(durable),
        Ok(power::Talk::Answer(ControlAnswer::Refused(why))) => Err(why),
        Ok(power::Talk::Answer(_)) => Err("the agent's answer is not understood".to_owned()),
        Ok(power::Talk::NotAllowed(why)) => Err(why),
        // No agent runs: by hand.
        Err(_) => match ByHand::take(settings) {
            Ok(by_hand) => Ok(by_hand.enter(action, by, details)),
            Err(e) => Err(crate::agent::explain(&e)),
        },
    }
}
