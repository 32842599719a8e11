//! One line of the protocol: what it says, or why it cannot be taken.
//!
//! It promises that any bytes get an answer: no panic, no deep recursion, no number or text
//! changed on the way. It must never guess: what is not exactly a reading or a control line is
//! refused, and the refusal names the field and the remedy.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::store::{Reading, ReadingId, Stamp};

use super::plain;

/// Longest `sensor_name`, in bytes.
const NAME_BYTES: usize = 256;
/// Longest `unit`, client name and text `id`, in bytes.
const SHORT_BYTES: usize = 128;
/// How deep `metadata` may nest: readers of the table have limits too.
const DEPTH: usize = 64;

/// What a line says.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    /// Only white space: counted, nothing to do.
    Blank,
    /// A reading to store.
    Reading(Reading<'a>),
    /// Whose ids follow.
    Client(Cow<'a, str>),
    /// Commit now.
    Flush,
    /// Tell what happens to power.
    SubscribePower,
}

/// Why a line cannot be taken; goes to the sender as it is.
pub(super) type Refusal = Cow<'static, str>;

/// Keys in order; a line has a handful, so a search is a walk.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one JSON object a line")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(8);
        while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
            fields.push((key, value));
        }
        Ok(Fields(fields))
    }
}

/// A key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(s)))
            }
            fn visit_str<E>(self, s: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(s.to_owned())))
            }
        }
        d.deserialize_str(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(FieldsVisitor)
    }
}

/// Reads one line, without its newline.
pub(super) fn parse(line: &[u8]) -> Result<Line<'_>, Refusal> {
    let line = match std::str::from_utf8(line) {
        Ok(line) => line,
        Err(e) => {
            return Err(format!(
                "not UTF-8 at byte {}: send the line as UTF-8",
                e.valid_up_to() + 1
            )
            .into());
        }
    };
    if line.trim_ascii().is_empty() {
        return Ok(Line::Blank);
    }
    plainly(line).map_or_else(|| by_parser(line), Ok)
}

/// The usual line. A refusal is left to the parser, which may have an earlier one.
fn plainly(line: &str) -> Option<Line<'_>> {
    let mut seen = Seen::default();
    plain::fields(line, |key, raw| seen.take(Cow::Borrowed(key), raw).ok())?;
    seen.line().ok()
}

fn by_parser(line: &str) -> Result<Line<'_>, Refusal> {
    let fields: Fields<'_> =
        serde_json::from_str(line).map_err(|e| -> Refusal { json_fault(&e).into() })?;
    let mut seen = Seen::default();
    for (key, value) in fields.0 {
        seen.take(key, value.get())?;
    }
    seen.line()
}

/// serde_json's words, with the byte instead of its "line 1 column N".
fn json_fault(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!(
        "not one JSON object at byte {}: {what}; send {{\"sensor_name\":..,\"timestamp\":..,\"value\":..}} on one line",
        e.column().max(1)
    )
}

#[derive(Default)]
struct Seen<'a> {
    sensor_name: Option<Cow<'a, str>>,
    timestamp: Option<Stamp<Cow<'a, str>>>,
    value: Option<f64>,
    /// The outer option: was the key there?
    unit: Option<Option<Cow<'a, str>>>,
    metadata: Option<Option<Cow<'a, str>>>,
    id: Option<ReadingId<Cow<'a, str>>>,
    client: Option<Cow<'a, str>>,
    flush: Option<()>,
    subscribe: Option<()>,
    count: usize,
}

impl<'a> Seen<'a> {
    fn take(&mut self, key: Cow<'a, str>, raw: &'a str) -> Result<(), Refusal> {
        self.count += 1;
        match &*key {
            "sensor_name" => once(
                &mut self.sensor_name,
                "sensor_name",
                name(raw, "sensor_name", NAME_BYTES)?,
            ),
            "timestamp" => once(&mut self.timestamp, "timestamp", timestamp(raw)?),
            "value" => once(&mut self.value, "value", value(raw)?),
            "unit" => once(&mut self.unit, "unit", unit(raw)?),
            "metadata" => once(&mut self.metadata, "metadata", metadata(raw)?),
            "id" => once(&mut self.id, "id", id(raw)?),
            "client" => once(
                &mut self.client,
                "client",
                name(raw, "client", SHORT_BYTES)?,
            ),
            "flush" if raw == "true" => once(&mut self.flush, "flush", ()),
            "flush" => Err(
                "\"flush\" must be true: leave the line out to have lines committed as usual"
                    .into(),
            ),
            "subscribe" => once(&mut self.subscribe, "subscribe", topic(raw)?),
            unknown => Err(format!(
                "unknown field {}: put it into \"metadata\"",
                quoted(unknown)
            )
            .into()),
        }
    }

    fn line(self) -> Result<Line<'a>, Refusal> {
        if let Some(name) = self.client {
            return alone(self.count, "client", Line::Client(name));
        }
        if self.flush.is_some() {
            return alone(self.count, "flush", Line::Flush);
        }
        if self.subscribe.is_some() {
            return alone(self.count, "subscribe", Line::SubscribePower);
        }
        let Some(sensor_name) = self.sensor_name else {
            return Err(missing("sensor_name", "name the sensor"));
        };
        let Some(timestamp) = self.timestamp else {
            return Err(missing(
                "timestamp",
                "send a number or an RFC 3339 date-time",
            ));
        };
        let Some(value) = self.value else {
            return Err(missing("value", "send a number"));
        };
        Ok(Line::Reading(Reading {
            sensor_name,
            timestamp,
            value,
            unit: self.unit.flatten(),
            metadata: self.metadata.flatten(),
            id: self.id,
        }))
    }
}

fn once<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), Refusal> {
    if slot.replace(value).is_some() {
        return Err(format!("\"{key}\" is there twice: send it once").into());
    }
    Ok(())
}

fn alone<'a>(count: usize, key: &str, line: Line<'a>) -> Result<Line<'a>, Refusal> {
    if count == 1 {
        Ok(line)
    } else {
        Err(format!("\"{key}\" stands alone: send the other fields on a line of their own").into())
    }
}

fn missing(key: &str, remedy: &str) -> Refusal {
    format!("\"{key}\" is missing: {remedy}").into()
}

fn wrong(key: &str, raw: &str, must: &str) -> Refusal {
    let kind = match raw.as_bytes().first() {
        Some(b'"') => "a text",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    };
    format!("\"{key}\" {must}, not {kind}").into()
}

fn text<'a>(raw: &'a str, key: &str, must: &str) -> Result<Cow<'a, str>, Refusal> {
    let inner = raw
        .strip_prefix('"')
        .and_then(|r| r.strip_suffix('"'))
        .ok_or_else(|| wrong(key, raw, must))?;
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    let text: String = serde_json::from_str(raw).map_err(|_| {
        format!("\"{key}\" has a \\u escape that is no character: send it as UTF-8")
    })?;
    Ok(Cow::Owned(text))
}

/// A text that is neither empty nor longer than `bytes`, without NUL.
fn name<'a>(raw: &'a str, key: &str, bytes: usize) -> Result<Cow<'a, str>, Refusal> {
    let name = text(raw, key, "must be a text")?;
    if name.is_empty() {
        return Err(format!("\"{key}\" is empty: give it a name").into());
    }
    short(name, key, bytes)
}

fn short<'a>(text: Cow<'a, str>, key: &str, bytes: usize) -> Result<Cow<'a, str>, Refusal> {
    if text.len() > bytes {
        return Err(format!("\"{key}\" has {} bytes: shorten it to {bytes}", text.len()).into());
    }
    if text.contains('\0') {
        return Err(format!("\"{key}\" has a NUL in it: leave it out").into());
    }
    Ok(text)
}

/// There is one.
fn topic(raw: &str) -> Result<(), Refusal> {
    match &*name(raw, "subscribe", SHORT_BYTES)? {
        "power" => Ok(()),
        other => Err(format!(
            "unknown topic {}: there is \"power\" to subscribe to",
            quoted(other)
        )
        .into()),
    }
}

fn is_number(raw: &str) -> bool {
    matches!(raw.as_bytes().first(), Some(b'-' | b'0'..=b'9'))
}

fn value(raw: &str) -> Result<f64, Refusal> {
    if !is_number(raw) {
        return Err(wrong("value", raw, "must be a number"));
    }
    match raw.parse::<f64>() {
        Ok(n) if n.is_finite() => Ok(n),
        _ => Err("\"value\" is beyond what a 64-bit float holds: scale it, or put it into \"metadata\" as text".into()),
    }
}

fn timestamp(raw: &str) -> Result<Stamp<Cow<'_, str>>, Refusal> {
    if is_number(raw) {
        if raw.bytes().all(|b| b == b'-' || b.is_ascii_digit()) {
            return raw.parse().map(Stamp::Int).map_err(|_| {
                "\"timestamp\" is beyond 64 bits: send it as seconds, milliseconds or nanoseconds since 1970"
                    .into()
            });
        }
        return match raw.parse::<f64>() {
            Ok(n) if n.is_finite() => Ok(Stamp::Real(n)),
            _ => Err(
                "\"timestamp\" is beyond what a 64-bit float holds: send seconds since 1970".into(),
            ),
        };
    }
    let text = text(
        raw,
        "timestamp",
        "must be a number or an RFC 3339 date-time",
    )?;
    if is_date_time(&text) {
        Ok(Stamp::Text(text))
    } else {
        Err("\"timestamp\" is no date-time: send a number, or RFC 3339 like 2026-01-31T12:00:00.5Z (zone optional)".into())
    }
}

/// RFC 3339 or ISO 8601, date and time, `T` or a space between, zone optional.
fn is_date_time(text: &str) -> bool {
    let Some(separator) = text.as_bytes().get(10) else {
        return false;
    };
    // No named zones: there is no zone data base to check them by.
    if !matches!(separator, b'T' | b't' | b' ') || text.len() > 64 || text.contains('[') {
        return false;
    }
    let time = &text.as_bytes()[11..];
    if !time.contains(&b':') {
        return false;
    }
    if time.iter().any(|b| matches!(b, b'Z' | b'z' | b'+' | b'-')) {
        text.parse::<jiff::Timestamp>().is_ok()
    } else {
        text.parse::<jiff::civil::DateTime>().is_ok()
    }
}

fn unit(raw: &str) -> Result<Option<Cow<'_, str>>, Refusal> {
    if raw == "null" {
        return Ok(None);
    }
    let unit = text(raw, "unit", "must be a text or null")?;
    short(unit, "unit", SHORT_BYTES).map(Some)
}

fn id(raw: &str) -> Result<ReadingId<Cow<'_, str>>, Refusal> {
    if is_number(raw) {
        return raw
            .parse()
            .map(ReadingId::Int)
            .map_err(|_| "\"id\" is not a whole number of 64 bits: send it as a text".into());
    }
    if !raw.starts_with('"') {
        return Err(wrong("id", raw, "must be a text or a whole number"));
    }
    name(raw, "id", SHORT_BYTES).map(ReadingId::Text)
}

/// The object without the white space between its parts; nothing else is changed.
fn metadata(raw: &str) -> Result<Option<Cow<'_, str>>, Refusal> {
    if raw == "null" {
        return Ok(None);
    }
    if !raw.starts_with('{') {
        return Err(wrong("metadata", raw, "must be an object or null"));
    }
    let (mut depth, mut deepest, mut blanks) = (0usize, 0usize, false);
    let mut outside = Outside::default();
    for b in raw.bytes().filter(|b| outside.step(*b)) {
        match b {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b' ' | b'\t' | b'\n' | b'\r' => blanks = true,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > DEPTH {
        return Err(format!("\"metadata\" nests deeper than {DEPTH}: flatten it").into());
    }
    if !blanks {
        return Ok(Some(Cow::Borrowed(raw)));
    }
    let mut outside = Outside::default();
    let compact = raw
        .chars()
        .filter(|c| {
            // No byte of a longer character looks like a quote, a backslash or a blank.
            let outside = outside.step(u8::try_from(*c).unwrap_or(b'x'));
            !(outside && c.is_ascii_whitespace())
        })
        .collect();
    Ok(Some(Cow::Owned(compact)))
}

/// Follows JSON byte by byte, to tell what is inside a text.
#[derive(Default)]
struct Outside {
    in_text: bool,
    escaped: bool,
}

impl Outside {
    /// Is this byte outside of any text?
    fn step(&mut self, b: u8) -> bool {
        let outside = !self.in_text;
        match b {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_text => self.escaped = true,
            b'"' => self.in_text = !self.in_text,
            _ => {}
        }
        outside
    }
}

/// A text from the sender, safe to show: quoted, escaped, shortened.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars().take(64) {
        // Writing to a String cannot fail.
        write!(out, "{}", c.escape_debug()).ok();
    }
    if text.chars().nth(64).is_some() {
        out.push('…');
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading(line: &str) -> Reading<'_> {
        match parse(line.as_bytes()) {
            Ok(Line::Reading(r)) => r,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn refusal(line: &str) -> String {
        match parse(line.as_bytes()) {
            Err(e) => e.into_owned(),
            Ok(other) => panic!("{line} was taken: {other:?}"),
        }
    }

    #[test]
    fn a_reading_keeps_every_field_as_sent() {
        let r = reading(
            r#" {"sensor_name":"a\u00e9","timestamp":1767225600000000001,"value":-1.5e-3,"unit":"°C","metadata":{ "k" : [1, "x  y\" z"] , "n":1e400 }} "#,
        );
        assert_eq!(r.sensor_name, "aé");
        assert_eq!(r.timestamp, Stamp::Int(1_767_225_600_000_000_001));
        assert!((r.value + 0.0015).abs() < 1e-18);
        assert_eq!(r.unit.as_deref(), Some("°C"));
        assert_eq!(
            r.metadata.as_deref(),
            Some(r#"{"k":[1,"x  y\" z"],"n":1e400}"#)
        );
    }

    #[test]
    fn date_times_with_and_without_zone_are_taken_and_nonsense_is_not() {
        for good in [
            "2026-01-31T12:00:00Z",
            "2026-01-31 12:00:00",
            "2026-01-31t12:00:00.123456789+05:30",
            "2026-01-31T12:00",
        ] {
            let line = format!(r#"{{"sensor_name":"s","timestamp":"{good}","value":1}}"#);
            assert_eq!(reading(&line).timestamp, Stamp::Text(good.into()), "{good}");
        }
        for bad in [
            "2026-02-30T12:00:00Z",
            "2026-01-31",
            "yesterday",
            "",
            "2026-01-31T25:00:00",
            "2026-01-31T12:00:00Z and more",
            "2026-01-31T12:00:00Z[Nowhere/Land]",
        ] {
            let e = refusal(&format!(
                r#"{{"sensor_name":"s","timestamp":"{bad}","value":1}}"#
            ));
            assert!(e.contains("\"timestamp\""), "{bad}: {e}");
        }
    }

    #[test]
    fn each_refusal_names_its_field() {
        let long = "x".repeat(257);
        for (line, part) in [
            (
                r#"{"timestamp":1,"value":1}"#.to_owned(),
                "\"sensor_name\" is missing",
            ),
            (
                r#"{"sensor_name":"s","value":1}"#.to_owned(),
                "\"timestamp\" is missing",
            ),
            (
                r#"{"sensor_name":"s","timestamp":1}"#.to_owned(),
                "\"value\" is missing",
            ),
            (
                r#"{"sensor_name":"s","timestamp":1,"value":"1"}"#.to_owned(),
                "must be a number, not a text",
            ),
            (
                r#"{"sensor_name":"s","timestamp":1,"value":null}"#.to_owned(),
                "not null",
            ),
            (
                r#"{"sensor_name":"s","timestamp":1,"value":1e999}"#.to_owned(),
                "64-bit float",
            ),
            (
                r#"{"sensor_name":"s","timestamp":1,"value":1,"colour":1}"#.to_owned(),
                "\"metadata\"",
            ),
            (
                r#"{"sensor_name":"s","timestamp":1,"value":1,"value":2}"#.to_owned(),
                "twice",
            ),
            (
                r#"{"sensor_name":"s","timestamp":1,"value":1,"v\u0061lue":2}"#.to_owned(),
                "twice",
            ),
            (
                r#"{"sensor_name":"","timestamp":1,"value":1}"#.to_owned(),
                "empty",
            ),
            (
                r#"{"sensor_name":"a\u0000b","timestamp":1,"value":1}"#.to_owned(),
                "NUL",
            ),
            (
                r#"{"sensor_name":"\ud800","timestamp":1,"value":1}"#.to_owned(),
                "\\u escape",
            ),
            (
                format!(r#"{{"sensor_name":"{long}","timestamp":1,"value":1}}"#),
                "257 bytes",
            ),
            (
                r#"{"sensor_name":"s","timestamp":99999999999999999999,"value":1}"#.to_owned(),
                "64 bits",
            ),
            (
                r#"{"sensor_name":"s","timestamp":true,"value":1}"#.to_owned(),
                "not true or false",
            ),
            (
                r#"{"sensor_name":"s","timestamp":1,"value":1,"unit":5}"#.to_owned(),
                "\"unit\"",
            ),
            (
                r#"{"sensor_name":"s","timestamp":1,"value":1,"metadata":[]}"#.to_owned(),
                "not an array",
            ),
            (
                r#"{"sensor_name":"s","timestamp":1,"value":1,"id":1.5}"#.to_owned(),
                "\"id\"",
            ),
            (
                r#"{"sensor_name":"s","timestamp":1,"value":1,"id":null}"#.to_owned(),
                "\"id\"",
            ),
            (r#"{"client":"a","flush":true}"#.to_owned(), "stands alone"),
            (
                r#"{"flush":false}"#.to_owned(),
                "\"flush\" must be true: leave the line out",
            ),
            (
                r#"{"subscribe":"weather"}"#.to_owned(),
                "unknown topic \"weather\"",
            ),
            (
                r#"{"subscribe":true}"#.to_owned(),
                "\"subscribe\" must be a text",
            ),
            (
                r#"{"subscribe":"power","value":1}"#.to_owned(),
                "stands alone",
            ),
            (r#"{"value":NaN}"#.to_owned(), "not one JSON object"),
            (r#"[1]"#.to_owned(), "not one JSON object"),
            (r#"{} {}"#.to_owned(), "not one JSON object"),
            (r#"{"sensor_name":"s""#.to_owned(), "not one JSON object"),
        ] {
            let e = refusal(&line);
            assert!(e.contains(part), "{line}: {e}");
        }
        let e = parse(b"{\"sensor_name\":\"\xff\"}").expect_err("not utf-8");
        assert!(e.contains("UTF-8"), "{e}");
    }

    #[test]
    fn nesting_is_bounded_and_does_not_use_the_stack() {
        let deep = |n: usize| {
            format!(
                r#"{{"sensor_name":"s","timestamp":1,"value":1,"metadata":{}{}}}"#,
                r#"{"a":"#.repeat(n) + "1",
                "}".repeat(n)
            )
        };
        assert!(reading(&deep(DEPTH)).metadata.is_some());
        assert!(refusal(&deep(DEPTH + 1)).contains("nests deeper"));
        refusal(&deep(500_000));
        refusal(&"[".repeat(500_000));
        refusal(&r#"{"a":"#.repeat(500_000));
    }

    #[test]
    fn the_usual_line_needs_no_parser() {
        for line in [
            r#"{"sensor_name":"s","timestamp":1767225600000,"value":71.5,"unit":"C"}"#,
            r#"{ "sensor_name" : "s", "timestamp" : "2026-01-31T12:00:00Z", "value" : -1e-3, "unit":null, "id":7 }"#,
            r#"{"flush":true}"#,
        ] {
            assert_eq!(plainly(line).map(Ok), Some(by_parser(line)), "{line}");
        }
        for line in [
            r#"{"sensor_name":"s","timestamp":01,"value":1}"#,
            r#"{"sensor_name":"s","timestamp":1.,"value":1}"#,
            r#"{"sensor_name":"s","timestamp":1,"value":1e}"#,
            r#"{"sensor_name":"s","timestamp":1,"value":1}}"#,
            r#"{"sensor_name":"s","timestamp":1,"value":1,}"#,
            r#"{"sensor_name":"\u0073","timestamp":1,"value":1}"#,
            r#"{"sensor_name":"s","timestamp":1,"value":1,"metadata":{}}"#,
        ] {
            assert_eq!(plainly(line), None, "{line}");
        }
    }

    #[test]
    fn control_lines_and_blanks() {
        assert_eq!(parse(b" \t\r"), Ok(Line::Blank));
        assert_eq!(parse(b"{\"flush\": true }"), Ok(Line::Flush));
        let subscribe = b"{\"subscribe\":\"power\"}";
        assert_eq!(parse(subscribe), Ok(Line::SubscribePower));
        assert_eq!(
            parse(b"{\"client\":\"plc 7\"}"),
            Ok(Line::Client("plc 7".into()))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(&line));
        }

        #[test]
        fn any_mangled_reading_gets_an_answer(at in 0usize..120, with in "\\PC{0,6}") {
            let mut line = r#"{"sensor_name":"s","timestamp":"2026-01-31T12:00:00Z","value":1.5,"unit":"C","metadata":{"a":[1,{}]},"id":7}"#.to_owned();
            let at = at.min(line.len());
            line.insert_str(at, &with);
            drop(parse(line.as_bytes()));
        }

        #[test]
        fn a_plain_line_is_cut_as_the_parser_cuts_it(at in 0usize..110, gone in 0usize..3, with in "[-+0-9.eE \"{}:,\\\\nul\u{1}é]{0,4}") {
            let mut line = r#" {"sensor_name":"s" , "timestamp":-10.5e-3,"value":0.25E+1,"unit":null,"id":"a"} "#.to_owned();
            let at = at.min(line.len());
            line.replace_range(at..(at + gone).min(line.len()), &with);
            if let Some(read) = plainly(&line) {
                prop_assert_eq!(by_parser(&line), Ok(read));
            }
        }

        #[test]
        fn every_finite_value_comes_back_bit_for_bit(v in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO) {
            let line = serde_json::json!({"sensor_name": "s", "timestamp": v, "value": v}).to_string();
            let r = reading(&line);
            prop_assert_eq!(r.value.to_bits(), v.to_bits());
        }
    }
}
