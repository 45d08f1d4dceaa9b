//! What `tollgate explain` says of hold mode: what a start sets aside and how
//! it is given back, and requests that tell of runs that began earlier.

use serde::Serialize;

use crate::config::pattern::StartPattern;
use crate::config::values::{HeaderField, JsonPointer};
use crate::config::{Config, Hold, Idempotency, Mode, Route, RouteKind};
use crate::edge::watch;

/// What a start sets aside.
#[derive(Serialize)]
pub struct HoldExplanation {
    /// How many credits, or where that is said.
    hold: String,
    /// When it is gone if nothing is heard of the run.
    hold_for: String,
    /// Statuses of the upstream's answer that release it.
    release_on: Vec<String>,
    /// Where the answer holds the run's id.
    run_id: Option<String>,
    /// The header of the answer that settles it.
    settle_from: Option<String>,
    /// `off` or `upstream`.
    idempotency: &'static str,
}

impl HoldExplanation {
    /// What a start on this route sets aside; `None` in lookup mode.
    pub fn of(config: &Config, route: &Route) -> Option<Self> {
        let common = &config.admission;
        if common.mode != Mode::Hold {
            return None;
        }
        // A configuration that was checked has both.
        let hold = route.hold.as_ref().or(common.hold.as_ref())?;
        let hold_for = route.hold_for.or(common.hold_for)?;
        let release_on = route.release_on.as_ref().unwrap_or(&common.release_on);
        let run_id = route.run_id.as_ref().or(common.run_id.as_ref());
        Some(HoldExplanation {
            hold: how_much(hold),
            hold_for: hold_for.to_string(),
            release_on: release_on.iter().map(ToString::to_string).collect(),
            run_id: run_id.map(JsonPointer::to_string),
            settle_from: route.settle_from.as_ref().map(HeaderField::to_string),
            idempotency: match route.idempotency.unwrap_or(common.idempotency) {
                Idempotency::Off => "off",
                Idempotency::Upstream => "upstream",
            },
        })
    }

    /// How a start is refused by this rule.
    pub fn refused(&self, line: &str) -> String {
        let hold = &self.hold;
        format!(
            "403 insufficient_credits unless the balance less what live holds set aside is above {line} credits and covers the hold ({hold}); reason credits_held if the balance alone would do"
        )
    }

    /// Labels and what belongs to them.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let released = if self.release_on.is_empty() {
            "on no status of the upstream's answer".to_owned()
        } else {
            let statuses = self.release_on.join(", ");
            format!("if the upstream answers {statuses}, which says that no run began")
        };
        let run_id = match &self.run_id {
            Some(pointer) => format!("at {pointer} in the upstream's answer"),
            None => {
                "not looked for: nothing but x-tollgate-hold says which hold is meant".to_owned()
            }
        };
        let settled = match &self.settle_from {
            Some(header) => {
                format!("with what the header `{header}` of the upstream's answer says")
            }
            None => "by billing alone, no header of the answer says what the run cost".to_owned(),
        };
        let replays = match self.idempotency {
            "upstream" => {
                "share the first start's hold: the upstream deduplicates by Idempotency-Key"
            }
            _ => "have holds of their own (idempotency: off)",
        };
        vec![
            ("hold", format!("{} credits", self.hold)),
            (
                "hold for",
                format!("{} after the last sign of life of its run", self.hold_for),
            ),
            ("released", released),
            ("run id", run_id),
            ("settled", settled),
            ("replays", replays.to_owned()),
        ]
    }
}

fn how_much(hold: &Hold) -> String {
    match hold {
        Hold::Credits(amount) => amount.credits().to_string(),
        Hold::Header(said) => {
            let from: Vec<String> = said.from.iter().map(ToString::to_string).collect();
            format!(
                "as the header `{}` says, from {} only, else {}",
                said.header.name(),
                from.join(", "),
                said.default.credits()
            )
        }
    }
}

/// A request about a run that began earlier.
#[derive(Serialize)]
pub struct RunExplanation {
    #[serde(skip)]
    kind: RouteKind,
    /// The route that it is.
    route: String,
    /// The run that it is about.
    run: String,
    /// Where the path holds the run's id.
    run_id: &'static str,
    /// What is done with the answer.
    effect: String,
    /// Where the answer shows the run's state.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    /// The states in which a run is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    end_states: Option<Vec<String>>,
}

impl RunExplanation {
    /// What a request is that is no start: of several routes the first counts.
    pub fn of(config: &Config, method: &str, target: &str) -> Option<Self> {
        let routes = config.routes.iter();
        let mut tells = routes.filter_map(|route| Some((route, route.kinds().next()?)));
        tells.find_map(|(route, (kind, pattern))| {
            if kind == RouteKind::Start || method != pattern.method() {
                return None;
            }
            let run = watch::run_in(pattern, target.as_bytes())?;
            Some(Self::new(
                config.admission.mode,
                route,
                kind,
                pattern,
                run.as_str(),
            ))
        })
    }

    fn new(mode: Mode, route: &Route, kind: RouteKind, pattern: &StartPattern, run: &str) -> Self {
        let is_watch = kind == RouteKind::Watch;
        let (state, end_states) = (route.state(), route.end_states());
        let effect = match (mode, kind) {
            (Mode::Lookup, _) => "none in lookup mode, where nothing is held".to_owned(),
            (Mode::Hold, RouteKind::Watch) => format!(
                "an answer with one of {} at {state} releases the run's hold, any other state extends it",
                end_states.join(", ")
            ),
            (Mode::Hold, _) => "an answer 2xx releases the run's hold".to_owned(),
        };
        RunExplanation {
            kind,
            route: pattern.to_string(),
            run: run.to_owned(),
            run_id: "{run} in the path",
            effect,
            state: is_watch.then(|| state.to_owned()),
            end_states: is_watch.then_some(end_states),
        }
    }

    /// What is concluded.
    pub fn conclusion(&self) -> &'static str {
        self.kind.key()
    }

    /// Why.
    pub fn why(&self) -> String {
        let what = match self.kind {
            RouteKind::Watch => "whose answer shows the state of a run",
            _ => "whose success ends a run",
        };
        format!(
            "it is the route {}, {what}: it goes to the upstream untouched",
            self.route
        )
    }

    /// Labels and what belongs to them.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        vec![
            ("route", self.route.clone()),
            ("run", format!("{}, which is {}", self.run, self.run_id)),
            ("effect", self.effect.clone()),
        ]
    }
}
