//! Builds the rooms from the settings and connects them: `holdup run`.
//!
//! The guard comes first and is left last; what serves comes after it. Nothing is decided here:
//! the supply decides, the plan acts, the store acknowledges.

mod costs;
mod lines;
mod reporter;
mod status;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::clock::{Clock, SystemClock, boot_id};
use crate::config::{self, Loaded, Settings};
use crate::durable::{Closer, DurableError, Gate, Medium};
use crate::guard::{
    ForeignDatabase, Guard, GuardOptions, GuardedDatabase, Instance, InstanceError, KernelMachine,
    Machine, MachineError, OutageRecord, OwnStore, PlanOptions, RecordError, Shared, SimMachine,
    StoreSlot, lock_memory,
};
use crate::ingest;
use crate::queue::{self, QueueError};
use crate::store::{Store, StoreError, StoreOptions};

use costs::{CostsKeeper, Governor, guarded, lock};
use lines::{BoardLamps, BoardLines, LinesSeen};
use reporter::{Pauses, Reporter};
use status::StatusSource;

pub use status::{Database, Gpio, Status};

/// Worker threads for sockets.
const SOCKET_THREADS: usize = 2;
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
    /// The queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The guard's threads.
    #[error("cannot start the guard")]
    Guard(#[source] io::Error),
    /// The sockets' threads, or signals.
    #[error("cannot set up the agent")]
    Runtime(#[source] io::Error),
}

impl AgentError {
    /// The process's exit code: 3 refused, 4 I/O.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Instance(InstanceError::Running { .. }) | Self::Machine(MachineError::Simulated(_)) => 3,
            Self::Io { .. }
            | Self::Instance(_)
            | Self::Machine(_)
            | Self::Durable(_)
            | Self::Record(_)
            | Self::Store(_)
            | Self::Queue(_)
            | Self::Guard(_)
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
    let agent = Agent::start(loaded.settings)?;
    agent.serve(config_path)
}

/// The running agent.
struct Agent {
    settings: Arc<Mutex<Settings>>,
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    medium: Arc<Medium>,
    guard: Guard,
    store: Store,
    source: Arc<StatusSource>,
    reporter: Reporter,
    runtime: tokio::runtime::Runtime,
    shutdown: watch::Sender<bool>,
    /// Last: nobody else may start before everything above has ended.
    instance: Instance,
}

impl Agent {
    fn start(settings: Settings) -> Result<Self, AgentError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let started = clock.mono();
        let (data_dir, run_dir) = (&settings.gateway.data_dir, &settings.gateway.run_dir);
        make_dir(run_dir)?;
        make_dir(data_dir)?;
        let machine: Arc<dyn Machine> = if settings.board.is_sim() {
            Arc::new(SimMachine)
        } else {
            Arc::new(KernelMachine::new(&settings.board, data_dir, settings.power.freeze)?)
        };
        let (instance, thawed) = Instance::take(run_dir, &*machine)?;
        if thawed {
            log::warn!("thawed {}, which an earlier holdup left frozen", data_dir.display());
        }
        let medium = Arc::new(Medium::open(data_dir)?);
        let gate = Arc::new(Gate::new());
        gate.close(Closer::Agent);
        let boot = boot_id().unwrap_or_else(|| "unknown".to_owned());
        let record_path = settings.gateway.record_path();
        let (record, marks, last) =
            OutageRecord::open(&medium, &record_path, &settings.gateway.id, &boot, clock.wall())?;
        if let Some(last) = &last {
            log::warn!("{}", reporter::last_outage_in_words(last));
        }
        let (keeper, budget) = CostsKeeper::open(data_dir);
        let budget = Arc::new(Mutex::new(budget));
        let shared = Arc::new(Shared::new(settings.power, last).map_err(AgentError::Guard)?);
        let slot: StoreSlot = Arc::new(OnceLock::new());
        let seen = Arc::new(Mutex::new(LinesSeen::default()));
        let mut databases: Vec<Box<dyn GuardedDatabase>> =
            vec![Box::new(OwnStore::new(&settings.gateway.store_path(), Arc::clone(&slot)))];
        for d in &settings.databases {
            databases.push(Box::new(ForeignDatabase::new(d.clone(), Arc::clone(&clock))));
        }
        let can_cut = settings.board.cycles_supply
            && (settings.board.safe_to_cut.is_some() || settings.board.is_sim());
        let (guard, notices) = Guard::start(GuardOptions {
            settings: settings.power,
            can_cut,
            gate: Arc::clone(&gate),
            clock: Arc::clone(&clock),
            machine: Arc::clone(&machine),
            opener: Box::new(BoardLines { board: settings.board.clone(), seen: Arc::clone(&seen) }),
            lamps: Box::new(BoardLamps::open(&settings.board)),
            shared: Arc::clone(&shared),
            plan: PlanOptions { medium: Arc::clone(&medium), record, marks, databases, budget: Arc::clone(&budget) },
        })
        .map_err(AgentError::Guard)?;

        // From here on the guard runs: it must be stopped in order, whatever else fails.
        let rest = (|| {
            let governor = Arc::new(Governor {
                budget: Arc::clone(&budget),
                slot: Arc::clone(&slot),
                shared: Arc::clone(&shared),
                guarded: guarded(&settings),
                state_changed: OnceLock::new(),
            });
            let store = Store::start(StoreOptions {
                settings: settings.store,
                path: settings.gateway.store_path(),
                medium: Arc::clone(&medium),
                gate: Arc::clone(&gate),
                clock: Arc::clone(&clock),
                observer: Arc::clone(&governor) as Arc<dyn crate::store::Observer>,
            })?;
            slot.set(store.orders()).ok();
            queue::ensure(&settings.gateway.queue_path(), &medium)?;
            governor.govern();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(SOCKET_THREADS)
                .thread_name("holdup-socket")
                .enable_all()
                .build()
                .map_err(AgentError::Runtime)?;
            let source = Arc::new(StatusSource {
                settings: Arc::new(Mutex::new(settings.clone())),
                shared: Arc::clone(&shared),
                slot: Arc::clone(&slot),
                budget: Arc::clone(&budget),
                seen: Arc::clone(&seen),
                machine: Arc::clone(&machine),
                clock: Arc::clone(&clock),
                started,
                card: keeper.card().to_owned(),
            });
            let (pauses, pause) = Pauses::new(Arc::clone(&shared), Arc::clone(&slot));
            let pauses = Arc::new(pauses);
            let told = Arc::clone(&pauses);
            governor.state_changed.set(Box::new(move || told.update())).ok();
            let (shutdown, stopping) = watch::channel(false);
            runtime.block_on(serve_sockets(&settings, store.intake(), pause, stopping, Arc::clone(&source)))?;
            gate.open(Closer::Agent);
            let reporter = Reporter::start(
                notices,
                Arc::clone(&source),
                pauses,
                governor,
                keeper,
                Arc::clone(&gate),
                Arc::clone(&medium),
            )
            .map_err(AgentError::Guard)?;
            Ok((store, runtime, source, shutdown, reporter))
        })();
        let (store, runtime, source, shutdown, reporter) = match rest {
            Ok(rest) => rest,
            Err(e) => {
                shared.stop();
                guard.join();
                return Err(e);
            }
        };
        if let Err(e) = lock_memory() {
            log::info!("memory is not locked: {e}");
        }
        Ok(Self {
            settings: Arc::clone(&source.settings),
            shared,
            gate,
            medium,
            guard,
            store,
            source,
            reporter,
            runtime,
            shutdown,
            instance,
        })
    }

    fn serve(self, config_path: &Path) -> Result<(), AgentError> {
        let Self {
            settings,
            shared,
            gate,
            medium,
            guard,
            store,
            source,
            reporter,
            runtime,
            shutdown,
            instance,
        } = self;
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(AgentError::Runtime)?;
        let ended = signals.handle();
        let joiner = std::thread::Builder::new()
            .name("holdup-end".into())
            .spawn(move || {
                guard.join();
                ended.close();
            })
            .map_err(AgentError::Runtime)?;
        reporter.ready();
        for signal in signals.forever() {
            if signal == SIGHUP {
                reload(config_path, &settings, &shared, &store);
            } else {
                log::info!("stopping");
                reporter.stopping(&gate, &medium);
                shared.stop();
            }
        }
        // The plan is done: everything acknowledged is durable, the gate stays closed.
        joiner.join().ok();
        shutdown.send_replace(true);
        runtime.shutdown_timeout(LINGER);
        store.stop();
        reporter.end();
        remove_sockets(&lock(&settings).clone());
        log::info!("stopped; {} readings acknowledged in this run", source.status().acked);
        drop(instance);
        Ok(())
    }
}

/// Binds both sockets, then serves them in the background.
async fn serve_sockets(
    settings: &Settings,
    intake: crate::store::Intake,
    pause: watch::Receiver<Option<ingest::Pause>>,
    stopping: watch::Receiver<bool>,
    source: Arc<StatusSource>,
) -> Result<(), AgentError> {
    let path = settings.gateway.ingest_socket();
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| AgentError::Io { what, path, source }
    };
    let listener = ingest::bind(&path).map_err(io("listen on", &path))?;
    let limits = settings.ingest;
    tokio::spawn(async move {
        if let Err(e) = ingest::serve(listener, limits, intake, pause, stopping).await {
            log::error!("ingest ended: {}", explain(&e));
        }
    });
    let path = settings.gateway.status_socket();
    remove_stale(&path).map_err(io("replace", &path))?;
    let listener = UnixListener::bind(&path).map_err(io("listen on", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).map_err(io("set the mode of", &path))?;
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            let source = Arc::clone(&source);
            tokio::spawn(async move {
                let answer = serde_json::to_vec(&source.status()).unwrap_or_default();
                // A client that went away needs no answer.
                stream.write_all(&answer).await.ok();
                stream.shutdown().await.ok();
            });
        }
    });
    Ok(())
}

/// The instance lock is ours, so a socket file that is still there is nobody's.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn remove_sockets(settings: &Settings) {
    for path in [settings.gateway.ingest_socket(), settings.gateway.status_socket()] {
        if let Err(e) = remove_stale(&path) {
            log::info!("cannot remove {}: {e}", path.display());
        }
    }
}

fn make_dir(path: &Path) -> Result<(), AgentError> {
    fs::create_dir_all(path).map_err(|source| AgentError::Io {
        what: "make directory",
        path: path.to_owned(),
        source,
    })
}

/// SIGHUP: new power and store settings take effect at once; the rest needs a restart and says so.
fn reload(config_path: &Path, settings: &Mutex<Settings>, shared: &Shared, store: &Store) {
    let loaded = match config::load(config_path) {
        Ok(loaded) => loaded,
        Err(e) => {
            log::error!("the configuration is not taken over, the old one stays: {}", explain(&e));
            return;
        }
    };
    let new = loaded.settings;
    let mut held = lock(settings);
    for (what, changed) in [
        ("[gateway]", held.gateway != new.gateway),
        ("[board] or power.board", held.board != new.board),
        ("power.freeze", held.power.freeze != new.power.freeze),
        ("[ingest]", held.ingest != new.ingest),
        ("[[database]]", held.databases != new.databases),
        ("store.index", held.store.index != new.store.index),
    ] {
        if changed {
            log::warn!("{what} has changed: it takes effect when the agent is restarted");
        }
    }
    held.power = new.power;
    held.store = new.store;
    shared.set_settings(new.power);
    store.orders().reconfigure(new.store);
    log::info!("configuration taken over from {}", config_path.display());
}
