//! The simulated board over its real socket.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdup::board::{
    BoardError, Edge, GaugeReading, Input, Inputs, Levels, fake::FakeBoard, open_inputs,
    open_outputs, read_once, survey,
};
use holdup::clock::{Clock, Mono, SystemClock};
use holdup::config::{Bias, BoardKind, BoardSettings, LineAt, LineSpec};
use rustix::event::{EventfdFlags, eventfd};
use tempfile::TempDir;

/// Long enough for any machine; reached only when a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn line(offset: u32) -> LineSpec {
    LineSpec {
        chip: Some("no-such-chip".to_owned()),
        at: LineAt::Offset(offset),
        active_high: true,
        bias: Bias::AsIs,
    }
}

fn board(kind: BoardKind) -> BoardSettings {
    BoardSettings {
        name: "bench".to_owned(),
        kind,
        abi: holdup::config::GpioAbi::Auto,
        cycles_supply: true,
        power_fail: Some(line(0)),
        brownout: Some(line(1)),
        battery_low: None,
        presence: None,
        status: Some(line(4)),
        safe_to_cut: None,
    }
}

/// A simulated board and the room for its socket.
struct Bench {
    inputs: Box<dyn Inputs>,
    control: PathBuf,
    wake: OwnedFd,
    _dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let control = dir.path().join("sim.sock");
        let inputs = open_inputs(&sim(&control)).unwrap();
        Self {
            inputs,
            control,
            wake: eventfd(0, EventfdFlags::NONBLOCK).unwrap(),
            _dir: dir,
        }
    }

    fn client(&self) -> Client {
        let stream = UnixStream::connect(&self.control).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client {
            answers: BufReader::new(stream.try_clone().unwrap()),
            stream,
        }
    }

    fn next_edge(&mut self) -> Edge {
        loop {
            if let Some(edge) = self.inputs.next_edge().unwrap() {
                return edge;
            }
            let wake = self.inputs.wait(self.wake.as_fd(), Some(PATIENCE)).unwrap();
            assert!(wake.lines, "no edge came");
        }
    }
}

fn sim(control: &Path) -> BoardSettings {
    board(BoardKind::Sim {
        control: control.to_owned(),
    })
}

struct Client {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Client {
    fn ask(&mut self, line: &str) -> String {
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

#[test]
fn a_level_is_there_when_its_ok_is() {
    let mut bench = Bench::new();
    let mut client = bench.client();
    let good = Levels {
        power_fail: Some(false),
        brownout: Some(false),
        battery_low: None,
    };
    assert_eq!(bench.inputs.levels().unwrap(), good);
    for _ in 0..200 {
        assert_eq!(client.ask("power_fail lost"), "ok");
        assert_eq!(bench.inputs.levels().unwrap().power_fail, Some(true));
        assert_eq!(client.ask("power_fail ok"), "ok");
        assert_eq!(bench.inputs.levels().unwrap(), good);
    }
}

#[test]
fn an_edge_carries_the_time_at_which_it_was_received() {
    let mut bench = Bench::new();
    let mut client = bench.client();
    let before = SystemClock.mono();
    assert_eq!(client.ask("brownout low"), "ok");
    assert_eq!(client.ask("brownout low"), "ok");
    assert_eq!(client.ask("brownout ok"), "ok");
    let after = SystemClock.mono();
    let (first, second) = (bench.next_edge(), bench.next_edge());
    assert_eq!(
        (first.input, first.asserted, first.seq),
        (Input::Brownout, true, 1)
    );
    assert_eq!(
        (second.asserted, second.seq),
        (false, 2),
        "a repeat is no edge"
    );
    assert!(before <= first.at && first.at <= second.at && second.at <= after);
    assert_eq!(bench.inputs.next_edge().unwrap(), None);
}

#[test]
fn waiting_ends_by_line_by_wake_and_by_time() {
    let mut bench = Bench::new();
    let start = SystemClock.mono();
    let short = Some(Duration::from_micros(300));
    let wake = bench.inputs.wait(bench.wake.as_fd(), short).unwrap();
    assert!(!wake.lines && !wake.woken);
    assert!(SystemClock.mono().since(start) >= Duration::from_micros(300));

    rustix::io::write(&bench.wake, &1_u64.to_ne_bytes()).unwrap();
    let wake = bench
        .inputs
        .wait(bench.wake.as_fd(), Some(PATIENCE))
        .unwrap();
    assert!(wake.woken && !wake.lines);
    rustix::io::read(&bench.wake, &mut [0; 8]).unwrap();

    let mut client = bench.client();
    let helper = std::thread::spawn(move || client.ask("power_fail lost"));
    let wake = bench.inputs.wait(bench.wake.as_fd(), None).unwrap();
    assert!(wake.lines && !wake.woken);
    assert_eq!(helper.join().unwrap(), "ok");
    assert!(bench.next_edge().asserted);
    let wake = bench
        .inputs
        .wait(bench.wake.as_fd(), Some(Duration::ZERO))
        .unwrap();
    assert!(!wake.lines, "no news twice");
}

#[test]
fn the_gauge_reads_what_was_set_as_of_now() {
    let mut bench = Bench::new();
    let mut client = bench.client();
    assert_eq!(bench.inputs.gauge(), None);
    assert_eq!(client.ask("gauge 3.71 42"), "ok");
    let before = SystemClock.mono();
    let reading = bench.inputs.gauge().unwrap();
    assert!((reading.volts, reading.percent) == (3.71, 42.0) && reading.at >= before);
    assert_eq!(
        client.ask("state"),
        "power_fail ok, brownout ok, gauge 3.71 42"
    );
    for bad in [
        "gauge NaN 50",
        "gauge 3.7 101",
        "gauge -1 50",
        "gauge inf 1",
        "gauge 1",
    ] {
        assert!(client.ask(bad).starts_with("error: "), "{bad}");
    }
    assert_eq!(bench.inputs.gauge().map(|g| g.volts), Some(3.71));
}

#[test]
fn what_is_not_understood_is_answered_with_what_is() {
    let bench = Bench::new();
    let mut client = bench.client();
    assert!(
        client
            .ask("power_fail maybe")
            .contains("allowed: power_fail lost|ok, ")
    );
    assert!(client.ask("").starts_with("error: "));
    assert_eq!(
        client.ask("battery_low low"),
        "error: battery_low is not wired on this board"
    );
    assert_eq!(
        client.ask(&"x".repeat(5_000)),
        "error: longer than 256 bytes"
    );
    client.stream.write_all(b"\xff\xfe\n").unwrap();
    assert!(client.answer().starts_with("error: not text"));
    assert_eq!(client.ask("  power_fail\t ok \r"), "ok", "still in step");
}

#[test]
fn a_bad_client_holds_up_nobody() {
    let mut bench = Bench::new();
    let mut half = bench.client();
    half.stream.write_all(b"power_fail lo").unwrap();
    // One that asks and never reads its answers is let go once its buffer is full.
    let mut deaf = bench.client();
    let mut sent = 0_u64;
    while deaf.stream.write_all(&b"state\n".repeat(100)).is_ok() {
        sent += 1;
        assert!(sent < 1_000_000, "never let go");
    }
    let crowd: Vec<Client> = (0..40).map(|_| bench.client()).collect();
    drop(crowd);
    // The crowd's places are free once the server has seen them close.
    let mut answer = String::new();
    let start = SystemClock.mono();
    while answer != "ok" {
        assert!(SystemClock.mono().since(start) < PATIENCE, "{answer}");
        let mut client = bench.client();
        if client.stream.write_all(b"brownout low\n").is_ok() {
            answer.clear();
            let _reset_when_full = client.answers.read_line(&mut answer);
            answer = answer.trim_end().to_owned();
        }
    }
    assert_eq!(half.ask("st"), "ok");
    let levels = bench.inputs.levels().unwrap();
    assert_eq!(
        (levels.power_fail, levels.brownout),
        (Some(true), Some(true))
    );
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = TempDir::new().unwrap();
    let control = dir.path().join("sim.sock");
    drop(UnixListener::bind(&control).unwrap());
    assert!(control.exists(), "left behind, as by a killed agent");

    let first = open_inputs(&sim(&control)).unwrap();
    let mode = control.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = open_inputs(&sim(&control)).unwrap_err();
    assert!(matches!(second, BoardError::SimBusy { .. }), "{second}");
    assert!(
        UnixStream::connect(&control).is_ok(),
        "the first still listens"
    );
    drop(first);
    assert!(!control.exists());

    drop(std::fs::File::create(&control).unwrap());
    let third = open_inputs(&sim(&control)).unwrap_err();
    assert!(matches!(third, BoardError::SimOccupied { .. }), "{third}");
    assert!(control.exists(), "not ours to remove");

    let nowhere = open_inputs(&sim(Path::new("/nonexistent/sim.sock"))).unwrap_err();
    assert!(
        nowhere.to_string().starts_with("/nonexistent/sim.sock: "),
        "{nowhere}"
    );
}

#[test]
fn a_client_sees_the_board_go() {
    let bench = Bench::new();
    let mut client = bench.client();
    assert_eq!(client.ask("power_fail ok"), "ok");
    drop(bench);
    let mut rest = Vec::new();
    assert_eq!(client.answers.read_to_end(&mut rest).unwrap(), 0);
}

#[test]
fn a_description_names_the_wired_lines() {
    let bench = Bench::new();
    let description = bench.inputs.describe();
    assert_eq!(description.abi, "sim");
    let lines: Vec<&str> = description.lines.iter().map(|l| l.line).collect();
    assert_eq!(lines, ["power_fail", "brownout"]);
    assert_eq!(description.missing, vec![]);
}

#[test]
fn a_board_without_a_power_fail_line_has_no_inputs() {
    let mut bare = board(BoardKind::Gpio);
    bare.power_fail = None;
    let error = open_inputs(&bare).unwrap_err().to_string();
    assert_eq!(
        error,
        "board bench has no power_fail line; describe it as [board.power_fail]"
    );
}

#[test]
fn a_chip_that_is_not_there_is_named_with_those_that_are() {
    let real = board(BoardKind::Gpio);
    let error = open_inputs(&real).unwrap_err().to_string();
    assert!(
        error.starts_with("power_fail: no gpio chip is labelled \"no-such-chip\" (there is: "),
        "{error}"
    );
    let found = survey(&real);
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|f| f.found.is_err()));
    assert!(
        read_once(&real, &line(1))
            .unwrap_err()
            .to_string()
            .starts_with("brownout: no gpio")
    );

    let mut outputs = open_outputs(&real);
    assert_eq!(outputs.missing().len(), 1, "the lamp");
    outputs.set_status(true).unwrap();
    outputs.set_safe_to_cut(true).unwrap();
    assert!(!outputs.has_safe_to_cut());
}

#[test]
fn the_simulated_outputs_remember_what_they_were_set_to() {
    let mut outputs = open_outputs(&sim(Path::new("/unused")));
    assert_eq!(
        (outputs.status(), outputs.safe_to_cut()),
        (Some(false), None)
    );
    outputs.set_status(true).unwrap();
    assert_eq!(outputs.status(), Some(true));
}

#[test]
fn the_fake_board_gives_out_what_a_test_puts_in() {
    let (handle, mut inputs) = FakeBoard::new().unwrap();
    let wake = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let at = Mono::from_nanos(77);
    handle.set(Input::PowerFail, true, at);
    handle.set_level(Input::Brownout, None);
    assert!(inputs.wait(wake.as_fd(), None).unwrap().lines);
    let edge = inputs.next_edge().unwrap().unwrap();
    assert_eq!(
        (edge.input, edge.asserted, edge.at, edge.seq),
        (Input::PowerFail, true, at, 1)
    );
    let levels = inputs.levels().unwrap();
    assert_eq!((levels.power_fail, levels.brownout), (Some(true), None));
    let reading = GaugeReading {
        volts: 3.6,
        percent: 9.0,
        charging: None,
        at,
    };
    handle.set_gauge(Some(reading));
    assert_eq!(inputs.gauge(), Some(reading));
    handle.vanish();
    assert!(matches!(inputs.levels(), Err(BoardError::Gone { .. })));
    assert!(inputs.wait(wake.as_fd(), None).is_err());
}
