//! The contract: what every ledger promises.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tollgate::billing::credits::Credits;
use tollgate::billing::team::TeamId;
use tollgate::ledger::memory::MemoryLedger;
use tollgate::ledger::redis::{RedisLedger, RedisSettings, Servers, TlsFiles};
use tollgate::ledger::{Health, Ledger, LedgerError, Mark};

use crate::redis_server::{Certificates, RedisServer};
use crate::{PATIENCE, connected, credits, eventually, fresh_team, settings};

/// How many grants are made at once.
const CONCURRENT: i64 = 50;

/// The whole suite.
async fn keeps_the_contract(ledger: Arc<dyn Ledger>) {
    assert_eq!(ledger.health(), Health::Up);
    a_team_without_a_balance_has_none(&*ledger).await;
    a_balance_is_read_as_it_was_set(&*ledger).await;
    teams_do_not_mix(&*ledger).await;
    a_grant_adds_exactly(&*ledger).await;
    a_grant_that_cannot_be_told_exactly_changes_nothing(&*ledger).await;
    concurrent_grants_all_count(Arc::clone(&ledger)).await;
    an_unknown_key_is_none(&*ledger).await;
    what_nobody_wrote_is_nobodys(&*ledger).await;
    a_mark_is_the_first_of_its_name_once(&*ledger).await;
    a_mark_goes_when_its_time_is_up(&*ledger).await;
    of_many_at_once_one_leaves_the_mark(Arc::clone(&ledger)).await;
    histories_match_the_model(ledger).await;
}

async fn a_team_without_a_balance_has_none(ledger: &dyn Ledger) {
    assert_eq!(ledger.balance(&fresh_team()).await, Ok(None));
}

async fn a_balance_is_read_as_it_was_set(ledger: &dyn Ledger) {
    let team = fresh_team();
    for credits in [
        credits("20"),
        Credits::ZERO,
        credits("0.000001"),
        credits("-3.25"),
        Credits::MAX,
        Credits::MIN,
    ] {
        assert_eq!(ledger.set_balance(&team, credits).await, Ok(()));
        assert_eq!(ledger.balance(&team).await, Ok(Some(credits)));
    }
}

async fn teams_do_not_mix(ledger: &dyn Ledger) {
    let (one, other) = (fresh_team(), fresh_team());
    assert_eq!(ledger.set_balance(&one, credits("1")).await, Ok(()));
    assert_eq!(ledger.grant(&other, credits("2")).await, Ok(credits("2")));
    assert_eq!(ledger.balance(&one).await, Ok(Some(credits("1"))));
    assert_eq!(ledger.balance(&other).await, Ok(Some(credits("2"))));
}

async fn a_grant_adds_exactly(ledger: &dyn Ledger) {
    let team = fresh_team();
    for (grant, balance) in [
        ("0.1", "0.1"),
        ("0.2", "0.3"),
        ("-0.300001", "-0.000001"),
        ("9007199254.740992", "9007199254.74099"),
        ("0.000001", "9007199254.740991"),
    ] {
        let balance = credits(balance);
        assert_eq!(ledger.grant(&team, credits(grant)).await, Ok(balance));
        assert_eq!(ledger.balance(&team).await, Ok(Some(balance)));
    }
}

async fn a_grant_that_cannot_be_told_exactly_changes_nothing(ledger: &dyn Ledger) {
    let team = fresh_team();
    assert_eq!(ledger.set_balance(&team, Credits::MAX).await, Ok(()));
    let outcome = ledger.grant(&team, credits("0.000001")).await;
    assert!(
        matches!(outcome, Err(LedgerError::Unsupported(_))),
        "{outcome:?}"
    );
    assert_eq!(ledger.balance(&team).await, Ok(Some(Credits::MAX)));
}

async fn concurrent_grants_all_count(ledger: Arc<dyn Ledger>) {
    let team = fresh_team();
    let mut grants = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENT {
        let (ledger, team) = (Arc::clone(&ledger), team.clone());
        grants.spawn(async move { ledger.grant(&team, Credits::from_micro(1)).await });
    }
    let mut seen: Vec<i64> = grants
        .join_all()
        .await
        .into_iter()
        .map(|outcome| outcome.unwrap().micro())
        .collect();
    seen.sort_unstable();
    // Each saw a balance that no other saw: none was lost, none counted twice.
    assert_eq!(seen, (1..=CONCURRENT).collect::<Vec<_>>());
}

async fn an_unknown_key_is_none(ledger: &dyn Ledger) {
    assert_eq!(ledger.key_fact(&"0".repeat(64)).await, Ok(None));
}

async fn what_nobody_wrote_is_nobodys(ledger: &dyn Ledger) {
    for value in ["u-nobody", "a/b", "", "{", "with blanks and \u{fc}"] {
        let key = format!("webhook:{value}");
        assert_eq!(ledger.team_fact_by(&key, ledger.until()).await, Ok(None));
    }
}

/// A name that no other test uses.
fn fresh_mark() -> String {
    format!("notice:{}", fresh_team())
}

async fn mark(ledger: &dyn Ledger, name: &str, lasting: Duration) -> Mark {
    let outcome = ledger.mark_by(name, lasting, ledger.until()).await;
    outcome.expect("a mark")
}

async fn a_mark_is_the_first_of_its_name_once(ledger: &dyn Ledger) {
    let (one, other) = (fresh_mark(), fresh_mark());
    assert_eq!(mark(ledger, &one, PATIENCE).await, Mark::First);
    for _ in 0..3 {
        assert_eq!(mark(ledger, &one, PATIENCE).await, Mark::Again);
    }
    // As long as can be said is long, and no error.
    assert_eq!(mark(ledger, &other, Duration::MAX).await, Mark::First);
    assert_eq!(mark(ledger, &other, Duration::MAX).await, Mark::Again);
}

async fn a_mark_goes_when_its_time_is_up(ledger: &dyn Ledger) {
    for lasting in [Duration::ZERO, Duration::from_millis(40)] {
        let name = fresh_mark();
        let start = Instant::now();
        assert_eq!(mark(ledger, &name, lasting).await, Mark::First);
        // Whoever finds it does not keep it alive.
        eventually("the mark is gone", PATIENCE, || async {
            mark(ledger, &name, lasting).await == Mark::First
        })
        .await;
        assert!(start.elapsed() >= lasting, "{:?}", start.elapsed());
    }
}

async fn of_many_at_once_one_leaves_the_mark(ledger: Arc<dyn Ledger>) {
    let name = fresh_mark();
    let mut marks = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENT {
        let (ledger, name) = (Arc::clone(&ledger), name.clone());
        marks.spawn(async move { mark(&*ledger, &name, PATIENCE).await });
    }
    let marks = marks.join_all().await;
    let firsts = marks.iter().filter(|mark| **mark == Mark::First).count();
    assert_eq!(firsts, 1);
}

/// What can be done to a team's balance.
#[derive(Clone, Debug)]
enum Change {
    Set(i64),
    Grant(i64),
}

fn change() -> impl Strategy<Value = (usize, Change)> {
    let micro = -1_000_000_000_i64..1_000_000_000;
    let change = prop_oneof![
        micro.clone().prop_map(Change::Set),
        micro.prop_map(Change::Grant)
    ];
    (0_usize..3, change)
}

/// Any history of changes leaves what adding up by hand leaves.
async fn histories_match_the_model(ledger: Arc<dyn Ledger>) {
    let runtime = tokio::runtime::Handle::current();
    let run = move || {
        let mut runner = TestRunner::new(Config {
            cases: 24,
            failure_persistence: None,
            ..Config::default()
        });
        let history = proptest::collection::vec(change(), 1..12);
        runner.run(&history, |history| {
            runtime.block_on(one_history(&*ledger, &history));
            Ok(())
        })
    };
    tokio::task::spawn_blocking(run)
        .await
        .expect("no panic")
        .expect("every history matches");
}

async fn one_history(ledger: &dyn Ledger, history: &[(usize, Change)]) {
    let teams: Vec<TeamId> = (0..3).map(|_| fresh_team()).collect();
    let mut model: BTreeMap<usize, i64> = BTreeMap::new();
    for (index, change) in history {
        let team = &teams[*index];
        match change {
            Change::Set(micro) => {
                model.insert(*index, *micro);
                let outcome = ledger.set_balance(team, Credits::from_micro(*micro)).await;
                assert_eq!(outcome, Ok(()));
            }
            Change::Grant(micro) => {
                let balance = model.entry(*index).or_insert(0);
                *balance += micro;
                let outcome = ledger.grant(team, Credits::from_micro(*micro)).await;
                assert_eq!(outcome, Ok(Credits::from_micro(*balance)));
            }
        }
        for (index, team) in teams.iter().enumerate() {
            let expected = model.get(&index).copied().map(Credits::from_micro);
            assert_eq!(ledger.balance(team).await, Ok(expected));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    keeps_the_contract(Arc::new(MemoryLedger::default())).await;
}

#[tokio::test]
async fn memory_begins_with_what_it_is_given() {
    let team = fresh_team();
    let ledger = MemoryLedger::new(BTreeMap::from([(team.clone(), credits("7"))]));
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("7"))));
}

async fn redis_keeps_the_contract(settings: &RedisSettings) {
    keeps_the_contract(Arc::new(connected(settings).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_the_contract_over_tcp() {
    let server = RedisServer::start();
    redis_keeps_the_contract(&settings(server.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_the_contract_over_a_unix_socket() {
    let server = RedisServer::start();
    redis_keeps_the_contract(&settings(server.unix_url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_the_contract_in_a_hash_field() {
    let server = RedisServer::start();
    let mut settings = settings(server.url());
    settings.keys.balance = "balances".to_owned();
    settings.keys.field = Some("<team>:spendable".to_owned());
    redis_keeps_the_contract(&settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_the_contract_with_a_canary() {
    let server = RedisServer::start();
    server.command(&["HSET", "credits:canary", "any", "type"]);
    let mut settings = settings(server.url());
    settings.keys.canary = Some("credits:canary".to_owned());
    redis_keeps_the_contract(&settings).await;
    settings.keys.field = Some("spendable".to_owned());
    settings.keys.balance = "hash:{<team>}".to_owned();
    redis_keeps_the_contract(&settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_the_contract_with_user_password_and_database() {
    let server = RedisServer::start_with(&[
        "--user",
        "gate",
        "on",
        ">s3cret",
        "~credits:*",
        "~apikey:*",
        "~webhook:*",
        "~tollgate:mark:*",
        "+@all",
    ]);
    let url = format!("redis://gate:s3cret@127.0.0.1:{}/5", server.port);
    redis_keeps_the_contract(&settings(url)).await;
    let info = format!("{:?}", server.command(&["INFO", "keyspace"]));
    assert!(info.contains("db5:"), "{info}");
    assert!(!info.contains("db0:"), "{info}");
}

fn tls_settings(server: &RedisServer, certificates: &Certificates) -> RedisSettings {
    let mut settings = settings(server.url());
    settings.tls = Some(TlsFiles {
        ca: Some(certificates.ca.clone()),
        cert: Some(certificates.client_cert.clone()),
        key: Some(certificates.client_key.clone()),
    });
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_the_contract_over_tls_with_a_client_certificate() {
    let certificates = Certificates::for_name("localhost");
    let server = RedisServer::start_with_tls(&certificates);
    redis_keeps_the_contract(&tls_settings(&server, &certificates)).await;
}

/// The reason why this does not connect.
async fn why_not(settings: &RedisSettings) -> String {
    match RedisLedger::connect_once(settings).await {
        Err(LedgerError::Outage(why)) => why,
        other => panic!("an outage is due: {other:?}"),
    }
}

#[tokio::test]
async fn tls_refuses_another_authority_another_name_and_no_client_certificate() {
    let certificates = Certificates::for_name("localhost");
    let server = RedisServer::start_with_tls(&certificates);
    let good = tls_settings(&server, &certificates);
    assert!(RedisLedger::connect_once(&good).await.is_ok());

    let others = Certificates::for_name("localhost");
    let mut stranger = good.clone();
    stranger.tls.as_mut().unwrap().ca = Some(others.ca.clone());
    let why = why_not(&stranger).await;
    assert!(
        why.contains("UnknownIssuer") || why.contains("BadSignature"),
        "{why}"
    );

    let mut other_name = good.clone();
    other_name.servers = Servers::One(format!("rediss://127.0.0.1:{}", server.port));
    let why = why_not(&other_name).await;
    assert!(why.contains("not valid for name"), "{why}");

    let mut nobody = good.clone();
    let files = nobody.tls.as_mut().unwrap();
    (files.cert, files.key) = (None, None);
    why_not(&nobody).await;

    let mut insecure = good;
    insecure.servers = Servers::One(format!("{}/#insecure", server.url()));
    assert!(RedisLedger::new(&insecure).is_err());
}

#[tokio::test]
async fn a_command_connects_once_and_does_its_work() {
    let server = RedisServer::start();
    let mut settings = settings(server.url());
    // A missing canary keeps nobody from restoring the balances.
    settings.keys.canary = Some("credits:canary".to_owned());
    let ledger = RedisLedger::connect_once(&settings).await.unwrap();
    let team = fresh_team();
    assert_eq!(ledger.set_balance(&team, credits("4")).await, Ok(()));
    server.command(&["SET", "credits:canary", "1"]);
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("4"))));
    assert_eq!(ledger.grant(&team, credits("1")).await, Ok(credits("5")));
}

#[tokio::test]
async fn a_time_to_live_survives_a_change() {
    let server = RedisServer::start();
    let ledger = connected(&settings(server.url())).await;
    let team = fresh_team();
    let key = format!("credits:{{{team}}}");
    server.command(&["SET", &key, "1", "EX", "1000"]);
    ledger.grant(&team, credits("1")).await.unwrap();
    ledger.set_balance(&team, credits("9")).await.unwrap();
    let left = server.command(&["TTL", &key]);
    assert!(
        matches!(left, redis::Value::Int(seconds) if seconds > 900),
        "{left:?}"
    );
}

#[tokio::test]
async fn passwords_show_in_no_message() {
    let server = RedisServer::start_with(&["--user", "gate", "on", ">right", "~*", "+@all"]);
    let mut settings = settings(format!("redis://gate:hunter2@127.0.0.1:{}", server.port));
    let why = why_not(&settings).await;
    assert!(why.contains("authentication failed"), "{why}");
    assert!(!why.contains("hunter2"), "{why}");
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert!(!format!("{:?}", RedisLedger::new(&settings)).contains("hunter2"));
    settings.servers = Servers::One("redis://gate:hunter2@[broken".to_owned());
    let error = RedisLedger::new(&settings).unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");

    // A server without AUTH repeats its arguments.
    let server = RedisServer::start_with(&["--rename-command", "AUTH", "XYZZY"]);
    let mut settings = crate::settings(format!("redis://gate:hunter2@127.0.0.1:{}", server.port));
    settings.connect_timeout = Duration::from_secs(5);
    let why = why_not(&settings).await;
    assert!(!why.contains("hunter2"), "{why}");
}
