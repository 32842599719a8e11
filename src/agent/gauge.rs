//! The gauge beside the lines: started once, looked at by the guard, told by status.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::board::gauge::{Gauge, GaugeView};
use crate::clock::{Clock, Mono};
use crate::config::{GaugeSettings, Settings};

use super::AgentError;

/// Starts to read the gauge, where one is configured.
pub(super) fn start(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Gauge>, AgentError> {
    let start = |g| Gauge::start(g, Arc::clone(clock));
    let started = settings.gauge.as_ref().map(start).transpose();
    started.map_err(AgentError::Runtime)
}

/// The battery's gauge, as status tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GaugeStatus {
    /// `max17040`, `max17048` or `ina219`.
    pub kind: String,
    /// The bus's device.
    pub bus: String,
    /// On the bus, 7 bits.
    pub address: u8,
    /// Of the battery; `null` while there is no reading younger than three polls.
    pub volts: Option<f32>,
    /// Charge, 0 to 100.
    pub percent: Option<f32>,
    /// Charging (`true`) or discharging; `null`: neither, or the chip does not tell.
    pub charging: Option<bool>,
    /// How old the last reading is, stale or not.
    pub age_s: Option<u64>,
    /// Why the last poll gave no reading.
    pub problem: Option<String>,
    /// Polls that gave none, since the agent started.
    pub failures: u64,
}

impl GaugeStatus {
    pub(super) fn now(settings: &GaugeSettings, view: &GaugeView, now: Mono) -> Self {
        let seen = view.seen();
        let fresh = view.reading(now);
        Self {
            kind: settings.kind.name().to_owned(),
            bus: settings.bus.display().to_string(),
            address: settings.address,
            volts: fresh.map(|r| r.volts),
            percent: fresh.map(|r| r.percent),
            charging: fresh.and_then(|r| r.charging),
            age_s: seen.reading.map(|r| now.since(r.at).as_secs()),
            problem: seen.problem,
            failures: seen.failures,
        }
    }
}
