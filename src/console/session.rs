//! One technician at one port: from the first Enter to the logout.
//!
//! It promises that nothing is told or done before login but one screen, that every command is
//! entered in the audit log under the technician's name before it begins, that what is destructive
//! asks for the gateway's name and counts down, and that hang-up, BREAK and silence log out. It is a
//! state machine: bytes and time in, bytes for the terminal out; what it wants done goes through
//! [`Host`]. It must never wait.

mod door;
mod risk;
mod show;

use std::time::Duration;

use crate::clock::Mono;

use super::commands::{self, Command, Does, Needs, NoOrder, Order};
use super::editor::{Edited, Editor, Line, Terminal};
use super::keys::{ESCAPE, Key, Keys};
use super::login::{ANSWER, Challenge, Role, Who};
use super::pager::Pager;
use super::transfer::{Source, Transfer};

use show::say_plainly;

/// Without a key for so long a technician is logged out.
pub const IDLE: Duration = Duration::from_secs(600);

/// For so long after an answer an Enter belongs to what was pasted.
const TAIL: Duration = Duration::from_secs(1);

/// What a login or a signature is for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// To be let in.
    LogIn,
    /// To do this.
    Act(&'a Order),
}

/// What comes of a command that was begun.
#[derive(Debug)]
pub enum Begun {
    /// It prints, until it ends.
    Prints,
    /// A file goes to the laptop.
    Sends(Box<dyn Source>),
}

/// What the gateway does for a session.
pub trait Host {
    /// The gateway's name.
    fn gateway(&self) -> &str;

    /// The screen that anybody may see: rows of at most 79 columns, at most 20 of them.
    fn look(&mut self) -> Vec<String>;

    /// Has no key ever been enrolled?
    ///
    /// # Errors
    /// Nobody can tell, and why: then nobody may claim it.
    fn is_unclaimed(&mut self) -> Result<bool, String>;

    /// Is there a passphrase that lets in?
    fn has_passphrase(&mut self) -> bool;

    /// Does the configuration let anybody in?
    fn is_lab(&self) -> bool;

    /// Ten bytes that nobody can guess.
    ///
    /// # Errors
    /// The kernel gives none.
    fn random(&mut self) -> Result<[u8; 10], String>;

    /// Who signed; entered in the audit log, either way.
    ///
    /// # Errors
    /// Nobody is let in, and why.
    fn redeem(
        &mut self,
        challenge: Challenge,
        answer: &str,
        purpose: Purpose<'_>,
    ) -> Result<Who, String>;

    /// Is this the passphrase? Entered in the audit log, either way, under `name`.
    ///
    /// # Errors
    /// Nobody is let in, and why.
    fn passphrase(&mut self, guess: &str, name: &str, purpose: Purpose<'_>) -> Result<Who, String>;

    /// Anybody in a lab; entered in the audit log.
    fn lab(&mut self) -> Who;

    /// Enrols the first key, an OpenSSH public key on one line; its fingerprint.
    ///
    /// # Errors
    /// It is no such key, or it cannot be kept.
    fn claim(&mut self, key: &str) -> Result<String, String>;

    /// Begins what is ordered; its entry in the audit log comes first. What it prints goes to
    /// [`Session::printed`], its end to [`Session::ended`]. `secret` is what
    /// [`Order::wants_key`] asked for.
    ///
    /// # Errors
    /// It was not begun, and why.
    fn begin(&mut self, order: &Order, secret: &str, technician: &str) -> Result<Begun, String>;

    /// Stops what was begun.
    fn stop(&mut self);

    /// Somebody logged out: why.
    fn left(&mut self, technician: &str, why: &'static str);
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, and nothing is allocated for a page"
)]
enum State {
    /// Nobody is there.
    Asleep,
    /// A command is being typed.
    Typing,
    /// The answer to a code is being pasted, to be let in or to do something.
    Answer(Challenge, Option<Order>),
    /// Who comes with a passphrase is asked for a name.
    Caller,
    /// The passphrase is being typed, to be let in under a name or to do something.
    Secret(Line, Option<Order>),
    /// The first key is being pasted.
    Claiming,
    /// Somebody is asked to say yes.
    Yes(Order),
    /// Somebody is asked to type the gateway's name.
    Name(Order),
    /// The secret key that opens a backup is being pasted.
    Opener(Order),
    /// It can still be stopped.
    Countdown {
        order: Order,
        left: u8,
        next: Mono,
        began: Mono,
    },
    /// A command prints, or help does, of which `help` is the next row.
    Running {
        pager: Pager,
        over: Option<String>,
        help: Option<(Option<&'static Command>, usize)>,
    },
    /// A file goes to the laptop.
    Sending(Box<Transfer>),
}

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    keys: Keys,
    editor: Editor,
    state: State,
    /// What was pasted of an answer.
    answer: heapless::String<{ 2 * ANSWER }>,
    who: Option<Who>,
    /// The key that opens the backup that is about to be restored.
    opener: Line,
    is_lab: bool,
    last_byte: Mono,
}

impl Session {
    /// For a port that was just opened; `is_lab` is said on every screen.
    pub fn new(now: Mono, is_lab: bool, out: &mut dyn Terminal) -> Self {
        let session = Self {
            keys: Keys::default(),
            editor: Editor::default(),
            state: State::Asleep,
            answer: heapless::String::new(),
            who: None,
            opener: Line::new(),
            is_lab,
            last_byte: now,
        };
        session.greet(out);
        session
    }

    /// Who is logged in.
    pub fn technician(&self) -> Option<&str> {
        self.who.as_ref().map(|w| w.name.as_str())
    }

    /// Has somebody pressed Enter since the last logout?
    pub fn is_awake(&self) -> bool {
        !matches!(self.state, State::Asleep)
    }

    /// Bytes that came.
    pub fn bytes(&mut self, bytes: &[u8], now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        self.last_byte = now;
        if let State::Sending(transfer) = &mut self.state {
            transfer.received(bytes, now, out);
            return self.sent(now, host, out);
        }
        for byte in bytes {
            if let Some(key) = self.keys.byte(*byte) {
                self.key(key, now, host, out);
            }
        }
    }

    /// When [`Session::timeout`] is due.
    pub fn deadline(&self) -> Mono {
        let mut due = Mono::NEVER;
        if self.keys.is_waiting() {
            due = due.min(self.last_byte + ESCAPE);
        }
        if let State::Countdown { next, .. } = self.state {
            due = due.min(next);
        }
        if let State::Sending(transfer) = &self.state {
            return transfer.deadline();
        }
        if self.who.is_some() || !matches!(self.state, State::Asleep) {
            due = due.min(self.last_byte + IDLE);
        }
        due
    }

    /// Time has passed.
    pub fn timeout(&mut self, now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        if self.keys.is_waiting()
            && now >= self.last_byte + ESCAPE
            && let Some(key) = self.keys.too_late()
        {
            self.key(key, now, host, out);
        }
        if matches!(self.state, State::Countdown { next, .. } if now >= next) {
            self.count(host, out);
        }
        if let State::Sending(transfer) = &mut self.state {
            transfer.timeout(now, out);
            return self.sent(now, host, out);
        }
        // What a command prints may be watched without a key.
        let watches = matches!(self.state, State::Running { .. });
        if now >= self.last_byte + IDLE {
            if watches {
                self.last_byte = now;
            } else if !matches!(self.state, State::Asleep) {
                out.say("\r\nNo key for ten minutes.\r\n");
                self.leave("idle", host, out);
            }
        }
    }

    /// The line was cut, or a BREAK came.
    pub fn hung_up(&mut self, why: &'static str, host: &mut dyn Host, out: &mut dyn Terminal) {
        match &mut self.state {
            State::Running { .. } => host.stop(),
            State::Sending(transfer) => transfer.cancel(out),
            State::Asleep
            | State::Typing
            | State::Answer(..)
            | State::Caller
            | State::Secret(..)
            | State::Claiming
            | State::Yes(_)
            | State::Name(_)
            | State::Opener(_)
            | State::Countdown { .. } => {}
        }
        self.keys = Keys::default();
        self.leave(why, host, out);
    }

    /// How many bytes of a command's output it takes now.
    pub fn room(&self) -> usize {
        match &self.state {
            State::Running {
                pager, over: None, ..
            } => pager.room(),
            State::Running { .. }
            | State::Asleep
            | State::Typing
            | State::Answer(..)
            | State::Caller
            | State::Secret(..)
            | State::Claiming
            | State::Yes(_)
            | State::Name(_)
            | State::Opener(_)
            | State::Sending(_)
            | State::Countdown { .. } => 0,
        }
    }

    /// What a command printed, at most [`Session::room`] bytes.
    pub fn printed(&mut self, bytes: &[u8], out: &mut dyn Terminal) {
        if let State::Running { pager, .. } = &mut self.state {
            pager.put(bytes, out);
            show::ask_for_more(pager, out);
        }
    }

    /// A command has ended, and how, in words.
    pub fn ended(&mut self, how: String, host: &dyn Host, out: &mut dyn Terminal) {
        if let State::Running { pager, over, .. } = &mut self.state {
            *over = Some(how);
            if !pager.is_full() {
                self.close(host, out);
            }
        }
    }

    fn greet(&self, out: &mut dyn Terminal) {
        out.say("\r\n");
        self.warn(out);
        out.say("Please press Enter to activate this console.\r\n");
    }

    /// Everybody at the cable is told what anybody there can do.
    fn warn(&self, out: &mut dyn Terminal) {
        if self.is_lab {
            out.say("*** LAB MODE: ANYBODY WITH THIS CABLE CAN DO EVERYTHING HERE ***\r\n");
        }
    }

    fn leave(&mut self, why: &'static str, host: &mut dyn Host, out: &mut dyn Terminal) {
        if let Some(who) = self.who.take() {
            host.left(&who.name, why);
            out.say("Logged out.\r\n");
        }
        self.editor.forget();
        self.opener.clear();
        self.answer.clear();
        self.state = State::Asleep;
        self.greet(out);
    }

    fn prompt(&mut self, host: &dyn Host, out: &mut dyn Terminal) {
        self.state = State::Typing;
        self.opener.clear();
        let lab = if self.is_lab { " LAB" } else { "" };
        let sign = match self.who.as_ref().map(|w| w.role) {
            Some(Role::Technician) => "# ",
            Some(Role::Viewer) => "$ ",
            None => "> ",
        };
        let mut prompt = heapless::String::<40>::new();
        for c in host.gateway().chars().filter(|c| !c.is_control()).take(24) {
            // Four bytes each may be too many: the name is cut.
            if prompt.len() + c.len_utf8() > 32 || prompt.push(c).is_err() {
                break;
            }
        }
        // There is room: the name was cut.
        prompt.push_str(lab).ok();
        prompt.push_str(sign).ok();
        self.editor.begin(&prompt, out);
    }

    fn key(&mut self, key: Key, now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        match &mut self.state {
            State::Asleep => {
                if key == Key::Enter {
                    self.show(host, out);
                    self.prompt(host, out);
                }
            }
            // The end of what was pasted is no key.
            State::Countdown { began, .. } if key == Key::Enter && now.since(*began) < TAIL => {}
            State::Countdown { .. } => {
                out.say("\r\nStopped. Nothing was done.\r\n");
                self.prompt(host, out);
            }
            State::Running { .. } => self.watch(key, host, out),
            State::Sending(_) => {}
            State::Typing
            | State::Answer(..)
            | State::Caller
            | State::Secret(..)
            | State::Claiming
            | State::Yes(_)
            | State::Opener(_)
            | State::Name(_) => self.edit(key, now, host, out),
        }
    }

    fn edit(&mut self, key: Key, now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        // An answer is several lines; in a paste they come as such.
        let is_answer = matches!(self.state, State::Answer(..));
        if is_answer && matches!(key, Key::PasteBegin | Key::PasteEnd) {
            return;
        }
        match self.editor.key(key, out) {
            Edited::Typing => {}
            Edited::Complete => {
                if matches!(self.state, State::Typing) {
                    let words = commands::words(self.editor.line(), self.who.is_some());
                    self.editor.complete(&words, out);
                }
            }
            Edited::Interrupted => self.prompt(host, out),
            Edited::Left => {
                out.say("\r\n");
                if matches!(self.state, State::Typing) {
                    self.leave("logout", host, out);
                } else {
                    self.prompt(host, out);
                }
            }
            Edited::Done(line) => self.line(line, now, host, out),
        }
    }

    fn line(&mut self, line: Line, now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        match std::mem::replace(&mut self.state, State::Typing) {
            State::Typing => self.command(&line, now, host, out),
            State::Answer(challenge, order) => self.answer(challenge, order, &line, now, host, out),
            State::Caller => self.called(&line, host, out),
            State::Secret(name, order) => self.secret(&name, order, line, now, host, out),
            State::Claiming => self.claimed(&line, host, out),
            State::Yes(order) => self.said(order, &line, host, out),
            State::Name(order) => self.named(order, &line, now, host, out),
            State::Opener(order) => {
                self.opener = line;
                self.prove(order, now, host, out);
            }
            State::Asleep | State::Countdown { .. } | State::Running { .. } | State::Sending(_) => {
                self.prompt(host, out)
            }
        }
    }

    fn command(&mut self, line: &Line, now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        if line.trim().is_empty() {
            return self.prompt(host, out);
        }
        let order = match commands::find(line) {
            Ok(order) => order,
            Err(why) => {
                match why {
                    NoOrder::Unknown => {
                        out.say("No such command. `help` lists them, Tab completes them.\r\n");
                    }
                    NoOrder::Wrong(command) => {
                        let how = format!("Type: {} {}", command.name, command.takes);
                        say_plainly(how.trim_end(), "", out);
                        let help = format!("`help {}` says more.", command.name);
                        say_plainly(&help, "", out);
                    }
                    NoOrder::Word => out.say(
                        "A word there begins with - or has a character that is not taken.\r\n",
                    ),
                }
                return self.prompt(host, out);
            }
        };
        let role = self.who.as_ref().map(|w| w.role);
        match (order.command.needs, role) {
            (Needs::Nobody, _) | (Needs::Login, Some(_)) => self.plain(order, now, host, out),
            (_, None) => {
                out.say(match (host.is_unclaimed(), host.has_passphrase()) {
                    (Ok(true), false) => {
                        "That needs a technician, and no key is enrolled yet: type claim.\r\n"
                    }
                    _ => "That needs a technician: type login.\r\n",
                });
                self.prompt(host, out);
            }
            (_, Some(Role::Viewer)) => {
                out.say("You may look, not change: that needs a technician.\r\n");
                self.prompt(host, out);
            }
            (Needs::Technician, Some(Role::Technician)) => self.plain(order, now, host, out),
            (
                Needs::Yes(what) | Needs::Name(what) | Needs::Signature(what),
                Some(Role::Technician),
            ) => self.ask(order, what, host, out),
        }
    }

    fn plain(&mut self, order: Order, now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        match order.command.does {
            Does::Look => self.show(host, out),
            Does::Help => return self.help(&order, host, out),
            Does::Login => return self.log_in(&order, now, host, out),
            Does::Claim => return self.ask_for_key(host, out),
            Does::Logout => return self.leave("logout", host, out),
            Does::Verb(_)
            | Does::Databases(_)
            | Does::Store(_)
            | Does::Restore
            | Does::Reset
            | Does::Program(_)
            | Does::Log
            | Does::Send
            | Does::Why => return self.begin(&order, host, out),
        }
        self.prompt(host, out);
    }

    fn begin(&mut self, order: &Order, host: &mut dyn Host, out: &mut dyn Terminal) {
        let Some(who) = &self.who else {
            return self.prompt(host, out);
        };
        let secret = std::mem::take(&mut self.opener);
        match host.begin(order, secret.trim(), &who.name) {
            Ok(Begun::Prints) => {
                self.state = State::Running {
                    pager: Pager::default(),
                    over: None,
                    help: None,
                };
            }
            Ok(Begun::Sends(source)) => self.send(source, out),
            Err(why) => {
                say_plainly("", &why, out);
                self.prompt(host, out);
            }
        }
    }

    fn send(&mut self, source: Box<dyn Source>, out: &mut dyn Terminal) {
        out.say("Start receiving by ZMODEM now (in picocom: Ctrl-A Ctrl-R; many start by\r\n");
        out.say("themselves). Ctrl-C or Ctrl-X five times: give up.\r\n");
        self.state = State::Sending(Box::new(Transfer::new(source, self.last_byte)));
    }

    /// Is the file there?
    fn sent(&mut self, now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        let State::Sending(transfer) = &mut self.state else {
            return;
        };
        if let Some(end) = transfer.ended(now) {
            let end = end.to_string();
            self.last_byte = now;
            out.say("\r\n");
            say_plainly("", &end, out);
            self.prompt(host, out);
        }
    }
}

#[cfg(test)]
mod tests;
