//! What is wrong with a configuration: where, which key, what, and what to do about it.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// A place in a file. The path is as it was given or found, the line counts from one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, where one is to blame.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.file.to_string_lossy()))?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// One thing that is wrong, or only odd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where; `None` where only a default is to blame.
    pub place: Option<Place>,
    /// The key, as `table.key`; empty where the file itself is to blame.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// Everything found wrong with a configuration, in the order of its files and lines.
#[derive(Debug, Error)]
#[error("{}", one_a_line(.problems))]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// A hostile file can hold as many errors as bytes; nobody reads more than these.
pub(super) const SHOWN: usize = 50;

fn one_a_line(problems: &[Problem]) -> String {
    let mut text: Vec<String> = problems
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    if problems.len() > SHOWN {
        text.push(format!("and {} more", problems.len() - SHOWN));
    }
    text.join("\n")
}

/// A text from outside for one line of a log or a terminal: control characters, and those that
/// cannot be seen but change how the rest is shown, are escaped.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_visible(c) {
            line.push(c);
        } else {
            line.extend(c.escape_default());
        }
    }
    line
}

/// Is it neither a control character, nor a line separator, nor of the category Cf (format: the
/// marks that turn the direction of what follows, the ones of no width)?
/// Source: the Unicode Character Database 16, DerivedGeneralCategory.txt.
pub fn is_visible(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}'
            | '\u{e0020}'..='\u{e007f}')
}

/// A name from a file, fit for a terminal: no control characters, no endless names.
pub(super) fn printable(name: &str) -> String {
    const LONGEST: usize = 80;
    let mut text: String = name
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_command_a_terminal_or_turn_its_text_is_escaped_and_the_rest_is_not() {
        for (text, line) in [
            ("\u{1b}[2Jgone\n", r"\u{1b}[2Jgone\n"),
            ("a\u{9b}2J", r"a\u{9b}2J"),
            ("txt\u{202e}exe", r"txt\u{202e}exe"),
            (
                "\u{2066}\u{200b}\u{feff}\u{2028}",
                r"\u{2066}\u{200b}\u{feff}\u{2028}",
            ),
            ("\u{e0041}\u{61c}\u{ad}", r"\u{e0041}\u{61c}\u{ad}"),
            (
                "Zähler \"a'b\" 温度 e\u{301}",
                "Zähler \"a'b\" 温度 e\u{301}",
            ),
        ] {
            assert_eq!(one_line(text), line);
        }
    }

    #[test]
    fn a_file_whose_name_would_command_a_terminal_is_shown_escaped() {
        let place = Place {
            file: PathBuf::from("conf.d/a\u{1b}[31m.toml"),
            line: Some(2),
        };
        assert_eq!(place.to_string(), r"conf.d/a\u{1b}[31m.toml:2");
    }
}
