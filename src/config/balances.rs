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
}

/// The Redis that holds the balances.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `redis://`, `rediss://` or `redis+unix://`, with user, password and
    /// database number where needed.
    pub url: Secret,
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
    /// PEM file with the CAs to trust (`rediss://`). Left out: the system's.
    #[schemars(extend("format" = "path"))]
    pub ca: Option<PathBuf>,
    /// PEM file with a client certificate chain to show.
    #[schemars(extend("format" = "path"))]
    pub cert: Option<PathBuf>,
    /// PEM file with the client certificate's key.
    #[schemars(extend("format" = "path"))]
    pub key: Option<PathBuf>,
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
    /// tollgate, in hold mode.
    Tollgate,
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
