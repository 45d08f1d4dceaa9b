//! Request and trace ids: continued where the client sent them, made where not.
//!
//! `traceparent` is `00-<32 hex>-<16 hex>-<2 hex>` (W3C Trace Context); one
//! that is malformed or all zero starts a new trace, as the standard asks. A
//! trace that begins here is not marked as sampled: the gateway records no
//! spans, and marking would override the upstream's own sampling.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use rand::RngExt as _;

/// The request's id.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's place in a trace.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The most bytes of a client's request id that are logged.
const REQUEST_ID_MAX_BYTES: usize = 128;

/// The ids of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The request's id, as logged.
    pub request_id: String,
    /// `traceparent`: the client's, if it counts, or one that was made.
    parent: String,
    origin: Origin,
}

/// Where a `traceparent` comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Origin {
    #[default]
    Client,
    Made,
}

impl Ids {
    /// Takes the ids of a request, or makes them.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get(&X_REQUEST_ID).filter(|sent| !sent.is_empty());
        let request_id = match sent {
            Some(sent) => loggable(sent.as_bytes()),
            None => hex(&rand::rng().random::<[u8; 16]>()),
        };
        let mut parents = headers.get_all(&TRACEPARENT).iter();
        let parent = parents.next().and_then(|value| {
            let text = std::str::from_utf8(value.as_bytes()).ok()?;
            counts(text).then_some(text)
        });
        let (parent, origin) = match (parent, parents.next()) {
            (Some(parent), None) => (parent.to_owned(), Origin::Client),
            // Zero is no id; the odds of drawing it are those of never.
            _ => {
                let trace_id = hex(&rand::rng().random::<[u8; 16]>());
                (new_parent(&trace_id), Origin::Made)
            }
        };
        Ids {
            request_id,
            parent,
            origin,
        }
    }

    /// The trace's id, 32 hex digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.parent.split('-').nth(1).unwrap_or_default()
    }

    /// Puts what is missing into a head on its way to the upstream. What the
    /// client sent may have been dropped on the way, if it nominated it.
    ///
    /// # Errors
    /// If a header cannot be set.
    pub fn complete(&self, head: &mut RequestHeader) -> pingora_error::Result<()> {
        let sent = head.headers.get(&X_REQUEST_ID);
        if sent.is_none_or(HeaderValue::is_empty) {
            head.insert_header("x-request-id", self.request_id.as_str())?;
        }
        match self.origin {
            Origin::Client if head.headers.contains_key(&TRACEPARENT) => Ok(()),
            Origin::Client => head.insert_header("traceparent", new_parent(self.trace_id())),
            Origin::Made => head.insert_header("traceparent", self.parent.as_str()),
        }
    }
}

/// A new place in a trace.
fn new_parent(trace_id: &str) -> String {
    let span_id = hex(&rand::rng().random::<[u8; 8]>());
    ["00-", trace_id, "-", &span_id, "-00"].concat()
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| {
        let from = if nibble < 10 { b'0' } else { b'a' - 10 };
        from.saturating_add(nibble)
    };
    let mut digits = vec![0; bytes.len().saturating_mul(2)];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    // They are ASCII.
    String::from_utf8(digits).unwrap_or_default()
}

/// A client's id as it may stand in a log: visible ASCII, bounded.
fn loggable(id: &[u8]) -> String {
    let safe = |byte: &u8| {
        if byte.is_ascii_graphic() {
            char::from(*byte)
        } else {
            '_'
        }
    };
    id.iter().take(REQUEST_ID_MAX_BYTES).map(safe).collect()
}

/// Whether a `traceparent` counts.
fn counts(parent: &str) -> bool {
    let mut fields = parent.split('-');
    let mut next = || fields.next().unwrap_or_default();
    let (version, trace, span, flags) = (next(), next(), next(), next());
    let hex = |field: &str, digits: usize| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        field.len() == digits && field.bytes().all(is_digit)
    };
    let is_set = |field: &str| field.bytes().any(|byte| byte != b'0');
    let known_version = hex(version, 2) && version != "ff";
    // Only version 00 says that nothing may follow the flags.
    let ends = version != "00" || fields.next().is_none();
    let fits = known_version && ends && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    fits && is_set(trace) && is_set(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(headers: &[(&'static str, &str)]) -> Ids {
        let headers = headers.iter();
        Ids::of(
            &headers
                .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()))
                .collect(),
        )
    }

    #[test]
    fn what_the_client_sent_is_continued() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let ids = ids(&[("x-request-id", "r 1"), ("traceparent", parent)]);
        assert_eq!(ids.request_id, "r_1");
        assert_eq!(ids.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(ids.origin, Origin::Client);
    }

    #[test]
    fn what_does_not_count_starts_a_new_trace() {
        let zero = "0".repeat(32);
        for parent in [
            "",
            "00",
            "nonsense",
            &format!("00-{zero}-b7ad6b7169203331-01"),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            let ids = ids(&[("traceparent", parent)]);
            assert_eq!(ids.origin, Origin::Made, "{parent}");
            assert!(counts(&ids.parent), "{parent}");
        }
    }
}
