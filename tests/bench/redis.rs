//! A Redis of our own, by Debian's package: as it is measured everywhere, on a Unix socket.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::home::poll;

/// The server; killed when dropped.
pub(crate) struct Redis {
    child: Child,
    socket: PathBuf,
}

/// Installs Debian's redis-server where it is missing, as root; or says why it cannot.
pub(crate) fn install() -> Result<(), String> {
    if Command::new("redis-server")
        .arg("--version")
        .output()
        .is_ok()
    {
        return Ok(());
    }
    let done = Command::new("apt-get")
        .args(["-qq", "install", "--no-install-recommends", "--yes"])
        .args(["redis-server", "redis-tools"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("no redis-server here, and apt-get: {e}"))?;
    if done.status.success() {
        Ok(())
    } else {
        Err(format!(
            "no redis-server here, and apt-get cannot install it (needs root): {}",
            String::from_utf8_lossy(&done.stderr).trim()
        ))
    }
}

impl Redis {
    /// `dir` holds its append-only file, synced at each write when `durable`; without, nothing
    /// is written at all. The file is never rewritten meanwhile: that would slow it down.
    pub(crate) fn start(dir: &Path, run: &Path, durable: bool) -> Result<Self, String> {
        fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        let socket = run.join(if durable { "redis.sock" } else { "memory.sock" });
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendfsync", "always"])
            .args(["--auto-aof-rewrite-percentage", "0", "--daemonize", "no"])
            .args(["--appendonly", if durable { "yes" } else { "no" }])
            .arg("--dir")
            .arg(dir)
            .arg("--unixsocket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("redis-server: {e}"))?;
        poll("redis", || UnixStream::connect(&socket).ok());
        Ok(Self { child, socket })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What redis-benchmark, the C program, says of the same command.
    pub(crate) fn benchmark(
        &self,
        clients: u32,
        pipeline: u64,
        requests: u64,
        command: &[&str],
    ) -> Result<f64, String> {
        let done = Command::new("redis-benchmark")
            .arg("-s")
            .arg(&self.socket)
            .args(["-c", &clients.to_string(), "-P", &pipeline.to_string()])
            .args(["-n", &requests.to_string(), "--csv"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("redis-benchmark: {e}"))?;
        // The value has commas and quotes of its own; the rate is the eighth field from the end.
        let text = String::from_utf8_lossy(&done.stdout);
        let line = text.lines().last().unwrap_or_default();
        let rate = line.rsplit(',').nth(6).unwrap_or_default();
        rate.trim_matches('"')
            .parse()
            .map_err(|_| format!("redis-benchmark printed {text}"))
    }

    pub(crate) fn version() -> String {
        let mut text = String::new();
        let child = Command::new("redis-server")
            .arg("--version")
            .stdout(Stdio::piped())
            .spawn();
        if let Ok(mut child) = child {
            if let Some(out) = &mut child.stdout {
                out.read_to_string(&mut text).ok();
            }
            child.wait().ok();
        }
        text.split(' ').nth(2).unwrap_or("unknown").to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A request in Redis's protocol.
pub(crate) fn request(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    out.into_bytes()
}
