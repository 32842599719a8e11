//! Sessions on a gateway that does nothing and remembers everything.

use super::*;

/// A gateway that does nothing and remembers everything.
#[derive(Default)]
struct World {
    unclaimed: bool,
    done: Vec<String>,
    codes: Vec<String>,
    random: u8,
    refuse: bool,
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

    fn redeem(&mut self, challenge: Challenge, answer: &str) -> Result<String, String> {
        self.codes.push(challenge.line());
        if answer.contains("GOOD") {
            self.done.push("login kim".to_owned());
            Ok("kim".to_owned())
        } else {
            self.done.push("login refused".to_owned());
            Err("the signature is not of this code".to_owned())
        }
    }

    fn claim(&mut self, key: &str) -> Result<String, String> {
        self.done.push(format!("claim {key}"));
        self.unclaimed = false;
        Ok("SHA256:abc".to_owned())
    }

    fn begin(&mut self, command: &'static Command, technician: &str) -> Result<(), String> {
        if self.refuse {
            return Err("the audit log cannot be written".to_owned());
        }
        self.done.push(format!("{technician}: {}", command.name));
        Ok(())
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
            session: Session::new(now, &mut out),
            now,
            out,
        }
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
        d.types(&format!("{}\r", c.name));
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
    // The right answer to it comes too late: the next one has its own code.
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
