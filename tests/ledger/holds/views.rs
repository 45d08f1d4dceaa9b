//! What operators see, and whose run it is.

use std::time::Duration;

use tollgate::billing::hold::{Held, HoldId};
use tollgate::ledger::holds::{
    Ask, Audit, Begun, Change, Holds, LiveHold, Noted, Repair, Standing,
};

use super::{BRIEF, Fixture, LONG, ask, brief_ask, done, fresh_run, held, holding, of};
use crate::{PATIENCE, credits, eventually, fresh_team};

pub async fn claims(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    a_team_that_is_not_there_has_nothing(ledger).await;
    live_holds_are_listed_the_next_to_expire_first(ledger).await;
    what_can_be_spent_may_be_below_zero(ledger).await;
    an_audit_finds_the_holds_as_counted(fixture).await;
    teams_with_holds_are_known(ledger).await;
    whose_run_it_is_is_known_for_a_while(fixture).await;
    runs_are_bound_and_noted_together_each_on_its_own(ledger).await;
}

async fn a_team_that_is_not_there_has_nothing(ledger: &dyn Holds) {
    let team = fresh_team();
    let nothing = Standing {
        balance: None,
        held: Held::default(),
    };
    assert_eq!(ledger.standing(&team).await, Ok(nothing));
    assert_eq!(nothing.spendable(), None);
    assert_eq!(ledger.list(&team, 10).await, Ok(vec![]));
    assert_eq!(ledger.sweep(&team).await, Ok((Held::default(), vec![])));
    assert!(
        ledger
            .audit(&team, Repair::Report)
            .await
            .unwrap()
            .is_sound()
    );
    assert!(!ledger.teams().await.unwrap().contains(&team));
}

async fn live_holds_are_listed_the_next_to_expire_first(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let hours = |hours: u32| LONG * hours;
    let mut ids = Vec::new();
    for (amount, hold_for) in [("1", hours(3)), ("2", hours(1)), ("3", hours(2))] {
        ids.push(
            held(
                ledger,
                Ask {
                    hold_for,
                    ..ask(&team, amount)
                },
            )
            .await,
        );
    }
    let run = fresh_run();
    done(ledger.bind(&team, &ids[2], &run).await);
    let listed = ledger.list(&team, 10).await.unwrap();
    let near = |ends_in: Duration, hold_for| ends_in <= hold_for && hold_for - ends_in < PATIENCE;
    let expected = [(1, "2", hours(1)), (2, "3", hours(2)), (0, "1", hours(3))];
    assert_eq!(listed.len(), expected.len());
    for (live, (nth, amount, hold_for)) in listed.iter().zip(expected) {
        assert!(near(live.ends_in, hold_for), "{live:?}");
        let run = (nth == 2).then(|| run.clone());
        let wanted = LiveHold {
            hold: ids[nth].clone(),
            run,
            credits: credits(amount),
            ends_in: live.ends_in,
        };
        assert_eq!(*live, wanted);
    }
    let first: Vec<_> = ledger.list(&team, 2).await.unwrap();
    let first: Vec<_> = first.into_iter().map(|live| live.hold).collect();
    assert_eq!(first, [ids[1].clone(), ids[2].clone()]);
}

async fn what_can_be_spent_may_be_below_zero(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    held(ledger, ask(&team, "8")).await;
    ledger.set_balance(&team, credits("5")).await.unwrap();
    let standing = ledger.standing(&team).await.unwrap();
    assert_eq!(standing.spendable(), Some(credits("-3")));
}

async fn an_audit_finds_the_holds_as_counted(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    held(ledger, ask(&team, "1")).await;
    held(ledger, ask(&team, "2.5")).await;
    held(ledger, brief_ask(&team, "3")).await;
    fixture.pass(BRIEF).await;
    let audit = ledger.audit(&team, Repair::Report).await.unwrap();
    assert_eq!(audit.expired.len(), 1, "{audit:?}");
    for repair in [Repair::Report, Repair::Repair] {
        let audit = ledger.audit(&team, repair).await.unwrap();
        let sound = Audit {
            counted: of("3.5", 2),
            summed: of("3.5", 2),
            strays: 0,
            repaired: false,
            expired: vec![],
        };
        assert_eq!(audit, sound);
        assert!(audit.is_sound());
    }
    assert_eq!(holding(ledger, &team).await, of("3.5", 2));
}

async fn teams_with_holds_are_known(ledger: &dyn Holds) {
    let (with, without) = (fresh_team(), fresh_team());
    for team in [&with, &without] {
        ledger.set_balance(team, credits("10")).await.unwrap();
    }
    held(ledger, ask(&with, "1")).await;
    let teams = ledger.teams().await.unwrap();
    assert_eq!(teams.iter().filter(|team| **team == with).count(), 1);
    assert!(!teams.contains(&without));
}

async fn whose_run_it_is_is_known_for_a_while(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let (one, other) = (fresh_team(), fresh_team());
    let run = fresh_run();
    assert_eq!(ledger.team_of(&run).await, Ok(None));
    assert_eq!(ledger.note_run(&run, &one, LONG).await, Ok(Noted::Done));
    assert_eq!(ledger.team_of(&run).await, Ok(Some(one.clone())));
    let taken = ledger.note_run(&run, &other, LONG).await;
    assert_eq!(taken, Ok(Noted::Taken));
    assert_eq!(ledger.team_of(&run).await, Ok(Some(one.clone())));
    let again = ledger.note_run(&run, &one, BRIEF).await;
    assert_eq!(again, Ok(Noted::Done));
    fixture.pass(BRIEF).await;
    eventually("the note is forgotten", PATIENCE, || async {
        ledger.team_of(&run).await == Ok(None)
    })
    .await;
    assert_eq!(ledger.note_run(&run, &other, LONG).await, Ok(Noted::Done));
    assert_eq!(ledger.team_of(&run).await, Ok(Some(other)));
}

async fn runs_are_bound_and_noted_together_each_on_its_own(ledger: &dyn Holds) {
    let (one, other) = (fresh_team(), fresh_team());
    for team in [&one, &other] {
        ledger.set_balance(team, credits("10")).await.unwrap();
    }
    let (first, second) = (
        held(ledger, ask(&one, "1")).await,
        held(ledger, ask(&other, "1")).await,
    );
    let nobodys = HoldId::from_bits(17);
    let (run, another) = (fresh_run(), fresh_run());
    let begun = [
        (&one, &first, &run),
        (&one, &first, &run),
        (&one, &first, &another),
        (&other, &nobodys, &another),
        (&other, &second, &run),
    ]
    .map(|(team, hold, run)| Begun {
        team,
        hold,
        run,
        note_for: LONG,
    });
    let changes = ledger.bind_all(&begun).await;
    let [
        Ok(Change::Done(done)),
        Ok(Change::Again(again)),
        Ok(Change::Conflict(conflict)),
        Ok(Change::Unknown),
        Ok(Change::Done(others)),
    ] = &changes[..]
    else {
        panic!("{changes:?}");
    };
    for entry in [done, again, conflict] {
        assert_eq!((&entry.hold, entry.run.as_ref()), (&first, Some(&run)));
    }
    assert_eq!(others.hold, second);
    let noted = ledger.note_all(&[begun[0], begun[1], begun[4]]).await;
    assert_eq!(noted, [Ok(Noted::Done), Ok(Noted::Done), Ok(Noted::Taken)]);
    assert_eq!(ledger.team_of(&run).await, Ok(Some(one)));
    assert_eq!(ledger.bind_all(&[]).await, []);
    assert_eq!(ledger.note_all(&[]).await, []);
}
