//! What a flood at the technician's port costs: the age of an acknowledgement while 1,000 readings
//! a second come in, without and with 10 MB of random bytes on the console's line, in turns in one
//! run; and the memory of both processes before and after.
//!
//! The line is a pseudo-terminal, which takes bytes a thousand times as fast as a serial port does.
#![allow(
    clippy::print_stdout,
    reason = "a benchmark's result is what it prints"
)]

#[path = "../support/disk.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod disk;
#[path = "../support/home.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod home;
#[allow(dead_code, reason = "shared by the benchmarks")]
mod report;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use disk::Disk;
use holdup::clock::{Clock, Mono, SystemClock};
use home::Home;
use report::{grouped, median, quantile};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

const READING: &str = "{\"sensor_name\":\"boiler-1\",\"timestamp\":1767225600000,\"value\":71.5}\n";
/// A burst of so many readings, each so often: 1,000 readings a second.
const BURST: u64 = 10;
const EVERY: Duration = Duration::from_millis(10);
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 6;
/// Bytes of a whole flood.
const FLOOD: u64 = 10_000_000;
const WANTED: f64 = 2.0;
/// KiB that a process may grow by.
const GROWS: i64 = 512;

fn main() -> Result<(), String> {
    let disk = match Disk::new(512) {
        Ok(disk) => disk,
        Err(why) => {
            println!("console: SKIPPED: no loop device with ext4 on this machine ({why})");
            return Ok(());
        }
    };
    report::title("A flood on the technician's line", &disk.mount());
    let home = Home::on(&disk.mount().join("holdup"), "holdup_ms = 4000", "");
    let agent = home.serving();
    let failed = |e: io::Error| e.to_string();
    let mut line = Line::open(&home).map_err(failed)?;
    let console = line.console.id();
    let mut load = Load::connect(&home).map_err(failed)?;
    // Until the agent's caches are full.
    load.drive(10 * ROUND).map_err(failed)?;
    let before = [memory(agent.pid())?, memory(console)?];
    let mut ages = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        line.floods.store(false, Relaxed);
        ages[0].push(load.drive(ROUND).map_err(failed)?);
        line.floods.store(true, Relaxed);
        ages[1].push(load.drive(ROUND).map_err(failed)?);
    }
    line.floods.store(true, Relaxed);
    while line.sent.load(Relaxed) < FLOOD {
        load.drive(ROUND).map_err(failed)?;
    }
    line.floods.store(false, Relaxed);
    let after = [memory(agent.pid())?, memory(console)?];
    let sent = line.sent.load(Relaxed);
    let ratios: Vec<f64> = ages[0].iter().zip(&ages[1]).map(|(a, b)| b / a).collect();
    let ms = |all: &[f64]| format!("{:.1} ms", median(all));
    report::table(
        &["", "ack p99, median of rounds"],
        &[
            vec!["quiet line".to_owned(), ms(&ages[0])],
            vec![
                format!("flood, {} bytes", grouped(sent as f64)),
                ms(&ages[1]),
            ],
        ],
    );
    let ratio = median(&ratios);
    report::target(
        "ack p99, flood to none",
        &format!("{ratio:.2}x"),
        "2x",
        ratio <= WANTED,
    );
    for (name, n) in [("the agent", 0), ("the console", 1)] {
        let grown = after[n] - before[n];
        report::target(
            &format!("{name} grew, of {} KiB", before[n]),
            &format!("{grown} KiB"),
            "512 KiB",
            grown <= GROWS,
        );
    }
    line.end();
    drop(load);
    agent.stop();
    Ok(())
}

/// Resident KiB.
fn memory(pid: u32) -> Result<i64, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string())?;
    let row = status.lines().find(|l| l.starts_with("VmRSS:"));
    let number = row.and_then(|r| r.split_ascii_whitespace().nth(1));
    number
        .and_then(|n| n.parse().ok())
        .ok_or("no VmRSS".to_owned())
}

/// The laptop's end of the line: floods when told to, and reads all that comes.
struct Line {
    console: Child,
    floods: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Line {
    fn open(home: &Home) -> io::Result<Self> {
        let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&main)?;
        unlockpt(&main)?;
        let name = ptsname(&main, Vec::new())?;
        fcntl_setfl(&main, fcntl_getfl(&main)? | OFlags::NONBLOCK)?;
        let console = Command::new(env!("CARGO_BIN_EXE_holdup"))
            .arg("--config")
            .arg(home.config())
            .args(["console", "--port"])
            .arg(name.to_string_lossy().as_ref())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let floods = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (on, count, end) = (Arc::clone(&floods), Arc::clone(&sent), Arc::clone(&stop));
        let thread = std::thread::spawn(move || flood(&File::from(main), &on, &count, &end));
        Ok(Self {
            console,
            floods,
            sent,
            stop,
            thread: Some(thread),
        })
    }

    fn end(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        self.console.kill().ok();
        self.console.wait().ok();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end();
    }
}

fn flood(mut line: &File, on: &AtomicBool, count: &AtomicU64, end: &AtomicBool) {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut noise, mut back) = ([0u8; 512], [0u8; 4096]);
    while !end.load(Relaxed) {
        if on.load(Relaxed) {
            for byte in &mut noise {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                *byte = (seed >> 32) as u8;
            }
            match line.write(&noise) {
                Ok(n) => {
                    count.fetch_add(n as u64, Relaxed);
                }
                Err(_) => wait(Duration::from_micros(200)),
            }
        } else {
            wait(Duration::from_millis(1));
        }
        // What came is thrown away; nothing there is no end.
        match line.read(&mut back) {
            Ok(_) | Err(_) => {}
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a load has its own pace")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// 1,000 readings a second on one connection.
struct Load {
    stream: UnixStream,
    sent: u64,
    acked: u64,
    line: Vec<u8>,
}

impl Load {
    fn connect(home: &Home) -> io::Result<Self> {
        let stream = UnixStream::connect(home.path("run/ingest.sock"))?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            sent: 0,
            acked: 0,
            line: Vec::new(),
        })
    }

    /// For `time`, and until all is acknowledged; the 99th percentile of the bursts' ages, in ms.
    fn drive(&mut self, time: Duration) -> io::Result<f64> {
        let clock = SystemClock;
        let began = clock.mono();
        let burst = READING.repeat(BURST as usize);
        let mut open: Vec<(u64, Mono)> = Vec::new();
        let mut ages = Vec::new();
        let mut next = began;
        loop {
            let now = clock.mono();
            let over = now.since(began) >= time;
            if over && open.is_empty() {
                return Ok(quantile(&ages, 0.99));
            }
            if !over && now >= next {
                self.stream.write_all(burst.as_bytes())?;
                self.sent += BURST;
                open.push((self.sent, now));
                next = next + EVERY;
            }
            self.hear()?;
            let now = clock.mono();
            let acked = self.acked;
            open.retain(|(upto, at)| {
                let waits = *upto > acked;
                if !waits {
                    ages.push(now.since(*at).as_secs_f64() * 1000.0);
                }
                waits
            });
            wait(Duration::from_micros(300));
        }
    }

    fn hear(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let n = match self.stream.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        };
        for byte in bytes.get(..n).unwrap_or_default() {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let text = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            let number = text
                .strip_prefix("{\"acked\":")
                .and_then(|t| t.strip_suffix('}'));
            match number.and_then(|n| n.parse().ok()) {
                Some(n) => self.acked = n,
                None => return Err(io::Error::other(text)),
            }
        }
        Ok(())
    }
}
