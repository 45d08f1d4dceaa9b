//! "I could not find out" is never "you have none": whatever happens to Redis,
//! a start is answered quickly, truthfully, and normally again as soon as can be.

use std::time::Duration;

use crate::support::fake_redis::FakeRedis;
use crate::support::gateway::Builder;
use crate::support::ports::{BlackHole, Refusing};
use crate::support::problem::{assert_insufficient_credits, assert_outage};
use crate::support::redis::fresh;
use crate::support::request::TASKS;
use crate::support::wait::{eventually, millis, secs, timed};
use crate::support::{Client, Gateway, Redis, Req, Upstream};

/// The deadline in these tests, and how much longer an answer may take on a
/// machine that is busy with other tests.
const DEADLINE: &str = "100ms";
const PATIENCE: Duration = Duration::from_millis(600);

fn before(upstream: &Upstream) -> Builder {
    Gateway::before(upstream)
        .set("balances.redis.deadline", DEADLINE)
        .set("balances.redis.probe_interval", "100ms")
}

/// Asks until the answer is an outage; nothing else but `before` may come first.
#[track_caller]
fn becomes_an_outage(client: &mut Client, request: &Req, before: u16) {
    eventually(secs(5), "the outage is noticed", || {
        let (answer, took) = timed(|| client.ask(request));
        assert!(took < PATIENCE, "{took:?}");
        if answer.status == before {
            return None;
        }
        assert_outage(&answer);
        Some(())
    });
}

/// Ten starts in a row are answered as an outage, each within the deadline.
#[track_caller]
fn stays_an_outage(gateway: &Gateway, request: &Req) {
    let mut client = gateway.connect();
    for _ in 0..10 {
        let (answer, took) = timed(|| client.ask(request));
        assert_outage(&answer);
        assert!(took < PATIENCE, "{took:?}");
    }
}

/// The first start after this is served within a second and a bit.
#[track_caller]
fn recovers(gateway: &Gateway, request: &Req) {
    let (_, took) = timed(|| {
        eventually(secs(10), "starts are served again", || {
            let answer = gateway.ask(request);
            assert_ne!(answer.status, 403, "{}", answer.text());
            (answer.status == 200).then_some(())
        })
    });
    assert!(took < millis(1500), "served again after {took:?}");
}

#[test]
fn a_redis_that_is_killed_and_started_again() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = before(&upstream).redis(&redis).start();
    let start = Req::start(&redis.team("5"));
    assert_eq!(gateway.ask(&start).status, 200);
    redis.kill();
    becomes_an_outage(&mut gateway.connect(), &start, 200);
    upstream.forget();
    stays_an_outage(&gateway, &start);
    upstream.assert_untouched();
    let port = redis.port;
    drop(redis);
    let redis = Redis::on_port(port);
    let team = redis.team("5");
    recovers(&gateway, &Req::start(&team));
}

#[test]
fn a_redis_that_freezes_and_thaws() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = before(&upstream).redis(&redis).start();
    let start = Req::start(&redis.team("5"));
    assert_eq!(gateway.ask(&start).status, 200);
    redis.freeze();
    let (answer, took) = timed(|| gateway.ask(&start));
    assert_outage(&answer);
    assert!(took < PATIENCE, "the very first one, too: {took:?}");
    upstream.forget();
    stays_an_outage(&gateway, &start);
    upstream.assert_untouched();
    redis.thaw();
    recovers(&gateway, &start);
}

#[test]
fn a_refusal_is_never_made_of_an_outage() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = before(&upstream).redis(&redis).start();
    let (poor, rich) = (Req::start(&redis.team("0")), Req::start(&redis.team("5")));
    for _ in 0..3 {
        assert_insufficient_credits(&gateway.ask(&poor), TASKS);
        redis.freeze();
        for _ in 0..3 {
            assert_outage(&gateway.ask(&rich));
            assert_outage(&gateway.ask(&poor));
        }
        redis.thaw();
        recovers(&gateway, &rich);
        // Replies that come late belong to requests that were answered long ago.
        for _ in 0..20 {
            assert_eq!(gateway.ask(&poor).status, 403);
            assert_eq!(gateway.ask(&rich).status, 200);
        }
    }
}

#[test]
fn the_breaker_keeps_an_outage_from_costing_each_request_the_deadline() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = Gateway::before(&upstream)
        .redis(&redis)
        .set("balances.redis.deadline", "400ms")
        .start();
    let start = Req::start(&redis.team("5"));
    redis.freeze();
    let mut client = gateway.connect();
    for _ in 0..6 {
        assert_outage(&client.ask(&start));
    }
    let ((), took) = timed(|| (0..20).for_each(|_| assert_outage(&client.ask(&start))));
    assert!(
        took < secs(2),
        "twenty answers without asking took {took:?}"
    );
    assert_eq!(gateway.metrics().sum("tollgate_ledger_up", &[]), 0.0);
    redis.thaw();
    eventually(secs(5), "the ledger is up", || {
        (gateway.metrics().sum("tollgate_ledger_up", &[]) == 1.0).then_some(())
    });
    assert_eq!(client.ask(&start).status, 200);
}

#[test]
fn redis_that_cannot_be_reached_from_the_start() {
    let (refusing, hole) = (Refusing::new(), BlackHole::new());
    for address in [refusing.address, hole.address] {
        let upstream = Upstream::ok();
        let gateway = before(&upstream)
            .set("balances.redis.url", format!("redis://{address}"))
            .start_unready();
        stays_an_outage(&gateway, &Req::start("acme"));
        upstream.assert_untouched();
        assert_eq!(gateway.admin("/readyz").status, 503);
        assert_eq!(gateway.admin("/healthz").status, 200, "the process is fine");
        assert_eq!(
            gateway.ask(&Req::get("/x")).status,
            200,
            "what is not metered passes"
        );
    }
}

#[test]
fn redis_that_comes_up_after_the_gateway() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let port = redis.port;
    drop(redis);
    let gateway = before(&upstream)
        .set("balances.redis.url", format!("redis://127.0.0.1:{port}"))
        .start_unready();
    assert_outage(&gateway.ask(&Req::start("acme")));
    let redis = Redis::on_port(port);
    let start = Req::start(&redis.team("5"));
    recovers(&gateway, &start);
    eventually(secs(5), "it is ready", || {
        (gateway.admin("/readyz").status == 200).then_some(())
    });
}

#[test]
fn redis_that_answers_with_errors_or_garbage() {
    for (name, answer, delay) in [
        (
            "LOADING",
            &b"-LOADING Redis is loading the dataset in memory\r\n"[..],
            0,
        ),
        ("NOAUTH", b"-NOAUTH Authentication required.\r\n", 0),
        (
            "READONLY",
            b"-READONLY You can't write against a read only replica.\r\n",
            0,
        ),
        ("MASTERDOWN", b"-MASTERDOWN Link with MASTER is down\r\n", 0),
        ("NOPERM", b"-NOPERM this user has no permissions\r\n", 0),
        (
            "OOM",
            b"-OOM command not allowed when used memory > 'maxmemory'\r\n",
            0,
        ),
        ("an HTTP server", b"HTTP/1.1 400 Bad Request\r\n\r\n", 0),
        ("bytes", b"\x00\xff\xfe garbage \r\n\r\n", 0),
        ("half an answer", b"$100\r\nabc", 0),
        ("a huge length", b"$999999999999999\r\n", 0),
        ("nothing", b"", 0),
        ("late", b"$1\r\n5\r\n", 1500),
    ] {
        let (upstream, fake) = (Upstream::ok(), FakeRedis::saying(answer, millis(delay)));
        let gateway = before(&upstream)
            .set("balances.redis.url", fake.url())
            .start_unready();
        assert_eq!(gateway.ask(&Req::get("/x")).status, 200);
        upstream.forget();
        for _ in 0..5 {
            let (answer, took) = timed(|| gateway.ask(&Req::start("acme")));
            assert_eq!(
                answer.status,
                503,
                "{name}: {}{}",
                answer.head,
                answer.text()
            );
            assert_outage(&answer);
            assert!(took < PATIENCE, "{name}: {took:?}");
        }
        upstream.assert_untouched();
    }
}

#[test]
fn a_redis_that_starts_to_want_a_password_and_stops_again() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = before(&upstream).redis(&redis).start();
    let start = Req::start(&redis.team("5"));
    assert_eq!(gateway.ask(&start).status, 200);
    redis.run::<()>(&["ACL", "SETUSER", "default", "-get", "-mget", "-@read"]);
    becomes_an_outage(&mut gateway.connect(), &start, 200);
    stays_an_outage(&gateway, &start);
    redis.run::<()>(&["ACL", "SETUSER", "default", "+@all"]);
    recovers(&gateway, &start);
}

#[test]
fn an_emptied_redis_is_lost_and_not_poor_when_there_is_a_canary() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    redis.run::<()>(&["SET", "credits:canary", "1"]);
    let gateway = before(&upstream)
        .redis(&redis)
        .set("balances.canary", "credits:canary")
        .start();
    let (rich, poor) = (redis.team("5"), redis.team("0"));
    assert_eq!(gateway.ask(&Req::start(&rich)).status, 200);
    assert_eq!(gateway.ask(&Req::start(&poor)).status, 403);
    redis.run::<()>(&["FLUSHALL"]);
    upstream.forget();
    for team in [&rich, &poor, &fresh("new")] {
        assert_outage(&gateway.ask(&Req::start(team)));
    }
    upstream.assert_untouched();
    eventually(secs(5), "/readyz tells", || {
        (gateway.admin("/readyz").status == 503).then_some(())
    });
    redis.set_balance(&rich, "5");
    assert_outage(&gateway.ask(&Req::start(&rich)));
    redis.run::<()>(&["SET", "credits:canary", "1"]);
    recovers(&gateway, &Req::start(&rich));
    assert_eq!(
        gateway.ask(&Req::start(&poor)).status,
        403,
        "no balance, and the ledger is whole"
    );
}

#[test]
fn a_route_may_admit_while_redis_is_away() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = before(&upstream)
        .redis(&redis)
        .set("routes.1.on_outage", "admit")
        .start();
    let team = redis.team("0");
    let key = redis.api_key(&["team", &team]);
    assert_eq!(
        gateway
            .ask(&Req::post("/api/v1/agent/runs").team(&team))
            .status,
        403
    );
    redis.kill();
    upstream.forget();
    let answer = gateway.ask(&Req::post("/api/v1/agent/runs").team(&team));
    assert_eq!(answer.status, 200);
    assert_eq!(
        upstream.only_request().header("x-tollgate-team"),
        Some(team.clone())
    );
    assert_outage(&gateway.ask(&Req::start(&team)));
    upstream.forget();
    // A key that cannot be looked up: the team is unknown, and that is said.
    let unseen = fresh("wk-unseen");
    assert_eq!(
        gateway
            .ask(&Req::post("/api/v1/agent/runs").bearer(&unseen))
            .status,
        200
    );
    assert_eq!(upstream.only_request().header("x-tollgate-team"), None);
    assert_outage(&gateway.ask(&Req::post(TASKS).bearer(&key)));
    let metrics = gateway.metrics();
    assert_eq!(
        metrics.sum(
            "tollgate_requests_total",
            &[("verdict", "unknown_admitted")]
        ),
        2.0
    );
    assert_eq!(
        metrics.sum("tollgate_requests_total", &[("verdict", "unknown_refused")]),
        2.0
    );
}

#[test]
fn admitting_in_an_outage_can_be_the_rule_and_refusing_the_exception() {
    let refusing = Refusing::new();
    let upstream = Upstream::ok();
    let gateway = before(&upstream)
        .set(
            "balances.redis.url",
            format!("redis://{}", refusing.address),
        )
        .set("admission.on_outage", "admit")
        .set("routes.0.on_outage", "refuse")
        .start_unready();
    assert_eq!(
        gateway
            .ask(&Req::post("/api/v1/agent/runs").team("acme"))
            .status,
        200
    );
    assert_outage(&gateway.ask(&Req::start("acme")));
    assert_eq!(
        gateway.ask(&Req::post("/api/v1/agent/runs")).status,
        401,
        "an outage is no reason to serve nobody"
    );
}

#[test]
fn in_shadow_an_outage_refuses_nobody() {
    let refusing = Refusing::new();
    let upstream = Upstream::ok();
    let gateway = before(&upstream)
        .set(
            "balances.redis.url",
            format!("redis://{}", refusing.address),
        )
        .set("admission.enforce", false)
        .start_unready();
    assert_eq!(gateway.ask(&Req::start("acme")).status, 200);
}

#[test]
fn a_corrupt_balance_concerns_its_team_alone() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = before(&upstream)
        .set("balances.redis.deadline", "1s")
        .start();
    let rich = redis.team("5");
    let list = fresh("list");
    redis.run::<()>(&["RPUSH", &format!("credits:{{{list}}}"), "1"]);
    let corrupt = [
        "", "ten", "1e3", " 5", "5 ", "5\n", "0x10", "1,000", "NaN", "inf", "--5", "5.5.5", "-",
        ".", "١",
    ];
    let mut teams: Vec<String> = corrupt.iter().map(|balance| redis.team(balance)).collect();
    teams.push(list);
    for (at, team) in teams.iter().enumerate() {
        let answer = gateway.ask(&Req::start(team));
        assert_eq!(
            answer.status,
            503,
            "{:?}: {}",
            corrupt.get(at),
            answer.text()
        );
        assert_outage(&answer);
        assert_eq!(
            gateway.ask(&Req::start(&rich)).status,
            200,
            "after {:?}",
            corrupt.get(at)
        );
    }
    assert_eq!(
        gateway.metrics().sum("tollgate_ledger_up", &[]),
        1.0,
        "it is no outage"
    );
    assert_eq!(gateway.admin("/readyz").status, 200);
    let requests = upstream.requests();
    assert_eq!(requests.len(), teams.len());
    assert!(
        requests
            .iter()
            .all(|request| request.header("x-team-id").as_ref() == Some(&rich))
    );
}

#[test]
fn a_missing_hash_field_is_a_missing_balance() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = before(&upstream)
        .set("balances.redis.deadline", "1s")
        .set("balances.field", "spendable")
        .start();
    let (other, text) = (fresh("other-field"), redis.team("5"));
    redis.run::<()>(&["HSET", &format!("credits:{{{other}}}"), "granted", "5"]);
    assert_eq!(gateway.ask(&Req::start(&other)).status, 403);
    assert_outage(&gateway.ask(&Req::start(&text)));
    upstream.assert_untouched();
}
