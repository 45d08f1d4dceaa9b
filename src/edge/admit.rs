//! The steps of an admission, put together: route, payer, balance, verdict.
//!
//! Each step is decided elsewhere; here their outcomes become one: what is
//! counted, and the problem to answer with, if any. In shadow mode there is
//! none, whatever was decided. What hold mode does in place of looking the
//! balance up is in [`hold`]; teams that were refused a moment ago in
//! `recall`; how an integration's deliveries are told apart,
//! in [`webhook`].

pub mod hold;
mod recall;
pub mod webhook;

use std::iter;
use std::time::Instant;

use http::header::CONTENT_LENGTH;
use pingora_error::Error;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::body::Room;
use super::context::Context;
use super::identify::{Caller, NoPayer, Payer, path};
use super::live::{Enforcement, Idempotency, Live, PaidBy, StartRoute};
use super::problem::Problem;
use super::replay::IfMissing;
use super::route::{Found, METHOD_OVERRIDE_HEADERS, Table};
use super::seen::Seen;
use super::{framing, replay};
use crate::billing::admission::{Balance, Missing, Verdict, decide as verdict};
use crate::billing::team::TeamId;
use crate::config::Otherwise;
use crate::ledger::LedgerError;
use crate::refusals::Told;
use crate::telemetry::{Metrics, Outcome};
use hold::OnceSettled;

/// What became of a start, and the problem to answer with, if any.
pub type Decided = (Outcome, Option<Problem>);

/// Which route a request is.
#[must_use]
pub fn find_route(table: &Table, head: &RequestHeader) -> Found {
    table.find(head.method.as_str(), overrides(head), head.raw_path())
}

/// The same, of a head that was looked over already.
#[must_use]
pub fn find_seen(table: &Table, head: &RequestHeader, seen: Seen) -> Found {
    if seen.overrides {
        return find_route(table, head);
    }
    table.find(head.method.as_str(), iter::empty(), head.raw_path())
}

/// The values of headers with which a request overrides its method.
pub fn overrides(head: &RequestHeader) -> impl Iterator<Item = &[u8]> {
    let overrides = head.headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        // All of them begin so, in whatever spelling; most headers do not.
        (name.starts_with("x-") || name.starts_with("x_"))
            && METHOD_OVERRIDE_HEADERS
                .iter()
                .any(|known| framing::is_spelling_of(name, known))
    });
    overrides.map(|(_, value)| value.as_bytes())
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

/// What all requests share.
#[derive(Clone, Copy)]
pub struct Common<'a> {
    /// The metrics of the process.
    pub metrics: &'a Metrics,
    /// Room for the bodies of deliveries, which anybody may send.
    pub room: &'a Room,
    /// Room for the bodies of starts that may be replays. Who sends those is
    /// known, and nobody else takes room from them.
    pub replay_room: &'a Room,
}

/// Decides a start: what became of it, and the problem to answer with, or none
/// if it is to be forwarded. The body of a delivery is there already
/// ([`webhook::receive`]).
///
/// # Errors
/// If its body has to be read for that, and does not come.
pub async fn decide(
    live: &Live,
    start: &StartRoute,
    session: &mut Session,
    context: &mut Context,
    common: Common<'_>,
) -> Result<Decided, Box<Error>> {
    let webhook = webhook::of(start);
    let (outcome, problem) = match webhook {
        None => enforce(live, start, session, context, common).await?,
        // On the heap, and so are the other futures of deliveries: those of
        // other starts are no larger for them.
        Some(webhook) => {
            let head = session.req_header();
            Box::pin(webhook::decide(live, start, webhook, head, context, common)).await
        }
    };
    if let Some(problem) = &problem {
        context.reason.get_or_insert(problem.code().name());
    }
    let decided = match (start.enforcement, outcome, problem) {
        (Enforcement::Enforced, outcome, problem) => (outcome, problem),
        (Enforcement::Shadow, Outcome::Refused | Outcome::Invalid, _) => {
            (Outcome::WouldRefuse, None)
        }
        (Enforcement::Shadow, Outcome::UnknownRefused, _) => (Outcome::UnknownAdmitted, None),
        (Enforcement::Shadow, outcome, _) => (outcome, None),
    };
    if let Some(webhook) = webhook {
        Box::pin(webhook::mark(live, start, webhook, context, decided.0)).await;
    }
    Ok(decided)
}

async fn enforce(
    live: &Live,
    start: &StartRoute,
    session: &mut Session,
    context: &mut Context,
    common: Common<'_>,
) -> Result<Decided, Box<Error>> {
    let mut wanted = match understand(live, start, session.req_header(), context) {
        Ok(wanted) => wanted,
        Err(problem) => return Ok((Outcome::Invalid, Some(problem))),
    };
    // One deadline for both questions: who pays, and what they have.
    let mut until = live.ledger.until();
    let head = session.req_header();
    let payer = match identify(live, start, head, &mut until, context, common.metrics).await {
        Ok(payer) => payer,
        Err(decided) => return Ok(decided),
    };
    if let Some(replay) = wanted.as_mut().and_then(|wanted| wanted.replay.as_mut()) {
        // Not before it is known who pays: for nobody, nothing is kept.
        let if_missing = match start.enforcement {
            Enforcement::Enforced => IfMissing::Fail,
            Enforcement::Shadow => IfMissing::GoOn,
        };
        let patience = live.limits.body_timeout;
        let reading = replay::read_body(session, patience, common.replay_room, if_missing);
        replay.body = match Box::pin(reading).await {
            Ok(body) => body,
            Err(error) => {
                if let Some(known) = context.start.as_mut() {
                    known.payer = Some(payer);
                }
                return Err(error);
            }
        };
        // The ledger is not to blame for the time that took.
        until = live.ledger.until();
    }
    Ok(ask(live, start, payer, wanted, until, context, common.metrics).await)
}

/// Asks the ledger whether the team that pays may start a run.
async fn ask(
    live: &Live,
    start: &StartRoute,
    payer: Payer,
    wanted: Option<hold::Wanted<'_>>,
    until: Instant,
    context: &mut Context,
    metrics: &Metrics,
) -> Decided {
    let asked = Instant::now();
    if let Some(refusal) = recall::refusal(live, &payer.team, wanted.as_ref(), asked) {
        if let Some(known) = context.start.as_mut() {
            known.payer = Some(payer);
        }
        return recall::refuse(refusal, context, metrics);
    }
    let decided = match wanted {
        None => look_up(live, start, &payer.team, until, context).await,
        Some(wanted) => hold::decide(wanted, start, &payer.team, until, context).await,
    };
    recall::note(live, &payer.team, &decided, context);
    let took = asked.elapsed();
    metrics.ledger_seconds.observe(took.as_secs_f64());
    if let Some(known) = context.start.as_mut() {
        known.payer = Some(payer);
        known.ledger = Some(known.ledger.unwrap_or_default().saturating_add(took));
    }
    decided
}

/// What a start wants set aside, if anything, once all of its head that
/// decides is understood.
fn understand<'a>(
    live: &'a Live,
    start: &'a StartRoute,
    head: &RequestHeader,
    context: &Context,
) -> Result<Option<hold::Wanted<'a>>, Problem> {
    let guarded = live.identities.guarded();
    framing::check_names_seen(&head.headers, context.seen, guarded).map_err(Problem::invalid)?;
    let (Some(rule), Some(holding)) = (&start.hold, &live.holding) else {
        return Ok(None);
    };
    let credits = hold::amount(&rule.amount, &head.headers, context.peer)?;
    let (replay, once_settled) = match (&start.paid_by, rule.idempotency) {
        // A delivery has an id of its own, which the upstream may not know.
        (PaidBy::Webhook(_), _) | (_, Idempotency::Off) => (None, OnceSettled::Another),
        (_, Idempotency::Upstream) => {
            let replay = replay::by_head(&start.name, head).map_err(Problem::invalid)?;
            (replay, OnceSettled::Same)
        }
    };
    Ok(Some(hold::Wanted {
        holding,
        credits,
        hold_for: rule.hold_for,
        replay,
        once_settled,
    }))
}

/// Finds out who pays, or what becomes of a start for which nobody does.
async fn identify(
    live: &Live,
    start: &StartRoute,
    head: &RequestHeader,
    until: &mut Instant,
    context: &mut Context,
    metrics: &Metrics,
) -> Result<Payer, Decided> {
    let asked = Instant::now();
    let ledger = &*live.ledger;
    let by_path = match &start.paid_by {
        PaidBy::Path(rule) => {
            let named = Box::pin(path::payer(rule, head.raw_path(), ledger, *until)).await;
            match (named, rule.otherwise) {
                (Ok(None), Some(Otherwise::Identity)) => None,
                (Ok(None), None) => Some(Err(NoPayer::Unauthenticated)),
                (Ok(Some(payer)), _) => Some(Ok(payer)),
                (Err(why), _) => Some(Err(why)),
            }
        }
        // Deliveries do not come by here, and say it themselves.
        PaidBy::Identity | PaidBy::Webhook(_) => None,
    };
    let caller = Caller {
        headers: &head.headers,
        peer: context.peer,
        certificate: context.certificate.as_deref(),
    };
    let payer = match by_path {
        Some(payer) => payer,
        None => live.identities.payer(caller, ledger, until).await,
    };
    if let Some(known) = context.start.as_mut() {
        known.ledger = Some(asked.elapsed());
    }
    match payer {
        Ok(payer) => Ok(payer),
        Err(NoPayer::Unknown(error)) => {
            let decided = unknown(start, context, &error);
            if decided.0 == Outcome::UnknownAdmitted {
                metrics.identity_unknown_admitted.inc();
            }
            Err(decided)
        }
        Err(why @ NoPayer::Unvouched(fault)) => {
            context.fault = Some(fault.to_owned());
            Err((Outcome::UnknownRefused, Problem::no_payer(&why)))
        }
        Err(why) => {
            if let (NoPayer::NotTheirs(team), Some(known)) = (&why, context.start.as_mut()) {
                known.claimed = Some(team.clone());
            }
            Err((Outcome::Invalid, Problem::no_payer(&why)))
        }
    }
}

/// Decides by the balance alone.
async fn look_up(
    live: &Live,
    start: &StartRoute,
    team: &TeamId,
    until: Instant,
    context: &mut Context,
) -> Decided {
    match live.ledger.balance_by(team, until).await {
        Ok(Some(credits)) => by_balance(Balance::Known(credits), start, context),
        Ok(None) => by_balance(Balance::Missing, start, context),
        Err(error) => unknown(start, context, &error),
    }
}

/// Decides by what is known of the balance.
fn by_balance(balance: Balance, start: &StartRoute, context: &mut Context) -> Decided {
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

/// Nobody can say who pays, or what they have.
fn unknown(start: &StartRoute, context: &mut Context, error: &LedgerError) -> Decided {
    context.fault = Some(error.to_string());
    by_balance(Balance::Unknown, start, context)
}

/// Offers the event of a refused start: the run that did not begin is a FAILED
/// run.
pub fn offer_event(live: &Live, start: &StartRoute, head: &RequestHeader, context: &Context) {
    let Some(known) = &context.start else { return };
    let Some(payer) = &known.payer else { return };
    live.refusals.tell(Told {
        at: context.began_at,
        team: &payer.team,
        principal: payer.principal.as_ref(),
        trigger: known.trigger,
        route: &start.name,
        instance: &live.secrets.shown(head.raw_path()),
        request_id: &context.ids.request_id(),
    });
}
