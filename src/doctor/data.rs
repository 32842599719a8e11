//! Directories, file systems, free space.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Access, Mode, OFlags, StatVfsMountFlags, access, open, statfs, statvfs};

use crate::agent::{READ_ONLY_REMEDY, Status};
use crate::guard::{freeze_refusal, read_only};
use crate::recovery::{RecoveryError, fault_of};
use crate::store::{Look, StoreError, header_fault, look, suspicion};
use crate::{queue, store};

use super::{Check, Patient};

const TMPFS_MAGIC: i64 = 0x0102_1994;
/// Under this much free space nothing good can be said.
const LEAST_FREE: u64 = 64 << 20;

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    let gateway = &p.settings.gateway;
    for (name, dir) in [
        ("data_dir", &gateway.data_dir),
        ("run_dir", &gateway.run_dir),
    ] {
        if p.hidden {
            let why = "whether you may write it says nothing of the agent";
            out.push(Check::skip(name, &format!("{}: {why}", dir.display())));
        } else {
            directory(name, dir, out);
        }
    }
    obstacles(p, out);
    stores(p, out);
    if let Ok(s) = statfs(&gateway.run_dir)
        && s.f_type != TMPFS_MAGIC
    {
        out.push(Check::warn(
            "run_dir",
            "is not on a tmpfs: the lock and sockets lie on the medium that may be frozen",
            "put gateway.run_dir under /run",
        ));
    }
    mount(p, out);
    space(p, out);
}

fn directory(name: &str, dir: &Path, out: &mut Vec<Check>) {
    let shown = dir.display();
    let there = fs::metadata(dir);
    // A link that leads nowhere is in the way of what the agent would make.
    let missing = fs::symlink_metadata(dir).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    if missing {
        out.push(Check::warn(
            name,
            format!("{shown} is not there"),
            "the agent makes it when it starts",
        ));
    } else if let Err(e) = there {
        let found = format!("{shown} cannot be looked at: {e}");
        let remedy = format!("mend it, or set gateway.{name} elsewhere");
        out.push(Check::bad(name, found, remedy));
    } else if there.is_ok_and(|m| !m.is_dir()) {
        let found = format!("{shown} is not a directory");
        let remedy = format!("move it out of the way, or set gateway.{name} elsewhere");
        out.push(Check::bad(name, found, remedy));
    } else if let Err(e) = access(dir, Access::WRITE_OK | Access::EXEC_OK) {
        out.push(Check::bad(
            name,
            format!("{shown} cannot be written: {e}"),
            "remount it read-write, or give the agent's user the right",
        ));
    } else {
        out.push(Check::ok(name, shown.to_string()));
    }
}

/// What the agent found in the place of its own files.
fn obstacles(p: &Patient<'_>, out: &mut Vec<Check>) {
    for aside in p.agent.into_iter().flat_map(|s| &s.set_aside) {
        out.push(Check::warn(
            "set aside",
            aside.to_string(),
            "find out who put it there, then move it away",
        ));
    }
}

/// The agent's own databases, as bytes: none is opened.
fn stores(p: &Patient<'_>, out: &mut Vec<Check>) {
    let gateway = &p.settings.gateway;
    for (name, path, remedy) in [
        ("store", gateway.store_path(), store::REMEDY),
        ("queue", gateway.queue_path(), queue::REMEDY),
    ] {
        let shown = path.display();
        if p.hidden {
            out.push(Check::skip(name, &format!("{shown} is the agent's alone")));
            continue;
        }
        // What a running agent knows of it was said.
        let told = |s: &Status| s.damage.iter().any(|d| d.code.starts_with(name));
        if p.agent.is_some_and(told) {
            continue;
        }
        out.push(match seen(&path, p.agent.is_some() || p.silent) {
            Seen::NotMade => Check::ok(name, format!("{shown}: not made yet")),
            Seen::Sound => Check::ok(name, format!("{shown}: its header is sound")),
            Seen::Fault(why) => Check::bad(name, why, remedy),
            Seen::Text => Check::bad(
                name,
                format!("{shown}: it is not an SQLite database but text"),
                "`holdup recover --set-aside` keeps it as evidence and makes room, while no agent runs",
            ),
            Seen::Denied(why) => Check::warn(name, why, "ask as the agent's user"),
            Seen::Unseen(why) => Check::bad(name, why, ""),
        });
    }
}

enum Seen {
    NotMade,
    Sound,
    /// Something that the start of the agent recovers; says what.
    Fault(String),
    /// Something that it leaves alone.
    Text,
    Denied(String),
    /// Says why, and what to do.
    Unseen(String),
}

fn seen(path: &Path, is_running: bool) -> Seen {
    let shown = path.display();
    match header_fault(path) {
        Ok(None) => {}
        Ok(Some(_)) if matches!(fault_of(path), Err(RecoveryError::Alien(_))) => {
            return Seen::Text;
        }
        Ok(Some(why)) => return Seen::Fault(format!("{shown}: {why}")),
        Err(e) => return unseen(e),
    }
    if is_running {
        // Its log changes while it is looked at.
        return Seen::Sound;
    }
    if suspicion(path).exists() {
        return Seen::Fault(format!("{shown} was found damaged while it was read"));
    }
    match look(path) {
        Ok(Look::Database | Look::Fresh) if !path.exists() => Seen::NotMade,
        Ok(Look::Database | Look::Fresh) => Seen::Sound,
        Ok(Look::DamagedWal(why)) => Seen::Fault(format!("{shown}-wal: {why}")),
        Err(StoreError::OrphanWal { state, .. }) => {
            Seen::Fault(format!("{shown} is {state}, and its log lies beside it"))
        }
        Err(e) => unseen(e),
    }
}

fn unseen(e: StoreError) -> Seen {
    let denied = matches!(&e, StoreError::Look { source, .. }
        if source.kind() == io::ErrorKind::PermissionDenied);
    let why = crate::agent::explain(&e);
    if denied {
        Seen::Denied(why)
    } else {
        Seen::Unseen(why)
    }
}

fn mount(p: &Patient<'_>, out: &mut Vec<Check>) {
    let dir = &p.settings.gateway.data_dir;
    if !dir.is_dir() {
        return;
    }
    match freeze_refusal(dir) {
        None => out.push(Check::ok("freeze", "data_dir is a mount of its own")),
        Some(why) => out.push(Check::warn(
            "freeze",
            format!("{why}: parking cannot freeze it, others may write on"),
            "put data_dir on a partition of its own",
        )),
    }
    // A file system that stopped writing after an error may still grant every right.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = open(dir, flags, Mode::empty()).ok();
    if let Some(why) = opened.and_then(|d| read_only(d.as_fd())) {
        out.push(Check::bad("mount", why, READ_ONLY_REMEDY));
    }
    if let Ok(s) = statvfs(dir)
        && !s.f_flag.contains(StatVfsMountFlags::NOATIME)
    {
        out.push(Check::warn(
            "mount",
            "data_dir's file system is mounted without noatime: reading writes",
            "add noatime in /etc/fstab",
        ));
    }
}

fn space(p: &Patient<'_>, out: &mut Vec<Check>) {
    let gateway = &p.settings.gateway;
    let Ok(s) = statvfs(&gateway.data_dir) else {
        return;
    };
    let free = s.f_bavail * s.f_frsize;
    let store = fs::metadata(gateway.store_path()).map_or(0, |m| m.len());
    let mb = |b: u64| b / 1_000_000;
    let found = format!("{} MB free, the store takes {} MB", mb(free), mb(store));
    let remedy = "set store.keep_days or store.max_bytes, or use a larger card";
    if free < LEAST_FREE {
        out.push(Check::bad("space", found, remedy));
    } else if free < 2 * store {
        out.push(Check::warn(
            "space",
            format!("{found}: repair needs twice its size"),
            remedy,
        ));
    } else {
        out.push(Check::ok("space", found));
    }
}
