//! The claims of holds, tried on a real Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tollgate::billing::team::TeamId;
use tollgate::ledger::holds::{Holds, Terms};
use tollgate::ledger::redis::RedisLedger;

use super::histories::{all_terms, from_environment, nth_terms, one_history, try_histories};
use super::{Fixture, Kind, keeps_holds};
use crate::redis_server::RedisServer;
use crate::{PATIENCE, connected, settings};

/// A ledger in a server that others share.
struct InRedis {
    server: Arc<RedisServer>,
    ledger: Arc<RedisLedger>,
    field: Option<&'static str>,
}

#[async_trait]
impl Fixture for InRedis {
    fn ledger(&self) -> Arc<dyn Holds> {
        Arc::<RedisLedger>::clone(&self.ledger)
    }

    async fn spoil(&self, team: &TeamId) -> bool {
        let key = format!("credits:{{{team}}}");
        match self.field {
            None => self.server.command(&["SET", &key, "a lot"]),
            Some(field) => self.server.command(&["HSET", &key, field, "a lot"]),
        };
        true
    }

    async fn pass(&self, time: Duration) {
        let mut connection = self.server.admin().expect("redis answers");
        let mut clock = || {
            let (seconds, micros): (u64, u64) =
                redis::cmd("TIME").query(&mut connection).expect("the time");
            Duration::from_secs(seconds) + Duration::from_micros(micros)
        };
        // The millisecond that has begun counts as well.
        let until = clock() + time + Duration::from_millis(1);
        let begun = Instant::now();
        while clock() < until {
            assert!(
                begun.elapsed() < PATIENCE + time,
                "the clock of Redis stands still"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Ledgers in one server.
struct Redis {
    server: Arc<RedisServer>,
    field: Option<&'static str>,
}

impl Redis {
    fn start(field: Option<&'static str>) -> Self {
        Redis {
            server: Arc::new(RedisServer::start()),
            field,
        }
    }
}

#[async_trait]
impl Kind for Redis {
    async fn open(&self, terms: Terms) -> Box<dyn Fixture> {
        let mut settings = settings(self.server.url());
        settings.holds = Some(terms);
        settings.keys.field = self.field.map(str::to_owned);
        Box::new(InRedis {
            server: Arc::clone(&self.server),
            ledger: Arc::new(connected(&settings).await),
            field: self.field,
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_holds() {
    keeps_holds(&Redis::start(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_holds_beside_balances_in_hash_fields() {
    keeps_holds(&Redis::start(Some("spendable"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_in_redis_match_the_model() {
    let redis = Redis::start(None);
    let mut fixtures = Vec::new();
    for terms in all_terms(Terms::default().remember) {
        fixtures.push((terms, redis.open(terms).await));
    }
    let runtime = tokio::runtime::Handle::current();
    let wanted = from_environment("TOLLGATE_SOAK_REDIS_STEPS", 2_000);
    let run = move || {
        try_histories("in redis", wanted, |seed, steps| {
            let (terms, fixture) = &fixtures[nth_terms(seed)];
            runtime.block_on(one_history(&**fixture, None, *terms, steps))
        });
    };
    tokio::task::spawn_blocking(run)
        .await
        .expect("every history matches");
}
