//! What Slack and Linear deliver, as they write it, and how they sign it.

use std::time::{SystemTime, UNIX_EPOCH};

use ring::hmac;
use serde_json::{Value, json};

use super::redis::fresh;
use super::request::Req;

/// Where the tests let Slack deliver.
pub const SLACK: &str = "/integrations/slack";

/// Where the tests let Linear deliver.
pub const LINEAR: &str = "/integrations/linear";

/// A body and its type.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Every byte of it.
    pub body: String,
}

impl Delivery {
    /// JSON.
    pub fn json(body: &Value) -> Self {
        Delivery {
            content_type: "application/json",
            body: body.to_string(),
        }
    }

    /// A form.
    pub fn form(fields: &[(&str, &str)]) -> Self {
        let mut form = form_urlencoded::Serializer::new(String::new());
        Delivery {
            content_type: "application/x-www-form-urlencoded",
            body: form.extend_pairs(fields).finish(),
        }
    }

    /// A form whose field `payload` holds JSON: Slack's interactivity.
    pub fn payload(payload: &Value) -> Self {
        Delivery::form(&[("payload", &payload.to_string())])
    }

    /// The request for it, signed with Slack's secret now.
    pub fn by_slack(&self, secret: &str) -> Req {
        let timestamp = seconds().to_string();
        let signature = slack_signature(secret, &timestamp, self.body.as_bytes());
        self.with_slack_signature(&timestamp, &signature)
    }

    /// The request for it with this signature of Slack's.
    pub fn with_slack_signature(&self, timestamp: &str, signature: &str) -> Req {
        Req::new("POST", SLACK)
            .header("Content-Type", self.content_type)
            .header("X-Slack-Request-Timestamp", timestamp)
            .header("X-Slack-Signature", signature)
            .body(&self.body)
    }

    /// The request for it, signed with Linear's secret.
    pub fn by_linear(&self, secret: &str) -> Req {
        let signature = linear_signature(secret, self.body.as_bytes());
        self.with_linear_signature(&signature, &uuid())
    }

    /// The request for it with this signature of Linear's and this id.
    pub fn with_linear_signature(&self, signature: &str, id: &str) -> Req {
        Req::new("POST", LINEAR)
            .header("Content-Type", "application/json; charset=utf-8")
            .header("Linear-Delivery", id)
            .header("Linear-Signature", signature)
            .body(&self.body)
    }
}

/// The seconds since 1970.
pub fn seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// The milliseconds since 1970.
pub fn milliseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// An id such as `Linear-Delivery` has, never the same twice.
pub fn uuid() -> String {
    let name = fresh("uuid");
    let number: u64 = name.trim_start_matches("uuid-").parse().unwrap();
    let process = std::process::id() & 0xffff;
    format!("2349871c-{process:04x}-4ae4-a2ab-{number:012x}")
}

/// What stands in `X-Slack-Signature`.
pub fn slack_signature(secret: &str, timestamp: &str, body: &[u8]) -> String {
    let signed = [b"v0:", timestamp.as_bytes(), b":", body].concat();
    format!("v0={}", hex_hmac(secret, &signed))
}

/// What stands in `Linear-Signature`.
pub fn linear_signature(secret: &str, body: &[u8]) -> String {
    hex_hmac(secret, body)
}

fn hex_hmac(secret: &str, signed: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, signed);
    tag.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An event in a workspace, with an id of its own.
pub fn event(workspace: &str, event: &Value) -> Value {
    json!({
        "token": "of-old-times",
        "team_id": workspace,
        "api_app_id": "A0TEST",
        "event": event,
        "type": "event_callback",
        "event_id": fresh("Ev"),
        "event_time": seconds(),
        "authorizations": [{
            "enterprise_id": null,
            "team_id": workspace,
            "user_id": "U0SELF",
            "is_bot": true,
            "is_enterprise_install": false,
        }],
        "is_ext_shared_channel": false,
    })
}

/// Somebody mentions the app in a thread of its own.
pub fn mention(workspace: &str) -> Value {
    event(
        workspace,
        &json!({
            "type": "app_mention",
            "user": "U0ASKS",
            "text": "<@U0SELF> fix the build",
            "ts": "1515449522.000016",
            "channel": "C0ROOM",
            "event_ts": "1515449522.000016",
        }),
    )
}

/// Somebody writes to the app.
pub fn message(workspace: &str) -> Value {
    event(
        workspace,
        &json!({
            "type": "message",
            "channel_type": "im",
            "user": "U0ASKS",
            "text": "fix the build",
            "ts": "1515449523.000016",
            "channel": "D0ROOM",
            "event_ts": "1515449523.000016",
        }),
    )
}

/// Somebody types a command.
pub fn command(workspace: &str) -> Delivery {
    Delivery::form(&[
        ("token", "of-old-times"),
        ("team_id", workspace),
        ("team_domain", "somewhere"),
        ("channel_id", "C0ROOM"),
        ("channel_name", "room"),
        ("user_id", "U0ASKS"),
        ("user_name", "asks"),
        ("command", "/agent"),
        ("text", "fix the build & <go on> ü"),
        ("api_app_id", "A0TEST"),
        ("is_enterprise_install", "false"),
        (
            "response_url",
            "https://hooks.slack.com/commands/T/1/sesame-url",
        ),
        ("trigger_id", "1.2.3"),
    ])
}

/// Something that is no event and no command: the fields that all have, and more.
pub fn interaction(workspace: &str, kind: &str, more: &Value) -> Value {
    let mut payload = json!({
        "type": kind,
        "token": "of-old-times",
        "team": {"id": workspace, "domain": "somewhere"},
        "enterprise": null,
        "is_enterprise_install": false,
        "user": {"id": "U0ASKS", "username": "asks", "team_id": workspace},
        "api_app_id": "A0TEST",
        "trigger_id": "1.2.3",
    });
    for (name, value) in more.as_object().expect("an object") {
        payload[name] = value.clone();
    }
    payload
}

/// Somebody presses buttons with these ids in a message.
pub fn buttons(workspace: &str, ids: &[&str]) -> Value {
    let action = |id: &&str| json!({"type": "button", "action_id": id, "block_id": "b", "value": "v", "action_ts": "1.2"});
    let actions: Vec<Value> = ids.iter().map(action).collect();
    let more = json!({
        "actions": actions,
        "channel": {"id": "C0ROOM", "name": "room"},
        "container": {"type": "message", "message_ts": "1515449522.000016", "channel_id": "C0ROOM"},
        "message": {"type": "message", "ts": "1515449522.000016", "text": "ready?"},
        "response_url": "https://hooks.slack.com/actions/T/1/sesame-url",
    });
    interaction(workspace, "block_actions", &more)
}

/// Somebody uses a shortcut that belongs to no message.
pub fn shortcut(workspace: &str) -> Value {
    interaction(
        workspace,
        "shortcut",
        &json!({"callback_id": "run", "action_ts": "1.2"}),
    )
}

/// Somebody uses a shortcut on a message.
pub fn message_shortcut(workspace: &str) -> Value {
    let more = json!({
        "callback_id": "run",
        "action_ts": "1.2",
        "message_ts": "1515449522.000016",
        "channel": {"id": "C0ROOM", "name": "room"},
        "message": {"type": "message", "ts": "1515449522.000016", "text": "broken"},
        "response_url": "https://hooks.slack.com/app/T/1/sesame-url",
    });
    interaction(workspace, "message_action", &more)
}

/// Somebody sends (`view_submission`) or closes (`view_closed`) a form.
pub fn view(workspace: &str, kind: &str) -> Value {
    let view = json!({
        "id": "V0", "team_id": workspace, "type": "modal", "callback_id": "run", "hash": "1.2",
        "app_installed_team_id": workspace, "app_id": "A0TEST", "bot_id": "B0SELF",
        "blocks": [], "state": {"values": {}}, "private_metadata": "",
    });
    interaction(workspace, kind, &json!({"view": view, "is_cleared": false}))
}

/// A session's event of Linear's, now.
pub fn session(organisation: &str, action: &str) -> Value {
    json!({
        "type": "AgentSessionEvent",
        "action": action,
        "createdAt": "2026-01-02T03:04:05.006Z",
        "organizationId": organisation,
        "oauthClientId": "1a6f2b3c-0000-4000-8000-000000000001",
        "appUserId": "1a6f2b3c-0000-4000-8000-000000000002",
        "agentSession": {
            "id": "1a6f2b3c-0000-4000-8000-000000000003",
            "creatorId": "1a6f2b3c-0000-4000-8000-000000000004",
            "creator": {"id": "1a6f2b3c-0000-4000-8000-000000000004", "name": "Asks"},
            "organizationId": organisation,
            "status": "pending",
            "type": "commentThread",
            "issue": {"id": "1a6f2b3c-0000-4000-8000-000000000005", "title": "The build is broken", "teamId": "1a6f2b3c-0000-4000-8000-000000000006"},
        },
        "webhookTimestamp": milliseconds(),
        "webhookId": "1a6f2b3c-0000-4000-8000-000000000007",
    })
}

/// A later word in a session; `stop` asks the agent to stop.
pub fn prompt(organisation: &str, signal: Option<&str>) -> Value {
    let mut event = session(organisation, "prompted");
    event["agentActivity"] = json!({
        "id": "1a6f2b3c-0000-4000-8000-000000000008",
        "agentSessionId": "1a6f2b3c-0000-4000-8000-000000000003",
        "content": {"type": "prompt", "body": "go on"},
        "signal": signal,
        "userId": "1a6f2b3c-0000-4000-8000-000000000004",
    });
    event
}
