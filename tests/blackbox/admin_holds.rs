//! `/v1/teams/…` on the admin listener: what billing sees and changes.

use serde_json::json;

use crate::support::holding::{Holding, STORES, Store};
use crate::support::operator::{TOKEN, assert_trouble, get, operator, post};
use crate::support::wait::millis;
use crate::support::{Client, Gateway, Redis, Req, Upstream, eventually, secs};

/// A gateway in lookup mode whose admin listener has a token.
fn lookup() -> Gateway {
    Gateway::before_address(([127, 0, 0, 1], 9).into())
        .set("server.admin.token", TOKEN)
        .start()
}

#[test]
fn without_a_configured_token_nobody_may() {
    let gateway = Gateway::before_address(([127, 0, 0, 1], 9).into()).start();
    let team = Redis::shared().team("5");
    let response = get(&gateway, &format!("/v1/teams/{team}"));
    assert_trouble(&response, 403, "not_authorized");
    assert!(
        response.text().contains("server.admin.token"),
        "{}",
        response.text()
    );
    let grant = post(
        &gateway,
        &format!("/v1/teams/{team}/grants"),
        &json!({"credits": "1"}),
    );
    assert_eq!(grant.status, 403);
    assert_eq!(gateway.admin("/healthz").status, 200, "the rest needs none");
}

#[test]
fn without_the_token_nothing_is_shown_or_changed() {
    let gateway = lookup();
    let team = Redis::shared().team("5");
    let path = format!("/v1/teams/{team}");
    for wrong in [
        Req::get(&path),
        Req::get(&path).bearer("s3cret"),
        Req::get(&path).bearer(""),
        Req::get(&path).header("Authorization", &format!("Basic {TOKEN}")),
        Req::get(&path).bearer(TOKEN).bearer(TOKEN),
        Req::get("/v1/nowhere"),
        Req::post(&format!("{path}/grants")).body(r#"{"credits": 1}"#),
    ] {
        let response = Client::connect(gateway.admin).ask(&wrong);
        assert_trouble(&response, 401, "authentication_required");
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(get(&gateway, &path).json()["balance"], "5");
    assert!(!gateway.stderr.text().contains(TOKEN));
}

#[test]
fn a_balance_is_shown_in_lookup_mode() {
    let gateway = lookup();
    let team = Redis::shared().team("12.5");
    let response = get(&gateway, &format!("/v1/teams/{team}"));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.json(), json!({"team": team, "balance": "12.5"}));
    let none = get(&gateway, "/v1/teams/nobody-has-this-one");
    assert_eq!(
        none.json()["balance"],
        json!(null),
        "no balance is told apart from zero"
    );
    let head = Req::new("HEAD", &format!("/v1/teams/{team}"));
    assert_eq!(operator(&gateway, head).status, 200);
}

#[test]
fn grants_count_in_lookup_mode_but_not_by_id() {
    let gateway = lookup();
    let team = Redis::shared().team("1");
    let path = format!("/v1/teams/{team}/grants");
    let response = post(&gateway, &path, &json!({"credits": "2.5"}));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(
        response.json(),
        json!({"team": team, "granted": "2.5", "balance": "3.5", "replayed": false})
    );
    let by_id = post(&gateway, &path, &json!({"credits": "2.5", "id": "inv-7"}));
    assert_trouble(&by_id, 409, "conflict");
    assert!(
        by_id.text().contains("admission.mode: hold"),
        "{}",
        by_id.text()
    );
    assert_eq!(
        get(&gateway, &format!("/v1/teams/{team}")).json()["balance"],
        "3.5"
    );
}

#[test]
fn holds_need_hold_mode() {
    let gateway = lookup();
    for (path, body) in [
        ("holds/h1/settle", json!({"credits": "1"})),
        ("holds/h1/charge", json!({"credits": "1", "id": "c1"})),
        ("holds/h1/release", json!({})),
    ] {
        let response = post(&gateway, &format!("/v1/teams/acme/{path}"), &body);
        assert_trouble(&response, 409, "conflict");
        assert!(response.text().contains("admission.mode: hold"), "{path}");
    }
    for path in ["holds", "statement"] {
        let response = get(&gateway, &format!("/v1/teams/acme/{path}"));
        assert_trouble(&response, 409, "conflict");
    }
}

#[test]
fn bodies_that_do_not_say_one_thing_are_refused_and_change_nothing() {
    let gateway = lookup();
    let team = Redis::shared().team("1");
    let grants = format!("/v1/teams/{team}/grants");
    let post = |path: &str, body: &str| operator(&gateway, Req::post(path).body(body));
    for body in [
        "",
        "{}",
        "[]",
        r#"["1"]"#,
        r#"["1", "id"]"#,
        "null",
        "{",
        r#"{"credits": "1"} x"#,
        r#"{"credits": "1", "credits": "2"}"#,
        r#"{"credits": "1", "credit": "2"}"#,
        r#"{"credits": 1.5}"#,
        r#"{"credits": 1e2}"#,
        r#"{"credits": 99999999999999999999}"#,
        r#"{"credits": "1e2"}"#,
        r#"{"credits": "0.0000001"}"#,
        r#"{"credits": "99999999999999"}"#,
        r#"{"credits": "-1"}"#,
        r#"{"credits": -1}"#,
        r#"{"credits": "0"}"#,
        r#"{"credits": null}"#,
        r#"{"credits": ["1"]}"#,
        "\u{feff}{\"credits\": \"1\"}",
    ] {
        assert_trouble(&post(&grants, body), 400, "invalid_request");
    }
    let floats = post(&grants, r#"{"credits": 1.5}"#);
    assert!(floats.text().contains("quotes"), "{}", floats.text());
    for (path, body) in [
        ("settle", r#"{"credits": "-1"}"#),
        ("settle", r#"{"credits": "1", "id": "x"}"#),
        ("charge", r#"{"credits": "1"}"#),
        ("charge", r#"["1", "c1"]"#),
        ("settle", r#"["1"]"#),
        ("release", "[]"),
        ("charge", r#"{"credits": "0", "id": "x"}"#),
        ("charge", r#"{"credits": "1", "id": ""}"#),
        ("release", r#"{"credits": "1"}"#),
    ] {
        let path = format!("/v1/teams/{team}/holds/h1/{path}");
        assert_trouble(&post(&path, body), 400, "invalid_request");
    }
    let form = Req::new("POST", &grants)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(r#"{"credits": "1"}"#);
    assert_trouble(&operator(&gateway, form), 415, "invalid_request");
    let untyped = Req::new("POST", &grants).body(r#"{"credits": "1"}"#);
    assert_trouble(&operator(&gateway, untyped), 415, "invalid_request");
    assert_eq!(
        get(&gateway, &format!("/v1/teams/{team}")).json()["balance"],
        "1"
    );
    let chunked = Req::new("POST", &grants)
        .header("Content-Type", "Application/JSON; charset=utf-8")
        .chunked(br#"{"credits": 4}"#, 3);
    assert_eq!(operator(&gateway, chunked).json()["balance"], "5");
}

#[test]
fn a_body_over_the_bound_still_reads_its_413() {
    let gateway = lookup();
    let path = "/v1/teams/acme/grants";
    let body = format!(r#"{{"credits": "1", "id": "{}"}}"#, "x".repeat(64 * 1024));
    let announced = operator(&gateway, Req::post(path).body(&body));
    assert_trouble(&announced, 413, "invalid_request");
    let chunked = Req::new("POST", path)
        .header("Content-Type", "application/json")
        .chunked(body.as_bytes(), 1000);
    assert_trouble(&operator(&gateway, chunked), 413, "invalid_request");
}

#[test]
fn a_slow_body_is_given_up_on() {
    let gateway = lookup();
    let mut client = Client::connect(gateway.admin);
    let request = Req::post("/v1/teams/acme/grants")
        .bearer(TOKEN)
        .body(r#"{"credits": "1"}"#);
    client.send(request.head_bytes());
    client.send(&request.body_bytes()[..4]);
    client.patience(secs(20));
    assert_trouble(&client.response(), 408, "invalid_request");
}

#[test]
fn a_client_that_waits_to_be_told_is_told() {
    let gateway = lookup();
    let team = Redis::shared().team("1");
    let mut client = Client::connect(gateway.admin);
    let request = Req::post(&format!("/v1/teams/{team}/grants"))
        .header("Expect", "100-continue")
        .bearer(TOKEN)
        .body(r#"{"credits": "1"}"#);
    client.send(request.head_bytes());
    let told = client.read_once().unwrap();
    assert!(told > 0);
    client.send(request.body_bytes());
    let response = client.response();
    assert_eq!(response.interim.len(), 1, "{response:?}");
    assert_eq!(response.json()["balance"], "2");
}

#[test]
fn methods_paths_and_queries_are_checked() {
    let gateway = lookup();
    for (path, method, allowed) in [
        ("/v1/teams/acme", "POST", "GET, HEAD"),
        ("/v1/teams/acme/holds", "DELETE", "GET, HEAD"),
        ("/v1/teams/acme/statement", "PUT", "GET, HEAD"),
        ("/v1/teams/acme/grants", "GET", "POST"),
        ("/v1/teams/acme/holds/h1/settle", "PUT", "POST"),
    ] {
        let response = operator(
            &gateway,
            Req::new(method, path).header("Content-Length", "0"),
        );
        assert_trouble(&response, 405, "invalid_request");
        assert_eq!(response.header("allow"), Some(allowed), "{path}");
    }
    for path in [
        "/v1/",
        "/v1/teams",
        "/v1/teams/acme/",
        "/v1/teams/acme/hold",
        "/v1/teams/acme/holds/h1",
        "/v1/teams/acme/holds/h1/keep",
        "/v1/teams/acme/holds/a/b/settle",
        "/v1/Teams/acme",
    ] {
        assert_trouble(&get(&gateway, path), 404, "resource_not_found");
    }
    for path in [
        "/v1/teams/",
        "/v1/teams/a%7Db",
        "/v1/teams/a%2Fb",
        "/v1/teams/%ff",
        "/v1/teams/a%2",
        "/v1/teams/acme?x=1",
        "/v1/teams/acme/holds?limit=0",
        "/v1/teams/acme/holds?limit=x",
        "/v1/teams/acme/holds?limit=1&limit=2",
        "/v1/teams/acme/statement?after=x",
        "/v1/teams/acme/statement?after=1",
    ] {
        assert_trouble(&get(&gateway, path), 400, "invalid_request");
    }
}

#[test]
fn an_outage_says_when_to_come_again() {
    let redis = Redis::private(&[]);
    let gateway = Gateway::before_address(([127, 0, 0, 1], 9).into())
        .redis(&redis)
        .set("server.admin.token", TOKEN)
        .start();
    let team = redis.team("5");
    redis.kill();
    let response = eventually(secs(10), "the outage shows", || {
        let response = get(&gateway, &format!("/v1/teams/{team}"));
        (response.status != 200).then_some(response)
    });
    assert_trouble(&response, 503, "resource_unavailable");
    assert_eq!(response.header("retry-after"), Some("1"));
}

#[test]
fn a_grant_that_may_have_been_made_is_not_to_be_repeated_blindly() {
    let redis = Redis::private(&[]);
    let gateway = Gateway::before_address(([127, 0, 0, 1], 9).into())
        .redis(&redis)
        .set("server.admin.token", TOKEN)
        .set("balances.redis.deadline", "300ms")
        .start();
    let team = redis.team("5");
    // Reads pass and writes hang: what was sent is then of unknown outcome.
    redis.run::<()>(&["CLIENT", "PAUSE", "5000", "WRITE"]);
    let response = post(
        &gateway,
        &format!("/v1/teams/{team}/grants"),
        &json!({"credits": 1}),
    );
    assert_eq!(response.status, 503, "{}", response.text());
    assert_eq!(response.header("x-should-retry"), Some("false"));
    assert_eq!(response.header("retry-after"), None);
    assert!(
        response.text().contains("look at the balance"),
        "{}",
        response.text()
    );
    redis.run::<()>(&["CLIENT", "UNPAUSE"]);
}

#[test]
fn a_change_goes_to_the_ledger_in_force() {
    let (upstream, before, after) = (Upstream::ok(), Redis::private(&[]), Redis::private(&[]));
    let gateway = Gateway::before(&upstream)
        .redis(&before)
        .set("server.admin.token", TOKEN)
        .start();
    before.set_balance("acme", "1");
    after.set_balance("acme", "10");
    assert_eq!(get(&gateway, "/v1/teams/acme").json()["balance"], "1");
    gateway.reload_with("balances.redis.url", after.url());
    eventually(secs(10), "the other ledger is asked", || {
        (get(&gateway, "/v1/teams/acme").json()["balance"] == "10").then_some(())
    });
    let granted = post(&gateway, "/v1/teams/acme/grants", &json!({"credits": 5}));
    assert_eq!(granted.json()["balance"], "15", "{}", granted.text());
    assert_eq!(before.run::<String>(&["GET", "credits:{acme}"]), "1");
}

#[test]
fn a_connection_is_kept_for_the_next_request() {
    let gateway = lookup();
    let team = Redis::shared().team("0");
    let mut client = Client::connect(gateway.admin);
    client.patience(millis(5000));
    for n in 1..=3 {
        let request = Req::post(&format!("/v1/teams/{team}/grants"))
            .bearer(TOKEN)
            .body(r#"{"credits": "1"}"#);
        assert_eq!(client.ask(&request).json()["balance"], n.to_string());
    }
}

#[test]
fn a_run_is_settled_once() {
    for store in STORES {
        let held = Holding::start(store, "100");
        let (team, hold) = (&held.team, held.hold());
        assert_eq!(
            held.get(""),
            json!({"team": team, "balance": "100", "held": "20", "spendable": "80", "live_holds": 1})
        );
        let listed = held.get("/holds");
        let first = &listed["holds"][0];
        assert_eq!(
            (&first["hold"], &first["credits"]),
            (&json!(hold), &json!("20")),
            "{listed}"
        );
        assert!(
            first["ends_in_ms"]
                .as_u64()
                .is_some_and(|left| left <= 1_800_000),
            "{listed}"
        );
        let settle = format!("/holds/{hold}/settle");
        let done = held.post(&settle, &json!({"credits": "12.5"}));
        assert_eq!(done.status, 200, "{store:?}: {}", done.text());
        let mut expected = json!({
            "team": team, "hold": hold, "run": null, "end": "settled", "credits": "0",
            "settled": "12.5", "balance": "87.5", "replayed": false,
        });
        assert_eq!(done.json(), expected, "{store:?}");
        let again = held.post(&settle, &json!({"credits": "12.50"}));
        expected["replayed"] = true.into();
        let mut found = again.json();
        found["balance"] = "87.5".into();
        assert_eq!((again.status, found), (200, expected), "{store:?}");
        let other = held.post(&settle, &json!({"credits": 13}));
        assert_trouble(&other, 409, "conflict");
        let body = other.json();
        assert_eq!(
            (&body["earlier"], &body["end"]),
            (&json!("12.5"), &json!("settled"))
        );
        assert_eq!(
            held.get(""),
            json!({"team": team, "balance": "87.5", "held": "0", "spendable": "87.5", "live_holds": 0})
        );
        let lines = held.get("/statement");
        assert_eq!(lines["lines"].as_array().map(Vec::len), Some(1), "{lines}");
        let line = &lines["lines"][0];
        assert_eq!(
            (
                &line["kind"],
                &line["credits"],
                &line["balance"],
                &line["hold"]
            ),
            (
                &json!("settle"),
                &json!("-12.5"),
                &json!("87.5"),
                &json!(hold)
            ),
            "{store:?}: {lines}"
        );
        assert_eq!(lines["next"], line["id"]);
    }
}

#[test]
fn usage_is_charged_in_parts() {
    for store in STORES {
        let held = Holding::start(store, "100");
        let hold = held.hold();
        let charge = |id: &str, credits: &str| {
            let path = format!("/holds/{hold}/charge");
            held.post(&path, &json!({"credits": credits, "id": id}))
        };
        let first = charge("c1", "1.5").json();
        assert_eq!(
            (
                &first["charged"],
                &first["credits"],
                &first["balance"],
                &first["end"]
            ),
            (&json!("1.5"), &json!("18.5"), &json!("98.5"), &json!(null)),
            "{store:?}: {first}"
        );
        assert_eq!(charge("c1", "1.5").json()["replayed"], true, "{store:?}");
        let other = charge("c1", "2");
        assert_trouble(&other, 409, "conflict");
        assert_eq!(other.json()["earlier"], "1.5", "{store:?}");
        let more = charge("c2", "30").json();
        assert_eq!(
            (&more["credits"], &more["balance"]),
            (&json!("0"), &json!("68.5")),
            "{store:?}"
        );
        let team = held.get("");
        assert_eq!(
            team["spendable"], "68.5",
            "usage never counts twice: {team}"
        );
    }
}

#[test]
fn a_release_makes_room_for_the_next_start() {
    for store in STORES {
        let held = Holding::start(store, "20");
        let hold = held.hold();
        assert_eq!(held.gateway.ask(&Req::start(&held.team)).status, 403);
        let release = format!("/holds/{hold}/release");
        let released = held.post(&release, &json!({})).json();
        assert_eq!(
            (
                &released["end"],
                &released["credits"],
                &released["replayed"]
            ),
            (&json!("released"), &json!("0"), &json!(false)),
            "{store:?}: {released}"
        );
        let bare = Req::new("POST", &held.path(&release)).header("Content-Length", "0");
        let again = operator(&held.gateway, bare);
        assert_eq!(
            again.json()["replayed"],
            true,
            "{store:?}: {}",
            again.text()
        );
        held.hold();
    }
}

#[test]
fn a_hold_that_is_not_there_is_not_found() {
    for store in STORES {
        let held = Holding::start(store, "20");
        for (act, body) in [
            ("settle", json!({"credits": "1"})),
            ("charge", json!({"credits": "1", "id": "c1"})),
            ("release", json!({})),
        ] {
            let response = held.post(&format!("/holds/run%2F1/{act}"), &body);
            assert_trouble(&response, 404, "resource_not_found");
            assert!(response.text().contains("run/1"), "{}", response.text());
        }
        assert_eq!(held.get("")["balance"], "20", "{store:?}");
    }
}

#[test]
fn a_grant_is_made_once_per_id() {
    for store in STORES {
        let held = Holding::start(store, "20");
        let grant =
            |id: &str, credits: &str| held.post("/grants", &json!({"credits": credits, "id": id}));
        let first = grant("inv-7", "100");
        assert_eq!(
            first.json(),
            json!({"team": held.team, "granted": "100", "balance": "120", "replayed": false}),
            "{store:?}"
        );
        let again = grant("inv-7", "100.0").json();
        assert_eq!(
            (&again["balance"], &again["replayed"]),
            (&json!("120"), &json!(true))
        );
        let other = grant("inv-7", "50");
        assert_trouble(&other, 409, "conflict");
        assert_eq!(other.json()["earlier"], "100", "{store:?}");
        assert_trouble(&grant("inv 8", "50"), 400, "invalid_request");
        grant("inv-8", "1");
        let page = held.get("/statement?limit=1");
        assert_eq!(page["lines"][0]["reference"], "inv-7", "{store:?}: {page}");
        let next = page["next"].as_str().unwrap();
        let rest = held.get(&format!("/statement?after={next}"));
        assert_eq!(
            rest["lines"].as_array().map(Vec::len),
            Some(1),
            "{store:?}: {rest}"
        );
        assert_eq!(rest["lines"][0]["balance"], "121", "{store:?}");
    }
}

#[test]
fn a_settlement_whose_reply_is_lost_is_safe_to_repeat() {
    let redis = Redis::private(&[]);
    redis.set_balance("acme", "100");
    let held = Holding::with(
        "acme",
        &[
            ("balances.redis.url", json!(redis.url())),
            ("balances.redis.deadline", json!("300ms")),
        ],
    );
    let settle = format!("/holds/{}/settle", held.hold());
    redis.run::<()>(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let lost = held.post(&settle, &json!({"credits": "12.5"}));
    assert_trouble(&lost, 503, "resource_unavailable");
    assert_eq!(lost.header("retry-after"), Some("1"));
    redis.run::<()>(&["CLIENT", "UNPAUSE"]);
    let settled = eventually(secs(10), "the settlement goes through", || {
        let response = held.post(&settle, &json!({"credits": "12.5"}));
        (response.status == 200).then_some(response)
    });
    assert_eq!(settled.json()["settled"], "12.5");
    assert_eq!(held.get("")["balance"], "87.5", "it was debited once");
    assert_eq!(
        held.get("/statement")["lines"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn a_hold_is_found_by_its_run_and_its_end_is_counted() {
    for store in STORES {
        let settings = [("admission.run_id", json!("/run_id"))];
        let held = Holding::start_with(store, "100", &settings);
        let hold = held.hold();
        let run = format!("run/{hold}");
        eventually(secs(10), "the run is bound", || {
            (held.get("/holds")["holds"][0]["run"] == json!(run)).then_some(())
        });
        let path = format!("/holds/run%2F{hold}/settle");
        let settled = held.post(&path, &json!({"credits": 3}));
        assert_eq!(settled.status, 200, "{store:?}: {}", settled.text());
        let facts = settled.json();
        assert_eq!(
            (&facts["hold"], &facts["run"]),
            (&json!(hold), &json!(run)),
            "{store:?}"
        );
        assert_eq!(held.get("/statement")["lines"][0]["run"], json!(run));
        let ended = [("end", "settled")];
        let metrics = held.gateway.metrics();
        assert_eq!(
            metrics.sum("tollgate_hold_ends_total", &ended),
            1.0,
            "{store:?}"
        );
        held.post(&path, &json!({"credits": 3}));
        let metrics = held.gateway.metrics();
        assert_eq!(
            metrics.sum("tollgate_hold_ends_total", &ended),
            1.0,
            "a replay is no end"
        );
    }
}

#[test]
fn a_balance_is_corrected_downwards_once_per_id() {
    for store in STORES {
        let held = Holding::start(store, "20");
        let correct = |id: &str| held.post("/grants", &json!({"credits": "-2.5", "id": id}));
        let first = correct("fix-1");
        assert_eq!(
            first.json(),
            json!({"team": held.team, "granted": "-2.5", "balance": "17.5", "replayed": false}),
            "{store:?}"
        );
        let again = correct("fix-1").json();
        assert_eq!(
            (&again["balance"], &again["replayed"]),
            (&json!("17.5"), &json!(true)),
            "{store:?}"
        );
        let other = held.post("/grants", &json!({"credits": "2.5", "id": "fix-1"}));
        assert_trouble(&other, 409, "conflict");
        assert_eq!(other.json()["earlier"], "-2.5", "{store:?}");
        let lines = &held.get("/statement")["lines"];
        let line = (&lines[0]["kind"], &lines[0]["credits"]);
        assert_eq!(line, (&json!("grant"), &json!("-2.5")), "{store:?}");
        let none = held.post("/grants", &json!({"credits": "0", "id": "fix-2"}));
        assert_trouble(&none, 400, "invalid_request");
        let twice = held.post("/grants", &json!({"credits": "-1"}));
        assert_trouble(&twice, 400, "invalid_request");
        assert!(twice.text().contains("`id`"), "{}", twice.text());
        assert_eq!(held.get("")["balance"], "17.5", "{store:?}");
    }
}

#[test]
fn a_request_whose_end_is_in_doubt_is_refused_and_the_connection_closed() {
    let gateway = lookup();
    let team = Redis::shared().team("1");
    let body = r#"{"credits": "1"}"#;
    let head = format!(
        "POST /v1/teams/{team}/grants HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    let mut client = Client::connect(gateway.admin);
    client.send(head);
    let response = client.response();
    assert_trouble(&response, 400, "invalid_request");
    assert!(client.is_closed_within(secs(5)));
    let balance = get(&gateway, &format!("/v1/teams/{team}")).json();
    assert_eq!(balance["balance"], "1");
}

#[test]
fn problems_follow_a_reload() {
    let gateway = lookup();
    let kind = || get(&gateway, "/v1/teams").json()["type"].clone();
    assert_ne!(kind(), json!("https://errors.test/e/resource-not-found/"));
    gateway.reload_with("problem.type_base", "https://errors.test/e/");
    eventually(secs(5), "the new types are used", || {
        (kind() == "https://errors.test/e/resource-not-found/").then_some(())
    });
}

#[test]
fn there_is_no_statement_where_billing_writes() {
    let held = Holding::start_with(Store::Redis, "20", &[("balances.writer", json!("billing"))]);
    let response = get(&held.gateway, &held.path("/statement"));
    assert_trouble(&response, 409, "conflict");
    assert!(
        response.text().contains("balances.writer: tollgate"),
        "{}",
        response.text()
    );
}
