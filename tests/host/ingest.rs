//! The protocol, line kind by line kind, through the real socket and the real store.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use holdup::config::{IngestSettings, StoreSettings};
use holdup::durable::Closer;
use holdup::ingest::{self, IngestError, IngestOptions, Pause, PowerNews};
use holdup::store::Store;

use crate::store_world::{INGEST, SETTINGS, World, until};

pub(crate) struct Server {
    pub(crate) world: World,
    pub(crate) store: Option<Store>,
    pub(crate) pause: watch::Sender<Option<Pause>>,
    pub(crate) power: watch::Sender<PowerNews>,
    shutdown: watch::Sender<bool>,
    served: Option<JoinHandle<Result<(), IngestError>>>,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(SETTINGS, INGEST, None)
    }

    pub(crate) fn with(store: StoreSettings, ingest: IngestSettings, pause: Option<Pause>) -> Self {
        let world = World::new();
        let store = world.start(store);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::env::var("WORKERS").map_or(2, |n| n.parse().expect("WORKERS")))
            .enable_all()
            .build()
            .expect("runtime");
        let (pause, paused) = watch::channel(pause);
        let (power, told) = watch::channel(PowerNews::default());
        let (shutdown, shut) = watch::channel(false);
        let options = IngestOptions {
            settings: ingest,
            socket: world.home.path().join("ingest.sock"),
        };
        let socket = options.socket.clone();
        let intake = store.intake();
        let served = runtime.spawn(async move {
            let listener = ingest::bind(&options.socket)?;
            ingest::serve(listener, options, intake, paused, told, shut).await;
            Ok::<(), IngestError>(())
        });
        until("it listens", || {
            std::fs::metadata(&socket).is_ok_and(|m| m.permissions().mode() & 0o777 == 0o660)
        });
        Self {
            world,
            store: Some(store),
            pause,
            power,
            shutdown,
            served: Some(served),
            runtime,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.world.home.path().join("ingest.sock")
    }

    fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.socket()).expect("connect");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("timeout");
        Client {
            answers: BufReader::new(stream.try_clone().expect("clone")),
            stream,
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("running")
    }

    pub(crate) fn shut_down(&mut self) {
        self.shutdown.send(true).ok();
        if let Some(served) = self.served.take() {
            self.runtime.block_on(served).expect("task").expect("serve");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
    }
}

struct Client {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Client {
    fn send(&mut self, lines: &str) {
        self.stream.write_all(lines.as_bytes()).expect("send");
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        if line.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&line).expect("JSON")
    }

    /// Answers up to the acknowledgement of line `n`, which is the last of them.
    fn until_acked(&mut self, n: u64) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let answer = self.answer();
            assert_ne!(answer, Value::Null, "closed before {n}: {all:?}");
            all.push(answer.clone());
            if answer["acked"].as_u64() >= Some(n) {
                return all;
            }
        }
    }

    fn errors(&mut self, n: u64) -> Vec<(u64, String)> {
        self.until_acked(n)
            .iter()
            .filter_map(|a| Some((a["line"].as_u64()?, a["error"].as_str()?.to_owned())))
            .collect()
    }
}

pub(crate) fn line(n: u64) -> String {
    format!("{{\"sensor_name\":\"s\",\"timestamp\":{n},\"value\":{n}.5,\"unit\":\"C\"}}\n")
}

#[test]
fn every_kind_of_line_counts_and_bad_ones_are_named() {
    let server = Server::start();
    let mut client = server.connect();
    let long = "x".repeat(5000);
    client.send(&format!(
        "{}\n   \r\nnot json\n{{\"client\":\"plc\"}}\n{{\"sensor_name\":\"s\",\"timestamp\":1,\"value\":1,\"id\":\"a\"}}\n{long}\n{{\"flush\":true}}\n{}",
        line(1).trim_end(),
        line(8)
    ));
    let errors = client.errors(8);
    let lines: Vec<u64> = errors.iter().map(|e| e.0).collect();
    assert_eq!(lines, [3, 6], "{errors:?}");
    assert!(errors[1].1.contains("max_line_bytes"), "{errors:?}");
    assert_eq!(server.world.rows(), 3);
}

#[test]
fn an_acknowledgement_never_runs_ahead_of_the_database() {
    let server = Server::start();
    let mut client = server.connect();
    let all: String = (1..=2000).map(line).collect();
    client.send(&all);
    let mut acked = 0;
    while acked < 2000 {
        acked = client.answer()["acked"].as_u64().expect("acked");
        assert!(server.world.rows() as u64 >= acked);
    }
    assert_eq!(server.store().stats().acked, 2000);
}

#[test]
fn an_id_needs_a_client_and_makes_a_repeat_harmless() {
    let server = Server::start();
    let with_id =
        |id: &str| format!("{{\"sensor_name\":\"s\",\"timestamp\":1,\"value\":1,\"id\":{id}}}\n");
    let mut client = server.connect();
    client.send(&with_id("7"));
    let errors = client.errors(1);
    assert!(errors[0].1.contains("\"id\" needs a client"), "{errors:?}");
    for _ in 0..2 {
        let mut client = server.connect();
        client.send("{\"client\":\"plc\"}\n");
        client.send(&(with_id("7") + &with_id("\"7\"") + &with_id("7")));
        client.until_acked(4);
    }
    assert_eq!(server.world.rows(), 2);
    assert_eq!(server.store().stats().repeats, 4);
}

#[test]
fn a_pause_is_told_at_once_keeps_the_lines_and_ends() {
    let server = Server::start();
    let mut early = server.connect();
    early.send(&line(1));
    early.until_acked(1);
    server.pause.send(Some(Pause::PowerFailing)).expect("pause");
    assert_eq!(early.answer(), json!({"paused": "power_failing"}));
    let mut late = server.connect();
    assert_eq!(late.answer(), json!({"paused": "power_failing"}));
    early.send(&line(2));
    late.send(&line(1));
    server.pause.send(Some(Pause::DiskFull)).expect("pause");
    assert_eq!(late.answer(), json!({"paused": "disk_full"}));
    assert_eq!(server.world.rows(), 1);
    server.pause.send(None).expect("resume");
    assert_eq!(late.answer(), json!({"resumed": true}));
    late.until_acked(1);
    early.until_acked(2);
    assert_eq!(server.world.rows(), 3);
}

#[test]
fn lines_taken_before_the_gate_closed_are_committed_when_it_opens() {
    let server = Server::start();
    let mut client = server.connect();
    server.world.gate.close(Closer::Power);
    client.send(&(line(1) + &line(2)));
    until("they wait", || server.store().stats().waiting_bytes > 0);
    assert_eq!(server.world.rows(), 0);
    server.world.gate.open(Closer::Power);
    client.until_acked(2);
    assert_eq!(server.world.rows(), 2);
}

#[test]
fn after_half_close_the_last_acknowledgements_still_come_then_the_end() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(&(line(1) + &line(2) + "{\"sensor_name\":\"cut"));
    client.stream.shutdown(Shutdown::Write).expect("half-close");
    let mut answers = Vec::new();
    loop {
        let answer = client.answer();
        if answer.is_null() {
            break;
        }
        answers.push(answer);
    }
    assert_eq!(
        answers.iter().filter_map(|a| a["acked"].as_u64()).max(),
        Some(2)
    );
    let last: Vec<_> = answers.iter().filter(|a| a["error"].is_string()).collect();
    assert_eq!(last.len(), 1, "{answers:?}");
    assert!(
        last[0]["error"]
            .as_str()
            .expect("text")
            .contains("was not stored")
    );
    assert_eq!(last[0]["line"], 3);
    assert_eq!(server.world.rows(), 2);
}

#[test]
fn a_line_in_many_pieces_is_one_line() {
    let server = Server::start();
    let mut client = server.connect();
    for b in line(1).as_bytes() {
        client.stream.write_all(&[*b]).expect("send");
    }
    client.until_acked(1);
    let big = format!(
        "{{\"sensor_name\":\"s\",\"timestamp\":1,\"value\":1,\"metadata\":{{\"k\":\"{}\"}}}}\n",
        "y".repeat(4000)
    );
    client.send(&big);
    client.until_acked(2);
    assert_eq!(server.world.rows(), 2);
}

#[test]
fn a_closed_gate_pushes_back_and_memory_stays_bounded() {
    let settings = IngestSettings {
        queue_bytes: 64 * 1024,
        ..INGEST
    };
    let server = Server::with(SETTINGS, settings, None);
    server.world.gate.close(Closer::Power);
    let all: String = (1..=20_000).map(line).collect();
    let mut clients: Vec<_> = (0..6).map(|_| server.connect()).collect();
    let senders: Vec<_> = clients
        .iter()
        .map(|c| {
            let (mut stream, all) = (c.stream.try_clone().expect("clone"), all.clone());
            std::thread::spawn(move || stream.write_all(all.as_bytes()).expect("send"))
        })
        .collect();
    until("the queue is full", || {
        server.store().stats().waiting_bytes >= 64 * 1024
    });
    // What is full stays bounded: each connection may overshoot by one chunk.
    for _ in 0..1000 {
        let waiting = server.store().stats().waiting_bytes;
        assert!(waiting <= 64 * 1024 + 6 * 64 * 1024, "{waiting}");
        std::thread::yield_now();
    }
    assert!(
        senders.iter().any(|s| !s.is_finished()),
        "nothing pushed back"
    );
    server.world.gate.open(Closer::Power);
    for client in &mut clients {
        client.until_acked(20_000);
    }
    for sender in senders {
        sender.join().expect("sender");
    }
    assert_eq!(server.world.rows(), 120_000);
}

#[test]
fn who_does_not_read_his_answers_stalls_only_himself() {
    let server = Server::start();
    let mut rude = server.connect();
    rude.stream.set_nonblocking(true).expect("nonblocking");
    let bad = "x\n".repeat(10_000);
    let mut taken = 0;
    let mut polite = server.connect();
    // Until the server has stopped reading from him: his own buffers are full.
    let mut refusals = 0;
    for n in 1..=2_000 {
        match rude.stream.write(bad.as_bytes()) {
            Ok(n) => taken += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => refusals += 1,
            Err(e) => panic!("{e}"),
        }
        polite.send(&line(n));
        polite.until_acked(n);
    }
    assert!(
        refusals > 0,
        "the server read {taken} bytes from one who never reads"
    );
    // And he gets all of it once he reads.
    rude.stream.set_nonblocking(false).expect("blocking");
    rude.stream.shutdown(Shutdown::Write).expect("half-close");
    let mut answers = String::new();
    rude.answers.read_to_string(&mut answers).expect("answers");
    let errors = answers.lines().filter(|l| l.contains("\"error\"")).count();
    assert_eq!(errors, taken.div_ceil(2));
}

#[test]
fn one_client_too_many_is_told_and_closed_and_hung_up_ones_make_room() {
    let settings = IngestSettings {
        max_clients: 2,
        ..INGEST
    };
    let server = Server::with(SETTINGS, settings, Some(Pause::Starting));
    let mut first = server.connect();
    assert_eq!(first.answer(), json!({"paused": "starting"}));
    let mut second = server.connect();
    assert_eq!(second.answer(), json!({"paused": "starting"}));
    let mut third = server.connect();
    assert!(
        third.answer()["error"]
            .as_str()
            .expect("error")
            .contains("max_clients")
    );
    assert_eq!(third.answer(), Value::Null);
    drop(first);
    until("there is room although nobody reads", || {
        server.connect().answer()["paused"] == "starting"
    });
}

#[test]
fn a_live_socket_is_refused_a_stale_one_replaced_and_a_file_left_alone() {
    let mut server = Server::start();
    let serve = |socket: PathBuf| {
        let (_keep, pause) = watch::channel(None);
        let (_told, power) = watch::channel(PowerNews::default());
        // Already told to stop: it only binds.
        let (_stop, shutdown) = watch::channel(true);
        let options = IngestOptions {
            settings: INGEST,
            socket,
        };
        let intake = server.store().intake();
        server.runtime.block_on(async {
            let listener = ingest::bind(&options.socket)?;
            ingest::serve(listener, options, intake, pause, power, shutdown).await;
            Ok::<(), IngestError>(())
        })
    };
    assert!(matches!(serve(server.socket()), Err(IngestError::InUse(_))));
    let stale = server.world.home.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("bind"));
    serve(stale).expect("replaced");
    assert!(matches!(
        serve(server.world.path()),
        Err(IngestError::NotASocket(_))
    ));
    server.shut_down();
    assert!(!server.socket().exists());
}

#[test]
fn shutdown_acknowledges_what_was_taken() {
    let mut server = Server::with(
        StoreSettings {
            commit_window: Duration::from_secs(3600),
            ..SETTINGS
        },
        INGEST,
        None,
    );
    let mut client = server.connect();
    client.send(&line(1));
    client.until_acked(1);
    client.send(&line(2));
    until("it waits for the window", || {
        server.store().stats().waiting_bytes > 0
    });
    server.shut_down();
    client.until_acked(2);
    assert_eq!(client.answer(), Value::Null);
}

#[test]
fn when_the_store_has_stopped_the_client_is_told_and_closed() {
    let mut server = Server::start();
    let mut client = server.connect();
    client.send(&line(1));
    client.until_acked(1);
    drop(server.store.take());
    client.send(&line(2));
    let answer = client.answer();
    assert!(
        answer["error"]
            .as_str()
            .expect("error")
            .contains("after line 1"),
        "{answer}"
    );
    assert!(answer["line"].is_null());
    assert_eq!(client.answer(), Value::Null);
}

#[test]
fn a_subscriber_that_does_not_read_is_told_the_newest_and_costs_nobody() {
    let server = Server::start();
    server.power.send_modify(|n| n.tell("first"));
    let mut deaf = UnixStream::connect(server.socket()).expect("connect");
    // Its answers fill the socket, then what is kept for it, and stay there.
    deaf.write_all(b"{\"subscribe\":\"power\"}\n")
        .expect("send");
    // One byte at a time, so that nothing of what follows is taken; then it is subscribed.
    let mut first = Vec::new();
    while first.last() != Some(&b'\n') {
        let mut byte = [0];
        deaf.read_exact(&mut byte).expect("an answer");
        first.extend(byte);
    }
    assert_eq!(first, b"{\"power\":\"first\"}\n");
    deaf.set_nonblocking(true).expect("nonblocking");
    let errors = b"nonsense\n".repeat(1000);
    let full = std::cell::Cell::new(0);
    until("it is not read from any more", || {
        match deaf.write(&errors) {
            Ok(_) => full.set(0),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                full.set(full.get() + 1);
            }
        }
        full.get() > 20
    });
    let mut reader = server.connect();
    reader.send("{\"subscribe\":\"power\"}\n");
    assert_eq!(reader.answer(), json!({"power": "first"}));
    assert_eq!(reader.answer(), json!({"acked": 1}));
    for n in 0..300 {
        let word = ["onbattery", "offbattery"][n % 2];
        server.power.send_modify(|news| news.tell(word));
        assert_eq!(reader.answer(), json!({"power": word}), "one that reads");
    }
    server.power.send_modify(|news| news.tell("last"));
    let heard = |c: &mut dyn FnMut() -> Value| {
        let mut words = Vec::new();
        while words.last().is_none_or(|w| w != "last") {
            if let Some(word) = c()["power"].as_str() {
                words.push(word.to_owned());
            }
        }
        words
    };
    heard(&mut || reader.answer());
    // Now it reads.
    deaf.set_nonblocking(false).expect("blocking");
    deaf.set_read_timeout(Some(Duration::from_secs(60)))
        .expect("time-out");
    let mut lines = BufReader::new(&deaf);
    let words = heard(&mut || {
        let mut line = String::new();
        lines.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).expect("json")
    });
    assert!(words.len() < 100, "{} words were kept for it", words.len());
}
