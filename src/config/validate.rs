//! Merged keys to [`Settings`]: what no single key can show to be wrong.
//!
//! A rule is applied only where every key it reads was good, so that one mistake is told once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fragment::{DatabaseEntry, Value};
use super::merge::Merged;
use super::problem::{Problem, printable};
use super::settings::{
    ConsoleSettings, DatabaseSettings, DrillSettings, EventSettings, FreezePolicy, GatewaySettings,
    GpioAbi, IngestSettings, MOST_DATABASES, OnParkMax, PowerSettings, QueueSettings,
    RecoverySettings, Settings, SnapshotSettings, Source, StoreSettings, WhenFull,
};
use super::{backup, gauge, lines};

/// sun_path of unix(7), without its closing zero.
const LONGEST_SOCKET: usize = 107;

/// The settings; worth nothing where `m.problems` is not empty afterwards.
pub(super) fn settings(m: &mut Merged, warnings: &mut Vec<Problem>) -> Settings {
    let gateway = gateway(m, warnings);
    let board = lines::board(m);
    let power = power(m, warnings);
    if m.sound(&["power.allow_poweroff"]) && power.allow_poweroff {
        let lacks = if board.safe_to_cut.is_none() {
            Some("no safe_to_cut line")
        } else if !board.cycles_supply {
            Some("a supply that does not come back by itself (cycles_supply = false)")
        } else {
            None
        };
        if let Some(lacks) = lacks {
            warnings.push(m.about(
                "power.allow_poweroff",
                format!("has no effect: board {} has {lacks}", board.name),
                "wire and describe it, or leave the gateway parked",
            ));
        }
    }
    if m.sound(&[]) && board.power_fail.is_none() {
        warnings.push(m.about(
            "board.power_fail",
            "is not wired: power loss cannot be seen",
            "describe the line; until then the gateway is unprotected",
        ));
    }
    if board.is_sim() && board.abi != GpioAbi::Auto {
        warnings.push(m.about(
            "gpio.abi",
            format!("has no effect on board {}, which is simulated", board.name),
            "remove it, or set power.board to the board that this is",
        ));
    }
    if !board.is_sim() && m.entries.contains_key("board.sim.control") {
        warnings.push(m.about(
            "board.sim.control",
            format!("has no effect on board {}", board.name),
            "set power.board = \"sim\", or remove it",
        ));
    }
    Settings {
        databases: databases(m, &gateway),
        gauge: gauge::gauge(m, warnings),
        events: EventSettings {
            dir: PathBuf::from(m.text("events.dir")),
            timeout: Duration::from_secs(m.int("events.timeout_s")),
        },
        store: store(m),
        recovery: RecoverySettings {
            evidence_max: m.int("recovery.evidence_max_mb") << 20,
        },
        snapshot: snapshot(m),
        ingest: ingest(m),
        queue: queue(m),
        backup: backup::backup(m, &gateway, warnings),
        drill: drill(m),
        console: console(m, warnings),
        gateway,
        power,
        board,
    }
}

fn gateway(m: &mut Merged, warnings: &mut Vec<Problem>) -> GatewaySettings {
    if m.text("gateway.id").starts_with("localhost") {
        warnings.push(m.about(
            "gateway.id",
            "is `localhost`, as on any other gateway without a host name",
            "set gateway.id, or the host name",
        ));
    }
    let gateway = GatewaySettings {
        id: m.text("gateway.id").to_owned(),
        data_dir: PathBuf::from(m.text("gateway.data_dir")),
        run_dir: PathBuf::from(m.text("gateway.run_dir")),
    };
    if m.sound(&["gateway.data_dir", "gateway.run_dir"]) {
        let (data, run) = (&gateway.data_dir, &gateway.run_dir);
        if run == data {
            m.complain_of_two(
                "gateway.run_dir",
                "gateway.data_dir",
                "are the same directory".to_owned(),
                "put run_dir on a tmpfs, such as /run/holdup",
            );
        } else if run.starts_with(data) {
            // A mount of its own there is well; which it is, only the machine knows.
            warnings.push(m.about(
                "gateway.run_dir",
                "lies in data_dir, which may be frozen",
                "put it on a tmpfs, such as /run/holdup",
            ));
        } else if data.starts_with(run) {
            m.complain_of_two(
                "gateway.data_dir",
                "gateway.run_dir",
                format!("{} lies in run_dir, which a boot empties", data.display()),
                "put it on the data partition, such as /var/lib/holdup",
            );
        }
        for socket in [gateway.ingest_socket(), gateway.status_socket()] {
            fits_a_socket(m, "gateway.run_dir", &socket);
        }
    }
    gateway
}

/// Complains once a key.
pub(super) fn fits_a_socket(m: &mut Merged, key: &str, socket: &Path) {
    let bytes = socket.as_os_str().len();
    let told = m.problems.iter().any(|p| p.key == key);
    if bytes > LONGEST_SOCKET && !told {
        m.complain_of_two(
            key,
            "gateway.run_dir",
            format!(
                "makes a socket path of {bytes} bytes ({})",
                printable(&socket.to_string_lossy())
            ),
            format!("choose a shorter one: at most {LONGEST_SOCKET} bytes"),
        );
    }
}

fn power(m: &mut Merged, warnings: &mut Vec<Problem>) -> PowerSettings {
    let ms = |m: &Merged, path: &str| Duration::from_millis(m.int(path));
    let s = |m: &Merged, path: &str| Duration::from_secs(m.int(path));
    let power = PowerSettings {
        source: match m.text("power.source") {
            "battery" => Source::Battery,
            _ => Source::Capacitor,
        },
        holdup: m.maybe_int("power.holdup_ms").map(Duration::from_millis),
        glitch: ms(m, "power.glitch_ms"),
        restore: ms(m, "power.restore_ms"),
        ride_max: s(m, "power.ride_max_s"),
        low_percent: u8::try_from(m.int("power.low_percent")).unwrap_or(u8::MAX),
        recharge: s(m, "power.recharge_s"),
        settle_after: u32::try_from(m.int("power.settle_after")).unwrap_or(u32::MAX),
        settle: ms(m, "power.settle_ms"),
        park_max: s(m, "power.park_max_s"),
        on_park_max: match m.text("power.on_park_max") {
            "halt" => OnParkMax::Halt,
            "stay" => OnParkMax::Stay,
            _ => OnParkMax::PowerOff,
        },
        freeze: match m.text("power.freeze") {
            "never" => FreezePolicy::Never,
            _ => FreezePolicy::Auto,
        },
        allow_poweroff: m.bool("power.allow_poweroff"),
    };
    if m.sound(&["power.holdup_ms", "power.glitch_ms"]) {
        match power.holdup {
            Some(holdup) if power.glitch < holdup && power.glitch * 2 > holdup => {
                warnings.push(m.about(
                    "power.glitch_ms",
                    "leaves less than half of holdup_ms for the plan",
                    "lower glitch_ms, or measure the hold-up again",
                ));
            }
            Some(holdup) if power.glitch >= holdup => m.complain_of_two(
                "power.glitch_ms",
                "power.holdup_ms",
                format!(
                    "{} ms leaves nothing of holdup_ms ({}) for the plan",
                    power.glitch.as_millis(),
                    holdup.as_millis()
                ),
                "lower glitch_ms, or measure the hold-up again",
            ),
            Some(_) => {}
            None => warnings.push(m.about(
                "power.holdup_ms",
                "is not set: readiness stays unprotected",
                "measure how long the supply carries the gateway, and set that",
            )),
        }
    }
    if m.sound(&["power.settle_ms", "power.restore_ms"])
        && power.settle_after > 0
        && power.settle < power.restore
    {
        warnings.push(m.about(
            "power.settle_ms",
            "is shorter than restore_ms: repeated outages would shorten the wait",
            "raise it, or set settle_after = 0",
        ));
    }
    power
}

fn store(m: &Merged) -> StoreSettings {
    let days = m.maybe_int("store.keep_days");
    StoreSettings {
        commit_window: Duration::from_millis(m.int("store.commit_window_ms")),
        batch_rows: size(m.int("store.batch_rows")),
        keep_days: days.map(|d| u32::try_from(d).unwrap_or(u32::MAX)),
        max_bytes: m.maybe_int("store.max_bytes"),
        index: m.bool("store.index"),
        remember_ids: m.int("store.remember_ids"),
        reserve: m.int("store.reserve_mb") << 20,
    }
}

fn snapshot(m: &Merged) -> SnapshotSettings {
    let every = m.int("snapshot.every_s");
    SnapshotSettings {
        every: (every > 0).then(|| Duration::from_secs(every)),
        keep: size(m.int("snapshot.keep")),
        keep_age: m
            .maybe_int("snapshot.keep_days")
            .map(|days| Duration::from_secs(days * 86_400)),
        share_percent: u8::try_from(m.int("snapshot.share_percent")).unwrap_or(90),
    }
}

fn ingest(m: &mut Merged) -> IngestSettings {
    let ingest = IngestSettings {
        max_line_bytes: size(m.int("ingest.max_line_bytes")),
        max_clients: size(m.int("ingest.max_clients")),
        queue_bytes: size(m.int("ingest.queue_bytes")),
    };
    if m.sound(&["ingest.max_line_bytes", "ingest.queue_bytes"])
        && ingest.queue_bytes < ingest.max_line_bytes
    {
        m.complain_of_two(
            "ingest.queue_bytes",
            "ingest.max_line_bytes",
            format!(
                "{} cannot hold one line of max_line_bytes ({})",
                ingest.queue_bytes, ingest.max_line_bytes
            ),
            "raise it, or lower max_line_bytes",
        );
    }
    ingest
}

fn queue(m: &mut Merged) -> QueueSettings {
    let ms = |m: &Merged, path: &str| Duration::from_millis(m.int(path));
    let queue = QueueSettings {
        enabled: m.bool("queue.enabled"),
        max_items: m.int("queue.max_items"),
        max_bytes: m.int("queue.max_bytes"),
        ttl: m.maybe_int("queue.ttl_s").map(Duration::from_secs),
        when_full: match m.text("queue.when_full") {
            "drop_oldest_low_priority" => WhenFull::DropOldestLowPriority,
            _ => WhenFull::Reject,
        },
        retry_min: ms(m, "queue.retry_min_ms"),
        retry_max: ms(m, "queue.retry_max_ms"),
        max_retries: m.int("queue.max_retries"),
    };
    if m.sound(&["queue.retry_min_ms", "queue.retry_max_ms"]) && queue.retry_max < queue.retry_min {
        m.complain_of_two(
            "queue.retry_max_ms",
            "queue.retry_min_ms",
            format!(
                "{} is less than retry_min_ms ({})",
                queue.retry_max.as_millis(),
                queue.retry_min.as_millis()
            ),
            "raise it, or lower retry_min_ms",
        );
    }
    queue
}

fn drill(m: &Merged) -> DrillSettings {
    let days = match m.text("drill.every") {
        "weekly" => Some(7),
        "monthly" => Some(30),
        "quarterly" => Some(91),
        _ => None,
    };
    DrillSettings {
        rto: Duration::from_secs(m.int("drill.rto_s")),
        every: days.map(|d: u64| Duration::from_secs(d * 86_400)),
        home: PathBuf::from(m.text("drill.home")),
    }
}

fn console(m: &Merged, warnings: &mut Vec<Problem>) -> ConsoleSettings {
    if m.bool("console.lab") {
        warnings.push(m.about(
            "console.lab",
            "lets anybody with the cable do everything",
            "remove it before the gateway leaves the laboratory",
        ));
    }
    ConsoleSettings {
        port: PathBuf::from(m.text("console.port")),
        baud: u32::try_from(m.int("console.baud")).unwrap_or(u32::MAX),
        allowed_signers: PathBuf::from(m.text("console.allowed_signers")),
        revoked_signers: PathBuf::from(m.text("console.revoked_signers")),
        passphrase_file: m.maybe_text("console.passphrase_file").map(PathBuf::from),
        lab: m.bool("console.lab"),
    }
}

/// Ranges keep every size below what the smallest target can count.
fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn databases(m: &mut Merged, gateway: &GatewaySettings) -> Vec<DatabaseSettings> {
    let mut found: Vec<DatabaseSettings> = Vec::new();
    for entry in m.databases.clone() {
        match database(&entry, &found, gateway) {
            Ok(database) => {
                found.push(database);
            }
            Err((key, what, remedy)) => {
                let at = entry.keys.get(key).map_or(&entry.origin, |e| &e.origin);
                m.problems.push(Problem {
                    place: at.place(),
                    key: format!("database.{key}"),
                    what,
                    remedy: remedy.to_owned(),
                });
            }
        }
    }
    found.sort_by_key(|d| std::cmp::Reverse(d.priority));
    found
}

fn database(
    entry: &DatabaseEntry,
    before: &[DatabaseSettings],
    gateway: &GatewaySettings,
) -> Result<DatabaseSettings, (&'static str, String, &'static str)> {
    let path =
        database_path(entry, before, gateway).map_err(|(what, remedy)| ("path", what, remedy))?;
    let text = |name: &str| match entry.keys.get(name).map(|e| &e.value) {
        Some(Value::Text(t)) => Some(t.clone()),
        _ => None,
    };
    let priority = match entry.keys.get("priority").map(|e| &e.value) {
        Some(Value::Int(n)) => i32::try_from(*n).unwrap_or(i32::MAX),
        _ => DEFAULT_PRIORITY,
    };
    let unit = text("unit");
    if let Some((unit, (_, why))) = unit
        .as_ref()
        .and_then(|u| Some((u, NEVER_STOPPED.iter().find(|(name, _)| name == u)?)))
    {
        return Err((
            "unit",
            format!("{unit} {why}, which is never stopped"),
            "name the application's own unit, or leave it out",
        ));
    }
    Ok(DatabaseSettings {
        path,
        priority,
        unit,
    })
}

/// Units that hold the agent or process 1, on every machine.
const NEVER_STOPPED: [(&str, &str); 4] = [
    ("holdup.service", "is the agent's own"),
    ("init.scope", "holds process 1"),
    ("system.slice", "holds every service, the agent too"),
    ("-.slice", "holds every process, the agent too"),
];

fn database_path(
    entry: &DatabaseEntry,
    before: &[DatabaseSettings],
    gateway: &GatewaySettings,
) -> Result<PathBuf, (String, &'static str)> {
    let named = match entry.keys.get("path").map(|e| &e.value) {
        Some(Value::Text(t)) => Some(t.clone()),
        _ => None,
    };
    let Some(path) = named.map(PathBuf::from) else {
        return Err(("is missing".to_owned(), "add the database's path"));
    };
    let shown = path.display();
    if before.len() >= MOST_DATABASES {
        return Err((
            format!("{shown} is one too many: {MOST_DATABASES} databases can be guarded"),
            "remove those that need no guarding",
        ));
    }
    if before.iter().any(|d| d.path == path) {
        return Err((format!("{shown} is named twice"), "keep one of the two"));
    }
    if [gateway.store_path(), gateway.queue_path()].contains(&path) {
        return Err((
            format!("{shown} is the agent's own"),
            "remove it: the agent's own databases are guarded as they are",
        ));
    }
    Ok(path)
}

/// As the table of keys says.
pub(super) const DEFAULT_PRIORITY: i32 = 50;
