//! A gateway of the drill's own: this very binary on the simulated board, in the isolated home.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{Clock, SystemClock};
use crate::durable::Medium;

use super::DrillError;
use super::child::{Done, PATIENCE, Process, Verbs};
use super::run::Limits;

/// Between two looks whether the drill was told to end.
const LOOK: Duration = Duration::from_millis(100);
/// Readings sent at once.
const PIECE: u64 = 500;

/// See the module's text. Dropping it kills its agent.
#[derive(Debug)]
pub(super) struct Gateway<'a> {
    verbs: &'a Verbs<'a>,
    dir: PathBuf,
    agent: Option<Process>,
    id: String,
    /// Readings written so far, over all agents of this gateway.
    written: u64,
}

impl<'a> Gateway<'a> {
    /// A gateway called `id` in `dir`, which is made; it runs by `limits` and by `more`, further
    /// tables of its configuration.
    pub(super) fn make(
        verbs: &'a Verbs<'a>,
        dir: PathBuf,
        id: &str,
        limits: &Limits,
        more: &str,
    ) -> Result<Self, DrillError> {
        let above = dir.parent().unwrap_or(Path::new("/"));
        let medium = Medium::open(above)?;
        medium.make_dir(&dir)?;
        let text = format!("{}\n{more}", config(id, &dir, limits));
        medium.replace(&dir.join("holdup.toml"), text.as_bytes())?;
        Ok(Self {
            verbs,
            dir,
            agent: None,
            id: id.to_owned(),
            written: 0,
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(super) fn store(&self) -> PathBuf {
        self.data().join("edge_store.db")
    }

    pub(super) fn log_of_store(&self) -> PathBuf {
        self.data().join("edge_store.db-wal")
    }

    pub(super) fn queue(&self) -> PathBuf {
        self.data().join("sync_queue.db")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("holdup.toml")
    }

    /// Runs a verb on it, to its end.
    pub(super) fn verb<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Done, DrillError> {
        self.verb_within(args, None)
    }

    /// The same, where no file can have more than `longest_file` bytes.
    pub(super) fn verb_within<A: AsRef<OsStr>>(
        &self,
        args: &[A],
        longest_file: Option<u64>,
    ) -> Result<Done, DrillError> {
        let args: Vec<_> = args.iter().map(OsString::from).collect();
        (self.verbs).run(&self.config(), &self.dir, &args, longest_file)
    }

    /// Starts a verb on it.
    pub(super) fn begin<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Process, DrillError> {
        let args: Vec<_> = args.iter().map(OsString::from).collect();
        (self.verbs).start(&self.config(), &self.dir, &args, None)
    }

    /// Starts its agent and waits until it serves; what the status says then.
    pub(super) fn serve(&mut self) -> Result<Value, DrillError> {
        let run = [OsString::from("run")];
        let agent = (self.verbs).start(&self.config(), &self.dir, &run, None)?;
        self.agent = Some(agent);
        self.wait_until("the drill's agent to serve", |s| {
            s["supply"] == "Good" && s["store"] == "running"
        })
    }

    /// Asks for the status until `done` holds.
    pub(super) fn wait_until(
        &mut self,
        what: &str,
        done: impl Fn(&Value) -> bool,
    ) -> Result<Value, DrillError> {
        let end = SystemClock.mono() + PATIENCE;
        loop {
            if let Some(agent) = &mut self.agent
                && let Some(ended) = agent.ended()?
            {
                let log = agent.log();
                let last = log.lines().next_back().unwrap_or("it said nothing");
                return Err(DrillError::Stuck(format!(
                    "the agent ended ({ended}) while the drill waited for {what}: {last}"
                )));
            }
            if let Some(status) = self.status().filter(|s| done(s)) {
                return Ok(status);
            }
            self.verbs.go_on(end, || what.to_owned())?;
        }
    }

    fn status(&self) -> Option<Value> {
        let mut stream = UnixStream::connect(self.dir.join("run/status.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        serde_json::from_slice(&answer).ok()
    }

    /// Writes `n` readings through the socket and waits until each is acknowledged.
    pub(super) fn write(&mut self, n: u64) -> Result<(), DrillError> {
        let path = self.dir.join("run/ingest.sock");
        let failed = |e| DrillError::io("write readings to", &path)(e);
        let mut stream = UnixStream::connect(&path).map_err(failed)?;
        stream.set_read_timeout(Some(LOOK)).map_err(failed)?;
        let end = SystemClock.mono() + PATIENCE;
        let (mut sent, mut acked) = (0, 0);
        let mut answers = Vec::new();
        while acked < n {
            // One piece is on its way at a time: neither side ever fills the other's socket.
            if acked == sent {
                let upto = n.min(sent + PIECE);
                let lines: String = (sent..upto).map(|i| reading(self.written + i)).collect();
                stream.write_all(lines.as_bytes()).map_err(failed)?;
                sent = upto;
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) => {
                    let why = "the agent closed the readings' socket".to_owned();
                    return Err(DrillError::Stuck(why));
                }
                Ok(read) => answers.extend_from_slice(&buffer[..read]),
                Err(e) if is_late(e.kind()) => {
                    let what = || format!("{n} readings to be acknowledged ({acked} are)");
                    self.verbs.go_on(end, what)?;
                }
                Err(e) => return Err(failed(e)),
            }
            while let Some(at) = answers.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = answers.drain(..=at).collect();
                let answer: Value = serde_json::from_slice(&line).unwrap_or(Value::Null);
                if let Some(why) = answer["error"].as_str() {
                    let why = format!("the agent refused a reading of the drill: {why}");
                    return Err(DrillError::Stuck(why));
                }
                acked = answer["acked"].as_u64().unwrap_or(acked).max(acked);
            }
        }
        self.written += n;
        Ok(())
    }

    /// SIGKILL: the write-ahead log stays as a cut leaves it.
    pub(super) fn kill(&mut self) -> Result<(), DrillError> {
        if let Some(mut agent) = self.agent.take() {
            agent.kill()?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for a good end.
    pub(super) fn stop(&mut self) -> Result<(), DrillError> {
        let Some(mut agent) = self.agent.take() else {
            return Ok(());
        };
        agent.ask_to_end()?;
        let end = SystemClock.mono() + PATIENCE;
        loop {
            if let Some(ended) = agent.ended()? {
                if ended.success() {
                    return Ok(());
                }
                let log = agent.log();
                let last = log.lines().next_back().unwrap_or("it said nothing");
                let why = format!("the drill's agent ended with {ended}: {last}");
                return Err(DrillError::Stuck(why));
            }
            self.verbs
                .go_on(end, || "the drill's agent to stop".to_owned())?;
        }
    }
}

fn is_late(kind: ErrorKind) -> bool {
    kind == ErrorKind::WouldBlock || kind == ErrorKind::TimedOut || kind == ErrorKind::Interrupted
}

/// As sensors send them: every shape that a row can have.
fn reading(n: u64) -> String {
    let mut reading = json!({
        "sensor_name": format!("drill-{}", n % 7),
        "timestamp": 1_700_000_000_000_u64 + n * 250,
        "value": (n as f64).sin() * 100.0,
    });
    if n.is_multiple_of(3) {
        reading["unit"] = json!("°C");
    }
    if n.is_multiple_of(11) {
        reading["metadata"] = json!({ "batch": n / 11, "note": "a drill's reading" });
    }
    format!("{reading}\n")
}

/// Limits are the live ones; names, places, recipients and targets are the drill's own.
fn config(id: &str, dir: &Path, limits: &Limits) -> String {
    // TOML and the text of a path: the home's name is plain, its parent's may be anything.
    let path = |name: &str| toml::Value::String(dir.join(name).display().to_string());
    let id = toml::Value::String(id.to_owned());
    format!(
        "[gateway]\nid = {id}\ndata_dir = {}\nrun_dir = {}\n\n\
         [power]\nboard = \"sim\"\nholdup_ms = 60000\nglitch_ms = 1000\nrestore_ms = 1\nsettle_after = 0\n\n\
         [board.sim]\ncontrol = {}\n\n\
         [events]\ndir = {}\n\n\
         [store]\ncommit_window_ms = {}\nbatch_rows = {}\nindex = {}\nreserve_mb = 0\n\n\
         [recovery]\nevidence_max_mb = {}\n\n\
         [queue]\nenabled = true\nmax_items = {}\n",
        path("data"),
        path("run"),
        path("run/sim.sock"),
        path("no-scripts"),
        limits.commit_window_ms,
        limits.batch_rows,
        limits.index,
        limits.evidence_max_mb,
        limits.queue_items,
    )
}
