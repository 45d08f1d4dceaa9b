//! What a request needs of the configuration, as one piece.
//!
//! A request takes it once, when it begins; a reload puts another in its place
//! for the requests after it.

use std::sync::Arc;
use std::time::Duration;

use super::forward;
use super::identify::Identities;
use super::problem::style::Style;
use super::route::Table;
use super::secret::SecretPaths;
use super::upstreams::Upstreams;
use crate::billing::admission::Rule;
use crate::billing::trigger::Trigger;
use crate::ledger::Ledger;
use crate::refusals;
use crate::telemetry::RouteMetrics;

/// What a reload replaces as a whole.
pub struct Live {
    /// The start routes, to be matched.
    pub table: Table,
    /// The same, by index.
    pub starts: Vec<StartRoute>,
    /// Paths as they may be shown.
    pub secrets: SecretPaths,
    /// Who pays.
    pub identities: Identities,
    /// The store of balances.
    pub ledger: Arc<dyn Ledger>,
    /// Where refusal events go.
    pub refusals: refusals::Sink,
    /// What answers look like.
    pub style: Style,
    /// Where requests go.
    pub upstreams: Arc<Upstreams>,
    /// What they are sent with.
    pub forward: forward::Settings,
    /// Bounds on requests.
    pub limits: Limits,
}

/// Bounds on requests.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests in flight at once.
    pub requests: usize,
    /// The largest head, in bytes.
    pub header_size: usize,
    /// The longest wait for more of a request body.
    pub body_timeout: Duration,
    /// The longest wait for a client to take more of an answer.
    pub write_timeout: Duration,
}

/// A start route, ready for use.
pub struct StartRoute {
    /// Its name: method and path as configured.
    pub name: Arc<str>,
    /// What sets the run off.
    pub trigger: Trigger,
    /// The rule that decides.
    pub rule: Rule,
    /// What the decision does.
    pub enforcement: Enforcement,
    /// The largest body, in bytes.
    pub max_body: Option<u64>,
    /// The upstream's read timeout, where it differs.
    pub read_timeout: Option<Duration>,
    /// Its counters.
    pub metrics: RouteMetrics,
}

/// What a decision does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// It holds.
    Enforced,
    /// It is counted, and the request forwarded all the same.
    Shadow,
}
