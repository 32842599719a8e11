//! Which backup is meant, and where copies of it lie: the gateway's own directory, the other
//! targets, directories and sticks that are named.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::agent::explain;
use crate::backup::catalogue::{Listed, Standing, list};
use crate::backup::target::{Opened, Stick};
use crate::backup::{ArchiveName, Kind, Target};
use crate::clock::Wall;
use crate::config::Settings;

use super::Usage;

/// Where backups are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) settings: &'a Settings,
    /// Further directories, which are looked at first.
    pub(super) from: &'a [PathBuf],
    /// The label of a stick, which comes next.
    pub(super) usb: Option<&'a str>,
}

/// The copies of one backup.
pub(super) struct Candidates {
    /// In the order in which they are tried.
    pub(super) archives: Vec<PathBuf>,
    /// The newest one before it, if that is known.
    pub(super) before: Option<ArchiveName>,
    /// Sticks stay mounted.
    _opened: Vec<Opened>,
    _stick: Option<Stick>,
}

impl fmt::Debug for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidates")
            .field("archives", &self.archives)
            .finish_non_exhaustive()
    }
}

/// All that lies in the places, and why some cannot be looked at.
struct Everywhere {
    found: Vec<Listed>,
    problems: Vec<String>,
    opened: Vec<Opened>,
    stick: Option<Stick>,
}

impl Places<'_> {
    /// The backup with that name, or the file.
    pub(super) fn named(&self, name: &Path) -> anyhow::Result<Candidates> {
        if name.is_file() {
            return Ok(Candidates {
                archives: vec![std::path::absolute(name)?],
                before: None,
                _opened: Vec::new(),
                _stick: None,
            });
        }
        let wanted = archive_name(name, name.to_str().unwrap_or_default())?;
        let missing =
            format!("there is no backup {wanted}: `holdup backup list` shows what is there");
        self.all()?.candidates(&wanted, None, &missing)
    }

    /// The newest one of this gateway that was made at or before that moment.
    pub(super) fn newest(&self, at: &str) -> anyhow::Result<Candidates> {
        let at = moment(at)?;
        let own = ArchiveName::new(&self.settings.gateway.id, Wall::from_millis(0), 0);
        let gateway = own.gateway();
        let all = self.all()?;
        let fits = |l: &&Listed| {
            let data = l.manifest.as_ref().is_none_or(|m| m.kind == Kind::Data);
            data && is_there(l)
                && l.name.gateway() == gateway
                && l.name.made().as_millis() <= at.as_millisecond()
        };
        let mut names: Vec<_> = all.found.iter().filter(fits).map(|l| &l.name).collect();
        names.sort();
        names.dedup();
        let newest = names.pop().cloned();
        let before = names.pop().cloned();
        let missing = format!(
            "there is no backup of {gateway} from {at} or before: `holdup backup list` shows what \
             is there; one of another gateway is restored by its name"
        );
        match newest {
            Some(newest) => all.candidates(&newest, before, &missing),
            None => Err(all.none(&missing)?),
        }
    }

    fn all(&self) -> anyhow::Result<Everywhere> {
        let gateway = &self.settings.gateway;
        let stick = self.usb.map(|label| Stick::mount(label, &gateway.run_dir));
        let mut all = Everywhere {
            found: Vec::new(),
            problems: Vec::new(),
            opened: Vec::new(),
            stick: stick.transpose()?,
        };
        let dirs = self.from.iter().map(PathBuf::as_path);
        for dir in dirs.chain(all.stick.as_ref().map(Stick::dir)) {
            let dir = std::path::absolute(dir)?;
            anyhow::ensure!(dir.is_dir(), "{} is not a directory", dir.display());
            all.found.extend(list(&dir)?);
        }
        for target in Target::all(&self.settings.backup) {
            let opened = target.open(&gateway.data_dir, &gateway.run_dir);
            match opened.and_then(|o| Ok((list(o.dir())?, o))) {
                Ok((found, opened)) => {
                    all.found.extend(found);
                    all.opened.push(opened);
                }
                Err(e) => all.problems.push(format!("{target}: {}", explain(&e))),
            }
        }
        Ok(all)
    }
}

impl Everywhere {
    /// The copies of `wanted`; those that look well first.
    fn candidates(
        self,
        wanted: &ArchiveName,
        before: Option<ArchiveName>,
        missing: &str,
    ) -> anyhow::Result<Candidates> {
        let mut copies: Vec<_> = self.found.iter().filter(|l| l.name == *wanted).collect();
        copies.retain(|l| is_there(l));
        if copies.is_empty() {
            return Err(self.none(missing)?);
        }
        copies.sort_by_key(|l| match l.standing {
            Standing::Whole => 0,
            Standing::NoManifest => 1,
            Standing::Odd(_) | Standing::NoArchive | Standing::Pruning => 2,
        });
        let mut archives: Vec<PathBuf> = Vec::new();
        for archive in copies.into_iter().map(Listed::archive) {
            if !archives.contains(&archive) {
                archives.push(archive);
            }
        }
        Ok(Candidates {
            archives,
            before,
            _opened: self.opened,
            _stick: self.stick,
        })
    }

    /// Nothing fits: the places that could not be looked at are named.
    fn none(&self, missing: &str) -> anyhow::Result<anyhow::Error> {
        for problem in &self.problems {
            writeln!(io::stderr(), "{problem}")?;
        }
        Ok(anyhow::anyhow!("{missing}"))
    }
}

/// Is there an archive, which nobody is removing?
fn is_there(one: &Listed) -> bool {
    one.bytes > 0 && one.standing != Standing::Pruning
}

/// The backup that `name`, of what was given, names.
pub(super) fn archive_name(given: &Path, name: &str) -> anyhow::Result<ArchiveName> {
    name.parse().map_err(|_| {
        let what = if given.is_dir() {
            "is a directory: name a backup in it"
        } else {
            "is neither a file nor the name of a backup"
        };
        Usage::new(format!(
            "{} {what}; `holdup backup list` shows the names",
            given.display()
        ))
    })
}

/// A moment as people write it; without a zone it is UTC.
fn moment(text: &str) -> anyhow::Result<Timestamp> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let civil: jiff::civil::DateTime = text.parse().map_err(|_| {
        Usage::new(format!(
            "{text:?} is no time: write 2026-11-21T15:00:00Z or 2026-11-21"
        ))
    })?;
    Ok(civil.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp())
}
