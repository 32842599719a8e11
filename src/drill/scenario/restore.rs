//! Disasters after which a backup is all there is, or all that is right.

use std::ffi::OsString;
use std::time::Duration;

use rusqlite::Connection;

use crate::clock::{Clock, SystemClock};

use super::super::DrillError;
use super::super::archive::{Archive, Vault};
use super::super::census::Census;
use super::super::damage;
use super::super::evidence::PhaseName;
use super::super::gateway::Gateway;
use super::Stage;

/// A writer beside the agent waits this long.
const BUSY: Duration = Duration::from_secs(10);

/// A gateway with readings and a backup of them, and its agent running.
pub(super) struct BackedUp<'a> {
    pub(super) gateway: Gateway<'a>,
    pub(super) vault: Vault,
    pub(super) before: Census,
    pub(super) archive: Archive,
}

pub(super) fn backed_up<'a>(stage: &mut Stage<'a>) -> Result<BackedUp<'a>, DrillError> {
    let vault = stage.vault()?;
    let mut gateway = stage.gateway("drill", &vault.config())?;
    let before = stage.baseline(&mut gateway)?;
    let rows = before.count();
    // So that the backup's queue holds what its store does.
    gateway.wait_until("every reading to be queued", |s| {
        s["queue"]["depth"] == rows
    })?;
    stage.expect(&before);
    stage.enter(PhaseName::Backup);
    let archive = vault.take(&gateway)?;
    if !archive.manifest.is_verified() {
        stage.fail("the backup was not verified");
    }
    Ok(BackedUp {
        gateway,
        vault,
        before,
        archive,
    })
}

/// The card is dead: another gateway takes over, from the copy that was kept elsewhere.
pub(super) fn fresh_card(stage: &mut Stage<'_>) -> Result<(), DrillError> {
    let mut old = backed_up(stage)?;
    stage.enter(PhaseName::Damage);
    old.gateway.kill()?;
    let data = old.gateway.data();
    std::fs::remove_dir_all(&data).map_err(DrillError::io("remove", &data))?;
    stage.used(&old.archive);
    stage.enter(PhaseName::Recover);
    let mut spare = stage.gateway("spare", "")?;
    let (from, to) = (&old.archive.manifest.gateway, spare.id());
    if from == to {
        stage.fail("the spare gateway has the id of the one it replaces");
    }
    stage.note(format!("a backup of {from} was restored on {to}"));
    old.vault.restore(&spare, &old.archive.named())?;
    spare.serve()?;
    stage.compare(&mut spare, &old.before, 0)?;
    spare.stop()
}

/// Somebody removed the database, with its log.
pub(super) fn database_deleted(stage: &mut Stage<'_>) -> Result<(), DrillError> {
    let mut of = backed_up(stage)?;
    stage.enter(PhaseName::Damage);
    of.gateway.kill()?;
    damage::delete(&of.gateway.store())?;
    stage.used(&of.archive);
    stage.enter(PhaseName::Recover);
    of.vault.restore(&of.gateway, &of.archive.named())?;
    of.gateway.serve()?;
    stage.compare(&mut of.gateway, &of.before, 0)?;
    of.gateway.stop()
}

/// A DELETE without a WHERE, and a backup that holds its result: only the one before it helps.
pub(super) fn destructive_query(stage: &mut Stage<'_>) -> Result<(), DrillError> {
    let mut of = backed_up(stage)?;
    stage.enter(PhaseName::Damage);
    let moment = SystemClock.wall();
    let removed = delete_all(&of.gateway)?;
    stage.note(format!("DELETE FROM readings: {removed} rows"));
    stage.used(&of.archive);
    let later = of.vault.take(&of.gateway)?;
    let kept = later
        .manifest
        .databases
        .iter()
        .filter_map(|d| d.rows.get("readings"));
    if kept.copied().sum::<u64>() != 0 {
        stage.fail("the backup after the query still holds readings: the damage did nothing");
    }
    stage.enter(PhaseName::Recover);
    of.gateway.stop()?;
    let at = ["--at".to_owned(), moment.to_string()].map(OsString::from);
    of.vault.restore(&of.gateway, &at)?;
    of.gateway.serve()?;
    stage.note(format!(
        "restored as of {moment}, passing over a later backup"
    ));
    stage.compare(&mut of.gateway, &of.before, 0)?;
    of.gateway.stop()
}

/// What a mistaken program does, beside the running agent.
pub(super) fn delete_all(gateway: &Gateway<'_>) -> Result<usize, DrillError> {
    let store = gateway.store();
    Connection::open(&store)
        .and_then(|db| {
            db.busy_timeout(BUSY)?;
            db.execute("DELETE FROM readings", [])
        })
        .map_err(DrillError::db(&store))
}

/// Both databases, their snapshots, the audit log and the backups on the card: all gone.
pub(super) fn backup_only(stage: &mut Stage<'_>) -> Result<(), DrillError> {
    let mut of = backed_up(stage)?;
    let messages = Census::of_queue(&of.gateway.queue())?;
    stage.enter(PhaseName::Damage);
    of.gateway.kill()?;
    let data = of.gateway.data();
    std::fs::remove_dir_all(&data).map_err(DrillError::io("remove", &data))?;
    stage.used(&of.archive);
    stage.enter(PhaseName::Recover);
    of.vault.restore(&of.gateway, &of.archive.named())?;
    of.gateway.serve()?;
    let rows = messages.count();
    of.gateway.wait_until("the queue to be whole again", |s| {
        s["queue"]["depth"].as_u64() >= Some(rows)
    })?;
    let found = Census::of_queue(&of.gateway.queue())?;
    stage.compare(&mut of.gateway, &of.before, 0)?;
    if messages.difference(&found).is_none() {
        stage.note(format!("the outbound queue is whole too: {rows} messages"));
    } else {
        stage.fail(format!(
            "the outbound queue is not what it was: {} messages of {rows}",
            found.count()
        ));
    }
    of.gateway.stop()
}
