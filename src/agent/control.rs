//! The control socket: what an operator may ask of a running agent.
//!
//! One JSON line in, JSON lines out, for the agent's user and root alone: unlike status, what is
//! asked here has consequences. Nothing is decided here; the supply grants or refuses. It must
//! never touch the data directory, which may be frozen.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;

use crate::guard::{Answer, Ended, LastOutage, Request};
use crate::ingest;
use crate::power::{LineHealth, Measuring, State};
use crate::reset::Signed;
use crate::store::{Found, Span, StoreState, check_actor};

use super::AgentError;
use super::backup::BackupReport;
use super::reset::{self, ResetAsk};
use super::retracting::{NOT_AUDITED, Retracting};
use super::status::StatusSource;

/// A request is one line and not longer than this.
const LONGEST: u64 = 4096;
/// How often the guard's answer is looked for.
const LOOK: Duration = Duration::from_millis(10);
/// What the store's writer gets to begin a retraction, and once more to end it.
const ORDER: Duration = Duration::from_secs(5);
/// A client has this long to send its line.
const PATIENCE: Duration = Duration::from_secs(10);

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// A rehearsal of the plan, now.
    Rehearse,
    /// Measure the hold-up time at the next loss.
    Measure,
    /// Do not.
    Disarm,
    /// A backup, now.
    Backup,
    /// Mark readings of a bad source.
    Retract {
        /// Which.
        span: Span,
        /// Those that were found.
        found: Found,
        /// Why.
        reason: String,
        /// Who asks; `null`: the user at the other end.
        by: Option<String>,
    },
    /// Enter in the audit log what a technician does at the console.
    Enter {
        /// What: begins with `console.`.
        action: String,
        /// The technician.
        by: String,
        /// More of it.
        details: Value,
    },
    /// Erase, as a factory reset does.
    Reset(ResetAsk),
    /// Take a retraction back.
    Unretract {
        /// Its number.
        seq: i64,
        /// Why.
        reason: String,
        /// Who asks; `null`: the user at the other end.
        by: Option<String>,
    },
}

/// What is answered, one JSON line each; the last one ends the connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlAnswer {
    /// Not done, and why.
    Refused(String),
    /// The rehearsal began; its report follows.
    Rehearsing(bool),
    /// The rehearsal is over.
    Rehearsed(Box<RehearsalReport>),
    /// The next loss will be measured (`true`) or not.
    Armed(bool),
    /// What a backup does next.
    Step(String),
    /// The backup was made.
    BackedUp(Box<BackupReport>),
    /// It was begun, and was not made.
    Failed(String),
    /// The number of the retraction that was made or taken back.
    Retracted(i64),
    /// What was asked is erased, and this is the receipt.
    Reset(Box<Signed>),
    /// It is entered; `true`: durable, `false`: it waits until it can be.
    Entered(bool),
}

/// How a rehearsal went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RehearsalReport {
    /// The configured hold-up time; `null`: not measured.
    pub holdup_ms: Option<u64>,
    /// What was left of it when the rehearsal began.
    pub left_ms: u64,
    /// The glitch time, which passes before a real plan starts and is part of every figure here.
    pub glitch_ms: u64,
    /// What glitch time and mandatory steps were predicted to take at worst.
    pub predicted_ms: u64,
    /// From the edge until everything was durable and said so.
    pub used_ms: Option<f64>,
    /// The same as a fraction of the hold-up time, in percent.
    pub used_percent: Option<f64>,
    /// Would a loss at that moment have been survived in time? `null`: nobody knows how long there
    /// is.
    pub made_it: Option<bool>,
    /// Power was really lost in the middle; the real plan followed.
    pub overtaken: bool,
    /// The plan as it went.
    pub plan: LastOutage,
}

/// What was known when the rehearsal was asked for.
struct Before {
    holdup: Option<Duration>,
    left: Duration,
    glitch: Duration,
    predicted: Duration,
}

impl RehearsalReport {
    fn new(before: &Before, plan: LastOutage, overtaken: bool) -> Self {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let end_mark = plan.steps.iter().find(|s| s.step == "end_mark");
        let used_ms = end_mark
            .filter(|s| s.outcome == "done")
            .map(|s| (s.at_us + s.took_us) as f64 / 1000.0);
        // Another application's data is no less lost for the gateway's own being safe.
        let lost = plan
            .steps
            .iter()
            .any(|s| s.outcome == "failed" && matches!(&*s.step, "commit" | "still"));
        let percent =
            |holdup: Duration| used_ms.map(|used| (used / holdup.as_secs_f64()).round() / 10.0);
        Self {
            holdup_ms: before.holdup.map(ms),
            left_ms: ms(before.left),
            glitch_ms: ms(before.glitch),
            predicted_ms: ms(before.predicted),
            used_ms,
            used_percent: before.holdup.and_then(percent),
            made_it: before.holdup.map(|_| plan.ended == Ended::Clean && !lost),
            overtaken,
            plan,
        }
    }
}

/// Listens on `path`, which only the agent's user may use from its first moment on: the kernel
/// gives a socket file the rights that the socket has when it is bound.
pub(super) fn bind(path: &Path) -> Result<UnixListener, AgentError> {
    let io = |source: io::Error| AgentError::Io {
        what: "listen on",
        path: path.to_owned(),
        source,
    };
    ingest::make_way(path)?;
    let bound = || -> io::Result<StdListener> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 16)?;
        Ok(socket.into())
    };
    bound().and_then(UnixListener::from_std).map_err(io)
}

/// Serves the socket until the runtime ends.
pub(super) async fn serve(listener: UnixListener, source: Arc<StatusSource>) {
    // The guard answers one request at a time.
    let turn = Arc::new(Mutex::new(()));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(super::ACCEPT_AGAIN).await;
            continue;
        };
        let (source, turn) = (Arc::clone(&source), Arc::clone(&turn));
        tokio::spawn(async move {
            if let Err(e) = talk(stream, &source, &turn).await {
                log::info!("control socket: {e}");
            }
        });
    }
}

async fn talk(stream: UnixStream, source: &Arc<StatusSource>, turn: &Mutex<()>) -> io::Result<()> {
    let actor = stream
        .peer_cred()
        .map_or_else(|_| "unknown".to_owned(), |c| format!("uid:{}", c.uid()));
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(LONGEST + 1));
    let came = tokio::time::timeout(PATIENCE, read.read_until(b'\n', &mut line)).await;
    let Ok(came) = came else {
        let why = format!("no whole line came within {} s", PATIENCE.as_secs());
        return say(&mut write, &ControlAnswer::Refused(why)).await;
    };
    came?;
    if line.len() as u64 > LONGEST {
        let why = format!("longer than {LONGEST} bytes: send one request in one line");
        return say(&mut write, &ControlAnswer::Refused(why)).await;
    }
    match serde_json::from_slice(line.trim_ascii()) {
        Err(e) => {
            let why = format!("not understood: {e}");
            say(&mut write, &ControlAnswer::Refused(why)).await
        }
        // It takes long, and keeps nothing else from being asked for.
        Ok(ControlRequest::Backup) => back_up(&mut write, source, actor).await,
        // It waits for nobody's turn.
        Ok(ControlRequest::Enter {
            action,
            by,
            details,
        }) => enter(&mut write, source, action, by, details).await,
        Ok(request) => match turn.try_lock() {
            Err(_) => {
                let why = "another request is being carried out".to_owned();
                say(&mut write, &ControlAnswer::Refused(why)).await
            }
            Ok(_turn) => match request {
                ControlRequest::Rehearse => rehearse(&mut write, source, actor).await,
                ControlRequest::Measure => match &source.unmeasurable {
                    None => ask(&mut write, source, Request::Arm, actor).await,
                    Some(why) => {
                        let why = format!("{why}; then restart the agent");
                        say(&mut write, &ControlAnswer::Refused(why)).await
                    }
                },
                ControlRequest::Disarm => ask(&mut write, source, Request::Disarm, actor).await,
                ControlRequest::Backup => back_up(&mut write, source, actor).await,
                ControlRequest::Enter {
                    action,
                    by,
                    details,
                } => enter(&mut write, source, action, by, details).await,
                ControlRequest::Retract {
                    span,
                    found,
                    reason,
                    by,
                } => {
                    let case = Retracting::mark(span, found, reason, by.unwrap_or(actor));
                    retract(&mut write, source, case).await
                }
                ControlRequest::Reset(ask) => reset(&mut write, source, ask, actor).await,
                ControlRequest::Unretract { seq, reason, by } => {
                    let case = Retracting::undo(seq, reason, by.unwrap_or(actor));
                    retract(&mut write, source, case).await
                }
            },
        },
    }
}

async fn enter(
    write: &mut Writer,
    source: &StatusSource,
    action: String,
    by: String,
    details: Value,
) -> io::Result<()> {
    if !action.starts_with("console.") {
        let why = format!("{action}: only what is done at the console is entered so");
        return say(write, &ControlAnswer::Refused(why)).await;
    }
    if let Err(why) = check_actor(&by) {
        return say(write, &ControlAnswer::Refused(why.to_string())).await;
    }
    let durable = source
        .diary
        .enter(action, by, details, is_calm(source))
        .await;
    say(write, &ControlAnswer::Entered(durable)).await
}

async fn back_up(write: &mut Writer, source: &StatusSource, actor: String) -> io::Result<()> {
    let mut answers = source.backups.ask(actor);
    // A client that went away leaves the backup to its end.
    while let Some(answer) = answers.recv().await {
        say(write, &answer).await?;
    }
    Ok(())
}

async fn reset(
    write: &mut Writer,
    source: &Arc<StatusSource>,
    ask: ResetAsk,
    actor: String,
) -> io::Result<()> {
    if let Some(by) = &ask.by
        && let Err(why) = check_actor(by)
    {
        return say(write, &ControlAnswer::Refused(why.to_string())).await;
    }
    if !is_calm(source) {
        return say(write, &ControlAnswer::Refused(why_not(source))).await;
    }
    let (answers, mut told) = tokio::sync::mpsc::unbounded_channel();
    let source = Arc::clone(source);
    let work = tokio::task::spawn_blocking(move || {
        let actor = ask.by.clone().unwrap_or(actor);
        let end = reset::carry_out(&source, &ask, &actor, &answers);
        // Who asked may have gone.
        answers.send(end).ok();
    });
    // A client that went away leaves the reset to its end, and its turn taken.
    let mut heard = Ok(());
    while let Some(answer) = told.recv().await {
        if heard.is_ok() {
            heard = say(write, &answer).await;
        }
    }
    work.await.map_err(io::Error::other)?;
    heard
}

type Writer = tokio::net::unix::OwnedWriteHalf;

async fn say(write: &mut Writer, answer: &ControlAnswer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    write.write_all(&line).await
}

async fn ask(
    write: &mut Writer,
    source: &StatusSource,
    request: Request,
    actor: String,
) -> io::Result<()> {
    let action = match request {
        Request::Disarm => "measurement.disarm",
        Request::Arm | Request::Rehearse => "measurement.arm",
    };
    let begun = source.diary.begin(action, actor, is_calm(source)).await;
    source.shared.request(request);
    let answer = match answered(source, |a| a != Answer::Waiting).await {
        Answer::Armed => ControlAnswer::Armed(true),
        Answer::Disarmed => ControlAnswer::Armed(false),
        Answer::Waiting
        | Answer::Refused
        | Answer::Rehearsing
        | Answer::Rehearsed
        | Answer::Overtaken => ControlAnswer::Refused(match request {
            Request::Arm => why_not_armed(source),
            Request::Rehearse | Request::Disarm => why_not(source),
        }),
    };
    begun.end(if refused(&answer) { "refused" } else { "ok" }, Value::Null);
    say(write, &answer).await
}

async fn retract(write: &mut Writer, source: &StatusSource, case: Retracting) -> io::Result<()> {
    let refuse = |why: String| ControlAnswer::Refused(why);
    if let Err(e) = case.check() {
        return say(write, &refuse(e.to_string())).await;
    }
    if !is_calm(source) {
        return say(write, &refuse(why_not(source))).await;
    }
    let (action, details) = (case.action(), case.details());
    let begun = source
        .diary
        .begin_with(action, case.actor.clone(), details, true)
        .await;
    if !begun.is_durable() {
        begun.end("refused", Value::Null);
        return say(write, &refuse(NOT_AUDITED.to_owned())).await;
    }
    let (orders, what) = (source.orders.clone(), case.what.clone());
    let done = tokio::task::spawn_blocking(move || orders.retract(what, ORDER)).await;
    let answer = match done {
        Ok(Ok(seq)) => {
            begun.end("done", case.outcome(seq));
            ControlAnswer::Retracted(seq)
        }
        Ok(Err(e)) => {
            begun.end("failed", json!({ "error": super::explain(&e) }));
            refuse(super::explain(&e))
        }
        // The runtime is ending.
        Err(_) => refuse("the agent stopped in the middle".to_owned()),
    };
    say(write, &answer).await
}

async fn rehearse(write: &mut Writer, source: &StatusSource, actor: String) -> io::Result<()> {
    let store = source.orders.stats().state;
    if store != StoreState::Running {
        let why = format!("the store is {}, not running", store.name());
        return say(write, &ControlAnswer::Refused(why)).await;
    }
    let published = source.shared.published();
    let before = Before {
        holdup: published.settings.holdup,
        left: published.holdup_left,
        glitch: published.settings.glitch,
        predicted: source.assessment().predicted,
    };
    let begun = source
        .diary
        .begin("rehearsal", actor, is_calm(source))
        .await;
    source.shared.request(Request::Rehearse);
    if answered(source, |a| a != Answer::Waiting).await == Answer::Refused {
        begun.end("refused", json!({ "why": why_not(source) }));
        return say(write, &ControlAnswer::Refused(why_not(source))).await;
    }
    // A client that went away leaves the rehearsal to its end.
    let told = say(write, &ControlAnswer::Rehearsing(true)).await;
    let over = |a| matches!(a, Answer::Rehearsed | Answer::Overtaken);
    let end = answered(source, over).await;
    let answer = match source.shared.last_rehearsal() {
        Some(plan) if over(end) => {
            let report = RehearsalReport::new(&before, plan, end == Answer::Overtaken);
            let result = match report.made_it {
                Some(true) => "ok",
                Some(false) => "too_late",
                None => "holdup_not_measured",
            };
            let (used_ms, overtaken) = (report.used_ms, report.overtaken);
            begun.end(
                result,
                json!({ "used_ms": used_ms, "overtaken": overtaken }),
            );
            ControlAnswer::Rehearsed(Box::new(report))
        }
        Some(_) | None => {
            begun.end("interrupted", Value::Null);
            ControlAnswer::Refused("the agent stopped in the middle".to_owned())
        }
    };
    told?;
    say(write, &answer).await
}

/// Waits until the guard answered what `done` wants; it turns as long as it lives.
async fn answered(source: &StatusSource, done: impl Fn(Answer) -> bool) -> Answer {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let answer = source.shared.answered();
        if done(answer) || source.shared.has_ended() {
            return answer;
        }
    }
}

/// May what is written now be waited for?
fn is_calm(source: &StatusSource) -> bool {
    matches!(
        source.shared.published().state,
        State::Good | State::Brownout | State::OnBattery { .. }
    )
}

fn refused(answer: &ControlAnswer) -> bool {
    matches!(answer, ControlAnswer::Refused(_))
}

fn why_not(source: &StatusSource) -> String {
    let p = source.shared.published();
    if p.measuring == Measuring::Running {
        return "a measurement runs and cannot be taken back: it ends when power is back or the \
                supply is empty"
            .to_owned();
    }
    if p.state == State::Good && p.health != LineHealth::Good {
        return "the power-fail line cannot be read or believed: run `holdup doctor`".to_owned();
    }
    format!("the supply is {}: wait until it is Good", p.state.name())
}

fn why_not_armed(source: &StatusSource) -> String {
    let p = source.shared.published();
    if p.state == State::Good && p.health == LineHealth::Good && !p.measurable_in.is_zero() {
        return format!(
            "the supply has {} ms left and would measure too short: it is recharging, about {} s \
             to go (power.recharge_s); ask again then",
            p.holdup_left.as_millis(),
            p.measurable_in.as_secs() + 1
        );
    }
    why_not(source)
}

/// For status: `armed`, `running` or nothing.
pub(super) fn measuring(m: Measuring) -> Option<String> {
    m.name().map(str::to_owned)
}
