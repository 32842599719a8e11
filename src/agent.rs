//! Builds the rooms from the settings and connects them: `holdup run`.
//!
//! The guard comes first and is left last; what serves comes after it. Nothing is decided here:
//! the supply decides, the plan acts, the store acknowledges.

mod audit;
mod background;
mod backup;
mod by_hand;
mod control;
mod costs;
mod damage;
mod drill;
mod foreign;
mod gauge;
mod holdup_history;
mod lines;
mod media;
mod opener;
mod outages;
mod queue;
mod quiet;
mod recovered;
mod reporter;
mod reset;
mod retracting;
mod room;
mod snapshot;
mod status;
mod tell;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::audit::AuditError;
use crate::backup::restore::RestoreError;
use crate::board::gauge::Gauge;
use crate::clock::{Clock, SystemClock, boot_id};
use crate::config::{self, Loaded, Settings};
use crate::durable::{DurableError, Gate, Medium, Reserve};
use crate::guard::{
    Ended, Guard, GuardOptions, GuardedDatabase, Heartbeat, Instance, InstanceError, KernelMachine,
    Machine, MachineError, Own, PlanOptions, RecordError, Shared, SimMachine, lock_memory,
};
use crate::hooks::Hooks;
use crate::ingest::{self, IngestError, IngestOptions, PowerNews};
use crate::queue::QueueDesk;
use crate::recovery::RecoveryError;
use crate::reset::ResetError;
use crate::store::{Desk, Intake, StoreError};

use audit::Diary;
use background::Background;
use backup::{BackupDesk, BackupMeans};
use costs::{CostsKeeper, Governor, guarded, lock};
use damage::Known;
use holdup_history::HoldupHistory;
use lines::{BoardLamps, BoardLines, LinesSeen};
use opener::{Opened, Opener, Told};
use quiet::Quiet;
use recovered::{Recovered, Recoverer, Recoveries};
use reporter::{Pauses, Reporter};
use reset::{ResetDesk, Resets};
use room::with_room;
use snapshot::{Means, SnapshotsSeen};
use status::StatusSource;
use tell::Teller;

pub use backup::{BackupReport, BackupStatus, damaged};
pub use by_hand::{ByHand, actor};
pub use control::{ControlAnswer, ControlRequest, RehearsalReport};
pub use damage::{Damage, READ_ONLY_REMEDY};
pub use drill::DrillStatus;
pub use gauge::GaugeStatus;
pub use holdup_history::{History, HistoryEntry, HistoryError, read_history};
pub use media::MediaStatus;
pub use queue::QueueStatus;
pub use recovered::{known_of, known_tables};
pub use reset::{ResetAsk, WITHOUT_BACKUP, last_backup};
pub use retracting::{Retracting, RetractingError, store_is_sound};
pub use snapshot::{NewestSnapshot, SnapshotStatus};
pub use status::{Database, Gpio, Status};

/// Worker threads for sockets. One carries more than any card commits; a second would wake for
/// every other answer and find nothing to do.
const SOCKET_THREADS: usize = 1;
/// After a failed accept.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// How long the end waits for a database that is still being opened, beyond the plan's own time.
const OPENER: Duration = Duration::from_secs(3);
/// Time that connections get to end.
const LINGER: Duration = Duration::from_secs(2);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A directory or socket cannot be used.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A directory cannot be made.
    #[error(
        "cannot make directory {} ({key}) as user {user}: make it for that user, or set {key} \
         elsewhere",
        path.display()
    )]
    Directory {
        /// The key that names it.
        key: &'static str,
        /// The directory.
        path: PathBuf,
        /// The agent's user id.
        user: u32,
        /// Why it failed.
        source: io::Error,
    },
    /// Another agent runs.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The machine seam.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The data directory.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// The outage record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A damaged database.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A restore that was interrupted.
    #[error(
        "a restore that was interrupted can neither be finished nor undone: run `holdup backup \
         restore --resume` as root"
    )]
    Restore(#[from] RestoreError),
    /// A factory reset that was interrupted.
    #[error("a factory reset that was interrupted cannot be ended yet")]
    Reset(#[from] ResetError),
    /// A database turned out to be damaged while it served.
    #[error("{} is damaged: the next start recovers it before it serves again", .0.display())]
    Suspect(PathBuf),
    /// The readings' socket.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The audit log's thread.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The guard's threads.
    #[error("cannot start the guard")]
    Guard(#[source] io::Error),
    /// Told to stop before the store could be opened.
    #[error("stopped before power was good: the store was never opened")]
    StoppedEarly,
    /// Told to stop while the store was being opened, and nothing came of that.
    #[error(
        "stopped while a database in {} was still being opened; nothing was acknowledged: look at \
         the medium",
        .0.display()
    )]
    StillOpening(PathBuf),
    /// The sockets' threads, or signals.
    #[error("cannot set up the agent")]
    Runtime(#[source] io::Error),
}

impl AgentError {
    /// The process's exit code: 3 refused, 4 I/O.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Instance(InstanceError::Running { .. } | InstanceError::DataInUse(_))
            | Self::Machine(MachineError::Simulated(_)) => 3,
            Self::Io { .. }
            | Self::Directory { .. }
            | Self::Instance(_)
            | Self::Machine(_)
            | Self::Durable(_)
            | Self::Record(_)
            | Self::Store(_)
            | Self::Recovery(_)
            | Self::Restore(_)
            | Self::Reset(_)
            | Self::Suspect(_)
            | Self::Ingest(_)
            | Self::Audit(_)
            | Self::Guard(_)
            | Self::StoppedEarly
            | Self::StillOpening(_)
            | Self::Runtime(_) => 4,
        }
    }
}

/// An error with its causes, on one line.
pub fn explain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let more = s.to_string();
        // A transparent wrapper says what its cause says.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = s.source();
    }
    text
}

/// Runs the agent until it is told to stop.
pub fn run(loaded: Loaded, config_path: &Path) -> Result<(), AgentError> {
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    // Before anything is started: a signal that comes early must not end the process.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(AgentError::Runtime)?;
    let ended = signals.handle();
    let mut agent = Agent::start(loaded, Box::new(move || ended.close()))?;
    for signal in signals.forever() {
        if signal == SIGHUP {
            agent.reload(config_path);
        } else {
            log::info!("stopping");
            agent.stop();
        }
    }
    agent.end()
}

/// The running agent.
struct Agent {
    source: Arc<StatusSource>,
    gate: Arc<Gate>,
    medium: Arc<Medium>,
    guard: Guard,
    opened: Arc<Mutex<Opened>>,
    stop_recovery: Arc<AtomicBool>,
    resets: Arc<Resets>,
    reporter: Reporter,
    snapshots: Background,
    backups: Background,
    media: Background,
    gauge: Option<Gauge>,
    hooks: Arc<Hooks>,
    runtime: tokio::runtime::Runtime,
    shutdown: watch::Sender<bool>,
    serving: Option<tokio::task::JoinHandle<()>>,
    /// Last: nobody else may start before everything above has ended.
    instance: Instance,
}

impl Agent {
    /// Starts everything; `ended` is called once when the agent ends, by order or not.
    fn start(loaded: Loaded, ended: Box<dyn FnOnce() + Send>) -> Result<Self, AgentError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let started = clock.mono();
        let settings = loaded.settings.clone();
        let (data_dir, run_dir) = (&settings.gateway.data_dir, &settings.gateway.run_dir);
        make_dir("gateway.run_dir", run_dir)?;
        make_dir("gateway.data_dir", data_dir)?;
        let machine: Arc<dyn Machine> = if settings.board.is_sim() {
            Arc::new(SimMachine)
        } else {
            Arc::new(KernelMachine::new(
                &settings.board,
                data_dir,
                settings.power.freeze,
            )?)
        };
        let (instance, thawed) = Instance::take(run_dir, data_dir, &*machine)?;
        if thawed {
            log::warn!(
                "thawed {}, which an earlier holdup left frozen",
                data_dir.display()
            );
        }
        foreign::let_go_on(run_dir);
        let medium = Arc::new(Medium::open(data_dir)?);
        let gate = Arc::new(Gate::new());
        let boot = boot_id().unwrap_or_else(|| "unknown".to_owned());
        let record_path = settings.gateway.record_path();
        let reserve = Reserve::new(&settings.gateway.reserve_path(), settings.store.reserve);
        let reserve = Arc::new(reserve);
        let id = &settings.gateway.id;
        let ((record, marks, last), aside) =
            outages::open(&record_path, id, &boot, (&medium, &reserve), &*clock)?;
        if let Some(last) = &last {
            log::warn!("{}", reporter::last_outage_in_words(last));
        }
        // What a cut explains is no damage.
        let cut = last.as_ref().is_some_and(|l| match l.ended {
            Ended::Cut | Ended::Late | Ended::NeverAnnounced => true,
            Ended::Clean | Ended::Unfinished => false,
        });
        let evidence = settings.gateway.evidence_path();
        let recovered: Recovered = Arc::new(Mutex::new(Recoveries::load(&evidence)));
        let snapshots = SnapshotsSeen::default();
        let known = Known::default();
        let diary = Diary::start(&loaded, &medium, &gate, &clock, &boot, last.as_ref())?;
        if let Some(aside) = aside {
            diary.set_aside(&aside);
            lock(&recovered).set_aside(aside);
        }
        let (keeper, budget) = CostsKeeper::open(data_dir, started);
        let path = settings.gateway.heartbeat_path();
        let opened = with_room(&reserve, &medium, || Heartbeat::open(&medium, &path, &boot));
        // Only measuring needs it.
        let (heartbeat, measured, unmeasurable) = match opened {
            Ok((heartbeat, measured)) => (Some(heartbeat), measured, None),
            Err(e) => (None, None, Some(explain(&e))),
        };
        if let Some(why) = &unmeasurable {
            log::error!("the hold-up time cannot be measured: {why}");
        }
        let path = settings.gateway.holdup_history_path();
        let history = HoldupHistory::open(path, keeper.card(), &settings.board.name);
        if let Some(m) = measured {
            diary.measured(&m);
            history.add(m);
        }
        let budget = Arc::new(Mutex::new(budget));
        let shared = Arc::new(Shared::new(settings.power, last).map_err(AgentError::Guard)?);
        let seen = Arc::new(Mutex::new(LinesSeen::default()));
        let gauge = gauge::start(&settings, &clock)?;
        let desk = Desk::new();
        let backups = BackupDesk::default();
        let queue_desk = QueueDesk::new(settings.queue.enabled);
        let source = Arc::new(StatusSource {
            settings: Arc::new(Mutex::new(settings.clone())),
            shared: Arc::clone(&shared),
            orders: desk.orders(),
            queue: queue_desk.clone(),
            budget: Arc::clone(&budget),
            seen: Arc::clone(&seen),
            machine: Arc::clone(&machine),
            clock: Arc::clone(&clock),
            started,
            card: keeper.card().to_owned(),
            medium: Arc::clone(&medium),
            gauge: gauge.as_ref().map(Gauge::view),
            history,
            unmeasurable,
            read_only: AtomicBool::new(false),
            recovered: Arc::clone(&recovered),
            snapshots: Arc::clone(&snapshots),
            known: known.clone(),
            diary,
            backups: backups.clone(),
            drills: drill::Drills::default(),
            media: media::MediaDesk::default(),
            resets: OnceLock::new(),
        });
        let stop_recovery = Arc::new(AtomicBool::new(false));
        let quiet = Quiet::default();
        let resets = Arc::new(Resets {
            desk: ResetDesk::default(),
            quiet: quiet.clone(),
            config: loaded.files.clone(),
            gate: Arc::clone(&gate),
            medium: Arc::clone(&medium),
            clock: Arc::clone(&clock),
            reserve: Arc::clone(&reserve),
            stop: Arc::clone(&stop_recovery),
            snapshots: Arc::clone(&snapshots),
        });
        source.resets.get_or_init(|| Arc::clone(&resets));
        let (news, told) = watch::channel(PowerNews::default());
        let (pauses, pause) = Pauses::new(Arc::clone(&shared), desk.orders(), news.clone());
        let governor = Arc::new(Governor {
            budget: Arc::clone(&budget),
            orders: desk.orders(),
            queue: queue_desk.clone(),
            shared: Arc::clone(&shared),
            guarded: guarded(&settings),
            pauses: Arc::new(pauses),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(SOCKET_THREADS)
            .thread_name("holdup-socket")
            .enable_all()
            .build()
            .map_err(AgentError::Runtime)?;
        let (shutdown, stopping) = watch::channel(false);
        let intake = desk.intake();
        let (teller, hooks) = Teller::start(&settings, &clock, &shared, &gate, news)?;
        let config = loaded.files.first().cloned().unwrap_or_default();
        runtime.spawn(drill::keep(Arc::clone(&source), config, stopping.clone()));
        let serving = runtime.block_on(serve_sockets(
            &settings,
            intake,
            pause,
            told,
            stopping,
            Arc::clone(&source),
        ))?;

        let mut databases: Vec<Box<dyn GuardedDatabase>> = vec![Box::new(Own::new(
            &settings.gateway.store_path(),
            desk.orders(),
        ))];
        if settings.queue.enabled {
            let path = settings.gateway.queue_path();
            databases.push(Box::new(Own::new(&path, queue_desk.clone())));
        }
        let own = vec![settings.gateway.store_path(), settings.gateway.queue_path()];
        databases.extend(foreign::databases(&settings, own, &clock));
        let can_cut = settings.board.cycles_supply
            && (settings.board.safe_to_cut.is_some() || settings.board.is_sim());
        let (guard, notices) = Guard::start(GuardOptions {
            settings: settings.power,
            can_cut,
            before: record.charge_before(),
            gate: Arc::clone(&gate),
            clock: Arc::clone(&clock),
            machine,
            opener: Box::new(BoardLines {
                board: settings.board.clone(),
                seen,
                gauge: gauge.as_ref().map(Gauge::view),
                clock: Arc::clone(&clock),
            }),
            lamps: Box::new(BoardLamps::open(&settings.board)),
            shared: Arc::clone(&shared),
            plan: PlanOptions {
                medium: Arc::clone(&medium),
                record,
                marks,
                databases,
                budget,
                heartbeat,
            },
            ended,
        })
        .map_err(AgentError::Guard)?;
        let reporter = Reporter::start(
            notices,
            teller,
            Arc::clone(&source),
            Arc::clone(&governor),
            keeper,
            Arc::clone(&gate),
            Arc::clone(&medium),
        )
        .map_err(AgentError::Guard)?;
        let backups = backup::start(BackupMeans {
            settings: settings.clone(),
            config: loaded.files.clone(),
            orders: desk.orders(),
            queue: queue_desk.clone(),
            shared: Arc::clone(&shared),
            medium: Arc::clone(&medium),
            gate: Arc::clone(&gate),
            clock: Arc::clone(&clock),
            audit: source.diary.audit(),
            desk: backups,
            known: known.clone(),
            quiet: quiet.clone(),
        })?;
        let media = media::start(Arc::clone(&source), Arc::clone(&hooks), Arc::clone(&gate))?;
        let recoverer = Recoverer::new(
            Arc::clone(&medium),
            Arc::clone(&gate),
            Arc::clone(&clock),
            Arc::clone(&stop_recovery),
            cut,
            source.diary.audit(),
            recovered,
        );
        let snapshots = snapshot::start(Means {
            settings: settings.clone(),
            orders: desk.orders(),
            queue: queue_desk.clone(),
            shared: Arc::clone(&shared),
            medium: Arc::clone(&medium),
            gate: Arc::clone(&gate),
            clock: Arc::clone(&clock),
            seen: snapshots,
            known: known.clone(),
            quiet,
        })?;
        let opener = Opener {
            audit: source.diary.audit(),
            resets: Arc::clone(&resets),
            reserve,
            settings,
            medium: Arc::clone(&medium),
            gate: Arc::clone(&gate),
            clock,
            governor,
            desk,
            queue_desk,
            shared,
            recoverer,
            known,
        };
        let (told, opened) = Told::new();
        std::thread::Builder::new()
            .name("holdup-open".into())
            .spawn(move || opener.serve(&told))
            .map_err(AgentError::Guard)?;
        if let Err(e) = lock_memory() {
            log::info!("memory is not locked: {e}");
        }
        reporter.ready();
        Ok(Self {
            source,
            gate,
            medium,
            guard,
            opened,
            stop_recovery,
            resets,
            snapshots,
            reporter,
            backups,
            media,
            gauge,
            hooks,
            runtime,
            shutdown,
            serving: Some(serving),
            instance,
        })
    }

    /// Asks for the end; it comes when the plan has run. While power is good, clients first get
    /// the acknowledgements of what they sent.
    fn stop(&mut self) {
        self.stop_recovery.store(true, Ordering::Relaxed);
        self.snapshots.stop();
        self.backups.stop();
        self.media.stop();
        self.source.diary.stopping(&self.gate);
        self.reporter.stopping(&self.gate, &self.medium);
        self.hooks.stop();
        self.shutdown.send_replace(true);
        if !self.gate.is_closed()
            && let Some(serving) = self.serving.take()
        {
            let last = async { tokio::time::timeout(LINGER, serving).await };
            if self.runtime.block_on(last).is_err() {
                log::info!("some clients still wait for acknowledgements");
            }
        }
        self.source.shared.stop();
    }

    /// After the guard thread has ended: the plan is done, everything acknowledged is durable,
    /// and the gate stays closed.
    fn end(self) -> Result<(), AgentError> {
        self.guard.join();
        self.stop_recovery.store(true, Ordering::Relaxed);
        self.resets.desk.end();
        self.snapshots.end();
        drop(self.gauge);
        self.runtime.shutdown_background();
        let both = lock(&self.opened);
        let opened = both.store.recv_timeout(OPENER);
        self.reporter.end();
        self.backups.end();
        self.media.end();
        self.hooks.end();
        self.source.diary.end();
        let settings = lock(&self.source.settings).gateway.clone();
        for path in [
            settings.ingest_socket(),
            settings.status_socket(),
            settings.control_socket(),
        ] {
            if let Err(e) = remove_stale(&path) {
                log::info!("cannot remove {}: {e}", path.display());
            }
        }
        match opened {
            Ok(Ok(opened)) => {
                match both.queue.recv_timeout(OPENER) {
                    // It tells the store how far it has come.
                    Ok(queue) => drop(queue),
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        log::warn!("the queue is still being looked after: the next start goes on");
                    }
                    // Said by who panicked.
                    Err(mpsc::RecvTimeoutError::Disconnected) => {}
                }
                let suspect = opened.stats().suspect;
                opened.stop();
                if suspect {
                    return Err(AgentError::Suspect(settings.store_path()));
                }
            }
            Ok(Err(AgentError::StoppedEarly)) => log::info!("the store was never opened"),
            Ok(Err(e)) => return Err(e),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(AgentError::StillOpening(settings.data_dir));
            }
            // A panic there was printed, and aborts the process in release.
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(AgentError::Runtime(io::Error::other(
                    "the store's opener panicked",
                )));
            }
        }
        log::info!(
            "stopped; {} readings acknowledged in this run",
            self.source.status().acked
        );
        drop(self.instance);
        Ok(())
    }

    /// SIGHUP: new power and store settings take effect at once; the rest needs a restart and
    /// says so.
    fn reload(&self, config_path: &Path) {
        let loaded = match config::load(config_path) {
            Ok(loaded) => loaded,
            Err(e) => {
                log::error!(
                    "the configuration is not taken over, the old one stays: {}",
                    explain(&e)
                );
                return;
            }
        };
        self.source.diary.configured(&loaded);
        let new = loaded.settings;
        let mut held = lock(&self.source.settings);
        for (what, changed) in [
            ("[gateway]", held.gateway != new.gateway),
            ("[board], [gpio] or power.board", held.board != new.board),
            ("power.freeze", held.power.freeze != new.power.freeze),
            ("[events]", held.events != new.events),
            ("[gauge]", held.gauge != new.gauge),
            ("[ingest]", held.ingest != new.ingest),
            ("[snapshot]", held.snapshot != new.snapshot),
            ("[queue]", held.queue != new.queue),
            ("[backup]", held.backup != new.backup),
            ("[[database]]", held.databases != new.databases),
            ("store.index", held.store.index != new.store.index),
            ("store.reserve_mb", held.store.reserve != new.store.reserve),
        ] {
            if changed {
                log::warn!("{what} has changed: it takes effect when the agent is restarted");
            }
        }
        held.power = new.power;
        held.store = new.store;
        self.source.shared.set_settings(new.power);
        self.source.orders.reconfigure(new.store);
        log::info!("configuration taken over from {}", config_path.display());
    }
}

/// Binds the sockets, then serves them in the background.
async fn serve_sockets(
    settings: &Settings,
    intake: Intake,
    pause: watch::Receiver<Option<ingest::Pause>>,
    told: watch::Receiver<PowerNews>,
    stopping: watch::Receiver<bool>,
    source: Arc<StatusSource>,
) -> Result<tokio::task::JoinHandle<()>, AgentError> {
    let options = IngestOptions {
        settings: settings.ingest,
        socket: settings.gateway.ingest_socket(),
    };
    let listener = ingest::bind(&options.socket)?;
    let serving = tokio::spawn(ingest::serve(
        listener, options, intake, pause, told, stopping,
    ));
    let control = control::bind(&settings.gateway.control_socket())?;
    tokio::spawn(control::serve(control, Arc::clone(&source)));
    let path = settings.gateway.status_socket();
    let listener = ingest::bind(&path)?;
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely: they come back.
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            };
            let source = Arc::clone(&source);
            tokio::spawn(async move {
                let answer = serde_json::to_vec(&source.status()).unwrap_or_default();
                // A client that went away needs no answer.
                stream.write_all(&answer).await.ok();
                stream.shutdown().await.ok();
            });
        }
    });
    Ok(serving)
}

/// The instance lock is ours, so a socket file that is still there is nobody's.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn make_dir(key: &'static str, path: &Path) -> Result<(), AgentError> {
    fs::create_dir_all(path).map_err(|source| AgentError::Directory {
        key,
        path: path.to_owned(),
        user: rustix::process::geteuid().as_raw(),
        source,
    })
}
