//! The path says who pays: a webhook's id and token, a run that goes on. No
//! spelling of it makes anybody else pay, and its token is told to nobody.

use serde_json::{Value, json};

use crate::support::gateway::{Builder, tollgate};
use crate::support::holds::{last_hold, task_api};
use crate::support::problem::{
    assert_insufficient_credits, assert_invalid, assert_outage, assert_problem,
};
use crate::support::process::Folder;
use crate::support::redis::{api_key_hash, fresh};
use crate::support::{Gateway, Redis, Req, Response, Upstream, eventually, secs};

/// A gateway whose paths say who pays, in each way.
fn before(upstream: &Upstream) -> Builder {
    Gateway::before(upstream).set("log.level", "debug").set(
        "routes",
        json!([
            {"start": "POST /api/v1/agent/tasks"},
            {"start": "POST /hooks/w/{uid}/{token}", "trigger": "webhook",
             "team_from": {"path": "uid", "team_key": "webhook:<uid>", "token": "token"}},
            {"start": "POST /open/w/{uid}", "trigger": "webhook",
             "team_from": {"path": "uid", "team_key": "webhook:<uid>"}},
            {"start": "POST /api/v1/agent/runs/{run}/followups",
             "team_from": {"path": "run", "team_key": "run:<run>", "else": "identity"}},
        ]),
    )
}

/// A webhook of this team's, as a plain string.
fn webhook(redis: &Redis, team: &str) -> String {
    let uid = fresh("u");
    redis.run::<()>(&["SET", &format!("webhook:{uid}"), team]);
    uid
}

/// A webhook of this team's that asks for a token.
fn guarded(redis: &Redis, team: &str, token: &str) -> String {
    let (uid, digest) = (fresh("u"), api_key_hash(token));
    let key = format!("webhook:{uid}");
    redis.run::<()>(&["HSET", &key, "team", team, "token_sha256", &digest]);
    uid
}

/// A run of this team's.
fn run_of(redis: &Redis, team: &str) -> String {
    let run = fresh("r");
    redis.run::<()>(&["SET", &format!("run:{run}"), team]);
    run
}

fn followup(run: &str) -> Req {
    Req::post(&format!("/api/v1/agent/runs/{run}/followups"))
}

fn hook(uid: &str, token: &str) -> Req {
    Req::post(&format!("/hooks/w/{uid}/{token}"))
}

#[track_caller]
fn assert_unauthenticated(answer: &Response) {
    assert_problem(answer, 401, "authentication_required", Some("false"));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
}

/// The request that reached the upstream was paid for by this team.
#[track_caller]
fn assert_paid_by(upstream: &Upstream, team: &str) {
    let request = upstream.only_request();
    assert_eq!(request.header("x-tollgate-team").as_deref(), Some(team));
    upstream.forget();
}

#[test]
fn a_string_pays_whatever_the_token() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = before(&upstream).start();
    let (rich, poor) = (redis.team("5"), redis.team("0"));
    let (of_rich, of_poor) = (webhook(redis, &rich), webhook(redis, &poor));
    assert_eq!(gateway.ask(&hook(&of_rich, "anything")).status, 200);
    let request = upstream.only_request();
    assert_eq!(
        request.line(),
        format!("POST /hooks/w/{of_rich}/anything HTTP/1.1")
    );
    assert_eq!(
        request.header("x-tollgate-principal"),
        None,
        "a path says who pays, not who asks"
    );
    assert_paid_by(&upstream, &rich);
    let path = format!("/open/w/{of_poor}");
    assert_insufficient_credits(&gateway.ask(&Req::post(&path)), &path);
    let shown = format!("/hooks/w/{of_poor}/{{token}}");
    assert_insufficient_credits(&gateway.ask(&hook(&of_poor, "anything")), &shown);
    upstream.assert_untouched();
}

#[test]
fn a_token_has_to_match_and_a_wrong_one_is_answered_like_nobodys_webhook() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = before(&upstream).start();
    let team = redis.team("5");
    let uid = guarded(redis, &team, "s3same-1");
    assert_eq!(gateway.ask(&hook(&uid, "s3same-1")).status, 200);
    assert_paid_by(&upstream, &team);
    assert_eq!(gateway.ask(&hook(&uid, "%733same-1")).status, 200);
    assert_paid_by(&upstream, &team);
    let nobodys = gateway.ask(&hook("u-never-issued", "s3same-1"));
    assert_unauthenticated(&nobodys);
    let said = |answer: &Response| {
        let mut body = answer.json();
        body["instance"] = Value::Null;
        body["trace_id"] = Value::Null;
        body
    };
    let (digest, longer) = (api_key_hash("s3same-1"), "s3same-1".repeat(100));
    for token in [
        "wrong",
        "s3same-",
        "s3same-11",
        "S3SAME-1",
        &digest,
        &longer,
    ] {
        let answer = gateway.ask(&hook(&uid, token));
        assert_unauthenticated(&answer);
        assert_eq!(said(&answer), said(&nobodys), "{token}");
    }
    assert_unauthenticated(&gateway.ask(&Req::post(&format!("/open/w/{uid}"))));
    // Nor do the caller's own credentials help.
    assert_unauthenticated(&gateway.ask(&hook(&uid, "wrong").team(&team)));
    upstream.assert_untouched();
}

#[test]
fn a_hash_without_a_digest_pays_where_no_token_is_asked_for() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = before(&upstream).start();
    let (team, uid) = (redis.team("5"), fresh("u"));
    redis.run::<()>(&["HSET", &format!("webhook:{uid}"), "team", &team]);
    assert_eq!(
        gateway.ask(&Req::post(&format!("/open/w/{uid}"))).status,
        200
    );
    assert_paid_by(&upstream, &team);
    // Whether a token fits cannot be told then.
    assert_outage(&gateway.ask(&hook(&uid, "anything")));
    upstream.assert_untouched();
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
}

#[test]
fn a_broken_entry_is_no_answer_and_concerns_itself_alone() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = before(&upstream).start();
    let team = redis.team("5");
    let good = webhook(redis, &team);
    for words in [
        &["RPUSH", "KEY", "acme"][..],
        &["SET", "KEY", "no team"],
        &["HSET", "KEY", "note", "no team"],
        &["HSET", "KEY", "team", &team, "token_sha256", "short"],
    ] {
        let uid = fresh("u");
        let key = format!("webhook:{uid}");
        let words: Vec<&str> = words
            .iter()
            .map(|word| if *word == "KEY" { key.as_str() } else { *word })
            .collect();
        redis.run::<i64>(&["DEL", &key]);
        redis.run::<redis::Value>(&words);
        for _ in 0..5 {
            assert_outage(&gateway.ask(&hook(&uid, "anything")));
            // Not even as a caller that could pay.
            assert_outage(&gateway.ask(&Req::post(&format!("/open/w/{uid}")).team(&team)));
        }
    }
    upstream.assert_untouched();
    assert_eq!(gateway.ask(&hook(&good, "anything")).status, 200);
}

#[test]
fn a_known_run_is_paid_for_by_its_owner_whoever_asks() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = before(&upstream).start();
    let (owner, broke, caller) = (redis.team("5"), redis.team("0"), redis.team("5"));
    let key = redis.api_key(&["team", &caller]);
    let (run, spent) = (run_of(redis, &owner), run_of(redis, &broke));
    assert_eq!(gateway.ask(&followup(&run).bearer(&key)).status, 200);
    assert_paid_by(&upstream, &owner);
    assert_eq!(gateway.ask(&followup(&run).team(&broke)).status, 200);
    assert_paid_by(&upstream, &owner);
    assert_eq!(gateway.ask(&followup(&run)).status, 200);
    assert_paid_by(&upstream, &owner);
    let path = format!("/api/v1/agent/runs/{spent}/followups");
    assert_insufficient_credits(&gateway.ask(&followup(&spent).bearer(&key)), &path);
    let events = eventually(secs(5), "the refusal is an event", || {
        Some(redis.refusals(&broke)).filter(|events| !events.is_empty())
    });
    assert_eq!(events[0]["instance"], path);
    assert!(redis.refusals(&caller).is_empty());
    upstream.assert_untouched();
}

#[test]
fn an_unknown_run_is_paid_for_by_whoever_asks() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = before(&upstream).start();
    let (caller, broke) = (redis.team("5"), redis.team("0"));
    let key = redis.api_key(&["team", &caller]);
    let unknown = fresh("unknown");
    assert_eq!(gateway.ask(&followup(&unknown).bearer(&key)).status, 200);
    assert_paid_by(&upstream, &caller);
    let path = format!("/api/v1/agent/runs/{unknown}/followups");
    let poor = redis.api_key(&["team", &broke]);
    assert_insufficient_credits(&gateway.ask(&followup(&unknown).bearer(&poor)), &path);
    assert_unauthenticated(&gateway.ask(&followup(&unknown)));
    assert_unauthenticated(&gateway.ask(&followup(&unknown).bearer("wk-never-issued")));
    // As soon as it is known, its owner pays.
    redis.run::<()>(&["SET", &format!("run:{unknown}"), &broke]);
    assert_insufficient_credits(&gateway.ask(&followup(&unknown).bearer(&key)), &path);
    upstream.assert_untouched();
}

#[test]
fn ids_with_an_encoded_slash_are_themselves() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = before(&upstream).start();
    let (owner, other) = (redis.team("5"), redis.team("5"));
    let stem = fresh("r");
    redis.run::<()>(&["SET", &format!("run:{stem}/b"), &owner]);
    redis.run::<()>(&["SET", &format!("run:{stem}"), &other]);
    redis.run::<()>(&["SET", &format!("run:{stem}%2Fb"), &other]);
    for written in [
        format!("{stem}%2Fb"),
        format!("{stem}%2fb"),
        format!("{stem}%2F%62"),
    ] {
        assert_eq!(gateway.ask(&followup(&written)).status, 200, "{written}");
        let request = upstream.only_request();
        assert_eq!(
            request.target(),
            format!("/api/v1/agent/runs/{written}/followups"),
            "as it was received"
        );
        assert_paid_by(&upstream, &owner);
    }
}

/// Everybody's spelling of a follow-up is paid for by the owner of that run, or
/// refused: never by the owner of another, nor by nobody.
#[test]
fn a_disguised_path_is_the_same_run_or_400() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = before(&upstream).start();
    let (owner, other) = (redis.team("5"), redis.team("5"));
    let (run, decoy) = (run_of(redis, &owner), run_of(redis, &other));
    let runs = "/api/v1/agent/runs";
    for same in [
        format!("{runs}/{run}/followups/"),
        format!("{runs}//{run}/followups"),
        format!("/{runs}/{run}/followups"),
        format!("/API/v1/Agent/RUNS/{run}/FollowUps"),
        format!("{runs}/./{run}/followups"),
        format!("{runs}/{decoy}/../{run}/followups"),
        format!("{runs}/{decoy}/%2e%2e/{run}/followups"),
        format!("{runs}%2F{run}%2Ffollowups"),
        format!("{runs}/{run}/%66ollowups?run={decoy}"),
        format!("http://api.test{runs}/{run}/followups"),
        format!("{runs}/{run}/followups;run={decoy}"),
        format!("{runs}/%{:02x}{}/followups", run.as_bytes()[0], &run[1..]),
    ] {
        let answer = gateway.ask(&Req::post(&same).team(&other));
        assert_eq!(answer.status, 200, "{same}: {}", answer.text());
        assert_paid_by(&upstream, &owner);
    }
    for ambiguous in [
        format!("{runs}/{run};{decoy}/followups"),
        format!("{runs}/{run}%3B{decoy}/followups"),
        format!("{runs}/{run}%20/followups"),
        format!("{runs}/{run}%2F..%2F{decoy}/followups"),
        format!("{runs}/{decoy}%2F%2e%2e%2F{run}/followups"),
        format!("{runs}/{run}%252F{decoy}/followups"),
        format!("{runs}/%25{:02x}{}/followups", run.as_bytes()[0], &run[1..]),
        format!("{runs}/{run}/followups%3F/../../{decoy}/followups"),
        format!("{runs}/{run}%00/followups"),
        format!("{runs}/{run}%0A/followups"),
        format!("{runs}/%FF/followups"),
        format!("{runs}//followups"),
        format!("{runs}/{}/followups", "x".repeat(257)),
    ] {
        let answer = gateway.ask(&Req::post(&ambiguous).team(&other));
        assert_invalid(&answer);
    }
    upstream.assert_untouched();
}

#[test]
fn readings_that_disagree_about_the_id_are_told_so() {
    let upstream = Upstream::ok();
    let gateway = before(&upstream).start();
    let answer = gateway.ask(&followup("a;b"));
    assert_invalid(&answer);
    assert_eq!(
        answer.json()["detail"],
        "readings disagree about a path parameter that decides who pays"
    );
}

/// Part of every token below.
const TOKEN: &str = "open-sesame";

/// Ends the gateway and looks through all that it said.
#[track_caller]
fn assert_said_nothing(gateway: &Gateway) {
    let scrape = gateway.admin("/metrics").text();
    gateway.signal("TERM");
    gateway.wait(secs(10));
    let all = [gateway.stdout.text(), gateway.stderr.text(), scrape].join("\n");
    let shown: Vec<&str> = all.lines().filter(|line| line.contains(TOKEN)).collect();
    assert!(shown.is_empty(), "{shown:#?}");
}

/// Whatever becomes of it, however it is spelled, by whatever name: the token
/// goes to the upstream in its path and nowhere else.
#[test]
fn a_token_is_shown_to_the_upstream_alone() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    // Not a name that is secret by itself, and a list that leaves it out.
    let route = json!({
        "start": "POST /hooks/w/{uid}/{pass}", "trigger": "webhook", "secret_in_path": [],
        "team_from": {"path": "uid", "team_key": "webhook:<uid>", "token": "pass"},
    });
    let gateway = before(&upstream)
        .redis(&redis)
        .set("routes.1", route)
        .start();
    let (rich, poor) = (redis.team("5"), redis.team("0"));
    let right = format!("{TOKEN}-1");
    let (good, broke) = (
        guarded(&redis, &rich, &right),
        guarded(&redis, &poor, &right),
    );
    let broken = fresh("u");
    redis.run::<i64>(&["RPUSH", &format!("webhook:{broken}"), "x"]);
    let paths = |uid: &str| {
        [
            format!("/hooks/w/{uid}/{TOKEN}-1"),
            format!("/hooks/w/{uid}/{TOKEN}-2"),
            format!("/hooks/w/{uid}/{TOKEN}-1/?{TOKEN}"),
            format!("//hooks/w/{uid}/{TOKEN}-1"),
            format!("/hooks/w/{uid}/{TOKEN}-1;{TOKEN}"),
            format!("/hooks/w/{uid}%2F{TOKEN}-1"),
            format!("/hooks/w/{uid};/{TOKEN}-1"),
            format!("/hooks/w/{uid}/{TOKEN}-1/more"),
        ]
    };
    let mut statuses = Vec::new();
    let knock = |uid: &str, statuses: &mut Vec<u16>| {
        for path in paths(uid) {
            for method in ["POST", "GET"] {
                let answer = gateway.ask(&Req::new(method, &path).body("{}"));
                let all = format!("{}{}", answer.head, answer.text());
                assert!(!all.contains(TOKEN), "{method} {path}: {all}");
                statuses.push(answer.status);
            }
        }
    };
    for uid in [&good, &broke, "u-never-issued", &broken] {
        knock(uid, &mut statuses);
    }
    let events = eventually(secs(5), "the refusals are events", || {
        Some(redis.refusals(&poor)).filter(|events| !events.is_empty())
    });
    for event in &events {
        assert!(!format!("{event:?}").contains(TOKEN), "{event:?}");
        assert_eq!(event["trigger"], "webhook");
    }
    assert!(
        events
            .iter()
            .any(|event| event["instance"] == format!("/hooks/w/{broke}/{{pass}}"))
    );
    for request in upstream.requests() {
        let headers = request.head.split_once("\r\n").map_or("", |(_, rest)| rest);
        assert!(!headers.contains(TOKEN), "{headers}");
    }
    redis.kill();
    knock(&good, &mut statuses);
    for status in [200, 400, 401, 403, 503] {
        assert!(statuses.contains(&status), "{status}: {statuses:?}");
    }
    assert_said_nothing(&gateway);
}

#[test]
fn a_hold_is_the_owners() {
    let (upstream, redis) = (task_api(), Redis::shared());
    let gateway = before(&upstream)
        .set(
            "admission",
            json!({"mode": "hold", "hold": 20, "hold_for": "30m", "run_id": "/run_id"}),
        )
        .start();
    let (owner, caller, low) = (redis.team("50"), redis.team("50"), redis.team("10"));
    let (run, of_low) = (run_of(redis, &owner), run_of(redis, &low));
    let key = redis.api_key(&["team", &caller]);
    assert_eq!(gateway.ask(&followup(&run).bearer(&key)).status, 200);
    let hold = last_hold(&upstream, &owner);
    let held =
        |team: &str| redis.run::<Vec<String>>(&["HKEYS", &format!("tollgate:holds:{{{team}}}")]);
    assert!(held(&owner).concat().contains(&hold), "{:?}", held(&owner));
    assert!(held(&caller).is_empty());
    upstream.forget();
    let refused = gateway.ask(&followup(&of_low).bearer(&key));
    assert_problem(&refused, 403, "insufficient_credits", Some("false"));
    assert_eq!(gateway.ask(&followup(&fresh("r")).bearer(&key)).status, 200);
    last_hold(&upstream, &caller);
}

#[test]
fn in_an_outage_nobody_pays_and_nobody_is_refused() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = before(&upstream)
        .redis(&redis)
        .set("balances.redis.deadline", "100ms")
        .set("routes.3.on_outage", "admit")
        .start();
    let team = redis.team("5");
    let (uid, run) = (webhook(&redis, &team), run_of(&redis, &team));
    assert_eq!(gateway.ask(&hook(&uid, "t")).status, 200);
    upstream.forget();
    redis.freeze();
    for _ in 0..8 {
        assert_outage(&gateway.ask(&hook(&uid, "t")));
    }
    upstream.assert_untouched();
    // Where the operator says so, and with the team unknown.
    assert_eq!(gateway.ask(&followup(&run)).status, 200);
    assert_eq!(upstream.only_request().header("x-tollgate-team"), None);
    upstream.forget();
    assert!(
        gateway
            .metrics()
            .sum("tollgate_identity_unknown_admitted_total", &[])
            >= 1.0
    );
    // What cannot be understood cannot be, in an outage or not.
    assert_invalid(&gateway.ask(&followup("a;b")));
    redis.thaw();
    eventually(secs(10), "the owner pays again", || {
        let answer = gateway.ask(&hook(&uid, "t"));
        assert_ne!(answer.status, 403, "{}", answer.text());
        (answer.status == 200).then_some(())
    });
    assert_paid_by(&upstream, &team);
}

#[test]
fn in_shadow_the_path_is_asked_and_everything_goes_on() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = before(&upstream).set("admission.enforce", false).start();
    let poor = redis.team("0");
    let uid = guarded(redis, &poor, "right");
    for token in ["right", "wrong"] {
        assert_eq!(gateway.ask(&hook(&uid, token)).status, 200);
    }
    let count = gateway
        .metrics()
        .sum("tollgate_requests_total", &[("verdict", "would_refuse")]);
    assert_eq!(count, 2.0);
}

#[test]
fn without_redis_there_is_nothing_to_look_up() {
    let folder = Folder::new("team-from");
    let text = json!({
        "server": {"listen": ["127.0.0.1:0"]},
        "upstream": {"addresses": ["127.0.0.1:9"]},
        "balances": {"memory": {"acme": 5}},
        "identity": [{"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}}],
        "routes": [{"start": "POST /w/{uid}", "team_from": {"path": "uid", "team_key": "webhook:<uid>"}}],
    });
    let file = folder.write("embedded.yaml", text.to_string());
    let output = tollgate(&["check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("looked up in Redis"), "{said}");
}
