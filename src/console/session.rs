//! One technician at one port: from the first Enter to the logout.
//!
//! It promises that nothing is told or done before login but one screen, that every command is
//! entered in the audit log under the technician's name before it begins, that what is destructive
//! asks for the gateway's name and counts down, and that hang-up, BREAK and silence log out. It is a
//! state machine: bytes and time in, bytes for the terminal out; what it wants done goes through
//! [`Host`]. It must never wait.

use std::time::Duration;

use crate::clock::Mono;

use super::commands::{self, Command, Does, Needs};
use super::editor::{Edited, Editor, Line, Terminal, WIDTH};
use super::keys::{ESCAPE, Key, Keys};
use super::login::{ANSWER, Challenge, is_complete};
use super::pager::Pager;

/// Without a key for so long a technician is logged out.
pub const IDLE: Duration = Duration::from_secs(600);

/// Seconds that a destructive command can still be stopped.
const COUNTDOWN: u8 = 10;

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

    /// Ten bytes that nobody can guess.
    ///
    /// # Errors
    /// The kernel gives none.
    fn random(&mut self) -> Result<[u8; 10], String>;

    /// Who signed; entered in the audit log, either way.
    ///
    /// # Errors
    /// Nobody is let in, and why.
    fn redeem(&mut self, challenge: Challenge, answer: &str) -> Result<String, String>;

    /// Enrols the first key, an OpenSSH public key on one line; its fingerprint.
    ///
    /// # Errors
    /// It is no such key, or it cannot be kept.
    fn claim(&mut self, key: &str) -> Result<String, String>;

    /// Begins what a command does; its entry in the audit log comes first. What it prints goes to
    /// [`Session::printed`], its end to [`Session::ended`].
    ///
    /// # Errors
    /// It was not begun, and why.
    fn begin(&mut self, command: &'static Command, technician: &str) -> Result<(), String>;

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
    /// The answer to a code is being pasted.
    Answer(Challenge),
    /// The first key is being pasted.
    Claiming,
    /// Somebody is asked to say yes.
    Yes(&'static Command),
    /// Somebody is asked to type the gateway's name.
    Name(&'static Command),
    /// It can still be stopped.
    Countdown {
        command: &'static Command,
        left: u8,
        next: Mono,
    },
    /// A command prints, or the commands are listed, of which `help` is the next row.
    Running {
        pager: Pager,
        over: Option<String>,
        help: Option<usize>,
    },
}

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    keys: Keys,
    editor: Editor,
    state: State,
    /// What was pasted of an answer.
    answer: heapless::String<{ 2 * ANSWER }>,
    technician: Option<String>,
    last_byte: Mono,
}

impl Session {
    /// For a port that was just opened.
    pub fn new(now: Mono, out: &mut dyn Terminal) -> Self {
        let session = Self {
            keys: Keys::default(),
            editor: Editor::default(),
            state: State::Asleep,
            answer: heapless::String::new(),
            technician: None,
            last_byte: now,
        };
        session.greet(out);
        session
    }

    /// Who is logged in.
    pub fn technician(&self) -> Option<&str> {
        self.technician.as_deref()
    }

    /// Has somebody pressed Enter since the last logout?
    pub fn is_awake(&self) -> bool {
        !matches!(self.state, State::Asleep)
    }

    /// Bytes that came.
    pub fn bytes(&mut self, bytes: &[u8], now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        for byte in bytes {
            self.last_byte = now;
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
        if self.technician.is_some() || !matches!(self.state, State::Asleep) {
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
        if let State::Countdown {
            command,
            left,
            next,
        } = self.state
            && now >= next
        {
            self.count(command, left, next, host, out);
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
        if let State::Running { .. } = self.state {
            host.stop();
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
            | State::Answer(_)
            | State::Claiming
            | State::Yes(_)
            | State::Name(_)
            | State::Countdown { .. } => 0,
        }
    }

    /// What a command printed, at most [`Session::room`] bytes.
    pub fn printed(&mut self, bytes: &[u8], out: &mut dyn Terminal) {
        if let State::Running { pager, .. } = &mut self.state {
            pager.put(bytes, out);
            ask_for_more(pager, out);
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
        out.say("\r\nPlease press Enter to activate this console.\r\n");
    }

    fn leave(&mut self, why: &'static str, host: &mut dyn Host, out: &mut dyn Terminal) {
        if let Some(technician) = self.technician.take() {
            host.left(&technician, why);
            out.say("Logged out.\r\n");
        }
        self.editor.forget();
        self.state = State::Asleep;
        self.greet(out);
    }

    fn prompt(&mut self, host: &dyn Host, out: &mut dyn Terminal) {
        self.state = State::Typing;
        let sign = if self.technician.is_some() { '#' } else { '>' };
        let mut prompt = heapless::String::<40>::new();
        for c in host.gateway().chars().filter(|c| !c.is_control()).take(24) {
            // Four bytes each may be too many: the name is cut.
            if prompt.push(c).is_err() {
                break;
            }
        }
        prompt.push(sign).ok();
        prompt.push(' ').ok();
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
            State::Countdown { .. } => {
                out.say("\r\nStopped. Nothing was done.\r\n");
                self.prompt(host, out);
            }
            State::Running { .. } => self.watch(key, host, out),
            State::Typing | State::Answer(_) | State::Claiming | State::Yes(_) | State::Name(_) => {
                self.edit(key, now, host, out)
            }
        }
    }

    fn edit(&mut self, key: Key, now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        // An answer is several lines; in a paste they come as such.
        let is_answer = matches!(self.state, State::Answer(_));
        if is_answer && matches!(key, Key::PasteBegin | Key::PasteEnd) {
            return;
        }
        match self.editor.key(key, out) {
            Edited::Typing => {}
            Edited::Complete => {
                if matches!(self.state, State::Typing) {
                    let words = commands::words(self.editor.line(), self.technician.is_some());
                    self.editor.complete(&words, out);
                }
            }
            Edited::Interrupted => self.prompt(host, out),
            Edited::Left => {
                if matches!(self.state, State::Typing) {
                    out.say("\r\n");
                    self.leave("logout", host, out);
                } else {
                    out.say("\r\n");
                    self.prompt(host, out);
                }
            }
            Edited::Done(line) => self.line(&line, now, host, out),
        }
    }

    fn line(&mut self, line: &Line, now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        match std::mem::replace(&mut self.state, State::Typing) {
            State::Typing => self.command(line, now, host, out),
            State::Answer(challenge) => self.answer(challenge, line, host, out),
            State::Claiming => self.claimed(line, host, out),
            State::Yes(command) => {
                if matches!(line.trim(), "y" | "Y" | "yes") {
                    self.begin(command, host, out);
                } else {
                    out.say("Nothing was done.\r\n");
                    self.prompt(host, out);
                }
            }
            State::Name(command) => {
                if line.trim() == host.gateway() {
                    out.say("Any key stops it.\r\n");
                    self.state = State::Countdown {
                        command,
                        left: COUNTDOWN,
                        next: now,
                    };
                } else {
                    out.say("That is not its name. Nothing was done.\r\n");
                    self.prompt(host, out);
                }
            }
            State::Asleep | State::Countdown { .. } | State::Running { .. } => {
                self.prompt(host, out);
            }
        }
    }

    fn command(&mut self, line: &Line, now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        if line.trim().is_empty() {
            return self.prompt(host, out);
        }
        let Some(command) = commands::find(line) else {
            out.say("No such command. `help` lists them, Tab completes them.\r\n");
            return self.prompt(host, out);
        };
        let known = self.technician.is_some();
        match (command.needs, known) {
            (Needs::Login | Needs::Yes(_) | Needs::Name(_), false) => {
                out.say(match host.is_unclaimed() {
                    Ok(true) => {
                        "That needs a technician, and no key is enrolled yet: type claim.\r\n"
                    }
                    Ok(false) | Err(_) => "That needs a technician: type login.\r\n",
                });
                self.prompt(host, out);
            }
            (Needs::Nobody, _) | (Needs::Login, true) => self.plain(command, now, host, out),
            (Needs::Yes(what), true) => {
                out.say(what);
                out.say("\r\n");
                self.state = State::Yes(command);
                self.editor.begin("[y/N] ", out);
            }
            (Needs::Name(what), true) => {
                out.say(what);
                out.say("\r\nTo go on type the gateway's name: ");
                out.say(host.gateway());
                out.say("\r\n");
                self.state = State::Name(command);
                self.editor.begin("name: ", out);
            }
        }
    }

    fn plain(
        &mut self,
        command: &'static Command,
        now: Mono,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        match command.does {
            Does::Look => self.show(host, out),
            Does::Help => {
                self.state = State::Running {
                    pager: Pager::default(),
                    over: Some(String::new()),
                    help: Some(0),
                };
                return self.list(host, out);
            }
            Does::Login => return self.log_in(now, host, out),
            Does::Claim => return self.ask_for_key(host, out),
            Does::Logout => return self.leave("logout", host, out),
            Does::Verb(_) | Does::Program(_) | Does::Recover | Does::SetAside | Does::Why => {
                return self.begin(command, host, out);
            }
        }
        self.prompt(host, out);
    }

    fn show(&mut self, host: &mut dyn Host, out: &mut dyn Terminal) {
        out.say("\r\n");
        for row in host.look() {
            out.say(&row);
            out.say("\r\n");
        }
        let next = match (self.technician.is_some(), host.is_unclaimed()) {
            (true, _) => "`why` says what to do, `help` lists the commands.",
            (false, Ok(true)) => "No key is enrolled yet: `claim` enrols the first one.",
            (false, Ok(false) | Err(_)) => "`login` to do something about it, `help` for more.",
        };
        out.say(next);
        out.say("\r\n");
    }

    fn log_in(&mut self, now: Mono, host: &mut dyn Host, out: &mut dyn Terminal) {
        if self.technician.is_some() {
            out.say("You are logged in.\r\n");
            return self.prompt(host, out);
        }
        if host.is_unclaimed() == Ok(true) {
            out.say("No key is enrolled on this gateway yet: `claim` enrols the first one.\r\n");
            return self.prompt(host, out);
        }
        let random = match host.random() {
            Ok(random) => random,
            Err(why) => {
                say_plainly("", &why, out);
                return self.prompt(host, out);
            }
        };
        let challenge = Challenge::new(host.gateway(), "login", random, now);
        out.say("On your laptop, with your key for KEY (~/.ssh/id_ed25519):\r\n\r\n");
        out.say(&challenge.line());
        out.say("\r\n\r\nPaste here what it prints, within five minutes. Ctrl-C: back.\r\n");
        self.answer.clear();
        self.state = State::Answer(challenge);
        self.editor.begin("", out);
    }

    fn answer(
        &mut self,
        challenge: Challenge,
        line: &Line,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        let fits = self.answer.push_str(line).is_ok() && self.answer.push('\n').is_ok();
        let gives_up = self.answer.trim().is_empty();
        if fits && !gives_up && !is_complete(&self.answer) {
            self.state = State::Answer(challenge);
            return self.editor.begin("", out);
        }
        // Used up by the attempt, whatever comes of it.
        match host.redeem(challenge, &self.answer) {
            Ok(technician) => {
                self.editor.forget();
                out.say("\r\n");
                say_plainly("Welcome,", &format!("{technician}."), out);
                out.say("`why` says what to do, `help` lists the commands.\r\n");
                self.technician = Some(technician);
            }
            Err(why) => {
                self.editor.forget();
                out.say("\r\n");
                say_plainly("Not logged in:", &why, out);
            }
        }
        self.prompt(host, out);
    }

    fn ask_for_key(&mut self, host: &mut dyn Host, out: &mut dyn Terminal) {
        match host.is_unclaimed() {
            Ok(true) => {
                out.say("Paste your public key (one line, from ~/.ssh/id_ed25519.pub).\r\n");
                out.say(
                    "Whoever has that key can then do everything here. The comment at its end\r\n",
                );
                out.say(
                    "is your name here (kim@laptop). Make one: ssh-keygen -t ed25519 -C NAME\r\n",
                );
                self.state = State::Claiming;
                self.editor.begin("key: ", out);
            }
            Ok(false) => {
                out.say("This gateway has its keys already: type login.\r\n");
                self.prompt(host, out);
            }
            Err(why) => {
                say_plainly("", &why, out);
                self.prompt(host, out);
            }
        }
    }

    fn claimed(&mut self, line: &Line, host: &mut dyn Host, out: &mut dyn Terminal) {
        match host.claim(line.trim()) {
            Ok(fingerprint) => {
                out.say("Enrolled: ");
                out.say(&fingerprint);
                out.say("\r\nType login to use it.\r\n");
            }
            Err(why) => {
                say_plainly("Not enrolled:", &why, out);
            }
        }
        self.prompt(host, out);
    }

    fn begin(&mut self, command: &'static Command, host: &mut dyn Host, out: &mut dyn Terminal) {
        let Some(technician) = &self.technician else {
            return self.prompt(host, out);
        };
        match host.begin(command, technician) {
            Ok(()) => {
                self.state = State::Running {
                    pager: Pager::default(),
                    over: None,
                    help: None,
                };
            }
            Err(why) => {
                say_plainly("", &why, out);
                self.prompt(host, out);
            }
        }
    }

    fn count(
        &mut self,
        command: &'static Command,
        left: u8,
        next: Mono,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        if left == 0 {
            out.say("\r\n");
            return self.begin(command, host, out);
        }
        let mut text = heapless::String::<8>::new();
        // Two digits fit.
        core::fmt::write(&mut text, format_args!("{left} ")).ok();
        out.say(&text);
        self.state = State::Countdown {
            command,
            left: left - 1,
            next: next + Duration::from_secs(1),
        };
    }

    fn watch(&mut self, key: Key, host: &mut dyn Host, out: &mut dyn Terminal) {
        let State::Running { pager, over, help } = &mut self.state else {
            return;
        };
        if pager.is_full() {
            out.say("\r\x1b[K");
            match key {
                Key::Char(' ') | Key::Enter | Key::Down => {
                    pager.next_page(out);
                    if help.is_some() {
                        return self.list(host, out);
                    }
                    ask_for_more(pager, out);
                }
                Key::Interrupt | Key::Char('q' | 'Q') => {
                    if over.is_none() {
                        host.stop();
                    }
                    return self.prompt(host, out);
                }
                Key::Char(_)
                | Key::Backspace
                | Key::Delete
                | Key::Left
                | Key::Right
                | Key::Up
                | Key::Home
                | Key::End
                | Key::KillBefore
                | Key::KillAfter
                | Key::KillWord
                | Key::Complete
                | Key::Leave
                | Key::Redraw
                | Key::Escape
                | Key::PasteBegin
                | Key::PasteEnd => ask_for_more(pager, out),
            }
            if over.is_some() && !self.is_waiting_for_more() {
                self.close(host, out);
            }
        } else if matches!(key, Key::Interrupt | Key::Char('q' | 'Q')) && over.is_none() {
            host.stop();
            out.say("\r\nStopped.\r\n");
            self.prompt(host, out);
        }
    }

    /// As many rows of the list of commands as fit.
    fn list(&mut self, host: &dyn Host, out: &mut dyn Terminal) {
        let known = self.technician.is_some();
        if let State::Running {
            pager,
            help: Some(n),
            ..
        } = &mut self.state
        {
            while !pager.is_full()
                && let Some(row) = commands::help(*n, known)
            {
                pager.put(row.as_bytes(), out);
                *n += 1;
            }
            ask_for_more(pager, out);
        }
        if !self.is_waiting_for_more() {
            self.close(host, out);
        }
    }

    fn is_waiting_for_more(&self) -> bool {
        matches!(&self.state, State::Running { pager, .. } if pager.is_full())
    }

    /// The output is over and all of it was shown.
    fn close(&mut self, host: &dyn Host, out: &mut dyn Terminal) {
        if let State::Running { pager, over, .. } = &mut self.state {
            pager.end(out);
            if let Some(how) = over.take().filter(|h| !h.is_empty()) {
                say_plainly("", &how, out);
            }
        }
        self.prompt(host, out);
    }
}

fn ask_for_more(pager: &Pager, out: &mut dyn Terminal) {
    if pager.is_full() {
        out.say("-- Space: more, q: stop --");
    }
}

/// What comes from a file or an error, behind `before`, on as many rows as it needs.
fn say_plainly(before: &str, text: &str, out: &mut dyn Terminal) {
    let mut column = 0;
    for word in [before, text].iter().flat_map(|t| t.split_whitespace()) {
        let visible = || word.chars().filter(|c| !c.is_control());
        let long = visible().count();
        if column > 0 && column + 1 + long > WIDTH {
            out.say("\r\n");
            column = 0;
        }
        if column > 0 {
            out.say(" ");
            column += 1;
        }
        for c in visible() {
            if column == WIDTH {
                out.say("\r\n");
                column = 0;
            }
            out.say(c.encode_utf8(&mut [0; 4]));
            column += 1;
        }
    }
    out.say("\r\n");
}

#[cfg(test)]
mod tests;
