//! Browsers of the listed origins can read answers made at the edge.

use serde_json::json;

use crate::support::problem::assert_insufficient_credits;
use crate::support::request::TASKS;
use crate::support::{Gateway, Redis, Req, Upstream};

const APP: &str = "https://app.example.com";

fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::before(upstream)
        .set("problem.cors", json!({"origins": [APP], "max_age": "10m"}))
        .start()
}

fn preflight(target: &str, origin: &str) -> Req {
    Req::new("OPTIONS", target)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header(
            "Access-Control-Request-Headers",
            "authorization,content-type,x-warp-team-uid",
        )
}

fn listed(value: Option<&str>) -> Vec<String> {
    value
        .unwrap_or_default()
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase())
        .collect()
}

#[test]
fn a_listed_origin_may_read_a_refusal() {
    let upstream = Upstream::ok();
    let gateway = gateway(&upstream);
    let answer = gateway.ask(&Req::start(&Redis::shared().team("0")).header("Origin", APP));
    assert_insufficient_credits(&answer, TASKS);
    assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
    assert!(
        listed(answer.header("vary")).contains(&"origin".to_owned()),
        "{}",
        answer.head
    );
    assert!(
        listed(answer.header("access-control-expose-headers"))
            .contains(&"x-should-retry".to_owned())
    );
}

#[test]
fn a_preflight_on_a_start_route_is_answered_at_the_edge() {
    let upstream = Upstream::ok();
    let gateway = gateway(&upstream);
    for target in [TASKS, "/api/v1/agent/runs/r1/followups", "/files/a/b"] {
        let answer = gateway.ask(&preflight(target, APP));
        assert!(matches!(answer.status, 200 | 204), "{}", answer.head);
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
        assert!(listed(answer.header("access-control-allow-methods")).contains(&"post".to_owned()));
        let headers = listed(answer.header("access-control-allow-headers"));
        for name in ["authorization", "content-type", "x-warp-team-uid"] {
            assert!(headers.contains(&name.to_owned()), "{name}: {headers:?}");
        }
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
    }
    upstream.assert_untouched();
}

#[test]
fn an_unlisted_origin_gets_no_permission() {
    let upstream = Upstream::ok();
    let gateway = gateway(&upstream);
    for origin in [
        "https://evil.example.com",
        "http://app.example.com",
        "https://app.example.com.evil.com",
        "null",
    ] {
        let answer = gateway.ask(&Req::start(&Redis::shared().team("0")).header("Origin", origin));
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (403, None),
            "{origin}"
        );
        let answer = gateway.ask(&preflight(TASKS, origin));
        assert_eq!(
            answer.header("access-control-allow-origin"),
            None,
            "{origin}"
        );
    }
}

#[test]
fn a_preflight_of_anything_else_is_the_upstreams() {
    let upstream = Upstream::ok();
    let gateway = gateway(&upstream);
    gateway.ask(&preflight("/api/v1/agent/runs/r1/cancel", APP));
    assert_eq!(
        upstream.only_request().line(),
        "OPTIONS /api/v1/agent/runs/r1/cancel HTTP/1.1"
    );
}

#[test]
fn without_cors_a_preflight_passes_like_any_other_request() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(
        gateway
            .ask(&preflight(TASKS, APP))
            .header("access-control-allow-origin"),
        None
    );
    assert_eq!(upstream.only_request().target(), TASKS);
    let refused = gateway.ask(&Req::start(&Redis::shared().team("0")).header("Origin", APP));
    assert_eq!(refused.header("access-control-allow-origin"), None);
}
