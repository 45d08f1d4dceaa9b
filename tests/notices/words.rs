//! What Slack and Linear are told, to the letter.

use serde_json::{Value, json};
use tollgate::notices::{Notice, Recipient};

use crate::office::{Office, REPLY_URL, fates, notice, press, said, session};
use crate::outside::{Answer, Outside, Seen};

const SLACK_TEXT: &str = "Team acme &lt;has&gt; no credits. \
     <https://shop.test/buy?team=acme&amp;x=1|Buy credits>";

/// Sends it, and returns the one request that was made.
async fn sent(outside: &Outside, notice: Notice) -> Seen {
    let office = Office::open(outside);
    let kind = notice.recipient.kind().name();
    office.notices.offer(notice);
    let metrics = office.close().await;
    assert_eq!(fates(&metrics), [(kind, "sent", 1)]);
    let mut seen = outside.seen();
    assert_eq!(seen.len(), 1);
    let seen = seen.remove(0);
    assert_eq!(seen.method, "POST");
    assert_eq!(
        seen.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    let agent = concat!("tollgate/", env!("CARGO_PKG_VERSION"));
    assert_eq!(seen.header("user-agent"), Some(agent));
    seen
}

fn assert_method(seen: &Seen, name: &str, token: &str, body: Value) {
    assert_eq!(seen.url(), format!("https://slack.com/api/{name}"));
    let bearer = format!("Bearer {token}");
    assert_eq!(seen.header("authorization"), Some(&*bearer));
    assert_eq!(seen.json(), body);
}

#[tokio::test]
async fn a_button_is_answered_through_its_response_url() {
    let outside = Outside::answering(|_| Answer::status(200).body("ok"));
    let seen = sent(&outside, notice(press())).await;
    assert_eq!(seen.url(), REPLY_URL);
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(
        seen.json(),
        json!({"response_type": "ephemeral", "replace_original": false, "text": SLACK_TEXT})
    );
}

#[tokio::test]
async fn who_asked_in_a_thread_alone_sees_the_notice_there() {
    let outside = Outside::start();
    let asked = said(Some("1700000000.000100"), "1700000009.000200", Some("U1"));
    let seen = sent(&outside, notice(asked)).await;
    let body = json!({
        "channel": "C1",
        "user": "U1",
        "thread_ts": "1700000000.000100",
        "text": SLACK_TEXT,
    });
    assert_method(&seen, "chat.postEphemeral", "xoxb-first", body);
}

#[tokio::test]
async fn who_asked_outside_a_thread_sees_the_notice_in_the_channel() {
    // In a thread that does not exist yet, Slack would not show it.
    let outside = Outside::start();
    let seen = sent(
        &outside,
        notice(said(None, "1700000009.000200", Some("U1"))),
    )
    .await;
    let body = json!({"channel": "C1", "user": "U1", "text": SLACK_TEXT});
    assert_method(&seen, "chat.postEphemeral", "xoxb-first", body);
}

#[tokio::test]
async fn where_nobody_is_known_to_have_asked_the_thread_is_told() {
    for (thread, at) in [(Some("17.1"), "17.1"), (None, "17.2")] {
        let outside = Outside::start();
        let seen = sent(&outside, notice(said(thread, "17.2", None))).await;
        let body = json!({
            "channel": "C1",
            "thread_ts": at,
            "text": SLACK_TEXT,
            "unfurl_links": false,
            "unfurl_media": false,
        });
        assert_method(&seen, "chat.postMessage", "xoxb-first", body);
    }
}

#[tokio::test]
async fn without_a_conversation_it_is_a_direct_message_by_the_workspaces_own_bot() {
    let outside = Outside::start();
    let person = Recipient::SlackUser {
        workspace: "T2".to_owned(),
        user: "U7".to_owned(),
    };
    let seen = sent(&outside, notice(person)).await;
    let body = json!({
        "channel": "U7",
        "text": SLACK_TEXT,
        "unfurl_links": false,
        "unfurl_media": false,
    });
    assert_method(&seen, "chat.postMessage", "xoxb-second", body);
}

#[tokio::test]
async fn an_agent_session_ends_in_an_error_that_people_can_read() {
    let outside = Outside::answering(|_| {
        Answer::json(r#"{"data":{"agentActivityCreate":{"success":true}}}"#)
    });
    let id = "c5f1a4f2-1111-4222-8333-444455556666";
    let seen = sent(&outside, notice(session("O1", id))).await;
    assert_eq!(seen.url(), "https://api.linear.app/graphql");
    assert_eq!(seen.header("authorization"), Some("Bearer lin_oauth_token"));
    let query = "mutation AgentActivityCreate($input: AgentActivityCreateInput!) \
                 { agentActivityCreate(input: $input) { success } }";
    let text = "Team acme \\<has\\> no credits. \
                [Buy credits](https://shop.test/buy?team=acme&x=1)";
    let input = json!({
        "agentSessionId": id,
        "content": {"type": "error", "body": text},
    });
    assert_eq!(
        seen.json(),
        json!({"query": query, "variables": {"input": input}})
    );
}

#[tokio::test]
async fn where_nothing_can_be_bought_the_sentence_stands_alone() {
    let outside = Outside::start();
    let mut notice = notice(press());
    notice.billing_url = None;
    let seen = sent(&outside, notice).await;
    assert_eq!(seen.json()["text"], "Team acme &lt;has&gt; no credits.");
}
