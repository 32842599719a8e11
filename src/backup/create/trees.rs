//! Packs what is included beside the databases.
//!
//! It promises that everything met is in the archive or named with why it is not, and that a
//! database met on the way comes along as one moment of it.

use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::backup::archive::Attributes;
use crate::backup::check::check;
use crate::backup::copy::{self, Copier};
use crate::backup::escape::escape;
use crate::backup::tree::{Avoid, Found, FoundKind, Met, Walked};
use crate::backup::{BackupError, FileEntry, FileKind, Role, Source};

use super::{Run, Told, Writer};

/// Where included files lie in the archive.
const FILES: &str = "files";
/// Of a file that is not as it was at one moment.
const CHANGED: &str = "it changed while it was read";

impl Run<'_> {
    pub(super) fn trees(
        &mut self,
        archive: &mut Writer<'_>,
        avoid: &Avoid,
    ) -> Result<(), BackupError> {
        let mut walked = Walked::default();
        let request = self.request;
        for root in &request.include {
            (self.site.say)(&format!("packing {}", root.display()));
            walked.walk(root, avoid, &mut |met| {
                self.site.go_on()?;
                match met {
                    Met::Found(found) => self.found(archive, found),
                    Met::Passed(path, why) => {
                        self.pass(&path, why);
                        Ok(())
                    }
                }
            })?;
        }
        Ok(())
    }

    fn found(&mut self, archive: &mut Writer<'_>, found: Found) -> Result<(), BackupError> {
        let Found {
            path,
            kind,
            attributes,
        } = found;
        let mut name = FILES.as_bytes().to_vec();
        name.extend(path.as_os_str().as_bytes());
        let part = self.part.clone();
        let failed = BackupError::io("write", &part);
        let kind = match kind {
            FoundKind::Directory => {
                archive.directory(&name, attributes).map_err(failed)?;
                FileKind::Directory
            }
            FoundKind::Link(to) => {
                archive.link(&name, &to, attributes).map_err(failed)?;
                FileKind::Link { to: escape(&to) }
            }
            FoundKind::File(file, bytes) => {
                let again = file.try_clone().map_err(BackupError::io("open", &path))?;
                let kind = self.file(archive, &name, &path, file, bytes, attributes)?;
                let after = again
                    .metadata()
                    .map_err(BackupError::io("look at", &path))?;
                if after.len() != bytes || mtime(&after) != attributes.modified_s {
                    self.pass(&path, CHANGED.to_owned());
                }
                kind
            }
            // Of a copy that is ours: whenever the original was changed, this is one moment of it.
            FoundKind::Database => {
                let copy = copy::place(self.site.work, usize::MAX);
                let copied = copy::copy(&path, Copier::Files, &copy, self.site)
                    .and_then(|bytes| Ok((bytes, self.sound(&copy)?)));
                let bytes = match copied {
                    Ok((bytes, ())) => bytes,
                    Err(BackupError::Stopped) => return Err(BackupError::Stopped),
                    Err(e) => {
                        let source = Source {
                            path: path.clone(),
                            role: Role::Guarded,
                            copier: Copier::Files,
                        };
                        self.pass(&path, source.lacks(&e));
                        return Ok(self.site.medium.remove(&copy)?);
                    }
                };
                let file = File::open(&copy).map_err(BackupError::io("open", &copy))?;
                let kind = self.file(archive, &name, &path, file, bytes, attributes)?;
                self.site.medium.remove(&copy)?;
                kind
            }
        };
        self.manifest.files.push(FileEntry {
            name: escape(&name),
            kind,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
        });
        Ok(())
    }

    fn sound(&self, copy: &Path) -> Result<(), BackupError> {
        let stop = Arc::clone(self.site.stop);
        let quit = move || stop.load(Ordering::Relaxed);
        check(copy, Role::Guarded, Box::new(quit)).map(|_| ())
    }

    fn file(
        &mut self,
        archive: &mut Writer<'_>,
        name: &[u8],
        path: &Path,
        file: File,
        bytes: u64,
        attributes: Attributes,
    ) -> Result<FileKind, BackupError> {
        let mut from = Told {
            from: file,
            site: self.site,
        };
        let written = archive
            .file(name, attributes, bytes, &mut from)
            .map_err(BackupError::io("pack", path))?;
        if written.ended_early {
            self.pass(path, CHANGED.to_owned());
        }
        Ok(FileKind::File {
            bytes: written.bytes,
            sha256: written.sha256,
        })
    }
}

fn mtime(meta: &Metadata) -> i64 {
    meta.mtime()
}
