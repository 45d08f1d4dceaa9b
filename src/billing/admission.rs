//! The decision whether a run may start.
//!
//! [`decide`] is given what the ledger found and the operator's [`Rule`], and
//! returns a [`Verdict`]. Refusing is an answer; not knowing is another one;
//! neither is an error.

use super::credits::Credits;

/// What a start asks for: credits to be set aside, while others are already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The credits that the team's live holds set aside.
    pub held: Credits,
    /// The credits that the start needs.
    pub hold: Credits,
}

/// What the ledger found out about a team's balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// The team has this balance.
    Known(Credits),
    /// The ledger answered and holds no balance for the team.
    Missing,
    /// The ledger could not be asked, or what it holds is not a balance.
    Unknown,
}

/// What a team without a balance means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// It has bought nothing yet.
    #[default]
    Refuse,
    /// It is not metered.
    Admit,
    /// Every team should have one, so something is wrong.
    Unknown,
}

/// What happens to a start while its balance cannot be found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutage {
    /// It is answered with 503 and can be tried again.
    #[default]
    Refuse,
    /// It is let through.
    Admit,
}

/// The operator's rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// A balance at or below this line is refused.
    pub refuse_at_or_below: Credits,
    /// What a team without a balance means.
    pub missing: Missing,
    /// What an unknown balance means.
    pub on_outage: OnOutage,
}

/// Why a start is refused for lack of credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The balance is at or below the line.
    InsufficientCredits,
    /// The team has no balance.
    NoBalance,
    /// The balance would do, but runs in progress hold it.
    CreditsHeld,
    /// The balance is above the line, and less than the start sets aside.
    BelowHold,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Refusal; 4] = [
        Refusal::InsufficientCredits,
        Refusal::NoBalance,
        Refusal::CreditsHeld,
        Refusal::BelowHold,
    ];

    /// The reason, as metrics and logs name it.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Refusal::InsufficientCredits => "insufficient_credits",
            Refusal::NoBalance => "no_balance",
            Refusal::CreditsHeld => "credits_held",
            Refusal::BelowHold => "below_hold",
        }
    }
}

/// The outcome of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The team has credits: let the run start.
    Admit,
    /// The team has none: the run must not start.
    Refuse(Refusal),
    /// Nobody knows, and the operator lets such starts through.
    AdmitUnknown,
    /// Nobody knows, and the operator would rather ask the client to try again.
    RefuseUnknown,
}

/// Decides whether a run may start.
///
/// The rule, in full: a known balance is refused if it is at or below the
/// line, otherwise admitted; a missing one is what [`Rule::missing`] says; an
/// unknown one is what [`Rule::on_outage`] says, and never a refusal for lack
/// of credits.
pub fn decide(balance: Balance, rule: &Rule) -> Verdict {
    match (balance, rule.missing) {
        (Balance::Known(credits), _) if credits <= rule.refuse_at_or_below => {
            Verdict::Refuse(Refusal::InsufficientCredits)
        }
        (Balance::Known(_), _) | (Balance::Missing, Missing::Admit) => Verdict::Admit,
        (Balance::Missing, Missing::Refuse) => Verdict::Refuse(Refusal::NoBalance),
        (Balance::Missing, Missing::Unknown) | (Balance::Unknown, _) => match rule.on_outage {
            OnOutage::Refuse => Verdict::RefuseUnknown,
            OnOutage::Admit => Verdict::AdmitUnknown,
        },
    }
}

/// Decides whether credits may be set aside for a run.
///
/// The rule, in full: what a team can spend is its balance less what its live
/// holds set aside. That must be above the line and no less than the hold. If
/// it is not, but would be without the holds, the credits are held; if the
/// balance is above the line all the same, it is less than the hold; otherwise
/// the team has run out.
pub fn decide_hold(balance: Balance, wanted: Wanted, rule: &Rule) -> Verdict {
    let Balance::Known(credits) = balance else {
        return decide(balance, rule);
    };
    let admits =
        |spendable: Credits| spendable > rule.refuse_at_or_below && spendable >= wanted.hold;
    if admits(credits.saturating_sub(wanted.held)) {
        Verdict::Admit
    } else if admits(credits) {
        Verdict::Refuse(Refusal::CreditsHeld)
    } else if credits > rule.refuse_at_or_below {
        Verdict::Refuse(Refusal::BelowHold)
    } else {
        Verdict::Refuse(Refusal::InsufficientCredits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: i64 = 20_000_000;

    fn known(micro: i64) -> Balance {
        Balance::Known(Credits::from_micro(micro))
    }

    #[test]
    fn the_whole_table() {
        use Verdict::{Admit, AdmitUnknown, Refuse, RefuseUnknown};
        let out = Refuse(Refusal::InsufficientCredits);
        for (balance, missing, on_outage, expected) in [
            (known(LINE + 1), Missing::Refuse, OnOutage::Refuse, Admit),
            (known(LINE), Missing::Refuse, OnOutage::Refuse, out),
            (known(LINE), Missing::Admit, OnOutage::Admit, out),
            (known(LINE - 1), Missing::Refuse, OnOutage::Refuse, out),
            (known(-1), Missing::Refuse, OnOutage::Refuse, out),
            (
                Balance::Missing,
                Missing::Refuse,
                OnOutage::Admit,
                Refuse(Refusal::NoBalance),
            ),
            (Balance::Missing, Missing::Admit, OnOutage::Refuse, Admit),
            (
                Balance::Missing,
                Missing::Unknown,
                OnOutage::Refuse,
                RefuseUnknown,
            ),
            (
                Balance::Missing,
                Missing::Unknown,
                OnOutage::Admit,
                AdmitUnknown,
            ),
            (
                Balance::Unknown,
                Missing::Refuse,
                OnOutage::Refuse,
                RefuseUnknown,
            ),
            (
                Balance::Unknown,
                Missing::Admit,
                OnOutage::Refuse,
                RefuseUnknown,
            ),
            (
                Balance::Unknown,
                Missing::Refuse,
                OnOutage::Admit,
                AdmitUnknown,
            ),
        ] {
            let rule = Rule {
                refuse_at_or_below: Credits::from_micro(LINE),
                missing,
                on_outage,
            };
            assert_eq!(
                decide(balance, &rule),
                expected,
                "{balance:?} {missing:?} {on_outage:?}"
            );
        }
    }

    #[test]
    fn the_whole_table_of_holds() {
        let rule = Rule {
            refuse_at_or_below: Credits::from_micro(5),
            ..Rule::default()
        };
        for (balance, held, hold, expected) in [
            (40, 0, 20, Verdict::Admit),
            (40, 20, 20, Verdict::Admit),
            (20, 0, 20, Verdict::Admit),
            (6, 0, 1, Verdict::Admit),
            (40, 21, 20, Verdict::Refuse(Refusal::CreditsHeld)),
            // Enough for the hold, but at the line.
            (25, 20, 1, Verdict::Refuse(Refusal::CreditsHeld)),
            (19, 0, 20, Verdict::Refuse(Refusal::BelowHold)),
            (6, 0, 20, Verdict::Refuse(Refusal::BelowHold)),
            // Waiting would not help.
            (19, 10, 20, Verdict::Refuse(Refusal::BelowHold)),
            (5, 0, 20, Verdict::Refuse(Refusal::InsufficientCredits)),
            (5, 0, 1, Verdict::Refuse(Refusal::InsufficientCredits)),
            (-3, 10, 1, Verdict::Refuse(Refusal::InsufficientCredits)),
        ] {
            let wanted = Wanted {
                held: Credits::from_micro(held),
                hold: Credits::from_micro(hold),
            };
            assert_eq!(
                decide_hold(known(balance), wanted, &rule),
                expected,
                "{balance} {held} {hold}"
            );
        }
        let wanted = Wanted {
            held: Credits::ZERO,
            hold: Credits::from_micro(1),
        };
        for balance in [Balance::Missing, Balance::Unknown] {
            assert_eq!(
                decide_hold(balance, wanted, &rule),
                decide(balance, &rule),
                "{balance:?}"
            );
        }
    }
}
