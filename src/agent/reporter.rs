//! Tells people and programs what the guard did: log, service manager, ingest clients.
//!
//! The guard thread itself never logs. What must be right is taken from the guard's published
//! state, not from the notices: a notice may be dropped, the state cannot.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::clock::Mono;
use crate::config::Source;
use crate::durable::{Gate, Medium};
use crate::guard::{Bell, Ended, LastOutage, Notices, Shared};
use crate::ingest::{Pause, PowerNews};
use crate::power::{Notice, Reason, State, Word};
use crate::store::{Orders, StoreState};

use super::costs::{CostsKeeper, Governor, lock};
use super::status::{StatusSource, reads, supply_in_words};
use super::tell::Teller;

/// How often the reporter looks without being told, unless the watchdog wants more.
const TICK: Duration = Duration::from_secs(2);
/// The guard thread must have turned within this time, or the watchdog is not fed.
const BEAT: Duration = Duration::from_secs(10);

/// Tells ingest whether it may read.
#[derive(Debug)]
pub(super) struct Pauses {
    tx: watch::Sender<Option<Pause>>,
    news: watch::Sender<PowerNews>,
    shared: Arc<Shared>,
    orders: Orders,
}

impl Pauses {
    pub(super) fn new(
        shared: Arc<Shared>,
        orders: Orders,
        news: watch::Sender<PowerNews>,
    ) -> (Self, watch::Receiver<Option<Pause>>) {
        let (tx, rx) = watch::channel(Some(Pause::Starting));
        let pauses = Self {
            tx,
            news,
            shared,
            orders,
        };
        (pauses, rx)
    }

    /// Works the pause out from the states of supply and store.
    pub(super) fn update(&self) {
        let store = self.orders.stats().state;
        let state = self.shared.published().state;
        // Who subscribes before anything happened is told that mains are there; said before the
        // pause ends, so that nobody's subscription finds nothing to tell.
        if matches!(state, State::Good | State::Brownout) {
            self.news.send_if_modified(|news| {
                let first = news.told() == 0;
                if first {
                    news.tell(Word::OffBattery.name());
                }
                first
            });
        }
        let pause = match state {
            // Clients see nothing of a glitch.
            State::Suspect { .. } => return,
            State::Starting => Some(Pause::Starting),
            State::Failing { .. }
            | State::Parked { .. }
            | State::Resuming { .. }
            | State::Rehearsing { .. }
            | State::Stopping
            | State::Off => Some(Pause::PowerFailing),
            State::Good | State::Brownout | State::OnBattery { .. } => match store {
                StoreState::Starting => Some(Pause::Starting),
                StoreState::DiskFull => Some(Pause::DiskFull),
                StoreState::Running | StoreState::Failed(_) | StoreState::Stopped => None,
            },
        };
        self.tx
            .send_if_modified(|held| std::mem::replace(held, pause) != pause);
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Reporter {
    thread: JoinHandle<()>,
    end: Arc<AtomicBool>,
    bell: Bell,
    keeper: Arc<Mutex<CostsKeeper>>,
    source: Arc<StatusSource>,
}

impl Reporter {
    pub(super) fn start(
        mut notices: Notices,
        teller: Teller,
        source: Arc<StatusSource>,
        governor: Arc<Governor>,
        keeper: CostsKeeper,
        gate: Arc<Gate>,
        medium: Arc<Medium>,
    ) -> io::Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let keeper = Arc::new(Mutex::new(keeper));
        let mut desk = Desk {
            teller,
            missed: false,
            source: Arc::clone(&source),
            pauses: Arc::clone(&governor.pauses),
            governor,
            keeper: Arc::clone(&keeper),
            gate,
            medium,
            said: String::new(),
            battery_low: false,
            fed: Mono::default(),
        };
        let asked = Arc::clone(&end);
        let bell = notices.bell();
        let thread = std::thread::Builder::new()
            .name("holdup-report".into())
            .spawn(move || {
                let tick = watchdog_every().map_or(TICK, |t| t.min(TICK));
                desk.look();
                while !asked.load(Ordering::SeqCst) {
                    if let Some((at, notice)) = notices.next(tick) {
                        desk.teller.heed(notice, &desk.source);
                        desk.source
                            .diary
                            .heed(notice, desk.source.shared.last_outage());
                        desk.tell(at, notice);
                    }
                    desk.missed |= notices.missed();
                    desk.look();
                }
            })?;
        Ok(Self {
            thread,
            end,
            bell,
            keeper,
            source,
        })
    }

    /// Everything serves.
    pub(super) fn ready(&self) {
        notify(&[NotifyState::Ready]);
        log::info!("ready");
    }

    /// The stop was asked for: keep what was learned while the gate is still open.
    pub(super) fn stopping(&self, gate: &Gate, medium: &Medium) {
        notify(&[NotifyState::Stopping]);
        let now = self.source.clock.mono();
        lock(&self.keeper).keep(&self.source.budget, gate, medium, now);
    }

    pub(super) fn end(self) {
        self.end.store(true, Ordering::SeqCst);
        self.bell.ring();
        self.thread.join().ok();
    }
}

struct Desk {
    teller: Teller,
    missed: bool,
    source: Arc<StatusSource>,
    pauses: Arc<Pauses>,
    governor: Arc<Governor>,
    keeper: Arc<Mutex<CostsKeeper>>,
    gate: Arc<Gate>,
    medium: Arc<Medium>,
    said: String,
    battery_low: bool,
    fed: Mono,
}

impl Desk {
    fn look(&mut self) {
        self.pauses.update();
        let now = self.source.clock.mono();
        let published = self.source.shared.published();
        if std::mem::take(&mut self.missed) {
            self.teller.catch_up(published.state, &self.source);
        }
        self.source.look_at_mount();
        let assessment = self.source.assessment();
        let supply = supply_in_words(published.state.name(), reads(published.reads_lost));
        let words = format!("{supply}, {}", assessment.readiness.name());
        if words != self.said && published.state != State::Starting {
            for reason in &assessment.reasons {
                log::warn!("{}: {reason}", assessment.readiness.name());
            }
            log::info!("supply {supply}, readiness {}", assessment.readiness.name());
            notify(&[NotifyState::Status(&words)]);
            self.said = words;
        }
        let low = published.battery_low && published.settings.source == Source::Battery;
        if low && !self.battery_low {
            log::warn!("battery low: {}", Reason::BatteryLow);
        }
        self.battery_low = low;
        let alive = now.since(self.source.shared.beat()) < BEAT;
        if watchdog_every().is_some_and(|t| now.since(self.fed) >= t) && alive {
            notify(&[NotifyState::Watchdog]);
            self.fed = now;
        }
        self.source.diary.look(&self.source.orders.stats());
        if let Some(measured) = self.source.shared.take_measured() {
            self.source.diary.measured(&measured);
            self.source.history.add(measured);
        }
        self.source.history.keep(&self.gate, &self.medium, now);
        lock(&self.keeper).keep_if_due(&self.source.budget, &self.gate, &self.medium, now);
    }

    fn tell(&mut self, _at: Mono, notice: Notice) {
        match notice {
            Notice::Flicker { lost } => {
                log::info!(
                    "power flickered: {} ms lost, nothing happened",
                    lost.as_millis()
                );
                self.let_writers_go_on();
            }
            Notice::Failing => log::warn!("power fails: service stops, the plan runs"),
            Notice::OnBattery => {
                log::warn!("mains lost: serving from the battery, the WAL is kept nearly empty");
                self.governor.govern();
                self.let_writers_go_on();
            }
            Notice::OffBattery => {
                log::info!("mains are back");
                self.governor.govern();
            }
            Notice::Brownout => log::warn!("brownout: load is shed, early checkpoint"),
            Notice::BrownoutEnded => log::info!("the rail is steady again"),
            Notice::Parked => {
                if let Some(o) = self.source.shared.last_outage() {
                    log::warn!("parked: {}", outage_in_words(&o));
                }
            }
            Notice::Resumed => {
                // The guard published the line's level before it said this.
                let reads_lost = self.source.shared.published().reads_lost;
                log::warn!("{}", resumed_in_words(reads_lost));
                self.governor.govern();
                self.let_writers_go_on();
            }
            Notice::LineStuck => log::error!(
                "UNPROTECTED: the power-fail line says lost for longer than the supply could have \
                 lasted; serving on"
            ),
            Notice::LineUnstuck => log::info!("the power-fail line reads good again"),
            Notice::LinesMissing => {
                log::error!("UNPROTECTED: the power-fail line cannot be read; serving on");
            }
            Notice::LinesFound => log::info!("the power lines can be read"),
            Notice::StayingParked => log::warn!(
                "parked for power.park_max_s: the machine is not powered off (needs \
                 power.allow_poweroff, and safe_to_cut wired on a board that cycles its supply); \
                 it stays parked until power is back"
            ),
            // Whoever asked was told.
            Notice::Refused => {}
            Notice::Rehearsing => log::warn!("a rehearsal: service stops, the plan runs"),
            Notice::Rehearsed => {
                log::warn!("the rehearsal is over: service goes on");
                self.let_writers_go_on();
            }
            Notice::RehearsalOvertaken => {
                log::warn!("power was lost in the middle of the rehearsal");
            }
            Notice::MeasureArmed => log::warn!(
                "the next loss of power is measured, if it comes within half an hour: pull the plug"
            ),
            Notice::MeasureDisarmed => log::info!("the next loss of power is not measured"),
            Notice::MeasureTimedOut => log::warn!(
                "nobody pulled the plug within half an hour: the next loss of power is not measured"
            ),
            Notice::GoingOff => log::warn!("parked for power.park_max_s: the machine goes off"),
        }
    }

    fn let_writers_go_on(&self) {
        self.source.orders.retry_now();
    }
}

/// A line that lies, or cannot be read, does not say that power is back.
const fn resumed_in_words(reads_lost: Option<bool>) -> &'static str {
    match reads_lost {
        Some(false) => "power is back: service goes on",
        Some(true) | None => "service goes on, though no power-fail line says that power is back",
    }
}

/// How often the service manager wants to hear of us, with a margin.
fn watchdog_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|t| t / 3)
}

fn notify(state: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell, and that is no fault.
    if let Err(e) = sd_notify::notify(state) {
        log::debug!("sd_notify: {e}");
    }
}

/// What happened, for the log of the next start.
pub(super) fn last_outage_in_words(last: &LastOutage) -> String {
    match (last.kind.as_str(), last.ended) {
        ("power_cut", _) => "the gateway went down without any sign of a loss (never announced): \
                             the line, its wiring or the supply did not tell"
            .to_owned(),
        ("rehearsal", _) => "the gateway or the agent was gone in the middle of a rehearsal, \
                             without any sign of a loss"
            .to_owned(),
        ("agent_died", _) => "an earlier holdup ended without being stopped".to_owned(),
        _ => format!("last outage: {}", outage_in_words(last)),
    }
}

fn outage_in_words(o: &LastOutage) -> String {
    let ended = match o.ended {
        Ended::Clean => "clean",
        Ended::Late => "late: the hold-up time was over before everything was durable",
        Ended::Cut => "cut: the gateway was gone before everything was durable and noted",
        Ended::Unfinished => {
            "unfinished: the gateway outlived it, but not everything was durable and noted"
        }
        Ended::NeverAnnounced => "never announced",
    };
    let ms = |v: Option<f64>| v.map_or_else(|| "unknown".to_owned(), |v| format!("{v:.1} ms"));
    format!(
        "{} at {}, {ended}; edge to quiet {}, edge to durable {}",
        o.kind,
        o.at,
        ms(o.edge_to_quiet_ms),
        ms(o.edge_to_durable_ms)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_not_believed_is_not_said_to_tell_that_power_is_back() {
        assert!(resumed_in_words(Some(false)).starts_with("power is back"));
        for reads_lost in [Some(true), None] {
            assert!(resumed_in_words(reads_lost).starts_with("service goes on"));
        }
    }
}
