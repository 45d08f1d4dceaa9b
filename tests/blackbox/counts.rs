//! What was counted and logged adds up: nothing is missing, nothing stays.

use std::sync::{Arc, Barrier};

use crate::support::h2_client::{H2Client, H2Req};
use crate::support::problem::{assert_invalid, assert_outage};
use crate::support::redis::fresh;
use crate::support::request::noise;
use crate::support::upstream::QUEUED;
use crate::support::wait::{eventually, secs, throughout};
use crate::support::{Gateway, Redis, Req, Upstream};

#[track_caller]
fn becomes(gateway: &Gateway, metric: &str, labels: &[(&str, &str)], count: f64) {
    let claim = format!("{metric}{labels:?} is {count}");
    eventually(secs(5), &claim, || {
        (gateway.metrics().sum(metric, labels) == count).then_some(())
    });
}

#[test]
fn nothing_stays_in_flight() {
    let upstream = Upstream::answering(|exchange| {
        if exchange.request.target() == "/never" {
            exchange.read_body()?;
            drop(exchange.take(1));
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        exchange.json(200, QUEUED)
    });
    let gateway = Gateway::before(&upstream).set("server.h2c", true).start();
    let (poor, rich) = (Redis::shared().team("0"), Redis::shared().team("5"));
    let mut kept = gateway.connect();
    for request in [
        Req::get("/x"),
        Req::start(&poor),
        Req::start(&rich),
        Req::start("not a team"),
        Req::start(&poor).body(noise(60_000)),
        Req::post("/files/../api/v1/agent/tasks").team(&poor),
    ] {
        kept.ask(&request);
    }
    gateway.ask(&Req::get("/x").header("Content_Length", "5"));
    let http_2 = H2Client::connect(gateway.http);
    for team in [&poor, &rich] {
        http_2.ask(&H2Req::start(team));
    }
    becomes(&gateway, "tollgate_requests_in_flight", &[], 0.0);
    let mut gone = gateway.connect();
    gone.send(Req::get("/never").bytes());
    becomes(&gateway, "tollgate_requests_in_flight", &[], 1.0);
    drop(gone);
    becomes(&gateway, "tollgate_requests_in_flight", &[], 0.0);
    let mut halfway = gateway.connect();
    halfway.send(&Req::new("PUT", "/x").body(noise(1000)).bytes()[..200]);
    becomes(&gateway, "tollgate_requests_in_flight", &[], 1.0);
    drop(halfway);
    becomes(&gateway, "tollgate_requests_in_flight", &[], 0.0);
    assert_eq!(kept.ask(&Req::get("/x")).status, 200);
    becomes(&gateway, "tollgate_requests_in_flight", &[], 0.0);
}

#[test]
fn what_is_turned_away_is_counted_by_its_reason() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let away = |reason: &str, count: f64| {
        becomes(
            &gateway,
            "tollgate_turned_away_total",
            &[("reason", reason)],
            count,
        );
    };
    for count in [1.0, 2.0] {
        assert_invalid(&gateway.ask(&Req::get("/x").header("Content_Length", "5")));
        away("framing", count);
        let mut client = gateway.connect();
        client.send("GARBAGE\r\n\r\n");
        assert_invalid(&client.response());
        away("malformed_head", count);
        let large = Req::get("/x").header("X-Filler", &"x".repeat(70 << 10));
        let mut client = gateway.connect();
        let _ = client.try_send(large.bytes());
        assert_eq!(client.response().status, 431);
        away("head_too_large", count);
        let ambiguous = Req::post("/files/../api/v1/agent/tasks");
        assert_invalid(&gateway.ask(&ambiguous));
        away("ambiguous_path", count);
    }
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("tollgate_turned_away_total", &[]), 8.0);
    assert_eq!(
        metrics.sum("tollgate_requests_total", &[]),
        0.0,
        "nobody knows whether they were starts"
    );
    upstream.assert_untouched();
}

#[test]
fn a_request_over_the_bound_is_counted_as_turned_away() {
    let gate = Arc::new(Barrier::new(2));
    let opened = Arc::clone(&gate);
    let upstream = Upstream::answering(move |exchange| {
        if exchange.request.target() == "/slow" {
            gate.wait();
        }
        exchange.json(200, QUEUED)
    });
    let gateway = Gateway::before(&upstream)
        .set("server.limits.requests", 1)
        .start();
    let mut slow = gateway.connect();
    slow.send(Req::get("/slow").bytes());
    eventually(secs(5), "one is in flight", || {
        (upstream.requests().len() == 1).then_some(())
    });
    assert_outage(&gateway.ask(&Req::get("/x").header("X-Request-Id", "over")));
    let reason = [("reason", "too_many_requests")];
    becomes(&gateway, "tollgate_turned_away_total", &reason, 1.0);
    let line = gateway.access_line("it is logged", |line| line["request_id"] == "over");
    assert_eq!(line["reason"], "too_many_requests", "{line}");
    opened.wait();
    assert_eq!(slow.response().status, 200);
}

#[test]
fn a_long_path_is_cut_in_the_log_and_nowhere_else() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    let long = format!("/long/{}", "x".repeat(60_000));
    for (id, target, status) in [
        ("plain", long.clone(), 200),
        ("start", format!("/files{long}"), 403),
        ("too-many-readings", "/%e2%82".repeat(7_000), 400),
    ] {
        let request = Req::post(&target).team(&team).header("X-Request-Id", id);
        let answer = gateway.ask(&request);
        assert_eq!(answer.status, status, "{id}");
        let fits = |line: &serde_json::Value| line["request_id"] == id;
        let line = gateway.access_line(id, fits);
        let shown = line["path"].as_str().unwrap();
        assert!(target.starts_with(shown) && shown.len() > 100, "{shown}");
        let length = gateway
            .stdout
            .all()
            .iter()
            .map(String::len)
            .max()
            .unwrap_or(0);
        assert!(length < 5 << 10, "{id}: a line of {length} bytes");
    }
    let arrived = upstream.only_request();
    assert_eq!(arrived.target(), long, "the upstream gets all of it");
}

#[test]
fn a_team_whose_balance_has_to_be_known_is_answered_503_with_the_fault() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("balances.missing", "unknown")
        .start();
    let request = Req::start(&fresh("no-balance")).header("X-Request-Id", "no-balance");
    assert_outage(&gateway.ask(&request));
    upstream.assert_untouched();
    let line = gateway.access_line("it is logged", |line| line["request_id"] == "no-balance");
    assert_eq!(line["verdict"], "unknown_refused", "{line}");
    let fault = line["fault"].as_str().unwrap_or_default();
    assert!(fault.contains("no balance"), "{line}");
    assert_eq!(gateway.metrics().sum("tollgate_ledger_up", &[]), 1.0);
}

#[test]
fn a_gateway_may_stay_ready_in_an_outage_and_says_so() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = Gateway::before(&upstream)
        .redis(&redis)
        .set("balances.redis.probe_interval", "100ms")
        .set("server.admin.ready_in_outage", true)
        .start();
    let ready = || {
        let answer = gateway.admin("/readyz");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    assert!(ready().get("outage").is_none(), "{}", ready());
    redis.kill();
    gateway.ask(&Req::start("acme"));
    let body = eventually(secs(5), "the outage shows", || {
        Some(ready()).filter(|body| body["outage"].as_str().is_some_and(|why| !why.is_empty()))
    });
    assert_eq!(body["ready"], true, "{body}");
    throughout(secs(1), "it stays so", || ready()["outage"].is_string());
    assert_outage(&gateway.ask(&Req::start("acme")));
    assert_eq!(gateway.ask(&Req::get("/x")).status, 200);
    becomes(&gateway, "tollgate_ledger_up", &[], 0.0);
}
