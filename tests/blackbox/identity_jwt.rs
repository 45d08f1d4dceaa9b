//! A JSON Web Token says who pays if its issuer has signed it, for us, for
//! now; and an issuer's keys are known as long as anybody could know them.

use std::process::Command;

use serde_json::{Value, json};

use crate::outside::{Answer, Outside, assert_hidden};
use crate::support::gateway::Builder;
use crate::support::parties::python;
use crate::support::problem::{
    assert_insufficient_credits, assert_invalid, assert_outage, assert_problem,
};
use crate::support::redis::{api_key_hash, fresh};
use crate::support::request::TASKS;
use crate::support::tokens::{
    ISSUER, Signer, claims, claims_with, jwks, now, rsa_public_pem, unsigned,
};
use crate::support::wait::{eventually, secs, timed};
use crate::support::{Gateway, Redis, Req, Response, Upstream};

/// Where the issuer outside shows its keys.
const URL: &str = "https://keys.issuer.example/jwks.json?tenant=7f3a";

fn identity(keys: Value) -> Value {
    let mut jwt = json!({"issuer": ISSUER, "audience": "tasks", "team_claim": "team_id"});
    for (name, value) in keys.as_object().unwrap() {
        jwt[name] = value.clone();
    }
    json!({"jwt": jwt})
}

/// A gateway that knows these keys from a file.
fn knowing(upstream: &Upstream, signers: &[&Signer]) -> Builder {
    let builder = Gateway::before(upstream);
    let file = builder.folder().write("jwks.json", jwks(signers));
    builder.set("identity", json!([identity(json!({"jwks": file}))]))
}

/// A gateway that asks for its issuer's keys outside.
fn asking(upstream: &Upstream, outside: &Outside) -> Builder {
    Gateway::before(upstream)
        .set("identity", json!([identity(json!({"jwks": URL}))]))
        .set(
            "egress",
            json!({"proxy": outside.proxy(), "ca": outside.ca()}),
        )
}

/// As [`asking`], once the issuer has answered for the first time: serving may
/// begin before that on a machine that is busy.
fn asked(upstream: &Upstream, outside: &Outside) -> Gateway {
    let gateway = asking(upstream, outside).start();
    loaded(&gateway);
    gateway
}

fn loaded(gateway: &Gateway) {
    eventually(secs(20), "the keys are loaded", || {
        (refreshes(gateway, "ok") >= 1.0).then_some(())
    });
}

fn start(token: &str) -> Req {
    Req::post(TASKS).bearer(token)
}

fn shows(outside: &Outside, signers: &[&Signer]) {
    let answer = Answer::json(&jwks(signers));
    outside.answer_with(move |_| answer.clone());
}

#[track_caller]
fn assert_unauthenticated(answer: &Response) {
    assert_problem(answer, 401, "authentication_required", Some("false"));
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge, Some("Bearer"), "{}", answer.head);
}

fn refreshes(gateway: &Gateway, result: &str) -> f64 {
    let metrics = gateway.metrics();
    metrics.sum("tollgate_jwks_refreshes_total", &[("result", result)])
}

#[test]
fn the_team_of_a_token_pays_whichever_algorithm_its_key_has() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let signers = [
        Signer::rs256("rsa"),
        Signer::es256("ec"),
        Signer::eddsa("ed"),
    ];
    let gateway = knowing(&upstream, &signers.each_ref()).start();
    for signer in &signers {
        let (rich, poor) = (redis.team("5"), redis.team("0"));
        let broke = signer.token(&claims(&poor));
        assert_insufficient_credits(&gateway.ask(&start(&broke)), TASKS);
        upstream.assert_untouched();
        let token = signer.token(&claims(&rich));
        // More than once: what is remembered must say the same.
        for _ in 0..3 {
            assert_eq!(gateway.ask(&start(&token)).status, 200);
        }
        for request in upstream.requests() {
            assert_eq!(request.header("x-tollgate-team"), Some(rich.clone()));
            assert_eq!(
                request.header("x-tollgate-principal").as_deref(),
                Some("ann@example.com")
            );
            assert_eq!(
                request.header("authorization"),
                Some(format!("Bearer {token}")),
                "the upstream checks it again"
            );
        }
        upstream.forget();
    }
}

#[test]
fn a_secret_that_is_configured_is_for_hs256() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let secret = "0123456789abcdef0123456789abcdef";
    let gateway = Gateway::before(&upstream)
        .set("identity", json!([identity(json!({"secret": secret}))]))
        .start();
    let team = redis.team("5");
    let signer = Signer::hs256("whatever", secret.as_bytes());
    assert_eq!(
        gateway.ask(&start(&signer.token(&claims(&team)))).status,
        200
    );
    let other = Signer::hs256("whatever", b"0123456789abcdef0123456789abcdeF");
    assert_unauthenticated(&gateway.ask(&start(&other.token(&claims(&team)))));
    let rsa = Signer::rs256("whatever");
    assert_unauthenticated(&gateway.ask(&start(&rsa.token(&claims(&team)))));
}

#[test]
fn tokens_and_keys_of_pyjwt_are_understood() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let team = redis.team("5");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parties/tokens.py");
    let mut of_its_own = claims(&team);
    of_its_own["aud"] = json!(["other", "tasks"]);
    let output = Command::new(python())
        .args([script, &of_its_own.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let made: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let builder = Gateway::before(&upstream);
    let file = builder
        .folder()
        .write("jwks.json", made["jwks"].to_string());
    let gateway = builder
        .set("identity", json!([identity(json!({"jwks": file}))]))
        .start();
    let tokens = made["tokens"].as_object().unwrap();
    assert_eq!(tokens.len(), 3);
    for (alg, token) in tokens {
        let answer = gateway.ask(&start(token.as_str().unwrap()));
        assert_eq!(answer.status, 200, "{alg}");
    }
}

/// None of these tokens, each with what is wrong with it, starts anything.
#[track_caller]
fn assert_nobodys(gateway: &Gateway, tokens: &[(&str, String)]) {
    for (why, token) in tokens {
        let answer = gateway.ask(&start(token));
        assert_eq!(answer.status, 401, "{why}: {}", answer.head);
        assert_unauthenticated(&answer);
    }
}

#[test]
fn none_and_confused_keys_are_nobodys() {
    let (upstream, team) = (Upstream::ok(), Redis::shared().team("5"));
    let (rsa, ec) = (Signer::rs256("rsa"), Signer::es256("ec"));
    let gateway = knowing(&upstream, &[&rsa, &ec]).start();
    let claims = claims(&team);
    let good = ec.token(&claims);
    let (_, signature) = good.rsplit_once('.').unwrap();
    let none = unsigned(&json!({"alg": "none"}), &claims);
    let named = unsigned(&json!({"alg": "nOnE", "kid": "ec"}), &claims);
    let confused = |secret: &[u8]| {
        let header = json!({"alg": "HS256", "kid": "rsa"});
        Signer::hs256("rsa", secret).token_under(&header, &claims)
    };
    let under = |header: Value| ec.token_under(&header, &claims);
    let tokens = [
        ("none", format!("{none}.")),
        ("none, with a signature", format!("{none}.{signature}")),
        ("none, however it is written", format!("{named}.")),
        ("a public key as a secret", confused(&rsa_public_pem())),
        (
            "the keys as a secret",
            confused(jwks(&[&rsa, &ec]).as_bytes()),
        ),
        ("no secret", confused(b"")),
        (
            "the name of another key",
            under(json!({"alg": "ES256", "kid": "rsa"})),
        ),
        (
            "another algorithm",
            under(json!({"alg": "ES384", "kid": "ec"})),
        ),
        (
            "its own key",
            under(json!({"alg": "ES256", "jwk": ec.jwk(), "kid": "x"})),
        ),
        (
            "an extension",
            under(json!({"alg": "ES256", "kid": "ec", "crit": ["b64"], "b64": true})),
        ),
    ];
    assert_nobodys(&gateway, &tokens);
    upstream.assert_untouched();
    assert_eq!(gateway.ask(&start(&good)).status, 200);
    let nameless = under(json!({"alg": "ES256"}));
    assert_eq!(gateway.ask(&start(&nameless)).status, 200, "one key fits");
}

#[test]
fn what_the_issuer_has_not_signed_is_nobodys() {
    let (upstream, team) = (Upstream::ok(), Redis::shared().team("5"));
    let ec = Signer::es256("ec");
    let gateway = knowing(&upstream, &[&ec]).start();
    let claims = claims(&team);
    let good = ec.token(&claims);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let others = unsigned(&json!({}), &claims_with(&team, "team_id", json!("other")));
    let (_, others) = others.split_once('.').unwrap();
    let long = claims_with(&team, "more", json!("x".repeat(9000)));
    let tokens = [
        (
            "a key of somebody's own",
            Signer::es256("ec").token(&claims),
        ),
        ("an unknown name", Signer::es256("other").token(&claims)),
        ("no signature", format!("{signed}.")),
        ("half a signature", good[..good.len() - 40].to_owned()),
        ("more of a signature", format!("{good}AAAA")),
        ("other claims", format!("{header}.{others}.{signature}")),
        ("too long", ec.token(&long)),
    ];
    assert_nobodys(&gateway, &tokens);
    upstream.assert_untouched();
    assert_eq!(gateway.ask(&start(&good)).status, 200);
    assert_nobodys(&gateway, &tokens);
}

#[test]
fn a_token_is_for_its_time_its_issuer_and_its_audience() {
    let (upstream, team) = (Upstream::ok(), Redis::shared().team("5"));
    let signer = Signer::eddsa("a");
    let gateway = knowing(&upstream, &[&signer]).start();
    for (name, value, status) in [
        ("exp", json!(now() - 30), 200),
        ("exp", json!(now() - 70), 401),
        ("exp", json!(null), 401),
        ("exp", json!("tomorrow"), 401),
        ("nbf", json!(now() + 30), 200),
        ("nbf", json!(now() + 90), 401),
        ("nbf", json!(null), 200),
        ("iss", json!("https://issuer.example"), 401),
        ("iss", json!([ISSUER]), 401),
        ("iss", json!(null), 401),
        ("aud", json!(["other", "tasks"]), 200),
        ("aud", json!(["other"]), 401),
        ("aud", json!(null), 401),
        ("sub", json!(null), 200),
        ("team_id", json!("no team id"), 400),
        ("team_id", json!([team]), 400),
        ("team_id", json!(null), 400),
    ] {
        let token = signer.token(&claims_with(&team, name, value.clone()));
        let answer = gateway.ask(&start(&token));
        assert_eq!(answer.status, status, "{name} {value}: {}", answer.head);
        match status {
            400 => assert_invalid(&answer),
            401 => assert_unauthenticated(&answer),
            _ => {}
        }
    }
    assert_eq!(upstream.requests().len(), 5);
}

#[test]
fn without_leeway_a_token_ends_while_it_is_remembered() {
    let (upstream, team) = (Upstream::ok(), Redis::shared().team("5"));
    let signer = Signer::eddsa("a");
    let gateway = knowing(&upstream, &[&signer])
        .set("identity.0.jwt.leeway", "0s")
        .start();
    let exp = now() + 2;
    let token = signer.token(&claims_with(&team, "exp", json!(exp)));
    assert_eq!(gateway.ask(&start(&token)).status, 200);
    eventually(secs(5), "the token is over", || {
        let answer = gateway.ask(&start(&token));
        let over = now() >= exp;
        assert!(over || answer.status == 200, "{}", answer.head);
        (answer.status == 401).then_some(())
    });
    assert!(now() >= exp);
}

#[test]
fn a_token_is_no_api_key_where_issuers_are_known_and_a_key_is_no_token() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let signer = Signer::eddsa("a");
    let (team, keys) = (redis.team("5"), redis.team("0"));
    let good = signer.token(&claims(&team));
    let bad = Signer::eddsa("a").token(&claims(&team));
    for token in [&good, &bad] {
        let hash = format!("apikey:{}", api_key_hash(token));
        redis.run::<()>(&["HSET", &hash, "team", &keys]);
    }
    let builder = Gateway::before(&upstream);
    let file = builder.folder().write("jwks.json", jwks(&[&signer]));
    let (jwt, key) = (identity(json!({"jwks": file})), json!({"api_key": {}}));
    let gateway = builder.set("identity", json!([key, jwt])).start();
    let plain = redis.api_key(&["team", &team]);
    for order in [json!([key, jwt]), json!([jwt, key])] {
        let reloads = gateway.reloads("ok");
        gateway.reload_with("identity", order);
        eventually(secs(5), "it is taken over", || {
            (gateway.reloads("ok") > reloads).then_some(())
        });
        assert_eq!(gateway.ask(&start(&good)).status, 200);
        assert_unauthenticated(&gateway.ask(&start(&bad)));
        assert_eq!(gateway.ask(&start(&plain)).status, 200);
        assert_unauthenticated(&gateway.ask(&start("a.b.c")));
    }
    gateway.reload_with("identity", json!([key]));
    eventually(secs(5), "a token is a key like another", || {
        (gateway.ask(&start(&good)).status == 403).then_some(())
    });
    assert_eq!(gateway.ask(&start(&bad)).status, 403);
}

#[test]
fn of_several_issuers_the_one_that_the_token_names_decides() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let (ours, theirs) = (Signer::eddsa("a"), Signer::es256("a"));
    let team = redis.team("5");
    let builder = Gateway::before(&upstream);
    let first = builder.folder().write("ours.json", jwks(&[&ours]));
    let second = builder.folder().write("theirs.json", jwks(&[&theirs]));
    let mut other = identity(json!({"jwks": second}));
    other["jwt"]["issuer"] = "https://other.example/".into();
    other["jwt"]["team_claim"] = "https://other.example/team".into();
    let header = json!({"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}});
    let identities = json!([identity(json!({"jwks": first})), header, other]);
    let gateway = builder.set("identity", identities).start();
    let mut by_other = claims_with(&team, "iss", json!("https://other.example/"));
    by_other["https://other.example/team"] = team.clone().into();
    assert_eq!(gateway.ask(&start(&ours.token(&claims(&team)))).status, 200);
    assert_eq!(gateway.ask(&start(&theirs.token(&by_other))).status, 200);
    assert_unauthenticated(&gateway.ask(&start(&ours.token(&by_other))));
    assert_unauthenticated(&gateway.ask(&start(&theirs.token(&claims(&team)))));
    let nobodys = claims_with(&team, "iss", json!("https://nobody.example/"));
    let nobodys = ours.token(&nobodys);
    assert_unauthenticated(&gateway.ask(&start(&nobodys).team(&team)));
    // In the order of the identities: the header comes before the second.
    let poor = redis.team("0");
    assert_eq!(
        gateway
            .ask(&start(&theirs.token(&by_other)).team(&poor))
            .status,
        403
    );
    assert_eq!(
        gateway
            .ask(&start(&ours.token(&claims(&team))).team(&poor))
            .status,
        200
    );
}

#[test]
fn a_key_that_nobody_has_heard_of_is_asked_for_at_once() {
    let (upstream, team) = (Upstream::ok(), Redis::shared().team("5"));
    let (old, new) = (Signer::es256("2025"), Signer::rs256("2026"));
    let outside = Outside::start();
    shows(&outside, &[&old]);
    let gateway = asked(&upstream, &outside);
    let (by_old, by_new) = (old.token(&claims(&team)), new.token(&claims(&team)));
    assert_eq!(
        gateway.ask(&start(&by_old)).status,
        200,
        "loaded at the start"
    );
    shows(&outside, &[&new]);
    assert_eq!(
        gateway.ask(&start(&by_new)).status,
        200,
        "the first of its kind"
    );
    assert_unauthenticated(&gateway.ask(&start(&by_old)));
    let seen = outside.seen();
    assert_eq!(seen.len(), 2);
    for request in &seen {
        assert_eq!(
            (request.method.as_str(), request.url()),
            ("GET", URL.to_owned())
        );
        assert_eq!(request.header("authorization"), None);
    }
    assert_eq!(refreshes(&gateway, "ok"), 2.0);
    let age = gateway
        .metrics()
        .sum("tollgate_jwks_age_seconds", &[("issuer", ISSUER)]);
    assert!(age < 20.0, "{age}");
}

#[test]
fn keys_stay_when_the_issuer_does_not_say_what_they_are() {
    let team = Redis::shared().team("5");
    let known = Signer::eddsa("known");
    let unknown = Signer::eddsa("unknown");
    let shown = jwks(&[&unknown]);
    let large = jwks(&[&unknown]).replacen('{', &format!("{{{}", " ".repeat(1024 * 1024)), 1);
    for (why, answer) in [
        ("an error", Answer::status(500).body(shown.clone())),
        (
            "another place",
            Answer::status(302)
                .header("location", URL)
                .body(shown.clone()),
        ),
        ("no JSON", Answer::json(&shown[..shown.len() - 1])),
        ("no key", Answer::json(r#"{"keys": []}"#)),
        (
            "no key for signatures",
            Answer::json(&shown.replace("sig", "enc")),
        ),
        ("too much", Answer::json(&large)),
        ("half of it", Answer::json(&shown).cut_after(50)),
        ("no end", Answer::json(&shown).endless()),
        ("nothing", Answer::hang()),
    ] {
        let (upstream, outside) = (Upstream::ok(), Outside::start());
        shows(&outside, &[&known]);
        let admits = json!({"start": "POST /api/v1/agent/runs", "on_outage": "admit"});
        let gateway = asking(&upstream, &outside).set("routes.1", admits).start();
        loaded(&gateway);
        outside.answer_with(move |_| answer.clone());
        let request = start(&unknown.token(&claims(&team)));
        let (answer, took) = timed(|| gateway.ask(&request));
        // It may be the issuer's newest key: nobody says that it is not.
        assert_outage(&answer);
        assert!(took < secs(4), "{why}: {took:?}");
        let made_up = Req::post("/api/v1/agent/runs");
        let made_up = made_up.bearer(&unknown.token(&claims(&team)));
        assert_outage(&gateway.ask(&made_up));
        upstream.assert_untouched();
        let request = start(&known.token(&claims(&team)));
        assert_eq!(gateway.ask(&request).status, 200, "{why}");
        eventually(secs(15), why, || {
            (refreshes(&gateway, "failed") >= 1.0).then_some(())
        });
        let said = gateway.says("could not be refreshed");
        assert!(said.contains(ISSUER), "{said}");
        assert_hidden(&gateway.stderr.text(), &["tenant=7f3a"]);
        assert_eq!(gateway.ask(&request).status, 200, "{why}");
    }
}

#[test]
fn however_many_keys_are_unknown_the_issuer_is_asked_once() {
    let (upstream, team) = (Upstream::ok(), Redis::shared().team("5"));
    let known = Signer::eddsa("known");
    let outside = Outside::start();
    shows(&outside, &[&known]);
    let gateway = asked(&upstream, &outside);
    for n in 0..30 {
        let token = Signer::eddsa(&format!("made up {n}")).token(&claims(&team));
        assert_unauthenticated(&gateway.ask(&start(&token)));
    }
    assert_eq!(outside.seen().len(), 2, "at the start, and for the first");
    let over = Signer::eddsa("another").token(&claims_with(&team, "exp", json!(1)));
    assert_unauthenticated(&gateway.ask(&start(&over)));
    assert_eq!(
        gateway.ask(&start(&known.token(&claims(&team)))).status,
        200
    );
    upstream.only_request();
}

#[test]
fn while_the_keys_were_never_loaded_nobody_can_say_and_then_they_can() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let signer = Signer::es256("a");
    let outside = Outside::answering(|_| Answer::status(503));
    let header = json!({"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}});
    let admits = json!({"start": "POST /api/v1/agent/runs", "on_outage": "admit"});
    let gateway = asking(&upstream, &outside)
        .set("identity", json!([identity(json!({"jwks": URL})), header]))
        .set("routes.1", admits)
        .start();
    let team = redis.team("5");
    let token = signer.token(&claims(&team));
    assert_outage(&gateway.ask(&start(&token)));
    assert_outage(&gateway.ask(&start(&token).team(&team)));
    upstream.assert_untouched();
    assert_eq!(
        gateway.ask(&Req::start(&team)).status,
        200,
        "another identity"
    );
    upstream.forget();
    // Anybody can make up a token that nobody can check.
    assert_outage(&gateway.ask(&Req::post("/api/v1/agent/runs").bearer(&token)));
    upstream.assert_untouched();
    gateway.says("could not be loaded");
    assert!(refreshes(&gateway, "failed") >= 1.0);
    shows(&outside, &[&signer]);
    eventually(secs(20), "the keys are loaded", || {
        (gateway.ask(&start(&token)).status == 200).then_some(())
    });
    gateway.says("keys are back");
    let warnings = gateway.stderr.all();
    let warnings = warnings
        .iter()
        .filter(|line| line.contains("could not be loaded"));
    assert_eq!(warnings.count(), 1, "once, however often it was tried");
}

#[test]
fn a_reload_forgets_no_key_of_an_issuer_that_is_away() {
    let (upstream, team) = (Upstream::ok(), Redis::shared().team("5"));
    let signer = Signer::eddsa("a");
    let outside = Outside::start();
    shows(&outside, &[&signer]);
    let gateway = asked(&upstream, &outside);
    let token = signer.token(&claims(&team));
    outside.answer_with(|_| Answer::status(500));
    for (key, value) in [
        ("admission.remember", "48h"),
        ("identity.0.jwt.refresh", "1h"),
        ("identity.0.jwt.leeway", "1s"),
    ] {
        let reloads = gateway.reloads("ok");
        gateway.reload_with(key, value);
        eventually(secs(10), key, || {
            (gateway.reloads("ok") > reloads).then_some(())
        });
        assert_eq!(gateway.ask(&start(&token)).status, 200, "{key}");
    }
}

#[test]
fn the_keys_of_a_file_are_read_again_on_a_reload() {
    let (upstream, team) = (Upstream::ok(), Redis::shared().team("5"));
    let (old, new) = (Signer::eddsa("a"), Signer::eddsa("a"));
    let gateway = knowing(&upstream, &[&old]).start();
    let status = |signer: &Signer| gateway.ask(&start(&signer.token(&claims(&team)))).status;
    gateway.write("jwks.json", &jwks(&[&new]));
    assert_eq!((status(&old), status(&new)), (200, 401), "not by itself");
    gateway.signal("HUP");
    eventually(secs(10), "the new key counts", || {
        (status(&new) == 200).then_some(())
    });
    assert_eq!(status(&old), 401, "also where it was remembered");
    for broken in [
        "",
        r#"{"keys": []}"#,
        r#"{"keys": [{"kty": "oct", "k": "AQAB"}]}"#,
    ] {
        let rejected = gateway.reloads("rejected");
        gateway.write("jwks.json", broken);
        gateway.signal("HUP");
        eventually(secs(10), "it is rejected", || {
            (gateway.reloads("rejected") > rejected).then_some(())
        });
        gateway.says("jwks.json");
        assert_eq!((status(&old), status(&new)), (401, 200), "{broken}");
    }
}

#[test]
fn nothing_of_a_token_is_ever_told() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let (signer, stranger) = (Signer::eddsa("a"), Signer::eddsa("a"));
    let gateway = knowing(&upstream, &[&signer])
        .set("log.level", "debug")
        .start();
    let private = fresh("private");
    let told = |team: &str| claims_with(team, "more", json!(private));
    let tokens = [
        signer.token(&told(&redis.team("5"))),
        signer.token(&told(&redis.team("0"))),
        signer.token(&told("no team")),
        stranger.token(&told("acme")),
        format!("{}.", unsigned(&json!({"alg": "none"}), &told("acme"))),
        signer.token_under(&json!({"alg": "EdDSA", "crit": [private]}), &told("acme")),
    ];
    for (token, status) in tokens.iter().zip([200, 403, 400, 401, 401, 401]) {
        let answer = gateway.ask(&start(token));
        assert_eq!(answer.status, status);
        for part in token.split('.').filter(|part| !part.is_empty()) {
            assert_hidden(&answer.text(), &[part]);
            assert_hidden(&answer.head, &[part]);
        }
    }
    gateway.says("its signature does not hold");
    gateway.says("its header has crit");
    eventually(secs(5), "all are logged", || {
        (gateway.access_log().len() >= tokens.len()).then_some(())
    });
    let metrics = gateway.admin("/metrics").text();
    for text in [gateway.stderr.text(), gateway.stdout.text(), metrics] {
        assert_hidden(&text, &[private.as_str()]);
        for part in tokens.iter().flat_map(|token| token.split('.')) {
            if !part.is_empty() {
                assert_hidden(&text, &[part]);
            }
        }
    }
}
