//! A gRPC caller gets its answers in gRPC's own form.

use crate::support::h2_client::{H2Client, H2Req, H2Response};
use crate::support::problem::OUT_OF_CREDITS;
use crate::support::request::TASKS;
use crate::support::{Gateway, Redis, Req, Upstream};

/// A value of gRPC's status fields, which may come as headers (the
/// trailers-only form) or as trailers.
fn field(answer: &H2Response, name: &str) -> Option<String> {
    let value = answer
        .trailers
        .get(name)
        .or_else(|| answer.headers.get(name))?;
    Some(decoded(value.to_str().unwrap()))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn call() -> H2Req {
    H2Req::new("POST", TASKS)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body([0, 0, 0, 0, 0])
}

#[track_caller]
fn assert_status(answer: &H2Response, status: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        field(answer, "grpc-status").as_deref(),
        Some(status),
        "{answer:?}"
    );
    assert!(
        answer.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/grpc"),
        "{answer:?}"
    );
    assert!(
        field(answer, "grpc-message").is_some_and(|message| !message.is_empty()),
        "{answer:?}"
    );
    assert!(answer.body.is_empty(), "{answer:?}");
}

#[test]
fn a_refusal_is_permission_denied_with_the_sentence() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).set("server.h2c", true).start();
    let client = H2Client::connect(gateway.http);
    let answer = client.ask(&call().header("x-team-id", &Redis::shared().team("0")));
    assert_status(&answer, "7");
    assert_eq!(
        field(&answer, "grpc-message").as_deref(),
        Some(OUT_OF_CREDITS)
    );
    upstream.assert_untouched();
}

#[test]
fn a_subtype_of_grpc_is_grpc_too() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).set("server.h2c", true).start();
    let client = H2Client::connect(gateway.http);
    for content_type in [
        "application/grpc+proto",
        "application/grpc+json",
        "application/grpc; charset=utf-8",
    ] {
        let request = H2Req::new("POST", TASKS)
            .header("content-type", content_type)
            .body([0; 5]);
        assert_status(
            &client.ask(&request.header("x-team-id", &Redis::shared().team("0"))),
            "7",
        );
    }
    let web = H2Req::new("POST", TASKS)
        .header("content-type", "application/grpcish")
        .body([0; 5]);
    assert_eq!(
        client
            .ask(&web.header("x-team-id", &Redis::shared().team("0")))
            .status,
        403
    );
}

#[test]
fn other_answers_have_their_own_status() {
    let upstream = Upstream::ok();
    let redis = Redis::shared();
    let gateway = Gateway::before(&upstream).set("server.h2c", true).start();
    let client = H2Client::connect(gateway.http);
    assert_status(&client.ask(&call()), "16");
    assert_status(
        &client.ask(&call().header("authorization", "Bearer wk-nobody")),
        "16",
    );
    assert_status(&client.ask(&call().header("x-team-id", "not a team")), "3");
    assert_status(
        &client.ask(&call().header("x-team-id", &redis.team("not a number"))),
        "14",
    );
    let key = redis.api_key(&["teams", "one two", "team", "one"]);
    let elsewhere = call()
        .header("authorization", &format!("Bearer {key}"))
        .header("x-warp-team-uid", "three");
    assert_status(&client.ask(&elsewhere), "7");
    upstream.assert_untouched();
}

#[test]
fn grpc_over_http_1_1_gets_the_status_as_headers() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let request = Req::new("POST", TASKS)
        .header("Content-Type", "application/grpc")
        .team(&Redis::shared().team("0"));
    let answer = gateway.ask(&request.body([0; 5]));
    let status = answer.header("grpc-status").or_else(|| {
        answer
            .trailers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("grpc-status"))
            .map(|(_, v)| v.as_str())
    });
    assert_eq!((answer.status, status), (200, Some("7")), "{}", answer.head);
    assert!(answer.body.is_empty());
    upstream.assert_untouched();
}
