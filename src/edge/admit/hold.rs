//! Hold mode: a start is admitted by setting credits aside for it.
//!
//! The ledger decides and sets aside in one step ([`crate::ledger::holds`]);
//! here its answer becomes an outcome and, if need be, a problem. What was set
//! aside for a start that began no run is given back at the end of the
//! request ([`conclude`]), off the request path. When the outcome is not
//! known, nothing is given back: such a hold ends when its time is up.

use std::net::IpAddr;
use std::slice;
use std::time::{Duration, Instant};

use http::HeaderMap;
use rand::RngExt as _;

use super::super::context::{Attempt, Context, HeldFor, HoldState};
use super::super::forward::is_listed;
use super::super::framing;
use super::super::live::{Enforcement, HoldAmount, Holding, StartRoute, StatusSet};
use super::super::problem::{Problem, SetAside};
use super::{Decided, by_balance, unknown};
use crate::billing::admission::{Balance, Refusal};
use crate::billing::credits::Credits;
use crate::billing::hold::HoldId;
use crate::billing::team::TeamId;
use crate::keeper::Task;
use crate::ledger::LedgerError;
use crate::ledger::holds::{Answer, Ask, Outcome as Answered, Replay};
use crate::telemetry::Outcome;

/// The part of a hold's time, and the most of it, in which its start is not
/// forwarded any more: clocks differ in speed, and the last byte has a way to
/// go.
const MARGIN_PART: u32 = 20;
const MARGIN_MAX: Duration = Duration::from_secs(1);

/// What a start wants set aside.
pub struct Wanted<'a> {
    /// The ledger, and what looks after the hold.
    pub holding: &'a Holding,
    /// How much; more than zero.
    pub credits: Credits,
    /// After how long it stops counting if nothing is heard of the run.
    pub hold_for: Duration,
    /// What the start is recognised by when it is sent again.
    pub replay: Option<Replay>,
    /// What it is to be when the first one's hold is settled.
    pub once_settled: OnceSettled,
}

/// What a start that repeats another is, once the first one's run is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnceSettled {
    /// The same start: the upstream deduplicates, so no second run begins.
    Same,
    /// Another start. Nobody says that the upstream knows it again, and there
    /// is no hold any more that it could share.
    Another,
}

/// How much a start sets aside.
///
/// # Errors
/// The answer to a header that cannot be understood.
pub fn amount(
    amount: &HoldAmount,
    headers: &HeaderMap,
    peer: Option<IpAddr>,
) -> Result<Credits, Problem> {
    let (name, from, default) = match amount {
        HoldAmount::Fixed(credits) => return Ok(*credits),
        HoldAmount::Header {
            name,
            from,
            default,
        } => (name, from, default),
    };
    framing::check_names(headers, slice::from_ref(name)).map_err(Problem::invalid)?;
    let said = headers.get(name).filter(|_| is_listed(from, peer));
    let Some(said) = said else {
        return Ok(*default);
    };
    match Credits::parse(said.as_bytes()) {
        Ok(credits) if credits > Credits::ZERO => Ok(credits),
        Ok(_) | Err(_) => Err(Problem::invalid(format!(
            "{name} does not say how many credits to set aside: write a decimal above zero, such as 20 or 0.5"
        ))),
    }
}

/// Asks the ledger to set credits aside: what became of it, and the problem to
/// answer with, or none if the start may go on.
pub async fn decide(
    wanted: Wanted<'_>,
    start: &StartRoute,
    team: &TeamId,
    until: Instant,
    context: &mut Context,
) -> Decided {
    let holding = wanted.holding;
    let mut ask = Ask {
        team: team.clone(),
        id: HoldId::from_bits(rand::rng().random()),
        credits: wanted.credits,
        hold_for: wanted.hold_for,
        rule: start.rule,
        replay: wanted.replay,
    };
    // It is made after this, so it cannot end before its time is up from here.
    let asked = Instant::now();
    let answer = match answer_to(&mut ask, holding, wanted.once_settled, until).await {
        Ok(answer) => answer,
        Err(error) => {
            // It may be there, and is given back under this id if the start
            // goes no further. In all other cases the ledger made none.
            if matches!(error, LedgerError::OutcomeUnknown(_)) {
                remember(context, &ask, ask.id.clone(), HoldState::Unknown);
            }
            return unknown(start, context, &error);
        }
    };
    holding.keeper.noticed(team, answer.held, answer.expired);
    match answer.outcome {
        Answered::Held => {
            holding.keeper.held(team, &ask.id, ask.credits);
            remember(context, &ask, ask.id.clone(), HoldState::Held);
            context.hold_until = match start.enforcement {
                Enforcement::Enforced => asked.checked_add(forwarded_for(ask.hold_for)),
                Enforcement::Shadow => None,
            };
            (Outcome::Admitted, None)
        }
        Answered::Replayed { hold, .. } => {
            remember(context, &ask, hold, HoldState::Replayed);
            (Outcome::Admitted, None)
        }
        Answered::NoBalance => by_balance(Balance::Missing, start, context),
        Answered::Refused {
            refusal,
            balance,
            next_end,
        } => {
            context.reason = Some(refusal.reason());
            let problem = match refusal {
                Refusal::CreditsHeld => Problem::credits_held(SetAside {
                    held: answer.held,
                    balance,
                    hold: ask.credits,
                    next_end,
                }),
                Refusal::BelowHold => Problem::below_hold(balance, ask.credits),
                Refusal::InsufficientCredits | Refusal::NoBalance => Problem::refused(refusal),
            };
            (Outcome::Refused, Some(problem))
        }
        Answered::Conflict => (Outcome::Invalid, Some(Problem::conflict())),
    }
}

/// Asks the ledger; once more, for a hold of its own, where the first one's is
/// settled and that is not to be shared.
async fn answer_to(
    ask: &mut Ask,
    holding: &Holding,
    once_settled: OnceSettled,
    until: Instant,
) -> Result<Answer, LedgerError> {
    let answer = holding.ledger.hold_by(ask, until).await?;
    let is_settled = matches!(answer.outcome, Answered::Replayed { end: Some(_), .. });
    if !is_settled || once_settled == OnceSettled::Same {
        return Ok(answer);
    }
    holding
        .keeper
        .noticed(&ask.team, answer.held, answer.expired);
    ask.replay = None;
    holding.ledger.hold_by(ask, until).await
}

fn remember(context: &mut Context, ask: &Ask, hold: HoldId, state: HoldState) {
    if let Some(start) = context.start.as_mut() {
        start.hold = Some(HeldFor {
            hold,
            ask: ask.id.clone(),
            credits: ask.credits,
            state,
        });
    }
}

/// For how long a start may be forwarded by a hold: a little less than it
/// lives, so that the last byte arrives in time.
fn forwarded_for(hold_for: Duration) -> Duration {
    let margin = hold_for.checked_div(MARGIN_PART).unwrap_or_default();
    hold_for.saturating_sub(margin.min(MARGIN_MAX))
}

/// Whether the hold that was made for a start may have ended by now: nothing
/// that could complete the start is forwarded then.
#[must_use]
pub fn is_past(context: &Context) -> bool {
    context
        .hold_until
        .is_some_and(|until| until <= Instant::now())
}

/// At the end of a request: gives back what was set aside for a start that
/// certainly began no run.
pub fn conclude(context: &mut Context) {
    let rule = context.route().and_then(|route| route.hold.as_ref());
    if rule.is_none_or(|rule| may_have_begun(&context.attempt, &rule.release_on)) {
        return;
    }
    let (Some(start), Some(holding)) = (&mut context.start, &context.live.holding) else {
        return;
    };
    let (Some(held), Some(payer)) = (&mut start.hold, &start.payer) else {
        return;
    };
    held.state = HoldState::NotStarted;
    holding.keeper.offer(Task::NotStarted {
        team: payer.team.clone(),
        hold: held.hold.clone(),
        ask: held.ask.clone(),
    });
}

/// Whether a start may have begun a run, as far as its request tells.
fn may_have_begun(attempt: &Attempt, release_on: &StatusSet) -> bool {
    match (attempt.sent, attempt.status) {
        // Not a byte of it left.
        (None, _) => false,
        // The upstream's own answer, not one that was made here.
        (Some(_), Some(status)) => !release_on.contains(status),
        // Nobody knows.
        (Some(_), None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn by_header() -> HoldAmount {
        HoldAmount::Header {
            name: HeaderName::from_static("x-run-credits"),
            from: vec!["10.0.0.0/8".parse().unwrap()],
            default: Credits::from_micro(7_000_000),
        }
    }

    fn says(name: &'static str, value: &str, peer: Option<&str>) -> Result<i64, Problem> {
        let name = HeaderName::from_static(name);
        let headers = [(name, HeaderValue::from_str(value).unwrap())];
        let headers = headers.into_iter().collect();
        let peer = peer.map(|peer| peer.parse().unwrap());
        amount(&by_header(), &headers, peer).map(Credits::micro)
    }

    #[test]
    fn a_listed_peer_says_how_much() {
        let listed = Some("10.1.2.3");
        assert_eq!(says("x-run-credits", "0.5", listed), Ok(500_000));
        assert_eq!(says("x-run-credits", "20", listed), Ok(20_000_000));
        assert_eq!(says("x-other", "20", listed), Ok(7_000_000));
    }

    #[test]
    fn whoever_is_not_listed_counts_as_silent() {
        for peer in [None, Some("192.0.2.1"), Some("::1")] {
            for value in ["0.000001", "9", "nonsense"] {
                assert_eq!(
                    says("x-run-credits", value, peer),
                    Ok(7_000_000),
                    "{peer:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_amount_is_refused_with_advice() {
        for value in ["0", "-1", "", "nonsense", "1e3", "0.0000001", "1 "] {
            let problem = says("x-run-credits", value, Some("10.0.0.1")).unwrap_err();
            assert_eq!(problem.status(), 400, "{value:?}");
            let said = format!("{problem:?}");
            assert!(
                said.contains("x-run-credits") && said.contains("0.5"),
                "{said}"
            );
        }
    }

    #[test]
    fn the_header_is_unmistakable_or_refused_whoever_sends_it() {
        assert!(says("x_run_credits", "1", None).is_err());
        let mut twice = HeaderMap::new();
        twice.append("x-run-credits", HeaderValue::from_static("1"));
        twice.append("x-run-credits", HeaderValue::from_static("1"));
        assert!(amount(&by_header(), &twice, None).is_err());
    }

    #[test]
    fn only_what_certainly_began_no_run_is_given_back() {
        let release_on = StatusSet(vec![(400, 499), (503, 503)]);
        let sent = Some(Instant::now());
        for (sent, status, may_have_begun_one) in [
            (None, None, false),
            (sent, None, true),
            (sent, Some(200), true),
            (sent, Some(302), true),
            (sent, Some(400), false),
            (sent, Some(499), false),
            (sent, Some(500), true),
            (sent, Some(503), false),
        ] {
            let attempt = Attempt {
                sent,
                status,
                ..Attempt::default()
            };
            let got = may_have_begun(&attempt, &release_on);
            assert_eq!(got, may_have_begun_one, "{sent:?} {status:?}");
        }
    }
}
