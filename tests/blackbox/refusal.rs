//! A start is refused when its team has no credits, and only then.

use http::StatusCode;
use serde_json::json;

use crate::support::h2_client::{H2Client, H2Req};
use crate::support::problem::{
    assert_insufficient_credits, assert_insufficient_credits_body, assert_outage, assert_problem,
    assert_refusal_headers,
};
use crate::support::redis::fresh;
use crate::support::request::TASKS;
use crate::support::{Gateway, Redis, Req, Upstream};

#[test]
fn refuses_at_zero_with_the_exact_answer() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.ask(&Req::start(&Redis::shared().team("0")));
    assert_insufficient_credits(&answer, TASKS);
    upstream.assert_untouched();
}

#[test]
fn admits_above_zero() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.ask(&Req::start(&Redis::shared().team("1")));
    assert_eq!(
        (answer.status, answer.json()["run_id"].as_str()),
        (200, Some("run-1"))
    );
    assert_eq!(upstream.only_request().target(), TASKS);
}

#[test]
fn every_form_of_a_number_lands_on_its_side_of_the_line() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let redis = Redis::shared();
    for balance in [
        "0",
        "-0",
        "+0",
        "0.0",
        "-3",
        "-0.000001",
        "0.0000009",
        "-9007199254740993000",
        "-0.5",
        "000",
    ] {
        let answer = gateway.ask(&Req::start(&redis.team(balance)));
        assert_eq!(answer.status, 403, "{balance}");
        upstream.assert_untouched();
    }
    for balance in [
        "1",
        "+1",
        "0.000001",
        "0.5",
        "20.25",
        "9007199254740993",
        "123456789012345678901234567890",
        "001",
    ] {
        let answer = gateway.ask(&Req::start(&redis.team(balance)));
        assert_eq!(answer.status, 200, "{balance}");
    }
}

#[test]
fn the_line_is_where_the_operator_draws_it() {
    let redis = Redis::shared();
    for (line, refused, admitted) in [
        ("20", "20", "20.000001"),
        ("-5", "-5", "-4.9"),
        ("0.5", "0.5", "0.500001"),
    ] {
        let upstream = Upstream::ok();
        let gateway = Gateway::before(&upstream)
            .set("balances.refuse_at_or_below", json!(line))
            .start();
        assert_insufficient_credits(&gateway.ask(&Req::start(&redis.team(refused))), TASKS);
        upstream.assert_untouched();
        assert_eq!(
            gateway.ask(&Req::start(&redis.team(admitted))).status,
            200,
            "{line}"
        );
    }
}

#[test]
fn a_team_without_a_balance_is_treated_as_configured() {
    let upstream = Upstream::ok();
    let refusing = Gateway::before(&upstream).start();
    assert_insufficient_credits(&refusing.ask(&Req::start(&fresh("nobody"))), TASKS);
    assert_eq!(
        refusing.metrics().sum(
            "tollgate_refusals_total",
            &[("reason", "no_balance"), ("trigger", "api")]
        ),
        1.0
    );
    let unknowing = Gateway::before(&upstream)
        .set("balances.missing", "unknown")
        .start();
    assert_outage(&unknowing.ask(&Req::start(&fresh("nobody"))));
    upstream.assert_untouched();
    let admitting = Gateway::before(&upstream)
        .set("balances.missing", "admit")
        .start();
    assert_eq!(admitting.ask(&Req::start(&fresh("nobody"))).status, 200);
    assert_eq!(
        admitting
            .ask(&Req::start(&Redis::shared().team("0")))
            .status,
        403,
        "a zero is not missing"
    );
}

#[test]
fn reads_the_balance_from_the_key_and_field_the_operator_names() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let (rich, poor) = (fresh("rich"), fresh("poor"));
    redis.run::<()>(&[
        "HSET",
        &format!("billing:{rich}:v1"),
        "spendable",
        "5",
        "granted",
        "0",
    ]);
    redis.run::<()>(&[
        "HSET",
        &format!("billing:{poor}:v1"),
        "spendable",
        "0",
        "granted",
        "5",
    ]);
    let gateway = Gateway::before(&upstream)
        .set("balances.key", "billing:<team>:v1")
        .set("balances.field", "spendable")
        .start();
    assert_eq!(gateway.ask(&Req::start(&poor)).status, 403);
    upstream.assert_untouched();
    assert_eq!(gateway.ask(&Req::start(&rich)).status, 200);
}

#[test]
fn one_hash_can_hold_all_teams() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let (key, rich, poor) = (fresh("all-balances"), fresh("rich"), fresh("poor"));
    redis.run::<()>(&["HSET", &key, &rich, "5", &poor, "0"]);
    let gateway = Gateway::before(&upstream)
        .set("balances.key", key.as_str())
        .set("balances.field", "<team>")
        .start();
    assert_eq!(gateway.ask(&Req::start(&poor)).status, 403);
    assert_eq!(gateway.ask(&Req::start(&rich)).status, 200);
}

#[test]
fn a_grant_and_a_charge_are_seen_by_the_very_next_request() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let team = redis.team("0");
    let mut client = gateway.connect();
    for _ in 0..5 {
        assert_eq!(client.ask(&Req::start(&team)).status, 403);
        redis.set_balance(&team, "1");
        assert_eq!(client.ask(&Req::start(&team)).status, 200);
        redis.set_balance(&team, "0");
    }
}

#[test]
fn header_and_body_of_a_refusal_leave_in_one_write() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.send(Req::start(&team).bytes());
        let read = client.read_once().unwrap();
        let answer = client.response();
        assert_eq!(
            read,
            answer.head.len() + answer.body.len(),
            "the first read has all of it"
        );
    }
}

#[test]
fn the_connection_of_a_refused_start_serves_the_next_request() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let (poor, rich) = (redis.team("0"), redis.team("1"));
    let mut client = gateway.connect();
    for _ in 0..3 {
        let answer = client.ask(&Req::start(&poor));
        assert_insufficient_credits(&answer, TASKS);
        assert_ne!(
            answer
                .header("connection")
                .map(str::to_ascii_lowercase)
                .as_deref(),
            Some("close")
        );
        assert_eq!(client.ask(&Req::start(&rich)).status, 200);
        assert_eq!(client.ask(&Req::get("/api/v1/agent/runs")).status, 200);
    }
    assert!(
        upstream
            .requests()
            .iter()
            .all(|request| request.all("x-team-id") != [poor.clone()])
    );
}

#[test]
fn pipelined_requests_are_each_answered_for_themselves() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let (poor, rich) = (redis.team("0"), redis.team("1"));
    let mut client = gateway.connect();
    let order = [&poor, &rich, &poor, &poor, &rich];
    client.send(
        order
            .iter()
            .flat_map(|team| Req::start(team).bytes())
            .collect::<Vec<u8>>(),
    );
    // A server may close instead of serving what was pipelined; it may never
    // give one request the answer of another, or let a poor team through.
    for (at, team) in order.iter().enumerate() {
        match client.try_response() {
            Ok(answer) => assert_eq!(
                answer.status,
                if *team == &rich { 200 } else { 403 },
                "request {at}"
            ),
            Err(error) => {
                assert!(at > 0, "not even the first one was answered: {error}");
                break;
            }
        }
    }
    assert!(
        upstream
            .requests()
            .iter()
            .all(|request| request.all("x-team-id") != [poor.clone()])
    );
}

#[test]
fn the_instance_is_the_path_as_received_without_the_query() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    for (target, instance) in [
        ("/api/v1/agent/tasks?debug=1&x=%22", "/api/v1/agent/tasks"),
        (
            "/api/v1/agent/runs/a%2Fb/followups",
            "/api/v1/agent/runs/a%2Fb/followups",
        ),
        ("/api/v1/agent//TASKS/", "/api/v1/agent//TASKS/"),
        ("/api/v1/agent\\tasks", "/api/v1/agent\\tasks"),
    ] {
        assert_insufficient_credits(&gateway.ask(&Req::post(target).team(&team)), instance);
    }
    upstream.assert_untouched();
}

#[test]
fn http_1_0_gets_the_answer_and_the_end_of_the_connection() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let request = Req::line("POST /api/v1/agent/tasks HTTP/1.0")
        .team(&Redis::shared().team("0"))
        .body("{}");
    let mut client = gateway.connect();
    let answer = client.ask(&request);
    assert_eq!(answer.status, 403);
    assert_insufficient_credits_body(&answer.body, TASKS);
    assert!(client.is_closed_within(crate::support::secs(2)));
    upstream.assert_untouched();
}

#[test]
fn an_answer_to_head_has_the_length_and_no_body() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    let mut client = gateway.connect();
    let request = Req::new("HEAD", TASKS)
        .header("X-HTTP-Method-Override", "POST")
        .team(&team);
    let answer = client.ask(&request);
    assert_eq!(answer.status, 403);
    assert!(
        answer
            .header("content-length")
            .is_some_and(|length| length != "0"),
        "{}",
        answer.head
    );
    // Had a body come, the next head would not be read as one.
    assert_eq!(client.ask(&request).status, 403);
    upstream.assert_untouched();
}

#[test]
fn http_2_in_the_clear_gets_the_same_answer() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).set("server.h2c", true).start();
    let redis = Redis::shared();
    let (poor, rich) = (redis.team("0"), redis.team("1"));
    let client = H2Client::connect(gateway.http);
    for body in [0, 25, 70_000, 1_000_000] {
        let answer = client.ask(&H2Req::start(&poor).body(vec![b' '; body]));
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert_refusal_headers(|name| {
            answer
                .headers
                .get_all(name)
                .iter()
                .map(|v| v.to_str().unwrap().to_owned())
                .collect()
        });
        assert_insufficient_credits_body(&answer.body, TASKS);
    }
    upstream.assert_untouched();
    let answers = client.ask_all(&[
        H2Req::start(&poor),
        H2Req::start(&rich),
        H2Req::start(&poor),
        H2Req::start(&rich),
    ]);
    let statuses: Vec<u16> = answers
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    assert_eq!(statuses, [403, 200, 403, 200]);
    assert_eq!(
        gateway.ask(&Req::start(&poor)).status,
        403,
        "HTTP/1.1 is still served beside it"
    );
}

#[test]
fn in_shadow_nobody_is_refused_and_all_is_counted() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("admission.enforce", false)
        .start();
    let team = Redis::shared().team("0");
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    assert_eq!(upstream.requests().len(), 1);
    let metrics = gateway.metrics();
    assert_eq!(
        metrics.sum("tollgate_requests_total", &[("verdict", "would_refuse")]),
        1.0
    );
    assert_eq!(
        metrics.sum("tollgate_requests_total", &[("verdict", "refused")]),
        0.0
    );
}

#[test]
fn one_route_can_be_enforced_while_the_rest_is_in_shadow() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("admission.enforce", false)
        .set("routes.1.enforce", true)
        .start();
    let team = Redis::shared().team("0");
    assert_eq!(
        gateway
            .ask(&Req::post("/api/v1/agent/runs").team(&team))
            .status,
        403
    );
    upstream.assert_untouched();
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
}

#[test]
fn the_operators_words_are_in_every_answer_made_at_the_edge() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("problem.type_base", "https://docs.example.com/errors/")
        .set("problem.billing_url", "https://billing.example.com/buy")
        .set("problem.headers", json!({"x-served-by": "edge-7"}))
        .start();
    let refused = gateway.ask(&Req::start(&Redis::shared().team("0")));
    assert_eq!(
        refused.json()["type"],
        "https://docs.example.com/errors/insufficient-credits/"
    );
    assert_eq!(
        refused.header("link"),
        Some(r#"<https://billing.example.com/buy>; rel="help""#)
    );
    assert_eq!(refused.header("x-served-by"), Some("edge-7"));
    let anonymous = gateway.ask(&Req::post(TASKS));
    assert_problem(&anonymous, 401, "authentication_required", Some("false"));
    assert_eq!(anonymous.header("x-served-by"), Some("edge-7"));
    let passed = gateway.ask(&Req::get("/api/v1/agent/runs"));
    assert_eq!(
        passed.header("x-served-by"),
        None,
        "an upstream's answer is not ours to change"
    );
}

#[test]
fn a_start_with_too_large_a_body_is_answered_413() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("routes.0.max_body", "1KiB")
        .start();
    let team = Redis::shared().team("5");
    let answer = gateway.ask(&Req::start(&team).body(vec![b'x'; 1025]));
    assert_problem(&answer, 413, "invalid_request", Some("false"));
    upstream.assert_untouched();
    assert_eq!(
        gateway
            .ask(&Req::start(&team).body(vec![b'x'; 1024]))
            .status,
        200
    );
    assert_eq!(
        gateway
            .ask(
                &Req::post("/api/v1/agent/runs")
                    .team(&team)
                    .body(vec![b'x'; 5000])
            )
            .status,
        200
    );
    assert_eq!(
        gateway
            .ask(&Req::start(&team).chunked(&[b'x'; 1024], 100))
            .status,
        200
    );
    let complete = upstream.requests().len();
    let _ = gateway
        .connect()
        .ask_while_writing(Req::start(&team).chunked(&[b'x'; 100_000], 1000).bytes());
    let oversized = |r: &&crate::support::upstream::Recorded| {
        r.complete && r.body.len() > 1024 && r.target() == TASKS
    };
    assert_eq!(
        upstream.requests().iter().filter(oversized).count(),
        0,
        "after {complete} sound requests"
    );
}
