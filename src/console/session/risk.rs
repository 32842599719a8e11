//! What is asked before something is done that cannot be undone.

use std::time::Duration;

use crate::clock::Mono;

use super::super::commands::{Needs, Order};
use super::super::editor::{Line, Terminal};
use super::super::login::{Proof, Role, Who};
use super::{Host, Session, State, say_plainly};

/// Seconds that a destructive command can still be stopped.
const COUNTDOWN: u8 = 10;

impl Session {
    pub(super) fn ask(
        &mut self,
        order: Order,
        what: &str,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        // Its rows fit: a test looks at each.
        out.say(what);
        out.say("\r\n");
        if let Needs::Yes(_) = order.command.needs {
            self.state = State::Yes(order);
            return self.editor.begin("[y/N] ", out);
        }
        say_plainly("To go on type the gateway's name:", host.gateway(), out);
        self.state = State::Name(order);
        self.editor.begin("name: ", out);
    }

    pub(super) fn said(
        &mut self,
        order: Order,
        line: &Line,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        if matches!(line.trim(), "y" | "Y" | "yes") {
            self.begin(&order, host, out);
        } else {
            out.say("Nothing was done.\r\n");
            self.prompt(host, out);
        }
    }

    pub(super) fn named(
        &mut self,
        order: Order,
        line: &Line,
        now: Mono,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        if line.trim() != host.gateway() {
            out.say("That is not its name. Nothing was done.\r\n");
            return self.prompt(host, out);
        }
        if order.wants_key() {
            self.state = State::Opener(order);
            out.say("The backup's secret key (AGE-SECRET-KEY-1...); it is kept nowhere.\r\n");
            return self.editor.begin_secret("key (not shown): ", out);
        }
        self.prove(order, now, host, out);
    }

    /// What erases wants to know once more, and for this alone, who is there.
    pub(super) fn prove(
        &mut self,
        order: Order,
        now: Mono,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        let Some(who) = self.who.clone() else {
            return self.prompt(host, out);
        };
        match (order.command.needs, who.proof) {
            (Needs::Signature(_), Proof::Key) => {
                say_plainly("Sign for this alone:", &order.action(), out);
                let action = order.action();
                self.challenge(&action, Role::Technician, Some(order), now, host, out);
            }
            (Needs::Signature(_), Proof::Passphrase) => {
                let mut name = Line::new();
                // A name is shorter than a line.
                name.push_str(&who.name).ok();
                self.ask_secret(name, Some(order), out);
            }
            (Needs::Signature(_), Proof::Lab)
            | (
                Needs::Name(_) | Needs::Yes(_) | Needs::Nobody | Needs::Login | Needs::Technician,
                _,
            ) => self.count_down(order, now, out),
        }
    }

    /// Somebody was asked who they are, to be let in or to do something.
    pub(super) fn proven(
        &mut self,
        proven: Result<Who, String>,
        order: Option<Order>,
        now: Mono,
        host: &mut dyn Host,
        out: &mut dyn Terminal,
    ) {
        match (proven, order) {
            (Ok(who), None) => {
                let name = format!("{}.", who.name);
                say_plainly("Welcome,", &name, out);
                if who.role == Role::Viewer {
                    out.say("You may look; to change something takes a technician.\r\n");
                }
                out.say("`why` says what to do, `help` lists the commands.\r\n");
                self.who = Some(who);
            }
            (Ok(who), Some(order)) if self.technician() == Some(&who.name) => {
                return self.count_down(order, now, out);
            }
            (Ok(who), Some(_)) => {
                let why = format!("{} signed, and somebody else is logged in.", who.name);
                say_plainly("Nothing was done:", &why, out);
            }
            (Err(why), None) => say_plainly("Not logged in:", &why, out),
            (Err(why), Some(_)) => say_plainly("Nothing was done:", &why, out),
        }
        self.prompt(host, out);
    }

    fn count_down(&mut self, order: Order, now: Mono, out: &mut dyn Terminal) {
        out.say("Any key stops it.\r\n");
        self.state = State::Countdown {
            order,
            left: COUNTDOWN,
            next: now,
            began: now,
        };
    }

    pub(super) fn count(&mut self, host: &mut dyn Host, out: &mut dyn Terminal) {
        let State::Countdown {
            order, left, next, ..
        } = &mut self.state
        else {
            return;
        };
        if *left == 0 {
            let order = order.clone();
            out.say("\r\n");
            return self.begin(&order, host, out);
        }
        let mut text = heapless::String::<8>::new();
        // Two digits fit.
        core::fmt::write(&mut text, format_args!("{left} ")).ok();
        out.say(&text);
        *left -= 1;
        *next = *next + Duration::from_secs(1);
    }
}
