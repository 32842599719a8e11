//! Logins with the key pairs and signatures of the machine's own OpenSSH.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// A key pair of the machine's own OpenSSH.
struct Laptop {
    home: tempfile::TempDir,
}

impl Laptop {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("temp dir");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(home.path().join("key"))
            .status()
            .expect("ssh-keygen; tests/install installs openssh-client");
        assert!(made.success());
        Self { home }
    }

    fn public(&self) -> String {
        let text = std::fs::read_to_string(self.home.path().join("key.pub"));
        text.expect("public key").trim().to_owned()
    }

    /// Runs the line that the console shows, in a shell.
    fn pasted(&self, line: &str) -> String {
        let key = self.home.path().join("key");
        let line = line.replace("KEY", &key.display().to_string());
        let line = line.replace('\r', "");
        let mut shell = Command::new("sh");
        let out = shell.arg("-c").arg(&line).output().expect("a shell");
        assert!(out.status.success(), "{line}: {out:?}");
        String::from_utf8(out.stdout).expect("text")
    }

    fn signed(&self, message: &[u8], namespace: &str) -> String {
        let key = self.home.path().join("key");
        let mut child = Command::new("ssh-keygen")
            .args(["-Y", "sign", "-n", namespace, "-f"])
            .arg(key)
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ssh-keygen");
        let mut stdin = child.stdin.take().expect("stdin");
        stdin.write_all(message).expect("write");
        drop(stdin);
        let out = child.wait_with_output().expect("signature");
        String::from_utf8(out.stdout).expect("text")
    }
}

const NOW: Mono = Mono::from_nanos(5_000_000_000);
const TODAY: Moment = 1_790_000_000;

fn challenge() -> Challenge {
    Challenge::new("plant-7", "login", Role::Technician, [7; 10], NOW)
}

fn asked(challenge: Challenge, answer: &str, file: &str) -> Result<String, LoginError> {
    let signers = Signers::read(file);
    let revoked = Revoked::default();
    let who = challenge.redeem(answer, &signers, &revoked, NOW, TODAY);
    who.map(|s| s.name.clone())
}

#[test]
fn the_line_pasted_into_a_shell_gives_an_answer_that_logs_in() {
    let laptop = Laptop::new();
    let file = format!("kim {}", laptop.public());
    let answer = laptop.pasted(&challenge().line());
    assert_eq!(asked(challenge(), &answer, &file), Ok("kim".to_owned()));
    // Lines broken elsewhere by a terminal, and what a shell prints around it.
    let broken = format!(
        "$ {}\r\n\r\n$ ",
        answer.replace('\n', "\r\n").replace('A', "\r\nA")
    );
    assert_eq!(
        asked(challenge(), &broken, &file),
        Err(LoginError::NotASignature)
    );
    let body = answer
        .split_once(BEGIN)
        .expect("begin")
        .1
        .split_once(END)
        .expect("end")
        .0;
    let broken = format!("$ x\r\n{BEGIN}\r\n{}{END}\r\n$", body.replace('A', "\r\nA"));
    assert_eq!(asked(challenge(), &broken, &file), Ok("kim".to_owned()));
}

#[test]
fn shells_that_end_a_line_otherwise_log_in_too() {
    let laptop = Laptop::new();
    let file = format!("kim {}", laptop.public());
    let code = challenge().code;
    for end in ENDS {
        let answer = laptop.signed(format!("{code}{end}").as_bytes(), "holdup");
        assert_eq!(asked(challenge(), &answer, &file), Ok("kim".to_owned()));
    }
}

#[test]
fn an_answer_is_good_for_its_code_alone() {
    let laptop = Laptop::new();
    let file = format!("kim {}", laptop.public());
    let answer = laptop.pasted(&challenge().line());
    for other in [
        Challenge::new("plant-7", "login", Role::Technician, [8; 10], NOW),
        Challenge::new("plant-8", "login", Role::Technician, [7; 10], NOW),
        Challenge::new("plant-7", "reboot", Role::Technician, [7; 10], NOW),
        Challenge::new(
            "plant-7",
            "login",
            Role::Technician,
            [7; 10],
            NOW + Duration::from_secs(1),
        ),
    ] {
        assert_eq!(asked(other, &answer, &file), Err(LoginError::WrongCode));
    }
}

#[test]
fn who_is_late_revoked_unknown_or_out_of_date_is_not_let_in() {
    let (laptop, stranger) = (Laptop::new(), Laptop::new());
    let file = format!("kim {}", laptop.public());
    let answer = laptop.pasted(&challenge().line());
    let signers = Signers::read(&file);
    let redeem = |revoked: &str, now| {
        let revoked = Revoked::read(revoked).expect("read");
        let who = challenge().redeem(&answer, &signers, &revoked, now, TODAY);
        who.map(|s| s.name.clone())
    };
    assert_eq!(redeem("", NOW + EXPIRES), Ok("kim".to_owned()));
    let late = NOW + EXPIRES + Duration::from_nanos(1);
    assert_eq!(redeem("", late), Err(LoginError::Expired));
    assert_eq!(redeem(&laptop.public(), NOW), Err(LoginError::Revoked));
    let other = stranger.pasted(&challenge().line());
    assert_eq!(asked(challenge(), &other, &file), Err(LoginError::Unknown));
    for (dates, let_in) in [
        ("valid-after=\"20260101\"", true),
        ("valid-before=\"20990101\"", true),
        ("valid-before=\"20260101\"", false),
        ("valid-after=\"20990101\"", false),
    ] {
        let file = format!("kim {dates} {}", laptop.public());
        assert_eq!(
            asked(challenge(), &answer, &file).is_ok(),
            let_in,
            "{dates}"
        );
    }
    let code = challenge().code;
    let other = laptop.signed(format!("{code}\n").as_bytes(), "file");
    assert_eq!(
        asked(challenge(), &other, &file),
        Err(LoginError::Namespace)
    );
}

#[test]
fn a_changed_or_cut_signature_lets_nobody_else_in() {
    let laptop = Laptop::new();
    let file = format!("kim {}", laptop.public());
    let answer = laptop.pasted(&challenge().line());
    for cut in (0..answer.len()).step_by(7) {
        assert!(
            asked(challenge(), &answer[..cut], &file).is_err(),
            "cut at {cut}"
        );
    }
    // The signature itself is the last 64 bytes: 86 characters, the first of which it shares. What
    // stands before them is not signed as it is written, and changes nothing about who signed.
    let body = (BEGIN.len() + 1)..answer.len() - END.len() - 2;
    for at in body.clone() {
        let mut bytes = answer.clone().into_bytes();
        if bytes[at] == b'\n' || bytes[at] == b'=' {
            continue;
        }
        bytes[at] = if bytes[at] == b'Q' { b'g' } else { b'Q' };
        let changed = String::from_utf8(bytes).expect("text");
        let who = asked(challenge(), &changed, &file);
        let in_signature = at + 85 > body.end;
        assert!(who.is_err() || !in_signature, "changed at {at}");
        assert!(
            who.is_err() || who == Ok("kim".to_owned()),
            "changed at {at}"
        );
    }
}

#[test]
fn a_gateway_s_name_cannot_bring_a_command_into_the_line() {
    let c = Challenge::new(
        "a; rm -rf $(x) `y` | z",
        "login",
        Role::Technician,
        [0; 10],
        NOW,
    );
    assert!(
        c.line()
            .starts_with("echo a__rm_-rf___x___y____z:login:aaaa"),
        "{}",
        c.line()
    );
}

#[test]
fn a_key_has_the_roles_of_its_namespaces_and_no_other() {
    let laptop = Laptop::new();
    let code = |role| Challenge::new("plant-7", "login", role, [7; 10], NOW);
    let tried = |role, file: &str| {
        let answer = laptop.pasted(&code(role).line());
        asked(code(role), &answer, file)
    };
    let key = laptop.public();
    let kim = Ok("kim".to_owned());
    for (options, technician, viewer) in [
        ("", kim.clone(), kim.clone()),
        (
            "namespaces=\"holdup-viewer\" ",
            Err(LoginError::Role),
            kim.clone(),
        ),
        (
            "namespaces=\"holdup\" ",
            kim.clone(),
            Err(LoginError::Viewer),
        ),
        (
            "namespaces=\"holdup,holdup-viewer\" ",
            kim.clone(),
            kim.clone(),
        ),
        (
            "namespaces=\"git\" ",
            Err(LoginError::Unknown),
            Err(LoginError::Unknown),
        ),
    ] {
        let file = format!("kim {options}{key}\n");
        assert_eq!(tried(Role::Technician, &file), technician, "{options}");
        assert_eq!(tried(Role::Viewer, &file), viewer, "{options}");
    }
    // A viewer's signature is none of a technician's, whatever the line says.
    let answer = laptop.pasted(&code(Role::Viewer).line());
    let file = format!("kim {key}");
    let who = asked(code(Role::Technician), &answer, &file);
    assert_eq!(who, Err(LoginError::Namespace));
}

#[test]
fn a_signature_for_one_action_does_no_other() {
    let laptop = Laptop::new();
    let file = format!("kim {}", laptop.public());
    let code = |action: &str| Challenge::new("plant-7", action, Role::Technician, [7; 10], NOW);
    let long = "restore/holdup-plant-7-20261121T031200.000Z-1a2b";
    for (signed, other) in [
        ("reset/data", "reset/everything"),
        ("login", "reset/data"),
        (long, "restore/holdup-plant-7-20261121T031200.000Z-1a2c"),
    ] {
        // Over two rows, as it is pasted where it is long.
        let answer = laptop.pasted(&code(signed).line());
        assert_eq!(asked(code(signed), &answer, &file), Ok("kim".to_owned()));
        assert_eq!(
            asked(code(other), &answer, &file),
            Err(LoginError::WrongCode),
            "{other}"
        );
    }
    let rows = code(long).line();
    assert!(rows.split("\r\n").all(|r| r.len() < 80), "{rows}");
}

#[test]
fn the_line_fits_a_row_where_the_name_is_short() {
    assert!(challenge().line().len() < 80, "{}", challenge().line());
}

#[test]
fn codes_differ_in_every_bit_of_what_is_random() {
    let base = challenge().code;
    for bit in 0..80 {
        let mut random = [7; 10];
        random[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(
            Challenge::new("plant-7", "login", Role::Technician, random, NOW).code,
            base,
            "bit {bit}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_logs_in_or_panics(text: String, inner: Vec<u8>) {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFsq0EOa7iLWdb9h3zCa++ToSzQJOR7FiKcfRl2fStAD";
        let file = format!("kim {key}");
        prop_assert!(asked(challenge(), &text, &file).is_err());
        let block = format!("{BEGIN}\n{}\n{END}\n", String::from_utf8_lossy(&inner));
        prop_assert!(asked(challenge(), &block, &file).is_err());
        let signers = Signers::read(&text);
        prop_assert!(signers.all.is_empty());
    }
}
