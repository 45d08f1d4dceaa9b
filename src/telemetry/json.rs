//! Texts and numbers written into bytes: what stands in every answer and event.
//!
//! The bytes are those that serde_json makes. It looks at each byte of a text by
//! itself; here a text in which nothing has to be escaped is copied.

/// Adds a text in quotes, escaped where need be.
pub fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let is_special = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    // All of it, without leaving early: many bytes at once that way.
    let specials = text
        .as_bytes()
        .iter()
        .fold(false, |found, byte| found | is_special(byte));
    if specials {
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(bytes, text);
        return;
    }
    bytes.push(b'"');
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'"');
}

/// Adds a number in decimal.
pub fn put_number(bytes: &mut Vec<u8>, number: usize) {
    match number {
        0..10 => bytes.push(digit(number)),
        10..100 => bytes.extend_from_slice(&[digit(number / 10), digit(number)]),
        _ => {
            put_number(bytes, number / 100);
            bytes.extend_from_slice(&[digit(number / 10), digit(number)]);
        }
    }
}

/// The last digit of a number.
#[must_use]
pub fn digit(number: usize) -> u8 {
    u8::try_from(number % 10).map_or(b'0', |digit| b'0'.saturating_add(digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_what_serde_makes_of_it() {
        for text in [
            "",
            "abc",
            "a\"b",
            "a\\b",
            "\u{0}\u{1f}",
            "ä\u{7f}€",
            "\n\t\r",
        ] {
            let mut bytes = Vec::new();
            put_text(&mut bytes, text);
            assert_eq!(bytes, serde_json::to_vec(text).unwrap(), "{text:?}");
        }
    }

    #[test]
    fn a_number_is_decimal() {
        for number in [0, 9, 10, 99, 100, 407, 1000, 65_535, usize::MAX] {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            assert_eq!(String::from_utf8(bytes).unwrap(), number.to_string());
        }
    }
}
