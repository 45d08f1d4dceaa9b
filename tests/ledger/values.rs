//! What may stand in Redis: a balance is read exactly or not at all, and one
//! team's broken entry is nobody else's trouble.

use tollgate::ledger::redis::RedisLedger;
use tollgate::ledger::{Health, KeyFact, Ledger, LedgerError};

use crate::redis_server::RedisServer;
use crate::{connected, credits, fresh_team, settings, team};

const SHA: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// Leaves something that is no string under the key.
const WRONG_TYPES: [&[&str]; 5] = [
    &["RPUSH", "KEY", "20"],
    &["SADD", "KEY", "20"],
    &["ZADD", "KEY", "20", "20"],
    &["XADD", "KEY", "*", "spendable", "20"],
    &["HSET", "KEY", "other", "20"],
];

fn with_key(command: &[&str], key: &str) -> Vec<String> {
    let name = |word: &&str| (if *word == "KEY" { key } else { *word }).to_owned();
    command.iter().map(name).collect()
}

fn run(server: &RedisServer, command: &[String]) {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    server.command(&words);
}

async fn is_corrupt(ledger: &RedisLedger, team: &tollgate::billing::team::TeamId) {
    let outcome = ledger.balance(team).await;
    assert!(
        matches!(outcome, Err(LedgerError::Corrupt(_))),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn decimal_text_is_read_and_nothing_else() {
    let server = RedisServer::start();
    let ledger = connected(&settings(server.url())).await;
    let team = fresh_team();
    let key = format!("credits:{{{team}}}");
    for (text, expected) in [
        ("20", "20"),
        ("+0.5", "0.5"),
        ("-12.25", "-12.25"),
        ("007", "7"),
        ("-0", "0"),
        ("0.0000009", "0"),
        ("99999999999999999999999999", "9007199254.740991"),
    ] {
        server.command(&["SET", &key, text]);
        assert_eq!(ledger.balance(&team).await, Ok(Some(credits(expected))));
    }
    let long = "9".repeat(129);
    let longer = "1".repeat(1024 * 1024);
    for text in [
        "", " ", "1e3", " 20", "20 ", "20\n", "NaN", "inf", "null", "1,000", "0x10", "{}", "20\0",
        "\u{ff12}", &long, &longer,
    ] {
        server.command(&["SET", &key, text]);
        is_corrupt(&ledger, &team).await;
    }
    assert_eq!(ledger.health(), Health::Up);
}

/// With every way in which balances are kept: a hundred broken entries, and
/// the next team is served.
#[tokio::test]
async fn a_broken_entry_never_opens_the_breaker() {
    let server = RedisServer::start();
    server.command(&["SET", "canary", "1"]);
    for canary in [None, Some("canary".to_owned())] {
        for field in [None, Some("spendable".to_owned())] {
            let mut settings = settings(server.url());
            settings.keys.canary = canary.clone();
            settings.keys.field = field.clone();
            let ledger = connected(&settings).await;
            let (good, bad) = (fresh_team(), fresh_team());
            ledger.set_balance(&good, credits("1")).await.unwrap();
            for (index, command) in WRONG_TYPES.iter().enumerate() {
                // A hash is wrong only where a string is due.
                if field.is_some() && command[0] == "HSET" {
                    continue;
                }
                let key = format!("credits:{{{bad}}}");
                server.command(&["DEL", &key]);
                run(&server, &with_key(command, &key));
                for _ in 0..20 {
                    is_corrupt(&ledger, &bad).await;
                }
                assert!(!ledger.is_breaker_open(), "{index}");
            }
            assert_eq!(ledger.balance(&good).await, Ok(Some(credits("1"))));
        }
    }
}

#[tokio::test]
async fn a_key_that_may_not_be_read_concerns_its_team_alone() {
    let server =
        RedisServer::start_with(&["--user", "gate", "on", ">pass", "~credits:{good}", "+@all"]);
    server.command(&["SET", "credits:{good}", "1"]);
    server.command(&["SET", "credits:{bad}", "1"]);
    let url = format!("redis://gate:pass@127.0.0.1:{}", server.port);
    let ledger = connected(&settings(url)).await;
    for _ in 0..20 {
        is_corrupt(&ledger, &team("bad")).await;
    }
    assert_eq!(ledger.balance(&team("good")).await, Ok(Some(credits("1"))));
}

#[tokio::test]
async fn a_user_who_may_not_ping_is_served() {
    let server = RedisServer::start_with(&["--user", "gate", "on", ">pass", "~*", "+get"]);
    let team = fresh_team();
    server.command(&["SET", &format!("credits:{{{team}}}"), "1"]);
    let url = format!("redis://gate:pass@127.0.0.1:{}", server.port);
    let ledger = connected(&settings(url)).await;
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("1"))));
}

#[tokio::test]
async fn a_balance_that_would_be_rounded_is_not_added_to() {
    let server = RedisServer::start();
    let ledger = connected(&settings(server.url())).await;
    let team = fresh_team();
    let key = format!("credits:{{{team}}}");
    for text in ["0.0000001", "-7.12345678", "99999999999999999999"] {
        server.command(&["SET", &key, text]);
        let outcome = ledger.grant(&team, credits("1")).await;
        assert!(
            matches!(outcome, Err(LedgerError::Corrupt(_))),
            "{text}: {outcome:?}"
        );
        let left = server.command(&["GET", &key]);
        assert_eq!(left, redis::Value::BulkString(text.into()));
    }
    for (text, sum) in [("+007.500", "8.5"), ("-0.0", "1"), ("-00.50", "0.5")] {
        server.command(&["SET", &key, text]);
        assert_eq!(ledger.grant(&team, credits("1")).await, Ok(credits(sum)));
    }
}

#[tokio::test]
async fn key_facts_are_read_from_a_hash() {
    let server = RedisServer::start();
    let ledger = connected(&settings(server.url())).await;
    let key = format!("apikey:{SHA}");

    server.command(&["HSET", &key, "team", "acme", "principal", "agent one"]);
    let agent = KeyFact {
        team: Some(team("acme")),
        teams: None,
        principal: Some(tollgate::billing::team::Principal::new("agent one")),
    };
    assert_eq!(ledger.key_fact(SHA).await, Ok(Some(agent)));

    server.command(&["DEL", &key]);
    server.command(&["HSET", &key, "teams", " acme  broke "]);
    let personal = KeyFact {
        team: None,
        teams: Some(vec![team("acme"), team("broke")]),
        principal: None,
    };
    assert_eq!(ledger.key_fact(SHA).await, Ok(Some(personal)));

    server.command(&["DEL", &key]);
    server.command(&["HSET", &key, "note", "no key of ours"]);
    assert_eq!(ledger.key_fact(SHA).await, Ok(None));
}

#[tokio::test]
async fn a_broken_key_fact_is_corrupt_and_never_unknown() {
    let server = RedisServer::start();
    let ledger = connected(&settings(server.url())).await;
    let key = format!("apikey:{SHA}");
    for (field, value) in [
        ("team", ""),
        ("team", "a b"),
        ("team", "a/b"),
        ("teams", "acme a}{b"),
        ("teams", "acme,broke"),
    ] {
        server.command(&["DEL", &key]);
        server.command(&["HSET", &key, field, value]);
        let outcome = ledger.key_fact(SHA).await;
        assert!(
            matches!(outcome, Err(LedgerError::Corrupt(_))),
            "{field} {value}: {outcome:?}"
        );
    }
    server.command(&["SET", &key, "acme"]);
    let outcome = ledger.key_fact(SHA).await;
    assert!(
        matches!(outcome, Err(LedgerError::Corrupt(_))),
        "{outcome:?}"
    );
    assert_eq!(ledger.health(), Health::Up);
}
