//! What Redis may hold of whose something is, and the marks of what happened:
//! read exactly or not at all, and one broken entry is nobody else's trouble.

use std::time::Duration;

use redis::Value;
use tollgate::ledger::redis::{RedisLedger, RedisSettings};
use tollgate::ledger::{Health, Ledger, LedgerError, Mark, Proof, TeamFact};

use crate::redis_server::RedisServer;
use crate::{PATIENCE, connected, credits, fresh_team, settings, team};

/// The SHA-256 of `test`.
const SHA: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

async fn fact(ledger: &RedisLedger, key: &str) -> Result<Option<TeamFact>, LedgerError> {
    ledger.team_fact_by(key, ledger.until()).await
}

fn belongs_to(id: &str, proof: Proof) -> Result<Option<TeamFact>, LedgerError> {
    let team = team(id);
    Ok(Some(TeamFact { team, proof }))
}

#[track_caller]
fn assert_corrupt<T: std::fmt::Debug>(outcome: &Result<T, LedgerError>) {
    assert!(
        matches!(outcome, Err(LedgerError::Corrupt(_))),
        "{outcome:?}"
    );
}

/// With a canary and without: then the replies come in another form.
fn both_ways(server: &RedisServer) -> [RedisSettings; 2] {
    server.command(&["SET", "canary", "1"]);
    let plain = settings(server.url());
    let mut careful = plain.clone();
    careful.keys.canary = Some("canary".to_owned());
    [plain, careful]
}

#[tokio::test]
async fn a_string_is_a_team_and_a_hash_may_ask_for_a_token() {
    let server = RedisServer::start();
    server.command(&["SET", "run:a/b", "acme"]);
    server.command(&["HSET", "run:plain", "team", "acme", "note", "x"]);
    server.command(&["HSET", "run:proof", "team", "acme", "token_sha256", SHA]);
    let upper = SHA.to_ascii_uppercase();
    server.command(&["HSET", "run:upper", "team", "acme", "token_sha256", &upper]);
    for settings in both_ways(&server) {
        let ledger = connected(&settings).await;
        let token = || Proof::TokenSha256(SHA.to_owned());
        for (key, proof) in [
            ("run:a/b", Proof::Nothing),
            ("run:plain", Proof::NotSaid),
            ("run:proof", token()),
            ("run:upper", token()),
        ] {
            assert_eq!(fact(&ledger, key).await, belongs_to("acme", proof), "{key}");
        }
        assert_eq!(fact(&ledger, "run:none").await, Ok(None));
    }
}

#[tokio::test]
async fn what_is_no_team_is_corrupt_and_never_unknown() {
    let server = RedisServer::start();
    let long = "x".repeat(129);
    let longer = "x".repeat(1024 * 1024);
    let digest = &SHA[1..];
    let not_hex = SHA.replace('9', "g");
    let entries: &[&[&str]] = &[
        &["SET", "KEY", ""],
        &["SET", "KEY", "a b"],
        &["SET", "KEY", "acme\n"],
        &["SET", "KEY", "a}{b"],
        &["SET", "KEY", &long],
        &["SET", "KEY", &longer],
        &["HSET", "KEY", "note", "no team"],
        &["HSET", "KEY", "token_sha256", SHA],
        &["HSET", "KEY", "team", ""],
        &["HSET", "KEY", "team", "a b"],
        &["HSET", "KEY", "team", "acme", "token_sha256", ""],
        &["HSET", "KEY", "team", "acme", "token_sha256", "test"],
        &["HSET", "KEY", "team", "acme", "token_sha256", digest],
        &["HSET", "KEY", "team", "acme", "token_sha256", &not_hex],
        &["RPUSH", "KEY", "acme"],
        &["SADD", "KEY", "acme"],
        &["ZADD", "KEY", "1", "acme"],
        &["XADD", "KEY", "*", "team", "acme"],
    ];
    for settings in both_ways(&server) {
        let ledger = connected(&settings).await;
        let good = fresh_team();
        ledger.set_balance(&good, credits("1")).await.unwrap();
        for entry in entries {
            server.command(&["DEL", "run:bad"]);
            let words: Vec<&str> = entry
                .iter()
                .map(|word| if *word == "KEY" { "run:bad" } else { *word })
                .collect();
            server.command(&words);
            for _ in 0..5 {
                let outcome = fact(&ledger, "run:bad").await;
                assert_corrupt(&outcome);
                let said = format!("{outcome:?}");
                assert!(!said.contains(SHA) && said.len() < 300, "{said}");
            }
        }
        assert!(!ledger.is_breaker_open());
        assert_eq!(ledger.balance(&good).await, Ok(Some(credits("1"))));
    }
}

#[tokio::test]
async fn a_key_that_may_not_be_read_concerns_nothing_else() {
    let server = RedisServer::start_with(&[
        "--user",
        "gate",
        "on",
        ">pass",
        "~run:good",
        "~credits:*",
        "~canary",
        "+@all",
    ]);
    server.command(&["SET", "run:good", "acme"]);
    server.command(&["SET", "run:bad", "acme"]);
    for mut settings in both_ways(&server) {
        let url = format!("redis://gate:pass@127.0.0.1:{}", server.port);
        settings.servers = tollgate::ledger::redis::Servers::One(url);
        let ledger = connected(&settings).await;
        for _ in 0..20 {
            assert_corrupt(&fact(&ledger, "run:bad").await);
        }
        let good = fact(&ledger, "run:good").await;
        assert_eq!(good, belongs_to("acme", Proof::Nothing));
    }
}

#[tokio::test]
async fn a_canary_that_is_gone_is_an_outage_and_no_unknown_run() {
    let server = RedisServer::start();
    let [_, careful] = both_ways(&server);
    let ledger = connected(&careful).await;
    server.command(&["SET", "run:r1", "acme"]);
    server.command(&["DEL", "canary"]);
    for key in ["run:r1", "run:none"] {
        let outcome = fact(&ledger, key).await;
        assert!(
            matches!(&outcome, Err(LedgerError::Outage(_))),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_mark_is_a_key_that_expires() {
    let server = RedisServer::start();
    let ledger = connected(&settings(server.url())).await;
    let lasting = Duration::from_secs(600);
    for expected in [Mark::First, Mark::Again] {
        let mark = ledger
            .mark_by("delivery:ab12", lasting, ledger.until())
            .await;
        assert_eq!(mark, Ok(expected));
    }
    let left = server.command(&["PTTL", "tollgate:mark:delivery:ab12"]);
    assert!(
        matches!(left, Value::Int(ms) if (590_000..=600_000).contains(&ms)),
        "{left:?}"
    );
    // Whatever stands there is a mark.
    server.command(&["RPUSH", "tollgate:mark:notice:list", "x"]);
    let mark = ledger.mark_by("notice:list", lasting, ledger.until()).await;
    assert_eq!(mark, Ok(Mark::Again));
}

#[tokio::test]
async fn two_gateways_leave_one_mark() {
    let server = RedisServer::start();
    let one = connected(&settings(server.url())).await;
    let other = connected(&settings(server.url())).await;
    let lasting = Duration::from_secs(600);
    assert_eq!(
        one.mark_by("m", lasting, one.until()).await,
        Ok(Mark::First)
    );
    assert_eq!(
        other.mark_by("m", lasting, other.until()).await,
        Ok(Mark::Again)
    );
}

/// The manual's user of earlier versions leaves no marks. Deliveries are then
/// counted twice, and nobody goes without an answer.
#[tokio::test]
async fn a_user_that_may_leave_no_marks_is_served_all_the_same() {
    let server = RedisServer::start_with(&["--user", "gate", "on", ">pass", "~*", "+ping", "+get"]);
    let team = fresh_team();
    server.command(&["SET", &format!("credits:{{{team}}}"), "1"]);
    let url = format!("redis://gate:pass@127.0.0.1:{}", server.port);
    let ledger = connected(&settings(url)).await;
    for _ in 0..20 {
        let mark = ledger.mark_by("m", PATIENCE, ledger.until()).await;
        assert!(
            matches!(&mark, Err(LedgerError::Outage(why)) if why.contains("NOPERM")),
            "{mark:?}"
        );
        assert_eq!(ledger.balance(&team).await, Ok(Some(credits("1"))));
    }
    assert_eq!(ledger.health(), Health::Up);
}

#[tokio::test]
async fn a_key_with_a_huge_value_is_nobody_elses_trouble() {
    let server = RedisServer::start();
    // More than a connection to Redis may bring without a reply's end.
    let huge = "x".repeat(6 * 1024 * 1024);
    server.command(&["SET", "run:huge", &huge]);
    server.command(&["SET", "run:good", "acme"]);
    for settings in both_ways(&server) {
        let ledger = connected(&settings).await;
        for _ in 0..20 {
            assert_corrupt(&fact(&ledger, "run:huge").await);
            let good = fact(&ledger, "run:good").await;
            assert_eq!(good, belongs_to("acme", Proof::Nothing));
        }
        assert!(!ledger.is_breaker_open());
        assert_eq!(ledger.health(), Health::Up);
    }
}
