//! What a ledger promises, tried against every kind of ledger; and what
//! becomes of the promises when Redis is away.
//!
//! `contract` is one suite that memory and Redis in all its forms pass.
//! `lookups` is what many of them at once share, and what not.
//! `values` is what may stand in Redis, `facts` what may say whose something
//! is. `faults` breaks a real server and
//! stands a false one in its place; `cluster` and `sentinel` do the same to real
//! ones of those, `failover` with holds. `holds` is the contract of holds,
//! `redis_holds` what those in Redis go through besides. `manual` tries the
//! Redis users that the manual names. `refusals` and
//! `events` are the streams of events. `remembered` is the memory of refusals.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs,
    reason = "a panic is how a claim fails"
)]

#[path = "support/redis_cluster.rs"]
mod redis_cluster;
#[path = "support/redis.rs"]
mod redis_server;
#[path = "support/sentinel.rs"]
mod sentinel_service;

#[path = "ledger/cluster.rs"]
mod cluster;
#[path = "ledger/contract.rs"]
mod contract;
#[path = "ledger/events.rs"]
mod events;
#[path = "ledger/facts.rs"]
mod facts;
#[path = "ledger/failover.rs"]
mod failover;
#[path = "ledger/false_redis.rs"]
mod false_redis;
#[path = "ledger/faults.rs"]
mod faults;
#[path = "ledger/holds.rs"]
mod holds;
#[path = "ledger/lookups.rs"]
mod lookups;
#[path = "ledger/manual.rs"]
mod manual;
#[path = "ledger/redis_holds.rs"]
mod redis_holds;
#[path = "ledger/refusals.rs"]
mod refusals;
#[path = "ledger/remembered.rs"]
mod remembered;
#[path = "ledger/sentinel.rs"]
mod sentinel;
#[path = "ledger/values.rs"]
mod values;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tollgate::billing::credits::Credits;
use tollgate::billing::team::TeamId;
use tollgate::ledger::Health;
use tollgate::ledger::redis::{Keys, RedisLedger, RedisSettings, Servers};

/// How long anything may take that has no bound of its own.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Settings with a deadline that a healthy Redis never misses, however busy
/// the machine is.
pub fn settings(url: String) -> RedisSettings {
    RedisSettings {
        servers: Servers::One(url),
        deadline: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
        breaker_failures: 3,
        probe_interval: Duration::from_millis(50),
        tls: None,
        holds: None,
        keys: Keys {
            balance: "credits:{<team>}".to_owned(),
            field: None,
            api_key: "apikey:<sha256>".to_owned(),
            canary: None,
        },
    }
}

/// A ledger that is connected and kept so.
pub async fn connected(settings: &RedisSettings) -> RedisLedger {
    let ledger = RedisLedger::new(settings).expect("settings");
    tokio::spawn(ledger.run());
    assert_eq!(ledger.settled(PATIENCE).await, Health::Up);
    ledger
}

/// A team that no other test uses.
pub fn fresh_team() -> TeamId {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    team(&format!("team-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

pub fn team(id: &str) -> TeamId {
    TeamId::parse(id.as_bytes()).expect("a team id")
}

pub fn credits(text: &str) -> Credits {
    text.parse().expect("credits")
}

/// Tries until it holds.
pub async fn eventually<F: Future<Output = bool>>(
    what: &str,
    within: Duration,
    holds: impl Fn() -> F,
) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
