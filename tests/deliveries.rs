//! Every delivery in `tests/deliveries`, read as the gateway reads it: whole,
//! cut at every byte, with a bit flipped, and with its members in other orders.

// Here a panic is how a claim fails, and test data is known to be in bounds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

#[path = "deliveries/corpus.rs"]
mod corpus;
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::time::{Duration, SystemTime};

use corpus::{Signed, corpus, now, webhook};
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use serde_json::{Value, json};
use tollgate::config::WebhookKind;
use tollgate::edge::webhooks::signature::SignatureFault;
use tollgate::edge::webhooks::{Meaning, Nobody, Surface, Unread};
use tollgate::notices::Recipient;

/// How the files write what a delivery is.
fn written(delivery: &tollgate::edge::webhooks::Delivery) -> Value {
    let recipient = match &delivery.recipient {
        Err(Nobody::ToTell) => Value::Null,
        Err(Nobody::Named) => json!("unnamed"),
        Ok(Recipient::SlackReply(url)) => json!({"slack_reply": url.0}),
        Ok(Recipient::SlackThread {
            workspace,
            channel,
            thread,
            message,
            user,
        }) => json!({"slack_thread":
            {"workspace": workspace, "channel": channel, "thread": thread.as_ref().or(message.as_ref()), "user": user}}),
        Ok(Recipient::SlackUser { workspace, user }) => {
            json!({"slack_user": {"workspace": workspace, "user": user}})
        }
        Ok(Recipient::LinearSession { workspace, session }) => {
            json!({"linear_session": {"workspace": workspace, "session": session}})
        }
    };
    json!({
        "meaning": match delivery.meaning {
            Meaning::Start => "start",
            Meaning::NoStart(why) => why,
        },
        "workspace": delivery.workspace,
        "principal": delivery.principal,
        "id": delivery.id,
        "surface": match delivery.surface {
            Surface::SlackEvent => "slack_event",
            Surface::SlackCommand => "slack_command",
            Surface::SlackInteraction => "slack_interaction",
            Surface::SlackSubmission => "slack_submission",
            Surface::Linear => "linear",
        },
        "recipient": recipient,
    })
}

#[test]
fn every_delivery_is_what_its_file_says() {
    let corpus = corpus();
    assert!(corpus.len() > 70, "{} deliveries", corpus.len());
    for sample in corpus {
        let read = sample.signed().read(now());
        let delivery = read.unwrap_or_else(|unread| panic!("{}: {unread:?}", sample.name));
        assert_eq!(written(&delivery), sample.expect, "{}", sample.name);
    }
}

#[test]
fn a_delivery_cut_anywhere_gives_a_clean_answer() {
    for sample in corpus() {
        let whole = sample.signed();
        for end in 0..whole.body.len() {
            let head = &whole.body[..end];
            let cut = Signed::new(sample.kind, head, &whole.headers);
            match cut.read(now()) {
                Err(Unread::Invalid(_)) => {}
                // The head of a slash command may be one, never less than one.
                Ok(delivery) => {
                    assert!(!sample.is_json, "{} cut at {end} is read", sample.name);
                    assert_eq!(written(&delivery)["surface"], sample.expect["surface"]);
                    assert_eq!(written(&delivery)["meaning"], sample.expect["meaning"]);
                }
                other => panic!("{} cut at {end}: {other:?}", sample.name),
            }
            let cut = Signed {
                body: head.to_vec(),
                ..whole.clone()
            };
            assert_eq!(
                cut.read(now()),
                Err(Unread::Signature(SignatureFault::Mismatch)),
                "{} cut at {end}",
                sample.name
            );
        }
    }
}

#[test]
fn what_is_no_utf_8_is_not_read() {
    for kind in [WebhookKind::Slack, WebhookKind::Linear] {
        let mut body = br#"{"type":"event_callback","x":""#.to_vec();
        body.extend(b"\xff\xfe\"}");
        let read = Signed::new(kind, &body, &HeaderMap::new()).read(now());
        assert_eq!(read, Err(Unread::Invalid("the body is no UTF-8")));
    }
}

#[test]
fn a_redelivery_is_recognised() {
    for sample in corpus() {
        let first = sample.signed().read(now()).unwrap();
        // Sent again later, signed again; Slack says so in a header.
        let mut again = sample.signed();
        let header = HeaderValue::from_static("1");
        again.headers.insert("x-slack-retry-num", header);
        let again = again.read(now() + Duration::from_secs(30)).unwrap();
        assert_eq!(first, again, "{}", sample.name);
        assert_eq!(first.id.is_some(), !sample.expect["id"].is_null());
    }
}

/// Numbers for choices within one case.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: usize) -> usize {
        // Knuth's MMIX generator; its high bits are good enough for choices.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// The same document with members in another order, with blanks and escapes.
fn rewritten(value: &Value, choices: &mut Choices, out: &mut String) {
    let blank = ["", " ", "\n", "\t ", ""][choices.below(5)];
    out.push_str(blank);
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            for at in (1..members.len()).rev() {
                members.swap(at, choices.below(at + 1));
            }
            out.push('{');
            for (at, (name, value)) in members.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                rewritten(&Value::String(name.clone()), choices, out);
                out.push(':');
                rewritten(value, choices, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                rewritten(item, choices, out);
            }
            out.push(']');
        }
        Value::String(text) => {
            out.push('"');
            for unit in text.encode_utf16() {
                match (choices.below(4), u8::try_from(unit)) {
                    (1.., Ok(byte @ (b' '..=b'!' | b'#'..=b'[' | b']'..=b'~'))) => {
                        out.push(char::from(byte));
                    }
                    _ => out.push_str(&format!("\\u{unit:04x}")),
                }
            }
            out.push('"');
        }
        other => out.push_str(&other.to_string()),
    }
    out.push_str(blank);
}

proptest! {
    #[test]
    fn any_bytes_give_a_clean_answer(
        body in proptest::collection::vec(any::<u8>(), 0..400),
        signature in proptest::collection::vec(any::<u8>(), 0..80),
        timestamp in proptest::collection::vec(any::<u8>(), 0..24),
    ) {
        for kind in [WebhookKind::Slack, WebhookKind::Linear] {
            let mut headers = HeaderMap::new();
            for (name, value) in [
                ("x-slack-signature", &signature),
                ("linear-signature", &signature),
                ("x-slack-request-timestamp", &timestamp),
                ("linear-delivery", &timestamp),
            ] {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.append(name, value);
                }
            }
            let unsigned = webhook(kind).read(&headers, &body, now());
            prop_assert!(matches!(unsigned, Err(Unread::Signature(_))));
            let signed = Signed::new(kind, &body, &HeaderMap::new()).read(now());
            prop_assert!(!matches!(
                signed,
                Err(Unread::Signature(SignatureFault::Mismatch | SignatureFault::Missing))
            ));
        }
    }

    #[test]
    fn one_flipped_bit_is_never_read(
        which in any::<prop::sample::Index>(),
        part in 0_usize..3,
        byte in any::<prop::sample::Index>(),
        bit in 0_u32..8,
    ) {
        let corpus = corpus();
        let sample = &corpus[which.index(corpus.len())];
        let mut signed = sample.signed();
        let name = match (sample.kind, part) {
            (_, 0) => None,
            (WebhookKind::Slack, 1) => Some("x-slack-request-timestamp"),
            (WebhookKind::Slack, _) => Some("x-slack-signature"),
            (WebhookKind::Linear, _) => Some("linear-signature"),
        };
        if let Some(name) = name {
            let mut value = signed.headers[name].as_bytes().to_vec();
            let at = byte.index(value.len());
            value[at] ^= 1 << bit;
            // What cannot stand in a header does not come as far as this.
            let Ok(value) = HeaderValue::from_bytes(&value) else {
                return Ok(());
            };
            signed.headers.insert(name, value);
        } else {
            let at = byte.index(signed.body.len());
            signed.body[at] ^= 1 << bit;
        }
        prop_assert!(matches!(signed.read(now()), Err(Unread::Signature(_))));
    }

    #[test]
    fn the_order_of_members_and_blanks_say_nothing(
        which in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let corpus = corpus();
        let sample = &corpus[which.index(corpus.len())];
        let Some((document, is_payload)) = &sample.document else {
            return Ok(());
        };
        let mut text = String::new();
        rewritten(document, &mut Choices(seed), &mut text);
        let body = if *is_payload {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("payload", &text).finish()
        } else {
            text
        };
        let signed = Signed::new(sample.kind, body.as_bytes(), &sample.signed().headers);
        let delivery = signed.read(now()).unwrap();
        prop_assert_eq!(written(&delivery), sample.expect.clone(), "{}", sample.name);
    }
}

#[test]
fn the_fuzz_targets_hold_for_their_seeds() {
    for sample in corpus() {
        let signed = sample.signed();
        let header = |name: &str| signed.headers.get(name).map_or(&[][..], |it| it.as_bytes());
        let (body, signature, lines) = match sample.kind {
            WebhookKind::Slack => (
                fuzz::slack_body as fn(&[u8]),
                fuzz::slack_signature as fn(&[u8]),
                [
                    header("x-slack-signature"),
                    header("x-slack-request-timestamp"),
                ],
            ),
            WebhookKind::Linear => (
                fuzz::linear_body as fn(&[u8]),
                fuzz::linear_signature as fn(&[u8]),
                [header("linear-signature"), header("linear-delivery")],
            ),
        };
        body(&signed.body);
        let data = [lines[0], lines[1], &signed.body].join(&b'\n');
        for end in (0..=data.len()).rev().take(200).chain(0..150) {
            signature(&data[..end.min(data.len())]);
        }
    }
}

#[test]
fn a_member_that_decides_may_not_stand_twice() {
    for sample in corpus() {
        let Some((Value::Object(members), is_payload)) = &sample.document else {
            continue;
        };
        for name in members.keys() {
            let decides = match sample.kind {
                WebhookKind::Slack => SLACK_DECIDES,
                WebhookKind::Linear => LINEAR_DECIDES,
            }
            .contains(&name.as_str());
            let text = serde_json::to_string(members).unwrap();
            let twice = text.replacen('{', &format!("{{\"{name}\":{},", members[name]), 1);
            let body = if *is_payload {
                let mut form = form_urlencoded::Serializer::new(String::new());
                form.append_pair("payload", &twice).finish()
            } else {
                twice
            };
            let read = Signed::new(sample.kind, body.as_bytes(), &HeaderMap::new()).read(now());
            assert_eq!(read.is_err(), decides, "{} {name}: {read:?}", sample.name);
        }
    }
}

const SLACK_DECIDES: &[&str] = &[
    "type",
    "event_id",
    "response_url",
    "actions",
    "authorizations",
    "event",
    "view",
    "team",
    "team_id",
    "enterprise",
    "enterprise_id",
    "user",
    "channel",
    "message",
];

const LINEAR_DECIDES: &[&str] = &[
    "type",
    "webhookTimestamp",
    "organizationId",
    "agentSession",
    "agentActivity",
];

#[test]
fn linears_time_is_in_what_was_signed() {
    let sent = 1_700_000_000_000_u64;
    let sample = corpus()
        .iter()
        .find(|sample| sample.name == "linear/agent_session_created")
        .unwrap();
    let (document, _) = sample.document.clone().unwrap();
    let at = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    let read = |stamp: Value, now| {
        let mut document = document.clone();
        if stamp.is_null() {
            document.as_object_mut().unwrap().remove("webhookTimestamp");
        } else {
            document["webhookTimestamp"] = stamp;
        }
        Signed::new(
            sample.kind,
            document.to_string().as_bytes(),
            &HeaderMap::new(),
        )
        .read(now)
        .err()
    };
    let fault = |fault| Some(Unread::Signature(fault));
    for stamp in [json!(sent), json!(sent as f64)] {
        assert_eq!(read(stamp.clone(), at(sent + 60_000)), None);
        assert_eq!(read(stamp.clone(), at(sent - 60_000)), None);
        assert_eq!(
            read(stamp.clone(), at(sent + 60_001)),
            fault(SignatureFault::Stale)
        );
        assert_eq!(read(stamp, at(sent - 60_001)), fault(SignatureFault::Early));
    }
    for stamp in [
        Value::Null,
        json!("1700000000000"),
        json!(true),
        json!([sent]),
        json!({}),
    ] {
        assert_eq!(read(stamp, at(sent)), fault(SignatureFault::Malformed));
    }
    assert_eq!(read(json!(-1), at(sent)), fault(SignatureFault::Stale));
    assert_eq!(read(json!(1.5e300), at(sent)), fault(SignatureFault::Early));
}
