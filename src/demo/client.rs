//! The demo's client: streams readings, counts what was acknowledged, sends the rest again.
//!
//! It keeps the account that the proof is made from: a reading counts as acknowledged only when
//! an `{"acked":N}` covered its line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{Clock, SystemClock};

use super::DemoError;
use super::gateway::io;

/// One reading as it was sent.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) sensor: String,
    pub(super) value: f64,
    timestamp: String,
}

/// The account's totals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    pub(super) sent: u64,
    pub(super) acked: u64,
    pub(super) pauses: u64,
    pub(super) resent: u64,
}

#[derive(Debug, Default)]
struct Book {
    readings: Vec<Reading>,
    /// The first so many are acknowledged.
    acked: usize,
    /// Where this connection's first reading stands in `readings`.
    base: usize,
    pauses: u64,
    resent: u64,
    paused: bool,
    stopped: bool,
    /// Which connection is the current one.
    connection: u32,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Client {
    book: Arc<Mutex<Book>>,
    socket: PathBuf,
    rate: u32,
}

impl Client {
    /// Connects and streams `rate` readings a second.
    pub(super) fn start(socket: PathBuf, rate: u32) -> Result<Self, DemoError> {
        let client = Self {
            book: Arc::default(),
            socket,
            rate,
        };
        client.connect()?;
        Ok(client)
    }

    /// Connects again, sends what was not acknowledged, and goes on.
    pub(super) fn reconnect(&self) -> Result<(), DemoError> {
        self.connect()
    }

    /// Stops sending.
    pub(super) fn stop(&self) {
        lock(&self.book).stopped = true;
    }

    pub(super) fn account(&self) -> Account {
        let b = lock(&self.book);
        Account {
            sent: b.readings.len() as u64,
            acked: b.acked as u64,
            pauses: b.pauses,
            resent: b.resent,
        }
    }

    /// Every reading that was acknowledged.
    pub(super) fn acknowledged(&self) -> Vec<Reading> {
        let b = lock(&self.book);
        b.readings[..b.acked].to_vec()
    }

    fn connect(&self) -> Result<(), DemoError> {
        let failed = |what: &str| io(format!("{what} {}", self.socket.display()));
        let mut stream = UnixStream::connect(&self.socket).map_err(failed("connect to"))?;
        let answers = stream.try_clone().map_err(failed("connect to"))?;
        let connection = {
            let mut b = lock(&self.book);
            b.connection += 1;
            b.base = b.acked;
            b.resent = (b.readings.len() - b.acked) as u64;
            b.paused = false;
            b.connection
        };
        stream
            .write_all(b"{\"client\":\"demo\"}\n")
            .map_err(failed("write to"))?;
        let book = Arc::clone(&self.book);
        std::thread::spawn(move || listen(answers, &book, connection));
        let (book, rate) = (Arc::clone(&self.book), self.rate);
        std::thread::spawn(move || speak(stream, &book, connection, rate));
        Ok(())
    }
}

fn speak(mut stream: UnixStream, book: &Mutex<Book>, connection: u32, rate: u32) {
    let every = Duration::from_secs(1) / rate;
    let mut at = lock(book).base;
    loop {
        let line = {
            let mut b = lock(book);
            if b.connection != connection || (b.stopped && at == b.readings.len()) {
                return;
            }
            if at == b.readings.len() {
                if b.paused {
                    drop(b);
                    pause(every);
                    continue;
                }
                b.readings.push(reading(at));
            }
            let r = &b.readings[at];
            json!({ "sensor_name": r.sensor, "timestamp": r.timestamp, "value": r.value, "unit": "°C", "id": at })
        };
        at += 1;
        // The agent was killed: what is not acknowledged is sent again later.
        if stream.write_all(format!("{line}\n").as_bytes()).is_err() {
            return;
        }
        pause(every);
    }
}

fn reading(n: usize) -> Reading {
    Reading {
        sensor: format!("boiler-{}", n % 4),
        value: n as f64 / 8.0,
        timestamp: SystemClock.wall().to_string(),
    }
}

fn listen(stream: UnixStream, book: &Mutex<Book>, connection: u32) {
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let Ok(answer) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let mut b = lock(book);
        if b.connection != connection {
            return;
        }
        if let Some(n) = answer["acked"].as_u64() {
            // The first line named the client.
            let readings = usize::try_from(n.saturating_sub(1)).unwrap_or(usize::MAX);
            b.acked = b
                .acked
                .max(b.base.saturating_add(readings))
                .min(b.readings.len());
        }
        if answer.get("paused").is_some() {
            b.pauses += 1;
            b.paused = true;
        }
        if answer.get("resumed").is_some() {
            b.paused = false;
        }
        if let Some(e) = answer["error"].as_str() {
            log::warn!("the agent refused a reading of the demo: {e}");
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the demo tells a story in real time"
)]
pub(super) fn pause(d: Duration) {
    std::thread::sleep(d);
}
