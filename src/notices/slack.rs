//! What Slack is posted, and what its answers mean.
//!
//! `response_url`: <https://docs.slack.dev/interactivity/handling-user-interaction>.
//! `chat.postEphemeral`, `chat.postMessage`:
//! <https://docs.slack.dev/reference/methods>. Rate limits, 429 and
//! `Retry-After`: <https://docs.slack.dev/apis/web-api/rate-limits>.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::letter::{Post, Verdict, authorization, is_id, word};
use super::{Hidden, Notice, Recipient, Via};
use crate::egress::Reply;

/// After this a notice is about something that people have forgotten.
pub(super) const WITHIN: Duration = Duration::from_secs(60);

/// Where the methods are.
const API: &str = "https://slack.com/api/";

/// What every `response_url` begins with, to the end of the host. Slack makes
/// them like this, to the letter, so nothing has to be parsed to know where a
/// request will go.
const REPLY_HOSTS: [&str; 2] = ["https://hooks.slack.com/", "https://hooks.slack-gov.com/"];

/// The longest `response_url`: Slack's have about a hundred letters.
const URL_MAX_BYTES: usize = 1024;

/// How long Slack is left alone where it does not say for how long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What people press to get to `billing_url`.
const BUY: &str = "Buy credits";

/// Whether a text is a `response_url` of Slack's own: https, one of its two
/// hosts for them, no port, no user, no letters that a parser drops.
#[must_use]
pub fn is_reply_url(url: &str) -> bool {
    REPLY_HOSTS.iter().any(|host| url.starts_with(host))
        && url.len() <= URL_MAX_BYTES
        && url.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What is to be posted.
///
/// # Errors
/// Why there is nobody to tell, or nothing to tell them with.
pub(super) fn post(notice: &Notice) -> Result<Post, &'static str> {
    let text = text(&notice.sentence, notice.billing_url.as_deref());
    match &notice.recipient {
        Recipient::SlackReply(Hidden(url)) if is_reply_url(url) => {
            let body = json!({
                "response_type": "ephemeral",
                "replace_original": false,
                "text": text,
            });
            Ok(Post {
                url: url.clone(),
                authorization: None,
                body: body.to_string(),
                judge: judge_reply,
            })
        }
        Recipient::SlackReply(_) => Err("the response_url is not one of Slack's"),
        Recipient::SlackThread {
            workspace,
            channel,
            thread,
            message,
            user,
        } => {
            let mut ids = [Some(workspace), Some(channel)].into_iter().chain([
                thread.as_ref(),
                message.as_ref(),
                user.as_ref(),
            ]);
            if ids.any(|id| id.is_some_and(|id| !is_id(id))) {
                return Err(NOT_AN_ID);
            }
            match user {
                Some(user) => {
                    let mut body = json!({"channel": channel, "user": user, "text": text});
                    // In a thread that does not exist nobody would see it.
                    add(&mut body, "thread_ts", thread.as_deref());
                    method("chat.postEphemeral", &body, &notice.via, workspace)
                }
                None => {
                    let mut body = message_to(channel, &text);
                    add(
                        &mut body,
                        "thread_ts",
                        thread.as_deref().or(message.as_deref()),
                    );
                    method("chat.postMessage", &body, &notice.via, workspace)
                }
            }
        }
        Recipient::SlackUser { workspace, user } => {
            if !is_id(workspace) || !is_id(user) {
                return Err(NOT_AN_ID);
            }
            let body = message_to(user, &text);
            method("chat.postMessage", &body, &notice.via, workspace)
        }
        Recipient::LinearSession { .. } => Err("an agent session is not in slack"),
    }
}

const NOT_AN_ID: &str = "the delivery names a channel or a person in a way that slack does not";

/// A message that stands on its own; a preview of the shop would not help it.
fn message_to(channel: &str, text: &str) -> Value {
    json!({"channel": channel, "text": text, "unfurl_links": false, "unfurl_media": false})
}

fn add(body: &mut Value, name: &str, value: Option<&str>) {
    if let (Some(fields), Some(value)) = (body.as_object_mut(), value) {
        fields.insert(name.to_owned(), value.into());
    }
}

fn method(name: &str, body: &Value, via: &Via, workspace: &str) -> Result<Post, &'static str> {
    let Some(Hidden(token)) = via.bot_token.of(workspace) else {
        return Err("no bot token is configured for the workspace (`webhook.bot_token`)");
    };
    Ok(Post {
        url: format!("{API}{name}"),
        authorization: Some(authorization(&format!("Bearer {token}"))?),
        body: body.to_string(),
        judge: judge_method,
    })
}

/// The sentence, and where to buy, in Slack's own markup:
/// <https://docs.slack.dev/messaging/formatting-message-text>.
fn text(sentence: &str, billing_url: Option<&str>) -> String {
    let mut text = escaped(sentence);
    if let Some(url) = billing_url {
        // A bar would end the address.
        let url = escaped(url).replace('|', "%7C");
        text.push_str(&format!(" <{url}|{BUY}>"));
    }
    text
}

/// `&`, `<` and `>` begin Slack's markup: without this a sentence could call
/// everybody in the channel.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// What an answer of a `response_url` means: the status says it all.
fn judge_reply(reply: &Reply) -> Verdict {
    match reply.status.as_u16() {
        200..=299 => Verdict::Taken,
        429 => not_yet(reply),
        status => Verdict::Refused(format!("slack answered {status}")),
    }
}

fn not_yet(reply: &Reply) -> Verdict {
    let after = reply.retry_after.unwrap_or(AGAIN_AFTER);
    Verdict::NotYet(after, "slack is asked too often".to_owned())
}

/// The part of a method's answer that says whether it worked.
#[derive(Deserialize)]
struct Answer {
    ok: bool,
    error: Option<String>,
}

/// What an answer of a method means: a failure has the status 200 as well.
fn judge_method(reply: &Reply) -> Verdict {
    match reply.status.as_u16() {
        200 => {}
        429 => return not_yet(reply),
        status => return Verdict::Refused(format!("slack answered {status}")),
    }
    match serde_json::from_slice(&reply.body) {
        Ok(Answer { ok: true, .. }) => Verdict::Taken,
        Ok(Answer { error, .. }) => {
            let word = word(error.as_deref());
            Verdict::Refused(format!("slack's error: {word}"))
        }
        Err(_) => Verdict::Refused("what slack answered is not understood".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_response_url_is_slacks_own_or_none() {
        for url in [
            "https://hooks.slack.com/actions/T1/2/abc",
            "https://hooks.slack-gov.com/commands/T1/2/abc?x=1",
            "https://hooks.slack.com/",
        ] {
            assert!(is_reply_url(url), "{url}");
        }
        let long = format!("https://hooks.slack.com/{}", "a".repeat(URL_MAX_BYTES));
        for url in [
            "",
            "https://hooks.slack.com",
            "http://hooks.slack.com/actions",
            "https://hooks.slack.com.evil.test/actions",
            "https://hooks.slack.com@evil.test/actions",
            "https://user:pass@hooks.slack.com/actions",
            "https://hooks.slack.com:443/actions",
            "https://hooks.slack.com:8080/actions",
            "https://evil.test/https://hooks.slack.com/actions",
            "https://evilhooks.slack.com/actions",
            "https://127.0.0.1/actions",
            "https://[::1]/actions",
            "https://hooks.slack.com\\@evil.test/actions",
            "https:\\\\hooks.slack.com/actions",
            "https://hooks.slack.com\t/actions",
            "https://hooks.slack.com/act ions",
            "https://hooks.slack.com/act\r\nions",
            "https://hooks.slack.com/äctions",
            " https://hooks.slack.com/actions",
            "HTTPS://hooks.slack.com/actions",
            "https://slack.com/actions",
            "https://evil.test/hooks.slack.com/",
            "//hooks.slack.com/actions",
            &long,
        ] {
            assert!(!is_reply_url(url), "{url}");
        }
    }

    #[test]
    fn a_sentence_cannot_speak_slacks_markup() {
        assert_eq!(
            text(
                "<!channel> & <@U1> pay",
                Some("https://shop.test/?a=1&b=2|c>d")
            ),
            "&lt;!channel&gt; &amp; &lt;@U1&gt; pay \
             <https://shop.test/?a=1&amp;b=2%7Cc&gt;d|Buy credits>"
        );
        assert_eq!(text("No credits.", None), "No credits.");
    }

    fn reply(status: u16, body: &str) -> Reply {
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: body.to_owned().into(),
        }
    }

    #[test]
    fn what_slack_answers_is_not_repeated_unless_it_is_a_word() {
        let said = |body: &str| judge_method(&reply(200, body));
        assert_eq!(said(r#"{"ok":true,"ts":"1"}"#), Verdict::Taken);
        for (body, why) in [
            (
                r#"{"ok":false,"error":"not_in_channel"}"#,
                "slack's error: not_in_channel",
            ),
            (
                r#"{"ok":false,"error":"see https://x"}"#,
                "slack's error: not said in a word",
            ),
            (r#"{"ok":false}"#, "slack's error: not said in a word"),
            ("<html>", "what slack answered is not understood"),
            ("", "what slack answered is not understood"),
            (r#"{"ok":"true"}"#, "what slack answered is not understood"),
        ] {
            assert_eq!(said(body), Verdict::Refused(why.to_owned()), "{body}");
        }
        let refused = Verdict::Refused("slack answered 302".to_owned());
        assert_eq!(judge_method(&reply(302, r#"{"ok":true}"#)), refused);
        assert_eq!(judge_reply(&reply(302, "ok")), refused);
    }
}
