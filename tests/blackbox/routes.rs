//! Route patterns and their neighbours. How paths may be spelled is in
//! `spellings`.

use serde_json::json;

use crate::support::problem::{assert_insufficient_credits, assert_invalid};
use crate::support::{Gateway, Redis, Req, Upstream};

#[test]
fn a_parameter_stands_for_any_one_segment() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    for id in [
        "run-1",
        "a.b",
        "a%2Fb",
        "%252F",
        "a%20b",
        "..%2fx",
        "followups",
        "A_~!$&'()*+,=:@",
        "%C3%A9",
    ] {
        let target = format!("/api/v1/agent/runs/{id}/followups");
        assert_eq!(
            gateway.ask(&Req::post(&target).team(&team)).status,
            403,
            "{target}"
        );
        upstream.assert_untouched();
        let cancel = format!("/api/v1/agent/runs/{id}/cancel");
        assert_eq!(
            gateway.ask(&Req::post(&cancel).team(&team)).status,
            200,
            "{cancel}"
        );
        assert_eq!(upstream.only_request().target(), cancel);
        upstream.forget();
    }
}

#[test]
fn a_catch_all_stands_for_all_that_follow() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    for target in [
        "/files/a",
        "/files/a/b/c/d/e",
        "/files/a/../../x",
        "/files/..%2Fx",
        "/FILES/a",
        "/files/a?x=1",
    ] {
        let instance = target.split('?').next().unwrap();
        assert_insufficient_credits(&gateway.ask(&Req::post(target).team(&team)), instance);
    }
    upstream.assert_untouched();
    for target in ["/files", "/filesx/a", "/x/files/a"] {
        assert_eq!(
            gateway.ask(&Req::post(target).team(&team)).status,
            200,
            "{target}"
        );
    }
}

#[test]
fn a_route_may_have_any_method() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set(
            "routes",
            json!([{"start": "GET /launch"}, {"start": "PUT /runs/{id}"}, {"start": "POST /"}]),
        )
        .start();
    let team = Redis::shared().team("0");
    for (method, target) in [
        ("GET", "/launch"),
        ("PUT", "/runs/1"),
        ("POST", "/"),
        ("get", "/launch"),
    ] {
        assert_eq!(
            gateway
                .ask(&Req::new(method, target).team(&team).body(""))
                .status,
            403,
            "{method} {target}"
        );
    }
    upstream.assert_untouched();
    for (method, target) in [
        ("POST", "/launch"),
        ("GET", "/runs/1"),
        ("GET", "/"),
        ("POST", "/runs"),
    ] {
        assert_eq!(
            gateway
                .ask(&Req::new(method, target).team(&team).body(""))
                .status,
            200,
            "{method} {target}"
        );
    }
}

#[test]
fn a_get_that_starts_runs_covers_its_head() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("routes", json!([{"start": "GET /launch"}]))
        .start();
    let answer = gateway.ask(
        &Req::new("HEAD", "/launch")
            .team(&Redis::shared().team("0"))
            .header("X-HTTP-Method", "GET"),
    );
    assert_eq!(
        answer.status, 403,
        "an upstream that is told GET by an override starts a run"
    );
    upstream.assert_untouched();
}

#[test]
fn readings_that_disagree_about_the_route_are_refused_for_everyone() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let redis = Redis::shared();
    for balance in ["0", "5"] {
        let team = redis.team(balance);
        for target in [
            "/files/../api/v1/agent/tasks",
            "/files/..%2fapi/v1/agent/./tasks",
            "/files/%2e%2e/api/v1/agent/runs",
            "/api/v1/agent/tasks%3f/../runs",
            "/api/v1/agent/tasks%23/../runs",
            "/api/v1/agent/runs%00/../tasks",
        ] {
            let answer = gateway.ask(&Req::post(target).team(&team));
            assert_eq!(
                answer.status,
                400,
                "{target} with {balance}: {}",
                answer.text()
            );
            assert_invalid(&answer);
        }
    }
    upstream.assert_untouched();
}

#[test]
fn every_method_override_header_counts() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    for name in [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "x-http-method-override",
    ] {
        for method in ["GET", "PUT", "HEAD", "DELETE", "PATCH"] {
            for value in ["POST", "post", " POST "] {
                let request = Req::new(method, "/api/v1/agent/tasks")
                    .team(&team)
                    .header(name, value)
                    .body("{}");
                assert_eq!(
                    gateway.ask(&request).status,
                    403,
                    "{method} with {name}: {value}"
                );
            }
        }
    }
    let twice = Req::get("/api/v1/agent/tasks").team(&team);
    let twice = twice
        .header("X-HTTP-Method-Override", "GET")
        .header("X-HTTP-Method-Override", "POST");
    assert!(matches!(gateway.ask(&twice).status, 400 | 403));
    upstream.assert_untouched();
    let hidden = Req::post("/api/v1/agent/tasks")
        .team(&team)
        .header("X-HTTP-Method-Override", "GET");
    assert_eq!(
        gateway.ask(&hidden).status,
        403,
        "an override cannot hide a start"
    );
    upstream.assert_untouched();
    let innocent = Req::post("/api/v1/agent/runs/r/cancel")
        .team(&team)
        .header("X-HTTP-Method-Override", "DELETE");
    assert_eq!(gateway.ask(&innocent).status, 200);
    assert_eq!(
        upstream
            .only_request()
            .header("x-http-method-override")
            .as_deref(),
        Some("DELETE")
    );
}

#[test]
fn a_method_override_written_with_underscores_counts_too() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("0");
    for name in [
        "x_http_method_override",
        "X_HTTP_Method",
        "x_method_override",
        "X-HTTP_Method-Override",
        "X_Http-Method_Override",
    ] {
        for path in ["/api/v1/agent/tasks", "/api/v1/agent/runs/r1/followups"] {
            let request = Req::get(path).team(&team).header(name, "POST");
            assert_eq!(gateway.ask(&request).status, 403, "{name} on {path}");
        }
    }
    upstream.assert_untouched();
}
