//! Messages as lines of JSON, one a row: what `holdup queue export` writes and `import` reads.
//!
//! ```json
//! {"message_id":"plant-7/00f3…/0000000000000000042","payload":"{…}","priority":0,"created_at":1767225600000,"ttl_seconds":null,"retry_count":0,"next_retry_at":null}
//! ```
//! Times are ms since 1970. A payload that is not UTF-8 stands as hex in `payload_hex`. A dead
//! letter has `reason` and `died_at` too. It must never keep more of a line in memory than
//! [`MAX_LINE`], nor give up a file for one bad line.

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};

use super::rows::{MAX_PAYLOAD, Row, bad_id};

/// Longest line, in bytes without its newline: the largest payload as hex, and the rest.
pub const MAX_LINE: usize = (MAX_PAYLOAD as usize) * 2 + 4096;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    message_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
    #[serde(default)]
    priority: i64,
    #[serde(default)]
    created_at: Option<i64>,
    #[serde(default)]
    ttl_seconds: Option<i64>,
    #[serde(default)]
    retry_count: i64,
    #[serde(default)]
    next_retry_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    died_at: Option<i64>,
}

/// The row as a line, newline included.
pub fn write(row: &Row) -> String {
    let (payload, payload_hex) = match std::str::from_utf8(&row.payload) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(hex(&row.payload))),
    };
    let line = Line {
        message_id: row.message_id.clone(),
        payload,
        payload_hex,
        priority: row.priority,
        created_at: row.created_at,
        ttl_seconds: row.ttl_seconds,
        retry_count: row.retry_count,
        next_retry_at: row.next_retry_at,
        reason: row.dead.as_ref().map(|(why, _)| why.clone()),
        died_at: row.dead.as_ref().map(|(_, at)| *at),
    };
    // Strings and numbers only: this cannot fail.
    let mut text = serde_json::to_string(&line).unwrap_or_default();
    text.push('\n');
    text
}

/// A line as a row; `id` is 0.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read(line: &[u8]) -> Result<Row, String> {
    let line: Line = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    if let Some(why) = bad_id(&line.message_id) {
        return Err(why.to_owned());
    }
    let payload = match (line.payload, line.payload_hex) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(hex)) => unhex(&hex).ok_or("payload_hex is not hex")?,
        (None, None) => return Err("it has no payload".to_owned()),
        (Some(_), Some(_)) => return Err("it has both payload and payload_hex".to_owned()),
    };
    if payload.len() as i64 > MAX_PAYLOAD {
        return Err(format!("its payload has {} bytes", payload.len()));
    }
    if line.retry_count < 0 {
        return Err("its retry_count is negative".to_owned());
    }
    Ok(Row {
        id: 0,
        message_id: line.message_id,
        payload,
        priority: line.priority,
        created_at: line.created_at,
        ttl_seconds: line.ttl_seconds,
        retry_count: line.retry_count,
        next_retry_at: line.next_retry_at,
        dead: line.reason.map(|why| (why, line.died_at.unwrap_or(0))),
    })
}

/// Lines with their numbers, from 1; one that is too long is told and skipped. Blank lines are
/// counted and left out.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The lines of `input`.
    pub fn new(input: R) -> Self {
        Self { input, number: 0 }
    }

    /// The next line: its number and its row, or what is wrong with it.
    ///
    /// # Errors
    /// The input's own.
    pub fn next_row(&mut self) -> io::Result<Option<(u64, Result<Row, String>)>> {
        loop {
            let mut line = Vec::new();
            let mut dropped = 0usize;
            let mut any = false;
            loop {
                let part = match self.input.fill_buf() {
                    Ok(part) => part,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(e),
                };
                if part.is_empty() {
                    break;
                }
                any = true;
                let end = part.iter().position(|b| *b == b'\n');
                let text = &part[..end.unwrap_or(part.len())];
                let keep = text.len().min(MAX_LINE - line.len());
                line.extend_from_slice(&text[..keep]);
                dropped += text.len() - keep;
                let used = text.len() + usize::from(end.is_some());
                self.input.consume(used);
                if end.is_some() {
                    break;
                }
            }
            if !any {
                return Ok(None);
            }
            self.number += 1;
            if dropped > 0 {
                let long = line.len().saturating_add(dropped);
                return Ok(Some((
                    self.number,
                    Err(format!("it has {long} bytes, more than {MAX_LINE}")),
                )));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some((self.number, read(&line))));
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|b| [digit(b >> 4), digit(b & 15)])
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let value = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs
        .map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = Row> {
        (
            "[ -~]{1,80}",
            proptest::collection::vec(any::<u8>(), 0..64),
            any::<(i64, Option<i64>, Option<i64>, Option<i64>)>(),
            0i64..,
            proptest::option::of((".{0,20}", any::<i64>())),
        )
            .prop_map(
                |(message_id, payload, (priority, a, b, c), retries, dead)| Row {
                    id: 0,
                    message_id,
                    payload,
                    priority,
                    created_at: a,
                    ttl_seconds: b,
                    retry_count: retries,
                    next_retry_at: c,
                    dead,
                },
            )
    }

    proptest! {
        #[test]
        fn what_was_written_reads_the_same(row in row()) {
            let line = write(&row);
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert_eq!(read(line.trim_end().as_bytes()), Ok(row));
        }

        #[test]
        fn any_bytes_are_lines_and_none_is_lost(bytes: Vec<u8>) {
            let mut lines = Lines::new(&bytes[..]);
            let mut last = 0;
            while let Some((n, _)) = lines.next_row().expect("memory does not fail") {
                prop_assert!(n > last);
                last = n;
            }
            prop_assert!(last <= bytes.iter().filter(|b| **b == b'\n').count() as u64 + 1);
        }
    }

    #[test]
    fn hostile_lines_are_refused_in_words_and_the_next_one_is_read() {
        let good = r#"{"message_id":"a","payload":"x"}"#;
        let mut file = Vec::new();
        let long = vec![b'x'; MAX_LINE + 10];
        for line in [
            &long[..],
            b"\0\0\0",
            b"\xff\xfe{}",
            br#"{"message_id":"a","payload":"x","priority":99999999999999999999}"#,
            br#"{"message_id":"a","payload":"x","priority":1e400}"#,
            br#"{"message_id":"","payload":"x"}"#,
            br#"{"message_id":"a","payload_hex":"abc"}"#,
            br#"{"message_id":"a"}"#,
            br#"{"message_id":"a","payload":"x","surprise":1}"#,
            br#"{"message_id":"a\u0000","payload":"x"}"#,
        ] {
            file.extend_from_slice(line);
            file.push(b'\n');
        }
        file.extend_from_slice(b"\n\r\n");
        file.extend_from_slice(good.as_bytes());
        let mut lines = Lines::new(&file[..]);
        for n in 1..=10 {
            let (number, row) = lines.next_row().expect("read").expect("a line");
            assert_eq!(number, n);
            assert!(row.is_err(), "line {n}: {row:?}");
        }
        let (number, row) = lines.next_row().expect("read").expect("the last");
        assert_eq!((number, row.expect("good").message_id.as_str()), (13, "a"));
        assert!(lines.next_row().expect("end").is_none());
    }
}
