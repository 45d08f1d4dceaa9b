//! Reading a request to the admin listener: its path, query, token and body,
//! each with a bound.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use pingora_core::protocols::http::ServerSession;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::{Instant, timeout_at};

use super::trouble::Trouble;
use crate::config::values::Secret;
use crate::edge::framing;

/// The largest body.
const BODY_MAX_BYTES: usize = 64 * 1024;

/// How long a body may take to arrive.
const BODY_MAX: Duration = Duration::from_secs(5);

/// How long, and how much of, a body nobody wants is read away, so that its
/// sender reads the answer instead of a reset connection.
const DRAIN_MAX: Duration = Duration::from_secs(1);
const DRAIN_MAX_BYTES: usize = 1024 * 1024;

/// The segments of a path, each percent-decoded once; `None` if one does not
/// decode to text. A slash inside an id comes as `%2F`.
pub(super) fn segments(path: &str) -> Option<Vec<String>> {
    path.split('/').skip(1).map(decoded).collect()
}

/// The text that a percent-encoded one stands for. Neither a broken escape nor
/// what is no UTF-8 is guessed at.
fn decoded(text: &str) -> Option<String> {
    let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        let value = high.saturating_mul(16).saturating_add(low);
        plain.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(plain).ok()
}

/// What the query says under these names, each at most once.
///
/// # Errors
/// [`Trouble`] for another name, one that stands twice, or text that does not
/// decode.
pub(super) fn query<const N: usize>(
    query: Option<&str>,
    names: [&'static str; N],
) -> Result<[Option<String>; N], Trouble> {
    let mut found = [const { None }; N];
    let pairs = query.unwrap_or_default().split('&');
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let place = names
            .iter()
            .zip(&mut found)
            .find(|(known, _)| **known == name);
        let Some((_, place)) = place else {
            let known = if N == 0 {
                "there is none here".to_owned()
            } else {
                format!("there is {}", names.join(" and "))
            };
            return Err(Trouble::invalid(format!(
                "`{name}` is no parameter of this query: {known}"
            )));
        };
        if place.is_some() {
            return Err(Trouble::invalid(format!(
                "`{name}` stands twice in the query"
            )));
        }
        let value = decoded(value).ok_or_else(|| {
            Trouble::invalid(format!(
                "`{name}` in the query is not percent-encoded UTF-8"
            ))
        })?;
        *place = Some(value);
    }
    Ok(found)
}

/// Whether the request shows the token.
///
/// # Errors
/// [`Trouble`] if there is no token to show, or another one was shown.
pub(super) fn authorize(headers: &HeaderMap, token: Option<&Secret>) -> Result<(), Trouble> {
    let Some(token) = token else {
        return Err(Trouble::closed());
    };
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (shown.next(), shown.next()) else {
        return Err(Trouble::unauthenticated());
    };
    let (scheme, credentials) = match value.as_bytes().split_first_chunk::<7>() {
        Some((scheme, credentials)) => (scheme, credentials.trim_ascii()),
        None => return Err(Trouble::unauthenticated()),
    };
    // Digests have one length, so that not even the token's length shows.
    let same = Sha256::digest(credentials).ct_eq(&Sha256::digest(token.expose().trim().as_bytes()));
    if scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(same) {
        Ok(())
    } else {
        Err(Trouble::unauthenticated())
    }
}

/// Whether it is told without doubt where the request ends.
///
/// # Errors
/// [`Trouble`] if two parties could disagree.
pub(super) fn framing(session: &ServerSession) -> Result<(), Trouble> {
    let http1 = session.as_http1();
    let raw_head = http1.map(|http1| http1.get_headers_raw_bytes());
    framing::check(session.req_header(), raw_head.as_deref()).map_err(Trouble::invalid)
}

/// Reads a JSON object with known members, each at most once.
///
/// # Errors
/// [`Trouble`] for a body of another type, too large, too slow or with anything
/// else in it.
pub(super) async fn json<T: DeserializeOwned>(session: &mut ServerSession) -> Result<T, Trouble> {
    let body = body(session).await?;
    // A release has nothing to say.
    let text = if body.is_empty() { b"{}" } else { &body[..] };
    // A list of the same length would be taken for the members in order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(Trouble::invalid(
            "the body is not a JSON object, such as {\"credits\": \"12.5\"}",
        ));
    }
    serde_json::from_slice(text).map_err(|error| Trouble::invalid(format!("the body: {error}")))
}

async fn body(session: &mut ServerSession) -> Result<Vec<u8>, Trouble> {
    let headers = &session.req_header().headers;
    let kind = headers.get(header::CONTENT_TYPE).cloned();
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| usize::try_from(length).is_ok_and(|l| l > BODY_MAX_BYTES)) {
        return Err(too_large());
    }
    if headers.contains_key(header::EXPECT) && session.write_continue_response().await.is_err() {
        return Err(broken());
    }
    let deadline = after(BODY_MAX);
    let mut body = Vec::new();
    loop {
        let read = timeout_at(deadline, session.read_request_body()).await;
        let read = read.map_err(|_| {
            Trouble::invalid("the body did not arrive in time").status(StatusCode::REQUEST_TIMEOUT)
        })?;
        match read.map_err(|_| broken())? {
            None => break,
            Some(bytes) => body.extend_from_slice(&bytes),
        }
        if body.len() > BODY_MAX_BYTES {
            return Err(too_large());
        }
    }
    let is_json = kind.as_ref().is_some_and(|kind| {
        let essence = kind.as_bytes().split(|byte| *byte == b';').next();
        essence.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"application/json"))
    });
    if !body.is_empty() && !is_json {
        return Err(
            Trouble::invalid("send the body as content-type: application/json")
                .status(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        );
    }
    Ok(body)
}

fn too_large() -> Trouble {
    Trouble::invalid(format!("the body is larger than {BODY_MAX_BYTES} bytes"))
        .status(StatusCode::PAYLOAD_TOO_LARGE)
}

fn broken() -> Trouble {
    Trouble::invalid("the body ended before it was complete, or is not framed as it says")
}

/// Reads away what of a request nobody has read. A client that waits to be
/// told to send its body has sent none.
pub(super) async fn drain(session: &mut ServerSession) {
    if session.is_body_done() || session.req_header().headers.contains_key(header::EXPECT) {
        return;
    }
    let deadline = after(DRAIN_MAX);
    let mut dropped = 0_usize;
    while dropped < DRAIN_MAX_BYTES {
        match timeout_at(deadline, session.read_request_body()).await {
            Ok(Ok(Some(bytes))) => dropped = dropped.saturating_add(bytes.len()),
            _ => return,
        }
    }
}

fn after(span: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(span).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn ids_are_decoded_once_and_never_guessed() {
        let plain = |path| segments(path);
        assert_eq!(plain("/v1/a%2Fb").unwrap(), ["v1", "a/b"]);
        assert_eq!(plain("/a%252Fb").unwrap(), ["a%2Fb"]);
        for broken in ["/%", "/%2", "/%zz", "/%ff"] {
            assert_eq!(plain(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_query_has_known_names_once() {
        let read = |text| query(Some(text), ["after", "limit"]);
        let [after, limit] = read("limit=5&after=1%2D0").unwrap();
        assert_eq!(
            (after.as_deref(), limit.as_deref()),
            (Some("1-0"), Some("5"))
        );
        for wrong in ["limit=1&limit=1", "page=1", "after=%"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(query(Some("x=1"), []).is_err());
    }

    #[test]
    fn only_the_token_opens() {
        let token: Secret = "s3cret".parse().unwrap();
        let shown = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            authorize(&headers, Some(&token)).is_ok()
        };
        assert!(shown(&["Bearer s3cret"]));
        assert!(shown(&["bearer s3cret"]));
        for wrong in [
            &[][..],
            &["s3cret"],
            &["Bearer"],
            &["Bearer "],
            &["Bearer s3cre"],
            &["Bearer s3crets"],
            &["Basic s3cret"],
            &["Bearer s3cret", "Bearer s3cret"],
        ] {
            assert!(!shown(wrong), "{wrong:?}");
        }
        assert!(authorize(&HeaderMap::new(), None).is_err());
    }
}
