//! Settling, charging and releasing by those who know what a run cost: the
//! admin listener, the commands, and the upstream itself.

use serde_json::{Value, json};

use crate::support::gateway::Builder;
use crate::support::holds::{
    Standing, TOKEN, assert_sound, change, charge, command, holding, run_of, settle, standing,
    start, started, stays_live, task_api, until_live,
};
use crate::support::redis::fresh;
use crate::support::wait::{SOON, eventually, secs};
use crate::support::{Client, Redis, Req, Upstream};

/// The ledger is the one that debits.
fn writing(upstream: &Upstream) -> Builder {
    holding(upstream).set("balances.writer", "tollgate")
}

#[test]
fn what_changes_credits_wants_the_token() {
    let upstream = task_api();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("50");
    let hold = start(&gateway, &upstream, &team);
    let path = format!("/v1/teams/{team}/holds/{hold}/settle");
    let body = r#"{"credits":"1"}"#;
    let bare = Req::new("POST", &path).header("Connection", "close");
    for request in [
        bare.clone().body(body),
        bare.clone().bearer("wrong").body(body),
        bare.clone().bearer("").body(body),
        bare.clone().bearer(&TOKEN[1..]).body(body),
        bare.clone().header("Authorization", TOKEN).body(body),
    ] {
        let answer = Client::connect(gateway.admin).ask(&request);
        assert_eq!(answer.status, 401, "{}", answer.head);
    }
    // And the public listener knows nothing of it.
    let public = gateway.ask(&Req::new("POST", &path).bearer(TOKEN).body(body));
    assert_eq!(public.status, 200, "it is the upstream's");
    assert_eq!(upstream.requests().last().unwrap().target(), path);
    stays_live(&gateway, &team, 1);
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(gateway.admin(open).status, 200, "{open} needs no token");
    }
}

#[test]
fn settling_takes_the_hold_away_and_leaves_billings_balance() {
    let (upstream, redis) = (task_api(), Redis::shared());
    let gateway = holding(&upstream).start();
    let team = redis.team("50");
    let hold = start(&gateway, &upstream, &team);
    for _ in 0..3 {
        let answer = settle(&gateway, &team, &hold, "12.5");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(settle(&gateway, &team, &hold, "12.50").status, 200);
    let other = settle(&gateway, &team, &hold, "12.6");
    assert_eq!(other.status, 409, "{}", other.text());
    let has = standing(&gateway, &team);
    assert_eq!((has.live, has.balance.as_str()), (0, "50"));
    assert_eq!(redis.balance(&team), "50");
}

#[test]
fn settling_debits_once_where_the_ledger_is_the_writer() {
    let (upstream, redis) = (task_api(), Redis::shared());
    let gateway = writing(&upstream).start();
    let team = redis.team("50");
    let first = start(&gateway, &upstream, &team);
    assert_eq!(redis.balance(&team), "50", "holding debits nothing");
    for _ in 0..3 {
        assert_eq!(settle(&gateway, &team, &first, "12.5").status, 200);
    }
    assert_eq!(settle(&gateway, &team, &first, "12").status, 409);
    assert_eq!(standing(&gateway, &team).balance, "37.5");
    let second = start(&gateway, &upstream, &team);
    let more = settle(&gateway, &team, &second, "40.000001");
    assert_eq!(more.status, 200, "more than was held: {}", more.text());
    let has = standing(&gateway, &team);
    assert_eq!((has.balance.as_str(), has.live), ("-2.500001", 0));
    assert_eq!(gateway.ask(&Req::start(&team)).status, 403);
    assert_sound(&gateway, &team);
}

#[test]
fn a_hold_is_settled_by_the_id_of_its_run() {
    let upstream = task_api();
    let gateway = writing(&upstream).start();
    let team = Redis::shared().team("50");
    let hold = start(&gateway, &upstream, &team);
    let run = run_of(&hold);
    let answer = eventually(SOON, "the run is known", || {
        Some(settle(&gateway, &team, &run, "5")).filter(|answer| answer.status != 404)
    });
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(settle(&gateway, &team, &hold, "5").status, 200, "the same");
    assert_eq!(settle(&gateway, &team, &hold, "6").status, 409);
    assert_eq!(standing(&gateway, &team).balance, "45");
}

#[test]
fn a_run_of_another_team_is_not_known() {
    let upstream = task_api();
    let gateway = writing(&upstream).start();
    let redis = Redis::shared();
    let (own, other) = (redis.team("50"), redis.team("50"));
    let hold = start(&gateway, &upstream, &own);
    for which in [&hold, &run_of(&hold), &fresh("unheard-of")] {
        let answer = settle(&gateway, &other, which, "5");
        assert_eq!(answer.status, 404, "{which}: {}", answer.text());
    }
    assert_eq!(standing(&gateway, &other).balance, "50");
    stays_live(&gateway, &own, 1);
}

#[test]
fn what_is_no_figure_settles_nothing() {
    let upstream = task_api();
    let gateway = writing(&upstream).start();
    let team = Redis::shared().team("50");
    let hold = start(&gateway, &upstream, &team);
    let path = format!("/v1/teams/{team}/holds/{hold}/settle");
    for body in [
        json!({}),
        json!({"credits": "-1"}),
        json!({"credits": "many"}),
        json!({"credits": "1e3"}),
        json!({"credits": null}),
        json!({"credits": "1.0000001"}),
        json!([]),
        json!("12"),
    ] {
        let answer = change(&gateway, &path, &body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    assert_eq!(standing(&gateway, &team).live, 1);
    assert_eq!(standing(&gateway, &team).balance, "50");
    assert_eq!(
        settle(&gateway, &team, &hold, "0").status,
        200,
        "zero is one"
    );
    let has = standing(&gateway, &team);
    assert_eq!((has.balance.as_str(), has.live), ("50", 0));
}

#[test]
fn charges_shrink_the_hold_so_that_usage_never_counts_twice() {
    let upstream = task_api();
    let gateway = writing(&upstream).start();
    let team = Redis::shared().team("50");
    let hold = start(&gateway, &upstream, &team);
    let has = |balance: &str, held: &str, live: u64| {
        let now = standing(&gateway, &team);
        assert_eq!(
            (now.balance.as_str(), now.held.as_str(), now.live),
            (balance, held, live)
        );
    };
    for _ in 0..2 {
        assert_eq!(charge(&gateway, &team, &hold, "7.5", "c1").status, 200);
        has("42.5", "12.5", 1);
    }
    assert_eq!(charge(&gateway, &team, &hold, "7", "c1").status, 409);
    assert_eq!(charge(&gateway, &team, &hold, "7.5", "c2").status, 200);
    has("35", "5", 1);
    assert_eq!(charge(&gateway, &team, &hold, "15", "c3").status, 200);
    has("20", "0", 1);
    assert_eq!(settle(&gateway, &team, &hold, "1").status, 200);
    has("19", "0", 0);
    assert_eq!(charge(&gateway, &team, &hold, "1", "c4").status, 409);
    assert_eq!(charge(&gateway, &team, &hold, "0", "c5").status, 400);
    has("19", "0", 0);
    assert_sound(&gateway, &team);
}

#[test]
fn what_expired_is_still_debited_once() {
    let upstream = task_api();
    let gateway = writing(&upstream).set("admission.hold_for", "1s").start();
    let team = Redis::shared().team("50");
    let hold = start(&gateway, &upstream, &team);
    until_live(&gateway, &team, 0);
    assert_eq!(standing(&gateway, &team).balance, "50");
    for _ in 0..2 {
        assert_eq!(settle(&gateway, &team, &hold, "30").status, 200);
    }
    assert_eq!(settle(&gateway, &team, &hold, "31").status, 409);
    assert_eq!(standing(&gateway, &team).balance, "20");
}

#[test]
fn the_upstream_can_say_what_a_run_cost() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        let body = started(&exchange.request.all("x-tollgate-hold").concat());
        let said = exchange.request.header("x-case").unwrap_or_default();
        let length = body.len();
        exchange.say(
            format!("HTTP/1.1 200 OK\r\nX-Credits-Used: {said}\r\nContent-Length: {length}\r\n\r\n{body}")
                .as_bytes(),
        )
    });
    let gateway = writing(&upstream)
        .set("routes.0.settle_from", "x-credits-used")
        .start();
    let team = Redis::shared().team("50");
    let ask = |case: &str, target: &str| {
        let request = Req::post(target).team(&team).header("X-Case", case);
        let answer = gateway.ask(&request);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-credits-used"), Some(case), "it stays");
    };
    ask("7.5", "/api/v1/agent/tasks");
    eventually(SOON, "it is debited", || {
        (standing(&gateway, &team).balance == "42.5").then_some(())
    });
    assert_eq!(standing(&gateway, &team).live, 0);
    ask("many", "/api/v1/agent/tasks");
    stays_live(&gateway, &team, 1);
    ask("7.5", "/api/v1/agent/runs");
    stays_live(&gateway, &team, 2);
    assert_eq!(standing(&gateway, &team).balance, "42.5");
}

#[test]
fn the_commands_do_the_same() {
    let upstream = task_api();
    let gateway = writing(&upstream).start();
    let team = Redis::shared().team("90");
    let [first, second, third] = [(); 3].map(|()| start(&gateway, &upstream, &team));
    let listed = command(&gateway, &["holds", "list", &team]).to_string();
    for hold in [&first, &second, &third] {
        assert!(listed.contains(hold.as_str()), "{hold}: {listed}");
    }
    command(&gateway, &["holds", "release", &team, &first]);
    let told = command(&gateway, &["balance", "get", &team]);
    assert_eq!(Standing::of(&told), standing(&gateway, &team));
    assert_eq!(standing(&gateway, &team).live, 2);
    command(&gateway, &["holds", "settle", &team, &second, "12.5"]);
    command(&gateway, &["holds", "settle", &team, &second, "12.5"]);
    let now = standing(&gateway, &team);
    assert_eq!((now.balance.as_str(), now.live), ("77.5", 1));
    for _ in 0..2 {
        command(
            &gateway,
            &["balance", "grant", &team, "10", "--id", "invoice-1"],
        );
    }
    assert_eq!(standing(&gateway, &team).balance, "87.5");
    let statement = command(&gateway, &["statement", &team]).to_string();
    for word in ["settle", "grant", "invoice-1", "-12.5", second.as_str()] {
        assert!(statement.contains(word), "{word}: {statement}");
    }
    assert_sound(&gateway, &team);
}

#[test]
fn endings_are_told_as_events() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateway = writing(&upstream)
        .redis(&redis)
        .set("routes.1.hold_for", "1s")
        .start();
    let team = redis.team("90");
    let settled = start(&gateway, &upstream, &team);
    charge(&gateway, &team, &settled, "3", "c1");
    settle(&gateway, &team, &settled, "2");
    let released = start(&gateway, &upstream, &team);
    gateway.ask(&crate::support::holds::cancel(&run_of(&released)));
    let expired = Req::post("/api/v1/agent/runs").team(&team);
    assert_eq!(gateway.ask(&expired).status, 200);
    let expired = crate::support::holds::last_hold(&upstream, &team);
    until_live(&gateway, &team, 0);
    // Whoever asks next finds what is due.
    start(&gateway, &upstream, &team);
    let told = |hold: &str, kind: &str| {
        let claim = format!("{kind} of {hold}");
        eventually(secs(15), &claim, || {
            let events: Value = json!(redis.run::<Vec<(String, Vec<String>)>>(&[
                "XRANGE",
                "tollgate:events",
                "-",
                "+"
            ]));
            let has = |event: &Value, word: &str| {
                let fields = event[1].as_array().unwrap();
                fields.iter().any(|field| field == word)
            };
            let mut all = events.as_array().unwrap().iter();
            all.any(|event| has(event, hold) && has(event, kind))
                .then_some(())
        });
    };
    for (hold, kinds) in [
        (&settled, &["held", "charged", "settled"][..]),
        (&released, &["held", "released"]),
        (&expired, &["held", "expired"]),
    ] {
        for kind in kinds {
            told(hold, kind);
        }
    }
}
