//! The body of a delivery is read before anything is decided, and reaches the
//! upstream as it came, whatever its size and however it is sent.

use serde_json::json;

use crate::support::gateway::Builder;
use crate::support::h2_client::{H2Client, H2Req};
use crate::support::h2_upstream::H2Upstream;
use crate::support::ports::Refusing;
use crate::support::problem::{assert_outage, assert_problem};
use crate::support::tls::Authority;
use crate::support::wait::{eventually, millis, timed};
use crate::support::webhooks::{
    SLACK, integrated, slack, slack_event_of, slack_headers, workspace_of,
};
use crate::support::{Client, Gateway, Redis, Req, Upstream, secs};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const SIZES: [usize; 8] = [
    KIB,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    128 * KIB + 1,
    MIB - 1,
    MIB,
    5 * MIB,
];

/// Deliveries of Slack up to 6 MiB.
fn large(upstream: &Upstream) -> Builder {
    integrated(upstream, "problem").set("routes.0.max_body", "6MiB")
}

/// A workspace with credits.
fn rich() -> String {
    let redis = Redis::shared();
    workspace_of(redis, &redis.team("100"))
}

/// An event of this size, and the request that delivers it with its length.
fn event(workspace: &str, size: usize) -> (Vec<u8>, Req) {
    let body = slack_event_of(workspace, size);
    let request = slack("application/json", &body);
    (body, request)
}

/// What reached the upstream is this request: line, headers and body.
#[track_caller]
fn assert_arrived(upstream: &Upstream, request: &Req, body: &[u8], claim: &str) {
    let arrived = upstream.only_request();
    assert!(arrived.complete, "{claim}");
    assert_eq!(arrived.body.len(), body.len(), "{claim}");
    assert!(arrived.body == body, "{claim}: other bytes");
    let sent = String::from_utf8(request.head_bytes()).unwrap();
    for line in sent.lines().skip(1).filter(|line| !line.is_empty()) {
        if line.starts_with("Expect") || line.starts_with("Transfer-Encoding") {
            continue;
        }
        let (name, value) = line.split_once(": ").unwrap();
        assert_eq!(arrived.all(name), [value], "{claim}: {name}");
    }
    assert_eq!(arrived.header("expect"), None, "{claim}");
    upstream.forget();
}

#[test]
fn a_body_with_a_length_arrives_byte_for_byte() {
    let upstream = Upstream::ok();
    let gateway = large(&upstream).start();
    let workspace = rich();
    let mut client = gateway.connect();
    for size in SIZES {
        let (body, request) = event(&workspace, size);
        let answer = client.ask(&request);
        assert_eq!(answer.status, 200, "{size}: {}", answer.text());
        let claim = format!("{size} bytes, on one connection");
        assert_arrived(&upstream, &request, &body, &claim);
    }
    assert_eq!(upstream.connections(), 1, "both connections are kept");
}

#[test]
fn a_body_in_chunks_arrives_byte_for_byte() {
    let upstream = Upstream::ok();
    let gateway = large(&upstream).start();
    let workspace = rich();
    for size in SIZES {
        for piece in [4000, 16 * KIB, 6 * MIB] {
            let (body, request) = event(&workspace, size);
            let request = request.chunked(&body, piece);
            let answer = gateway.ask(&request);
            let claim = format!("{size} bytes in chunks of {piece}");
            assert_eq!(answer.status, 200, "{claim}: {}", answer.text());
            let arrived = upstream.only_request();
            let framing = arrived.header("transfer-encoding");
            assert_eq!(framing.as_deref(), Some("chunked"), "{claim}");
            assert_arrived(&upstream, &request, &body, &claim);
        }
    }
}

#[test]
fn nothing_is_taken_for_a_request_after_a_body_in_chunks() {
    let upstream = Upstream::ok();
    let gateway = large(&upstream).start();
    let workspace = rich();
    for size in [KIB, 64 * KIB + 1, MIB] {
        let (body, request) = event(&workspace, size);
        let request = request.chunked(&body, 16 * KIB);
        let mut client = gateway.connect();
        let ahead = Req::get("/ahead-of-its-time").bytes();
        client.send([request.bytes(), ahead].concat());
        assert_eq!(client.response().status, 200, "{size}");
        assert_arrived(&upstream, &request, &body, &format!("{size} bytes"));
        // It is answered, or the connection goes; never is it half of one.
        if let Ok(answer) = client.try_response() {
            assert_eq!(answer.status, 200, "{}", answer.head);
        }
        upstream.forget();
    }
}

#[test]
fn who_waits_for_100_gets_one() {
    let upstream = Upstream::ok();
    let gateway = large(&upstream).start();
    let workspace = rich();
    for size in [KIB, 64 * KIB + 1, MIB] {
        let (body, sized) = event(&workspace, size);
        let chunked = sized.clone().chunked(&body, 16 * KIB);
        for (form, request) in [("with a length", sized), ("in chunks", chunked)] {
            let request = request.header("Expect", "100-continue");
            let mut client = gateway.connect();
            client.send(request.head_bytes());
            let interim = String::from_utf8(client.take_until(b"\r\n\r\n")).unwrap();
            assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
            client.send(request.body_bytes());
            let answer = client.response();
            let claim = format!("{size} bytes {form}");
            assert_eq!((answer.status, answer.interim.len()), (200, 0), "{claim}");
            assert_arrived(&upstream, &request, &body, &claim);
        }
    }
}

#[test]
fn a_body_arrives_at_the_address_that_can_be_reached() {
    let (upstream, nobody) = (Upstream::ok(), [Refusing::new(), Refusing::new()]);
    let addresses = [nobody[0].address, upstream.address, nobody[1].address];
    let addresses = addresses.map(|address| address.to_string());
    let gateway = large(&upstream)
        .set("upstream.addresses", json!(addresses))
        .start();
    let workspace = rich();
    for size in SIZES {
        for round in 0..3 {
            let (body, request) = event(&workspace, size);
            let chunked = request.clone().chunked(&body, 16 * KIB);
            for (form, request) in [("with a length", request), ("in chunks", chunked)] {
                let answer = gateway.ask(&request);
                let claim = format!("{size} bytes {form}, round {round}");
                assert_eq!(answer.status, 200, "{claim}: {}", answer.text());
                assert_arrived(&upstream, &request, &body, &claim);
            }
        }
    }
}

/// The delivery over HTTP/2, in pieces of this size.
fn h2_delivery(body: &[u8], piece: usize) -> H2Req {
    let mut request = H2Req::new("POST", SLACK).header("content-type", "application/json");
    let [(_, time), (_, signature)] = slack_headers(body);
    request = request
        .header("x-slack-request-timestamp", &time)
        .header("x-slack-signature", &signature);
    for piece in body.chunks(piece) {
        request = request.body(piece);
    }
    request
}

#[test]
fn a_body_over_http2_arrives_byte_for_byte() {
    let upstream = Upstream::ok();
    let gateway = large(&upstream).set("server.h2c", true).start();
    let workspace = rich();
    let client = H2Client::connect(gateway.http);
    for size in SIZES {
        let body = slack_event_of(&workspace, size);
        for piece in [9000, 100 * KIB] {
            let unsized_ = h2_delivery(&body, piece);
            let sized = unsized_.clone().header("content-length", &size.to_string());
            for (form, request) in [("without a length", unsized_), ("with a length", sized)] {
                let answer = client.ask(&request);
                let claim = format!("{size} bytes {form}, in pieces of {piece}");
                assert_eq!(answer.status, 200, "{claim}");
                let arrived = upstream.only_request();
                assert!(arrived.complete && arrived.body == body, "{claim}");
                upstream.forget();
            }
        }
    }
}

#[test]
fn a_body_arrives_over_http2_byte_for_byte() {
    let upstream = H2Upstream::clear();
    let recorded = Upstream::ok();
    let gateway = large(&recorded)
        .set("upstream.addresses", json!([upstream.address.to_string()]))
        .set("upstream.http2", true)
        .set("server.h2c", true)
        .start();
    let workspace = rich();
    let client = H2Client::connect(gateway.http);
    for (number, size) in SIZES.into_iter().enumerate() {
        let (body, sized) = event(&workspace, size);
        let chunked = sized.clone().chunked(&body, 16 * KIB);
        assert_eq!(gateway.ask(&sized).status, 200, "{size} bytes");
        assert_eq!(gateway.ask(&chunked).status, 200, "{size} bytes in chunks");
        let answer = client.ask(&h2_delivery(&body, 10_000));
        assert_eq!(answer.status, 200, "{size} bytes over HTTP/2");
        let requests = upstream.requests();
        assert_eq!(requests.len(), 3 * (number + 1));
        for arrived in &requests[3 * number..] {
            assert!(arrived.body == body, "{size} bytes");
            assert!(arrived.headers.contains_key("x-slack-signature"));
        }
    }
}

#[test]
fn an_empty_body_is_no_delivery() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "problem").start();
    let answer = gateway.ask(&slack("application/json", ""));
    assert_problem(&answer, 400, "invalid_request", Some("false"));
    let answer = gateway.ask(&Req::new("POST", SLACK));
    assert_problem(&answer, 401, "authentication_required", Some("false"));
    upstream.assert_untouched();
}

#[test]
fn in_shadow_an_empty_body_arrives_too() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "problem")
        .set("admission.enforce", false)
        .start();
    assert_eq!(gateway.ask(&slack("application/json", "")).status, 200);
    let arrived = upstream.only_request();
    assert!(arrived.complete && arrived.body.is_empty());
}

#[test]
fn a_body_over_the_bound_is_413_however_it_is_sent() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "problem")
        .set("server.h2c", true)
        .start();
    let workspace = rich();
    let body = slack_event_of(&workspace, MIB + 1);
    let sized = slack("application/json", &body);
    let chunked = sized.clone().chunked(&body, 16 * KIB);
    for request in [sized, chunked] {
        let mut client = gateway.connect();
        let answer = client.ask_while_writing(request.bytes());
        assert_problem(&answer, 413, "invalid_request", Some("false"));
        assert_eq!(answer.header("x-slack-no-retry"), Some("1"));
    }
    let client = H2Client::connect(gateway.http);
    let answer = client.ask(&h2_delivery(&body, 10_000));
    assert_eq!(answer.status, 413);
    upstream.assert_untouched();
    // In shadow too: what is not held cannot be sent on.
    let gateway = integrated(&upstream, "problem")
        .set("admission.enforce", false)
        .start();
    let request = slack("application/json", &body).chunked(&body, 16 * KIB);
    let answer = gateway.connect().ask_while_writing(request.bytes());
    assert_eq!(answer.status, 413);
    upstream.assert_untouched();
}

#[test]
fn a_body_that_lies_about_its_length_over_http2_reaches_nobody() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "problem")
        .set("server.h2c", true)
        .start();
    let body = slack_event_of(&rich(), KIB);
    for length in [KIB - 1, KIB + 1] {
        let client = H2Client::connect(gateway.http);
        let request = h2_delivery(&body, 500).header("content-length", &length.to_string());
        let answer = client.try_ask(&request);
        assert!(answer.is_err(), "{length}: {answer:?}");
    }
    upstream.assert_untouched();
}

#[test]
fn half_a_body_is_waited_for_and_no_longer() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "message")
        .set("server.limits.body_timeout", "300ms")
        .start();
    let (body, request) = event(&rich(), 100 * KIB);
    for request in [request.clone(), request.chunked(&body, KIB)] {
        let mut client = gateway.connect();
        client.send([&request.head_bytes(), &request.body_bytes()[..50 * KIB]].concat());
        let (answer, took) = timed(|| client.response());
        assert_eq!(answer.status, 408, "{}", answer.text());
        assert!(took > millis(250) && took < secs(5), "{took:?}");
        assert_eq!(
            answer.header("x-slack-no-retry"),
            None,
            "the next may come whole"
        );
    }
    upstream.assert_untouched();
    let invalid = [
        ("route", "POST /integrations/slack"),
        ("verdict", "invalid"),
    ];
    let counted = gateway.metrics().sum("tollgate_requests_total", &invalid);
    assert_eq!(counted, 2.0);
}

#[test]
fn a_client_that_goes_in_the_middle_leaves_nothing_behind() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "message").start();
    let workspace = rich();
    for size in [KIB, 500 * KIB] {
        let (body, request) = event(&workspace, size);
        for request in [request.clone(), request.chunked(&body, 10_000)] {
            let mut client = gateway.connect();
            client.send([&request.head_bytes(), &request.body_bytes()[..size / 2]].concat());
            drop(client);
        }
    }
    eventually(secs(5), "nothing is in flight any more", || {
        let metrics = gateway.metrics();
        (metrics.sum("tollgate_requests_in_flight", &[]) == 0.0).then_some(())
    });
    upstream.assert_untouched();
    assert_eq!(gateway.ask(&event(&workspace, KIB).1).status, 200);
}

#[test]
fn bodies_held_at_once_have_one_bound() {
    let upstream = Upstream::ok();
    let gateway = large(&upstream).start();
    let workspace = rich();
    // All but the last byte of 63 MiB: they wait, and hold what they have.
    let mut waiting = Vec::new();
    for size in [[5 * MIB; 12].as_slice(), &[3 * MIB]].concat() {
        let (_, request) = event(&workspace, size);
        let mut client = gateway.connect();
        client.send([&request.head_bytes(), &request.body_bytes()[..size - 1]].concat());
        waiting.push(client);
    }
    let (_, two) = event(&workspace, 2 * MIB);
    let answer = eventually(secs(10), "no room is left", || {
        let answer = gateway.connect().ask_while_writing(two.bytes());
        (answer.status != 200).then_some(answer)
    });
    assert_outage(&answer);
    assert_eq!(answer.header("x-slack-no-retry"), None, "it may come again");
    // What needs little room, or none, is served.
    assert_eq!(gateway.ask(&event(&workspace, KIB).1).status, 200);
    assert_eq!(gateway.ask(&Req::get("/x")).status, 200);
    drop(waiting);
    eventually(secs(10), "the room is given back", || {
        let answer = gateway.connect().ask_while_writing(two.bytes());
        (answer.status == 200).then_some(())
    });
}

#[test]
fn who_has_no_secret_does_not_take_the_room_of_who_has() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "problem").start();
    let workspace = rich();
    // All but the last byte of bodies that somebody else signed.
    let forged = vec![b'{'; MIB];
    let [(name, time), _] = slack_headers(b"");
    let begin = || {
        let request = Req::new("POST", SLACK)
            .header(name, &time)
            .header("X-Slack-Signature", &format!("v0={}", "0".repeat(64)))
            .body(&forged);
        let mut client = gateway.connect();
        client.send([&request.head_bytes(), &request.body_bytes()[..MIB - 1]].concat());
        client
    };
    let mut waiting: Vec<Client> = (0..64).map(|_| begin()).collect();
    let (_, large) = event(&workspace, MIB);
    eventually(secs(10), "no room is left for large ones", || {
        let answer = gateway.connect().ask_while_writing(large.bytes());
        if answer.status == 200 {
            // Several that found none at once have left some.
            waiting.push(begin());
        }
        (answer.status == 503).then_some(())
    });
    for _ in 0..4 {
        assert_eq!(gateway.ask(&event(&workspace, 30 * KIB).1).status, 200);
    }
}

#[test]
fn the_body_of_what_cannot_be_genuine_is_not_waited_for() {
    let upstream = Upstream::ok();
    let gateway = integrated(&upstream, "problem").start();
    let (_, request) = event(&rich(), 900 * KIB);
    let old = (crate::support::webhooks::now() - 301).to_string();
    let head = String::from_utf8(request.head_bytes()).unwrap();
    let (before, _) = head.split_once("X-Slack-Request-Timestamp").unwrap();
    for signature in [
        String::new(),
        format!(
            "X-Slack-Request-Timestamp: {old}\r\nX-Slack-Signature: v0={}\r\n",
            "0".repeat(64)
        ),
    ] {
        let head = format!("{before}{signature}Content-Length: 921600\r\n\r\n");
        let mut client = gateway.connect();
        client.send(head.into_bytes());
        let (answer, took) = timed(|| client.response());
        assert_problem(&answer, 401, "authentication_required", Some("false"));
        assert!(took < secs(2), "{took:?}");
    }
    upstream.assert_untouched();
}

#[test]
fn many_deliveries_at_once_are_not_mixed_up() {
    let upstream = Upstream::ok();
    let gateway = large(&upstream).start();
    let workspace = rich();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (gateway, workspace) = (&gateway, &workspace);
            scope.spawn(move || {
                let mut client = gateway.connect();
                for round in 0..6 {
                    let size = 1000 + number * 40_000 + round;
                    let (body, request) = event(workspace, size);
                    if round % 2 == 0 {
                        assert_eq!(client.ask(&request).status, 200);
                    } else {
                        let request = request.chunked(&body, 9000);
                        assert_eq!(gateway.ask(&request).status, 200);
                    }
                }
            });
        }
    });
    let mut sizes: Vec<usize> = upstream.requests().iter().map(|r| r.body.len()).collect();
    sizes.sort_unstable();
    let mut expected: Vec<usize> = (0..8)
        .flat_map(|number| (0..6).map(move |round| 1000 + number * 40_000 + round))
        .collect();
    expected.sort_unstable();
    assert_eq!(sizes, expected);
    for arrived in upstream.requests() {
        assert!(arrived.body == slack_event_of(&workspace, arrived.body.len()));
    }
}

#[test]
fn a_head_larger_than_what_is_kept_brings_its_body_along() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("routes", crate::support::webhooks::routes("problem"))
        .set("server.limits.header_size", "512KiB")
        .start();
    let workspace = rich();
    let (body, request) = event(&workspace, 100 * KIB);
    let request = request.header("X-Padding", &"p".repeat(140 * KIB));
    let chunked = request.clone().chunked(&body, 100 * KIB);
    for (form, request) in [("with a length", request), ("in chunks", chunked)] {
        let answer = gateway.ask(&request);
        assert_eq!(answer.status, 200, "{form}: {}", answer.text());
        assert_arrived(&upstream, &request, &body, form);
    }
}

#[test]
fn a_body_in_chunks_over_tls_still_says_where_it_came_from() {
    let (authority, upstream) = (Authority::new(), Upstream::ok());
    let builder = large(&upstream);
    let (cert, key) = authority
        .issue(&["api.test"])
        .write(builder.folder(), "server");
    let tls = json!({"listen": ["127.0.0.1:0"], "cert": cert, "key": key});
    let gateway = builder.set("server.tls", tls).start();
    let workspace = rich();
    for size in [KIB, 64 * KIB + 1, 2 * MIB] {
        let (body, request) = event(&workspace, size);
        let request = request.chunked(&body, 16 * KIB);
        let config = authority.client(&["http/1.1"], None);
        let mut client = Client::tls(gateway.https, "api.test", config);
        let answer = client.ask(&request);
        assert_eq!(answer.status, 200, "{size}: {}", answer.text());
        let arrived = upstream.only_request();
        let header = |name: &str| arrived.header(name).unwrap_or_default();
        assert_eq!(header("x-forwarded-proto"), "https", "{size}");
        assert_eq!(header("x-forwarded-for"), "127.0.0.1", "{size}");
        assert_arrived(&upstream, &request, &body, &format!("{size} bytes"));
        let closes = answer.header("connection") == Some("close");
        assert_eq!(closes, size > 64 * KIB, "{size}: {}", answer.head);
        if closes {
            assert!(client.is_closed_within(secs(5)), "{size}");
        }
    }
}
