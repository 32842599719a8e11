//! Drills on a schedule, and what status says of the last one.
//!
//! A drill is a process of its own at idle priority, started only while power is good and ended at
//! once when it is not: nothing of it runs in the agent. Every drill that is held while it runs, by
//! schedule or by hand, is entered in the audit log; of those before its start the newest.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use crate::clock::{Clock, Mono, Wall};
use crate::config::Settings;
use crate::drill::{self, LastDrill};
use crate::power::State;

use super::costs::lock;
use super::explain;
use super::status::StatusSource;

/// Between two looks at what is due, and whether one was held by hand.
const LOOK: Duration = Duration::from_secs(2);
/// The evidence is read again after this, also where its directory seems unchanged: what is
/// written within one tick of the kernel's clock has one time.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// Between two looks while one runs.
const WATCH: Duration = Duration::from_millis(200);
/// No drill begins sooner after a start, nor sooner than this after one that could not be held.
const SETTLE: Duration = Duration::from_secs(3600);
const AGAIN: Duration = Duration::from_secs(86_400);
/// Gateways that were started together do not all hold their drills together.
const SPREAD_S: u64 = 3600;
/// From the request to end until it is made to.
const GRACE: Duration = Duration::from_secs(2);
/// Without a schedule, a drill older than this is stale: one in a quarter is what sites ask for.
const QUARTER: Duration = Duration::from_secs(92 * 86_400);
/// All that it may rely on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What `holdup status --json` says of drills.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DrillStatus {
    /// The last one that was held; `null`: none was.
    pub last: Option<LastDrill>,
    /// The last one is older than it should be: twice the schedule, or a quarter of a year.
    pub stale: bool,
    /// One runs on schedule.
    pub running: bool,
    /// Why one that was due could not be held.
    pub problem: Option<String>,
}

/// Shared with status.
#[derive(Debug, Clone, Default)]
pub(super) struct Drills(Arc<Mutex<DrillStatus>>);

impl Drills {
    /// One is over; `problem`: it could not be held.
    fn held(&self, problem: Option<String>) {
        let mut status = lock(&self.0);
        status.running = false;
        status.problem = problem.inspect(|why| log::error!("no drill was held: {why}"));
    }

    /// As it is now.
    pub(super) fn status(&self, settings: &Settings, now: Wall) -> DrillStatus {
        let mut status = lock(&self.0).clone();
        let limit = settings.drill.every.map_or(QUARTER, |every| every * 2);
        let age = |l: &LastDrill| age(l, now);
        status.stale = status.last.as_ref().is_some_and(|l| age(l) > limit);
        status
    }
}

/// How long ago; nothing for one that the clock says is still to come.
fn age(last: &LastDrill, now: Wall) -> Duration {
    let ms = now.as_millis().saturating_sub(last.began_ms);
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// Should one be held now? `started`: how long ago the agent was.
fn is_due(
    every: Duration,
    last: Option<&LastDrill>,
    now: Wall,
    started: Duration,
    id: &str,
) -> bool {
    let mut hash = DefaultHasher::new();
    id.hash(&mut hash);
    let spread = Duration::from_secs(hash.finish() % SPREAD_S);
    started >= SETTLE + spread && last.is_none_or(|l| age(l, now) >= every)
}

/// Keeps the schedule until the agent stops.
pub(super) async fn keep(
    source: Arc<StatusSource>,
    config: PathBuf,
    mut stopping: watch::Receiver<bool>,
) {
    let mut not_before = Mono::default();
    let mut notebook = Notebook::default();
    // Soon after the start status should know.
    let mut until_next = WATCH;
    loop {
        tokio::select! {
            () = tokio::time::sleep(until_next) => {}
            // Also when whoever would tell is gone.
            _ = stopping.changed() => return,
        }
        if !is_good(&source) {
            continue;
        }
        until_next = LOOK;
        notebook.take_notice(&source).await;
        let settings = lock(&source.settings).clone();
        let Some(every) = settings.drill.every else {
            continue;
        };
        let last = lock(&source.drills.0).last.clone();
        let now = source.clock.mono();
        let started = now.since(source.started);
        let id = &settings.gateway.id;
        let due = is_due(every, last.as_ref(), source.clock.wall(), started, id);
        if !due || now < not_before {
            continue;
        }
        not_before = now + AGAIN;
        lock(&source.drills.0).running = true;
        let problem = hold(&source, &settings, &config, &stopping).await;
        source.drills.held(problem);
        if is_good(&source) {
            notebook.take_notice(&source).await;
        }
    }
}

fn is_good(source: &StatusSource) -> bool {
    source.shared.published().state == State::Good
}

/// Which drills are known, so that each is entered, and once.
#[derive(Debug, Default)]
struct Notebook {
    /// When the directory was changed, and when it was read.
    read: Option<(Option<Changed>, Mono)>,
    /// Evidence that was there; `None`: nobody looked yet.
    known: Option<HashSet<PathBuf>>,
}

/// When a directory was changed, by the file system.
type Changed = (i64, i64);

impl Notebook {
    /// Reads the evidence where it changed, and enters in the audit log what is news.
    async fn take_notice(&mut self, source: &Arc<StatusSource>) {
        let dir = lock(&source.settings).gateway.drill_path();
        let now = source.clock.mono();
        let again = self.read.is_none_or(|(_, at)| now.since(at) >= READ_AGAIN);
        let before = self.read.and_then(|(changed, _)| changed);
        let look = move || {
            let found = changed(&dir);
            (again || found != before).then(|| (found, drill::held(&dir)))
        };
        let Ok(Some((found, held))) = tokio::task::spawn_blocking(look).await else {
            // Nothing is new; or the runtime is ending.
            return;
        };
        self.read = Some((found, now));
        match held {
            Ok(held) => {
                for drill in self.news(&held) {
                    enter(source, drill);
                }
                if let Some(last) = drill::last(&held) {
                    lock(&source.drills.0).last = Some(last.clone());
                }
            }
            Err(e) => log::warn!("the last drill is not known: {}", explain(&e)),
        }
    }

    /// Those of `held` that are not entered yet. Of what was held before this agent started only
    /// the newest may be missing in the log, which knows it by its key.
    fn news<'a>(&mut self, held: &'a [LastDrill]) -> Vec<&'a LastDrill> {
        let all = held.iter().map(|d| d.evidence.clone()).collect();
        match self.known.replace(all) {
            None => held.last().into_iter().collect(),
            Some(known) => {
                let is_new = |d: &&LastDrill| !known.contains(&d.evidence);
                held.iter().filter(is_new).collect()
            }
        }
    }
}

/// `None`: it is not there.
fn changed(dir: &Path) -> Option<Changed> {
    let meta = dir.metadata().ok()?;
    Some((meta.mtime(), meta.mtime_nsec()))
}

fn enter(source: &StatusSource, drill: &LastDrill) {
    let details = json!({
        "began": drill.began,
        "reason": drill.reason,
        "sabotage": drill.sabotage,
        "passed": drill.passed,
        "scenarios": drill.scenarios,
        "failed": drill.failed,
        "slowest_ms": drill.slowest_ms,
        "evidence": drill.evidence,
    });
    let audit = source.diary.audit();
    audit.note_once(&drill.began, "drill", &drill.operator, details);
}

/// Why it could not be held, if so. One that failed was held.
async fn hold(
    source: &StatusSource,
    settings: &Settings,
    config: &Path,
    stopping: &watch::Receiver<bool>,
) -> Option<String> {
    let child = match start(settings, config) {
        Ok(child) => child,
        Err(e) => return Some(format!("it cannot be started: {e}")),
    };
    let why_not = || {
        let stopped = *stopping.borrow() || stopping.has_changed().is_err();
        let lost = (!is_good(source)).then_some("power was not good");
        stopped.then_some("the agent stopped").or(lost)
    };
    attend(child, &*source.clock, why_not).await
}

/// Waits for its end, and makes it end once `why_not` says why it must. Why it was not held, if so.
async fn attend(
    mut child: Child,
    clock: &dyn Clock,
    why_not: impl Fn() -> Option<&'static str>,
) -> Option<String> {
    let mut end: Option<(Mono, &str)> = None;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                return match (status.code(), end) {
                    (_, Some((_, why))) => Some(why.to_owned()),
                    (Some(0 | 1), None) => None,
                    (_, None) => Some(format!("it ended with {status}: see the journal")),
                };
            }
            Ok(None) => {}
            Err(e) => return Some(format!("it cannot be waited for: {e}")),
        }
        match (end, why_not()) {
            (None, Some(why)) => {
                end = Some((clock.mono() + GRACE, why));
                signal(&child, Signal::TERM);
            }
            (Some((at, _)), _) if clock.mono() >= at => signal(&child, Signal::KILL),
            (None, None) | (Some(_), _) => {}
        }
        tokio::time::sleep(WATCH).await;
    }
}

fn start(settings: &Settings, config: &Path) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["drill", "--scheduled", "--json", "--home"])
        .arg(&settings.drill.home)
        .arg("--config")
        .arg(config)
        // The service manager's sockets are not the drill's.
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
}

fn signal(child: &Child, signal: Signal) {
    // Gone already is what is wanted.
    kill_process_group(Pid::from_child(child), signal).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    const DAY: Duration = Duration::from_secs(86_400);

    fn last(began_ms: i64) -> LastDrill {
        LastDrill {
            began: String::new(),
            began_ms,
            operator: String::new(),
            reason: String::new(),
            sabotage: false,
            passed: true,
            scenarios: 1,
            failed: Vec::new(),
            slowest_ms: 1.0,
            evidence: PathBuf::new(),
        }
    }

    #[test]
    fn each_drill_is_news_once_and_of_those_before_the_start_the_newest() {
        let drill = |n: i64| LastDrill {
            evidence: PathBuf::from(format!("drill-{n}.json")),
            ..last(n)
        };
        let mut notebook = Notebook::default();
        let began = |news: Vec<&LastDrill>| news.iter().map(|d| d.began_ms).collect::<Vec<_>>();
        let mut held = vec![drill(1), drill(2)];
        assert_eq!(began(notebook.news(&held)), [2]);
        assert!(notebook.news(&held).is_empty());
        held.extend([drill(3), drill(4)]);
        assert_eq!(began(notebook.news(&held)), [3, 4]);
        // The oldest goes, and one is held while the clock stands in the past.
        held.remove(0);
        held.insert(0, drill(0));
        assert_eq!(began(notebook.news(&held)), [0]);
    }

    fn day(n: i64) -> Wall {
        Wall::from_millis(1_767_225_600_000 + n * 86_400_000)
    }

    #[test]
    fn a_drill_is_due_when_the_last_is_old_enough_and_the_agent_has_settled() {
        let held = last(day(0).as_millis());
        let due = |now, started| is_due(DAY * 30, Some(&held), now, started, "plant-7");
        assert!(!due(day(29), DAY));
        assert!(due(day(30), DAY));
        assert!(
            !due(day(30), SETTLE - Duration::from_secs(1)),
            "it has just started"
        );
        assert!(!due(day(-5), DAY), "the clock was set back");
        assert!(
            is_due(DAY * 30, None, day(0), DAY, "plant-7"),
            "none was ever held"
        );
    }

    fn attended(script: &str, why_not: Option<&'static str>) -> Option<String> {
        let child = Command::new("sh")
            .args(["-c", script])
            .process_group(0)
            .spawn()
            .expect("sh");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("runtime");
        runtime.block_on(attend(child, &SystemClock, || why_not))
    }

    #[test]
    fn a_drill_ends_when_power_is_lost_whether_it_wants_to_or_not() {
        let lost = Some("power was not good");
        for script in ["sleep 600", "trap '' TERM; sleep 600; sleep 600"] {
            assert_eq!(attended(script, lost).as_deref(), lost, "{script}");
        }
    }

    #[test]
    fn a_drill_that_failed_was_held_and_one_that_was_refused_was_not() {
        assert_eq!(attended("exit 0", None), None);
        assert_eq!(attended("exit 1", None), None);
        let said = attended("exit 3", None).expect("not held");
        assert!(said.contains('3'), "{said}");
    }

    #[test]
    fn gateways_that_start_together_drill_apart() {
        let held = |id: &str| {
            let minute = |m: &u64| {
                let started = Duration::from_secs(m * 60);
                is_due(DAY, None, day(0), started, id)
            };
            (0..).find(minute).expect("some time")
        };
        let mut minutes: Vec<u64> = (0..20).map(|n| held(&format!("plant-{n}"))).collect();
        minutes.sort_unstable();
        minutes.dedup();
        assert!(minutes.len() > 10, "{minutes:?}");
        assert!(
            minutes.iter().all(|m| (60..=121).contains(m)),
            "{minutes:?}"
        );
    }
}
