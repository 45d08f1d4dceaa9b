//! What people see of a refusal where Slack shows no answer: `response_url`
//! and the bot's voice, with Slack's own hosts played outside.

use serde_json::{Value, json};

use super::{BILLING, Slack};
use crate::outside::{Answer, Outside, Seen};
use crate::support::deliveries::{
    Delivery, buttons, mention, message, message_shortcut, shortcut, view,
};
use crate::support::gateway::Builder;
use crate::support::problem::OUT_OF_CREDITS;
use crate::support::wait::timed;
use crate::support::{Redis, eventually, secs};

const BOT_TOKEN: &str = "xoxb-sesame-token";

/// Slack's own answer to whatever it is asked.
const OK: &str = r#"{"ok":true,"channel":{"id":"D0DIRECT"},"ts":"1.2"}"#;

fn world() -> Outside {
    Outside::answering(|_| Answer::json(OK))
}

fn telling(outside: &Outside) -> impl FnOnce(Builder) -> Builder {
    let egress = json!({"proxy": outside.proxy(), "ca": outside.ca()});
    move |builder| builder.set("egress", egress)
}

/// With a bot's token.
fn speaking(outside: &Outside) -> impl FnOnce(Builder) -> Builder {
    let telling = telling(outside);
    move |builder| telling(builder.set("routes.3.webhook.bot_token", BOT_TOKEN))
}

#[track_caller]
fn refuse(slack: &Slack, delivery: &Delivery) {
    let response = slack.deliver(delivery);
    assert_eq!((response.status, response.text()), (200, String::new()));
}

/// Waits until so many could not be told.
#[track_caller]
fn assert_untold(slack: &Slack, count: f64) {
    eventually(secs(10), "what cannot be told is counted", || {
        let untold = [("result", "untold")];
        let found = slack
            .gateway
            .metrics()
            .sum("tollgate_notices_total", &untold);
        (found == count).then_some(())
    });
}

#[track_caller]
fn assert_tells(seen: &Seen) -> Value {
    let text = seen.text();
    assert!(
        text.contains(OUT_OF_CREDITS) && text.contains(BILLING),
        "{text}"
    );
    seen.json()
}

/// A method of Slack's API, asked with the bot's token.
#[track_caller]
fn assert_by_bot(seen: &Seen, method: &str) -> Value {
    assert_eq!(seen.url(), format!("https://slack.com/api/{method}"));
    assert_eq!(
        seen.header("authorization"),
        Some(format!("Bearer {BOT_TOKEN}").as_str())
    );
    assert!(!seen.path.contains("sesame") && !seen.text().contains(BOT_TOKEN));
    assert_tells(seen)
}

#[test]
fn whoever_acted_is_told_at_the_response_url() {
    let outside = world();
    let slack = Slack::start_with(Redis::shared(), "0", telling(&outside));
    let acted = [
        ("actions", buttons(&slack.workspace, &["approve_plan"])),
        ("app", message_shortcut(&slack.workspace)),
    ];
    for (at, (path, payload)) in acted.into_iter().enumerate() {
        refuse(&slack, &Delivery::payload(&payload));
        let seen = &outside.wait_for(at + 1)[at];
        assert_eq!(seen.method, "POST");
        assert_eq!(
            seen.url(),
            format!("https://hooks.slack.com/{path}/T/1/sesame-url")
        );
        let body = assert_tells(seen);
        assert_eq!(body["response_type"], "ephemeral", "{body}");
        assert_ne!(
            body["replace_original"], true,
            "the message with the button stays: {body}"
        );
        assert_eq!(seen.header("authorization"), None);
    }
    slack.bolt.assert_untouched();
}

#[test]
fn a_response_url_that_is_not_slacks_is_never_asked() {
    let outside = world();
    let slack = Slack::start_with(Redis::shared(), "0", telling(&outside));
    let elsewhere = [
        "https://evil.test/actions/T/1/x",
        "http://hooks.slack.com/actions/T/1/x",
        "https://hooks.slack.com.evil.test/x",
        "https://hooks.slack.com:8443/x",
        "https://hooks.slack.com@evil.test/x",
        "https://me:you@hooks.slack.com/x",
        "https://evil.test#@hooks.slack.com/x",
        "https://evil.test\\@hooks.slack.com/x",
        "https://hooks.slack.com\\.evil.test/x",
        "https://HOOKS.slack.com.evil.test/",
        "//hooks.slack.com/x",
        "https://127.0.0.1/x",
        "https://slack.com/x",
        "javascript:alert(1)",
        "",
    ];
    for url in elsewhere {
        let mut payload = buttons(&slack.workspace, &["approve_plan"]);
        payload["response_url"] = json!(url);
        refuse(&slack, &Delivery::payload(&payload));
    }
    assert_untold(&slack, 15.0);
    // One more that is Slack's: whatever was asked was asked before it.
    refuse(
        &slack,
        &Delivery::payload(&buttons(&slack.workspace, &["approve_plan"])),
    );
    outside.wait_for(1);
    assert_eq!(outside.tunnels(), ["hooks.slack.com:443"]);
}

#[test]
fn who_signs_nothing_makes_the_gateway_ask_nothing() {
    let outside = world();
    let slack = Slack::start_with(Redis::shared(), "0", speaking(&outside));
    for delivery in [
        Delivery::payload(&buttons(&slack.workspace, &["approve_plan"])),
        Delivery::json(&mention(&slack.workspace)),
    ] {
        let response = slack.gateway.ask(&delivery.by_slack("another secret"));
        assert_eq!(response.status, 401);
    }
    refuse(
        &slack,
        &Delivery::payload(&message_shortcut(&slack.workspace)),
    );
    let seen = outside.wait_for(1);
    assert!(seen[0].path.starts_with("/app/"), "{seen:?}");
}

#[test]
fn a_thread_is_told_once_and_another_thread_again() {
    let outside = world();
    let slack = Slack::start_with(Redis::shared(), "0", speaking(&outside));
    let in_thread = |thread: &str| {
        let mut event = mention(&slack.workspace);
        event["event"]["thread_ts"] = json!(thread);
        Delivery::json(&event)
    };
    for _ in 0..3 {
        refuse(&slack, &in_thread("1515449522.000001"));
    }
    let first = assert_by_bot(&outside.wait_for(1)[0], "chat.postEphemeral");
    assert_eq!(
        (&first["channel"], &first["user"], &first["thread_ts"]),
        (
            &json!("C0ROOM"),
            &json!("U0ASKS"),
            &json!("1515449522.000001")
        )
    );
    refuse(&slack, &in_thread("1515449522.000002"));
    let second = assert_by_bot(&outside.wait_for(2)[1], "chat.postEphemeral");
    assert_eq!(
        second["thread_ts"], "1515449522.000002",
        "the first was told once"
    );
    assert_eq!(
        slack.verdicts("refused"),
        4.0,
        "each is refused and counted"
    );
}

#[test]
fn a_redelivery_is_not_told_again() {
    let outside = world();
    let slack = Slack::start_with(Redis::shared(), "0", |builder| {
        // However short the window is.
        speaking(&outside)(builder.set("routes.3.webhook.notice_every", "1s"))
    });
    let delivery = Delivery::json(&mention(&slack.workspace));
    refuse(&slack, &delivery);
    let first = outside.wait_for(1);
    eventually(secs(10), "the window is over", || {
        (first[0].at.elapsed() > secs(2)).then_some(())
    });
    for attempt in ["1", "2", "3"] {
        let again = slack.signed(&delivery).header("X-Slack-Retry-Num", attempt);
        assert_eq!(slack.gateway.ask(&again).status, 200);
    }
    let mut other = message(&slack.workspace);
    other["event"]["channel"] = json!("D0OTHER");
    refuse(&slack, &Delivery::json(&other));
    let seen = outside.wait_for(2);
    assert!(seen[1].text().contains("D0OTHER"), "{}", seen[1].text());
}

#[test]
fn bots_are_not_answered() {
    let outside = world();
    let slack = Slack::start_with(Redis::shared(), "0", speaking(&outside));
    let mut by_bot = mention(&slack.workspace);
    by_bot["event"]["bot_id"] = json!("B0OTHER");
    refuse(&slack, &Delivery::json(&by_bot));
    let mut by_itself = mention(&slack.workspace);
    by_itself["event"]["user"] = json!("U0SELF");
    refuse(&slack, &Delivery::json(&by_itself));
    refuse(&slack, &Delivery::json(&message(&slack.workspace)));
    assert_eq!(outside.wait_for(1)[0].json()["channel"], "D0ROOM");
    // Nobody went without: the next one does, and is the first to be counted.
    assert_untold(&slack, 0.0);
    let mut nowhere = mention(&slack.workspace);
    nowhere["event"].as_object_mut().unwrap().remove("channel");
    refuse(&slack, &Delivery::json(&nowhere));
    assert_untold(&slack, 1.0);
}

#[test]
fn a_global_shortcut_is_answered_to_the_person() {
    let outside = world();
    let slack = Slack::start_with(Redis::shared(), "0", speaking(&outside));
    refuse(&slack, &Delivery::payload(&shortcut(&slack.workspace)));
    let told = eventually(secs(10), "the person is told", || {
        outside
            .seen()
            .into_iter()
            .find(|seen| seen.text().contains(OUT_OF_CREDITS))
    });
    let body = assert_by_bot(&told, "chat.postMessage");
    let channel = body["channel"].as_str().unwrap();
    assert!(["U0ASKS", "D0DIRECT"].contains(&channel), "{body}");
}

#[test]
fn each_workspace_has_its_own_bot() {
    let outside = world();
    let slack = Slack::start_with(Redis::shared(), "0", |builder| {
        let tokens = json!({"TELSEWHERE": "xoxb-sesame-other"});
        telling(&outside)(builder.set("routes.3.webhook.bot_token", tokens))
    });
    refuse(&slack, &Delivery::json(&mention(&slack.workspace)));
    assert_untold(&slack, 1.0);
    assert!(outside.tunnels().is_empty(), "{:?}", outside.tunnels());
}

#[test]
fn who_cannot_be_told_is_counted_and_logged() {
    let slack = Slack::start("0");
    refuse(&slack, &Delivery::json(&mention(&slack.workspace)));
    refuse(&slack, &Delivery::payload(&shortcut(&slack.workspace)));
    assert_untold(&slack, 2.0);
    let line = slack.gateway.says(&slack.team);
    assert!(line.contains("request_id"), "{line}");
}

#[test]
fn nobody_is_told_anything_without_a_refusal_of_ours() {
    let outside = world();
    let shadow = Slack::start_with(Redis::shared(), "0", |builder| {
        speaking(&outside)(builder.set("admission.enforce", false))
    });
    let problem = Slack::start_with(Redis::shared(), "0", |builder| {
        telling(&outside)(builder.set("routes.3.refuse_with", "problem"))
    });
    let rich = Slack::start_with(Redis::shared(), "5", speaking(&outside));
    for slack in [&shadow, &problem, &rich] {
        slack.deliver(&Delivery::json(&mention(&slack.workspace)));
        slack.deliver(&Delivery::payload(&buttons(
            &slack.workspace,
            &["approve_plan"],
        )));
        slack.deliver(&Delivery::payload(&view(
            &slack.workspace,
            "view_submission",
        )));
    }
    // A last one of a team without credits: it is the only one.
    let poor = Slack::start_with(Redis::shared(), "0", speaking(&outside));
    refuse(&poor, &Delivery::json(&message(&poor.workspace)));
    let seen = outside.wait_for(1);
    assert_eq!(seen[0].json()["channel"], "D0ROOM");
}

#[test]
fn slack_hears_in_time_even_if_its_own_hosts_do_not_answer() {
    let outside = Outside::answering(|_| Answer::hang());
    let slack = Slack::start_with(Redis::shared(), "0", speaking(&outside));
    for at in 0..20 {
        let mut event = mention(&slack.workspace);
        event["event"]["ts"] = json!(format!("1515449522.{at:06}"));
        let (_, took) = timed(|| refuse(&slack, &Delivery::json(&event)));
        assert!(took < secs(3), "Slack waits for 3 s: {took:?}");
    }
    eventually(secs(40), "every notice ends", || {
        let metrics = slack.gateway.metrics();
        (metrics.sum("tollgate_notices_total", &[]) >= 20.0).then_some(())
    });
}
