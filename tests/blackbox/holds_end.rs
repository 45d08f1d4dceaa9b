//! What ends a hold by itself, and what keeps it until its time is up.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::holds::{
    assert_credits_held, cancel, holding, holding_before, run_of, standing, start, started,
    stays_live, task_api, until_live,
};
use crate::support::ports::{BlackHole, Refusing};
use crate::support::request::TASKS;
use crate::support::upstream::{After, Exchange};
use crate::support::wait::{eventually, millis, secs};
use crate::support::{Gateway, Redis, Req, Upstream};

/// How long a hold lives where a test waits for its end.
const SHORT: &str = "2s";

/// An upstream that does to a start what its `x-case` says.
fn moody() -> Upstream {
    Upstream::answering(|exchange| {
        exchange.read_body()?;
        let case = exchange.request.header("x-case").unwrap_or_default();
        misbehave(exchange, &case)
    })
}

fn misbehave(exchange: &mut Exchange, case: &str) -> std::io::Result<After> {
    match case.parse::<u16>() {
        Ok(200) => {
            let hold = exchange.request.header("x-tollgate-hold");
            return exchange.json(200, &started(&hold.unwrap_or_default()));
        }
        Ok(status) => return exchange.json(status, r#"{"error":"no"}"#),
        Err(_) => {}
    }
    match case {
        "silence" => drop(exchange.take(1)),
        "close" => {}
        "half a head" => exchange.send(b"HTTP/1.1 200 OK\r\nContent-")?,
        "no http" => exchange.send(b"bananas bananas bananas\r\n\r\n")?,
        "half a body" => exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"run")?,
        other => panic!("no such case: {other}"),
    }
    Ok(After::Close)
}

#[test]
fn a_start_that_was_never_sent_is_released() {
    let (refusing, hole) = (Refusing::new(), BlackHole::new());
    for address in [refusing.address, hole.address] {
        let gateway = holding_before(address)
            .set("upstream.connect_timeout", "300ms")
            .start();
        let team = Redis::shared().team("20");
        for _ in 0..2 {
            let answer = gateway.ask(&Req::start(&team));
            assert!(matches!(answer.status, 502 | 503), "{}", answer.head);
            until_live(&gateway, &team, 0);
        }
        assert_eq!(standing(&gateway, &team).spendable, "20");
    }
}

#[test]
fn another_address_is_tried_with_the_same_hold() {
    let (refusing, upstream) = (Refusing::new(), task_api());
    let addresses = [refusing.address, upstream.address].map(|a| a.to_string());
    let gateway = holding(&upstream)
        .set("upstream.addresses", json!(addresses))
        .start();
    let team = Redis::shared().team("1000");
    let admitted = (0..20)
        .filter(|_| gateway.ask(&Req::start(&team)).status == 200)
        .count();
    assert!(admitted > 0);
    assert_eq!(upstream.requests().len(), admitted);
    until_live(&gateway, &team, admitted as u64);
}

#[test]
fn a_start_that_the_upstream_refused_is_released() {
    let upstream = moody();
    let gateway = holding(&upstream).start();
    for status in ["400", "404", "409", "422", "429"] {
        let team = Redis::shared().team("20");
        let answer = gateway.ask(&Req::start(&team).header("X-Case", status));
        assert_eq!(answer.status.to_string(), status);
        assert_eq!(answer.text(), r#"{"error":"no"}"#, "untouched");
        until_live(&gateway, &team, 0);
    }
}

#[test]
fn what_is_to_be_released_is_released_before_the_end() {
    let upstream = moody();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("1000000");
    let mut client = gateway.connect();
    for _ in 0..50 {
        let answer = client.ask(&Req::start(&team).header("X-Case", "422"));
        assert_eq!(answer.status, 422);
    }
    gateway.signal("TERM");
    assert_eq!(gateway.wait(secs(10)).code(), Some(0));
    let next = holding(&upstream).start();
    assert_eq!(standing(&next, &team).live, 0);
}

#[test]
fn what_is_to_be_released_is_released_after_an_outage() {
    let redis = Arc::new(Redis::private(&[]));
    let frozen = Arc::clone(&redis);
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        frozen.freeze();
        exchange.json(422, "{}")
    });
    let gateway = holding(&upstream)
        .redis(&redis)
        .set("balances.redis.deadline", "100ms")
        .start();
    let team = redis.team("20");
    assert_eq!(gateway.ask(&Req::start(&team)).status, 422);
    eventually(secs(10), "the ledger counts as lost", || {
        let up = gateway.metrics().sum("tollgate_ledger_up", &[]);
        (up == 0.0).then_some(())
    });
    redis.thaw();
    until_live(&gateway, &team, 0);
}

#[test]
fn the_operator_says_which_statuses_release() {
    let upstream = moody();
    let gateway = holding(&upstream)
        .set("admission.release_on", json!([503, "3xx"]))
        .set("routes.1.release_on", json!([409]))
        .start();
    for (target, status, live) in [
        (TASKS, "503", 0),
        (TASKS, "302", 0),
        (TASKS, "409", 1),
        (TASKS, "500", 1),
        ("/api/v1/agent/runs", "409", 0),
        ("/api/v1/agent/runs", "503", 1),
        ("/api/v1/agent/runs", "404", 1),
    ] {
        let team = Redis::shared().team("20");
        let request = Req::post(target).team(&team).header("X-Case", status);
        assert_eq!(gateway.ask(&request).status.to_string(), status);
        match live {
            0 => until_live(&gateway, &team, 0),
            _ => stays_live(&gateway, &team, 1),
        }
    }
}

/// Everything that may have begun a run although nobody heard of it.
const UNKNOWN: &[&str] = &[
    "500",
    "503",
    "silence",
    "close",
    "half a head",
    "no http",
    "half a body",
];

#[test]
fn what_may_have_begun_a_run_is_held_until_its_time_is_up() {
    let upstream = moody();
    let gateway = holding(&upstream)
        .set("admission.hold_for", SHORT)
        .set("upstream.read_timeout", "300ms")
        .start();
    std::thread::scope(|scope| {
        for case in UNKNOWN {
            let gateway = &gateway;
            scope.spawn(move || held_until_its_time_is_up(gateway, case));
        }
    });
}

#[track_caller]
fn held_until_its_time_is_up(gateway: &Gateway, case: &str) {
    let team = Redis::shared().team("20");
    let began = Instant::now();
    let mut client = gateway.connect();
    client.send(Req::start(&team).header("X-Case", case).bytes());
    if let Ok(answer) = client.try_response() {
        assert!(answer.status >= 500, "{case}: {}", answer.head);
    }
    let again = Req::start(&team).header("X-Case", "200");
    let free = eventually(secs(10), "the credits are free again", || {
        let answer = gateway.ask(&again);
        if answer.status == 403 {
            assert_credits_held(&answer);
            return None;
        }
        assert_eq!(answer.status, 200, "{case}: {}", answer.text());
        Some(began.elapsed())
    });
    assert!(free >= secs(2), "{case}: free after {free:?}");
}

#[test]
fn a_client_that_went_away_leaves_its_hold() {
    let upstream = moody();
    let gateway = holding(&upstream).set("admission.hold_for", SHORT).start();
    let team = Redis::shared().team("20");
    let began = Instant::now();
    let mut client = gateway.connect();
    client.send(Req::start(&team).header("X-Case", "silence").bytes());
    eventually(secs(5), "the start is at the upstream", || {
        upstream.requests().iter().any(|r| r.complete).then_some(())
    });
    drop(client);
    stays_live(&gateway, &team, 1);
    let again = Req::start(&team).header("X-Case", "200");
    eventually(secs(10), "the credits are free again", || {
        (gateway.ask(&again).status == 200).then_some(())
    });
    assert!(began.elapsed() >= secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_killed_gateway_leaves_its_holds_to_the_others() {
    let upstream = moody();
    let build = || holding(&upstream).set("admission.hold_for", "3s");
    let gateway = build().start();
    let team = Redis::shared().team("20");
    let began = Instant::now();
    let mut client = gateway.connect();
    client.send(Req::start(&team).header("X-Case", "silence").bytes());
    eventually(secs(5), "the start is at the upstream", || {
        (!upstream.requests().is_empty()).then_some(())
    });
    gateway.signal("KILL");
    gateway.wait(secs(5));
    let next = build().start();
    let again = Req::start(&team).header("X-Case", "200");
    if began.elapsed() < millis(2500) {
        assert_credits_held(&next.ask(&again));
    }
    eventually(secs(10), "the credits are free again", || {
        (next.ask(&again).status == 200).then_some(())
    });
    assert!(began.elapsed() >= secs(3), "{:?}", began.elapsed());
}

#[test]
fn a_cancel_that_succeeded_frees_the_credits() {
    let upstream = task_api();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("20");
    for _ in 0..3 {
        let hold = start(&gateway, &upstream, &team);
        assert_eq!(gateway.ask(&cancel(&run_of(&hold))).status, 200);
        until_live(&gateway, &team, 0);
    }
    assert_eq!(gateway.ask(&cancel("run-unheard-of")).status, 200);
}

#[test]
fn a_cancel_that_failed_frees_nothing() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        let hold = exchange.request.header("x-tollgate-hold");
        let case = exchange.request.header("x-case").unwrap_or_default();
        match (hold, case.parse()) {
            (Some(hold), _) => exchange.json(200, &started(&hold)),
            (None, Ok(status)) => exchange.json(status, "{}"),
            (None, Err(_)) => Ok(After::Close),
        }
    });
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("20");
    let run = run_of(&start(&gateway, &upstream, &team));
    for case in ["302", "400", "404", "409", "500", "503", "close"] {
        gateway.ask(&cancel(&run).header("X-Case", case));
    }
    stays_live(&gateway, &team, 1);
    assert_eq!(
        gateway.ask(&cancel(&run).header("X-Case", "202")).status,
        202
    );
    until_live(&gateway, &team, 0);
}

#[test]
fn a_cancel_in_another_spelling_passes_and_frees_nothing() {
    let upstream = task_api();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("20");
    let run = run_of(&start(&gateway, &upstream, &team));
    for target in [
        format!("/api/v1/agent/runs/{run}/Cancel"),
        format!("/api/v1/agent/runs/{run}/cancel/"),
        format!("/api/v1/agent/runs/{run}//cancel"),
        format!("/api/v1/agent/runs/{run}/%63ancel"),
        format!("/api/v1/agent/runs/{run}/x/../cancel"),
        format!("/api/v1/agent/runs/{run};v=1/cancel"),
        format!("/api/v1/agent/runs/{run}/cancel;v=1"),
        format!("/api/v1/agent/runs/{run}%2Fcancel"),
        format!("//api/v1/agent/runs/{run}/cancel"),
    ] {
        upstream.forget();
        let answer = gateway.ask(&Req::post(&target).team(&team));
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        assert_eq!(upstream.only_request().target(), target);
    }
    let get = Req::get(&format!("/api/v1/agent/runs/{run}/cancel"));
    assert_eq!(gateway.ask(&get).status, 200);
    stays_live(&gateway, &team, 1);
    // A query is no part of the path.
    let asked = Req::post(&format!("/api/v1/agent/runs/{run}/cancel?force=1"));
    assert_eq!(gateway.ask(&asked).status, 200);
    until_live(&gateway, &team, 0);
}

#[test]
fn a_run_whose_answer_names_it_elsewhere_is_found_there() {
    let upstream = Upstream::answering(|exchange| {
        let hold = exchange.request.all("x-tollgate-hold").concat();
        let body = json!({"run_id": "no", "data": [{"a/b": run_of(&hold)}]});
        exchange.json(202, &body.to_string())
    });
    let gateway = holding(&upstream)
        .set("admission.run_id", "/data/0/a~1b")
        .start();
    let team = Redis::shared().team("20");
    let hold = start_any(&gateway, &team);
    gateway.ask(&cancel("no"));
    stays_live(&gateway, &team, 1);
    gateway.ask(&cancel(&run_of(&hold(&upstream))));
    until_live(&gateway, &team, 0);
}

/// A start with whatever success; how to find its hold.
fn start_any(gateway: &Gateway, team: &str) -> impl FnOnce(&Upstream) -> String {
    assert!(gateway.ask(&Req::start(team)).status < 300);
    let team = team.to_owned();
    move |upstream| crate::support::holds::last_hold(upstream, &team)
}

#[test]
fn an_answer_that_names_no_run_harms_nothing() {
    for body in [
        "",
        "{",
        "[]",
        "null",
        r#"{"run_id":null}"#,
        r#"{"run_id":{"a":1}}"#,
        r#"{"run_id":""}"#,
        r#"{"run_id":"two words"}"#,
    ] {
        let upstream = Upstream::answering(move |exchange| exchange.json(200, body));
        let gateway = holding(&upstream).start();
        let team = Redis::shared().team("20");
        let answer = gateway.ask(&Req::start(&team));
        assert_eq!((answer.status, answer.text().as_str()), (200, body));
        stays_live(&gateway, &team, 1);
        assert_eq!(gateway.ask(&Req::get("/x")).status, 200);
    }
}

#[test]
fn ends_and_watch_need_a_run_in_their_path() {
    let upstream = Upstream::ok();
    for wrong in [
        json!({"ends": "POST /api/v1/agent/runs/{id}/cancel"}),
        json!({"watch": "GET /api/v1/agent/runs"}),
        json!({"ends": "POST /x/{run}", "start": "POST /x/{run}"}),
        json!({"trigger": "api"}),
    ] {
        let routes: Value = json!([{"start": "POST /api/v1/agent/tasks"}, wrong]);
        let gateway = holding(&upstream).set("routes", routes).launch();
        assert_eq!(gateway.wait(secs(10)).code(), Some(64), "{wrong}");
    }
}
