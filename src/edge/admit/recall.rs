//! Starts of teams that were refused a moment ago, and are refused again
//! without asking the ledger ([`crate::ledger::refused`]).

use std::time::Instant;

use super::super::context::Context;
use super::super::live::Live;
use super::super::problem::Problem;
use super::{Decided, hold};
use crate::billing::admission::Refusal;
use crate::billing::team::TeamId;
use crate::telemetry::{Metrics, Outcome};

/// The refusal of a team that is remembered to have no credits, if nothing but
/// its balance could change that.
pub fn refusal(
    live: &Live,
    team: &TeamId,
    wanted: Option<&hold::Wanted<'_>>,
    now: Instant,
) -> Option<Refusal> {
    let refused = live.refused.as_ref()?;
    // A replay may have a hold already, which admits it whatever is left.
    if wanted.is_some_and(|wanted| wanted.replay.is_some()) {
        return None;
    }
    refused.recall(team, now)
}

/// Refuses a start from memory.
pub fn refuse(refusal: Refusal, context: &mut Context, metrics: &Metrics) -> Decided {
    metrics.memory.remembered.inc();
    context.reason = Some(refusal.reason());
    if let Some(known) = context.start.as_mut() {
        known.remembered = true;
    }
    (Outcome::Refused, Some(Problem::refused(refusal)))
}

/// What the ledger decided is to be remembered, if it is a refusal that hangs
/// on the balance alone.
pub fn note(live: &Live, team: &TeamId, decided: &Decided, context: &Context) {
    let Some(refused) = &live.refused else { return };
    let lasts = [Refusal::InsufficientCredits, Refusal::NoBalance];
    let reason = context.reason;
    let by_balance = lasts.iter().any(|refusal| reason == Some(refusal.reason()));
    if decided.0 == Outcome::Refused && by_balance {
        refused.offer(team);
    }
}
