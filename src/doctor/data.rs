//! Directories, file systems, free space.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Access, StatVfsMountFlags, access, statfs, statvfs};

use crate::guard::{freeze_refusal, read_only};
use crate::store::{Look, header_fault, look};

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
    if let Err(e) = fs::metadata(dir) {
        out.push(Check::warn(
            name,
            format!("{shown}: {e}"),
            "the agent makes it when it starts",
        ));
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

/// The agent's own databases, as bytes: none is opened.
fn stores(p: &Patient<'_>, out: &mut Vec<Check>) {
    const REMEDY: &str = "nothing was changed: stop the agent, copy the file with its -wal, -shm \
                          and -journal away, and look at the copy";
    let gateway = &p.settings.gateway;
    for path in [gateway.store_path(), gateway.queue_path()] {
        if p.hidden {
            let why = format!("{} is the agent's alone", path.display());
            out.push(Check::skip("store", &why));
            continue;
        }
        let shown = path.display();
        match header_fault(&path) {
            Ok(None) => {}
            Ok(Some(why)) => {
                out.push(Check::bad("store", format!("{shown}: {why}"), REMEDY));
                continue;
            }
            Err(e) => {
                let found = crate::agent::explain(&e);
                out.push(Check::warn("store", found, "ask as the agent's user"));
                continue;
            }
        }
        // The log of an agent that runs changes while it is looked at.
        let log = match p.agent {
            Some(_) => Ok(Look::Database),
            None => look(&path),
        };
        out.push(match log {
            Ok(Look::Database | Look::Fresh) if !path.exists() => {
                Check::ok("store", format!("{shown}: not made yet"))
            }
            Ok(Look::Database | Look::Fresh) => {
                Check::ok("store", format!("{shown}: its header is sound"))
            }
            Ok(Look::DamagedWal(why)) => Check::bad("store", format!("{shown}-wal: {why}"), REMEDY),
            Err(e) => Check::bad("store", crate::agent::explain(&e), REMEDY),
        });
    }
}

fn mount(p: &Patient<'_>, out: &mut Vec<Check>) {
    let dir = &p.settings.gateway.data_dir;
    if !dir.exists() {
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
    if let Some(why) = File::open(dir).ok().and_then(|d| read_only(d.as_fd())) {
        out.push(Check::bad(
            "mount",
            why,
            "look at `dmesg`, check the medium (fsck), mount it read-write, restart the agent",
        ));
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
