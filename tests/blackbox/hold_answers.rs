//! What client and upstream see of admission in hold mode.

use serde_json::{Value, json};

use crate::support::gateway::Builder;
use crate::support::h2_client::{H2Client, H2Req};
use crate::support::ports::Refusing;
use crate::support::problem::{OUT_OF_CREDITS, assert_names_once, assert_refusal_headers};
use crate::support::request::TASKS;
use crate::support::{Client, Gateway, Req, Response, Upstream};

/// The sentence for a team whose credits are all set aside.
const HELD: &str = "Your team's remaining add-on credits are set aside for runs in progress. Wait for them to finish, or purchase more credits in your team's billing settings.";

/// Holds in this process, of 18.75 credits each: two fit into `acme`.
fn holding(upstream: &Upstream) -> Builder {
    holding_before(Gateway::before(upstream))
}

fn holding_before(builder: Builder) -> Builder {
    builder
        .set("server.h2c", true)
        .set(
            "balances",
            json!({"memory": {"acme": 40, "rich": 1_000_000, "broke": 0, "poor": 18}}),
        )
        .set(
            "identity",
            json!([{"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}}]),
        )
        .set(
            "admission",
            json!({"mode": "hold", "hold": 18.75, "hold_for": "30m"}),
        )
}

/// Sets aside all that `acme` has.
#[track_caller]
fn exhaust(gateway: &Gateway, upstream: &Upstream) {
    for _ in 0..2 {
        assert_eq!(gateway.ask(&Req::start("acme")).status, 200);
    }
    upstream.forget();
}

#[track_caller]
fn assert_held(problem: &Value) {
    let detail = "37.5 of 40 credits are set aside for 2 runs, and this run sets 18.75 aside";
    let expected = json!({
        "type": "/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/",
        "title": HELD,
        "status": 403,
        "detail": detail,
        "instance": TASKS,
        "error": format!("{HELD} ({detail})"),
        "retryable": false,
    });
    assert_eq!(*problem, expected);
}

fn seconds(value: Option<&str>) -> u64 {
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Its refusal headers, but for `retry-after`, which a hold's end decides.
#[track_caller]
fn assert_headers(answer: &Response) {
    assert_refusal_headers(|name| {
        let all = answer.all(name).into_iter().map(str::to_owned).collect();
        if name == "retry-after" {
            Vec::new()
        } else {
            all
        }
    });
}

#[test]
fn credits_that_are_all_set_aside_have_a_refusal_of_their_own() {
    let upstream = Upstream::ok();
    let gateway = holding(&upstream).start();
    exhaust(&gateway, &upstream);
    let mut client = gateway.connect();
    for id in ["first", "second"] {
        let answer = client.ask(&Req::start("acme").header("X-Request-Id", id));
        assert!(answer.head.starts_with("HTTP/1.1 403 "), "{}", answer.head);
        assert_headers(&answer);
        assert_held(&answer.json());
        assert_names_once(&answer.body);
        let wait = seconds(answer.header("retry-after"));
        assert!((1_700..=1_800).contains(&wait), "{wait}");
        let line = gateway.access_line(id, |line| line["request_id"] == id);
        assert_eq!(line["reason"], "credits_held", "{line}");
        assert_eq!(line["verdict"], "refused", "{line}");
        assert!(line["hold"].is_null(), "{line}");
    }
    upstream.assert_untouched();
    let reason = [("reason", "credits_held"), ("trigger", "api")];
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("tollgate_refusals_total", &reason), 2.0);
    assert_eq!(metrics.sum("tollgate_ledger_seconds_count", &[]), 4.0);
}

#[test]
fn every_protocol_has_its_form_of_it() {
    let upstream = Upstream::ok();
    let gateway = holding(&upstream).start();
    exhaust(&gateway, &upstream);
    let client = H2Client::connect(gateway.http);
    let answer = client.ask(&H2Req::start("acme"));
    assert_eq!(answer.status, 403);
    assert_held(&serde_json::from_slice(&answer.body).unwrap());
    assert!(
        seconds(
            answer
                .headers
                .get("retry-after")
                .map(|v| v.to_str().unwrap())
        ) > 0
    );

    let call = H2Req::new("POST", TASKS)
        .header("content-type", "application/grpc")
        .header("x-team-id", "acme")
        .body([0; 5]);
    let answer = client.ask(&call);
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    assert_eq!(answer.trailers["grpc-status"], "7");
    let message = answer.trailers["grpc-message"].to_str().unwrap();
    assert!(message.starts_with(HELD), "{message}");
    assert!(
        message.ends_with(
            "(37.5 of 40 credits are set aside for 2 runs, and this run sets 18.75 aside)"
        )
    );

    let head = Req::new("HEAD", TASKS)
        .header("X-HTTP-Method-Override", "POST")
        .team("acme");
    let mut client = gateway.connect();
    let answer = client.ask(&head);
    assert_eq!(answer.status, 403);
    assert_headers(&answer);
    assert!(seconds(answer.header("content-length")) > 0);
    // Had there been a body, it would be taken for this answer.
    assert_eq!(client.ask(&Req::get("/x")).status, 200);
}

#[test]
fn when_the_earliest_hold_ends_can_be_kept_to_oneself() {
    let upstream = Upstream::ok();
    let gateway = holding(&upstream)
        .set("problem.held_retry_after", false)
        .start();
    exhaust(&gateway, &upstream);
    let answer = gateway.ask(&Req::start("acme"));
    assert_held(&answer.json());
    assert_eq!(answer.header("retry-after"), None);
}

#[test]
fn too_few_credits_are_not_held_credits() {
    let upstream = Upstream::ok();
    let gateway = holding(&upstream).start();
    let below = "Your team does not have enough add-on credits left for this run. Purchase more credits in your team's billing settings to continue. (18 credits are left, and this run sets 18.75 aside)";
    for (team, said) in [
        ("broke", OUT_OF_CREDITS),
        ("poor", below),
        ("unheard-of", OUT_OF_CREDITS),
    ] {
        let answer = gateway.ask(&Req::start(team));
        assert_eq!(answer.status, 403, "{team}");
        assert_eq!(answer.json()["error"], said, "{team}");
        assert_eq!(answer.header("retry-after"), None, "{team}");
    }
    upstream.assert_untouched();
}

#[test]
fn the_upstream_is_told_the_hold_and_believes_nobody_else() {
    let upstream = Upstream::ok();
    let gateway = holding(&upstream).start();
    let mut seen = Vec::new();
    for name in ["X-Tollgate-Hold", "x_tollgate_hold", "X-Other"] {
        let request = Req::start("rich").header(name, "forged");
        assert_eq!(gateway.ask(&request).status, 200);
        let hold = upstream.only_request().header("x-tollgate-hold");
        upstream.forget();
        let hold = hold.expect("an admitted start has a hold");
        assert_eq!(hold.len(), 32, "{hold}");
        assert!(!seen.contains(&hold), "each start has its own");
        seen.push(hold);
    }
    let other = Req::post("/api/v1/agent/runs/r1/cancel").header("X-Tollgate-Hold", "forged");
    assert_eq!(gateway.ask(&other).status, 200);
    assert_eq!(upstream.only_request().header("x-tollgate-hold"), None);
}

#[test]
fn a_team_that_is_not_metered_has_no_hold() {
    let upstream = Upstream::ok();
    let gateway = holding(&upstream).set("balances.missing", "admit").start();
    let request = Req::start("unheard-of").header("X-Tollgate-Hold", "forged");
    assert_eq!(gateway.ask(&request).status, 200);
    assert_eq!(upstream.only_request().header("x-tollgate-hold"), None);
    let line = gateway.access_line("admitted", |line| line["status"] == 200);
    assert!(line["hold"].is_null(), "{line}");
}

/// Said by 127.0.0.2 alone.
fn by_header(upstream: &Upstream) -> Builder {
    holding(upstream).set(
        "admission.hold",
        json!({"header": "x-run-credits", "from": ["127.0.0.2/32"], "default": 10}),
    )
}

fn costing(credits: &str) -> Req {
    Req::start("acme").header("X-Run-Credits", credits)
}

#[test]
fn a_listed_peer_says_how_much_a_run_needs() {
    let upstream = Upstream::ok();
    let gateway = by_header(&upstream).start();
    let ask = |request: &Req| Client::connect_from("127.0.0.2", gateway.http).ask(request);
    assert_eq!(ask(&costing("29.5")).status, 200);
    let arrived = upstream.only_request();
    assert_eq!(arrived.header("x-run-credits").as_deref(), Some("29.5"));
    // Silent: the default. All but half a credit is set aside then.
    assert_eq!(ask(&Req::start("acme")).status, 200);
    assert_eq!(
        ask(&costing("0.500001")).json()["detail"],
        "39.5 of 40 credits are set aside for 2 runs, and this run sets 0.500001 aside"
    );
    assert_eq!(ask(&costing("0.5")).status, 200);
    upstream.forget();
    for wrong in ["", "0", "-1", "0.0000001", "many", "1e1"] {
        let answer = ask(&costing(wrong));
        assert_eq!(answer.status, 400, "{wrong:?}: {}", answer.text());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("x-run-credits"), "{detail}");
    }
    let twice = costing("1").header("X-Run-Credits", "1");
    assert_eq!(ask(&twice).status, 400);
    let nominated = costing("1").header("Connection", "x-run-credits");
    assert_eq!(ask(&nominated).status, 400);
    upstream.assert_untouched();
}

#[test]
fn what_an_unlisted_peer_says_of_credits_is_neither_believed_nor_passed_on() {
    let upstream = Upstream::ok();
    let gateway = by_header(&upstream).start();
    for said in ["0.1", "many", "1000", "-5"] {
        assert_eq!(gateway.ask(&costing(said)).status, 200, "{said}");
        assert_eq!(upstream.only_request().header("x-run-credits"), None);
        upstream.forget();
    }
    // Four times the default, and nothing is left.
    let detail = &gateway.ask(&costing("0.1")).json()["detail"];
    assert_eq!(
        detail,
        "40 of 40 credits are set aside for 4 runs, and this run sets 10 aside"
    );
    let underscored = Req::start("rich").header("X_Run_Credits", "1");
    assert_eq!(gateway.ask(&underscored).status, 400);
    upstream.assert_untouched();
    let elsewhere = Req::get("/x").header("X-Run-Credits", "1");
    assert_eq!(gateway.ask(&elsewhere).status, 200);
    let arrived = upstream.only_request();
    assert_eq!(arrived.header("x-run-credits").as_deref(), Some("1"));
}

#[test]
fn in_shadow_credits_are_set_aside_for_real_and_nobody_is_refused() {
    let upstream = Upstream::ok();
    let gateway = by_header(&upstream).set("admission.enforce", false).start();
    for (id, request, verdict, reason) in [
        ("a1", Req::start("acme"), "admitted", Value::Null),
        ("a2", Req::start("acme"), "admitted", Value::Null),
        ("a3", Req::start("acme"), "admitted", Value::Null),
        ("a4", Req::start("acme"), "admitted", Value::Null),
        (
            "a5",
            Req::start("acme"),
            "would_refuse",
            json!("credits_held"),
        ),
        (
            "b1",
            Req::start("broke"),
            "would_refuse",
            json!("insufficient_credits"),
        ),
        (
            "c1",
            Req::start("rich").header("X_Run_Credits", "1"),
            "would_refuse",
            json!("invalid_request"),
        ),
    ] {
        assert_eq!(gateway.ask(&request.header("X-Request-Id", id)).status, 200);
        let arrived = upstream.only_request();
        upstream.forget();
        let line = gateway.access_line(id, |line| line["request_id"] == id);
        assert_eq!(line["verdict"], verdict, "{line}");
        assert_eq!(line["reason"], reason, "{line}");
        let is_held = verdict == "admitted";
        assert_eq!(arrived.header("x-tollgate-hold").is_some(), is_held, "{id}");
        assert_eq!(line["hold"].is_string(), is_held, "{line}");
        assert!(
            !arrived.head.to_ascii_lowercase().contains("run_credits"),
            "{id}"
        );
    }
    assert_eq!(
        gateway.metrics().sum("tollgate_would_refusals_total", &[]),
        3.0
    );
}

#[test]
fn the_log_says_what_became_of_a_hold() {
    let upstream = Upstream::answering(|exchange| {
        let status = exchange.request.header("x-answer").unwrap();
        if status == "none" {
            return Ok(crate::support::upstream::After::Close);
        }
        exchange.json(status.parse().unwrap(), "{}")
    });
    let gateway = holding(&upstream)
        .set("admission.release_on", json!(["4xx", 503]))
        .start();
    for (answer, seen, state) in [
        ("200", 200, "held"),
        ("302", 302, "held"),
        ("404", 404, "not_started"),
        ("503", 503, "not_started"),
        ("500", 500, "held"),
        ("none", 502, "held"),
    ] {
        let request = Req::start("rich").header("X-Answer", answer);
        let got = gateway.ask(&request.header("X-Request-Id", answer));
        assert_eq!(got.status, seen);
        let line = gateway.access_line(answer, |line| line["request_id"] == answer);
        assert_eq!(line["hold_state"], state, "{line}");
    }
}

#[test]
fn a_start_that_was_never_sent_is_noted_as_not_started() {
    let away = Refusing::new();
    let gateway = holding_before(Gateway::before_address(away.address)).start();
    assert_eq!(gateway.ask(&Req::start("rich")).status, 503);
    let line = gateway.access_line("answered", |line| line["status"] == 503);
    assert_eq!(line["hold_state"], "not_started", "{line}");
    assert_eq!(line["verdict"], "admitted", "{line}");
}

#[test]
fn the_embedded_ledger_never_sets_aside_more_than_there_is() {
    let upstream = Upstream::ok();
    let gateway = holding(&upstream).set("admission.hold", 1).start();
    let admitted: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = gateway.connect();
                    let asked = (0..10).map(|_| client.ask(&Req::start("acme")).status);
                    asked.filter(|status| *status == 200).count()
                })
            })
            .collect();
        workers.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(admitted, 40);
    assert_eq!(upstream.requests().len(), 40);
}
