//! Deliveries of Slack and Linear: which pass, which start a run and who pays,
//! and how a refused one is answered.

use serde_json::{Value, json};

use crate::support::problem::{OUT_OF_CREDITS, assert_invalid, assert_outage, assert_problem};
use crate::support::redis::fresh;
use crate::support::webhooks::{
    LINEAR, LINEAR_SECRET, SLACK, SLACK_SECRET, integrated, linear, mention, now, routes,
    session_created, slack, slack_command, slack_headers, slack_json, slack_mention, slack_payload,
    slack_signature, workspace, workspace_of,
};
use crate::support::{Gateway, Redis, Req, Response, Upstream, eventually, secs};
use crate::support::{holding, operator};

const BILLING: &str = "https://app.example.com/billing?tab=credits&from=slack";

/// A workspace whose team has this balance.
fn workspace_with(balance: &str) -> String {
    let redis = Redis::shared();
    workspace_of(redis, &redis.team(balance))
}

fn requests(gateway: &Gateway, verdict: &str) -> f64 {
    let labels = [("verdict", verdict)];
    gateway.metrics().sum("tollgate_requests_total", &labels)
}

fn refusals(gateway: &Gateway, reason: &str) -> f64 {
    let labels = [("reason", reason)];
    gateway.metrics().sum("tollgate_refusals_total", &labels)
}

/// What Slack sends that starts a run, by its surface.
fn slack_starts(workspace: &str) -> Vec<(&'static str, Req)> {
    let action = json!({
        "type": "block_actions", "team": {"id": workspace}, "user": {"id": "U0123"},
        "actions": [{"action_id": "run_again", "type": "button"}],
    });
    let shortcut = json!({
        "type": "message_action", "callback_id": "fix", "team": {"id": workspace},
        "user": {"id": "U0123"},
    });
    vec![
        ("event", slack_mention(workspace, &fresh("Ev"))),
        ("command", slack_command(workspace)),
        ("action", slack_payload(&action)),
        ("shortcut", slack_payload(&shortcut)),
        ("submission", slack_payload(&submission(workspace))),
    ]
}

fn submission(workspace: &str) -> Value {
    json!({
        "type": "view_submission", "team": {"id": workspace}, "user": {"id": "U0123"},
        "view": {"id": "V1", "callback_id": "new_task", "type": "modal"},
    })
}

fn linear_start(workspace: &str) -> Req {
    linear(&session_created(workspace), &delivery_id())
}

fn delivery_id() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!(
        "7b1ad0f8-37c5-4f0e-9a53-{:012x}",
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

#[test]
fn a_delivery_is_admitted_for_the_team_of_its_workspace() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = integrated(&upstream, "message").start();
    let team = redis.team("5");
    let workspace = workspace_of(redis, &team);
    for (surface, request) in slack_starts(&workspace) {
        assert_eq!(gateway.ask(&request).status, 200, "{surface}");
        let arrived = upstream.only_request();
        assert!(arrived.body == request.body_bytes(), "{surface}");
        assert_eq!(
            arrived.header("x-tollgate-team").as_ref(),
            Some(&team),
            "{surface}"
        );
        let principal = arrived.header("x-tollgate-principal");
        assert_eq!(principal.as_deref(), Some("slack:U0123"), "{surface}");
        upstream.forget();
    }
    assert_eq!(gateway.ask(&linear_start(&workspace)).status, 200);
    let arrived = upstream.only_request();
    assert_eq!(arrived.header("x-tollgate-team"), Some(team));
    assert_eq!(requests(&gateway, "admitted"), 6.0);
    let line = gateway.access_line("Linear's delivery is logged", |line| line["path"] == LINEAR);
    assert_eq!(
        (&line["verdict"], &line["trigger"]),
        (&json!("admitted"), &json!("linear"))
    );
}

#[test]
fn nobody_but_the_workspace_says_who_pays() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = integrated(&upstream, "problem").start();
    let rich = redis.team("100");
    let key = redis.api_key(&["team", &rich]);
    let request = slack_mention(&workspace_with("0"), &fresh("Ev"));
    assert_eq!(gateway.ask(&request.clone().team(&rich)).status, 403);
    assert_eq!(gateway.ask(&request.bearer(&key)).status, 403);
    upstream.assert_untouched();
}

#[test]
fn teams_of_the_configuration_come_before_those_of_redis() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let (poor, rich) = (redis.team("0"), redis.team("5"));
    let workspace = workspace_of(redis, &poor);
    let gateway = integrated(&upstream, "problem")
        .set("routes.0.webhook.teams", json!({&workspace: rich}))
        .start();
    assert_eq!(
        gateway.ask(&slack_mention(&workspace, &fresh("Ev"))).status,
        200
    );
    assert_eq!(gateway.ask(&linear_start(&workspace)).status, 403);
}

#[test]
fn a_problem_is_the_403_and_slack_is_told_not_to_deliver_again() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = integrated(&upstream, "problem").start();
    let team = redis.team("0");
    let workspace = workspace_of(redis, &team);
    for (surface, request) in slack_starts(&workspace) {
        let answer = gateway.ask(&request);
        assert_problem(&answer, 403, "insufficient_credits", Some("false"));
        assert_eq!(answer.json()["title"], OUT_OF_CREDITS, "{surface}");
        assert_eq!(answer.json()["instance"], SLACK, "{surface}");
        assert_eq!(answer.header("x-slack-no-retry"), Some("1"), "{surface}");
    }
    let answer = gateway.ask(&linear_start(&workspace));
    assert_problem(&answer, 403, "insufficient_credits", Some("false"));
    assert_eq!(answer.header("x-slack-no-retry"), None);
    upstream.assert_untouched();
    let events = eventually(secs(5), "each is an event", || {
        let events = redis.refusals(&team);
        (events.len() == 6).then_some(events)
    });
    assert_eq!(
        (&*events[0]["trigger"], &*events[0]["principal"]),
        ("slack", "slack:U0123")
    );
    assert_eq!(events[5]["trigger"], "linear");
    let labels = [("reason", "insufficient_credits"), ("trigger", "slack")];
    let counted = gateway.metrics().sum("tollgate_refusals_total", &labels);
    assert_eq!(counted, 5.0);
}

/// What a message has in common on every surface.
#[track_caller]
fn assert_message(answer: &Response, claim: &str) {
    assert_eq!(answer.status, 200, "{claim}: {}", answer.text());
    for (name, value) in [
        ("cache-control", "no-store"),
        (
            "proxy-status",
            r#"tollgate; error=http_request_denied; details="insufficient_credits""#,
        ),
        ("content-length", &answer.body.len().to_string()),
    ] {
        assert_eq!(answer.all(name), [value], "{claim}: {name}");
    }
    assert_eq!(answer.header("x-slack-no-retry"), None, "{claim}");
}

#[test]
fn a_message_is_what_people_can_read_where_they_look() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "message")
        .set("problem.billing_url", BILLING)
        .start();
    let workspace = workspace_with("0");
    let text = format!(
        "{OUT_OF_CREDITS} <https://app.example.com/billing?tab=credits&amp;from=slack|Buy credits>"
    );
    for (surface, request) in slack_starts(&workspace) {
        let answer = gateway.ask(&request);
        assert_message(&answer, surface);
        match surface {
            "command" => {
                assert_eq!(
                    answer.json(),
                    json!({"response_type": "ephemeral", "text": text})
                );
                let kind = answer.header("content-type").unwrap_or_default();
                assert!(kind.starts_with("application/json"), "{kind}");
            }
            "submission" => {
                let shown = answer.json();
                assert_eq!(shown["response_action"], "update");
                assert_eq!(shown["view"]["blocks"][0]["text"]["text"], text);
            }
            _ => {
                assert!(answer.body.is_empty(), "{surface}: {}", answer.text());
                assert_eq!(answer.header("content-type"), None, "{surface}");
            }
        }
    }
    let answer = gateway.ask(&linear_start(&workspace));
    assert_message(&answer, "linear");
    assert!(answer.head.starts_with("HTTP/1.1 200 "), "{}", answer.head);
    assert!(answer.body.is_empty());
    upstream.assert_untouched();
    assert_eq!(requests(&gateway, "refused"), 6.0);
}

#[test]
fn the_connection_is_kept_after_a_message() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "message").start();
    let workspace = workspace_with("0");
    let mut client = gateway.connect();
    for _ in 0..3 {
        for (surface, request) in slack_starts(&workspace) {
            assert_message(&client.ask(&request), surface);
        }
        assert_message(&client.ask(&linear_start(&workspace)), "linear");
    }
}

#[test]
fn who_cannot_be_told_is_counted_and_logged() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = integrated(&upstream, "message").start();
    let team = redis.team("0");
    let workspace = workspace_of(redis, &team);
    // No token is configured for either.
    gateway.ask(&slack_mention(&workspace, &fresh("Ev")));
    gateway.ask(&linear_start(&workspace));
    let mut by_bot = mention(&workspace, &fresh("Ev"));
    by_bot["event"]["bot_id"] = json!("B0123");
    gateway.ask(&slack_json(&by_bot));
    // These were told in the answer.
    gateway.ask(&slack_command(&workspace));
    gateway.ask(&slack_payload(&submission(&workspace)));
    let untold = |kind: &str| {
        let labels = [("kind", kind), ("result", "untold")];
        gateway.metrics().sum("tollgate_notices_total", &labels)
    };
    // A bot does not wait to be told.
    assert_eq!((untold("slack"), untold("linear")), (1.0, 1.0));
    let line = gateway.says("nobody could be told of a refusal");
    assert!(line.contains(&team), "{line}");
}

#[test]
fn a_signature_that_does_not_hold_is_401_and_says_nothing_of_credits() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "message").start();
    let body = mention(&workspace_with("0"), &fresh("Ev")).to_string();
    let signed = |time: u64, signature: Option<String>| {
        let request = Req::new("POST", SLACK)
            .header("Content-Type", "application/json")
            .header("X-Slack-Request-Timestamp", &time.to_string());
        match signature {
            None => request.body(&body),
            Some(signature) => request.header("X-Slack-Signature", &signature).body(&body),
        }
    };
    let good = |time: u64| slack_signature(SLACK_SECRET, &time.to_string(), body.as_bytes());
    let other = slack_signature("another secret", &now().to_string(), body.as_bytes());
    for (reason, request) in [
        ("signature_missing", signed(now(), None)),
        (
            "signature_malformed",
            signed(now(), Some("v0=zz".to_owned())),
        ),
        ("signature_mismatch", signed(now(), Some(other))),
        (
            "signature_stale",
            signed(now() - 400, Some(good(now() - 400))),
        ),
        (
            "signature_early",
            signed(now() + 400, Some(good(now() + 400))),
        ),
    ] {
        let answer = gateway.ask(&request);
        assert_problem(&answer, 401, "authentication_required", Some("false"));
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Signature"),
            "{reason}"
        );
        assert_eq!(answer.header("x-slack-no-retry"), Some("1"), "{reason}");
        let said = format!("{}{}", answer.head, answer.text()).to_lowercase();
        for word in ["credit", "team", "api key", "bearer"] {
            assert!(!said.contains(word), "{reason}: {said}");
        }
        assert_eq!(refusals(&gateway, reason), 1.0, "{reason}");
    }
    upstream.assert_untouched();
    assert_eq!(requests(&gateway, "invalid"), 5.0);
    assert_eq!(
        gateway.metrics().sum("tollgate_ledger_seconds_count", &[]),
        0.0
    );
}

#[test]
fn a_body_that_was_changed_on_the_way_is_401() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "problem").start();
    let workspace = workspace_with("5");
    for request in [
        slack_mention(&workspace, &fresh("Ev")),
        linear_start(&workspace),
    ] {
        let body = String::from_utf8(request.body_bytes().to_vec()).unwrap();
        let changed = body.replace(&workspace, &workspace.to_lowercase());
        assert_ne!(body, changed);
        let answer = gateway.ask(&request.body(changed));
        assert_problem(&answer, 401, "authentication_required", Some("false"));
    }
    upstream.assert_untouched();
}

#[test]
fn linear_has_a_minute() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "problem").start();
    let workspace = workspace_with("5");
    for (off, time) in [
        ("stale", (now() - 90) * 1000),
        ("early", (now() + 90) * 1000),
    ] {
        let mut body = session_created(&workspace);
        body["webhookTimestamp"] = json!(time);
        let answer = gateway.ask(&linear(&body, &delivery_id()));
        assert_problem(&answer, 401, "authentication_required", Some("false"));
        assert_eq!(refusals(&gateway, &format!("signature_{off}")), 1.0);
    }
    upstream.assert_untouched();
}

#[test]
fn headers_that_decide_stand_there_once() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "message").start();
    let workspace = workspace_with("5");
    let event = slack_mention(&workspace, &fresh("Ev"));
    let session = linear_start(&workspace);
    for request in [
        event.clone().header("X-Slack-Signature", "v0=00"),
        event.clone().header("x_slack_signature", "v0=00"),
        event.clone().header("Connection", "x-slack-signature"),
        event.header("X-Slack-Request-Timestamp", "1"),
        session.clone().header("Linear-Signature", "00"),
        session.header("Linear-Delivery", &delivery_id()),
    ] {
        assert_invalid(&gateway.ask(&request));
    }
    upstream.assert_untouched();
}

#[test]
fn a_workspace_that_nobody_connected_is_400() {
    let upstream = Upstream::ok();
    for refuse_with in ["problem", "message"] {
        let gateway = integrated(&upstream, refuse_with).start();
        let mut without = mention(&workspace(), &fresh("Ev"));
        without.as_object_mut().unwrap().remove("team_id");
        for request in [
            slack_mention(&workspace(), &fresh("Ev")),
            slack_command(&workspace()),
            slack_json(&without),
            linear_start(&workspace()),
        ] {
            let answer = gateway.ask(&request);
            assert_problem(&answer, 400, "integration_not_configured", Some("false"));
        }
        assert_eq!(refusals(&gateway, "integration_not_configured"), 4.0);
    }
    upstream.assert_untouched();
}

#[test]
fn the_log_says_which_workspace_has_no_team_and_where_it_was_looked_for() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "message")
        .set("routes.0.webhook.teams", json!({"T0OTHER": "acme"}))
        .set(
            "routes.1.webhook",
            json!({"kind": "linear", "secret": LINEAR_SECRET, "teams": {"O0OTHER": "acme"}}),
        )
        .start();
    let (one, two) = (workspace(), workspace());
    let mut without = mention(&one, &fresh("Ev"));
    without.as_object_mut().unwrap().remove("team_id");
    for (request, fault) in [
        (
            slack_mention(&one, &fresh("Ev")),
            format!("the workspace {one} has no team in `webhook.teams` or under slack:{one}"),
        ),
        (
            linear_start(&two),
            format!("the workspace {two} has no team in `webhook.teams`"),
        ),
        (
            slack_json(&without),
            "the delivery names no workspace".to_owned(),
        ),
    ] {
        let answer = gateway.ask(&request);
        assert_problem(&answer, 400, "integration_not_configured", Some("false"));
        // Whoever delivers is told neither.
        assert!(!answer.text().contains("webhook"), "{}", answer.text());
        let line = gateway.access_line(&fault, |line| line["fault"] == fault.as_str());
        assert_eq!(line["status"], 400, "{line}");
    }
    // What anybody may have written is not repeated.
    let three = workspace();
    let forged = slack_mention(&three, &fresh("Ev")).body(mention(&three, "Ev2").to_string());
    assert_eq!(gateway.ask(&forged).status, 401);
    let line = gateway.access_line("it is logged", |line| line["status"] == 401);
    assert!(!line.to_string().contains(&three), "{line}");
}

/// What starts nothing, from a workspace.
fn no_starts(workspace: &str) -> Vec<(&'static str, Req)> {
    let event = |event: Value| {
        let mut body = mention(workspace, &fresh("Ev"));
        body["event"] = event;
        slack_json(&body)
    };
    let payload = |kind: &str, more: Value| {
        let mut payload = json!({"type": kind, "team": {"id": workspace}, "user": {"id": "U1"}});
        for (name, value) in more.as_object().unwrap() {
            payload[name] = value.clone();
        }
        slack_payload(&payload)
    };
    let mut stop = session_created(workspace);
    stop["action"] = json!("prompted");
    stop["agentActivity"] = json!({"id": "a", "signal": "stop"});
    let mut issue = session_created(workspace);
    issue["type"] = json!("Issue");
    vec![
        (
            "url_verification",
            slack_json(
                &json!({"type": "url_verification", "challenge": "3eZbrw1aB", "token": "x"}),
            ),
        ),
        (
            "ssl_check",
            slack("application/x-www-form-urlencoded", "ssl_check=1&token=x"),
        ),
        ("app_uninstalled", event(json!({"type": "app_uninstalled"}))),
        ("tokens_revoked", event(json!({"type": "tokens_revoked"}))),
        (
            "app_home_opened",
            event(json!({"type": "app_home_opened", "user": "U1"})),
        ),
        (
            "a bot's message",
            event(json!({"type": "message", "bot_id": "B1", "channel": "C1", "ts": "1.2"})),
        ),
        (
            "a closed view",
            payload("view_closed", json!({"view": {"id": "V1"}})),
        ),
        (
            "a stop button",
            payload(
                "block_actions",
                json!({"actions": [{"action_id": "stop_run"}]}),
            ),
        ),
        ("Linear's stop", linear(&stop, &delivery_id())),
        ("Linear's issue", linear(&issue, &delivery_id())),
    ]
}

#[test]
fn what_starts_nothing_passes_at_zero() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "message").start();
    let workspace = workspace_with("0");
    let deliveries = no_starts(&workspace);
    for (what, request) in &deliveries {
        let answer = gateway.ask(request);
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        let arrived = upstream.only_request();
        assert!(arrived.body == request.body_bytes(), "{what}");
        assert_eq!(arrived.header("x-tollgate-team"), None, "{what}");
        upstream.forget();
    }
    assert_eq!(requests(&gateway, "passed"), deliveries.len() as f64);
    assert_eq!(
        gateway.metrics().sum("tollgate_ledger_seconds_count", &[]),
        0.0
    );
    let line = gateway.access_line("it is logged", |line| line["verdict"] == "passed");
    assert!(line["reason"].is_string(), "{line}");
}

#[test]
fn what_starts_nothing_passes_without_redis() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = integrated(&upstream, "message").redis(&redis).start();
    let workspace = workspace_of(&redis, &redis.team("5"));
    redis.kill();
    for (what, request) in no_starts(&workspace) {
        assert_eq!(gateway.ask(&request).status, 200, "{what}");
    }
    assert_eq!(upstream.requests().len(), no_starts(&workspace).len());
}

#[test]
fn an_outage_lets_the_sender_deliver_again() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let workspace = workspace_of(&redis, &redis.team("5"));
    let gateways =
        ["problem", "message"].map(|form| integrated(&upstream, form).redis(&redis).start());
    redis.kill();
    for gateway in &gateways {
        for (surface, request) in slack_starts(&workspace) {
            let answer = gateway.ask(&request);
            assert_outage(&answer);
            assert_eq!(answer.header("x-slack-no-retry"), None, "{surface}");
        }
        assert_outage(&gateway.ask(&linear_start(&workspace)));
        assert_eq!(requests(gateway, "unknown_refused"), 6.0);
    }
    upstream.assert_untouched();
}

#[test]
fn an_outage_admits_where_the_operator_says_so() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let (workspace, team) = (workspace(), redis.team("0"));
    let gateway = integrated(&upstream, "message")
        .redis(&redis)
        .set("admission.on_outage", "admit")
        .set("routes.0.webhook.teams", json!({&workspace: team}))
        .start();
    redis.kill();
    // The balance is not known.
    assert_eq!(
        gateway.ask(&slack_mention(&workspace, &fresh("Ev"))).status,
        200
    );
    let arrived = upstream.only_request();
    assert_eq!(arrived.header("x-tollgate-team"), Some(team));
    upstream.forget();
    // Not even the team is.
    assert_eq!(gateway.ask(&linear_start(&workspace)).status, 200);
    assert_eq!(upstream.only_request().header("x-tollgate-team"), None);
    assert_eq!(requests(&gateway, "unknown_admitted"), 2.0);
    let metrics = gateway.metrics();
    assert_eq!(
        metrics.sum("tollgate_identity_unknown_admitted_total", &[]),
        1.0
    );
}

#[test]
fn a_redelivery_is_counted_once() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateways = [(); 2].map(|()| integrated(&upstream, "message").start());
    let team = redis.team("0");
    let workspace = workspace_of(redis, &team);
    let (event, id) = (fresh("Ev"), delivery_id());
    for round in 0..3 {
        for gateway in &gateways {
            let again =
                slack_mention(&workspace, &event).header("X-Slack-Retry-Num", &round.to_string());
            assert_message(&gateway.ask(&again), "Slack");
            let again = linear(&session_created(&workspace), &id);
            assert_message(&gateway.ask(&again), "Linear");
        }
    }
    let [one, two] = &gateways;
    assert_eq!(requests(one, "refused") + requests(two, "refused"), 2.0);
    let reason = "insufficient_credits";
    assert_eq!(refusals(one, reason) + refusals(two, reason), 2.0);
    let again = |gateway: &Gateway| gateway.metrics().sum("tollgate_redeliveries_total", &[]);
    assert_eq!((again(one), again(two)), (4.0, 6.0));
    let untold = |gateway: &Gateway| {
        let labels = [("result", "untold")];
        gateway.metrics().sum("tollgate_notices_total", &labels)
    };
    assert_eq!(untold(one) + untold(two), 2.0);
    let line = two.access_line("a redelivery is logged as one", |line| {
        line["redelivery"] == true
    });
    assert_eq!(line["verdict"], "refused");
    let first = one.access_line("the first is not", |line| line["verdict"] == "refused");
    assert!(first.get("redelivery").is_none(), "{first}");
    // One event for each; a later start is written behind them.
    assert_eq!(
        one.ask(&slack_mention(&workspace, &fresh("Ev"))).status,
        200
    );
    eventually(secs(5), "the last event is there", || {
        (redis.refusals(&team).len() >= 3).then_some(())
    });
    assert_eq!(redis.refusals(&team).len(), 3);
}

#[test]
fn a_redelivery_with_another_verdict_is_counted_too() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = integrated(&upstream, "message").start();
    let team = redis.team("0");
    let workspace = workspace_of(redis, &team);
    let event = fresh("Ev");
    gateway.ask(&slack_mention(&workspace, &event));
    upstream.assert_untouched();
    redis.set_balance(&team, "5");
    for _ in 0..3 {
        assert_eq!(gateway.ask(&slack_mention(&workspace, &event)).status, 200);
    }
    assert_eq!(requests(&gateway, "refused"), 1.0);
    assert_eq!(requests(&gateway, "admitted"), 1.0);
    let again = gateway.metrics().sum("tollgate_redeliveries_total", &[]);
    assert_eq!(again, 2.0);
    assert_eq!(upstream.requests().len(), 3, "each is forwarded");
}

#[test]
fn a_delivery_without_an_id_is_always_the_first() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "message").start();
    let workspace = workspace_with("0");
    for _ in 0..3 {
        gateway.ask(&slack_command(&workspace));
    }
    assert_eq!(requests(&gateway, "refused"), 3.0);
    assert_eq!(
        gateway.metrics().sum("tollgate_redeliveries_total", &[]),
        0.0
    );
}

#[test]
fn in_hold_mode_a_redelivery_shares_the_first_ones_hold() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let hold = json!({"mode": "hold", "hold": 20, "hold_for": "30m"});
    let gateways = [(); 2].map(|()| {
        integrated(&upstream, "problem")
            .set("admission", hold.clone())
            .start()
    });
    let workspace = workspace_of(redis, &redis.team("40"));
    let (event, id) = (fresh("Ev"), delivery_id());
    for _ in 0..3 {
        for gateway in &gateways {
            let again = [
                slack_mention(&workspace, &event),
                linear(&session_created(&workspace), &id),
            ];
            for request in again {
                assert_eq!(gateway.ask(&request).status, 200);
            }
        }
    }
    let mut holds: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| request.header("x-tollgate-hold").expect("its hold"))
        .collect();
    assert_eq!(holds.len(), 12);
    holds.sort();
    holds.dedup();
    assert_eq!(holds.len(), 2, "one for each delivery, not for each time");
    // All is set aside now: another delivery, and one that says nothing new of itself.
    for request in [
        slack_mention(&workspace, &fresh("Ev")),
        slack_command(&workspace),
    ] {
        let answer = gateways[0].ask(&request.header("Idempotency-Key", &event));
        assert_problem(&answer, 403, "insufficient_credits", Some("false"));
        assert_eq!(answer.header("x-slack-no-retry"), Some("1"));
    }
}

#[test]
fn in_hold_mode_what_comes_again_after_its_run_was_paid_has_a_hold_of_its_own() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let mut builder = integrated(&upstream, "problem");
    for (path, value) in holding::settings() {
        builder = builder.set(path, value);
    }
    let gateway = builder.start();
    let team = redis.team("40");
    let workspace = workspace_of(redis, &team);
    let request = slack_mention(&workspace, &fresh("Ev"));
    let mut holds = Vec::new();
    for balance in ["20", "0"] {
        assert_eq!(gateway.ask(&request).status, 200);
        let hold = upstream.only_request().header("x-tollgate-hold");
        let hold = hold.expect("its hold");
        upstream.forget();
        let settle = format!("/v1/teams/{team}/holds/{hold}/settle");
        let settled = operator::post(&gateway, &settle, &json!({"credits": 20}));
        assert_eq!(settled.json()["balance"], balance, "{}", settled.text());
        assert!(!holds.contains(&hold), "it is paid, once");
        holds.push(hold);
    }
    let answer = gateway.ask(&request);
    assert_problem(&answer, 403, "insufficient_credits", Some("false"));
    upstream.assert_untouched();
}

#[test]
fn in_hold_mode_two_apps_do_not_get_in_each_others_way() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let mut both = routes("problem");
    let mut other = both[0].clone();
    other["start"] = json!("POST /integrations/other");
    both.as_array_mut().unwrap().push(other);
    let gateway = integrated(&upstream, "problem")
        .set("routes", both)
        .set(
            "admission",
            json!({"mode": "hold", "hold": 20, "hold_for": "30m"}),
        )
        .start();
    let workspace = workspace_of(redis, &redis.team("40"));
    let event = mention(&workspace, &fresh("Ev")).to_string();
    for app in [SLACK, "/integrations/other"] {
        let mut request = Req::new("POST", app).header("Content-Type", "application/json");
        for (name, value) in slack_headers(event.as_bytes()) {
            request = request.header(name, &value);
        }
        let answer = gateway.ask(&request.body(&event));
        assert_eq!(answer.status, 200, "{app}: {}", answer.text());
    }
}

#[test]
fn in_hold_mode_people_read_why_a_command_waits() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = integrated(&upstream, "message")
        .set(
            "admission",
            json!({"mode": "hold", "hold": 20, "hold_for": "30m"}),
        )
        .start();
    let workspace = workspace_of(redis, &redis.team("25"));
    assert_eq!(gateway.ask(&slack_command(&workspace)).status, 200);
    upstream.only_request();
    let answer = gateway.ask(&slack_command(&workspace));
    assert_message(&answer, "command");
    let text = answer.json()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("set aside for runs in progress"), "{text}");
}

#[test]
fn in_shadow_every_delivery_arrives() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = integrated(&upstream, "message")
        .set("admission.enforce", false)
        .start();
    let team = redis.team("0");
    let poor = workspace_of(redis, &team);
    let event = fresh("Ev");
    for request in [
        slack_mention(&poor, &event),
        slack_mention(&poor, &event),
        slack_mention(&workspace(), &fresh("Ev")),
        Req::new("POST", SLACK).body("not signed"),
        linear_start(&poor),
    ] {
        assert_eq!(gateway.ask(&request).status, 200);
        let arrived = upstream.only_request();
        assert!(arrived.body == request.body_bytes());
        upstream.forget();
    }
    assert_eq!(requests(&gateway, "would_refuse"), 4.0, "one came again");
    for (reason, count) in [
        ("insufficient_credits", 2.0),
        ("integration_not_configured", 1.0),
        ("signature_missing", 1.0),
    ] {
        let labels = [("reason", reason)];
        let counted = gateway
            .metrics()
            .sum("tollgate_would_refusals_total", &labels);
        assert_eq!(counted, count, "{reason}");
    }
    assert_eq!(gateway.metrics().sum("tollgate_notices_total", &[]), 0.0);
    assert!(redis.refusals(&team).is_empty());
}

#[test]
fn secrets_and_signatures_are_nowhere_to_be_read() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "message").start();
    let workspace = workspace_with("0");
    let request = slack_command(&workspace);
    let sent = String::from_utf8(request.head_bytes()).unwrap();
    let signature = sent.split("v0=").nth(1).unwrap()[..64].to_owned();
    gateway.ask(&request);
    gateway.ask(
        &Req::new("POST", SLACK)
            .header("X-Slack-Signature", "v0=beef")
            .body("x"),
    );
    gateway.access_line("both are logged", |line| {
        line["reason"] == "signature_missing"
    });
    let metrics = gateway.admin("/metrics").text();
    for text in [gateway.stdout.text(), gateway.stderr.text(), metrics] {
        for secret in [
            &signature,
            SLACK_SECRET,
            "hooks.slack.com",
            "v0=beef",
            &workspace,
        ] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
}

/// Routes whose path says who pays.
fn by_path() -> Value {
    json!([
        {
            "start": "POST /webhooks/w/{uid}/{token}",
            "trigger": "webhook",
            "team_from": {"path": "uid", "team_key": "webhook:<uid>", "token": "token"},
        },
        {
            "start": "POST /api/v1/agent/runs/{run}/followups",
            "team_from": {"path": "run", "team_key": "run:<run>", "else": "identity"},
        },
    ])
}

#[test]
fn the_path_says_who_pays() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).set("routes", by_path()).start();
    let (poor, rich) = (redis.team("0"), redis.team("5"));
    let (uid, token) = (fresh("hook"), fresh("tok-secret"));
    let digest = crate::support::redis::api_key_hash(&token);
    let key = format!("webhook:{uid}");
    redis.run::<()>(&["HSET", &key, "team", &rich, "token_sha256", &digest]);
    let post = |path: String| gateway.ask(&Req::post(&path).team(&poor));
    assert_eq!(post(format!("/webhooks/w/{uid}/{token}")).status, 200);
    let arrived = upstream.only_request();
    assert_eq!(arrived.header("x-tollgate-team").as_ref(), Some(&rich));
    for (uid, token) in [(uid.as_str(), "wrong"), ("unheard-of", token.as_str())] {
        let answer = post(format!("/webhooks/w/{uid}/{token}"));
        assert_problem(&answer, 401, "authentication_required", Some("false"));
    }
    upstream.forget();
    let run = fresh("run");
    redis.run::<()>(&["SET", &format!("run:{run}"), &rich]);
    let followup = |run: &str| post(format!("/api/v1/agent/runs/{run}/followups"));
    assert_eq!(followup(&run).status, 200, "the run's owner pays");
    assert_eq!(followup("nobody-knows").status, 403, "whoever asks pays");
    gateway.access_line("all are logged", |line| line["verdict"] == "refused");
    for text in [gateway.stdout.text(), gateway.stderr.text()] {
        assert!(!text.contains(&token), "{text}");
    }
}
