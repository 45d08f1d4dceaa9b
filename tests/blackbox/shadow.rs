//! In shadow everything is decided and nobody is refused; the upstream is told
//! nothing that the gateway does not believe.

use serde_json::json;

use crate::support::gateway::Builder;
use crate::support::redis::fresh;
use crate::support::request::TASKS;
use crate::support::{Client, Gateway, Redis, Req, Upstream};

/// Only the route that these tests use is in shadow.
fn in_shadow(upstream: &Upstream) -> Builder {
    Gateway::before(upstream).set("routes.0.enforce", false)
}

#[test]
fn a_team_that_is_not_the_keys_own_is_not_vouched_for() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = in_shadow(&upstream).start();
    let (own, outside) = (redis.team("5"), redis.team("5"));
    let key = redis.api_key(&["teams", &format!("{own} another"), "team", &own]);
    let pick = |team: &str| {
        Req::post(TASKS)
            .bearer(&key)
            .header("X-Warp-Team-Uid", team)
    };
    for claimed in [&outside, &fresh("unheard-of")] {
        let request = pick(claimed).header("X-Tollgate-Team", claimed);
        assert_eq!(gateway.ask(&request).status, 200, "{claimed}");
        let arrived = upstream.only_request();
        assert_eq!(arrived.header("x-tollgate-team"), None, "{claimed}");
        assert_eq!(arrived.header("x-tollgate-principal"), None, "{claimed}");
        upstream.forget();
    }
    assert_eq!(gateway.ask(&pick(&own)).status, 200);
    assert_eq!(upstream.only_request().header("x-tollgate-team"), Some(own));
}

#[test]
fn a_wrong_key_is_forwarded_without_a_team() {
    let upstream = Upstream::ok();
    let gateway = in_shadow(&upstream).start();
    for request in [
        Req::post(TASKS).bearer("wk-never-issued"),
        Req::start("not a team"),
    ] {
        assert_eq!(gateway.ask(&request).status, 200);
        assert_eq!(upstream.only_request().header("x-tollgate-team"), None);
        upstream.forget();
    }
}

#[test]
fn a_header_of_an_unlisted_peer_is_not_forwarded() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = in_shadow(&upstream)
        .set(
            "identity",
            json!([{"header": {"name": "x-team-id", "from": ["127.0.0.2/32"]}}]),
        )
        .start();
    let team = redis.team("5");
    for name in ["x-team-id", "X-Team-Id", "x_team_id", "X-Team_Id"] {
        let request = Req::post(TASKS).header(name, &team);
        let answer = Client::connect_from("127.0.0.1", gateway.http).ask(&request);
        assert_eq!(answer.status, 200, "{name}");
        let arrived = upstream.only_request();
        assert!(
            !arrived.head.contains(&team),
            "{name} arrived: {}",
            arrived.head
        );
        upstream.forget();
    }
    let listed = Req::post(TASKS).team(&team);
    assert_eq!(
        Client::connect_from("127.0.0.2", gateway.http)
            .ask(&listed)
            .status,
        200
    );
    assert_eq!(
        upstream.only_request().header("x-tollgate-team"),
        Some(team)
    );
}

#[test]
fn what_would_be_refused_is_counted_and_logged_with_its_reason() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = in_shadow(&upstream).start();
    let (poor, absent, rich) = (redis.team("0"), fresh("no-balance"), redis.team("5"));
    for (id, request, reason) in [
        ("poor", Req::start(&poor), "insufficient_credits"),
        ("absent", Req::start(&absent), "no_balance"),
        ("nobody", Req::post(TASKS), "authentication_required"),
        ("odd", Req::start("not a team"), "invalid_request"),
    ] {
        assert_eq!(
            gateway.ask(&request.header("X-Request-Id", id)).status,
            200,
            "{id}"
        );
        let line = gateway.access_line(id, |line| line["request_id"] == id);
        assert_eq!(line["verdict"], "would_refuse", "{line}");
        assert_eq!(line["reason"], reason, "{line}");
        let counted = gateway.metrics().sum(
            "tollgate_would_refusals_total",
            &[("reason", reason), ("trigger", "api")],
        );
        assert_eq!(counted, 1.0, "{id}");
    }
    let admitted = Req::start(&rich).header("X-Request-Id", "rich");
    assert_eq!(gateway.ask(&admitted).status, 200);
    let line = gateway.access_line("rich", |line| line["request_id"] == "rich");
    assert_eq!(line["verdict"], "admitted");
    assert!(line["reason"].is_null(), "{line}");
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("tollgate_would_refusals_total", &[]), 4.0);
    assert_eq!(metrics.sum("tollgate_refusals_total", &[]), 0.0);
    assert!(redis.refusals(&poor).is_empty(), "nobody was refused");
}
