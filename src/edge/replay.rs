//! What a start is recognised by when it is sent again.
//!
//! Only where the upstream deduplicates by `Idempotency-Key`, and the request
//! has one: such a start shares the hold of the first one with the same key.
//! A key that comes back with another path, query or body, is not the same
//! start. A body that is short enough is read for that before the decision;
//! it stays with the connection, and the upstream gets it as it came. Nothing
//! of the kind happens to any other request.

use std::time::Duration;

use http::header::EXPECT;
use pingora_error::{Error, ErrorType};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use sha2::{Digest as _, Sha256};

use super::body::{self, Bounds, KEPT_MAX_BYTES, Missing, Room};
use super::framing::Detail;
use super::identify::IDEMPOTENCY_KEY;
use crate::ledger::holds::Replay;

/// How long a body may take in all, however steadily it drips.
const BODY_MAX: Duration = Duration::from_secs(60);

/// The most bytes of an idempotency key.
const KEY_MAX_BYTES: usize = 255;

/// What the head of a start says, if it has an `Idempotency-Key`.
///
/// # Errors
/// Why its key is refused.
pub fn by_head(route: &str, head: &RequestHeader) -> Result<Option<Replay>, Detail> {
    let mut keys = head.headers.get_all(&IDEMPOTENCY_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        // Several are refused with the other headers that must stand there
        // once.
        return Ok(None);
    };
    if key.is_empty() || key.len() > KEY_MAX_BYTES {
        return Err("the Idempotency-Key must have 1 to 255 bytes");
    }
    let route = Sha256::new()
        .chain_update(route)
        // It stands in neither of them.
        .chain_update([0])
        // With the query: what it asks for is part of the start.
        .chain_update(head.raw_path());
    Ok(Some(Replay {
        key: Sha256::digest(key.as_bytes()).into(),
        route: route.finalize().into(),
        body: None,
    }))
}

/// What a body that does not come means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMissing {
    /// The start ends.
    Fail,
    /// It goes on, and is recognised without its body.
    GoOn,
}

/// The SHA-256 of the body, if it is short enough to be read before the
/// decision. More of it has to come within `patience` each time.
///
/// # Errors
/// If the client is gone, or it does not come and that is `if_missing`.
pub async fn read_body(
    session: &mut Session,
    patience: Duration,
    room: &Room,
    if_missing: IfMissing,
) -> Result<Option<[u8; 32]>, Box<Error>> {
    let head = session.req_header();
    // Who sends `Expect` waits for the upstream to want the body.
    if head.headers.contains_key(EXPECT) || session.is_upgrade_req() {
        return Ok(None);
    }
    if session.as_downstream_mut().is_body_empty() {
        return Ok(Some(Sha256::digest(b"").into()));
    }
    let length = body::length(&session.req_header().headers);
    if length.is_none_or(|length| length > KEPT_MAX_BYTES) {
        return Ok(None);
    }
    let bounds = Bounds {
        max_bytes: KEPT_MAX_BYTES,
        patience,
        total: BODY_MAX,
    };
    let missing = match body::read(session, bounds, room).await {
        // Pingora has all of it too, and sends it on.
        Ok(held) => return Ok(Some(Sha256::digest(held.bytes()).into())),
        Err(missing) => missing,
    };
    match missing {
        Missing::Gone(error) => Err(error),
        Missing::TooLarge => Ok(None),
        Missing::Slow | Missing::NoRoom if if_missing == IfMissing::GoOn => Ok(None),
        Missing::Slow => {
            let what = "the body of a start with an Idempotency-Key did not come in time";
            Err(Error::explain(ErrorType::ReadTimedout, what).into_down())
        }
        Missing::NoRoom => {
            let what = "too many bodies are held to read that of a start with an Idempotency-Key";
            Err(Error::explain(ErrorType::HTTPStatus(503), what).into_down())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(route: &str, target: &str, keys: &[&str]) -> Result<Option<Replay>, Detail> {
        let mut head = RequestHeader::build("POST", target.as_bytes(), None).unwrap();
        for key in keys {
            head.append_header("Idempotency-Key", *key).unwrap();
        }
        by_head(route, &head)
    }

    #[test]
    fn the_same_key_on_the_same_target_is_the_same_start() {
        let first = replay("POST /runs", "/runs", &["k"]).unwrap().unwrap();
        assert_eq!(
            replay("POST /runs", "/runs", &["k"]),
            Ok(Some(first.clone()))
        );
        for (route, target, key, same_key) in [
            ("POST /runs", "/runs/", "k", true),
            ("POST /runs", "/runs?x=1", "k", true),
            ("POST /run", "s/runs", "k", true),
            ("POST /tasks", "/runs", "k", true),
            ("POST /runs", "/runs", "K", false),
        ] {
            let other = replay(route, target, &[key]).unwrap().unwrap();
            assert_eq!(other.key == first.key, same_key, "{route} {target} {key}");
            assert_eq!(
                other.route != first.route,
                same_key,
                "{route} {target} {key}"
            );
        }
    }

    #[test]
    fn a_key_has_1_to_255_bytes() {
        for (length, good) in [(0, false), (1, true), (255, true), (256, false)] {
            let key = "k".repeat(length);
            let read = replay("POST /runs", "/runs", &[&key]);
            assert_eq!(read.is_ok(), good, "{length}");
        }
    }

    #[test]
    fn several_keys_are_left_to_the_check_of_names() {
        assert_eq!(replay("POST /runs", "/runs", &["a", "b"]), Ok(None));
        assert_eq!(replay("POST /runs", "/runs", &[]), Ok(None));
    }
}
