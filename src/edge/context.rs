//! What the gateway knows about one request, from its head to its log line.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::admit::webhook::Delivered;
use super::body::Held;
use super::identify::Payer;
use super::identify::certificate::Certificate;
use super::live::{Live, StartRoute};
use super::route::RouteIndex;
use super::seen::Seen;
use super::trace::Ids;
use super::upstreams::Passage;
use super::watch::Looking;
use crate::billing::credits::Credits;
use crate::billing::hold::{HoldId, RunId};
use crate::billing::team::TeamId;
use crate::billing::trigger::Trigger;
use crate::keeper::Task;
use crate::ledger::Mark;
use crate::telemetry::Outcome;

/// A place among the requests in flight, given back when it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    /// Takes a place.
    #[must_use]
    pub fn enter(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request.
pub struct Context {
    /// The configuration that the request began with; a reload does not change
    /// it under way.
    pub live: Arc<Live>,
    /// When the head was read.
    pub began: Instant,
    /// The same, on the wall clock.
    pub began_at: SystemTime,
    /// The TCP peer.
    pub peer: Option<IpAddr>,
    /// What the client of the connection showed, where an identity asks.
    pub certificate: Option<Arc<Certificate>>,
    /// Request and trace id.
    pub ids: Ids,
    /// What a look over its headers showed.
    pub seen: Seen,
    /// The start, if it is one.
    pub start: Option<Start>,
    /// Until when the hold that was made for the start certainly lives, where
    /// that decides.
    pub hold_until: Option<Instant>,
    /// How the request fared with the upstream.
    pub attempt: Attempt,
    /// What its answer may tell of a run.
    pub looking: Option<Looking>,
    /// What the run cost, told once all else that the answer tells is.
    pub cost: Option<Task>,
    /// The run that the request is about, for the log.
    pub run: AboutRun,
    /// Why the gateway answered by itself.
    pub reason: Option<&'static str>,
    /// What went wrong, for the operator.
    pub fault: Option<String>,
    /// Body bytes received so far, where the route bounds them.
    pub body_bytes: u64,
    /// The whole body, where it was read before the decision.
    pub body: Option<Box<Held>>,
    /// The place among the requests in flight.
    pub in_flight: InFlight,
}

impl Context {
    /// The start route that the request is, if it is one.
    #[must_use]
    pub fn route(&self) -> Option<&StartRoute> {
        let start = self.start.as_ref()?;
        self.live.starts.get(start.route)
    }
}

/// The run that a request is about, as far as it showed.
#[derive(Debug, Default)]
pub struct AboutRun {
    /// The kind of its route, if it is no start.
    pub route: Option<&'static str>,
    /// The run.
    pub run: Option<RunId>,
    /// Its state in the answer.
    pub state: Option<String>,
}

/// What is known about a start.
#[derive(Debug)]
pub struct Start {
    /// Which route it is.
    pub route: RouteIndex,
    /// What set the run off: the route's trigger, or what a listed peer said.
    pub trigger: Trigger,
    /// The delivery that it is, where its route is an integration's and its
    /// signature holds.
    pub delivery: Option<Box<Delivered>>,
    /// Who pays, once that is established.
    pub payer: Option<Payer>,
    /// The team that was asked for and is not theirs: for the log alone.
    pub claimed: Option<TeamId>,
    /// What became of it.
    pub outcome: Option<Outcome>,
    /// Whether it was refused from memory, without asking the ledger.
    pub remembered: bool,
    /// How long the ledger took.
    pub ledger: Option<Duration>,
    /// The credits set aside for it, in hold mode.
    pub hold: Option<HeldFor>,
}

/// The hold that a start goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFor {
    /// The hold: its own, or the one that it shares.
    pub hold: HoldId,
    /// The id in its own [`crate::ledger::holds::Ask`].
    pub ask: HoldId,
    /// What it asked for.
    pub credits: Credits,
    /// How it came by the hold, and what became of it since.
    pub state: HoldState,
}

/// What the gateway knows of the hold of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldState {
    /// It was made for this start.
    Held,
    /// It was made for an earlier start that this one repeats.
    Replayed,
    /// It was asked for and no reply came: it may be there.
    Unknown,
    /// No run began, and the keeper was told so.
    NotStarted,
}

impl HoldState {
    /// Its name in the access log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            HoldState::Held => "held",
            HoldState::Replayed => "replayed",
            HoldState::Unknown => "unknown",
            HoldState::NotStarted => "not_started",
        }
    }
}

impl Start {
    /// The team, as the log tells it.
    #[must_use]
    pub fn team(&self) -> Option<&TeamId> {
        let paying = self.payer.as_ref().map(|payer| &payer.team);
        paying.or(self.claimed.as_ref())
    }

    /// Whether it is a delivery that came before, with the same verdict.
    #[must_use]
    pub fn is_redelivery(&self) -> bool {
        let delivery = self.delivery.as_ref();
        delivery.is_some_and(|delivery| delivery.mark == Mark::Again)
    }

    /// A start on a route, nothing else known yet.
    #[must_use]
    pub fn new(route: RouteIndex, trigger: Trigger) -> Self {
        Start {
            route,
            trigger,
            delivery: None,
            payer: None,
            claimed: None,
            outcome: None,
            remembered: false,
            ledger: None,
            hold: None,
        }
    }
}

/// How far a request got with the upstream.
#[derive(Debug, Default)]
pub struct Attempt {
    /// Addresses that could not be reached.
    pub failed: Vec<SocketAddr>,
    /// The address being tried.
    pub address: Option<SocketAddr>,
    /// The way there, where it is ours.
    pub passage: Option<Arc<Passage>>,
    /// When something was first sent: from then on the outcome is unknown
    /// until an answer comes.
    pub sent: Option<Instant>,
    /// From then to the head of the answer.
    pub answered: Option<Duration>,
    /// The status of the upstream's own answer, once that is final.
    pub status: Option<u16>,
}
