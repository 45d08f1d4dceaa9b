//! A webhook's token stands in its path. It goes to the upstream, and nowhere
//! else.

use serde_json::json;

use crate::support::gateway::Builder;
use crate::support::ports::Refusing;
use crate::support::{Gateway, Redis, Req, Response, Upstream};
use crate::support::{eventually, secs};

/// Part of every token in these tests.
const TOKEN: &str = "sesame";

/// Addresses with a token in them, as people and attackers write them.
const SPELLINGS: &[&str] = &[
    "/hooks/w/u1/t0-sesame",
    "/hooks/w/u1/t0-sesame?x=1",
    "/hooks/w/u1/t0-sesame?again=sesame",
    "/hooks/w/u1/t0-sesame/",
    "/hooks/w/u1/t0-sesame//",
    "/hooks/w/u1//t0-sesame",
    "//hooks/w/u1/t0-sesame",
    "/HOOKS/w/u1/t0-sesame",
    "/%68ooks/w/u1/t0-sesame",
    "/%2568ooks/w/u1/t0-sesame",
    "/hooks%2Fw%2Fu1%2Ft0-sesame",
    "/hooks/w/u1%2ft0-sesame",
    "/hooks%252Fw/u1/t0-sesame",
    "/hooks/./w/u1/t0-sesame",
    "/x/../hooks/w/u1/t0-sesame",
    "/hooks/x/%2e%2e/w/u1/t0-sesame",
    "/hooks/w/x/../u1/t0-sesame",
    "/hooks\\w\\u1\\t0-sesame",
    "/hooks%5cw/u1/t0-sesame",
    "/hooks;v=1/w/u1/t0-sesame",
    "/hooks/w/u1;v=1/t0-sesame",
    "/hooks/w/u1/t0-sesame;v=1",
    "/hooks/w/u1/t0;v=sesame",
    "/hooks/w/u1/t0-sesame%3Fx",
    "/hooks/w/u1/t0-sesame%23x",
    "/hooks/w/u1/t0-sesame%00",
    "/hooks/w/u1/t0-sesame%20",
    "/hooks/w/u1/%74%30-sesame",
    // with more behind it
    "/hooks/w/u1/t0-sesame/more",
    "/hooks/w/u1/t0-sesame/more/and/more",
    "/hooks/w/u1/x/t0-sesame",
    "/hooks/w/u1/t0-sesame/t1-sesame",
    "//hooks/w//u1/t0-sesame/more",
    "/hooks%2fw/u1/t0-sesame/more",
    "/hooks/w/u1/t0-sesame/../t0-sesame",
    "/hooks/w/u1/t0-sesame/..",
    "/hooks/w/u1/t0-sesame/../../../../x",
    "//api.test/hooks/w/u1/t0-sesame",
    "http://api.test/hooks/w/u1/t0-sesame",
];

const METHODS: [&str; 5] = ["POST", "GET", "post", "PUT", "DELETE"];

fn hooked(builder: Builder) -> Gateway {
    builder
        .set("log.level", "debug")
        .set(
            "routes.3",
            json!({"start": "POST /hooks/w/{uid}/{token}", "trigger": "webhook"}),
        )
        .start()
}

/// Sends every spelling by every method. No answer of the gateway's own may
/// show the token.
#[track_caller]
fn knock(gateway: &Gateway, team: &str) -> Vec<u16> {
    let mut statuses = Vec::new();
    for path in SPELLINGS {
        for method in METHODS {
            let request = Req::new(method, path).team(team).body("{}");
            let answer = gateway.ask(&request);
            assert_hidden(&answer, method, path);
            statuses.push(answer.status);
        }
    }
    statuses
}

#[track_caller]
fn assert_hidden(answer: &Response, method: &str, path: &str) {
    let all = format!("{}{}", answer.head, answer.text());
    assert!(!all.contains(TOKEN), "{method} {path}: {all}");
}

/// Ends the gateway and looks through all that it said.
#[track_caller]
fn assert_said_nothing(gateway: &Gateway) {
    let scrape = gateway.admin("/metrics").text();
    gateway.signal("TERM");
    gateway.wait(secs(10));
    let lines = SPELLINGS.len() * METHODS.len();
    eventually(secs(5), "every request is in the log", || {
        (gateway.access_log().len() >= lines).then_some(())
    });
    let all = [gateway.stdout.text(), gateway.stderr.text(), scrape].join("\n");
    let shown: Vec<&str> = all.lines().filter(|line| line.contains(TOKEN)).collect();
    assert!(shown.is_empty(), "{shown:#?}");
}

#[test]
fn a_refused_webhook_shows_its_token_nowhere() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let gateway = hooked(Gateway::before(&upstream));
    let team = redis.team("0");
    let refused = knock(&gateway, &team).iter().filter(|s| **s == 403).count();
    assert!(refused > SPELLINGS.len(), "{refused} were refused");
    let events = eventually(secs(5), "every refusal is an event", || {
        Some(redis.refusals(&team)).filter(|events| events.len() == refused)
    });
    let shown = events
        .iter()
        .find(|event| format!("{event:?}").contains(TOKEN));
    assert_eq!(shown, None);
    assert!(
        events
            .iter()
            .any(|event| event["instance"] == "/hooks/w/u1/{token}"),
        "the rest of the path is still told"
    );
    assert_said_nothing(&gateway);
}

#[test]
fn an_admitted_webhook_shows_its_token_to_the_upstream_alone() {
    let upstream = Upstream::ok();
    let gateway = hooked(Gateway::before(&upstream));
    knock(&gateway, &Redis::shared().team("5"));
    let arrived = upstream.requests();
    assert!(
        arrived
            .iter()
            .any(|request| request.line() == "POST /hooks/w/u1/t0-sesame HTTP/1.1")
    );
    assert_said_nothing(&gateway);
}

#[test]
fn a_webhook_that_fails_shows_its_token_nowhere() {
    let away = Refusing::new();
    let gateway = hooked(Gateway::before_address(away.address));
    let statuses = knock(&gateway, &Redis::shared().team("5"));
    assert!(statuses.contains(&503), "{statuses:?}");
    assert_said_nothing(&gateway);
}

#[test]
fn a_webhook_in_an_outage_or_of_nobody_shows_its_token_nowhere() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = hooked(Gateway::before(&upstream).redis(&redis));
    knock(&gateway, "not a team");
    redis.kill();
    knock(&gateway, "acme");
    assert_said_nothing(&gateway);
}
