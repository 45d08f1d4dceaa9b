//! The published Python SDK, unmodified, as a client.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::gateway::Gateway;
use crate::support::parties::python;
use crate::support::ports::Refusing;
use crate::support::problem::assert_insufficient_credits_body;
use crate::support::upstream::QUEUED;
use crate::support::{Redis, Req, Upstream};

fn sdk(gateway: &Gateway, key: &str, action: &str, team: &[&str]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blackbox/sdk_client.py");
    let base_url = format!("http://{}/api/v1", gateway.http);
    let output = Command::new(python())
        .args([script, &base_url, key, action])
        .args(team)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn starts(gateway: &Gateway, verdict: &str) -> f64 {
    gateway
        .metrics()
        .sum("tollgate_requests_total", &[("verdict", verdict)])
}

#[test]
fn an_admitted_run_is_queued() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let key = redis.api_key(&["team", &redis.team("5")]);
    assert_eq!(
        sdk(&gateway, &key, "run", &[]),
        json!({"outcome": "ok", "run_id": "run-1"})
    );
    assert_eq!(
        upstream.only_request().line(),
        "POST /api/v1/agent/runs HTTP/1.1"
    );
}

#[test]
fn a_refused_run_is_one_request_and_the_whole_problem() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let key = redis.api_key(&["team", &redis.team("0")]);
    let result = sdk(&gateway, &key, "run", &[]);
    assert_eq!(
        (&result["outcome"], &result["status"]),
        (&json!("PermissionDeniedError"), &json!(403))
    );
    assert_insufficient_credits_body(result["body"].to_string().as_bytes(), "/api/v1/agent/runs");
    assert_eq!(starts(&gateway, "refused"), 1.0, "it is not tried again");
    let result = sdk(&gateway, &key, "followup", &[]);
    assert_eq!(result["outcome"], "PermissionDeniedError");
    assert_eq!(starts(&gateway, "refused"), 2.0);
    upstream.assert_untouched();
}

#[test]
fn an_unknown_key_is_an_authentication_error() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let result = sdk(&gateway, "wk-unknown", "run", &[]);
    assert_eq!(
        (&result["outcome"], &result["status"]),
        (&json!("AuthenticationError"), &json!(401))
    );
    assert_eq!(gateway.metrics().sum("tollgate_requests_total", &[]), 1.0);
    upstream.assert_untouched();
}

#[test]
fn a_team_that_is_not_the_keys_is_a_permission_error_of_its_own() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let (mine, other) = (redis.team("5"), redis.team("5"));
    let key = redis.api_key(&["teams", &mine, "team", &mine]);
    assert_eq!(sdk(&gateway, &key, "run", &[&mine])["outcome"], "ok");
    let result = sdk(&gateway, &key, "run", &[&other]);
    assert_eq!(result["outcome"], "PermissionDeniedError");
    assert!(
        result["body"]["type"]
            .as_str()
            .unwrap()
            .ends_with("/not-authorized/"),
        "{result}"
    );
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn an_outage_is_three_requests_and_none_is_forwarded() {
    let (upstream, refusing) = (Upstream::ok(), Refusing::new());
    let gateway = Gateway::before(&upstream)
        .set(
            "balances.redis.url",
            format!("redis://{}", refusing.address),
        )
        .start_unready();
    let result = sdk(&gateway, "wk-any", "run", &[]);
    assert_eq!(result["status"], 503, "{result}");
    assert_eq!(result["body"]["retryable"], true);
    assert_eq!(starts(&gateway, "unknown_refused"), 3.0);
    upstream.assert_untouched();
}

#[test]
fn retrieve_and_cancel_work_at_zero() {
    let upstream =
        Upstream::answering(
            |exchange| match exchange.request.line().starts_with("GET") {
                true => exchange.json(200, QUEUED),
                false => exchange.json(200, "\"run-1\""),
            },
        );
    let redis = Redis::shared();
    let gateway = Gateway::before(&upstream).start();
    let key = redis.api_key(&["team", &redis.team("0")]);
    assert_eq!(sdk(&gateway, &key, "retrieve", &[])["outcome"], "ok");
    assert_eq!(sdk(&gateway, &key, "cancel", &[])["outcome"], "ok");
    let lines: Vec<String> = upstream
        .requests()
        .iter()
        .map(|request| request.line().to_owned())
        .collect();
    assert_eq!(
        lines,
        [
            "GET /api/v1/agent/runs/run-1 HTTP/1.1",
            "POST /api/v1/agent/runs/run-1/cancel HTTP/1.1"
        ]
    );
    assert_eq!(
        gateway
            .ask(&Req::post("/api/v1/agent/runs").bearer(&key))
            .status,
        403
    );
}
