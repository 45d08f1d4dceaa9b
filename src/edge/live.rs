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
use super::webhooks::Webhook;
use crate::billing::admission::Rule;
use crate::billing::credits::Credits;
use crate::billing::trigger::Trigger;
use crate::config;
use crate::config::values::Cidr;
use crate::keeper::Keeper;
use crate::ledger::Ledger;
use crate::ledger::holds::{Holds, Writer};
use crate::ledger::refused::Refused;
use crate::notices::Notices;
use crate::refusals;
use crate::telemetry::RouteMetrics;

/// What a reload replaces as a whole.
pub struct Live {
    /// The start routes, to be matched.
    pub table: Table,
    /// The same, by index.
    pub starts: Vec<StartRoute>,
    /// Routes that tell of runs that began earlier.
    pub runs: Vec<RunRoute>,
    /// Paths as they may be shown.
    pub secrets: SecretPaths,
    /// Who pays.
    pub identities: Identities,
    /// The store of balances.
    pub ledger: Arc<dyn Ledger>,
    /// Teams that the store has just refused, where that is remembered.
    pub refused: Option<Arc<Refused>>,
    /// The same store where it sets credits aside, and what looks after holds
    /// that it has made; `None` in lookup mode.
    pub holding: Option<Holding>,
    /// Where refusal events go.
    pub refusals: refusals::Sink,
    /// Tells people of refusals, where the answer cannot.
    pub notices: Notices,
    /// How long a delivery that may come again is remembered.
    pub remember: Duration,
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
    /// Who says who pays.
    pub paid_by: PaidBy,
    /// What set the run off, where a header says so.
    pub trigger_from: Option<TriggerFrom>,
    /// What a start sets aside; `None` in lookup mode.
    pub hold: Option<HoldRule>,
    /// Its counters.
    pub metrics: RouteMetrics,
}

/// Who says who pays for the starts of a route.
#[derive(Clone)]
pub enum PaidBy {
    /// The identities.
    Identity,
    /// The delivery, which an integration signed.
    Webhook(Arc<Webhook>),
    /// The path.
    Path(Arc<PathPayer>),
}

/// The path says who pays.
#[derive(Clone, Debug)]
pub struct PathPayer {
    /// The route, in whose path the parameters stand.
    pub pattern: config::pattern::StartPattern,
    /// The parameter that says whose it is.
    pub path: String,
    /// The key with its team, and perhaps the digest of a token.
    pub team_key: config::values::LookupKey,
    /// The parameter that has to match that digest.
    pub token: Option<String>,
    /// Whether the identities are asked where the ledger does not know.
    pub otherwise: Option<config::Otherwise>,
}

/// What set a run off, as a listed peer says in a header.
#[derive(Clone, Debug)]
pub struct TriggerFrom {
    /// The header.
    pub name: http::HeaderName,
    /// The peers that are believed.
    pub from: Vec<Cidr>,
    /// What its values mean.
    pub map: Vec<(String, Trigger)>,
}

impl TriggerFrom {
    /// The triggers that may be said.
    pub fn triggers(&self) -> impl Iterator<Item = Trigger> {
        self.map.iter().map(|(_, trigger)| *trigger)
    }
}

/// Hold mode: the ledger that sets credits aside, and what looks after holds.
#[derive(Clone)]
pub struct Holding {
    /// The ledger.
    pub ledger: Arc<dyn Holds>,
    /// Ends holds off the request path.
    pub keeper: Keeper,
    /// Who writes balances, and so whether there are statements.
    pub writer: Writer,
}

/// What a start sets aside, and how it is given back.
#[derive(Clone, Debug)]
pub struct HoldRule {
    /// How much.
    pub amount: HoldAmount,
    /// After how long it stops counting if nothing is heard of the run.
    pub hold_for: Duration,
    /// Statuses of the upstream's answer that say that no run began.
    pub release_on: StatusSet,
    /// Where in the answer's body the run's id stands (RFC 6901).
    pub run_id: Option<Arc<str>>,
    /// The header of the answer that says what the run cost.
    pub settle_from: Option<http::HeaderName>,
    /// Whether the upstream deduplicates by `Idempotency-Key`.
    pub idempotency: Idempotency,
}

/// How much a start sets aside.
#[derive(Clone, Debug)]
pub enum HoldAmount {
    /// Always this much.
    Fixed(Credits),
    /// What a trusted peer says in a header.
    Header {
        /// The header.
        name: http::HeaderName,
        /// The peers that are believed. From others it counts as absent and
        /// is not forwarded.
        from: Vec<Cidr>,
        /// Where the header is absent.
        default: Credits,
    },
}

/// Whether the upstream deduplicates by `Idempotency-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// It does not: each start has its own hold.
    Off,
    /// It does: a replay shares the hold of the first start.
    Upstream,
}

/// A set of HTTP statuses, as inclusive ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(pub Vec<(u16, u16)>);

impl StatusSet {
    /// Whether the status is in the set.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&status))
    }
}

/// A route that tells of a run that began earlier. It matches as received
/// only, and never keeps a request from passing.
#[derive(Clone, Debug)]
pub enum RunRoute {
    /// A success ends the run: its cancel.
    Ends(config::pattern::StartPattern),
    /// The answer shows the run's state.
    Watch {
        /// Method and path; its parameter `run` is the run's id.
        pattern: config::pattern::StartPattern,
        /// Where in the body the state stands (RFC 6901).
        state: Arc<str>,
        /// States in which a run is over; compared without regard to case.
        end_states: Arc<[String]>,
    },
}

/// What a decision does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// It holds.
    Enforced,
    /// It is counted, and the request forwarded all the same.
    Shadow,
}
