//! A gateway with the agent running and a client streaming, and the comparison at the end of the
//! day: what was acknowledged against what the card holds.

use std::io::Write;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::card::Card;
use crate::load::{Account, Load, Rate};
use crate::machine::{Job, Machine, MachineOptions};
use crate::parts::Parts;
use crate::patience::{Stopwatch, poll};

/// The lines of the board `qemu-virt`.
pub(crate) const POWER_FAIL: u8 = 5;
pub(crate) const BROWNOUT: u8 = 6;

/// The size of a case's card.
pub(crate) const CARD: u64 = 128 << 20;
const DATA: &str = "/data";

/// What a case adds to the usual configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// 0: not measured.
    pub(crate) holdup_ms: u32,
    pub(crate) glitch_ms: u32,
    /// Further lines of `[power]`.
    pub(crate) power: &'static str,
    /// Further tables.
    pub(crate) tables: &'static str,
}

impl Default for Setting {
    /// Hold-up and glitch times that leave an emulated machine on a busy host room.
    fn default() -> Self {
        Self {
            holdup_ms: 8000,
            glitch_ms: 100,
            power: "",
            tables: "",
        }
    }
}

impl Setting {
    pub(crate) fn toml(&self) -> String {
        let Self {
            holdup_ms,
            glitch_ms,
            power,
            tables,
        } = self;
        let holdup = match holdup_ms {
            0 => String::new(),
            ms => format!("holdup_ms = {ms}\n"),
        };
        format!(
            "[gateway]\nid = \"qemu-1\"\ndata_dir = \"{DATA}\"\nrun_dir = \"/run/holdup\"\n\n\
             [power]\nboard = \"qemu-virt\"\n{holdup}glitch_ms = {glitch_ms}\n\
             restore_ms = 500\nsettle_after = 0\n{power}\n\n{tables}\n"
        )
    }
}

/// A booted gateway whose agent runs.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) machine: Machine,
    pub(crate) agent: Job,
}

impl Scene {
    /// Boots `card`, mounts it, starts the agent. Does not wait for anything of it.
    pub(crate) fn boot(
        name: &'static str,
        parts: &Parts,
        card: &Card,
        options: &MachineOptions<'_>,
    ) -> Self {
        let machine = Machine::boot(parts, card, options);
        machine.mount(DATA);
        let agent = machine.spawn_agent();
        Self {
            name,
            machine,
            agent,
        }
    }

    /// The same with a setting and nothing else, once the agent serves.
    pub(crate) fn serving(
        name: &'static str,
        parts: &Parts,
        card: &Card,
        setting: Setting,
    ) -> Self {
        let toml = setting.toml();
        let options = MachineOptions {
            config_toml: &toml,
            ..MachineOptions::default()
        };
        let scene = Self::boot(name, parts, card, &options);
        scene.wait_for_service();
        scene
    }

    /// Waits until readings are taken and committed.
    pub(crate) fn wait_for_service(&self) {
        self.wait_for_status("service", |s| {
            s["supply"] == "Good" && s["store"] == "running"
        });
    }

    /// Asks for the status until `done` holds.
    pub(crate) fn wait_for_status(&self, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        self.machine.wait_for(what, |m| {
            if !m.is_running(&self.agent) {
                panic!(
                    "the agent is gone, waiting for {what}: {}",
                    m.log_of(&self.agent)
                );
            }
            m.status().filter(|s| done(s))
        })
    }

    pub(crate) fn wait_for_supply(&self, state: &str) -> Value {
        self.wait_for_status(state, |s| s["supply"] == state)
    }

    pub(crate) fn status(&self) -> Value {
        self.wait_for_status("a status", |_| true)
    }

    /// A client that streams a reading every 5 ms; waits for the first acknowledgements.
    pub(crate) fn load(&self) -> Load {
        let load = self.load_at(Rate::Every(Duration::from_millis(5)));
        load.wait_for("acknowledgements", |a| a.acked > 50);
        load
    }

    pub(crate) fn load_at(&self, rate: Rate) -> Load {
        Load::start(&self.machine, "feed0", rate, reading).0
    }

    /// Says on standard error, past the harness, what was seen.
    pub(crate) fn saw(&self, text: &str) {
        saw(self.name, text);
    }

    /// Says how an outage went.
    pub(crate) fn saw_outage(&self, status: &Value) {
        let o = &status["last_outage"];
        self.saw(&format!(
            "{} at {}, ended {}, edge to quiet {} ms, edge to durable {} ms",
            o["kind"], o["at"], o["ended"], o["edge_to_quiet_ms"], o["edge_to_durable_ms"]
        ));
        for s in o["steps"].as_array().into_iter().flatten() {
            let of = s["database"].as_str().unwrap_or("");
            let why = s["why"]
                .as_str()
                .map(|w| format!(" ({w})"))
                .unwrap_or_default();
            let ms = |v: &Value| v.as_u64().unwrap_or(0) as f64 / 1000.0;
            self.saw(&format!(
                "  {:>8.1} ms  {} {of} {} {:.1} ms{why}",
                ms(&s["at_us"]),
                s["step"].as_str().unwrap_or("?"),
                s["outcome"].as_str().unwrap_or("?"),
                ms(&s["took_us"]),
            ));
        }
    }
}

pub(crate) fn saw(name: &str, text: &str) {
    // Not by a print macro: the harness swallows those of tests that pass.
    writeln!(std::io::stderr(), "[{name}] {text}").ok();
}

/// The reading that line `n` (counted from 0) carries.
pub(crate) fn reading(n: u64) -> String {
    format!(
        "{{\"sensor_name\":\"s{}\",\"timestamp\":{},\"value\":{n}}}",
        n % 4,
        1_767_225_600 + n
    )
}

/// How one step of the last outage went: `done`, `dropped`, `skipped`, `failed` or `absent`.
pub(crate) fn outcome<'a>(status: &'a Value, step: &str) -> &'a str {
    status["last_outage"]["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|s| s["step"] == step)
        .and_then(|s| s["outcome"].as_str())
        .unwrap_or("absent")
}

/// Lets `time` pass while `still` must hold.
pub(crate) fn hold(time: Duration, still: impl Fn() -> bool) {
    let watch = Stopwatch::start();
    poll(time * 2, || {
        assert!(still(), "did not hold for {time:?}");
        (watch.elapsed() >= time).then_some(())
    });
}

/// The next morning: boots the same card, lets the agent recover and stop in order, and compares
/// row by row. Returns the status that the agent gave after the restart.
pub(crate) fn next_boot(
    name: &'static str,
    parts: &Parts,
    card: &Card,
    account: &Account,
) -> Value {
    let scene = Scene::serving(name, parts, card, Setting::default());
    let status = scene.status();
    scene.machine.power_off();
    compare(name, card, account);
    status
}

/// Every acknowledged line must be on the card, once.
pub(crate) fn compare(name: &str, card: &Card, account: &Account) {
    compare_from(name, card, 0, account);
}

/// The same where the load's first line carried reading `first`.
pub(crate) fn compare_from(name: &str, card: &Card, first: u64, account: &Account) {
    assert!(account.errors.is_empty(), "{:?}", account.errors);
    let (_folder, db) = database(card);
    let (missing, twice) = look_up(&db, first..first + account.acked);
    let stored: i64 = db
        .query_row("SELECT count(*) FROM readings", [], |r| r.get(0))
        .expect("rows");
    saw(
        name,
        &format!(
            "sent {}, acknowledged {}, stored {stored}, missing {}, stored twice {}",
            account.sent,
            account.acked,
            missing.len(),
            twice.len()
        ),
    );
    assert!(
        missing.is_empty(),
        "acknowledged and not stored: {missing:?}"
    );
    assert!(twice.is_empty(), "stored twice: {twice:?}");
}

/// The card's store in a temporary folder, whole.
fn database(card: &Card) -> (tempfile::TempDir, Connection) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = card.extract_database("/edge_store.db", folder.path());
    let db = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).expect("open");
    let integrity: String = db
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .expect("integrity check");
    assert_eq!(integrity, "ok");
    db.execute_batch("CREATE INDEX by_value ON readings(value)")
        .expect("index for the comparison");
    (folder, db)
}

/// Which of these readings are not there, and which are there twice.
fn look_up(db: &Connection, readings: std::ops::Range<u64>) -> (Vec<u64>, Vec<u64>) {
    let mut count = db
        .prepare("SELECT count(*) FROM readings WHERE value = ?1 AND sensor_name = ?2 AND timestamp = ?3")
        .expect("query");
    let (mut missing, mut twice) = (Vec::new(), Vec::new());
    for n in readings {
        let key = rusqlite::params![n as f64, format!("s{}", n % 4), 1_767_225_600 + n as i64];
        match count.query_row(key, |r| r.get::<_, i64>(0)).expect("row") {
            0 => missing.push(n),
            1 => {}
            _ => twice.push(n),
        }
    }
    (missing, twice)
}

/// How many readings of these ranges (the first, how many) were acknowledged, which of them are
/// missing on the card, which are there twice.
pub(crate) fn compare_ranges(card: &Card, ranges: &[(u64, u64)]) -> (u64, Vec<u64>, Vec<u64>) {
    let (_folder, db) = database(card);
    let (mut missing, mut twice) = (Vec::new(), Vec::new());
    for (first, acked) in ranges {
        let (m, t) = look_up(&db, *first..first + acked);
        missing.extend(m);
        twice.extend(t);
    }
    (ranges.iter().map(|(_, acked)| acked).sum(), missing, twice)
}
