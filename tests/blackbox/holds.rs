//! Hold mode at admission: what may start, what may not, and what both are
//! told.

use serde_json::{Value, json};

use crate::support::holds::{
    SET_ASIDE, Standing, assert_credits_held, holding, standing, start, task_api,
};
use crate::support::problem::{
    assert_insufficient_credits, assert_names_once, assert_outage, assert_problem,
    assert_refusal_headers,
};
use crate::support::redis::fresh;
use crate::support::request::TASKS;
use crate::support::{Client, Gateway, Redis, Req, Response, Upstream, eventually, secs};

/// What a team has: balance, held, spendable, live holds.
fn has(balance: &str, held: &str, spendable: &str, live: u64) -> Standing {
    let [balance, held, spendable] = [balance, held, spendable].map(str::to_owned);
    Standing {
        balance,
        held,
        spendable,
        live,
    }
}

#[test]
fn a_start_sets_credits_aside_and_the_balance_stays_billings_own() {
    let (upstream, redis) = (task_api(), Redis::shared());
    let gateway = holding(&upstream).start();
    let team = redis.team("50.5");
    let first = start(&gateway, &upstream, &team);
    assert_eq!(redis.balance(&team), "50.5");
    assert_eq!(standing(&gateway, &team), has("50.5", "20", "30.5", 1));
    let second = start(&gateway, &upstream, &team);
    assert_ne!(first, second, "each start has a hold of its own");
    assert_eq!(standing(&gateway, &team), has("50.5", "40", "10.5", 2));
    assert_eq!(redis.balance(&team), "50.5");
}

#[test]
fn what_clients_say_of_holds_is_not_believed() {
    let upstream = task_api();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("50");
    let forged = Req::start(&team)
        .header("X-Tollgate-Hold", "mine")
        .header("x-tollgate-anything", "mine");
    assert_eq!(gateway.ask(&forged).status, 200);
    let arrived = upstream.only_request();
    assert_ne!(arrived.header("x-tollgate-hold").as_deref(), Some("mine"));
    assert_eq!(arrived.all("x-tollgate-hold").len(), 1);
    assert_eq!(arrived.header("x-tollgate-anything"), None);
    upstream.forget();
    let read = Req::get("/x").header("X-Tollgate-Hold", "mine");
    assert_eq!(gateway.ask(&read).status, 200);
    assert_eq!(upstream.only_request().header("x-tollgate-hold"), None);
}

/// The whole answer to a start whose credits are held.
#[track_caller]
fn assert_held_answer(answer: &Response, held: &str) {
    assert!(
        answer.head.starts_with("HTTP/1.1 403 Forbidden\r\n"),
        "{}",
        answer.head
    );
    let body = answer.json();
    let detail = body["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains(held), "how much is held: {detail:?}");
    let expected = json!({
        "type": "/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/",
        "title": SET_ASIDE,
        "status": 403,
        "detail": detail,
        "instance": TASKS,
        "error": format!("{SET_ASIDE} ({detail})"),
        "retryable": false,
    });
    assert_eq!(body, expected);
    assert_names_once(&answer.body);
    for (name, value) in [
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
        ("x-should-retry", "false"),
        (
            "proxy-status",
            r#"tollgate; error=http_request_denied; details="insufficient_credits""#,
        ),
    ] {
        assert_eq!(answer.all(name), [value], "{name}");
    }
}

/// The whole answer to a start of a team that has some credits, and too few.
#[track_caller]
fn assert_below_hold(answer: &Response, balance: &str) {
    assert_eq!(answer.status, 403, "{}", answer.head);
    let title = "Your team does not have enough add-on credits left for this run. Purchase more credits in your team's billing settings to continue.";
    let detail = format!("{balance} credits are left, and this run sets 20 aside");
    let expected = json!({
        "type": "/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/",
        "title": title,
        "status": 403,
        "detail": detail,
        "instance": TASKS,
        "error": format!("{title} ({detail})"),
        "retryable": false,
    });
    assert_eq!(answer.json(), expected);
    assert_refusal_headers(|name| answer.all(name).iter().map(|v| (*v).to_owned()).collect());
}

/// What `retry-after` says, in seconds.
#[track_caller]
fn retry_after(answer: &Response) -> u64 {
    let text = answer.header("retry-after");
    let parsed = text.and_then(|text| text.parse().ok());
    parsed.unwrap_or_else(|| panic!("retry-after: {text:?}"))
}

#[test]
fn a_start_beyond_what_is_spendable_is_told_that_credits_are_held() {
    let (upstream, redis) = (task_api(), Redis::shared());
    let gateway = holding(&upstream).start();
    let team = redis.team("39.999999");
    start(&gateway, &upstream, &team);
    let mut client = gateway.connect();
    let request = Req::start(&team).header("X-Request-Id", "beyond");
    let answer = client.ask(&request);
    assert_held_answer(&answer, "20");
    let after = retry_after(&answer);
    assert!((1790..=1800).contains(&after), "half an hour: {after}");
    assert_eq!(upstream.requests().len(), 1, "the second went nowhere");
    assert_eq!(standing(&gateway, &team).live, 1, "and holds nothing");
    assert_eq!(client.ask(&Req::get("/x")).status, 200, "still usable");
    let line = gateway.access_line("it is logged", |line| line["request_id"] == "beyond");
    assert_eq!(line["reason"], "credits_held", "{line}");
    let metrics = gateway.metrics();
    let reason = &[("reason", "credits_held")];
    assert_eq!(metrics.sum("tollgate_refusals_total", reason), 1.0);
    let event = eventually(secs(5), "a refusal event", || {
        redis.refusals(&team).into_iter().next()
    });
    assert_eq!(event["error"], "insufficient_credits", "{event:?}");
}

#[test]
fn retry_after_can_be_left_out() {
    let upstream = task_api();
    let gateway = holding(&upstream)
        .set("problem", json!({"held_retry_after": false}))
        .start();
    let team = Redis::shared().team("20");
    start(&gateway, &upstream, &team);
    let answer = gateway.ask(&Req::start(&team));
    assert_held_answer(&answer, "20");
    assert_eq!(answer.header("retry-after"), None);
}

#[test]
fn retry_after_is_the_earliest_end_and_never_zero() {
    let upstream = task_api();
    let gateway = holding(&upstream)
        .set("routes.1.hold_for", "60s")
        .set("routes.1.hold", 2)
        .start();
    let team = Redis::shared().team("22");
    start(&gateway, &upstream, &team);
    let short = Req::post("/api/v1/agent/runs").team(&team);
    assert_eq!(gateway.ask(&short).status, 200);
    let answer = gateway.ask(&Req::start(&team));
    assert_held_answer(&answer, "22");
    assert!((50..=60).contains(&retry_after(&answer)), "{}", answer.head);
}

#[test]
fn the_last_credit_can_be_held() {
    let upstream = task_api();
    let gateway = holding(&upstream).set("routes.1.hold", "20.000001").start();
    let redis = Redis::shared();
    let odd = |team: &str| Req::post("/api/v1/agent/runs").team(team);
    let exact = redis.team("20");
    start(&gateway, &upstream, &exact);
    assert_credits_held(&gateway.ask(&Req::start(&exact)));
    let short = redis.team("19.999999");
    assert_below_hold(&gateway.ask(&Req::start(&short)), "19.999999");
    let both = redis.team("40.000001");
    assert_eq!(gateway.ask(&odd(&both)).status, 200);
    start(&gateway, &upstream, &both);
    assert_eq!(
        standing(&gateway, &both),
        has("40.000001", "40.000001", "0", 2)
    );
    let one = redis.team("40");
    assert_eq!(gateway.ask(&odd(&one)).status, 200);
    assert_credits_held(&gateway.ask(&Req::start(&one)));
}

#[test]
fn the_line_holds_for_what_is_spendable() {
    let upstream = task_api();
    let gateway = holding(&upstream)
        .set("balances.refuse_at_or_below", 5)
        .set("routes.1.hold", 1)
        .start();
    let redis = Redis::shared();
    let small = |team: &str| gateway.ask(&Req::post("/api/v1/agent/runs").team(team));
    let team = redis.team("25");
    start(&gateway, &upstream, &team);
    // 5 are left: enough for the hold, but not above the line.
    assert_credits_held(&small(&team));
    assert_insufficient_credits(&small(&redis.team("5")), "/api/v1/agent/runs");
    assert_insufficient_credits(&small(&redis.team("-3")), "/api/v1/agent/runs");
    assert_eq!(small(&redis.team("5.000001")).status, 200);
    // Above the line, but not enough, whatever ends: not "held".
    let poor = redis.team("19");
    assert_eq!(small(&poor).status, 200);
    let answer = gateway.ask(&Req::start(&poor).header("X-Request-Id", "below"));
    assert_below_hold(&answer, "19");
    let line = gateway.access_line("it is logged", |line| line["request_id"] == "below");
    assert_eq!(line["reason"], "below_hold", "{line}");
    let reason = &[("reason", "below_hold")];
    assert_eq!(
        gateway.metrics().sum("tollgate_refusals_total", reason),
        1.0
    );
}

#[test]
fn a_listed_peer_says_how_much_is_held() {
    let upstream = task_api();
    let hold = json!({"header": "x-run-credits", "from": ["127.0.0.2/32"], "default": 5});
    let gateway = holding(&upstream).set("admission.hold", hold).start();
    let redis = Redis::shared();
    let ask = |from: &str, request: &Req| Client::connect_from(from, gateway.http).ask(request);
    let held_of = |from: &str, credits: Option<&str>| {
        let team = redis.team("100");
        let plain = Req::start(&team);
        let request = credits.map_or(plain.clone(), |c| plain.header("X-Run-Credits", c));
        assert_eq!(ask(from, &request).status, 200, "{from} {credits:?}");
        let arrived = upstream.requests().pop().unwrap();
        (standing(&gateway, &team).held, arrived)
    };
    assert_eq!(held_of("127.0.0.2", Some("30.25")).0, "30.25");
    assert_eq!(held_of("127.0.0.2", None).0, "5");
    let (held, arrived) = held_of("127.0.0.1", Some("0.000001"));
    assert_eq!(held, "5", "an unlisted peer is not believed");
    assert_eq!(arrived.header("x-run-credits"), None, "nor passed on");
    upstream.forget();
    for credits in ["ten", "1e3", "-5", "0", ""] {
        let request = Req::start(&redis.team("100")).header("X-Run-Credits", credits);
        let answer = ask("127.0.0.2", &request);
        assert_problem(&answer, 400, "invalid_request", Some("false"));
    }
    let twice = Req::start(&redis.team("100"))
        .header("X-Run-Credits", "1")
        .header("X-Run-Credits", "2");
    assert_eq!(ask("127.0.0.2", &twice).status, 400);
    upstream.assert_untouched();
}

#[test]
fn a_team_without_a_balance_is_what_the_operator_says() {
    for (missing, status) in [("refuse", 403), ("admit", 200), ("unknown", 503)] {
        let upstream = task_api();
        let gateway = holding(&upstream).set("balances.missing", missing).start();
        let team = fresh("unheard-of");
        let answer = gateway.ask(&Req::start(&team));
        assert_eq!(answer.status, status, "{missing}: {}", answer.text());
        match status {
            403 => assert_insufficient_credits(&answer, TASKS),
            503 => assert_outage(&answer),
            _ => {
                let arrived = upstream.only_request();
                assert_eq!(arrived.header("x-tollgate-hold"), None, "nothing is held");
                assert_eq!(arrived.header("x-tollgate-team"), Some(team));
            }
        }
        if status != 200 {
            upstream.assert_untouched();
        }
    }
}

#[test]
fn a_balance_that_cannot_be_read_concerns_its_team_alone() {
    let (upstream, redis) = (task_api(), Redis::shared());
    let gateway = holding(&upstream).start();
    for corrupt in ["many", "1e9", " 50", "", "0x32", "inf", "nan"] {
        let team = redis.team(corrupt);
        assert_outage(&gateway.ask(&Req::start(&team)));
        assert_eq!(redis.balance(&team), corrupt);
    }
    let listed = fresh("team");
    redis.run::<()>(&["RPUSH", &format!("credits:{{{listed}}}"), "50"]);
    assert_outage(&gateway.ask(&Req::start(&listed)));
    upstream.assert_untouched();
    start(&gateway, &upstream, &redis.team("50"));
    assert_eq!(gateway.metrics().sum("tollgate_ledger_up", &[]), 1.0);
}

#[test]
fn in_shadow_the_start_that_would_be_refused_passes_without_a_hold() {
    let upstream = task_api();
    let gateway = holding(&upstream).set("admission.enforce", false).start();
    let team = Redis::shared().team("30");
    start(&gateway, &upstream, &team);
    upstream.forget();
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    assert_eq!(upstream.only_request().header("x-tollgate-hold"), None);
    assert_eq!(standing(&gateway, &team), has("30", "20", "10", 1));
    let metrics = gateway.metrics();
    let would = &[("reason", "credits_held")];
    assert_eq!(metrics.sum("tollgate_would_refusals_total", would), 1.0);
    assert_eq!(metrics.sum("tollgate_refusals_total", &[]), 0.0);
}

#[test]
fn in_an_outage_a_start_is_what_the_operator_says_and_holds_nothing() {
    let (upstream, redis) = (task_api(), Redis::private(&[]));
    let gateway = holding(&upstream)
        .redis(&redis)
        .set("routes.1.on_outage", "admit")
        .start();
    let team = redis.team("50");
    redis.kill();
    assert_outage(&gateway.ask(&Req::start(&team)));
    upstream.assert_untouched();
    let admitted = Req::post("/api/v1/agent/runs").team(&team);
    assert_eq!(gateway.ask(&admitted).status, 200);
    let arrived = upstream.only_request();
    assert_eq!(arrived.header("x-tollgate-team"), Some(team));
    assert_eq!(arrived.header("x-tollgate-hold"), None);
}

#[test]
fn lookup_mode_goes_by_the_balance_alone() {
    let (upstream, redis) = (task_api(), Redis::shared());
    let holds = holding(&upstream).start();
    let team = redis.team("20");
    start(&holds, &upstream, &team);
    upstream.forget();
    let looks = Gateway::before(&upstream).start();
    assert_eq!(looks.ask(&Req::start(&team)).status, 200);
    assert_eq!(upstream.only_request().header("x-tollgate-hold"), None);
    assert_eq!(standing(&holds, &team).live, 1);
}

#[test]
fn what_starts_nothing_passes_while_everything_is_held() {
    let upstream = task_api();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("20");
    start(&gateway, &upstream, &team);
    for request in [
        Req::get("/api/v1/agent/runs").team(&team),
        Req::post("/api/v1/agent/runs/r1/cancel").team(&team),
        Req::get("/api/v1/agent/runs/r1").team(&team),
        Req::new("DELETE", "/api/v1/agent/schedules/s1").team(&team),
    ] {
        assert_eq!(gateway.ask(&request).status, 200);
    }
}

#[test]
fn the_embedded_ledger_holds_too() {
    let upstream = task_api();
    let gateway = holding(&upstream)
        .set("balances", json!({"memory": {"acme": 40, "broke": 0}}))
        .set("admission.hold_for", "2s")
        .start();
    start(&gateway, &upstream, "acme");
    start(&gateway, &upstream, "acme");
    let answer = gateway.ask(&Req::start("acme"));
    assert_held_answer(&answer, "40");
    assert_insufficient_credits(&gateway.ask(&Req::start("broke")), TASKS);
    eventually(secs(10), "what is not resolved stops counting", || {
        (gateway.ask(&Req::start("acme")).status == 200).then_some(())
    });
}

#[test]
fn a_reload_changes_what_is_held_from_then_on() {
    let upstream = task_api();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("100");
    start(&gateway, &upstream, &team);
    gateway.reload_with("admission.hold", 30);
    eventually(secs(10), "it is reloaded", || {
        (gateway.reloads("ok") == 1.0).then_some(())
    });
    start(&gateway, &upstream, &team);
    assert_eq!(standing(&gateway, &team), has("100", "50", "50", 2));
}

#[test]
fn a_start_route_without_a_hold_is_a_mistake_in_hold_mode() {
    let upstream = Upstream::ok();
    for missing in ["admission.hold", "admission.hold_for"] {
        let gateway = holding(&upstream).set(missing, Value::Null).launch();
        assert_eq!(gateway.wait(secs(10)).code(), Some(64), "{missing}");
        gateway.says("hold");
    }
}
