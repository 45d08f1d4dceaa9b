//! When the upstream fails, the client is told the truth about whether its
//! start may have been received.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::support::ports::{BlackHole, Refusing};
use crate::support::problem::assert_problem;
use crate::support::request::{TASKS, noise};
use crate::support::upstream::{After, QUEUED};
use crate::support::wait::{eventually, millis, secs, timed};
use crate::support::{Gateway, Redis, Req, Response, Upstream};

#[track_caller]
fn assert_not_sent(answer: &Response) {
    assert!(matches!(answer.status, 502 | 503), "{}", answer.head);
    assert_problem(answer, answer.status, "resource_unavailable", Some("true"));
    assert_eq!(answer.json()["retryable"], true);
    assert_eq!(answer.header("retry-after"), Some("1"), "{}", answer.head);
}

#[track_caller]
fn assert_outcome_unknown(answer: &Response, status: u16) {
    assert_problem(answer, status, "internal_error", Some("false"));
    assert_eq!(answer.header("retry-after"), None, "{}", answer.head);
}

#[test]
fn a_start_that_could_not_be_sent_may_be_tried_again() {
    let (refusing, hole) = (Refusing::new(), BlackHole::new());
    let team = Redis::shared().team("5");
    for address in [refusing.address, hole.address] {
        let gateway = Gateway::before_address(address)
            .set("upstream.connect_timeout", "300ms")
            .start();
        let (answer, took) = timed(|| gateway.ask(&Req::start(&team)));
        assert_not_sent(&answer);
        assert!(took < secs(4), "{took:?}");
        let read = gateway.ask(&Req::get("/x"));
        assert!(matches!(read.status, 502..=504), "{}", read.head);
    }
}

#[test]
fn a_start_whose_connection_breaks_must_not_be_tried_again() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        Ok(After::Close)
    });
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("5");
    assert_outcome_unknown(&gateway.ask(&Req::start(&team)), 502);
    assert_eq!(
        upstream.requests().len(),
        1,
        "the gateway does not try again either"
    );
    for size in [0, 100_000] {
        upstream.forget();
        assert_outcome_unknown(&gateway.ask(&Req::start(&team).body(noise(size))), 502);
        assert_eq!(upstream.requests().len(), 1);
    }
}

#[test]
fn a_start_cut_off_before_its_body_was_read_must_not_be_tried_again() {
    let upstream = Upstream::answering(|_| Ok(After::Close));
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("5");
    for size in [0, 100, 2 << 20] {
        upstream.forget();
        let answer = gateway
            .connect()
            .ask_while_writing(Req::start(&team).body(noise(size)).bytes());
        assert_outcome_unknown(&answer, 502);
        assert_eq!(upstream.requests().len(), 1, "{size}");
    }
}

#[test]
fn a_start_that_is_never_answered_must_not_be_tried_again() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        drop(exchange.take(1));
        Ok(After::Close)
    });
    let gateway = Gateway::before(&upstream)
        .set("upstream.read_timeout", "300ms")
        .start();
    assert_outcome_unknown(&gateway.ask(&Req::start(&Redis::shared().team("5"))), 504);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_start_whose_answer_is_garbage_must_not_be_tried_again() {
    for garbage in [
        &b"SSH-2.0-OpenSSH_9.6\r\n\r\n"[..],
        b"HTTP/1.1 2xx Huh\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let upstream = Upstream::answering(move |exchange| {
            exchange.say(garbage)?;
            Ok(After::Close)
        });
        let gateway = Gateway::before(&upstream).start();
        assert_outcome_unknown(&gateway.ask(&Req::start(&Redis::shared().team("5"))), 502);
        assert_eq!(upstream.requests().len(), 1);
    }
}

#[test]
fn an_upstreams_own_5xx_is_passed_on_as_it_is() {
    let upstream = Upstream::answering(|exchange| exchange.json(500, r#"{"error":"boom"}"#));
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.ask(&Req::start(&Redis::shared().team("5")));
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (500, r#"{"error":"boom"}"#),
        "its answer, not ours"
    );
    assert_eq!(upstream.requests().len(), 1);
}

/// Closes each connection after its first answer, without a word about it.
fn short_tempered() -> Upstream {
    Upstream::answering(|exchange| {
        exchange.json(200, QUEUED)?;
        Ok(After::Close)
    })
}

#[test]
fn a_pooled_connection_that_was_closed_meanwhile_does_no_harm() {
    let upstream = short_tempered();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("5");
    let mut client = gateway.connect();
    for at in 0..30 {
        let answer = client.ask(&Req::start(&team));
        // Closed between our looking and our sending: then nobody knows.
        if answer.status != 200 {
            assert_outcome_unknown(&answer, 502);
            client = gateway.connect();
        }
        assert!(
            upstream.requests().len() <= at + 1,
            "a start was sent twice"
        );
    }
    let served = upstream.requests().len();
    assert!(served >= 25, "{served} of 30");
}

thread_local! {
    /// Requests on this connection of an upstream: each has a thread of its own.
    static ON_THIS_CONNECTION: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[test]
fn a_put_that_starts_runs_is_never_sent_twice() {
    // Takes a second request on a connection, and hangs up instead of answering.
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        if ON_THIS_CONNECTION.replace(1) == 1 {
            return Ok(After::Close);
        }
        exchange.json(200, QUEUED)
    });
    let gateway = Gateway::before(&upstream)
        .set("server.threads", 1)
        .set("routes.1.start", "PUT /api/v1/agent/runs/{id}")
        .start();
    let team = Redis::shared().team("5");
    let mut broken = 0;
    for at in 0..20 {
        let id = format!("start-{at}");
        let request = Req::new("PUT", "/api/v1/agent/runs/r1")
            .team(&team)
            .header("X-Request-Id", &id)
            .body(noise(at * 500));
        let answer = gateway.ask(&request);
        if answer.status != 200 {
            assert_outcome_unknown(&answer, 502);
            broken += 1;
        }
        let sent = upstream.requests();
        let sent = sent
            .iter()
            .filter(|request| request.header("x-request-id").as_deref() == Some(id.as_str()));
        assert_eq!(sent.count(), 1, "{id}");
    }
    assert!(broken > 0, "no connection was used again");
}

#[test]
fn a_dead_address_is_passed_over_without_an_error() {
    let (dead, alive) = (Refusing::new(), Upstream::ok());
    let gateway = Gateway::before(&alive)
        .set(
            "upstream.addresses",
            json!([dead.address.to_string(), alive.address.to_string()]),
        )
        .start();
    let team = Redis::shared().team("5");
    for at in 0..12 {
        assert_eq!(
            gateway
                .ask(&Req::start(&team).body(noise(at * 7_000)))
                .status,
            200,
            "start {at}"
        );
        assert_eq!(gateway.ask(&Req::get("/x")).status, 200);
    }
    assert_eq!(alive.requests().len(), 24, "each was sent once");
}

#[test]
fn several_addresses_share_the_work() {
    let upstreams = [Upstream::ok(), Upstream::ok(), Upstream::ok()];
    let addresses: Vec<String> = upstreams
        .iter()
        .map(|upstream| upstream.address.to_string())
        .collect();
    let gateway = Gateway::before(&upstreams[0])
        .set("upstream.addresses", json!(addresses))
        .start();
    for _ in 0..30 {
        assert_eq!(gateway.ask(&Req::get("/x")).status, 200);
    }
    let counts: Vec<usize> = upstreams
        .iter()
        .map(|upstream| upstream.requests().len())
        .collect();
    assert!(counts.iter().all(|count| *count >= 3), "{counts:?}");
}

#[test]
fn health_checks_notice_who_is_gone_and_who_is_back() {
    let (one, two) = (Upstream::ok(), Upstream::ok());
    let gateway = Gateway::before(&one)
        .set("upstream.addresses", json!([one.address.to_string(), two.address.to_string()]))
        .set("upstream.health", json!({"interval": "100ms", "timeout": "500ms", "unhealthy_after": 2, "healthy_after": 1}))
        .start();
    let team = Redis::shared().team("5");
    two.stop();
    for _ in 0..20 {
        assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    }
    let address = two.address;
    drop(two);
    let two = Upstream::ok_on(address);
    eventually(secs(10), "the address is used again", || {
        assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
        (!two.requests().is_empty()).then_some(())
    });
}

#[test]
fn when_all_addresses_are_dead_nothing_hangs_and_all_recovers() {
    let upstream = Upstream::ok();
    let other = Refusing::new();
    let gateway = Gateway::before(&upstream)
        .set("upstream.addresses", json!([upstream.address.to_string(), other.address.to_string()]))
        .set("upstream.health", json!({"interval": "100ms", "timeout": "500ms", "unhealthy_after": 1, "healthy_after": 1}))
        .start();
    let team = Redis::shared().team("5");
    upstream.stop();
    for _ in 0..10 {
        let (answer, took) = timed(|| gateway.ask(&Req::start(&team)));
        assert_not_sent(&answer);
        assert!(took < secs(2), "{took:?}");
    }
    assert_eq!(
        gateway.ask(&Req::start(&Redis::shared().team("0"))).status,
        403,
        "a refusal needs no upstream"
    );
    let address = upstream.address;
    drop(upstream);
    let upstream = Upstream::ok_on(address);
    eventually(secs(10), "starts are served again", || {
        (gateway.ask(&Req::start(&team)).status == 200).then_some(())
    });
    assert!(!upstream.requests().is_empty());
}

#[test]
fn connections_to_the_upstream_are_used_again() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).set("server.threads", 1).start();
    let team = Redis::shared().team("5");
    let mut client = gateway.connect();
    for _ in 0..20 {
        assert_eq!(client.ask(&Req::start(&team)).status, 200);
    }
    assert!(
        upstream.connections() <= 3,
        "{} connections for 20 requests",
        upstream.connections()
    );
}

#[test]
fn an_answer_that_comes_before_the_upload_ends_is_passed_on() {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let upstream = Upstream::answering(|exchange| {
        TURN.fetch_add(1, Ordering::SeqCst);
        exchange.send(b"HTTP/1.1 422 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope")?;
        // Reads on, so that what is still coming is not answered with a reset.
        let (_, _) = timed(|| drop(exchange.take(usize::MAX)));
        Ok(After::Close)
    });
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.connect().ask_while_writing(
        Req::post(TASKS)
            .team(&Redis::shared().team("5"))
            .body(noise(3 << 20))
            .bytes(),
    );
    assert_eq!((answer.status, answer.text().as_str()), (422, "nope"));
    assert_eq!(TURN.load(Ordering::SeqCst), 1);
}

#[test]
fn a_slow_upstream_is_waited_for() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        std::thread::park_timeout(millis(1200));
        exchange.json(200, QUEUED)
    });
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(
        gateway.ask(&Req::start(&Redis::shared().team("5"))).status,
        200
    );
}
