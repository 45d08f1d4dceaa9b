//! From the block `balances` to the store that it describes.

use std::sync::Arc;

use super::{BuildError, LedgerPart, terms, watching};
use crate::config::{self, Config};
use crate::ledger::memory::MemoryLedger;
use crate::ledger::redis::{
    Keys, RedisLedger, RedisSettings, SentinelSettings, Servers, TlsFiles, Transport,
};

/// Builds the ledger.
///
/// # Errors
/// [`BuildError::Ledger`].
pub fn ledger(config: &Config) -> Result<LedgerPart, BuildError> {
    if let Some(settings) = redis_settings(config) {
        let ledger = RedisLedger::new(&settings)?;
        let ledger = watching::remembering(config, &settings.keys, ledger);
        return Ok(LedgerPart::Redis(Arc::new(ledger)));
    }
    let balances = config.balances.memory.iter().flatten();
    let balances = balances.map(|(team, credits)| (team.team().clone(), credits.credits()));
    let ledger = MemoryLedger::new(balances.collect());
    let ledger = ledger.with_terms(terms(config).unwrap_or_default());
    Ok(LedgerPart::Memory(Arc::new(ledger)))
}

/// The settings of the Redis ledger, if that is what is configured.
#[must_use]
pub fn redis_settings(config: &Config) -> Option<RedisSettings> {
    let redis = config.balances.redis.as_ref()?;
    let balances = &config.balances;
    let api_key = config.identity.iter().find_map(|identity| match identity {
        config::Identity::ApiKey(key) => Some(key.key.as_str().to_owned()),
        config::Identity::Header(_) | config::Identity::Jwt(_) | config::Identity::Mtls(_) => None,
    });
    let tls = TlsFiles {
        ca: redis.ca.clone(),
        cert: redis.cert.clone(),
        key: redis.key.clone(),
    };
    Some(RedisSettings {
        servers: servers(redis),
        deadline: redis.deadline.duration(),
        connect_timeout: redis.connect_timeout.duration(),
        breaker_failures: redis.breaker_failures.get(),
        probe_interval: redis.probe_interval.duration(),
        tls: (tls != TlsFiles::default()).then_some(tls),
        holds: terms(config),
        keys: Keys {
            balance: balances.key.as_str().to_owned(),
            field: balances
                .field
                .as_ref()
                .map(|field| field.as_str().to_owned()),
            api_key: api_key.unwrap_or_else(|| {
                config::values::ApiKeyTemplate::default()
                    .as_str()
                    .to_owned()
            }),
            canary: balances.canary.clone(),
        },
    })
}

/// Which servers of Redis there are.
fn servers(redis: &config::Redis) -> Servers {
    let exposed = |secret: &config::values::Secret| secret.expose().to_owned();
    if let Some(nodes) = &redis.cluster {
        return Servers::Cluster(nodes.iter().map(exposed).collect());
    }
    if let Some(sentinel) = &redis.sentinel {
        return Servers::Sentinel(SentinelSettings {
            nodes: sentinel.nodes.iter().map(exposed).collect(),
            service: sentinel.service.clone(),
            user: sentinel.user.clone(),
            password: sentinel.password.as_ref().map(exposed),
            db: sentinel.db.into(),
            transport: match sentinel.tls {
                true => Transport::Tls,
                false => Transport::Plain,
            },
        });
    }
    // Without any, which the configuration's checks rule out, the ledger says
    // that it cannot be used.
    Servers::One(redis.url.as_ref().map(exposed).unwrap_or_default())
}
