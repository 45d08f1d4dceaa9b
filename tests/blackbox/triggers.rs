//! What set a run off, where a listed peer says so in a header: refusals are
//! told apart by it, and nothing is decided by it.

use serde_json::{Value, json};

use crate::support::gateway::Builder;
use crate::support::problem::{assert_insufficient_credits, assert_problem};
use crate::support::request::TASKS;
use crate::support::wait::{eventually, secs};
use crate::support::{Client, Gateway, Redis, Req, Upstream};

const SOURCE: &str = "X-Oz-Api-Source";

fn said_by(peers: &[&str]) -> Value {
    json!({
        "header": "x-oz-api-source",
        "from": peers,
        "map": {"SCHEDULED_AGENT": "schedule", "SLACK": "slack", "LINEAR": "linear"},
    })
}

fn believing(upstream: &Upstream, peers: &[&str]) -> Builder {
    Gateway::before(upstream).set("admission", json!({"trigger_from": said_by(peers)}))
}

#[track_caller]
fn refusals(gateway: &Gateway, trigger: &str) -> f64 {
    let labels = [("reason", "insufficient_credits"), ("trigger", trigger)];
    gateway.metrics().sum("tollgate_refusals_total", &labels)
}

#[test]
fn a_refused_schedule_shows_in_events_metrics_and_the_log() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = believing(&upstream, &["127.0.0.1/32"]).start();
    let (poor, rich) = (redis.team("0"), redis.team("5"));
    assert_eq!(refusals(&gateway, "schedule"), 0.0);
    let shown = gateway.metrics().values_of("trigger");
    assert!(shown.contains(&"schedule".to_owned()), "{shown:?}");
    let scheduled = |team: &str| Req::start(team).header(SOURCE, "SCHEDULED_AGENT");
    let answer = gateway.ask(&scheduled(&poor).header("X-Request-Id", "refused"));
    assert_insufficient_credits(&answer, TASKS);
    assert_eq!(gateway.ask(&Req::start(&poor)).status, 403);
    let events = eventually(secs(5), "both events are written", || {
        Some(redis.refusals(&poor)).filter(|events| events.len() == 2)
    });
    assert_eq!(events[0]["trigger"], "schedule");
    assert_eq!(events[1]["trigger"], "api");
    assert_eq!(refusals(&gateway, "schedule"), 1.0);
    assert_eq!(refusals(&gateway, "api"), 1.0);
    let line = gateway.access_line("it is logged", |line| line["request_id"] == "refused");
    assert_eq!(line["trigger"], "schedule", "{line}");
    let admitted = scheduled(&rich).header("X-Request-Id", "admitted");
    assert_eq!(gateway.ask(&admitted).status, 200);
    let line = gateway.access_line("it is logged", |line| line["request_id"] == "admitted");
    assert_eq!(line["trigger"], "schedule", "{line}");
    let arrived = upstream.only_request();
    assert_eq!(arrived.all("x-oz-api-source"), ["SCHEDULED_AGENT"]);
    gateway.ask(&Req::get("/x").header("X-Request-Id", "no-start"));
    let line = gateway.access_line("it is logged", |line| line["request_id"] == "no-start");
    assert!(line.get("trigger").is_none(), "{line}");
}

#[test]
fn every_reason_of_a_refusal_is_told_with_its_trigger() {
    let upstream = Upstream::ok();
    let gateway = believing(&upstream, &["127.0.0.1/32"]).start();
    let answer = gateway.ask(&Req::post(TASKS).header(SOURCE, "LINEAR"));
    assert_problem(&answer, 401, "authentication_required", Some("false"));
    let labels = [("reason", "authentication_required"), ("trigger", "linear")];
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("tollgate_refusals_total", &labels), 1.0);
}

#[test]
fn what_is_not_said_once_in_a_known_word_by_a_listed_peer_changes_nothing() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = believing(&upstream, &["127.0.0.1/32", "127.0.7.0/24"]).start();
    let rich = redis.team("5");
    let start = || Req::start(&rich);
    let said = || start().header(SOURCE, "SLACK");
    for (at, (peer, request, expected)) in [
        ("127.0.0.1", said(), "slack"),
        ("127.0.7.9", said(), "slack"),
        ("127.0.0.2", said(), "api"),
        (
            "127.0.0.2",
            said().header("X-Forwarded-For", "127.0.0.1"),
            "api",
        ),
        ("127.0.0.1", said().header(SOURCE, "SLACK"), "api"),
        ("127.0.0.1", said().header(SOURCE, "LINEAR"), "api"),
        ("127.0.0.1", start().header(SOURCE, "slack"), "api"),
        ("127.0.0.1", start().header(SOURCE, "CLI"), "api"),
        ("127.0.0.1", start().header(SOURCE, ""), "api"),
        ("127.0.0.1", start().header(SOURCE, "SLACK, SLACK"), "api"),
        (
            "127.0.0.1",
            start().header("x_oz_api_source", "SLACK"),
            "api",
        ),
        ("127.0.0.1", start(), "api"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("case-{at}");
        let request = request.header("X-Request-Id", &id);
        let answer = Client::connect_from(peer, gateway.http).ask(&request);
        assert_eq!(answer.status, 200, "{id}: it decides nothing");
        let line = gateway.access_line("it is logged", |line| line["request_id"] == id.as_str());
        assert_eq!(line["trigger"], expected, "{line}");
    }
}

#[test]
fn a_routes_own_word_goes_before_the_general_one() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let own = json!({"header": "x-cron", "from": ["127.0.0.0/8"], "map": {"yes": "schedule"}});
    let gateway = believing(&upstream, &["127.0.0.0/8"])
        .set("routes.1.trigger_from", own)
        .start();
    let poor = redis.team("0");
    let ask = |path: &str| {
        let request = Req::post(path).team(&poor);
        let request = request.header(SOURCE, "SLACK").header("X-Cron", "yes");
        assert_eq!(gateway.ask(&request).status, 403);
    };
    ask(TASKS);
    assert_eq!(
        (refusals(&gateway, "slack"), refusals(&gateway, "schedule")),
        (1.0, 0.0)
    );
    ask("/api/v1/agent/runs");
    assert_eq!(
        (refusals(&gateway, "slack"), refusals(&gateway, "schedule")),
        (1.0, 1.0)
    );
    ask("/files/a");
    assert_eq!(refusals(&gateway, "webhook"), 0.0);
    assert_eq!(refusals(&gateway, "slack"), 2.0);
}

#[test]
fn shadow_tells_what_set_off_what_would_be_refused() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = believing(&upstream, &["127.0.0.0/8"])
        .set("admission.enforce", false)
        .start();
    let request = Req::start(&redis.team("0")).header(SOURCE, "SCHEDULED_AGENT");
    assert_eq!(gateway.ask(&request).status, 200);
    let labels = [("reason", "insufficient_credits"), ("trigger", "schedule")];
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("tollgate_would_refusals_total", &labels), 1.0);
    assert_eq!(metrics.sum("tollgate_would_refusals_total", &[]), 1.0);
}

#[test]
fn a_reload_changes_who_is_believed() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let poor = redis.team("0");
    let ask = || {
        let request = Req::start(&poor).header(SOURCE, "SCHEDULED_AGENT");
        assert_eq!(gateway.ask(&request).status, 403);
    };
    let until = |trigger: &str| {
        eventually(secs(5), trigger, || {
            let before = refusals(&gateway, trigger);
            ask();
            (refusals(&gateway, trigger) > before).then_some(())
        });
    };
    until("api");
    assert_eq!(refusals(&gateway, "schedule"), 0.0);
    gateway.reload_with(
        "admission",
        json!({"trigger_from": said_by(&["127.0.0.0/8"])}),
    );
    until("schedule");
    gateway.reload_with("admission.trigger_from", said_by(&["10.0.0.0/8"]));
    until("api");
    ask();
    let (scheduled, total) = (refusals(&gateway, "schedule"), refusals(&gateway, "api"));
    ask();
    assert_eq!(refusals(&gateway, "schedule"), scheduled);
    assert_eq!(refusals(&gateway, "api"), total + 1.0);
}
