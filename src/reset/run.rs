//! The steps, from the request to the receipt; and what a start does with what a cut left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, unlinkat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::json;

use crate::audit::Entry;
use crate::durable::{Pass, enter};
use crate::queue::{self, QueueError};
use crate::recovery::Hold;
use crate::store::{self, StoreError};

use super::erase::{ask_to_discard, erase, pass};
use super::home::Home;
use super::identity::Identity;
use super::journal::{self, ERASED, Journal, Step, place, with_room};
use super::plain::{self, plain, writable};
use super::receipt::{self, Signed};
use super::{BackedUp, Level, Order, ResetError, Site, inventory};

/// What the first entry gets to become durable.
const BEGUN: Duration = Duration::from_secs(10);
/// Bytes that empty databases, with their shared memory and the log's entries, need at most.
const EMPTY: u64 = 512 << 10;
/// What the genesis entry gets to become durable.
const GENESIS: Duration = Duration::from_secs(10);

/// A reset that was asked for, and has touched nothing yet.
#[derive(Debug)]
pub struct Begun {
    home: Home,
    journal: Journal,
}

/// How an unfinished reset was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    /// There was none.
    Nothing,
    /// Nothing old is there.
    Finished(Box<Signed>),
    /// Everything old is there.
    Undone {
        /// Its id, where its journal could be read.
        id: String,
        /// Why.
        why: String,
    },
}

impl Resumed {
    /// For people; `None` where there was nothing to end.
    pub fn in_words(&self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Finished(done) => Some(format!(
                "finished the reset {} that was interrupted: nothing of before is there",
                done.receipt.id
            )),
            Self::Undone { id, why } => {
                Some(format!("undid the reset {id} that was interrupted: {why}"))
            }
        }
    }

    /// For the audit log.
    pub fn details(&self) -> serde_json::Value {
        match self {
            Self::Nothing => serde_json::Value::Null,
            Self::Finished(done) => json!({
                "reset": done.receipt.id,
                "result": "finished",
                "receipt": done.path,
            }),
            Self::Undone { id, why } => json!({ "reset": id, "result": "undone", "why": why }),
        }
    }
}

impl Begun {
    /// Checks that nothing is in the way and notes what is asked for.
    ///
    /// # Errors
    /// Nothing was touched.
    pub fn request(home: &Home, order: &Order, site: &Site<'_>) -> Result<Self, ResetError> {
        let dir = home.data_dir();
        if journal::is_unfinished(dir) {
            return Err(ResetError::Refused(
                "an earlier reset was interrupted: `holdup reset resume` ends it".to_owned(),
            ));
        }
        if dir.join("restore.journal").symlink_metadata().is_ok() {
            return Err(ResetError::Refused(
                "a restore was interrupted: `holdup backup restore --resume` ends it".to_owned(),
            ));
        }
        let found = inventory::take(home, order.level, order.with_evidence, &order.damaged)?;
        fits(home, found.bytes_erased())?;
        let mut journal = Journal::new(order, id(site), &home.settings.gateway.id, site);
        journal.epoch_before = order.epoch.map(|e| format!("{e:016x}"));
        if order.level >= Level::Settings {
            journal.config = plain(home)?;
        }
        if order.level == Level::Everything {
            let there = |p: &PathBuf| p.symlink_metadata().is_ok();
            let keys: Vec<_> = home.technicians().into_iter().filter(there).collect();
            keys.iter().try_for_each(|key| writable(key))?;
            journal.keys = keys;
        }
        {
            let _pass = pass(site, dir)?;
            let made = || {
                let (id, gate) = (&home.settings.gateway.id, site.gate);
                Identity::read_or_make(dir, id, site.medium, gate, site.stop)
            };
            if made().is_err_and(|e| e.is_full()) {
                site.reserve.release(site.medium)?;
            }
            made()?;
            journal.write(Step::Requested, dir, site)?;
        }
        Ok(Self {
            home: home.clone(),
            journal,
        })
    }

    /// Its id, for the audit log.
    pub fn id(&self) -> &str {
        &self.journal.id
    }

    /// Enters in the audit log that it begins, on the room kept back where there is no other.
    ///
    /// # Errors
    /// [`ResetError::NotAudited`], with the entry, which waits: it must not begin.
    pub fn enter(
        &self,
        details: serde_json::Value,
        site: &Site<'_>,
    ) -> Result<Entry, Box<(Entry, ResetError)>> {
        let actor = &self.journal.actor;
        let late = match site.audit.begin("reset", actor, details, BEGUN) {
            Ok(entry) => return Ok(entry),
            Err(late) => late,
        };
        match site.reserve.release(site.medium) {
            Ok(true) if site.audit.flush(BEGUN) => Ok(late.entry),
            Ok(_) => Err(Box::new((late.entry, ResetError::NotAudited(late.why)))),
            Err(e) => Err(Box::new((late.entry, e.into()))),
        }
    }

    /// Notes the last backup, which was verified.
    ///
    /// # Errors
    /// It cannot be noted; nothing was touched.
    pub fn backed_up(&mut self, backup: BackedUp, site: &Site<'_>) -> Result<(), ResetError> {
        self.journal.backup = Some(backup);
        let dir = self.home.data_dir();
        let _pass = pass(site, dir)?;
        self.journal.write(Step::BackedUp, dir, site)
    }

    /// Takes the request back; nothing was touched.
    ///
    /// # Errors
    /// The next start does it.
    pub fn forget(&self, site: &Site<'_>) -> Result<(), ResetError> {
        undo(&self.journal, self.home.data_dir(), site)
    }

    /// Does it. No thread of this process may have a database open.
    ///
    /// # Errors
    /// While [`Self::is_touched`] is false afterwards nothing was touched, and the request was taken
    /// back; else the next start goes on.
    pub fn carry_out(&mut self, site: &Site<'_>) -> Result<Signed, ResetError> {
        let staged = self.stage(site);
        let held = match staged {
            Ok(held) => held,
            Err(e) => {
                if !self.is_touched() {
                    self.forget(site)?;
                }
                return Err(e);
            }
        };
        forward(&self.home, &mut self.journal, site, held)
    }

    /// Has anything been touched, so that it can only go on?
    pub fn is_touched(&self) -> bool {
        self.journal.step >= Step::Staged
    }

    fn stage(&mut self, site: &Site<'_>) -> Result<Vec<Hold>, ResetError> {
        let home = &self.home;
        let dir = home.data_dir();
        let held = hold(home)?;
        let choice = self.journal.choice();
        let found = inventory::list(home, choice)?;
        inventory::unhindered(home, choice, &found)?;
        self.journal.list(found.items);
        self.journal.head_before = site.audit.head();
        let _pass = pass(site, dir)?;
        let (grave, _) = self.journal.graves(dir);
        with_room(site, dir, || site.medium.make_dir(&grave))?;
        let mut staged = self.journal.clone();
        staged.write(Step::Staged, dir, site)?;
        self.journal = staged;
        Ok(held)
    }
}

/// Will there be room for empty databases? What is erased makes room, and what is kept back.
fn fits(home: &Home, erased: u64) -> Result<(), ResetError> {
    let dir = home.data_dir();
    let statvfs = rustix::fs::statvfs(dir).map_err(|e| ResetError::io("look at", dir)(e.into()))?;
    let reserve = home.settings.gateway.reserve_path().symlink_metadata();
    let reserve = reserve.map_or(0, |m| m.len());
    let free = statvfs.f_bavail.saturating_mul(statvfs.f_frsize);
    if free.saturating_add(erased).saturating_add(reserve) < EMPTY {
        return Err(ResetError::NoRoom(dir.to_owned()));
    }
    Ok(())
}

/// The time, and what tells two of one millisecond apart.
fn id(site: &Site<'_>) -> String {
    let at = site.clock.wall().to_string().replace(['-', ':'], "");
    let mut more = [0u8; 2];
    // Without it two resets of one millisecond share a name, and the second finds the first's.
    getrandom(&mut more[..], GetRandomFlags::empty()).ok();
    format!("{at}-{:02x}{:02x}", more[0], more[1])
}

/// Both databases, held against everybody else. What is no file is nobody's.
fn hold(home: &Home) -> Result<Vec<Hold>, ResetError> {
    let gateway = &home.settings.gateway;
    let mut held = Vec::new();
    for database in [gateway.store_path(), gateway.queue_path()] {
        if database.symlink_metadata().is_ok_and(|m| m.is_file()) {
            held.push(Hold::take(&database)?);
        }
    }
    Ok(held)
}

/// Ends what a cut left, before a database is opened.
///
/// # Errors
/// It stays for the next start; nothing may be opened before.
pub fn resume(home: &Home, site: &Site<'_>) -> Result<Resumed, ResetError> {
    let dir = home.data_dir();
    let mut journal = match Journal::read(dir) {
        Ok(Some(journal)) => journal,
        Ok(None) => return Ok(Resumed::Nothing),
        Err(e) => return without_journal(home, &e, site),
    };
    if journal.step < Step::Staged {
        undo(&journal, dir, site)?;
        return Ok(Resumed::Undone {
            why: format!(
                "it had come to `{}`, which touches nothing",
                journal.step.name()
            ),
            id: journal.id,
        });
    }
    journal.cuts += 1;
    let held = if journal.step == Step::Staged {
        hold(home)?
    } else {
        Vec::new()
    };
    let signed = forward(home, &mut journal, site, held)?;
    Ok(Resumed::Finished(Box::new(signed)))
}

/// Nothing was touched: the request goes.
fn undo(journal: &Journal, dir: &Path, site: &Site<'_>) -> Result<(), ResetError> {
    let _pass = pass(site, dir)?;
    let (grave, _) = journal.graves(dir);
    remove_empty(&grave, site)?;
    Ok(site.medium.remove(&place(dir))?)
}

fn remove_empty(dir: &Path, site: &Site<'_>) -> Result<(), ResetError> {
    match unlinkat(CWD, dir, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(site.medium.sync_parent(dir)?),
        Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(()),
        Err(e) => Err(ResetError::io("remove", dir)(e.into())),
    }
}

/// From the journal's step to the end.
fn forward(
    home: &Home,
    journal: &mut Journal,
    site: &Site<'_>,
    held: Vec<Hold>,
) -> Result<Signed, ResetError> {
    let dir = home.data_dir();
    let (grave, gone) = journal.graves(dir);
    if journal.step == Step::Staged {
        (site.say)("moving the old files away");
        move_away(home, journal, &grave, site)?;
        let _pass = pass(site, dir)?;
        // The instant: from here on nothing comes back, whatever becomes of the journal.
        if grave.symlink_metadata().is_ok() && gone.symlink_metadata().is_err() {
            site.medium.rename(&grave, &gone)?;
        }
        journal.write(Step::Swapped, dir, site)?;
    }
    drop(held);
    if journal.step == Step::Swapped {
        (site.say)("erasing them");
        for one in [&gone, &grave] {
            erase(one, site)?;
        }
        ship(home, journal, site)?;
        if site.discard {
            journal.discard = ask_to_discard(dir, site)?;
        }
        let _pass = pass(site, dir)?;
        journal.write(Step::Erased, dir, site)?;
    }
    if journal.step == Step::Erased {
        (site.say)("making empty databases");
        journal.epoch_after = Some(format!("{:016x}", found(home, site)?));
        journal.genesis = genesis(journal, site);
        let _pass = pass(site, dir)?;
        journal.write(Step::Genesis, dir, site)?;
    }
    (site.say)("writing the receipt");
    let signed = {
        let _pass = pass(site, dir)?;
        receipt::write(journal, dir, site)?
    };
    let _pass = pass(site, dir)?;
    if journal.level == Level::Everything {
        for half in Identity::places(dir) {
            site.medium.remove(&half)?;
        }
    }
    site.medium.remove(&place(dir))?;
    Ok(signed)
}

/// By rename, one at a time: what was moved before a cut is not there to be moved again.
fn move_away(
    home: &Home,
    journal: &Journal,
    grave: &Path,
    site: &Site<'_>,
) -> Result<(), ResetError> {
    let dir = home.data_dir();
    let evidence = home.settings.gateway.evidence_path();
    let evidence = evidence.join(format!("reset-{}", journal.id));
    let own = |name: &std::ffi::OsStr| {
        let (grave, gone) = journal.graves(dir);
        [grave, gone].iter().any(|g| g.file_name() == Some(name))
    };
    for (name, fate) in inventory::list(home, journal.choice())?.moves {
        if own(&name) {
            continue;
        }
        let into = match fate {
            inventory::Fate::Evidence => &evidence,
            inventory::Fate::Erased | inventory::Fate::Kept | inventory::Fate::Left => grave,
        };
        let _pass = pass(site, dir)?;
        with_room(site, dir, || {
            site.medium.make_dir(into)?;
            site.medium.rename(&dir.join(&name), &into.join(&name))
        })?;
    }
    Ok(())
}

/// The configuration and the keys of the level.
///
/// Root may go on with a journal that the agent's user could write: only what is this gateway's
/// configuration and keys by its settings is touched, and what is written is not from there.
fn ship(home: &Home, journal: &Journal, site: &Site<'_>) -> Result<(), ResetError> {
    if let Some(plain) = &journal.config
        && home.config.first() == Some(&plain.path)
    {
        let _pass = pass(site, &plain.path)?;
        let text = plain::text(home)?;
        site.medium.replace(&plain.path, text.as_bytes())?;
        let folder = plain.path.parent().map(|dir| dir.join("conf.d"));
        let is_drop_in = |f: &&PathBuf| f.parent() == folder.as_deref();
        for file in plain.drop_ins.iter().filter(is_drop_in) {
            site.medium.remove(file)?;
        }
    }
    let known = home.technicians();
    for key in journal.keys.iter().filter(|k| known.contains(k)) {
        let _pass = pass(site, key)?;
        site.medium.remove(key)?;
    }
    Ok(())
}

/// Empty databases; the store's new epoch.
fn found(home: &Home, site: &Site<'_>) -> Result<u64, ResetError> {
    let gateway = &home.settings.gateway;
    let dir = home.data_dir();
    let index = home.settings.store.index;
    let epoch = loop {
        let path = gateway.store_path();
        match store::found(&path, site.medium, site.gate, site.clock, index) {
            Err(StoreError::GateClosed { .. }) => drop(open_gate(site, dir)?),
            Err(StoreError::Full { .. }) if site.reserve.release(site.medium)? => {}
            other => break other?,
        }
    };
    loop {
        let path = gateway.queue_path();
        match queue::ensure(&path, site.medium, site.gate, site.clock) {
            Err(QueueError::Open(StoreError::GateClosed { .. }) | QueueError::GateClosed) => {
                drop(open_gate(site, dir)?);
            }
            other => break other?,
        }
    }
    Ok(epoch)
}

fn open_gate<'g>(site: &Site<'g>, dir: &Path) -> Result<Pass<'g>, ResetError> {
    enter(site.gate, site.stop).map_err(ResetError::io("go on in", dir))
}

/// The log's entry from which on everything is of after; the chain goes on over it.
fn genesis(journal: &Journal, site: &Site<'_>) -> Option<crate::audit::Head> {
    let details = json!({
        "reset": journal.id,
        "level": journal.level,
        "before": journal.head_before,
        "epoch_before": journal.epoch_before,
        "epoch_after": journal.epoch_after,
        "backup": journal.backup,
        "backup_waived": journal.backup_waived,
        "undelivered_waived": journal.undelivered_waived,
    });
    let audit = site.audit;
    audit.note_once(&journal.id, "reset.genesis", &journal.actor, details);
    let written = audit.flush(GENESIS);
    if !written {
        log::warn!("the reset's entry in the audit log waits to be written");
    }
    audit.head().filter(|_| written)
}

/// Its journal cannot be read: the name of its directory says whether the old files come back.
fn without_journal(home: &Home, why: &ResetError, site: &Site<'_>) -> Result<Resumed, ResetError> {
    let dir = home.data_dir();
    log::error!("the journal of a reset cannot be used: {why}");
    let list = |e: io::Error| ResetError::io("list", dir)(e);
    let mut graves: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).map_err(list)? {
        let entry = entry.map_err(list)?;
        let name = entry.file_name();
        let is_grave = name.as_encoded_bytes().starts_with(b"reset-");
        if is_grave && entry.file_type().map_err(list)?.is_dir() {
            graves.push(entry.path());
        }
    }
    let is_gone = |p: &&PathBuf| p.to_string_lossy().ends_with(ERASED);
    let gone = graves.iter().filter(is_gone).count();
    for grave in graves.iter().filter(|g| !is_gone(g)) {
        put_back(grave, dir, site)?;
    }
    for grave in graves.iter().filter(is_gone) {
        erase(grave, site)?;
    }
    let _pass = pass(site, dir)?;
    let aside = site.medium.set_aside(&place(dir))?;
    let end = if gone > 0 {
        "the old files were gone already, and were erased; repeat the reset for a receipt"
    } else if graves.is_empty() {
        "nothing was out of its place"
    } else {
        "all old files are in their places again"
    };
    Ok(Resumed::Undone {
        id: String::new(),
        why: format!("{why}; {end}; the journal is now {}", aside.display()),
    })
}

/// What was moved away goes back, the database before its companions.
fn put_back(grave: &Path, dir: &Path, site: &Site<'_>) -> Result<(), ResetError> {
    let list = |e: io::Error| ResetError::io("list", grave)(e);
    let mut names = Vec::new();
    for entry in fs::read_dir(grave).map_err(list)? {
        names.push(entry.map_err(list)?.file_name());
    }
    names.sort_by_key(|name| name.as_encoded_bytes().len());
    for name in names {
        let to = dir.join(&name);
        if to.symlink_metadata().is_err() {
            let _pass = pass(site, &to)?;
            site.medium.rename(&grave.join(&name), &to)?;
        }
    }
    let _pass = pass(site, dir)?;
    remove_empty(grave, site)
}
