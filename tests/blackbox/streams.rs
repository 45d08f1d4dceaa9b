//! Event streams, WebSockets, 1xx answers, trailers: both ways, as they come.

use std::sync::Mutex;
use std::sync::mpsc;

use crate::support::h2_client::{H2Client, H2Req};
use crate::support::h2_upstream::H2Upstream;
use crate::support::request::noise;
use crate::support::upstream::{After, QUEUED};
use crate::support::wait::{eventually, secs, timed};
use crate::support::{Gateway, Redis, Req, Upstream};

#[test]
fn events_arrive_one_by_one() {
    let (go, gate) = mpsc::channel();
    let gate = Mutex::new(gate);
    let upstream = Upstream::answering(move |exchange| {
        if exchange.request.target() == "/again" {
            return exchange.json(200, QUEUED);
        }
        exchange.read_body()?;
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for event in 0..5 {
            // The next event is sent only when the client has read this one.
            let text = format!("id: {event}\ndata: x\n\n");
            exchange.send(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())?;
            gate.lock()
                .unwrap()
                .recv_timeout(secs(10))
                .map_err(std::io::Error::other)?;
        }
        exchange.send(b"0\r\n\r\n")?;
        Ok(After::Keep)
    });
    let redis = Redis::private(&[]);
    let gateway = Gateway::before(&upstream).redis(&redis).start();
    redis.kill();
    let mut client = gateway.connect();
    client.send(
        Req::get("/api/v1/agent/events/stream")
            .team("nobody")
            .bytes(),
    );
    let head = client.read_head().unwrap();
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    for event in 0..5 {
        let seen = String::from_utf8(client.take_until(b"\n\n")).unwrap();
        assert!(seen.contains(&format!("id: {event}\n")), "{seen}");
        go.send(()).unwrap();
    }
    client.take_until(b"0\r\n\r\n");
    assert_eq!(client.ask(&Req::get("/again")).status, 200);
}

#[test]
fn a_websocket_carries_bytes_both_ways() {
    let upstream = Upstream::answering(|exchange| {
        exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst",
        )?;
        loop {
            let frame = exchange.take(8)?;
            exchange.send(&frame)?;
        }
    });
    let redis = Redis::private(&[]);
    let gateway = Gateway::before(&upstream).redis(&redis).start();
    redis.kill();
    let mut client = gateway.connect();
    let upgrade = Req::get("/api/v1/selfhosted/worker/ws")
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13");
    client.send(upgrade.bytes());
    let answer = client.read_head().unwrap();
    assert_eq!(
        (answer.status, answer.header("upgrade")),
        (101, Some("websocket"))
    );
    assert_eq!(client.take(5), b"first");
    for frame in noise(80 << 10).chunks(8) {
        client.send(frame);
        assert_eq!(client.take(8), frame);
        if frame[0] > 16 {
            continue;
        }
        // Silence is no end: the next frame still passes.
        std::thread::yield_now();
    }
    let arrived = upstream.only_request();
    assert_eq!(arrived.header("upgrade").as_deref(), Some("websocket"));
    assert_eq!(
        arrived.header("sec-websocket-key").as_deref(),
        Some("dGhlIHNhbXBsZSBub25jZQ==")
    );
}

#[test]
fn a_tunnel_that_idles_too_long_ends_without_a_byte_of_the_gateways() {
    for limits in [
        [
            ("server.limits.body_timeout", "500ms"),
            ("upstream.read_timeout", "20s"),
        ],
        [
            ("server.limits.body_timeout", "20s"),
            ("upstream.read_timeout", "500ms"),
        ],
        [
            ("server.limits.body_timeout", "500ms"),
            ("upstream.read_timeout", "500ms"),
        ],
    ] {
        let upstream = Upstream::answering(|exchange| {
            exchange.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst",
            )?;
            loop {
                let frame = exchange.take(8)?;
                exchange.send(&frame)?;
            }
        });
        let mut builder = Gateway::before(&upstream);
        for (limit, value) in limits {
            builder = builder.set(limit, value);
        }
        let gateway = builder.start();
        let mut client = gateway.connect();
        let upgrade = Req::get("/ws")
            .header("Upgrade", "websocket")
            .header("Connection", "Upgrade");
        client.send(upgrade.bytes());
        assert_eq!(client.read_head().unwrap().status, 101);
        assert_eq!(client.take(5), b"first");
        client.send(b"12345678");
        assert_eq!(client.take(8), b"12345678");
        let _ = client.is_closed_within(secs(10));
        let more = String::from_utf8_lossy(client.pending()).into_owned();
        assert_eq!(more, "", "the upstream sent none of it ({limits:?})");
        eventually(secs(10), "nothing is left in flight", || {
            (gateway.metrics().sum("tollgate_requests_in_flight", &[]) == 0.0).then_some(())
        });
    }
}

#[test]
fn an_http_2_client_that_opens_no_window_loses_its_stream() {
    let upstream = Upstream::answering(|exchange| {
        let body = noise(8 << 20);
        if exchange.request.target() == "/small" {
            return exchange.json(200, QUEUED);
        }
        exchange.read_body()?;
        let length = body.len();
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())?;
        exchange.send(&body)?;
        Ok(After::Keep)
    });
    let gateway = Gateway::before(&upstream)
        .set("server.h2c", true)
        .set("server.limits.write_timeout", "1s")
        .start();
    let client = H2Client::connect(gateway.http);
    let (ended, took) = timed(|| client.ask_and_stall(&H2Req::new("GET", "/big")));
    assert!(ended.is_err(), "a part was passed off as the whole");
    assert!(took < secs(5), "write_timeout is a second: {took:?}");
    eventually(secs(5), "nothing is left in flight", || {
        (gateway.metrics().sum("tollgate_requests_in_flight", &[]) == 0.0).then_some(())
    });
    let other = H2Client::connect(gateway.http);
    assert_eq!(other.ask(&H2Req::new("GET", "/small")).status, 200);
}

#[test]
fn early_hints_come_before_the_answer() {
    let upstream = Upstream::saying(
        b"HTTP/1.1 103 Early Hints\r\nLink: </app.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("1");
    for request in [Req::get("/page"), Req::start(&team)] {
        let answer = gateway.ask(&request);
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.interim.len(), 1, "{:?}", answer.interim);
        assert!(
            answer.interim[0]
                .to_ascii_lowercase()
                .contains("link: </app.css>; rel=preload"),
            "{:?}",
            answer.interim
        );
    }
}

#[test]
fn a_download_of_five_megabytes_arrives_byte_for_byte() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        let body = noise(5 << 20);
        if exchange.request.target() == "/chunked" {
            exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            exchange.send(&crate::support::request::chunks(&body, 10_000))?;
        } else {
            exchange.send(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
            )?;
            exchange.send(&body)?;
        }
        Ok(After::Keep)
    });
    let gateway = Gateway::before(&upstream).start();
    for target in ["/chunked", "/sized"] {
        assert!(
            gateway.ask(&Req::get(target)).body == noise(5 << 20),
            "{target}"
        );
    }
}

#[test]
fn a_body_that_ends_with_the_connection_arrives_whole() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")?;
        Ok(After::Close)
    });
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(gateway.ask(&Req::get("/old")).text(), "all of it");
}

#[test]
fn a_body_cut_short_is_not_passed_off_as_whole() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        let chunked = exchange.request.target() == "/chunked";
        let part: &[u8] = if chunked {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart"
        };
        exchange.send(part)?;
        Ok(After::Close)
    });
    let gateway = Gateway::before(&upstream).start();
    for target in ["/chunked", "/sized"] {
        let mut client = gateway.connect();
        client.send(Req::get(target).bytes());
        assert!(
            client.try_response().is_err(),
            "{target}: a whole answer was made of a part"
        );
    }
}

fn grpc_call(body: &[u8]) -> H2Req {
    let mut call = H2Req::new("POST", "/agent.v1.Runs/Watch")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for piece in body.chunks(10_000) {
        call = call.body(piece);
    }
    call
}

#[test]
fn trailers_of_an_http_2_answer_pass() {
    let upstream = H2Upstream::clear();
    let gateway = Gateway::before_address(upstream.address)
        .set("server.h2c", true)
        .set("upstream.http2", true)
        .start();
    let body = noise(300_000);
    let mut call = grpc_call(&body);
    // Pingora does not forward a request's trailers; they must do no harm.
    call.trailers.push(("x-client-checksum", "c1"));
    let answer = H2Client::connect(gateway.http).ask(&call);
    assert_eq!(answer.status, 200);
    assert!(answer.body == body);
    assert_eq!(
        (
            answer.trailers["grpc-status"].as_bytes(),
            answer.trailers["x-checksum"].as_bytes()
        ),
        (&b"0"[..], &b"abc"[..])
    );
    let arrived = upstream.only_request();
    assert!(arrived.body == body);
    assert_eq!(arrived.path, "/agent.v1.Runs/Watch");
    assert_eq!(
        arrived.headers.get("te").map(|v| v.as_bytes()),
        Some(&b"trailers"[..]),
        "gRPC asks for it"
    );
}

#[test]
fn http_2_clients_reach_an_http_1_upstream() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).set("server.h2c", true).start();
    let body = noise(5 << 20);
    let request = H2Req::new("PUT", "/uploads/a%2Fb?x=1")
        .header("x-custom", "kept")
        .body(&body);
    let answer = H2Client::connect(gateway.http).ask(&request);
    assert_eq!(answer.status, 200);
    let arrived = upstream.only_request();
    assert_eq!(arrived.line(), "PUT /uploads/a%2Fb?x=1 HTTP/1.1");
    assert_eq!(arrived.header("host").as_deref(), Some("api.test"));
    assert_eq!(arrived.header("x-custom").as_deref(), Some("kept"));
    assert!(arrived.body == body);
}

#[test]
fn http_1_clients_reach_an_http_2_upstream() {
    let upstream = H2Upstream::clear();
    let gateway = Gateway::before_address(upstream.address)
        .set("upstream.http2", true)
        .start();
    let body = noise(100_000);
    let answer = gateway.ask(&Req::new("PUT", "/uploads/1").body(&body));
    assert_eq!(answer.status, 200);
    assert!(answer.body == body);
    let team = Redis::shared().team("1");
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    assert_eq!(
        upstream.requests()[1].headers["x-tollgate-team"],
        team.as_str()
    );
    assert_eq!(
        gateway.ask(&Req::start(&Redis::shared().team("0"))).status,
        403
    );
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn trailers_of_http_1_bodies_do_not_disturb_the_connection() {
    let upstream = Upstream::saying(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n2\r\nok\r\n0\r\nX-Checksum: abc\r\n\r\n",
    );
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.connect();
    for _ in 0..2 {
        let answer = client.ask(&Req::get("/x"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
    client.send("POST /y HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(client.ask(&Req::get("/z")).status, 200);
    assert_eq!(upstream.requests()[2].body, b"hi");
}
