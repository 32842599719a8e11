//! What a technician may ask for.
//!
//! A command is one of the binary's own verbs under a short name, so that console and command line
//! never tell two stories; a few are programs of the system. It promises that words which are not
//! a command do nothing.

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Anybody who reached the port.
    Nobody,
    /// A technician.
    Login,
    /// A technician who says yes.
    Yes(&'static str),
    /// A technician who types the gateway's name, with what goes and what stays.
    Name(&'static str),
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// A verb of this binary with its arguments.
    Verb(&'static [&'static str]),
    /// A program of the system.
    Program(&'static [&'static str]),
    /// Stops the agent, recovers both databases, starts it again.
    Recover,
    /// The same, and what stands in the store's place and is no database goes to the evidence.
    SetAside,
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
    /// Lists the commands.
    Help,
}

/// A command.
#[derive(Debug)]
pub struct Command {
    /// What is typed.
    pub name: &'static str,
    /// What it does, in at most 55 characters.
    pub about: &'static str,
    /// What is done.
    pub does: Does,
    /// Who may ask.
    pub needs: Needs,
}

const fn row(name: &'static str, needs: Needs, does: Does, about: &'static str) -> Command {
    Command {
        name,
        about,
        does,
        needs,
    }
}

/// All commands, in the order of `help`.
pub const COMMANDS: &[Command] = &[
    row(
        "look",
        Needs::Nobody,
        Does::Look,
        "this gateway on one screen",
    ),
    row("help", Needs::Nobody, Does::Help, "this list"),
    row(
        "login",
        Needs::Nobody,
        Does::Login,
        "prove who you are with your SSH key",
    ),
    row(
        "claim",
        Needs::Nobody,
        Does::Claim,
        "enrol the first key, on a gateway without one",
    ),
    row(
        "why",
        Needs::Login,
        Does::Why,
        "what is wrong, and what to do, one step at a time",
    ),
    row(
        "status",
        Needs::Login,
        Does::Verb(&["status"]),
        "all that the gateway says of itself",
    ),
    row(
        "doctor",
        Needs::Login,
        Does::Verb(&["doctor"]),
        "what would make its promises false",
    ),
    row(
        "power",
        Needs::Login,
        Does::Verb(&["power", "history"]),
        "measured hold-up times",
    ),
    row(
        "drill power",
        Needs::Yes("Clients are paused for about a second. Go on?"),
        Does::Verb(&["power", "rehearse"]),
        "rehearse a loss of power, with the power on",
    ),
    row(
        "queue",
        Needs::Login,
        Does::Verb(&["queue", "stats"]),
        "what waits to be sent",
    ),
    row(
        "queue list",
        Needs::Login,
        Does::Verb(&["queue", "list"]),
        "the messages that wait",
    ),
    row(
        "queue dead",
        Needs::Login,
        Does::Verb(&["queue", "dead"]),
        "messages given up, with reasons",
    ),
    row(
        "backup",
        Needs::Login,
        Does::Verb(&["backup", "list"]),
        "the backups there are",
    ),
    row(
        "backup targets",
        Needs::Login,
        Does::Verb(&["backup", "targets"]),
        "where backups go",
    ),
    row(
        "backup keygen",
        Needs::Yes("The secret half is shown on this screen, once, and kept nowhere. Go on?"),
        Does::Verb(&["backup", "keygen"]),
        "make the key that opens backups",
    ),
    row(
        "backup create",
        Needs::Login,
        Does::Verb(&["backup", "create"]),
        "make a verified backup now",
    ),
    row(
        "backup verify",
        Needs::Login,
        Does::Verb(&["backup", "verify", "all"]),
        "is each backup still what it was",
    ),
    row(
        "data recover",
        Needs::Yes("The agent is stopped, both databases are checked whole, and repaired. Go on?"),
        Does::Recover,
        "check and repair the databases; evidence is kept",
    ),
    row(
        "data set-aside",
        Needs::Name(
            "The agent is stopped. A file in the store's place that is no database goes\r\n\
             to the evidence. Nothing is erased. What the write-ahead log and the newest\r\n\
             snapshot hold is put back; else the gateway begins with an empty store.",
        ),
        Does::SetAside,
        "when something else stands in the store's place",
    ),
    row(
        "audit",
        Needs::Login,
        Does::Verb(&["audit", "show"]),
        "what was done here, by whom",
    ),
    row(
        "audit verify",
        Needs::Login,
        Does::Verb(&["audit", "verify"]),
        "was the log changed",
    ),
    row(
        "config",
        Needs::Login,
        Does::Verb(&["config", "show"]),
        "every setting, and where it is from",
    ),
    row(
        "config check",
        Needs::Login,
        Does::Verb(&["config", "check"]),
        "what is wrong with the settings",
    ),
    row(
        "log",
        Needs::Login,
        Does::Program(&[
            "journalctl",
            "--no-pager",
            "--unit=holdup",
            "--lines=200",
            "--output=short-iso",
        ]),
        "the agent's last 200 log lines",
    ),
    row(
        "restart",
        Needs::Yes("The agent is restarted; readings wait for a few seconds. Go on?"),
        Does::Program(&["systemctl", "restart", "holdup"]),
        "restart the agent",
    ),
    row(
        "reboot",
        Needs::Name("The machine starts anew. Nothing is erased. It serves again after a minute."),
        Does::Program(&["systemctl", "reboot"]),
        "start the machine anew",
    ),
    row("logout", Needs::Nobody, Does::Logout, "end the session"),
];

/// The command that `line` names; blanks between words do not matter.
pub fn find(line: &str) -> Option<&'static Command> {
    let typed = line.split_ascii_whitespace();
    let mut all = COMMANDS.iter();
    all.find(|c| typed.clone().eq(c.name.split_ascii_whitespace()))
}

/// The words that may stand where `line` ends, for completion.
pub fn words(line: &str, logged_in: bool) -> heapless::Vec<&'static str, 32> {
    let before: heapless::Vec<&str, 4> = {
        let end = line.rfind(' ').unwrap_or(0);
        line[..end].split_ascii_whitespace().take(4).collect()
    };
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

/// The `n`th row of `help`; `None` behind the last.
pub fn help(n: usize, logged_in: bool) -> Option<heapless::String<96>> {
    let mut visible = COMMANDS
        .iter()
        .filter(|c| logged_in || c.needs == Needs::Nobody);
    let mut row = heapless::String::new();
    // Both are short; a test looks at it.
    if let Some(c) = visible.nth(n) {
        core::fmt::write(&mut row, format_args!("  {:<16} {}\n", c.name, c.about)).ok();
        return Some(row);
    }
    let all = COMMANDS.iter().filter(|c| c.needs == Needs::Nobody).count();
    if logged_in || n > all {
        return None;
    }
    row.push_str("After login there are more, such as why, status and data recover.\n")
        .ok();
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_all_of_its_words_and_nothing_else() {
        assert_eq!(find("  queue   list ").map(|c| c.name), Some("queue list"));
        assert_eq!(find("queue").map(|c| c.name), Some("queue"));
        for no in [
            "",
            "Queue",
            "queue list all",
            "reboot now",
            "qu",
            "reboot;x",
        ] {
            assert!(find(no).is_none(), "{no}");
        }
    }

    #[test]
    fn every_command_fits_a_row() {
        let rows: Vec<_> = (0..).map_while(|n| help(n, true)).collect();
        assert_eq!(rows.len(), COMMANDS.len());
        for (row, c) in rows.iter().zip(COMMANDS) {
            assert!(row.chars().count() < 80 && row.ends_with('\n'), "{row}");
            assert!(row.contains(c.name) && row.contains(c.about), "{row}");
            assert!(find(c.name).is_some_and(|f| f.name == c.name), "{}", c.name);
            if let Needs::Yes(what) | Needs::Name(what) = c.needs {
                let long = what.split("\r\n").find(|r| r.chars().count() >= 80);
                assert_eq!(long, None, "{}", c.name);
            }
        }
        let last = (0..).map_while(|n| help(n, false)).last();
        assert!(last.is_some_and(|l| l.contains("After login there are more")));
    }

    #[test]
    fn only_what_anybody_may_do_is_offered_before_login() {
        assert_eq!(
            words("", false),
            ["look", "help", "login", "claim", "logout"]
        );
        assert_eq!(words("queue ", true), ["list", "dead"]);
        assert!(words("reb", true).contains(&"reboot"));
        assert!(words("data recover now ", true).is_empty());
    }
}
