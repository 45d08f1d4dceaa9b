//! What a Redis ledger is told: plain values, already checked by the
//! configuration as far as they can be without looking at files.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::keys::Keys;
use crate::ledger::holds::Terms;

/// Where Redis is, and how long it may take.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Which servers there are.
    pub servers: Servers,
    /// The longest a call waits for Redis.
    pub deadline: Duration,
    /// The longest one attempt to connect takes. No call waits for it.
    pub connect_timeout: Duration,
    /// How many faults in a row open the breaker.
    pub breaker_failures: u32,
    /// How often Redis is tried while it is away, and asked while it is idle.
    pub probe_interval: Duration,
    /// Certificate files, for TLS.
    pub tls: Option<TlsFiles>,
    /// Where in Redis things are.
    pub keys: Keys,
    /// How holds are kept. `None`: they are not (lookup mode).
    pub holds: Option<Terms>,
}

/// Which servers of Redis there are. Every text is a URL: `redis://`,
/// `rediss://` or, for a single server, `redis+unix://`, with user, password
/// and database number where needed.
#[derive(Clone)]
pub enum Servers {
    /// One server.
    One(String),
    /// Some nodes of a cluster, which name the others. User, password and TLS
    /// are the same for all: those of the first.
    Cluster(Vec<String>),
    /// The master of a service, as sentinels name it.
    Sentinel(SentinelSettings),
}

/// Sentinels, and how to introduce oneself to the master that they name.
#[derive(Clone)]
pub struct SentinelSettings {
    /// The sentinels.
    pub nodes: Vec<String>,
    /// The name that they know the master by.
    pub service: String,
    /// The user at the master.
    pub user: Option<String>,
    /// The password at the master.
    pub password: Option<String>,
    /// The database number at the master.
    pub db: i64,
    /// How the master is spoken to.
    pub transport: Transport,
}

/// Whether servers are spoken to over TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// In the clear.
    #[default]
    Plain,
    /// Over TLS, with certificate and name verified.
    Tls,
}

impl fmt::Debug for Servers {
    /// Without the URLs, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Servers::One(_) => "One(<redacted>)",
            Servers::Cluster(_) => "Cluster(<redacted>)",
            Servers::Sentinel(_) => "Sentinel(<redacted>)",
        })
    }
}

/// Certificate files in PEM form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities to trust. `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The client certificate to show, with its chain.
    pub cert: Option<PathBuf>,
    /// The client certificate's key.
    pub key: Option<PathBuf>,
}

/// Why settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The URL is not one of Redis, or asks for something that is not done.
    #[error("the redis url cannot be used: {0}")]
    Url(String),
    /// These servers cannot be used together, or not for this.
    #[error("the redis servers cannot be used: {0}")]
    Servers(String),
    /// A certificate file cannot be used.
    #[error("the redis certificate files cannot be used: {0}")]
    Tls(String),
}
