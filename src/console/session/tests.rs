//! Sessions on a gateway that does nothing and remembers everything.

use super::super::editor::WIDTH;
use super::super::login::Proof;
use super::*;

/// A gateway that does nothing and remembers everything.
#[derive(Default)]
struct World {
    unclaimed: bool,
    done: Vec<String>,
    codes: Vec<String>,
    random: u8,
    refuse: bool,
    has_passphrase: bool,
    lab: bool,
    file: Option<Vec<u8>>,
}

fn who(name: &str, role: Role, proof: Proof) -> Who {
    Who {
        name: name.to_owned(),
        role,
        proof,
    }
}

#[derive(Debug)]
struct File(Vec<u8>);

impl Source for File {
    fn name(&self) -> &str {
        "receipt.json"
    }

    fn size(&self) -> u32 {
        self.0.len() as u32
    }

    fn read(&mut self, offset: u32, piece: &mut [u8]) -> std::io::Result<usize> {
        let from = &self.0[offset as usize..];
        let n = from.len().min(piece.len());
        piece[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }
}

impl Host for World {
    fn gateway(&self) -> &str {
        "plant-7"
    }

    fn look(&mut self) -> Vec<String> {
        vec!["This gateway serves.".to_owned()]
    }

    fn is_unclaimed(&mut self) -> Result<bool, String> {
        Ok(self.unclaimed)
    }

    fn random(&mut self) -> Result<[u8; 10], String> {
        self.random += 1;
        Ok([self.random; 10])
    }

    fn has_passphrase(&mut self) -> bool {
        self.has_passphrase
    }

    fn is_lab(&self) -> bool {
        self.lab
    }

    fn redeem(
        &mut self,
        challenge: Challenge,
        answer: &str,
        purpose: Purpose<'_>,
    ) -> Result<Who, String> {
        self.codes.push(challenge.line());
        let what = match purpose {
            Purpose::LogIn => "login".to_owned(),
            Purpose::Act(order) => format!("sign {}", order.action()),
        };
        let name = if answer.contains("LEE") { "lee" } else { "kim" };
        if answer.contains("GOOD") {
            self.done.push(format!("{what} {name}"));
            Ok(who(name, challenge.role(), Proof::Key))
        } else {
            self.done.push(format!("{what} refused"));
            Err("the signature is not of this code".to_owned())
        }
    }

    fn passphrase(&mut self, guess: &str, name: &str, purpose: Purpose<'_>) -> Result<Who, String> {
        let for_act = matches!(purpose, Purpose::Act(_));
        self.done
            .push(format!("guess of {name}, for an action: {for_act}"));
        if guess == "open sesame now" {
            Ok(who(name, Role::Technician, Proof::Passphrase))
        } else {
            Err("that is not the passphrase".to_owned())
        }
    }

    fn lab(&mut self) -> Who {
        who("lab", Role::Technician, Proof::Lab)
    }

    fn claim(&mut self, key: &str) -> Result<String, String> {
        self.done.push(format!("claim {key}"));
        self.unclaimed = false;
        Ok("SHA256:abc".to_owned())
    }

    fn begin(&mut self, order: &Order, secret: &str, technician: &str) -> Result<Begun, String> {
        if self.refuse {
            return Err("the audit log cannot be written".to_owned());
        }
        let line = format!("{technician}: {} {}", order.command.name, order.args);
        self.done
            .push(format!("{} {secret}", line.trim()).trim().to_owned());
        Ok(match (order.command.does, self.file.take()) {
            (Does::Send, Some(file)) => Begun::Sends(Box::new(File(file))),
            _ => Begun::Prints,
        })
    }

    fn stop(&mut self) {
        self.done.push("stop".to_owned());
    }

    fn left(&mut self, technician: &str, why: &'static str) {
        self.done.push(format!("{technician} left: {why}"));
    }
}

struct Desk {
    world: World,
    session: Session,
    now: Mono,
    out: Vec<u8>,
}

const GOOD: &str = "-----BEGIN SSH SIGNATURE-----\nGOOD\n-----END SSH SIGNATURE-----\n";
const BAD: &str = "-----BEGIN SSH SIGNATURE-----\nBAD\n-----END SSH SIGNATURE-----\n";

impl Desk {
    fn new() -> Self {
        let now = Mono::from_nanos(1_000_000_000);
        let mut out = Vec::new();
        Self {
            world: World::default(),
            session: Session::new(now, false, &mut out),
            now,
            out,
        }
    }

    fn lab() -> Self {
        let mut d = Self::new();
        d.world.lab = true;
        d.session = Session::new(d.now, true, &mut d.out);
        d
    }

    fn logged_in() -> Self {
        let mut d = Self::new();
        d.types("\r");
        d.types("login\r");
        d.types(GOOD);
        assert_eq!(d.session.technician(), Some("kim"));
        d.world.done.clear();
        d.out.clear();
        d
    }

    fn types(&mut self, text: &str) {
        self.session
            .bytes(text.as_bytes(), self.now, &mut self.world, &mut self.out);
    }

    fn prints(&mut self, text: &str) -> usize {
        let n = self.session.room().min(text.len());
        self.session.printed(&text.as_bytes()[..n], &mut self.out);
        n
    }

    fn ends(&mut self) {
        self.session
            .ended(String::new(), &self.world, &mut self.out);
    }

    fn waits(&mut self, time: Duration) {
        let end = self.now + time;
        while self.session.deadline() <= end {
            self.now = self.session.deadline().max(self.now);
            self.session
                .timeout(self.now, &mut self.world, &mut self.out);
        }
        self.now = end;
    }

    fn shown(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).expect("text")
    }
}

/// How a command is typed.
fn typed(c: &Command) -> &'static str {
    let example = if c.example.is_empty() {
        c.name
    } else {
        c.example
    };
    example.split(" (").next().unwrap_or_default()
}

#[test]
fn one_screen_is_all_that_is_told_before_login() {
    let mut d = Desk::new();
    assert!(
        d.shown()
            .contains("Please press Enter to activate this console.")
    );
    d.types("status");
    assert_eq!(d.shown(), "", "nothing is echoed before Enter");
    d.types("\r");
    let screen = d.shown();
    assert!(screen.contains("This gateway serves."), "{screen}");
    for c in commands::COMMANDS
        .iter()
        .filter(|c| c.needs != Needs::Nobody)
    {
        d.types(&format!("{}\r", typed(c)));
        assert!(d.shown().contains("needs a technician"), "{}", c.name);
    }
    assert_eq!(d.world.done, Vec::<String>::new());
}

#[test]
fn a_long_error_is_broken_at_words_and_never_wraps() {
    let mut out = Vec::new();
    say_plainly(
        "Not logged in:",
        &"paste all of it, from ".repeat(9),
        &mut out,
    );
    say_plainly("", &"x".repeat(200), &mut out);
    let text = String::from_utf8(out).expect("text");
    assert!(text.lines().all(|l| l.chars().count() <= WIDTH), "{text}");
    assert_eq!(text.matches("paste").count(), 9);
    assert_eq!(text.matches('x').count(), 200);
}

#[test]
fn a_code_is_good_for_one_answer() {
    let mut d = Desk::new();
    d.types("\rlogin\r");
    let asked = d.shown();
    d.types(BAD);
    assert_eq!(d.session.technician(), None);
    assert!(d.shown().contains("Not logged in"));
    // The right answer to it comes too late: nobody waits for it.
    d.types(GOOD);
    assert_eq!(d.session.technician(), None);
    assert_eq!(d.world.codes.len(), 1, "it was looked at once");
    d.out.clear();
    // And the next one has its own code.
    d.types("login\r");
    let again = d.shown();
    let code = |text: &str| {
        text.lines()
            .find(|l| l.contains("echo "))
            .map(str::to_owned)
    };
    assert!(code(&asked).is_some());
    assert_ne!(code(&asked), code(&again));
    d.types(GOOD);
    assert_eq!(d.session.technician(), Some("kim"));
    assert_eq!(d.world.codes.len(), 2);
    assert_ne!(d.world.codes[0], d.world.codes[1]);
}

#[test]
fn a_pasted_answer_is_taken_line_by_line_also_in_brackets() {
    let mut d = Desk::new();
    d.types("\rlogin\r\x1b[200~");
    d.types(&GOOD.replace('\n', "\r"));
    d.types("\x1b[201~");
    assert_eq!(d.session.technician(), Some("kim"));
}

#[test]
fn an_answer_without_end_is_given_up() {
    let mut d = Desk::new();
    d.types("\rlogin\r");
    for _ in 0..200 {
        d.types("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r");
    }
    assert_eq!(d.session.technician(), None);
    assert!(d.shown().contains("Not logged in"));
}

#[test]
fn every_command_is_begun_under_the_technicians_name() {
    let mut d = Desk::logged_in();
    d.types("status\r");
    assert_eq!(d.world.done, ["kim: status"]);
    d.prints("supply Good\n");
    d.ends();
    let text = d.shown();
    assert!(text.contains("supply Good\r\n"), "{text}");
    assert!(text.ends_with("plant-7# \x1b[K"), "{text:?}");
}

#[test]
fn a_command_that_is_not_audited_is_not_run() {
    let mut d = Desk::logged_in();
    d.world.refuse = true;
    d.types("status\r");
    assert!(d.shown().contains("audit log"));
    assert_eq!(d.session.room(), 0);
}

#[test]
fn output_waits_for_its_reader_page_by_page() {
    let mut d = Desk::logged_in();
    d.types("log\r");
    let long: String = (0..60).map(|i| format!("row {i}\n")).collect();
    let mut rest = long.as_str();
    let mut pages = 0;
    while !rest.is_empty() {
        let n = d.prints(rest);
        rest = &rest[n..];
        if n == 0 {
            pages += 1;
            d.types(" ");
        }
    }
    d.ends();
    while d.session.room() == 0 && !d.shown().contains("plant-7# ") {
        pages += 1;
        d.types(" ");
    }
    assert!(pages >= 2, "{pages}");
    // And can be given up.
    d.types("log\r");
    d.prints(&long);
    d.types("q");
    assert!(d.world.done.ends_with(&["stop".to_owned()]));
    assert!(d.shown().ends_with("plant-7# \x1b[K"));
}

#[test]
fn the_list_of_commands_waits_page_by_page_too() {
    let mut d = Desk::logged_in();
    d.types("help\r");
    let first = d.shown();
    assert!(first.ends_with("-- Space: more, q: stop --"), "{first}");
    assert!(first.lines().count() <= 24);
    d.types(" ");
    let second = d.shown();
    assert!(second.contains("logout"), "{second}");
    assert!(second.ends_with("plant-7# \x1b[K"), "{second:?}");
    for c in commands::COMMANDS {
        assert!(
            first.contains(c.about) || second.contains(c.about),
            "{}",
            c.name
        );
    }
    d.types("help reset\r");
    let one = d.shown();
    assert!(one.contains("for example: reset data"), "{one}");
    assert!(one.lines().all(|l| l.chars().count() <= 79), "{one}");
    d.types("help nonsense\r");
    assert!(d.shown().contains("No such command"));
}

#[test]
fn what_is_destructive_wants_the_name_typed_and_can_be_stopped_by_any_key() {
    let mut d = Desk::logged_in();
    d.types("reboot\r");
    assert!(d.shown().contains("type the gateway's name: plant-7"));
    d.types("y\r");
    assert!(d.shown().contains("Nothing was done"));
    d.waits(Duration::from_secs(30));
    assert_eq!(d.world.done, Vec::<String>::new());

    d.types("reboot\rplant-7\r");
    d.waits(Duration::from_secs(5));
    d.types("x");
    assert!(d.shown().contains("Stopped. Nothing was done."));
    d.waits(Duration::from_secs(30));
    assert_eq!(d.world.done, Vec::<String>::new());

    d.types("reboot\rplant-7\r");
    d.waits(Duration::from_secs(9));
    assert_eq!(d.world.done, Vec::<String>::new());
    d.waits(Duration::from_secs(2));
    assert_eq!(d.world.done, ["kim: reboot"]);
}

const RESET: &str = "reset data\rplant-7\r";

#[test]
fn what_erases_wants_the_name_typed_and_a_fresh_signature_of_this_very_action() {
    let mut d = Desk::logged_in();
    d.types("reset data\r");
    let text = d.shown();
    assert!(
        text.contains("ERASED for good") && text.contains("is kept"),
        "{text}"
    );
    assert!(!text.contains("ssh-keygen"), "first the name: {text}");
    d.types("plant-8\r");
    assert!(d.shown().contains("Nothing was done"));
    d.types(RESET);
    let text = d.shown();
    assert!(
        text.contains(":reset/data:") && text.contains("ssh-keygen"),
        "{text}"
    );
    assert!(
        text.split("\r\n").all(|l| l.chars().count() <= 90),
        "{text}"
    );
    d.waits(Duration::from_secs(60));
    assert_eq!(
        d.world.done,
        Vec::<String>::new(),
        "no countdown before the signature"
    );
    d.types(GOOD);
    d.waits(Duration::from_secs(5));
    assert_eq!(
        d.world.done,
        ["sign reset/data kim"],
        "the countdown goes on"
    );
    d.waits(Duration::from_secs(6));
    assert_eq!(d.world.done, ["sign reset/data kim", "kim: reset data"]);
}

#[test]
fn a_wrong_signature_somebody_elses_and_a_second_use_of_one_erase_nothing() {
    for answer in [BAD, &GOOD.replace("GOOD", "GOOD LEE")] {
        let mut d = Desk::logged_in();
        d.types(RESET);
        d.types(answer);
        assert!(d.shown().contains("Nothing was done"), "{answer}");
        // Once more the right one: it is not waited for.
        d.types(GOOD);
        d.waits(Duration::from_secs(30));
        assert!(
            !d.world.done.iter().any(|l| l.contains("kim: reset")),
            "{:?}",
            d.world.done
        );
    }
    let mut d = Desk::logged_in();
    d.types(RESET);
    d.types(GOOD);
    d.types("x");
    assert!(d.shown().contains("Stopped. Nothing was done."));
    d.types(RESET);
    d.types(GOOD);
    let codes = &d.world.codes;
    assert_ne!(codes[codes.len() - 2], codes[codes.len() - 1]);
}

#[test]
fn the_end_of_a_paste_does_not_stop_the_countdown() {
    let mut d = Desk::logged_in();
    d.types(RESET);
    d.types(&GOOD.replace('\n', "\r"));
    d.types("\r\r");
    d.waits(Duration::from_secs(11));
    assert!(
        d.world.done.contains(&"kim: reset data".to_owned()),
        "{:?}",
        d.world.done
    );
}

#[test]
fn a_viewer_looks_and_changes_nothing() {
    let mut d = Desk::new();
    d.types("\rlogin viewer\r");
    assert!(d.shown().contains("-n holdup-viewer -f KEY"));
    d.types(GOOD);
    assert_eq!(d.session.technician(), Some("kim"));
    d.world.done.clear();
    for c in commands::COMMANDS {
        if matches!(c.needs, Needs::Nobody | Needs::Login) {
            continue;
        }
        d.out.clear();
        d.types(&format!("{}\r", typed(c)));
        assert!(d.shown().contains("You may look"), "{}", c.name);
    }
    assert_eq!(d.world.done, Vec::<String>::new());
    d.types("status\r");
    assert_eq!(d.world.done, ["kim: status"]);
}

#[test]
fn a_passphrase_is_not_shown_and_asked_again_for_what_erases() {
    let mut d = Desk::new();
    d.world.has_passphrase = true;
    d.types("\rlogin passphrase\rkim\ropen sesame now\r");
    let text = d.shown();
    assert!(!text.contains("sesame"), "{text}");
    assert_eq!(d.session.technician(), Some("kim"));
    d.types("\x1b[A\x1b[A");
    assert!(!d.shown().contains("sesame"), "nor kept");
    d.types("\x03");
    d.types(RESET);
    d.types("wrong guess\r");
    assert!(d.shown().contains("Nothing was done"));
    d.types(RESET);
    d.types("open sesame now\r");
    d.waits(Duration::from_secs(12));
    assert_eq!(
        d.world.done,
        [
            "guess of kim, for an action: false",
            "guess of kim, for an action: true",
            "guess of kim, for an action: true",
            "kim: reset data"
        ]
    );
    let mut d = Desk::new();
    d.types("\rlogin passphrase\r");
    assert!(d.shown().contains("has no passphrase"));
}

#[test]
fn nobody_claims_a_gateway_that_has_a_passphrase_without_it() {
    let mut d = Desk::new();
    d.world.unclaimed = true;
    d.world.has_passphrase = true;
    d.types("\rclaim\r");
    assert!(d.shown().contains("has a passphrase"));
    d.types("ssh-ed25519 AAAA kim\r");
    assert_eq!(d.world.done, Vec::<String>::new());
}

#[test]
fn a_lab_says_so_on_every_screen() {
    let mut d = Desk::lab();
    for typed in ["", "\r", "look\r"] {
        d.types(typed);
        assert!(d.shown().contains("LAB MODE: ANYBODY"), "{typed}");
    }
    d.types("login\r");
    let text = d.shown();
    assert!(
        text.contains("LAB MODE") && text.contains("plant-7 LAB# "),
        "{text}"
    );
    d.types("reset data\rplant-7\r");
    d.waits(Duration::from_secs(12));
    assert_eq!(d.world.done, ["lab: reset data"]);
    d.types("\x03");
    d.types("logout\r");
    assert!(d.shown().contains("LAB MODE"));
    let mut d = Desk::new();
    d.types("\rlogin\r");
    assert!(!d.shown().contains("LAB"));
    assert_eq!(d.session.technician(), None);
}

#[test]
fn the_key_of_a_backup_is_asked_for_in_secret_where_no_stick_has_it() {
    let mut d = Desk::logged_in();
    d.types("restore b1\rplant-7\rAGE-SECRET-KEY-1XYZ\r");
    let text = d.shown();
    assert!(!text.contains("1XYZ"), "{text}");
    d.types(GOOD);
    d.waits(Duration::from_secs(12));
    assert_eq!(
        d.world.done.last().map(String::as_str),
        Some("kim: restore b1 AGE-SECRET-KEY-1XYZ")
    );
    d.types("\x03");
    d.types("status\r");
    assert_eq!(
        d.world.done.last().map(String::as_str),
        Some("kim: status"),
        "it is not kept"
    );
}

#[test]
fn a_file_is_sent_and_the_prompt_comes_back() {
    let mut d = Desk::logged_in();
    d.world.file = Some(b"all is well".to_vec());
    d.types("send receipts/receipt.json\r");
    d.waits(Duration::from_secs(1));
    let text = String::from_utf8_lossy(&d.out).into_owned();
    assert!(text.contains("**\u{18}B00"), "{text:?}");
    d.types("\x03");
    d.waits(Duration::from_secs(2));
    let text = String::from_utf8_lossy(&d.out).into_owned();
    assert!(
        text.contains("Given up") && text.ends_with("plant-7# \u{1b}[K"),
        "{text:?}"
    );
    // Nobody receives.
    d.world.file = Some(b"all is well".to_vec());
    d.types("send receipts/receipt.json\r");
    d.waits(Duration::from_secs(90));
    let text = String::from_utf8_lossy(&d.out).into_owned();
    assert!(text.contains("Nobody receives"), "{text:?}");
    assert_eq!(d.session.technician(), Some("kim"));
}

#[test]
fn silence_a_hang_up_and_a_break_log_out() {
    let mut d = Desk::logged_in();
    d.waits(IDLE);
    assert_eq!(d.session.technician(), None);
    assert_eq!(d.world.done, ["kim left: idle"]);
    for why in ["hang-up", "break"] {
        let mut d = Desk::logged_in();
        d.types("status\r");
        d.session.hung_up(why, &mut d.world, &mut d.out);
        assert_eq!(d.session.technician(), None);
        let left = format!("kim left: {why}");
        assert_eq!(d.world.done, ["kim: status", "stop", left.as_str()]);
        d.out.clear();
        d.types("\x1b[A");
        d.types("status\r");
        assert!(
            !d.shown().contains("status\r\n"),
            "nothing is left of the one before"
        );
    }
}

#[test]
fn who_watches_is_not_logged_out() {
    let mut d = Desk::logged_in();
    d.types("log\r");
    d.waits(IDLE * 2);
    assert_eq!(d.session.technician(), Some("kim"));
    d.ends();
    d.waits(IDLE + Duration::from_secs(1));
    assert_eq!(d.session.technician(), None);
}

#[test]
fn a_gateway_is_claimed_once() {
    let mut d = Desk::new();
    d.world.unclaimed = true;
    d.types("\rlogin\r");
    assert!(d.shown().contains("claim"));
    d.types("claim\rssh-ed25519 AAAA kim\r");
    assert!(d.shown().contains("Enrolled: SHA256:abc"));
    assert_eq!(d.world.done, ["claim ssh-ed25519 AAAA kim"]);
    d.types("claim\r");
    assert!(d.shown().contains("has its keys already"));
}

#[test]
fn noise_of_a_modem_probe_does_nothing() {
    let mut d = Desk::logged_in();
    d.types("AT\rAT+GCAP\r\0\0ATZ\r");
    assert_eq!(d.world.done, Vec::<String>::new());
}

proptest::proptest! {
    #[test]
    fn no_bytes_log_anybody_in_or_run_anything(bytes: Vec<u8>) {
        let mut d = Desk::new();
        d.session.bytes(&bytes, d.now, &mut d.world, &mut d.out);
        d.session.bytes(b"\rreboot\rplant-7\r", d.now, &mut d.world, &mut d.out);
        d.waits(Duration::from_secs(20));
        proptest::prop_assert_eq!(d.session.technician(), None);
        let ran = d.world.done.iter().any(|l| l.contains(": "));
        proptest::prop_assert!(!ran, "{:?}", d.world.done);
    }
}
