//! Requests to the admin listener, as a billing system sends them.

use serde_json::Value;

use super::client::{Client, Response};
use super::gateway::Gateway;
use super::request::Req;

/// The token that tests configure.
pub const TOKEN: &str = "s3cret-admin-token";

/// A request with the token, on a connection of its own.
#[track_caller]
pub fn operator(gateway: &Gateway, request: Req) -> Response {
    Client::connect(gateway.admin).ask(&request.bearer(TOKEN))
}

/// A POST of this JSON.
#[track_caller]
pub fn post(gateway: &Gateway, path: &str, body: &Value) -> Response {
    operator(gateway, Req::post(path).body(body.to_string()))
}

/// A GET.
#[track_caller]
pub fn get(gateway: &Gateway, path: &str) -> Response {
    operator(gateway, Req::get(path))
}

/// The answer is a problem of the admin listener with this status and code.
#[track_caller]
pub fn assert_trouble(response: &Response, status: u16, code: &str) {
    let should_retry = if status == 503 { "true" } else { "false" };
    super::problem::assert_problem(response, status, code, Some(should_retry));
    let body = response.json();
    assert!(
        body["detail"].as_str().is_some_and(|text| !text.is_empty()),
        "{body}"
    );
    assert!(
        body["instance"]
            .as_str()
            .is_some_and(|path| path.starts_with("/v1/")),
        "{body}"
    );
}
