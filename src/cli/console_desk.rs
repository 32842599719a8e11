//! What the gateway does for a session at the console: asks the agent, runs this binary's own
//! verbs, keeps keys and audit entries.
//!
//! A verb runs as a process of its own, whose output is read without waiting: one that hangs in a
//! frozen file system is left behind, and the console goes on.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Value, json};

use crate::agent::{ByHand, ControlAnswer, ControlRequest};
use crate::clock::{Clock, SystemClock};
use crate::config::Settings;
use crate::console::login::{Challenge, Moment, Revoked, Signers};
use crate::console::{Command, Does, Host, Trouble, look, troubles};
use crate::durable::Medium;
use crate::recovery::{RecoveryError, fault_of};

use super::{power, status};

/// What an entry in the audit log gets from a running agent.
const ENTER: Duration = Duration::from_secs(8);

/// A list of keys is no larger.
const LARGEST: u64 = 1 << 20;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Desk {
    config: PathBuf,
    settings: Settings,
    /// Why the configuration could not be read.
    broken: Option<String>,
    running: Option<Running>,
    /// Commands that were stopped and have not ended: they may hang in the kernel.
    left_behind: Vec<Child>,
}

/// A command: programs one after the other, or a text.
#[derive(Debug)]
struct Running {
    steps: VecDeque<Step>,
    child: Option<Child>,
    output: Option<io::PipeReader>,
    /// What is to be shown before anything else.
    text: VecDeque<u8>,
    failed: Option<String>,
}

/// A program, and whether it runs also after one before it failed.
#[derive(Debug)]
struct Step {
    title: Option<&'static str>,
    program: PathBuf,
    args: Vec<String>,
    always: bool,
}

impl Desk {
    pub(super) fn new(config: &Path, settings: Settings, broken: Option<String>) -> Self {
        Self {
            config: config.to_owned(),
            settings,
            broken,
            running: None,
            left_behind: Vec::new(),
        }
    }

    /// What the running command prints to.
    pub(super) fn output(&self) -> Option<BorrowedFd<'_>> {
        let running = self.running.as_ref()?;
        running.output.as_ref().map(AsFd::as_fd)
    }

    /// Reads what it printed, without waiting; 0: nothing now, or [`Desk::ended`].
    pub(super) fn printed(&mut self, buffer: &mut [u8]) -> usize {
        let Some(running) = &mut self.running else {
            return 0;
        };
        if !running.text.is_empty() {
            return io::Read::read(&mut running.text, buffer).unwrap_or(0);
        }
        let Some(output) = &mut running.output else {
            return 0;
        };
        match io::Read::read(output, buffer) {
            Ok(0) => {
                running.output = None;
                0
            }
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                running.output = None;
                0
            }
        }
    }

    /// Has all of it ended, and how? Begins its next program where there is one.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.left_behind
            .retain_mut(|c| !matches!(c.try_wait(), Ok(Some(_))));
        let running = self.running.as_mut()?;
        if running.output.is_some() || !running.text.is_empty() {
            return None;
        }
        if let Some(child) = &mut running.child {
            match child.try_wait() {
                Ok(None) => return None,
                Ok(Some(status)) if status.success() => {}
                Ok(Some(status)) => {
                    let how = match status.code() {
                        Some(1) => "(1: see above)".to_owned(),
                        Some(2) => "(2: the configuration is wrong, see above)".to_owned(),
                        Some(3) => "(3: refused, see above)".to_owned(),
                        Some(code) => format!("({code}: failed, see above)"),
                        None => "(it was killed)".to_owned(),
                    };
                    running.failed.get_or_insert(how);
                }
                Err(e) => {
                    running.failed.get_or_insert(e.to_string());
                }
            }
            running.child = None;
        }
        while let Some(step) = running.steps.pop_front() {
            if running.failed.is_some() && !step.always {
                continue;
            }
            if let Err(why) = running.start(&step) {
                running.failed.get_or_insert(why);
                continue;
            }
            return None;
        }
        let failed = self.running.take().and_then(|r| r.failed);
        Some(failed.unwrap_or_default())
    }

    fn status(&self) -> Result<crate::agent::Status, String> {
        match status::ask(&self.settings) {
            Ok(status) => Ok(status),
            Err(e) => Err(super::explain(&e)),
        }
    }

    /// Enters what a technician does; where that cannot be had, says so. Nothing waits for it: a
    /// technician must be able to mend what keeps the log from being written.
    fn enter(&self, action: &str, by: &str, details: Value) -> Option<String> {
        let why = match self.entered(action, by, details.clone()) {
            Ok(true) => return None,
            Ok(false) => "it waits in memory until the log can be written".to_owned(),
            Err(why) => why,
        };
        // The journal is the second witness.
        log::warn!("not in the audit log yet: {action} by {by} {details}: {why}");
        Some(format!("(The audit log does not have this yet: {why})\n"))
    }

    fn entered(&self, action: &str, by: &str, details: Value) -> Result<bool, String> {
        let request = ControlRequest::Enter {
            action: action.to_owned(),
            by: by.to_owned(),
            details: details.clone(),
        };
        let path = self.settings.gateway.control_socket();
        match power::talk(&path, request, ENTER, &mut |_| {}) {
            Ok(power::Talk::Answer(ControlAnswer::Entered(durable))) => Ok(durable),
            Ok(power::Talk::Answer(ControlAnswer::Refused(why))) => Err(why),
            Ok(power::Talk::Answer(_)) => Err("the agent's answer is not understood".to_owned()),
            Ok(power::Talk::NotAllowed(why)) => Err(why),
            // No agent runs: by hand.
            Err(_) => match ByHand::take(&self.settings) {
                Ok(by_hand) => Ok(by_hand.enter(action, by, details)),
                Err(e) => Err(crate::agent::explain(&e)),
            },
        }
    }

    fn signers(&self) -> Result<Signers, String> {
        let path = &self.settings.console.allowed_signers;
        let text = text(path)?.unwrap_or_default();
        let signers = Signers::read(&text);
        for line in &signers.unusable {
            log::warn!("{}: {line}: it lets nobody in", path.display());
        }
        Ok(signers)
    }

    fn revoked(&self) -> Result<Revoked, String> {
        let path = &self.settings.console.revoked_signers;
        let text = text(path)?.unwrap_or_default();
        Revoked::read(&text).map_err(|e| {
            format!(
                "{}: {e}: nobody is let in until it is mended",
                path.display()
            )
        })
    }

    /// Today, for keys with dates. A clock that nobody has set is not believed where files say that
    /// it is later: a revoked past must not come back with an empty battery.
    fn today(&self) -> Moment {
        let clock = SystemClock;
        let now = clock.wall().as_millis() / 1000;
        if clock.is_synchronised() {
            return now;
        }
        let written = |path: PathBuf| {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(path).map_or(0, |m| m.mtime())
        };
        let gateway = &self.settings.gateway;
        let signers = written(self.settings.console.allowed_signers.clone());
        now.max(signers).max(written(gateway.audit_path()))
    }

    fn verb(&self, args: &[&str]) -> Step {
        let config = self.config.display().to_string();
        let mut all = vec!["--config".to_owned(), config];
        all.extend(args.iter().map(|a| (*a).to_owned()));
        Step {
            title: None,
            // Also while a new version lies in its place.
            program: PathBuf::from("/proc/self/exe"),
            args: all,
            always: false,
        }
    }

    /// Stops the service where it runs, recovers, starts it again whatever came of that. Only the
    /// store's place is cleared of what is no database.
    fn recovery(&self, technician: &str, set_aside: bool) -> VecDeque<Step> {
        let mut steps = VecDeque::new();
        let service = |verb: &str, title, always| Step {
            title: Some(title),
            program: PathBuf::from("systemctl"),
            args: vec![verb.to_owned(), "holdup".to_owned()],
            always,
        };
        let served = self.status().is_ok();
        let has_systemd = Path::new("/run/systemd/system").exists();
        if served && has_systemd {
            steps.push_back(service("stop", "the agent is stopped", false));
        }
        let gateway = &self.settings.gateway;
        for (path, title) in [
            (gateway.store_path(), "the store"),
            (gateway.queue_path(), "the queue"),
        ] {
            if !path.exists() || (set_aside && path == gateway.queue_path()) {
                continue;
            }
            let path = path.display().to_string();
            let mut words = vec!["recover", &path, "--technician", technician];
            words.extend(set_aside.then_some("--set-aside"));
            let mut step = self.verb(&words);
            // One that cannot be repaired does not keep the other from being.
            (step.title, step.always) = (Some(title), !served || has_systemd);
            steps.push_back(step);
        }
        if has_systemd {
            steps.push_back(service("start", "the agent is started", true));
        }
        steps
    }

    /// What no agent starts with: something else in the store's place.
    fn stranger(&self) -> Option<Trouble> {
        let path = self.settings.gateway.store_path();
        let Err(RecoveryError::Alien(_)) = fault_of(&path) else {
            return None;
        };
        let what = format!("{} is not an SQLite database but text", path.display());
        let remedy = "`data set-aside` keeps it as evidence and starts from what else there is";
        Some(Trouble {
            what,
            remedy: remedy.to_owned(),
        })
    }

    fn why(&self) -> String {
        let status = self.status();
        let all = match &status {
            Ok(s) => troubles(Ok(s)),
            Err(why) => troubles(Err(why)),
        };
        let stranger = status.is_err().then(|| self.stranger()).flatten();
        let broken = self.broken.as_ref().map(|why| Trouble {
            what: format!("the configuration cannot be read: {why}"),
            remedy: "mend it, or lay back the last good one; `config check` names the line"
                .to_owned(),
        });
        let all: Vec<Trouble> = broken.into_iter().chain(stranger).chain(all).collect();
        match all.as_slice() {
            [] => "Nothing is wrong that the gateway can see.\n".to_owned(),
            [one] => format!("Wrong: {}.\nDo:    {}.\n", one.what, one.remedy),
            [one, rest @ ..] => format!(
                "1 of {}\nWrong: {}.\nDo:    {}.\n\nThen type `why` again for the next one.\n",
                rest.len() + 1,
                one.what,
                one.remedy
            ),
        }
    }
}

impl Host for Desk {
    fn gateway(&self) -> &str {
        &self.settings.gateway.id
    }

    fn look(&mut self) -> Vec<String> {
        let status = self.status();
        let told = match &status {
            Ok(s) => Ok(s),
            Err(why) => Err(why.as_str()),
        };
        let mut rows = look(&self.settings.gateway.id, told);
        if self.broken.is_some() {
            rows.push("THE CONFIGURATION CANNOT BE READ; `why` says where, after login".to_owned());
        }
        rows
    }

    fn is_unclaimed(&mut self) -> Result<bool, String> {
        // The list of keys may be named in what cannot be read.
        if let Some(why) = &self.broken {
            return Err(format!(
                "nobody can claim a gateway whose configuration cannot be read: {why}"
            ));
        }
        self.signers().map(|s| s.is_empty())
    }

    fn random(&mut self) -> Result<[u8; 10], String> {
        let mut bytes = [0; 10];
        match getrandom(&mut bytes, GetRandomFlags::empty()) {
            Ok(10) => Ok(bytes),
            Ok(_) => Err("the kernel gave too few random bytes: try again".to_owned()),
            Err(e) => Err(format!("the kernel gives no random bytes: {e}")),
        }
    }

    fn redeem(&mut self, challenge: Challenge, answer: &str) -> Result<String, String> {
        let (signers, revoked) = (self.signers()?, self.revoked()?);
        let (now, today) = (SystemClock.mono(), self.today());
        match challenge.redeem(answer, &signers, &revoked, now, today) {
            Ok(signer) => {
                let details = json!({ "key": signer.fingerprint() });
                self.enter("console.login", &signer.name, details);
                Ok(signer.name.clone())
            }
            Err(e) => {
                self.enter("console.refused", "unknown", json!({ "why": e.code() }));
                Err(e.to_string())
            }
        }
    }

    fn claim(&mut self, key: &str) -> Result<String, String> {
        if !self.is_unclaimed()? {
            return Err("somebody enrolled a key meanwhile: type login".to_owned());
        }
        let mut words = key.split_ascii_whitespace();
        let (kind, body) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let comment: String = words.next().unwrap_or("technician").to_owned();
        let line = format!("{comment} {kind} {body}\n");
        let read = Signers::read(&line);
        let Some(signer) = read.all.first() else {
            let why = read.unusable.first().map_or("no key", |u| u.why);
            return Err(format!("{why} (the line begins with ssh-ed25519)"));
        };
        let path = &self.settings.console.allowed_signers;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let written = Medium::open(folder).and_then(|m| m.replace(path, line.as_bytes()));
        written.map_err(|e| {
            format!(
                "{} cannot be written: {}",
                path.display(),
                crate::agent::explain(&e)
            )
        })?;
        let fingerprint = signer.fingerprint();
        self.enter("console.claim", &signer.name, json!({ "key": fingerprint }));
        Ok(fingerprint)
    }

    fn begin(&mut self, command: &'static Command, technician: &str) -> Result<(), String> {
        let details = json!({ "command": command.name });
        let warning = self.enter("console.command", technician, details);
        let mut running = Running {
            steps: VecDeque::new(),
            child: None,
            output: None,
            text: warning.unwrap_or_default().into_bytes().into(),
            failed: None,
        };
        match command.does {
            Does::Verb(args) => running.steps.push_back(self.verb(args)),
            Does::Program(words) => {
                let (program, args) = words.split_first().ok_or("nothing to run")?;
                running.steps.push_back(Step {
                    title: None,
                    program: PathBuf::from(program),
                    args: args.iter().map(|a| (*a).to_owned()).collect(),
                    always: false,
                });
            }
            Does::Recover => running.steps = self.recovery(technician, false),
            Does::SetAside => running.steps = self.recovery(technician, true),
            Does::Why => running.text.extend(self.why().into_bytes()),
            Does::Look | Does::Login | Does::Claim | Does::Logout | Does::Help => {}
        }
        self.running = Some(running);
        Ok(())
    }

    fn stop(&mut self) {
        let Some(Running {
            child: Some(mut child),
            ..
        }) = self.running.take()
        else {
            return;
        };
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
            && let Err(e) = kill_process_group(group, Signal::KILL)
        {
            log::warn!("a command could not be stopped: {e}");
        }
        if !matches!(child.try_wait(), Ok(Some(_))) {
            self.left_behind.push(child);
        }
    }

    fn left(&mut self, technician: &str, why: &'static str) {
        self.enter("console.logout", technician, json!({ "why": why }));
    }
}

impl Running {
    fn start(&mut self, step: &Step) -> Result<(), String> {
        let failed = |e: io::Error| format!("{} cannot be run: {e}", step.program.display());
        let (reader, writer) = io::pipe().map_err(failed)?;
        let flags = rustix::fs::fcntl_getfl(&reader).map_err(|e| failed(e.into()))?;
        rustix::fs::fcntl_setfl(&reader, flags | OFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
        let errors = writer.try_clone().map_err(failed)?;
        let child = std::process::Command::new(&step.program)
            .args(&step.args)
            .env("RUST_LOG", "warn")
            .env("SYSTEMD_COLORS", "0")
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        if let Some(title) = step.title {
            self.text.extend(format!("== {title}\n").into_bytes());
        }
        self.child = Some(child);
        self.output = Some(reader);
        Ok(())
    }
}

/// A file's text; `None`: there is none.
fn text(path: &Path) -> Result<Option<String>, String> {
    let failed = |e: io::Error| format!("{} cannot be read: {e}", path.display());
    match fs::metadata(path) {
        Ok(m) if !m.is_file() || m.len() > LARGEST => {
            return Err(format!("{} is no list of keys", path.display()));
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    }
    fs::read_to_string(path).map(Some).map_err(failed)
}
