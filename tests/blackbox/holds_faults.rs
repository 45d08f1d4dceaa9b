//! When Redis is slow, forgets, lies or loses a reply, no hold is made twice
//! and none stays that nobody asked for any more.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;

use crate::support::gateway::Builder;
use crate::support::holds::{
    assert_sound, charge, holding, settle, standing, start, stays_live, task_api, until_live,
};
use crate::support::lossy::{Lossy, Then};
use crate::support::problem::assert_outage;
use crate::support::wait::{SOON, eventually, millis, secs, timed};
use crate::support::{Gateway, Redis, Req, Upstream};

/// With a Redis of its own and a short deadline.
fn hasty(upstream: &Upstream, redis: &Redis) -> Builder {
    holding(upstream)
        .redis(redis)
        .set("balances.redis.deadline", "200ms")
}

/// Waits until Redis is asked again after an outage.
#[track_caller]
fn until_admitted(gateway: &Gateway, team: &str) {
    eventually(SOON, "starts are admitted again", || {
        (gateway.ask(&Req::start(team)).status == 200).then_some(())
    });
}

#[test]
fn starts_given_up_while_redis_was_frozen_hold_nothing() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateway = hasty(&upstream, &redis).start();
    let team = redis.team("1000000");
    let first = start(&gateway, &upstream, &team);
    upstream.forget();
    for _ in 0..3 {
        redis.freeze();
        let statuses = std::thread::scope(|scope| {
            let ask = || {
                let (answer, took) = timed(|| gateway.ask(&Req::start(&team)));
                assert!(took < secs(2), "a wait has a deadline: {took:?}");
                answer
            };
            let all: Vec<_> = (0..24).map(|_| scope.spawn(ask)).collect();
            all.into_iter()
                .map(|one| one.join().unwrap())
                .collect::<Vec<_>>()
        });
        for answer in &statuses {
            assert_outage(answer);
        }
        redis.thaw();
        upstream.assert_untouched();
    }
    until_live(&gateway, &team, 1);
    stays_live(&gateway, &team, 1);
    assert_eq!(settle(&gateway, &team, &first, "1").status, 200);
    until_admitted(&gateway, &team);
    let admitted = upstream.requests().len();
    until_live(&gateway, &team, admitted as u64);
    assert_sound(&gateway, &team);
}

#[test]
fn what_redis_comes_to_too_late_holds_nothing_even_if_nobody_is_left_to_say_so() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let build = || {
        let patient = hasty(&upstream, &redis);
        patient.set("balances.redis.deadline", "1s")
    };
    let gateway = build().start();
    let team = redis.team("1000000");
    start(&gateway, &upstream, &team);
    redis.freeze();
    let began = Instant::now();
    let waiting: Vec<_> = (0..12)
        .map(|_| {
            let mut client = gateway.connect();
            client.send(Req::start(&team).bytes());
            client
        })
        .collect();
    eventually(SOON, "they wait for Redis", || {
        let in_flight = gateway.metrics().sum("tollgate_requests_in_flight", &[]);
        (in_flight >= 12.0).then_some(())
    });
    gateway.signal("KILL");
    gateway.wait(SOON);
    drop(waiting);
    std::thread::sleep((began + millis(1500)).saturating_duration_since(Instant::now()));
    redis.thaw();
    let next = build().start();
    until_live(&next, &team, 1);
    stays_live(&next, &team, 1);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn held_is_what_was_admitted_after_any_number_of_stalls() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateway = hasty(&upstream, &redis).start();
    let team = redis.team("1000000000");
    let (over, admitted) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                while !over.load(Ordering::SeqCst) {
                    let answer = client.ask(&Req::start(&team));
                    match answer.status {
                        200 => _ = admitted.fetch_add(1, Ordering::SeqCst),
                        _ => assert_outage(&answer),
                    }
                }
            });
        }
        for pause in [50, 190, 200, 210, 230, 400, 150, 600] {
            std::thread::sleep(millis(150));
            redis.freeze();
            std::thread::sleep(millis(pause));
            redis.thaw();
        }
        eventually(SOON, "starts are admitted again", || {
            let before = admitted.load(Ordering::SeqCst);
            std::thread::sleep(millis(50));
            (admitted.load(Ordering::SeqCst) > before).then_some(())
        });
        over.store(true, Ordering::SeqCst);
    });
    let admitted = admitted.load(Ordering::SeqCst);
    assert_eq!(upstream.requests().len(), admitted);
    let exact = admitted as u64;
    until_live(&gateway, &team, exact);
    stays_live(&gateway, &team, exact);
    assert_eq!(
        standing(&gateway, &team).held,
        (admitted * 20).to_string(),
        "20 each"
    );
    assert_sound(&gateway, &team);
}

/// One start whose reply is lost: it was answered with these statuses.
fn with_a_lost_reply(then: Then, on_outage: &str) {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let wire = Lossy::before(&redis);
    let gateway = hasty(&upstream, &redis)
        .set("balances.redis.url", wire.url())
        .set("admission.on_outage", on_outage)
        .start();
    let team = redis.team("1000");
    start(&gateway, &upstream, &team);
    upstream.forget();
    for _ in 0..4 {
        let lost = wire.lost();
        let live = standing(&gateway, &team).live;
        wire.lose(&team, 1, then);
        let answer = gateway.ask(&Req::start(&team));
        assert_eq!(wire.lost(), lost + 1, "a reply was lost");
        let arrived = upstream.requests();
        let held = arrived.iter().filter_map(|r| r.header("x-tollgate-hold"));
        // Resent with the same id it is held once; given up, not at all.
        let expected = live + held.count() as u64;
        upstream.forget();
        match (answer.status, on_outage) {
            (200, _) => assert_eq!(arrived.len(), 1),
            (_, "refuse") => {
                assert_outage(&answer);
                assert!(arrived.is_empty());
            }
            _ => panic!("{}", answer.head),
        }
        until_live(&gateway, &team, expected);
        stays_live(&gateway, &team, expected);
        until_admitted(&gateway, &team);
        upstream.forget();
    }
    assert_sound(&gateway, &team);
}

#[test]
fn a_lost_reply_leaves_no_hold_behind() {
    with_a_lost_reply(Then::Close, "refuse");
}

#[test]
fn a_reply_that_never_comes_leaves_no_hold_behind() {
    with_a_lost_reply(Then::Hang, "refuse");
}

#[test]
fn a_start_admitted_without_its_reply_leaves_no_hold_behind() {
    with_a_lost_reply(Then::Hang, "admit");
}

#[test]
fn a_settlement_whose_reply_was_lost_debits_once() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let wire = Lossy::before(&redis);
    let gateway = hasty(&upstream, &redis)
        .set("balances.redis.url", wire.url())
        .set("balances.writer", "tollgate")
        .start();
    for then in [Then::Close, Then::Hang] {
        let team = redis.team("100");
        let hold = start(&gateway, &upstream, &team);
        for (part, balance) in [("c", "97"), ("s", "90")] {
            let change = || match part {
                "c" => charge(&gateway, &team, &hold, "3", "c1"),
                _ => settle(&gateway, &team, &hold, "7"),
            };
            let lost = wire.lost();
            wire.lose(&team, 1, then);
            let answer = change();
            assert_eq!(wire.lost(), lost + 1, "a reply was lost");
            assert!(matches!(answer.status, 200 | 503), "{}", answer.head);
            eventually(SOON, "made again, it is answered as done", || {
                (change().status == 200).then_some(())
            });
            assert_eq!(redis.balance(&team), balance, "{then:?} {part}");
        }
    }
}

#[test]
fn a_redis_that_forgot_the_scripts_is_told_them_again() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateway = holding(&upstream).redis(&redis).start();
    let team = redis.team("1000");
    for live in 1..6 {
        start(&gateway, &upstream, &team);
        redis.run::<()>(&["SCRIPT", "FLUSH"]);
        assert_eq!(standing(&gateway, &team).live, live);
    }
    let hold = start(&gateway, &upstream, &team);
    redis.run::<()>(&["SCRIPT", "FLUSH"]);
    assert_eq!(settle(&gateway, &team, &hold, "1").status, 200);
}

#[test]
fn a_schema_of_the_future_is_met_with_a_refusal_to_start() {
    let upstream = task_api();
    for schema in ["2", "99", "", "one"] {
        let redis = Redis::private(&[]);
        redis.run::<()>(&["SET", "tollgate:schema", schema]);
        let gateway = holding(&upstream).redis(&redis).launch();
        assert_eq!(gateway.wait(secs(15)).code(), Some(1), "{schema:?}");
        gateway.says("tollgate:schema");
        assert_eq!(redis.run::<usize>(&["DBSIZE"]), 1, "nothing was written");
        assert_eq!(redis.run::<String>(&["GET", "tollgate:schema"]), schema);
    }
}

#[test]
fn the_schema_is_written_by_the_first() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateways = [(); 2].map(|()| holding(&upstream).redis(&redis).start());
    assert_eq!(redis.run::<String>(&["GET", "tollgate:schema"]), "1");
    let team = redis.team("100");
    for gateway in &gateways {
        start(gateway, &upstream, &team);
    }
}

#[test]
fn keys_of_the_wrong_type_concern_their_team_alone() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateway = holding(&upstream).redis(&redis).start();
    for key in ["holds", "due", "done"] {
        let team = redis.team("100");
        let key = format!("tollgate:{key}:{{{team}}}");
        redis.run::<()>(&["SET", &key, "what is this"]);
        let answer = gateway.ask(&Req::start(&team));
        // The one that is not needed for it may go unnoticed.
        assert!(matches!(answer.status, 200 | 503), "{key}: {}", answer.head);
        if answer.status == 503 {
            assert_outage(&answer);
        }
        assert_eq!(redis.run::<String>(&["GET", &key]), "what is this");
        start(&gateway, &upstream, &redis.team("20"));
    }
}

#[test]
fn a_flushed_redis_is_a_ledger_without_balances() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateway = holding(&upstream)
        .redis(&redis)
        .set("balances.canary", "credits:canary")
        .set("balances.missing", json!("admit"));
    redis.run::<()>(&["SET", "credits:canary", "1"]);
    let gateway = gateway.start();
    let team = redis.team("100");
    start(&gateway, &upstream, &team);
    upstream.forget();
    redis.run::<()>(&["FLUSHALL"]);
    assert_outage(&gateway.ask(&Req::start(&team)));
    upstream.assert_untouched();
}
