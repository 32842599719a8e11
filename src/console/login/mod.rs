//! Who is at the console: proven by a signature of the technician's own SSH key.
//!
//! It promises that a code is good for one answer, for one action, on one gateway, and for five
//! minutes of the monotonic clock, and that no secret of a technician is ever on the gateway. What
//! is signed is the code and the newline that `echo` adds.
//!
//! Source: PROTOCOL.sshsig of OpenSSH; `ssh-keygen -Y sign`.

mod dates;
pub mod guesses;
pub mod passphrase;
mod signers;

use std::time::Duration;

use sha2::{Digest, Sha256};
use ssh_key::SshSig;

use crate::clock::Mono;

use super::editor::WIDTH;

pub use dates::Moment;
pub use signers::{Revoked, Signer, Signers, Unusable};

/// What somebody who is logged in may do. A signature is made in the namespace of the role it asks
/// for, and a line of `allowed_signers` lists those its key may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Looks, and changes nothing.
    Viewer,
    /// Everything.
    Technician,
}

impl Role {
    /// The namespace of its signatures; one for another purpose never logs anybody in.
    pub const fn namespace(self) -> &'static str {
        match self {
            Self::Viewer => "holdup-viewer",
            Self::Technician => "holdup",
        }
    }

    /// In a word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Technician => "technician",
        }
    }
}

/// How somebody proved to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By a signature.
    Key,
    /// By the gateway's passphrase.
    Passphrase,
    /// By nothing: this gateway is in a lab.
    Lab,
}

/// Who is at the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// For the audit log.
    pub name: String,
    /// What may be done.
    pub role: Role,
    /// How that was proven.
    pub proof: Proof,
}

/// For so long a code can be answered.
pub const EXPIRES: Duration = Duration::from_secs(300);

/// Bytes of an answer at most; an Ed25519 signature has about 300.
pub const ANSWER: usize = 2048;

/// What `echo` puts behind the code: a POSIX shell, PowerShell, cmd.exe (which keeps the blank
/// before the bar).
const ENDS: [&str; 4] = ["\n", "\r\n", " \r\n", ""];

/// Letters of a code's random part: RFC 4648's base 32, in small letters.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// No PEM block.
    #[error(
        "that is no signature: paste all of it, from -----BEGIN SSH SIGNATURE----- to the END line"
    )]
    NotASignature,
    /// It came too late.
    #[error("the code was good for five minutes: ask for a new one (login)")]
    Expired,
    /// Made for another purpose.
    #[error("the signature is for another purpose: sign with the line shown, all of it (-n)")]
    Namespace,
    /// The key may not ask for this role.
    #[error("this key may look and change nothing here: type login viewer")]
    Role,
    /// The same of a technician's key that asks to look only.
    #[error("this key is a technician's, and no viewer's: type login")]
    Viewer,
    /// Nobody's key.
    #[error(
        "this key is not enrolled on this gateway: somebody who is adds it to \
         console.allowed_signers"
    )]
    Unknown,
    /// Its time is over.
    #[error("this key has been revoked")]
    Revoked,
    /// Its time has not come or is over.
    #[error("this key is not valid today (the gateway's clock may be wrong)")]
    NotValidNow,
    /// Not of this code.
    #[error("the signature is not of this code: sign the line shown last, all of it")]
    WrongCode,
}

impl LoginError {
    /// For the audit log.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotASignature => "not_a_signature",
            Self::Expired => "expired",
            Self::Namespace => "namespace",
            Self::Role | Self::Viewer => "role",
            Self::Unknown => "unknown_key",
            Self::Revoked => "revoked",
            Self::NotValidNow => "not_valid_now",
            Self::WrongCode => "wrong_code",
        }
    }
}

/// A code that waits for its answer.
#[derive(Debug)]
pub struct Challenge {
    code: String,
    expires: Mono,
    role: Role,
}

/// An action with a longer name is told by its digest: the row to paste has 80 columns.
const LONGEST_ACTION: usize = 24;

impl Challenge {
    /// For `action` on `gateway` in the rights of `role`; `random` was never used before.
    pub fn new(gateway: &str, action: &str, role: Role, random: [u8; 10], now: Mono) -> Self {
        let expires = now + EXPIRES;
        // The line is pasted into a shell.
        let plain = |text: &str| -> String {
            let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
            text.chars()
                .map(|c| if kept(c) { c } else { '_' })
                .collect()
        };
        let action = if action.len() <= LONGEST_ACTION {
            plain(action)
        } else {
            let verb = action.split('/').next().unwrap_or_default();
            let digest = Sha256::digest(action.as_bytes());
            let hex: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
            format!("{}/{hex}", plain(verb))
        };
        let bits = random
            .iter()
            .fold(0, |bits, byte| bits << 8 | u128::from(*byte));
        // 80 bits are 16 letters.
        let nonce: String = (0..16)
            .map(|i| char::from(LETTERS[(bits >> (5 * i) & 31) as usize]))
            .collect();
        let seconds = expires.as_nanos() / 1_000_000_000;
        Self {
            code: format!("{}:{action}:{nonce}:{seconds}", plain(gateway)),
            expires,
            role,
        }
    }

    /// What is to be pasted into the laptop's shell; KEY is the technician's. Two rows where one
    /// is too long: a shell reads on behind a bar.
    pub fn line(&self) -> String {
        let sign = format!("ssh-keygen -Y sign -n {} -f KEY", self.role.namespace());
        let one = format!("echo {} | {sign}", self.code);
        if one.chars().count() <= WIDTH {
            one
        } else {
            format!("echo {} |\r\n{sign}", self.code)
        }
    }

    /// The role that it asks for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The answer: who signed. The code is used up, whatever comes of it.
    ///
    /// # Errors
    /// Nobody is let in, and why.
    pub fn redeem<'s>(
        self,
        answer: &str,
        signers: &'s Signers,
        revoked: &Revoked,
        now: Mono,
        today: Moment,
    ) -> Result<&'s Signer, LoginError> {
        let pem = pem(answer).ok_or(LoginError::NotASignature)?;
        let signature = SshSig::from_pem(pem).map_err(|_| LoginError::NotASignature)?;
        if now > self.expires {
            return Err(LoginError::Expired);
        }
        let namespace = self.role.namespace();
        if signature.namespace() != namespace {
            return Err(LoginError::Namespace);
        }
        let is_theirs = |s: &&Signer| s.key.key_data() == signature.public_key();
        // One key may stand in several lines, of which one is valid.
        let of_key: Vec<&Signer> = signers.all.iter().filter(is_theirs).collect();
        let first = of_key.first().ok_or(LoginError::Unknown)?;
        if revoked.has(first) {
            return Err(LoginError::Revoked);
        }
        let is_valid = |s: &&&Signer| {
            s.valid_after.is_none_or(|t| today >= t) && s.valid_before.is_none_or(|t| today < t)
        };
        let mut valid = of_key.iter().filter(is_valid).peekable();
        valid.peek().ok_or(LoginError::NotValidNow)?;
        let signer = valid.find(|s| s.may(self.role)).ok_or(match self.role {
            Role::Technician => LoginError::Role,
            Role::Viewer => LoginError::Viewer,
        })?;
        let signed = ENDS.iter().any(|end| {
            let message = format!("{}{end}", self.code);
            let verified = signer.key.verify(namespace, message.as_bytes(), &signature);
            verified.is_ok()
        });
        if signed {
            Ok(signer)
        } else {
            Err(LoginError::WrongCode)
        }
    }
}

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";

/// Is the answer complete?
pub fn is_complete(answer: &str) -> bool {
    answer.contains(END)
}

/// The block as the decoder wants it, however a terminal broke its lines.
fn pem(answer: &str) -> Option<String> {
    let body = answer.split_once(BEGIN)?.1.split_once(END)?.0;
    let base64: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    if !base64.is_ascii() || base64.len() > ANSWER {
        return None;
    }
    let mut pem = format!("{BEGIN}\n");
    for row in base64.as_bytes().chunks(70) {
        pem.push_str(std::str::from_utf8(row).ok()?);
        pem.push('\n');
    }
    pem.push_str(END);
    pem.push('\n');
    Some(pem)
}

#[cfg(test)]
mod tests;
