//! Keys of backups: the public half stays on the gateway, the secret half is kept elsewhere.
//!
//! It promises that a secret key is never part of an error or a debug text and is wiped from memory
//! when it is dropped. It must never write one anywhere: only the verb that makes a key shows it,
//! once.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::secrecy::zeroize::Zeroizing;
use age::secrecy::{ExposeSecret, SecretString};
use age::{DecryptError, Decryptor, Encryptor, scrypt, x25519};
use sha2::{Digest, Sha256};

use super::RecipientEntry;

/// Bytes of a file with identities that are read.
const LONGEST: u64 = 64 << 10;
/// The most work, as a power of two, that a passphrase may ask for: 1 GiB of memory for a moment.
const MOST_WORK: u8 = 20;
/// What an armored file begins with.
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// What an age file begins with.
const AGE: &[u8] = b"age-encryption.org/";

/// Asked for a passphrase, with what it opens; `None`: there is nobody to ask.
pub type Ask<'a> = &'a mut dyn FnMut(&str) -> io::Result<Option<SecretString>>;

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a recipient.
    #[error("{0:?} is not a recipient: give the text that begins with age1")]
    Recipient(String),
    /// A file with identities could not be read.
    #[error("cannot read the identity {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is none in it.
    #[error(
        "{}: {why}; an identity is a line that begins with AGE-SECRET-KEY-1, or such a file \
         encrypted with a passphrase by age -p",
        path.display()
    )]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The passphrase does not open it.
    #[error("{}: that is not its passphrase", .0.display())]
    Passphrase(PathBuf),
    /// The passphrase could not be asked for.
    #[error("{} needs a passphrase: run this on a terminal", .0.display())]
    NobodyToAsk(PathBuf),
    /// It could not be encrypted.
    #[error("cannot encrypt the identity with a passphrase: {0}")]
    Protect(String),
}

/// To whom a backup is encrypted.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient {
    text: String,
    key: x25519::Recipient,
}

impl Recipient {
    /// `SHA256:` and the first 16 hex digits of the SHA-256 of its text.
    pub fn fingerprint(&self) -> String {
        use fmt::Write;
        let hash = Sha256::digest(self.text.as_bytes());
        let mut text = "SHA256:".to_owned();
        for byte in hash.iter().take(8) {
            // Writing to a string cannot fail.
            write!(text, "{byte:02x}").ok();
        }
        text
    }

    /// Its text, `age1...`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// As age takes it.
    pub fn key(&self) -> &dyn age::Recipient {
        &self.key
    }

    /// As a manifest names it.
    pub fn entry(&self) -> RecipientEntry {
        RecipientEntry {
            fingerprint: self.fingerprint(),
            recipient: self.text.clone(),
        }
    }
}

impl FromStr for Recipient {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let key: x25519::Recipient = text
            .trim()
            .parse()
            .map_err(|_| KeyError::Recipient(shown(text)))?;
        Ok(Self {
            text: key.to_string(),
            key,
        })
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a user gave, for an error: never a secret key, which may stand where a recipient should.
fn shown(text: &str) -> String {
    if text.to_ascii_uppercase().contains("AGE-SECRET") {
        return "a secret key".to_owned();
    }
    text.chars().take(80).collect()
}

/// The secret half of a key.
#[derive(Clone)]
pub struct Identity(x25519::Identity);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.recipient().fingerprint())
    }
}

impl Identity {
    /// A new one, from the kernel's random numbers.
    pub fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    /// Its public half.
    pub fn recipient(&self) -> Recipient {
        let key = self.0.to_public();
        Recipient {
            text: key.to_string(),
            key,
        }
    }

    /// As age takes it.
    pub fn key(&self) -> &dyn age::Identity {
        &self.0
    }

    /// `AGE-SECRET-KEY-1...`: for the one time that it is shown.
    pub fn secret_text(&self) -> SecretString {
        self.0.to_string()
    }

    /// The identity as a text file that only `passphrase` opens; `work` is a power of two, 18 as
    /// age has it (256 MiB of memory for a moment).
    pub fn protected(&self, passphrase: SecretString, work: u8) -> Result<String, KeyError> {
        let no = |e: &dyn fmt::Display| KeyError::Protect(e.to_string());
        let mut to = scrypt::Recipient::new(passphrase);
        to.set_work_factor(work.clamp(1, MOST_WORK));
        let mut out = Vec::new();
        let armor = ArmoredWriter::wrap_output(&mut out, Format::AsciiArmor).map_err(|e| no(&e))?;
        let mut writer = Encryptor::with_recipients(std::iter::once(&to as &dyn age::Recipient))
            .map_err(|e| no(&e))?
            .wrap_output(armor)
            .map_err(|e| no(&e))?;
        let secret = self.secret_text();
        writeln!(writer, "# public key: {}", self.recipient().text)
            .and_then(|()| writeln!(writer, "{}", secret.expose_secret()))
            .and_then(|()| writer.finish()?.finish().map(|_| ()))
            .map_err(|e| no(&e))?;
        String::from_utf8(out).map_err(|e| no(&e))
    }

    /// Every identity in the text that `from` gives: lines as `age-keygen` writes them, or all of
    /// it encrypted with a passphrase, which `ask` asks for. `path` is for errors.
    pub fn read_all(from: impl Read, path: &Path, ask: Ask<'_>) -> Result<Vec<Self>, KeyError> {
        let text = bounded(from, path)?;
        let start = text.trim_ascii_start();
        if !start.starts_with(ARMOR) && !start.starts_with(AGE) {
            return lines(&text, path);
        }
        let bad = |why: String| KeyError::Identity {
            path: path.to_owned(),
            why,
        };
        let sealed = Decryptor::new_buffered(BufReader::new(ArmoredReader::new(start)))
            .map_err(|e| bad(e.to_string()))?;
        if !sealed.is_scrypt() {
            return Err(bad("it is encrypted to a key, not with a passphrase".into()));
        }
        let passphrase = ask(&format!("passphrase of {}: ", path.display()))
            .map_err(|source| KeyError::Io {
                path: path.to_owned(),
                source,
            })?
            .ok_or_else(|| KeyError::NobodyToAsk(path.to_owned()))?;
        let mut opens = scrypt::Identity::new(passphrase);
        opens.set_max_work_factor(MOST_WORK);
        let plain = sealed
            .decrypt(std::iter::once(&opens as &dyn age::Identity))
            .map_err(|e| {
                use DecryptError::{DecryptionFailed, KeyDecryptionFailed};
                if matches!(e, DecryptionFailed | KeyDecryptionFailed) {
                    KeyError::Passphrase(path.to_owned())
                } else {
                    bad(e.to_string())
                }
            })?;
        lines(&bounded(plain, path)?, path)
    }
}

/// All that `from` gives, which is not long.
fn bounded(from: impl Read, path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    // Of its full size at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    from.take(LONGEST + 1)
        .read_to_end(&mut text)
        .map_err(|source| KeyError::Io {
            path: path.to_owned(),
            source,
        })?;
    if text.len() as u64 > LONGEST {
        return Err(KeyError::Identity {
            path: path.to_owned(),
            why: format!("it is longer than {LONGEST} bytes"),
        });
    }
    Ok(text)
}

fn lines(text: &[u8], path: &Path) -> Result<Vec<Identity>, KeyError> {
    let bad = |why: String| KeyError::Identity {
        path: path.to_owned(),
        why,
    };
    let mut found = Vec::new();
    for (at, line) in text.split(|b| *b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        // The line itself may be a secret: only its number is told.
        let key = std::str::from_utf8(line)
            .ok()
            .and_then(|l| l.parse().ok())
            .ok_or_else(|| bad(format!("line {} is no identity", at + 1)))?;
        found.push(Identity(key));
    }
    if found.is_empty() {
        return Err(bad("there is no identity in it".to_owned()));
    }
    Ok(found)
}

/// A key for one backup, in memory only: with it the backup is read back after it was written.
#[derive(Debug)]
pub struct OneTime(Identity);

impl OneTime {
    /// A new one.
    pub fn new() -> Self {
        Self(Identity::generate())
    }

    /// What the backup is encrypted to, beside its recipients.
    pub fn recipient(&self) -> Recipient {
        self.0.recipient()
    }

    /// What reads it back.
    pub fn identity(&self) -> &Identity {
        &self.0
    }
}

impl Default for OneTime {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/media/key.txt";

    fn nobody(_: &str) -> io::Result<Option<SecretString>> {
        Ok(None)
    }

    fn read(text: &str) -> Result<Vec<Identity>, KeyError> {
        Identity::read_all(text.as_bytes(), Path::new(PATH), &mut nobody)
    }

    #[test]
    fn a_fingerprint_is_of_the_recipients_text() {
        let text = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
        let one: Recipient = format!(" {text}\n").parse().expect("recipient");
        assert_eq!(one.text(), text);
        // printf %s age1zvk... | sha256sum
        assert_eq!(one.fingerprint(), "SHA256:6a804773982840fa");
    }

    #[test]
    fn identities_are_read_from_the_lines_of_a_file() {
        let (a, b) = (Identity::generate(), Identity::generate());
        let text = format!(
            "# created: today\n\n{}\r\n  {}",
            a.secret_text().expose_secret(),
            b.secret_text().expose_secret()
        );
        let found = read(&text).expect("two");
        let found: Vec<_> = found.iter().map(Identity::recipient).collect();
        assert_eq!(found, [a.recipient(), b.recipient()]);
    }

    #[test]
    fn no_error_and_no_debug_text_holds_a_secret_key() {
        let one = Identity::generate();
        let secret = one.secret_text();
        let broken = format!("{}x", secret.expose_secret());
        let told = [
            format!("{:?}", read(&broken).expect_err("broken")),
            read(&broken).expect_err("broken").to_string(),
            broken.parse::<Recipient>().expect_err("wrong").to_string(),
            format!("{one:?}"),
        ];
        for text in told {
            assert!(!text.contains(&secret.expose_secret()[..30]), "{text}");
        }
        let e = read(&broken).expect_err("broken").to_string();
        assert!(e.contains(PATH) && e.contains("line 1"), "{e}");
        assert!(read("# nothing\n").is_err());
        assert!(read(&"#".repeat(70 << 10)).is_err());
    }

    #[test]
    fn a_protected_identity_needs_its_passphrase() {
        let one = Identity::generate();
        let text = one.protected("a b".to_owned().into(), 2).expect("protect");
        assert!(!text.contains("SECRET"), "{text}");
        let read = |pass: Option<&str>| {
            let mut ask = |_: &str| Ok(pass.map(|p| SecretString::from(p.to_owned())));
            Identity::read_all(text.as_bytes(), Path::new(PATH), &mut ask)
        };
        let found = read(Some("a b")).expect("open");
        assert_eq!(found[0].recipient(), one.recipient());
        assert!(matches!(read(Some("b")), Err(KeyError::Passphrase(_))));
        assert!(matches!(read(None), Err(KeyError::NobodyToAsk(_))));
    }

    #[test]
    fn two_one_time_keys_differ() {
        assert_ne!(OneTime::new().recipient(), OneTime::new().recipient());
    }
}
