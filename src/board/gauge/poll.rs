//! The thread that reads the gauge, and what others see of it.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::board::GaugeReading;
use crate::clock::{Clock, Mono};
use crate::config::GaugeSettings;

use super::{Chip, GaugeError, open};

/// After so many polls without a reading there is none.
const STALE_POLLS: u32 = 3;
/// The second reading comes sooner: what the first one says is believed only when it agrees.
const SECOND: Duration = Duration::from_secs(1);
/// Good readings in a row after which a new problem is worth a line in the log again.
const CALM: u32 = 20;

/// What is known of the gauge, for status.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The last reading, however old.
    pub reading: Option<GaugeReading>,
    /// Why the last poll gave none.
    pub problem: Option<String>,
    /// Polls that gave no reading, since the agent started.
    pub failures: u64,
}

#[derive(Debug)]
struct Shared {
    seen: Mutex<Seen>,
    stale: Duration,
    end: Mutex<bool>,
    ended: Condvar,
}

/// What the gauge said, for everybody but the guard thread.
#[derive(Debug, Clone)]
pub struct GaugeView(Arc<Shared>);

impl GaugeView {
    /// Everything; for status.
    pub fn seen(&self) -> Seen {
        lock(&self.0.seen).clone()
    }

    /// The reading, unless it is stale at `now`.
    pub fn reading(&self, now: Mono) -> Option<GaugeReading> {
        let reading = lock(&self.0.seen).reading;
        self.fresh(reading, now)
    }

    fn fresh(&self, reading: Option<GaugeReading>, now: Mono) -> Option<GaugeReading> {
        reading.filter(|r| now.since(r.at) <= self.0.stale)
    }

    /// For the guard thread.
    pub fn tap(&self) -> GaugeTap {
        GaugeTap {
            view: self.clone(),
            last: None,
        }
    }
}

/// What the gauge said, for the guard thread: it never waits for the poller.
#[derive(Debug)]
pub struct GaugeTap {
    view: GaugeView,
    last: Option<GaugeReading>,
}

impl GaugeTap {
    /// The last reading, unless it is stale at `now`. Does not block or allocate.
    pub fn look(&mut self, now: Mono) -> Option<GaugeReading> {
        // Held by the poller just now: the one before will do.
        if let Ok(seen) = self.view.0.seen.try_lock() {
            self.last = seen.reading;
        }
        self.view.fresh(self.last, now)
    }
}

/// Reads the gauge, one poll at a time.
pub struct Poller {
    settings: GaugeSettings,
    chip: Option<Box<dyn Chip>>,
    /// The chip was given; it cannot be opened anew.
    given: bool,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    readings: u64,
    calm: u32,
    said: bool,
    gone: bool,
}

impl Poller {
    /// Polls `chip`; `None` opens the bus that `settings` name, again and again until it is there.
    pub fn new(
        settings: GaugeSettings,
        chip: Option<Box<dyn Chip>>,
        clock: Arc<dyn Clock>,
    ) -> (Self, GaugeView) {
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            stale: settings.poll * STALE_POLLS,
            end: Mutex::new(false),
            ended: Condvar::new(),
        });
        let view = GaugeView(Arc::clone(&shared));
        let poller = Self {
            settings,
            given: chip.is_some(),
            chip,
            clock,
            shared,
            readings: 0,
            calm: 0,
            said: false,
            gone: false,
        };
        (poller, view)
    }

    /// One poll; tells how long to wait for the next.
    pub fn poll(&mut self) -> Duration {
        match self.measure() {
            Ok(reading) => self.good(reading),
            Err(e) => self.bad(&e),
        }
        if self.readings == 1 {
            SECOND.min(self.settings.poll)
        } else {
            self.settings.poll
        }
    }

    fn measure(&mut self) -> Result<GaugeReading, GaugeError> {
        let chip = match &mut self.chip {
            Some(chip) => chip,
            None => self.chip.insert(open(&self.settings)?),
        };
        // Stamped before: a reading that the bus delivered late is as old as its question.
        let at = self.clock.mono();
        let m = chip
            .measure()
            .map_err(|fault| GaugeError::of(&self.settings, fault))?;
        Ok(GaugeReading {
            volts: m.volts,
            percent: m.percent,
            charging: m.charging,
            at,
        })
    }

    fn good(&mut self, reading: GaugeReading) {
        let problem = {
            let mut seen = lock(&self.shared.seen);
            seen.reading = Some(reading);
            seen.problem.take()
        };
        drop(problem);
        self.readings += 1;
        if std::mem::take(&mut self.gone) {
            log::info!("the gauge can be read again");
        }
        self.calm = self.calm.saturating_add(1);
        if self.calm == CALM {
            self.said = false;
        }
    }

    fn bad(&mut self, e: &GaugeError) {
        let now = self.clock.mono();
        let mut why = e.to_string();
        if let Some(source) = std::error::Error::source(e) {
            why = format!("{why}: {source}");
        }
        self.calm = 0;
        if !std::mem::replace(&mut self.said, true) {
            log::warn!("{why}");
        }
        let old = {
            let mut seen = lock(&self.shared.seen);
            seen.failures += 1;
            seen.problem.replace(why)
        };
        drop(old);
        let view = GaugeView(Arc::clone(&self.shared));
        if self.readings > 0 && view.reading(now).is_none() && !self.gone {
            self.gone = true;
            log::warn!("the gauge gave no reading for three polls: charge is not known");
        }
        if !self.given {
            // An adapter that was taken away and put back is another device.
            self.chip = None;
        }
    }

    /// False: the end was asked for.
    fn wait(&self, time: Duration) -> bool {
        let end = lock(&self.shared.end);
        let waited = self.shared.ended.wait_timeout_while(end, time, |end| !*end);
        let (end, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !*end
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The gauge's thread. Dropped, it ends at its next turn; nobody waits for a bus that hangs.
#[derive(Debug)]
pub struct Gauge {
    view: GaugeView,
}

impl Gauge {
    /// Starts polling.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(settings: &GaugeSettings, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let (mut poller, view) = Poller::new(settings.clone(), None, clock);
        std::thread::Builder::new()
            .name("holdup-gauge".into())
            .spawn(move || {
                loop {
                    let next = poller.poll();
                    if !poller.wait(next) {
                        return;
                    }
                }
            })?;
        Ok(Self { view })
    }

    /// What it said.
    pub fn view(&self) -> GaugeView {
        self.view.clone()
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        *lock(&self.view.0.end) = true;
        self.view.0.ended.notify_all();
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
