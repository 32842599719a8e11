//! Tells scripts and ingest clients the same words about power.
//!
//! Clients are told at once, also while the agent pauses; scripts when the plan does not run.
//! It runs on the reporter's thread and never waits for either.

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::Settings;
use crate::durable::{Closer, Gate};
use crate::guard::Shared;
use crate::hooks::{Calm, Happened, Hooks};
use crate::ingest::PowerNews;
use crate::power::{Announcer, Notice, State, Word};

use super::AgentError;
use super::status::StatusSource;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Teller {
    announcer: Announcer,
    news: watch::Sender<PowerNews>,
    hooks: Arc<Hooks>,
}

impl Teller {
    /// The teller and the scripts' room; ingest hears `news`.
    pub(super) fn start(
        settings: &Settings,
        clock: &Arc<dyn Clock>,
        shared: &Arc<Shared>,
        gate: &Arc<Gate>,
        news: watch::Sender<PowerNews>,
    ) -> Result<(Self, Arc<Hooks>), AgentError> {
        let calm = calm(Arc::clone(shared), Arc::clone(gate));
        let hooks = Hooks::start(settings.events.clone(), Arc::clone(clock), calm);
        let hooks = Arc::new(hooks.map_err(AgentError::Runtime)?);
        let teller = Self {
            announcer: Announcer::default(),
            news,
            hooks: Arc::clone(&hooks),
        };
        Ok((teller, hooks))
    }

    /// The guard said something.
    pub(super) fn heed(&mut self, notice: Notice, source: &StatusSource) {
        for word in self.announcer.notice(notice) {
            self.tell(word, source);
        }
    }

    /// Something that the guard said was lost; its state makes up for it.
    pub(super) fn catch_up(&mut self, state: State, source: &StatusSource) {
        for word in self.announcer.catch_up(state) {
            self.tell(word, source);
        }
    }

    fn tell(&self, word: Word, source: &StatusSource) {
        self.news.send_modify(|news| news.tell(word.name()));
        self.hooks.happened(Happened {
            word,
            facts: facts(source),
        });
    }
}

/// What a script is told beside the event.
pub(super) fn facts(source: &StatusSource) -> Vec<(&'static str, String)> {
    let s = source.status();
    let mut facts = vec![
        ("HOLDUP_GATEWAY", s.gateway),
        ("HOLDUP_SOURCE", s.source),
        ("HOLDUP_READINESS", s.readiness),
        ("HOLDUP_REASONS", s.reasons.join(",")),
    ];
    if let Some(percent) = s.gauge_percent {
        facts.push(("HOLDUP_GAUGE_PERCENT", format!("{percent:.0}")));
    }
    facts
}

/// While the plan runs, and while a loss is not certain yet, no process is started: that would
/// read the card, and costs hold-up time.
fn calm(shared: Arc<Shared>, gate: Arc<Gate>) -> Calm {
    Box::new(move || match shared.published().state {
        State::Parked { .. } => true,
        // The gate closes at the edge, before the state is published.
        State::Good | State::Brownout | State::OnBattery { .. } => {
            !gate.is_closed_by(Closer::Power)
        }
        State::Starting
        | State::Suspect { .. }
        | State::Failing { .. }
        | State::Resuming { .. }
        | State::Rehearsing { .. }
        | State::Stopping
        | State::Off => false,
    })
}
