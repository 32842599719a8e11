//! A session at the console, recorded as text, and replayed on a serial port.
//!
//! README shows the sessions; here the very text is typed and compared. What a terminal of 80
//! columns shows is compared, not the bytes: a row that wraps fails. `…` in the recording stands for
//! any text in its row, a row that is `…` alone for any rows. The laptop's own OpenSSH signs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::patience::{GENEROUS, poll};

const COLUMNS: u16 = 80;
/// More than a session has, so that nothing scrolls away.
const ROWS: u16 = 1500;
const ANY: &str = "…";
const FIRST: &str = "Please press Enter to activate this console.";
const PASTE: &str = "-----BEGIN SSH SIGNATURE-----";
const PASTED: &str = "-----END SSH SIGNATURE-----";
const MORE: &str = "-- Space: more, q: stop --";

/// What is typed, and what is on the screen from there on.
#[derive(Debug)]
struct Step {
    /// What stands before the cursor when it is typed.
    prompt: String,
    typed: String,
    /// From the row of the prompt to the row before the next prompt.
    rows: Vec<String>,
}

/// The recording in README under the comment `replayed: NAME`.
pub(crate) fn recorded(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(path).expect("README.md");
    let mark = format!("<!-- replayed: {name} -->\n```text\n");
    let (_, rest) = text
        .split_once(&mark)
        .unwrap_or_else(|| panic!("README has no session {name}"));
    let (session, _) = rest.split_once("\n```").expect("its end");
    session.to_owned()
}

/// The technician's terminal at the other end of the cable.
pub(crate) struct Terminal<'a> {
    port: UnixStream,
    screen: vt100::Parser,
    /// The private key on the laptop.
    key: &'a Path,
    /// Bytes that came so far.
    came: usize,
    /// How many had come when a further page was asked for: nobody presses twice for one.
    asked: usize,
}

impl<'a> Terminal<'a> {
    pub(crate) fn new(port: UnixStream, key: &'a Path) -> Self {
        port.set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a time-out");
        Self {
            port,
            screen: vt100::Parser::new(ROWS, COLUMNS, 0),
            key,
            came: 0,
            asked: 0,
        }
    }

    /// Turns the page where one is full.
    fn turns_page(&mut self) -> bool {
        let (row, _) = self.screen.screen().cursor_position();
        let full = self.rows().get(usize::from(row)).is_some_and(|r| r == MORE);
        if full && self.asked != self.came {
            self.asked = self.came;
            self.port.write_all(b" ").expect("the port");
        }
        full
    }

    /// Types `session` for the gateway of that name, and compares what comes; what was on the
    /// screen.
    pub(crate) fn replay(&mut self, session: &str, gateway: &str) -> String {
        for step in steps(session, gateway) {
            let from = self.wait_for(&step.prompt);
            if step.typed == PASTE {
                let answer = self.sign();
                self.types(&answer.replace('\n', "\r"));
            } else {
                self.types(&format!("{}\r", step.typed));
            }
            self.compare(from, &step);
        }
        let all = self.rows();
        let wrapped: Vec<&String> = (0..)
            .zip(&all)
            .filter(|(n, _)| self.screen.screen().row_wrapped(*n))
            .map(|(_, row)| row)
            .collect();
        assert!(wrapped.is_empty(), "rows that wrap: {wrapped:#?}");
        let last = all.iter().rposition(|r| !r.is_empty()).unwrap_or(0);
        all[..=last].join("\n")
    }

    fn types(&mut self, text: &str) {
        // As slowly as a line of 115200 baud and a small FIFO want it.
        for part in text.as_bytes().chunks(16) {
            self.port.write_all(part).expect("the port");
            self.look();
        }
    }

    fn look(&mut self) {
        let mut buffer = [0; 4096];
        if let Ok(n) = self.port.read(&mut buffer) {
            self.came += n;
            self.screen.process(&buffer[..n]);
        }
    }

    fn rows(&self) -> Vec<String> {
        let rows = self.screen.screen().rows(0, COLUMNS);
        rows.map(|r| r.trim_end().to_owned()).collect()
    }

    /// Waits until `prompt` stands before the cursor; the row it is in.
    fn wait_for(&mut self, prompt: &str) -> usize {
        let found = poll(GENEROUS, || {
            self.look();
            let (row, column) = self.screen.screen().cursor_position();
            let rows = self.rows();
            let here = rows.get(usize::from(row)).cloned().unwrap_or_default();
            self.turns_page();
            let stands = match prompt {
                // The recording's first words, and an answer's empty prompt, stand a row above.
                FIRST | PASTE => rows[..usize::from(row)]
                    .iter()
                    .rev()
                    .find(|r| !r.is_empty())
                    .is_some_and(|r| match prompt {
                        FIRST => r == FIRST,
                        _ => r.ends_with("Ctrl-C: back."),
                    }),
                _ => here == prompt.trim_end() && usize::from(column) == prompt.chars().count(),
            };
            stands.then_some(usize::from(row))
        });
        found.unwrap_or_else(|| panic!("no {prompt:?} came:\n{}", self.rows().join("\n")))
    }

    /// Waits until the rows from `from` on are those of `step`.
    fn compare(&mut self, from: usize, step: &Step) {
        let done = poll(GENEROUS, || {
            self.look();
            if self.turns_page() {
                return None;
            }
            let (row, _) = self.screen.screen().cursor_position();
            let rows = self.rows();
            let seen = &rows[from..usize::from(row).max(from)];
            is_like(&step.rows, seen).then_some(())
        });
        assert!(
            done.is_some(),
            "recorded:\n{}\n\nseen:\n{}",
            step.rows.join("\n"),
            self.rows()[from..].join("\n").trim_end()
        );
    }

    /// What the laptop's shell prints for the line that the console shows.
    fn sign(&self) -> String {
        let rows = self.rows();
        let at = rows.iter().rposition(|r| r.starts_with("echo "));
        let at = at.expect("a line to paste into the laptop's shell");
        let mut line = rows[at].clone();
        if line.ends_with('|') {
            // It goes on in the next row, as a shell's does.
            line.push_str(&rows[at + 1]);
        }
        let line = line.replace("KEY", &self.key.display().to_string());
        let shell = Command::new("sh")
            .arg("-c")
            .arg(line)
            .stdin(Stdio::null())
            .output()
            .expect("a shell");
        assert!(shell.status.success(), "{shell:?}");
        String::from_utf8(shell.stdout).expect("text")
    }
}

fn steps(session: &str, gateway: &str) -> Vec<Step> {
    let prompts = [
        format!("{gateway}> "),
        format!("{gateway}# "),
        "[y/N] ".to_owned(),
        "name: ".to_owned(),
        "key: ".to_owned(),
    ];
    let mut steps: Vec<Step> = Vec::new();
    let mut pasting = false;
    for line in session.lines() {
        let prompt = prompts.iter().find(|p| {
            line.strip_prefix(p.as_str())
                .is_some_and(|typed| !typed.is_empty())
        });
        let typed = match prompt {
            Some(prompt) => Some((prompt.as_str(), &line[prompt.len()..])),
            None if line == FIRST && steps.is_empty() => Some((FIRST, "")),
            None if line == PASTE => Some((PASTE, PASTE)),
            None => None,
        };
        match typed {
            Some((prompt, typed)) => {
                pasting = prompt == PASTE;
                steps.push(Step {
                    prompt: prompt.to_owned(),
                    typed: typed.to_owned(),
                    // The first words stand above the cursor.
                    rows: if prompt == FIRST {
                        vec![]
                    } else {
                        vec![line.to_owned()]
                    },
                });
            }
            None => {
                let step = steps
                    .last_mut()
                    .expect("a session begins with its first words");
                step.rows.push(line.to_owned());
            }
        }
        pasting &= line != PASTED;
    }
    assert!(!pasting, "the recorded signature has no end");
    // The last prompt is where the session ends.
    steps
}

/// Are the rows like the recorded ones? Empty ones do not count.
fn is_like(recorded: &[String], seen: &[String]) -> bool {
    let mut recorded = recorded.iter().filter(|r| !r.trim().is_empty());
    let seen: Vec<&String> = seen.iter().filter(|r| !r.trim().is_empty()).collect();
    let recorded: Vec<&String> = recorded.by_ref().collect();
    rows_like(&recorded, &seen)
}

fn rows_like(recorded: &[&String], seen: &[&String]) -> bool {
    match recorded {
        [] => seen.is_empty(),
        [any, rest @ ..] if any.trim() == ANY => {
            (0..=seen.len()).any(|n| rows_like(rest, &seen[n..]))
        }
        [row, rest @ ..] => seen
            .split_first()
            .is_some_and(|(s, others)| is_row(row.trim_end(), s) && rows_like(rest, others)),
    }
}

fn is_row(recorded: &str, seen: &str) -> bool {
    let mut parts = recorded.split(ANY);
    let first = parts.next().unwrap_or_default();
    let Some(mut left) = seen.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return left.is_empty();
    };
    for part in middle {
        let Some(at) = left.find(part) else {
            return false;
        };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

#[test]
fn a_recording_is_not_like_another_session() {
    let rows = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    let seen = rows("g# data\nagent  runs for 3 seconds\n\nx\ny\nkept 12 of 12");
    for like in [
        "g# data\nagent  runs for …\nx\ny\nkept 12 of 12",
        "g# data\n…\nkept … of 12",
        "…",
    ] {
        assert!(is_like(&rows(like), &seen), "{like}");
    }
    for other in [
        "g# data\nagent  runs for …\nx\ny",
        "g# data\n…\nkept 12 of",
        "g# data\nagent  … for\n…",
        "g# data",
        "",
    ] {
        assert!(!is_like(&rows(other), &seen), "{other}");
    }
}
