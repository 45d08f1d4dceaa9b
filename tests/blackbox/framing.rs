//! A request that two servers could cut up differently is refused, and
//! nothing of it reaches the upstream.

use crate::support::h2_client::{H2Client, H2Req};
use crate::support::problem::{assert_invalid, assert_problem};
use crate::support::request::{PROMPT, TASKS};
use crate::support::{Client, Gateway, Redis, Req, Upstream, secs};

/// Framing headers that must not pass, with what follows the head.
const BROKEN: &[(&str, &str, &str)] = &[
    (
        "length and coding",
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\nG",
    ),
    (
        "coding and length",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "5c\r\nx\r\n0\r\n\r\n",
    ),
    (
        "length and coding, lower case",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "length zero and coding",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "length and unknown coding",
        "Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "two equal lengths",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "hello",
    ),
    (
        "two lengths",
        "Content-Length: 5\r\nContent-Length: 0\r\n",
        "hello",
    ),
    ("a list of lengths", "Content-Length: 5, 5\r\n", "hello"),
    ("a signed length", "Content-Length: +5\r\n", "hello"),
    ("a negative length", "Content-Length: -5\r\n", "hello"),
    ("a hexadecimal length", "Content-Length: 0x5\r\n", "hello"),
    (
        "a length with a blank inside",
        "Content-Length: 5 5\r\n",
        "hello",
    ),
    ("a fractional length", "Content-Length: 5.0\r\n", "hello"),
    (
        "a length beyond all numbers",
        "Content-Length: 99999999999999999999999\r\n",
        "hello",
    ),
    ("a length in words", "Content-Length: five\r\n", "hello"),
    (
        "unknown coding",
        "Transfer-Encoding: xchunked\r\n",
        "0\r\n\r\n",
    ),
    ("identity", "Transfer-Encoding: identity\r\n", "0\r\n\r\n"),
    (
        "chunked, then identity",
        "Transfer-Encoding: chunked, identity\r\n",
        "0\r\n\r\n",
    ),
    (
        "identity, then chunked",
        "Transfer-Encoding: identity, chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "gzip, then chunked",
        "Transfer-Encoding: gzip, chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "chunked twice in one",
        "Transfer-Encoding: chunked, chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "two codings",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "0\r\n\r\n",
    ),
    (
        "two equal codings",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "the last coding decides",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "a coding with a parameter",
        "Transfer-Encoding: chunked;x=1\r\n",
        "0\r\n\r\n",
    ),
    (
        "a quoted coding",
        "Transfer-Encoding: \"chunked\"\r\n",
        "0\r\n\r\n",
    ),
    (
        "a coding with a comma",
        "Transfer-Encoding: ,chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "a vertical tab",
        "Transfer-Encoding: \x0bchunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "a NUL in a value",
        "Transfer-Encoding: chunked\0\r\n",
        "0\r\n\r\n",
    ),
    (
        "a blank before the colon",
        "Transfer-Encoding : chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "a blank before the colon of a length",
        "Content-Length : 5\r\n",
        "hello",
    ),
    (
        "a folded coding",
        "Transfer-Encoding:\r\n chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "a folded header",
        "X-A: b\r\n\tTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "0\r\n\r\n",
    ),
    (
        "a line that begins with a blank",
        " Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "0\r\n\r\n",
    ),
    (
        "an underscored coding",
        "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n",
        "0\r\n\r\n",
    ),
    (
        "an underscored length",
        "Content_Length: 5\r\nContent-Length: 0\r\n",
        "",
    ),
    (
        "a nominated length",
        "Connection: content-length\r\nContent-Length: 5\r\n",
        "hello",
    ),
    (
        "a nominated coding",
        "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "a nominated host",
        "Connection: host\r\nContent-Length: 5\r\n",
        "hello",
    ),
    (
        "two hosts",
        "Host: other.test\r\nContent-Length: 5\r\n",
        "hello",
    ),
    (
        "two equal hosts",
        "Host: api.test\r\nContent-Length: 5\r\n",
        "hello",
    ),
    (
        "a line without a colon",
        "Nonsense\r\nContent-Length: 5\r\n",
        "hello",
    ),
    (
        "a bare CR in a value",
        "X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "0\r\n\r\n",
    ),
    (
        "a name with a blank",
        "X A: b\r\nContent-Length: 5\r\n",
        "hello",
    ),
];

#[test]
fn broken_framing_is_answered_400_on_every_route() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("9");
    let inner = String::from_utf8(Req::start(&team).header("X-Smuggled", "1").bytes()).unwrap();
    let mut wrong = Vec::new();
    for target in [TASKS, "/api/v1/agent/runs/r1/cancel"] {
        for (name, headers, body) in BROKEN {
            let mut client = gateway.connect();
            client.send(format!("POST {target} HTTP/1.1\r\nHost: api.test\r\nX-Team-Id: {team}\r\n{headers}\r\n{body}{inner}"));
            let status = client.try_response().map(|answer| answer.status).ok();
            let closed = client.is_closed_within(secs(3));
            if status != Some(400) || !closed || !upstream.requests().is_empty() {
                wrong.push((*name, target, status, closed, upstream.requests().len()));
            }
            upstream.forget();
        }
    }
    assert!(
        wrong.is_empty(),
        "(shape, target, status, closed, requests at the upstream): {wrong:#?}"
    );
}

#[test]
fn what_the_gateway_itself_refuses_comes_as_a_problem() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("9");
    let base = || Req::post(TASKS).team(&team);
    assert_invalid(&gateway.ask(&base().header("Transfer-Encoding", "chunked")));
    assert_invalid(
        &gateway.ask(
            &Req::line("POST /api/v1/agent/tasks HTTP/1.1")
                .team(&team)
                .body(PROMPT),
        ),
    );
    assert_invalid(&gateway.ask(&base().header("Connection", "x-team-id")));
    assert_invalid(&gateway.ask(&base().team(&team)));
    upstream.assert_untouched();
}

#[test]
fn a_missing_host_is_refused_on_http_1_1_alone() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    for line in ["GET /x HTTP/1.1", "POST /api/v1/agent/tasks HTTP/1.1"] {
        assert_eq!(
            gateway
                .ask(&Req::line(line).team(&Redis::shared().team("9")))
                .status,
            400,
            "{line}"
        );
    }
    upstream.assert_untouched();
    assert_eq!(gateway.ask(&Req::line("GET /x HTTP/1.0")).status, 200);
}

#[test]
fn a_coding_on_http_1_0_is_refused() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    for target in ["/x", TASKS] {
        let line = format!("POST {target} HTTP/1.0");
        let request = Req::line(&line)
            .header("Host", "api.test")
            .team(&Redis::shared().team("9"));
        assert_eq!(
            gateway.ask(&request.chunked(b"{}", 10)).status,
            400,
            "{target}"
        );
    }
    upstream.assert_untouched();
}

#[test]
fn blanks_around_a_coding_are_read_or_refused_but_never_overlooked() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let redis = Redis::shared();
    let team = redis.team("9");
    let inner = String::from_utf8(Req::post("/smuggled").team(&team).bytes()).unwrap();
    for value in [
        "chunked",
        " chunked",
        "\tchunked",
        "chunked ",
        "CHUNKED",
        "Chunked\t",
    ] {
        upstream.forget();
        let mut client = gateway.connect();
        let body = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
        client.send(format!("POST {TASKS} HTTP/1.1\r\nHost: a\r\nX-Team-Id: {team}\r\nTransfer-Encoding:{value}\r\n\r\n{body}"));
        let status = client.response().status;
        assert!(matches!(status, 200 | 400), "{value:?}: {status}");
        let arrived = upstream.requests();
        assert!(
            arrived
                .iter()
                .all(|request| request.target() == TASKS && request.body == inner.as_bytes()),
            "{arrived:#?}"
        );
    }
    let plain = Req::start(&team).chunked(b"{}", 1);
    assert_eq!(
        gateway.ask(&plain).status,
        200,
        "the plain form is understood"
    );
}

#[test]
fn broken_chunks_never_make_a_whole_request() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.limits.body_timeout", "1s")
        .start();
    let team = Redis::shared().team("9");
    for body in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nx\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
    ] {
        for target in [TASKS, "/x"] {
            upstream.forget();
            let mut client = gateway.connect();
            client.send(format!("POST {target} HTTP/1.1\r\nHost: a\r\nX-Team-Id: {team}\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
            if let Ok(answer) = client.try_response() {
                assert!(
                    matches!(answer.status, 400 | 408 | 502),
                    "{body:?}: {}",
                    answer.head
                );
            }
            assert!(
                upstream.requests().iter().all(|request| !request.complete),
                "{body:?}"
            );
        }
    }
}

#[test]
fn lines_that_end_in_a_bare_line_feed_smuggle_nothing() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.limits.header_timeout", "1s")
        .start();
    let redis = Redis::shared();
    let (poor, rich) = (redis.team("0"), redis.team("9"));
    let mut client = gateway.connect();
    client.send(format!(
        "POST {TASKS} HTTP/1.1\nHost: a\nX-Team-Id: {poor}\nContent-Length: 0\n\n"
    ));
    if let Ok(answer) = client.try_response() {
        assert!(matches!(answer.status, 400 | 403), "{}", answer.head);
    }
    let mut client = gateway.connect();
    client.send(format!("GET /x HTTP/1.1\r\nHost: a\r\nX-A: b\nX-Team-Id: {rich}\r\nTransfer-Encoding: chunked\nContent-Length: 3\r\n\r\n0\r\n\r\n"));
    if let Ok(answer) = client.try_response() {
        assert_eq!(answer.status, 400, "{}", answer.head);
    }
    assert!(upstream.requests().iter().all(|r| r.target() != TASKS));
}

/// Each of these starts, of a team with credits, is answered 400.
fn assert_all_invalid(requests: &[(&str, Req)], upstream: &Upstream, gateway: &Gateway) {
    for (name, request) in requests {
        let answer = gateway.ask(request);
        assert_eq!(
            answer.status,
            400,
            "{name}: {}{}",
            answer.head,
            answer.text()
        );
        assert_problem(&answer, 400, "invalid_request", Some("false"));
    }
    upstream.assert_untouched();
}

/// A paid-up team's start, once by its header and once by a personal key.
fn two_starts() -> (String, Req, Req) {
    let redis = Redis::shared();
    let team = redis.team("9");
    let key = redis.api_key(&["teams", &format!("{team} other"), "team", &team]);
    (
        team.clone(),
        Req::start(&team),
        Req::post(TASKS).bearer(&key),
    )
}

#[test]
fn repeated_identity_headers_are_refused_on_start_routes() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let (team, by_team, by_key) = two_starts();
    let requests = [
        ("a second team", by_team.clone().team("other")),
        ("the same team twice", by_team.clone().team(&team)),
        (
            "a second key",
            by_key.clone().header("authorization", "Bearer wk-other"),
        ),
        (
            "the same key twice",
            by_key.clone().bearer("wk-x").bearer("wk-x"),
        ),
        (
            "a second choice",
            by_key
                .header("X-Warp-Team-Uid", &team)
                .header("x-warp-team-uid", "other"),
        ),
        (
            "two idempotency keys",
            by_team
                .header("Idempotency-Key", "a")
                .header("Idempotency-Key", "b"),
        ),
    ];
    assert_all_invalid(&requests, &upstream, &gateway);
}

#[test]
fn underscored_identity_headers_are_refused_on_start_routes() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let (team, by_team, by_key) = two_starts();
    let requests = [
        ("a team", Req::post(TASKS).header("X_Team_Id", &team)),
        (
            "a team beside one",
            by_team.clone().header("x_team_id", "other"),
        ),
        ("partly", by_team.clone().header("x_team-id", "other")),
        ("a choice", by_key.header("X_Warp_Team_Uid", "other")),
        ("an idempotency key", by_team.header("Idempotency_Key", "a")),
    ];
    assert_all_invalid(&requests, &upstream, &gateway);
}

#[test]
fn nominated_identity_headers_are_refused_on_start_routes() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let (team, by_team, by_key) = two_starts();
    let nominating = |request: &Req, names: &str| request.clone().header("Connection", names);
    let chosen = by_key.clone().header("X-Warp-Team-Uid", &team);
    let idempotent = by_team.clone().header("Idempotency-Key", "a");
    let requests = [
        ("a team", nominating(&by_team, "x-team-id")),
        (
            "a team in a list",
            nominating(&by_team, "keep-alive, X-TEAM-ID , close"),
        ),
        ("a key", nominating(&by_key, "authorization")),
        ("a choice", nominating(&chosen, "x-warp-team-uid")),
        (
            "an idempotency key",
            nominating(&idempotent, "idempotency-key"),
        ),
        (
            "in the second Connection",
            nominating(&nominating(&by_team, "keep-alive"), "x-team-id"),
        ),
    ];
    assert_all_invalid(&requests, &upstream, &gateway);
    assert_eq!(
        gateway
            .ask(&nominating(&by_team, "keep-alive, X-Other"))
            .status,
        200
    );
}

#[test]
fn http_2_identity_headers_must_be_plain_too() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).set("server.h2c", true).start();
    let redis = Redis::shared();
    let team = redis.team("9");
    let client = H2Client::connect(gateway.http);
    let base = || H2Req::start(&team);
    assert_eq!(client.ask(&base().header("x-team-id", "other")).status, 400);
    assert_eq!(client.ask(&base().header("x_team_id", "other")).status, 400);
    assert_eq!(
        client
            .ask(
                &base()
                    .header("host", "other.test")
                    .header("idempotency-key", "a")
                    .header("idempotency-key", "b")
            )
            .status,
        400
    );
    upstream.assert_untouched();
    assert_eq!(client.ask(&base()).status, 200);
}

#[test]
fn a_head_that_is_too_large_is_answered_431() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.limits.header_size", "16KiB")
        .start();
    let team = Redis::shared().team("9");
    let filler = "x".repeat(12 << 10);
    assert_eq!(
        gateway
            .ask(&Req::start(&team).header("X-Filler", &filler))
            .status,
        200
    );
    upstream.forget();
    for size in [17 << 10, 60 << 10, 200 << 10] {
        let request = Req::start(&team).header("X-Filler", &"x".repeat(size));
        let answer = gateway.connect().ask_while_writing(request.bytes());
        assert_eq!(answer.status, 431, "{size}");
    }
    let long_target = Req::post(&format!("{TASKS}?{}", "x".repeat(20 << 10))).team(&team);
    let answer = gateway.connect().ask_while_writing(long_target.bytes());
    assert!(matches!(answer.status, 414 | 431), "{}", answer.head);
    upstream.assert_untouched();
}

#[test]
fn a_head_with_too_many_fields_is_refused() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let mut request = Req::start(&Redis::shared().team("9"));
    for field in 0..300 {
        request = request.header(&format!("X-Field-{field}"), "x");
    }
    let answer = gateway.connect().ask_while_writing(request.bytes());
    assert!(matches!(answer.status, 400 | 431), "{}", answer.head);
    upstream.assert_untouched();
}

#[test]
fn a_request_hidden_in_a_body_stays_a_body() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let redis = Redis::shared();
    let inner = Req::start(&redis.team("9")).bytes();
    let mut client: Client = gateway.connect();
    for request in [
        Req::new("GET", "/x").body(&inner),
        Req::new("DELETE", "/x").body(&inner),
        Req::new("GET", "/x").chunked(&inner, 9),
    ] {
        upstream.forget();
        assert_eq!(client.ask(&request).status, 200);
        let arrived = upstream.only_request();
        assert_eq!((arrived.target(), &arrived.body), ("/x", &inner));
    }
}
