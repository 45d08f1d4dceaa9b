//! A gateway with an integration of each kind, and short deliveries to it: what
//! decides and nothing else. What is as long as the senders write it, and how
//! they sign, is in [`super::deliveries`].

use serde_json::{Value, json};

use super::deliveries::{Delivery, linear_signature, milliseconds};
pub use super::deliveries::{LINEAR, SLACK, seconds as now, slack_signature};
use super::gateway::Builder;
use super::redis::fresh;
use super::request::Req;
use super::{Gateway, Upstream};

/// The secrets.
pub const SLACK_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
pub const LINEAR_SECRET: &str = "lin_wh_MJfsjYzQvz5A2tGRZxwiSTEh";

/// A gateway with both routes; nobody is told of anything but by the answer.
pub fn integrated(upstream: &Upstream, refuse_with: &str) -> Builder {
    Gateway::before(upstream).set("routes", routes(refuse_with))
}

/// Both routes.
pub fn routes(refuse_with: &str) -> Value {
    json!([
        {
            "start": format!("POST {SLACK}"),
            "webhook": {"kind": "slack", "secret": SLACK_SECRET, "team_key": "slack:<workspace>"},
            "refuse_with": refuse_with,
        },
        {
            "start": format!("POST {LINEAR}"),
            "webhook": {"kind": "linear", "secret": LINEAR_SECRET, "team_key": "linear:<workspace>"},
            "refuse_with": refuse_with,
        },
    ])
}

/// A workspace that nobody else uses.
pub fn workspace() -> String {
    fresh("T").replace('-', "0")
}

/// A workspace that this team pays for.
pub fn workspace_of(redis: &super::Redis, team: &str) -> String {
    let workspace = workspace();
    for kind in ["slack", "linear"] {
        redis.run::<()>(&["SET", &format!("{kind}:{workspace}"), team]);
    }
    workspace
}

/// The headers with which Slack signs a body now.
pub fn slack_headers(body: &[u8]) -> [(&'static str, String); 2] {
    let time = now().to_string();
    let signature = slack_signature(SLACK_SECRET, &time, body);
    [
        ("X-Slack-Request-Timestamp", time),
        ("X-Slack-Signature", signature),
    ]
}

/// A delivery of Slack with this body, which comes with its length.
pub fn slack(content_type: &str, body: impl AsRef<[u8]>) -> Req {
    let body = body.as_ref();
    let [(time, at), (name, signature)] = slack_headers(body);
    Req::new("POST", SLACK)
        .header("Content-Type", content_type)
        .header(time, &at)
        .header(name, &signature)
        .body(body)
}

/// An event in which somebody mentions the app.
pub fn mention(workspace: &str, event_id: &str) -> Value {
    json!({
        "type": "event_callback",
        "team_id": workspace,
        "event_id": event_id,
        "event": {
            "type": "app_mention", "user": "U0123", "channel": "C0123",
            "ts": "1503435956.000247", "text": "<@U0LAN0Z89> fix the build",
        },
    })
}

/// The same, delivered.
pub fn slack_mention(workspace: &str, event_id: &str) -> Req {
    slack_json(&mention(workspace, event_id))
}

/// A delivery of JSON.
pub fn slack_json(body: &Value) -> Req {
    Delivery::json(body).by_slack(SLACK_SECRET)
}

/// An interaction: JSON in a form.
pub fn slack_payload(payload: &Value) -> Req {
    Delivery::payload(payload).by_slack(SLACK_SECRET)
}

/// A slash command.
pub fn slack_command(workspace: &str) -> Req {
    let body = format!(
        "token=x&team_id={workspace}&channel_id=C0123&user_id=U0123&command=%2Ffix&text=the+build&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2Fx"
    );
    slack("application/x-www-form-urlencoded", body)
}

/// An event of exactly this many bytes.
pub fn slack_event_of(workspace: &str, length: usize) -> Vec<u8> {
    let mut event = mention(workspace, "Ev1");
    event["pad"] = json!("");
    let short = event.to_string().len();
    event["pad"] = json!("x".repeat(length - short));
    let body = event.to_string().into_bytes();
    assert_eq!(body.len(), length);
    body
}

/// A delivery of Linear with this body.
pub fn linear(body: &Value, id: &str) -> Req {
    let delivery = Delivery::json(body);
    let signature = linear_signature(LINEAR_SECRET, delivery.body.as_bytes());
    delivery.with_linear_signature(&signature, id)
}

/// A session that somebody began with the agent.
pub fn session_created(workspace: &str) -> Value {
    json!({
        "type": "AgentSessionEvent",
        "action": "created",
        "organizationId": workspace,
        "webhookTimestamp": milliseconds(),
        "agentSession": {"id": "3c9e1a52-8d0a-4b6e-9a51-5d2a6b0b7a11"},
    })
}
