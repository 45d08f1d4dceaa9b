//! What a Redis ledger is told: plain values, already checked by the
//! configuration as far as they can be without looking at files.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::keys::Keys;

/// Where Redis is, and how long it may take.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://`, `rediss://` or `redis+unix://`, with user, password and
    /// database number where needed.
    pub url: String,
    /// The longest a call waits for Redis.
    pub deadline: Duration,
    /// The longest one attempt to connect takes. No call waits for it.
    pub connect_timeout: Duration,
    /// How many faults in a row open the breaker.
    pub breaker_failures: u32,
    /// How often Redis is tried while it is away, and asked while it is idle.
    pub probe_interval: Duration,
    /// Certificate files, for `rediss://`.
    pub tls: Option<TlsFiles>,
    /// Where in Redis things are.
    pub keys: Keys,
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

impl fmt::Debug for RedisSettings {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("url", &"<redacted>")
            .field("deadline", &self.deadline)
            .field("connect_timeout", &self.connect_timeout)
            .field("breaker_failures", &self.breaker_failures)
            .field("probe_interval", &self.probe_interval)
            .field("tls", &self.tls)
            .field("keys", &self.keys)
            .finish()
    }
}

/// Why settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The URL is not one of Redis, or asks for something that is not done.
    #[error("the redis url cannot be used: {0}")]
    Url(String),
    /// A certificate file cannot be used.
    #[error("the redis certificate files cannot be used: {0}")]
    Tls(String),
}
