//! `holdup ingest < FILE.jsonl`: sends lines to the agent and says what became of them.
//!
//! It promises to forward what arrives at once, be it a file, a pipe or a character device,
//! and to say which lines are durable and which is the first that is not known to be.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use crate::config::Settings;

/// All was acknowledged.
const OK: u8 = 0;
/// Some lines had errors.
const ERRORS: u8 = 1;
/// The connection was lost before all was acknowledged.
const LOST: u8 = 4;

/// Options of `holdup ingest`.
#[derive(Debug, Clone, Copy, Default)]
pub struct IngestOpts {
    /// Print the agent's answers as they come, one JSON object a line.
    pub json: bool,
    /// Take SIGINT: what was acknowledged by then is said before the end.
    pub interruptible: bool,
    /// Show progress: true where stderr is a terminal and `json` is off.
    pub progress: bool,
}

/// What the agent answers; fields that a later agent adds are not ours to judge.
#[derive(Debug, Deserialize)]
struct Answer {
    acked: Option<u64>,
    error: Option<String>,
    line: Option<u64>,
    paused: Option<String>,
    #[serde(default)]
    resumed: bool,
    power: Option<String>,
}

/// Lines on their way.
#[derive(Debug, Default)]
struct Sent {
    lines: AtomicU64,
    /// The end of the input was reached and sent.
    all: AtomicBool,
    /// The input, not the connection, failed.
    input_failed: AtomicBool,
    /// SIGINT came.
    interrupted: AtomicBool,
}

/// Sends `stdin` to the agent's socket; returns the exit code.
pub fn run(
    settings: &Settings,
    opts: &IngestOpts,
    stdin: impl Read + Send + 'static,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> anyhow::Result<u8> {
    let path = settings.gateway.ingest_socket();
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(e) => {
            let refused = e.kind() == io::ErrorKind::PermissionDenied;
            let remedy = if refused {
                "send as root or as a member of the agent's group"
            } else {
                "start it with `holdup run`"
            };
            let why = format!("no agent answers at {} ({e}); {remedy}", path.display());
            broken_off(&why, opts, stdout, stderr)?;
            return Ok(LOST);
        }
    };
    let answers = stream
        .try_clone()
        .with_context(|| format!("cannot use the connection to {}", path.display()))?;
    let sent = Arc::new(Sent::default());
    if opts.interruptible {
        let stream = stream.try_clone().context("cannot take SIGINT")?;
        end_at_sigint(stream, Arc::clone(&sent)).context("cannot take SIGINT")?;
    }
    let counted = Arc::clone(&sent);
    // Not joined when the connection is lost: it may be waiting for input that never comes.
    let sender = std::thread::Builder::new()
        .name("ingest-send".to_owned())
        .spawn(move || forward(stdin, stream, &counted))
        .context("cannot start the sending thread")?;
    let told = listen(BufReader::new(answers), opts, &sent, stdout, stderr)?;
    let interrupted = sent.interrupted.load(SeqCst);
    let mut input_error = None;
    // After SIGINT it may still wait for input.
    let ended = sent.all.load(SeqCst) || sent.input_failed.load(SeqCst);
    if ended && !interrupted {
        match sender.join() {
            Ok(done) => input_error = done.err(),
            Err(_) => anyhow::bail!("the sending thread panicked"),
        }
    }
    if opts.progress {
        writeln!(stderr)?;
    }
    let lines = sent.lines.load(SeqCst);
    let complete = sent.all.load(SeqCst) && told.acked >= lines;
    if !opts.json {
        writeln!(
            stderr,
            "sent {lines}, acknowledged {}, errors {}",
            told.acked.saturating_sub(told.errors),
            told.errors
        )?;
    }
    let first = told.acked + 1;
    let lost = if let Some(e) = input_error {
        let sent = match lines {
            0 => "nothing was sent".to_owned(),
            n => format!("line {n} was the last one sent"),
        };
        format!("the input cannot be read: {e}; {sent}")
    } else if interrupted {
        format!("interrupted; line {first} is the first that is not acknowledged")
    } else if !complete {
        format!(
            "the connection was lost; line {first} is the first that is not acknowledged, send \
             again from there"
        )
    } else {
        String::new()
    };
    if !lost.is_empty() {
        broken_off(&lost, opts, stdout, stderr)?;
        return Ok(LOST);
    }
    Ok(if told.errors > 0 { ERRORS } else { OK })
}

/// After SIGINT nothing more is sent; the agent has a moment to acknowledge what it has.
fn end_at_sigint(stream: UnixStream, sent: Arc<Sent>) -> io::Result<()> {
    const MOMENT: Duration = Duration::from_secs(1);
    let mut signals = Signals::new([SIGINT])?;
    std::thread::Builder::new()
        .name("ingest-signal".to_owned())
        .spawn(move || {
            if signals.forever().next().is_some() {
                sent.interrupted.store(true, SeqCst);
                // Closed already is what is wanted.
                stream.shutdown(Shutdown::Write).ok();
                std::thread::park_timeout(MOMENT);
                stream.shutdown(Shutdown::Both).ok();
            }
        })?;
    Ok(())
}

fn broken_off(
    why: &str,
    opts: &IngestOpts,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> anyhow::Result<()> {
    if opts.json {
        writeln!(stdout, "{}", json!({ "error": why }))?;
    }
    writeln!(stderr, "error: {why}")?;
    Ok(())
}

/// Forwards what is there, as soon as it is there; returns an error of the input only.
fn forward(mut input: impl Read, mut stream: UnixStream, sent: &Sent) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut last = b'\n';
    loop {
        let n = match input.read(&mut buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                sent.input_failed.store(true, SeqCst);
                // The agent still acknowledges what it has.
                stream.shutdown(Shutdown::Write).ok();
                return Err(e);
            }
        };
        let mut part = &buffer[..n];
        if n == 0 {
            if last == b'\n' {
                break;
            }
            // A last line without its newline is a line all the same.
            part = b"\n";
        }
        // Counted first: an acknowledgement must not be ahead of the count.
        let lines = part.iter().filter(|b| **b == b'\n').count();
        sent.lines.fetch_add(lines as u64, SeqCst);
        if stream.write_all(part).is_err() {
            // The listener sees the same end and reports it.
            return Ok(());
        }
        last = part[part.len() - 1];
    }
    sent.all.store(true, SeqCst);
    // A lost connection shows on the reading side.
    stream.shutdown(Shutdown::Write).ok();
    Ok(())
}

#[derive(Debug, Default)]
struct Told {
    acked: u64,
    errors: u64,
}

fn listen(
    mut answers: impl BufRead,
    opts: &IngestOpts,
    sent: &Sent,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> anyhow::Result<Told> {
    let mut told = Told::default();
    let mut line = String::new();
    let clear = if opts.progress { "\r\x1b[K" } else { "" };
    loop {
        line.clear();
        // A reset is an end as well: what was not acknowledged is named by the caller.
        if answers.read_line(&mut line).unwrap_or(0) == 0 {
            return Ok(told);
        }
        if opts.json {
            stdout.write_all(line.as_bytes())?;
            stdout.flush()?;
        }
        let Ok(answer) = serde_json::from_str::<Answer>(&line) else {
            continue;
        };
        if let Some(acked) = answer.acked {
            told.acked = acked;
        }
        if let Some(error) = answer.error {
            // Lines count; the end of the connection is counted by what it left undone.
            told.errors += u64::from(answer.line.is_some());
            if !opts.json {
                match answer.line {
                    Some(n) => writeln!(stderr, "{clear}line {n}: {error}")?,
                    None => writeln!(stderr, "{clear}{error}")?,
                }
            }
        }
        if let Some(why) = answer.paused.filter(|_| !opts.json) {
            writeln!(
                stderr,
                "{clear}the agent has paused ({why}); waiting, nothing is lost"
            )?;
        }
        if let Some(word) = answer.power.filter(|_| !opts.json) {
            writeln!(stderr, "{clear}power: {word}")?;
        }
        if answer.resumed && !opts.json {
            writeln!(stderr, "{clear}the agent has resumed")?;
        }
        if opts.progress {
            write!(
                stderr,
                "\r\x1b[Ksent {}, acknowledged {}, errors {}",
                sent.lines.load(SeqCst),
                told.acked.saturating_sub(told.errors),
                told.errors
            )?;
            stderr.flush()?;
        }
    }
}
