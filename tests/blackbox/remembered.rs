//! Refusals that are remembered (`admission.remember_refusals`): the same
//! answer without asking Redis, and never to a team that has paid.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gateway::Builder;
use crate::support::holds::{holding, last_hold, settle, start, task_api};
use crate::support::problem::{assert_insufficient_credits, assert_outage};
use crate::support::redis::fresh;
use crate::support::request::TASKS;
use crate::support::wait::{SOON, eventually};
use crate::support::{Gateway, Redis, Req, Response, Upstream};

/// What a purchase may take to be seen by every gateway.
const PROMISED: Duration = Duration::from_millis(100);

/// A gateway that remembers for as long as it may.
fn remembering(builder: Builder, redis: &Redis) -> Gateway {
    builder
        .set("balances.redis.url", redis.url())
        .set("admission.remember_refusals", "1s")
        .start()
}

/// How many starts were refused from memory.
fn remembered(gateway: &Gateway) -> f64 {
    gateway
        .metrics()
        .sum("tollgate_refusals_remembered_total", &[])
}

/// Asks until it is refused from memory; that answer.
#[track_caller]
fn refused_from_memory(gateway: &Gateway, request: &Req) -> Response {
    let before = remembered(gateway);
    eventually(SOON, "a refusal comes from memory", || {
        let answer = gateway.ask(request);
        assert_eq!(answer.status, 403, "{}{}", answer.head, answer.text());
        (remembered(gateway) > before).then_some(answer)
    })
}

/// The ids of connections that Redis tells of changes.
fn watching(redis: &Redis) -> usize {
    let list: String = redis.run(&["CLIENT", "LIST"]);
    let flags = list.lines().filter_map(|line| {
        let mut words = line.split(' ');
        words.find_map(|word| word.strip_prefix("flags="))
    });
    flags.filter(|flags| flags.contains('t')).count()
}

/// Everything of an answer but when it was given, and its id.
fn shown(answer: &Response) -> (u16, BTreeSet<String>, String) {
    let varies = ["date:", "x-request-id:"];
    let lines = answer.head.lines().map(str::to_lowercase);
    let lines = lines.filter(|line| !varies.iter().any(|name| line.starts_with(name)));
    (answer.status, lines.collect(), answer.text())
}

#[test]
fn a_remembered_refusal_is_a_refusal_like_any_other() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = remembering(Gateway::before(&upstream), &redis);
    let asking = Gateway::before(&upstream)
        .set("balances.redis.url", redis.url())
        .start();
    let teams = [
        (redis.team("0"), "insufficient_credits"),
        (fresh("none"), "no_balance"),
    ];
    for (team, reason) in teams {
        let answer = refused_from_memory(&gateway, &Req::start(&team));
        assert_insufficient_credits(&answer, TASKS);
        assert_eq!(shown(&answer), shown(&asking.ask(&Req::start(&team))));
        let line = gateway.access_line("the line of a remembered refusal", |line| {
            line["team"] == *team && line["remembered"] == true
        });
        assert_eq!(line["verdict"], "refused");
        assert_eq!(line["reason"], reason);
        let metrics = gateway.metrics();
        let refused = metrics.sum("tollgate_refusals_total", &[("reason", reason)]);
        eventually(SOON, "each refusal is an event", || {
            // One of them was the other gateway's.
            let written = redis.refusals(&team).len();
            ((written as f64 - refused - 1.0).abs() < 0.5).then_some(())
        });
        let line = asking.access_line("the line of the one that asks", |line| {
            line["team"] == *team
        });
        assert!(line["remembered"].is_null());
    }
    upstream.assert_untouched();
    let metrics = gateway.metrics();
    let looked_up = metrics.sum("tollgate_ledger_seconds_count", &[]);
    let remembered = metrics.sum("tollgate_refusals_remembered_total", &[]);
    let refused = metrics.sum("tollgate_requests_total", &[("verdict", "refused")]);
    assert!((looked_up + remembered - refused).abs() < 0.5);
    assert!((metrics.sum("tollgate_refusal_memory_up", &[]) - 1.0).abs() < 0.5);
}

#[test]
fn a_purchase_takes_effect_on_every_gateway_in_time() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateways = [(); 2].map(|()| remembering(Gateway::before(&upstream), &redis));
    for round in 0..30 {
        let team = redis.team(if round % 2 == 0 { "0" } else { "-1.5" });
        let request = Req::start(&team);
        let mut clients = gateways.each_ref().map(Gateway::connect);
        for gateway in &gateways {
            refused_from_memory(gateway, &request);
        }
        let key = format!("credits:{{{team}}}");
        match round % 3 {
            0 => redis.run::<()>(&["SET", &key, "20"]),
            1 => redis.run::<()>(&["INCRBYFLOAT", &key, "20"]),
            _ => redis.run::<()>(&["EVAL", "redis.call('INCRBYFLOAT', KEYS[1], 20)", "1", &key]),
        }
        let since = Instant::now();
        while since.elapsed() <= PROMISED {
            std::thread::yield_now();
        }
        // However late it is on this machine: it was asked after the promise.
        for client in &mut clients {
            assert_eq!(client.ask(&request).status, 200, "round {round}");
        }
    }
}

#[test]
fn admitted_starts_always_look() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = remembering(Gateway::before(&upstream), &redis);
    let team = redis.team("20");
    for _ in 0..20 {
        redis.set_balance(&team, "20");
        assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
        redis.set_balance(&team, "0");
        assert_eq!(gateway.ask(&Req::start(&team)).status, 403);
        redis.set_balance(&team, "20");
        let since = Instant::now();
        while since.elapsed() <= PROMISED {
            std::thread::yield_now();
        }
    }
}

#[test]
fn without_the_key_nothing_is_watched_or_remembered() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = Gateway::before(&upstream)
        .set("balances.redis.url", redis.url())
        .start();
    let team = redis.team("0");
    for _ in 0..20 {
        assert_eq!(gateway.ask(&Req::start(&team)).status, 403);
    }
    assert_eq!(watching(&redis), 0);
    let metrics = gateway.metrics();
    for name in [
        "tollgate_refusals_remembered_total",
        "tollgate_refusal_memory_teams",
        "tollgate_refusal_memory_up",
        "tollgate_refusal_memory_faults_total",
    ] {
        assert!(metrics.sum(name, &[]).abs() < 0.5, "{name}");
    }
    // A reload begins and ends it.
    for (value, connections) in [(json!("500ms"), 1), (json!(null), 0)] {
        let reloads = gateway.reloads("ok");
        gateway.reload_with("admission.remember_refusals", value);
        eventually(SOON, "the reload", || {
            (gateway.reloads("ok") > reloads).then_some(())
        });
        eventually(SOON, "so many connections watch", || {
            (watching(&redis) == connections).then_some(())
        });
        if connections > 0 {
            refused_from_memory(&gateway, &Req::start(&team));
        }
    }
}

#[test]
fn explain_says_for_how_long_redis_is_not_asked() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = remembering(Gateway::before(&upstream), &redis);
    let file = gateway.config_file();
    let words = ["explain", "POST", TASKS, "--config", &file];
    let said = crate::support::gateway::tollgate(&words);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let expected = "refused without asking Redis for 1s, or until the balance changes";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn shadow_counts_what_is_remembered_and_forwards_it() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let builder = Gateway::before(&upstream).set("admission.enforce", false);
    let gateway = remembering(builder, &redis);
    let team = redis.team("0");
    let mut asked = 0.0;
    eventually(SOON, "one is remembered", || {
        assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
        asked += 1.0;
        (remembered(&gateway) > 0.0).then_some(())
    });
    let metrics = gateway.metrics();
    let labels = [("reason", "insufficient_credits")];
    let counted = metrics.sum("tollgate_would_refusals_total", &labels);
    assert!((counted - asked).abs() < 0.5, "{counted} of {asked}");
}

#[test]
fn a_frozen_redis_is_an_outage_for_refused_teams_too() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = remembering(Gateway::before(&upstream), &redis);
    let team = redis.team("0");
    refused_from_memory(&gateway, &Req::start(&team));
    redis.freeze();
    let answer = eventually(SOON, "it is not refused any more", || {
        let answer = gateway.ask(&Req::start(&team));
        (answer.status != 403).then_some(answer)
    });
    assert_outage(&answer);
    redis.thaw();
    upstream.assert_untouched();
}

#[test]
fn a_user_that_may_not_watch_is_told_what_to_do_once() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    redis.run::<()>(&[
        "ACL",
        "SETUSER",
        "ann",
        "on",
        ">pass",
        "~*",
        "+@all",
        "-client|tracking",
    ]);
    let url = redis.url().replace("://", "://ann:pass@");
    let gateway = Gateway::before(&upstream)
        .set("balances.redis.url", url)
        .set("admission.remember_refusals", "1s")
        .start();
    let team = redis.team("0");
    let line = gateway.says("refusals are not remembered");
    assert!(line.contains("+client|tracking +info"), "{line}");
    for _ in 0..20 {
        assert_eq!(gateway.ask(&Req::start(&team)).status, 403);
    }
    assert!(remembered(&gateway).abs() < 0.5);
    let metrics = gateway.metrics();
    assert!(metrics.sum("tollgate_refusal_memory_up", &[]).abs() < 0.5);
    assert!(metrics.sum("tollgate_refusal_memory_faults_total", &[]) > 0.5);
    redis.set_balance(&team, "20");
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    let lines = gateway.stderr.all();
    let said = lines.iter().filter(|line| line.contains("not remembered"));
    assert_eq!(said.count(), 1);
}

/// A gateway in hold mode that remembers, where replays share a hold.
fn remembering_holds(upstream: &Upstream, redis: &Redis) -> Gateway {
    let builder = holding(upstream)
        .set("admission.idempotency", "upstream")
        .set("balances.writer", "tollgate");
    remembering(builder, redis)
}

#[test]
fn a_replay_of_an_admitted_start_is_admitted_though_nothing_is_left() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateway = remembering_holds(&upstream, &redis);
    let team = redis.team("20");
    let keyed = Req::start(&team).header("Idempotency-Key", "first");
    assert_eq!(gateway.ask(&keyed).status, 200);
    let hold = last_hold(&upstream, &team);
    redis.set_balance(&team, "0");
    for _ in 0..20 {
        refused_from_memory(&gateway, &Req::start(&team));
        assert_eq!(gateway.ask(&keyed).status, 200);
        assert_eq!(last_hold(&upstream, &team), hold);
        let other = Req::start(&team).header("Idempotency-Key", "other");
        assert_eq!(gateway.ask(&other).status, 403);
    }
}

#[test]
fn credits_that_are_held_are_not_remembered_and_debits_and_grants_are_heard_of() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateway = remembering_holds(&upstream, &redis);
    let team = redis.team("30");
    let hold = start(&gateway, &upstream, &team);
    for _ in 0..20 {
        // 10 are left: held, and below a hold once that is over.
        assert_eq!(gateway.ask(&Req::start(&team)).status, 403);
    }
    assert!(remembered(&gateway).abs() < 0.5);
    assert_eq!(settle(&gateway, &team, &hold, "30").status, 200);
    refused_from_memory(&gateway, &Req::start(&team));
    let file = gateway.config_file();
    for _ in 0..3 {
        let grant = ["balance", "grant", &team, "25", "--config", &file];
        let granted = crate::support::gateway::tollgate(&grant);
        assert!(granted.status.success(), "{granted:?}");
        let since = Instant::now();
        while since.elapsed() <= PROMISED {
            std::thread::yield_now();
        }
        let hold = start(&gateway, &upstream, &team);
        assert_eq!(settle(&gateway, &team, &hold, "25").status, 200);
        refused_from_memory(&gateway, &Req::start(&team));
    }
}
