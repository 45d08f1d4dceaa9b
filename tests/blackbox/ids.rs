//! A request can be followed: the upstream gets the ids that the log has.

use crate::support::request::TASKS;
use crate::support::upstream::Recorded;
use crate::support::{Gateway, Redis, Req, Upstream};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The ids at the upstream are there, and are those of the request's one log
/// line. Returns both.
#[track_caller]
fn followed(gateway: &Gateway, arrived: &Recorded) -> (String, String) {
    let id = arrived.header("x-request-id").expect("a request id");
    let parent = arrived.header("traceparent").expect("a trace");
    let parts: Vec<&str> = parent.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    assert_eq!(lengths, [2, 32, 16, 2], "{parent}");
    assert!(!id.is_empty(), "an id that is none");
    let line = gateway.access_line("the line has the upstream's id", |line| {
        line["request_id"] == id.as_str()
    });
    assert_eq!(line["trace_id"], parts[1], "{line}");
    (id, parts[1].to_owned())
}

#[test]
fn ids_that_the_connection_header_nominates_reach_the_upstream() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("5");
    for (at, nominated) in [
        "x-request-id",
        "traceparent",
        "X-Request-Id, Traceparent",
        "keep-alive, TraceParent, x-request-id",
    ]
    .iter()
    .enumerate()
    {
        for (kind, request) in [
            ("read", Req::get("/x")),
            ("start", Req::post(TASKS).team(&team)),
        ] {
            let sent = format!("sent-{at}-{kind}");
            let request = request
                .header("X-Request-Id", &sent)
                .header("Traceparent", PARENT)
                .header("Connection", nominated);
            assert_eq!(gateway.ask(&request).status, 200, "{nominated}");
            let (id, trace) = followed(&gateway, &upstream.only_request());
            assert_eq!((id, trace.as_str()), (sent, TRACE), "{nominated}");
            upstream.forget();
        }
    }
}

#[test]
fn ids_are_made_where_the_connection_header_nominates_what_is_not_there() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let request = Req::get("/x").header("Connection", "x-request-id, traceparent");
    assert_eq!(gateway.ask(&request).status, 200);
    followed(&gateway, &upstream.only_request());
}

#[test]
fn an_empty_request_id_is_replaced() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("5");
    let mut seen = Vec::new();
    for request in [Req::get("/x"), Req::post(TASKS).team(&team)] {
        for empty in ["", "  "] {
            let request = request.clone().header("X-Request-Id", empty);
            assert_eq!(gateway.ask(&request).status, 200);
            seen.push(followed(&gateway, &upstream.only_request()));
            upstream.forget();
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4, "each request has ids of its own");
}
