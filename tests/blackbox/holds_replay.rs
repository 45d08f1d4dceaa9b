//! Starts with an idempotency key: what a replay shares, and what it never
//! buys.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::gateway::Builder;
use crate::support::holds::{
    assert_credits_held, cancel, holding, last_hold, run_of, settle, standing, started, stays_live,
    task_api, until_live,
};
use crate::support::problem::assert_problem;
use crate::support::redis::fresh;
use crate::support::request::{TASKS, noise};
use crate::support::{Gateway, Redis, Req, Response, Upstream};

/// The upstream deduplicates.
fn sharing(upstream: &Upstream) -> Builder {
    holding(upstream).set("admission.idempotency", "upstream")
}

/// A start with this key.
fn keyed(team: &str, key: &str) -> Req {
    Req::start(team).header("Idempotency-Key", key)
}

/// An admitted start; its hold.
#[track_caller]
fn admitted(gateway: &Gateway, upstream: &Upstream, team: &str, request: &Req) -> String {
    let answer = gateway.ask(request);
    assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
    last_hold(upstream, team)
}

#[track_caller]
fn assert_conflict(answer: &Response) {
    assert_problem(answer, 409, "conflict", Some("false"));
    assert_eq!(answer.json()["retryable"], false);
}

#[test]
fn a_constant_key_buys_nothing() {
    let upstream = task_api();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("40");
    let one = admitted(&gateway, &upstream, &team, &keyed(&team, "constant"));
    let two = admitted(&gateway, &upstream, &team, &keyed(&team, "constant"));
    assert_ne!(one, two, "each start has a hold of its own");
    assert_credits_held(&gateway.ask(&keyed(&team, "constant")));
    assert_eq!(upstream.requests().len(), 2);
    let seen = upstream.requests().pop().unwrap();
    assert_eq!(seen.header("idempotency-key").as_deref(), Some("constant"));
}

#[test]
fn a_replay_shares_the_live_hold() {
    let upstream = task_api();
    let gateway = sharing(&upstream).start();
    let team = Redis::shared().team("20");
    let first = admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
    for _ in 0..30 {
        let again = admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
        assert_eq!(again, first);
    }
    let now = standing(&gateway, &team);
    assert_eq!((now.held.as_str(), now.live), ("20", 1));
    assert_credits_held(&gateway.ask(&keyed(&team, "another")));
    assert_credits_held(&gateway.ask(&Req::start(&team)));
}

#[test]
fn a_key_is_its_teams_own() {
    let upstream = task_api();
    let gateway = sharing(&upstream).start();
    let redis = Redis::shared();
    let key = fresh("key");
    let [one, two] = [redis.team("20"), redis.team("20")].map(|team| {
        let hold = admitted(&gateway, &upstream, &team, &keyed(&team, &key));
        assert_eq!(standing(&gateway, &team).live, 1);
        hold
    });
    assert_ne!(one, two);
}

#[test]
fn replays_at_the_same_moment_hold_once() {
    let upstream = task_api();
    let gateways = [(); 2].map(|()| sharing(&upstream).start());
    let team = Redis::shared().team("1000");
    std::thread::scope(|scope| {
        for number in 0..12 {
            let (gateway, team) = (&gateways[number % 2], &team);
            scope.spawn(move || {
                for round in 0..10 {
                    let answer = gateway.ask(&keyed(team, &format!("round-{round}")));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            });
        }
    });
    assert_eq!(standing(&gateways[0], &team).live, 10);
    assert_eq!(upstream.requests().len(), 120);
}

#[test]
fn a_replay_of_a_settled_run_shares_what_is_paid_for() {
    let upstream = task_api();
    let gateway = sharing(&upstream).start();
    let team = Redis::shared().team("20");
    let first = admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
    assert_eq!(settle(&gateway, &team, &first, "20").status, 200);
    for _ in 0..3 {
        let again = admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
        assert_eq!(again, first);
    }
    assert_eq!(standing(&gateway, &team).live, 0, "nothing new is held");
    assert_ne!(
        admitted(&gateway, &upstream, &team, &keyed(&team, "l")),
        first
    );
}

#[test]
fn a_replay_after_a_release_is_a_new_start() {
    let upstream = task_api();
    let gateway = sharing(&upstream).start();
    let team = Redis::shared().team("20");
    let first = admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
    gateway.ask(&cancel(&run_of(&first)));
    until_live(&gateway, &team, 0);
    let second = admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
    assert_ne!(first, second);
    assert_eq!(standing(&gateway, &team).live, 1);
    let third = admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
    assert_eq!(second, third, "the key belongs to the new one");
}

#[test]
fn a_replay_after_the_time_is_up_is_a_new_start() {
    let upstream = task_api();
    let gateway = sharing(&upstream).set("admission.hold_for", "1s").start();
    let team = Redis::shared().team("20");
    let first = admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
    until_live(&gateway, &team, 0);
    let second = admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
    assert_ne!(first, second);
}

#[test]
fn the_same_key_on_another_request_is_a_conflict() {
    let upstream = task_api();
    let gateway = sharing(&upstream).start();
    let team = Redis::shared().team("100");
    let elsewhere = Req::post("/api/v1/agent/runs")
        .team(&team)
        .header("Idempotency-Key", "k");
    let first = admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
    upstream.forget();
    for request in [
        elsewhere,
        keyed(&team, "k").body(r#"{"prompt":"fix the other build"}"#),
        keyed(&team, "k").body(""),
    ] {
        assert_conflict(&gateway.ask(&request));
    }
    upstream.assert_untouched();
    assert_eq!(standing(&gateway, &team).live, 1);
    let again = admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
    assert_eq!(again, first);
    assert_eq!(
        upstream.only_request().body,
        crate::support::request::PROMPT.as_bytes()
    );
}

#[test]
fn the_same_small_body_is_the_same_in_any_framing() {
    let upstream = task_api();
    let gateway = sharing(&upstream).start();
    let team = Redis::shared().team("100");
    let body = noise(3000);
    let framed = keyed(&team, "k").body(&body);
    let first = admitted(&gateway, &upstream, &team, &framed);
    assert!(upstream.requests()[0].body == body, "it arrives whole");
    // The body in a packet of its own, later than the head.
    let mut client = gateway.connect();
    client.send(framed.head_bytes());
    for piece in framed.body_bytes().chunks(1000) {
        std::thread::sleep(std::time::Duration::from_millis(20));
        client.send(piece);
    }
    assert_eq!(client.response().status, 200);
    assert_eq!(last_hold(&upstream, &team), first);
    assert!(upstream.requests()[1].body == body, "it arrives whole");
    let waiting = framed.clone().header("Expect", "100-continue");
    client.send(waiting.head_bytes());
    client.send(framed.body_bytes());
    assert_eq!(client.response().status, 200);
    assert!(upstream.requests()[2].body == body, "it arrives whole");
}

#[test]
fn bodies_too_large_to_be_looked_at_arrive_whole_and_still_share() {
    let upstream = task_api();
    let gateway = sharing(&upstream).start();
    let redis = Redis::shared();
    for size in [200_000, 5 << 20] {
        let (team, body) = (redis.team("20"), noise(size));
        let sized = keyed(&team, "k").body(&body);
        let first = admitted(&gateway, &upstream, &team, &sized);
        let chunked = keyed(&team, "k").chunked(&body, 10_000);
        assert_eq!(admitted(&gateway, &upstream, &team, &chunked), first);
        for request in upstream.requests() {
            assert!(request.body == body && request.complete, "{size}");
        }
        assert_eq!(standing(&gateway, &team).live, 1);
        upstream.forget();
    }
}

#[test]
fn a_chunked_start_shares_and_arrives_whole() {
    let upstream = task_api();
    let gateway = sharing(&upstream).start();
    let team = Redis::shared().team("20");
    let body = noise(2000);
    let request = keyed(&team, "k").chunked(&body, 77);
    let first = admitted(&gateway, &upstream, &team, &request);
    assert_eq!(admitted(&gateway, &upstream, &team, &request), first);
    for request in upstream.requests() {
        assert!(request.body == body && request.complete);
    }
    assert_eq!(standing(&gateway, &team).live, 1);
}

#[test]
fn one_sharer_that_began_nothing_does_not_free_the_others_hold() {
    let count = AtomicUsize::new(0);
    let upstream = Upstream::answering(move |exchange| {
        let hold = exchange.request.all("x-tollgate-hold").concat();
        match count.fetch_add(1, Ordering::SeqCst) {
            0 => exchange.json(200, &started(&hold)),
            _ => exchange.json(409, "{}"),
        }
    });
    let gateway = sharing(&upstream).start();
    let team = Redis::shared().team("20");
    assert_eq!(gateway.ask(&keyed(&team, "k")).status, 200);
    for _ in 0..3 {
        assert_eq!(gateway.ask(&keyed(&team, "k")).status, 409);
    }
    stays_live(&gateway, &team, 1);
    assert_eq!(gateway.ask(&Req::start(&team)).status, 403);
}

#[test]
fn sharers_that_all_began_nothing_free_the_hold() {
    let upstream = Upstream::answering(|exchange| exchange.json(422, "{}"));
    let gateway = sharing(&upstream).start();
    let team = Redis::shared().team("20");
    for _ in 0..5 {
        assert_eq!(gateway.ask(&keyed(&team, "k")).status, 422);
        until_live(&gateway, &team, 0);
    }
}

#[test]
fn a_key_sent_twice_is_refused_and_holds_nothing() {
    let upstream = task_api();
    let gateway = sharing(&upstream).start();
    let team = Redis::shared().team("20");
    let twice = keyed(&team, "k").header("Idempotency-Key", "l");
    assert_eq!(gateway.ask(&twice).status, 400);
    assert_eq!(standing(&gateway, &team).live, 0);
    upstream.assert_untouched();
    let odd = Req::post(TASKS)
        .team(&team)
        .header("Idempotency-Key", &"k".repeat(4000));
    assert!(matches!(gateway.ask(&odd).status, 200 | 400));
}

#[test]
fn in_shadow_a_conflict_is_forwarded_without_a_hold() {
    let upstream = task_api();
    let gateway = sharing(&upstream).set("admission.enforce", false).start();
    let team = Redis::shared().team("100");
    admitted(&gateway, &upstream, &team, &keyed(&team, "k"));
    upstream.forget();
    let other = keyed(&team, "k").body(r#"{"prompt":"another"}"#);
    assert_eq!(gateway.ask(&other).status, 200);
    assert_eq!(upstream.only_request().header("x-tollgate-hold"), None);
    assert_eq!(standing(&gateway, &team).live, 1);
}
