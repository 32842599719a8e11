//! Logging in, and the first key.

use crate::clock::Mono;

use super::super::commands::Order;
use super::super::editor::{Line, Terminal};
use super::super::login::{Challenge, Role, is_complete};
use super::{Host, Purpose, Session, State, say_plainly};

/// Characters of the name that somebody with a passphrase gives.
const NAME: usize = 40;

impl Session {
    pub(super) fn log_in(
        &mut self,
        order: &Order,
        now: Mono,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        if self.who.is_some() {
            out.say("You are logged in; logout ends that.\r\n");
            return self.prompt(host, out);
        }
        if host.is_lab() {
            self.who = Some(host.lab());
            self.warn(out);
            return self.prompt(host, out);
        }
        let unclaimed = host.is_unclaimed();
        let has_passphrase = host.has_passphrase();
        let role = match order.args.as_str() {
            // Without any key the passphrase is all there is.
            "" if unclaimed == Ok(true) && has_passphrase => return self.call(out),
            "" => Role::Technician,
            "viewer" => Role::Viewer,
            "passphrase" if has_passphrase => return self.call(out),
            "passphrase" => {
                out.say("This gateway has no passphrase: log in with your key.\r\n");
                return self.prompt(host, out);
            }
            _ => {
                out.say("Type: login, login viewer, or login passphrase.\r\n");
                return self.prompt(host, out);
            }
        };
        if unclaimed == Ok(true) {
            out.say("No key is enrolled on this gateway yet: `claim` enrols the first one.\r\n");
            return self.prompt(host, out);
        }
        self.challenge("login", role, None, now, host, out);
    }

    /// Shows a code for `action` and waits for its answer.
    pub(super) fn challenge(
        &mut self,
        action: &str,
        role: Role,
        order: Option<Order>,
        now: Mono,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        let random = match host.random() {
            Ok(random) => random,
            Err(why) => {
                say_plainly("", &why, out);
                return self.prompt(host, out);
            }
        };
        let challenge = Challenge::new(host.gateway(), action, role, random, now);
        out.say("On your laptop, with your key for KEY (~/.ssh/id_ed25519):\r\n\r\n");
        out.say(&challenge.line());
        out.say("\r\n\r\nPaste here what it prints, within five minutes. Ctrl-C: back.\r\n");
        self.answer.clear();
        self.state = State::Answer(challenge, order);
        self.editor.begin("", out);
    }

    pub(super) fn answer(
        &mut self,
        challenge: Challenge,
        order: Option<Order>,
        line: &Line,
        now: Mono,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        let fits = self.answer.push_str(line).is_ok() && self.answer.push('\n').is_ok();
        let gives_up = self.answer.trim().is_empty();
        if fits && !gives_up && !is_complete(&self.answer) {
            self.state = State::Answer(challenge, order);
            return self.editor.begin("", out);
        }
        let purpose = order.as_ref().map_or(Purpose::LogIn, Purpose::Act);
        // Used up by the attempt, whatever comes of it.
        let who = host.redeem(challenge, &self.answer, purpose);
        self.answer.clear();
        self.editor.forget();
        out.say("\r\n");
        self.proven(who, order, now, host, out);
    }

    /// Somebody comes with a passphrase.
    fn call(&mut self, out: &mut dyn Terminal) {
        self.state = State::Caller;
        out.say("Your name, for the audit log:\r\n");
        self.editor.begin("name: ", out);
    }

    pub(super) fn called(&mut self, line: &Line, host: &mut dyn Host, out: &mut dyn Terminal) {
        let name = line.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        if name.is_empty() || name.len() > NAME || !name.chars().all(plain) {
            out.say("A name has 1 to 40 letters, digits, or - _ . @\r\n");
            return self.prompt(host, out);
        }
        let mut kept = Line::new();
        // It was a line.
        kept.push_str(name).ok();
        self.ask_secret(kept, None, out);
    }

    pub(super) fn ask_secret(&mut self, name: Line, order: Option<Order>, out: &mut dyn Terminal) {
        self.state = State::Secret(name, order);
        self.editor.begin_secret("passphrase (not shown): ", out);
    }

    pub(super) fn secret(
        &mut self,
        name: &str,
        order: Option<Order>,
        guess: Line,
        now: Mono,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        let purpose = order.as_ref().map_or(Purpose::LogIn, Purpose::Act);
        let who = host.passphrase(&guess, name, purpose);
        self.editor.forget();
        self.proven(who, order, now, host, out);
    }

    pub(super) fn ask_for_key(&mut self, host: &mut dyn Host, out: &mut dyn Terminal) {
        let why = match host.is_unclaimed() {
            Ok(true) if host.has_passphrase() && self.who.is_none() => {
                "This gateway has a passphrase: login first, then claim.".to_owned()
            }
            Ok(true) => {
                out.say("Paste your public key (one line, from ~/.ssh/id_ed25519.pub).\r\n");
                out.say(
                    "Whoever has that key can then do everything here. The comment at its end\r\n",
                );
                out.say(
                    "is your name here (kim@laptop). Make one: ssh-keygen -t ed25519 -C NAME\r\n",
                );
                self.state = State::Claiming;
                return self.editor.begin("key: ", out);
            }
            Ok(false) => "This gateway has its keys already: type login.".to_owned(),
            Err(why) => why,
        };
        say_plainly("", &why, out);
        self.prompt(host, out);
    }

    pub(super) fn claimed(&mut self, line: &Line, host: &mut dyn Host, out: &mut dyn Terminal) {
        match host.claim(line.trim()) {
            Ok(fingerprint) => {
                out.say("Enrolled: ");
                out.say(&fingerprint);
                out.say("\r\nType login to use it.\r\n");
            }
            Err(why) => say_plainly("Not enrolled:", &why, out),
        }
        self.prompt(host, out);
    }
}
