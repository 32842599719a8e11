//! `holdup backup keygen`: a key of which the gateway keeps the public half alone.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use anyhow::Context;
use clap::Args;
use serde_json::json;

use crate::backup::{Identity, Recipient};
use crate::config;
use crate::durable::Medium;

use super::secret;

/// Refused: exit code 3.
const REFUSED: u8 = 3;
/// Where the recipient is noted, beside the configuration.
const DROP_IN: &str = "conf.d/50-backup-recipient.toml";
/// As age has it: 256 MiB of memory for a moment.
const WORK: u8 = 18;

#[derive(Debug, Args)]
pub(super) struct KeygenArgs {
    /// Protect the identity with a passphrase, which is asked for.
    #[arg(long)]
    passphrase: bool,
    /// A key for archives of keys and certificates, which is only shown.
    #[arg(long)]
    only_show: bool,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

impl KeygenArgs {
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }
}

/// 0: made; 3: there is a recipient already.
pub(super) fn run(config: &Path, args: &KeygenArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let settings = config::load(config)?.settings;
    let main = std::path::absolute(config)?;
    let path = main.parent().unwrap_or(Path::new("/")).join(DROP_IN);
    if !args.only_show {
        let there = settings.backup.recipients.first();
        let why = match there {
            Some(one) => format!("backup.recipients has {one} already"),
            None if path.symlink_metadata().is_ok() => {
                format!("{} is there already", path.display())
            }
            None => String::new(),
        };
        if !why.is_empty() {
            let why = format!(
                "{why}: backups would go on to both keys or lose one; make a further key with \
                 --only-show and add its recipient there by hand"
            );
            return refused(&why, args.json, out);
        }
    }
    let identity = Identity::generate();
    let text = if args.passphrase {
        identity.protected(new_passphrase()?, WORK)?
    } else {
        format!("{}\n", identity.secret_text().expose_secret())
    };
    let recipient = identity.recipient();
    let stored = if args.only_show {
        None
    } else {
        // Before the identity is shown: who has seen it may rely on it.
        Some(store(&path, &recipient)?)
    };
    if args.json {
        let answer = json!({
            "identity": text,
            "recipient": recipient.text(),
            "fingerprint": recipient.fingerprint(),
            "stored": stored,
        });
        writeln!(out, "{answer:#}")?;
        return Ok(0);
    }
    write!(out, "{text}")?;
    out.flush()?;
    let mut tell = io::stderr();
    writeln!(
        tell,
        "\nThat is the identity. It is shown this once and kept nowhere: write it to a medium that is \
         not this gateway, and to a second one. Without it no backup can be opened."
    )?;
    writeln!(tell, "recipient   {}", recipient.text())?;
    writeln!(tell, "fingerprint {}", recipient.fingerprint())?;
    if let Some(path) = stored {
        writeln!(
            tell,
            "stored in   {} (the recipient alone); `systemctl restart holdup` uses it",
            path.display()
        )?;
    }
    Ok(0)
}

fn store(path: &Path, recipient: &Recipient) -> anyhow::Result<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let text = format!(
        "# Made by `holdup backup keygen`: {}. Its identity is kept elsewhere.\n\
         [backup]\nrecipients = [\"{}\"]\n",
        recipient.fingerprint(),
        recipient.text()
    );
    Medium::open(dir)?.replace(path, text.as_bytes())?;
    Ok(path.to_owned())
}

fn new_passphrase() -> anyhow::Result<age::secrecy::SecretString> {
    let ask = |question| {
        let answer = secret::ask(question, false)?;
        answer.context("a passphrase is asked for on a terminal: run this on one")
    };
    let first = ask("passphrase: ")?;
    if first.expose_secret().is_empty() {
        anyhow::bail!("an empty passphrase protects nothing");
    }
    let second = ask("again: ")?;
    if first.expose_secret() != second.expose_secret() {
        anyhow::bail!("the two differ: nothing was made");
    }
    Ok(first)
}

fn refused(why: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if json {
        writeln!(out, "{:#}", json!({ "refused": why }))?;
    } else {
        writeln!(io::stderr(), "holdup: refused: {why}")?;
    }
    Ok(REFUSED)
}
