//! Starts that repeat another, and how a hold that is shared is given up.

use std::sync::Arc;

use tollgate::billing::hold::{End, Held, HoldId};
use tollgate::billing::team::TeamId;
use tollgate::ledger::LedgerError;
use tollgate::ledger::holds::{Ask, Change, Holds, Outcome, Release};

use super::{
    BRIEF, Fixture, again, ask, by_id, conflict, done, fresh_id, held, hold, holding, of,
    replayable, try_hold,
};
use crate::{credits, fresh_team};

pub async fn claims(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    without_a_key_each_start_has_its_own_hold(ledger).await;
    a_replay_shares_the_live_hold(ledger).await;
    a_replay_shares_the_settled_one(ledger).await;
    after_a_release_a_replay_is_a_new_hold(ledger).await;
    after_its_time_a_replay_is_a_new_hold(fixture).await;
    a_key_belongs_to_one_request(ledger).await;
    a_refused_start_keeps_no_key(ledger).await;
    keys_are_the_teams_own(ledger).await;
    a_shared_hold_stays_until_all_have_given_up(ledger).await;
    giving_up_twice_gives_up_once(ledger).await;
    more_than_can_be_told_apart_are_never_given_up(ledger).await;
    a_straggler_is_not_held(ledger).await;
    a_replay_that_gave_up_shares_no_longer(ledger).await;
    a_replay_that_was_never_answered_gives_up_its_share(ledger).await;
    one_key_from_many_holds_once(fixture.ledger()).await;
}

async fn rich_team(ledger: &dyn Holds) -> TeamId {
    let team = fresh_team();
    ledger.set_balance(&team, credits("1000")).await.unwrap();
    team
}

fn shares(hold: &HoldId) -> Outcome {
    Outcome::Replayed {
        hold: hold.clone(),
        end: None,
    }
}

fn not_started(id: &HoldId) -> Release {
    Release::NotStarted(id.clone())
}

async fn without_a_key_each_start_has_its_own_hold(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    held(ledger, ask(&team, "1")).await;
    held(ledger, ask(&team, "1")).await;
    assert_eq!(holding(ledger, &team).await, of("2", 2));
}

async fn a_replay_shares_the_live_hold(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let first = replayable(&team, "1", 1, 1, Some(1));
    held(ledger, first.clone()).await;
    let replay = replayable(&team, "1", 1, 1, Some(1));
    // Sent again it is the same answer again, for both.
    for _ in 0..2 {
        let answer = hold(ledger, &replay).await;
        assert_eq!(
            (answer.outcome, answer.held),
            (shares(&first.id), of("1", 1))
        );
        assert_eq!(hold(ledger, &first).await.outcome, Outcome::Held);
    }
}

async fn a_replay_shares_the_settled_one(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let first = held(ledger, replayable(&team, "1", 1, 1, None)).await;
    done(ledger.settle(&team, &by_id(&first), credits("3")).await);
    let answer = hold(ledger, &replayable(&team, "1", 1, 1, None)).await;
    let settled = Outcome::Replayed {
        hold: first,
        end: Some(End::Settled),
    };
    assert_eq!((answer.outcome, answer.held), (settled, Held::default()));
    let other = hold(ledger, &replayable(&team, "1", 1, 2, None)).await;
    assert_eq!(other.outcome, Outcome::Conflict);
}

async fn after_a_release_a_replay_is_a_new_hold(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let first = held(ledger, replayable(&team, "1", 1, 1, None)).await;
    done(ledger.release(&team, &by_id(&first), &Release::Over).await);
    // Even another request: the key is free.
    let second = held(ledger, replayable(&team, "2", 1, 2, None)).await;
    assert_eq!(holding(ledger, &team).await, of("2", 1));
    let third = hold(ledger, &replayable(&team, "2", 1, 2, None)).await;
    assert_eq!(third.outcome, shares(&second));
}

async fn after_its_time_a_replay_is_a_new_hold(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = rich_team(ledger).await;
    let first = replayable(&team, "1", 1, 1, None);
    held(
        ledger,
        Ask {
            hold_for: BRIEF,
            ..first
        },
    )
    .await;
    fixture.pass(BRIEF).await;
    held(ledger, replayable(&team, "1", 1, 1, None)).await;
    assert_eq!(holding(ledger, &team).await, of("1", 1));
}

async fn a_key_belongs_to_one_request(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let first = held(ledger, replayable(&team, "1", 1, 1, Some(1))).await;
    for (route, body) in [(2, Some(1)), (2, None), (1, Some(2))] {
        let answer = hold(ledger, &replayable(&team, "1", 1, route, body)).await;
        assert_eq!(
            (answer.outcome, answer.held),
            (Outcome::Conflict, of("1", 1))
        );
    }
    // A body that was too large to be looked at is no reason.
    let answer = hold(ledger, &replayable(&team, "1", 1, 1, None)).await;
    assert_eq!(answer.outcome, shares(&first));
    held(ledger, replayable(&team, "1", 2, 2, None)).await;
    assert_eq!(holding(ledger, &team).await, of("2", 2));
}

async fn a_refused_start_keeps_no_key(ledger: &dyn Holds) {
    let team = fresh_team();
    let asked = replayable(&team, "2", 1, 1, None);
    assert_eq!(hold(ledger, &asked).await.outcome, Outcome::NoBalance);
    ledger.set_balance(&team, credits("1")).await.unwrap();
    let outcome = hold(ledger, &asked).await.outcome;
    assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
    ledger.set_balance(&team, credits("2")).await.unwrap();
    held(ledger, replayable(&team, "2", 1, 9, Some(9))).await;
}

async fn keys_are_the_teams_own(ledger: &dyn Holds) {
    let (one, other) = (rich_team(ledger).await, rich_team(ledger).await);
    held(ledger, replayable(&one, "1", 1, 1, None)).await;
    held(ledger, replayable(&other, "1", 1, 2, None)).await;
}

async fn a_shared_hold_stays_until_all_have_given_up(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let first = held(ledger, replayable(&team, "1", 1, 1, None)).await;
    let second = replayable(&team, "1", 1, 1, None);
    assert_eq!(hold(ledger, &second).await.outcome, shares(&first));
    let which = by_id(&first);
    let entry = done(ledger.release(&team, &which, &not_started(&first)).await);
    assert_eq!((entry.end, entry.ended_now), (None, false));
    assert_eq!(holding(ledger, &team).await, of("1", 1));
    let entry = done(
        ledger
            .release(&team, &which, &not_started(&second.id))
            .await,
    );
    assert_eq!((entry.end, entry.ended_now), (Some(End::Released), true));
    assert_eq!(holding(ledger, &team).await, Held::default());
    again(
        ledger
            .release(&team, &which, &not_started(&second.id))
            .await,
    );
}

async fn giving_up_twice_gives_up_once(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let first = held(ledger, replayable(&team, "1", 1, 1, None)).await;
    hold(ledger, &replayable(&team, "1", 1, 1, None)).await;
    let why = not_started(&first);
    done(ledger.release(&team, &by_id(&first), &why).await);
    again(ledger.release(&team, &by_id(&first), &why).await);
    assert_eq!(holding(ledger, &team).await, of("1", 1));

    let settled = held(ledger, ask(&team, "1")).await;
    done(ledger.settle(&team, &by_id(&settled), credits("1")).await);
    let entry = conflict(
        ledger
            .release(&team, &by_id(&settled), &not_started(&settled))
            .await,
    );
    assert_eq!(entry.end, Some(End::Settled));
}

async fn more_than_can_be_told_apart_are_never_given_up(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let starts: Vec<Ask> = (0..20)
        .map(|_| replayable(&team, "1", 1, 1, None))
        .collect();
    let first = held(ledger, starts[0].clone()).await;
    for start in &starts[1..] {
        assert_eq!(hold(ledger, start).await.outcome, shares(&first));
    }
    for start in &starts {
        let outcome = ledger
            .release(&team, &by_id(&first), &not_started(&start.id))
            .await;
        assert!(
            matches!(&outcome, Ok(Change::Done(entry) | Change::Again(entry)) if entry.end.is_none()),
            "{outcome:?}"
        );
    }
    assert_eq!(holding(ledger, &team).await, of("1", 1));
    let entry = done(ledger.release(&team, &by_id(&first), &Release::Over).await);
    assert_eq!(entry.end, Some(End::Released));
}

async fn a_straggler_is_not_held(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    // Given up before it came.
    let late = ask(&team, "1");
    for _ in 0..2 {
        let outcome = ledger
            .release(&team, &by_id(&late.id), &not_started(&late.id))
            .await;
        assert_eq!(outcome, Ok(Change::Unknown));
    }
    // Given up after it came, and it comes again.
    let twice = ask(&team, "1");
    held(ledger, twice.clone()).await;
    done(
        ledger
            .release(&team, &by_id(&twice.id), &not_started(&twice.id))
            .await,
    );
    for straggler in [late, twice] {
        let outcome = try_hold(ledger, &straggler).await;
        assert!(
            matches!(outcome, Err(LedgerError::Outage(_))),
            "{outcome:?}"
        );
    }
    // What an operator releases may come yet.
    let unknown = fresh_id();
    let outcome = ledger
        .release(&team, &by_id(&unknown), &Release::Over)
        .await;
    assert_eq!(outcome, Ok(Change::Unknown));
    held(
        ledger,
        Ask {
            id: unknown,
            ..ask(&team, "1")
        },
    )
    .await;
    assert_eq!(holding(ledger, &team).await, of("1", 1));
}

async fn a_replay_that_gave_up_shares_no_longer(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let first = held(ledger, replayable(&team, "1", 1, 1, None)).await;
    // One that was answered, and one that comes only afterwards.
    let (answered, late) = (
        replayable(&team, "1", 1, 1, None),
        replayable(&team, "1", 1, 1, None),
    );
    assert_eq!(hold(ledger, &answered).await.outcome, shares(&first));
    for replay in [&answered, &late] {
        let why = not_started(&replay.id);
        done(ledger.release(&team, &by_id(&first), &why).await);
        again(ledger.release(&team, &by_id(&first), &why).await);
        let outcome = try_hold(ledger, replay).await;
        assert!(
            matches!(outcome, Err(LedgerError::Outage(_))),
            "{outcome:?}"
        );
    }
    assert_eq!(holding(ledger, &team).await, of("1", 1));
    // So the first is the last.
    let entry = done(
        ledger
            .release(&team, &by_id(&first), &not_started(&first))
            .await,
    );
    assert_eq!(entry.end, Some(End::Released));
}

async fn a_replay_that_was_never_answered_gives_up_its_share(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let first = held(ledger, replayable(&team, "1", 1, 1, None)).await;
    let replay = replayable(&team, "1", 1, 1, None);
    hold(ledger, &replay).await;
    // It does not know whose hold it shares.
    let entry = done(
        ledger
            .release(&team, &by_id(&replay.id), &not_started(&replay.id))
            .await,
    );
    assert_eq!((&entry.hold, entry.end), (&first, None));
    let entry = done(
        ledger
            .release(&team, &by_id(&first), &not_started(&first))
            .await,
    );
    assert_eq!(entry.end, Some(End::Released));
}

async fn one_key_from_many_holds_once(ledger: Arc<dyn Holds>) {
    let team = rich_team(&*ledger).await;
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (ledger, ask) = (Arc::clone(&ledger), replayable(&team, "1", 1, 1, None));
        starts.spawn(async move { (ask.id.clone(), hold(&*ledger, &ask).await.outcome) });
    }
    let outcomes = starts.join_all().await;
    let first: Vec<_> = outcomes
        .iter()
        .filter(|(_, outcome)| *outcome == Outcome::Held)
        .collect();
    let [(first, _)] = first[..] else {
        panic!("{outcomes:?}")
    };
    let shared = outcomes
        .iter()
        .filter(|(_, outcome)| *outcome == shares(first));
    assert_eq!(shared.count(), 19);
    assert_eq!(holding(&*ledger, &team).await, of("1", 1));
}
