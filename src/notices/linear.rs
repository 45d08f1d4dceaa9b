//! What Linear is posted, and what its answers mean.
//!
//! An agent says in its session what became of it with activities:
//! <https://linear.app/developers/agent-interaction>. A session whose agent
//! says nothing for ten seconds is shown as unresponsive:
//! <https://linear.app/developers/agent-best-practices>.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::letter::{Post, Verdict, authorization, is_id, word};
use super::{Hidden, Notice};
use crate::egress::Reply;

/// After this the session is shown as unresponsive already.
pub(super) const WITHIN: Duration = Duration::from_secs(10);

/// Where everything is.
const API: &str = "https://api.linear.app/graphql";

/// Tells what became of a session.
const MUTATION: &str = "mutation AgentActivityCreate($input: AgentActivityCreateInput!) \
     { agentActivityCreate(input: $input) { success } }";

/// How long Linear is left alone where it does not say for how long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What people press to get to `billing_url`.
const BUY: &str = "Buy credits";

/// What is to be posted.
///
/// # Errors
/// Why there is nobody to tell, or nothing to tell them with.
pub(super) fn post(notice: &Notice, workspace: &str, session: &str) -> Result<Post, &'static str> {
    if !is_id(session) {
        return Err("the delivery names its session in a way that linear does not");
    }
    let Some(Hidden(token)) = notice.via.api_token.of(workspace) else {
        return Err("no token is configured for the organisation (`webhook.api_token`)");
    };
    let text = text(&notice.sentence, notice.billing_url.as_deref());
    let body = json!({
        "query": MUTATION,
        "variables": {"input": {
            "agentSessionId": session,
            "content": {"type": "error", "body": text},
        }},
    });
    Ok(Post {
        url: API.to_owned(),
        authorization: Some(authorization(&credentials(token))?),
        body: body.to_string(),
        judge,
    })
}

/// A person's API key stands alone, an OAuth token follows `Bearer`:
/// <https://linear.app/developers/graphql#authentication>.
fn credentials(token: &str) -> String {
    if token.starts_with("lin_api_") || token.starts_with("Bearer ") {
        token.to_owned()
    } else {
        format!("Bearer {token}")
    }
}

/// The sentence, and where to buy, in Markdown.
fn text(sentence: &str, billing_url: Option<&str>) -> String {
    let mut text = String::with_capacity(sentence.len());
    for letter in sentence.chars() {
        // What begins markup in the middle of a line.
        if r"\`*_~[]<>#|!".contains(letter) {
            text.push('\\');
        }
        text.push(letter);
    }
    if let Some(url) = billing_url {
        text.push_str(&format!(" [{BUY}]({})", address(url)));
    }
    text
}

/// An address without letters that would end it.
fn address(url: &str) -> String {
    let mut address = String::with_capacity(url.len());
    for letter in url.chars() {
        match letter {
            '(' => address.push_str("%28"),
            ')' => address.push_str("%29"),
            '<' => address.push_str("%3C"),
            '>' => address.push_str("%3E"),
            '\\' => address.push_str("%5C"),
            ' ' => address.push_str("%20"),
            _ => address.push(letter),
        }
    }
    address
}

/// The part of an answer that says whether it worked (GraphQL over HTTP).
#[derive(Deserialize)]
struct Answer {
    data: Option<Data>,
    #[serde(default)]
    errors: Vec<Fault>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    agent_activity_create: Option<Created>,
}

#[derive(Deserialize)]
struct Created {
    success: bool,
}

#[derive(Deserialize)]
struct Fault {
    extensions: Option<Extensions>,
}

#[derive(Deserialize)]
struct Extensions {
    code: Option<String>,
}

/// What an answer means. Linear says with the status 400 and a code that it was
/// asked too often: <https://linear.app/developers/rate-limiting>.
fn judge(reply: &Reply) -> Verdict {
    let status = reply.status.as_u16();
    let again = || {
        let after = reply.retry_after.unwrap_or(AGAIN_AFTER);
        Verdict::NotYet(after, "linear is asked too often".to_owned())
    };
    if status == 429 {
        return again();
    }
    let answer: Option<Answer> = serde_json::from_slice(&reply.body).ok();
    let fault = answer.as_ref().and_then(|answer| answer.errors.first());
    if let Some(fault) = fault {
        let code = fault.extensions.as_ref();
        return match code.and_then(|extensions| extensions.code.as_deref()) {
            Some("RATELIMITED") => again(),
            code => Verdict::Refused(format!("linear answered {status}, error: {}", word(code))),
        };
    }
    let created = answer
        .and_then(|answer| answer.data)
        .and_then(|data| data.agent_activity_create);
    match (status, created) {
        (200, Some(Created { success: true })) => Verdict::Taken,
        (200, Some(_)) => Verdict::Refused("linear says that it did not succeed".to_owned()),
        (200, None) => Verdict::Refused("what linear answered is not understood".to_owned()),
        _ => Verdict::Refused(format!("linear answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_persons_key_stands_alone_and_an_oauth_token_does_not() {
        assert_eq!(credentials("lin_api_1"), "lin_api_1");
        assert_eq!(credentials("lin_oauth_1"), "Bearer lin_oauth_1");
        assert_eq!(credentials("abc"), "Bearer abc");
        assert_eq!(credentials("Bearer abc"), "Bearer abc");
    }

    #[test]
    fn a_sentence_cannot_speak_markdown() {
        assert_eq!(
            text("Team a_b [x](https://evil.test) <b> has none.", None),
            r"Team a\_b \[x\](https://evil.test) \<b\> has none."
        );
        assert_eq!(
            text("None.", Some("https://shop.test/a_(b)?c=<d>")),
            "None. [Buy credits](https://shop.test/a_%28b%29?c=%3Cd%3E)"
        );
    }

    fn judged(status: u16, body: &str) -> Verdict {
        judge(&Reply {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: body.to_owned().into(),
        })
    }

    #[test]
    fn only_success_is_success() {
        let taken = r#"{"data":{"agentActivityCreate":{"success":true}}}"#;
        assert_eq!(judged(200, taken), Verdict::Taken);
        let limited = r#"{"errors":[{"message":"m","extensions":{"code":"RATELIMITED"}}]}"#;
        let again = Verdict::NotYet(AGAIN_AFTER, "linear is asked too often".to_owned());
        assert_eq!(judged(400, limited), again);
        assert_eq!(judged(429, ""), again);
        let refused = |why: &str| Verdict::Refused(why.to_owned());
        let denied = r#"{"data":null,"errors":[{"extensions":{"code":"AUTHENTICATION_ERROR"}}]}"#;
        assert_eq!(
            judged(200, denied),
            refused("linear answered 200, error: AUTHENTICATION_ERROR")
        );
        let secret = r#"{"errors":[{"message":"tell nobody"}]}"#;
        assert_eq!(
            judged(400, secret),
            refused("linear answered 400, error: not said in a word")
        );
        let not = r#"{"data":{"agentActivityCreate":{"success":false}}}"#;
        assert_eq!(
            judged(200, not),
            refused("linear says that it did not succeed")
        );
        for body in ["", "{}", "[]", "<html>", r#"{"data":{}}"#] {
            let why = refused("what linear answered is not understood");
            assert_eq!(judged(200, body), why, "{body}");
        }
        assert_eq!(judged(307, taken), refused("linear answered 307"));
        assert_eq!(judged(502, "bad"), refused("linear answered 502"));
    }
}
