//! Connections to the upstream: what is sent together, which of them carry
//! another request, and when they are closed.
//!
//! Much of this rests on what Pingora does with a connection, and in which
//! order: if that changes, it shows here.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::request::noise;
use crate::support::upstream::{After, QUEUED};
use crate::support::wait::{SOON, eventually};
use crate::support::{Gateway, Redis, Req, Upstream};

thread_local! {
    /// Requests on this connection of an upstream: each has a thread of its own.
    static ON_THIS_CONNECTION: Cell<usize> = const { Cell::new(0) };
}

/// How many requests this connection carried before.
fn carried_before() -> usize {
    ON_THIS_CONNECTION.replace(ON_THIS_CONNECTION.get() + 1)
}

#[test]
fn a_small_start_arrives_in_one_piece() {
    let whole = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&whole);
    let upstream = Upstream::answering(move |exchange| {
        let body: usize = exchange.request.all("content-length")[0].parse().unwrap();
        if exchange.pending().len() == body {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        exchange.json(200, QUEUED)
    });
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("5");
    let mut client = gateway.connect();
    for _ in 0..30 {
        assert_eq!(client.ask(&Req::start(&team)).status, 200);
    }
    assert_eq!(whole.load(Ordering::SeqCst), 30);
}

#[test]
fn what_is_here_does_not_wait_for_what_is_not() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("5");
    let mut client = gateway.connect();
    // Twice, so that the second goes on a connection that was used.
    for at in 1..=2 {
        let request = Req::start(&team).body(noise(300));
        client.send(request.head_bytes());
        eventually(SOON, "the head is there before the body", || {
            (upstream.requests().len() == at).then_some(())
        });
        let before = upstream.bytes();
        client.send(&request.body_bytes()[..100]);
        eventually(SOON, "a part is there before the next", || {
            (upstream.bytes() == before + 100).then_some(())
        });
        client.send(&request.body_bytes()[100..]);
        assert_eq!(client.response().status, 200);
        assert_eq!(upstream.requests()[at - 1].body, request.body_bytes());
    }
}

/// Asks as often as that, for what each answer leaves behind.
fn connections_for(answer: &'static [u8], after: fn() -> After, request: &Req) -> usize {
    const REQUESTS: usize = 5;
    let upstream = Upstream::answering(move |exchange| {
        exchange.say(answer)?;
        Ok(after())
    });
    let gateway = Gateway::before(&upstream).set("server.threads", 1).start();
    for _ in 0..REQUESTS {
        let mut client = gateway.connect();
        let answer = client.ask(request);
        assert!(answer.status < 400, "{}", answer.head);
    }
    eventually(SOON, "all came", || {
        (upstream.requests().len() == REQUESTS).then_some(())
    });
    upstream.connections()
}

#[test]
fn a_connection_carries_another_request_only_after_an_answer_that_allows_it() {
    let (get, head, upgrade) = (
        Req::get("/x"),
        Req::new("HEAD", "/x"),
        Req::get("/x")
            .header("Connection", "upgrade")
            .header("Upgrade", "websocket"),
    );
    let keep: fn() -> After = || After::Keep;
    for (answer, request) in [
        (
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..],
            &get,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            &get,
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", &get),
        // What these say of a body is not followed by one.
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", &get),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", &head),
        // These are not the answer yet.
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            &get,
        ),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            &get,
        ),
    ] {
        assert!(connections_for(answer, keep, request) < 5, "{answer:?}");
    }
    for (answer, after, request) in [
        (
            &b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"[..],
            keep,
            &get,
        ),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", keep, &get),
        (b"HTTP/1.1 200 OK\r\n\r\nok", || After::Close, &get),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", keep, &head),
        // What is too much must never be taken for the next answer.
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
            keep,
            &get,
        ),
        (
            b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            keep,
            &upgrade,
        ),
    ] {
        assert_eq!(connections_for(answer, after, request), 5, "{answer:?}");
    }
}

#[test]
fn a_connection_whose_answer_was_cut_off_carries_no_other_request() {
    let upstream = Upstream::answering(|exchange| {
        assert_eq!(carried_before(), 0, "it was used again");
        exchange.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nsome of it")
    });
    let gateway = Gateway::before(&upstream).set("server.threads", 1).start();
    for at in 1..=5 {
        let mut client = gateway.connect();
        client.send(Req::get("/x").bytes());
        assert_eq!(client.read_head().unwrap().status, 200);
        client.take_until(b"some of it");
        drop(client);
        assert_eq!(upstream.connections(), at);
        eventually(SOON, "the connection is closed", || {
            (upstream.open_connections() == 0).then_some(())
        });
    }
}

/// Uploads of which a client sends the first half only.
fn uploads() -> [Req; 2] {
    let (upload, body) = (Req::new("PUT", "/uploads/1"), noise(300));
    [upload.clone().body(&body), upload.chunked(&body, 100)]
}

fn first_half(upload: &Req) -> Vec<u8> {
    let body = upload.body_bytes();
    [upload.head_bytes(), body[..body.len() / 2].to_vec()].concat()
}

#[test]
fn a_connection_whose_request_was_answered_before_its_end_carries_no_other() {
    for upload in uploads() {
        let upstream = Upstream::answering(|exchange| {
            assert_eq!(carried_before(), 0, "it was used again");
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            Ok(After::Keep)
        });
        let gateway = Gateway::before(&upstream).set("server.threads", 1).start();
        for at in 1..=5 {
            let mut client = gateway.connect();
            client.send(first_half(&upload));
            assert_eq!(client.response().status, 200);
            drop(client);
            assert_eq!(upstream.connections(), at);
            eventually(SOON, "the connection is closed", || {
                (upstream.open_connections() == 0).then_some(())
            });
        }
    }
}

#[test]
fn a_connection_whose_request_was_broken_off_carries_no_other() {
    for upload in uploads() {
        let upstream = Upstream::answering(|exchange| {
            assert_eq!(carried_before(), 0, "it was used again");
            exchange.json(200, "{}")
        });
        let gateway = Gateway::before(&upstream).set("server.threads", 1).start();
        for at in 1..=5 {
            let mut client = gateway.connect();
            client.send(first_half(&upload));
            eventually(SOON, "its first half is there", || {
                (upstream.requests().len() == at).then_some(())
            });
            drop(client);
            assert_eq!(upstream.connections(), at);
            eventually(SOON, "the connection is closed", || {
                (upstream.open_connections() == 0).then_some(())
            });
        }
    }
}

#[test]
fn an_upstream_that_closes_connections_after_its_answers_costs_no_start() {
    let upstream = Upstream::answering(|exchange| {
        exchange.json(200, QUEUED)?;
        Ok(After::Close)
    });
    let gateway = Gateway::before(&upstream).set("server.threads", 1).start();
    let team = Redis::shared().team("5");
    for at in 1..=20 {
        assert_eq!(gateway.ask(&Req::start(&team)).status, 200, "start {at}");
        eventually(SOON, "the connection is closed", || {
            (upstream.open_connections() == 0).then_some(())
        });
    }
    assert_eq!(upstream.requests().len(), 20);
}

#[test]
fn a_read_that_met_a_closing_connection_is_sent_again() {
    let upstream = Upstream::answering(|exchange| {
        if carried_before() > 0 {
            return Ok(After::Close);
        }
        exchange.json(200, "{}")
    });
    let gateway = Gateway::before(&upstream).set("server.threads", 1).start();
    for at in 0..10 {
        assert_eq!(gateway.ask(&Req::get("/x")).status, 200, "read {at}");
    }
    let attempts = upstream.requests();
    assert!(attempts.len() > 10, "no connection was used again");
    for attempt in attempts {
        for ours in ["x-request-id", "x-forwarded-for", "traceparent"] {
            assert_eq!(attempt.all(ours).len(), 1, "{ours}: {}", attempt.head);
        }
    }
}

#[test]
fn a_connection_that_nobody_needs_is_closed_in_time() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("upstream.idle_timeout", "1s")
        .start();
    assert_eq!(gateway.ask(&Req::get("/x")).status, 200);
    assert_eq!(upstream.open_connections(), 1);
    eventually(SOON, "the connection is closed", || {
        (upstream.open_connections() == 0).then_some(())
    });
}
