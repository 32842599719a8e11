//! What a technician may ask for.
//!
//! A command is one of the binary's own verbs under a short name, so that console and command line
//! never tell two stories; a few are programs of the system. It promises that words which are not
//! a command do nothing, and that no word typed behind one becomes an option of a program.

mod table;

use core::fmt::Write as _;

use super::editor::Line;

pub use table::COMMANDS;

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Anybody who reached the port.
    Nobody,
    /// Whoever is logged in, a viewer too: it changes nothing and tells no secret.
    Login,
    /// A technician.
    Technician,
    /// A technician who says yes.
    Yes(&'static str),
    /// A technician who types the gateway's name, with what goes and what stays.
    Name(&'static str),
    /// The same, who then signs for this very action: what it erases does not come back.
    Signature(&'static str),
}

/// What is done. In programs and verbs `{1}` stands for the first word behind the command, `{args}`
/// for all of them, `{rest}` for all but the first as one, `{gateway}` for the gateway's name, `{technician}` for the technician's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// A verb of this binary with its arguments.
    Verb(&'static [&'static str]),
    /// The same for each database of the gateway, `{database}`, with the agent stopped meanwhile.
    Databases(&'static [&'static str]),
    /// The same for the store alone.
    Store(&'static [&'static str]),
    /// A backup takes the place of what is there, with the agent stopped meanwhile.
    Restore,
    /// The factory reset; its words say how much, and what is waived.
    Reset,
    /// A program of the system.
    Program(&'static [&'static str]),
    /// The agent's log.
    Log,
    /// A file goes to the laptop.
    Send,
    /// The first thing that is wrong, and what to do about it.
    Why,
    /// The screen that anybody sees.
    Look,
    /// Logs in.
    Login,
    /// Enrols the first key.
    Claim,
    /// Logs out.
    Logout,
    /// Lists the commands, or explains one.
    Help,
}

/// A command.
#[derive(Debug)]
pub struct Command {
    /// What is typed.
    pub name: &'static str,
    /// What may stand behind it: `NAME` must, `[NAME]` may, `NAME...` is one or more. In small
    /// letters it is the word itself, one of those between bars, or any of those in brackets.
    pub takes: &'static str,
    /// What it does, in at most 55 characters.
    pub about: &'static str,
    /// How it is typed, for instance.
    pub example: &'static str,
    /// What is done.
    pub does: Does,
    /// Who may ask.
    pub needs: Needs,
}

impl Command {
    /// Fewest and most words behind it.
    fn words(&self) -> (usize, usize) {
        let words = self.takes.split_ascii_whitespace();
        let least = words.clone().filter(|w| !w.starts_with('[')).count();
        let many = self.takes.ends_with("...");
        (least, if many { usize::MAX } else { words.count() })
    }

    /// May `word` stand in the `n`th place behind it?
    fn has_place_for(&self, n: usize, word: &str) -> bool {
        let places = || self.takes.split_ascii_whitespace();
        let is_word = |place: &str| place.starts_with(|c: char| c.is_ascii_lowercase());
        match places().nth(n).map(|p| p.trim_matches(['[', ']'])) {
            Some(place) if is_word(place) && n < self.words().0 => {
                place.split('|').any(|w| w == word)
            }
            Some(place) if is_word(place) => places()
                .any(|p| p.strip_prefix('[').and_then(|p| p.strip_suffix(']')) == Some(word)),
            Some(_) | None => true,
        }
    }
}

/// A command with what was typed behind it.
#[derive(Debug, Clone)]
pub struct Order {
    /// The command.
    pub command: &'static Command,
    /// The words behind it, one blank between each.
    pub args: Line,
}

impl Order {
    /// The command alone.
    pub fn plain(command: &'static Command) -> Self {
        Self {
            command,
            args: Line::new(),
        }
    }

    /// The words behind it.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.args.split_ascii_whitespace()
    }

    /// What a signature for it signs: `reset/data`. No two orders have the same.
    pub fn action(&self) -> String {
        let name = self.command.name.split_ascii_whitespace();
        name.chain(self.words()).collect::<Vec<_>>().join("/")
    }

    /// Is there a secret to be asked for before it begins?
    pub fn wants_key(&self) -> bool {
        self.command.does == Does::Restore && self.words().count() == 1
    }
}

/// Why a line is no order.
#[derive(Debug, Clone, Copy)]
pub enum NoOrder {
    /// No command begins it.
    Unknown,
    /// Something misses or is too much behind the command.
    Wrong(&'static Command),
    /// A word begins with `-`, or has a character that cannot be signed.
    Word,
}

/// The order that `line` gives; blanks between words do not matter.
///
/// # Errors
/// It is none, and why.
pub fn find(line: &str) -> Result<Order, NoOrder> {
    let typed = || line.split_ascii_whitespace();
    let begins = |c: &&Command| {
        let mut typed = typed();
        c.name
            .split_ascii_whitespace()
            .all(|w| typed.next() == Some(w))
    };
    let count = |c: &Command| c.name.split_ascii_whitespace().count();
    let fits = COMMANDS.iter().filter(begins);
    let command = fits.max_by_key(|c| count(c)).ok_or(NoOrder::Unknown)?;
    let words = typed().skip(count(command));
    let (least, most) = command.words();
    if !(least..=most).contains(&words.clone().count()) {
        return Err(NoOrder::Wrong(command));
    }
    let signed = matches!(command.needs, Needs::Signature(_));
    let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut order = Order::plain(command);
    for (n, word) in words.enumerate() {
        if !command.has_place_for(n, word) {
            return Err(NoOrder::Wrong(command));
        }
        // Two words must never be signed as the same.
        if word.starts_with('-') || signed && !word.chars().all(kept) {
            return Err(NoOrder::Word);
        }
        if !order.args.is_empty() {
            order.args.push(' ').ok();
        }
        // No longer than the line that it comes from.
        order.args.push_str(word).ok();
    }
    Ok(order)
}

/// The words that may stand where `line` ends, for completion.
pub fn words(line: &str, logged_in: bool) -> heapless::Vec<&'static str, 48> {
    let end = line.rfind(' ').unwrap_or(0);
    let mut before: heapless::Vec<&str, 4> = line[..end].split_ascii_whitespace().take(4).collect();
    // `help` is followed by a command.
    let helps = before.first() == Some(&"help");
    if helps {
        before.remove(0);
    }
    let mut words = heapless::Vec::new();
    let visible = COMMANDS
        .iter()
        .filter(|c| logged_in || c.needs == Needs::Nobody);
    for command in visible {
        let mut name = command.name.split_ascii_whitespace();
        if !before.iter().all(|b| name.next() == Some(b)) {
            continue;
        }
        if let Some(word) = name.next().filter(|w| !words.contains(w)) {
            // There are fewer words than places.
            words.push(word).ok();
        }
    }
    words
}

/// A row of text.
pub type Row = heapless::String<512>;

/// The `n`th row of `help`; `None` behind the last.
pub fn help(n: usize, logged_in: bool) -> Option<Row> {
    let mut visible = COMMANDS
        .iter()
        .filter(|c| logged_in || c.needs == Needs::Nobody);
    let mut row = Row::new();
    // All are short; a test looks at it.
    if let Some(c) = visible.nth(n) {
        writeln!(row, "  {:<18} {}", c.name, c.about).ok();
        return Some(row);
    }
    let all = visible_count(logged_in);
    let last = if logged_in {
        "`help COMMAND` says more of one, with an example.\n"
    } else {
        "After login there are more, such as why, status and data recover.\n"
    };
    (n == all).then(|| {
        row.push_str(last).ok();
        row
    })
}

fn visible_count(logged_in: bool) -> usize {
    let seen = |c: &&Command| logged_in || c.needs == Needs::Nobody;
    COMMANDS.iter().filter(seen).count()
}

/// The `n`th row of `help COMMAND`; `None` behind the last.
pub fn explain(command: &Command, n: usize) -> Option<Row> {
    let mut row = Row::new();
    // All are short; a test looks at it.
    match n {
        0 => writeln!(row, "  {} {}", command.name, command.takes).ok()?,
        1 => writeln!(row, "  {}", command.about).ok()?,
        2 => {
            let example = if command.example.is_empty() {
                command.name
            } else {
                command.example
            };
            writeln!(row, "  for example: {example}").ok()?;
        }
        3 => {
            let who = match command.needs {
                Needs::Nobody => "anybody at this cable",
                Needs::Login => "whoever is logged in, a viewer too",
                Needs::Technician => "a technician",
                Needs::Yes(_) => "a technician, who is asked first",
                Needs::Name(_) => "a technician, who types the gateway's name",
                Needs::Signature(_) => "a technician, who types the name and signs for it",
            };
            writeln!(row, "  who may: {who}").ok()?;
        }
        4 => match command.needs {
            Needs::Yes(what) | Needs::Name(what) | Needs::Signature(what) => {
                writeln!(row, "  {what}").ok()?;
            }
            Needs::Nobody | Needs::Login | Needs::Technician => return None,
        },
        _ => return None,
    }
    Some(row)
}

#[cfg(test)]
mod tests;
