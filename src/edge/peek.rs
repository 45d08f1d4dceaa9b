//! What stands in an answer of the upstream: one value out of a JSON text,
//! which may be compressed.
//!
//! Pure, and bounded: so many bytes go in, so many come out of decompression,
//! and no more memory is needed than for these and one decompressor. The text
//! is read in one pass and only the value that is looked for is kept. A text
//! that ends early is never mistaken for one that says something else.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::telemetry::holds::Unread;

/// The most bytes of an answer that are looked into, as they arrive.
pub const COPY_MAX_BYTES: usize = 256 * 1024;

/// The most bytes that are looked into once they are decompressed.
const TEXT_MAX_BYTES: usize = 1024 * 1024;

/// The most memory that a zstd stream may ask for, as a power of two: what
/// RFC 8878 says every decoder should grant.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The first bits of a brotli stream with a window beyond RFC 7932, of up to a
/// gigabyte; in the RFC they are invalid.
const BROTLI_LARGE_WINDOW: u8 = 0b001_0001;

/// How an answer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Not at all.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, or what some servers take it for, RFC 1951.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// How an answer with this head is compressed.
    ///
    /// # Errors
    /// [`Unread::Encoding`] if it is in a way that is not known here, or in
    /// several.
    pub fn of(headers: &HeaderMap) -> Result<Self, Unread> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let Some(value) = values.next() else {
            return Ok(Coding::Identity);
        };
        if values.next().is_some() {
            return Err(Unread::Encoding);
        }
        let value = value.as_bytes().trim_ascii().to_ascii_lowercase();
        match &*value {
            b"" | b"identity" => Ok(Coding::Identity),
            b"gzip" | b"x-gzip" => Ok(Coding::Gzip),
            b"deflate" => Ok(Coding::Deflate),
            b"br" => Ok(Coding::Brotli),
            b"zstd" => Ok(Coding::Zstd),
            _ => Err(Unread::Encoding),
        }
    }
}

/// Whether an answer with this head says that it is JSON.
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let value = value.as_bytes();
    let end = value.iter().position(|byte| *byte == b';');
    let kind = value.get(..end.unwrap_or(value.len())).unwrap_or_default();
    let kind = kind.trim_ascii().to_ascii_lowercase();
    kind == b"application/json" || kind == b"text/json" || kind.ends_with(b"+json")
}

/// A value that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A text.
    Text(String),
    /// An integer, as decimal text.
    Integer(String),
}

/// The value at a JSON pointer (RFC 6901) in an answer. Of a name that stands
/// twice, the last counts.
///
/// # Errors
/// Why there is none.
pub fn peek(body: &[u8], coding: Coding, pointer: &str) -> Result<Found, Unread> {
    let text = match coding {
        Coding::Identity => Cow::Borrowed(body),
        coding => Cow::Owned(decompress(body, coding)?),
    };
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    // Cut short it would be another number. Everything else has an end.
    let first = text.trim_ascii_start().first();
    if first.is_some_and(|byte| *byte == b'-' || byte.is_ascii_digit()) {
        return Err(Unread::Absent);
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let found = Seek(pointer).deserialize(&mut json);
    match found.and_then(|found| json.end().map(|()| found)) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(Unread::Absent),
        Err(_) => Err(Unread::Malformed),
    }
}

fn decompress(body: &[u8], coding: Coding) -> Result<Vec<u8>, Unread> {
    match coding {
        Coding::Identity => read_up(body),
        Coding::Gzip => read_up(MultiGzDecoder::new(body)),
        Coding::Deflate if is_zlib(body) => read_up(ZlibDecoder::new(body)),
        Coding::Deflate => read_up(DeflateDecoder::new(body)),
        Coding::Brotli => {
            let first = body.first().copied().unwrap_or_default();
            if first & 0x7f == BROTLI_LARGE_WINDOW {
                return Err(Unread::Malformed);
            }
            read_up(brotli::Decompressor::new(body, body.len().max(1)))
        }
        Coding::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(body);
            let mut decoder = decoder.map_err(|_| Unread::Malformed)?;
            let bounded = decoder.window_log_max(ZSTD_WINDOW_LOG_MAX);
            bounded.map_err(|_| Unread::Malformed)?;
            read_up(decoder)
        }
    }
}

/// Whether it begins as RFC 1950 says.
fn is_zlib(body: &[u8]) -> bool {
    let (Some(method), Some(flags)) = (body.first(), body.get(1)) else {
        return false;
    };
    method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]) % 31 == 0
}

fn read_up(from: impl Read) -> Result<Vec<u8>, Unread> {
    let mut text = Vec::new();
    // One more than is allowed tells what is too large.
    let limit = u64::try_from(TEXT_MAX_BYTES.saturating_add(1)).unwrap_or(u64::MAX);
    let read = from.take(limit).read_to_end(&mut text);
    if text.len() > TEXT_MAX_BYTES {
        return Err(Unread::TooLarge);
    }
    read.map_err(|_| Unread::Malformed)?;
    Ok(text)
}

/// Looks for what the rest of a pointer points to.
struct Seek<'p>(&'p str);

impl Seek<'_> {
    /// The first step of the pointer, and the rest; `None` at its end.
    fn step(&self) -> Option<(Cow<'_, str>, Seek<'_>)> {
        let steps = self.0.strip_prefix('/')?;
        let end = steps.find('/').unwrap_or(steps.len());
        let (step, rest) = steps.split_at(end);
        let step = if step.contains('~') {
            Cow::Owned(step.replace("~1", "/").replace("~0", "~"))
        } else {
            Cow::Borrowed(step)
        };
        Some((step, Seek(rest)))
    }

    fn here(&self, found: impl FnOnce() -> Found) -> Option<Found> {
        self.0.is_empty().then(found)
    }
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<Found>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = Option<Found>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let step = self.step();
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match &step {
                Some((step, rest)) if *step == name => {
                    found = map.next_value_seed(Seek(rest.0))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let step = self.step();
        let place = step.as_ref().and_then(|(step, _)| place(step));
        let rest = step.as_ref().map_or("", |(_, rest)| rest.0);
        let mut found = None;
        let mut at = 0_usize;
        loop {
            if Some(at) == place {
                let Some(here) = seq.next_element_seed(Seek(rest))? else {
                    break;
                };
                found = here;
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
            at = at.saturating_add(1);
        }
        Ok(found)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.here(|| Found::Text(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(self.here(|| Found::Integer(number.to_string())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(self.here(|| Found::Integer(number.to_string())))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// A step as the place of an element: digits without a leading zero.
fn place(step: &str) -> Option<usize> {
    let is_plain = step == "0" || !step.starts_with(['0', '+']);
    is_plain.then(|| step.parse().ok())?
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "test data is in bounds"
)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;
    use std::io::Write;

    const ANSWER: &str = r#"{"run_id":"run-42","n":7,"deep":{"a/b":[1,{"~x":"here"}]},"f":1.5}"#;

    const CODINGS: [Coding; 5] = [
        Coding::Identity,
        Coding::Gzip,
        Coding::Deflate,
        Coding::Brotli,
        Coding::Zstd,
    ];

    fn text(found: &str) -> Result<Found, Unread> {
        Ok(Found::Text(found.to_owned()))
    }

    fn compressed(body: &[u8], coding: Coding) -> Vec<u8> {
        let level = flate2::Compression::default();
        match coding {
            Coding::Identity => body.to_vec(),
            Coding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(body).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Deflate => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(body).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Brotli => {
                let mut out = Vec::new();
                let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 5, 20);
                encoder.write_all(body).unwrap();
                drop(encoder);
                out
            }
            Coding::Zstd => zstd::stream::encode_all(body, 3).unwrap(),
        }
    }

    #[test]
    fn a_pointer_finds_texts_and_integers_at_any_depth() {
        for (pointer, found) in [
            ("/run_id", text("run-42")),
            ("/n", Ok(Found::Integer("7".to_owned()))),
            ("/deep/a~1b/0", Ok(Found::Integer("1".to_owned()))),
            ("/deep/a~1b/1/~0x", text("here")),
            ("/deep/a~1b/01", Err(Unread::Absent)),
            ("/deep/a~1b/2", Err(Unread::Absent)),
            ("/deep/a~1b/-", Err(Unread::Absent)),
            ("/deep", Err(Unread::Absent)),
            ("/f", Err(Unread::Absent)),
            ("/run_id/x", Err(Unread::Absent)),
            ("/RUN_ID", Err(Unread::Absent)),
            ("", Err(Unread::Absent)),
        ] {
            let got = peek(ANSWER.as_bytes(), Coding::Identity, pointer);
            assert_eq!(got, found, "{pointer}");
        }
    }

    #[test]
    fn odd_texts_are_read_as_parsers_read_them() {
        let at_a = |body: &[u8]| peek(body, Coding::Identity, "/a");
        assert_eq!(at_a(br#"{"a":"1","a":"2"}"#), text("2"));
        assert_eq!(at_a(br#"{"\u0061":"\u00e4"}"#), text("ä"));
        assert_eq!(at_a(b"\xef\xbb\xbf{\"a\":\"1\"}"), text("1"));
        assert_eq!(at_a(br#"{"a":null}"#), Err(Unread::Absent));
        assert_eq!(at_a(br#"{"a":"1"} {}"#), Err(Unread::Malformed));
        assert_eq!(at_a(b"{\"a\":\"\xff\"}"), Err(Unread::Malformed));
        assert_eq!(at_a(b""), Err(Unread::Malformed));
        assert_eq!(
            at_a(br#"{"a":123456789012345678901234567890}"#),
            Err(Unread::Absent)
        );
        let whole = |body: &[u8]| peek(body, Coding::Identity, "");
        assert_eq!(whole(br#""run""#), text("run"));
        assert_eq!(whole(b"12"), Err(Unread::Absent));
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = "[".repeat(200_000);
        assert_eq!(
            peek(deep.as_bytes(), Coding::Identity, "/a"),
            Err(Unread::Malformed)
        );
        let hidden = format!(
            r#"{{"b":{}1{},"a":"x"}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        // Whatever it says of the rest, it survives.
        let got = peek(hidden.as_bytes(), Coding::Identity, "/a");
        assert!(got == text("x") || got == Err(Unread::Malformed), "{got:?}");
    }

    #[test]
    fn every_coding_is_read() {
        for coding in CODINGS {
            let body = compressed(ANSWER.as_bytes(), coding);
            assert_eq!(peek(&body, coding, "/run_id"), text("run-42"), "{coding:?}");
        }
        let level = flate2::Compression::default();
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), level);
        raw.write_all(ANSWER.as_bytes()).unwrap();
        let raw = raw.finish().unwrap();
        assert_eq!(peek(&raw, Coding::Deflate, "/run_id"), text("run-42"));
    }

    /// Cut at any byte, an answer says what it says, or nothing.
    #[test]
    fn an_answer_cut_short_says_nothing_else() {
        for coding in CODINGS {
            let body = compressed(ANSWER.as_bytes(), coding);
            for end in 0..body.len() {
                match peek(&body[..end], coding, "/run_id") {
                    Err(_) => {}
                    // Only what tells the end is missing.
                    Ok(found) => {
                        assert_eq!(Ok(found), text("run-42"), "{coding:?} {end}");
                        assert_ne!(coding, Coding::Identity, "{end}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_bomb_goes_off_nowhere() {
        let mut bomb = br#"{"run_id":"run-42","x":""#.to_vec();
        bomb.resize(64 * 1024 * 1024, b' ');
        bomb.extend(br#""}"#);
        for coding in CODINGS.into_iter().skip(1) {
            let body = compressed(&bomb, coding);
            assert!(body.len() < COPY_MAX_BYTES, "{coding:?}");
            assert_eq!(
                peek(&body, coding, "/run_id"),
                Err(Unread::TooLarge),
                "{coding:?}"
            );
        }
    }

    #[test]
    fn a_stream_that_asks_for_much_memory_is_not_read() {
        let large_window = [0x11, 0x1e, 0, 0, 0, 0];
        assert_eq!(
            peek(&large_window, Coding::Brotli, "/a"),
            Err(Unread::Malformed)
        );
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(ANSWER.as_bytes()).unwrap();
        let body = encoder.finish().unwrap();
        assert_eq!(peek(&body, Coding::Zstd, "/run_id"), Err(Unread::Malformed));
    }

    #[test]
    fn the_head_says_what_it_is() {
        let head = |name: http::HeaderName, values: &[&str]| {
            let values = values
                .iter()
                .map(|value| HeaderValue::from_str(value).unwrap());
            values
                .map(|value| (name.clone(), value))
                .collect::<HeaderMap>()
        };
        for (value, is) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/vnd.api+json ; x=y", true),
            ("text/event-stream", false),
            ("application/jsonl", false),
            ("application/json-seq", false),
            ("text/html; q=application/json", false),
        ] {
            assert_eq!(is_json(&head(CONTENT_TYPE, &[value])), is, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
        for (values, coding) in [
            (&[][..], Ok(Coding::Identity)),
            (&["GZIP"], Ok(Coding::Gzip)),
            (&["br"], Ok(Coding::Brotli)),
            (&["gzip, br"], Err(Unread::Encoding)),
            (&["gzip", "br"], Err(Unread::Encoding)),
            (&["compress"], Err(Unread::Encoding)),
        ] {
            assert_eq!(
                Coding::of(&head(CONTENT_ENCODING, values)),
                coding,
                "{values:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(body in proptest::collection::vec(any::<u8>(), 0..300), way in 0..5_usize) {
            let _ = peek(&body, CODINGS[way], "/run_id");
        }

        #[test]
        fn a_damaged_answer_never_panics(at in 0..60_usize, byte in any::<u8>(), way in 0..5_usize) {
            let mut body = compressed(ANSWER.as_bytes(), CODINGS[way]);
            let at = at % body.len();
            body[at] = byte;
            let _ = peek(&body, CODINGS[way], "/run_id");
        }
    }
}
