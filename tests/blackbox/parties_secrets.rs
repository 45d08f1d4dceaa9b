//! Secrets of every way a run can start, in a run that exercises all of them:
//! none is shown by a log, a metric, an event, a key of Redis or an answer.
//!
//! Every secret here has the word `sesame` in it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use crate::outside::{Answer, Outside};
use crate::support::deliveries::{
    Delivery, LINEAR, SLACK, buttons, command, mention, seconds, session, shortcut, uuid, view,
};
use crate::support::gateway::Builder;
use crate::support::redis::{api_key_hash, fresh};
use crate::support::request::TASKS;
use crate::support::{Gateway, Redis, Req, Response, Upstream, eventually, secs};

const SECRET: &str = "sesame";
const SIGNING: &str = "slack-sesame-signing";
const LINEARS: &str = "lin_wh_sesame";
const BOT_TOKEN: &str = "xoxb-sesame";
const API_TOKEN: &str = "lin_api_sesame";
const TOKEN_KEY: &str = "hs256-sesame-sesame-sesame-sesame";
const ISSUER: &str = "https://issuer.test";

/// Every way a run can start, on one gateway.
fn everything(builder: Builder, redis: &Redis, outside: &Outside) -> Builder {
    let slack = json!({
        "start": format!("POST {SLACK}"), "trigger": "slack", "refuse_with": "message",
        "webhook": {"kind": "slack", "secret": [SIGNING, "old-sesame"], "team_key": "slack:<workspace>", "bot_token": BOT_TOKEN},
    });
    let linear = json!({
        "start": format!("POST {LINEAR}"), "trigger": "linear", "refuse_with": "message",
        "webhook": {"kind": "linear", "secret": LINEARS, "team_key": "linear:<workspace>", "api_token": API_TOKEN},
    });
    let hook = json!({
        "start": "POST /webhooks/w/{uid}/{token}", "trigger": "webhook", "secret_in_path": ["token"],
        "team_from": {"path": "uid", "team_key": "webhook:<uid>", "token": "token"},
    });
    let jwt = json!({"jwt": {"secret": TOKEN_KEY, "issuer": ISSUER, "audience": "tasks", "team_claim": "team_id"}});
    let header = json!({"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}});
    builder
        .redis(redis)
        .set("log.level", "debug")
        .set("balances.redis.deadline", "200ms")
        .set("identity", json!([jwt, {"api_key": {}}, header]))
        .set(
            "egress",
            json!({"proxy": outside.proxy(), "ca": outside.ca()}),
        )
        .set(
            "routes",
            json!([{"start": format!("POST {TASKS}")}, slack, linear, hook]),
        )
}

/// A token of this team's, signed with `TOKEN_KEY`.
fn token(team: &str, expires: u64) -> String {
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let head = part(json!({"alg": "HS256", "typ": "JWT"}));
    let claims = part(json!({
        "iss": ISSUER, "aud": "tasks", "sub": "somebody", "team_id": team, "exp": expires,
    }));
    let key = hmac::Key::new(hmac::HMAC_SHA256, TOKEN_KEY.as_bytes());
    let tag = hmac::sign(&key, format!("{head}.{claims}").as_bytes());
    format!("{head}.{claims}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// What is sent, and texts of it that nobody may show.
struct Sent {
    requests: Vec<Req>,
    hidden: Vec<String>,
}

/// Every way to start, for a team of this balance, in good form and in bad.
fn all_ways(redis: &Redis, balance: &str) -> Sent {
    let team = redis.team(balance);
    let mut requests = deliveries(redis, &team);
    let tokens = bearers(redis, &team);
    requests.extend(tokens.iter().map(|token| Req::post(TASKS).bearer(token)));
    requests.extend(hooks(redis, &team));
    // What a token is made of is as good as the token.
    let parts = tokens.iter().flat_map(|token| token.split('.').skip(1));
    let hidden = parts.filter(|part| part.len() > 8).map(str::to_owned);
    Sent {
        hidden: hidden.collect(),
        requests,
    }
}

/// Slack's and Linear's, signed well, by others and not at all.
fn deliveries(redis: &Redis, team: &str) -> Vec<Req> {
    let (workspace, organisation) = (fresh("T"), uuid());
    redis.run::<()>(&["SET", &format!("slack:{workspace}"), team]);
    redis.run::<()>(&["SET", &format!("linear:{organisation}"), team]);
    let mut event = mention(&workspace);
    event["token"] = json!("verification-sesame");
    event["event"]["text"] = json!("the password is sesame");
    let mut reply = buttons(&workspace, &["approve_plan"]);
    reply["trigger_id"] = json!("1.2.sesame");
    let mut elsewhere = reply.clone();
    elsewhere["response_url"] = json!("https://evil.test/sesame");
    let slack = [
        Delivery::json(&event),
        command(&workspace),
        Delivery::payload(&reply),
        Delivery::payload(&elsewhere),
        Delivery::payload(&shortcut(&workspace)),
        Delivery::payload(&view(&workspace, "view_submission")),
        Delivery::json(&mention("T0NOBODYSESAME")),
    ];
    let mut requests: Vec<Req> = Vec::new();
    for delivery in &slack {
        requests.push(delivery.by_slack(SIGNING));
        requests.push(delivery.by_slack("not-the-sesame"));
        requests.push(delivery.with_slack_signature("sesame", "v0=sesame"));
    }
    let mut told = session(&organisation, "created");
    told["agentSession"]["issue"]["title"] = json!("the password is sesame");
    let told = Delivery::json(&told);
    requests.push(told.by_linear(LINEARS));
    requests.push(told.by_linear("not-the-sesame"));
    requests.push(told.with_linear_signature("sesame", "sesame-id"));
    requests
}

/// Tokens and keys, good, old, broken and unknown.
fn bearers(redis: &Redis, team: &str) -> Vec<String> {
    let key = format!("wk-sesame-{}", fresh("key"));
    redis.run::<()>(&[
        "HSET",
        &format!("apikey:{}", api_key_hash(&key)),
        "team",
        team,
    ]);
    let good = token(team, seconds() + 600);
    vec![
        good.clone(),
        token(team, 1_000),
        token("not a team", seconds() + 600),
        format!("{good}sesame"),
        format!("{}.sesame", good.rsplit_once('.').unwrap().0),
        key,
        "wk-sesame-unknown".to_owned(),
    ]
}

/// Webhooks with a token in the path, in more than one spelling.
fn hooks(redis: &Redis, team: &str) -> Vec<Req> {
    let (hook, token) = (fresh("hook"), "t0-sesame");
    let digest = api_key_hash(token);
    redis.run::<()>(&[
        "HSET",
        &format!("webhook:{hook}"),
        "team",
        team,
        "token_sha256",
        &digest,
    ]);
    let paths = [
        format!("/webhooks/w/{hook}/{token}"),
        format!("/webhooks/w/{hook}/not-the-sesame"),
        format!("/webhooks/w/unknown/{token}"),
        format!("/webhooks//w/{hook}/{token}/"),
        format!("/webhooks/w/{hook}%2f{token}"),
        format!("/webhooks/w/{hook}/%74%30-sesame?x=sesame"),
        format!("/webhooks/w/{hook}/../{hook}/{token}"),
    ];
    paths.iter().map(|path| Req::post(path)).collect()
}

/// Sends all of it; no answer of the gateway's own shows a secret.
#[track_caller]
fn send(gateway: &Gateway, sent: &Sent) -> Vec<u16> {
    let ask = |request: &Req| -> Response { gateway.ask(request) };
    let mut statuses = Vec::new();
    for request in &sent.requests {
        let answer = ask(request);
        let all = format!("{}{}", answer.head, answer.text());
        assert_hidden("an answer", &all, &sent.hidden);
        statuses.push(answer.status);
    }
    statuses
}

#[track_caller]
fn assert_hidden(place: &str, text: &str, more: &[String]) {
    let is_secret = |line: &&str| {
        line.contains(SECRET) || more.iter().any(|secret| line.contains(secret.as_str()))
    };
    let shown: Vec<&str> = text.lines().filter(is_secret).collect();
    assert!(shown.is_empty(), "{place}: {shown:#?}");
}

/// Every key of Redis and whatever it holds, but what the test itself wrote.
fn redis_text(redis: &Redis) -> String {
    let mut all = String::new();
    for key in redis.run::<Vec<String>>(&["KEYS", "tollgate:*"]) {
        let kind: String = redis.run(&["TYPE", &key]);
        let value: redis::Value = match kind.as_str() {
            "stream" => redis.run(&["XRANGE", &key, "-", "+"]),
            "hash" => redis.run(&["HGETALL", &key]),
            "zset" => redis.run(&["ZRANGE", &key, "0", "-1"]),
            _ => redis.run(&["GET", &key]),
        };
        all.push_str(&format!("{key} {value:?}\n"));
    }
    all
}

/// Ends the gateway and looks through all that it said.
#[track_caller]
fn assert_said_nothing(gateway: &Gateway, requests: usize, hidden: &[String]) {
    let scrape = gateway.admin("/metrics").text();
    let ready = gateway.admin("/readyz").text();
    gateway.signal("TERM");
    gateway.wait(secs(20));
    eventually(secs(5), "every request is in the log", || {
        (gateway.access_log().len() >= requests).then_some(())
    });
    assert_hidden("/metrics", &scrape, hidden);
    assert_hidden("/readyz", &ready, hidden);
    assert_hidden("the access log", &gateway.stdout.text(), hidden);
    assert_hidden("the log", &gateway.stderr.text(), hidden);
}

/// Runs all of it against an outside that answers so.
#[track_caller]
fn exercise(outside: &Outside, enforce: bool) {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let builder = Gateway::before(&upstream).set("admission.enforce", enforce);
    let gateway = everything(builder, &redis, outside).start();
    let (poor, rich) = (all_ways(&redis, "0"), all_ways(&redis, "5"));
    let refused = send(&gateway, &poor);
    send(&gateway, &rich);
    if enforce {
        assert!(
            refused.contains(&403) && refused.contains(&401),
            "{refused:?}"
        );
        eventually(secs(30), "people are told, or cannot be", || {
            // An event, a reply, a shortcut; a stranger's URL; a session.
            let notices = gateway.metrics().sum("tollgate_notices_total", &[]);
            (notices >= 5.0).then_some(())
        });
    }
    let stored = redis_text(&redis);
    assert!(!enforce || stored.contains("tollgate:refusals"), "{stored}");
    redis.kill();
    send(&gateway, &poor);
    let hidden: Vec<String> = poor.hidden.iter().chain(&rich.hidden).cloned().collect();
    assert_hidden("Redis", &stored, &hidden);
    let requests = poor.requests.len() * 2 + rich.requests.len();
    assert_said_nothing(&gateway, requests, &hidden);
}

#[test]
fn no_secret_is_shown_by_a_run_that_exercises_everything() {
    exercise(&Outside::start(), true);
}

#[test]
fn no_secret_is_shown_when_slack_and_linear_answer_badly() {
    let repeating = Outside::answering(|seen| {
        // As a careless server would: with all that it was told.
        let told = format!("{:?} {}", seen.headers, seen.text());
        Answer::status(500).body(told)
    });
    exercise(&repeating, true);
    let redirecting =
        Outside::answering(|_| Answer::status(302).header("location", "https://evil.test/sesame"));
    exercise(&redirecting, true);
    assert!(
        redirecting
            .tunnels()
            .iter()
            .all(|host| !host.contains("evil")),
        "{:?}",
        redirecting.tunnels()
    );
}

#[test]
fn no_secret_is_shown_in_shadow() {
    exercise(&Outside::start(), false);
}

#[test]
fn tokens_go_to_their_own_hosts_and_nowhere_else() {
    let (outside, upstream, redis) = (Outside::start(), Upstream::ok(), Redis::private(&[]));
    let gateway = everything(Gateway::before(&upstream), &redis, &outside).start();
    send(&gateway, &all_ways(&redis, "0"));
    send(&gateway, &all_ways(&redis, "5"));
    eventually(secs(20), "people are told", || {
        let hosts: Vec<String> = outside
            .seen()
            .iter()
            .map(|seen| seen.host.clone())
            .collect();
        let all = ["slack.com", "hooks.slack.com", "api.linear.app"];
        all.iter()
            .all(|host| hosts.iter().any(|seen| seen == host))
            .then_some(())
    });
    for seen in outside.seen() {
        let all = format!("{} {:?} {}", seen.url(), seen.headers, seen.text());
        for (secret, host) in [(BOT_TOKEN, "slack.com"), (API_TOKEN, "api.linear.app")] {
            assert!(!all.contains(secret) || seen.host == host, "{all}");
        }
        for secret in [SIGNING, LINEARS, TOKEN_KEY, "password"] {
            assert!(!all.contains(secret), "{all}");
        }
    }
    for request in upstream.requests() {
        for secret in [BOT_TOKEN, API_TOKEN, SIGNING, LINEARS, TOKEN_KEY] {
            assert!(!request.head.contains(secret), "{}", request.head);
        }
    }
}
