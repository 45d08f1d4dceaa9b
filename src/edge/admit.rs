//! The steps of an admission, put together: route, payer, balance, verdict.
//!
//! Each step is decided elsewhere; here their outcomes become one: what is
//! counted, and the problem to answer with, if any. In shadow mode there is
//! none, whatever was decided.

use std::sync::Arc;
use std::time::Instant;

use http::header::CONTENT_LENGTH;
use pingora_http::RequestHeader;

use super::context::Context;
use super::framing;
use super::identify::NoPayer;
use super::live::{Enforcement, Live, StartRoute};
use super::problem::Problem;
use super::route::{Found, METHOD_OVERRIDE_HEADERS, Table};
use crate::billing::admission::{Balance, Missing, OnOutage, Verdict, decide as verdict};
use crate::ledger::LedgerError;
use crate::refusals::RefusalEvent;
use crate::telemetry::{Metrics, Outcome};

/// Which route a request is.
#[must_use]
pub fn find_route(table: &Table, head: &RequestHeader) -> Found {
    let overrides = head.headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        // All of them begin so, in whatever spelling; most headers do not.
        (name.starts_with("x-") || name.starts_with("x_"))
            && METHOD_OVERRIDE_HEADERS
                .iter()
                .any(|known| framing::is_spelling_of(name, known))
    });
    let overrides = overrides.map(|(_, value)| value.as_bytes());
    table.find(head.method.as_str(), overrides, head.raw_path())
}

/// The answer to a body that says it is larger than its route allows.
#[must_use]
pub fn body_bound(start: &StartRoute, head: &RequestHeader) -> Option<Problem> {
    let max_body = start.max_body?;
    let length = head
        .headers
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse::<u64>();
    // A length that no integer holds is larger than any bound.
    let fits = length.is_ok_and(|length| length <= max_body);
    (!fits).then(|| Problem::body_too_large(max_body))
}

/// Decides a start: what became of it, and the problem to answer with, or none
/// if it is to be forwarded.
pub async fn decide(
    live: &Live,
    start: &StartRoute,
    head: &RequestHeader,
    context: &mut Context,
    metrics: &Metrics,
) -> (Outcome, Option<Problem>) {
    let (outcome, problem) = enforce(live, start, head, context, metrics).await;
    if let Some(problem) = &problem {
        context.reason.get_or_insert(problem.code().name());
    }
    match (start.enforcement, outcome, problem) {
        (Enforcement::Enforced, outcome, problem) => (outcome, problem),
        (Enforcement::Shadow, Outcome::Refused | Outcome::Invalid, _) => {
            metrics.count_would_refuse(context.reason.unwrap_or_default(), start.trigger);
            (Outcome::WouldRefuse, None)
        }
        (Enforcement::Shadow, Outcome::UnknownRefused, _) => (Outcome::UnknownAdmitted, None),
        (Enforcement::Shadow, outcome, _) => (outcome, None),
    }
}

async fn enforce(
    live: &Live,
    start: &StartRoute,
    head: &RequestHeader,
    context: &mut Context,
    metrics: &Metrics,
) -> (Outcome, Option<Problem>) {
    if let Err(detail) = framing::check_names(&head.headers, live.identities.guarded()) {
        return (Outcome::Invalid, Some(Problem::invalid(detail)));
    }
    let asked = Instant::now();
    // One deadline for both questions: who pays, and what they have.
    let until = live.ledger.until();
    let payer = live
        .identities
        .payer(&head.headers, context.peer, &*live.ledger, until)
        .await;
    let payer = match payer {
        Ok(payer) => payer,
        Err(NoPayer::Unknown(error)) => {
            let outcome = unknown(start, context, &error);
            if let Some(known) = context.start.as_mut() {
                known.ledger = Some(asked.elapsed());
            }
            if outcome.0 == Outcome::UnknownAdmitted {
                metrics.identity_unknown_admitted.inc();
            }
            return outcome;
        }
        Err(why) => {
            if let (NoPayer::NotTheirs(team), Some(known)) = (&why, context.start.as_mut()) {
                known.claimed = Some(team.clone());
            }
            return (Outcome::Invalid, Problem::no_payer(&why));
        }
    };
    let asked_balance = Instant::now();
    let read = live.ledger.balance_by(&payer.team, until).await;
    let answered = Instant::now();
    let took = answered.duration_since(asked_balance);
    metrics.ledger_seconds.observe(took.as_secs_f64());
    if let Some(known) = context.start.as_mut() {
        known.payer = Some(payer);
        known.ledger = Some(answered.duration_since(asked));
    }
    let balance = match &read {
        Ok(Some(credits)) => Balance::Known(*credits),
        Ok(None) => Balance::Missing,
        Err(error) => {
            context.fault = Some(error.to_string());
            Balance::Unknown
        }
    };
    if balance == Balance::Missing && start.rule.missing == Missing::Unknown {
        context.fault = Some("the team has no balance (balances.missing: unknown)".to_owned());
    }
    match verdict(balance, &start.rule) {
        Verdict::Admit => (Outcome::Admitted, None),
        Verdict::Refuse(refusal) => {
            context.reason = Some(refusal.reason());
            (Outcome::Refused, Some(Problem::refused(refusal)))
        }
        Verdict::AdmitUnknown => (Outcome::UnknownAdmitted, None),
        Verdict::RefuseUnknown => (Outcome::UnknownRefused, Some(Problem::unavailable())),
    }
}

/// Nobody can say who pays: an outage like any other.
fn unknown(
    start: &StartRoute,
    context: &mut Context,
    error: &LedgerError,
) -> (Outcome, Option<Problem>) {
    context.fault = Some(error.to_string());
    match start.rule.on_outage {
        OnOutage::Admit => (Outcome::UnknownAdmitted, None),
        OnOutage::Refuse => (Outcome::UnknownRefused, Some(Problem::unavailable())),
    }
}

/// Offers the event of a refused start: the run that did not begin is a FAILED
/// run.
pub fn offer_event(live: &Live, start: &StartRoute, head: &RequestHeader, context: &Context) {
    let start_known = context.start.as_ref();
    let Some(payer) = start_known.and_then(|known| known.payer.as_ref()) else {
        return;
    };
    live.refusals.offer(RefusalEvent {
        at: context.began_at,
        team: payer.team.clone(),
        principal: payer.principal.clone(),
        trigger: start.trigger,
        route: Arc::clone(&start.name),
        instance: live.secrets.shown(head.raw_path()).into_owned(),
        request_id: context.ids.request_id.clone(),
    });
}
