//! The steps of a request, each to be run some number of times under callgrind.
//!
//! ```text
//! counts                    lists the steps, and how often each is run
//! counts STEP TIMES REDIS   runs one; REDIS is the URL of a server
//! ```
//!
//! `make counts` runs each step twice, once and twice as often, and divides the
//! difference: what comes before and after the loop cancels out. Everything is
//! reached as the rest of the crate reaches it, and what is private (keys,
//! commands, replies) through what is public: a lookup, a hold, an event.

// Here a panic is how a mistake in the bench shows.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::collections::BTreeMap;
use std::future::ready;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use pingora_http::RequestHeader;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tollgate::billing::admission::{
    Balance, Missing, OnOutage, Refusal, Rule, Wanted, decide, decide_hold,
};
use tollgate::billing::credits::Credits;
use tollgate::billing::hold::HoldId;
use tollgate::billing::team::TeamId;
use tollgate::billing::trigger::Trigger;
use tollgate::config::pattern::StartPattern;
use tollgate::config::{self, load};
use tollgate::edge::framing;
use tollgate::edge::identify::{Caller, Identities};
use tollgate::edge::problem::Problem;
use tollgate::edge::problem::style::{About, Style};
use tollgate::edge::route::{Found, Table};
use tollgate::edge::seen::Seen;
use tollgate::ledger::Ledger as _;
use tollgate::ledger::holds::{Ask, Holds as _, Outcome, Terms};
use tollgate::ledger::memory::MemoryLedger;
use tollgate::ledger::redis::{Keys, RedisLedger, RedisSettings, Servers};
use tollgate::refusals::{Dropped, RefusalEvent, Sink, StreamSettings};
use tollgate::telemetry::Metrics;
use tollgate::telemetry::access::{AccessLog, Line};
use tollgate::telemetry::logging::Form;

/// The one that ships.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One step: its name, how often it is run at first, and how.
struct Step {
    name: &'static str,
    times: usize,
    run: fn(&Setting),
}

/// What a step is told.
struct Setting {
    times: usize,
    redis: String,
}

/// So many times that what differs between two runs vanishes in the quotient;
/// those with Redis fewer, because each waits for it, and fewest where one alone
/// takes as long as several requests.
const QUICK: usize = 20_000;
const SLOW: usize = 4_096;
const LONG: usize = 256;

/// What is asked of Redis at once where questions are gathered.
const TOGETHER: usize = 64;

/// Longer than any machine stalls.
const PATIENCE: Duration = Duration::from_secs(60);

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const REQUEST_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const TASKS: &str = "/api/v1/agent/tasks";

#[rustfmt::skip]
const STEPS: &[Step] = &[
    Step { name: "decide", times: QUICK, run: |s| decision(s, Balance::Known(Credits::from_micro(100_000_000))) },
    Step { name: "decide_refused", times: QUICK, run: |s| decision(s, Balance::Known(Credits::ZERO)) },
    Step { name: "decide_hold", times: QUICK, run: hold_decision },
    Step { name: "balance_whole", times: QUICK, run: |s| balance(s, "100") },
    Step { name: "balance_fraction", times: QUICK, run: |s| balance(s, "-12345.678901") },
    Step { name: "route_of_10", times: QUICK, run: |s| route(s, 10, "/api/v1/agent/runs", Found::Start(0)) },
    Step { name: "route_of_500", times: QUICK, run: |s| route(s, 500, "/api/v1/agent/runs", Found::Start(0)) },
    Step { name: "route_parameter", times: QUICK, run: |s| route(s, 10, "/api/v1/agent/runs/0123456789012345678901/followups", Found::Start(3)) },
    Step { name: "route_disguised", times: LONG, run: |s| route(s, 10, "/%61pi/v1//x/%2e%2e/agent;p=1/%72uns%20?q", Found::Start(0)) },
    Step { name: "route_missed_of_10", times: QUICK, run: |s| route(s, 10, "/api/v1/agent/runs/0123456789012345678901/cancel", Found::Passes) },
    Step { name: "route_missed_of_500", times: QUICK, run: |s| route(s, 500, "/api/v1/agent/runs/0123456789012345678901/cancel", Found::Passes) },
    Step { name: "framing", times: QUICK, run: framing_check },
    Step { name: "payer_by_header", times: QUICK, run: payer },
    Step { name: "refusal_http", times: QUICK, run: refusal },
    Step { name: "access_log_line", times: SLOW, run: access_log },
    Step { name: "refusal_event", times: SLOW, run: events },
    Step { name: "lookup_alone", times: SLOW, run: lookup },
    Step { name: "lookup_of_64", times: SLOW, run: lookups_together },
    Step { name: "hold_alone", times: SLOW, run: holds },
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let step = arguments.next().filter(|word| !word.starts_with('-'));
    let (Some(name), Some(times), Some(redis)) = (step, arguments.next(), arguments.next()) else {
        for Step { name, times, .. } in STEPS {
            println!("{name} {times}");
        }
        return;
    };
    let step = STEPS.iter().find(|step| step.name == name);
    let Some(step) = step else {
        panic!("no step is called `{name}`");
    };
    let times = times.parse().unwrap();
    (step.run)(&Setting { times, redis });
}

fn repeat<T>(setting: &Setting, mut work: impl FnMut() -> T) {
    for _ in 0..setting.times {
        black_box(work());
    }
}

const RULE: Rule = Rule {
    refuse_at_or_below: Credits::ZERO,
    missing: Missing::Refuse,
    on_outage: OnOutage::Refuse,
};

fn decision(setting: &Setting, balance: Balance) {
    repeat(setting, || decide(black_box(balance), black_box(&RULE)));
}

fn hold_decision(setting: &Setting) {
    let balance = Balance::Known(Credits::from_micro(100_000_000));
    let wanted = Wanted {
        held: Credits::from_micro(20_000_000),
        hold: Credits::from_micro(20_000_000),
    };
    repeat(setting, || {
        decide_hold(black_box(balance), black_box(wanted), black_box(&RULE))
    });
}

fn balance(setting: &Setting, text: &str) {
    Credits::parse(text.as_bytes()).unwrap();
    repeat(setting, || Credits::parse(black_box(text.as_bytes())));
}

/// The start routes of the API, and as many others as it takes.
fn table(routes: usize) -> Table {
    let api = [
        "POST /api/v1/agent/runs",
        "POST /api/v1/agent/tasks",
        "POST /api/v1/agent/run",
        "POST /api/v1/agent/runs/{id}/followups",
        "POST /api/v1/agent/tasks/{id}/followups",
    ];
    let more = (0..).map(|n| format!("POST /api/v1/service-{n}/{{id}}/starts"));
    let patterns = api.into_iter().map(str::to_owned).chain(more).take(routes);
    let patterns: Vec<StartPattern> = patterns.map(|text| text.parse().unwrap()).collect();
    Table::new(&patterns)
}

fn route(setting: &Setting, routes: usize, target: &str, expected: Found) {
    let table = table(routes);
    let find = || table.find("POST", std::iter::empty(), black_box(target.as_bytes()));
    // A bench of something else than it says would go unnoticed.
    assert_eq!(find(), expected);
    repeat(setting, find);
}

/// A start as a client sends it.
fn head() -> (RequestHeader, Vec<u8>) {
    let mut head = RequestHeader::build("POST", TASKS.as_bytes(), None).unwrap();
    let mut raw = format!("POST {TASKS} HTTP/1.1\r\n");
    for (name, value) in [
        ("host", "tollgate.example"),
        ("user-agent", "python-httpx/0.28.1"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, deflate"),
        ("x-team-id", "acme"),
        ("content-type", "application/json"),
        ("content-length", "66"),
    ] {
        head.append_header(name, value).unwrap();
        raw.push_str(&format!("{name}: {value}\r\n"));
    }
    raw.push_str("\r\n");
    (head, raw.into_bytes())
}

/// The one look over a head that all others go by, and what framing makes of it.
fn framing_check(setting: &Setting) {
    let (head, raw) = head();
    let identities = identities();
    let check = || {
        let seen = Seen::of(black_box(&head.headers));
        framing::check_seen(&head, seen, Some(&raw))?;
        framing::check_names_seen(&head.headers, seen, identities.guarded())
    };
    assert_eq!(check(), Ok(()));
    repeat(setting, check);
}

fn identities() -> Identities {
    let demo = include_str!("../config/demo.yaml");
    let config = load::load_str("demo.yaml", demo, &|_| None).unwrap();
    Identities::new(&config.identity, &[])
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn payer(setting: &Setting) {
    let (head, _) = head();
    let identities = identities();
    let ledger = MemoryLedger::new(BTreeMap::new());
    let mut until = Instant::now();
    runtime().block_on(async {
        for _ in 0..setting.times {
            let caller = Caller {
                headers: black_box(&head.headers),
                peer: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                certificate: None,
            };
            let payer = identities.payer(caller, &ledger, &mut until).await;
            assert_eq!(black_box(payer).unwrap().team.as_str(), "acme");
        }
    });
}

fn refusal(setting: &Setting) {
    let style = Style::new(&config::Problem::default());
    let problem = Problem::refused(Refusal::InsufficientCredits);
    let headers = HeaderMap::new();
    let about = About {
        instance: TASKS,
        headers: &headers,
        trace_id: TRACE_ID,
    };
    repeat(setting, || style.http(black_box(&problem), about).unwrap());
}

/// From the values of a line to its bytes on standard output.
fn access_log(setting: &Setting) {
    let dropped = Metrics::new().unwrap().log_lines_dropped;
    let (log, writer) = AccessLog::start(Form::Json, dropped.clone()).unwrap();
    let at = SystemTime::now();
    repeat(setting, || {
        let line = Line {
            request_id: REQUEST_ID,
            trace_id: TRACE_ID,
            method: "POST",
            path: TASKS,
            protocol: "HTTP/1.1",
            status: 200,
            client: "127.0.0.1",
            route: Some("POST /api/v1/agent/tasks"),
            trigger: Some("api"),
            team: Some("acme"),
            verdict: Some("admitted"),
            upstream: Some("127.0.0.1:9000"),
            duration_ms: 1.234,
            ledger_ms: Some(0.345),
            upstream_ms: Some(0.678),
            bytes_sent: 214,
            ..Line::default()
        };
        log.write(at, black_box(&line));
    });
    drop(log);
    writer.join().unwrap();
    assert_eq!(dropped.get(), 0, "lines were dropped");
}

fn settings(setting: &Setting, holds: Option<Terms>) -> RedisSettings {
    RedisSettings {
        servers: Servers::One(setting.redis.clone()),
        deadline: PATIENCE,
        connect_timeout: PATIENCE,
        breaker_failures: 3,
        probe_interval: PATIENCE,
        tls: None,
        holds,
        keys: Keys {
            balance: "credits:{<team>}".to_owned(),
            field: None,
            api_key: "apikey:<sha256>".to_owned(),
            canary: None,
        },
    }
}

/// Offered, and taken to Redis in batches: everything that an event costs.
fn events(setting: &Setting) {
    let stream = StreamSettings {
        queue: setting.times,
        stream_length: 1_000,
    };
    let dropped = Dropped::default();
    let redis = settings(setting, None);
    let (sink, writer) = Sink::new(&redis, stream, dropped.clone()).unwrap();
    let route: Arc<str> = "POST /api/v1/agent/tasks".into();
    repeat(setting, || {
        sink.offer(RefusalEvent {
            at: SystemTime::UNIX_EPOCH,
            team: team(),
            principal: None,
            trigger: Trigger::Api,
            route: Arc::clone(&route),
            instance: TASKS.to_owned(),
            request_id: REQUEST_ID.to_owned(),
        });
    });
    runtime().block_on(writer.run(ready(()), PATIENCE));
    assert_eq!(dropped.count(), 0, "events were dropped");
}

fn team() -> TeamId {
    TeamId::parse(b"acme").unwrap()
}

fn with_ledger<F: Future>(redis: RedisSettings, work: impl FnOnce(RedisLedger) -> F) {
    runtime().block_on(async {
        let ledger = RedisLedger::new(&redis).unwrap();
        tokio::spawn(ledger.run());
        ledger.settled(PATIENCE).await;
        let plenty = Credits::from_micro(1_000_000_000_000);
        ledger.set_balance(&team(), plenty).await.unwrap();
        work(ledger).await;
    });
}

/// One after the other: nothing is shared with anybody.
fn lookup(setting: &Setting) {
    with_ledger(settings(setting, None), |ledger| async move {
        let team = team();
        for _ in 0..setting.times {
            black_box(ledger.balance(&team).await.unwrap());
        }
    });
}

/// As many at once as a busy gateway has: reads, writes and wake-ups are shared.
fn lookups_together(setting: &Setting) {
    with_ledger(settings(setting, None), |ledger| async move {
        let ledger = Arc::new(ledger);
        let mut asking = JoinSet::new();
        let share = setting.times.checked_div(TOGETHER).unwrap_or_default();
        for _ in 0..TOGETHER {
            let ledger = Arc::clone(&ledger);
            asking.spawn(async move {
                let team = team();
                for _ in 0..share {
                    black_box(ledger.balance(&team).await.unwrap());
                }
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked.unwrap();
        }
    });
}

/// The script asked, its reply read.
fn holds(setting: &Setting) {
    with_ledger(
        settings(setting, Some(Terms::default())),
        |ledger| async move {
            for number in 0..setting.times {
                let ask = Ask {
                    team: team(),
                    id: HoldId::from_bits(rand::random()),
                    credits: Credits::from_micro(1),
                    hold_for: PATIENCE,
                    rule: RULE,
                    replay: None,
                };
                let until = ledger.until();
                let answer = ledger.hold_by(black_box(&ask), until).await.unwrap();
                assert_eq!(answer.outcome, Outcome::Held, "hold {number}");
            }
        },
    );
}
