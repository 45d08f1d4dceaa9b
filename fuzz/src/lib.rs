//! What must hold for any bytes. The fuzz targets try it with bytes that
//! libFuzzer makes up, and `tests/deliveries.rs` with the seeds, so that it is
//! tried where there is no fuzzer, too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};
use ring::hmac;
use tollgate::config::{RefuseWith, WebhookKind};
use tollgate::edge::webhooks::signature::SignatureFault;
use tollgate::edge::webhooks::{
    DEFAULT_STOP_ACTIONS, Delivery, Meaning, Nobody, Surface, Unread, Webhook,
};
use tollgate::notices::{Recipient, Via};

/// The secret that signs, and the one that is to come.
const SECRETS: [&str; 2] = ["8f742231b10e8888abcd99yyyzzz85a5", "the next one"];

/// When everything happens, in seconds since 1970.
const NOW: u64 = 1_700_000_000;

/// A body that Slack signed gives a clean answer, and one that can be acted on.
pub fn slack_body(body: &[u8]) {
    let signature = hex(
        SECRETS[0],
        &[format!("v0:{NOW}:").as_bytes(), body].concat(),
    );
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-slack-signature",
        HeaderValue::from_str(&format!("v0={signature}")).unwrap(),
    );
    headers.insert("x-slack-request-timestamp", NOW.into());
    let read = read(WebhookKind::Slack, &headers, body);
    assert!(!matches!(read, Err(Unread::Signature(_))), "{read:?}");
    let Ok(delivery) = read else { return };
    is_sound(&delivery);
    match &delivery.recipient {
        Err(_) => {}
        Ok(Recipient::SlackReply(url)) => {
            assert_eq!(delivery.surface, Surface::SlackInteraction);
            let uri: http::Uri = url.0.parse().unwrap();
            assert_eq!(uri.scheme_str(), Some("https"));
            let host = uri.authority().unwrap().as_str();
            assert!(["hooks.slack.com", "hooks.slack-gov.com"].contains(&host));
        }
        Ok(Recipient::SlackThread { workspace, .. } | Recipient::SlackUser { workspace, .. }) => {
            assert_eq!(delivery.workspace.as_ref(), Some(workspace));
        }
        Ok(other) => panic!("{other:?}"),
    }
    assert_ne!(delivery.surface, Surface::Linear);
}

/// A body that Linear signed gives a clean answer, and one that can be acted on.
pub fn linear_body(body: &[u8]) {
    let mut headers = HeaderMap::new();
    headers.insert(
        "linear-signature",
        HeaderValue::from_str(&hex(SECRETS[1], body)).unwrap(),
    );
    let read = read(WebhookKind::Linear, &headers, body);
    assert!(
        !matches!(
            read,
            Err(Unread::Signature(
                SignatureFault::Mismatch | SignatureFault::Missing
            ))
        ),
        "{read:?}"
    );
    let Ok(delivery) = read else { return };
    is_sound(&delivery);
    assert_eq!(delivery.surface, Surface::Linear);
    assert!(matches!(
        delivery.recipient,
        Err(_) | Ok(Recipient::LinearSession { .. })
    ));
}

/// Whatever Slack's headers say: what is read was signed, for this time.
/// The bytes are a signature, a timestamp and a body, each on its own line.
pub fn slack_signature(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let (signature, timestamp, body) = (parts.next(), parts.next(), parts.next());
    let mut headers = HeaderMap::new();
    insert(&mut headers, "x-slack-signature", signature);
    insert(&mut headers, "x-slack-request-timestamp", timestamp);
    let body = body.unwrap_or_default();
    let read = read(WebhookKind::Slack, &headers, body);
    let timestamp = timestamp.unwrap_or_default();
    let signed = [b"v0:", timestamp, b":", body].concat();
    let holds = SECRETS
        .iter()
        .any(|secret| signature == Some(format!("v0={}", hex(secret, &signed)).as_bytes()));
    let sent = std::str::from_utf8(timestamp)
        .ok()
        .filter(|text| text.len() < 20 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse::<u64>().ok());
    let recent = sent.is_some_and(|sent| NOW.abs_diff(sent) <= 300);
    assert_eq!(
        !matches!(read, Err(Unread::Signature(_))),
        holds && recent,
        "{read:?}"
    );
}

/// Whatever Linear's headers say: what is read was signed. The bytes are a
/// signature, a delivery's id and a body, each on its own line.
pub fn linear_signature(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let (signature, id, body) = (parts.next(), parts.next(), parts.next());
    let mut headers = HeaderMap::new();
    insert(&mut headers, "linear-signature", signature);
    insert(&mut headers, "linear-delivery", id);
    let body = body.unwrap_or_default();
    let read = read(WebhookKind::Linear, &headers, body);
    let holds = SECRETS
        .iter()
        .any(|secret| signature == Some(hex(secret, body).as_bytes()));
    if !holds {
        assert!(matches!(read, Err(Unread::Signature(_))), "{read:?}");
        return;
    }
    let by_time = [
        SignatureFault::Malformed,
        SignatureFault::Stale,
        SignatureFault::Early,
    ];
    match read {
        Ok(delivery) => {
            is_sound(&delivery);
            assert!(delivery.id.is_none_or(|id| id.len() == 36));
        }
        Err(Unread::Signature(fault)) => assert!(by_time.contains(&fault)),
        Err(Unread::Invalid(_)) => {}
    }
}

/// Whether what was read can become a key, a log line and a notice.
fn is_sound(delivery: &Delivery) {
    let is_id = |text: &str| {
        (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    assert!(delivery.workspace.as_deref().is_none_or(is_id));
    let person = delivery.principal.as_deref();
    assert!(person.is_none_or(|person| {
        let id = person
            .strip_prefix("slack:")
            .or_else(|| person.strip_prefix("linear:"));
        id.is_some_and(is_id)
    }));
    match &delivery.recipient {
        Ok(Recipient::SlackThread {
            channel,
            thread,
            message,
            user,
            ..
        }) => {
            assert!(is_id(channel));
            assert!(user.as_deref().is_none_or(is_id));
            assert!(thread.is_some() || message.is_some() || user.is_some());
        }
        Ok(Recipient::SlackUser { user, .. }) => assert!(is_id(user)),
        Ok(Recipient::LinearSession { session, .. }) => assert!(is_id(session)),
        Ok(Recipient::SlackReply(_)) | Err(_) => {}
    }
    if delivery.meaning != Meaning::Start {
        assert_eq!(delivery.recipient, Err(Nobody::ToTell));
    }
    // A response_url is a secret of the person it belongs to.
    assert!(!format!("{delivery:?}").contains("https://hooks.slack"));
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: Option<&[u8]>) {
    if let Some(Ok(value)) = value.map(HeaderValue::from_bytes) {
        headers.insert(name, value);
    }
}

fn read(kind: WebhookKind, headers: &HeaderMap, body: &[u8]) -> Result<Delivery, Unread> {
    let webhook = Webhook {
        kind,
        secrets: SECRETS.iter().map(|text| text.parse().unwrap()).collect(),
        teams: BTreeMap::new(),
        team_key: None,
        stop_actions: DEFAULT_STOP_ACTIONS
            .iter()
            .map(ToString::to_string)
            .collect(),
        refuse_with: RefuseWith::Message,
        via: Arc::new(Via::default()),
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let read = webhook.read(headers, body, now);
    assert_eq!(read, webhook.read(headers, body, now));
    read
}

fn hex(secret: &str, message: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::sign(&key, message)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
