//! What passing answers tell of runs: holds bound, extended, settled and
//! released by what the upstream says, and answers that pass as they are.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::support::gateway::Builder;
use crate::support::operator::{TOKEN, get};
use crate::support::request::noise;
use crate::support::upstream::After;
use crate::support::wait::throughout;
use crate::support::{Client, Gateway, Redis, Req, Upstream, eventually, secs};

/// The path of a run.
const RUN: &str = "/api/v1/agent/runs/run-1";

/// How long nothing has to happen to have not happened.
const A_WHILE: Duration = Duration::from_millis(300);

/// Holds in this process.
fn holding(upstream: &Upstream) -> Builder {
    Gateway::before(upstream)
        .set("server.admin.token", TOKEN)
        .set(
            "balances",
            json!({"memory": {"acme": 1000}, "writer": "tollgate"}),
        )
        .set(
            "identity",
            json!([{"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}}]),
        )
        .set(
            "admission",
            json!({"mode": "hold", "hold": 20, "hold_for": "30m", "run_id": "/run_id"}),
        )
        .set(
            "routes",
            json!([
                {"start": "POST /api/v1/agent/tasks", "settle_from": "x-credits-used"},
                {"ends": "POST /api/v1/agent/runs/{run}/cancel"},
                {"watch": "GET /api/v1/agent/runs/{run}"},
            ]),
        )
}

/// The live holds of `acme`.
fn live(gateway: &Gateway) -> Vec<Value> {
    let holds = get(gateway, "/v1/teams/acme/holds").json();
    holds["holds"].as_array().cloned().expect("a list of holds")
}

/// Starts a run and waits until its hold is bound to it.
fn start(gateway: &Gateway) {
    assert_eq!(gateway.ask(&Req::start("acme")).status, 200);
    bound(gateway, "run-1");
}

#[track_caller]
fn bound(gateway: &Gateway, run: &str) {
    eventually(secs(5), "the hold is bound to its run", || {
        live(gateway)
            .iter()
            .any(|hold| hold["run"] == run)
            .then_some(())
    });
}

#[track_caller]
fn released(gateway: &Gateway) {
    eventually(secs(5), "the hold is released", || {
        // Redis may just have come back.
        let holds = get(gateway, "/v1/teams/acme/holds").json();
        let is_gone = holds["holds"].as_array().is_some_and(Vec::is_empty);
        let ends = gateway.metrics();
        let ends = ends.sum("tollgate_hold_ends_total", &[("end", "released")]);
        (is_gone && ends >= 1.0).then_some(())
    });
}

#[track_caller]
fn stays(gateway: &Gateway) {
    throughout(A_WHILE, "the hold stays", || live(gateway).len() == 1);
}

/// How often answers were not understood, and why.
fn unread(gateway: &Gateway, why: &str) -> f64 {
    let metrics = gateway.metrics();
    metrics.sum("tollgate_run_answers_unread_total", &[("why", why)])
}

/// A task API whose runs are in this state.
fn api(state: &'static str) -> Upstream {
    Upstream::answering(move |exchange| match exchange.request.line() {
        line if line.starts_with("GET") => {
            exchange.json(200, &json!({"run_id": "run-1", "state": state}).to_string())
        }
        line if line.contains("/cancel") => exchange.json(200, "{}"),
        _ => exchange.json(200, r#"{"run_id":"run-1","state":"QUEUED"}"#),
    })
}

/// A task API that answers everything with this head and body.
fn saying(head: &'static str, body: Vec<u8>) -> Upstream {
    Upstream::answering(move |exchange| {
        let length = body.len();
        let head = format!("HTTP/1.1 {head}content-length: {length}\r\n\r\n");
        exchange.say(&[head.as_bytes(), &body].concat())
    })
}

fn gzip(body: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_cancel_that_passed_and_succeeded_releases() {
    let upstream = api("INPROGRESS");
    let gateway = holding(&upstream).start();
    start(&gateway);
    let cancel = gateway.ask(&Req::post(&format!("{RUN}/cancel?now=1")));
    assert_eq!((cancel.status, cancel.text().as_str()), (200, "{}"));
    released(&gateway);
}

#[test]
fn a_cancel_that_failed_releases_nothing() {
    let upstream = Upstream::answering(|exchange| {
        let is_cancel = exchange.request.line().contains("/cancel");
        let status = if is_cancel { 409 } else { 200 };
        exchange.json(status, r#"{"run_id":"run-1"}"#)
    });
    let gateway = holding(&upstream).start();
    start(&gateway);
    assert_eq!(
        gateway.ask(&Req::post(&format!("{RUN}/cancel"))).status,
        409
    );
    stays(&gateway);
}

/// What some upstream might take for a cancel passes, and frees nothing.
#[test]
fn only_a_cancel_as_configured_frees_anything() {
    let upstream = api("SUCCEEDED");
    let gateway = holding(&upstream).start();
    start(&gateway);
    for request in [
        Req::post("/api/v1/agent/runs/run-1/Cancel"),
        Req::post("//api/v1/agent/runs/run-1/cancel"),
        Req::post("/api/v1/agent/runs/run-1/cancel/"),
        Req::post("/api/v1/agent/runs/x/../run-1/cancel"),
        Req::post("/api/v1/agent/runs/run-1%2Fcancel"),
        Req::post(&format!("{RUN}/cancel")).header("X-HTTP-Method-Override", "GET"),
        Req::post("/api/v1/agent/runs/other/cancel"),
        Req::new("HEAD", RUN),
        Req::get("/api/v1/agent/runs/other"),
        Req::get("/api/v1/agent/runs"),
    ] {
        assert_eq!(Client::connect(gateway.http).ask(&request).status, 200);
    }
    stays(&gateway);
}

#[test]
fn an_answer_that_shows_an_end_releases_and_passes_as_it_is() {
    let upstream = api("SUCCEEDED");
    let gateway = holding(&upstream).start();
    start(&gateway);
    let seen = gateway.ask(&Req::get(RUN));
    assert_eq!(
        seen.json(),
        json!({"run_id": "run-1", "state": "SUCCEEDED"})
    );
    released(&gateway);
}

#[test]
fn an_answer_that_shows_the_run_alive_releases_nothing() {
    let upstream = api("INPROGRESS");
    let gateway = holding(&upstream).start();
    start(&gateway);
    for _ in 0..5 {
        assert_eq!(gateway.ask(&Req::get(RUN)).status, 200);
    }
    stays(&gateway);
}

#[test]
fn a_compressed_answer_is_understood_and_passes_byte_for_byte() {
    let body = gzip(r#"{"run_id":"run-1","state":"FAILED"}"#);
    let upstream = saying(
        "200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n",
        body.clone(),
    );
    let gateway = holding(&upstream).start();
    let started = gateway.ask(&Req::start("acme"));
    assert_eq!(started.body, body);
    assert_eq!(started.header("content-encoding"), Some("gzip"));
    bound(&gateway, "run-1");
    assert_eq!(gateway.ask(&Req::get(RUN)).body, body);
    released(&gateway);
}

#[test]
fn an_answer_in_chunks_is_understood() {
    let upstream = Upstream::answering(|exchange| {
        exchange.say(b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"run_id\r\n9\r\n\":\"run-7\"\r\n1\r\n}\r\n0\r\n\r\n")
    });
    let gateway = holding(&upstream).start();
    assert_eq!(
        gateway.ask(&Req::start("acme")).text(),
        r#"{"run_id":"run-7"}"#
    );
    bound(&gateway, "run-7");
}

/// All of it has come, but the end was not told and the client is gone.
#[test]
fn a_client_that_goes_does_not_lose_the_run() {
    let (over, is_over) = mpsc::channel::<()>();
    let is_over = Mutex::new(is_over);
    let upstream = Upstream::answering(move |exchange| {
        exchange.say(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n12\r\n{\"run_id\":\"run-1\"}\r\n")?;
        // It has not ended until the test has.
        let _ = is_over.lock().unwrap().recv();
        Ok(After::Close)
    });
    let gateway = holding(&upstream).start();
    let mut client = Client::connect(gateway.http);
    client.send(Req::start("acme").bytes());
    client.take_until(b"run-1");
    drop(client);
    bound(&gateway, "run-1");
    drop(over);
}

#[test]
fn answers_that_cannot_be_looked_into_are_counted_and_pass() {
    let large = format!(r#"{{"run_id":"run-1","x":"{}"}}"#, "x".repeat(300_000));
    for (head, body, why) in [
        (
            "200 OK\r\ncontent-type: application/json\r\n",
            large.into_bytes(),
            "too_large",
        ),
        (
            "200 OK\r\ncontent-type: text/html\r\n",
            noise(500),
            "not_json",
        ),
        (
            "200 OK\r\ncontent-type: application/json\r\n",
            noise(500),
            "malformed",
        ),
        (
            "200 OK\r\ncontent-type: application/json\r\n",
            b"{}".to_vec(),
            "absent",
        ),
        (
            "200 OK\r\ncontent-type: application/json\r\ncontent-encoding: x-odd\r\n",
            noise(500),
            "encoding",
        ),
    ] {
        let upstream = saying(head, body.clone());
        let gateway = holding(&upstream).start();
        assert_eq!(gateway.ask(&Req::start("acme")).body, body, "{why}");
        eventually(secs(5), "it is counted", || {
            (unread(&gateway, why) >= 1.0).then_some(())
        });
        assert_eq!(live(&gateway).len(), 1);
    }
}

#[test]
fn what_the_upstream_says_it_cost_is_debited() {
    let upstream = Upstream::answering(|exchange| {
        exchange.say(b"HTTP/1.1 200 OK\r\nx-credits-used: 12.5\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n{\"run_id\":\"run-1\"}")
    });
    let gateway = holding(&upstream).start();
    let started = gateway.ask(&Req::start("acme"));
    assert_eq!(started.header("x-credits-used"), Some("12.5"));
    eventually(secs(5), "it is debited", || {
        let standing = get(&gateway, "/v1/teams/acme").json();
        (standing["balance"] == "987.5").then_some(())
    });
    assert!(live(&gateway).is_empty());
    eventually(secs(5), "it is counted", || {
        let metrics = gateway.metrics();
        let settled = metrics.sum("tollgate_hold_ends_total", &[("end", "settled")]);
        (settled >= 1.0).then_some(())
    });
}

/// Looking at an answer never holds it up: its parts arrive as they are sent.
#[test]
fn an_answer_that_is_looked_into_is_not_delayed() {
    let (seen, was_seen) = mpsc::channel::<()>();
    let was_seen = Mutex::new(was_seen);
    let upstream = Upstream::answering(move |exchange| {
        exchange.say(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{\"run_id\"\r\n")?;
        // Not before the client has the first part.
        let was_seen = was_seen.lock().unwrap().recv_timeout(secs(5));
        was_seen.map_err(io::Error::other)?;
        exchange.say(b"9\r\n:\"run-1\"}\r\n0\r\n\r\n")
    });
    let gateway = holding(&upstream).start();
    let mut client = Client::connect(gateway.http);
    client.send(Req::start("acme").bytes());
    client.take_until(b"run_id");
    seen.send(()).unwrap();
    client.take_until(b"run-1");
    bound(&gateway, "run-1");
}

/// Holds in a Redis of the test's own, where two runs' credits are.
fn holding_in(redis: &Redis, upstream: &Upstream) -> Builder {
    redis.set_balance("acme", "1000");
    holding(upstream).set(
        "balances",
        json!({"redis": {"url": redis.url(), "deadline": "2s"}, "writer": "tollgate"}),
    )
}

/// The hold events so far, oldest first: what, the run, and why.
fn told(redis: &Redis) -> Vec<[String; 3]> {
    type Entry = (String, HashMap<String, String>);
    let entries: Vec<Entry> = redis.run(&["XRANGE", "tollgate:events", "-", "+"]);
    let field = |event: &HashMap<String, String>, name: &str| {
        assert_eq!(event["team"], "acme");
        event.get(name).cloned().unwrap_or_default()
    };
    let entries = entries.iter();
    let fields =
        entries.map(|(_, event)| ["event", "run", "reason"].map(|name| field(event, name)));
    fields.collect()
}

#[test]
fn what_becomes_of_holds_in_redis_is_told_on_the_stream() {
    let (upstream, redis) = (api("SUCCEEDED"), Redis::private(&[]));
    let gateway = holding_in(&redis, &upstream).start();
    start(&gateway);
    gateway.ask(&Req::get(RUN));
    released(&gateway);
    let expected = [["held", "", ""], ["released", "run-1", "run_over"]];
    eventually(secs(5), "it is told", || {
        (told(&redis) == expected).then_some(())
    });
}

/// Another gateway, without a word between them but for Redis.
#[test]
fn any_gateway_may_see_the_end_of_a_run() {
    let (upstream, redis) = (api("INPROGRESS"), Redis::private(&[]));
    let gateway = holding_in(&redis, &upstream).start();
    let other = holding_in(&redis, &upstream).start();
    start(&gateway);
    assert_eq!(other.ask(&Req::get(RUN)).status, 200);
    assert_eq!(other.ask(&Req::post(&format!("{RUN}/cancel"))).status, 200);
    released(&other);
}

/// What was to be done about holds is done before the program ends.
#[test]
fn the_end_of_a_run_is_not_lost_at_the_end_of_the_gateway() {
    let (upstream, redis) = (api("SUCCEEDED"), Redis::private(&[]));
    let gateway = holding_in(&redis, &upstream)
        .set("server.shutdown.lame_duck", "0s")
        .start();
    start(&gateway);
    assert_eq!(gateway.ask(&Req::get(RUN)).status, 200);
    gateway.signal("TERM");
    gateway.wait(secs(10));
    let expected = ["held", "released"];
    let told = told(&redis);
    let told: Vec<_> = told.iter().map(|[event, _, _]| event.as_str()).collect();
    assert_eq!(told, expected);
}

/// Nothing is gained by going away: what a start holds stays for its run.
#[test]
fn tasks_wait_for_a_redis_that_is_frozen() {
    let (upstream, redis) = (api("SUCCEEDED"), Redis::private(&[]));
    let gateway = holding_in(&redis, &upstream)
        .set("balances.redis.deadline", "100ms")
        .start();
    start(&gateway);
    redis.freeze();
    assert_eq!(gateway.ask(&Req::get(RUN)).status, 200);
    redis.thaw();
    released(&gateway);
}

/// A gateway whose starts are settled by what the answer says.
fn settling(body: &'static str) -> (Upstream, Gateway) {
    let upstream = saying(
        "200 OK\r\ncontent-type: application/json\r\nx-credits-used: 12.5\r\n",
        body.as_bytes().to_vec(),
    );
    let gateway = holding(&upstream).start();
    (upstream, gateway)
}

/// The line of the statement that tells of the cost.
#[track_caller]
fn settled_line(gateway: &Gateway) -> Value {
    eventually(secs(5), "what it cost is in the statement", || {
        let statement = get(gateway, "/v1/teams/acme/statement").json();
        let lines = statement["lines"].as_array().cloned().unwrap_or_default();
        lines.into_iter().find(|line| line["kind"] == "settle")
    })
}

#[test]
fn the_line_of_a_cost_says_which_run_it_was() {
    let large = format!(
        "{{\"pad\":\"{}\",\"run_id\":\"run-1\"}}",
        "x".repeat(40_000)
    );
    for body in [r#"{"run_id":"run-1"}"#, &*large.leak()] {
        let (_upstream, gateway) = settling(body);
        assert_eq!(gateway.ask(&Req::start("acme")).status, 200);
        assert_eq!(settled_line(&gateway)["run"], "run-1");
    }
}

#[test]
fn a_cost_counts_whatever_the_body_is() {
    for body in ["", "{", "[]", "nonsense"] {
        let (_upstream, gateway) = settling(body);
        assert_eq!(gateway.ask(&Req::start("acme")).status, 200);
        assert!(settled_line(&gateway)["hold"].is_string(), "{body}");
    }
}

#[test]
fn the_access_log_says_which_run_a_request_is_about() {
    let upstream = api("INPROGRESS");
    let gateway = holding(&upstream).start();
    let ask = |request: Req, id: &str| {
        assert_eq!(gateway.ask(&request.header("X-Request-Id", id)).status, 200);
        gateway.access_line(id, |line| line["request_id"] == id)
    };
    let line = ask(Req::start("acme"), "begins");
    assert_eq!(
        (&line["run"], &line["run_route"]),
        (&json!("run-1"), &Value::Null)
    );
    let line = ask(Req::get(RUN), "watched");
    assert_eq!(line["run_route"], "watch", "{line}");
    assert_eq!(line["run"], "run-1", "{line}");
    assert_eq!(line["run_state"], "INPROGRESS", "{line}");
    let line = ask(Req::post(&format!("{RUN}/cancel")), "cancelled");
    assert_eq!(line["run_route"], "ends", "{line}");
    assert_eq!(line["run"], "run-1", "{line}");
    assert!(line["run_state"].is_null(), "{line}");
    let line = ask(Req::get("/x"), "other");
    assert!(
        line["run"].is_null() && line["run_route"].is_null(),
        "{line}"
    );
}

#[test]
fn a_write_that_ends_a_run_is_not_unlisted_in_either_mode() {
    let upstream = api("INPROGRESS");
    for mode in ["hold", "lookup"] {
        let gateway = holding(&upstream)
            .set("admission.mode", mode)
            .set("balances.writer", "billing")
            .start();
        let unlisted = || gateway.metrics().sum("tollgate_unlisted_writes_total", &[]);
        let cancel = Req::post(&format!("{RUN}/cancel"));
        assert_eq!(gateway.ask(&cancel).status, 200);
        assert_eq!(unlisted(), 0.0, "{mode}");
        // It may be another method to the upstream.
        let other = cancel.header("X-HTTP-Method-Override", "PUT");
        assert_eq!(gateway.ask(&other).status, 200);
        assert_eq!(gateway.ask(&Req::post("/elsewhere")).status, 200);
        assert_eq!(unlisted(), 2.0, "{mode}");
    }
}
