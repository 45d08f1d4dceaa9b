//! What an operator sees: events, metrics, the access log, readiness.

use serde_json::{Value, json};

use crate::support::problem::assert_problem;
use crate::support::redis::fresh;
use crate::support::request::TASKS;
use crate::support::wait::{eventually, secs};
use crate::support::{Client, Gateway, Redis, Req, Upstream};

#[test]
fn a_refusal_is_an_event_on_the_stream() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let team = redis.team("0");
    let key = redis.api_key(&["team", &team, "principal", "ci-bot"]);
    gateway.ask(
        &Req::post("/api/v1/agent/runs/r1/followups?x=1")
            .bearer(&key)
            .header("X-Request-Id", "req-42"),
    );
    let events = eventually(secs(5), "the event is written", || {
        Some(redis.refusals(&team)).filter(|e| !e.is_empty())
    });
    assert_eq!(events.len(), 1);
    let event = &events[0];
    for (field, value) in [
        ("state", "FAILED"),
        ("error", "insufficient_credits"),
        ("retryable", "false"),
        ("team", &team),
        ("principal", "ci-bot"),
        ("trigger", "api"),
        ("route", "POST /api/v1/agent/runs/{id}/followups"),
        ("instance", "/api/v1/agent/runs/r1/followups"),
        ("request_id", "req-42"),
    ] {
        assert_eq!(
            event.get(field).map(String::as_str),
            Some(value),
            "{field}: {event:?}"
        );
    }
    assert!(
        event.get("at").is_some_and(|at| !at.is_empty()),
        "{event:?}"
    );
}

#[test]
fn each_refusal_is_one_event_and_nothing_else_is() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let (poor, rich, odd) = (redis.team("0"), redis.team("5"), redis.team("ten"));
    for _ in 0..25 {
        gateway.ask(&Req::start(&poor));
        gateway.ask(&Req::start(&rich));
    }
    gateway.ask(&Req::start(&odd));
    eventually(secs(5), "all events are written", || {
        (redis.refusals(&poor).len() == 25).then_some(())
    });
    assert!(redis.refusals(&rich).is_empty() && redis.refusals(&odd).is_empty());
    assert_eq!(redis.refusals(&poor)[0]["trigger"], "api");
    gateway.ask(&Req::post("/files/a").team(&poor));
    let last = eventually(secs(5), "the webhook's event", || {
        redis.refusals(&poor).get(25).cloned()
    });
    assert_eq!(
        (last["trigger"].as_str(), last["route"].as_str()),
        ("webhook", "POST /files/{*rest}")
    );
}

#[test]
fn the_stream_is_bounded() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = Gateway::before(&upstream)
        .redis(&redis)
        .set("refusals.stream_length", 100)
        .start();
    let team = redis.team("0");
    let mut client = gateway.connect();
    for _ in 0..600 {
        assert_eq!(client.ask(&Req::start(&team)).status, 403);
    }
    let newest = || redis.run::<usize>(&["XLEN", "tollgate:refusals"]);
    let refused = || gateway.metrics().sum("tollgate_refusals_total", &[]);
    eventually(secs(5), "all are counted", || {
        (refused() == 600.0).then_some(())
    });
    // Redis trims by whole nodes of 100 entries.
    eventually(secs(5), "the stream stays near its length", || {
        (newest() >= 100 && newest() <= 250).then_some(())
    });
}

#[test]
fn events_that_cannot_be_written_are_counted_and_delay_nobody() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    redis.run::<()>(&["SET", "tollgate:refusals", "not a stream"]);
    let gateway = Gateway::before(&upstream).redis(&redis).start();
    let (poor, rich) = (redis.team("0"), redis.team("5"));
    for _ in 0..10 {
        assert_eq!(gateway.ask(&Req::start(&poor)).status, 403);
        assert_eq!(gateway.ask(&Req::start(&rich)).status, 200);
    }
    eventually(secs(5), "ten events are dropped", || {
        (gateway
            .metrics()
            .sum("tollgate_refusal_events_dropped_total", &[])
            == 10.0)
            .then_some(())
    });
    assert_eq!(
        gateway.metrics().sum("tollgate_ledger_up", &[]),
        1.0,
        "it is no outage"
    );
}

#[test]
fn every_verdict_is_counted_under_its_route() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let (poor, rich, odd) = (redis.team("0"), redis.team("5"), redis.team("ten"));
    gateway.ask(&Req::start(&rich));
    gateway.ask(&Req::start(&rich));
    gateway.ask(&Req::post("/api/v1/agent//runs").team(&rich));
    gateway.ask(&Req::start(&poor));
    gateway.ask(&Req::start(&odd));
    gateway.ask(&Req::start("not a team"));
    gateway.ask(&Req::get("/api/v1/agent/tasks"));
    let metrics = gateway.metrics();
    let count = |route: &str, verdict: &str| {
        metrics.sum(
            "tollgate_requests_total",
            &[("route", route), ("verdict", verdict)],
        )
    };
    let tasks = "POST /api/v1/agent/tasks";
    assert_eq!(count(tasks, "admitted"), 2.0);
    assert_eq!(
        count("POST /api/v1/agent/runs", "admitted"),
        1.0,
        "under the route, not the spelling"
    );
    assert_eq!(count(tasks, "refused"), 1.0);
    assert_eq!(count(tasks, "unknown_refused"), 1.0);
    assert_eq!(count(tasks, "invalid"), 1.0);
    assert_eq!(
        metrics.sum("tollgate_requests_total", &[]),
        6.0,
        "starts only"
    );
    assert_eq!(
        metrics.sum(
            "tollgate_refusals_total",
            &[("reason", "insufficient_credits"), ("trigger", "api")]
        ),
        1.0
    );
    assert!(metrics.sum("tollgate_ledger_seconds_count", &[]) >= 5.0);
    assert_eq!(metrics.sum("tollgate_ledger_up", &[]), 1.0);
    assert!(metrics.has("tollgate_connections"));
    assert!(
        metrics.has("tollgate_refusal_events_dropped_total"),
        "a counter that has not counted is there"
    );
    let teams = [&poor, &rich, &odd];
    assert!(
        ["team", "principal"]
            .iter()
            .all(|label| metrics.values_of(label).is_empty())
    );
    let scrape = gateway.admin("/metrics");
    assert!(
        teams
            .iter()
            .all(|team| !scrape.text().contains(team.as_str()))
    );
    assert!(
        scrape
            .header("content-type")
            .is_some_and(|value| value.starts_with("text/plain")),
        "{}",
        scrape.head
    );
}

#[test]
fn a_forgotten_start_route_shows_in_the_metrics() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    gateway.ask(&Req::post("/api/v1/factory/f1/runs"));
    gateway.ask(&Req::new("PUT", "/uploads/1").body("x"));
    gateway.ask(&Req::get("/x"));
    gateway.ask(&Req::new("HEAD", "/x"));
    gateway.ask(&Req::new("OPTIONS", "/x"));
    assert_eq!(
        gateway.metrics().sum("tollgate_unlisted_writes_total", &[]),
        2.0,
        "reads are no writes"
    );
}

#[test]
fn there_is_one_access_log_line_per_request() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let (poor, rich) = (redis.team("0"), redis.team("5"));
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    gateway.ask(
        &Req::start(&poor)
            .header("X-Request-Id", "req-poor")
            .header("Traceparent", &parent),
    );
    gateway.ask(&Req::start(&rich).header("X-Request-Id", "req-rich"));
    gateway.ask(&Req::get("/api/v1/agent/runs?page=2").header("X-Request-Id", "req-read"));
    let line = |id: &str| gateway.access_line(id, |line| line["request_id"] == id);
    let refused = line("req-poor");
    for (field, value) in [
        ("trace_id", json!(trace)),
        ("route", json!("POST /api/v1/agent/tasks")),
        ("team", json!(poor)),
        ("verdict", json!("refused")),
        ("reason", json!("insufficient_credits")),
        ("status", json!(403)),
    ] {
        assert_eq!(refused[field], value, "{field}: {refused}");
    }
    let admitted = line("req-rich");
    assert_eq!(
        (&admitted["verdict"], &admitted["status"]),
        (&json!("admitted"), &json!(200))
    );
    let duration = |line: &Value, what: &str| {
        line.as_object()
            .unwrap()
            .iter()
            .any(|(name, value)| name.contains(what) && value.as_f64().is_some_and(|v| v >= 0.0))
    };
    assert!(
        duration(&admitted, "ledger") && duration(&admitted, "upstream"),
        "{admitted}"
    );
    assert!(duration(&refused, "ledger"), "{refused}");
    let read = line("req-read");
    assert_eq!(read["status"], 200);
    assert!(read["verdict"].is_null(), "nothing was decided: {read}");
    let lines = gateway
        .access_log()
        .iter()
        .filter(|line| line["request_id"].as_str().is_some())
        .count();
    assert_eq!(lines, 3);
}

#[test]
fn the_access_log_can_be_limited_to_starts_or_switched_off() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let team = redis.team("5");
    for (access, lines) in [("starts", 1), ("off", 0)] {
        let gateway = Gateway::before(&upstream).set("log.access", access).start();
        gateway.ask(&Req::get("/x").header("X-Request-Id", "read"));
        gateway.ask(&Req::start(&team).header("X-Request-Id", "start"));
        gateway.signal("TERM");
        gateway.wait(secs(10));
        let logged: Vec<Value> = gateway
            .access_log()
            .into_iter()
            .filter(|line| line["request_id"].is_string())
            .collect();
        assert_eq!(logged.len(), lines, "{access}: {logged:?}");
    }
}

#[test]
fn no_secret_appears_anywhere() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream)
        .set("log.level", "debug")
        .set("server.admin.token", "admin-sesame")
        .start();
    let (poor, rich) = (redis.team("0"), redis.team("5"));
    let (poor_key, rich_key) = (
        redis.api_key(&["team", &poor]),
        redis.api_key(&["team", &rich]),
    );
    let secret_body = r#"{"prompt":"body-sesame"}"#;
    for key in [&poor_key, &rich_key, &fresh("wk-secret-unknown")] {
        let request = Req::post(TASKS)
            .bearer(key)
            .header("Cookie", "session=cookie-sesame")
            .body(secret_body);
        gateway.ask(&request.clone());
        gateway.ask(&request.header("X-Slack-Signature", "v0=signature-sesame"));
    }
    gateway.ask(&Req::get("/x?access_token=query-sesame").bearer(&rich_key));
    gateway.ask(&Req::post(TASKS).header("Authorization", "Basic basic-sesame"));
    gateway.ask(
        &Req::post(TASKS)
            .header("Transfer-Encoding", "chunked")
            .header("Cookie", "broken-sesame"),
    );
    let scrape = gateway.admin("/metrics").text();
    gateway.signal("TERM");
    gateway.wait(secs(10));
    let all = [gateway.stdout.text(), gateway.stderr.text(), scrape].join("\n");
    for secret in ["sesame", "wk-secret", &poor_key, &rich_key] {
        let shown = all.lines().find(|line| line.contains(secret));
        assert_eq!(shown, None, "{secret} is shown");
    }
    let events = redis.refusals(&poor);
    assert!(!events.is_empty() && !format!("{events:?}").contains("wk-secret"));
}

#[test]
fn the_admin_listener_serves_its_three_pages_and_nothing_else() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(gateway.admin("/healthz").status, 200);
    assert_eq!(gateway.admin("/readyz").status, 200);
    assert_eq!(gateway.admin("/metrics").status, 200);
    for path in ["/", "/x", "/metrics/x", TASKS, "/debug/pprof", "/config"] {
        assert_eq!(gateway.admin(path).status, 404, "{path}");
    }
    let mut client = Client::connect(gateway.admin);
    let answer = client.ask(&Req::start("acme"));
    assert!(matches!(answer.status, 404 | 405), "{}", answer.head);
    upstream.assert_untouched();
}

#[test]
fn the_public_port_shows_none_of_the_admin_pages() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert!(
            gateway.ask(&Req::get(path)).text().contains("run-1"),
            "{path} is the upstream's"
        );
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn readyz_says_why_it_is_not_ready() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = Gateway::before(&upstream).redis(&redis).start();
    redis.kill();
    gateway.ask(&Req::start("acme"));
    let answer = eventually(secs(5), "it is not ready", || {
        Some(gateway.admin("/readyz")).filter(|a| a.status == 503)
    });
    assert!(answer.text().contains("ledger"), "{}", answer.text());
    assert_eq!(gateway.admin("/healthz").status, 200);
}

#[test]
fn a_wrong_key_is_counted_as_unauthenticated_and_not_as_a_refusal() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    assert_problem(
        &gateway.ask(&Req::post(TASKS).bearer("wk-x")),
        401,
        "authentication_required",
        Some("false"),
    );
    let metrics = gateway.metrics();
    assert_eq!(
        metrics.sum("tollgate_requests_total", &[("verdict", "refused")]),
        0.0
    );
    assert_eq!(metrics.sum("tollgate_requests_total", &[]), 1.0);
}
