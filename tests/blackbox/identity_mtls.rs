//! Client certificates say who pays: those that the gateway has verified, over
//! the connection that they were shown on, and nowhere else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, SanType};
use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

use crate::support::gateway::Builder;
use crate::support::h2_client::{H2Client, H2Req};
use crate::support::problem::{
    assert_insufficient_credits, assert_insufficient_credits_body, assert_invalid, assert_problem,
};
use crate::support::redis::fresh;
use crate::support::request::{PROMPT, TASKS};
use crate::support::tls::{Authority, Certified};
use crate::support::wait::{eventually, secs};
use crate::support::{Client, Gateway, Redis, Req, Response, Upstream};

/// Who vouches for whom.
struct Authorities {
    /// For the gateway.
    own: Authority,
    /// For its clients.
    clients: Authority,
}

impl Authorities {
    fn new() -> Self {
        Authorities {
            own: Authority::new(),
            clients: Authority::new(),
        }
    }

    /// A gateway that asks for certificates and takes clients without one.
    fn asking(&self, upstream: &Upstream, identity: Value) -> Builder {
        let builder = Gateway::before(upstream);
        let (cert, key) = self.own.issue(&["api.test"]).write(builder.folder(), "own");
        let ca = builder.folder().write("clients.pem", self.clients.pem());
        let tls = json!({
            "listen": ["127.0.0.1:0"], "cert": cert, "key": key,
            "client_ca": ca, "client_auth": "optional",
        });
        builder.set("server.tls", tls).set("identity", identity)
    }

    /// A client of HTTP/1.1 that shows this certificate.
    fn shows(&self, shown: Option<&Certified>) -> Arc<ClientConfig> {
        self.own.client(&["http/1.1"], shown)
    }

    /// Asks on a connection of its own.
    #[track_caller]
    fn ask(&self, gateway: &Gateway, shown: Option<&Certified>, request: &Req) -> Response {
        Client::tls(gateway.https, "api.test", self.shows(shown)).ask(request)
    }
}

/// The status of an answer; nothing if there was no connection to be had.
fn status(gateway: &Gateway, config: &Arc<ClientConfig>, request: &Req) -> Option<u16> {
    let mut client = Client::try_tls(gateway.https, "api.test", Arc::clone(config)).ok()?;
    client.try_send(request.bytes()).ok()?;
    client.try_response().ok().map(|answer| answer.status)
}

/// A certificate with these URIs and common names.
fn naming(uris: &[&str], common_names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for name in common_names {
        params.distinguished_name.push(DnType::CommonName, *name);
    }
    let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
    params.subject_alt_names = uris.iter().map(uri).collect();
    params
}

fn spiffe(team: &str) -> String {
    format!("spiffe://acme.example/team/{team}")
}

fn start() -> Req {
    Req::post(TASKS)
}

fn by_uri() -> Value {
    json!({"mtls": {"team_from": "san_uri"}})
}

#[track_caller]
fn assert_nobody(answer: &Response) {
    assert_problem(answer, 401, "authentication_required", Some("false"));
}

#[test]
fn the_team_of_a_certificate_pays_in_every_version_of_tls_and_http() {
    let (authorities, upstream, redis) = (Authorities::new(), Upstream::ok(), Redis::shared());
    let gateway = authorities.asking(&upstream, json!([by_uri()])).start();
    let (rich, poor) = (redis.team("5"), redis.team("0"));
    let certificate = |team: &str| {
        let named = naming(&[&spiffe(team)], &[]);
        authorities.clients.sign(named)
    };
    let (of_rich, of_poor) = (certificate(&rich), certificate(&poor));
    let vouched = || {
        let request = upstream.only_request();
        upstream.forget();
        assert_eq!(request.header("x-tollgate-team"), Some(rich.clone()));
        assert_eq!(request.header("x-tollgate-principal"), Some(spiffe(&rich)));
    };
    for version in [&TLS12, &TLS13] {
        let config = |shown: &Certified, alpn: &str| {
            authorities.own.client_of(&[version], &[alpn], Some(shown))
        };
        let connect = |shown| {
            let config = config(shown, "http/1.1");
            Client::tls(gateway.https, "api.test", config)
        };
        let (mut pays, mut owes) = (connect(&of_rich), connect(&of_poor));
        for _ in 0..3 {
            assert_eq!(pays.ask(&start()).status, 200);
            vouched();
            assert_insufficient_credits(&owes.ask(&start()), TASKS);
            upstream.assert_untouched();
        }
        let ask = |shown| {
            let request = H2Req::new("POST", TASKS).body(PROMPT);
            let client = H2Client::tls(gateway.https, "api.test", config(shown, "h2"));
            client
                .ask_all(&[request.clone(), request.clone()])
                .remove(1)
        };
        assert_eq!(ask(&of_rich).status, 200);
        assert_eq!(upstream.requests().len(), 2);
        upstream.forget();
        let refused = ask(&of_poor);
        assert_eq!(refused.status, 403);
        assert_insufficient_credits_body(&refused.body, TASKS);
        upstream.assert_untouched();
    }
    let line = gateway.access_line("it is logged", |line| line["verdict"] == "refused");
    assert_eq!(line["principal"], spiffe(&poor), "{line}");
}

/// A certificate of each kind is asked for a start, and answered so.
#[track_caller]
fn assert_each(identity: Value, team: &str, cases: &[(&[&str], &[&str], u16)]) {
    let (authorities, upstream) = (Authorities::new(), Upstream::ok());
    let gateway = authorities.asking(&upstream, json!([identity])).start();
    for (uris, names, expected) in cases {
        let shown = authorities.clients.sign(naming(uris, names));
        let answer = authorities.ask(&gateway, Some(&shown), &start());
        let what = format!("{identity} {uris:?} {names:?}: {}", answer.text());
        assert_eq!(answer.status, *expected, "{what}");
        match expected {
            200 => {
                let paying = upstream.only_request().header("x-tollgate-team");
                assert_eq!(paying.as_deref(), Some(team), "{what}");
                upstream.forget();
            }
            400 => assert_invalid(&answer),
            _ => assert_nobody(&answer),
        }
        upstream.assert_untouched();
    }
}

#[test]
fn uris_say_the_team_in_the_right_place_and_in_one_voice() {
    let redis = Redis::shared();
    let (team, other) = (&redis.team("5"), &redis.team("5"));
    let plain = |team: &str| format!("https://id.example/{team}");
    let (mine, theirs) = (plain(team), plain(other));
    let (my_id, their_id) = (spiffe(team), spiffe(other));
    assert_each(
        by_uri(),
        team,
        &[
            (&[&mine], &[], 200),
            (&[team], &[], 200),
            (&[&mine, &my_id], &[], 200),
            (&[&mine, &their_id], &[], 400),
            (&[&plain("not%20a%20team")], &[], 400),
            (&[], &[team], 401),
        ],
    );
    let prefix = "spiffe://acme.example/team/";
    assert_each(
        json!({"mtls": {"team_from": "san_uri", "prefix": prefix}}),
        team,
        &[
            (&[&my_id], &[], 200),
            (&[&theirs, &my_id], &[], 200),
            (&[&mine], &[], 401),
            (&[&spiffe("a/b")], &[], 400),
        ],
    );
}

#[test]
fn a_common_name_says_the_team_where_there_is_one() {
    let redis = Redis::shared();
    let (team, other) = (&redis.team("5"), &redis.team("5"));
    let uri = spiffe(other);
    assert_each(
        json!({"mtls": {"team_from": "subject_cn"}}),
        team,
        &[
            (&[&uri], &[team], 200),
            (&[&uri], &["not a team"], 400),
            (&[&uri], &[], 401),
        ],
    );
    assert_each(
        json!({"mtls": {"team_from": "subject_cn", "prefix": "agent-of-"}}),
        team,
        &[
            (&[], &[&format!("agent-of-{team}")], 200),
            (&[], &[team], 401),
        ],
    );
}

#[test]
fn without_a_certificate_the_next_identity_decides() {
    let (authorities, upstream, redis) = (Authorities::new(), Upstream::ok(), Redis::shared());
    let header = json!({"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}});
    let identity = json!([by_uri(), {"api_key": {}}, header]);
    let gateway = authorities.asking(&upstream, identity).start();
    let team = redis.team("5");
    let silent = authorities.clients.issue(&["agent.example"]);
    for shown in [None, Some(&silent)] {
        let key = redis.api_key(&["team", &team]);
        for request in [start().bearer(&key), Req::start(&team)] {
            assert_eq!(authorities.ask(&gateway, shown, &request).status, 200);
            let arrived = upstream.only_request();
            assert_eq!(arrived.header("x-tollgate-team"), Some(team.clone()));
            upstream.forget();
        }
        assert_nobody(&authorities.ask(&gateway, shown, &start()));
        assert_eq!(
            authorities.ask(&gateway, shown, &Req::get("/x")).status,
            200
        );
        upstream.forget();
    }
}

#[test]
fn the_first_identity_that_applies_decides_and_a_bad_key_is_not_saved_by_a_certificate() {
    let (authorities, upstream, redis) = (Authorities::new(), Upstream::ok(), Redis::shared());
    let (certified, keyed, told) = (redis.team("5"), redis.team("5"), redis.team("5"));
    let shown = authorities
        .clients
        .sign(naming(&[&spiffe(&certified)], &[]));
    let key = redis.api_key(&["team", &keyed]);
    let api_key = json!({"api_key": {}});
    let header = json!({"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}});
    for (identity, request, expected) in [
        (
            json!([by_uri(), api_key, header]),
            start().bearer(&key).team(&told),
            Some(&certified),
        ),
        (
            json!([by_uri(), api_key]),
            start().bearer("wk-unknown"),
            Some(&certified),
        ),
        (
            json!([api_key, by_uri()]),
            start().bearer(&key),
            Some(&keyed),
        ),
        (
            json!([api_key, by_uri()]),
            start().bearer("wk-unknown"),
            None,
        ),
        (json!([api_key, by_uri()]), start(), Some(&certified)),
        (json!([header, by_uri()]), start().team(&told), Some(&told)),
        (json!([header, by_uri()]), start(), Some(&certified)),
        (
            json!([by_uri(), header]),
            start().team(&told),
            Some(&certified),
        ),
    ] {
        let gateway = authorities.asking(&upstream, identity.clone()).start();
        let answer = authorities.ask(&gateway, Some(&shown), &request);
        let Some(expected) = expected else {
            assert_nobody(&answer);
            upstream.assert_untouched();
            continue;
        };
        assert_eq!(answer.status, 200, "{identity}: {}", answer.text());
        let paying = upstream.only_request().header("x-tollgate-team");
        assert_eq!(paying.as_ref(), Some(expected), "{identity}");
        upstream.forget();
    }
}

#[test]
fn a_bad_certificate_is_refused_in_the_handshake_though_none_is_needed() {
    let (authorities, upstream, redis) = (Authorities::new(), Upstream::ok(), Redis::shared());
    let gateway = authorities.asking(&upstream, json!([by_uri()])).start();
    let uri = spiffe(&redis.team("5"));
    let day = Duration::from_secs(24 * 60 * 60);
    let (mut expired, mut future) = (naming(&[&uri], &[]), naming(&[&uri], &[]));
    expired.not_after = (SystemTime::now() - day).into();
    future.not_before = (SystemTime::now() + day).into();
    let good = authorities.clients.sign(naming(&[&uri], &[]));
    for bad in [
        authorities.clients.sign(expired),
        authorities.clients.sign(future),
        Authority::new().sign(naming(&[&uri], &[])),
    ] {
        for version in [&TLS12, &TLS13] {
            let config = |shown| {
                let alpn = ["http/1.1"];
                authorities.own.client_of(&[version], &alpn, Some(shown))
            };
            assert_eq!(status(&gateway, &config(&bad), &start()), None);
            assert_eq!(status(&gateway, &config(&good), &start()), Some(200));
        }
    }
    assert_eq!(upstream.requests().len(), 6);
    // Nothing else tells of them.
    eventually(secs(5), "six handshakes failed", || {
        let failed = gateway
            .metrics()
            .sum("tollgate_tls_handshakes_failed_total", &[]);
        (failed == 6.0).then_some(())
    });
}

#[test]
fn a_certificate_is_verified_on_every_connection_and_speaks_for_all_of_it() {
    let (authorities, upstream, redis) = (Authorities::new(), Upstream::ok(), Redis::shared());
    let gateway = authorities.asking(&upstream, json!([by_uri()])).start();
    let mut params = naming(&[&spiffe(&redis.team("5"))], &[]);
    params.not_after = (SystemTime::now() + secs(4)).into();
    let shown = authorities.clients.sign(params);
    for version in [&TLS12, &TLS13] {
        // One client: it would take up its session again where it may.
        let alpn = ["http/1.1"];
        let config = authorities.own.client_of(&[version], &alpn, Some(&shown));
        let mut open = Client::tls(gateway.https, "api.test", Arc::clone(&config));
        assert_eq!(open.ask(&start()).status, 200);
        assert_eq!(status(&gateway, &config, &start()), Some(200));
        if version.version == TLS13.version {
            eventually(secs(10), "a new connection is refused", || {
                let status = status(&gateway, &config, &start());
                status.is_none().then_some(())
            });
            assert_eq!(
                open.ask(&start()).status,
                200,
                "it was good when it was made"
            );
        }
    }
}

#[test]
fn what_cannot_be_read_says_nothing_and_harms_nobody() {
    let (authorities, upstream, redis) = (Authorities::new(), Upstream::ok(), Redis::shared());
    let identity = json!([by_uri(), {"mtls": {"team_from": "subject_cn"}}]);
    let gateway = authorities.asking(&upstream, identity).start();
    let team = redis.team("5");
    let clients = &authorities.clients;
    let padded = format!("https://{}/{team}", "x".repeat(90));
    let good = clients.sign(naming(&[&spiffe(&team), &padded], &[&team]));
    let shown = authorities.shows(Some(&good));
    assert_eq!(status(&gateway, &shown, &start()), Some(200));
    upstream.forget();
    // A URI that is no text: the certificate stays good, and means nothing.
    let no_text = clients.sign_bent(&good, b"spiffe:", b"\xff\xfe\xfdffe:");
    let unread = status(&gateway, &authorities.shows(Some(&no_text)), &start());
    assert_eq!(unread, Some(401));
    // What has no form that could be read is refused, whatever it begins like.
    for (from, to) in [
        (&b"\x30\x13\x06\x07"[..], &b"\x00\x13\x06\x07"[..]),
        (b"\x30\x59\x30\x13", b"\x30\x58\x30\x13"),
        (b"\x17\x0d", b"\x17\x7f"),
    ] {
        let bent = clients.sign_bent(&good, from, to);
        for version in [&TLS12, &TLS13] {
            let alpn = ["http/1.1"];
            let config = authorities.own.client_of(&[version], &alpn, Some(&bent));
            assert_eq!(status(&gateway, &config, &start()), None, "{from:?}");
        }
    }
    upstream.assert_untouched();
    let said = gateway.stderr.text();
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn in_the_clear_nobody_has_a_certificate() {
    let (authorities, upstream, redis) = (Authorities::new(), Upstream::ok(), Redis::shared());
    let header = json!({"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}});
    let gateway = authorities
        .asking(&upstream, json!([by_uri(), header]))
        .start();
    let (team, other) = (redis.team("5"), redis.team("5"));
    assert_nobody(&gateway.ask(&start()));
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    let shown = authorities.clients.sign(naming(&[&spiffe(&other)], &[]));
    assert_eq!(
        authorities.ask(&gateway, Some(&shown), &start()).status,
        200
    );
    assert_nobody(&gateway.ask(&start()));
    let paying: Vec<_> = upstream.requests();
    let paying = paying.iter().map(|r| r.header("x-tollgate-team"));
    assert_eq!(paying.collect::<Vec<_>>(), [Some(team), Some(other)]);
}

#[test]
fn a_reload_asks_open_connections_and_takes_another_authority_for_new_ones() {
    let (authorities, upstream, redis) = (Authorities::new(), Upstream::ok(), Redis::shared());
    let gateway = authorities
        .asking(&upstream, json!([{"api_key": {}}]))
        .start();
    let named = || naming(&[&spiffe(&redis.team("5"))], &[]);
    let shown = authorities.shows(Some(&authorities.clients.sign(named())));
    let mut open = Client::tls(gateway.https, "api.test", Arc::clone(&shown));
    assert_nobody(&open.ask(&start()));
    gateway.reload_with("identity", json!([by_uri()]));
    eventually(secs(5), "the certificate decides", || {
        (open.ask(&start()).status == 200).then_some(())
    });
    let successor = Authority::new();
    let moved = authorities.shows(Some(&successor.sign(named())));
    assert_eq!(status(&gateway, &moved, &start()), None);
    gateway.write("clients.pem", &successor.pem());
    gateway.signal("HUP");
    eventually(secs(5), "the new authority counts", || {
        (status(&gateway, &moved, &start()) == Some(200)).then_some(())
    });
    assert_eq!(status(&gateway, &shown, &start()), None);
    assert_eq!(open.ask(&start()).status, 200, "old connections go on");
}

#[test]
fn an_identity_of_long_uris_is_cut_for_the_upstream_and_the_team_is_not() {
    let (authorities, upstream, redis) = (Authorities::new(), Upstream::ok(), Redis::shared());
    let gateway = authorities.asking(&upstream, json!([by_uri()])).start();
    let team = redis.team("5");
    let uri = format!("spiffe://{}/{team}", fresh(&"x".repeat(500)));
    let shown = authorities.clients.sign(naming(&[&uri], &[]));
    assert_eq!(
        authorities.ask(&gateway, Some(&shown), &start()).status,
        200
    );
    let arrived = upstream.only_request();
    assert_eq!(arrived.header("x-tollgate-team"), Some(team));
    let principal = arrived.header("x-tollgate-principal").unwrap();
    assert!(
        principal.len() == 128 && uri.starts_with(&principal),
        "{principal}"
    );
}
