//! Look-ups that happen at once share a connection and its writes, and nothing
//! else: each gets its own team's balance as it was between question and answer,
//! or its own trouble, within its own deadline.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::task::JoinSet;
use tollgate::billing::credits::Credits;
use tollgate::billing::team::TeamId;
use tollgate::ledger::redis::{RedisLedger, RedisSettings, Servers, TlsFiles};
use tollgate::ledger::{Health, Ledger, LedgerError};

use crate::false_redis::{Answer, FalseRedis, well_behaved};
use crate::redis_cluster::RedisCluster;
use crate::redis_server::{Certificates, RedisServer};
use crate::{PATIENCE, connected, credits, eventually, fresh_team, settings, team};

/// How many look up at once. Their commands are more than is kept ready to be
/// written.
const CROWD: usize = 3000;

/// How many teams there are in a history.
const TEAMS: usize = 12;

/// How many look up each team's balance.
const READERS: usize = 4;

type Outcome = Result<Option<Credits>, LedgerError>;

/// What may stand under a team's key.
#[derive(Clone, Debug)]
enum Entry {
    Credits(i32),
    NoNumber,
    WrongType,
    Nothing,
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        4 => any::<i32>().prop_map(Entry::Credits),
        1 => Just(Entry::NoNumber),
        1 => Just(Entry::WrongType),
        1 => Just(Entry::Nothing),
    ]
}

impl Entry {
    /// Whether this is what a look-up has to say of it.
    fn explains(&self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Entry::Credits(expected), Ok(Some(found))) => *found == credits(&expected.to_string()),
            (Entry::Nothing, Ok(None)) => true,
            (Entry::NoNumber | Entry::WrongType, Err(LedgerError::Corrupt(_))) => true,
            _ => false,
        }
    }
}

/// Looks up for all of these at the same time.
async fn look_up_all(
    ledger: &Arc<RedisLedger>,
    teams: impl IntoIterator<Item = TeamId>,
) -> Vec<(TeamId, Outcome)> {
    let mut asking = JoinSet::new();
    for team in teams {
        let ledger = Arc::clone(ledger);
        asking.spawn(async move {
            let outcome = ledger.balance(&team).await;
            (team, outcome)
        });
    }
    asking.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_at_once_is_told_of_its_own_team() {
    let server = RedisServer::start();
    server.command(&["SET", "canary", "1"]);
    let runtime = tokio::runtime::Handle::current();
    for canary in [None, Some("canary".to_owned())] {
        let mut settings = settings(server.url());
        settings.keys.canary = canary;
        let ledger = Arc::new(connected(&settings).await);
        let (runtime, asked) = (runtime.clone(), Arc::clone(&ledger));
        let admin = Mutex::new(server.admin().expect("a connection"));
        let run = move || {
            let mut runner = TestRunner::new(Config {
                cases: 24,
                failure_persistence: None,
                ..Config::default()
            });
            let entries = proptest::collection::vec(entry(), 1..80);
            runner.run(&entries, |entries| {
                let entries: BTreeMap<_, _> = entries
                    .into_iter()
                    .map(|entry| (fresh_team().to_string(), entry))
                    .collect();
                let mut admin = admin.lock().unwrap();
                for (name, entry) in &entries {
                    let key = format!("credits:{{{name}}}");
                    let mut command = match entry {
                        Entry::Credits(_) | Entry::NoNumber => redis::cmd("SET"),
                        Entry::WrongType => redis::cmd("RPUSH"),
                        Entry::Nothing => continue,
                    };
                    let value = match entry {
                        Entry::Credits(number) => number.to_string(),
                        _ => "plenty".to_owned(),
                    };
                    command.arg(key).arg(value).exec(&mut *admin).unwrap();
                }
                // Some of them twice: a storm of one team.
                let names = entries.keys().chain(entries.keys().take(7));
                let teams: Vec<_> = names.map(|name| team(name)).collect();
                for (team, outcome) in runtime.block_on(look_up_all(&asked, teams)) {
                    let entry = &entries[team.as_str()];
                    prop_assert!(entry.explains(&outcome), "{team}: {entry:?}, {outcome:?}");
                }
                Ok(())
            })
        };
        tokio::task::spawn_blocking(run).await.unwrap().unwrap();
        assert_eq!(ledger.health(), Health::Up);
    }
}

/// What is known of a balance that only ever grows.
#[derive(Default)]
struct Growing {
    /// The last that is certainly there.
    done: AtomicI64,
    /// The last that may be there.
    begun: AtomicI64,
    /// How many readers have seen enough.
    content: AtomicUsize,
}

/// While balances grow, nobody is told of one that was not current at some
/// moment between asking and being told.
async fn every_balance_was_current(settings: &RedisSettings) {
    let ledger = Arc::new(connected(settings).await);
    let billing = Arc::new(connected(settings).await);
    let teams: Vec<_> = (0..TEAMS).map(|_| fresh_team()).collect();
    let mut history = JoinSet::new();
    for team in teams {
        billing.set_balance(&team, credits("0")).await.unwrap();
        let growing = Arc::new(Growing::default());
        let (writes, notes, payer) = (Arc::clone(&billing), Arc::clone(&growing), team.clone());
        history.spawn(async move {
            for next in 1.. {
                if notes.content.load(Ordering::SeqCst) == READERS {
                    break;
                }
                notes.begun.store(next, Ordering::SeqCst);
                let balance = Credits::from_micro(next);
                writes.set_balance(&payer, balance).await.unwrap();
                notes.done.store(next, Ordering::SeqCst);
            }
        });
        for _ in 0..READERS {
            let (ledger, team, notes) = (Arc::clone(&ledger), team.clone(), Arc::clone(&growing));
            history.spawn(async move {
                let mut grown = 0;
                while grown < 50 {
                    let least = notes.done.load(Ordering::SeqCst);
                    let balance = ledger.balance(&team).await.unwrap().unwrap().micro();
                    let most = notes.begun.load(Ordering::SeqCst);
                    assert!(
                        (least..=most).contains(&balance),
                        "{least} {balance} {most}"
                    );
                    grown = balance;
                }
                notes.content.fetch_add(1, Ordering::SeqCst);
            });
        }
    }
    let all = async { while history.join_next().await.transpose().unwrap().is_some() {} };
    tokio::time::timeout(PATIENCE * 3, all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_balance_was_current_over_tcp_and_a_unix_socket() {
    let server = RedisServer::start();
    every_balance_was_current(&settings(server.url())).await;
    every_balance_was_current(&settings(server.unix_url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_balance_was_current_over_tls() {
    let certificates = Certificates::for_name("localhost");
    let server = RedisServer::start_with_tls(&certificates);
    let mut settings = settings(server.url());
    settings.tls = Some(TlsFiles {
        ca: Some(certificates.ca.clone()),
        cert: Some(certificates.client_cert.clone()),
        key: Some(certificates.client_key.clone()),
    });
    every_balance_was_current(&settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_balance_was_current_in_a_hash_with_a_canary() {
    let server = RedisServer::start();
    server.command(&["SET", "canary", "1"]);
    let mut settings = settings(server.url());
    settings.keys.canary = Some("canary".to_owned());
    settings.keys.field = Some("spendable".to_owned());
    every_balance_was_current(&settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_balance_was_current_on_a_cluster() {
    let cluster = RedisCluster::start();
    let settings = RedisSettings {
        servers: Servers::Cluster(cluster.urls(2)),
        ..settings(String::new())
    };
    every_balance_was_current(&settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_told_of_its_own_teams_though_many_of_it_leave() {
    let server = RedisServer::start();
    let ledger = Arc::new(connected(&settings(server.url())).await);
    let mut fill = redis::pipe();
    for number in 0..CROWD {
        fill.cmd("SET")
            .arg(format!("credits:{{crowd-{number}}}"))
            .arg(number);
    }
    fill.exec(&mut server.admin().unwrap()).unwrap();
    server.freeze();
    let mut staying = JoinSet::new();
    let mut leaving = Vec::new();
    for number in 0..CROWD {
        let ledger = Arc::clone(&ledger);
        let ask = async move {
            (
                number,
                ledger.balance(&team(&format!("crowd-{number}"))).await,
            )
        };
        if number % 3 == 0 {
            leaving.push(tokio::spawn(ask));
        } else {
            staying.spawn(ask);
        }
    }
    // Before they have asked, while they wait, and in any order.
    for one in leaving {
        one.abort();
    }
    server.thaw();
    for (number, outcome) in staying.join_all().await {
        assert_eq!(outcome, Ok(Some(credits(&number.to_string()))));
    }
    assert_eq!(ledger.health(), Health::Up);
}

#[tokio::test]
async fn a_key_that_may_not_be_read_is_no_trouble_for_those_beside_it() {
    let server = RedisServer::start_with(&[
        "--user",
        "gate",
        "on",
        ">pass",
        "~canary",
        "~credits:{good-*",
        "+get",
        "+multi",
        "+exec",
        "+exists",
    ]);
    server.command(&["SET", "canary", "1"]);
    for number in 0..40 {
        server.command(&["SET", &format!("credits:{{good-{number}}}"), "3"]);
    }
    for canary in [None, Some("canary".to_owned())] {
        let mut settings = settings(format!("redis://gate:pass@127.0.0.1:{}", server.port));
        settings.keys.canary = canary;
        let ledger = Arc::new(connected(&settings).await);
        let names = (0..40).flat_map(|number| [format!("good-{number}"), format!("bad-{number}")]);
        for (name, outcome) in look_up_all(&ledger, names.map(|name| team(&name))).await {
            if name.as_str().starts_with("good") {
                assert_eq!(outcome, Ok(Some(credits("3"))), "{name}");
            } else {
                assert!(
                    matches!(outcome, Err(LedgerError::Corrupt(_))),
                    "{outcome:?}"
                );
            }
        }
        assert_eq!(ledger.health(), Health::Up);
    }
}

/// Once the canary is gone nobody is told of a balance, whoever asked before.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_goes_under_a_crowd_ends_all_answers() {
    let server = RedisServer::start();
    server.command(&["SET", "canary", "1"]);
    let payer = fresh_team();
    server.command(&["SET", &format!("credits:{{{payer}}}"), "7"]);
    let mut settings = settings(server.url());
    settings.keys.canary = Some("canary".to_owned());
    let ledger = Arc::new(connected(&settings).await);
    let gone = Arc::new(AtomicBool::new(false));
    let told = Arc::new(AtomicI64::new(0));
    let mut asking = JoinSet::new();
    for _ in 0..50 {
        let (ledger, gone, told) = (Arc::clone(&ledger), Arc::clone(&gone), Arc::clone(&told));
        let payer = payer.clone();
        asking.spawn(async move {
            loop {
                let was_gone = gone.load(Ordering::SeqCst);
                match ledger.balance(&payer).await {
                    Ok(balance) => {
                        assert_eq!(balance, Some(credits("7")));
                        assert!(!was_gone);
                        told.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(LedgerError::Outage(_)) if was_gone => break,
                    // Between the loss and our knowing of it.
                    Err(LedgerError::Outage(_)) => tokio::task::yield_now().await,
                    other => panic!("{other:?}"),
                }
            }
        });
    }
    eventually("they are told", PATIENCE, || async {
        told.load(Ordering::SeqCst) > 500
    })
    .await;
    let mut admin = server.admin().unwrap();
    redis::cmd("FLUSHALL").exec(&mut admin).unwrap();
    gone.store(true, Ordering::SeqCst);
    let all = async { while asking.join_next().await.transpose().unwrap().is_some() {} };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
}

/// Nobody is told sooner or later because of others that wait beside it.
#[tokio::test(flavor = "multi_thread")]
async fn each_waits_until_its_own_deadline() {
    let redis = FalseRedis::start().await;
    let mut settings = settings(redis.url());
    settings.breaker_failures = 1_000_000;
    settings.probe_interval = PATIENCE;
    let ledger = Arc::new(connected(&settings).await);
    redis.behave(|command| match command[0].as_str() {
        "GET" => Answer::Nothing,
        _ => well_behaved(command),
    });
    let mut asking = JoinSet::new();
    for number in 0..200_u64 {
        let (ledger, team) = (Arc::clone(&ledger), fresh_team());
        asking.spawn(async move {
            // Those that come later do not all give up later.
            let patience = Duration::from_millis(20 + (number * 37) % 300);
            let start = Instant::now();
            let outcome = ledger.balance_by(&team, start + patience).await;
            let took = start.elapsed();
            assert!(
                matches!(outcome, Err(LedgerError::Outage(_))),
                "{outcome:?}"
            );
            assert!(took >= patience, "{took:?} of {patience:?}");
            assert!(
                took < patience + Duration::from_millis(200),
                "{took:?} of {patience:?}"
            );
        });
    }
    while asking.join_next().await.transpose().unwrap().is_some() {}
}

/// The connection belongs to a runtime; whoever asks may belong to another one,
/// and is told when the first is gone.
#[test]
fn whoever_asks_is_told_when_the_runtime_of_the_connection_ends() {
    let server = RedisServer::start();
    let one = tokio::runtime::Runtime::new().unwrap();
    let other = tokio::runtime::Runtime::new().unwrap();
    let ledger = Arc::new(one.block_on(connected(&settings(server.url()))));
    let payer = fresh_team();
    assert_eq!(other.block_on(ledger.balance(&payer)), Ok(None));
    server.freeze();
    let asking = other.spawn({
        let ledger = Arc::clone(&ledger);
        async move { ledger.balance(&payer).await }
    });
    // The command is on its way, or is about to find that nobody takes it.
    one.shutdown_timeout(Duration::from_secs(1));
    let soon = async { tokio::time::timeout(Duration::from_secs(5), asking).await };
    let outcome = other.block_on(soon).unwrap().unwrap();
    assert!(
        matches!(outcome, Err(LedgerError::Outage(_))),
        "{outcome:?}"
    );
    server.thaw();
}
