//! The demo: the real agent in a temporary home, on the simulated board, through one bad day.
//!
//! Everything but the supply is real: the same binary, socket, database and plan. It must claim
//! no more than it shows: a SIGKILL keeps the page cache, so that memory is lost too is shown by
//! the emulated gateway of the tests, not here.

mod client;
mod gateway;
mod timeline;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::clock::{Clock, SystemClock};

use client::Client;
use gateway::Gateway;
pub use timeline::{Mood, Timeline};

/// Set for the demo's own agent.
pub const CHILD: &str = "HOLDUP_DEMO_CHILD";
/// The demo's supply lasts this long.
const HOLDUP: Duration = Duration::from_millis(1500);
/// Losses shorter than this are flickers.
const GLITCH: Duration = Duration::from_millis(80);
/// Readings a second.
const RATE: u32 = 400;

/// What went wrong with the demo itself, not with what it shows.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file, socket or process.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The demo's database cannot be read afterwards.
    #[error("cannot read the demo's store")]
    Store(#[from] rusqlite::Error),
    /// The agent did not do something in time.
    #[error("{0}; the agent's log is in {1}")]
    Stuck(String, String),
    /// Told to end.
    #[error("interrupted: the demo's agent was ended and its home removed")]
    Interrupted,
    /// The timeline cannot be written.
    #[error("cannot write the timeline")]
    Out(#[source] std::io::Error),
}

/// Tells the story; true if every acknowledged reading was there in the end. The agent never
/// outlives it; the home stays only where there is something to look for in it.
pub fn run(t: &mut Timeline<'_>) -> Result<bool, DemoError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(gateway::io("be told to end".to_owned()))?;
    }
    let mut gateway = Gateway::make(HOLDUP, GLITCH, Arc::clone(&interrupted))?;
    let told = story(t, &mut gateway);
    // A signal of the terminal ends the agent too: whatever failed then failed by that.
    let told = match told {
        Err(_) if interrupted.load(SeqCst) => Err(DemoError::Interrupted),
        told => told,
    };
    match &told {
        Ok(true) | Err(DemoError::Interrupted | DemoError::Out(_)) => gateway.remove(),
        Ok(false) | Err(DemoError::Io { .. } | DemoError::Store(_) | DemoError::Stuck(..)) => {}
    }
    let kept = told?;
    t.end(kept)?;
    Ok(kept)
}

fn story(t: &mut Timeline<'_>, gateway: &mut Gateway) -> Result<bool, DemoError> {
    t.head(&format!(
        "holdup demo: the real agent, a simulated supply that lasts {} ms, home {}",
        HOLDUP.as_millis(),
        gateway.home().display()
    ))?;
    gateway.start()?;
    let s = gateway.wait_until("the agent is ready", |s| {
        s.store == "running" && !s.reasons.iter().any(|r| r == "not_calibrated")
    })?;
    t.say(
        Mood::Good,
        "start",
        &format!(
            "agent up, supply {}, readiness {}: a loss now would take {} ms of {} ms",
            s.supply,
            s.readiness,
            s.predicted_ms,
            HOLDUP.as_millis()
        ),
    )?;

    let client = Client::start(gateway.ingest_socket(), RATE)?;
    gateway.wait_until("readings are acknowledged", |s| {
        s.acked > u64::from(RATE) / 2
    })?;
    let seen = client.account();
    t.say(Mood::Good, "ingest", &format!(
        "{RATE} readings a second through the socket: {} sent, {} acknowledged, each after its commit was synced",
        seen.sent, seen.acked
    ))?;

    flicker(t, gateway, &client)?;
    brownout(t, gateway)?;
    power_cut(t, gateway, &client)?;
    restart(t, gateway, &client)?;
    gateway.stop()?;
    prove(t, gateway, &client)
}

fn flicker(t: &mut Timeline<'_>, gateway: &Gateway, client: &Client) -> Result<(), DemoError> {
    let before = client.account();
    let began = SystemClock.mono();
    gateway.set("power_fail lost")?;
    gateway.set("power_fail ok")?;
    let lost = SystemClock.mono().since(began);
    let acked = before.acked + u64::from(RATE) / 4;
    gateway.wait_until("service goes on after the flicker", |s| {
        s.supply == "Good" && client.account().acked > acked
    })?;
    let after = client.account();
    t.say(Mood::Good, "flicker", &format!(
        "power was lost for {:.1} ms, less than the glitch time of {} ms: nothing happened, {} more readings acknowledged, pauses told to the client: {}",
        lost.as_secs_f64() * 1000.0,
        GLITCH.as_millis(),
        after.acked - before.acked,
        after.pauses
    ))
}

fn brownout(t: &mut Timeline<'_>, gateway: &Gateway) -> Result<(), DemoError> {
    let before = gateway.wait_until("there is something to checkpoint", |s| s.wal_frames > 20)?;
    gateway.set("brownout low")?;
    let after = gateway.wait_until("the early checkpoint", |s| {
        s.supply == "Brownout" && s.wal_frames < before.wal_frames
    })?;
    t.say(Mood::Warn, "brownout", &format!(
        "the rail sags: early checkpoint ({} frames in the write-ahead log before, {} after), ingest goes on",
        before.wal_frames, after.wal_frames
    ))?;
    gateway.set("brownout ok")?;
    gateway.wait_until("the brownout is over", |s| s.supply == "Good")?;
    t.say(Mood::Good, "steady", "the rail is steady again")
}

fn power_cut(
    t: &mut Timeline<'_>,
    gateway: &mut Gateway,
    client: &Client,
) -> Result<(), DemoError> {
    let edge = SystemClock.mono();
    gateway.set("power_fail lost")?;
    t.say(
        Mood::Bad,
        "power",
        &format!(
            "power fails in mid-stream: {} ms left to live",
            HOLDUP.as_millis()
        ),
    )?;
    let parked = gateway.wait_until("the gateway parks", |s| s.supply == "Parked")?;
    let told = client.account();
    t.say(Mood::Warn, "pause", &format!(
        "the client is told to wait: {} of {} readings acknowledged, the rest stays the client's",
        told.acked, told.sent
    ))?;
    if let Some(o) = &parked.last_outage {
        for s in &o.steps {
            let text = format!(
                "{:>7.1} ms after the edge: {s}{}",
                s.at_ms(),
                meaning(&s.step)
            );
            t.say(Mood::Plain, "plan", &text)?;
        }
        t.say(Mood::Good, "parked", &format!(
            "quiet {:.1} ms after the edge, durable {:.1} ms after it, of which {} ms were spent making sure that it is no flicker",
            o.edge_to_quiet_ms.unwrap_or(f64::NAN), o.edge_to_durable_ms.unwrap_or(f64::NAN), GLITCH.as_millis()
        ))?;
    }
    let left = HOLDUP.saturating_sub(SystemClock.mono().since(edge));
    client::pause(left);
    gateway.kill()?;
    t.say(
        Mood::Bad,
        "dark",
        &format!(
            "{} ms after the edge the supply is empty: the agent is killed (SIGKILL)",
            SystemClock.mono().since(edge).as_millis()
        ),
    )
}

/// A step's name means nothing to who sees it for the first time.
fn meaning(step: &str) -> &'static str {
    match step {
        "commit" => " - what is in flight is made durable",
        "quiet" => " - nothing in the agent writes any more",
        "checkpoint" => " - the write-ahead log is moved into the database",
        "end_mark" => " - a note on the disk: by it the next start knows that all this was in time",
        "syncfs" => " - write back what other programs left; no reading needs it",
        "freeze" => " - let nobody write to this file system",
        _ => "",
    }
}

fn restart(t: &mut Timeline<'_>, gateway: &mut Gateway, client: &Client) -> Result<(), DemoError> {
    gateway.set_supply_back();
    gateway.start()?;
    let s = gateway.wait_until("the agent serves again", |s| {
        s.supply == "Good" && s.store == "running"
    })?;
    let ended = s.last_outage.as_ref().map_or_else(
        || "nothing is known of the last outage".to_owned(),
        |o| format!("the last outage ({}) ended {:?}", o.kind, o.ended).to_lowercase(),
    );
    t.say(
        Mood::Good,
        "again",
        &format!(
            "power is back, the agent starts and says: {ended}; {} readings stored",
            s.stored
        ),
    )?;
    client.reconnect()?;
    let target = client.account().sent;
    gateway.wait_until("what was not acknowledged is sent again", |_| {
        client.account().acked >= target
    })?;
    let a = client.account();
    t.say(Mood::Good, "resend", &format!(
        "the client sends its {} unacknowledged readings again, with their ids, and goes on: {} acknowledged",
        a.resent, a.acked
    ))?;
    client.stop();
    Ok(())
}

/// Row by row: every acknowledged reading, with its value, exactly once.
fn prove(t: &mut Timeline<'_>, gateway: &Gateway, client: &Client) -> Result<bool, DemoError> {
    let db = Connection::open_with_flags(gateway.store(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut query =
        db.prepare("SELECT count(*) FROM readings WHERE sensor_name = ?1 AND value = ?2")?;
    let acked = client.acknowledged();
    let (mut missing, mut twice) = (0u64, 0u64);
    for r in &acked {
        match query.query_row((&r.sensor, r.value), |row| row.get::<_, i64>(0))? {
            0 => missing += 1,
            1 => {}
            _ => twice += 1,
        }
    }
    let integrity: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0))?;
    let stored: i64 = db.query_row("SELECT count(*) FROM readings", [], |r| r.get(0))?;
    let kept = missing == 0 && twice == 0 && integrity == "ok" && !acked.is_empty();
    let mood = if kept { Mood::Good } else { Mood::Bad };
    t.say(mood, "proof", &format!(
        "{} acknowledged readings looked up one by one: {missing} missing, {twice} stored twice; {stored} rows in the store, integrity check {integrity}",
        acked.len()
    ))?;
    t.proof(acked.len() as u64, missing, twice, stored);
    Ok(kept)
}
