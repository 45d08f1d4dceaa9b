//! Refusal events: each run that was refused for lack of credits, told on the
//! Redis stream `tollgate:refusals`.
//!
//! A run that did not start is a FAILED run, and somebody may want to show it.
//! How events get to Redis, and what is promised of that, is in
//! [`crate::events`].

use std::sync::Arc;
use std::time::SystemTime;

use crate::billing::team::{Principal, TeamId};
use crate::billing::trigger::Trigger;
use crate::events::{self, Event, Fields, shorten};
pub use crate::events::{Dropped, StreamSettings, Writer};

/// The stream.
pub const STREAM: &str = "tollgate:refusals";

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

impl Event for RefusalEvent {
    fn stream(&self) -> &'static str {
        STREAM
    }

    fn bound(&mut self) {
        shorten(&mut self.instance);
        shorten(&mut self.request_id);
    }

    fn tell(&self, fields: &mut Fields) {
        let at = humantime::format_rfc3339_millis(self.at).to_string();
        let principal = self.principal.as_ref().map_or("", Principal::as_str);
        fields.add("at", &at);
        fields.add("state", "FAILED");
        fields.add("error", "insufficient_credits");
        fields.add("retryable", "false");
        fields.add("team", self.team.as_str());
        fields.add("principal", principal);
        fields.add("trigger", self.trigger.name());
        fields.add("route", &self.route);
        fields.add("instance", &self.instance);
        fields.add("request_id", &self.request_id);
    }
}
