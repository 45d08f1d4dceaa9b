//! Who is admitted: the line, what is set aside, and asking again.

use std::sync::Arc;

use tollgate::billing::admission::{Missing, Refusal, Rule};
use tollgate::billing::hold::Held;
use tollgate::ledger::LedgerError;
use tollgate::ledger::holds::{Ask, Expired, Holds, Outcome, Release, Repair};

use super::{
    BRIEF, Fixture, LONG, ask, brief_ask, by_id, done, fresh_run, held, hold, holding, of,
    spendable, try_hold,
};
use crate::{credits, fresh_team};

pub async fn claims(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    a_hold_lowers_what_can_be_spent_and_not_the_balance(ledger).await;
    admits_to_the_last_credit_and_not_one_more(ledger).await;
    the_line_cannot_be_spent(ledger).await;
    more_than_the_balance_is_never_held_for_want_of_waiting(ledger).await;
    whoever_has_nothing_is_told_so(ledger).await;
    a_team_without_a_balance_holds_nothing(ledger).await;
    asking_again_holds_once(ledger).await;
    an_id_that_ended_is_not_held_again(ledger).await;
    teams_do_not_share(ledger).await;
    only_more_than_nothing_is_held(ledger).await;
    a_corrupt_balance_is_no_refusal(fixture).await;
    what_is_up_no_longer_counts(fixture).await;
    what_is_up_is_told_once(fixture).await;
    an_id_whose_time_is_up_is_not_held_again(fixture).await;
    all_that_is_up_is_dropped_before_anybody_is_refused(fixture).await;
    of_many_at_once_exactly_so_many_are_admitted(fixture.ledger()).await;
    one_id_from_many_holds_once(fixture.ledger()).await;
}

async fn a_hold_lowers_what_can_be_spent_and_not_the_balance(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("5")).await.unwrap();
    let answer = hold(ledger, &ask(&team, "1.5")).await;
    assert_eq!(answer.outcome, Outcome::Held);
    assert_eq!(answer.held, of("1.5", 1));
    assert_eq!(answer.expired, []);
    let standing = ledger.standing(&team).await.unwrap();
    assert_eq!(standing.balance, Some(credits("5")));
    assert_eq!(standing.held, of("1.5", 1));
    assert_eq!(standing.spendable(), Some(credits("3.5")));
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("5"))));
}

async fn admits_to_the_last_credit_and_not_one_more(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("3")).await.unwrap();
    held(ledger, ask(&team, "1")).await;
    held(ledger, ask(&team, "2")).await;
    let refused = hold(ledger, &ask(&team, "0.000001")).await;
    let Outcome::Refused {
        refusal,
        balance,
        next_end,
    } = refused.outcome
    else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal, Refusal::CreditsHeld);
    assert_eq!(balance, credits("3"));
    assert!(
        next_end.is_some_and(|end| end <= LONG && end > LONG / 2),
        "{next_end:?}"
    );
    assert_eq!(refused.held, of("3", 2));
}

async fn the_line_cannot_be_spent(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let rule = Rule {
        refuse_at_or_below: credits("4"),
        ..Rule::default()
    };
    let above = |amount| Ask {
        rule,
        ..ask(&team, amount)
    };
    held(ledger, above("6")).await;
    let refused = hold(ledger, &above("1")).await.outcome;
    assert!(
        matches!(
            refused,
            Outcome::Refused {
                refusal: Refusal::CreditsHeld,
                ..
            }
        ),
        "{refused:?}"
    );
    // Another rule, another line.
    held(ledger, ask(&team, "4")).await;
}

async fn more_than_the_balance_is_never_held_for_want_of_waiting(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("3")).await.unwrap();
    let below = Outcome::Refused {
        refusal: Refusal::BelowHold,
        balance: credits("3"),
        next_end: None,
    };
    assert_eq!(hold(ledger, &ask(&team, "3.000001")).await.outcome, below);
    held(ledger, ask(&team, "3")).await;
    let refused = hold(ledger, &ask(&team, "3.000001")).await.outcome;
    assert!(
        matches!(
            refused,
            Outcome::Refused {
                refusal: Refusal::BelowHold,
                ..
            }
        ),
        "{refused:?}"
    );
}

async fn whoever_has_nothing_is_told_so(ledger: &dyn Holds) {
    let team = fresh_team();
    for (balance, line) in [("0", "0"), ("-3", "0"), ("3", "3"), ("3", "5")] {
        ledger.set_balance(&team, credits(balance)).await.unwrap();
        let rule = Rule {
            refuse_at_or_below: credits(line),
            ..Rule::default()
        };
        let asked = Ask {
            rule,
            ..ask(&team, "4")
        };
        let none = Outcome::Refused {
            refusal: Refusal::InsufficientCredits,
            balance: credits(balance),
            next_end: None,
        };
        assert_eq!(hold(ledger, &asked).await.outcome, none, "{balance} {line}");
    }
}

async fn a_team_without_a_balance_holds_nothing(ledger: &dyn Holds) {
    let team = fresh_team();
    for missing in [Missing::Refuse, Missing::Admit, Missing::Unknown] {
        let rule = Rule {
            missing,
            ..Rule::default()
        };
        let answer = hold(
            ledger,
            &Ask {
                rule,
                ..ask(&team, "1")
            },
        )
        .await;
        assert_eq!(answer.outcome, Outcome::NoBalance);
        assert_eq!(answer.held, Held::default());
    }
    assert_eq!(ledger.standing(&team).await.unwrap().balance, None);
    assert_eq!(ledger.balance(&team).await, Ok(None));
}

async fn asking_again_holds_once(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("5")).await.unwrap();
    let one = ask(&team, "4");
    for _ in 0..3 {
        let answer = hold(ledger, &one).await;
        assert_eq!((answer.outcome, answer.held), (Outcome::Held, of("4", 1)));
    }
}

async fn an_id_that_ended_is_not_held_again(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("5")).await.unwrap();
    let (released, settled) = (ask(&team, "1"), ask(&team, "1"));
    held(ledger, released.clone()).await;
    held(ledger, settled.clone()).await;
    done(
        ledger
            .release(&team, &by_id(&released.id), &Release::Over)
            .await,
    );
    done(
        ledger
            .settle(&team, &by_id(&settled.id), credits("1"))
            .await,
    );
    for ended in [released, settled] {
        let outcome = try_hold(ledger, &ended).await;
        assert!(
            matches!(outcome, Err(LedgerError::Outage(_))),
            "{outcome:?}"
        );
    }
    assert_eq!(holding(ledger, &team).await, Held::default());
}

async fn teams_do_not_share(ledger: &dyn Holds) {
    let (one, other) = (fresh_team(), fresh_team());
    ledger.set_balance(&one, credits("1")).await.unwrap();
    ledger.set_balance(&other, credits("1")).await.unwrap();
    let first = ask(&one, "1");
    held(ledger, first.clone()).await;
    // Even the same id is another hold in another team.
    held(
        ledger,
        Ask {
            team: other.clone(),
            ..first.clone()
        },
    )
    .await;
    done(
        ledger
            .release(&one, &by_id(&first.id), &Release::Over)
            .await,
    );
    assert_eq!(holding(ledger, &one).await, Held::default());
    assert_eq!(holding(ledger, &other).await, of("1", 1));
}

async fn only_more_than_nothing_is_held(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("5")).await.unwrap();
    for amount in ["0", "-1"] {
        let outcome = try_hold(ledger, &ask(&team, amount)).await;
        assert!(outcome.is_err(), "{outcome:?}");
    }
    assert_eq!(holding(ledger, &team).await, Held::default());
}

async fn a_corrupt_balance_is_no_refusal(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = fresh_team();
    if !fixture.spoil(&team).await {
        return;
    }
    let outcome = try_hold(ledger, &ask(&team, "1")).await;
    assert!(
        matches!(outcome, Err(LedgerError::Corrupt(_))),
        "{outcome:?}"
    );
}

async fn what_is_up_no_longer_counts(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = fresh_team();
    ledger.set_balance(&team, credits("3")).await.unwrap();
    held(ledger, brief_ask(&team, "1")).await;
    held(ledger, brief_ask(&team, "2")).await;
    fixture.pass(BRIEF).await;
    assert_eq!(ledger.list(&team, 10).await, Ok(vec![]));
    assert_eq!(holding(ledger, &team).await, Held::default());
    assert_eq!(spendable(ledger, &team).await, Some(credits("3")));
    held(ledger, ask(&team, "3")).await;
}

async fn what_is_up_is_told_once(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = fresh_team();
    ledger.set_balance(&team, credits("3")).await.unwrap();
    let (one, other) = (brief_ask(&team, "1"), brief_ask(&team, "2"));
    let mut told = hold(ledger, &one).await.expired;
    let run = fresh_run();
    let bound = done(ledger.bind(&team, &one.id, &run).await);
    // On a slow machine its time may be up by now.
    told.extend(bound.ended_now.then_some(Expired {
        hold: bound.hold,
        credits: bound.credits,
        run: bound.run,
    }));
    let run = Some(run);
    told.extend(hold(ledger, &other).await.expired);
    fixture.pass(BRIEF).await;
    // Looking tells nobody, and takes it from nobody.
    assert_eq!(holding(ledger, &team).await, Held::default());
    assert_eq!(ledger.list(&team, 9).await, Ok(vec![]));
    let answer = hold(ledger, &ask(&team, "3")).await;
    assert_eq!((answer.outcome, answer.held), (Outcome::Held, of("3", 1)));
    told.extend(answer.expired);
    told.extend(hold(ledger, &ask(&team, "3")).await.expired);
    let (held, swept) = ledger.sweep(&team).await.unwrap();
    assert_eq!(held, of("3", 1));
    told.extend(swept);
    told.extend(ledger.audit(&team, Repair::Report).await.unwrap().expired);
    told.sort_by_key(|expired| expired.credits);
    let runs = [run, None];
    let expired = [one, other]
        .into_iter()
        .zip(runs)
        .map(|(ask, run)| Expired {
            hold: ask.id,
            credits: ask.credits,
            run,
        });
    assert_eq!(told, expired.collect::<Vec<_>>());
}

async fn an_id_whose_time_is_up_is_not_held_again(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = fresh_team();
    ledger.set_balance(&team, credits("3")).await.unwrap();
    let asked = brief_ask(&team, "1");
    held(ledger, asked.clone()).await;
    fixture.pass(BRIEF).await;
    for _ in 0..2 {
        let outcome = try_hold(ledger, &asked).await;
        assert!(
            matches!(outcome, Err(LedgerError::Outage(_))),
            "{outcome:?}"
        );
    }
}

async fn all_that_is_up_is_dropped_before_anybody_is_refused(fixture: &dyn Fixture) {
    // More than any ledger drops in one step.
    const MANY: usize = 700;
    let ledger = &*fixture.ledger();
    let team = fresh_team();
    ledger.set_balance(&team, credits("700")).await.unwrap();
    let mut told = 0;
    for _ in 0..MANY {
        let answer = hold(ledger, &brief_ask(&team, "1")).await;
        assert_eq!(answer.outcome, Outcome::Held);
        told += answer.expired.len();
    }
    fixture.pass(BRIEF).await;
    let answer = hold(ledger, &ask(&team, "700")).await;
    assert_eq!((answer.outcome, answer.held), (Outcome::Held, of("700", 1)));
    assert_eq!(told + answer.expired.len(), MANY);
}

async fn of_many_at_once_exactly_so_many_are_admitted(ledger: Arc<dyn Holds>) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("20.9")).await.unwrap();
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (ledger, ask) = (Arc::clone(&ledger), ask(&team, "1"));
        starts.spawn(async move { hold(&*ledger, &ask).await.outcome });
    }
    let outcomes = starts.join_all().await;
    let admitted = outcomes.iter().filter(|outcome| **outcome == Outcome::Held);
    assert_eq!(admitted.count(), 20);
    assert_eq!(holding(&*ledger, &team).await, of("20", 20));
}

async fn one_id_from_many_holds_once(ledger: Arc<dyn Holds>) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("20")).await.unwrap();
    let one = ask(&team, "1");
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (ledger, ask) = (Arc::clone(&ledger), one.clone());
        starts.spawn(async move { hold(&*ledger, &ask).await.outcome });
    }
    for outcome in starts.join_all().await {
        assert_eq!(outcome, Outcome::Held);
    }
    assert_eq!(holding(&*ledger, &team).await, of("1", 1));
}
