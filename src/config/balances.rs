//! The block `balances`: where balances are kept and what they mean.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{CreditAmount, KeyTemplate, Secret, Span, TeamName};
use crate::billing::admission;

/// Where balances are kept and what they mean.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Balances {
    /// Balances in Redis.
    pub redis: Option<Redis>,
    /// Balances in this process, by team: for demos and single-process trials.
    #[schemars(extend("propertyNames" = {"format": "team-id"}))]
    pub memory: Option<BTreeMap<TeamName, CreditAmount>>,
    /// The Redis key of a team's balance. `<team>` is replaced; `{…}` stays, as
    /// a cluster hash tag.
    #[serde(default)]
    pub key: KeyTemplate,
    /// The key is a hash: read this field. `<team>` is replaced here too.
    pub field: Option<KeyTemplate>,
    /// A balance at or below this line is refused.
    #[serde(default)]
    pub refuse_at_or_below: CreditAmount,
    /// What a team without a balance means.
    #[serde(default)]
    pub missing: Missing,
    /// A Redis key that must exist. While it does not, the ledger counts as
    /// lost (503), not as empty. Write it last when balances are restored.
    pub canary: Option<String>,
    /// Who debits the balance. `tollgate` needs hold mode.
    #[serde(default)]
    pub writer: Writer,
    /// With `writer: tollgate`: the stream of each team's debits and grants,
    /// `tollgate:statement:{<team>}`. Left out: it has its defaults.
    pub statement: Option<Statement>,
}

/// The Redis that holds the balances: exactly one of `url`, `cluster` and
/// `sentinel` says where it is.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// One server: `redis://`, `rediss://` or `redis+unix://`, with user,
    /// password and database number where needed.
    pub url: Option<Secret>,
    /// A Redis Cluster: some of its nodes, as `redis://` or `rediss://`. They
    /// name the others, which are spoken to with the same user, password and
    /// TLS. In hold mode `balances.key` must have `{<team>}` in it.
    #[schemars(extend("minItems" = 1))]
    pub cluster: Option<Vec<Secret>>,
    /// The master that sentinels name.
    pub sentinel: Option<Sentinel>,
    /// The longest a request waits for a reply.
    #[serde(default = "defaults::deadline")]
    pub deadline: Span,
    /// How long one attempt to connect may take. No request waits for it.
    #[serde(default = "defaults::redis_connect_timeout")]
    pub connect_timeout: Span,
    /// Timeouts or lost connections in a row until requests stop asking and
    /// are answered at once, as in an outage.
    #[serde(default = "defaults::breaker_failures")]
    pub breaker_failures: std::num::NonZeroU32,
    /// How often Redis is tried while requests do not ask it.
    #[serde(default = "defaults::probe_interval")]
    pub probe_interval: Span,
    /// PEM file with the CAs to trust (`rediss://`, `sentinel.tls`). Left out:
    /// the system's.
    #[schemars(extend("format" = "path"))]
    pub ca: Option<PathBuf>,
    /// PEM file with a client certificate chain to show.
    #[schemars(extend("format" = "path"))]
    pub cert: Option<PathBuf>,
    /// PEM file with the client certificate's key.
    #[schemars(extend("format" = "path"))]
    pub key: Option<PathBuf>,
}

/// Sentinels, and how to introduce oneself to the master that they name.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Sentinel {
    /// The sentinels, as `redis://` or `rediss://`, each with its own user and
    /// password where needed. One that is away is done without.
    #[schemars(extend("minItems" = 1))]
    pub nodes: Vec<Secret>,
    /// The name that they know the master by.
    pub service: String,
    /// The user at the master. Left out: the default one.
    pub user: Option<String>,
    /// The password at the master.
    pub password: Option<Secret>,
    /// The database number at the master.
    #[serde(default)]
    pub db: u32,
    /// Whether the master is spoken to over TLS.
    #[serde(default)]
    pub tls: bool,
}

/// What a team without a balance means.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// It has bought nothing yet: 403, reason `no_balance`.
    #[default]
    Refuse,
    /// It is not metered.
    Admit,
    /// Something is wrong: as in an outage.
    Unknown,
}

/// Who debits the balance.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Writer {
    /// The billing system; tollgate only reads.
    #[default]
    Billing,
    /// tollgate, in hold mode: settling and charging debit the balance in the
    /// same step.
    Tollgate,
}

/// A team's debits and grants, written in the same step.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Statement {
    /// The most lines of a team's statement.
    pub length: std::num::NonZeroUsize,
    /// What happens to a statement of that length.
    pub when_full: WhenFull,
}

impl Default for Statement {
    fn default() -> Self {
        Statement {
            length: super::values::at_least_one(100_000),
            when_full: WhenFull::default(),
        }
    }
}

/// What happens to a statement that has grown to its length.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The oldest lines go.
    #[default]
    Trim,
    /// Nothing more is settled, charged or granted for the team until somebody
    /// has trimmed it.
    Refuse,
}

impl From<Missing> for admission::Missing {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Refuse => Self::Refuse,
            Missing::Admit => Self::Admit,
            Missing::Unknown => Self::Unknown,
        }
    }
}

/// Values of keys that are left out.
mod defaults {
    use super::Span;

    pub fn deadline() -> Span {
        Span::from_millis(50)
    }
    pub fn redis_connect_timeout() -> Span {
        Span::from_secs(1)
    }
    pub fn breaker_failures() -> std::num::NonZeroU32 {
        std::num::NonZeroU32::MIN.saturating_add(2)
    }
    pub fn probe_interval() -> Span {
        Span::from_millis(200)
    }
}
