//! The gateway's own key: what it says is signed with it.
//!
//! It promises that the secret half is readable for its owner alone from its first moment on, and
//! that signatures are what OpenSSH makes and checks (`ssh-keygen -Y`), so that nobody needs holdup
//! to check one. It must never replace a key that is there.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::rand::{GetRandomFlags, getrandom};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use crate::durable::{Bulk, Gate, Medium, read_own_if_there};

use super::ResetError;

/// The secret half, in the data directory; the public one ends in `.pub`.
pub const IDENTITY: &str = "identity.key";
/// What a receipt's signature is for.
pub const NAMESPACE: &str = "holdup-receipt";
/// A longer file is no key.
const LONGEST: u64 = 64 << 10;

/// The gateway's key.
#[derive(Debug)]
pub struct Identity {
    key: PrivateKey,
}

impl Identity {
    /// The places of both halves.
    pub fn places(data_dir: &Path) -> [PathBuf; 2] {
        let secret = data_dir.join(IDENTITY);
        let public = data_dir.join(format!("{IDENTITY}.pub"));
        [secret, public]
    }

    /// The key in `data_dir`; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no Ed25519 key of OpenSSH's form.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, ResetError> {
        let [path, _] = Self::places(data_dir);
        let odd = |why: String| ResetError::Key {
            path: path.clone(),
            why,
        };
        let bytes = read_own_if_there(&path, LONGEST).map_err(|e| odd(e.to_string()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let key = PrivateKey::from_openssh(bytes).map_err(|e| {
            odd(format!(
                "it is none ({e}); move it away, and the next receipt makes another"
            ))
        })?;
        Ok(Some(Self { key }))
    }

    /// The key in `data_dir`, made where there is none.
    ///
    /// # Errors
    /// As [`Self::read`]; it cannot be written.
    pub fn read_or_make(
        data_dir: &Path,
        gateway: &str,
        medium: &Medium,
        gate: &Gate,
        stop: &AtomicBool,
    ) -> Result<Self, ResetError> {
        if let Some(there) = Self::read(data_dir)? {
            return Ok(there);
        }
        let [path, public] = Self::places(data_dir);
        let odd = |why: String| ResetError::Key {
            path: path.clone(),
            why,
        };
        let mut seed = [0u8; 32];
        getrandom(&mut seed[..], GetRandomFlags::empty())
            .map_err(|e| odd(format!("the kernel gives no randomness: {e}")))?;
        let pair = Ed25519Keypair::from_seed(&seed);
        let made = PrivateKey::new(KeypairData::from(pair), format!("holdup {gateway}"))
            .map_err(|e| odd(e.to_string()))?;
        let text = made
            .to_openssh(LineEnding::LF)
            .map_err(|e| odd(e.to_string()))?;
        let line = made
            .public_key()
            .to_openssh()
            .map_err(|e| odd(e.to_string()))?;
        // Half of one that a cut left.
        let fresh = data_dir.join(format!("{IDENTITY}.new"));
        medium.remove(&fresh)?;
        let mut file = Bulk::create(&fresh, medium, gate, stop)?;
        file.write_all(text.as_bytes())
            .map_err(ResetError::io("write", &fresh))?;
        file.finish()?;
        medium.replace(&public, format!("{line}\n").as_bytes())?;
        medium.rename(&fresh, &path)?;
        Ok(Self { key: made })
    }

    /// Its public half, as one line of OpenSSH's.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn public(&self) -> Result<String, ResetError> {
        let key = self.key.public_key().to_openssh();
        key.map_err(|e| self.odd(&e))
    }

    /// `SHA256:...` of its public half.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// A signature over `bytes`, armoured.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn sign(&self, bytes: &[u8]) -> Result<String, ResetError> {
        let signed = self.key.sign(NAMESPACE, HashAlg::Sha512, bytes);
        let signed = signed.and_then(|s| s.to_pem(LineEnding::LF));
        signed.map_err(|e| self.odd(&e))
    }

    fn odd(&self, e: &ssh_key::Error) -> ResetError {
        ResetError::Key {
            path: PathBuf::from(IDENTITY),
            why: e.to_string(),
        }
    }
}
