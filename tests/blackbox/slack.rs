//! Slack's own Bolt as the upstream, unmodified, and deliveries signed by
//! Slack's own signer: what arrives, what is refused, and how.

use serde_json::{Value, json};

use crate::support::deliveries::{
    Delivery, SLACK, buttons, command, event, interaction, mention, message, message_shortcut,
    seconds, shortcut, view,
};
use crate::support::gateway::Builder;
use crate::support::parties::Party;
use crate::support::problem::{OUT_OF_CREDITS, assert_insufficient_credits, assert_problem};
use crate::support::redis::fresh;
use crate::support::{Gateway, Redis, Req, Response, eventually, secs};

const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
const BILLING: &str = "https://billing.test/credits";

/// The gateway in front of Bolt, and one workspace whose team has a balance.
struct Slack {
    bolt: Party,
    gateway: Gateway,
    workspace: String,
    team: String,
}

/// What a route for Slack says.
fn webhook() -> Value {
    json!({
        "start": format!("POST {SLACK}"),
        "trigger": "slack",
        "webhook": {"kind": "slack", "secret": SECRET, "team_key": "slack:<workspace>"},
        "refuse_with": "message",
    })
}

impl Slack {
    #[track_caller]
    fn start(balance: &str) -> Self {
        Slack::start_with(Redis::shared(), balance, |builder| builder)
    }

    #[track_caller]
    fn start_with(redis: &Redis, balance: &str, change: impl FnOnce(Builder) -> Builder) -> Self {
        let bolt = Party::bolt(SECRET);
        let builder = Gateway::before_address(bolt.address)
            .redis(redis)
            .set("routes.3", webhook())
            .set("problem", json!({"billing_url": BILLING}));
        let (workspace, team) = (workspace(redis), redis.team(balance));
        belongs(redis, &workspace, &team);
        Slack {
            gateway: change(builder).start(),
            bolt,
            workspace,
            team,
        }
    }

    /// Signed by `slack_sdk`, at this time.
    fn signed_at(&self, delivery: &Delivery, timestamp: &str) -> Req {
        let signature = self.bolt.ask(json!({
            "do": "sign", "secret": SECRET, "body": delivery.body, "timestamp": timestamp,
        }));
        delivery.with_slack_signature(timestamp, signature.as_str().unwrap())
    }

    /// Signed by `slack_sdk`, now.
    fn signed(&self, delivery: &Delivery) -> Req {
        self.signed_at(delivery, &seconds().to_string())
    }

    #[track_caller]
    fn deliver(&self, delivery: &Delivery) -> Response {
        self.gateway.ask(&self.signed(delivery))
    }

    fn verdicts(&self, verdict: &str) -> f64 {
        self.gateway
            .metrics()
            .sum("tollgate_requests_total", &[("verdict", verdict)])
    }
}

/// A workspace that no other test has.
fn workspace(redis: &Redis) -> String {
    format!("T{}X{}", redis.port, fresh("").trim_start_matches('-'))
}

/// Says which team pays for a workspace.
fn belongs(redis: &Redis, workspace: &str, team: &str) {
    redis.run::<()>(&["SET", &format!("slack:{workspace}"), team]);
}

/// One delivery of each surface that starts a run, and what Bolt calls it.
fn starts(workspace: &str) -> Vec<(&'static str, Delivery)> {
    vec![
        ("command", command(workspace)),
        ("app_mention", Delivery::json(&mention(workspace))),
        ("message", Delivery::json(&message(workspace))),
        // With a file, and to the channel of its thread, too: people wrote it.
        (
            "message",
            changed_message(workspace, "subtype", "file_share"),
        ),
        (
            "message",
            changed_message(workspace, "subtype", "thread_broadcast"),
        ),
        (
            "action",
            Delivery::payload(&buttons(workspace, &["approve_plan"])),
        ),
        ("shortcut", Delivery::payload(&shortcut(workspace))),
        ("shortcut", Delivery::payload(&message_shortcut(workspace))),
        (
            "view_submission",
            Delivery::payload(&view(workspace, "view_submission")),
        ),
    ]
}

/// An event by this type, with nothing of use in it.
fn lifecycle(workspace: &str, kind: &str) -> Delivery {
    Delivery::json(&event(workspace, &json!({"type": kind, "user": "U0ASKS"})))
}

/// A message that is not just written.
fn changed_message(workspace: &str, field: &str, value: &str) -> Delivery {
    let mut delivery = message(workspace);
    delivery["event"][field] = json!(value);
    Delivery::json(&delivery)
}

/// Deliveries that start nothing, and what Bolt calls them, if it has
/// listeners for them.
fn passes(workspace: &str) -> Vec<(Option<&'static str>, Delivery)> {
    let suggestion = json!({"action_id": "pick", "block_id": "b", "value": "x"});
    vec![
        (
            Some("app_uninstalled"),
            lifecycle(workspace, "app_uninstalled"),
        ),
        (
            Some("tokens_revoked"),
            lifecycle(workspace, "tokens_revoked"),
        ),
        (
            Some("app_home_opened"),
            lifecycle(workspace, "app_home_opened"),
        ),
        (
            Some("message"),
            changed_message(workspace, "bot_id", "B0OTHER"),
        ),
        (
            Some("message"),
            changed_message(workspace, "subtype", "channel_topic"),
        ),
        (
            Some("view_closed"),
            Delivery::payload(&view(workspace, "view_closed")),
        ),
        (
            Some("action"),
            Delivery::payload(&buttons(workspace, &["stop"])),
        ),
        (
            Some("action"),
            Delivery::payload(&buttons(workspace, &["stop_run", "close"])),
        ),
        (
            Some("options"),
            Delivery::payload(&interaction(workspace, "block_suggestion", &suggestion)),
        ),
    ]
}

/// What Slack asks before there is any workspace: the body, and Bolt's answer.
fn probes() -> [(Delivery, &'static str); 2] {
    let challenge =
        json!({"type": "url_verification", "challenge": "3eZbrw1a", "token": "of-old-times"});
    [
        (Delivery::json(&challenge), "3eZbrw1a"),
        (
            Delivery::form(&[("token", "of-old-times"), ("ssl_check", "1")]),
            "",
        ),
    ]
}

#[track_caller]
fn assert_probes_pass(slack: &Slack) {
    for (probe, answer) in probes() {
        let response = slack.deliver(&probe);
        assert_eq!(response.status, 200, "{probe:?}{}", response.text());
        assert!(response.text().contains(answer), "{}", response.text());
    }
    slack.bolt.catch_up();
    assert_eq!(slack.bolt.told("answered").len(), probes().len());
}

#[test]
fn on_a_path_that_is_no_route_bolt_hears_everything() {
    let slack = Slack::start_with(Redis::shared(), "0", |builder| {
        builder.set("routes.3", json!({"start": "POST /elsewhere"}))
    });
    let started = starts(&slack.workspace)
        .into_iter()
        .map(|(kind, delivery)| (Some(kind), delivery));
    let mut wanted = Vec::new();
    for (kind, delivery) in started.chain(passes(&slack.workspace)) {
        let response = slack.deliver(&delivery);
        assert_eq!(response.status, 200, "{delivery:?}: {}", response.text());
        wanted.extend(kind);
    }
    let handled = slack.bolt.handled(wanted.len());
    let handled: Vec<&str> = handled
        .iter()
        .map(|told| told["handled"].as_str().unwrap())
        .collect();
    assert_eq!(handled, wanted);
}

#[test]
fn every_surface_arrives_unchanged_and_bolt_handles_it() {
    let slack = Slack::start("5");
    for (at, (kind, delivery)) in starts(&slack.workspace).into_iter().enumerate() {
        let request = slack.signed(&delivery);
        let response = slack.gateway.ask(&request);
        assert_eq!(response.status, 200, "{kind}: {}", response.text());
        let handled = slack.bolt.handled(at + 1);
        assert_eq!(handled[at]["handled"], kind);
        assert_eq!(handled[at]["team"], slack.workspace.as_str());
        let arrived = &slack.bolt.told("arrived")[at];
        assert_arrived(arrived, &request, &slack.team);
    }
    assert_eq!(slack.verdicts("admitted"), 9.0);
}

/// Every header of the request and every byte of its body is there.
#[track_caller]
fn assert_arrived(arrived: &Value, request: &Req, team: &str) {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(request.body_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(arrived["sha256"], digest.as_str(), "{arrived}");
    let head = String::from_utf8(request.head_bytes()).unwrap();
    let headers = arrived["headers"].as_array().unwrap();
    let there = |name: &str, value: &str| {
        let named = headers.iter().filter(|pair| {
            pair[0].as_str().unwrap().eq_ignore_ascii_case(name) && pair[1] == value
        });
        named.count() == 1
    };
    for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        assert!(there(name, value), "{line}: {arrived}");
    }
    assert!(there("x-tollgate-team", team), "{arrived}");
    assert!(there("x-tollgate-principal", "slack:U0ASKS"), "{arrived}");
}

#[test]
fn nothing_reaches_bolt_at_zero_and_slack_hears_a_success() {
    let slack = Slack::start("0");
    for (kind, delivery) in starts(&slack.workspace) {
        let response = slack.deliver(&delivery);
        assert!(
            response.head.starts_with("HTTP/1.1 200 "),
            "{kind}: {}",
            response.head
        );
        assert_eq!(response.header("cache-control"), Some("no-store"), "{kind}");
        assert_eq!(
            response.header("proxy-status"),
            Some(r#"tollgate; error=http_request_denied; details="insufficient_credits""#),
            "{kind}"
        );
        match kind {
            "command" => assert_ephemeral(&response),
            "view_submission" => assert_modal(&slack, &response),
            _ => {
                assert_eq!(response.text(), "", "{kind}: Slack wants an empty body");
                assert_eq!(response.header("content-length"), Some("0"), "{kind}");
            }
        }
    }
    slack.bolt.assert_untouched();
    assert_eq!(slack.verdicts("refused"), 9.0);
    let by_trigger = [("trigger", "slack"), ("reason", "insufficient_credits")];
    assert_eq!(
        slack
            .gateway
            .metrics()
            .sum("tollgate_refusals_total", &by_trigger),
        9.0
    );
}

/// Only the one who typed the command sees it: the sentence, and where to buy.
#[track_caller]
fn assert_ephemeral(response: &Response) {
    let content_type = response.header("content-type").unwrap_or_default();
    assert!(
        content_type.starts_with("application/json"),
        "{content_type}"
    );
    let body = response.json();
    assert_eq!(body["response_type"], "ephemeral", "{body}");
    let text = body["text"].as_str().unwrap();
    assert!(text.contains(OUT_OF_CREDITS), "{text}");
    assert!(text.contains(BILLING), "{text}");
}

/// The form becomes a page that says it, and Slack's own model takes it.
#[track_caller]
fn assert_modal(slack: &Slack, response: &Response) {
    let body = response.json();
    assert_eq!(body["response_action"], "update", "{body}");
    let modal = slack.bolt.ask(json!({"do": "view", "view": body["view"]}));
    assert_eq!(modal["type"], "modal");
    let text = modal["blocks"].to_string();
    assert!(
        text.contains(OUT_OF_CREDITS) && text.contains(BILLING),
        "{text}"
    );
}

#[test]
fn a_problem_route_refuses_once_and_for_all() {
    let slack = Slack::start_with(Redis::shared(), "0", |builder| {
        builder.set("routes.3.refuse_with", "problem")
    });
    for (kind, delivery) in starts(&slack.workspace) {
        let response = slack.deliver(&delivery);
        assert_insufficient_credits(&response, SLACK);
        assert_eq!(response.header("x-slack-no-retry"), Some("1"), "{kind}");
    }
    slack.bolt.assert_untouched();
}

#[test]
fn what_starts_nothing_passes_at_zero() {
    let slack = Slack::start("0");
    let mut wanted = Vec::new();
    for (kind, delivery) in passes(&slack.workspace) {
        let response = slack.deliver(&delivery);
        assert_eq!(response.status, 200, "{delivery:?}: {}", response.text());
        wanted.extend(kind);
    }
    let handled = slack.bolt.handled(wanted.len());
    let handled: Vec<&str> = handled
        .iter()
        .map(|told| told["handled"].as_str().unwrap())
        .collect();
    assert_eq!(handled, wanted);
    assert_eq!(slack.verdicts("passed"), 9.0);
    assert_eq!(slack.verdicts("refused"), 0.0);
}

#[test]
fn a_stop_button_beside_another_is_a_start() {
    let slack = Slack::start("0");
    let both = buttons(&slack.workspace, &["stop_run", "approve_plan"]);
    assert_eq!(slack.deliver(&Delivery::payload(&both)).text(), "");
    slack.bolt.assert_untouched();
    assert_eq!(slack.verdicts("refused"), 1.0);
}

#[test]
fn a_mention_by_a_bot_is_a_start() {
    let slack = Slack::start("0");
    let mut by_bot = mention(&slack.workspace);
    by_bot["event"]["bot_id"] = json!("B0OTHER");
    assert_eq!(slack.deliver(&Delivery::json(&by_bot)).status, 200);
    slack.bolt.assert_untouched();
    assert_eq!(slack.verdicts("refused"), 1.0);
}

#[test]
fn slacks_probes_pass_at_zero() {
    assert_probes_pass(&Slack::start("0"));
}

#[test]
fn slacks_probes_pass_without_redis() {
    let redis = Redis::private(&[]);
    let slack = Slack::start_with(&redis, "0", |builder| builder);
    redis.kill();
    assert_probes_pass(&slack);
}

#[test]
fn what_starts_nothing_passes_without_redis() {
    let redis = Redis::private(&[]);
    let slack = Slack::start_with(&redis, "5", |builder| builder);
    redis.freeze();
    for (_, delivery) in passes(&slack.workspace) {
        assert_eq!(slack.deliver(&delivery).status, 200, "{delivery:?}");
    }
    redis.thaw();
    slack.bolt.handled(9);
}

#[test]
fn signatures_that_do_not_hold_are_401_and_bolt_hears_nothing() {
    let slack = Slack::start("5");
    let delivery = Delivery::json(&mention(&slack.workspace));
    let at = |offset: i64| (i64::try_from(seconds()).unwrap() + offset).to_string();
    let good = slack.signed(&delivery);
    let other = Delivery::json(&mention(&slack.workspace));
    let plain = || {
        Req::new("POST", SLACK)
            .header("Content-Type", "application/json")
            .body(&delivery.body)
    };
    let by_nobody = delivery.by_slack("another secret");
    let wrong = [
        ("missing", plain()),
        (
            "missing",
            plain().header("X-Slack-Request-Timestamp", &at(0)),
        ),
        ("missing", plain().header("X-Slack-Signature", "v0=00")),
        ("mismatch", by_nobody),
        ("mismatch", good.clone().body(&other.body)),
        ("mismatch", good.clone().body(format!("{} ", delivery.body))),
        ("stale", slack.signed_at(&delivery, &at(-310))),
        ("early", slack.signed_at(&delivery, &at(310))),
        ("malformed", delivery.with_slack_signature(&at(0), "v0=")),
        (
            "malformed",
            delivery.with_slack_signature(&at(0), &"0".repeat(64)),
        ),
        ("malformed", delivery.with_slack_signature("soon", "v0=00")),
        (
            "malformed",
            delivery.with_slack_signature("1e9", &format!("v0={}", "0".repeat(64))),
        ),
    ];
    for (reason, request) in &wrong {
        let response = slack.gateway.ask(request);
        assert_problem(&response, 401, "authentication_required", Some("false"));
        assert_eq!(
            response.header("www-authenticate"),
            Some("Signature"),
            "{reason}"
        );
        assert_eq!(response.header("x-slack-no-retry"), Some("1"), "{reason}");
        let said = response.text().to_lowercase();
        assert!(
            !said.contains("credit") && !said.contains("api key"),
            "{said}"
        );
    }
    slack.bolt.assert_untouched();
    for reason in ["missing", "mismatch", "stale", "early", "malformed"] {
        let reason = format!("signature_{reason}");
        slack
            .gateway
            .access_line(&reason, |line| line["reason"] == reason.as_str());
    }
    // Bolt takes what is just inside of the window, and so does the gateway.
    for offset in [-290, 290] {
        let response = slack.gateway.ask(&slack.signed_at(&delivery, &at(offset)));
        assert_eq!(response.status, 200, "{offset}: {}", response.text());
    }
    slack.bolt.handled(2);
}

#[test]
fn either_of_two_secrets_will_do() {
    let slack = Slack::start_with(Redis::shared(), "5", |builder| {
        builder.set("routes.3.webhook.secret", json!(["the-next-one", SECRET]))
    });
    let delivery = Delivery::json(&mention(&slack.workspace));
    assert_eq!(slack.deliver(&delivery).status, 200);
    slack.bolt.handled(1);
    // Bolt knows the old secret only: that it refuses shows that it was asked.
    assert_eq!(
        slack.gateway.ask(&delivery.by_slack("the-next-one")).status,
        401
    );
    slack.bolt.catch_up();
    assert_eq!(slack.bolt.told("arrived").len(), 2);
}

#[test]
fn an_unknown_workspace_is_400_and_bolt_hears_nothing() {
    let slack = Slack::start("5");
    let stranger = workspace(Redis::shared());
    for (kind, delivery) in starts(&stranger) {
        let response = slack.deliver(&delivery);
        assert_problem(&response, 400, "integration_not_configured", Some("false"));
        assert_eq!(response.header("x-slack-no-retry"), Some("1"), "{kind}");
        assert!(!response.text().contains(&stranger), "{}", response.text());
    }
    slack.bolt.assert_untouched();
}

#[test]
fn the_configured_team_of_a_workspace_goes_before_redis() {
    let (redis, other) = (Redis::shared(), workspace(Redis::shared()));
    let rich = redis.team("5");
    belongs(redis, &other, &redis.team("0"));
    let slack = Slack::start_with(redis, "0", |builder| {
        builder.set("routes.3.webhook.teams", json!({&other: &rich}))
    });
    assert_eq!(slack.deliver(&Delivery::json(&mention(&other))).status, 200);
    slack.bolt.handled(1);
    slack.deliver(&Delivery::json(&mention(&slack.workspace)));
    slack.bolt.handled(1);
}

#[test]
fn a_mebibyte_arrives_and_a_byte_more_is_413() {
    let slack = Slack::start("5");
    let padded = |length: usize| {
        let mut body = mention(&slack.workspace);
        body["event"]["text"] = json!("");
        let bare = body.to_string().len();
        body["event"]["text"] = json!("x".repeat(length - bare));
        Delivery::json(&body)
    };
    for length in [64 * 1024, 64 * 1024 + 1, 1024 * 1024] {
        let request = slack.signed(&padded(length));
        let response = slack.gateway.ask(&request);
        assert_eq!(response.status, 200, "{length}: {}", response.text());
    }
    slack.bolt.handled(3);
    let lengths: Vec<Value> = slack
        .bolt
        .told("arrived")
        .iter()
        .map(|told| told["length"].clone())
        .collect();
    assert_eq!(lengths, [65_536, 65_537, 1_048_576]);
    let request = slack.signed(&padded(1024 * 1024 + 1));
    let response = slack.gateway.connect().ask_while_writing(request.bytes());
    assert_problem(&response, 413, "invalid_request", Some("false"));
    assert_eq!(response.header("x-slack-no-retry"), Some("1"));
    slack.bolt.handled(3);
    let set_higher = Slack::start_with(Redis::shared(), "5", |builder| {
        builder.set("routes.3.max_body", "3MiB")
    });
    let mut large = mention(&set_higher.workspace);
    large["event"]["text"] = json!("x".repeat(2 * 1024 * 1024));
    assert_eq!(set_higher.deliver(&Delivery::json(&large)).status, 200);
    set_higher.bolt.handled(1);
}

#[test]
fn on_an_outage_slack_is_asked_to_deliver_again() {
    let redis = Redis::private(&[]);
    let slack = Slack::start_with(&redis, "5", |builder| {
        builder.set("balances.redis.deadline", "200ms")
    });
    let delivery = Delivery::json(&mention(&slack.workspace));
    redis.freeze();
    let response = slack.deliver(&delivery);
    assert_eq!(response.status, 503, "{}", response.text());
    assert_eq!(response.header("x-slack-no-retry"), None);
    slack.bolt.assert_untouched();
    redis.thaw();
    eventually(secs(20), "the redelivery is admitted", || {
        let again = slack.signed(&delivery).header("X-Slack-Retry-Num", "1");
        (slack.gateway.ask(&again).status == 200).then_some(())
    });
    slack.bolt.handled(1);
    assert_eq!(slack.verdicts("admitted"), 1.0);
}

#[test]
fn without_redis_starts_pass_if_the_operator_says_so() {
    let redis = Redis::private(&[]);
    let slack = Slack::start_with(&redis, "5", |builder| {
        builder.set("routes.3.on_outage", "admit")
    });
    redis.kill();
    let deliver = || slack.deliver(&Delivery::json(&mention(&slack.workspace)));
    assert_eq!(deliver().status, 200);
    slack.bolt.handled(1);
    assert_eq!(slack.verdicts("unknown_admitted"), 1.0);
    // What nobody signed is nobody's, outage or not.
    let unsigned = Delivery::json(&mention(&slack.workspace)).by_slack("another secret");
    assert_eq!(slack.gateway.ask(&unsigned).status, 401);
    slack.bolt.handled(1);
}

#[test]
fn in_shadow_everything_arrives_and_is_counted() {
    let slack = Slack::start_with(Redis::shared(), "0", |builder| {
        builder.set("admission.enforce", false)
    });
    let deliveries = starts(&slack.workspace);
    for (kind, delivery) in &deliveries {
        assert_eq!(slack.deliver(delivery).status, 200, "{kind}");
    }
    slack.bolt.handled(deliveries.len());
    assert_eq!(slack.verdicts("would_refuse"), 9.0);
}

#[test]
fn a_key_or_a_team_header_does_not_speak_for_a_delivery() {
    let redis = Redis::shared();
    let slack = Slack::start("0");
    let rich = redis.team("5");
    let key = redis.api_key(&["team", &rich]);
    let delivery = Delivery::json(&mention(&slack.workspace));
    let response = slack
        .gateway
        .ask(&slack.signed(&delivery).team(&rich).bearer(&key));
    assert_eq!((response.status, response.text()), (200, String::new()));
    slack.bolt.assert_untouched();
    let unsigned = Req::post(SLACK).team(&rich).bearer(&key);
    assert_eq!(slack.gateway.ask(&unsigned).status, 401);
    slack.bolt.assert_untouched();
}

mod again;
mod notices;
mod workspaces;
