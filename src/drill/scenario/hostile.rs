//! Restores that are disturbed: the disk is full, the power is cut.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::clock::{Clock, SystemClock};

use super::super::DrillError;
use super::super::child::moment;
use super::super::damage;
use super::super::evidence::PhaseName;
use super::super::gateway::Gateway;
use super::Stage;
use super::restore::{BackedUp, backed_up, delete_all};

/// Restores that are killed.
const CUTS: u32 = 12;
/// The first is killed within this, in milliseconds; the others learn from it.
const FIRST_MS: f64 = 400.0;

/// A gateway with a backup, whose readings were all deleted since; its agent is stopped.
fn emptied<'a>(stage: &mut Stage<'a>) -> Result<BackedUp<'a>, DrillError> {
    let mut of = backed_up(stage)?;
    stage.enter(PhaseName::Damage);
    let removed = delete_all(&of.gateway)?;
    stage.note(format!("DELETE FROM readings: {removed} rows"));
    of.gateway.stop()?;
    stage.used(&of.archive);
    Ok(of)
}

/// The disk is full while a backup is restored: the restore must fail and change nothing.
pub(super) fn disk_full(stage: &mut Stage<'_>) -> Result<(), DrillError> {
    let mut of = emptied(stage)?;
    stage.enter(PhaseName::Recover);
    let before = databases(&of.gateway)?;
    let largest = of.archive.manifest.databases.iter().map(|d| d.bytes).max();
    let limit = largest.unwrap_or(0) / 2;
    let what = of.archive.named();
    let done = of.vault.restore_within(&of.gateway, &what, limit)?;
    stage.note(format!(
        "the full disk was a limit of {limit} bytes on every file that the restore writes (RLIMIT_FSIZE)"
    ));
    if done.status.success() {
        stage.fail("the restore says that it succeeded on a full disk");
    } else {
        stage.note(format!("refused, and told why: {}", done.why()));
    }
    if databases(&of.gateway)? != before {
        stage.fail("the restore on a full disk changed the gateway's databases");
    }
    of.vault.restore(&of.gateway, &what)?;
    of.gateway.serve()?;
    stage.compare(&mut of.gateway, &of.before, 0)?;
    of.gateway.stop()
}

/// What the databases and their companions hold.
fn databases(gateway: &Gateway<'_>) -> Result<BTreeMap<PathBuf, String>, DrillError> {
    let mut all = BTreeMap::new();
    for database in [gateway.store(), gateway.queue()] {
        for path in damage::with_companions(&database) {
            // It maps the log for who has it open, and says nothing about the rows.
            if !path.as_os_str().as_encoded_bytes().ends_with(b"-shm") {
                let hash = damage::sha256(&path)?;
                all.insert(path, hash);
            }
        }
    }
    Ok(all)
}

/// Power is cut again and again while a backup is restored; it is begun anew until it is done.
pub(super) fn power_cut(stage: &mut Stage<'_>) -> Result<(), DrillError> {
    let mut of = emptied(stage)?;
    stage.enter(PhaseName::Recover);
    let what = of.archive.named();
    let (mut killed, mut finished) = (Vec::new(), 0);
    let mut longest = FIRST_MS;
    for _ in 0..CUTS {
        let share = stage.dice.below(1 << 20) as f64 / f64::from(1 << 20);
        let cut = longest * share;
        let began = SystemClock.mono();
        let mut restore = of.vault.begin(&of.gateway, &what)?;
        let ms = || SystemClock.mono().since(began).as_secs_f64() * 1000.0;
        while ms() < cut && restore.ended()?.is_none() {
            stage.go_on()?;
            moment();
        }
        if restore.kill()? {
            killed.push(ms().round());
            longest *= 1.25;
        } else {
            // It was done before the cut; the next one has less time.
            finished += 1;
            longest = ms();
        }
    }
    of.vault.restore(&of.gateway, &what)?;
    let (first, last) = (
        killed.iter().copied().fold(f64::MAX, f64::min),
        killed.iter().copied().fold(0.0, f64::max),
    );
    if killed.is_empty() {
        stage.fail("no restore was caught before its end: nothing was rehearsed");
    } else {
        stage.note(format!(
            "{} restores were killed, between {first} and {last} ms after their start; {finished} ended before the cut",
            killed.len()
        ));
    }
    of.gateway.serve()?;
    stage.compare(&mut of.gateway, &of.before, 0)?;
    of.gateway.stop()
}
