//! Where the upstream deduplicates, a start that is sent again shares the hold
//! of the first; looking at its body changes nothing that the upstream gets.

use std::time::Instant;

use serde_json::json;

use crate::support::gateway::Builder;
use crate::support::h2_client::{H2Client, H2Req};
use crate::support::ports::Refusing;
use crate::support::request::{PROMPT, TASKS, noise};
use crate::support::upstream::Recorded;
use crate::support::wait::millis;
use crate::support::{Gateway, Req, Response, Upstream, eventually, secs};

/// As much as is looked at.
const SHORT: usize = 64 << 10;

/// Around everything that could be a bound.
const SIZES: [usize; 9] = [
    0,
    1,
    1 << 10,
    SHORT - 2,
    SHORT - 1,
    SHORT,
    SHORT + 1,
    SHORT + 2,
    1 << 20,
];

/// What a run sets aside, and all that `acme` has: one hold at a time.
const HOLD: u32 = 20;

/// Holds in this process, and an upstream that deduplicates.
fn deduplicating(upstream: &Upstream) -> Builder {
    Gateway::before(upstream)
        .set(
            "balances",
            json!({"memory": {"acme": HOLD, "rich": 1_000_000, "broke": 0}}),
        )
        .set(
            "identity",
            json!([{"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}}]),
        )
        .set(
            "admission",
            json!({"mode": "hold", "hold": HOLD, "hold_for": "30m", "idempotency": "upstream"}),
        )
}

fn keyed(team: &str, key: &str) -> Req {
    Req::start(team).header("Idempotency-Key", key)
}

/// In every form that a body can have.
fn forms(request: &Req, body: &[u8]) -> Vec<(&'static str, Req)> {
    let sized = request.clone().body(body);
    let chunked = request.clone().chunked(body, 10_000);
    vec![
        ("with a length", sized.clone()),
        ("expecting 100", sized.header("Expect", "100-continue")),
        ("chunked", chunked.clone()),
        (
            "chunked, expecting 100",
            chunked.header("Expect", "100-continue"),
        ),
    ]
}

/// What the gateway adds to a start.
const ADDED: [&str; 6] = [
    "x-tollgate-team",
    "x-tollgate-hold",
    "x-request-id",
    "traceparent",
    "x-forwarded-for",
    "x-forwarded-proto",
];

/// It arrived as it was sent.
#[track_caller]
fn assert_as_sent(arrived: &Recorded, request: &Req, body: &[u8], case: &str) {
    assert!(arrived.complete, "{case}: the body did not arrive");
    assert!(arrived.body == body, "{case}: another body arrived");
    let sent = String::from_utf8(request.head_bytes()).unwrap();
    let sent = Recorded {
        head: sent,
        ..Recorded::default()
    };
    assert_eq!(arrived.line(), sent.line(), "{case}");
    let sorted = |recorded: &Recorded| {
        let fields = recorded.headers().into_iter();
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value));
        let mut fields: Vec<_> = fields
            .filter(|(name, _)| !ADDED.contains(&name.as_str()))
            .collect();
        fields.sort();
        fields
    };
    assert_eq!(sorted(arrived), sorted(&sent), "{case}");
}

/// The hold that the only request at the upstream came with.
#[track_caller]
fn hold_of(upstream: &Upstream) -> String {
    let hold = upstream.only_request().header("x-tollgate-hold");
    upstream.forget();
    hold.expect("an admitted start has a hold")
}

/// `acme` has credits for a start, so none is set aside.
#[track_caller]
fn assert_nothing_is_held(gateway: &Gateway, case: &str) {
    eventually(secs(5), case, || {
        (gateway.ask(&keyed("acme", "the only one")).status == 200).then_some(())
    });
}

#[track_caller]
fn assert_conflict(answer: &Response, case: &str) {
    assert_eq!(answer.status, 409, "{case}: {}", answer.head);
    assert_eq!(answer.header("x-should-retry"), Some("false"), "{case}");
    let problem = answer.json();
    let kind = problem["type"].as_str().unwrap();
    assert!(kind.ends_with("/conflict/"), "{case}: {kind}");
    let (title, detail) = (&problem["title"], &problem["detail"]);
    let error = format!("{} ({})", title.as_str().unwrap(), detail.as_str().unwrap());
    assert_eq!(problem["error"], error, "{case}");
}

#[test]
fn a_body_of_any_size_arrives_as_it_was_sent() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream).start();
    for size in SIZES {
        let body = noise(size);
        for (form, request) in forms(&keyed("rich", &format!("{size}")), &body) {
            let case = format!("{size} bytes {form}");
            let mut client = gateway.connect();
            client.send(request.bytes());
            let answer = client.try_response();
            let answer = answer.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(answer.status, 200, "{case}: {}", answer.text());
            assert_as_sent(&upstream.only_request(), &request, &body, &case);
            upstream.forget();
        }
    }
}

#[test]
fn a_start_without_a_body_arrives_as_it_was_sent() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream).start();
    let bare = || {
        Req::new("POST", TASKS)
            .team("rich")
            .header("Idempotency-Key", "bare")
    };
    let mut client = gateway.connect();
    for _ in 0..2 {
        assert_eq!(client.ask(&bare()).status, 200);
    }
    for arrived in upstream.requests() {
        assert_as_sent(&arrived, &bare(), b"", "no body");
    }
    // None and an empty one are the same.
    assert_eq!(client.ask(&bare().body("")).status, 200);
    assert_conflict(&client.ask(&bare().body("x")), "one with a body");
}

#[test]
fn a_body_that_trickles_in_arrives_as_it_was_sent() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream).start();
    for size in [2_000, SHORT, SHORT + 1] {
        let body = noise(size);
        let request = keyed("rich", &format!("slow {size}")).body(&body);
        let mut client = gateway.connect();
        client.send(request.head_bytes());
        for piece in body.chunks(size / 20) {
            // Gives what was sent the time to be read.
            assert!(!client.is_closed_within(millis(10)), "{size}");
            client.send(piece);
        }
        assert_eq!(client.response().status, 200, "{size}");
        assert_as_sent(&upstream.only_request(), &request, &body, "slow");
        upstream.forget();
    }
}

#[test]
fn a_body_that_stops_half_way_is_408_and_holds_nothing() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream)
        .set("server.limits.body_timeout", "400ms")
        .start();
    let body = noise(SHORT);
    for sent in [0, 1, SHORT / 2, SHORT - 1] {
        let request = keyed("acme", "half").body(&body);
        let mut client = gateway.connect();
        client.send([&request.head_bytes(), &body[..sent]].concat());
        let answer = client.response();
        assert_eq!(answer.status, 408, "{sent} bytes: {}", answer.head);
        assert_eq!(answer.header("x-should-retry"), Some("false"));
    }
    upstream.assert_untouched();
    assert_nothing_is_held(&gateway, "no half start holds anything");
    let counted = [
        ("route", "POST /api/v1/agent/tasks"),
        ("verdict", "invalid"),
    ];
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("tollgate_requests_total", &counted), 4.0);
}

#[test]
fn a_slow_body_is_waited_for_while_more_of_it_comes() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream)
        .set("server.limits.body_timeout", "400ms")
        .start();
    let body = noise(20);
    let request = keyed("acme", "drip").body(&body);
    let mut client = gateway.connect();
    client.send(request.head_bytes());
    let began = Instant::now();
    for byte in &body {
        // Never 400 ms without a byte.
        assert!(!client.is_closed_within(millis(50)), "it is given up");
        client.send([*byte]);
    }
    assert!(began.elapsed() > millis(800), "no longer than one wait");
    assert_eq!(client.response().status, 200);
    assert!(upstream.only_request().body == body);
}

#[test]
fn in_shadow_mode_a_key_makes_no_body_late() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream)
        .set("server.limits.body_timeout", "400ms")
        .set("admission.enforce", false)
        .start();
    let body = noise(SHORT);
    let request = keyed("acme", "late").body(&body);
    let mut client = gateway.connect();
    client.send([&request.head_bytes(), &body[..1000]].concat());
    eventually(secs(5), "it goes on without its body", || {
        upstream.requests().pop()
    });
    client.send(&body[1000..]);
    assert_eq!(client.response().status, 200);
    assert!(upstream.only_request().body == body);
}

#[test]
fn a_client_that_goes_away_half_way_holds_nothing() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream).start();
    let body = noise(SHORT);
    for sent in [0, 1, SHORT - 1] {
        let id = format!("gone-after-{sent}");
        let request = keyed("acme", "gone").body(&body);
        let request = request.header("X-Request-Id", &id);
        let mut client = gateway.connect();
        client.send([&request.head_bytes(), &body[..sent]].concat());
        drop(client);
        let line = gateway.access_line(&id, |line| line["request_id"] == id);
        assert_eq!(line["status"], 0, "{line}");
        assert!(line["hold"].is_null(), "{line}");
    }
    upstream.assert_untouched();
    assert_nothing_is_held(&gateway, "no client that went holds anything");
}

#[test]
fn a_connection_serves_on_after_bodies_that_were_looked_at() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream).start();
    let mut client = gateway.connect();
    for size in [0, 1, 5_000, SHORT] {
        let body = noise(size);
        let key = format!("{size}");
        assert_eq!(client.ask(&keyed("rich", &key).body(&body)).status, 200);
        assert_eq!(client.ask(&keyed("broke", &key).body(&body)).status, 403);
        assert_eq!(client.ask(&Req::start("rich").body(&body)).status, 200);
        assert_eq!(client.ask(&Req::get("/x")).status, 200, "{size}");
        for arrived in upstream.requests().iter().filter(|r| r.target() == TASKS) {
            assert!(arrived.body == body, "{size}");
        }
        upstream.forget();
    }
}

#[test]
fn the_whole_body_goes_to_the_address_that_answers() {
    let upstream = Upstream::ok();
    let away: Vec<Refusing> = (0..3).map(|_| Refusing::new()).collect();
    let addresses = away.iter().map(|one| one.address.to_string());
    let addresses: Vec<String> = addresses.chain([upstream.address.to_string()]).collect();
    let gateway = deduplicating(&upstream)
        .set("upstream.addresses", json!(addresses))
        .start();
    for size in [1, SHORT] {
        let body = noise(size);
        for at in 0..8 {
            let request = keyed("rich", &format!("{size} {at}")).body(&body);
            assert_eq!(gateway.ask(&request).status, 200);
            assert_as_sent(&upstream.only_request(), &request, &body, "another address");
            upstream.forget();
        }
    }
}

#[test]
fn a_body_over_http_2_arrives_as_it_was_sent() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream).set("server.h2c", true).start();
    let client = H2Client::connect(gateway.http);
    for size in SIZES {
        let body = noise(size);
        for (form, length) in [("with a length", Some(size)), ("without", None)] {
            let mut request = H2Req::new("POST", TASKS)
                .header("x-team-id", "rich")
                .header("idempotency-key", &format!("{size} {form}"));
            if let Some(length) = length {
                request = request.header("content-length", &length.to_string());
            }
            for piece in body.chunks(7_000) {
                request = request.body(piece);
            }
            let answer = client.ask(&request);
            assert_eq!(answer.status, 200, "{size} {form}");
            let arrived = upstream.only_request();
            assert!(arrived.complete && arrived.body == body, "{size} {form}");
            assert!(arrived.header("x-tollgate-hold").is_some());
            upstream.forget();
        }
    }
}

#[test]
fn a_body_over_http_2_that_stops_half_way_holds_nothing() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream)
        .set("server.h2c", true)
        .set("server.limits.body_timeout", "400ms")
        .start();
    let client = H2Client::connect(gateway.http);
    let half = H2Req::start("acme")
        .header("idempotency-key", "half")
        .header("content-length", "60000");
    // It says that this is the end.
    assert!(client.try_ask(&half).is_err());
    // It says nothing more.
    assert_eq!(client.ask(&half.unfinished()).status, 408);
    upstream.assert_untouched();
    assert_nothing_is_held(&gateway, "no half start holds anything");
}

#[test]
fn a_replay_shares_the_hold_of_the_first_start() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream).start();
    assert_eq!(gateway.ask(&keyed("acme", "a")).status, 200);
    let hold = hold_of(&upstream);
    for _ in 0..3 {
        let replay = keyed("acme", "a").header("X-Request-Id", "again");
        assert_eq!(gateway.ask(&replay).status, 200);
        assert_eq!(hold_of(&upstream), hold);
    }
    let line = gateway.access_line("again", |line| line["request_id"] == "again");
    assert_eq!(line["hold"], hold, "{line}");
    assert_eq!(line["hold_state"], "replayed", "{line}");
    assert_eq!(line["verdict"], "admitted", "{line}");
    for other in [keyed("acme", "b"), Req::start("acme")] {
        let answer = gateway.ask(&other);
        assert_eq!(answer.status, 403, "there is a hold for one run");
        let detail = format!(
            "{HOLD} of {HOLD} credits are set aside for 1 run, and this run sets {HOLD} aside"
        );
        assert_eq!(answer.json()["detail"], detail);
        let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1_790..=1_800).contains(&retry_after), "{retry_after}");
    }
    upstream.assert_untouched();
}

#[test]
fn a_key_that_comes_back_with_another_request_is_a_conflict() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream).start();
    let first = keyed("acme", "k").body(noise(SHORT));
    assert_eq!(gateway.ask(&first).status, 200);
    upstream.forget();
    let query = Req::post(&format!("{TASKS}?x=1")).team("acme");
    let query = query.header("Idempotency-Key", "k").body(noise(SHORT));
    for (case, other) in [
        ("another query", query),
        ("another body", keyed("acme", "k").body(noise(SHORT - 1))),
        ("no body", keyed("acme", "k").body("")),
        (
            "another route",
            Req::post("/api/v1/agent/runs")
                .team("acme")
                .header("Idempotency-Key", "k")
                .body(noise(SHORT)),
        ),
    ] {
        let id = case.replace(' ', "-");
        let other = other.header("X-Request-Id", &id);
        assert_conflict(&gateway.ask(&other), case);
        let line = gateway.access_line(case, |line| line["request_id"] == id);
        assert_eq!(line["reason"], "conflict", "{line}");
        assert!(line["hold"].is_null(), "{line}");
    }
    upstream.assert_untouched();
    let reason = [("reason", "conflict")];
    assert_eq!(
        gateway.metrics().sum("tollgate_refusals_total", &reason),
        4.0
    );
    // A body that is not looked at is not compared.
    let long = keyed("acme", "k").body(noise(SHORT + 1));
    assert_eq!(gateway.ask(&long).status, 200);
    // Nor is what other teams call their starts.
    assert_eq!(gateway.ask(&keyed("rich", "k")).status, 200);
}

#[test]
fn a_path_parameter_makes_another_request() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream).start();
    let follow_up = |run: &str| {
        Req::post(&format!("/api/v1/agent/runs/{run}/followups"))
            .team("acme")
            .header("Idempotency-Key", "k")
    };
    assert_eq!(gateway.ask(&follow_up("r1")).status, 200);
    assert_conflict(&gateway.ask(&follow_up("r2")), "another run");
    assert_eq!(gateway.ask(&follow_up("r1")).status, 200);
}

#[test]
fn a_key_that_cannot_be_told_apart_is_refused() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream).start();
    let long = "k".repeat(256);
    for (case, request) in [
        ("empty", keyed("acme", "")),
        ("long", keyed("acme", &long)),
        ("twice", keyed("acme", "a").header("Idempotency-Key", "a")),
        (
            "underscored",
            Req::start("acme").header("Idempotency_Key", "a"),
        ),
        (
            "nominated",
            keyed("acme", "a").header("Connection", "idempotency-key"),
        ),
    ] {
        let answer = gateway.ask(&request);
        assert_eq!(answer.status, 400, "{case}: {}", answer.text());
        assert!(answer.json()["detail"].is_string(), "{case}");
    }
    upstream.assert_untouched();
    let longest = "k".repeat(255);
    assert_eq!(gateway.ask(&keyed("acme", &longest)).status, 200);
}

#[test]
fn with_idempotency_off_a_constant_key_buys_nothing() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream)
        .set("admission.idempotency", "off")
        .start();
    assert_eq!(gateway.ask(&keyed("acme", "k")).status, 200);
    upstream.forget();
    assert_eq!(gateway.ask(&keyed("acme", "k")).status, 403);
    upstream.assert_untouched();
    // And nobody waits for a body before deciding.
    for request in [keyed("broke", "k"), keyed("broke", "")] {
        let mut client = gateway.connect();
        client.send(request.body(noise(1_000)).head_bytes());
        assert_eq!(client.response().status, 403);
    }
}

#[test]
fn only_a_start_with_a_key_and_a_payer_waits_for_its_body() {
    let upstream = Upstream::ok();
    let gateway = deduplicating(&upstream).start();
    let nobody = Req::post(TASKS).header("Idempotency-Key", "k");
    for (request, status) in [(Req::start("broke"), 403), (nobody, 401)] {
        let mut client = gateway.connect();
        client.send(request.body(PROMPT).head_bytes());
        assert_eq!(client.response().status, status);
    }
    upstream.assert_untouched();
}

#[test]
fn what_the_upstream_refused_is_noted_as_not_started() {
    let upstream = Upstream::answering(|exchange| {
        let refused = exchange.request.head.contains("refuse-this");
        exchange.json(if refused { 409 } else { 500 }, "{}")
    });
    let gateway = deduplicating(&upstream).start();
    for (id, status, state) in [
        ("refuse-this", 409, "not_started"),
        ("broke-on-this", 500, "held"),
    ] {
        let answer = gateway.ask(&keyed("rich", id).header("X-Request-Id", id));
        assert_eq!(answer.status, status);
        assert_eq!(answer.text(), "{}", "the upstream's own answer");
        let line = gateway.access_line(id, |line| line["request_id"] == id);
        assert_eq!(line["hold_state"], state, "{line}");
    }
}
