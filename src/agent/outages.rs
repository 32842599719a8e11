//! Opens the outage record, whatever stands in its place.
//!
//! It promises that nothing there keeps the agent from guarding where it can be set aside by a
//! rename: it is neither opened nor followed, and named. It must never set aside a record that
//! only lacks room.

use std::fs;
use std::path::Path;

use crate::clock::Clock;
use crate::durable::{BlockFile, Medium, Reserve};
use crate::guard::{LastOutage, OutageRecord, RecordError};
use crate::recovery::{SetAside, kind_of};

use super::explain;
use super::room::{Full, with_room};

/// No record was ever a tenth as long.
const LONGEST: u64 = 16 << 20;

/// The record, its file, and how the last outage ended.
type Opened = (OutageRecord, BlockFile, Option<LastOutage>);

/// The record at `path`, made where there is none; and what was set aside for it.
pub(super) fn open(
    path: &Path,
    gateway: &str,
    boot: &str,
    (medium, reserve): (&Medium, &Reserve),
    clock: &dyn Clock,
) -> Result<(Opened, Option<SetAside>), RecordError> {
    let open = || {
        with_room(reserve, medium, || {
            OutageRecord::open(medium, path, gateway, boot, clock.wall())
        })
    };
    let there = fs::symlink_metadata(path);
    // Reading it through would keep the guard waiting; a hole has no end.
    let why = if there.is_ok_and(|m| m.is_file() && m.len() > LONGEST) {
        "longer than any record".to_owned()
    } else {
        let e = match open() {
            Ok(opened) => return Ok((opened, None)),
            Err(e) if e.is_full() => return Err(e),
            Err(e) => e,
        };
        match fs::symlink_metadata(path) {
            Ok(m) if m.is_file() => format!("unusable ({})", explain(&e)),
            Ok(m) => kind_of(&m).to_owned(),
            // The directory itself is of no use.
            Err(_) => return Err(e),
        }
    };
    let to = medium.set_aside(path)?;
    let aside = SetAside {
        from: path.to_owned(),
        to,
        why,
        evidence: None,
    };
    log::error!("{aside}; what it told of earlier outages is not known any more");
    Ok((open()?, Some(aside)))
}
