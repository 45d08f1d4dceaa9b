//! A refusal in the middle of an upload is read by every kind of client.

use crate::support::ports::Refusing;
use crate::support::problem::assert_insufficient_credits;
use crate::support::request::{TASKS, noise};
use crate::support::wait::millis;
use crate::support::{Gateway, Redis, Req, Upstream, secs};

const SIZES: [usize; 6] = [
    1 << 10,
    64 << 10,
    (64 << 10) + 1,
    65 << 10,
    1 << 20,
    8 << 20,
];

fn uploads(team: &str, body: &[u8]) -> Vec<(&'static str, Req)> {
    let sized = Req::start(team).body(body);
    let chunked = Req::start(team).chunked(body, 16 << 10);
    vec![
        ("with a length", sized.clone()),
        (
            "with a length, expecting 100",
            sized.header("Expect", "100-continue"),
        ),
        ("chunked", chunked.clone()),
        (
            "chunked, expecting 100",
            chunked.header("Expect", "100-continue"),
        ),
    ]
}

#[test]
fn a_client_that_writes_everything_first_reads_the_refusal() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    for size in SIZES {
        for (form, request) in uploads(&team, &noise(size)) {
            let mut client = gateway.connect();
            if let Err(error) = client.try_send(request.bytes()) {
                panic!("{size} bytes {form}: the upload was cut off: {error}");
            }
            let answer = client
                .try_response()
                .unwrap_or_else(|error| panic!("{size} bytes {form}: {error}"));
            assert_insufficient_credits(&answer, TASKS);
            assert!(
                answer.interim.is_empty(),
                "{size} bytes {form}: the body was asked for"
            );
        }
    }
    upstream.assert_untouched();
}

#[test]
fn a_client_that_reads_while_it_writes_reads_the_refusal() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    for size in SIZES {
        for (_, request) in uploads(&team, &noise(size)) {
            let answer = gateway.connect().ask_while_writing(request.bytes());
            assert_insufficient_credits(&answer, TASKS);
        }
    }
    upstream.assert_untouched();
}

#[test]
fn the_refusal_does_not_wait_for_the_rest_of_the_body() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    for size in [1 << 10, 64 << 10, 1 << 20] {
        for (form, request) in uploads(&team, &noise(size)) {
            let mut client = gateway.connect();
            client.patience(secs(3));
            client.send([&request.head_bytes(), &request.body_bytes()[..size / 2]].concat());
            let answer = client
                .try_response()
                .unwrap_or_else(|error| panic!("half of {size} bytes {form}: {error}"));
            assert_insufficient_credits(&answer, TASKS);
        }
    }
    upstream.assert_untouched();
}

#[test]
fn a_client_that_waits_for_100_is_refused_without_sending_its_body() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let request = Req::start(&Redis::shared().team("0"))
        .body(noise(1 << 20))
        .header("Expect", "100-continue");
    let mut client = gateway.connect();
    client.send(request.head_bytes());
    let answer = client.response();
    assert_insufficient_credits(&answer, TASKS);
    assert!(answer.interim.is_empty(), "{:?}", answer.interim);
    upstream.assert_untouched();
}

#[test]
fn a_client_that_waits_for_100_gets_it_when_it_is_admitted() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let body = noise(200_000);
    let request = Req::start(&Redis::shared().team("1"))
        .body(&body)
        .header("Expect", "100-continue");
    let mut client = gateway.connect();
    client.send(request.head_bytes());
    let interim = String::from_utf8(client.take_until(b"\r\n\r\n")).unwrap();
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    client.send(&body);
    let answer = client.response();
    assert_eq!(
        (answer.status, answer.interim.len()),
        (200, 0),
        "one 100, then the answer"
    );
    assert!(upstream.only_request().body == body);
}

#[test]
fn what_is_left_of_a_refused_body_is_never_taken_for_a_request() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let redis = Redis::shared();
    let inner = Req::start(&redis.team("9")).bytes();
    let poor = redis.team("0");
    for size in [0, 1 << 10, 64 << 10, 1 << 20] {
        let body = [vec![b' '; size], inner.clone(), inner.clone()].concat();
        for (form, request) in uploads(&poor, &body) {
            let mut client = gateway.connect();
            client.send(request.bytes());
            assert_insufficient_credits(&client.response(), TASKS);
            let more = client.is_closed_within(secs(1)) || client.pending().is_empty();
            assert!(
                more,
                "{size} bytes {form}: {:?}",
                String::from_utf8_lossy(client.pending())
            );
        }
    }
    upstream.assert_untouched();
}

#[test]
fn a_refused_upload_of_a_known_small_length_keeps_the_connection() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let redis = Redis::shared();
    let (poor, rich) = (redis.team("0"), redis.team("1"));
    for size in [0, 1, 1 << 10, 60 << 10] {
        let mut client = gateway.connect();
        assert_insufficient_credits(&client.ask(&Req::start(&poor).body(noise(size))), TASKS);
        assert_eq!(
            client.ask(&Req::start(&rich).body(noise(size))).status,
            200,
            "{size} bytes"
        );
    }
}

#[test]
fn a_client_that_never_finishes_its_refused_upload_is_let_go() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    for (form, request) in uploads(&team, &noise(1 << 20)) {
        let mut client = gateway.connect();
        client.send([&request.head_bytes(), &request.body_bytes()[..100]].concat());
        assert_insufficient_credits(&client.response(), TASKS);
        assert!(client.is_closed_within(secs(6)), "{form}");
    }
}

/// Sends the head and a little, reads the answer, and goes on sending piece by
/// piece. Every piece has to be taken, though the connection will close.
#[track_caller]
fn all_is_taken(gateway: &Gateway, case: &str, request: &Req, status: u16) {
    let mut client = gateway.connect();
    let (first, rest) = request.body_bytes().split_at(1000);
    client.send([&request.head_bytes(), first].concat());
    let answer = client.response();
    assert_eq!(answer.status, status, "{case}: {}", answer.head);
    assert!(answer.json()["error"].is_string(), "{case}");
    for (at, piece) in rest.chunks(5900).enumerate() {
        if let Err(error) = client.try_send(piece) {
            panic!("{case}: piece {at} was not taken: {error}");
        }
        // Gives a reset the time to come back.
        let _ = client.is_closed_within(millis(10));
        assert_eq!(client.pending(), b"", "{case}");
    }
    assert!(client.is_closed_within(secs(5)), "{case}");
}

#[test]
fn a_connection_that_closes_after_the_answer_takes_the_whole_body_first() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let body = noise(60_000);
    let poor = Redis::shared().team("0");
    let http_1_0 = Req::line(&format!("POST {TASKS} HTTP/1.0")).team(&poor);
    for (case, request, status) in [
        (
            "refused, Connection: close",
            Req::start(&poor).header("Connection", "close"),
            403,
        ),
        ("refused, HTTP/1.0", http_1_0, 403),
        (
            "framing",
            Req::start(&poor).header("Content_Length", "5"),
            400,
        ),
        (
            "framing, Connection: close",
            Req::post("/x")
                .header("Content_Length", "5")
                .header("Connection", "close"),
            400,
        ),
    ] {
        all_is_taken(&gateway, case, &request.body(&body), status);
    }
    upstream.assert_untouched();
}

#[test]
fn a_client_of_an_upstream_that_is_away_may_finish_its_body() {
    let away = Refusing::new();
    let gateway = Gateway::before_address(away.address).start();
    let body = noise(60_000);
    let rich = Redis::shared().team("5");
    let http_1_0 = Req::line(&format!("POST {TASKS} HTTP/1.0")).team(&rich);
    for (case, request) in [
        ("a start", Req::start(&rich)),
        (
            "a start, Connection: close",
            Req::start(&rich).header("Connection", "close"),
        ),
        ("a start, HTTP/1.0", http_1_0),
    ] {
        all_is_taken(&gateway, case, &request.body(&body), 503);
    }
}
