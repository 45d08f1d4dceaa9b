//! What is not metered is not touched: with a balance of zero, with Redis gone.

use crate::support::client::fields;
use crate::support::request::noise;
use crate::support::upstream::{After, Recorded};
use crate::support::wait::{eventually, secs};
use crate::support::{Gateway, Redis, Req, Upstream};

/// Headers that the gateway adds or extends on every request.
const OURS: [&str; 4] = [
    "x-request-id",
    "traceparent",
    "x-forwarded-for",
    "x-forwarded-proto",
];

/// The headers that a request had when it arrived, without those of the gateway.
fn theirs(request: &Recorded) -> Vec<(String, String)> {
    let ours = |name: &str| OURS.contains(&name.to_ascii_lowercase().as_str());
    let mut headers: Vec<_> = request
        .headers()
        .into_iter()
        .filter(|(name, _)| !ours(name))
        .collect();
    headers
        .iter_mut()
        .for_each(|(name, _)| name.make_ascii_lowercase());
    headers.sort();
    headers
}

fn sent(request: &Req) -> Vec<(String, String)> {
    let head = String::from_utf8(request.head_bytes()).unwrap();
    let mut headers = fields(head.split_once("\r\n").unwrap().1);
    headers
        .iter_mut()
        .for_each(|(name, _)| name.make_ascii_lowercase());
    headers.sort();
    headers
}

/// A gateway for which every team is broke, and one whose Redis is gone.
fn worst_cases(upstream: &Upstream) -> Vec<(&'static str, Gateway)> {
    let broke = Gateway::before(upstream).start();
    let redis = Redis::private(&[]);
    let cut_off = Gateway::before(upstream).redis(&redis).start();
    redis.kill();
    vec![("broke", broke), ("without Redis", cut_off)]
}

#[test]
fn reads_cancels_and_uploads_pass_when_broke_and_without_redis() {
    let upstream = Upstream::ok();
    let team = Redis::shared().team("0");
    for (case, gateway) in worst_cases(&upstream) {
        for (method, target) in [
            ("GET", "/"),
            ("GET", "/api/v1/agent/tasks"),
            ("GET", "/api/v1/agent/runs/r1?include=a&include=b"),
            ("OPTIONS", "/api/v1/agent/runs"),
            ("POST", "/api/v1/agent/runs/r1/cancel"),
            ("POST", "/api/v1/agent/tasks/t1/cancel"),
            ("PUT", "/api/v1/schedules/s1"),
            ("PATCH", "/api/v1/schedules/s1"),
            ("DELETE", "/api/v1/schedules/s1"),
            ("POST", "/api/v1/harness-support/resolve"),
            ("PURGE", "/anything"),
        ] {
            upstream.forget();
            let request = Req::new(method, target)
                .team(&team)
                .bearer("wk-any")
                .body("{}");
            assert_eq!(
                gateway.ask(&request).status,
                200,
                "{case}: {method} {target}"
            );
            let arrived = upstream.only_request();
            assert_eq!(
                arrived.line(),
                format!("{method} {target} HTTP/1.1"),
                "{case}"
            );
            assert_eq!(
                theirs(&arrived),
                sent(&request),
                "{case}: {method} {target}"
            );
        }
    }
}

#[test]
fn uploads_of_five_megabytes_arrive_byte_for_byte() {
    let upstream = Upstream::ok();
    let body = noise(5 << 20);
    for (case, gateway) in worst_cases(&upstream) {
        for request in [
            Req::new("PUT", "/uploads/1").body(&body),
            Req::new("PUT", "/uploads/2").chunked(&body, 7_777),
            Req::new("PUT", "/uploads/3").chunked(&body, 1 << 20),
        ] {
            upstream.forget();
            assert_eq!(
                gateway.connect().ask_while_writing(request.bytes()).status,
                200,
                "{case}"
            );
            assert!(
                upstream.only_request().body == body,
                "{case}: {}",
                upstream.only_request().head
            );
        }
    }
}

#[test]
fn an_admitted_start_of_five_megabytes_arrives_byte_for_byte() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let (team, body) = (Redis::shared().team("1"), noise(5 << 20));
    for request in [
        Req::start(&team).body(&body),
        Req::start(&team).chunked(&body, 65_537),
    ] {
        upstream.forget();
        assert_eq!(
            gateway.connect().ask_while_writing(request.bytes()).status,
            200
        );
        assert!(upstream.only_request().body == body);
    }
}

#[test]
fn a_body_is_forwarded_while_it_is_still_being_sent() {
    let upstream = Upstream::answering(|exchange| {
        let first = exchange.take(5)?;
        exchange.send(
            format!(
                "HTTP/1.1 200 OK\r\nX-First: {}\r\n",
                String::from_utf8_lossy(&first)
            )
            .as_bytes(),
        )?;
        exchange.send(b"Content-Length: 2\r\nConnection: close\r\n\r\nok")?;
        exchange.take(5)?;
        Ok(After::Close)
    });
    let gateway = Gateway::before(&upstream).start();
    let request = Req::new("PUT", "/uploads/1").body("helloworld");
    let mut client = gateway.connect();
    client.send([&request.head_bytes(), &b"hello"[..]].concat());
    let answer = client
        .read_head()
        .expect("an answer before the body is whole");
    assert_eq!(answer.header("x-first"), Some("hello"));
    client.send("world");
    assert_eq!(client.take(2), b"ok");
}

#[test]
fn targets_arrive_byte_for_byte() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    for target in [
        "/api/v1/agent/runs/a%2Fb",
        "/api/v1/agent/runs/a%2fb/cancel",
        "/x//y///z",
        "/x/./y/../z",
        "/x/%2e%2e/%2E/y",
        "/x;v=1;w=2/y",
        "/x\\y",
        "/x%5cy",
        "/x%00y",
        "/x%zz%",
        "/X/CaSe",
        "/x?",
        "/x?a=b&&c==d?e/f",
        "/x?q=%20+%2B&r=caf\u{e9}",
        "/caf\u{e9}",
        "/x/~!$&'()*+,=:@-._",
        "/",
        "/?",
        "//",
        "/%2F%2F",
    ] {
        upstream.forget();
        assert_eq!(gateway.ask(&Req::get(target)).status, 200, "{target}");
        assert_eq!(upstream.only_request().target(), target);
    }
}

#[test]
fn headers_change_only_as_promised() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let request = Req::post("/api/v1/agent/runs/r1/cancel")
        .team("acme")
        .bearer("wk-x")
        .header("Accept", "application/json")
        .header("Accept-Encoding", "gzip, br")
        .header("Cookie", "a=1; b=2")
        .header("X-Repeated", "one")
        .header("X-Repeated", "two")
        .header("x_underscore", "kept")
        .header("Via", "1.1 edge")
        .header("Forwarded", "for=192.0.2.1")
        .header("X-Real-IP", "192.0.2.1")
        .header("X-Stainless-Retry-Count", "0")
        .header("X-Empty", "");
    assert_eq!(gateway.ask(&request).status, 200);
    let arrived = upstream.only_request();
    assert_eq!(theirs(&arrived), sent(&request));
    assert_eq!(arrived.all("x-repeated"), ["one", "two"], "in order");
    for name in OURS {
        assert!(arrived.header(name).is_some(), "{name}: {}", arrived.head);
    }
    assert_eq!(
        arrived.headers().len(),
        sent(&request).len() + OURS.len(),
        "{}",
        arrived.head
    );
}

#[test]
fn an_admitted_start_gains_its_team_and_nothing_else() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("1");
    let request = Req::start(&team).header("Idempotency-Key", "k1");
    assert_eq!(gateway.ask(&request).status, 200);
    let arrived = upstream.only_request();
    let mut expected = sent(&request);
    expected.push(("x-tollgate-team".to_owned(), team));
    expected.sort();
    assert_eq!(theirs(&arrived), expected);
}

#[test]
fn hop_by_hop_headers_end_here() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let request = Req::get("/x")
        .header("Connection", "keep-alive, X-Private")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("X-Private", "for the first hop");
    assert_eq!(gateway.ask(&request).status, 200);
    let arrived = upstream.only_request();
    for name in ["keep-alive", "proxy-connection", "x-private"] {
        assert_eq!(arrived.header(name), None, "{name}: {}", arrived.head);
    }
}

#[test]
fn x_tollgate_headers_of_clients_are_removed() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("1");
    let forged = |request: Req| {
        request
            .header("X-Tollgate-Team", "rich")
            .header("x-tollgate-principal", "root")
            .header("X-TOLLGATE-Hold", "h1")
            .header("X-Tollgate-Anything", "x")
    };
    assert_eq!(gateway.ask(&forged(Req::get("/x"))).status, 200);
    assert_eq!(gateway.ask(&forged(Req::start(&team))).status, 200);
    let [read, start] = upstream.requests().try_into().unwrap();
    let left = |request: &Recorded| {
        request
            .headers()
            .into_iter()
            .filter(|(name, _)| name.to_ascii_lowercase().starts_with("x-tollgate"))
            .collect::<Vec<_>>()
    };
    assert_eq!(left(&read), []);
    let [(_, value)] = left(&start).try_into().unwrap();
    assert_eq!(value, team);
}

#[test]
fn request_and_trace_ids_are_created_or_continued() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let theirs = format!("00-{trace}-{parent}-01");
    gateway.ask(&Req::get("/1"));
    gateway.ask(&Req::get("/2"));
    gateway.ask(
        &Req::get("/3")
            .header("X-Request-Id", "req-7")
            .header("Traceparent", &theirs)
            .header("Tracestate", "a=b"),
    );
    gateway.ask(&Req::get("/4").header(
        "Traceparent",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
    ));
    gateway.ask(&Req::get("/5").header("Traceparent", "nonsense"));
    let requests = upstream.requests();
    let ids: Vec<String> = requests
        .iter()
        .map(|r| r.header("x-request-id").expect("an id"))
        .collect();
    assert!(!ids[0].is_empty() && ids[0] != ids[1], "{ids:?}");
    assert_eq!(ids[2], "req-7");
    let traces: Vec<String> = requests
        .iter()
        .map(|r| r.header("traceparent").expect("a trace"))
        .collect();
    for parent in &traces {
        let parts: Vec<&str> = parent.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(
            (parts[0], lengths.as_slice()),
            ("00", &[2, 32, 16, 2][..]),
            "{parent}"
        );
        assert!(parts[1].bytes().any(|b| b != b'0'), "{parent}");
    }
    assert_ne!(
        traces[0][3..35],
        traces[1][3..35],
        "each request its own trace"
    );
    assert_eq!(&traces[2][3..35], trace, "the same trace");
    assert_eq!(requests[2].header("tracestate").as_deref(), Some("a=b"));
}

#[test]
fn forwarded_addresses_are_extended_only_for_trusted_proxies() {
    let upstream = Upstream::ok();
    let claim = || {
        Req::get("/x")
            .header("X-Forwarded-For", "192.0.2.7")
            .header("X-Forwarded-Proto", "https")
    };
    let strict = Gateway::before(&upstream).start();
    strict.ask(&claim());
    let trusting = Gateway::before(&upstream)
        .set("server.trusted_proxies", serde_json::json!(["127.0.0.0/8"]))
        .start();
    trusting.ask(&claim());
    trusting.ask(&Req::get("/x"));
    let [untrusted, trusted, plain] = upstream.requests().try_into().unwrap();
    let of = |request: &Recorded| {
        (
            request.all("x-forwarded-for").join(", "),
            request.header("x-forwarded-proto"),
        )
    };
    let http = Some("http".to_owned());
    let (for_, proto) = of(&untrusted);
    assert!(
        for_.ends_with("127.0.0.1"),
        "the peer we saw comes last: {for_}"
    );
    assert_eq!(proto, http, "an unknown peer does not say how it came");
    assert_eq!(
        of(&trusted),
        ("192.0.2.7, 127.0.0.1".to_owned(), Some("https".to_owned()))
    );
    assert_eq!(of(&plain), ("127.0.0.1".to_owned(), http));
}

#[test]
fn answers_come_back_as_the_upstream_gave_them() {
    let answer: &[u8] = b"HTTP/1.1 418 I'm a teapot\r\nContent-Type: text/plain\r\nX-Odd:  spaced \r\nSet-Cookie: a=1\r\n\
        Set-Cookie: b=2\r\nX-Should-Retry: true\r\nServer: task-api\r\nContent-Length: 5\r\n\r\nshort";
    let upstream = Upstream::saying(answer);
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("1");
    for request in [Req::get("/x"), Req::start(&team)] {
        let answer = gateway.ask(&request);
        assert_eq!((answer.status, answer.text().as_str()), (418, "short"));
        assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
        for (name, value) in [
            ("x-should-retry", "true"),
            ("server", "task-api"),
            ("x-odd", "spaced"),
        ] {
            assert_eq!(answer.all(name), [value], "{name}");
        }
    }
}

#[test]
fn a_compressed_body_is_not_opened() {
    let upstream = Upstream::answering(|exchange| {
        let body = noise(2_000);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: 2000\r\n\r\n";
        exchange.say(&[head.as_bytes(), &body].concat())
    });
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.ask(&Req::get("/x").header("Accept-Encoding", "identity"));
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert!(answer.body == noise(2_000));
    let compressed = Req::new("PUT", "/x")
        .header("Content-Encoding", "gzip")
        .body(noise(3_000));
    gateway.ask(&compressed);
    assert!(upstream.requests()[1].body == noise(3_000));
}

#[test]
fn head_and_ranges_keep_their_meaning() {
    let upstream = Upstream::answering(|exchange| {
        if exchange.request.line().starts_with("HEAD ") {
            return exchange
                .say(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: \"v1\"\r\n\r\n");
        }
        match exchange.request.header("range").as_deref() {
            Some("bytes=2-5") => exchange.say(
                b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-5/10\r\nContent-Length: 4\r\n\r\n2345",
            ),
            _ => exchange.say(b"HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n"),
        }
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.connect();
    let head = client.ask(&Req::new("HEAD", "/file"));
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("12345"))
    );
    let part = client.ask(&Req::get("/file").header("Range", "bytes=2-5"));
    assert_eq!(
        (
            part.status,
            part.header("content-range"),
            part.text().as_str()
        ),
        (206, Some("bytes 2-5/10"), "2345")
    );
    let unchanged = client.ask(&Req::get("/file").header("If-None-Match", "\"v1\""));
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(
        client.ask(&Req::new("HEAD", "/file")).status,
        200,
        "the connection is still in step"
    );
}

#[test]
fn the_host_is_the_clients_unless_the_operator_names_one() {
    let upstream = Upstream::ok();
    Gateway::before(&upstream).start().ask(&Req::get("/x"));
    Gateway::before(&upstream)
        .set("upstream.host", "internal.example")
        .start()
        .ask(&Req::get("/x"));
    let hosts: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| request.header("host"))
        .collect();
    assert_eq!(
        hosts,
        [
            Some("api.test".to_owned()),
            Some("internal.example".to_owned())
        ]
    );
}

#[test]
fn the_operators_host_is_the_only_one_whatever_the_target_says() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("upstream.host", "internal.example")
        .start();
    let team = Redis::shared().team("5");
    let request = Req::line("POST http://evil.example/api/v1/agent/tasks HTTP/1.0")
        .team(&team)
        .body("{}");
    assert_eq!(gateway.ask(&request).status, 200);
    let arrived = upstream.only_request();
    assert_eq!(arrived.all("host"), ["internal.example"]);
    assert_eq!(
        arrived.target(),
        "http://internal.example/api/v1/agent/tasks"
    );
    assert!(!arrived.head.contains("evil"), "{}", arrived.head);
}

#[test]
fn a_client_that_goes_away_is_noticed_upstream() {
    let (told, gone) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")?;
        let ended = exchange.take(1).is_err();
        let _ = told.lock().unwrap().send(ended);
        Ok(After::Close)
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.connect();
    client.send(Req::get("/stream").bytes());
    client.take_until(b"hi\r\n");
    drop(client);
    assert_eq!(gone.recv_timeout(secs(10)), Ok(true));
    eventually(secs(10), "the connection is given back", || {
        (gateway.metrics().sum("tollgate_connections", &[]) <= 1.0).then_some(())
    });
}
