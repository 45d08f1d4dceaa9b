//! Deliveries of Linear.
//!
//! Called once the signature holds. Only agent sessions start or continue work
//! (linear.app/developers/agents); whatever else a webhook is subscribed to
//! passes.

use std::time::SystemTime;

use http::HeaderMap;
use http::header::HeaderName;
use serde::Deserialize;

use super::json::Loose;
use super::signature::{SignatureFault, is_recent_linear};
use super::{Delivery, Meaning, Nobody, Surface, Unread, id};
use crate::notices::Recipient;

/// `Linear-Delivery`: a UUID, the same when a delivery comes again.
pub const DELIVERY: HeaderName = HeaderName::from_static("linear-delivery");

/// Where the hyphens of a UUID stand (RFC 9562, section 4).
const UUID_HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// Characters of a UUID.
const UUID_BYTES: usize = 36;

/// What decides of a delivery.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Body {
    #[serde(rename = "type")]
    kind: Loose,
    webhook_timestamp: Loose,
    organization_id: Loose,
    agent_session: Loose<Session>,
    agent_activity: Loose<Activity>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Session {
    id: Loose,
    creator: Loose<Person>,
    creator_id: Loose,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Activity {
    signal: Loose,
    user: Loose<Person>,
    user_id: Loose,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Person {
    id: Loose,
}

/// Reads a delivery.
///
/// # Errors
/// It makes no sense, or was not sent just now.
pub(super) fn read(headers: &HeaderMap, body: &str, now: SystemTime) -> Result<Delivery, Unread> {
    let body: Body = super::object(body)?;
    // It is a part of what was signed, so a delivery without it can be played
    // back for ever.
    let Loose::Number(sent_ms) = body.webhook_timestamp else {
        return Err(Unread::Signature(SignatureFault::Malformed));
    };
    is_recent_linear(sent_ms, now).map_err(Unread::Signature)?;
    let kind = body
        .kind
        .said()
        .ok_or(Unread::Invalid("the delivery does not say its type"))?;
    let session = body.agent_session.object();
    let activity = body.agent_activity.object();
    let meaning = if kind != "AgentSessionEvent" {
        Meaning::NoStart("not an agent session")
    } else if activity.and_then(|activity| activity.signal.text()) == Some("stop") {
        Meaning::NoStart("stop signal")
    } else {
        Meaning::Start
    };
    let workspace = super::workspace(body.organization_id.said(), meaning)?;
    Ok(Delivery {
        meaning,
        principal: who(session, activity).map(|person| format!("linear:{person}")),
        id: uuid(headers),
        surface: Surface::Linear,
        recipient: match meaning {
            Meaning::Start => told_in(session, workspace.as_deref()).ok_or(Nobody::Named),
            Meaning::NoStart(_) => Err(Nobody::ToTell),
        },
        workspace,
    })
}

/// The session, where people look.
fn told_in(session: Option<&Session>, workspace: Option<&str>) -> Option<Recipient> {
    Some(Recipient::LinearSession {
        workspace: workspace?.to_owned(),
        session: id(session?.id.text()?)?,
    })
}

/// Whoever prompted or, where nobody did yet, began the session. A session that
/// an automation began has nobody.
fn who(session: Option<&Session>, activity: Option<&Activity>) -> Option<String> {
    let prompted = activity.map(|activity| (&activity.user, &activity.user_id));
    let began = session.map(|session| (&session.creator, &session.creator_id));
    [prompted, began]
        .into_iter()
        .flatten()
        .find_map(|(person, person_id)| {
            let person = person.object().and_then(|person| person.id.said());
            person.or_else(|| person_id.said()).and_then(id)
        })
}

/// The delivery's id, in lower case. Without one it is not recognised when it
/// comes again.
fn uuid(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(&DELIVERY)?.to_str().ok()?;
    let fits = text.len() == UUID_BYTES
        && text.bytes().enumerate().all(|(at, byte)| {
            if UUID_HYPHENS.contains(&at) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        });
    fits.then(|| text.to_ascii_lowercase())
}
