//! The receipt: what was erased, what stayed, and what that is worth; signed by the gateway.
//!
//! It promises to say only what was done. `receipts/NAME.json` is what the signature in
//! `NAME.json.sig` is over, byte by byte; OpenSSH checks it:
//! `ssh-keygen -Y check-novalidate -n holdup-receipt -s NAME.json.sig < NAME.json`, or with `verify`
//! and the gateway's line of `identity.key.pub`, noted before, in an allowed-signers file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ssh_key::{PublicKey, SshSig};

use crate::audit::Head;
use crate::durable::read_own_if_there;

use super::erase::Discarded;
use super::identity::{Identity, NAMESPACE};
use super::inventory::Item;
use super::journal::{Journal, Moment, with_room};
use super::{BackedUp, Level, ResetError, Site, Undelivered};

/// What unlinking is worth on flash.
pub const ABOUT_FLASH: &str = "erased means unlinked, not overwritten: flash keeps copies in blocks \
    that nobody can address, until it uses them again; a card that held secrets is destroyed, not \
    erased";
const FORMAT: &str = "holdup-reset-receipt";
const VERSION: u32 = 1;
/// Bytes that are read.
const LONGEST: u64 = 8 << 20;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// `holdup-reset-receipt`.
    pub format: String,
    /// Of the format.
    pub version: u32,
    /// The reset's id, also in the audit log.
    pub id: String,
    /// The gateway.
    pub gateway: String,
    /// How much went.
    pub level: Level,
    /// Who asked.
    pub actor: String,
    /// When it was asked for.
    pub requested: Moment,
    /// When it was done.
    pub finished: Moment,
    /// Starts that went on with it after a cut.
    pub cuts: u32,
    /// The backup that was made first.
    pub backup: Option<BackedUp>,
    /// No backup was wanted: that was typed.
    pub backup_waived: bool,
    /// What was given up undelivered.
    pub undelivered_waived: Option<Undelivered>,
    /// Everything that lay in the data directory, with its fate.
    pub items: Vec<Item>,
    /// More that are not listed.
    pub unlisted: u64,
    /// Files elsewhere that were removed: the technicians' keys.
    pub keys_removed: Vec<PathBuf>,
    /// The configuration is the shipped one.
    pub configuration_reset: Option<PathBuf>,
    /// The gateway's key, which signed this, was unlinked afterwards.
    pub identity_removed: bool,
    /// Whether the medium was asked to forget the unlinked blocks.
    pub discard: Discarded,
    /// The store's epoch before; `None` where it could not be read.
    pub epoch_before: Option<String>,
    /// And now: no id of before names a reading of after.
    pub epoch_after: Option<String>,
    /// The audit log's last entry before, and at the genesis entry or after it.
    pub audit_before: Option<Head>,
    /// `None`: the entry waited to be written when this was.
    pub audit_genesis: Option<Head>,
    /// What erasing is worth on this medium.
    pub about_the_medium: String,
    /// The key that signed, in OpenSSH's form.
    pub key: String,
    /// Its fingerprint.
    pub fingerprint: String,
}

/// A receipt as it lies there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// Its file.
    pub path: PathBuf,
    /// What it says.
    pub receipt: Receipt,
    /// Is the signature beside it one of the key that it names, over just these bytes?
    pub signature_holds: bool,
}

/// Where they lie.
fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("receipts")
}

fn place(data_dir: &Path, id: &str) -> PathBuf {
    dir(data_dir).join(format!("reset-{id}.json"))
}

fn signature(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

impl Receipt {
    fn of(journal: &Journal, identity: &Identity, site: &Site<'_>) -> Result<Self, ResetError> {
        let j = journal.clone();
        Ok(Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            id: j.id,
            gateway: j.gateway,
            level: j.level,
            actor: j.actor,
            requested: j.requested,
            finished: Moment::now(site),
            cuts: j.cuts,
            backup: j.backup,
            backup_waived: j.backup_waived,
            undelivered_waived: j.undelivered_waived,
            items: j.items,
            unlisted: j.unlisted,
            keys_removed: j.keys,
            configuration_reset: j.config.map(|c| c.path),
            identity_removed: j.level == Level::Everything,
            discard: j.discard,
            epoch_before: j.epoch_before,
            epoch_after: j.epoch_after,
            audit_before: j.head_before,
            audit_genesis: j.genesis,
            about_the_medium: ABOUT_FLASH.to_owned(),
            key: identity.public()?,
            fingerprint: identity.fingerprint(),
        })
    }
}

/// Writes and signs it, unless that was done before a cut.
pub(super) fn write(
    journal: &Journal,
    data_dir: &Path,
    site: &Site<'_>,
) -> Result<Signed, ResetError> {
    let path = place(data_dir, &journal.id);
    if let Ok(Some(done)) = read(&path)
        && done.signature_holds
    {
        return Ok(done);
    }
    let (medium, gate) = (site.medium, site.gate);
    let identity = Identity::read_or_make(data_dir, &journal.gateway, medium, gate, site.stop)?;
    let receipt = Receipt::of(journal, &identity, site)?;
    let mut bytes = serde_json::to_vec_pretty(&receipt)
        .map_err(|e| ResetError::io("write", &path)(e.into()))?;
    bytes.push(b'\n');
    let signed = identity.sign(&bytes)?;
    with_room(site, data_dir, || {
        medium.make_dir(&dir(data_dir))?;
        medium.replace(&path, &bytes)?;
        medium.replace(&signature(&path), signed.as_bytes())
    })?;
    Ok(Signed {
        path,
        receipt,
        signature_holds: true,
    })
}

/// The receipt in `path`; `None` where there is none.
fn read(path: &Path) -> Result<Option<Signed>, ResetError> {
    let odd = |e| ResetError::io("read", path)(e);
    let Some(bytes) = read_own_if_there(path, LONGEST).map_err(odd)? else {
        return Ok(None);
    };
    let receipt: Receipt =
        serde_json::from_slice(&bytes).map_err(|e| ResetError::io("understand", path)(e.into()))?;
    if receipt.format != FORMAT || receipt.version != VERSION {
        let e = io::Error::other("another holdup wrote it, or it is no receipt");
        return Err(ResetError::io("understand", path)(e));
    }
    let signed = read_own_if_there(&signature(path), LONGEST).ok().flatten();
    let holds = || {
        let signed = SshSig::from_pem(signed?).ok()?;
        let key = PublicKey::from_openssh(&receipt.key).ok()?;
        key.verify(NAMESPACE, &bytes, &signed).ok()
    };
    let signature_holds = holds().is_some();
    Ok(Some(Signed {
        path: path.to_owned(),
        receipt,
        signature_holds,
    }))
}

/// The receipts in `data_dir`, oldest first, and those that cannot be read with why.
///
/// # Errors
/// The directory cannot be listed.
pub fn receipts(data_dir: &Path) -> Result<Vec<Result<Signed, ResetError>>, ResetError> {
    let dir = dir(data_dir);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(ResetError::io("list", &dir)(e)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(ResetError::io("list", &dir))?.path();
        if path.extension().is_some_and(|e| e == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.iter().filter_map(|p| read(p).transpose()).collect())
}

/// The newest one that can be read.
///
/// # Errors
/// As [`receipts`].
pub fn newest(data_dir: &Path) -> Result<Option<Signed>, ResetError> {
    Ok(receipts(data_dir)?.into_iter().rev().find_map(Result::ok))
}
