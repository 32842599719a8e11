//! The gateway's GPIO lines, driven from outside: QEMU's qtest socket sets the inputs of the
//! machine's PL061, the guest sees edges with kernel timestamps. And QMP, QEMU's own monitor.
//!
//! qtest answers one command at a time, in a tenth of a millisecond or so, whatever the guest is
//! doing: host timing is good to about a millisecond.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::console::connect;
use crate::patience::{GENEROUS, Stopwatch, pace};

/// Where the `virt` machine has its PL061, and two of its registers.
const PL061: u64 = 0x0903_0000;
/// The data register with all eight lines in its address mask.
const PL061_DATA: u64 = PL061 + 0x3fc;
const PL061_DIRECTION: u64 = PL061 + 0x400;

/// The eight lines of the chip `9030000.pl061`. Clones drive the same lines.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    qtest: Arc<Mutex<BufReader<UnixStream>>>,
    chip: Arc<str>,
}

impl Lines {
    /// `chip` is the PL061's path in QEMU's object tree.
    pub(crate) fn connect(socket: &Path, chip: String) -> Self {
        let stream = connect(socket, GENEROUS).expect("QEMU opens its qtest socket");
        Self {
            qtest: Arc::new(Mutex::new(BufReader::new(stream))),
            chip: chip.into(),
        }
    }

    /// Drives input `line` high or low. Does nothing once the machine is dead.
    pub(crate) fn set(&self, line: u8, high: bool) {
        self.command(&format!(
            "set_irq_in {} unnamed-gpio-in {line} {}",
            self.chip,
            u8::from(high)
        ));
    }

    /// Drives `line` high for `time`, then low.
    pub(crate) fn pulse(&self, line: u8, time: Duration) {
        self.set(line, true);
        pace(time);
        self.set(line, false);
    }

    /// Toggles `line`: `high` long high, `low` long low, until `duration` has passed; it ends low.
    /// Runs beside the test; join the handle to wait for the end.
    pub(crate) fn chatter(
        &self,
        line: u8,
        high: Duration,
        low: Duration,
        duration: Duration,
    ) -> JoinHandle<u32> {
        let lines = self.clone();
        thread::spawn(move || {
            let since = Stopwatch::start();
            let mut pulses = 0;
            while since.elapsed() < duration {
                lines.pulse(line, high);
                pulses += 1;
                pace(low);
            }
            pulses
        })
    }

    /// Whether `line` is high now, be it an input as driven here or an output as the guest has it.
    /// `None` once the machine is dead.
    pub(crate) fn level(&self, line: u8) -> Option<bool> {
        Some(self.register(PL061_DATA)? & (1 << line) != 0)
    }

    /// Whether the guest drives `line`.
    pub(crate) fn is_output(&self, line: u8) -> Option<bool> {
        Some(self.register(PL061_DIRECTION)? & (1 << line) != 0)
    }

    fn register(&self, address: u64) -> Option<u64> {
        let answer = self.command(&format!("readl {address:#x}"))?;
        let digits = answer.trim().strip_prefix("OK 0x")?;
        u64::from_str_radix(digits, 16).ok()
    }

    /// Sends one command; its answer, unless the machine is gone.
    fn command(&self, command: &str) -> Option<String> {
        let mut qtest = lock(&self.qtest);
        qtest
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())
            .ok()?;
        let mut answer = String::new();
        if qtest.read_line(&mut answer).ok()? == 0 {
            return None;
        }
        assert!(
            answer.starts_with("OK"),
            "qtest refused {command}: {answer}"
        );
        Some(answer)
    }
}

/// QEMU's monitor.
#[derive(Debug)]
pub(crate) struct Qmp(Mutex<BufReader<UnixStream>>);

impl Qmp {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = connect(socket, GENEROUS).expect("QEMU opens its monitor socket");
        let qmp = Self(Mutex::new(BufReader::new(stream)));
        qmp.execute("qmp_capabilities", json!({}));
        qmp
    }

    /// Executes `command`; what it returned.
    pub(crate) fn execute(&self, command: &str, arguments: Value) -> Value {
        let mut monitor = lock(&self.0);
        let request = json!({"execute": command, "arguments": arguments});
        monitor
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())
            .expect("QEMU reads its monitor");
        loop {
            let mut line = String::new();
            let count = monitor
                .read_line(&mut line)
                .expect("QEMU answers its monitor");
            assert!(count > 0, "QEMU closed its monitor at {command}");
            let answer: Value = serde_json::from_str(&line).expect("QMP speaks JSON");
            if let Some(error) = answer.get("error") {
                panic!("QEMU refused {command}: {error}");
            }
            // The greeting and events have no "return".
            if let Some(result) = answer.get("return") {
                return result.clone();
            }
        }
    }

    /// The path of the machine's PL061 in the object tree; its number differs between machines.
    pub(crate) fn find_pl061(&self) -> String {
        let objects = self.execute("qom-list", json!({"path": "/machine/unattached"}));
        objects
            .as_array()
            .into_iter()
            .flatten()
            .find(|object| object["type"] == "child<pl061>")
            .and_then(|object| object["name"].as_str())
            .map(|name| format!("/machine/unattached/{name}"))
            .expect("the virt machine has a PL061")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
