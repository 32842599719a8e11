//! Readings streamed into the gateway from the host, and the account of what it acknowledged.
//!
//! The host keeps the account because the gateway's own would die with it. The guest runs
//! `holdup ingest` on a virtio port, with the port as its standard input and output; the host
//! writes readings there and reads the answers. An acknowledgement that the host has read was
//! printed before the power went, so nothing in [`Account::acked`] may ever be missing later.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::console::is_timeout;
use crate::machine::{CONFIG, Job, Machine};
use crate::patience::{GENEROUS, pace, poll};

/// How often the threads look whether they are to end.
const GLANCE: Duration = Duration::from_millis(100);

/// How fast readings are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rate {
    /// As fast as the gateway reads them.
    FlatOut,
    /// One each so long.
    Every(Duration),
}

/// What was sent and what came back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    /// Lines begun; the gateway may have seen fewer.
    pub(crate) sent: u64,
    /// The first so many lines are durable, the gateway said, or had their error.
    pub(crate) acked: u64,
    /// Each `{"paused":...}`: its reason and what was acknowledged before it.
    pub(crate) pauses: Vec<(String, u64)>,
    /// How many `{"resumed":true}` came.
    pub(crate) resumed: u64,
    /// `{"error":...}` lines, whole.
    pub(crate) errors: Vec<String>,
    /// Whatever else was printed.
    pub(crate) others: Vec<String>,
    /// The gateway closed the connection, or is dead.
    pub(crate) ended: bool,
}

impl Account {
    /// Whether the last thing heard was a pause.
    pub(crate) fn is_paused(&self) -> bool {
        self.pauses.len() as u64 > self.resumed
    }
}

/// A client of the gateway that sends readings until it is stopped or the gateway dies.
#[derive(Debug)]
pub(crate) struct Load {
    account: Arc<Mutex<Account>>,
    stop: Arc<AtomicBool>,
    hang_up: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    stream: UnixStream,
}

impl Load {
    /// Streams `reading(0)`, `reading(1)`, … into a `holdup ingest` in the guest, over virtio port
    /// `feed` (one of [`crate::machine::FEEDS`]).
    pub(crate) fn start(
        machine: &Machine,
        feed: &str,
        rate: Rate,
        reading: impl Fn(u64) -> String + Send + 'static,
    ) -> (Self, Job) {
        Self::through(
            machine,
            feed,
            &format!("holdup ingest --json --config {CONFIG}"),
            rate,
            reading,
        )
    }

    /// The same with any other `program` that reads lines and answers on standard output.
    pub(crate) fn through(
        machine: &Machine,
        feed: &str,
        program: &str,
        rate: Rate,
        reading: impl Fn(u64) -> String + Send + 'static,
    ) -> (Self, Job) {
        // The host end first: a port nobody listens on reads as end of file.
        let stream = machine.feed(feed);
        let port = format!("/dev/virtio-ports/{feed}");
        // A port opens once, for both directions.
        let job = machine.spawn(feed, &format!("{program} 0<>{port} 1>&0"));
        let account = Arc::new(Mutex::new(Account::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let hang_up = Arc::new(AtomicBool::new(false));
        stream
            .set_read_timeout(Some(GLANCE))
            .expect("a time-out above zero");
        stream
            .set_write_timeout(Some(GLANCE))
            .expect("a time-out above zero");
        let sender = {
            let (stream, account) = (clone(&stream), account.clone());
            let (stop, hang_up) = (stop.clone(), hang_up.clone());
            thread::spawn(move || send(stream, rate, &reading, &account, [&stop, &hang_up]))
        };
        let reader = {
            let (stream, account, hang_up) = (clone(&stream), account.clone(), hang_up.clone());
            thread::spawn(move || receive(stream, &account, &hang_up))
        };
        let load = Self {
            account,
            stop,
            hang_up,
            threads: vec![sender, reader],
            stream,
        };
        (load, job)
    }

    /// The account as it is now.
    pub(crate) fn account(&self) -> Account {
        self.account
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the account satisfies `condition`, and returns it.
    pub(crate) fn wait_for(&self, what: &str, condition: impl Fn(&Account) -> bool) -> Account {
        poll(GENEROUS, || {
            Some(self.account()).filter(|account| condition(account))
        })
        .unwrap_or_else(|| panic!("waited in vain for {what}: {:?}", self.account()))
    }

    /// Sends nothing more, waits until all that was sent is acknowledged, and hangs up. The
    /// account is that of the readings.
    pub(crate) fn finish(mut self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        poll(GENEROUS, || self.threads[0].is_finished().then_some(()))
            .unwrap_or_else(|| panic!("the gateway took no more lines: {:?}", self.account()));
        // Asks for the commit of a last batch that would wait for its window; counts as a line.
        lock_and(&self.account, |account| account.sent += 1);
        write_line(&mut self.stream, "{\"flush\":true}", &self.hang_up);
        self.wait_for("the last acknowledgement", |account| {
            account.ended || account.acked >= account.sent
        });
        let mut account = self.close();
        assert_eq!(account.acked, account.sent, "the gateway hung up first");
        // The flush was no reading.
        account.sent -= 1;
        account.acked -= 1;
        account
    }

    /// Ends both directions now; what the gateway had acknowledged by then. For after a power cut.
    pub(crate) fn close(mut self) -> Account {
        for ended in self.end() {
            ended.expect("a thread of the load panicked");
        }
        self.account()
    }

    fn end(&mut self) -> Vec<thread::Result<()>> {
        self.stop.store(true, Ordering::Relaxed);
        self.hang_up.store(true, Ordering::Relaxed);
        let ended = self.threads.drain(..).map(JoinHandle::join).collect();
        self.stream.shutdown(std::net::Shutdown::Both).ok();
        ended
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.end());
    }
}

fn send(
    mut stream: UnixStream,
    rate: Rate,
    reading: &dyn Fn(u64) -> String,
    account: &Mutex<Account>,
    [stop, hang_up]: [&AtomicBool; 2],
) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // Counted first: an acknowledgement must never overtake the account.
        lock_and(account, |account| account.sent += 1);
        if !write_line(&mut stream, &reading(number), hang_up) {
            return;
        }
        if let Rate::Every(time) = rate {
            pace(time);
        }
    }
}

/// Writes a whole line, however long the gateway makes it wait; false when it was told to hang up
/// while it waited, or the gateway is gone: then half a line may have gone.
fn write_line(stream: &mut UnixStream, line: &str, hang_up: &AtomicBool) -> bool {
    let line = format!("{line}\n");
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if is_timeout(&error) => {
                if hang_up.load(Ordering::Relaxed) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

fn receive(stream: UnixStream, account: &Mutex<Account>, hang_up: &AtomicBool) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while !hang_up.load(Ordering::Relaxed) {
        match reader.read_until(b'\n', &mut line) {
            Ok(count) if count > 0 && line.ends_with(b"\n") => {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                lock_and(account, |account| note(account, text));
                line.clear();
            }
            // What a time-out left in `line` is continued.
            Err(error) if is_timeout(&error) => {}
            Ok(_) | Err(_) => {
                lock_and(account, |account| account.ended = true);
                return;
            }
        }
    }
}

fn note(account: &mut Account, line: String) {
    let answer: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
    if let Some(acked) = answer["acked"].as_u64() {
        assert!(acked >= account.acked, "acknowledgements went back: {line}");
        account.acked = acked;
    } else if let Some(reason) = answer["paused"].as_str() {
        account.pauses.push((reason.to_owned(), account.acked));
    } else if answer["resumed"] == true {
        account.resumed += 1;
    } else if answer.get("error").is_some() && answer.get("line").is_some() {
        account.errors.push(line);
    } else {
        account.others.push(line);
    }
}

fn lock_and(account: &Mutex<Account>, change: impl FnOnce(&mut Account)) {
    change(&mut account.lock().unwrap_or_else(PoisonError::into_inner));
}

fn clone(stream: &UnixStream) -> UnixStream {
    stream.try_clone().expect("a second handle of a socket")
}
