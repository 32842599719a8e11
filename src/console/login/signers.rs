//! Whose signatures count: a file in OpenSSH's `allowed_signers` form, and a list of revoked keys.
//!
//! It promises that a line which is not understood lets nobody in and is named, and that a file
//! with nothing but such lines is not a file without keys. Only Ed25519 keys count, and only in
//! the namespaces of a [`Role`]: a line without `namespaces` lists a technician.
//!
//! Source: ssh-keygen(1), ALLOWED SIGNERS.

use std::fmt;

use ssh_key::{Algorithm, HashAlg, PublicKey};

use super::Role;
use super::dates::{Moment, moment};

/// A technician's key.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The technician's name (the first principal of the line).
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// It counts from then on.
    pub valid_after: Option<Moment>,
    /// And until then.
    pub valid_before: Option<Moment>,
    /// What its key may ask for; none: everything.
    roles: Option<Vec<Role>>,
}

impl Signer {
    /// May it have this role?
    pub fn may(&self, role: Role) -> bool {
        self.roles.as_ref().is_none_or(|all| all.contains(&role))
    }

    /// `SHA256:...`, as ssh-keygen prints it.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }
}

/// A line that lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

/// Everybody who may sign.
#[derive(Debug, Default)]
pub struct Signers {
    /// The keys that count.
    pub all: Vec<Signer>,
    /// The lines that do not.
    pub unusable: Vec<Unusable>,
}

impl Signers {
    /// Reads a file's text.
    pub fn read(text: &str) -> Self {
        let mut signers = Self::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match signer(line) {
                Ok(Some(signer)) => signers.all.push(signer),
                // For another namespace: somebody else's business.
                Ok(None) => {}
                Err(why) => signers.unusable.push(Unusable { line: i + 1, why }),
            }
        }
        signers
    }

    /// Is there no line that could ever have been a technician's? Only then is a gateway unclaimed.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.unusable.is_empty()
    }
}

/// Keys and fingerprints that no longer count, one a line.
#[derive(Debug, Default)]
pub struct Revoked {
    fingerprints: Vec<String>,
}

impl Revoked {
    /// Reads a file's text: public keys or `SHA256:...` fingerprints.
    ///
    /// # Errors
    /// A line is neither: then nobody knows whom it was to keep out.
    pub fn read(text: &str) -> Result<Self, Unusable> {
        let mut fingerprints = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let first = line.split_ascii_whitespace().next().unwrap_or_default();
            let fingerprint = match PublicKey::from_openssh(line) {
                Ok(key) => key.fingerprint(HashAlg::Sha256).to_string(),
                Err(_) if first.parse::<ssh_key::Fingerprint>().is_ok() => first.to_owned(),
                Err(_) => {
                    let why = "neither a public key nor a fingerprint (SHA256:...)";
                    return Err(Unusable { line: i + 1, why });
                }
            };
            fingerprints.push(fingerprint);
        }
        Ok(Self { fingerprints })
    }

    /// Does this key no longer count?
    pub fn has(&self, signer: &Signer) -> bool {
        self.fingerprints.contains(&signer.fingerprint())
    }
}

fn signer(line: &str) -> Result<Option<Signer>, &'static str> {
    let (principals, rest) = word(line).ok_or("no principals")?;
    let name = principals.split(',').next().unwrap_or_default();
    if name.is_empty() || name.starts_with('!') || name.contains(['*', '?']) {
        return Err("the first principal is the technician's name: no pattern");
    }
    if name.len() > 64 || name.chars().any(char::is_control) {
        return Err("the technician's name has more than 64 bytes");
    }
    // Options stand between principals and key, where there are any.
    let (options, key) = match PublicKey::from_openssh(rest) {
        Ok(key) => ("", key),
        Err(_) => {
            let (options, key) = word(rest).ok_or("no key")?;
            let key = PublicKey::from_openssh(key).map_err(|_| "the key is not understood")?;
            (options, key)
        }
    };
    let mut signer = Signer {
        name: name.to_owned(),
        key,
        valid_after: None,
        valid_before: None,
        roles: None,
    };
    for option in split(options) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let value = value.trim_matches('"');
        match key.to_ascii_lowercase().as_str() {
            "namespaces" => {
                let ours = [Role::Viewer, Role::Technician].into_iter();
                let roles: Vec<Role> = ours
                    .filter(|r| value.split(',').any(|n| n.trim() == r.namespace()))
                    .collect();
                if roles.is_empty() {
                    return Ok(None);
                }
                signer.roles = Some(roles);
            }
            "valid-after" => signer.valid_after = Some(date(value)?),
            "valid-before" => signer.valid_before = Some(date(value)?),
            "cert-authority" => return Err("certificates are not supported: list the key itself"),
            _ => return Err("an option is not known"),
        }
    }
    if signer.key.algorithm() != Algorithm::Ed25519 {
        return Err("only ssh-ed25519 keys: ssh-keygen -t ed25519");
    }
    Ok(Some(signer))
}

fn date(value: &str) -> Result<Moment, &'static str> {
    moment(value).ok_or("a date is YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with Z for UTC")
}

/// The first word and the rest; quotes hold blanks together.
fn word(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let end = text.find(|c: char| {
        quoted ^= c == '"';
        c.is_ascii_whitespace() && !quoted
    })?;
    Some((&text[..end], text[end..].trim_start()))
}

/// Options at the commas outside of quotes.
fn split(options: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    options
        .split(move |c: char| {
            quoted ^= c == '"';
            c == ',' && !quoted
        })
        .filter(|o| !o.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFsq0EOa7iLWdb9h3zCa++ToSzQJOR7FiKcfRl2fStAD";

    #[test]
    fn names_options_and_comments_are_read() {
        let s = Signers::read(&format!(
            "# technicians\n\n\
             meyer@example.org {KEY} laptop of T. Meyer\n\
             kim,kim@site namespaces=\"file,holdup\",valid-after=\"20260101\",valid-before=\"20270101Z\" {KEY}\n\
             git@example.org namespaces=\"git\" {KEY}\n"
        ));
        assert_eq!(s.unusable, []);
        let names: Vec<_> = s.all.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["meyer@example.org", "kim"]);
        assert!(s.all[1].valid_after.is_some() && s.all[1].valid_before.is_some());
        assert!(s.all[0].fingerprint().starts_with("SHA256:"));
    }

    #[test]
    fn a_line_that_is_not_understood_lets_nobody_in_and_is_no_empty_file() {
        for (line, why) in [
            (format!("* {KEY}"), "no pattern"),
            (format!("!kim {KEY}"), "no pattern"),
            (format!("kim cert-authority {KEY}"), "certificates"),
            (format!("kim valid-before=\"soon\" {KEY}"), "a date is"),
            (format!("kim color=\"blue\" {KEY}"), "option"),
            ("kim ssh-ed25519 AAAA".to_owned(), "key"),
            ("kim".to_owned(), "no"),
        ] {
            let s = Signers::read(&line);
            assert!(s.all.is_empty(), "{line}");
            assert!(!s.is_empty(), "{line}");
            assert!(s.unusable[0].why.contains(why), "{line}: {}", s.unusable[0]);
        }
        assert!(Signers::read("# nobody yet\n\n").is_empty());
    }

    #[test]
    fn a_revoked_key_is_known_by_itself_or_by_its_fingerprint() {
        let s = Signers::read(&format!("kim {KEY}"));
        let kim = &s.all[0];
        assert!(!Revoked::read("# none").expect("read").has(kim));
        assert!(Revoked::read(KEY).expect("read").has(kim));
        assert!(Revoked::read(&kim.fingerprint()).expect("read").has(kim));
        assert_eq!(Revoked::read("\nkim").expect_err("refused").line, 2);
    }
}
