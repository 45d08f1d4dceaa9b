//! Who pays is found out from what can be believed, and from nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::support::fake_redis::FakeRedis;
use crate::support::problem::{
    assert_insufficient_credits, assert_invalid, assert_outage, assert_problem,
};
use crate::support::redis::{api_key_hash, fresh};
use crate::support::request::TASKS;
use crate::support::wait::{eventually, millis, secs, timed};
use crate::support::{Client, Gateway, Redis, Req, Upstream};

fn start() -> Req {
    Req::post(TASKS)
}

#[track_caller]
fn assert_unauthenticated(answer: &crate::support::Response) {
    assert_problem(answer, 401, "authentication_required", Some("false"));
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer"),
        "{}",
        answer.head
    );
}

#[test]
fn the_header_is_believed_only_from_listed_peers() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream)
        .set(
            "identity",
            json!([{"header": {"name": "x-team-id", "from": ["127.0.0.2/32", "127.0.5.0/24"]}}]),
        )
        .start();
    let team = redis.team("5");
    for (source, status) in [
        ("127.0.0.2", 200),
        ("127.0.5.77", 200),
        ("127.0.0.1", 401),
        ("127.0.6.1", 401),
    ] {
        let answer = Client::connect_from(source, gateway.http).ask(&Req::start(&team));
        assert_eq!(answer.status, status, "{source}");
    }
    let spoofed = Req::start(&team).header("X-Forwarded-For", "127.0.0.2");
    assert_unauthenticated(&Client::connect_from("127.0.0.1", gateway.http).ask(&spoofed));
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_forwarded_address_does_not_make_a_peer_listed() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream)
        .set("server.trusted_proxies", json!(["127.0.0.1/32"]))
        .set(
            "identity",
            json!([{"header": {"name": "x-team-id", "from": ["127.0.0.2/32"]}}]),
        )
        .start();
    let request = Req::start(&redis.team("5")).header("X-Forwarded-For", "127.0.0.2");
    assert_unauthenticated(&Client::connect_from("127.0.0.1", gateway.http).ask(&request));
    upstream.assert_untouched();
}

#[test]
fn a_header_that_is_not_believed_is_not_forwarded_on_start_routes() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream)
        .set(
            "identity",
            json!([{"header": {"name": "x-team-id", "from": ["127.0.0.2/32"]}}, {"api_key": {}}]),
        )
        .start();
    let (payer, other) = (redis.team("5"), redis.team("5"));
    let key = redis.api_key(&["team", &payer]);
    let answer =
        Client::connect_from("127.0.0.1", gateway.http).ask(&start().bearer(&key).team(&other));
    assert_eq!(answer.status, 200);
    let request = upstream.only_request();
    assert_eq!(request.header("x-team-id"), None);
    assert_eq!(request.header("x-tollgate-team"), Some(payer));
}

#[test]
fn nobody_is_answered_401() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    assert_unauthenticated(&gateway.ask(&start()));
    assert_unauthenticated(&gateway.ask(&start().bearer("wk-never-issued")));
    upstream.assert_untouched();
}

#[test]
fn credentials_of_another_form_are_not_a_key() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let key = Redis::shared().api_key(&["team", &Redis::shared().team("5")]);
    for value in [
        "Basic dXNlcjpwYXNz",
        "Bearer",
        "Bearer ",
        &format!("Bearer{key}"),
        &format!("Token {key}"),
        &key,
    ] {
        let answer = gateway.ask(&start().header("Authorization", value));
        assert!(
            matches!(answer.status, 400 | 401),
            "{value}: {}",
            answer.head
        );
    }
    upstream.assert_untouched();
    assert_eq!(
        gateway
            .ask(&start().header("Authorization", &format!("bearer {key}")))
            .status,
        200,
        "the scheme has no case"
    );
}

#[test]
fn an_agent_key_is_paid_for_by_its_team() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let (rich, poor) = (redis.team("5"), redis.team("0"));
    let answer = gateway.ask(&start().bearer(&redis.api_key(&["team", &poor])));
    assert_insufficient_credits(&answer, TASKS);
    upstream.assert_untouched();
    let key = redis.api_key(&["team", &rich, "principal", "ci-bot"]);
    assert_eq!(
        gateway
            .ask(&start().bearer(&key).header("X-Warp-Team-Uid", &poor))
            .status,
        200,
        "ignored for agent keys"
    );
    let request = upstream.only_request();
    assert_eq!(request.header("x-tollgate-team"), Some(rich));
    assert_eq!(
        request.header("x-tollgate-principal").as_deref(),
        Some("ci-bot")
    );
    assert_eq!(
        request.header("authorization"),
        Some(format!("Bearer {key}")),
        "the upstream checks it again"
    );
}

#[test]
fn a_personal_key_picks_one_of_its_teams() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let (first, second, outside) = (redis.team("5"), redis.team("0"), redis.team("5"));
    let key = redis.api_key(&["teams", &format!("{first} {second}"), "team", &first]);
    let pick = |team: &str| gateway.ask(&start().bearer(&key).header("X-Warp-Team-Uid", team));
    assert_eq!(
        gateway.ask(&start().bearer(&key)).status,
        200,
        "the default pays"
    );
    assert_eq!(pick(&first).status, 200);
    assert_eq!(upstream.requests().len(), 2);
    assert_insufficient_credits(&pick(&second), TASKS);
    assert_problem(&pick(&outside), 403, "not_authorized", Some("false"));
    assert_problem(
        &pick(&fresh("unheard-of")),
        403,
        "not_authorized",
        Some("false"),
    );
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_personal_key_without_a_default_has_to_pick() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let team = redis.team("5");
    let key = redis.api_key(&["teams", &format!("{team} another")]);
    let answer = gateway.ask(&start().bearer(&key));
    assert!(matches!(answer.status, 400 | 401 | 403), "{}", answer.head);
    assert!(!answer.text().contains("insufficient"), "{}", answer.text());
    upstream.assert_untouched();
    assert_eq!(
        gateway
            .ask(&start().bearer(&key).header("X-Warp-Team-Uid", &team))
            .status,
        200
    );
}

#[test]
fn what_is_no_team_id_is_answered_400() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let long = "x".repeat(129);
    for team in [
        "-acme", "a b", "a/b", "a{b", "a}{b", "ac\u{e9}", "_x", "a*", &long,
    ] {
        assert_invalid(&gateway.ask(&Req::start(team)));
    }
    let key = Redis::shared().api_key(&["teams", "one two"]);
    assert_invalid(&gateway.ask(&start().bearer(&key).header("X-Warp-Team-Uid", "o{ne")));
    upstream.assert_untouched();
    let team = format!("{}_.:@-{}", fresh("Odd"), "x".repeat(100));
    Redis::shared().set_balance(&team, "1");
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
}

#[test]
fn the_first_identity_that_applies_decides() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let (rich, poor) = (redis.team("5"), redis.team("0"));
    let key = redis.api_key(&["team", &poor]);
    assert_insufficient_credits(&gateway.ask(&Req::start(&rich).bearer(&key)), TASKS);
    assert_unauthenticated(&gateway.ask(&Req::start(&rich).bearer("wk-never-issued")));
    upstream.assert_untouched();
}

#[test]
fn a_key_that_is_withdrawn_stops_working_within_its_cache_time() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream)
        .set("identity.0.api_key.cache", "500ms")
        .start();
    let key = redis.api_key(&["team", &redis.team("5")]);
    assert_eq!(gateway.ask(&start().bearer(&key)).status, 200);
    redis.run::<()>(&["DEL", &format!("apikey:{}", api_key_hash(&key))]);
    eventually(secs(2), "the withdrawn key is unknown", || {
        (gateway.ask(&start().bearer(&key)).status == 401).then_some(())
    });
}

#[test]
fn a_cache_of_zero_asks_every_time() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream)
        .set("identity.0.api_key.cache", "0s")
        .start();
    let (rich, poor) = (redis.team("5"), redis.team("0"));
    let key = redis.api_key(&["team", &rich]);
    let hash = format!("apikey:{}", api_key_hash(&key));
    for _ in 0..5 {
        assert_eq!(gateway.ask(&start().bearer(&key)).status, 200);
        redis.run::<()>(&["HSET", &hash, "team", &poor]);
        assert_eq!(gateway.ask(&start().bearer(&key)).status, 403);
        redis.run::<()>(&["DEL", &hash]);
        assert_eq!(gateway.ask(&start().bearer(&key)).status, 401);
        redis.run::<()>(&["HSET", &hash, "team", &rich]);
    }
}

#[test]
fn a_key_issued_a_moment_ago_works_at_once_without_a_cache() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream)
        .set("identity.0.api_key.cache", "0s")
        .start();
    let key = fresh("wk-late");
    assert_eq!(gateway.ask(&start().bearer(&key)).status, 401);
    let team = redis.team("5");
    redis.run::<()>(&[
        "HSET",
        &format!("apikey:{}", api_key_hash(&key)),
        "team",
        &team,
    ]);
    assert_eq!(gateway.ask(&start().bearer(&key)).status, 200);
}

#[test]
fn a_cached_key_never_makes_a_cached_balance() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let team = redis.team("5");
    let key = redis.api_key(&["team", &team]);
    assert_eq!(gateway.ask(&start().bearer(&key)).status, 200);
    redis.set_balance(&team, "0");
    assert_eq!(gateway.ask(&start().bearer(&key)).status, 403);
}

#[test]
fn a_key_whose_record_is_broken_is_not_a_refusal() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream).start();
    let key = fresh("wk-broken");
    redis.run::<()>(&[
        "SET",
        &format!("apikey:{}", api_key_hash(&key)),
        "not a hash",
    ]);
    let answer = gateway.ask(&start().bearer(&key));
    assert_problem(&answer, 503, "resource_unavailable", Some("true"));
    upstream.assert_untouched();
    assert_eq!(
        gateway.ask(&Req::start(&redis.team("5"))).status,
        200,
        "it concerns that key alone"
    );
}

#[test]
fn the_key_template_is_the_operators() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = Gateway::before(&upstream)
        .set("identity.0.api_key.key", "auth:<sha256>:v2")
        .start();
    let (key, team) = (fresh("wk-own"), redis.team("5"));
    redis.run::<()>(&[
        "HSET",
        &format!("auth:{}:v2", api_key_hash(&key)),
        "team",
        &team,
    ]);
    assert_eq!(gateway.ask(&start().bearer(&key)).status, 200);
}

#[test]
fn one_deadline_holds_for_the_key_and_the_balance_together() {
    static BALANCES_ASKED: AtomicUsize = AtomicUsize::new(0);
    let redis = FakeRedis::answering(|words| match words[0].to_ascii_uppercase().as_str() {
        "HMGET" => {
            std::thread::park_timeout(millis(1600));
            Some(b"*3\r\n$4\r\nacme\r\n$-1\r\n$-1\r\n".to_vec())
        }
        "GET" if words[1] == "credits:{acme}" => {
            BALANCES_ASKED.fetch_add(1, Ordering::SeqCst);
            // Nor is anything after it answered.
            std::thread::park_timeout(secs(20));
            None
        }
        "GET" => Some(b"$-1\r\n".to_vec()),
        "PING" => {
            let echo = words.get(1).map_or("PONG", String::as_str);
            Some(format!("${}\r\n{echo}\r\n", echo.len()).into_bytes())
        }
        _ => Some(b"+OK\r\n".to_vec()),
    });
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("balances.redis.url", redis.url())
        .set("balances.redis.deadline", "2s")
        .start();
    let (answer, took) = timed(|| gateway.ask(&start().bearer("wk-slow")));
    assert_outage(&answer);
    assert!(took < millis(3200), "two seconds for both: {took:?}");
    assert_eq!(BALANCES_ASKED.load(Ordering::SeqCst), 1);
    upstream.assert_untouched();
}
