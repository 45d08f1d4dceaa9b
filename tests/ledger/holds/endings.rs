//! How a hold goes on and ends: exactly once, in exactly one way.

use std::sync::Arc;
use std::time::Instant;

use tollgate::billing::hold::{End, Held, HoldId};
use tollgate::ledger::holds::{
    Change, Entry, Granted, Holds, Outcome, RUN_HOLDS_MAX, Release, Which, release_all,
};

use super::{
    BRIEF, Fixture, again, ask, brief_ask, by_id, conflict, done, fresh_id, fresh_run, held, hold,
    hold_id, holding, of, replayable, run_id,
};
use crate::{PATIENCE, credits, eventually, fresh_team};
use tollgate::billing::team::TeamId;

pub async fn claims(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    a_release_frees_the_credits_once(ledger).await;
    what_is_not_there_is_unknown(ledger).await;
    a_settlement_ends_it_once_per_figure(ledger).await;
    less_than_nothing_is_no_figure(ledger).await;
    a_charge_shrinks_the_hold_to_nothing_at_the_least(ledger).await;
    a_charge_counts_once_per_id(ledger).await;
    ids_of_charges_are_the_teams_own(ledger).await;
    after_the_end_a_charge_still_counts_unless_settled(ledger).await;
    extending_begins_the_time_anew(fixture).await;
    what_ended_cannot_be_extended(ledger).await;
    a_hold_is_bound_to_one_run(ledger).await;
    a_run_has_a_hold_for_each_follow_up(ledger).await;
    all_holds_of_a_run_are_released(ledger).await;
    a_run_finds_so_many_holds(ledger).await;
    a_run_outlives_its_hold(ledger).await;
    either_id_will_do(ledger).await;
    whoever_touches_what_is_up_finds_it_expired(fixture).await;
    of_a_release_and_a_settlement_one_ends_it(fixture.ledger()).await;
}

async fn rich_team(ledger: &dyn Holds) -> TeamId {
    let team = fresh_team();
    ledger.set_balance(&team, credits("1000")).await.unwrap();
    team
}

async fn a_release_frees_the_credits_once(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let (one, other) = (
        held(ledger, ask(&team, "2")).await,
        held(ledger, ask(&team, "3")).await,
    );
    let entry = done(ledger.release(&team, &by_id(&one), &Release::Over).await);
    assert_eq!(entry.hold, one);
    assert_eq!(
        (entry.credits, entry.end),
        (credits("2"), Some(End::Released))
    );
    assert!(entry.ended_now);
    assert_eq!(holding(ledger, &team).await, of("3", 1));
    let entry = again(ledger.release(&team, &by_id(&one), &Release::Over).await);
    assert_eq!((entry.end, entry.ended_now), (Some(End::Released), false));
    done(ledger.settle(&team, &by_id(&other), credits("1")).await);
    let entry = conflict(ledger.release(&team, &by_id(&other), &Release::Over).await);
    assert_eq!((entry.end, entry.ended_now), (Some(End::Settled), false));
    assert_eq!(holding(ledger, &team).await, Held::default());
}

async fn what_is_not_there_is_unknown(ledger: &dyn Holds) {
    for team in [fresh_team(), rich_team(ledger).await] {
        let hold = fresh_id();
        let ways = [
            by_id(&hold),
            Which::Run(fresh_run()),
            Which::Either("some-id".into()),
        ];
        for which in ways {
            let release = ledger.release(&team, &which, &Release::Over).await;
            assert_eq!(release, Ok(Change::Unknown));
            assert_eq!(
                ledger.settle(&team, &which, credits("1")).await,
                Ok(Change::Unknown)
            );
            assert_eq!(
                ledger.charge(&team, &which, credits("1"), "c").await,
                Ok(Change::Unknown)
            );
            assert_eq!(ledger.extend(&team, &which).await, Ok(Change::Unknown));
        }
        assert_eq!(
            ledger.bind(&team, &hold, &fresh_run()).await,
            Ok(Change::Unknown)
        );
        let before = ledger.balance(&team).await.unwrap();
        assert!(before.is_none_or(|balance| balance == credits("1000")));
    }
}

async fn a_settlement_ends_it_once_per_figure(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    for figure in ["0", "0.5", "70"] {
        let id = held(ledger, ask(&team, "2")).await;
        let entry = done(ledger.settle(&team, &by_id(&id), credits(figure)).await);
        assert_eq!(
            (entry.credits, entry.figure),
            (credits("2"), credits(figure))
        );
        assert_eq!((entry.end, entry.ended_now), (Some(End::Settled), true));
        let entry = again(ledger.settle(&team, &by_id(&id), credits(figure)).await);
        assert_eq!((entry.end, entry.ended_now), (Some(End::Settled), false));
        assert_eq!(entry.figure, credits(figure));
        let entry = conflict(ledger.settle(&team, &by_id(&id), credits("9")).await);
        assert_eq!(entry.figure, credits(figure));
        assert_eq!(holding(ledger, &team).await, Held::default());
    }
}

async fn less_than_nothing_is_no_figure(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let id = held(ledger, ask(&team, "2")).await;
    let which = by_id(&id);
    assert!(ledger.settle(&team, &which, credits("-1")).await.is_err());
    assert!(
        ledger
            .charge(&team, &which, credits("-1"), "c")
            .await
            .is_err()
    );
    assert!(
        ledger
            .charge(&team, &which, credits("0"), "c")
            .await
            .is_err()
    );
    assert!(
        ledger
            .charge(&team, &which, credits("1"), "")
            .await
            .is_err()
    );
    assert!(
        ledger
            .charge(&team, &which, credits("1"), &"c".repeat(65))
            .await
            .is_err()
    );
    assert_eq!(holding(ledger, &team).await, of("2", 1));
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("1000"))));
    done(
        ledger
            .charge(&team, &which, credits("1"), &"c".repeat(64))
            .await,
    );
}

async fn a_charge_shrinks_the_hold_to_nothing_at_the_least(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let id = held(ledger, ask(&team, "2")).await;
    for (charge, left) in [("0.5", "1.5"), ("1", "0.5"), ("7", "0"), ("1", "0")] {
        let charge_id = fresh_id();
        let changed = ledger
            .charge(&team, &by_id(&id), credits(charge), charge_id.as_str())
            .await;
        let entry = done(changed);
        assert_eq!(
            (entry.credits, entry.figure),
            (credits(left), credits(charge))
        );
        assert_eq!((entry.end, entry.ended_now), (None, false));
        assert_eq!(holding(ledger, &team).await, of(left, 1));
    }
    let entry = done(ledger.settle(&team, &by_id(&id), credits("0.25")).await);
    assert_eq!(
        (entry.credits, entry.end),
        (credits("0"), Some(End::Settled))
    );
}

async fn a_charge_counts_once_per_id(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let (one, other) = (
        held(ledger, ask(&team, "5")).await,
        held(ledger, ask(&team, "5")).await,
    );
    done(
        ledger
            .charge(&team, &by_id(&one), credits("2"), "part")
            .await,
    );
    let entry = again(
        ledger
            .charge(&team, &by_id(&one), credits("2"), "part")
            .await,
    );
    assert_eq!((entry.credits, entry.figure), (credits("3"), credits("2")));
    let entry = conflict(
        ledger
            .charge(&team, &by_id(&one), credits("1"), "part")
            .await,
    );
    assert_eq!(entry.figure, credits("2"));
    conflict(
        ledger
            .charge(&team, &by_id(&other), credits("2"), "part")
            .await,
    );
    assert_eq!(holding(ledger, &team).await, of("8", 2));
    // Even when the hold is over, the answer is the same.
    done(ledger.settle(&team, &by_id(&one), credits("0")).await);
    again(
        ledger
            .charge(&team, &by_id(&one), credits("2"), "part")
            .await,
    );
}

async fn ids_of_charges_are_the_teams_own(ledger: &dyn Holds) {
    for _ in 0..2 {
        let team = rich_team(ledger).await;
        let id = held(ledger, ask(&team, "5")).await;
        done(
            ledger
                .charge(&team, &by_id(&id), credits("2"), "part")
                .await,
        );
    }
}

async fn after_the_end_a_charge_still_counts_unless_settled(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let id = held(ledger, ask(&team, "5")).await;
    done(ledger.release(&team, &by_id(&id), &Release::Over).await);
    let entry = done(
        ledger
            .charge(&team, &by_id(&id), credits("2"), "late")
            .await,
    );
    assert_eq!(
        (entry.end, entry.credits),
        (Some(End::Released), credits("5"))
    );
    again(
        ledger
            .charge(&team, &by_id(&id), credits("2"), "late")
            .await,
    );
    let entry = done(ledger.settle(&team, &by_id(&id), credits("1")).await);
    assert_eq!((entry.end, entry.ended_now), (Some(End::Released), false));
    again(ledger.settle(&team, &by_id(&id), credits("1")).await);
    let entry = conflict(ledger.settle(&team, &by_id(&id), credits("2")).await);
    assert_eq!(entry.figure, credits("1"));

    let settled = held(ledger, ask(&team, "5")).await;
    done(ledger.settle(&team, &by_id(&settled), credits("1")).await);
    let entry = conflict(
        ledger
            .charge(&team, &by_id(&settled), credits("2"), "after")
            .await,
    );
    assert_eq!(entry.end, Some(End::Settled));
}

async fn extending_begins_the_time_anew(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = rich_team(ledger).await;
    let id = held(ledger, ask(&team, "1")).await;
    fixture.pass(BRIEF).await;
    let before = ledger.list(&team, 1).await.unwrap()[0].ends_in;
    let entry = done(ledger.extend(&team, &by_id(&id)).await);
    assert_eq!((entry.hold, entry.end, entry.ended_now), (id, None, false));
    let after = ledger.list(&team, 1).await.unwrap()[0].ends_in;
    assert!(after > before, "{before:?} {after:?}");
    assert_eq!(holding(ledger, &team).await, of("1", 1));
}

async fn what_ended_cannot_be_extended(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let id = held(ledger, ask(&team, "1")).await;
    done(ledger.release(&team, &by_id(&id), &Release::Over).await);
    let entry = conflict(ledger.extend(&team, &by_id(&id)).await);
    assert_eq!(entry.end, Some(End::Released));
    assert_eq!(holding(ledger, &team).await, Held::default());
}

async fn a_hold_is_bound_to_one_run(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let (one, other) = (
        held(ledger, ask(&team, "1")).await,
        held(ledger, ask(&team, "2")).await,
    );
    let (run, another) = (fresh_run(), fresh_run());
    let entry = done(ledger.bind(&team, &one, &run).await);
    assert_eq!((&entry.hold, entry.run), (&one, Some(run.clone())));
    again(ledger.bind(&team, &one, &run).await);
    let entry = conflict(ledger.bind(&team, &one, &another).await);
    assert_eq!(entry.run, Some(run.clone()));
    let listed = ledger.list(&team, 10).await.unwrap();
    let run_of = |id: &HoldId| {
        listed
            .iter()
            .find(|live| live.hold == *id)
            .unwrap()
            .run
            .clone()
    };
    assert_eq!(run_of(&one), Some(run.clone()));
    assert_eq!(run_of(&other), None);
    let entry = done(
        ledger
            .settle(&team, &Which::Run(run.clone()), credits("1"))
            .await,
    );
    assert_eq!((entry.hold, entry.run), (one, Some(run)));
    assert_eq!(holding(ledger, &team).await, of("2", 1));
}

async fn a_run_outlives_its_hold(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let (one, other) = (
        held(ledger, ask(&team, "1")).await,
        held(ledger, ask(&team, "2")).await,
    );
    let run = fresh_run();
    done(ledger.bind(&team, &one, &run).await);
    done(ledger.release(&team, &by_id(&one), &Release::Over).await);
    let entry = done(
        ledger
            .settle(&team, &Which::Run(run.clone()), credits("1"))
            .await,
    );
    assert_eq!((&entry.hold, entry.end), (&one, Some(End::Released)));
    again(ledger.bind(&team, &one, &run).await);
    // A follow-up: from here on, the run is it.
    done(ledger.bind(&team, &other, &run).await);
    let entry = done(ledger.extend(&team, &Which::Run(run)).await);
    assert_eq!(entry.hold, other);
}

async fn a_run_has_a_hold_for_each_follow_up(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let run = fresh_run();
    let by_run = Which::Run(run.clone());
    assert_eq!(ledger.of_run(&team, &run).await, Ok(vec![]));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = held(ledger, ask(&team, "1")).await;
        let entry = done(ledger.bind(&team, &id, &run).await);
        assert_eq!((&entry.hold, &entry.run), (&id, &Some(run.clone())));
        ids.insert(0, id);
    }
    let [newest, second, first] = &ids[..] else {
        panic!("{ids:?}");
    };
    assert_eq!(ledger.of_run(&team, &run).await.as_ref(), Ok(&ids));
    let entry = done(ledger.charge(&team, &by_run, credits("0.5"), "part").await);
    assert_eq!((&entry.hold, entry.has_others), (newest, true));
    let entry = done(ledger.release(&team, &by_id(second), &Release::Over).await);
    assert!(!entry.has_others, "found by its id");
    let entry = done(ledger.settle(&team, &by_run, credits("1")).await);
    assert_eq!((&entry.hold, entry.has_others), (newest, true));
    assert_eq!(ledger.of_run(&team, &run).await, Ok(vec![first.clone()]));
    let entry = done(ledger.settle(&team, &by_run, credits("2")).await);
    assert_eq!((&entry.hold, entry.has_others), (first, false));
    // None is live: the newest.
    let entry = again(ledger.settle(&team, &by_run, credits("1")).await);
    assert_eq!((&entry.hold, entry.has_others), (newest, false));
    assert_eq!(holding(ledger, &team).await, Held::default());
    // Bound again, nothing moves.
    again(ledger.bind(&team, first, &run).await);
    let entry = conflict(ledger.extend(&team, &by_run).await);
    assert_eq!(&entry.hold, newest);
}

async fn all_holds_of_a_run_are_released(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let run = fresh_run();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = held(ledger, ask(&team, "1")).await;
        done(ledger.bind(&team, &id, &run).await);
        ids.insert(0, id);
    }
    held(ledger, ask(&team, "5")).await;
    let mut released = Vec::new();
    let note = |change: &Change| match change {
        Change::Done(entry) => released.push(entry.hold.clone()),
        other => panic!("{other:?}"),
    };
    let which = Which::Either(run.as_str().into());
    let last = release_all(ledger, &team, &which, note).await;
    assert_eq!(released, ids);
    assert!(!done(last).has_others);
    assert_eq!(holding(ledger, &team).await, of("5", 1));
    again(release_all(ledger, &team, &which, |_| {}).await);
}

async fn a_run_finds_so_many_holds(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let run = fresh_run();
    let mut ids = Vec::new();
    let bind_one = async || {
        let id = held(ledger, ask(&team, "1")).await;
        done(ledger.bind(&team, &id, &run).await);
        id
    };
    for _ in 0..RUN_HOLDS_MAX {
        ids.insert(0, bind_one().await);
    }
    // One in the middle ends, and goes before those that are older.
    let ended = ids.remove(9);
    done(ledger.release(&team, &by_id(&ended), &Release::Over).await);
    ids.insert(0, bind_one().await);
    assert_eq!(ledger.of_run(&team, &run).await.as_ref(), Ok(&ids));
    let oldest = ids.pop().unwrap();
    ids.insert(0, bind_one().await);
    assert_eq!(ledger.of_run(&team, &run).await.as_ref(), Ok(&ids));
    // It is live, and still the run's.
    let entry = again(ledger.bind(&team, &oldest, &run).await);
    assert_eq!((entry.run, entry.end), (Some(run.clone()), None));
    let by_run = Which::Run(run.clone());
    done(release_all(ledger, &team, &by_run, |_| {}).await);
    assert_eq!(holding(ledger, &team).await, of("1", 1));
}

async fn either_id_will_do(ledger: &dyn Holds) {
    let team = rich_team(ledger).await;
    let (one, other) = (
        held(ledger, ask(&team, "1")).await,
        held(ledger, ask(&team, "2")).await,
    );
    // A run whose id is that of another hold.
    done(ledger.bind(&team, &one, &run_id(other.as_str())).await);
    let either = |text: &str| Which::Either(text.into());
    let entry = done(ledger.extend(&team, &either(other.as_str())).await);
    assert_eq!(entry.hold, other);
    let run = fresh_run();
    done(ledger.bind(&team, &other, &run).await);
    let entry = done(
        ledger
            .release(&team, &either(run.as_str()), &Release::Over)
            .await,
    );
    assert_eq!(entry.hold, other);
    let entry = done(
        ledger
            .release(&team, &either(one.as_str()), &Release::Over)
            .await,
    );
    assert_eq!(entry.hold, one);
    assert_eq!(holding(ledger, &team).await, Held::default());
}

async fn whoever_touches_what_is_up_finds_it_expired(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = rich_team(ledger).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let brief = brief_ask(&team, "2");
        // Whatever the others' time, nobody else may drop these.
        let other = fresh_team();
        ledger.set_balance(&other, credits("2")).await.unwrap();
        held(
            ledger,
            tollgate::ledger::holds::Ask {
                team: other.clone(),
                ..brief.clone()
            },
        )
        .await;
        ids.push((other, brief.id));
    }
    fixture.pass(BRIEF).await;
    let expired = |entry: &Entry| {
        assert_eq!(
            (entry.end, entry.ended_now),
            (Some(End::Expired), true),
            "{entry:?}"
        );
        assert_eq!(entry.credits, credits("2"));
    };
    let (team, id) = &ids[0];
    expired(&done(ledger.settle(team, &by_id(id), credits("1")).await));
    let (team, id) = &ids[1];
    expired(&done(
        ledger.charge(team, &by_id(id), credits("1"), "c").await,
    ));
    let (team, id) = &ids[2];
    expired(&conflict(
        ledger.release(team, &by_id(id), &Release::Over).await,
    ));
    let (team, id) = &ids[3];
    expired(&conflict(ledger.extend(team, &by_id(id)).await));
    let (team, id) = &ids[4];
    let run = fresh_run();
    expired(&done(ledger.bind(team, id, &run).await));
    // So that billing can still settle by the run.
    done(ledger.settle(team, &Which::Run(run), credits("1")).await);
    for (team, id) in &ids {
        let entry = conflict(ledger.extend(team, &by_id(id)).await);
        assert_eq!((entry.end, entry.ended_now), (Some(End::Expired), false));
        assert_eq!(ledger.sweep(team).await, Ok((Held::default(), vec![])));
    }
}

async fn of_a_release_and_a_settlement_one_ends_it(ledger: Arc<dyn Holds>) {
    let team = rich_team(&*ledger).await;
    let before = ledger.balance(&team).await.unwrap();
    for _ in 0..20 {
        let which = by_id(&held(&*ledger, ask(&team, "1")).await);
        let mut changes = tokio::task::JoinSet::new();
        for nth in 0..6 {
            let (ledger, team, which) = (Arc::clone(&ledger), team.clone(), which.clone());
            changes.spawn(async move {
                if nth % 2 == 0 {
                    ledger.release(&team, &which, &Release::Over).await
                } else {
                    ledger.settle(&team, &which, credits("0")).await
                }
            });
        }
        let ended = changes
            .join_all()
            .await
            .into_iter()
            .filter(|change| match change {
                Ok(Change::Done(entry)) => entry.ended_now,
                _ => false,
            });
        assert_eq!(ended.count(), 1);
    }
    assert_eq!(holding(&*ledger, &team).await, Held::default());
    assert_eq!(ledger.balance(&team).await.unwrap(), before);
}

/// On terms that remember for a moment only.
pub async fn claims_of_forgetting(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    what_ended_is_forgotten(fixture).await;
    a_charge_is_remembered_as_long_as_its_hold(fixture).await;
    a_charge_is_remembered_as_long_as_the_end_of_its_hold(fixture).await;
    let team = fresh_team();
    assert!(matches!(
        ledger.grant_once(&team, credits("5"), "g").await,
        Ok(Granted::Done(_))
    ));
    fixture.pass(BRIEF * 3).await;
    // Longer than holds are.
    assert_eq!(
        ledger.grant_once(&team, credits("5"), "g").await,
        Ok(Granted::Again(credits("5")))
    );
}

async fn what_ended_is_forgotten(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = rich_team(ledger).await;
    let first = replayable(&team, "1", 1, 1, None);
    held(ledger, first.clone()).await;
    let run = fresh_run();
    done(ledger.bind(&team, &first.id, &run).await);
    done(ledger.settle(&team, &by_id(&first.id), credits("1")).await);
    fixture.pass(BRIEF).await;
    for which in [by_id(&first.id), Which::Run(run.clone())] {
        eventually("it is forgotten", PATIENCE, || async {
            ledger.sweep(&team).await.unwrap();
            ledger.extend(&team, &which).await == Ok(Change::Unknown)
        })
        .await;
        let settled = ledger.settle(&team, &which, credits("1")).await;
        assert_eq!(settled, Ok(Change::Unknown));
    }
    // So are its key and its run.
    let second = held(ledger, replayable(&team, "1", 1, 2, None)).await;
    done(ledger.bind(&team, &second, &run).await);
}

async fn a_charge_is_remembered_as_long_as_its_hold(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = rich_team(ledger).await;
    let id = held(ledger, ask(&team, "9")).await;
    done(
        ledger
            .charge(&team, &by_id(&id), credits("2"), "part")
            .await,
    );
    fixture.pass(BRIEF * 3).await;
    ledger.sweep(&team).await.unwrap();
    again(
        ledger
            .charge(&team, &by_id(&id), credits("2"), "part")
            .await,
    );
    assert_eq!(holding(ledger, &team).await, of("7", 1));
    assert_eq!(hold(ledger, &ask(&team, "1")).await.outcome, Outcome::Held);
    assert_ne!(hold_id("part"), id);
}

async fn a_charge_is_remembered_as_long_as_the_end_of_its_hold(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let begun = Instant::now();
    loop {
        let team = rich_team(ledger).await;
        let which = by_id(&held(ledger, ask(&team, "9")).await);
        done(ledger.charge(&team, &which, credits("2"), "part").await);
        fixture.pass(BRIEF * 3).await;
        done(ledger.extend(&team, &which).await);
        done(ledger.release(&team, &which, &Release::Over).await);
        let before = ledger.balance(&team).await;
        let charged = ledger.charge(&team, &which, credits("2"), "part").await;
        assert_eq!(ledger.balance(&team).await, before, "debited twice");
        match charged {
            Ok(Change::Again(entry)) => return assert_eq!(entry.figure, credits("2")),
            // On a slow machine even the end is forgotten by now.
            Ok(Change::Unknown) => assert!(begun.elapsed() < PATIENCE),
            other => panic!("charged twice: {other:?}"),
        }
    }
}
