//! The block `admission`: how a start is decided.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Cidr, HeaderField, HoldAmount, JsonPointer, Span, Statuses};
use super::webhooks::TriggerFrom;
use crate::billing::admission;

/// How a start is decided.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Admission {
    /// What a start does to the balance.
    pub mode: Mode,
    /// false: shadow. Decide, count (`would_refuse`), forward all the same.
    pub enforce: bool,
    /// A start whose balance cannot be found out; every route can override it.
    pub on_outage: OnOutage,
    /// Hold mode: the credits that a start sets aside, for routes that name
    /// none. A number, or a header in which a listed peer says how many. No
    /// effect in lookup mode.
    pub hold: Option<Hold>,
    /// Hold mode: after how long a hold stops counting if nothing is heard of
    /// its run; for routes that name none. No effect in lookup mode.
    pub hold_for: Option<Span>,
    /// Hold mode: statuses of the upstream's answer to a start that say that
    /// no run began, so that its hold is released. A 5xx may have begun one.
    pub release_on: Vec<Statuses>,
    /// Hold mode: where in the upstream's answer to a start the run's id
    /// stands. Without it a hold knows its run only by `x-tollgate-hold`.
    pub run_id: Option<JsonPointer>,
    /// Hold mode: whether the upstream deduplicates by `Idempotency-Key`. No
    /// effect in lookup mode.
    pub idempotency: Idempotency,
    /// What set a run off, where a header says so: the scheduler's, say. For
    /// routes that name none.
    pub trigger_from: Option<TriggerFrom>,
    /// How long deliveries that may come again are remembered and, in hold
    /// mode, the ends of holds, and the ids of charges and replays; from 1h to 2160h (90 days).
    pub remember: Span,
    /// For how long a team that was refused is refused again without asking
    /// Redis, from 50ms to 1s; left out: never. It ends at once when the
    /// balance changes, and while the gateway cannot be sure to hear of that,
    /// nothing is remembered (docs/refusals.md). No effect with `balances.memory`.
    pub remember_refusals: Option<Span>,
}

impl Default for Admission {
    fn default() -> Self {
        Admission {
            mode: Mode::default(),
            enforce: true,
            on_outage: OnOutage::default(),
            hold: None,
            hold_for: None,
            release_on: vec![Statuses::CLIENT_ERRORS],
            run_id: None,
            idempotency: Idempotency::default(),
            trigger_from: None,
            remember: Span::from_secs(24 * 60 * 60),
            remember_refusals: None,
        }
    }
}

/// How a start is decided.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Read the balance on each request.
    #[default]
    Lookup,
    /// Set credits aside atomically, so that concurrent starts cannot
    /// overspend.
    Hold,
}

/// A start whose balance cannot be found out.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnOutage {
    /// 503, can be tried again.
    #[default]
    Refuse,
    /// Let through.
    Admit,
}

/// How many credits a start sets aside.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(untagged)]
pub enum Hold {
    /// Always this many.
    Credits(HoldAmount),
    /// What a listed peer says in a header.
    Header(HoldHeader),
}

/// How many credits a start sets aside, as a listed peer says.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct HoldHeader {
    /// The header with the credits to set aside.
    pub header: HeaderField,
    /// The TCP peers (CIDR) it is believed from. From any other it counts as
    /// absent and is not forwarded on start routes.
    pub from: Vec<Cidr>,
    /// The credits to set aside where the header is absent.
    pub default: HoldAmount,
}

/// Whether the upstream deduplicates by `Idempotency-Key`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Idempotency {
    /// It does not: every start has a hold of its own.
    #[default]
    Off,
    /// It does: a replay shares the hold of the first start.
    Upstream,
}

impl From<OnOutage> for admission::OnOutage {
    fn from(on_outage: OnOutage) -> Self {
        match on_outage {
            OnOutage::Refuse => Self::Refuse,
            OnOutage::Admit => Self::Admit,
        }
    }
}
