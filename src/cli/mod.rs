//! The command line: parse, log, dispatch, one file a verb, exit code.
//!
//! Exit codes: 0 ok, 1 the thing checked is bad, 2 usage or configuration, 3 refused, 4 I/O.
//! No logic lives here that another caller of the library would miss.

mod alone;
mod audit;
mod backup;
mod backup_find;
mod backup_keygen;
mod backup_keys;
mod backup_restore;
pub mod config;
mod config_set;
mod console;
mod console_desk;
mod console_door;
mod console_enter;
mod console_files;
mod console_run;
mod demo;
mod doctor;
mod drill;
pub mod ingest;
mod media;
mod pages;
mod power;
mod queue;
mod recover;
mod reset;
mod retract;
mod run;
mod secret;
mod status;

use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::config::ConfigError;

/// Makes a gateway survive the loss of power.
#[derive(Debug, Parser)]
#[command(name = "holdup", version, arg_required_else_help = true)]
struct Args {
    /// The configuration; `conf.d/*.toml` beside it is read too.
    #[arg(long, global = true, value_name = "FILE", default_value = crate::config::DEFAULT_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent (what the service does).
    Run,
    /// Show the whole thing on this machine, without hardware: readings, a power cut, proof.
    Demo {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// What the agent says of supply, readiness and data.
    Status {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// What on this gateway would make holdup's promises false.
    Doctor {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// How the card or disk under the data is, by what, and what to do.
    Media(media::MediaArgs),
    /// How long the supply lasts, and whether the plan fits.
    Power {
        #[command(subcommand)]
        what: power::PowerVerb,
    },
    /// Recover a damaged SQLite database; its files are kept as evidence first.
    Recover(recover::RecoverArgs),
    /// What was done on this gateway, when, and by whom.
    Audit {
        #[command(subcommand)]
        what: audit::AuditVerb,
    },
    /// Mark readings of a bad source as retracted; they stay, `readings_valid` leaves them out.
    Retract(retract::RetractArgs),
    /// Send readings (JSON lines) from standard input to the agent.
    Ingest {
        /// Print the agent's answers, one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// What waits to be sent: look at it, take it out, put it back, repair it.
    Queue {
        #[command(subcommand)]
        what: queue::QueueVerb,
    },
    /// What leaves the gateway, encrypted: make it, look at it, try it, keep it.
    Backup {
        #[command(subcommand)]
        what: backup::BackupVerb,
    },
    /// Factory reset: erase the readings, or more; what goes and what stays is shown first.
    Reset(reset::ResetArgs),
    /// Rehearse the worst days in an isolated home, and prove what comes back.
    Drill(drill::DrillArgs),
    /// The technician's console on a serial line, or on this terminal.
    Console(console::ConsoleArgs),
    /// Check or show the configuration.
    Config {
        #[command(subcommand)]
        what: ConfigVerb,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Read it and say what is wrong.
    Check {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print the merged values, each with where it came from.
    Show {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Change one setting, or the network, in a file of its own.
    Set(config_set::SetArgs),
    /// Take the last change back.
    Undo(config_set::UndoArgs),
}

impl Verb {
    fn wants_json(&self) -> bool {
        match self {
            Self::Run | Self::Console(_) => false,
            Self::Demo { json }
            | Self::Status { json }
            | Self::Doctor { json }
            | Self::Ingest { json }
            | Self::Config {
                what: ConfigVerb::Check { json } | ConfigVerb::Show { json },
            } => *json,
            Self::Config {
                what: ConfigVerb::Set(_) | ConfigVerb::Undo(_),
            } => false,
            Self::Power { what } => what.wants_json(),
            Self::Media(what) => what.wants_json(),
            Self::Recover(what) => what.wants_json(),
            Self::Reset(what) => what.wants_json(),
            Self::Retract(what) => what.wants_json(),
            Self::Audit { what } => what.wants_json(),
            Self::Queue { what } => what.wants_json(),
            Self::Backup { what } => what.wants_json(),
            Self::Drill(what) => what.wants_json(),
        }
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let args = Args::parse();
    log_to_stderr();
    let done = crate::drill::heed().map_err(anyhow::Error::from);
    match done.and_then(|()| dispatch(&args)) {
        Ok(code) => ExitCode::from(code),
        // A reader that went away (`| head`) is no failure of ours.
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            let why = explain(&e);
            // Either may be closed; the exit code still tells.
            if args.verb.wants_json() {
                writeln!(io::stdout(), "{}", serde_json::json!({ "error": why })).ok();
            }
            writeln!(io::stderr(), "holdup: {why}").ok();
            ExitCode::from(exit_code(&e))
        }
    }
}

/// Does this binary have `verb`?
fn has_verb(verb: &str) -> bool {
    Args::command().find_subcommand(verb).is_some()
}

fn dispatch(args: &Args) -> anyhow::Result<u8> {
    let out = &mut io::stdout();
    match &args.verb {
        Verb::Run => run::run(&args.config),
        Verb::Demo { json } => demo::run(out, *json),
        Verb::Status { json } => status::run(&args.config, out, *json),
        Verb::Doctor { json } => doctor::run(&args.config, out, *json),
        Verb::Power { what } => power::run(&args.config, what, out),
        Verb::Media(what) => media::run(&args.config, what, out),
        Verb::Recover(what) => recover::run(&args.config, what, out),
        Verb::Reset(what) => reset::run(&args.config, what, out),
        Verb::Retract(what) => retract::run(&args.config, what, out),
        Verb::Audit { what } => audit::run(&args.config, what, out),
        Verb::Queue { what } => queue::run(&args.config, what, out),
        Verb::Backup { what } => backup::run(&args.config, what, out),
        Verb::Drill(what) => drill::run(&args.config, what, out),
        Verb::Console(what) => console::run(&args.config, what),
        Verb::Ingest { json } => {
            let settings = crate::config::load(&args.config)?.settings;
            let progress = !json && io::stderr().is_terminal();
            let opts = ingest::IngestOpts {
                interruptible: true,
                json: *json,
                progress,
            };
            ingest::run(&settings, &opts, io::stdin(), out, &mut io::stderr())
        }
        Verb::Config {
            what: ConfigVerb::Check { json },
        } => config::check(&args.config, out, *json),
        Verb::Config {
            what: ConfigVerb::Show { json },
        } => config::show(&args.config, out, *json),
        Verb::Config {
            what: ConfigVerb::Set(what),
        } => config_set::set(&args.config, what, out),
        Verb::Config {
            what: ConfigVerb::Undo(what),
        } => config_set::undo(&args.config, what, out),
    }
}

/// Warnings and what the service does go to standard error; `RUST_LOG` asks for more.
fn log_to_stderr() {
    let env = env_logger::Env::default().default_filter_or("info");
    let mut builder = env_logger::Builder::from_env(env);
    // The journal stamps time itself.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.format_timestamp(None);
    } else {
        builder.format_timestamp_millis();
    }
    builder.format_target(false).init();
}

/// What was asked for cannot be meant: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

impl Usage {
    #[expect(
        clippy::new_ret_no_self,
        reason = "an error of its own kind, as verbs return it"
    )]
    fn new(why: String) -> anyhow::Error {
        Self(why).into()
    }
}

fn explain(e: &anyhow::Error) -> String {
    let e: &(dyn std::error::Error + 'static) = e.as_ref();
    crate::agent::explain(e)
}

/// A connection to a socket of the agent, which is reached, written to and answers within
/// `patience`, or never.
fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // A stopped agent accepts nothing: connecting would wait as long as its queue is full.
    for side in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, side, Some(patience))?;
    }
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Did the agent take too long?
fn is_late(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.chain()
        .filter_map(|c| c.downcast_ref::<io::Error>())
        .any(|c| c.kind() == io::ErrorKind::BrokenPipe)
}

fn exit_code(e: &anyhow::Error) -> u8 {
    for cause in e.chain() {
        if cause.is::<ConfigError>() || cause.is::<Usage>() {
            return 2;
        }
        if let Some(e) = cause.downcast_ref::<crate::agent::AgentError>() {
            return e.exit_code();
        }
    }
    4
}

/// Colour only where a person looks.
fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
