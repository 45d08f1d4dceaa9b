//! How a problem looks to an integration, and to the people behind it.
//!
//! A refusal that an integration's people can read is a success to the
//! integration, or it would deliver it again and count it as a failure: status
//! 200, and the sentence in the form that the surface shows, if it shows any.
//! Where nobody sees the answer it is empty, and a notice tells them
//! ([`crate::notices`]).

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use pingora_http::ResponseHeader;
use serde_json::{Value, json};

use super::Problem;
use super::style::{About, HEADERS, Rendered, Style};
use crate::config::WebhookKind;
use crate::edge::webhooks::Surface;

/// Tells Slack not to deliver again.
const SLACK_NO_RETRY: &str = "x-slack-no-retry";

/// The title of the modal. Slack takes 24 characters, by its reference of
/// views.
const MODAL_TITLE: &str = "Not started";

/// The form of an answer to an integration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Who delivers.
    pub sender: WebhookKind,
    /// The surface, where its people are to read the answer.
    pub message: Option<Surface>,
}

impl Style {
    /// The answer to a delivery.
    ///
    /// # Errors
    /// As for [`Style::http`].
    pub fn delivery(
        &self,
        problem: &Problem,
        about: About<'_>,
        form: Form,
    ) -> pingora_error::Result<Rendered> {
        if let Some(surface) = form.message {
            return self.message(problem, surface);
        }
        let mut rendered = self.open(problem, about)?;
        // It would be the same again. 408 would not: it did not arrive.
        let is_final = (400..500).contains(&problem.status) && problem.status != 408;
        if form.sender == WebhookKind::Slack && is_final {
            rendered.header.insert_header(SLACK_NO_RETRY, "1")?;
        }
        Ok(rendered)
    }

    /// The answer that a surface shows to people, or an empty one where it
    /// shows none.
    fn message(&self, problem: &Problem, surface: Surface) -> pingora_error::Result<Rendered> {
        let body = match surface {
            Surface::SlackCommand => Some(command(&self.mrkdwn(problem))),
            Surface::SlackSubmission => Some(modal(&self.mrkdwn(problem))),
            Surface::SlackEvent | Surface::SlackInteraction | Surface::Linear => None,
        };
        let mut header = ResponseHeader::build_no_case(200, Some(HEADERS))?;
        if body.is_some() {
            header.insert_header(CONTENT_TYPE, "application/json; charset=utf-8")?;
        }
        header.insert_header(CACHE_CONTROL, "no-store")?;
        header.insert_header("proxy-status", problem.proxy_status())?;
        self.add_headers(&mut header)?;
        let body = body.map_or_else(String::new, |body| body.to_string());
        header.insert_header(CONTENT_LENGTH, body.len())?;
        Ok(Rendered {
            header: Box::new(header),
            body: body.into_bytes(),
            trailers: None,
        })
    }

    /// The sentence, and where credits can be bought, as Slack's markup.
    fn mrkdwn(&self, problem: &Problem) -> String {
        let mut text = escaped(&problem.sentence());
        if let Some(url) = self.billing_url() {
            // A `|` would end the address; in a URL it can be written so.
            let url = escaped(url).replace('|', "%7C");
            text.push_str(&format!(" <{url}|Buy credits>"));
        }
        text
    }
}

/// What a slash command is answered with: seen by whoever typed it.
fn command(text: &str) -> Value {
    json!({"response_type": "ephemeral", "text": text})
}

/// What replaces a modal whose form was sent.
fn modal(text: &str) -> Value {
    let plain = |text: &str| json!({"type": "plain_text", "text": text});
    json!({
        "response_action": "update",
        "view": {
            "type": "modal",
            "title": plain(MODAL_TITLE),
            "close": plain("Close"),
            "blocks": [{
                "type": "section",
                "text": {"type": "mrkdwn", "text": text},
            }],
        },
    })
}

/// Text without a meaning in Slack's markup
/// (<https://docs.slack.dev/messaging/formatting-message-text>).
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::admission::Refusal;
    use crate::config;
    use crate::edge::webhooks::signature::SignatureFault;
    use http::HeaderMap;

    /// The answer to a delivery whose head does not matter.
    fn answer(style: &Style, problem: &Problem, form: Form) -> Rendered {
        let headers = HeaderMap::new();
        let about = About {
            instance: "/x",
            headers: &headers,
            trace_id: "0af7651916cd43dd8448eb211c80319c",
        };
        style.delivery(problem, about, form).unwrap()
    }

    fn style(billing_url: Option<&str>) -> Style {
        Style::new(&config::Problem {
            billing_url: billing_url.map(|url| url.parse().unwrap()),
            ..config::Problem::default()
        })
    }

    fn refused(surface: Surface, billing_url: Option<&str>) -> (ResponseHeader, String) {
        let form = Form {
            sender: WebhookKind::Slack,
            message: Some(surface),
        };
        let problem = Problem::refused(Refusal::InsufficientCredits);
        let rendered = answer(&style(billing_url), &problem, form);
        (*rendered.header, String::from_utf8(rendered.body).unwrap())
    }

    const SENTENCE: &str = "Your team has run out of add-on credits. Purchase more credits in your team's billing settings to continue.";

    #[test]
    fn a_command_is_answered_where_it_was_typed() {
        let url = "https://example.com/billing?a=1&b=2";
        let (header, body) = refused(Surface::SlackCommand, Some(url));
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["response_type"], "ephemeral");
        let link = " <https://example.com/billing?a=1&amp;b=2|Buy credits>";
        assert_eq!(body["text"], format!("{SENTENCE}{link}"));
        assert_eq!(header.status, 200);
        assert_eq!(header.headers["cache-control"], "no-store");
        assert_eq!(
            header.headers["proxy-status"],
            "tollgate; error=http_request_denied; details=\"insufficient_credits\""
        );
        assert!(!header.headers.contains_key(SLACK_NO_RETRY));
        let (_, body) = refused(Surface::SlackCommand, None);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["text"], SENTENCE);
    }

    #[test]
    fn a_form_is_replaced_by_the_sentence() {
        let (_, body) = refused(Surface::SlackSubmission, None);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["response_action"], "update");
        assert_eq!(body["view"]["type"], "modal");
        assert_eq!(body["view"]["blocks"][0]["text"]["text"], SENTENCE);
        let title = body["view"]["title"]["text"].as_str().unwrap();
        assert!(title.len() <= 24, "Slack's reference of views");
    }

    #[test]
    fn where_nobody_looks_the_answer_is_empty() {
        for surface in [
            Surface::SlackEvent,
            Surface::SlackInteraction,
            Surface::Linear,
        ] {
            let (header, body) = refused(surface, Some("https://example.com/billing"));
            assert_eq!((header.status.as_u16(), body.as_str()), (200, ""));
            assert_eq!(header.headers["content-length"], "0");
            assert!(!header.headers.contains_key("content-type"));
        }
    }

    #[test]
    fn what_is_final_is_not_delivered_again() {
        for (problem, stops) in [
            (Problem::refused(Refusal::NoBalance), true),
            (Problem::unsigned(SignatureFault::Mismatch), true),
            (Problem::not_connected(), true),
            (Problem::invalid("x"), true),
            (Problem::body_too_large(1), true),
            (Problem::too_slow(), false),
            (Problem::unavailable(), false),
        ] {
            for (sender, stops) in [(WebhookKind::Slack, stops), (WebhookKind::Linear, false)] {
                let form = Form {
                    sender,
                    message: None,
                };
                let rendered = answer(&style(None), &problem, form);
                let said = rendered.header.headers.contains_key(SLACK_NO_RETRY);
                assert_eq!(said, stops, "{problem:?} {sender:?}");
                assert_eq!(rendered.header.status, problem.status());
            }
        }
    }

    #[test]
    fn what_people_read_has_no_markup_of_its_own() {
        assert_eq!(escaped("<!channel> & co"), "&lt;!channel&gt; &amp; co");
    }
}
