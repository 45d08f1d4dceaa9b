//! Signatures of deliveries: HMAC-SHA256 over the raw body, and a time window.
//!
//! Secrets are tried one after the other, each compared in constant time: which
//! of them fits may be seen by the clock, how much of a signature fits may not.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::HeaderName;
use ring::hmac;
use subtle::ConstantTimeEq;

use super::json::float;
use crate::config::values::Secret;

/// What Slack's signature begins with: its version.
const SLACK_VERSION: &str = "v0=";

/// How far Slack's timestamp may be away, on either side: what Slack's own
/// verifiers allow.
const SLACK_WINDOW: Duration = Duration::from_secs(300);

/// How far Linear's timestamp may be away, in milliseconds, on either side: what
/// Linear's own verifier allows.
const LINEAR_WINDOW_MS: f64 = 60_000.0;

/// Digits of a timestamp in seconds: more than any `u64` in use, and few
/// enough that it cannot overflow.
const SECONDS_MAX_DIGITS: usize = 19;

/// Bytes of a SHA-256.
const DIGEST_BYTES: usize = 32;

/// `X-Slack-Signature`.
pub const SLACK_SIGNATURE: HeaderName = HeaderName::from_static("x-slack-signature");

/// `X-Slack-Request-Timestamp`: seconds since 1970.
pub const SLACK_TIMESTAMP: HeaderName = HeaderName::from_static("x-slack-request-timestamp");

/// `Linear-Signature`.
pub const LINEAR_SIGNATURE: HeaderName = HeaderName::from_static("linear-signature");

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureFault {
    /// There is none, or not all that belongs to it.
    Missing,
    /// It cannot be one.
    Malformed,
    /// None of the secrets made it for this body and time.
    Mismatch,
    /// It was made too long ago.
    Stale,
    /// It was made in the future.
    Early,
}

impl SignatureFault {
    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            SignatureFault::Missing => "signature_missing",
            SignatureFault::Malformed => "signature_malformed",
            SignatureFault::Mismatch => "signature_mismatch",
            SignatureFault::Stale => "signature_stale",
            SignatureFault::Early => "signature_early",
        }
    }
}

/// Whether Slack signed this body, not long ago.
///
/// The form is looked at first, then the window, then the signature.
///
/// # Errors
/// Why it does not hold.
pub fn verify_slack(
    secrets: &[Secret],
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> Result<(), SignatureFault> {
    let (timestamp, digest) = claimed_by_slack(headers, now)?;
    // What is signed is `v0:<timestamp>:<body>`.
    let parts = [b"v0:", timestamp.as_bytes(), b":", body];
    is_signed(secrets, &parts, &digest)
}

/// The time and the signature that a head claims, as Slack would write them
/// about now. It says nothing of who wrote them.
///
/// # Errors
/// Why they cannot hold, whatever the body is.
pub fn claimed_by_slack(
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<(&str, [u8; DIGEST_BYTES]), SignatureFault> {
    let signature = alone(headers, &SLACK_SIGNATURE)?;
    let timestamp = alone(headers, &SLACK_TIMESTAMP)?;
    let digest = signature
        .strip_prefix(SLACK_VERSION)
        .and_then(digest)
        .ok_or(SignatureFault::Malformed)?;
    let seconds = seconds(timestamp).ok_or(SignatureFault::Malformed)?;
    let (now, sent) = (since_1970(now), Duration::from_secs(seconds));
    if now.saturating_sub(sent) > SLACK_WINDOW {
        return Err(SignatureFault::Stale);
    }
    if sent.saturating_sub(now) > SLACK_WINDOW {
        return Err(SignatureFault::Early);
    }
    Ok((timestamp, digest))
}

/// Whether Linear signed this body. When, is in the body: see
/// [`is_recent_linear`].
///
/// # Errors
/// Why it does not hold.
pub fn verify_linear(
    secrets: &[Secret],
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), SignatureFault> {
    let digest = claimed_by_linear(headers)?;
    is_signed(secrets, &[body], &digest)
}

/// The signature that a head claims, as Linear would write it.
///
/// # Errors
/// Why it cannot hold, whatever the body is.
pub fn claimed_by_linear(headers: &HeaderMap) -> Result<[u8; DIGEST_BYTES], SignatureFault> {
    let signature = alone(headers, &LINEAR_SIGNATURE)?;
    digest(signature).ok_or(SignatureFault::Malformed)
}

/// Whether a delivery of Linear was sent not long ago: at `sent_ms`,
/// milliseconds since 1970.
///
/// # Errors
/// [`Stale`](SignatureFault::Stale) or [`Early`](SignatureFault::Early).
pub fn is_recent_linear(sent_ms: f64, now: SystemTime) -> Result<(), SignatureFault> {
    // Whole milliseconds, and `f64`, are what Linear's own verifier counts in.
    let now_ms = since_1970(now).as_millis();
    let ahead_ms = sent_ms - float(u64::try_from(now_ms).unwrap_or(u64::MAX));
    if ahead_ms < -LINEAR_WINDOW_MS {
        return Err(SignatureFault::Stale);
    }
    if ahead_ms > LINEAR_WINDOW_MS {
        return Err(SignatureFault::Early);
    }
    Ok(())
}

/// The header that stands there once.
fn alone<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, SignatureFault> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(SignatureFault::Missing)?;
    if values.next().is_some() {
        return Err(SignatureFault::Malformed);
    }
    let text = value.to_str().map_err(|_| SignatureFault::Malformed)?;
    (!text.is_empty())
        .then_some(text)
        .ok_or(SignatureFault::Missing)
}

/// Seconds in decimal digits and nothing else: no sign, no blank, no point.
fn seconds(text: &str) -> Option<u64> {
    let fits = text.len() <= SECONDS_MAX_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

/// 64 lower-case hex digits. The senders write nothing else, and their own
/// verifiers compare the text.
fn digest(text: &str) -> Option<[u8; DIGEST_BYTES]> {
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte.saturating_sub(b'0')),
        b'a'..=b'f' => Some(byte.saturating_sub(b'a').saturating_add(10)),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != DIGEST_BYTES || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; DIGEST_BYTES];
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (nibble(high)? << 4) | nibble(low)?;
    }
    Some(bytes)
}

fn is_signed(
    secrets: &[Secret],
    parts: &[&[u8]],
    digest: &[u8; DIGEST_BYTES],
) -> Result<(), SignatureFault> {
    let holds = secrets.iter().any(|secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().ct_eq(digest).into()
    });
    holds.then_some(()).ok_or(SignatureFault::Mismatch)
}

/// A clock before 1970 is wrong; then every delivery is early.
fn since_1970(now: SystemTime) -> Duration {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of docs.slack.dev, "Verifying requests from Slack".
    const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
    const SENT: u64 = 1_531_420_618;
    const BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const SIGNATURE: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))
            .unwrap()
    }

    fn secrets(texts: &[&str]) -> Vec<Secret> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn slack(signature: &str, timestamp: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SLACK_SIGNATURE, signature.parse().unwrap());
        headers.insert(SLACK_TIMESTAMP, timestamp.parse().unwrap());
        headers
    }

    fn linear(signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(LINEAR_SIGNATURE, signature.parse().unwrap());
        headers
    }

    fn known(headers: &HeaderMap, now: SystemTime) -> Result<(), SignatureFault> {
        verify_slack(&secrets(&[SECRET]), headers, BODY.as_bytes(), now)
    }

    #[test]
    fn the_known_answers_of_slack_hold() {
        let headers = slack(SIGNATURE, &SENT.to_string());
        assert_eq!(known(&headers, at(SENT)), Ok(()));
        // Made with slack_sdk.signature of slack_sdk 3.47.0.
        let table: [(&str, u64, &str, &str); 3] = [
            (
                "ein Geheimnis mit Umläuten",
                1_700_000_000,
                r#"{"type":"event_callback","event":{"text":"grüße 🙏"}}"#,
                "fe40d451b9f94568fad80008fd5d614262099f6c2bb33cf38d3ee28a05ef3799",
            ),
            (
                "x",
                0,
                "",
                "de1621c259f8b71d4e19d21b0b08500ae54be952beb2abaee361323b4e9278a1",
            ),
            (
                &"k".repeat(100),
                1_700_000_000,
                &"a".repeat(200),
                "9fc5157c994d626621129103a4624a6f782aad2ebda736fc2616d4c3d281b742",
            ),
        ];
        for (secret, sent, body, digest) in table {
            let headers = slack(&format!("v0={digest}"), &sent.to_string());
            let held = verify_slack(&secrets(&[secret]), &headers, body.as_bytes(), at(sent));
            assert_eq!(held, Ok(()), "{body}");
        }
    }

    #[test]
    fn the_known_answer_of_linear_holds() {
        // Accepted by LinearWebhookClient of @linear/sdk 98.0.0.
        let secrets = secrets(&["ein Geheimnis mit Umläuten"]);
        let body = r#"{"type":"Issue","organizationId":"o","title":"grüße 🙏","webhookTimestamp":1700000000000}"#;
        let digest = "38e7adaace2560eb9eea82ba15c20525ff40fe653aecfe1b93418611429851a6";
        let verify = |signature: &str| verify_linear(&secrets, &linear(signature), body.as_bytes());
        assert_eq!(verify(digest), Ok(()));
        // That client refuses it in upper case, too.
        assert_eq!(
            verify(&digest.to_uppercase()),
            Err(SignatureFault::Malformed)
        );
        assert_eq!(
            verify_linear(&secrets, &linear(digest), b"{}"),
            Err(SignatureFault::Mismatch)
        );
    }

    #[test]
    fn both_ends_of_slacks_window_are_inside() {
        let headers = slack(SIGNATURE, &SENT.to_string());
        assert_eq!(known(&headers, at(SENT + 300)), Ok(()));
        assert_eq!(known(&headers, at(SENT - 300)), Ok(()));
        let late = at(SENT + 300) + Duration::from_nanos(1);
        assert_eq!(known(&headers, late), Err(SignatureFault::Stale));
        let early = at(SENT - 300) - Duration::from_nanos(1);
        assert_eq!(known(&headers, early), Err(SignatureFault::Early));
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(known(&headers, before_1970), Err(SignatureFault::Early));
    }

    #[test]
    fn both_ends_of_linears_window_are_inside() {
        let now = at(1_700_000_000) + Duration::from_micros(999);
        // What LinearWebhookClient of @linear/sdk 98.0.0 says at that time.
        let table = [
            (1_700_000_060_000.0, Ok(())),
            (1_700_000_060_000.5, Err(SignatureFault::Early)),
            (1_700_000_060_001.0, Err(SignatureFault::Early)),
            (1_699_999_940_000.0, Ok(())),
            (1_699_999_939_999.0, Err(SignatureFault::Stale)),
            (1_700_000_000_000.5, Ok(())),
            (0.0, Err(SignatureFault::Stale)),
            (-1.0, Err(SignatureFault::Stale)),
            (f64::MAX, Err(SignatureFault::Early)),
            (f64::MIN, Err(SignatureFault::Stale)),
        ];
        for (sent_ms, expected) in table {
            assert_eq!(is_recent_linear(sent_ms, now), expected, "{sent_ms}");
        }
    }

    #[test]
    fn any_of_several_secrets_may_have_signed() {
        let headers = slack(SIGNATURE, &SENT.to_string());
        let verify =
            |texts: &[&str]| verify_slack(&secrets(texts), &headers, BODY.as_bytes(), at(SENT));
        assert_eq!(verify(&["old", SECRET]), Ok(()));
        assert_eq!(verify(&[SECRET, "new"]), Ok(()));
        assert_eq!(verify(&["old", "new"]), Err(SignatureFault::Mismatch));
        assert_eq!(verify(&[]), Err(SignatureFault::Mismatch));
    }

    #[test]
    fn what_is_missing_is_told_from_what_cannot_be_one() {
        let sent = SENT.to_string();
        for name in [&SLACK_SIGNATURE, &SLACK_TIMESTAMP] {
            let mut headers = slack(SIGNATURE, &sent);
            headers.append(name, headers[name].clone());
            assert_eq!(known(&headers, at(SENT)), Err(SignatureFault::Malformed));
            headers.remove(name);
            assert_eq!(known(&headers, at(SENT)), Err(SignatureFault::Missing));
            headers.insert(name, "".parse().unwrap());
            assert_eq!(known(&headers, at(SENT)), Err(SignatureFault::Missing));
        }
        let hex = SIGNATURE.strip_prefix("v0=").unwrap();
        let signatures = [
            hex.to_owned(),
            "v0=".to_owned(),
            format!("v1={hex}"),
            format!("V0={hex}"),
            format!("v0={}", hex.to_uppercase()),
            format!("v0={hex}00"),
            format!("v0={hex} "),
            format!("v0={}", &hex[1..]),
            format!("v0={}g", &hex[1..]),
            format!("v0= {}", &hex[1..]),
        ];
        for signature in &signatures {
            let held = known(&slack(signature, &sent), at(SENT));
            assert_eq!(held, Err(SignatureFault::Malformed), "{signature}");
        }
        for timestamp in [
            "+1531420618",
            "-1531420618",
            "1531420618.0",
            "1531420618x",
            "0x5b4796ca",
            "1e9",
            "99999999999999999999",
        ] {
            let held = known(&slack(SIGNATURE, timestamp), at(SENT));
            assert_eq!(held, Err(SignatureFault::Malformed), "{timestamp}");
        }
        // A number that fits all the same: other digits, other signature.
        let held = known(&slack(SIGNATURE, "01531420618"), at(SENT));
        assert_eq!(held, Err(SignatureFault::Mismatch));
        let held = known(&slack(SIGNATURE, "9999999999999999999"), at(SENT));
        assert_eq!(held, Err(SignatureFault::Early));
    }
}
