//! Request heads that cannot be understood safely.
//!
//! Two parties that disagree about where a request ends, or about which of two
//! headers counts, can be played against each other. Pingora refuses the worst
//! of it before this is reached (differing lengths, folded lines, blanks before
//! a colon, two hosts); what it repairs in silence is refused here instead:
//! the client gets a 400, and nothing of the request reaches the upstream.
//! [`check`] holds for every request, [`check_names`] for start routes.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, TRANSFER_ENCODING};
use http::{Method, Version};
use pingora_http::RequestHeader;

use super::seen::{Seen, is_number};

/// Headers that frame a message or say whose it is; nominating one in
/// `Connection` would make a hop drop it that the next one relies on.
const FRAMING: [HeaderName; 3] = [CONTENT_LENGTH, TRANSFER_ENCODING, HOST];

/// Why a head is refused, for the `detail` of the problem.
pub type Detail = &'static str;

/// Checks the framing of a request. `raw_head` is the head as received, where
/// the protocol has one (HTTP/1).
///
/// # Errors
/// What is wrong with it.
pub fn check(request: &RequestHeader, raw_head: Option<&[u8]>) -> Result<(), Detail> {
    let headers = &request.headers;
    if request.version == Version::HTTP_11 && !headers.contains_key(HOST) {
        return Err("the Host header is missing");
    }
    if headers.contains_key(CONTENT_LENGTH) {
        content_length(headers)?;
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        transfer_encoding(headers)?;
        // Pingora drops the length when both are there, so only the raw head
        // still shows it (RFC 9112, section 6.1).
        if headers.contains_key(CONTENT_LENGTH) || raw_head.is_some_and(has_content_length) {
            return Err("Content-Length and Transfer-Encoding exclude each other");
        }
    }
    nominated(headers, &FRAMING)?;
    underscored(headers, &FRAMING)?;
    if raw_head.is_some_and(is_fragment) {
        return Err("the request target is not a path");
    }
    target(request)
}

/// As [`check`], of a request whose headers were looked over already: an
/// ordinary one is not looked at again.
///
/// # Errors
/// As [`check`].
pub fn check_seen(
    request: &RequestHeader,
    seen: Seen,
    raw_head: Option<&[u8]>,
) -> Result<(), Detail> {
    let has_host = seen.host || request.version != Version::HTTP_11;
    let odd = seen.transfer_encoding
        || seen.odd_length
        || seen.repeats
        || seen.nominates
        || seen.underscores;
    // A target that was nothing but a fragment is `/` by now, and no longer.
    let target = request.raw_path();
    if has_host && !odd && target.len() > 1 && target.starts_with(b"/") {
        return Ok(());
    }
    check(request, raw_head)
}

/// As [`check_names`], of headers that were looked over already.
///
/// # Errors
/// As [`check_names`].
pub fn check_names_seen(
    headers: &HeaderMap,
    seen: Seen,
    names: &[HeaderName],
) -> Result<(), Detail> {
    if seen.repeats || seen.nominates || seen.underscores {
        return check_names(headers, names);
    }
    Ok(())
}

/// Checks that the headers that decide who pays, how much is set aside, or that
/// a replay is a replay, stand there once, are not nominated in `Connection`,
/// and have no double in underscore spelling (RFC 9110, section 7.6.1; some servers map `_` to `-`).
///
/// # Errors
/// What is wrong with it.
pub fn check_names(headers: &HeaderMap, names: &[HeaderName]) -> Result<(), Detail> {
    let repeats = |name: &HeaderName| headers.get_all(name).iter().nth(1).is_some();
    if names.iter().any(repeats) {
        return Err("a header that decides who pays, or for what, is repeated");
    }
    nominated(headers, names)?;
    underscored(headers, names)
}

fn content_length(headers: &HeaderMap) -> Result<(), Detail> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if is_number(value.as_bytes()) => Ok(()),
        (Some(_), None) => Err("Content-Length is not a number"),
        _ => Err("Content-Length is repeated"),
    }
}

fn transfer_encoding(headers: &HeaderMap) -> Result<(), Detail> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err("the only Transfer-Encoding understood is a single `chunked`"),
    }
}

/// Whether a raw head has a Content-Length line, however its name is written.
fn has_content_length(head: &[u8]) -> bool {
    let name = CONTENT_LENGTH.as_str().as_bytes();
    head.split(|byte| *byte == b'\n').skip(1).any(|line| {
        let written = line.split(|byte| *byte == b':').next().unwrap_or_default();
        written.trim_ascii().eq_ignore_ascii_case(name)
    })
}

fn nominated(headers: &HeaderMap, names: &[HeaderName]) -> Result<(), Detail> {
    for value in headers.get_all(CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            if names
                .iter()
                .any(|name| token.eq_ignore_ascii_case(name.as_str().as_bytes()))
            {
                return Err("Connection nominates a header that must reach its end");
            }
        }
    }
    Ok(())
}

/// Whether a header name is this one to a server that takes `_` for `-`.
#[must_use]
pub fn is_spelling_of(written: &str, name: &HeaderName) -> bool {
    let name = name.as_str();
    written.len() == name.len()
        && written
            .bytes()
            .zip(name.bytes())
            .all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}

fn underscored(headers: &HeaderMap, names: &[HeaderName]) -> Result<(), Detail> {
    for written in headers
        .keys()
        .map(HeaderName::as_str)
        .filter(|name| name.as_bytes().contains(&b'_'))
    {
        if names.iter().any(|name| is_spelling_of(written, name)) {
            return Err("a header that must be unmistakable is written with underscores");
        }
    }
    Ok(())
}

/// Whether a head's target is nothing but a fragment, which Pingora drops.
fn is_fragment(raw_head: &[u8]) -> bool {
    // Empty lines before the request line are ignored (RFC 9112, section 2.2).
    let line = raw_head.trim_ascii_start();
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1);
    target.is_some_and(|target| target.starts_with(b"#"))
}

/// A target is a path, an absolute form, or the `*` of OPTIONS (RFC 9112,
/// section 3.2).
fn target(request: &RequestHeader) -> Result<(), Detail> {
    let target = request.raw_path();
    let absolute = || {
        let scheme = target
            .split(|byte| *byte == b':')
            .next()
            .unwrap_or_default();
        (scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https"))
            && target
                .get(scheme.len()..)
                .is_some_and(|rest| rest.starts_with(b"://"))
    };
    let asterisk = || target == b"*" && request.method == Method::OPTIONS;
    if target.starts_with(b"/") || absolute() || asterisk() {
        return Ok(());
    }
    Err("the request target is not a path")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn request(method: &str, target: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn verdict(headers: &[(&'static str, &str)], raw: &str) -> Result<(), Detail> {
        let mut all = vec![("host", "x")];
        all.extend_from_slice(headers);
        check(&request("POST", "/x", &all), Some(raw.as_bytes()))
    }

    #[test]
    fn honest_framing_passes() {
        for headers in [
            &[][..],
            &[("content-length", "0")],
            &[("transfer-encoding", "chunked")],
            &[
                ("transfer-encoding", "Chunked"),
                ("connection", "keep-alive, te"),
            ],
            &[("x_custom", "1")],
        ] {
            assert_eq!(
                verdict(headers, "POST /x HTTP/1.1\r\nHost: x\r\n\r\n"),
                Ok(())
            );
        }
    }

    #[test]
    fn every_way_to_smuggle_is_refused() {
        for headers in [
            &[("content-length", "5"), ("content-length", "5")][..],
            &[("content-length", "5, 5")],
            &[("content-length", "+5")],
            &[("transfer-encoding", "gzip, chunked")],
            &[
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked"),
            ],
            &[("transfer-encoding", "xchunked")],
            &[("transfer-encoding", "chunked"), ("content-length", "5")],
            &[("connection", "close, Content-Length")],
            &[("connection", "transfer-encoding")],
            &[("content_length", "5")],
            &[("transfer_encoding", "chunked")],
        ] {
            let head = "POST /x HTTP/1.1\r\n\r\n";
            assert!(verdict(headers, head).is_err(), "{headers:?}");
        }
        let hidden = "POST /x HTTP/1.1\r\nHost: x\r\ncontent-LENGTH : 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(verdict(&[("transfer-encoding", "chunked")], hidden).is_err());
    }

    #[test]
    fn a_target_is_more_than_a_fragment() {
        for (line, good) in [
            ("POST /x HTTP/1.1", true),
            ("POST /x#f HTTP/1.1", true),
            ("\r\nPOST /x HTTP/1.1", true),
            ("POST #/x HTTP/1.1", false),
        ] {
            let head = format!("{line}\r\nHost: x\r\n\r\n");
            assert_eq!(verdict(&[], &head).is_ok(), good, "{line:?}");
        }
    }

    #[test]
    fn host_and_target_must_be_there() {
        assert!(check(&request("GET", "/", &[]), None).is_err());
        for (method, target, good) in [
            ("GET", "/", true),
            ("GET", "http://h/x", true),
            ("OPTIONS", "*", true),
            ("GET", "*", false),
            ("GET", "x/y", false),
            ("GET", "?q", false),
            ("GET", "ftp://h/x", false),
        ] {
            let got = check(&request(method, target, &[("host", "x")]), None);
            assert_eq!(got.is_ok(), good, "{method} {target}");
        }
    }

    #[test]
    fn names_that_decide_who_pays_stand_there_once() {
        let names = [
            HeaderName::from_static("x-team-id"),
            http::header::AUTHORIZATION,
        ];
        let check = |headers: &[(&'static str, &str)]| {
            check_names(&request("POST", "/", headers).headers, &names)
        };
        assert!(check(&[("x-team-id", "a"), ("authorization", "b")]).is_ok());
        assert!(check(&[("x-team-id", "a"), ("x-team-id", "a")]).is_err());
        assert!(check(&[("x_team_id", "a")]).is_err());
        assert!(check(&[("x-team_id", "a")]).is_err());
        assert!(check(&[("connection", "X-Team-Id")]).is_err());
    }

    const NAMES: [&str; 20] = [
        "host",
        "content-length",
        "content_length",
        "transfer-encoding",
        "transfer_encoding",
        "connection",
        "authorization",
        "x-team-id",
        "x_team_id",
        "x-team_id",
        "idempotency-key",
        "idempotency_key",
        "x-http-method",
        "x_http_method",
        "user-agent",
        "accept",
        "cookie",
        "x-custom",
        "x_custom",
        "traceparent",
    ];

    const VALUES: [&str; 16] = [
        "",
        "0",
        "65",
        "+5",
        "5, 5",
        "chunked",
        "Chunked",
        "gzip, chunked",
        "close",
        "keep-alive",
        "Keep-Alive, te",
        "x-team-id",
        "close, Content-Length",
        "host",
        "authorization",
        "a_b",
    ];

    const TARGETS: [&str; 12] = [
        "/",
        "/x",
        "//",
        "/x#f",
        "#/x",
        "#",
        "",
        "?q",
        "*",
        "x/y",
        "http://h/x",
        "/api/v1/agent/tasks?x=#y",
    ];

    proptest! {
        #[test]
        fn who_looked_over_a_head_before_comes_to_the_same(
            headers in proptest::collection::vec((0..NAMES.len(), 0..VALUES.len()), 0..6),
            target in 0..TARGETS.len(),
            version in 0..3_usize,
            method in 0..2_usize,
        ) {
            let (method, target) = (["POST", "OPTIONS"][method], TARGETS[target]);
            let Ok(mut request) = RequestHeader::build(method, target.as_bytes(), None) else {
                return Ok(());
            };
            request.set_version([Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][version]);
            let mut raw = format!("{method} {target} HTTP/1.1\r\n");
            for (name, value) in &headers {
                let value = HeaderValue::from_static(VALUES[*value]);
                raw.push_str(&format!("{}: {}\r\n", NAMES[*name], value.to_str().unwrap()));
                request.append_header(NAMES[*name], value).unwrap();
            }
            let seen = Seen::of(&request.headers);
            for raw in [None, Some(raw.as_bytes())] {
                prop_assert_eq!(check_seen(&request, seen, raw), check(&request, raw));
            }
            let names = [
                http::header::AUTHORIZATION,
                HeaderName::from_static("idempotency-key"),
                HeaderName::from_static("x-team-id"),
            ];
            let headers = &request.headers;
            prop_assert_eq!(check_names_seen(headers, seen, &names), check_names(headers, &names));
        }
    }
}
