//! What the balance leads to, by the rule that serves.

use super::Answer;
use super::questions::Questions;
use crate::billing::admission::{self, Balance, OnOutage, Refusal, Verdict, Wanted};
use crate::billing::credits::Credits;
use crate::billing::team::TeamId;
use crate::config::RefuseWith;
use crate::edge::live::StartRoute;
use crate::edge::problem::Problem;
use crate::ledger::Ledger as _;

/// What becomes of a start that this team pays, and what it has. `terms` are
/// the credits that the start would set aside in hold mode, and what a refused
/// delivery is answered with.
pub async fn of(
    start: &StartRoute,
    team: &TeamId,
    terms: (Option<Credits>, Option<RefuseWith>),
    questions: &Questions<'_>,
) -> (Answer, Option<String>) {
    let (wanted, refuse_with) = terms;
    let read = match wanted {
        None => {
            let balance = questions.balance_by(team, questions.until()).await;
            balance.map(|balance| (balance, Credits::ZERO))
        }
        Some(_) => {
            let standing = questions.standing(team).await;
            standing.map(|standing| (standing.balance, standing.held.credits))
        }
    };
    let (balance, held) = match read {
        Ok(read) => read,
        Err(_) if !questions.is_asked() => return (open_for(start, team, wanted), None),
        Err(error) => return (unknown(start, &error.to_string()), None),
    };
    let known = balance.map_or(Balance::Missing, Balance::Known);
    let verdict = match wanted {
        None => admission::decide(known, &start.rule),
        Some(hold) => admission::decide_hold(known, Wanted { hold, held }, &start.rule),
    };
    let says = match (balance, wanted) {
        (None, _) => "no balance".to_owned(),
        (Some(balance), None) => format!("{balance} credits"),
        (Some(balance), Some(hold)) => {
            format!("{balance} credits, {held} set aside, {hold} wanted for this start")
        }
    };
    let answer = match verdict {
        Verdict::Admit => Answer::forwarded("forwarded, the team has credits"),
        Verdict::Refuse(refusal) => refused(refusal, refuse_with),
        Verdict::AdmitUnknown | Verdict::RefuseUnknown => unknown(start, "the team has no balance"),
    };
    (answer, Some(says))
}

fn refused(refusal: Refusal, refuse_with: Option<RefuseWith>) -> Answer {
    let reason = refusal.reason();
    let answer = Answer::of(&Problem::refused(refusal), reason);
    match refuse_with {
        Some(RefuseWith::Message) => Answer {
            status: Some(200),
            says: format!("{reason}, with what people can read in place of the 403"),
            ..answer
        },
        Some(RefuseWith::Problem) | None => answer,
    }
}

/// Nobody can say who pays, or what they have.
pub fn unknown(start: &StartRoute, why: &str) -> Answer {
    match start.rule.on_outage {
        OnOutage::Refuse => Answer::of(&Problem::unavailable(), why),
        OnOutage::Admit => Answer::forwarded(&format!("forwarded (on_outage: admit): {why}")),
    }
}

/// Who pays is not known here.
pub fn open(start: &StartRoute) -> Answer {
    let line = start.rule.refuse_at_or_below;
    Answer::open(format!(
        "forwarded if somebody pays and has more than {line} credits; --ask finds out"
    ))
}

/// Who pays is known, and not what they have.
fn open_for(start: &StartRoute, team: &TeamId, wanted: Option<Credits>) -> Answer {
    let line = start.rule.refuse_at_or_below;
    let hold = wanted.map_or(String::new(), |hold| {
        format!(", and {hold} that nothing holds")
    });
    Answer::open(format!(
        "forwarded if {team} has more than {line} credits{hold}; --ask finds out"
    ))
}
