//! For verbs that change the gateway's own files: nobody else does meanwhile.

use clap::Args;

use crate::agent::{AgentError, ByHand};
use crate::config::Settings;
use crate::guard::{InstanceError, process_in_words};
use crate::reset;

/// Who answers for what a verb does.
#[derive(Debug, Args)]
pub(super) struct By {
    /// Your name for the audit log; else the user's number stands there.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    technician: Option<String>,
}

impl By {
    pub(super) fn name(&self) -> Option<&str> {
        self.technician.as_deref()
    }
}

/// Bytes of a name: more would be cut in the audit log.
const LONGEST: usize = 64;

fn parse_name(name: &str) -> Result<String, String> {
    if name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control) {
        return Err(format!(
            "a name has 1 to {LONGEST} bytes and no control characters"
        ));
    }
    Ok(name.to_owned())
}

/// The gateway's files for this verb, or who has them. Not while half of a reset is done.
pub(super) fn alone(settings: &Settings) -> anyhow::Result<Result<ByHand, String>> {
    if reset::is_unfinished(&settings.gateway.data_dir) {
        return Ok(Err(
            "a factory reset was interrupted: start the agent, or run `holdup reset resume` first"
                .to_owned(),
        ));
    }
    alone_after_a_cut(settings)
}

/// The same for who ends what a cut left.
pub(super) fn alone_after_a_cut(settings: &Settings) -> anyhow::Result<Result<ByHand, String>> {
    match ByHand::take(settings) {
        Ok(by_hand) => Ok(Ok(by_hand)),
        Err(AgentError::Instance(InstanceError::Running { pid, .. })) => {
            let who = pid
                .parse()
                .map_or_else(|_| "a holdup".to_owned(), process_in_words);
            Ok(Err(format!(
                "{who} runs; stop it first (systemctl stop holdup)"
            )))
        }
        Err(AgentError::Instance(e @ InstanceError::DataInUse(_))) => Ok(Err(e.to_string())),
        Err(e) => Err(e.into()),
    }
}
