//! A gateway in a temporary home: the real binary, the simulated board, no root.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use holdup::clock::{Clock, SystemClock};
use serde_json::Value;

/// Longer than anything takes on a busy machine; no test concludes anything from it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The home: configuration, data, sockets.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    /// `power` are lines of `[power]`, `tables` further tables.
    pub(crate) fn with(power: &str, tables: &str) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let data = dir.path().join("data");
        Self::made(dir, &data, power, tables)
    }

    /// The same with its data on another file system.
    #[allow(dead_code, reason = "for tests/bench, which has disks of its own")]
    pub(crate) fn on(data: &Path, power: &str, tables: &str) -> Self {
        Self::made(tempfile::tempdir().expect("temp dir"), data, power, tables)
    }

    fn made(dir: tempfile::TempDir, data: &Path, power: &str, tables: &str) -> Self {
        let (at, data) = (dir.path().display(), data.display());
        let text = format!(
            "[gateway]\nid = \"host-test\"\ndata_dir = \"{data}\"\nrun_dir = \"{at}/run\"\n\n\
             [power]\nboard = \"sim\"\n{power}\n\n[board.sim]\ncontrol = \"{at}/run/sim.sock\"\n\n{tables}\n"
        );
        let home = Self { dir };
        home.write("holdup.toml", text.as_bytes());
        home
    }

    /// A capacitor of 2 s, a glitch time that a busy machine keeps, quick restore.
    pub(crate) fn new() -> Self {
        Self::with(
            "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0",
            "",
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.path("data").join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("holdup.toml")
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        File::create(&path)
            .and_then(|mut f| f.write_all(bytes))
            .expect("write");
    }

    /// Runs a verb to its end.
    pub(crate) fn holdup(&self, args: &[&str]) -> Output {
        holdup(args, &self.config())
    }

    /// Starts `holdup run`; does not wait for anything.
    pub(crate) fn start(&self) -> Agent<'_> {
        self.start_with(&[])
    }

    /// The same with further environment.
    pub(crate) fn start_with(&self, environment: &[(&str, &str)]) -> Agent<'_> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .expect("log");
        let child = Command::new(env!("CARGO_BIN_EXE_holdup"))
            .args(["run", "--config"])
            .arg(self.config())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start");
        Agent { home: self, child }
    }

    /// Starts it and waits until it serves.
    pub(crate) fn serving(&self) -> Agent<'_> {
        let mut agent = self.start();
        agent.wait_for("service", |s| {
            s["supply"] == "Good" && s["store"] == "running"
        });
        agent
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Sends one line to the simulated board; its answer.
    pub(crate) fn sim(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.path("run/sim.sock")).expect("sim socket");
        stream
            .write_all(format!("{line}\n").as_bytes())
            .expect("sim");
        let mut answer = String::new();
        BufReader::new(stream)
            .read_line(&mut answer)
            .expect("sim answers");
        answer.trim().to_owned()
    }

    pub(crate) fn power(&self, lost: bool) {
        assert_eq!(
            self.sim(if lost {
                "power_fail lost"
            } else {
                "power_fail ok"
            }),
            "ok"
        );
    }

    /// A connection to the ingest socket.
    pub(crate) fn client(&self) -> Client {
        let stream = UnixStream::connect(self.path("run/ingest.sock")).expect("ingest socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        Client {
            reader: BufReader::new(stream.try_clone().expect("clone")),
            stream,
            sent: 0,
        }
    }

    /// Every row's value.
    pub(crate) fn values(&self) -> Vec<f64> {
        let db = rusqlite::Connection::open(self.data("edge_store.db")).expect("open");
        let mut q = db
            .prepare("SELECT value FROM readings ORDER BY id")
            .expect("query");
        q.query_map([], |r| r.get(0))
            .expect("rows")
            .map(|v| v.expect("value"))
            .collect()
    }
}

/// Runs a verb with a configuration.
pub(crate) fn holdup(args: &[&str], config: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args(args)
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .output()
        .expect("run holdup")
}

/// The running agent; killed when dropped.
pub(crate) struct Agent<'a> {
    home: &'a Home,
    child: Child,
}

impl Agent<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn status(&self) -> Option<Value> {
        let mut stream = UnixStream::connect(self.home.path("run/status.sock")).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    pub(crate) fn wait_for(&mut self, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let home = self.home;
        poll(what, || {
            if let Some(ended) = self.child.try_wait().expect("wait") {
                panic!(
                    "the agent ended ({ended}) while waiting for {what}:\n{}",
                    home.log()
                );
            }
            self.status().filter(|s| done(s))
        })
    }

    pub(crate) fn wait_for_supply(&mut self, state: &str) -> Value {
        self.wait_for(state, |s| s["supply"] == state)
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
            .expect("kill");
        assert!(done.success());
    }

    /// Waits for the end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        poll("the agent's end", || self.child.try_wait().expect("wait"))
    }

    /// SIGTERM and the end, which must be a good one.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        let ended = self.ended();
        assert!(ended.success(), "{ended}:\n{}", self.home.log());
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A client of the ingest socket.
pub(crate) struct Client {
    reader: BufReader<UnixStream>,
    stream: UnixStream,
    sent: u64,
}

impl Client {
    /// Sends the next reading; its value is its number on this connection, from 0.
    pub(crate) fn send(&mut self) -> u64 {
        let n = self.sent;
        let line = format!("{{\"sensor_name\":\"t\",\"timestamp\":{n},\"value\":{n}}}\n");
        self.stream.write_all(line.as_bytes()).expect("send");
        self.sent += 1;
        n
    }

    /// Sends a line as it is.
    #[allow(
        dead_code,
        reason = "for tests/bench, whose readings have other shapes"
    )]
    pub(crate) fn put(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.stream.write_all(line.as_bytes()).expect("send");
        self.sent += 1;
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }

    /// Reads answers until so many lines are acknowledged.
    pub(crate) fn wait_acked(&mut self, n: u64) {
        loop {
            let answer = self.answer();
            if answer["acked"].as_u64().is_some_and(|a| a >= n) {
                return;
            }
            assert!(answer.get("error").is_none(), "{answer}");
        }
    }

    /// Reads answers until one has this member.
    pub(crate) fn wait_for(&mut self, member: &str) -> Value {
        loop {
            let answer = self.answer();
            if answer.get(member).is_some() {
                return answer;
            }
        }
    }
}

/// Asks again and again; panics when `PATIENCE` ran out.
#[expect(
    clippy::disallowed_methods,
    reason = "between two questions, never instead of one"
)]
pub(crate) fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = SystemClock.mono() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(SystemClock.mono() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
