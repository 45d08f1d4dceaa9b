//! Linear's own receiver as the upstream, unmodified: what arrives and is
//! verified there again, what is refused, and who is told.

use std::time::Duration;

use serde_json::{Value, json};

use crate::outside::{Answer, Outside};
use crate::support::deliveries::{
    Delivery, LINEAR, linear_signature, milliseconds, prompt, session, uuid,
};
use crate::support::gateway::Builder;
use crate::support::parties::Party;
use crate::support::problem::{OUT_OF_CREDITS, assert_insufficient_credits, assert_problem};
use crate::support::wait::timed;
use crate::support::{Gateway, Redis, Req, Response, eventually, secs};

const SECRET: &str = "lin_wh_sesame";
const API_TOKEN: &str = "lin_api_sesame";
const BILLING: &str = "https://billing.test/credits";

/// Linear's own answer to a mutation that worked.
const CREATED: &str = r#"{"data":{"agentActivityCreate":{"success":true}}}"#;

/// The gateway in front of Linear's receiver, and one organisation whose team
/// has a balance.
struct Linear {
    sdk: Party,
    gateway: Gateway,
    organisation: String,
    team: String,
}

impl Linear {
    #[track_caller]
    fn start(balance: &str) -> Self {
        Linear::start_with(Redis::shared(), balance, |builder| builder)
    }

    #[track_caller]
    fn start_with(redis: &Redis, balance: &str, change: impl FnOnce(Builder) -> Builder) -> Self {
        let sdk = Party::linear(SECRET);
        let webhook = json!({
            "start": format!("POST {LINEAR}"),
            "trigger": "linear",
            "webhook": {"kind": "linear", "secret": SECRET, "team_key": "linear:<workspace>"},
            "refuse_with": "message",
        });
        let builder = Gateway::before_address(sdk.address)
            .redis(redis)
            .set("routes.3", webhook)
            .set("problem", json!({"billing_url": BILLING}));
        let (organisation, team) = (uuid(), redis.team(balance));
        redis.run::<()>(&["SET", &format!("linear:{organisation}"), &team]);
        Linear {
            gateway: change(builder).start(),
            sdk,
            organisation,
            team,
        }
    }

    /// With the world outside, where Linear's API is, and a token for it.
    #[track_caller]
    fn start_telling(balance: &str, outside: &Outside) -> Self {
        Linear::start_with(Redis::shared(), balance, |builder| {
            builder.set("routes.3.webhook.api_token", API_TOKEN).set(
                "egress",
                json!({"proxy": outside.proxy(), "ca": outside.ca()}),
            )
        })
    }

    #[track_caller]
    fn deliver(&self, body: &Value) -> Response {
        self.gateway.ask(&Delivery::json(body).by_linear(SECRET))
    }

    fn verdicts(&self, verdict: &str) -> f64 {
        self.gateway
            .metrics()
            .sum("tollgate_requests_total", &[("verdict", verdict)])
    }
}

/// Another kind of event in an organisation.
fn other(organisation: &str, kind: &str, action: &str) -> Value {
    json!({
        "type": kind, "action": action, "organizationId": organisation,
        "data": {"id": "1a6f2b3c-0000-4000-8000-000000000005", "teamId": "1a6f2b3c-0000-4000-8000-000000000006"},
        "url": "https://linear.test/issue", "createdAt": "2026-01-02T03:04:05.006Z",
        "webhookTimestamp": milliseconds(), "webhookId": "1a6f2b3c-0000-4000-8000-000000000007",
    })
}

/// Exactly the 200 that Linear wants, with nothing in it.
#[track_caller]
fn assert_delivered(response: &Response) {
    assert!(
        response.head.starts_with("HTTP/1.1 200 "),
        "{}{}",
        response.head,
        response.text()
    );
    assert_eq!(response.text(), "");
    assert_eq!(response.header("cache-control"), Some("no-store"));
}

#[test]
fn sessions_arrive_unchanged_and_linears_receiver_handles_them() {
    let linear = Linear::start("5");
    let events = [
        session(&linear.organisation, "created"),
        prompt(&linear.organisation, None),
        prompt(&linear.organisation, Some("stop")),
        session(&linear.organisation, "of-tomorrow"),
        other(&linear.organisation, "Issue", "update"),
        other(&linear.organisation, "OAuthApp", "revoked"),
    ];
    for (at, body) in events.iter().enumerate() {
        let delivery = Delivery::json(body);
        let request = delivery.by_linear(SECRET);
        let response = linear.gateway.ask(&request);
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "OK"),
            "{body}"
        );
        let handled = &linear.sdk.handled(at + 1)[at];
        assert_eq!(handled["handled"], body["type"]);
        assert_eq!(handled["action"], body["action"]);
        let arrived = &linear.sdk.told("arrived")[at];
        assert_eq!(arrived["length"], delivery.body.len());
        for line in String::from_utf8(request.head_bytes())
            .unwrap()
            .lines()
            .skip(1)
        {
            let Some((name, value)) = line.split_once(": ") else {
                continue;
            };
            let sent = json!([name.to_lowercase(), value]);
            let headers = arrived["headers"].as_array().unwrap();
            let same =
                |pair: &&Value| json!([pair[0].as_str().unwrap().to_lowercase(), pair[1]]) == sent;
            assert_eq!(headers.iter().filter(same).count(), 1, "{line}: {arrived}");
        }
    }
    assert_eq!(linear.verdicts("admitted"), 3.0);
    assert_eq!(linear.verdicts("passed"), 3.0);
    let header = |arrived: &Value| arrived["headers"].to_string().to_lowercase();
    let arrived = linear.sdk.told("arrived");
    let team = format!("[\"x-tollgate-team\",\"{}\"]", linear.team);
    assert!(header(&arrived[0]).contains(&team), "{arrived:#?}");
}

#[test]
fn a_refused_session_is_exactly_200_and_nothing_arrives() {
    let linear = Linear::start("0");
    for body in [
        session(&linear.organisation, "created"),
        prompt(&linear.organisation, None),
        prompt(&linear.organisation, Some("of-tomorrow")),
        session(&linear.organisation, "of-tomorrow"),
    ] {
        assert_delivered(&linear.deliver(&body));
    }
    linear.sdk.assert_untouched();
    assert_eq!(linear.verdicts("refused"), 4.0);
    let by_trigger = [("trigger", "linear")];
    assert_eq!(
        linear
            .gateway
            .metrics()
            .sum("tollgate_refusals_total", &by_trigger),
        4.0
    );
    // Nobody can be told without a token, and that is said.
    eventually(secs(5), "what could not be told is counted", || {
        let untold = [("result", "untold")];
        (linear
            .gateway
            .metrics()
            .sum("tollgate_notices_total", &untold)
            == 4.0)
            .then_some(())
    });
    eventually(secs(5), "the refusals are events", || {
        let events = Redis::shared().refusals(&linear.team);
        (events.len() == 4 && events.iter().all(|event| event["trigger"] == "linear")).then_some(())
    });
}

#[test]
fn each_organisation_is_told_with_its_own_token() {
    let outside = Outside::answering(|_| Answer::json(CREATED));
    let (own, foreign) = (uuid(), uuid());
    let redis = Redis::shared();
    let team = redis.team("0");
    for organisation in [&own, &foreign] {
        redis.run::<()>(&["SET", &format!("linear:{organisation}"), &team]);
    }
    let linear = Linear::start_with(redis, "0", |builder| {
        builder
            .set("routes.3.webhook.api_token", json!({&own: API_TOKEN}))
            .set(
                "egress",
                json!({"proxy": outside.proxy(), "ca": outside.ca()}),
            )
    });
    assert_delivered(&linear.deliver(&session(&foreign, "created")));
    assert_delivered(&linear.deliver(&session(&own, "created")));
    let seen = &outside.wait_for(1)[0];
    assert_eq!(seen.header("authorization"), Some(API_TOKEN));
    let notices = |result| {
        let labels = [("kind", "linear"), ("result", result)];
        linear
            .gateway
            .metrics()
            .sum("tollgate_notices_total", &labels)
    };
    eventually(secs(5), "one is told, and the other is not", || {
        ((notices("sent"), notices("untold")) == (1.0, 1.0)).then_some(())
    });
}

#[test]
fn stopping_and_other_events_pass_at_zero() {
    let linear = Linear::start("0");
    for (at, body) in [
        prompt(&linear.organisation, Some("stop")),
        other(&linear.organisation, "Issue", "create"),
        other(&linear.organisation, "Comment", "create"),
        other(
            &linear.organisation,
            "PermissionChange",
            "teamAccessChanged",
        ),
        other(&linear.organisation, "OAuthApp", "revoked"),
        other(&linear.organisation, "AppUserNotification", "issueMention"),
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(linear.deliver(body).text(), "OK", "{body}");
        linear.sdk.handled(at + 1);
    }
    assert_eq!(linear.verdicts("passed"), 6.0);
}

#[test]
fn stopping_passes_without_redis() {
    let redis = Redis::private(&[]);
    let linear = Linear::start_with(&redis, "5", |builder| builder);
    redis.kill();
    assert_eq!(
        linear
            .deliver(&prompt(&linear.organisation, Some("stop")))
            .text(),
        "OK"
    );
    linear.sdk.handled(1);
}

#[test]
fn a_problem_route_refuses_with_the_problem() {
    let linear = Linear::start_with(Redis::shared(), "0", |builder| {
        builder.set("routes.3.refuse_with", "problem")
    });
    let response = linear.deliver(&session(&linear.organisation, "created"));
    assert_insufficient_credits(&response, LINEAR);
    assert_eq!(response.header("x-slack-no-retry"), None);
    linear.sdk.assert_untouched();
}

#[test]
fn signatures_that_do_not_hold_are_401_and_nothing_arrives() {
    let linear = Linear::start("5");
    let body = session(&linear.organisation, "created");
    let delivery = Delivery::json(&body);
    let good = linear_signature(SECRET, delivery.body.as_bytes());
    let signed = |change: &dyn Fn(&mut Value)| {
        let mut body = body.clone();
        change(&mut body);
        Delivery::json(&body).by_linear(SECRET)
    };
    let sent =
        |offset: i64| signed(&|body| body["webhookTimestamp"] = json!(milliseconds() + offset));
    let with = |signature: &str| delivery.with_linear_signature(signature, &uuid());
    let unsigned = Req::new("POST", LINEAR)
        .header("Content-Type", "application/json")
        .body(&delivery.body);
    let wrong = [
        ("missing", unsigned),
        ("mismatch", delivery.by_linear("another secret")),
        ("mismatch", with(&good).body(format!("{} ", delivery.body))),
        ("malformed", with(&good.to_uppercase())),
        ("malformed", with(&good[..63])),
        ("malformed", with(&format!("sha256={good}"))),
        ("stale", sent(-65_000)),
        ("early", sent(65_000)),
        (
            "malformed",
            signed(&|body| drop(body.as_object_mut().unwrap().remove("webhookTimestamp"))),
        ),
        (
            "malformed",
            signed(&|body| body["webhookTimestamp"] = json!(milliseconds().to_string())),
        ),
        (
            "malformed",
            signed(&|body| body["webhookTimestamp"] = Value::Null),
        ),
        (
            "stale",
            signed(&|body| body["webhookTimestamp"] = json!(milliseconds() / 1000)),
        ),
    ];
    for (reason, request) in &wrong {
        let response = linear.gateway.ask(request);
        assert_problem(&response, 401, "authentication_required", Some("false"));
        assert_eq!(
            response.header("www-authenticate"),
            Some("Signature"),
            "{reason}"
        );
        let said = response.text().to_lowercase();
        assert!(
            !said.contains("credit") && !said.contains("api key"),
            "{said}"
        );
        let reason = format!("signature_{reason}");
        linear
            .gateway
            .access_line(&reason, |line| line["reason"] == reason.as_str());
    }
    linear.sdk.assert_untouched();
    for offset in [-50_000, 50_000] {
        assert_eq!(linear.gateway.ask(&sent(offset)).text(), "OK", "{offset}");
    }
    linear.sdk.handled(2);
}

#[test]
fn the_organisation_stands_at_the_top_and_nowhere_else() {
    let linear = Linear::start("5");
    let mut nested = session(&linear.organisation, "created");
    nested.as_object_mut().unwrap().remove("organizationId");
    let response = linear.deliver(&nested);
    assert_problem(&response, 400, "integration_not_configured", Some("false"));
    let response = linear.deliver(&session(&uuid(), "created"));
    assert_problem(&response, 400, "integration_not_configured", Some("false"));
    linear.sdk.assert_untouched();
    let mut mixed = session(&linear.organisation, "created");
    mixed["agentSession"]["organizationId"] = json!(uuid());
    mixed["data"] = json!({"teamId": uuid(), "organizationId": uuid()});
    assert_eq!(linear.deliver(&mixed).text(), "OK");
    linear.sdk.handled(1);
}

#[test]
fn on_an_outage_linear_is_asked_to_deliver_again() {
    let redis = Redis::private(&[]);
    let linear = Linear::start_with(&redis, "5", |builder| {
        builder.set("balances.redis.deadline", "200ms")
    });
    let id = uuid();
    let delivery = Delivery::json(&session(&linear.organisation, "created"));
    let signature = linear_signature(SECRET, delivery.body.as_bytes());
    let request = delivery.with_linear_signature(&signature, &id);
    redis.freeze();
    assert_eq!(linear.gateway.ask(&request).status, 503);
    linear.sdk.assert_untouched();
    redis.thaw();
    eventually(secs(20), "the redelivery is admitted", || {
        (linear.gateway.ask(&request).status == 200).then_some(())
    });
    linear.sdk.handled(1);
    assert_eq!(linear.verdicts("admitted"), 1.0);
}

#[test]
fn a_refusal_is_told_on_the_session_within_ten_seconds() {
    let outside = Outside::answering(|_| Answer::json(CREATED));
    let linear = Linear::start_telling("0", &outside);
    let (seen, took) = timed(|| {
        assert_delivered(&linear.deliver(&session(&linear.organisation, "created")));
        outside.wait_for(1)
    });
    assert!(took < Duration::from_secs(10), "{took:?}");
    let told = &seen[0];
    assert_eq!(
        (told.host.as_str(), told.port, told.method.as_str()),
        ("api.linear.app", 443, "POST")
    );
    assert_eq!(told.path, "/graphql");
    let authorization = told.header("authorization").unwrap();
    assert!(authorization.ends_with(API_TOKEN), "{authorization}");
    let body = told.json();
    assert!(
        body["query"]
            .as_str()
            .unwrap()
            .contains("agentActivityCreate"),
        "{body}"
    );
    let variables = body["variables"].to_string();
    assert!(
        variables.contains("1a6f2b3c-0000-4000-8000-000000000003"),
        "{variables}"
    );
    let text = body.to_string();
    assert!(
        text.contains("error") && text.contains(OUT_OF_CREDITS) && text.contains(BILLING),
        "{text}"
    );
    linear.sdk.assert_untouched();
    let sent = [("result", "sent")];
    eventually(secs(5), "the notice is counted", || {
        (linear
            .gateway
            .metrics()
            .sum("tollgate_notices_total", &sent)
            == 1.0)
            .then_some(())
    });
}

#[test]
fn what_comes_again_is_told_once_and_counted_once() {
    let outside = Outside::answering(|_| Answer::json(CREATED));
    let linear = Linear::start_telling("0", &outside);
    let delivery = Delivery::json(&session(&linear.organisation, "created"));
    let signature = linear_signature(SECRET, delivery.body.as_bytes());
    let request = delivery.with_linear_signature(&signature, &uuid());
    for _ in 0..3 {
        assert_delivered(&linear.gateway.ask(&request));
    }
    outside.wait_for(1);
    assert_eq!(linear.verdicts("refused"), 1.0);
    let metrics = linear.gateway.metrics();
    assert_eq!(metrics.sum("tollgate_redeliveries_total", &[]), 2.0);
    eventually(secs(5), "the refusal is an event", || {
        (Redis::shared().refusals(&linear.team).len() == 1).then_some(())
    });
    // A last one in another session: were the others told, they would be before it.
    let mut last = session(&linear.organisation, "created");
    last["agentSession"]["id"] = json!("1a6f2b3c-0000-4000-8000-00000000ffff");
    assert_delivered(&linear.deliver(&last));
    let seen = outside.wait_for(2);
    assert!(
        seen[1].text().contains("00000000ffff"),
        "{}",
        seen[1].text()
    );
    eventually(secs(5), "each of the two is an event", || {
        (Redis::shared().refusals(&linear.team).len() >= 2).then_some(())
    });
    assert_eq!(Redis::shared().refusals(&linear.team).len(), 2);
}

#[test]
fn a_redelivery_shares_the_hold_of_the_first() {
    let linear = Linear::start_with(Redis::shared(), "30", |builder| {
        builder.set(
            "admission",
            json!({"mode": "hold", "hold": 20, "hold_for": "30m"}),
        )
    });
    let delivery = Delivery::json(&session(&linear.organisation, "created"));
    let signature = linear_signature(SECRET, delivery.body.as_bytes());
    let request = delivery.with_linear_signature(&signature, &uuid());
    assert_eq!(linear.gateway.ask(&request).text(), "OK");
    assert_eq!(linear.gateway.ask(&request).text(), "OK");
    linear.sdk.handled(2);
    // Another one finds 10 left.
    assert_delivered(&linear.deliver(&session(&linear.organisation, "created")));
    linear.sdk.handled(2);
}

#[test]
fn linear_is_answered_even_if_its_api_never_answers() {
    let outside = Outside::answering(|_| Answer::hang());
    let linear = Linear::start_telling("0", &outside);
    let (response, took) = timed(|| linear.deliver(&session(&linear.organisation, "created")));
    assert_delivered(&response);
    assert!(
        took < Duration::from_secs(5),
        "Linear waits for 5 s: {took:?}"
    );
    outside.wait_for(1);
    eventually(secs(20), "what was not told is counted", || {
        let metrics = linear.gateway.metrics();
        let all = metrics.sum("tollgate_notices_total", &[]);
        let sent = metrics.sum("tollgate_notices_total", &[("result", "sent")]);
        (all >= 1.0 && sent == 0.0).then_some(())
    });
}

#[test]
fn a_mebibyte_arrives_and_a_byte_more_is_413() {
    let linear = Linear::start("5");
    let padded = |length: usize| {
        let mut body = session(&linear.organisation, "created");
        body["padding"] = json!("");
        let bare = body.to_string().len();
        body["padding"] = json!("x".repeat(length - bare));
        Delivery::json(&body).by_linear(SECRET)
    };
    assert_eq!(linear.gateway.ask(&padded(1024 * 1024)).text(), "OK");
    linear.sdk.handled(1);
    let response = linear
        .gateway
        .connect()
        .ask_while_writing(padded(1024 * 1024 + 1).bytes());
    assert_problem(&response, 413, "invalid_request", Some("false"));
    linear.sdk.handled(1);
}

#[test]
fn on_a_path_that_is_no_route_linears_receiver_hears_everything() {
    let linear = Linear::start_with(Redis::shared(), "0", |builder| {
        builder.set("routes.3", json!({"start": "POST /elsewhere"}))
    });
    assert_eq!(
        linear
            .deliver(&session(&linear.organisation, "created"))
            .text(),
        "OK"
    );
    assert_eq!(
        linear
            .deliver(&prompt(&linear.organisation, Some("stop")))
            .text(),
        "OK"
    );
    linear.sdk.handled(2);
    let unsigned =
        Delivery::json(&session(&linear.organisation, "created")).by_linear("another secret");
    assert_eq!(linear.gateway.ask(&unsigned).status, 400, "it verifies");
    linear.sdk.handled(2);
}
