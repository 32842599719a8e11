//! What is shown: the one screen, the help, and what commands print.

use super::super::commands::{self, Command, Order};
use super::super::editor::{Terminal, WIDTH};
use super::super::keys::Key;
use super::super::pager::Pager;
use super::{Host, Session, State};

impl Session {
    pub(super) fn show(&mut self, host: &mut dyn Host, out: &mut dyn Terminal) {
        out.say("\r\n");
        for row in host.look() {
            out.say(&row);
            out.say("\r\n");
        }
        self.warn(out);
        let next = match (self.who.is_some(), host.is_unclaimed()) {
            (true, _) => "`why` says what to do, `help` lists the commands.",
            (false, _) if self.is_lab => "`login` needs nothing here; `help` for more.",
            (false, Ok(true)) if host.has_passphrase() => {
                "`login` to do something about it, `help` for more."
            }
            (false, Ok(true)) => "No key is enrolled yet: `claim` enrols the first one.",
            (false, Ok(false) | Err(_)) => "`login` to do something about it, `help` for more.",
        };
        out.say(next);
        out.say("\r\n");
    }

    /// The list of commands, or what is known of one.
    pub(super) fn help(&mut self, order: &Order, host: &dyn Host, out: &mut dyn Terminal) {
        let about = order.args.as_str();
        let one: Option<&'static Command> = if about.is_empty() {
            None
        } else {
            let named = |c: &&Command| about.split_ascii_whitespace().eq(c.name.split(' '));
            let found = commands::COMMANDS.iter().find(named);
            if found.is_none() {
                out.say("No such command. `help` lists them.\r\n");
                return self.prompt(host, out);
            }
            found
        };
        self.state = State::Running {
            pager: Pager::default(),
            over: Some(String::new()),
            help: Some((one, 0)),
        };
        self.list(host, out);
    }

    pub(super) fn watch(&mut self, key: Key, host: &mut dyn Host, out: &mut dyn Terminal) {
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

    /// As many rows of help as fit.
    fn list(&mut self, host: &dyn Host, out: &mut dyn Terminal) {
        let known = self.who.is_some();
        if let State::Running {
            pager,
            help: Some((one, n)),
            ..
        } = &mut self.state
        {
            let one = *one;
            let row = |n: usize| match one {
                None => commands::help(n, known),
                Some(command) => commands::explain(command, n),
            };
            while !pager.is_full()
                && let Some(row) = row(*n)
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
    pub(super) fn close(&mut self, host: &dyn Host, out: &mut dyn Terminal) {
        if let State::Running { pager, over, .. } = &mut self.state {
            pager.end(out);
            if let Some(how) = over.take().filter(|h| !h.is_empty()) {
                say_plainly("", &how, out);
            }
        }
        self.prompt(host, out);
    }
}

pub(super) fn ask_for_more(pager: &Pager, out: &mut dyn Terminal) {
    if pager.is_full() {
        out.say("-- Space: more, q: stop --");
    }
}

/// What comes from a file or an error, behind `before`, on as many rows as it needs.
pub(super) fn say_plainly(before: &str, text: &str, out: &mut dyn Terminal) {
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
