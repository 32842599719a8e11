//! What the gateway does for a session at the console: asks the agent, runs this binary's own
//! verbs, keeps keys and audit entries.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::Child;

use serde_json::{Value, json};

use crate::clock::{Clock, SystemClock};
use crate::config::{self, Settings};
use crate::console::login::{Challenge, Proof, Role, Signers, Who};
use crate::console::{Begun, Does, Host, Order, Purpose, Trouble, look, troubles};
use crate::recovery::{RecoveryError, fault_of};

use super::console_door::{self as door, Door};
use super::console_enter::Entering;
use super::console_files;
use super::console_run::{Running, Step};
use super::status;

/// Behind the name of who came with the passphrase.
const BY_PASSPHRASE: &str = " (passphrase)";

/// See the module's text.
#[derive(Debug)]
pub(super) struct Desk {
    config: PathBuf,
    settings: Settings,
    /// Why the configuration could not be read.
    broken: Option<String>,
    door: Door,
    entering: Entering,
    running: Option<Running>,
    /// Commands that were stopped and have not ended: they may hang in the kernel.
    left_behind: Vec<Child>,
}

impl Desk {
    pub(super) fn new(config: &Path, settings: Settings, broken: Option<String>) -> Self {
        Self {
            config: config.to_owned(),
            settings,
            broken,
            door: Door::default(),
            entering: Entering::new(config),
            running: None,
            left_behind: Vec::new(),
        }
    }

    /// What the running command prints to.
    pub(super) fn output(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref()?.output()
    }

    /// Reads what it printed, without waiting; 0: nothing now, or [`Desk::ended`].
    pub(super) fn printed(&mut self, buffer: &mut [u8]) -> usize {
        self.running.as_mut().map_or(0, |r| r.printed(buffer))
    }

    /// Has all of it ended, and how?
    pub(super) fn ended(&mut self) -> Option<String> {
        self.left_behind
            .retain_mut(|c| !matches!(c.try_wait(), Ok(Some(_))));
        let how = self.running.as_mut()?.ended()?;
        self.running = None;
        // It may have changed the configuration.
        self.reload();
        Some(how)
    }

    /// What counts now. Who is let in without proof is settled when the console starts.
    fn reload(&mut self) {
        match config::load(&self.config) {
            Ok(loaded) => {
                let lab = self.settings.console.lab;
                self.settings = loaded.settings;
                self.settings.console.lab = lab;
                self.broken = None;
            }
            Err(e) => self.broken = Some(e.to_string()),
        }
    }

    fn status(&self) -> Result<crate::agent::Status, String> {
        match status::ask(&self.settings) {
            Ok(status) => Ok(status),
            Err(e) => Err(super::explain(&e)),
        }
    }

    fn enter(&mut self, action: &str, by: &str, details: Value) -> Option<String> {
        self.entering.enter(&self.settings, action, by, details)
    }

    /// Enters that somebody is let in, or signed for something.
    fn let_in(&mut self, name: &str, purpose: Purpose<'_>, details: &mut Value) {
        let action = match purpose {
            Purpose::LogIn => "console.login",
            Purpose::Act(order) => {
                details["for"] = order.action().into();
                "console.confirmed"
            }
        };
        self.enter(action, name, details.take());
    }

    fn refused(&mut self, name: &str, purpose: Purpose<'_>, why: &str) {
        let mut details = json!({ "why": why });
        if let Purpose::Act(order) = purpose {
            details["for"] = order.action().into();
        }
        self.enter("console.refused", name, details);
    }

    fn verb(&self, args: &[&str]) -> Step {
        let config = self.config.display().to_string();
        let mut all = vec!["--config".to_owned(), config];
        all.extend(args.iter().map(|a| (*a).to_owned()));
        Step {
            // Also while a new version lies in its place.
            program: PathBuf::from("/proc/self/exe"),
            args: all,
            ..Step::default()
        }
    }

    /// Fills what a command of the table leaves open.
    fn filled(&self, pattern: &[&str], order: &Order, technician: &str) -> Vec<String> {
        let rest = || order.words().skip(1).collect::<Vec<_>>().join(" ");
        let mut all = Vec::new();
        for word in pattern {
            match *word {
                "{1}" => all.extend(order.words().next().map(str::to_owned)),
                "{rest}" => all.push(rest()),
                "{args}" => all.extend(order.words().map(str::to_owned)),
                "{gateway}" => all.push(self.settings.gateway.id.clone()),
                "{technician}" => all.push(technician.to_owned()),
                word => all.push(word.to_owned()),
            }
        }
        all
    }

    /// The steps of something that wants the agent stopped, with the agent stopped before them and
    /// started after them, whatever came of them.
    fn alone(&self, steps: impl FnOnce(bool) -> Vec<Step>) -> VecDeque<Step> {
        let service = |verb: &str, title, always| Step {
            title: Some(title),
            program: PathBuf::from("systemctl"),
            args: vec![verb.to_owned(), "holdup".to_owned()],
            always,
            ..Step::default()
        };
        let served = self.status().is_ok();
        let has_systemd = Path::new("/run/systemd/system").exists();
        let mut all = VecDeque::new();
        if served && has_systemd {
            all.push_back(service("stop", "the agent is stopped", false));
        }
        all.extend(steps(!served || has_systemd));
        if has_systemd {
            all.push_back(service("start", "the agent is started", true));
        }
        all
    }

    fn store(&self) -> (PathBuf, &'static str) {
        (self.settings.gateway.store_path(), "the store")
    }

    fn queue(&self) -> (PathBuf, &'static str) {
        (self.settings.gateway.queue_path(), "the queue")
    }

    /// A verb for each of these databases that is there.
    fn databases(
        &self,
        which: Vec<(PathBuf, &'static str)>,
        pattern: &[&str],
        order: &Order,
        technician: &str,
    ) -> VecDeque<Step> {
        self.alone(|always| {
            let there = which.into_iter().filter(|(path, _)| path.exists());
            let step = |(path, title): (PathBuf, &'static str)| {
                let path = path.display().to_string();
                let filled = self.filled(pattern, order, technician);
                let words: Vec<&str> = filled
                    .iter()
                    .map(|w| if w == "{database}" { &path } else { w.as_str() })
                    .collect();
                let mut step = self.verb(&words);
                // One that cannot be repaired does not keep the other from being.
                (step.title, step.always) = (Some(title), always);
                step
            };
            there.map(step).collect()
        })
    }

    /// By the running agent, or without one.
    fn reset(&self, order: &Order, technician: &str) -> Step {
        let mut args = vec!["reset"];
        for word in order.words() {
            match word {
                "waive-undelivered" => args.push("--waive-undelivered"),
                "without-backup" => args.extend(["--no-backup", "without-backup"]),
                level => args.push(level),
            }
        }
        let id = &self.settings.gateway.id;
        args.extend(["--yes-erase", id, "--technician", technician]);
        self.verb(&args)
    }

    /// A backup takes the place of what is there; its key is on a stick or was typed.
    fn restore(&self, order: &Order, secret: &str, technician: &str) -> VecDeque<Step> {
        let mut words = order.words();
        let name = words.next().unwrap_or_default();
        let mut args = vec![
            "backup",
            "restore",
            name,
            "--yes",
            "--technician",
            technician,
        ];
        match words.next() {
            Some(stick) => args.extend(["--usb", stick, "--identity-usb", stick]),
            None => args.extend(["--identity", "/dev/stdin"]),
        }
        let mut step = self.verb(&args);
        step.title = Some("the backup");
        if order.wants_key() {
            step.input = format!("{secret}\n");
        }
        self.alone(|_| vec![step])
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

/// Is `verb` one of this binary's?
fn is_there(verb: &str) -> Result<(), String> {
    if super::has_verb(verb) {
        Ok(())
    } else {
        Err(format!("this holdup has no `{verb}` yet"))
    }
}

impl Host for Desk {
    fn gateway(&self) -> &str {
        &self.settings.gateway.id
    }

    fn look(&mut self) -> Vec<String> {
        self.reload();
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
        door::signers(&self.settings).map(|s| s.is_empty())
    }

    fn has_passphrase(&mut self) -> bool {
        self.settings.console.passphrase_file.is_some()
    }

    fn is_lab(&self) -> bool {
        self.settings.console.lab
    }

    fn random(&mut self) -> Result<[u8; 10], String> {
        door::random()
    }

    fn redeem(
        &mut self,
        challenge: Challenge,
        answer: &str,
        purpose: Purpose<'_>,
    ) -> Result<Who, String> {
        let signers = door::signers(&self.settings)?;
        let revoked = door::revoked(&self.settings)?;
        let (now, today) = (SystemClock.mono(), door::today(&self.settings));
        let role = challenge.role();
        match challenge.redeem(answer, &signers, &revoked, now, today) {
            Ok(signer) => {
                let mut details = json!({ "key": signer.fingerprint(), "role": role.word() });
                self.let_in(&signer.name, purpose, &mut details);
                Ok(Who {
                    name: signer.name.clone(),
                    role,
                    proof: Proof::Key,
                })
            }
            Err(e) => {
                self.refused("unknown", purpose, e.code());
                Err(e.to_string())
            }
        }
    }

    fn passphrase(&mut self, guess: &str, name: &str, purpose: Purpose<'_>) -> Result<Who, String> {
        // A name that nobody proved is not taken for one of a key.
        let claimed = name.strip_suffix(BY_PASSPHRASE).unwrap_or(name);
        let name = format!("{claimed}{BY_PASSPHRASE}");
        match self.door.passphrase(&self.settings, guess) {
            Ok(()) => {
                self.let_in(&name, purpose, &mut json!({ "by": "passphrase" }));
                Ok(Who {
                    name,
                    role: Role::Technician,
                    proof: Proof::Passphrase,
                })
            }
            Err(why) => {
                self.refused(&name, purpose, "passphrase");
                Err(why)
            }
        }
    }

    fn lab(&mut self) -> Who {
        let name = "lab".to_owned();
        self.let_in(&name, Purpose::LogIn, &mut json!({ "by": "console.lab" }));
        Who {
            name,
            role: Role::Technician,
            proof: Proof::Lab,
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
        door::replace(&self.settings.console.allowed_signers, line.as_bytes())?;
        let fingerprint = signer.fingerprint();
        self.enter("console.claim", &signer.name, json!({ "key": fingerprint }));
        Ok(fingerprint)
    }

    fn begin(&mut self, order: &Order, secret: &str, technician: &str) -> Result<Begun, String> {
        let details = json!({ "command": order.command.name, "words": order.args.as_str() });
        let warning = self.enter("console.command", technician, details);
        let mut running = Running::default();
        running
            .text
            .extend(warning.unwrap_or_default().into_bytes());
        match order.command.does {
            Does::Verb(pattern) => {
                is_there(pattern.first().copied().unwrap_or_default())?;
                let words = self.filled(pattern, order, technician);
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                running.steps.push_back(self.verb(&words));
            }
            Does::Program(words) => {
                let (program, args) = words.split_first().ok_or("nothing to run")?;
                running.steps.push_back(Step {
                    program: PathBuf::from(program),
                    args: args.iter().map(|a| (*a).to_owned()).collect(),
                    ..Step::default()
                });
            }
            Does::Databases(pattern) => {
                let both = vec![self.store(), self.queue()];
                running.steps = self.databases(both, pattern, order, technician);
            }
            Does::Store(pattern) => {
                let store = vec![self.store()];
                running.steps = self.databases(store, pattern, order, technician);
            }
            Does::Reset => {
                is_there("reset")?;
                running.steps.push_back(self.reset(order, technician));
            }
            Does::Restore => running.steps = self.restore(order, secret, technician),
            Does::Log => console_files::log(order, &mut running),
            Does::Send => match order.words().next() {
                Some(name) => {
                    let source = console_files::open(&self.settings, name)?;
                    return Ok(Begun::Sends(Box::new(source)));
                }
                None => running.text.extend(console_files::list(&self.settings)),
            },
            Does::Why => running.text.extend(self.why().into_bytes()),
            Does::Look | Does::Login | Does::Claim | Does::Logout | Does::Help => {}
        }
        self.running = Some(running);
        Ok(Begun::Prints)
    }

    fn stop(&mut self) {
        let left = self.running.take().and_then(Running::stop);
        self.left_behind.extend(left);
    }

    fn left(&mut self, technician: &str, why: &'static str) {
        self.enter("console.logout", technician, json!({ "why": why }));
    }
}
