//! What a start costs apart from sockets: the decision, reading a balance,
//! finding the route, rendering a problem.
//!
//! `cargo bench --bench decision`. These numbers guard against a step that
//! suddenly costs ten times as much; what a request costs as a whole is told
//! by `make bench`.

// Here a panic is how a mistake in the bench shows.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::iter;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use tollgate::billing::admission::{Balance, Missing, OnOutage, Refusal, Rule, decide};
use tollgate::billing::credits::Credits;
use tollgate::config;
use tollgate::config::pattern::StartPattern;
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

criterion_group!(benches, decision, credits, route, problem);
criterion_main!(benches);
