//! Holds in Redis: the scripts' arithmetic against Rust's, and what happens
//! when Redis, its keys or the connection are not as they should be.

#[path = "redis_holds/harm.rs"]
mod harm;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tollgate::billing::admission::{Balance, Refusal, Rule, Verdict, Wanted, decide_hold};
use tollgate::billing::credits::Credits;
use tollgate::billing::hold::{End, HoldId, RunId};
use tollgate::billing::team::TeamId;
use tollgate::ledger::holds::{
    Ask, Begun, Change, Holds, LineKind, Outcome, Release, Repair, Replay, Terms, WhenFull, Which,
    Writer,
};
use tollgate::ledger::redis::{RedisLedger, RedisSettings};
use tollgate::ledger::{Health, Ledger, LedgerError};

use crate::redis_server::RedisServer;
use crate::{PATIENCE, connected, credits, eventually, fresh_team, settings};

/// Longer than any test runs.
const HOLD_FOR: Duration = Duration::from_secs(3600);

/// Settings for holds.
fn hold_settings(url: String, terms: Terms) -> RedisSettings {
    RedisSettings {
        holds: Some(terms),
        ..settings(url)
    }
}

fn writing() -> Terms {
    Terms {
        writer: Writer::Tollgate,
        ..Terms::default()
    }
}

async fn ledger_on(server: &RedisServer) -> RedisLedger {
    connected(&hold_settings(server.url(), Terms::default())).await
}

fn fresh_id() -> HoldId {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    HoldId::from_bits(COUNT.fetch_add(1, Ordering::Relaxed).into())
}

fn ask(team: &TeamId, credits: Credits) -> Ask {
    Ask {
        team: team.clone(),
        id: fresh_id(),
        credits,
        hold_for: HOLD_FOR,
        rule: Rule::default(),
        replay: None,
    }
}

fn not_started(ask: &Ask) -> Release {
    Release::NotStarted(ask.id.clone())
}

fn hold_of(ask: &Ask) -> Which {
    Which::Hold(ask.id.clone())
}

async fn outcome(ledger: &RedisLedger, ask: &Ask) -> Result<Outcome, LedgerError> {
    let answer = ledger.hold_by(ask, ledger.until()).await?;
    Ok(answer.outcome)
}

/// What is held, and by how many, if it adds up.
async fn held(ledger: &RedisLedger, team: &TeamId) -> (Credits, u64) {
    let audit = ledger.audit(team, Repair::Report).await.unwrap();
    assert!(audit.is_sound(), "{audit:?}");
    let standing = ledger.standing(team).await.unwrap();
    assert_eq!(standing.held, audit.summed);
    (standing.held.credits, standing.held.live)
}

fn key(kind: &str, team: &TeamId) -> String {
    format!("tollgate:{kind}:{{{team}}}")
}

fn balance_key(team: &TeamId) -> String {
    format!("credits:{{{team}}}")
}

#[tokio::test]
async fn a_hold_lives_and_ends_in_each_way() {
    let server = RedisServer::start();
    let ledger = ledger_on(&server).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("100")).await.unwrap();
    let (first, second, third) = (
        ask(&team, credits("20")),
        ask(&team, credits("30")),
        ask(&team, credits("50.000001")),
    );
    assert_eq!(outcome(&ledger, &first).await, Ok(Outcome::Held));
    assert_eq!(outcome(&ledger, &first).await, Ok(Outcome::Held));
    assert_eq!(outcome(&ledger, &second).await, Ok(Outcome::Held));
    let refused = outcome(&ledger, &third).await.unwrap();
    let Outcome::Refused {
        refusal: Refusal::CreditsHeld,
        balance,
        next_end: Some(next_end),
    } = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(balance, credits("100"));
    assert!(next_end <= HOLD_FOR && next_end > HOLD_FOR / 2);
    assert_eq!(held(&ledger, &team).await, (credits("50"), 2));

    let run = RunId::parse(b"run-1").unwrap();
    let bound = ledger.bind(&team, &first.id, &run).await.unwrap();
    assert!(matches!(bound, Change::Done(entry) if entry.run.as_ref() == Some(&run)));
    let charged = ledger
        .charge(&team, &Which::Run(run.clone()), credits("5"), "c1")
        .await
        .unwrap();
    assert!(matches!(charged, Change::Done(entry) if entry.credits == credits("15")));
    let settled = ledger
        .settle(&team, &Which::Either("run-1".into()), credits("1"))
        .await
        .unwrap();
    let Change::Done(entry) = settled else {
        panic!("{settled:?}")
    };
    assert_eq!((entry.end, entry.ended_now), (Some(End::Settled), true));
    let released = ledger
        .release(&team, &hold_of(&second), &Release::Over)
        .await
        .unwrap();
    assert!(matches!(released, Change::Done(entry) if entry.end == Some(End::Released)));
    assert_eq!(held(&ledger, &team).await, (Credits::ZERO, 0));
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("100"))));
    assert_eq!(ledger.teams().await, Ok(vec![team]));
}

#[tokio::test]
async fn what_is_due_does_not_count_and_is_told_once() {
    let server = RedisServer::start();
    let ledger = ledger_on(&server).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let mut first = ask(&team, credits("10"));
    first.hold_for = Duration::from_millis(20);
    assert_eq!(outcome(&ledger, &first).await, Ok(Outcome::Held));
    eventually("it is due", PATIENCE, async || {
        ledger.standing(&team).await.unwrap().held.live == 0
    })
    .await;
    let answer = ledger
        .hold_by(&ask(&team, credits("10")), ledger.until())
        .await
        .unwrap();
    assert_eq!(answer.outcome, Outcome::Held);
    assert_eq!(answer.expired.len(), 1);
    assert_eq!(answer.expired[0].hold, first.id);
    assert_eq!((answer.held.credits, answer.held.live), (credits("10"), 1));
    let change = ledger.extend(&team, &hold_of(&first)).await.unwrap();
    assert!(matches!(change, Change::Conflict(entry) if entry.end == Some(End::Expired)));
    assert!(outcome(&ledger, &first).await.is_err());
}

#[tokio::test]
async fn nothing_is_left_of_a_team_when_all_is_forgotten() {
    let server = RedisServer::start();
    let terms = Terms {
        remember: Duration::from_millis(50),
        ..Terms::default()
    };
    let ledger = connected(&hold_settings(server.url(), terms)).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("1000")).await.unwrap();
    for n in 0..100_u8 {
        let mut ask = ask(&team, credits("1"));
        ask.replay = Some(Replay {
            key: [n; 32],
            route: [1; 32],
            body: None,
        });
        assert_eq!(outcome(&ledger, &ask).await, Ok(Outcome::Held));
        let run = RunId::parse(format!("run-{n}").as_bytes()).unwrap();
        ledger.bind(&team, &ask.id, &run).await.unwrap();
        ledger
            .charge(&team, &hold_of(&ask), credits("1"), &format!("c{n}"))
            .await
            .unwrap();
        let mut replay = ask.clone();
        replay.id = fresh_id();
        ledger.hold_by(&replay, ledger.until()).await.unwrap();
        let which = hold_of(&ask);
        match n % 2 {
            0 => ledger.settle(&team, &which, credits("1")).await.unwrap(),
            _ => ledger.release(&team, &which, &Release::Over).await.unwrap(),
        };
    }
    // The replays are remembered for as long as their hold might have lived.
    let done = key("done", &team);
    eventually("all but the replays is forgotten", PATIENCE, async || {
        ledger.sweep(&team).await.unwrap();
        server.command(&["HLEN", &done]) == Value::Int(100)
    })
    .await;
    let due = key("due", &team);
    assert_eq!(server.command(&["ZCARD", &due]), Value::Int(100));
    assert_eq!(held(&ledger, &team).await, (Credits::ZERO, 0));
}

/// Texts that are balances, nearly balances, or anything.
fn balance_texts() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[+-]?[0-9]{1,12}(\\.[0-9]{1,9})?".prop_map(String::into_bytes),
        2 => "[+-]?0{0,3}90071992547?4?[0-9]?(\\.7409[0-9]{1,4}0{0,3})?".prop_map(String::into_bytes),
        1 => "[+-]?9007199254\\.74099[0-9]{1,3}".prop_map(String::into_bytes),
        1 => "[-+.0-9]{0,8}".prop_map(String::into_bytes),
        1 => "[+-]?[0-9]{100,140}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..12),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_read_balances_as_rust_does() {
    let server = RedisServer::start();
    let ledger = Arc::new(ledger_on(&server).await);
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Handle::current();
        let admin = std::cell::RefCell::new(server.admin().unwrap());
        let team = fresh_team();
        let mut runner = TestRunner::new(Config::with_cases(1500));
        let outcome = runner.run(&balance_texts(), |text| {
            redis::cmd("SET")
                .arg(balance_key(&team))
                .arg(&text)
                .query::<()>(&mut *admin.borrow_mut())
                .unwrap();
            let mut ask = ask(&team, Credits::MAX);
            // Refused whatever it is, and so shown as it was read.
            ask.rule.refuse_at_or_below = Credits::MAX;
            let read = runtime.block_on(outcome(&ledger, &ask));
            let expected = runtime.block_on(ledger.balance(&team));
            match expected {
                Ok(expected) => prop_assert!(
                    matches!(&read, Ok(Outcome::Refused { balance, .. }) if Some(*balance) == expected),
                    "{read:?} {expected:?}"
                ),
                Err(LedgerError::Corrupt(_)) => {
                    prop_assert!(matches!(read, Err(LedgerError::Corrupt(_))), "{read:?}");
                }
                Err(other) => panic!("{other}"),
            }
            Ok(())
        });
        outcome.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_decides_as_rust_does() {
    let server = RedisServer::start();
    let ledger = Arc::new(ledger_on(&server).await);
    let bound = Credits::MAX.micro();
    let amount = move || prop_oneof![2 => -10_i64..=10, 1 => -bound..=bound, 1 => bound - 5..=bound, 1 => -bound..=5 - bound];
    let positive = move || prop_oneof![2 => 1_i64..=10, 1 => 1..=bound, 1 => bound - 5..=bound];
    tokio::task::spawn_blocking(move || {
        let _server = server;
        let runtime = tokio::runtime::Handle::current();
        let mut runner = TestRunner::new(Config::with_cases(600));
        let cases = (amount(), 0_i64..=1, positive(), positive(), amount());
        let outcome = runner.run(&cases, |(balance, has_held, held, hold, line)| {
            runtime.block_on(async {
                let team = fresh_team();
                let held = Credits::from_micro(held * has_held);
                if held > Credits::ZERO {
                    ledger.set_balance(&team, Credits::MAX).await.unwrap();
                    assert_eq!(outcome(&ledger, &ask(&team, held)).await, Ok(Outcome::Held));
                }
                let balance = Credits::from_micro(balance);
                ledger.set_balance(&team, balance).await.unwrap();
                let mut ask = ask(&team, Credits::from_micro(hold));
                ask.rule.refuse_at_or_below = Credits::from_micro(line);
                let wanted = Wanted {
                    held,
                    hold: ask.credits,
                };
                let verdict = match outcome(&ledger, &ask).await.unwrap() {
                    Outcome::Held => Verdict::Admit,
                    Outcome::Refused { refusal, .. } => Verdict::Refuse(refusal),
                    other => panic!("{other:?}"),
                };
                prop_assert_eq!(
                    verdict,
                    decide_hold(Balance::Known(balance), wanted, &ask.rule)
                );
                Ok(())
            })
        });
        outcome.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_starts_at_once_admit_exactly_what_there_is() {
    let server = RedisServer::start();
    let ledgers = [
        Arc::new(ledger_on(&server).await),
        Arc::new(ledger_on(&server).await),
        Arc::new(ledger_on(&server).await),
    ];
    let team = fresh_team();
    ledgers[0]
        .set_balance(&team, credits("1234"))
        .await
        .unwrap();
    let mut starts = JoinSet::new();
    for n in 0..10_000_usize {
        let ledger = Arc::clone(&ledgers[n % ledgers.len()]);
        let ask = ask(&team, credits("1"));
        starts.spawn(async move { outcome(&ledger, &ask).await.unwrap() });
    }
    let mut admitted = 0;
    while let Some(outcome) = starts.join_next().await {
        admitted += i32::from(outcome.unwrap() == Outcome::Held);
    }
    assert_eq!(admitted, 1234);
    assert_eq!(held(&ledgers[0], &team).await, (credits("1234"), 1234));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_send_again_hold_once() {
    let server = RedisServer::start();
    let ledgers = [
        Arc::new(ledger_on(&server).await),
        Arc::new(ledger_on(&server).await),
    ];
    let team = fresh_team();
    ledgers[0].set_balance(&team, credits("100")).await.unwrap();
    let asks: Vec<_> = (0..100).map(|_| ask(&team, credits("1"))).collect();
    let mut starts = JoinSet::new();
    for _ in 0..3 {
        for ask in &asks {
            for ledger in &ledgers {
                let (ledger, ask) = (Arc::clone(ledger), ask.clone());
                starts.spawn(async move { outcome(&ledger, &ask).await.unwrap() });
            }
        }
    }
    while let Some(outcome) = starts.join_next().await {
        assert_eq!(outcome.unwrap(), Outcome::Held);
    }
    assert_eq!(held(&ledgers[0], &team).await, (credits("100"), 100));
}

#[tokio::test]
async fn a_hold_that_redis_comes_to_too_late_is_not_made() {
    let server = RedisServer::start();
    let mut settings = hold_settings(server.url(), Terms::default());
    settings.deadline = Duration::from_millis(150);
    // The connection must outlive the silence, so that the script does run.
    settings.breaker_failures = 1000;
    let ledger = connected(&settings).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    assert_eq!(
        outcome(&ledger, &ask(&team, credits("1"))).await,
        Ok(Outcome::Held)
    );
    server.freeze();
    let late = ask(&team, credits("1"));
    let answer = outcome(&ledger, &late).await;
    assert!(
        matches!(answer, Err(LedgerError::OutcomeUnknown(_))),
        "{answer:?}"
    );
    server.thaw();
    // Behind it on the same connection.
    eventually("redis answers", PATIENCE, async || {
        ledger.balance(&team).await.is_ok()
    })
    .await;
    assert_eq!(held(&ledger, &team).await, (credits("1"), 1));
    // And given up, it cannot be made later either.
    let change = ledger
        .release(&team, &hold_of(&late), &not_started(&late))
        .await;
    assert_eq!(change, Ok(Change::Unknown));
    let again = outcome(&ledger, &late).await;
    assert!(matches!(again, Err(LedgerError::Outage(why)) if why.contains("given up")));
}

#[tokio::test]
async fn scripts_that_redis_has_forgotten_are_sent_again() {
    let server = RedisServer::start();
    let ledger = ledger_on(&server).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    for _ in 0..3 {
        server.command(&["SCRIPT", "FLUSH"]);
        assert_eq!(
            outcome(&ledger, &ask(&team, credits("1"))).await,
            Ok(Outcome::Held)
        );
    }
    assert_eq!(held(&ledger, &team).await, (credits("3"), 3));
    let live = ledger.list(&team, 3).await.unwrap();
    let runs = ["r1", "r2", "r3"].map(|run| RunId::parse(run.as_bytes()).unwrap());
    let begun = live.iter().zip(&runs).map(|(hold, run)| Begun {
        team: &team,
        hold: &hold.hold,
        run,
        note_for: HOLD_FOR,
    });
    let begun: Vec<_> = begun.collect();
    server.command(&["SCRIPT", "FLUSH"]);
    let changes = ledger.bind_all(&begun).await;
    let is_done = |change: &Result<_, _>| matches!(change, Ok(Change::Done(_)));
    assert!(changes.iter().all(is_done), "{changes:?}");
    drop(server);
    let changes = ledger.bind_all(&begun).await;
    let is_unknown = |change: &Result<_, _>| {
        matches!(
            change,
            Err(LedgerError::Outage(_) | LedgerError::OutcomeUnknown(_))
        )
    };
    assert!(
        changes.len() == 3 && changes.iter().all(is_unknown),
        "{changes:?}"
    );
}

/// Everything in Redis, to be compared.
fn dump(server: &RedisServer, keys: &[String]) -> Vec<Value> {
    keys.iter()
        .map(|key| server.command(&["DUMP", key]))
        .collect()
}

#[tokio::test]
async fn a_key_of_a_wrong_type_changes_nothing_and_concerns_one_team() {
    let server = RedisServer::start();
    let ledger = connected(&hold_settings(server.url(), writing())).await;
    for kind in ["holds", "due", "done", "statement", "balance"] {
        let team = fresh_team();
        let broken = match kind {
            "balance" => balance_key(&team),
            _ => key(kind, &team),
        };
        let keys: Vec<_> = ["holds", "due", "done", "statement"]
            .iter()
            .map(|kind| key(kind, &team))
            .chain([balance_key(&team)])
            .collect();
        ledger.set_balance(&team, credits("10")).await.unwrap();
        let live = ask(&team, credits("1"));
        assert_eq!(outcome(&ledger, &live).await, Ok(Outcome::Held));
        server.command(&["DEL", &broken]);
        server.command(&["SADD", &broken, "x"]);
        let before = dump(&server, &keys);
        let mut replay = ask(&team, credits("1"));
        replay.replay = Some(Replay {
            key: [1; 32],
            route: [2; 32],
            body: None,
        });
        let which = hold_of(&live);
        let run = RunId::parse(b"run").unwrap();
        let one = credits("1");
        let plain = ask(&team, credits("1"));
        let is_corrupt = [
            ledger.hold_by(&plain, ledger.until()).await.err(),
            ledger.hold_by(&replay, ledger.until()).await.err(),
            ledger.settle(&team, &which, one).await.err(),
            ledger.charge(&team, &which, one, "c").await.err(),
            ledger.release(&team, &which, &Release::Over).await.err(),
            ledger.bind(&team, &live.id, &run).await.err(),
            ledger.extend(&team, &which).await.err(),
            ledger.grant_once(&team, one, "g").await.err(),
            ledger.grant(&team, one).await.err(),
        ]
        .map(|error| matches!(error, Some(LedgerError::Corrupt(_))));
        let expected = match kind {
            "holds" | "due" | "done" => [true, true, true, true, true, true, true, true, false],
            "statement" => [false, false, true, true, false, false, false, true, true],
            _ => [true, true, true, true, false, false, false, true, true],
        };
        assert_eq!(is_corrupt, expected, "{kind}");
        // Those that could be done are, and the others left no trace.
        if !expected[8] {
            let unchanged = |keys: &[Value]| keys[..3].to_vec();
            assert_eq!(
                unchanged(&dump(&server, &keys)),
                unchanged(&before),
                "{kind}"
            );
        } else {
            assert_eq!(dump(&server, &keys)[3..], before[3..], "{kind}");
        }
        assert_eq!(ledger.health(), Health::Up);
    }
}

#[tokio::test]
async fn a_version_that_is_not_known_is_not_written_to() {
    let server = RedisServer::start();
    server.command(&["SET", "tollgate:schema", "2"]);
    let settings = hold_settings(server.url(), Terms::default());
    let ledger = RedisLedger::new(&settings).unwrap();
    tokio::spawn(ledger.run());
    eventually("the conflict shows", PATIENCE, async || {
        ledger.schema_conflict().is_some()
    })
    .await;
    let Health::Down(why) = ledger.health() else {
        panic!("up")
    };
    assert!(why.contains("is 2") && why.contains("knows 1"), "{why}");
    let once = RedisLedger::connect_once(&settings).await;
    assert!(matches!(once, Err(LedgerError::Outage(error)) if error == why));

    server.command(&["SET", "tollgate:schema", "1"]);
    assert_eq!(ledger.settled(PATIENCE).await, Health::Up);
    assert_eq!(ledger.schema_conflict(), None);

    // One team's holds of another version concern that team.
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let holds = key("holds", &team);
    server.command(&["HSET", &holds, "totals", "7 something else"]);
    let answer = outcome(&ledger, &ask(&team, credits("1"))).await;
    assert!(matches!(answer, Err(LedgerError::Outage(why)) if why.contains("version 7")));
    assert_eq!(server.command(&["HLEN", &holds]), Value::Int(1));
    // What is of no version is an entry that somebody spoilt.
    for spoilt in ["", "1", "1 2 3", "1 -1 0 0 0", "nothing"] {
        server.command(&["HSET", &holds, "totals", spoilt]);
        let answer = outcome(&ledger, &ask(&team, credits("1"))).await;
        assert!(
            matches!(&answer, Err(LedgerError::Corrupt(why)) if why.contains("totals")),
            "{spoilt}: {answer:?}"
        );
    }
    assert_eq!(ledger.health(), Health::Up);
}

#[tokio::test]
async fn a_fresh_redis_is_marked_with_the_version() {
    let server = RedisServer::start();
    let _ledger = ledger_on(&server).await;
    let schema = server.command(&["GET", "tollgate:schema"]);
    assert_eq!(schema, Value::BulkString(b"1".to_vec()));
    let lookup = RedisServer::start();
    let _ledger = connected(&settings(lookup.url())).await;
    assert_eq!(lookup.command(&["DBSIZE"]), Value::Int(0));
}

#[tokio::test]
async fn a_full_statement_refuses_or_loses_its_oldest_lines() {
    let server = RedisServer::start();
    let mut terms = Terms {
        statement_length: 3,
        when_full: WhenFull::Refuse,
        ..writing()
    };
    let ledger = connected(&hold_settings(server.url(), terms)).await;
    let team = fresh_team();
    for n in 0..3 {
        let id = format!("g{n}");
        ledger.grant_once(&team, credits("10"), &id).await.unwrap();
    }
    let live = ask(&team, credits("1"));
    assert_eq!(outcome(&ledger, &live).await, Ok(Outcome::Held));
    for error in [
        ledger
            .settle(&team, &hold_of(&live), credits("1"))
            .await
            .err(),
        ledger
            .charge(&team, &hold_of(&live), credits("1"), "c")
            .await
            .err(),
        ledger.grant(&team, credits("1")).await.err(),
        ledger.set_balance(&team, credits("1")).await.err(),
        ledger.grant_once(&team, credits("1"), "g9").await.err(),
    ] {
        assert!(
            matches!(&error, Some(LedgerError::Full(why)) if why.contains("trim")),
            "{error:?}"
        );
    }
    assert_eq!(held(&ledger, &team).await, (credits("1"), 1));
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("30"))));

    terms.when_full = WhenFull::Trim;
    let ledger = connected(&hold_settings(server.url(), terms)).await;
    let change = ledger.settle(&team, &hold_of(&live), credits("31.5")).await;
    let Ok(Change::Done(entry)) = change else {
        panic!("{change:?}")
    };
    assert_eq!(entry.balance, Some(credits("-1.5")));
    let lines = ledger.statement(&team, "", 10).await.unwrap();
    let kinds: Vec<_> = lines.iter().map(|line| line.kind).collect();
    assert_eq!(kinds, [LineKind::Grant, LineKind::Grant, LineKind::Settle]);
    let last = lines.last().unwrap();
    assert_eq!(last.credits, credits("-31.5"));
    assert_eq!(last.balance, credits("-1.5"));
    assert_eq!(last.hold.as_ref(), Some(&live.id));
    assert_eq!(lines[0].reference.as_deref(), Some("g1"));
    let rest = ledger.statement(&team, &lines[1].id, 10).await.unwrap();
    assert_eq!(rest, lines[2..]);
}

#[tokio::test]
async fn without_memory_nothing_is_held_and_holds_still_end() {
    let server = RedisServer::start();
    let ledger = ledger_on(&server).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let live = ask(&team, credits("1"));
    assert_eq!(outcome(&ledger, &live).await, Ok(Outcome::Held));
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = outcome(&ledger, &ask(&team, credits("1"))).await;
    assert!(
        matches!(refused, Err(LedgerError::Outage(_))),
        "{refused:?}"
    );
    let released = ledger.release(&team, &hold_of(&live), &Release::Over).await;
    assert!(matches!(released, Ok(Change::Done(_))), "{released:?}");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(held(&ledger, &team).await, (Credits::ZERO, 0));
}

#[tokio::test]
async fn a_user_that_may_not_keep_holds_is_noticed_before_the_first_start() {
    let server = RedisServer::start_with(&[
        "--user",
        "reader",
        "on",
        ">pw",
        "~credits:*",
        "~apikey:*",
        "+@all",
        "--user",
        "scriptless",
        "on",
        ">pw",
        "~*",
        "+@all",
        "-@scripting",
    ]);
    for user in ["reader", "scriptless"] {
        let url = format!("redis://{user}:pw@127.0.0.1:{}", server.port);
        let once = RedisLedger::connect_once(&hold_settings(url.clone(), Terms::default())).await;
        let Err(LedgerError::Outage(why)) = once else {
            panic!("{user}: {once:?}")
        };
        assert!(
            why.contains("NOPERM") || why.contains("permission"),
            "{user}: {why}"
        );
        // Good enough for lookup mode.
        assert!(RedisLedger::connect_once(&settings(url)).await.is_ok());
    }
}

#[tokio::test]
async fn a_user_that_may_not_scan_lists_no_teams_and_holds_all_the_same() {
    let server = RedisServer::start_with(&[
        "--user", "narrow", "on", ">pw", "~*", "+@all", "-scan", "--user", "default", "on",
        "nopass", "~*", "+@all",
    ]);
    let url = format!("redis://narrow:pw@127.0.0.1:{}", server.port);
    let ledger = connected(&hold_settings(url, Terms::default())).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("9")).await.unwrap();
    for _ in 0..5 {
        let Err(LedgerError::Unsupported(why)) = ledger.teams().await else {
            panic!("teams without SCAN")
        };
        assert!(why.contains("scan"), "{why}");
        assert!(!ledger.is_breaker_open());
        let start = ask(&team, credits("1"));
        assert_eq!(outcome(&ledger, &start).await, Ok(Outcome::Held));
    }
}

#[tokio::test]
async fn balances_that_are_gone_are_an_outage_and_no_refusal() {
    let server = RedisServer::start();
    server.command(&["SET", "credits:canary", "1"]);
    let mut settings = hold_settings(server.url(), Terms::default());
    settings.keys.canary = Some("credits:canary".to_owned());
    let ledger = connected(&settings).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("1")).await.unwrap();
    let live = ask(&team, credits("1"));
    assert_eq!(outcome(&ledger, &live).await, Ok(Outcome::Held));
    server.command(&["FLUSHALL"]);
    let answer = outcome(&ledger, &ask(&team, credits("1"))).await;
    assert!(
        matches!(&answer, Err(LedgerError::Outage(why)) if why.contains("canary")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn an_audit_finds_what_does_not_belong_and_puts_it_right() {
    let server = RedisServer::start();
    let ledger = ledger_on(&server).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let asks: Vec<_> = (0..3).map(|_| ask(&team, credits("1"))).collect();
    for ask in &asks {
        assert_eq!(outcome(&ledger, ask).await, Ok(Outcome::Held));
    }
    let (holds, due) = (key("holds", &team), key("due", &team));
    let member = |ask: &Ask| format!("h:{}", ask.id);
    // A hold that is lost, one that would never end, and an entry of nothing.
    server.command(&["HDEL", &holds, &member(&asks[0])]);
    server.command(&["ZREM", &due, &member(&asks[1])]);
    server.command(&["ZADD", &due, "99999999999999", "h:nobody"]);
    let audit = ledger.audit(&team, Repair::Report).await.unwrap();
    assert_eq!((audit.drift(), audit.strays), (credits("1"), 3));
    assert!(!audit.repaired);
    let audit = ledger.audit(&team, Repair::Repair).await.unwrap();
    assert!(audit.repaired);
    assert_eq!(held(&ledger, &team).await, (credits("2"), 2));
    assert_eq!(ledger.list(&team, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn in_lookup_mode_there_are_no_holds() {
    let server = RedisServer::start();
    let ledger = connected(&settings(server.url())).await;
    let answer = outcome(&ledger, &ask(&fresh_team(), credits("1"))).await;
    assert!(matches!(answer, Err(LedgerError::Unsupported(_))));
}

/// Passes everything on between a ledger and Redis, until it is told to lose a
/// reply: then the next command that runs a script reaches Redis, and the
/// connection ends when its reply comes.
struct LosesReplies {
    url: String,
    lose: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for LosesReplies {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LosesReplies {
    async fn before(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let lose = Arc::new(AtomicBool::new(false));
        let (port, losing) = (server.port, Arc::clone(&lose));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                connections.spawn(pass_on(near, far, Arc::clone(&losing)));
            }
        });
        LosesReplies { url, lose, task }
    }
}

async fn pass_on(mut near: TcpStream, mut far: TcpStream, lose: Arc<AtomicBool>) {
    let (mut command, mut reply) = (vec![0; 65536], vec![0; 65536]);
    let mut is_lost = false;
    loop {
        let passed = tokio::select! {
            read = near.read(&mut command) => {
                let sent = &command[..read.unwrap_or(0)];
                let runs_script = sent.windows(7).any(|word| word == b"EVALSHA");
                is_lost = is_lost || runs_script && lose.swap(false, Ordering::SeqCst);
                !sent.is_empty() && far.write_all(sent).await.is_ok()
            }
            read = far.read(&mut reply) => {
                let got = &reply[..read.unwrap_or(0)];
                !got.is_empty() && !is_lost && near.write_all(got).await.is_ok()
            }
        };
        if !passed {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_lost_changes_once_when_it_is_asked_again() {
    let server = RedisServer::start();
    let between = LosesReplies::before(&server).await;
    let mut settings = hold_settings(between.url.clone(), writing());
    // Nothing but what the test asks: a probe must not be the one that loses.
    settings.probe_interval = Duration::from_secs(3600);
    let team = fresh_team();
    let ask = ask(&team, credits("4"));
    let which = hold_of(&ask);
    // Each is a step: what is asked, and the balance and what is held after it.
    for (step, balance, left) in [
        ("grant", "10", ("0", 0)),
        ("hold", "10", ("4", 1)),
        ("charge", "9", ("3", 1)),
        ("settle", "7.5", ("0", 0)),
    ] {
        let mut answers = Vec::new();
        for round in 0..2 {
            let ledger = connected(&settings).await;
            between.lose.store(round == 0, Ordering::SeqCst);
            answers.push(match step {
                "grant" => ledger.grant_once(&team, credits("10"), "g").await.err(),
                "hold" => ledger.hold_by(&ask, ledger.until()).await.err(),
                "charge" => ledger.charge(&team, &which, credits("1"), "c").await.err(),
                _ => ledger.settle(&team, &which, credits("1.5")).await.err(),
            });
            let direct = ledger_on(&server).await;
            assert_eq!(
                direct.balance(&team).await,
                Ok(Some(credits(balance))),
                "{step}"
            );
            assert_eq!(
                held(&direct, &team).await,
                (credits(left.0), left.1),
                "{step}"
            );
        }
        assert!(
            matches!(answers[..], [Some(LedgerError::OutcomeUnknown(_)), None]),
            "{step}: {answers:?}"
        );
    }
    let direct = ledger_on(&server).await;
    assert_eq!(direct.statement(&team, "", 10).await.unwrap().len(), 3);
}
