//! Hold mode over several gateways and reloads, in every place where a balance
//! may stand, and what is counted of it.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::gateway::Builder;
use crate::support::h2_client::{H2Client, H2Req};
use crate::support::holds::{
    cancel, holding, last_hold, read, run_of, run_path, settle, standing, start, started,
    stays_live, task_api, until_live,
};
use crate::support::operator::assert_trouble;
use crate::support::redis::fresh;
use crate::support::request::{TASKS, noise};
use crate::support::wait::{SOON, eventually, secs};
use crate::support::{Gateway, Redis, Req, Upstream};

/// A task API whose runs are always over when they are asked about.
fn quick() -> Upstream {
    Upstream::answering(
        |exchange| match exchange.request.header("x-tollgate-hold") {
            Some(hold) => exchange.json(200, &started(&hold)),
            None => exchange.json(200, r#"{"state":"SUCCEEDED"}"#),
        },
    )
}

/// Waits until any gateway knows the run.
#[track_caller]
fn until_bound(gateway: &Gateway, team: &str, run: &str) {
    eventually(SOON, "the run is bound to its hold", || {
        let told = read(gateway, &format!("/v1/teams/{team}/holds")).json();
        let holds = told["holds"].as_array().expect("holds").clone();
        holds.iter().any(|hold| hold["run"] == run).then_some(())
    });
}

#[test]
fn any_gateway_sees_that_a_run_is_over() {
    let upstream = quick();
    let [first, second] = [(); 2].map(|()| holding(&upstream).start());
    // Even while the first has not told the ledger of the run yet.
    for (how, wait) in [
        ("cancel", true),
        ("watch", true),
        ("cancel", false),
        ("watch", false),
    ] {
        let team = Redis::shared().team("20");
        let run = run_of(&start(&first, &upstream, &team));
        if wait {
            until_bound(&second, &team, &run);
        }
        let request = match how {
            "cancel" => cancel(&run),
            _ => Req::get(&run_path(&run)),
        };
        assert_eq!(second.ask(&request).status, 200);
        until_live(&first, &team, 0);
    }
}

#[test]
fn any_gateway_settles_and_the_next_one_knows() {
    let upstream = task_api();
    let writing = || {
        holding(&upstream)
            .set("balances.writer", "tollgate")
            .start()
    };
    let first = writing();
    let team = Redis::shared().team("50");
    let hold = start(&first, &upstream, &team);
    first.signal("KILL");
    first.wait(SOON);
    let [second, third] = [writing(), writing()];
    assert_eq!(settle(&second, &team, &hold, "5").status, 200);
    assert_eq!(settle(&third, &team, &hold, "5").status, 200);
    assert_eq!(settle(&third, &team, &hold, "6").status, 409);
    assert_eq!(standing(&third, &team).balance, "45");
}

#[test]
fn holds_outlive_a_time_in_lookup_mode() {
    let upstream = task_api();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("40");
    start(&gateway, &upstream, &team);
    let reload = |mode: &str, count: f64| {
        gateway.reload_with("admission.mode", mode);
        eventually(secs(10), "it is reloaded", || {
            (gateway.reloads("ok") == count).then_some(())
        });
    };
    reload("lookup", 1.0);
    for _ in 0..5 {
        upstream.forget();
        assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
        assert_eq!(upstream.only_request().header("x-tollgate-hold"), None);
    }
    reload("hold", 2.0);
    start(&gateway, &upstream, &team);
    assert_eq!(gateway.ask(&Req::start(&team)).status, 403);
    assert_eq!(standing(&gateway, &team).live, 2);
}

#[test]
fn a_balance_in_a_field_is_held_and_debited_there() {
    let (upstream, redis) = (task_api(), Redis::shared());
    let gateway = holding(&upstream)
        .set("balances.field", "spendable")
        .set("balances.writer", "tollgate")
        .start();
    let team = fresh("team");
    let key = format!("credits:{{{team}}}");
    redis.run::<()>(&["HSET", &key, "spendable", "25.5", "other", "7"]);
    let hold = start(&gateway, &upstream, &team);
    assert_eq!(gateway.ask(&Req::start(&team)).status, 403);
    assert_eq!(settle(&gateway, &team, &hold, "5.25").status, 200);
    let fields: Vec<String> = redis.run(&["HMGET", &key, "spendable", "other"]);
    assert_eq!(fields, ["20.25", "7"]);
}

/// A statement of two lines.
fn short_statement(upstream: &Upstream, when_full: &str) -> Builder {
    holding(upstream).set("balances.writer", "tollgate").set(
        "balances.statement",
        json!({"length": 2, "when_full": when_full}),
    )
}

#[test]
fn a_full_statement_is_trimmed() {
    let upstream = task_api();
    let gateway = short_statement(&upstream, "trim").start();
    let team = Redis::shared().team("1000");
    for _ in 0..300 {
        let hold = start(&gateway, &upstream, &team);
        assert_eq!(settle(&gateway, &team, &hold, "1").status, 200);
    }
    assert_eq!(standing(&gateway, &team).balance, "700");
    let told = read(&gateway, &format!("/v1/teams/{team}/statement")).json();
    let lines = told["lines"].as_array().unwrap();
    // Redis trims whole nodes of a hundred lines.
    assert!((2..=202).contains(&lines.len()), "{} lines", lines.len());
    assert_eq!(lines.last().unwrap()["balance"], "700");
}

#[test]
fn a_full_statement_that_may_not_be_trimmed_stops_debits_and_loses_none() {
    let (upstream, redis) = (task_api(), Redis::shared());
    let gateway = short_statement(&upstream, "refuse").start();
    let team = redis.team("1000");
    let holds = [(); 3].map(|()| start(&gateway, &upstream, &team));
    for hold in &holds[..2] {
        assert_eq!(settle(&gateway, &team, hold, "1").status, 200);
    }
    let refused = settle(&gateway, &team, &holds[2], "1");
    // No conflict: billing takes that for settled before.
    assert_trouble(&refused, 503, "resource_unavailable");
    let stream = format!("tollgate:statement:{{{team}}}");
    assert!(refused.text().contains(&stream), "{}", refused.text());
    let now = standing(&gateway, &team);
    assert_eq!((now.balance.as_str(), now.live), ("998", 1));
    // What was settled is still answered, and starts go on.
    assert_eq!(settle(&gateway, &team, &holds[0], "1").status, 200);
    start(&gateway, &upstream, &team);
    redis.run::<()>(&["XTRIM", &stream, "MAXLEN", "0"]);
    assert_eq!(settle(&gateway, &team, &holds[2], "1").status, 200);
    assert_eq!(standing(&gateway, &team).balance, "997");
}

#[test]
fn every_end_is_counted_once_and_what_is_held_shows() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateway = holding(&upstream)
        .redis(&redis)
        .set("routes.1.hold_for", "1s")
        .start();
    let team = redis.team("1000000");
    let [settled, released, _live] = [(); 3].map(|()| start(&gateway, &upstream, &team));
    let expiring = Req::post("/api/v1/agent/runs").team(&team);
    assert_eq!(gateway.ask(&expiring).status, 200);
    for _ in 0..2 {
        assert_eq!(settle(&gateway, &team, &settled, "1").status, 200);
        gateway.ask(&cancel(&run_of(&released)));
    }
    eventually(SOON, "each end is counted", || {
        // Whoever asks finds what is due.
        assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
        let metrics = gateway.metrics();
        let ends = |end: &str| metrics.sum("tollgate_hold_ends_total", &[("end", end)]);
        let all = [ends("settled"), ends("released"), ends("expired")];
        (all == [1.0; 3]).then_some(())
    });
    let now = standing(&gateway, &team);
    eventually(SOON, "what is held shows", || {
        let metrics = gateway.metrics();
        let live = metrics.sum("tollgate_holds", &[("state", "live")]);
        let held = metrics.sum("tollgate_held_credits", &[]);
        (live == now.live as f64 && held.to_string() == now.held).then_some(())
    });
    assert_eq!(
        gateway.metrics().sum("tollgate_hold_drift_credits", &[]),
        0.0
    );
}

#[test]
fn thousands_of_holds_that_are_due_at_once_refuse_nobody() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateway = holding(&upstream)
        .redis(&redis)
        .set("admission.hold", 1)
        .set("admission.hold_for", "6s")
        .start();
    let team = redis.team("3000");
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                for _ in 0..250 {
                    assert_eq!(client.ask(&Req::start(&team)).status, 200);
                }
            });
        }
    });
    let made = Instant::now();
    let refused = gateway.ask(&Req::start(&team));
    // On a machine too slow for this, the first are due already.
    assert!(matches!(refused.status, 200 | 403), "{}", refused.head);
    std::thread::sleep((made + secs(6)).saturating_duration_since(Instant::now()));
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    let live = standing(&gateway, &team).live;
    assert!((1..=2).contains(&live), "{live}");
}

#[test]
fn http_2_starts_share_a_hold_by_their_key_and_arrive_whole() {
    let upstream = task_api();
    let gateway = holding(&upstream)
        .set("server.h2c", true)
        .set("admission.idempotency", "upstream")
        .start();
    let client = H2Client::connect(gateway.http);
    for size in [0, 100, 3_000, 300_000] {
        let (team, body) = (Redis::shared().team("20"), noise(size));
        upstream.forget();
        let mut request = H2Req::new("POST", TASKS)
            .header("x-team-id", &team)
            .header("idempotency-key", "k");
        for piece in body.chunks(1_000) {
            request = request.body(piece);
        }
        for _ in 0..3 {
            assert_eq!(client.ask(&request).status, 200, "{size}");
        }
        let arrived = upstream.requests();
        assert_eq!(arrived.len(), 3);
        assert!(arrived.iter().all(|one| one.body == body), "{size}");
        let hold = last_hold(&upstream, &team);
        let is_hold = |value: Option<String>| value.as_ref() == Some(&hold);
        assert!(
            arrived
                .iter()
                .all(|one| is_hold(one.header("x-tollgate-hold")))
        );
        stays_live(&gateway, &team, 1);
    }
}

#[test]
fn what_is_told_of_holds_is_for_the_token_alone() {
    let upstream = task_api();
    let gateway = holding(&upstream)
        .set("balances.writer", "tollgate")
        .start();
    let team = Redis::shared().team("50");
    start(&gateway, &upstream, &team);
    for path in ["", "/holds", "/statement"] {
        let path = format!("/v1/teams/{team}{path}");
        let answer = gateway.admin(&path);
        assert_eq!(answer.status, 401, "{path}");
        assert!(!answer.text().contains("50"), "{}", answer.text());
        assert_eq!(read(&gateway, &path).status, 200, "{path}");
    }
    let without = holding(&upstream)
        .set("server.admin.token", Value::Null)
        .start();
    let path = format!("/v1/teams/{team}");
    assert!(without.admin(&path).status >= 400, "no token, no access");
    assert!(read(&without, &path).status >= 400, "no token, no access");
}
