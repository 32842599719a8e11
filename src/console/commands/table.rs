//! The commands themselves.

use super::{Command, Does, Needs};

const fn row(
    name: &'static str,
    takes: &'static str,
    needs: Needs,
    does: Does,
    about: &'static str,
    example: &'static str,
) -> Command {
    Command {
        name,
        takes,
        about,
        example,
        does,
        needs,
    }
}

const STOPPED: &str = "The agent is stopped meanwhile; readings wait with their senders. Go on?";
const REHEARSED: &str = "Clients are paused for about a second. Go on?";

/// All commands, in the order of `help`.
#[rustfmt::skip] // A row of the table is a line here.
pub const COMMANDS: &[Command] = &[
    row("look", "", Needs::Nobody, Does::Look, "this gateway on one screen", ""),
    row("help", "[COMMAND]...", Needs::Nobody, Does::Help, "this list, or more of one command", "help data recover"),
    row("login", "[HOW]", Needs::Nobody, Does::Login, "prove who you are: with your key, or how you say", "login passphrase (or: login viewer)"),
    row("claim", "", Needs::Nobody, Does::Claim, "enrol the first key, on a gateway without one", ""),
    row("why", "", Needs::Login, Does::Why, "what is wrong, and what to do, one step at a time", ""),
    row("status", "", Needs::Login, Does::Verb(&["status"]), "all that the gateway says of itself", ""),
    row("doctor", "", Needs::Login, Does::Verb(&["doctor"]), "what would make its promises false", ""),
    row("power", "", Needs::Login, Does::Verb(&["power", "history"]), "measured hold-up times", ""),
    row("drill power", "", Needs::Yes(REHEARSED), Does::Verb(&["power", "rehearse"]), "rehearse a loss of power, with the power on", ""),
    row("card", "", Needs::Login, Does::Verb(&["media"]), "how worn the card is, and when to replace it", ""),
    row("queue", "", Needs::Login, Does::Verb(&["queue", "stats"]), "what waits to be sent", ""),
    row("queue list", "", Needs::Login, Does::Verb(&["queue", "list"]), "the messages that wait", ""),
    row("queue dead", "", Needs::Login, Does::Verb(&["queue", "dead"]), "messages given up, with reasons", ""),
    row("data verify", "", Needs::Yes(STOPPED), Does::Databases(&["recover", "{database}", "--dry-run"]), "check the databases whole; change nothing", ""),
    row("data checkpoint", "", Needs::Yes(REHEARSED), Does::Verb(&["power", "rehearse"]), "write-ahead logs into the databases, as at a loss", ""),
    row("data recover", "",
        Needs::Yes("The agent is stopped, both databases are checked whole, and repaired. Go on?"),
        Does::Databases(&["recover", "{database}", "--technician", "{technician}"]),
        "check and repair the databases; evidence is kept", ""),
    row("data set-aside", "",
        Needs::Name("The agent is stopped. A file in the store's place that is no database goes\r\n\
                     to the evidence. Nothing is erased. What the write-ahead log and the newest\r\n\
                     snapshot hold is put back; else the gateway begins with an empty store."),
        Does::Store(&["recover", "{database}", "--set-aside", "--technician", "{technician}"]),
        "when something else stands in the store's place", ""),
    row("backup", "", Needs::Login, Does::Verb(&["backup", "list"]), "the backups there are", ""),
    row("backup targets", "", Needs::Login, Does::Verb(&["backup", "targets"]), "where backups go", ""),
    row("backup keygen", "",
        Needs::Yes("The secret half is shown on this screen, once, and kept nowhere. Go on?"),
        Does::Verb(&["backup", "keygen"]), "make the key that opens backups", ""),
    row("backup create", "", Needs::Technician, Does::Verb(&["backup", "create"]), "make a verified backup now", ""),
    row("backup verify", "", Needs::Technician, Does::Verb(&["backup", "verify", "all"]), "is each backup still what it was", ""),
    row("restore", "BACKUP [STICK]",
        Needs::Signature("Databases and files of the backup take the place of the present ones. What\r\n\
                          they replace is kept beside them. Readings since that backup are not in it."),
        Does::Restore, "restore a backup; the key is on STICK, or asked for", "restore holdup-plant-7-20261121T031200.000Z-1a2b HOLDUP1"),
    row("audit", "", Needs::Login, Does::Verb(&["audit", "show"]), "what was done here, by whom", ""),
    row("audit verify", "", Needs::Login, Does::Verb(&["audit", "verify"]), "is that log whole", ""),
    row("log", "[WORD]", Needs::Login, Does::Log, "the agent's last log lines, or those with WORD", "log WARN"),
    row("log live", "[WORD]", Needs::Login, Does::Log, "the same as they come; q ends it", "log live"),
    row("config show", "", Needs::Technician, Does::Verb(&["config", "show"]), "every setting, and where it comes from", ""),
    row("config check", "", Needs::Login, Does::Verb(&["config", "check"]), "is the configuration good", ""),
    row("config set", "KEY VALUE...", Needs::Technician,
        Does::Verb(&["config", "set", "{1}", "{rest}", "--technician", "{technician}"]),
        "change a setting; `config undo` takes it back", "config set gateway.id plant-8"),
    row("config undo", "", Needs::Technician,
        Does::Verb(&["config", "undo", "--technician", "{technician}"]),
        "take the last change back", ""),
    row("send", "[FILE]", Needs::Technician, Does::Send, "send a file by ZMODEM; without FILE: which there are", "send evidence/20261121T031200Z/manifest.json"),
    row("restart", "", Needs::Yes("The agent is restarted; readings wait for a few seconds. Go on?"),
        Does::Program(&["systemctl", "restart", "holdup"]), "restart the agent", ""),
    row("reboot", "", Needs::Name("The machine starts anew. Nothing is erased. It serves again after a minute."),
        Does::Program(&["systemctl", "reboot"]), "start the machine anew", ""),
    row("reset plan", "data|settings|everything", Needs::Login,
        Does::Verb(&["reset", "{1}", "--dry-run"]), "what a reset would erase, and what it would keep", "reset plan data"),
    row("reset status", "", Needs::Login, Does::Verb(&["reset", "status"]), "what the last reset did, or where one stands", ""),
    row("reset receipt", "", Needs::Login, Does::Verb(&["reset", "receipt"]), "the receipt of the last reset", ""),
    row("reset", "data|settings|everything [waive-undelivered] [without-backup]",
        Needs::Signature("ERASED for good, by level:\r\n\
                          data        readings, queue, local snapshots\r\n\
                          settings    also configuration, network, tokens\r\n\
                          everything  also technicians' keys and the identity, for disposal\r\n\
                          `reset plan` says more. The audit log is kept. A verified backup comes first\r\n\
                          (but for `without-backup`); messages that wait to be sent stop it (but for\r\n\
                          `waive-undelivered`)."),
        Does::Reset, "factory reset; the level says how much goes", "reset data"),
    row("logout", "", Needs::Nobody, Does::Logout, "end the session", ""),
];
