//! Refusal events: each run that was refused for lack of credits, told on the
//! Redis stream `tollgate:refusals`.
//!
//! A run that did not start is a FAILED run, and somebody may want to show it.
//! How events get to Redis, and what is promised of that, is in
//! [`crate::events`].

use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use crate::billing::team::{Principal, TeamId};
use crate::billing::trigger::Trigger;
use crate::events::{self, Event, Fields, Fixed, shortened};
pub use crate::events::{Dropped, StreamSettings, Writer};

/// The stream.
pub const STREAM: &str = "tollgate:refusals";

/// What every refused run is.
static FAILED: LazyLock<Fixed> = LazyLock::new(|| {
    Fixed::new(&[
        ("state", "FAILED"),
        ("error", "insufficient_credits"),
        ("retryable", "false"),
    ])
});

/// Takes refusal events off the request path.
pub type Sink = events::Sink<RefusalEvent>;

/// A run that did not start because its team has no credits.
#[derive(Clone, Debug)]
pub struct RefusalEvent {
    /// When it was refused.
    pub at: SystemTime,
    /// Who would have paid.
    pub team: TeamId,
    /// Who asked, if known.
    pub principal: Option<Principal>,
    /// What would have set the run off.
    pub trigger: Trigger,
    /// The route, as the configuration writes it.
    pub route: Arc<str>,
    /// The request path, as the problem's `instance` shows it. A very long one
    /// is cut.
    pub instance: String,
    /// The request's id.
    pub request_id: String,
}

impl RefusalEvent {
    /// The same, borrowed.
    #[must_use]
    pub fn told(&self) -> Told<'_> {
        Told {
            at: self.at,
            team: &self.team,
            principal: self.principal.as_ref(),
            trigger: self.trigger,
            route: &self.route,
            instance: &self.instance,
            request_id: &self.request_id,
        }
    }
}

impl Event for RefusalEvent {
    const STREAM: &'static str = STREAM;

    fn tell(&self, fields: &mut Fields<'_>) {
        self.told().tell(fields);
    }
}

/// A [`RefusalEvent`] of which nothing is owned: for the request path.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// When it was refused.
    pub at: SystemTime,
    /// Who would have paid.
    pub team: &'a TeamId,
    /// Who asked, if known.
    pub principal: Option<&'a Principal>,
    /// What would have set the run off.
    pub trigger: Trigger,
    /// The route, as the configuration writes it.
    pub route: &'a str,
    /// The request path, as the problem's `instance` shows it.
    pub instance: &'a str,
    /// The request's id.
    pub request_id: &'a str,
}

impl Told<'_> {
    fn tell(&self, fields: &mut Fields<'_>) {
        fields.add_time("at", self.at);
        fields.add_fixed(&FAILED);
        fields.add("team", self.team.as_str());
        fields.add("principal", self.principal.map_or("", Principal::as_str));
        fields.add("trigger", self.trigger.name());
        fields.add("route", self.route);
        fields.add("instance", shortened(self.instance));
        fields.add("request_id", shortened(self.request_id));
    }
}

impl Sink {
    /// As [`Sink::offer`], of an event that is borrowed.
    pub fn tell(&self, told: Told<'_>) {
        self.offer_told(|fields| told.tell(fields));
    }
}
