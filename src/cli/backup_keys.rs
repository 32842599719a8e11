//! `holdup backup keys`: certificates and secret keys, in an archive of their own.
//!
//! They are never in the backups of data: whoever may read those is not whoever may be the gateway.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::json;

use crate::agent::actor;
use crate::backup::{Kind, Recipient, Request, Site, create};
use crate::config;

use super::alone::{By, alone};

/// Refused: exit code 3.
const REFUSED: u8 = 3;

#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    /// To whom it is encrypted: not a recipient of the backups of data.
    #[arg(long, value_name = "age1...", required = true)]
    recipient: Vec<Recipient>,
    /// The directory that it is written to: not the one of the backups of data.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    by: By,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

impl KeysArgs {
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }
}

/// 0: made and read back; 3: refused.
pub(super) fn run(config: &Path, args: &KeysArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let settings = config::load(config)?.settings;
    let backup = &settings.backup;
    let to = std::path::absolute(&args.to)?;
    let real = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let shared = args.recipient.iter().map(Recipient::text);
    let shared: Vec<_> = shared
        .filter(|r| backup.recipients.iter().any(|b| b.trim() == *r))
        .collect();
    let data = std::iter::once(&backup.dir).chain(&backup.copies);
    let why = if backup.keys.is_empty() {
        Some("backup.keys names no file".to_owned())
    } else if let Some(one) = shared.first() {
        Some(format!(
            "{one} opens the backups of data too: make another key with `holdup backup keygen \
             --only-show`"
        ))
    } else if data.into_iter().any(|d| real(d) == real(&to)) {
        Some(format!(
            "{} holds backups of data: give keys a place of their own",
            to.display()
        ))
    } else {
        None
    };
    if let Some(why) = why {
        return refused(&why, args.json, out);
    }
    let by_hand = match alone(&settings)? {
        Ok(by_hand) => by_hand,
        Err(who) => return refused(&who, args.json, out),
    };
    std::fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    let who = actor(args.by.name());
    let entry = by_hand.begin(
        "backup.keys",
        &who,
        json!({ "to": to, "paths": backup.keys }),
    );
    let made = create(
        &Request {
            gateway: &settings.gateway.id,
            kind: Kind::Keys,
            reason: "operator",
            actor: &who,
            databases: Vec::new(),
            include: backup.keys.clone(),
            exclude: Vec::new(),
            recipients: &args.recipient,
            audit_head: by_hand.audit().head(),
            to: &to,
        },
        &Site {
            medium: &by_hand.medium,
            gate: &by_hand.gate,
            stop: &by_hand.stop,
            clock: &*by_hand.clock,
            work: &settings.gateway.backup_work(),
            progress: &|_| {},
            say: &|_| {},
        },
    );
    let made = by_hand.ended(&entry, made, |m| json!({ "archive": m.archive }))?;
    let files = made.manifest.files.len();
    if args.json {
        let answer = json!({
            "archive": made.archive,
            "files": files,
            "passed": made.manifest.passed,
        });
        writeln!(out, "{answer:#}")?;
    } else {
        writeln!(
            out,
            "{}: {files} entries, read back",
            made.archive.display()
        )?;
        for p in &made.manifest.passed {
            writeln!(out, "left out: {}: {}", p.path.escape_debug(), p.why)?;
        }
    }
    Ok(u8::from(!made.manifest.passed.is_empty()))
}

fn refused(why: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if json {
        writeln!(out, "{:#}", json!({ "refused": why }))?;
    } else {
        writeln!(io::stderr(), "holdup: refused: {why}")?;
    }
    Ok(REFUSED)
}
