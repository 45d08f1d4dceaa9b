//! Deliveries of Slack: the Events API, slash commands and interactivity.
//!
//! Called once the signature holds. What is well-formed and not known to be
//! something else starts a run: Slack adds kinds of deliveries, and none of
//! them is to be free of charge only because it is new.

mod form;
mod payload;
mod stop;

use super::json::Loose;
use super::written::Written;
use super::{Delivery, Meaning, Nobody, Surface, Unread, id};
use crate::notices::{Hidden, Recipient, is_reply_url};
use form::{Form, said};
use payload::{Body, Event, Says};
pub use stop::DEFAULT_STOP_ACTIONS;

/// Subtypes of messages that people write: with a file, in a thread and its
/// channel at once, and with `/me`. Bolt hands the first two to the listeners
/// of any other message (`slack_bolt/app/app.py`, `message`).
const WRITTEN_SUBTYPES: [&str; 3] = ["file_share", "thread_broadcast", "me_message"];

/// The longest timestamp of a message, such as `1503435956.000247`.
const TS_MAX_BYTES: usize = 32;

/// Which door a JSON came through.
#[derive(Clone, Copy)]
enum Door {
    Body,
    Payload,
}

/// Reads a delivery.
///
/// # Errors
/// It makes no sense.
pub(super) fn read(
    body: &str,
    written: Written,
    stop_actions: &[String],
) -> Result<Delivery, Unread> {
    if body.trim_ascii_start().starts_with('{') {
        // Whatever the content type says: Bolt for Python does not ask it, but
        // looks for the brace, and that in the first place alone; Bolt for
        // JavaScript does ask.
        let is_form_to_some = written == Written::Form || !body.starts_with('{');
        if is_form_to_some && !Form::read(body).is_ok_and(|form| form.says_nothing()) {
            let detail = "the body is JSON, and to other readers a form";
            return Err(Unread::Invalid(detail));
        }
        return read_json(body, Door::Body, stop_actions);
    }
    let form = Form::read(body)?;
    if let Some(payload) = &form.payload {
        return read_json(payload, Door::Payload, stop_actions);
    }
    let (meaning, surface) = if form.command.is_some() {
        (Meaning::Start, Surface::SlackCommand)
    } else if form.ssl_check.as_deref() == Some("1") {
        (Meaning::NoStart("ssl_check"), Surface::SlackCommand)
    } else {
        return Err(Unread::Invalid(
            "the form has neither payload nor command nor ssl_check",
        ));
    };
    let workspace = said(&form.team_id).or_else(|| said(&form.enterprise_id));
    Ok(Delivery {
        meaning,
        workspace: super::workspace(workspace, meaning)?,
        principal: principal(said(&form.user_id)),
        id: None,
        surface,
        // A slash command is answered in the body.
        recipient: Err(Nobody::ToTell),
    })
}

fn read_json(text: &str, door: Door, stop_actions: &[String]) -> Result<Delivery, Unread> {
    let body: Body = super::object(text)?;
    let kind = body
        .kind
        .said()
        .ok_or(Unread::Invalid("the delivery does not say its type"))?;
    let surface = surface(kind, door);
    let meaning = meaning(&body, kind, stop_actions);
    // Bolt's order; an organisation-wide installation may have no workspace.
    let workspace = super::workspace(body.team().or_else(|| body.enterprise()), meaning)?;
    let recipient = match (meaning, surface, &workspace) {
        (Meaning::NoStart(_), ..) | (_, Surface::SlackCommand | Surface::SlackSubmission, _) => {
            Err(Nobody::ToTell)
        }
        (_, Surface::SlackInteraction, _) => {
            whoever_acted(&body, kind, workspace.as_deref()).ok_or(Nobody::Named)
        }
        _ => conversation(&body, workspace.as_deref()),
    };
    Ok(Delivery {
        meaning,
        principal: principal(body.user()),
        id: body.event_id.said().map(str::to_owned),
        surface,
        recipient,
        workspace,
    })
}

fn surface(kind: &str, door: Door) -> Surface {
    match (kind, door) {
        ("view_submission", _) => Surface::SlackSubmission,
        ("event_callback" | "url_verification" | "app_rate_limited", _) => Surface::SlackEvent,
        (
            "block_actions"
            | "interactive_message"
            | "message_action"
            | "shortcut"
            | "view_closed"
            | "block_suggestion"
            | "dialog_submission"
            | "dialog_cancellation"
            | "dialog_suggestion",
            _,
        ) => Surface::SlackInteraction,
        (_, Door::Body) => Surface::SlackEvent,
        (_, Door::Payload) => Surface::SlackInteraction,
    }
}

fn meaning(body: &Body, kind: &str, stop_actions: &[String]) -> Meaning {
    // Bolt does not go by the type alone: what has a command is a slash command
    // (Python's), and what has an event is one (JavaScript's).
    let is_event = kind == "event_callback";
    if body.command.stands() || (body.event.stands() && !is_event) {
        return Meaning::Start;
    }
    match kind {
        "url_verification" => Meaning::NoStart("url_verification"),
        "app_rate_limited" => Meaning::NoStart("app_rate_limited"),
        "view_closed" => Meaning::NoStart("view_closed"),
        "block_suggestion" => Meaning::NoStart("block_suggestion"),
        "dialog_suggestion" => Meaning::NoStart("dialog_suggestion"),
        "dialog_cancellation" => Meaning::NoStart("dialog_cancellation"),
        "block_actions" | "interactive_message" if only_stops(body, stop_actions) => {
            Meaning::NoStart("stop action")
        }
        "event_callback" => body.event.object().map_or(Meaning::Start, meaning_of_event),
        _ => Meaning::Start,
    }
}

fn meaning_of_event(event: &Event) -> Meaning {
    match event.kind.text() {
        Some("app_uninstalled") => Meaning::NoStart("app_uninstalled"),
        Some("tokens_revoked") => Meaning::NoStart("tokens_revoked"),
        Some("app_home_opened") => Meaning::NoStart("app_home_opened"),
        // An app_mention by a bot is a start, though: it was meant.
        Some("message") if event.bot_id.said().is_some() => Meaning::NoStart("message of a bot"),
        Some("message") if event.subtype.said().is_some_and(is_about_messages) => {
            Meaning::NoStart("message with a subtype")
        }
        _ => Meaning::Start,
    }
}

/// Whether a message of this subtype tells what became of another one, or of
/// its channel: nobody wrote it.
fn is_about_messages(subtype: &str) -> bool {
    !WRITTEN_SUBTYPES.contains(&subtype)
}

/// Whether something was pressed, and nothing but what stops something.
fn only_stops(body: &Body, stop_actions: &[String]) -> bool {
    body.actions.all().is_some_and(|actions| {
        actions.iter().all(|action| {
            let id = action.object().and_then(payload::Action::id);
            id.is_some_and(|id| stop::stops(stop_actions, id))
        })
    })
}

/// The conversation of an event, unless its author is a bot: bots that answer
/// each other do not stop.
fn conversation(body: &Body, workspace: Option<&str>) -> Result<Recipient, Nobody> {
    let event = body.event.object().ok_or(Nobody::Named)?;
    if is_by_bot(body, event) {
        return Err(Nobody::ToTell);
    }
    let place = workspace.and_then(|workspace| thread(event, workspace));
    place.ok_or(Nobody::Named)
}

/// Whether a bot is the author of an event, the app's own among them.
fn is_by_bot(body: &Body, event: &Event) -> bool {
    let user = event.user().and_then(id);
    let ourselves = body.authorizations.first().and_then(|installation| {
        let installation = installation.object()?;
        let is_bot = matches!(installation.is_bot, Loose::True);
        is_bot.then(|| installation.user_id.said()).flatten()
    });
    event.bot_id.said().is_some() || (user.is_some() && user.as_deref() == ourselves)
}

/// Where something was said, and by whom.
fn thread(event: &Event, workspace: &str) -> Option<Recipient> {
    let user = event.user().and_then(id);
    let channel = id(event.channel()?)?;
    let thread = event.thread().and_then(ts);
    let message = event.ts.said().and_then(ts);
    // Nobody to tell: it would be said to the whole channel.
    if thread.is_none() && message.is_none() && user.is_none() {
        return None;
    }
    Some(Recipient::SlackThread {
        workspace: workspace.to_owned(),
        channel,
        thread,
        message,
        user,
    })
}

/// Whoever pressed, chose or sent something. In a form or on the app's home
/// there is no `response_url`, and neither is there with a global shortcut.
fn whoever_acted(body: &Body, kind: &str, workspace: Option<&str>) -> Option<Recipient> {
    match body.response_url.said() {
        Some(url) if kind != "shortcut" => {
            // What is told is not for other ears, whatever a delivery says.
            is_reply_url(url).then(|| Recipient::SlackReply(Hidden(url.to_owned())))
        }
        _ => Some(Recipient::SlackUser {
            workspace: workspace?.to_owned(),
            user: body.user().and_then(id)?,
        }),
    }
}

fn principal(user: Option<&str>) -> Option<String> {
    user.and_then(id).map(|user| format!("slack:{user}"))
}

/// A message's timestamp, which is its id within a channel.
fn ts(text: &str) -> Option<String> {
    let fits = (1..=TS_MAX_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Delivery, Unread> {
        let stops: Vec<String> = DEFAULT_STOP_ACTIONS
            .iter()
            .map(ToString::to_string)
            .collect();
        super::read(body, Written::Otherwise, &stops)
    }

    #[test]
    fn a_response_url_is_never_printed() {
        let body = r#"{"type":"block_actions","team":"T1","response_url":"https://hooks.slack.com/actions/T1/2/s3cret"}"#;
        let delivery = read(body).unwrap();
        assert!(matches!(delivery.recipient, Ok(Recipient::SlackReply(_))));
        assert!(!format!("{delivery:?}").contains("s3cret"));
    }

    #[test]
    fn what_makes_no_sense_is_not_read() {
        let deep = format!("{{\"type\":\"x\",\"a\":{}", "[".repeat(200));
        for body in [
            "",
            " ",
            "{",
            "{}",
            "[]",
            "null",
            "{\"type\":7}",
            "{\"type\":null}",
            "{\"type\":\"\"}",
            "{\"type\":\"event_callback\"} x",
            "{\"type\":\"event_callback\",\"type\":\"url_verification\"}",
            "{\"type\":\"event_callback\",\"t\\u0079pe\":\"url_verification\"}",
            "{\"type\":\"event_callback\",\"team_id\":\"T1\\ud800\"}",
            "{\"type\":\"event_callback\",\"team_id\":\"T1:x\"}",
            "{\"type\":\"event_callback\",\"team_id\":\"<workspace>\"}",
            "{\"type\":\"event_callback\",\"n\":NaN}",
            "payload=",
            "payload=x",
            "payload=[]",
            "payload=%5B%22block_actions%22%5D",
            "payload={\"type\":\"shortcut\"}&payload={\"type\":\"view_closed\"}",
            "ssl_check=0",
            "token=x&team_id=T1",
            "command=/x&team_id=T1%0d%0a",
            &deep,
        ] {
            assert!(matches!(read(body), Err(Unread::Invalid(_))), "{body}");
        }
    }

    #[test]
    fn depth_that_is_not_looked_at_costs_no_stack() {
        let [open, close] = ["{\"event\":", "}"].map(|text| text.repeat(100_000));
        let nested = |inner: &str| format!("{{\"type\":\"x\",\"event\":{open}{inner}{close}}}");
        assert_eq!(read(&nested("1")).unwrap().meaning, Meaning::Start);
        assert!(read(&nested("")).is_err());
        assert!(read(&nested("[}")).is_err());
    }

    #[test]
    fn a_start_cannot_be_dressed_up_as_something_that_passes() {
        let starts = [
            // The type of an event does not stand outside of it.
            r#"{"type":"event_callback","subtype":"x","bot_id":"B1","event":{"type":"message"}}"#,
            r#"{"type":"event_callback","event":{"type":"message","bot_id":"","subtype":""}}"#,
            r#"{"type":"event_callback","event":{"type":"message","bot_id":7,"subtype":{}}}"#,
            r#"{"type":"event_callback","event":{"type":"app_mention","subtype":"bot_message"}}"#,
            r#"{"type":"event_callback","event":{"type":"message","subtype":"file_share"}}"#,
            r#"{"type":"event_callback","event":{"type":"message","subtype":"thread_broadcast"}}"#,
            r#"{"type":"event_callback","event":{"type":"message","subtype":"me_message"}}"#,
            r#"{"type":"event_callback","event":{"type":["app_uninstalled"]}}"#,
            r#"{"type":"event_callback","event":["app_uninstalled"]}"#,
            r#"{"type":"event_callback"}"#,
            r#"{"type":"block_actions","actions":[{"action_id":"stop"},{}]}"#,
            r#"{"type":"block_actions","actions":[{"action_id":"stop"},null]}"#,
            r#"{"type":"block_actions","actions":{"action_id":"stop"}}"#,
            r#"{"type":"block_actions","actions":[{"action_id":"go","name":"stop"}]}"#,
            r#"{"type":"message_action","actions":[{"action_id":"stop"}]}"#,
            r#"{"type":"view_closed","command":"/agent"}"#,
            r#"{"type":"event_callback","command":null,"event":{"type":"tokens_revoked"}}"#,
            r#"{"type":"url_verification","event":{"type":"app_mention"}}"#,
            r#"{"type":"block_actions","event":{},"actions":[{"action_id":"stop"}]}"#,
            "command=/x&ssl_check=1",
        ];
        for body in starts {
            assert_eq!(read(body).unwrap().meaning, Meaning::Start, "{body}");
        }
        let stop = "{\"action_id\":\"stop\"},".repeat(32);
        let stops = |more: &str| {
            let actions = format!("{stop}{more}");
            let actions = actions.trim_end_matches(',');
            let body = format!("{{\"type\":\"block_actions\",\"actions\":[{actions}]}}");
            read(&body).unwrap().meaning
        };
        assert_eq!(stops(""), Meaning::NoStart("stop action"));
        // More than are looked at.
        assert_eq!(stops("{\"action_id\":\"stop\"}"), Meaning::Start);
    }

    #[test]
    fn what_is_json_to_us_and_a_form_to_others_is_not_read() {
        let json = r#"{"type":"view_closed","a":"x"}"#;
        let both = r#"{"type":"view_closed","a":"&command=/x&team_id=T2&b="}"#;
        let twice = r#"{"type":"view_closed","a":"&team_id=T1&team_id=T2"}"#;
        let blank = |body: &str| format!(" {body}");
        for (body, written, is_read) in [
            (json, Written::Form, true),
            (&blank(json), Written::Otherwise, true),
            // Text may have anything in it.
            (both, Written::Otherwise, true),
            (both, Written::Form, false),
            (&blank(both), Written::Otherwise, false),
            (twice, Written::Form, false),
        ] {
            let read = super::read(body, written, &[]);
            assert_eq!(read.is_ok(), is_read, "{body} {written:?}");
        }
    }

    #[test]
    fn an_odd_id_is_told_to_nobody() {
        let event = |members: &str| {
            let body = format!(
                "{{\"type\":\"event_callback\",\"team_id\":\"T1\",\"event\":{{\"type\":\"message\",{members}}}}}"
            );
            read(&body).unwrap()
        };
        let odd = event(r#""channel":"C 1","user":"U1","ts":"1.2""#);
        assert_eq!(
            (odd.recipient, odd.principal),
            (Err(Nobody::Named), Some("slack:U1".to_owned()))
        );
        let odd = event(r#""channel":"C1","user":"U\n1","ts":"1.2""#);
        assert_eq!(odd.principal, None);
        let expected = Recipient::SlackThread {
            workspace: "T1".to_owned(),
            channel: "C1".to_owned(),
            thread: None,
            message: Some("1.2".to_owned()),
            user: None,
        };
        assert_eq!(odd.recipient, Ok(expected));
        let odd = event(r#""channel":"C1","user":"","ts":"1,2""#);
        assert_eq!(odd.recipient, Err(Nobody::Named));
    }
}
