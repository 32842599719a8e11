//! Names of any bytes as text, and back.

use std::fmt::Write;

/// Bytes that are not UTF-8 as `%XX`, and `%` as `%25`: what a manifest says of a name.
pub fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            write!(text, "%{byte:02X}").ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_names_are_escaped_alike() {
        assert_eq!(escape(b"a/b c\n\"'"), "a/b c\n\"'");
        assert_eq!(escape("gr\u{fc}n".as_bytes()), "gr\u{fc}n");
        assert_eq!(escape(b"a\xff%"), "a%FF%25");
        assert_ne!(escape(b"a\xff"), escape(b"a%FF"));
    }
}
