//! The technician's console: any bytes on the line, any list of keys, any answer to a code.
#![no_main]

use std::time::Duration;

use holdup::clock::Mono;
use holdup::console::login::passphrase::Passphrase;
use holdup::console::login::{Challenge, Proof, Revoked, Role, Signers, Who};
use holdup::console::{Begun, Host, Order, Purpose, Session, WIDTH};
use holdup_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

const MEMORY: usize = 8 << 20;
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFsq0EOa7iLWdb9h3zCa++ToSzQJOR7FiKcfRl2fStAD";

fuzz_target!(|bytes: &[u8]| {
    let Some((options, rest)) = bytes.split_first() else {
        return;
    };
    bounded(MEMORY, || {
        if options & 1 == 0 {
            typed(rest, usize::from(options >> 1) + 1);
        } else {
            read(&String::from_utf8_lossy(rest));
        }
    });
});

/// A gateway whose only key nobody here has.
struct Gateway {
    signers: Signers,
    begun: Vec<String>,
    codes: u8,
}

impl Host for Gateway {
    fn gateway(&self) -> &str {
        "plant-7"
    }

    fn look(&mut self) -> Vec<String> {
        vec!["it serves".to_owned()]
    }

    fn is_unclaimed(&mut self) -> Result<bool, String> {
        Ok(false)
    }

    fn random(&mut self) -> Result<[u8; 10], String> {
        self.codes = self.codes.wrapping_add(1);
        Ok([self.codes; 10])
    }

    fn has_passphrase(&mut self) -> bool {
        true
    }

    fn is_lab(&self) -> bool {
        false
    }

    fn redeem(
        &mut self,
        challenge: Challenge,
        answer: &str,
        _: Purpose<'_>,
    ) -> Result<Who, String> {
        let none = Revoked::default();
        let role = challenge.role();
        let who = challenge.redeem(answer, &self.signers, &none, Mono::from_nanos(1), 0);
        let who = who.map(|s| Who {
            name: s.name.clone(),
            role,
            proof: Proof::Key,
        });
        who.map_err(|e| e.to_string())
    }

    fn passphrase(&mut self, _: &str, _: &str, _: Purpose<'_>) -> Result<Who, String> {
        Err("that is not the passphrase".to_owned())
    }

    fn lab(&mut self) -> Who {
        panic!("this is no laboratory");
    }

    fn claim(&mut self, _: &str) -> Result<String, String> {
        panic!("it is claimed already");
    }

    fn begin(&mut self, order: &Order, _: &str, _: &str) -> Result<Begun, String> {
        self.begun.push(order.action());
        Ok(Begun::Prints)
    }

    fn stop(&mut self) {}

    fn left(&mut self, technician: &str, _: &'static str) {
        panic!("{technician} was never logged in");
    }
}

/// Whatever is typed: nobody is let in, nothing is begun, no row is too long, and the next Enter
/// wakes the console.
fn typed(bytes: &[u8], portion: usize) {
    let mut gateway = Gateway {
        signers: Signers::read(&format!("kim {KEY}")),
        begun: Vec::new(),
        codes: 0,
    };
    let mut now = Mono::from_nanos(1_000_000_000);
    let mut out = Vec::new();
    let mut session = Session::new(now, false, &mut out);
    for chunk in bytes.chunks(portion) {
        session.bytes(chunk, now, &mut gateway, &mut out);
        now = now + Duration::from_millis(3);
        if session.deadline() <= now {
            session.timeout(now, &mut gateway, &mut out);
        }
        assert!(
            out.len() < 1 << 16,
            "{} bytes for {}",
            out.len(),
            chunk.len()
        );
        out.clear();
        assert_eq!(session.technician(), None);
    }
    assert!(gateway.begun.is_empty(), "{:?}", gateway.begun);
    session.bytes(b"\x1b\x1b\x03\rhelp\r", now, &mut gateway, &mut out);
    now = now + Duration::from_secs(1);
    session.timeout(now, &mut gateway, &mut out);
    assert!(session.is_awake());
    for row in String::from_utf8_lossy(&out).split(['\r', '\n']) {
        assert!(columns(row) <= WIDTH, "{row:?}");
    }
}

/// Characters of a row without the sequences that move the cursor.
fn columns(row: &str) -> usize {
    let mut pieces = row.split("\x1b[");
    let first = pieces.next().map_or(0, |p| p.chars().count());
    let rest = pieces.map(|p| {
        let sequence = p
            .find(|c: char| c.is_ascii_alphabetic())
            .map_or(0, |i| i + 1);
        p[sequence..].chars().count()
    });
    first + rest.sum::<usize>()
}

/// Any text as a list of keys, as revoked ones, and as an answer.
fn read(text: &str) {
    let signers = Signers::read(text);
    let lines = text.lines().count();
    assert!(signers.all.len() + signers.unusable.len() <= lines);
    for signer in &signers.all {
        assert!(signer.fingerprint().starts_with("SHA256:") && !signer.name.is_empty());
    }
    if let Ok(revoked) = Revoked::read(text) {
        let kim = Signers::read(&format!("kim {KEY}"));
        let fingerprint = kim.all[0].fingerprint();
        let named = text.contains(&fingerprint) || text.contains("AAAAC3NzaC1lZDI1NTE5");
        assert!(named || !revoked.has(&kim.all[0]));
    }
    Passphrase::read(text).ok();
    let known = Signers::read(&format!("kim {KEY}"));
    let challenge = Challenge::new(
        "plant-7",
        "login",
        Role::Technician,
        [1; 10],
        Mono::from_nanos(1),
    );
    let none = Revoked::default();
    let now = Mono::from_nanos(2);
    assert!(challenge.redeem(text, &known, &none, now, 0).is_err());
}
