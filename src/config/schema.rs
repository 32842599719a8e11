//! Every key there is: type, range, default, unit and meaning in one table.
//!
//! Parsing, validation, `config show` and the documents read this table, so that none of them
//! can say what another does not do.

/// What a key's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number in this range, ends included.
    Int {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// `true` or `false`.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An absolute path without `..`.
    Path,
    /// Printable text without a slash, 1 to 64 bytes.
    Id,
    /// A chip's label or a line's name: printable, 1 to 31 bytes, as in the kernel.
    Label,
    /// The full name of a systemd unit.
    Unit,
    /// A board's name, or a path to its description.
    Board,
    /// One line of text.
    Text,
    /// A list of [`Kind::Path`]s.
    Paths,
    /// A list of [`Kind::Text`]s.
    Texts,
}

/// Which files may hold a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `holdup.toml` and `conf.d/*.toml`.
    Site,
    /// `board.toml`.
    Board,
    /// Both.
    Both,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The table; `board.LINE` is each of [`LINES`], `database` each `[[database]]`.
    pub table: &'static str,
    /// The key in it.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// The value where none is given, as text; `None`: unset, or computed as `doc` says.
    pub default: Option<&'static str>,
    /// Of the value; empty where it has none.
    pub unit: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// Where it may stand.
    pub scope: Scope,
}

/// The lines a board may have.
pub const LINES: [&str; 6] = [
    "power_fail",
    "brownout",
    "battery_low",
    "presence",
    "status",
    "safe_to_cut",
];

/// The lines among [`LINES`] that are driven, not read.
pub const OUTPUTS: [&str; 2] = ["status", "safe_to_cut"];

/// The table of each of [`LINES`].
pub const LINE_TABLE: &str = "board.LINE";

const HOUR_MS: u64 = 3_600_000;
const DAY_S: u64 = 86_400;

const fn key(
    table: &'static str,
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    unit: &'static str,
    doc: &'static str,
) -> Key {
    let scope = Scope::Site;
    Key {
        table,
        name,
        kind,
        default,
        unit,
        doc,
        scope,
    }
}

const fn board(scope: Scope, key: Key) -> Key {
    Key { scope, ..key }
}

const fn int(min: u64, max: u64) -> Kind {
    Kind::Int { min, max }
}

/// The keys, in the order in which they are shown.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("gateway", "id", Kind::Id, None, "", "names the gateway in records and messages; default: the host name"),
    key("gateway", "data_dir", Kind::Path, Some("/var/lib/holdup"), "", "everything that must last"),
    key("gateway", "run_dir", Kind::Path, Some("/run/holdup"), "", "sockets and locks; on a tmpfs, so that it can be used while data_dir is frozen"),

    key("power", "board", Kind::Board, Some("rpi5"), "", "rpi5, rpi4, rpi3, qemu-virt, sim, auto (the Raspberry Pi that this is), a board/NAME/board.toml beside this file, or a path to one"),
    key("power", "source", Kind::Choice(&["capacitor", "battery"]), Some("capacitor"), "", "what stands behind the 5 V rail: a capacitor (seconds) or a battery (hours)"),
    key("power", "holdup_ms", int(10, 24 * HOUR_MS), None, "ms", "measured hold-up time; unset: readiness is unprotected"),
    key("power", "glitch_ms", int(1, 60_000), Some("30"), "ms", "lost time within ten times this that makes a loss real"),
    key("power", "restore_ms", int(1, HOUR_MS), Some("1000"), "ms", "how long power must be steady before the gateway resumes"),
    key("power", "ride_max_s", int(1, 7 * DAY_S), Some("1800"), "s", "longest ride on a battery before the plan runs"),
    key("power", "low_percent", int(1, 90), Some("20"), "%", "battery charge at which the plan runs"),
    key("power", "recharge_s", int(0, DAY_S), Some("60"), "s", "time for an empty supply to be full again"),
    key("power", "settle_after", int(0, 1_000), Some("3"), "outages", "after this many outages in ten minutes resuming needs settle_ms; 0: never"),
    key("power", "settle_ms", int(0, HOUR_MS), Some("5000"), "ms", "how long power must be steady then"),
    key("power", "park_max_s", int(1, 7 * DAY_S), Some("300"), "s", "how long to stay parked before on_park_max"),
    key("power", "on_park_max", Kind::Choice(&["poweroff", "halt", "stay"]), Some("poweroff"), "", "what to do then"),
    key("power", "freeze", Kind::Choice(&["auto", "never"]), Some("auto"), "", "freeze the data file system while parked; auto: where data_dir is a mount of its own"),
    key("power", "allow_poweroff", Kind::Bool, Some("false"), "", "whether the agent may power the machine off at all"),

    key("gpio", "abi", Kind::Choice(&["auto", "v1", "v2"]), Some("auto"), "", "how to speak to the kernel's GPIO chips; auto: v2 where the kernel has it, else v1"),

    board(Scope::Board, key("board", "name", Kind::Id, None, "", "the board's name, the same as its folder's")),
    board(Scope::Board, key("board", "description", Kind::Text, None, "", "what it is, in a line")),
    board(Scope::Board, key("board", "kind", Kind::Choice(&["gpio", "sim"]), Some("gpio"), "", "how its lines are reached")),
    board(Scope::Both, key("board", "chip", Kind::Label, None, "", "chip label for the lines that are given by offset and name none")),
    board(Scope::Both, key("board", "cycles_supply", Kind::Bool, Some("false"), "", "raising safe_to_cut makes the supply cut, and come back with the mains")),
    key("board.sim", "control", Kind::Path, None, "", "the simulated board's socket; default: run_dir/sim.sock"),

    board(Scope::Both, key(LINE_TABLE, "wired", Kind::Bool, Some("true"), "", "false: this board's line is not connected here")),
    board(Scope::Both, key(LINE_TABLE, "chip", Kind::Label, None, "", "the chip's label, never its number; default: board.chip for an offset, any chip for a name")),
    board(Scope::Both, key(LINE_TABLE, "offset", int(0, 4_095), None, "", "the line's number on the chip")),
    board(Scope::Both, key(LINE_TABLE, "line", Kind::Label, None, "", "the line's name in the device tree, instead of its offset")),
    board(Scope::Both, key(LINE_TABLE, "active", Kind::Choice(&["high", "low"]), Some("high"), "", "the level that means what the line is named for")),
    board(Scope::Both, key(LINE_TABLE, "bias", Kind::Choice(&["as-is", "disabled", "pull-up", "pull-down"]), Some("as-is"), "", "pull resistor")),

    board(Scope::Both, key("gauge", "kind", Kind::Choice(&["none", "max17040", "max17048", "ina219"]), Some("none"), "", "the battery's gauge on an I2C bus; max17040 also means max17043, max17048 also max17058")),
    board(Scope::Both, key("gauge", "bus", Kind::Path, Some("/dev/i2c-1"), "", "the I2C bus's device")),
    board(Scope::Both, key("gauge", "address", int(0x08, 0x77), None, "", "on the bus, 0x40 or 64; default: 0x36 (the only one of a max170xx), for an ina219 0x40 (0x40 to 0x4f)")),
    board(Scope::Both, key("gauge", "poll_s", int(1, 3_600), Some("5"), "s", "how often it is read; a reading older than three of these is none")),
    board(Scope::Both, key("gauge", "shunt_mohm", int(1, 10_000), Some("100"), "mohm", "ina219: the shunt resistor")),
    board(Scope::Both, key("gauge", "empty_mv", int(500, 26_000), None, "mV", "ina219: the battery's voltage at 0 %; it measures no charge")),
    board(Scope::Both, key("gauge", "full_mv", int(500, 26_000), None, "mV", "ina219: the battery's voltage at 100 %")),

    key("events", "dir", Kind::Path, Some("/etc/holdup/events.d"), "", "scripts for onbattery, offbattery, brownout, parked and resumed"),
    key("events", "timeout_s", int(1, 600), Some("10"), "s", "longest run of one script; then it and its children are killed"),

    key("store", "commit_window_ms", int(0, 100), Some("100"), "ms", "at most one commit in this time; 0: as soon as the writer is idle"),
    key("store", "batch_rows", int(1, 65_536), Some("4096"), "readings", "in one commit at most"),
    key("store", "keep_days", int(1, 36_500), None, "days", "keep readings this long; unset: for ever"),
    key("store", "max_bytes", int(1 << 20, 1 << 50), None, "bytes", "keep the database under this size; unset: no limit"),
    key("store", "index", Kind::Bool, Some("false"), "", "index (sensor_name, timestamp): faster queries, six times the card writes where many sensors send"),
    key("store", "reserve_mb", int(0, 65_536), Some("16"), "MiB", "room kept back for the power-fail plan on a full disk, at most a twentieth of the file system"),
    key("store", "remember_ids", int(0, 100_000_000), Some("1000000"), "ids", "client ids remembered, so that a repeat is harmless"),

    key("recovery", "evidence_max_mb", int(1, 1 << 20), Some("512"), "MiB", "damaged files that are kept; the oldest go first, the newest never"),

    key("snapshot", "every_s", int(0, 30 * DAY_S), Some("86400"), "s", "how often the store and the queue are copied for recovery; each time the card writes them once whole and once compressed; 0: never"),
    key("snapshot", "keep", int(1, 1_000), Some("3"), "snapshots", "of each database; the oldest go first, the newest never"),
    key("snapshot", "keep_days", int(1, 36_500), None, "days", "older ones go, but for the newest; unset: whatever their age"),
    key("snapshot", "share_percent", int(1, 90), Some("25"), "%", "of the free space, all snapshots and what taking one writes take at most this"),

    key("ingest", "max_line_bytes", int(64, 1 << 20), Some("65536"), "bytes", "longest line taken, without its newline"),
    key("ingest", "max_clients", int(1, 4_096), Some("256"), "clients", "connections at one time"),
    key("ingest", "queue_bytes", int(4_096, 1 << 30), Some("2097152"), "bytes", "readings that may wait for a commit, over all clients"),

    key("queue", "enabled", Kind::Bool, Some("false"), "", "queue readings for delivery; off while nothing delivers them"),
    key("queue", "max_items", int(1, 100_000_000), Some("1000000"), "messages", "in the queue at most"),
    key("queue", "max_bytes", int(1 << 16, 1 << 50), Some("268435456"), "bytes", "of payloads in the queue at most"),
    key("queue", "ttl_s", int(1, 36_500 * DAY_S), None, "s", "a reading older than this is not delivered any more; unset: for ever"),
    key("queue", "when_full", Kind::Choice(&["reject", "drop_oldest_low_priority"]), Some("reject"), "", "reject: readings wait in the store until there is room; or drop the oldest of the lowest priority"),
    key("queue", "retry_min_ms", int(1, HOUR_MS), Some("1000"), "ms", "the first retry comes within this time, each further one within twice the time before"),
    key("queue", "retry_max_ms", int(1, 24 * HOUR_MS), Some("300000"), "ms", "no retry comes later than this"),
    key("queue", "max_retries", int(1, 1_000_000), Some("100"), "retries", "a message that failed more often is a dead letter"),

    key("backup", "every_s", int(0, 31 * DAY_S), Some("86400"), "s", "a backup is made this often; 0: only when asked for"),
    key("backup", "jitter_s", int(0, DAY_S), Some("1800"), "s", "up to this much later each time, so that gateways of one site differ"),
    key("backup", "dir", Kind::Path, None, "", "where backups are kept here; default: data_dir/backup"),
    key("backup", "recipients", Kind::Texts, None, "", "to whom backups are encrypted, \"age1...\" each; made by `holdup backup keygen`"),
    key("backup", "include", Kind::Paths, None, "", "files and directories that are backed up with the databases and the configuration"),
    key("backup", "keys", Kind::Paths, None, "", "certificates and secret keys: never in these backups; `holdup backup keys` has its own"),
    key("backup", "keep_last", int(1, 10_000), Some("7"), "backups", "so many verified ones are kept, however old"),
    key("backup", "keep_days", int(0, 36_500), Some("30"), "days", "younger ones are kept, however many"),
    key("backup", "copies", Kind::Paths, None, "", "directories of other media that each backup is copied to, and read back from"),
    key("backup", "usb_labels", Kind::Texts, None, "", "USB sticks, by their file system's label, that each backup is copied to"),
    key("backup", "after", Kind::Text, None, "", "a command that is given the finished archive and its manifest, to take them elsewhere"),
    key("backup", "after_timeout_s", int(1, DAY_S), Some("3600"), "s", "longest run of that command"),

    key("drill", "rto_s", int(1, DAY_S), Some("300"), "s", "what a recovery may take in a drill, from the damage until every row was compared"),
    key("drill", "every", Kind::Choice(&["never", "weekly", "monthly", "quarterly"]), Some("never"), "", "how often the agent holds a drill of every scenario, while power is good"),
    key("drill", "home", Kind::Path, Some("/var/tmp"), "", "where such a drill makes its isolated home"),

    key("console", "port", Kind::Path, Some("/dev/holdup-console"), "", "the serial line of `holdup console`; udev/91-holdup-console.rules makes this name"),
    key("console", "baud", int(1_200, 4_000_000), Some("115200"), "baud", "its speed; 8 data bits, no parity, 1 stop bit"),
    key("console", "allowed_signers", Kind::Path, Some("/etc/holdup/allowed_signers"), "", "whose SSH keys log in, in OpenSSH's form; the console enrols the first one"),
    key("console", "revoked_signers", Kind::Path, Some("/etc/holdup/revoked_signers"), "", "keys or fingerprints that no longer do, one a line"),
    key("console", "passphrase_file", Kind::Path, None, "", "a passphrase that logs in too, as `holdup console --new-passphrase` keeps it; unset: none does"),
    key("console", "lab", Kind::Bool, Some("false"), "", "`true`: whoever has the cable is logged in; said on every screen, for a laboratory alone"),

    key("database", "path", Kind::Path, None, "", "another application's SQLite database that the plan makes durable"),
    key("database", "priority", int(0, 1_000), Some("50"), "", "higher goes first; the agent's own store is 100, its queue 90"),
    key("database", "role", Kind::Choice(&["guarded"]), Some("guarded"), "", "made durable, never repaired"),
    key("database", "unit", Kind::Unit, None, "", "the systemd unit that writes it: stopped for an outage instead of left to wait for the lock"),
];

/// The table of the schema that a table of a file is, if it is one.
pub(super) fn table(path: &str) -> Option<&'static str> {
    if let Some(rest) = path.strip_prefix("board.")
        && LINES.contains(&rest)
    {
        return Some(LINE_TABLE);
    }
    KEYS.iter()
        .map(|k| k.table)
        .find(|t| *t == path && *t != LINE_TABLE)
}

/// The key `name` of the table `path` of a file.
pub(super) fn lookup(path: &str, name: &str) -> Option<&'static Key> {
    let table = table(path)?;
    KEYS.iter().find(|k| k.table == table && k.name == name)
}

/// Every table a file may have.
pub(super) fn tables() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for key in KEYS {
        let names = if key.table == LINE_TABLE {
            LINES.iter().map(|l| format!("board.{l}")).collect()
        } else {
            vec![key.table.to_owned()]
        };
        for name in names {
            if !all.contains(&name) {
                all.push(name);
            }
        }
    }
    all
}

impl Key {
    /// What a value must be, for people: `a whole number from 1 to 1000 (ms)`.
    pub fn expected(&self) -> String {
        match self.kind {
            Kind::Int { min, max } if self.unit.is_empty() => {
                format!("a whole number from {min} to {max}")
            }
            Kind::Int { min, max } => {
                format!("a whole number from {min} to {max} ({})", self.unit)
            }
            Kind::Bool => "true or false".to_owned(),
            Kind::Choice(words) => words
                .iter()
                .map(|w| format!("{w:?}"))
                .collect::<Vec<_>>()
                .join(" or "),
            Kind::Path => "an absolute path without `..`, as text".to_owned(),
            Kind::Id => "1 to 64 bytes of printable text without a slash".to_owned(),
            Kind::Label => "1 to 31 bytes of printable text".to_owned(),
            Kind::Unit => "a systemd unit's full name, such as \"app.service\"".to_owned(),
            Kind::Board => "a board's name, or a path with a slash to its board.toml".to_owned(),
            Kind::Text => "one line of text".to_owned(),
            Kind::Paths => "a list of absolute paths without `..`".to_owned(),
            Kind::Texts => "a list of lines of text".to_owned(),
        }
    }
}
