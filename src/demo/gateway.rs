//! The demo's gateway: a temporary home, the agent as a child process, the simulated supply.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::agent::Status;
use crate::clock::{Clock, SystemClock};

use super::DemoError;
use super::client::pause;

const PATIENCE: Duration = Duration::from_secs(10);

/// See the module's text. Dropping it kills the agent and keeps the home.
#[derive(Debug)]
pub(super) struct Gateway {
    home: PathBuf,
    agent: Option<Child>,
    interrupted: Arc<AtomicBool>,
}

impl Gateway {
    /// Makes the home and its configuration; `interrupted` ends every waiting.
    pub(super) fn make(
        holdup: Duration,
        glitch: Duration,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self, DemoError> {
        let name = format!(
            "holdup-demo-{}-{}",
            std::process::id(),
            SystemClock.wall().as_millis()
        );
        let home = std::env::temp_dir().join(name);
        let shown = home.display().to_string();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&home)
            .map_err(io(format!("make {shown}")))?;
        let config = format!(
            "[gateway]\nid = \"demo\"\ndata_dir = \"{shown}/data\"\nrun_dir = \"{shown}/run\"\n\n\
             [power]\nboard = \"sim\"\nsource = \"capacitor\"\nholdup_ms = {}\nglitch_ms = {}\n\
             restore_ms = 500\n\n[board.sim]\ncontrol = \"{shown}/run/sim.sock\"\n",
            holdup.as_millis(),
            glitch.as_millis()
        );
        File::create(home.join("holdup.toml"))
            .and_then(|mut f| f.write_all(config.as_bytes()))
            .map_err(io("write the demo's configuration".to_owned()))?;
        Ok(Self {
            home,
            agent: None,
            interrupted,
        })
    }

    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    pub(super) fn store(&self) -> PathBuf {
        self.home.join("data/edge_store.db")
    }

    pub(super) fn ingest_socket(&self) -> PathBuf {
        self.home.join("run/ingest.sock")
    }

    /// Starts the agent: this very binary.
    pub(super) fn start(&mut self) -> Result<(), DemoError> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(io(format!("open {}", self.log().display())))?;
        let exe = std::env::current_exe().map_err(io("find this program".to_owned()))?;
        let child = Command::new(exe)
            .env(super::CHILD, "1")
            .arg("run")
            .arg("--config")
            .arg(self.home.join("holdup.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(io("start the agent".to_owned()))?;
        self.agent = Some(child);
        Ok(())
    }

    /// Sends one line to the simulated board; when this returns the level has changed.
    pub(super) fn set(&self, line: &str) -> Result<(), DemoError> {
        let talk = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(self.home.join("run/sim.sock"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(format!("{line}\n").as_bytes())?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            Ok(answer)
        };
        let answer = talk().map_err(io(format!("set the simulated board to {line:?}")))?;
        if answer.trim() == "ok" {
            Ok(())
        } else {
            Err(self.stuck(format!(
                "the simulated board answered {:?} to {line:?}",
                answer.trim()
            )))
        }
    }

    /// The supply's lines live in the agent: a new agent starts with good ones.
    pub(super) fn set_supply_back(&mut self) {
        self.agent = None;
    }

    /// Asks for the status until `done` holds.
    pub(super) fn wait_until(
        &self,
        what: &str,
        done: impl Fn(&Status) -> bool,
    ) -> Result<Status, DemoError> {
        let end = SystemClock.mono() + PATIENCE;
        loop {
            match self.status() {
                _ if self.interrupted.load(SeqCst) => return Err(DemoError::Interrupted),
                Some(s) if done(&s) => return Ok(s),
                _ if SystemClock.mono() >= end => {
                    return Err(self.stuck(format!("waited {} s until {what}", PATIENCE.as_secs())));
                }
                _ => pause(Duration::from_millis(5)),
            }
        }
    }

    fn status(&self) -> Option<Status> {
        let mut stream = UnixStream::connect(self.home.join("run/status.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        serde_json::from_slice(&answer).ok()
    }

    /// SIGKILL: as sudden as it gets without losing the kernel.
    pub(super) fn kill(&mut self) -> Result<(), DemoError> {
        if let Some(mut agent) = self.agent.take() {
            agent
                .kill()
                .and_then(|()| agent.wait())
                .map_err(io("kill the agent".to_owned()))?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub(super) fn stop(&mut self) -> Result<(), DemoError> {
        let Some(mut agent) = self.agent.take() else {
            return Ok(());
        };
        if let Some(pid) = i32::try_from(agent.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)
                .map_err(|e| io("stop the agent".to_owned())(e.into()))?;
        }
        let ended = agent.wait().map_err(io("wait for the agent".to_owned()))?;
        if ended.success() {
            Ok(())
        } else {
            Err(self.stuck(format!("the agent ended with {ended}")))
        }
    }

    /// Removes the home, after whoever writes there.
    pub(super) fn remove(mut self) {
        self.end_agent();
        if let Err(e) = fs::remove_dir_all(&self.home) {
            log::warn!("cannot remove {}: {e}", self.home.display());
        }
    }

    /// Only on the way out of a failure; there is nobody left to tell.
    fn end_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().and_then(|()| agent.wait()).ok();
        }
    }

    fn log(&self) -> PathBuf {
        self.home.join("agent.log")
    }

    fn stuck(&self, what: String) -> DemoError {
        DemoError::Stuck(what, self.log().display().to_string())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.end_agent();
    }
}

pub(super) fn io(what: String) -> impl FnOnce(std::io::Error) -> DemoError {
    move |source| DemoError::Io { what, source }
}
