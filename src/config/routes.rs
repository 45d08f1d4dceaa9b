//! The list `routes`: the requests that start runs, and those that tell of
//! runs that began earlier.
//!
//! An entry is exactly one of `start`, `ends` and `watch`; which keys go with
//! which is for [`super::check`] to see.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::admission::{Hold, Idempotency, OnOutage};
use super::pattern::{Segment, StartPattern};
use super::values::{HeaderField, JsonPointer, Size, Span, Statuses};
use super::webhooks::{RefuseWith, TeamFrom, TriggerFrom, Webhook};
use crate::billing::trigger;

/// Where the state of a run stands in an answer that shows it.
const STATE: &str = "/state";

/// The states in which a run is over.
const END_STATES: [&str; 4] = ["SUCCEEDED", "FAILED", "CANCELLED", "ERROR"];

/// One of `start`, `ends` and `watch`, and what goes with it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["start"]}, {"required": ["ends"]}, {"required": ["watch"]}]))]
pub struct Route {
    /// A request that starts a run, by method and path:
    /// `POST /api/v1/runs/{id}/followups`. `{name}` stands for one segment,
    /// `{*rest}` at the end for all that follow.
    pub start: Option<StartPattern>,
    /// Hold mode: a request whose success ends the run `{run}`:
    /// `POST /api/v1/agent/runs/{run}/cancel`. It always passes; its hold is
    /// released. No effect in lookup mode.
    pub ends: Option<StartPattern>,
    /// Hold mode: a request whose answer shows the state of the run `{run}`:
    /// `GET /api/v1/agent/runs/{run}`. It always passes; an end state releases
    /// the hold, any other extends it. No effect in lookup mode.
    pub watch: Option<StartPattern>,
    /// With `start`: what sets the run off, as events and metrics tell it.
    /// Left out: `api`, and with `webhook` who delivers.
    pub trigger: Option<Trigger>,
    /// With `start`: as `admission.hold`, for this route.
    pub hold: Option<Hold>,
    /// With `start`: as `admission.hold_for`, for this route.
    pub hold_for: Option<Span>,
    /// With `start`: as `admission.release_on`, for this route.
    pub release_on: Option<Vec<Statuses>>,
    /// With `start`: as `admission.run_id`, for this route.
    pub run_id: Option<JsonPointer>,
    /// With `start`, hold mode: the header of the upstream's answer that says
    /// what the run cost in all, which settles its hold. Left out: none does.
    pub settle_from: Option<HeaderField>,
    /// With `start`: as `admission.idempotency`, for this route. With `webhook`
    /// a delivery that comes again shares the first one's hold whatever this
    /// says: it is known by its event or delivery id.
    pub idempotency: Option<Idempotency>,
    /// With `watch`: where in the answer the run's state stands.
    #[schemars(extend("default" = STATE))]
    pub state: Option<JsonPointer>,
    /// With `watch`: the states in which a run is over, in whatever case. `[]`:
    /// none, runs that are polled are only kept alive.
    #[schemars(extend("default" = END_STATES))]
    pub end_states: Option<Vec<String>>,
    /// Parameters of the path that are secrets: they are never shown, logged or
    /// written to events. Left out: those named `token` or `secret`. The one of
    /// `team_from.token` always is.
    pub secret_in_path: Option<Vec<String>>,
    /// With `start`: as `admission.on_outage`, for this route.
    pub on_outage: Option<OnOutage>,
    /// With `start`: as `admission.enforce`, for this route.
    pub enforce: Option<bool>,
    /// With `start`: the deliveries of an integration, signed by it: they say
    /// who pays, and `identity` is not asked.
    pub webhook: Option<Webhook>,
    /// With `webhook`: what a refused delivery is answered with.
    pub refuse_with: Option<RefuseWith>,
    /// With `start`: the path says who pays.
    pub team_from: Option<TeamFrom>,
    /// With `start`: as `admission.trigger_from`, for this route.
    pub trigger_from: Option<TriggerFrom>,
    /// With `start`: the largest body; a larger one is answered 413. Left out:
    /// no bound, and with `webhook` 1MiB.
    pub max_body: Option<Size>,
    /// With `start`: as `upstream.read_timeout`, for this route.
    pub read_timeout: Option<Span>,
}

/// What an entry of `routes` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// It starts a run.
    Start,
    /// Its success ends a run.
    Ends,
    /// Its answer shows a run's state.
    Watch,
}

impl RouteKind {
    /// The key that says so.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            RouteKind::Start => "start",
            RouteKind::Ends => "ends",
            RouteKind::Watch => "watch",
        }
    }
}

impl Route {
    /// What it is, with its pattern, in the order of [`RouteKind`]; one in a
    /// configuration that was checked.
    pub fn kinds(&self) -> impl Iterator<Item = (RouteKind, &StartPattern)> {
        let kinds = [
            (RouteKind::Start, &self.start),
            (RouteKind::Ends, &self.ends),
            (RouteKind::Watch, &self.watch),
        ];
        kinds
            .into_iter()
            .filter_map(|(kind, pattern)| Some((kind, pattern.as_ref()?)))
    }

    /// What sets the run off.
    #[must_use]
    pub fn trigger(&self) -> Trigger {
        let delivered = self.webhook.as_ref().map(Webhook::trigger);
        self.trigger.or(delivered).unwrap_or_default()
    }

    /// Where in a watched answer the run's state stands (RFC 6901).
    #[must_use]
    pub fn state(&self) -> &str {
        self.state.as_ref().map_or(STATE, JsonPointer::as_str)
    }

    /// The states in which a watched run is over.
    #[must_use]
    pub fn end_states(&self) -> Vec<String> {
        match &self.end_states {
            Some(states) => states.clone(),
            None => END_STATES.map(str::to_owned).to_vec(),
        }
    }

    /// The parameters of the path that are secrets: those that are said to be
    /// or are called so, and whatever has to match for a team to be found.
    #[must_use]
    pub fn secrets(&self) -> Vec<&str> {
        let token = self.team_from.as_ref().and_then(|from| from.token.as_ref());
        let is_secret = |name: &&str| match &self.secret_in_path {
            Some(names) => names.iter().any(|secret| secret == name),
            None => matches!(*name, "token" | "secret"),
        };
        self.kinds()
            .flat_map(|(_, pattern)| pattern.segments())
            .filter_map(Segment::name)
            .filter(|name| is_secret(name) || token.is_some_and(|token| token == name))
            .collect()
    }
}

/// What set a run off.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A call of the API.
    #[default]
    Api,
    /// A schedule.
    Schedule,
    /// Slack.
    Slack,
    /// Linear.
    Linear,
    /// Another webhook.
    Webhook,
}

impl From<Trigger> for trigger::Trigger {
    fn from(trigger: Trigger) -> Self {
        match trigger {
            Trigger::Api => Self::Api,
            Trigger::Schedule => Self::Schedule,
            Trigger::Slack => Self::Slack,
            Trigger::Linear => Self::Linear,
            Trigger::Webhook => Self::Webhook,
        }
    }
}
