//! Scripts that are run when power changes, as apcupsd runs them.
//!
//! It promises that events are acted on in order, each script for a bounded time and with
//! bounded output, and that nothing in the agent ever waits for one: a script that hangs, or
//! lies on a card that does not answer, holds up this room's own thread and the events behind
//! it. It must never start a process while the plan runs (that would read the card in the
//! hold-up time), nor run a script that others than root and the agent's user could have
//! written.

mod run;
mod scripts;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Mono};
use crate::config::EventSettings;
use crate::power::Word;

use run::{Outcome, Run};

pub use scripts::{Listing, Refused, Script, list, shown, survey};

/// Events that may wait; of more the oldest are left out.
const WAITING: usize = 8;
/// While an event waits for the plan to end, how often is looked.
const LOOK: Duration = Duration::from_millis(100);
/// When the agent ends, how long a script may still run.
const LAST: Duration = Duration::from_secs(10);
/// For killing it, and a little more.
const KILLING: Duration = Duration::from_secs(3);

/// Something happened; what scripts are told of it.
#[derive(Debug, Clone)]
pub struct Happened {
    /// What.
    pub word: Word,
    /// The environment's variables beside `HOLDUP_EVENT`.
    pub facts: Vec<(&'static str, String)>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Happened>,
    /// When the agent's end was asked for.
    ending: Option<Mono>,
    ended: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// May a process be started now?
pub type Calm = Box<dyn Fn() -> bool + Send>;

/// The room's thread.
#[derive(Debug)]
pub struct Hooks {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
}

impl Hooks {
    /// Starts it; `calm` is asked before each start of a script.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(settings: EventSettings, clock: Arc<dyn Clock>, calm: Calm) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let timeout = settings.timeout;
        let worker = Worker {
            settings,
            calm,
            clock: Arc::clone(&clock),
            shared: Arc::clone(&shared),
            left_behind: Vec::new(),
        };
        std::thread::Builder::new()
            .name("holdup-hooks".into())
            .spawn(move || worker.work())?;
        Ok(Self {
            shared,
            clock,
            timeout,
        })
    }

    /// Runs the event's scripts, after those of the events before it. Does not wait.
    pub fn happened(&self, event: Happened) {
        let left_out = {
            let mut state = self.shared.state();
            let left_out = if state.waiting.len() >= WAITING {
                state.waiting.pop_front()
            } else {
                None
            };
            state.waiting.push_back(event);
            left_out
        };
        if let Some(old) = left_out {
            log::warn!(
                "scripts for {} are left out: those before take too long",
                old.word.name()
            );
        }
        self.shared.changed.notify_all();
    }

    /// No further script is started; one that runs may go on until its time-out, for 10 s at
    /// most.
    pub fn stop(&self) {
        let now = self.clock.mono();
        self.shared.state().ending.get_or_insert(now);
        self.shared.changed.notify_all();
    }

    /// Stops, and waits for the script that runs; not for one that cannot be killed. False: the
    /// thread still hangs.
    pub fn end(&self) -> bool {
        self.stop();
        let patience = self.timeout.min(LAST) + KILLING;
        let state = self.shared.state();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, patience, |s| !s.ended);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !state.ended {
            log::warn!("a script can neither be run nor killed; it is left behind");
        }
        state.ended
    }
}

struct Worker {
    settings: EventSettings,
    calm: Calm,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    left_behind: Vec<Child>,
}

impl Worker {
    fn work(mut self) {
        while let Some(event) = self.next() {
            self.run_all(&event);
        }
        self.shared.state().ended = true;
        self.shared.changed.notify_all();
    }

    /// The next event; `None`: the agent ends.
    fn next(&self) -> Option<Happened> {
        let state = self.shared.state();
        let none = |s: &mut State| s.waiting.is_empty() && s.ending.is_none();
        let waited = self.shared.changed.wait_while(state, none);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        // Taken only when it can be acted on, so that a full queue leaves out the oldest.
        if self.wait_for_calm() {
            self.shared.state().waiting.pop_front()
        } else {
            None
        }
    }

    /// False: the agent ends.
    fn wait_for_calm(&self) -> bool {
        loop {
            if self.shared.state().ending.is_some() {
                return false;
            }
            if (self.calm)() {
                return true;
            }
            let state = self.shared.state();
            let waited =
                (self.shared.changed).wait_timeout_while(state, LOOK, |s| s.ending.is_none());
            drop(waited);
        }
    }

    fn run_all(&mut self, event: &Happened) {
        // Whoever woke up meanwhile and ended is no zombie any more.
        self.left_behind
            .retain_mut(|c| matches!(c.try_wait(), Ok(None)));
        let Listing { scripts, refused } = list(&self.settings.dir, event.word);
        for r in refused {
            log::warn!("script {} is not run: {}", shown(&r.path), r.why);
        }
        for script in scripts {
            if !self.wait_for_calm() {
                return;
            }
            self.run_one(&script, event);
        }
    }

    fn run_one(&mut self, script: &Script, event: &Happened) {
        let run = Run {
            script: &script.real,
            event,
            timeout: self.settings.timeout,
            clock: &*self.clock,
            ends_at: &|| self.shared.state().ending.map(|t| t + LAST),
        };
        let report = run.to_the_end();
        let name = shown(&script.path);
        for line in &report.output {
            log::info!("{name}: {line}");
        }
        if report.left_out > 0 {
            log::info!("{name}: {} bytes more", report.left_out);
        }
        match report.outcome {
            Outcome::Exited(status) if status.success() => {
                log::info!("script {name} for {}: ok", event.word.name());
            }
            Outcome::Exited(status) => {
                log::warn!("script {name} for {}: {status}", event.word.name());
            }
            Outcome::Killed => log::warn!(
                "script {name} for {} was killed: it ran for longer than events.timeout_s",
                event.word.name()
            ),
            Outcome::LeftBehind(child) => {
                log::error!(
                    "script {name} for {} cannot be killed and is left behind",
                    event.word.name()
                );
                self.left_behind.push(child);
            }
            Outcome::NotStarted(e) => log::warn!(
                "script {name} for {} cannot be started: {e}{}",
                event.word.name(),
                match e.raw_os_error() {
                    Some(libc::ENOEXEC) => "; let it begin with #!/bin/sh",
                    Some(libc::ENOENT) if script.real.exists() => {
                        "; the interpreter in its first line (#!) is missing: install or correct it"
                    }
                    Some(_) | None => "",
                }
            ),
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
