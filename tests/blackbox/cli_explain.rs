//! `tollgate explain --request`: what the gateway would conclude of one very
//! request, from a file, with and without the ledger.

use std::path::Path;
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use crate::support::Redis;
use crate::support::config::Config;
use crate::support::gateway::tollgate;
use crate::support::process::Folder;
use crate::support::redis::fresh;

/// The known answer of Slack's own documentation of signatures.
const SLACK_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
const SLACK_AT: &str = "1531420618";
const SLACK_SIGNATURE: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
const SLACK_BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";

/// The secret of tokens, and what they are for.
const JWT_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What no output may show.
const SECRETS: [&str; 6] = [
    SLACK_SECRET,
    "96rGlfmibIGlgcZRskXaIFfN",
    "a2114d57b48eac39",
    JWT_SECRET,
    "s3cret",
    "eyJ",
];

/// A configuration and requests in files of their own.
struct Desk {
    folder: Folder,
    config: Config,
}

impl Desk {
    fn new(changes: &[(&str, Value)]) -> Self {
        let mut config = Config::new(([127, 0, 0, 1], 9).into());
        config.set(
            "identity",
            json!([
                {"api_key": {"team_header": "x-warp-team-uid"}},
                {"jwt": {"secret": JWT_SECRET, "issuer": "https://issuer.example", "audience": ["tasks", "runs"], "team_claim": "team_id"}},
                {"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}},
            ]),
        );
        config.set(
            "routes",
            json!([
                {"start": "POST /slack", "refuse_with": "message", "webhook": {
                    "kind": "slack", "secret": ["another", SLACK_SECRET], "team_key": "slack:<workspace>",
                }},
                {"start": "POST /hooks/{uid}/{token}", "trigger": "webhook",
                    "team_from": {"path": "uid", "team_key": "hook:<uid>", "token": "token"}},
                {"start": "POST /runs", "trigger_from": {
                    "header": "x-oz-api-source", "from": ["10.0.0.0/8"], "map": {"SCHEDULED_AGENT": "schedule"},
                }},
                {"start": "POST /runs/{run}/followups",
                    "team_from": {"path": "run", "team_key": "run:<run>", "else": "identity"}},
            ]),
        );
        for (path, value) in changes {
            config.set(path, value.clone());
        }
        let folder = Folder::new("explain-request");
        Desk { folder, config }
    }

    /// Explains a request, and sees that nothing secret is told.
    fn explain(&self, request: &str, more: &[&str]) -> Output {
        let config = self.folder.write("tollgate.yaml", self.config.text());
        let file = self.folder.write("request.txt", request);
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (config, file) = (text(&config), text(&file));
        let words = ["explain", "--request", &file, "--config", &config];
        let output = tollgate(&[&words[..], more].concat());
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said);
        for secret in SECRETS {
            assert!(!said.contains(secret), "{secret} is shown: {said}");
        }
        output
    }

    fn text(&self, request: &str, more: &[&str]) -> String {
        let output = self.explain(request, more);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn facts(&self, request: &str, more: &[&str]) -> Value {
        serde_json::from_str(&self.text(request, &[more, &["--json"]].concat())).unwrap()
    }
}

fn slack(signature: &str, body: &str) -> String {
    format!(
        "POST /slack HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nX-Slack-Request-Timestamp: {SLACK_AT}\r\nX-Slack-Signature: {signature}\r\n\r\n{body}",
        body.len()
    )
}

/// A start on `/runs` with these headers.
fn run(headers: &str) -> String {
    format!("POST /runs HTTP/1.1\nHost: h\n{headers}\n{{}}")
}

fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256"})), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, JWT_SECRET.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

#[test]
fn a_delivery_is_verified_as_of_a_time_and_says_whose_it_is() {
    let desk = Desk::new(&[]);
    let genuine = slack(SLACK_SIGNATURE, SLACK_BODY);
    let then = ["--at", "2018-07-12T18:38:00Z"];
    let facts = desk.facts(&genuine, &then);
    assert_eq!(facts["conclusion"], "start", "{facts}");
    assert_eq!(facts["delivery"]["signature"], "holds");
    assert_eq!(facts["delivery"]["surface"], "a slash command");
    assert_eq!(facts["delivery"]["workspace"], "T1DC2JH3J");
    assert_eq!(facts["asks"], json!(["slack:T1DC2JH3J"]));
    assert_eq!(facts["answer"]["outcome"], "open");
    assert_eq!(facts["trigger"], "slack");

    let known = Desk::new(&[("routes.0.webhook.teams", json!({"T1DC2JH3J": "acme"}))]);
    let facts = known.facts(&genuine, &["--at", SLACK_AT]);
    assert_eq!(facts["team"], "acme", "{facts}");
    assert_eq!(facts["delivery"]["team_by"], "routes[0].webhook.teams");
    assert_eq!(facts["asks"], json!(["credits:{acme}"]));
}

#[test]
fn a_signature_that_does_not_hold_says_why_and_what_may_have_happened() {
    let desk = Desk::new(&[]);
    let forged = SLACK_SIGNATURE.replace("v0=a2", "v0=a3");
    let edited = slack(SLACK_SIGNATURE, SLACK_BODY) + "\n";
    for (request, at, reason, hint) in [
        (
            slack(SLACK_SIGNATURE, SLACK_BODY),
            "1531421000",
            "signature_stale",
            "--at 2018-07-12T18:36:58Z",
        ),
        (
            slack(SLACK_SIGNATURE, SLACK_BODY),
            "1531420000",
            "signature_early",
            "--at",
        ),
        (
            slack(&forged, SLACK_BODY),
            SLACK_AT,
            "signature_mismatch",
            "body",
        ),
        (
            slack("v1=x", SLACK_BODY),
            SLACK_AT,
            "signature_malformed",
            "",
        ),
        (
            edited,
            SLACK_AT,
            "signature_mismatch",
            "holds without the line break",
        ),
        (
            run("").replace("/runs", "/slack"),
            SLACK_AT,
            "signature_missing",
            "",
        ),
    ] {
        let text = desk.text(&request, &["--at", at]);
        assert!(
            text.contains(&format!("401 authentication_required: {reason}")),
            "{text}"
        );
        assert!(text.contains(hint), "{hint}: {text}");
    }
}

#[test]
fn each_identity_says_why_it_applies_or_not() {
    let desk = Desk::new(&[]);
    let applies = |facts: &Value| -> Vec<String> {
        let all = facts["considered"].as_array().unwrap().iter();
        all.map(|one| one["applies"].as_str().unwrap().to_owned())
            .collect()
    };
    let expires = 4_000_000_000_u64;
    let good = json!({"iss": "https://issuer.example", "aud": "runs", "exp": expires, "team_id": "acme", "sub": "ann"});
    let bearer = |text: &str| run(&format!("Authorization: Bearer {text}\nX-Team-Id: other\n"));
    let facts = desk.facts(&bearer(&token(&good)), &[]);
    assert_eq!(applies(&facts), ["no", "yes", "not_asked"], "{facts}");
    assert_eq!(
        (&facts["team"], &facts["principal"]),
        (&json!("acme"), &json!("ann"))
    );

    let mut over = good.clone();
    over["exp"] = json!(1);
    let facts = desk.facts(&bearer(&token(&over)), &[]);
    assert_eq!(facts["answer"]["status"], 401, "{facts}");
    assert!(
        facts["considered"][1]["because"]
            .as_str()
            .unwrap()
            .contains("exp is past"),
        "{facts}"
    );

    let facts = desk.facts(&bearer("wk-s3cret"), &[]);
    assert_eq!(
        applies(&facts),
        ["yes", "not_asked", "not_asked"],
        "{facts}"
    );
    assert!(
        facts["asks"][0].as_str().unwrap().starts_with("apikey:"),
        "{facts}"
    );

    let facts = desk.facts(&run("X-Team-Id: acme\n"), &[]);
    assert_eq!(applies(&facts), ["no", "no", "yes"], "{facts}");
    assert_eq!(facts["team"], "acme");
    let facts = desk.facts(&run("X-Team-Id: acme\n"), &["--peer", "192.0.2.1"]);
    assert_eq!(applies(&facts), ["no", "no", "no"], "{facts}");
    assert_eq!(facts["answer"]["code"], "authentication_required");
    assert!(
        facts["notes"][0].as_str().unwrap().contains("x-team-id"),
        "{facts}"
    );
}

#[test]
fn a_listed_peer_says_the_trigger() {
    let desk = Desk::new(&[]);
    let request = run("X-Oz-Api-Source: SCHEDULED_AGENT\n");
    assert_eq!(
        desk.facts(&request, &["--peer", "10.1.2.3"])["trigger"],
        "schedule"
    );
    assert_eq!(desk.facts(&request, &[])["trigger"], "api");
}

#[test]
fn what_a_path_names_is_told_and_its_token_is_not() {
    let desk = Desk::new(&[]);
    let facts = desk.facts("POST /hooks/u1/s3cret HTTP/1.1\nHost: h\n\n{}", &[]);
    assert_eq!(facts["request"], "POST /hooks/u1/{token}");
    assert_eq!(facts["asks"], json!(["hook:u1"]), "{facts}");
    let twofold = "POST /hooks/u%252e1/s3cret HTTP/1.1\nHost: h\n\n{}";
    let facts = desk.facts(twofold, &[]);
    assert_eq!(facts["answer"]["status"], 400, "{facts}");

    let followup = "POST /runs/r1/followups HTTP/1.1\nHost: h\nX-Team-Id: acme\n\n{}";
    let facts = desk.facts(followup, &[]);
    assert_eq!(facts["asks"], json!(["run:r1"]), "{facts}");
    assert_eq!(
        facts["considered"][3]["by"], "identity[2].header",
        "{facts}"
    );
    let because = facts["considered"][3]["because"].as_str().unwrap();
    assert!(
        because.starts_with("if Redis does not know the path"),
        "{facts}"
    );
}

#[test]
fn what_would_be_turned_away_or_passes_is_said() {
    let desk = Desk::new(&[]);
    for (request, conclusion, status) in [
        ("POST /runs HTTP/1.1\n\n", "turned_away", json!(400)),
        (
            "POST /runs HTTP/1.1\nHost: h\nContent-Length: 1\nTransfer-Encoding: chunked\n\n",
            "turned_away",
            json!(400),
        ),
        (
            "POST /hooks/u1/..%2f..%2fruns HTTP/1.1\nHost: h\n\n",
            "ambiguous",
            json!(400),
        ),
        (
            "GET /hooks/u1/s3cret HTTP/1.1\nHost: h\n\n",
            "passes",
            Value::Null,
        ),
        ("POST /else HTTP/1.1\nHost: h\n\n", "passes", Value::Null),
    ] {
        let facts = desk.facts(request, &[]);
        assert_eq!(facts["conclusion"], conclusion, "{request:?}: {facts}");
        assert_eq!(facts["answer"]["status"], status, "{facts}");
    }
    let late = "POST /runs HTTP/1.1\nHost: h\nContent-Length: 1\n\n{}\n";
    let facts = desk.facts(late, &[]);
    assert!(
        facts["notes"][0]
            .as_str()
            .unwrap()
            .contains("Content-Length says 1"),
        "{facts}"
    );
}

#[test]
fn what_is_no_request_ends_with_64_and_is_not_shown() {
    let desk = Desk::new(&[]);
    for (request, more) in [
        ("s3cret", &[][..]),
        ("POST /runs HTTP/1.1\nHost: h\n s3cret\n\n", &[]),
        ("POST /runs HTTP/1.1\nHost: h\n\n", &["--at", "yesterday"]),
        ("POST /runs HTTP/1.1\nHost: h\n\n", &["--peer", "h"]),
        (
            "POST /runs HTTP/1.1\nHost: h\n\n",
            &["--certificate", "/nonexistent.pem"],
        ),
        ("POST /runs HTTP/1.1\nHost: h\n\n", &["--worst-case"]),
    ] {
        let output = desk.explain(request, more);
        assert_eq!(
            output.status.code(),
            Some(64),
            "{request:?} {more:?}: {output:?}"
        );
    }
}

#[test]
fn asking_reads_the_key_and_the_balance_and_writes_nothing() {
    let redis = Redis::shared();
    let (rich, broke) = (redis.team("12.5"), redis.team("0"));
    let desk = Desk::new(&[]);
    let request = |team: &str| {
        let key = redis.api_key(&["team", team]);
        run(&format!("Authorization: Bearer {key}\n"))
    };
    let facts = desk.facts(&request(&rich), &["--ask"]);
    assert_eq!(facts["answer"]["outcome"], "forwarded", "{facts}");
    assert_eq!(
        (&facts["team"], &facts["balance"]),
        (&json!(rich), &json!("12.5 credits"))
    );
    let facts = desk.facts(&request(&broke), &["--ask"]);
    assert_eq!(facts["answer"]["status"], 403, "{facts}");
    assert_eq!(facts["answer"]["code"], "insufficient_credits");
    let facts = desk.facts(&run("Authorization: Bearer wk-s3cret\n"), &["--ask"]);
    assert_eq!(facts["answer"]["status"], 401, "{facts}");
    let nobody = run(&format!("X-Team-Id: {}\n", fresh("nobody")));
    let facts = desk.facts(&nobody, &["--ask"]);
    assert_eq!(facts["answer"]["says"], "no_balance", "{facts}");

    let holding = Desk::new(&[(
        "admission",
        json!({"mode": "hold", "hold": 10, "hold_for": "30m"}),
    )]);
    let facts = holding.facts(&request(&rich), &["--ask"]);
    assert_eq!(facts["answer"]["outcome"], "forwarded", "{facts}");
    let dear = Desk::new(&[(
        "admission",
        json!({"mode": "hold", "hold": 20, "hold_for": "30m"}),
    )]);
    let facts = dear.facts(&request(&rich), &["--ask"]);
    assert_eq!(facts["answer"]["says"], "below_hold", "{facts}");
    let left: Vec<String> = redis.run(&["KEYS", &format!("tollgate:*{rich}*")]);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(redis.balance(&rich), "12.5");
}

#[test]
fn asking_reads_whose_a_workspace_and_a_path_are() {
    let redis = Redis::shared();
    let (team, own) = (redis.team("0"), fresh("own"));
    let template = |name: &str| json!(format!("{own}:<{name}>"));
    let desk = Desk::new(&[
        ("routes.0.webhook.team_key", template("workspace")),
        ("routes.1.team_from.team_key", template("uid")),
        ("routes.3.team_from.team_key", template("run")),
    ]);
    let genuine = slack(SLACK_SIGNATURE, SLACK_BODY);
    let at = ["--at", SLACK_AT, "--ask"];
    let facts = desk.facts(&genuine, &at);
    assert_eq!(
        facts["answer"]["code"], "integration_not_configured",
        "{facts}"
    );
    redis.run::<()>(&["SET", &format!("{own}:T1DC2JH3J"), &team]);
    let facts = desk.facts(&genuine, &at);
    assert_eq!(facts["answer"]["status"], 200, "{facts}");
    assert_eq!(facts["answer"]["code"], "insufficient_credits");
    assert_eq!(facts["delivery"]["can_be_told"], "in the answer itself");
    assert_eq!(facts["principal"], "slack:U2CERLKJA");

    // The SHA-256 of `s3cret`.
    let digest = "1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0";
    let hook = format!("{own}:u1");
    redis.run::<()>(&["HSET", &hook, "team", &team, "token_sha256", digest]);
    for (token, status) in [("s3cret", 403), ("guessed", 401)] {
        let request = format!("POST /hooks/u1/{token} HTTP/1.1\nHost: h\n\n{{}}");
        let facts = desk.facts(&request, &["--ask"]);
        assert_eq!(facts["answer"]["status"], status, "{facts}");
    }

    redis.run::<()>(&["SET", &format!("{own}:r1"), &team]);
    let rich = redis.team("5");
    for (run, payer, status) in [("r1", &team, json!(403)), ("r2", &rich, Value::Null)] {
        let request =
            format!("POST /runs/{run}/followups HTTP/1.1\nHost: h\nX-Team-Id: {rich}\n\n{{}}");
        let facts = desk.facts(&request, &["--ask"]);
        assert_eq!(facts["team"], **payer, "{facts}");
        assert_eq!(facts["answer"]["status"], status, "{facts}");
    }
}

#[test]
fn shadow_says_what_it_would_be() {
    let desk = Desk::new(&[("admission", json!({"enforce": false}))]);
    let text = desk.text(&run(""), &[]);
    assert!(
        text.contains("forwarded all the same, in shadow mode"),
        "{text}"
    );
    assert!(text.contains("401 authentication_required"), "{text}");
}

#[test]
fn shadow_does_not_forward_a_body_that_is_too_large() {
    let desk = Desk::new(&[
        ("admission", json!({"enforce": false})),
        ("routes.0.max_body", json!("64KiB")),
    ]);
    let facts = desk.facts(&slack(SLACK_SIGNATURE, &"x".repeat(65 * 1024)), &[]);
    assert_eq!(facts["answer"]["outcome"], "answered", "{facts}");
    assert_eq!(facts["answer"]["status"], 413, "{facts}");
}

#[test]
fn each_prompt_on_a_session_of_linear_is_said_to_get_its_answer() {
    let linear = json!({
        "start": "POST /slack",
        "webhook": {"kind": "linear", "secret": "hunter2", "team_key": "linear:<workspace>", "api_token": "hunter2"},
        "refuse_with": "message",
    });
    let desk = Desk::new(&[("routes", json!([linear]))]);
    let config = desk.folder.write("tollgate.yaml", desk.config.text());
    let config = config.to_str().unwrap();
    let output = tollgate(&["explain", "POST", "/slack", "--config", config]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("says why, after each prompt"), "{said}");
}

#[test]
fn what_goes_with_a_request_alone_is_not_ignored_elsewhere() {
    let desk = Desk::new(&[]);
    let config = desk.folder.write("tollgate.yaml", desk.config.text());
    let config = config.to_str().unwrap();
    for more in [
        &["--ask"][..],
        &["--at", "0"],
        &["--peer", "10.0.0.1"],
        &["--certificate", "/nonexistent"],
    ] {
        let words = ["explain", "POST", "/runs", "--config", config];
        let output = tollgate(&[&words[..], more].concat());
        assert_eq!(output.status.code(), Some(64), "{more:?}: {output:?}");
    }
}

#[test]
fn a_file_without_a_certificate_is_said_to_have_none() {
    let desk = Desk::new(&[]);
    let file = desk.folder.write("key.pem", "no certificate");
    let output = desk.explain(&run(""), &["--certificate", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("key.pem: has no certificate in PEM"),
        "{said}"
    );
}
