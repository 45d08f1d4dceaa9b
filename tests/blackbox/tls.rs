//! TLS on both sides.

use serde_json::json;

use crate::support::gateway::Builder;
use crate::support::h2_client::{H2Client, H2Req};
use crate::support::h2_upstream::H2Upstream;
use crate::support::problem::{
    assert_insufficient_credits, assert_insufficient_credits_body, assert_problem,
};
use crate::support::request::TASKS;
use crate::support::tls::Authority;
use crate::support::wait::{eventually, secs};
use crate::support::{Client, Gateway, Redis, Req, Upstream};

/// A gateway with HTTPS beside HTTP, its certificate for `api.test`.
fn https(authority: &Authority, builder: Builder) -> Builder {
    let (cert, key) = authority
        .issue(&["api.test"])
        .write(builder.folder(), "server");
    builder.set(
        "server.tls",
        json!({"listen": ["127.0.0.1:0"], "cert": cert, "key": key}),
    )
}

#[test]
fn https_serves_both_versions_by_alpn() {
    let (authority, upstream, redis) = (Authority::new(), Upstream::ok(), Redis::shared());
    let gateway = https(&authority, Gateway::before(&upstream)).start();
    let (poor, rich) = (redis.team("0"), redis.team("1"));
    for alpn in [&["http/1.1"][..], &[]] {
        let mut one = Client::tls(gateway.https, "api.test", authority.client(alpn, None));
        assert_insufficient_credits(&one.ask(&Req::start(&poor)), TASKS);
        assert_eq!(one.ask(&Req::start(&rich)).status, 200);
    }
    let two = H2Client::tls(
        gateway.https,
        "api.test",
        authority.client(&["h2", "http/1.1"], None),
    );
    let refused = two.ask(&H2Req::start(&poor));
    assert_eq!(refused.status, 403);
    assert_insufficient_credits_body(&refused.body, TASKS);
    assert_eq!(two.ask(&H2Req::start(&rich)).status, 200);
    let requests = upstream.requests();
    assert_eq!(requests.len(), 3);
    assert!(
        requests
            .iter()
            .all(|request| request.header("x-forwarded-proto").as_deref() == Some("https"))
    );
}

#[test]
fn uploads_over_https_read_the_refusal_too() {
    let (authority, upstream) = (Authority::new(), Upstream::ok());
    let gateway = https(&authority, Gateway::before(&upstream)).start();
    let team = Redis::shared().team("0");
    for size in [64 << 10, 1 << 20, 8 << 20] {
        let body = vec![b'x'; size];
        for request in [
            Req::start(&team).body(&body),
            Req::start(&team).chunked(&body, 10_000),
        ] {
            let mut client = Client::tls(
                gateway.https,
                "api.test",
                authority.client(&["http/1.1"], None),
            );
            client.send(request.bytes());
            assert_insufficient_credits(&client.response(), TASKS);
        }
    }
    upstream.assert_untouched();
}

#[test]
fn a_client_certificate_is_required_when_a_client_ca_is_named() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let upstream = Upstream::ok();
    let builder = https(&authority, Gateway::before(&upstream));
    let ca = builder.folder().write("clients.pem", clients.pem());
    let gateway = builder.set("server.tls.client_ca", json!(ca)).start();
    let ask = |shown: Option<&crate::support::tls::Certified>| {
        let mut client = Client::try_tls(
            gateway.https,
            "api.test",
            authority.client(&["http/1.1"], shown),
        )
        .ok()?;
        client.try_send(Req::get("/x").bytes()).ok()?;
        client.try_response().ok().map(|answer| answer.status)
    };
    assert_eq!(ask(Some(&clients.issue(&["agent"]))), Some(200));
    assert_eq!(ask(None), None);
    assert_eq!(ask(Some(&strangers.issue(&["agent"]))), None);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_reload_takes_the_new_certificate() {
    let (old, new, upstream) = (Authority::new(), Authority::new(), Upstream::ok());
    let gateway = https(&old, Gateway::before(&upstream)).start();
    let mut before = Client::tls(gateway.https, "api.test", old.client(&["http/1.1"], None));
    let renewed = new.issue(&["api.test"]);
    gateway.write("server.crt", &renewed.cert_pem);
    gateway.write("server.key", &renewed.key_pem);
    gateway.signal("HUP");
    eventually(secs(5), "new connections see the new certificate", || {
        Client::try_tls(gateway.https, "api.test", new.client(&["http/1.1"], None))
            .ok()
            .map(drop)
    });
    assert!(Client::try_tls(gateway.https, "api.test", old.client(&["http/1.1"], None)).is_err());
    assert_eq!(
        before.ask(&Req::get("/x")).status,
        200,
        "old connections go on"
    );
    gateway.write("server.key", "not a key");
    gateway.signal("HUP");
    eventually(secs(5), "the bad reload is counted", || {
        (gateway.reloads("rejected") >= 1.0).then_some(())
    });
    Client::tls(gateway.https, "api.test", new.client(&["http/1.1"], None));
}

#[test]
fn a_handshake_that_does_not_end_is_cut_off() {
    let (authority, upstream) = (Authority::new(), Upstream::ok());
    let gateway = https(&authority, Gateway::before(&upstream))
        .set("server.limits.handshake_timeout", "300ms")
        .start();
    assert!(Client::connect(gateway.https).is_closed_within(secs(5)));
}

/// In front of a TLS upstream whose certificate is for `tasks.internal`.
fn before_tls(upstream: &Upstream, trusted: &Authority) -> Builder {
    let builder = Gateway::before(upstream);
    let ca = builder.folder().write("ca.pem", trusted.pem());
    builder.set("upstream.tls", json!({"sni": "tasks.internal", "ca": ca}))
}

#[test]
fn the_upstream_is_reached_over_tls_and_checked() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let upstream = Upstream::tls(
        authority
            .issue(&["tasks.internal"])
            .server(&["http/1.1"], None),
    );
    let team = Redis::shared().team("5");
    assert_eq!(
        before_tls(&upstream, &authority)
            .start()
            .ask(&Req::start(&team))
            .status,
        200
    );
    assert_eq!(
        upstream.only_request().header("host").as_deref(),
        Some("api.test")
    );
    let wrong_ca = before_tls(&upstream, &stranger).start();
    let answer = wrong_ca.ask(&Req::start(&team));
    assert!(matches!(answer.status, 502 | 503), "{}", answer.head);
    assert_problem(&answer, answer.status, "resource_unavailable", Some("true"));
    let wrong_name = before_tls(&upstream, &authority)
        .set("upstream.tls.sni", "other.internal")
        .start();
    let answer = wrong_name.ask(&Req::start(&team));
    assert!(matches!(answer.status, 502 | 503), "{}", answer.head);
    assert_eq!(
        upstream.requests().len(),
        1,
        "nothing is said to a stranger"
    );
}

#[test]
fn the_upstream_is_shown_a_client_certificate() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let upstream = Upstream::tls(
        authority
            .issue(&["tasks.internal"])
            .server(&["http/1.1"], Some(&clients)),
    );
    let team = Redis::shared().team("5");
    let builder = before_tls(&upstream, &authority);
    let (cert, key) = clients
        .issue(&["gateway"])
        .write(builder.folder(), "client");
    let gateway = builder
        .set("upstream.tls.cert", json!(cert))
        .set("upstream.tls.key", json!(key))
        .start();
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    let bare = before_tls(&upstream, &authority).start();
    let answer = bare.ask(&Req::start(&team));
    assert!(matches!(answer.status, 502 | 503), "{}", answer.head);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn an_http_2_upstream_is_chosen_by_alpn() {
    let authority = Authority::new();
    let upstream = H2Upstream::tls(authority.issue(&["tasks.internal"]).server(&["h2"], None));
    let builder = Gateway::before_address(upstream.address);
    let ca = builder.folder().write("ca.pem", authority.pem());
    let gateway = builder
        .set("server.h2c", true)
        .set("upstream.http2", true)
        .set("upstream.tls", json!({"sni": "tasks.internal", "ca": ca}))
        .start();
    let call = H2Req::new("POST", "/agent.v1.Runs/Get")
        .header("te", "trailers")
        .body("message");
    let answer = H2Client::connect(gateway.http).ask(&call);
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_slice()),
        (200, &b"message"[..])
    );
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(upstream.only_request().method, "POST");
}
