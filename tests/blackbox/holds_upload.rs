//! A start is forwarded by a hold that lives: one that takes longer to arrive
//! never becomes a run.

use std::time::Instant;

use serde_json::json;

use crate::support::holds::{holding, standing, task_api};
use crate::support::wait::millis;
use crate::support::{Client, Gateway, Redis, Req, Upstream, eventually, secs};

/// Waits until no hold of the team counts any more.
#[track_caller]
fn until_free(gateway: &Gateway, team: &str) {
    eventually(secs(5), "the hold's time is up", || {
        (standing(gateway, team).live == 0).then_some(())
    });
}

#[track_caller]
fn assert_none_complete(upstream: &Upstream) {
    for request in upstream.requests() {
        assert!(!request.complete, "a whole start arrived: {}", request.head);
    }
}

#[test]
fn an_upload_that_outlives_its_hold_never_becomes_a_run() {
    let upstream = task_api();
    let gateway = holding(&upstream).set("admission.hold_for", "1s").start();
    let team = Redis::shared().team("20");
    let body = vec![b'x'; 1000];
    for (form, request) in [
        ("with a length", Req::start(&team).body(&body)),
        ("chunked", Req::start(&team).chunked(&body, 100)),
    ] {
        let (first, rest) = request.body_bytes().split_at(500);
        let mut client = gateway.connect();
        client.send([&request.head_bytes(), first].concat());
        eventually(secs(5), "the credits are set aside", || {
            (standing(&gateway, &team).live == 1).then_some(())
        });
        until_free(&gateway, &team);
        client.send(rest);
        let answer = client.response();
        assert_eq!(answer.status, 408, "{form}: {}", answer.text());
        assert!(client.is_closed_within(secs(5)), "{form}");
        assert_none_complete(&upstream);
    }
    let whole = Req::start(&team).body(&body);
    assert_eq!(gateway.ask(&whole).status, 200);
}

#[test]
fn an_upload_that_drips_is_cut_before_its_hold_ends() {
    let upstream = task_api();
    let gateway = holding(&upstream).set("admission.hold_for", "1s").start();
    let team = Redis::shared().team("20");
    let request = Req::start(&team).body(vec![b'x'; 1000]);
    let mut client = gateway.connect();
    let began = Instant::now();
    client.send(request.head_bytes());
    for byte in request.body_bytes().iter().take(200) {
        if client.try_send([*byte]).is_err() || client.is_closed_within(millis(20)) {
            break;
        }
    }
    assert!(began.elapsed() < secs(3), "it went on dripping");
    let said = String::from_utf8_lossy(client.pending()).into_owned();
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert_none_complete(&upstream);
}

#[test]
fn in_shadow_mode_an_upload_takes_as_long_as_it_likes() {
    let upstream = task_api();
    let gateway = holding(&upstream)
        .set("admission.hold_for", "1s")
        .set("admission.enforce", json!(false))
        .start();
    let team = Redis::shared().team("20");
    let request = Req::start(&team).body(vec![b'x'; 1000]);
    let mut client: Client = gateway.connect();
    client.send([&request.head_bytes(), &request.body_bytes()[..500]].concat());
    eventually(secs(5), "the credits are set aside", || {
        (standing(&gateway, &team).live == 1).then_some(())
    });
    until_free(&gateway, &team);
    client.send(&request.body_bytes()[500..]);
    assert_eq!(client.response().status, 200);
}
