//! What comes again: it is the same delivery, however often, wherever and at
//! whatever time it comes.

use serde_json::{Value, json};

use super::{SECRET, Slack, belongs, webhook, workspace};
use crate::outside::Outside;
use crate::support::deliveries::{Delivery, buttons, command, mention};
use crate::support::wait::secs;
use crate::support::{Gateway, Redis, Upstream, eventually};

#[test]
fn a_redelivery_is_counted_once_and_refused_again() {
    let slack = Slack::start("0");
    let delivery = Delivery::json(&mention(&slack.workspace));
    for attempt in 0..3 {
        let mut request = slack.signed(&delivery);
        if attempt > 0 {
            request = request
                .header("X-Slack-Retry-Num", &attempt.to_string())
                .header("X-Slack-Retry-Reason", "http_timeout");
        }
        let response = slack.gateway.ask(&request);
        assert_eq!((response.status, response.text()), (200, String::new()));
    }
    assert_eq!(slack.verdicts("refused"), 1.0);
    let metrics = slack.gateway.metrics();
    assert_eq!(metrics.sum("tollgate_refusals_total", &[]), 1.0);
    assert_eq!(metrics.sum("tollgate_redeliveries_total", &[]), 2.0);
    eventually(secs(5), "the refusal is an event", || {
        (Redis::shared().refusals(&slack.team).len() == 1).then_some(())
    });
    slack
        .gateway
        .access_line("the log says that it came again", |line| {
            line["redelivery"] == true
        });
    // The next delivery is none.
    slack.deliver(&Delivery::json(&mention(&slack.workspace)));
    assert_eq!(slack.verdicts("refused"), 2.0);
    eventually(secs(5), "the refusal is an event", || {
        (Redis::shared().refusals(&slack.team).len() == 2).then_some(())
    });
    slack.bolt.assert_untouched();
}

#[test]
fn a_redelivery_shares_the_hold_of_the_first() {
    let slack = Slack::start_with(Redis::shared(), "30", |builder| {
        builder.set(
            "admission",
            json!({"mode": "hold", "hold": 20, "hold_for": "30m"}),
        )
    });
    let delivery = Delivery::json(&mention(&slack.workspace));
    assert_eq!(slack.deliver(&delivery).status, 200);
    let again = slack.signed(&delivery).header("X-Slack-Retry-Num", "1");
    assert_eq!(slack.gateway.ask(&again).status, 200);
    let handled = slack.bolt.handled(2);
    assert_eq!(handled.len(), 2, "Bolt itself sees that it comes again");
    let holds: Vec<Value> = slack.bolt.told("arrived").iter().map(hold).collect();
    assert!(holds[0].is_string() && holds[0] == holds[1], "{holds:?}");
    // 10 are left, so another delivery is refused.
    let response = slack.deliver(&Delivery::json(&mention(&slack.workspace)));
    assert_eq!((response.status, response.text()), (200, String::new()));
    slack.bolt.handled(2);
    let response = slack.deliver(&command(&slack.workspace));
    let text = response.json()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("set aside for runs in progress"), "{text}");
}

/// The hold that the upstream was told of.
fn hold(arrived: &Value) -> Value {
    let headers = arrived["headers"].as_array().unwrap();
    let named = |pair: &&Value| {
        pair[0]
            .as_str()
            .unwrap()
            .eq_ignore_ascii_case("x-tollgate-hold")
    };
    headers
        .iter()
        .find(named)
        .map_or(Value::Null, |pair| pair[1].clone())
}

#[test]
fn what_comes_twenty_times_at_once_is_counted_and_told_once() {
    let outside = Outside::start();
    let slack = Slack::start_with(Redis::shared(), "0", |builder| {
        builder
            .set("routes.3.webhook.bot_token", "xoxb-of-nobody")
            .set(
                "egress",
                json!({"proxy": outside.proxy(), "ca": outside.ca()}),
            )
    });
    let request = slack.signed(&Delivery::json(&mention(&slack.workspace)));
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(slack.gateway.ask(&request).status, 200));
        }
    });
    assert_eq!(slack.verdicts("refused"), 1.0);
    let again = slack
        .gateway
        .metrics()
        .sum("tollgate_redeliveries_total", &[]);
    assert_eq!(again, 19.0);
    outside.wait_for(1);
    // Another thread's notice comes after whatever there is of the first.
    let mut other = mention(&slack.workspace);
    other["event"]["ts"] = json!("1515449999.000016");
    slack.deliver(&Delivery::json(&other));
    assert_eq!(outside.wait_for(2).len(), 2);
    eventually(secs(5), "each of the two is an event", || {
        (Redis::shared().refusals(&slack.team).len() >= 2).then_some(())
    });
    assert_eq!(Redis::shared().refusals(&slack.team).len(), 2);
}

#[test]
fn what_comes_twenty_times_at_once_has_one_hold() {
    let slack = Slack::start_with(Redis::shared(), "30", |builder| {
        builder.set(
            "admission",
            json!({"mode": "hold", "hold": 20, "hold_for": "30m"}),
        )
    });
    let request = slack.signed(&Delivery::json(&mention(&slack.workspace)));
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(slack.gateway.ask(&request).status, 200));
        }
    });
    slack.bolt.handled(20);
    let holds: Vec<Value> = slack.bolt.told("arrived").iter().map(hold).collect();
    assert!(
        holds
            .iter()
            .all(|hold| *hold == holds[0] && hold.is_string()),
        "{holds:?}"
    );
    // Actions have no id: each is its own, and one too many here.
    slack.deliver(&Delivery::payload(&buttons(
        &slack.workspace,
        &["approve_plan"],
    )));
    slack.bolt.handled(20);
}

#[test]
fn another_gateway_knows_what_came_to_the_first() {
    let slack = Slack::start("0");
    let upstream = Upstream::ok();
    let second = Gateway::before(&upstream)
        .set("routes.3", webhook())
        .start();
    let request = slack.signed(&Delivery::json(&mention(&slack.workspace)));
    for gateway in [&slack.gateway, &second, &second, &slack.gateway] {
        assert_eq!(gateway.ask(&request).status, 200);
    }
    let sum = |name: &str, labels: &[(&str, &str)]| {
        slack.gateway.metrics().sum(name, labels) + second.metrics().sum(name, labels)
    };
    assert_eq!(
        sum("tollgate_requests_total", &[("verdict", "refused")]),
        1.0
    );
    assert_eq!(sum("tollgate_redeliveries_total", &[]), 3.0);
    upstream.assert_untouched();
}

#[test]
fn credits_bought_meanwhile_let_the_next_attempt_in() {
    let slack = Slack::start("0");
    let request = slack.signed(&Delivery::json(&mention(&slack.workspace)));
    assert_eq!(slack.gateway.ask(&request).text(), "");
    Redis::shared().set_balance(&slack.team, "5");
    assert_eq!(slack.gateway.ask(&request).status, 200);
    slack.bolt.handled(1);
    assert_eq!(
        (slack.verdicts("refused"), slack.verdicts("admitted")),
        (1.0, 1.0)
    );
    assert_eq!(slack.gateway.ask(&request).status, 200);
    assert_eq!(
        slack.verdicts("admitted"),
        1.0,
        "counted once, and passed on: Bolt knows it"
    );
    slack.bolt.handled(2);
}

#[test]
fn without_redis_at_all_it_is_the_same() {
    let (here, poor) = (workspace(Redis::shared()), workspace(Redis::shared()));
    let slack = Slack::start_with(Redis::shared(), "0", |builder| {
        let teams = json!({&here: "rich", &poor: "poor"});
        builder
            .set("balances.redis", Value::Null)
            .set("balances.memory", json!({"rich": 5, "poor": 0}))
            .set(
                "identity",
                json!([{"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}}]),
            )
            .set("routes.3.webhook.team_key", Value::Null)
            .set("routes.3.webhook.teams", teams)
    });
    let request = slack.signed(&Delivery::json(&mention(&poor)));
    for _ in 0..3 {
        assert_eq!(slack.gateway.ask(&request).text(), "");
    }
    assert_eq!(slack.verdicts("refused"), 1.0);
    assert_eq!(
        slack
            .gateway
            .metrics()
            .sum("tollgate_redeliveries_total", &[]),
        2.0
    );
    slack.bolt.assert_untouched();
    assert_eq!(slack.deliver(&Delivery::json(&mention(&here))).status, 200);
    slack.bolt.handled(1);
    let stranger = workspace(Redis::shared());
    assert_eq!(
        slack.deliver(&Delivery::json(&mention(&stranger))).status,
        400
    );
}

#[test]
fn a_reload_changes_the_secret_and_the_team() {
    let slack = Slack::start("5");
    let delivery = Delivery::json(&mention(&slack.workspace));
    slack
        .gateway
        .reload_with("routes.3.webhook.secret", json!(["the-next-one"]));
    eventually(secs(5), "the reload works", || {
        (slack.gateway.reloads("ok") == 1.0).then_some(())
    });
    assert_eq!(slack.deliver(&delivery).status, 401);
    slack.bolt.assert_untouched();
    slack
        .gateway
        .reload_with("routes.3.webhook.secret", json!([SECRET, "the-next-one"]));
    eventually(secs(5), "the reload works", || {
        (slack.gateway.reloads("ok") == 2.0).then_some(())
    });
    assert_eq!(slack.deliver(&delivery).status, 200);
    slack.bolt.handled(1);
    let redis = Redis::shared();
    belongs(redis, &slack.workspace, &redis.team("0"));
    assert_eq!(
        slack
            .deliver(&Delivery::json(&mention(&slack.workspace)))
            .text(),
        ""
    );
    slack.bolt.handled(1);
}
