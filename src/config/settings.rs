//! What the agent runs by: every default filled in, every range checked, units in the types.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// All settings. Past this type there is no `Option` for what has a default.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `[gateway]`
    pub gateway: GatewaySettings,
    /// `[power]`
    pub power: PowerSettings,
    /// The board's description, overrides applied.
    pub board: BoardSettings,
    /// `[gauge]`; `None` where the board has none.
    pub gauge: Option<GaugeSettings>,
    /// `[events]`
    pub events: EventSettings,
    /// `[store]`
    pub store: StoreSettings,
    /// `[recovery]`
    pub recovery: RecoverySettings,
    /// `[snapshot]`
    pub snapshot: SnapshotSettings,
    /// `[ingest]`
    pub ingest: IngestSettings,
    /// `[queue]`
    pub queue: QueueSettings,
    /// `[backup]`
    pub backup: BackupSettings,
    /// `[drill]`
    pub drill: DrillSettings,
    /// `[console]`
    pub console: ConsoleSettings,
    /// `[[database]]`, highest priority first.
    pub databases: Vec<DatabaseSettings>,
}

/// `[gateway]`: who this is and where its files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Names the gateway in records and messages.
    pub id: String,
    /// Everything that must last.
    pub data_dir: PathBuf,
    /// Sockets and locks; on a tmpfs, so that it can be used while `data_dir` is frozen.
    pub run_dir: PathBuf,
}

impl GatewaySettings {
    /// The readings.
    pub fn store_path(&self) -> PathBuf {
        self.data_dir.join("edge_store.db")
    }

    /// The outbound queue.
    pub fn queue_path(&self) -> PathBuf {
        self.data_dir.join("sync_queue.db")
    }

    /// Damaged files, as they were found.
    pub fn evidence_path(&self) -> PathBuf {
        self.data_dir.join("evidence")
    }

    /// Copies of the databases for recovery.
    pub fn snapshots_path(&self) -> PathBuf {
        self.data_dir.join("snapshots")
    }

    /// Copies for a backup that is being made.
    pub fn backup_work(&self) -> PathBuf {
        self.data_dir.join("backup.work")
    }

    /// What is remembered of backups between two runs.
    pub fn backup_state(&self) -> PathBuf {
        self.data_dir.join("backup.state")
    }

    /// What was acknowledged, noted outside SQLite.
    pub fn ledger_path(&self) -> PathBuf {
        self.data_dir.join("ledger")
    }

    /// The evidence of drills.
    pub fn drill_path(&self) -> PathBuf {
        self.data_dir.join("drill")
    }

    /// What was done here, and by whom.
    pub fn audit_path(&self) -> PathBuf {
        self.data_dir.join("audit.db")
    }

    /// Audit entries that cannot be written yet.
    pub fn audit_spool(&self) -> PathBuf {
        self.run_dir.join("audit.spool")
    }

    /// Room kept back for the plan.
    pub fn reserve_path(&self) -> PathBuf {
        self.data_dir.join("reserve")
    }

    /// What the next boot is told of the last outage.
    pub fn record_path(&self) -> PathBuf {
        self.data_dir.join("outage.rec")
    }

    /// Where a measurement of the hold-up time is written while it runs.
    pub fn heartbeat_path(&self) -> PathBuf {
        self.data_dir.join("holdup.beat")
    }

    /// What is remembered of the medium's health.
    pub fn media_path(&self) -> PathBuf {
        self.data_dir.join("media.json")
    }

    /// The hold-up times that were measured.
    pub fn holdup_history_path(&self) -> PathBuf {
        self.data_dir.join("holdup_history.json")
    }

    /// Where `holdup power` asks; for the agent's user and root alone.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// The readings' socket.
    pub fn ingest_socket(&self) -> PathBuf {
        self.run_dir.join("ingest.sock")
    }

    /// Where `holdup status` asks.
    pub fn status_socket(&self) -> PathBuf {
        self.run_dir.join("status.sock")
    }
}

/// What stands behind the 5 V rail when its input fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Seconds: every loss is the end.
    Capacitor,
    /// Hours: serve on until it is low.
    Battery,
}

impl Source {
    /// As the configuration spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capacitor => "capacitor",
            Self::Battery => "battery",
        }
    }
}

/// What to do when `park_max` has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnParkMax {
    /// reboot(2) with power off.
    PowerOff,
    /// reboot(2) with halt.
    Halt,
    /// Stay parked.
    Stay,
}

/// Whether parking freezes the data file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezePolicy {
    /// Where `data_dir` is a mount of its own.
    Auto,
    /// Never.
    Never,
}

/// `[power]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerSettings {
    /// What stands behind the rail.
    pub source: Source,
    /// Measured hold-up time; `None` until it was measured.
    pub holdup: Option<Duration>,
    /// Lost time, summed over a sliding window of ten times this, that makes a loss real.
    pub glitch: Duration,
    /// How long power must be steady before the gateway resumes.
    pub restore: Duration,
    /// Longest ride on a battery before the plan runs.
    pub ride_max: Duration,
    /// Battery charge, in percent, at which the plan runs.
    pub low_percent: u8,
    /// Time for an empty supply to be full again; an outage before that has less hold-up.
    pub recharge: Duration,
    /// After this many outages in ten minutes, resuming needs `settle` instead of `restore`;
    /// 0 is never.
    pub settle_after: u32,
    /// See `settle_after`.
    pub settle: Duration,
    /// How long to stay parked before `on_park_max`.
    pub park_max: Duration,
    /// What to do then.
    pub on_park_max: OnParkMax,
    /// Whether parking freezes the data file system.
    pub freeze: FreezePolicy,
    /// Whether the agent may power the machine off at all.
    pub allow_poweroff: bool,
}

/// `[gauge]`: the battery's gauge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GaugeSettings {
    /// Which chip.
    pub kind: GaugeKind,
    /// The bus's device.
    pub bus: PathBuf,
    /// On the bus, 7 bits.
    pub address: u8,
    /// How often it is read.
    pub poll: Duration,
}

/// A gauge's chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaugeKind {
    /// MAX17040 and MAX17043: one cell, charge.
    Max17040,
    /// MAX17048 and MAX17058: one cell, charge and its direction.
    Max17048,
    /// INA219: volts and current; charge is worked out from the volts.
    Ina219 {
        /// The shunt resistor.
        shunt_mohm: u32,
        /// Volts at 0 %.
        empty_mv: u32,
        /// Volts at 100 %.
        full_mv: u32,
    },
}

impl GaugeKind {
    /// As the configuration spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Max17040 => "max17040",
            Self::Max17048 => "max17048",
            Self::Ina219 { .. } => "ina219",
        }
    }
}

/// `[events]`: scripts that are run when power changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSettings {
    /// Where they are.
    pub dir: PathBuf,
    /// Longest run of one.
    pub timeout: Duration,
}

/// `[store]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreSettings {
    /// At most one commit in this time; zero commits as soon as the writer is idle.
    pub commit_window: Duration,
    /// Readings in one commit at most.
    pub batch_rows: usize,
    /// Keep readings for this many days after they arrived; `None` is for ever.
    pub keep_days: Option<u32>,
    /// Keep the database under this size; `None` is no limit.
    pub max_bytes: Option<u64>,
    /// An index on (sensor_name, timestamp): faster queries, six times the card writes where many sensors send.
    pub index: bool,
    /// How many client ids are remembered, so that a repeat is harmless.
    pub remember_ids: u64,
    /// Bytes kept back for the power-fail plan on a full disk.
    pub reserve: u64,
}

/// `[recovery]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoverySettings {
    /// Bytes of evidence that are kept; the newest always is.
    pub evidence_max: u64,
}

/// `[snapshot]`: copies that stay on the device, for recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// How often one is taken; `None` is never.
    pub every: Option<Duration>,
    /// How many of each database are kept; at least 1.
    pub keep: usize,
    /// The older ones go; `None` is never.
    pub keep_age: Option<Duration>,
    /// Of the free space they take this part at most, 1 to 90.
    pub share_percent: u8,
}

/// `[backup]`: what leaves the gateway, encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSettings {
    /// Between two backups; `None`: only when asked for.
    pub every: Option<Duration>,
    /// Up to this much later.
    pub jitter: Duration,
    /// Where they are kept here.
    pub dir: PathBuf,
    /// To whom they are encrypted, `age1...`.
    pub recipients: Vec<String>,
    /// Files and directories beside databases and configuration.
    pub include: Vec<PathBuf>,
    /// Certificates and secret keys, which are left out.
    pub keys: Vec<PathBuf>,
    /// So many verified ones are kept; at least 1.
    pub keep_last: usize,
    /// Younger ones are kept, in days.
    pub keep_days: u32,
    /// Directories of other media.
    pub copies: Vec<PathBuf>,
    /// Labels of USB sticks.
    pub usb_labels: Vec<String>,
    /// What takes a finished archive elsewhere.
    pub after: Option<String>,
    /// The longest run of that.
    pub after_timeout: Duration,
}

/// `[ingest]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestSettings {
    /// Longest line taken, in bytes without its newline.
    pub max_line_bytes: usize,
    /// Connections at one time.
    pub max_clients: usize,
    /// Bytes of readings that may wait for a commit, over all clients.
    pub queue_bytes: usize,
}

/// What to do with a message that the full queue has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse it. A reading waits in the store until there is room.
    Reject,
    /// Drop the oldest messages of the lowest priority, never of a higher one than its own.
    DropOldestLowPriority,
}

/// `[queue]`: messages on their way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSettings {
    /// Whether readings are queued for delivery.
    pub enabled: bool,
    /// Messages at most.
    pub max_items: u64,
    /// Bytes of their payloads at most.
    pub max_bytes: u64,
    /// How long a reading is worth delivering; `None` is for ever.
    pub ttl: Option<Duration>,
    /// What to do when it is full.
    pub when_full: WhenFull,
    /// The first retry comes within this time; each further one within twice the time before.
    pub retry_min: Duration,
    /// No retry comes later than this.
    pub retry_max: Duration,
    /// A message that failed more often than this is a dead letter.
    pub max_retries: u64,
}

/// `[drill]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillSettings {
    /// What a recovery may take.
    pub rto: Duration,
    /// How often the agent holds one; `None` is never.
    pub every: Option<Duration>,
    /// Where it makes the isolated home then.
    pub home: PathBuf,
}

/// `[console]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleSettings {
    /// The serial line.
    pub port: PathBuf,
    /// Its speed, in baud.
    pub baud: u32,
    /// Whose SSH keys log in.
    pub allowed_signers: PathBuf,
    /// Keys that no longer do.
    pub revoked_signers: PathBuf,
    /// The hash of a passphrase that logs in too.
    pub passphrase_file: Option<PathBuf>,
    /// Whoever has the cable is logged in.
    pub lab: bool,
}

/// How many `[[database]]` entries there may be: the plan has a place for each.
pub const MOST_DATABASES: usize = 15;

/// `[[database]]`: another application's SQLite database that the plan makes durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// The database file.
    pub path: PathBuf,
    /// Higher goes first; the agent's own store is 100, its queue 90.
    pub priority: i32,
    /// The systemd unit that writes it, if it may be stilled.
    pub unit: Option<String>,
}

/// The kernel's GPIO ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpioAbi {
    /// v2 where the kernel speaks it, else v1.
    #[default]
    Auto,
    /// v1, for a kernel that lacks v2.
    V1,
    /// v2, since Linux 5.10.
    V2,
}

/// What is soldered where.
#[derive(Debug, Clone, PartialEq)]
pub struct BoardSettings {
    /// `rpi5`, `qemu-virt`, `sim`, or a site's own.
    pub name: String,
    /// How its lines are reached.
    pub kind: BoardKind,
    /// `gpio.abi`.
    pub abi: GpioAbi,
    /// Raising `safe_to_cut` makes the supply cut and come back with the mains. Without it a
    /// gateway that powered itself off would stay off.
    pub cycles_supply: bool,
    /// Mains lost.
    pub power_fail: Option<LineSpec>,
    /// The rail is sagging.
    pub brownout: Option<LineSpec>,
    /// The battery is nearly empty.
    pub battery_low: Option<LineSpec>,
    /// Someone is at the gateway (a button).
    pub presence: Option<LineSpec>,
    /// Output: the agent's state lamp.
    pub status: Option<LineSpec>,
    /// Output: everything is durable, the supply may be cut.
    pub safe_to_cut: Option<LineSpec>,
}

/// How a board's lines are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoardKind {
    /// The kernel's GPIO character device.
    Gpio,
    /// A Unix socket that tests and the demo speak to.
    Sim {
        /// Where it listens.
        control: PathBuf,
    },
}

/// One GPIO line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineSpec {
    /// The chip's label (`pinctrl-rp1`), never its number. `None` looks for the name on all.
    pub chip: Option<String>,
    /// Which line.
    pub at: LineAt,
    /// True: a high level means what the line is named for.
    pub active_high: bool,
    /// Pull resistor.
    pub bias: Bias,
}

/// How a line is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineAt {
    /// By its number on the chip.
    Offset(u32),
    /// By the name that the device tree gives it (`GPIO6`).
    Name(String),
}

/// Pull resistor of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// Leave what the firmware set.
    AsIs,
    /// None.
    Disabled,
    /// To the supply.
    PullUp,
    /// To ground.
    PullDown,
}

impl BoardSettings {
    /// Is this the simulated board? Nothing real is powered off or frozen there.
    pub fn is_sim(&self) -> bool {
        matches!(self.kind, BoardKind::Sim { .. })
    }

    /// The simulated board's socket.
    pub fn sim_control(&self) -> Option<&Path> {
        match &self.kind {
            BoardKind::Sim { control } => Some(control),
            BoardKind::Gpio => None,
        }
    }
}
