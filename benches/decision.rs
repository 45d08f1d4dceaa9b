//! What a start costs apart from sockets: the decision, reading a balance,
//! finding the route, knowing who pays by a token, rendering a problem.
//!
//! `cargo bench --bench decision`. These numbers guard against a step that
//! suddenly costs ten times as much; what a request costs as a whole is told
//! by `make bench`.

// Here a panic is how a mistake in the bench shows.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::iter;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use tollgate::billing::admission::{Balance, Missing, OnOutage, Refusal, Rule, decide};
use tollgate::billing::credits::Credits;
use tollgate::config;
use tollgate::config::pattern::StartPattern;
use tollgate::edge::identify::jwt::token::Token;
use tollgate::edge::identify::jwt::{Jwt, Waited};
use tollgate::edge::identify::keyring::Keyring;
use tollgate::edge::identify::keyring::keys::{Algorithm, Keys};
use tollgate::edge::problem::Problem;
use tollgate::edge::problem::style::{About, Style};
use tollgate::edge::route::{Found, Table};

fn decision(criterion: &mut Criterion) {
    let rule = Rule {
        refuse_at_or_below: Credits::ZERO,
        missing: Missing::Refuse,
        on_outage: OnOutage::Refuse,
    };
    let mut group = criterion.benchmark_group("decide");
    for (name, balance) in [
        ("admitted", Balance::Known(Credits::from_micro(100_000_000))),
        ("refused", Balance::Known(Credits::ZERO)),
        ("missing", Balance::Missing),
        ("unknown", Balance::Unknown),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| decide(black_box(balance), black_box(&rule)));
        });
    }
    group.finish();
}

fn credits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("credits_parse");
    for (name, text) in [
        ("whole", "100"),
        ("fraction", "-12345.678901"),
        ("refused", "100 credits"),
        ("128_digits", &"9".repeat(128)),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| Credits::parse(black_box(text.as_bytes())));
        });
    }
    group.finish();
}

/// The start routes of the API, and as many others as it takes.
fn table(routes: usize) -> Table {
    let api = [
        "POST /api/v1/agent/runs",
        "POST /api/v1/agent/tasks",
        "POST /api/v1/agent/run",
        "POST /api/v1/agent/runs/{id}/followups",
        "POST /api/v1/agent/tasks/{id}/followups",
        "POST /api/v1/factory/{uid}/runs",
        "POST /api/v1/webhooks/w/{uid}",
        "POST /api/v1/webhooks/w/{uid}/{token}",
    ];
    let more = (0..).map(|n| format!("POST /api/v1/service-{n}/{{id}}/starts"));
    let patterns = api.into_iter().map(str::to_owned).chain(more).take(routes);
    let patterns: Vec<StartPattern> = patterns.map(|text| text.parse().unwrap()).collect();
    Table::new(&patterns)
}

fn route(criterion: &mut Criterion) {
    let hostile = "/%61pi/v1//x/%2e%2e/agent;p=1/%72uns%20?q".to_owned();
    let absurd = "/%252e;%5c%20//..%3f%23%00".repeat(400);
    let mut group = criterion.benchmark_group("route_match");
    for routes in [10, 500] {
        let table = table(routes);
        for (name, method, target, expected) in [
            ("start", "POST", "/api/v1/agent/runs", Found::Start(0)),
            (
                "start_with_id",
                "POST",
                "/api/v1/agent/runs/0123456789012345678901/followups",
                Found::Start(3),
            ),
            (
                "encoded_id",
                "POST",
                "/api/v1/agent/runs/a%2Fb/followups",
                Found::Start(3),
            ),
            (
                "pass_through_get",
                "GET",
                "/api/v1/agent/runs/0123456789012345678901",
                Found::Passes,
            ),
            (
                "pass_through_post",
                "POST",
                "/api/v1/agent/runs/0123456789012345678901/cancel",
                Found::Passes,
            ),
            ("hostile", "POST", &hostile, Found::Start(0)),
            ("absurd_10_kb", "POST", &absurd, Found::Ambiguous),
        ] {
            let find = || table.find(method, iter::empty(), black_box(target.as_bytes()));
            // A bench of something else than it says would go unnoticed.
            assert_eq!(find(), expected, "{name}");
            group.bench_function(BenchmarkId::new(name, routes), |bencher| {
                bencher.iter(find);
            });
        }
    }
    group.finish();
}

fn problem(criterion: &mut Criterion) {
    let plain = Style::new(&config::Problem::default());
    let dressed = Style::new(&config::Problem {
        billing_url: Some("https://example.com/billing".parse().unwrap()),
        cors: Some(config::Cors {
            origins: vec!["https://app.example.com".parse().unwrap()],
            max_age: "10m".parse().unwrap(),
        }),
        ..config::Problem::default()
    });
    let refused = Problem::refused(Refusal::InsufficientCredits);
    let origin = HeaderValue::from_static("https://app.example.com");
    let from_browser = HeaderMap::from_iter([(http::header::ORIGIN, origin)]);
    let none = HeaderMap::new();
    let mut group = criterion.benchmark_group("problem_http");
    for (name, style, problem, headers) in [
        ("refused", &plain, &refused, &none),
        ("refused_with_cors", &dressed, &refused, &from_browser),
        ("unavailable", &plain, &Problem::unavailable(), &none),
        ("invalid", &plain, &Problem::invalid("why"), &none),
    ] {
        let about = About {
            instance: "/api/v1/agent/runs",
            headers,
            trace_id: "0af7651916cd43dd8448eb211c80319c",
        };
        let render = || style.http(black_box(problem), about).unwrap();
        group.throughput(Throughput::Bytes(
            render().body.len().try_into().unwrap_or(u64::MAX),
        ));
        group.bench_function(name, |bencher| bencher.iter(render));
    }
    group.finish();
}

/// The keys and signatures of RFC 7515, appendix A, and RFC 8037, appendix A.4.
const JWKS: &str = r#"{"keys":[
    {"kid":"rsa","kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"},
    {"kid":"ec","kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kid":"ed","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const SIGNATURES: [(&str, Algorithm, &str, &str, &str); 3] = [
    (
        "rs256",
        Algorithm::Rs256,
        "eyJhbGciOiJSUzI1NiJ9",
        CLAIMS,
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    ),
    (
        "es256",
        Algorithm::Es256,
        "eyJhbGciOiJFUzI1NiJ9",
        CLAIMS,
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    ),
    (
        "eddsa",
        Algorithm::EdDsa,
        "eyJhbGciOiJFZERTQSJ9",
        "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    ),
];

fn signature(criterion: &mut Criterion) {
    let keys = Keys::read(JWKS.as_bytes()).unwrap();
    let mut group = criterion.benchmark_group("token_signature");
    for (name, algorithm, header, claims, signature) in SIGNATURES {
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let verify = || keys.verify(algorithm, None, black_box(signed.as_bytes()), &signature);
        assert_eq!(verify(), Ok(()), "{name}");
        group.bench_function(name, |bencher| bencher.iter(verify));
    }
    group.finish();
}

/// A token of the usual size, all that is looked at, its signature remembered.
fn token(criterion: &mut Criterion) {
    let secret = [7; 32];
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT","kid":"2026-11"}"#);
    let claims = format!(
        r#"{{"iss":"https://issuer.example","aud":"tasks","exp":9999999999,"sub":"ann","team_id":"acme","more":"{}"}}"#,
        "x".repeat(400)
    );
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
    let mac = ring::hmac::sign(&key, signed.as_bytes());
    let text = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac));
    let configured = serde_json::json!({
        "issuer": "https://issuer.example", "audience": "tasks", "team_claim": "team_id",
    });
    let configured = serde_json::from_value(configured).unwrap();
    let jwt = Jwt::new(&configured, Keyring::fixed(Keys::of_secret(&secret)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let payer = || {
        let token = Token::read(black_box(text.as_bytes())).unwrap();
        runtime.block_on(jwt.payer(&token))
    };
    assert!(matches!(payer(), (Ok(_), Waited::No)));
    criterion.bench_function("token_remembered", |bencher| bencher.iter(payer));
    let key = "wk-0123456789abcdef0123456789abcdef0123456789abcdef";
    criterion.bench_function("token_that_is_a_key", |bencher| {
        bencher.iter(|| Token::read(black_box(key.as_bytes())).is_some());
    });
}

criterion_group!(benches, decision, credits, route, signature, token, problem);
criterion_main!(benches);
