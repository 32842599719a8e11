//! Records: the values of a row as they lie in a page.
//!
//! It promises that no bytes make it panic, and that a record is taken only when it is wholly
//! consistent: header and body fill the payload exactly, and every number is written the way
//! SQLite writes it.
//!
//! Source: SQLite's file format, sections 1.6 "B-tree Pages" (varints) and 2.1 "Record Format".

use super::header::Encoding;

/// More columns than SQLite's own hard limit cannot be.
const MAX_COLUMNS: usize = 32_767;

/// A value as it is stored. Text is in the database's encoding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// NULL; also what stands in the place of an INTEGER PRIMARY KEY.
    Null,
    /// Serial types 1 to 6, 8 and 9.
    Integer(i64),
    /// Serial type 7.
    Real(f64),
    /// Odd serial types from 13.
    Text(&'a [u8]),
    /// Even serial types from 12.
    Blob(&'a [u8]),
}

/// A big-endian number of 1 to 9 bytes at the start of `bytes`, and how many bytes it takes.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut n = 0u64;
    for (i, b) in bytes.iter().take(8).enumerate() {
        n = n << 7 | u64::from(b & 0x7f);
        if b & 0x80 == 0 {
            return Some((n, i + 1));
        }
    }
    bytes.get(8).map(|b| (n << 8 | u64::from(*b), 9))
}

/// The same, refused when a shorter form exists: SQLite writes only the shortest, but for the
/// size of a record's header.
fn shortest(bytes: &[u8]) -> Option<(u64, usize)> {
    let (n, len) = varint(bytes)?;
    let needed = match n {
        0..=0x7f => 1,
        _ if n >> 56 != 0 => 9,
        _ => (64 - n.leading_zeros()).div_ceil(7) as usize,
    };
    (needed == len).then_some((n, len))
}

/// Bytes in the body of a value of this serial type; none for the two reserved ones.
fn body_len(serial: u64) -> Option<u64> {
    Some(match serial {
        0 | 8 | 9 => 0,
        n @ 1..=4 => n,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return None,
        n => (n - 12) / 2,
    })
}

/// The values of a record that fills `payload`; none when anything in it is inconsistent.
pub(super) fn decode(payload: &[u8]) -> Option<Vec<Value<'_>>> {
    let (header_len, mut at) = varint(payload)?;
    let header_len = usize::try_from(header_len).ok()?;
    if header_len < at || header_len > payload.len() {
        return None;
    }
    let mut rest = payload.get(header_len..)?;
    let mut values = Vec::new();
    while at < header_len {
        let (serial, n) = shortest(payload.get(at..header_len)?)?;
        at += n;
        let len = usize::try_from(body_len(serial)?).ok()?;
        let (body, after) = rest.split_at_checked(len)?;
        rest = after;
        if values.len() == MAX_COLUMNS {
            return None;
        }
        values.push(value(serial, body)?);
    }
    rest.is_empty().then_some(values)
}

/// Do the header's types, all of them in `local`, fill a record of `payload` bytes exactly, in at
/// most `columns` values? What lies behind `local` is not looked at.
pub(super) fn begins_a_record(local: &[u8], payload: u64, columns: usize) -> bool {
    let adds_up = || {
        let (header_len, mut at) = varint(local)?;
        let header = local.get(..usize::try_from(header_len).ok()?)?;
        let (mut whole, mut values) = (header_len, 0);
        while at < header.len() {
            let (serial, n) = shortest(header.get(at..)?)?;
            at += n;
            whole = whole.checked_add(body_len(serial)?)?;
            values += 1;
        }
        Some(whole == payload && (1..=columns).contains(&values))
    };
    adds_up().unwrap_or(false)
}

fn value(serial: u64, body: &[u8]) -> Option<Value<'_>> {
    Some(match serial {
        0 => Value::Null,
        1..=6 => {
            let negative = body.first().is_some_and(|b| b & 0x80 != 0);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[8 - body.len()..].copy_from_slice(body);
            let n = i64::from_be_bytes(wide);
            if narrowest(n) != body.len() {
                return None;
            }
            Value::Integer(n)
        }
        7 => {
            let x = f64::from_be_bytes(body.try_into().ok()?);
            // SQLite stores NULL for it.
            if x.is_nan() {
                return None;
            }
            Value::Real(x)
        }
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        n if n & 1 == 1 => Value::Text(body),
        _ => Value::Blob(body),
    })
}

/// Bytes that SQLite takes for an integer.
fn narrowest(n: i64) -> usize {
    let m = if n < 0 { !n } else { n };
    match m {
        0..=0x7f => 1,
        0x80..=0x7fff => 2,
        0x8000..=0x7f_ffff => 3,
        0x80_0000..=0x7fff_ffff => 4,
        0x8000_0000..=0x7fff_ffff_ffff => 6,
        _ => 8,
    }
}

/// A text as UTF-8; none when its bytes are not text in that encoding.
pub(super) fn text(bytes: &[u8], encoding: Encoding) -> Option<std::borrow::Cow<'_, str>> {
    let unit: fn([u8; 2]) -> u16 = match encoding {
        Encoding::Utf8 => return std::str::from_utf8(bytes).ok().map(Into::into),
        Encoding::Utf16le => u16::from_le_bytes,
        Encoding::Utf16be => u16::from_be_bytes,
    };
    let (pairs, odd) = bytes.as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    char::decode_utf16(pairs.iter().map(|p| unit(*p)))
        .collect::<Result<String, _>>()
        .ok()
        .map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_that_goes_on_elsewhere_is_known_by_its_header() {
        // NULL, a text of 500 bytes (serial type 1013), an integer of two bytes.
        let header = [5, 0, 0x87, 0x75, 2, b'x', b'x'];
        let whole = 5 + 500 + 2;
        assert!(begins_a_record(&header, whole, 3));
        assert!(!begins_a_record(&header, whole + 1, 3), "not filled");
        assert!(!begins_a_record(&header, whole, 2), "too many values");
        assert!(!begins_a_record(&header[..4], whole, 3), "no whole header");
        assert!(!begins_a_record(&[1], 1, 3), "nothing in it");
        assert!(!begins_a_record(&[], 0, 3));
    }

    #[test]
    fn a_record_of_every_serial_type_is_read_as_sqlite_means_it() {
        let mut bytes = vec![0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 15];
        bytes[0] = u8::try_from(bytes.len()).expect("short");
        bytes.extend([0xfe]);
        bytes.extend([0x01, 0x00]);
        bytes.extend([0xff, 0x00, 0x00]);
        bytes.extend([0x7f, 0, 0, 0]);
        bytes.extend([0xff, 0, 0, 0, 0, 0]);
        bytes.extend(i64::MIN.to_be_bytes());
        bytes.extend(2.5f64.to_be_bytes());
        bytes.extend(b"ab");
        bytes.extend(b"x");
        assert_eq!(
            decode(&bytes).expect("record"),
            [
                Value::Null,
                Value::Integer(-2),
                Value::Integer(256),
                Value::Integer(-65_536),
                Value::Integer(0x7f00_0000),
                Value::Integer(-(1 << 40)),
                Value::Integer(i64::MIN),
                Value::Real(2.5),
                Value::Integer(0),
                Value::Integer(1),
                Value::Blob(b"ab"),
                Value::Text(b"x"),
            ]
        );
    }

    #[test]
    fn what_sqlite_never_writes_is_no_record() {
        for (bytes, why) in [
            (&[][..], "nothing"),
            (&[0], "a header of no bytes"),
            (&[2, 10], "a reserved serial type"),
            (&[2, 2, 0, 1], "an integer wider than it must be"),
            (&[2, 1], "a body that ends early"),
            (&[2, 0, 7], "a body that goes on"),
            (&[3, 0x80, 0x01, 5], "a serial type longer than it must be"),
            (&[2, 7, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0], "not a number"),
        ] {
            assert_eq!(decode(bytes), None, "{why}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_record_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(values) = decode(&bytes) {
                for v in values {
                    if let Value::Text(t) = v {
                        for e in [Encoding::Utf8, Encoding::Utf16le, Encoding::Utf16be] {
                            drop(text(t, e));
                        }
                    }
                }
            }
        }
    }
}
