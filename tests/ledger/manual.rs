//! The Redis users that the manual names may do what is needed, as their lines
//! stand there, and no more.

use std::time::Duration;

use tollgate::billing::admission::Rule;
use tollgate::billing::hold::HoldId;
use tollgate::ledger::holds::{Ask, Holds, Outcome, Terms};
use tollgate::ledger::redis::{RedisLedger, RedisSettings};
use tollgate::ledger::{Health, Ledger, LedgerError, Mark, Proof, TeamFact};

use crate::redis_server::RedisServer;
use crate::{PATIENCE, connected, credits, settings, team};

const RUNBOOK: &str = include_str!("../../docs/runbook.md");

/// The keys under which the manual lets a `team_key` find things.
const TEAM_KEYS: [&str; 4] = ["slack:T1", "linear:o-1", "webhook:u1", "run:a/b"];

/// The users as the manual makes them: for lookup mode, and for hold mode.
fn users() -> [Vec<&'static str>; 2] {
    let lines = RUNBOOK
        .lines()
        .filter_map(|line| line.strip_prefix("    ACL SETUSER tollgate on >PASSWORD "));
    let lines: Vec<Vec<&str>> = lines.map(|line| line.split(' ').collect()).collect();
    lines.try_into().expect("two users in the manual")
}

/// A server with this user, a canary, and something of every kind to read.
fn server(user: &[&str]) -> (RedisServer, RedisSettings) {
    let server = RedisServer::start();
    let named = ["ACL", "SETUSER", "tollgate", "on", ">s3cret"];
    server.command(&[&named, user].concat());
    server.command(&["SET", "credits:canary", "1"]);
    server.command(&["SET", "credits:{acme}", "20"]);
    let key = format!("apikey:{}", "ab".repeat(32));
    server.command(&["HSET", &key, "team", "acme"]);
    for (index, key) in TEAM_KEYS.iter().enumerate() {
        match index % 2 {
            0 => server.command(&["SET", key, "acme"]),
            _ => server.command(&["HSET", key, "team", "acme"]),
        };
    }
    let url = format!("redis://tollgate:s3cret@127.0.0.1:{}", server.port);
    let mut settings = settings(url);
    settings.keys.canary = Some("credits:canary".to_owned());
    (server, settings)
}

/// Whatever gateways do in either mode.
async fn serves(ledger: &RedisLedger) {
    let acme = team("acme");
    assert_eq!(ledger.balance(&acme).await, Ok(Some(credits("20"))));
    let key = ledger.key_fact(&"ab".repeat(32)).await;
    assert_eq!(key.unwrap().unwrap().team, Some(acme.clone()));
    for (index, key) in TEAM_KEYS.iter().enumerate() {
        let proof = match index % 2 {
            0 => Proof::Nothing,
            _ => Proof::NotSaid,
        };
        let team = acme.clone();
        let fact = ledger.team_fact_by(key, ledger.until()).await;
        assert_eq!(fact, Ok(Some(TeamFact { team, proof })), "{key}");
    }
    for expected in [Mark::First, Mark::Again] {
        let mark = ledger.mark_by("delivery:ab", PATIENCE, ledger.until());
        assert_eq!(mark.await, Ok(expected));
    }
    for key in ["credits:{acme}", "other:x"] {
        let fact = ledger.team_fact_by(key, ledger.until()).await;
        // One may be read, and says nothing of a team; the other may not.
        assert!(!matches!(fact, Ok(None) | Err(LedgerError::Outage(_))));
    }
    assert_eq!(ledger.health(), Health::Up);
}

/// It can write nothing that the manual does not let it.
fn cannot_write(settings: &RedisSettings, keys: &[&str]) {
    let tollgate::ledger::redis::Servers::One(url) = &settings.servers else {
        panic!("one server is meant");
    };
    let mut connection = redis::Client::open(url.as_str())
        .and_then(|client| client.get_connection())
        .expect("a connection");
    for key in keys {
        let set: redis::RedisResult<()> =
            redis::cmd("SET").arg(key).arg("1").query(&mut connection);
        let error = set.expect_err("not its business");
        assert_eq!(error.code(), Some("NOPERM"), "{key}");
    }
}

#[tokio::test]
async fn the_user_for_lookup_mode_may_do_what_is_needed() {
    let [lookup, _] = users();
    let (_server, settings) = server(&lookup);
    serves(&connected(&settings).await).await;
    let others = ["credits:{acme}", "run:a/b", "slack:T1", "tollgate:refusals"];
    cannot_write(&settings, &others);
}

#[tokio::test]
async fn the_user_for_hold_mode_may_do_what_is_needed() {
    let [_, hold] = users();
    let (_server, mut settings) = server(&hold);
    settings.holds = Some(Terms::default());
    let ledger = connected(&settings).await;
    serves(&ledger).await;
    let ask = Ask {
        team: team("acme"),
        id: HoldId::from_bits(1),
        credits: credits("5"),
        hold_for: Duration::from_secs(60),
        rule: Rule::default(),
        replay: None,
    };
    let answer = ledger.hold_by(&ask, ledger.until()).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Held);
    cannot_write(&settings, &["credits:{acme}", "run:a/b", "slack:T1"]);
}
