//! `holdup ingest`: what it says and its exit code.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use holdup::cli::ingest::{IngestOpts, run};
use holdup::config::{
    BackupSettings, BoardKind, BoardSettings, ConsoleSettings, DrillSettings, EventSettings,
    FreezePolicy, GatewaySettings, OnParkMax, PowerSettings, QueueSettings, RecoverySettings,
    Settings, SnapshotSettings, Source, WhenFull,
};

use crate::ingest::{Server, line};
use crate::store_world::{INGEST, SETTINGS, until};

fn settings(server: &Server) -> Settings {
    let home = server.world.home.path().to_owned();
    let s = Duration::from_secs;
    Settings {
        gateway: GatewaySettings {
            id: "test".to_owned(),
            data_dir: home.clone(),
            run_dir: home.clone(),
        },
        power: PowerSettings {
            source: Source::Capacitor,
            holdup: None,
            glitch: s(1),
            restore: s(1),
            ride_max: s(1),
            low_percent: 20,
            recharge: s(1),
            settle_after: 0,
            settle: s(1),
            park_max: s(1),
            on_park_max: OnParkMax::Stay,
            freeze: FreezePolicy::Never,
            allow_poweroff: false,
        },
        board: BoardSettings {
            name: "sim".to_owned(),
            kind: BoardKind::Sim {
                control: home.join("sim.sock"),
            },
            abi: holdup::config::GpioAbi::Auto,
            cycles_supply: false,
            power_fail: None,
            brownout: None,
            battery_low: None,
            presence: None,
            status: None,
            safe_to_cut: None,
        },
        store: SETTINGS,
        snapshot: SnapshotSettings {
            every: None,
            keep: 1,
            keep_age: None,
            share_percent: 1,
        },
        drill: DrillSettings {
            rto: s(300),
            every: None,
            home: home.clone(),
        },
        console: ConsoleSettings {
            port: "/dev/null".into(),
            baud: 115_200,
            allowed_signers: "/nowhere".into(),
            revoked_signers: "/nowhere".into(),
            passphrase_file: None,
            lab: false,
        },
        recovery: RecoverySettings {
            evidence_max: 1 << 20,
        },
        ingest: INGEST,
        queue: QueueSettings {
            enabled: false,
            max_items: 10,
            max_bytes: 10_000,
            ttl: None,
            when_full: WhenFull::Reject,
            retry_min: s(1),
            retry_max: s(1),
            max_retries: 1,
        },
        backup: BackupSettings {
            every: None,
            jitter: s(0),
            dir: home.join("backup"),
            recipients: Vec::new(),
            include: Vec::new(),
            keys: Vec::new(),
            keep_last: 1,
            keep_days: 1,
            copies: Vec::new(),
            usb_labels: Vec::new(),
            after: None,
            after_timeout: s(1),
        },
        databases: Vec::new(),
        gauge: None,
        events: EventSettings {
            dir: PathBuf::from("/nowhere/events.d"),
            timeout: Duration::from_secs(10),
        },
    }
}

fn send(server: &Server, json: bool, input: String) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let opts = IngestOpts {
        json,
        ..IngestOpts::default()
    };
    let code = run(
        &settings(server),
        &opts,
        io::Cursor::new(input),
        &mut out,
        &mut err,
    )
    .expect("run");
    let text = |b| String::from_utf8(b).expect("UTF-8");
    (code, text(out), text(err))
}

#[test]
fn a_file_is_sent_and_counted_last_line_included() {
    let server = Server::start();
    let input: String = (1..=300).map(line).collect();
    let (code, out, err) = send(&server, false, input.trim_end().to_owned());
    assert_eq!((code, out.as_str()), (0, ""));
    assert_eq!(err, "sent 300, acknowledged 300, errors 0\n");
    assert_eq!(server.world.rows(), 300);
}

#[test]
fn bad_lines_are_named_and_change_the_exit_code() {
    let server = Server::start();
    let (code, _, err) = send(&server, false, line(1) + "{}\n" + &line(3));
    assert_eq!(code, 1);
    assert!(err.contains("line 2: \"sensor_name\" is missing"), "{err}");
    assert!(err.ends_with("sent 3, acknowledged 2, errors 1\n"), "{err}");
}

#[test]
fn json_prints_the_answers_as_they_come_and_nothing_else() {
    let server = Server::start();
    let (code, out, err) = send(&server, true, line(1) + "{}\n");
    assert_eq!((code, err.as_str()), (1, ""));
    assert!(
        out.lines()
            .all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()),
        "{out}"
    );
    assert!(out.ends_with("{\"acked\":2}\n"), "{out}");
}

#[test]
fn nobody_there_is_an_io_error_with_the_remedy() {
    let mut server = Server::start();
    let settings = settings(&server);
    server.shut_down();
    let mut err = Vec::new();
    let code = run(
        &settings,
        &IngestOpts::default(),
        io::empty(),
        &mut io::sink(),
        &mut err,
    )
    .expect("run");
    assert_eq!(code, 4);
    assert!(String::from_utf8_lossy(&err).contains("holdup run"));
}

/// A live pipe: gives what it is given, and ends when the sender is gone.
struct Live(mpsc::Receiver<String>);

impl Read for Live {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Ok(text) = self.0.recv() else {
            return Ok(0);
        };
        buffer[..text.len()].copy_from_slice(text.as_bytes());
        Ok(text.len())
    }
}

#[test]
fn a_live_input_is_forwarded_line_by_line_and_a_lost_connection_names_the_first_open_line() {
    let mut server = Server::start();
    let settings = settings(&server);
    let (pipe, input) = mpsc::channel();
    let verb = std::thread::spawn(move || {
        let mut err = Vec::new();
        let code = run(
            &settings,
            &IngestOpts::default(),
            Live(input),
            &mut io::sink(),
            &mut err,
        )
        .expect("run");
        (code, String::from_utf8(err).expect("UTF-8"))
    });
    for n in 1..=3 {
        pipe.send(line(n)).expect("send");
        until("it is stored while the input stays open", || {
            server.world.rows() == n as i64
        });
    }
    server.shut_down();
    let (code, err) = verb.join().expect("verb ends although its input does not");
    assert_eq!(code, 4);
    assert!(err.contains("line 4 is the first"), "{err}");
    drop(pipe);
}

#[test]
fn an_interrupted_ingest_says_what_was_acknowledged_and_ends_as_broken_off() {
    use std::io::Write;

    let home = crate::home::Home::new();
    let mut agent = home.serving();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args(["ingest", "--config"])
        .arg(home.config())
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("run");
    let mut input = child.stdin.take().expect("piped");
    for n in 0..3 {
        writeln!(
            input,
            "{{\"sensor_name\":\"s\",\"timestamp\":1767225600,\"value\":{n}}}"
        )
        .expect("send");
    }
    agent.wait_for("three acknowledged", |s| s["acked"] == 3);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signal");
    // Its input stays open: it must not wait for that.
    let ended = crate::home::poll("its end", || child.try_wait().expect("wait"));
    drop(input);
    let mut said = String::new();
    let mut told = child.stderr.take().expect("piped");
    told.read_to_string(&mut said).expect("read");
    assert_eq!(ended.code(), Some(4), "{said}");
    assert!(said.contains("sent 3, acknowledged 3, errors 0"), "{said}");
    assert!(said.contains("interrupted; line 4 is the first"), "{said}");
    agent.stop();
}
