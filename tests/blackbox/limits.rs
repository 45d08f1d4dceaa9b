//! Every wait has a deadline, every number of things a cap.

use crate::support::problem::assert_problem;
use crate::support::request::{TASKS, noise};
use crate::support::upstream::{After, QUEUED};
use crate::support::wait::{eventually, millis, secs, timed};
use crate::support::{Gateway, Redis, Req, Upstream};

fn assert_full(answer: &crate::support::Response) {
    assert_problem(answer, 503, "resource_unavailable", Some("true"));
    assert_eq!(answer.header("retry-after"), Some("1"), "{}", answer.head);
}

#[test]
fn one_connection_too_many_is_answered_503_and_closed() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.limits.connections", 3)
        .start();
    let mut kept: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
    for client in &mut kept {
        assert_eq!(client.ask(&Req::get("/x")).status, 200);
    }
    let mut surplus = gateway.connect();
    let _ = surplus.try_send(Req::start(&Redis::shared().team("9")).bytes());
    assert_full(&surplus.response());
    assert!(surplus.is_closed_within(secs(3)));
    assert_eq!(kept[0].ask(&Req::get("/x")).status, 200, "the others go on");
    kept.pop();
    eventually(secs(5), "the free slot is used again", || {
        let mut client = gateway.connect();
        client.try_send(Req::get("/x").bytes()).ok()?;
        (client.try_response().ok()?.status == 200).then_some(())
    });
}

#[test]
fn one_request_too_many_is_answered_503() {
    let gate = std::sync::Arc::new(std::sync::Barrier::new(3));
    let opened = gate.clone();
    let upstream = Upstream::answering(move |exchange| {
        if exchange.request.target() == "/slow" {
            exchange.read_body()?;
            gate.wait();
        }
        exchange.json(200, QUEUED)
    });
    let gateway = Gateway::before(&upstream)
        .set("server.limits.requests", 2)
        .start();
    let mut slow: Vec<_> = (0..2).map(|_| gateway.connect()).collect();
    for client in &mut slow {
        client.send(Req::get("/slow").bytes());
    }
    eventually(secs(5), "both are in flight", || {
        (upstream.requests().len() == 2).then_some(())
    });
    let mut third = gateway.connect();
    assert_full(&third.ask(&Req::start(&Redis::shared().team("9"))));
    assert_full(&third.ask(&Req::get("/x")));
    assert_eq!(upstream.requests().len(), 2);
    opened.wait();
    for client in &mut slow {
        assert_eq!(client.response().status, 200);
    }
    eventually(secs(5), "there is room again", || {
        (gateway.ask(&Req::get("/x")).status == 200).then_some(())
    });
}

#[test]
fn a_head_that_drips_is_cut_off_on_the_first_and_on_later_requests() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.limits.header_timeout", "500ms")
        .start();
    for requests_before in [0, 2] {
        let mut client = gateway.connect();
        for _ in 0..requests_before {
            assert_eq!(client.ask(&Req::get("/x")).status, 200);
        }
        let ((), took) = timed(|| {
            for byte in Req::start("acme")
                .header("X-Filler", &"x".repeat(2000))
                .bytes()
            {
                if client.try_send([byte]).is_err() || client.is_closed_within(millis(20)) {
                    return;
                }
            }
            panic!("a head that took 40 s was read to its end");
        });
        assert!(took < secs(5), "after {requests_before} requests: {took:?}");
    }
    upstream.forget();
}

#[test]
fn a_head_that_stops_in_the_middle_is_cut_off() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.limits.header_timeout", "300ms")
        .start();
    let mut client = gateway.connect();
    client.send("POST /api/v1/agent/tasks HTTP/1.1\r\nHost: a\r\nX-Te");
    let cut = client.is_closed_within(secs(5)) || client.pending().starts_with(b"HTTP/1.1 4");
    assert!(cut);
    upstream.assert_untouched();
}

#[test]
fn an_idle_connection_is_closed_in_time_and_not_before() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.limits.idle_timeout", "1s")
        .start();
    let mut fresh = gateway.connect();
    let mut used = gateway.connect();
    assert_eq!(used.ask(&Req::get("/x")).status, 200);
    assert!(!used.is_closed_within(millis(500)));
    assert_eq!(used.ask(&Req::get("/x")).status, 200);
    assert!(used.is_closed_within(secs(5)), "one that was used");
    assert!(
        fresh.is_closed_within(secs(5)),
        "one that never said anything"
    );
}

#[test]
fn a_busy_connection_outlives_the_idle_and_header_limits() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        let (_, waited) = timed(|| std::thread::park_timeout(millis(900)));
        assert!(waited > millis(0));
        exchange.json(200, QUEUED)
    });
    let gateway = Gateway::before(&upstream)
        .set("server.limits.idle_timeout", "300ms")
        .set("server.limits.header_timeout", "300ms")
        .start();
    assert_eq!(gateway.ask(&Req::get("/slow")).status, 200);
}

#[test]
fn a_body_that_stops_in_the_middle_is_given_up() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.limits.body_timeout", "400ms")
        .start();
    let team = Redis::shared().team("9");
    for request in [
        Req::new("PUT", "/x").body(noise(1000)),
        Req::start(&team).body(noise(1000)),
    ] {
        let mut client = gateway.connect();
        client.send([&request.head_bytes(), &request.body_bytes()[..10]].concat());
        if let Ok(answer) = client.try_response() {
            assert!(
                matches!(answer.status, 400 | 408 | 502 | 504),
                "{}",
                answer.head
            );
        }
    }
    assert!(upstream.requests().iter().all(|request| !request.complete));
}

#[test]
fn an_upstream_that_says_nothing_is_given_up() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        drop(exchange.take(1));
        Ok(After::Close)
    });
    let gateway = Gateway::before(&upstream)
        .set("upstream.read_timeout", "400ms")
        .set("routes.1.read_timeout", "2s")
        .start();
    let team = Redis::shared().team("9");
    let (answer, quick) = timed(|| gateway.ask(&Req::post(TASKS).team(&team)));
    assert_eq!(answer.status, 504);
    assert!(quick < millis(1900), "{quick:?}");
    let (answer, slow) = timed(|| gateway.ask(&Req::post("/api/v1/agent/runs").team(&team)));
    assert_eq!(answer.status, 504);
    assert!(slow >= millis(1900), "a route's own read_timeout: {slow:?}");
}

#[test]
fn a_connection_kept_after_a_refusal_is_idle_and_not_late() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.limits.header_timeout", "1s")
        .set("server.limits.idle_timeout", "4s")
        .start();
    let team = Redis::shared().team("0");
    for (case, body) in [("small", 10), ("large", 60_000)] {
        let request = Req::start(&team).body(noise(body));
        let mut client = gateway.connect();
        for _ in 0..2 {
            assert_eq!(client.ask(&request).status, 403, "{case}");
            assert!(!client.is_closed_within(secs(2)), "{case}: closed too soon");
        }
        let (closed, took) = timed(|| client.is_closed_within(secs(10)));
        assert!(closed, "{case}: open past idle_timeout");
        assert!(took < secs(8), "{case}: {took:?}");
    }
    upstream.assert_untouched();
}

#[test]
fn a_burst_of_connects_is_taken_without_a_stall() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    // While it accepts nothing, its queue has to hold them all. A connect that
    // finds the queue full is tried again by the kernel after a second.
    gateway.signal("STOP");
    let mut clients = Vec::new();
    let mut slowest = millis(0);
    for _ in 0..600 {
        let (client, took) = timed(|| gateway.connect());
        slowest = slowest.max(took);
        clients.push(client);
    }
    gateway.signal("CONT");
    assert!(slowest < millis(900), "a connect took {slowest:?}");
    for client in &mut clients {
        client.send(Req::get("/x").header("Connection", "close").bytes());
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(upstream.requests().len(), 600);
}
