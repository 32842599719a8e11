//! A gateway's passphrase, for sites without keys: kept as an argon2id hash in PHC's form.
//!
//! It promises that a guess costs one whole hash however much of it is right, and that a file which
//! asks for more memory or time than a gateway has is refused instead of obeyed.
//!
//! Source: RFC 9106; the PHC string format.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};

/// Characters of a passphrase at least.
pub const SHORTEST: usize = 12;

/// Bytes of one at most: a line.
pub const LONGEST: usize = super::super::editor::LINE;

/// Bytes of the file at most.
pub const FILE: u64 = 512;

/// KiB, passes and lanes that a file may ask for at most.
const MOST: (u32, u32, u32) = (64 << 10, 16, 4);

/// Why a file is no passphrase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHash {
    /// Not a hash at all.
    #[error("it is no argon2id hash: make it with `holdup console --new-passphrase`")]
    Form,
    /// A hash nobody can afford.
    #[error("its hash wants more than 64 MiB, 16 passes or 4 lanes")]
    Cost,
    /// Too short.
    #[error("a passphrase has at least 12 characters and at most 256 bytes")]
    Length,
}

/// What a file keeps of a passphrase.
#[derive(Debug)]
pub struct Passphrase(PasswordHash);

impl Passphrase {
    /// Reads a file's text.
    ///
    /// # Errors
    /// It is none.
    pub fn read(text: &str) -> Result<Self, BadHash> {
        let hash = PasswordHash::new(text.trim()).map_err(|_| BadHash::Form)?;
        let salted = hash.salt.is_some() && hash.hash.is_some();
        if hash.algorithm != Algorithm::Argon2id.ident() || !salted {
            return Err(BadHash::Form);
        }
        let p = Params::try_from(&hash).map_err(|_| BadHash::Form)?;
        if p.m_cost() > MOST.0 || p.t_cost() > MOST.1 || p.p_cost() > MOST.2 {
            return Err(BadHash::Cost);
        }
        Ok(Self(hash))
    }

    /// Is it this one? The comparison looks at all of both hashes.
    pub fn is(&self, guess: &[u8]) -> bool {
        Argon2::default().verify_password(guess, &self.0).is_ok()
    }
}

/// The text of a file for `secret`; `salt` was never used before. 19 MiB and two passes (OWASP).
///
/// # Errors
/// It is too short or too long.
pub fn made(secret: &str, salt: [u8; 16]) -> Result<String, BadHash> {
    if secret.chars().count() < SHORTEST || secret.len() > LONGEST {
        return Err(BadHash::Length);
    }
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
    let hash = argon.hash_password_with_salt(secret.as_bytes(), &salt);
    hash.map(|h| format!("{h}\n")).map_err(|_| BadHash::Form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_right_one_opens_and_nothing_like_it_does() {
        let text = made("correct horse battery", [7; 16]).expect("made");
        assert!(
            text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{text}"
        );
        let p = Passphrase::read(&text).expect("read");
        assert!(p.is(b"correct horse battery"));
        for no in [
            "",
            "correct horse batterz",
            "correct horse battery ",
            "Correct horse battery",
        ] {
            assert!(!p.is(no.as_bytes()), "{no}");
        }
        assert_eq!(made("short", [7; 16]), Err(BadHash::Length));
        assert_eq!(made(&"x".repeat(300), [7; 16]), Err(BadHash::Length));
    }

    #[test]
    fn a_file_that_asks_for_too_much_is_refused_and_not_obeyed() {
        let good = made("correct horse battery", [7; 16]).expect("made");
        for (from, to, why) in [
            ("m=19456", "m=4194304", BadHash::Cost),
            ("t=2", "t=1000000", BadHash::Cost),
            ("argon2id", "argon2d", BadHash::Form),
            ("argon2id", "scrypt", BadHash::Form),
            ("$argon2id", "plain text", BadHash::Form),
        ] {
            let bad = good.replace(from, to);
            assert_eq!(Passphrase::read(&bad).expect_err("refused"), why, "{bad}");
        }
        assert!(Passphrase::read("").is_err());
        assert!(Passphrase::read("$argon2id$v=19$m=19456,t=2,p=1$").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String) {
            Passphrase::read(&text).ok();
            Passphrase::read(&format!("$argon2id$v=19$m={text}")).ok();
        }
    }
}
