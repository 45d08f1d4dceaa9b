//! Request and trace ids: continued where the client sent them, made where not.
//!
//! `traceparent` is `00-<32 hex>-<16 hex>-<2 hex>` (W3C Trace Context); one
//! that is malformed or all zero starts a new trace, as the standard asks. A
//! trace that begins here is not marked as sampled: the gateway records no
//! spans, and marking would override the upstream's own sampling.

use std::borrow::Cow;
use std::cell::RefCell;

use http::header::{HeaderMap, HeaderName};
use rand::rngs::SmallRng;
use rand::{Rng as _, make_rng};

use super::forward::Outgoing;

/// The request's id.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's place in a trace.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The most bytes of a client's request id that are logged.
const REQUEST_ID_MAX_BYTES: usize = 128;

/// Bytes of a `traceparent` that is made here.
const PARENT_BYTES: usize = 55;

thread_local! {
    /// Where ids come from. They have to be unique, not secret: nothing is
    /// granted for knowing one.
    static DRAW: RefCell<SmallRng> = RefCell::new(make_rng());
}

/// The ids of one request. Text is made of them where somebody wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    request: RequestId,
    trace: u128,
    origin: Origin,
    /// Whether the request brought nothing of the kind, good or bad.
    is_all_made: bool,
}

/// A request's id.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RequestId {
    /// The client's, as it may stand in a log.
    Sent(String),
    /// One that was made.
    Made(u128),
}

impl Default for RequestId {
    fn default() -> Self {
        RequestId::Made(0)
    }
}

/// Where a trace comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Origin {
    /// The client's `traceparent`.
    #[default]
    Client,
    /// It begins here.
    Made,
}

impl Ids {
    /// Takes the ids of a request, or makes them.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get(&X_REQUEST_ID).filter(|sent| !sent.is_empty());
        let request = sent.map(|sent| RequestId::Sent(loggable(sent.as_bytes())));
        let mut parents = headers.get_all(&TRACEPARENT).iter();
        let trace = match (parents.next(), parents.next()) {
            (Some(parent), None) => trace_of(parent.as_bytes()),
            _ => None,
        };
        Self::complete_with(request, trace)
    }

    /// New ids, for a request that brought none.
    #[must_use]
    pub fn made() -> Self {
        Ids {
            is_all_made: true,
            ..Self::complete_with(None, None)
        }
    }

    /// Makes what was not sent. Zero is no id; the odds of drawing it are those
    /// of never.
    fn complete_with(request: Option<RequestId>, trace: Option<u128>) -> Self {
        Ids {
            request: request.unwrap_or_else(|| RequestId::Made(draw_id())),
            origin: match trace {
                Some(_) => Origin::Client,
                None => Origin::Made,
            },
            trace: trace.unwrap_or_else(draw_id),
            is_all_made: false,
        }
    }

    /// The request's id, as logged.
    #[must_use]
    pub fn request_id(&self) -> Cow<'_, str> {
        match &self.request {
            RequestId::Sent(sent) => Cow::Borrowed(sent),
            RequestId::Made(id) => Cow::Owned(text(&digits_of_id(*id))),
        }
    }

    /// The trace's id, 32 hex digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        text(&digits_of_id(self.trace))
    }

    /// Puts what is missing into a head on its way to the upstream. What the
    /// client sent may have been dropped on the way, if it nominated it.
    ///
    /// # Errors
    /// If a header cannot be set.
    pub fn complete(&self, head: &mut Outgoing<'_>) -> pingora_error::Result<()> {
        if self.is_all_made {
            head.add_header(&TRACEPARENT, new_parent(self.trace))?;
        } else if self.origin == Origin::Made || !head.headers().contains_key(&TRACEPARENT) {
            head.insert_header(&TRACEPARENT, new_parent(self.trace))?;
        }
        match &self.request {
            RequestId::Made(id) if self.is_all_made => {
                head.add_header(&X_REQUEST_ID, digits_of_id(*id))
            }
            RequestId::Made(id) => head.insert_header(&X_REQUEST_ID, digits_of_id(*id)),
            // An empty one counts as none, and what was made goes in its place.
            RequestId::Sent(_) if head.headers().contains_key(&X_REQUEST_ID) => Ok(()),
            RequestId::Sent(sent) => head.insert_header(&X_REQUEST_ID, sent),
        }
    }
}

/// An id that nobody else has.
fn draw_id() -> u128 {
    let (high, low) = DRAW.with_borrow_mut(|draw| (draw.next_u64(), draw.next_u64()));
    (u128::from(high) << 64) | u128::from(low)
}

/// A new place in a trace.
fn new_parent(trace: u128) -> [u8; PARENT_BYTES] {
    let span = DRAW.with_borrow_mut(|draw| draw.next_u64());
    let (trace, span) = (digits_of_id(trace), digits_of(span));
    let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let (_, rest) = parent.split_at_mut(3);
    let (trace_place, rest) = rest.split_at_mut(trace.len());
    trace_place.copy_from_slice(&trace);
    let (_, rest) = rest.split_at_mut(1);
    let (span_place, _) = rest.split_at_mut(span.len());
    span_place.copy_from_slice(&span);
    parent
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    let digits = |byte: &u8| [digit(byte >> 4), digit(byte & 15)];
    bytes.iter().flat_map(digits).collect()
}

/// The lower-case hex digits of a number, all sixteen at once: each is made in a
/// byte of its own of one wide number.
fn digits_of(number: u64) -> [u8; 16] {
    let mut spread = u128::from(number);
    for (shift, kept) in [
        (32, 0x0000_0000_ffff_ffff_0000_0000_ffff_ffff),
        (16, 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_u128),
    ] {
        spread = (spread | spread << shift) & kept;
    }
    let each = u128::from_be_bytes([1; 16]);
    let letters = (spread.wrapping_add(each.wrapping_mul(6)) >> 4) & each;
    // No byte overflows into the next: the greatest digit is `f`.
    spread
        .wrapping_add(each.wrapping_mul(b'0'.into()))
        .wrapping_add(letters.wrapping_mul((b'a' - b'0' - 10).into()))
        .to_be_bytes()
}

/// The digits of an id.
fn digits_of_id(id: u128) -> [u8; 32] {
    let mut digits = [b'0'; 32];
    let (high, low) = digits.split_at_mut(16);
    let bytes = id.to_be_bytes();
    let number = |half: Option<&[u8; 8]>| half.copied().map(u64::from_be_bytes);
    high.copy_from_slice(&digits_of(number(bytes.first_chunk()).unwrap_or_default()));
    low.copy_from_slice(&digits_of(number(bytes.last_chunk()).unwrap_or_default()));
    digits
}

/// Digits, which are ASCII, as text.
fn text(digits: &[u8]) -> String {
    std::str::from_utf8(digits).unwrap_or_default().to_owned()
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

/// The trace of a `traceparent`, if that counts.
fn trace_of(parent: &[u8]) -> Option<u128> {
    let mut fields = std::str::from_utf8(parent).ok()?.split('-');
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
    let counts = fits && is_set(trace) && is_set(span);
    counts.then(|| u128::from_str_radix(trace, 16).ok())?
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

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
        assert_eq!(ids.request_id(), "r_1");
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
            assert_eq!(
                trace_of(&new_parent(ids.trace)),
                Some(ids.trace),
                "{parent}"
            );
        }
    }

    #[test]
    fn no_two_requests_share_an_id_whichever_thread_they_are_on() {
        let draw = || (0..1000).map(|_| Ids::made()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let ids: Vec<Ids> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        let mut texts: Vec<String> = ids
            .iter()
            .flat_map(|ids| [ids.request_id().into_owned(), ids.trace_id()])
            .collect();
        let digits =
            |text: &String| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(texts.iter().all(digits));
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), 8000);
    }

    #[test]
    fn the_upstream_gets_the_ids_that_are_logged() {
        let mut request = RequestHeader::build("POST", b"/", None).unwrap();
        for ids in [Ids::of(&request.headers), Ids::made()] {
            ids.complete(&mut Outgoing::within(&mut request)).unwrap();
            assert_eq!(request.headers["x-request-id"], *ids.request_id());
            let parent = request.headers["traceparent"].to_str().unwrap();
            assert_eq!(parent.len(), PARENT_BYTES);
            assert_eq!(parent.split('-').nth(1), Some(&*ids.trace_id()));
            assert_eq!(trace_of(parent.as_bytes()), Some(ids.trace));
        }
    }

    #[test]
    fn digits_are_those_of_the_number() {
        for number in [0, 1, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, u64::MAX] {
            assert_eq!(digits_of(number), *format!("{number:016x}").as_bytes());
            let id = u128::from(number) << 64 | 0xa9;
            assert_eq!(digits_of_id(id), *format!("{id:032x}").as_bytes());
        }
        assert_eq!(hex(&[0, 0x9f, 0xff]), "009fff");
    }
}
