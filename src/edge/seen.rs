//! What a look over a head shows, once, for everybody who asks of it.
//!
//! Almost every head has nothing in it that framing, identities, method
//! overrides or ids care about. One pass finds that out; whoever finds
//! something here looks closely, as if nobody had looked before. What is seen
//! may be too much and never too little, so nothing is decided by it alone.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST,
    HeaderMap, HeaderValue, TRANSFER_ENCODING, USER_AGENT,
};

/// What one pass over the headers of a request shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// A `Host`.
    pub host: bool,
    /// A `Transfer-Encoding`.
    pub transfer_encoding: bool,
    /// A `Content-Length` that is no number.
    pub odd_length: bool,
    /// A header more than once, whichever.
    pub repeats: bool,
    /// A `Connection` that may nominate headers.
    pub nominates: bool,
    /// A name with an underscore.
    pub underscores: bool,
    /// A name that may override the method.
    pub overrides: bool,
    /// An id of the request, or of its trace.
    pub ids: bool,
    /// What a proxy before this one says of the client.
    pub forwarded: bool,
}

impl Seen {
    /// Looks over the headers of a request.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut seen = Seen {
            repeats: headers.len() != headers.keys_len(),
            ..Seen::default()
        };
        for (name, value) in headers {
            // Names that the standard library of HTTP knows are told apart by a
            // number; text is looked at only of others.
            match *name {
                HOST => seen.host = true,
                CONTENT_LENGTH => seen.odd_length |= !is_number(value.as_bytes()),
                TRANSFER_ENCODING => seen.transfer_encoding = true,
                CONNECTION => seen.nominates |= !is_about_itself(value),
                USER_AGENT | ACCEPT | ACCEPT_ENCODING | CONTENT_TYPE | AUTHORIZATION => {}
                _ => seen.other(name.as_str()),
            }
        }
        seen
    }

    fn other(&mut self, name: &str) {
        // Without an early end, so that many bytes are compared at once.
        let underscore = |seen: bool, byte: u8| seen | (byte == b'_');
        self.underscores |= name.bytes().fold(false, underscore);
        // All names of overrides begin so, in whatever spelling.
        let extension = name.starts_with("x-") || name.starts_with("x_");
        match name.len() {
            11 | 12 => self.ids |= matches!(name, "traceparent" | "x-request-id"),
            15 => self.forwarded |= name == "x-forwarded-for",
            13 | 17 | 22 => {
                self.overrides |= extension;
                self.forwarded |= name == "x-forwarded-proto";
            }
            _ => {}
        }
    }
}

/// Whether a value is digits and nothing else.
#[must_use]
pub fn is_number(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(u8::is_ascii_digit)
}

/// Whether a `Connection` says nothing but what becomes of the connection.
fn is_about_itself(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::framing::is_spelling_of;
    use crate::edge::route::METHOD_OVERRIDE_HEADERS;

    fn seen(headers: &[(&'static str, &str)]) -> Seen {
        let headers = headers.iter();
        Seen::of(
            &headers
                .map(|(n, v)| (n.parse::<http::HeaderName>().unwrap(), v.parse().unwrap()))
                .collect(),
        )
    }

    #[test]
    fn an_ordinary_head_shows_its_host_and_nothing_else() {
        let ordinary = seen(&[
            ("host", "x"),
            ("user-agent", "a_b"),
            ("accept", "*/*"),
            ("accept-encoding", "gzip"),
            ("connection", "Keep-Alive"),
            ("content-type", "application/json"),
            ("content-length", "65"),
            ("authorization", "Bearer a_b"),
            ("x-team-id", "a_b"),
            ("idempotency-key", "1"),
        ]);
        let host = Seen {
            host: true,
            ..Seen::default()
        };
        assert_eq!(ordinary, host);
    }

    #[test]
    fn every_spelling_of_an_override_is_seen() {
        for known in &METHOD_OVERRIDE_HEADERS {
            let dashes: Vec<usize> = known.as_str().match_indices('-').map(|(i, _)| i).collect();
            for subset in 0..1_u32 << dashes.len() {
                let mut name = known.as_str().to_owned();
                for (bit, at) in dashes.iter().enumerate() {
                    if subset & (1 << bit) != 0 {
                        name.replace_range(at..&(at + 1), "_");
                    }
                }
                assert!(is_spelling_of(&name, known), "{name}");
                let header = (name.parse().unwrap(), HeaderValue::from_static("POST"));
                assert!(
                    Seen::of(&[header].into_iter().collect()).overrides,
                    "{name}"
                );
            }
        }
    }
}
