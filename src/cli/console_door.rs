//! Who may log in at the console: keys, the passphrase, and how often it was guessed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::rand::{GetRandomFlags, getrandom};

use crate::clock::{Clock, SystemClock};
use crate::config::Settings;
use crate::console::login::guesses::{self, Guesses};
use crate::console::login::passphrase::{self, Passphrase};
use crate::console::login::{Moment, Revoked, Signers};
use crate::durable::{DurableError, Medium, read_own_if_there};

/// A list of keys is no larger.
const LARGEST: u64 = 1 << 20;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Door {
    guesses: Option<Guesses>,
}

impl Door {
    /// Is this the passphrase? The guess is counted, durably, before it is looked at.
    pub(super) fn passphrase(&mut self, settings: &Settings, guess: &str) -> Result<(), String> {
        let Some(file) = &settings.console.passphrase_file else {
            return Err("this gateway has no passphrase".to_owned());
        };
        let text = text(file)?.ok_or_else(|| {
            format!(
                "{} is not there: `holdup console --new-passphrase` makes it",
                file.display()
            )
        })?;
        let kept = Passphrase::read(&text).map_err(|e| format!("{}: {e}", file.display()))?;
        let now = SystemClock.mono();
        let count = count_file(file);
        let written = read_own_if_there(&count, guesses::FILE);
        let mut guesses = match (self.guesses, &written) {
            (None, Ok(bytes)) => Guesses::found(bytes.as_deref(), now),
            (None, Err(_)) => Guesses::unkept(now),
            (Some(mut known), Ok(bytes)) => {
                known.heed(bytes.as_deref(), now);
                known
            }
            (Some(known), Err(_)) => known,
        };
        let taken = guesses.take(now);
        self.guesses = Some(guesses);
        if let Err(wait) = taken {
            return Err(format!(
                "too many wrong ones: try again in {} s, or log in with a key",
                wait.as_secs() + 1
            ));
        }
        if let Err(why) = keep(&count, &guesses) {
            log::warn!("{why}");
            // What cannot be counted is not guessed at: a pulled plug would forget it.
            let mut unkept = Guesses::unkept(now);
            unkept.heed(None, now);
            self.guesses = Some(unkept);
            return Err(format!("{why}; until then log in with a key"));
        }
        if !kept.is(guess.as_bytes()) {
            return Err("that is not the passphrase".to_owned());
        }
        guesses.right();
        self.guesses = Some(guesses);
        if let Err(why) = keep(&count, &guesses) {
            log::warn!("{why}");
        }
        Ok(())
    }
}

/// Beside the passphrase: not on the data partition, which may be frozen.
fn count_file(passphrase: &Path) -> PathBuf {
    let mut name = passphrase.as_os_str().to_owned();
    name.push(".guesses");
    name.into()
}

fn keep(path: &Path, guesses: &Guesses) -> Result<(), String> {
    replace_private(path, guesses.text().as_bytes())
        .map_err(|why| format!("wrong guesses cannot be counted: {why}"))
}

/// Puts a file in its place, durably.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), String> {
    written(path, |m| m.replace(path, bytes))
}

/// The same with one that nobody else may read.
pub(super) fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), String> {
    written(path, |m| m.replace_private(path, bytes))
}

fn written(
    path: &Path,
    write: impl FnOnce(&Medium) -> Result<(), DurableError>,
) -> Result<(), String> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let medium = Medium::open(folder.unwrap_or(Path::new(".")));
    medium.and_then(|m| write(&m)).map_err(|e| {
        format!(
            "{} cannot be written: {}",
            path.display(),
            crate::agent::explain(&e)
        )
    })
}

/// Makes a passphrase's file anew.
pub(super) fn new_passphrase(file: &Path, secret: &str) -> Result<(), String> {
    let text = passphrase::made(secret, random()?).map_err(|e| e.to_string())?;
    replace_private(file, text.as_bytes())
}

/// Bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(n) if n == N => Ok(bytes),
        Ok(_) => Err("the kernel gave too few random bytes: try again".to_owned()),
        Err(e) => Err(format!("the kernel gives no random bytes: {e}")),
    }
}

/// Whose keys count.
pub(super) fn signers(settings: &Settings) -> Result<Signers, String> {
    let path = &settings.console.allowed_signers;
    let text = text(path)?.unwrap_or_default();
    let signers = Signers::read(&text);
    for line in &signers.unusable {
        log::warn!("{}: {line}: it lets nobody in", path.display());
    }
    Ok(signers)
}

/// Whose do not.
pub(super) fn revoked(settings: &Settings) -> Result<Revoked, String> {
    let path = &settings.console.revoked_signers;
    let text = text(path)?.unwrap_or_default();
    Revoked::read(&text).map_err(|e| {
        format!(
            "{}: {e}: nobody is let in until it is mended",
            path.display()
        )
    })
}

/// Today, for keys with dates. A clock that nobody has set is not believed where files say that it
/// is later: a revoked past must not come back with an empty battery.
pub(super) fn today(settings: &Settings) -> Moment {
    let clock = SystemClock;
    let now = clock.wall().as_millis() / 1000;
    if clock.is_synchronised() {
        return now;
    }
    let written = |path: PathBuf| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).map_or(0, |m| m.mtime())
    };
    let signers = written(settings.console.allowed_signers.clone());
    now.max(signers).max(written(settings.gateway.audit_path()))
}

/// A file's text; `None`: there is none.
fn text(path: &Path) -> Result<Option<String>, String> {
    let failed = |e: io::Error| format!("{} cannot be read: {e}", path.display());
    match fs::metadata(path) {
        Ok(m) if !m.is_file() || m.len() > LARGEST => {
            return Err(format!("{} is no file of keys", path.display()));
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    }
    fs::read_to_string(path).map(Some).map_err(failed)
}
