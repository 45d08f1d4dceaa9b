//! What becomes of the balance, and what its statement says.

use std::sync::Arc;

use tollgate::billing::credits::Credits;
use tollgate::billing::hold::Held;
use tollgate::ledger::LedgerError;
use tollgate::ledger::holds::{Granted, Holds, LineKind, Release, Which};

use super::{
    BRIEF, Fixture, again, ask, brief_ask, by_id, conflict, done, fresh_run, held, holding, of,
};
use crate::{credits, fresh_team};

pub async fn claims_where_billing_writes(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    the_balance_stays_billings_own(ledger).await;
    a_grant_is_made_once_per_id(fixture.ledger()).await;
}

pub async fn claims_where_tollgate_writes(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    what_a_run_cost_is_debited_once(ledger).await;
    a_debit_may_go_below_zero_and_begin_at_nothing(ledger).await;
    what_was_released_or_expired_is_still_debited_once(fixture).await;
    what_cannot_be_told_exactly_changes_nothing(ledger).await;
    a_spoilt_balance_is_not_debited(fixture).await;
    each_change_is_a_line(ledger).await;
    lines_are_read_on_from_a_place(ledger).await;
    a_grant_is_made_once_per_id(fixture.ledger()).await;
}

async fn the_balance_stays_billings_own(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let id = held(ledger, ask(&team, "5")).await;
    let entry = done(ledger.charge(&team, &by_id(&id), credits("2"), "c").await);
    assert_eq!(entry.balance, None);
    let entry = done(ledger.settle(&team, &by_id(&id), credits("9")).await);
    assert_eq!(entry.balance, None);
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("10"))));
    assert_eq!(ledger.statement(&team, "", 10).await, Ok(vec![]));
}

async fn what_a_run_cost_is_debited_once(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let which = by_id(&held(ledger, ask(&team, "5")).await);
    let entry = done(ledger.charge(&team, &which, credits("2"), "c").await);
    assert_eq!(entry.balance, Some(credits("8")));
    again(ledger.charge(&team, &which, credits("2"), "c").await);
    conflict(ledger.charge(&team, &which, credits("3"), "c").await);
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("8"))));
    // The last part, not the whole.
    let entry = done(ledger.settle(&team, &which, credits("1.5")).await);
    assert_eq!(entry.balance, Some(credits("6.5")));
    again(ledger.settle(&team, &which, credits("1.5")).await);
    conflict(ledger.settle(&team, &which, credits("2")).await);
    conflict(ledger.charge(&team, &which, credits("2"), "d").await);
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("6.5"))));
}

async fn a_debit_may_go_below_zero_and_begin_at_nothing(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("1")).await.unwrap();
    let id = held(ledger, ask(&team, "1")).await;
    let entry = done(ledger.settle(&team, &by_id(&id), credits("3.25")).await);
    assert_eq!(entry.balance, Some(credits("-2.25")));
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("-2.25"))));
}

async fn what_was_released_or_expired_is_still_debited_once(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let released = by_id(&held(ledger, ask(&team, "1")).await);
    done(ledger.release(&team, &released, &Release::Over).await);
    let expired = by_id(&held(ledger, brief_ask(&team, "1")).await);
    fixture.pass(BRIEF).await;
    for (which, balance) in [(released, "8"), (expired, "6")] {
        let entry = done(ledger.settle(&team, &which, credits("2")).await);
        assert_eq!(entry.balance, Some(credits(balance)));
        again(ledger.settle(&team, &which, credits("2")).await);
        conflict(ledger.settle(&team, &which, credits("3")).await);
        assert_eq!(ledger.balance(&team).await, Ok(Some(credits(balance))));
    }
}

async fn what_cannot_be_told_exactly_changes_nothing(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("5")).await.unwrap();
    let which = by_id(&held(ledger, ask(&team, "5")).await);
    ledger.set_balance(&team, Credits::MIN).await.unwrap();
    let lines = ledger.statement(&team, "", 10).await.unwrap();
    assert!(ledger.settle(&team, &which, credits("1")).await.is_err());
    assert!(
        ledger
            .charge(&team, &which, credits("1"), "c")
            .await
            .is_err()
    );
    assert!(ledger.grant_once(&team, credits("-1"), "g").await.is_err());
    assert_eq!(ledger.balance(&team).await, Ok(Some(Credits::MIN)));
    assert_eq!(holding(ledger, &team).await, of("5", 1));
    assert_eq!(ledger.statement(&team, "", 10).await, Ok(lines));
    // And no id was used up.
    ledger.set_balance(&team, credits("5")).await.unwrap();
    done(ledger.charge(&team, &which, credits("2"), "c").await);
    done(ledger.settle(&team, &which, credits("1")).await);
    assert_eq!(
        ledger.grant_once(&team, credits("1"), "g").await,
        Ok(Granted::Done(credits("3")))
    );
}

async fn a_spoilt_balance_is_not_debited(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = fresh_team();
    ledger.set_balance(&team, credits("5")).await.unwrap();
    let which = by_id(&held(ledger, ask(&team, "5")).await);
    if !fixture.spoil(&team).await {
        return;
    }
    assert!(ledger.settle(&team, &which, credits("1")).await.is_err());
    assert!(
        ledger
            .charge(&team, &which, credits("1"), "c")
            .await
            .is_err()
    );
    assert!(ledger.grant_once(&team, credits("1"), "g").await.is_err());
    ledger.set_balance(&team, credits("5")).await.unwrap();
    assert_eq!(holding(ledger, &team).await, of("5", 1));
    done(ledger.charge(&team, &which, credits("1"), "c").await);
    done(ledger.settle(&team, &which, credits("1")).await);
}

async fn each_change_is_a_line(ledger: &dyn Holds) {
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    ledger.grant(&team, credits("5")).await.unwrap();
    ledger
        .grant_once(&team, credits("1"), "invoice 7")
        .await
        .unwrap();
    ledger
        .grant_once(&team, credits("1"), "invoice 7")
        .await
        .unwrap();
    ledger.set_balance(&team, credits("12")).await.unwrap();
    let id = held(ledger, ask(&team, "3")).await;
    let run = fresh_run();
    done(ledger.bind(&team, &id, &run).await);
    for _ in 0..2 {
        ledger
            .charge(&team, &by_id(&id), credits("2"), "part")
            .await
            .unwrap();
        ledger
            .settle(&team, &Which::Run(run.clone()), credits("1.5"))
            .await
            .unwrap();
    }
    let lines = ledger.statement(&team, "", 100).await.unwrap();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line.kind,
                line.credits,
                line.balance,
                line.reference.as_deref(),
            )
        })
        .collect();
    let line =
        |kind, added, balance, reference| (kind, credits(added), credits(balance), reference);
    assert_eq!(
        told,
        [
            line(LineKind::Set, "10", "10", None),
            line(LineKind::Grant, "5", "15", None),
            line(LineKind::Grant, "1", "16", Some("invoice 7")),
            line(LineKind::Set, "-4", "12", None),
            line(LineKind::Charge, "-2", "10", Some("part")),
            line(LineKind::Settle, "-1.5", "8.5", None),
        ]
    );
    for (at, line) in lines.iter().enumerate() {
        let (hold, of) = if at < 4 {
            (None, None)
        } else {
            (Some(&id), Some(&run))
        };
        assert_eq!(
            (line.hold.as_ref(), line.run.as_ref()),
            (hold, of),
            "{line:?}"
        );
    }
    assert!(lines.is_sorted_by_key(|line| line.at));
}

async fn lines_are_read_on_from_a_place(ledger: &dyn Holds) {
    let team = fresh_team();
    for _ in 0..7 {
        ledger.grant(&team, credits("1")).await.unwrap();
    }
    let all = ledger.statement(&team, "", 100).await.unwrap();
    assert_eq!(all.len(), 7);
    let mut read = Vec::new();
    let mut place = String::new();
    loop {
        let some = ledger.statement(&team, &place, 3).await.unwrap();
        assert!(some.len() <= 3);
        let Some(last) = some.last() else { break };
        place.clone_from(&last.id);
        read.extend(some);
    }
    assert_eq!(read, all);
    assert_eq!(ledger.statement(&fresh_team(), "", 10).await, Ok(vec![]));
}

/// On terms of three lines.
pub async fn the_oldest_lines_go(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = fresh_team();
    for _ in 0..10 {
        ledger.grant(&team, credits("1")).await.unwrap();
    }
    let id = held(ledger, ask(&team, "1")).await;
    done(ledger.settle(&team, &by_id(&id), credits("1")).await);
    let lines = ledger.statement(&team, "", 100).await.unwrap();
    let balances: Vec<_> = lines.iter().map(|line| line.balance).collect();
    assert_eq!(balances, ["9", "10", "9"].map(credits));
}

/// On terms of three lines.
pub async fn nothing_is_debited_past_a_full_statement(fixture: &dyn Fixture) {
    let ledger = &*fixture.ledger();
    let team = fresh_team();
    for _ in 0..3 {
        ledger.grant(&team, credits("1")).await.unwrap();
    }
    let which = by_id(&held(ledger, ask(&team, "2")).await);
    let errors = [
        ledger.grant(&team, credits("1")).await.map(drop),
        ledger.grant_once(&team, credits("1"), "g").await.map(drop),
        ledger.set_balance(&team, credits("1")).await,
        ledger
            .charge(&team, &which, credits("1"), "c")
            .await
            .map(drop),
        ledger.settle(&team, &which, credits("1")).await.map(drop),
    ];
    for error in errors {
        let error = error.expect_err("there is no room");
        assert!(matches!(error, LedgerError::Full(_)), "{error:?}");
        assert!(error.to_string().contains("trim"), "{error}");
    }
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("3"))));
    assert_eq!(ledger.statement(&team, "", 10).await.unwrap().len(), 3);
    // Holding needs no line.
    held(ledger, ask(&team, "1")).await;
    done(ledger.release(&team, &which, &Release::Over).await);
    assert_eq!(holding(ledger, &team).await, of("1", 1));
}

async fn a_grant_is_made_once_per_id(ledger: Arc<dyn Holds>) {
    let team = fresh_team();
    let mut grants = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (ledger, team) = (Arc::clone(&ledger), team.clone());
        grants.spawn(async move { ledger.grant_once(&team, credits("2.5"), "invoice").await });
    }
    let (mut done, mut again) = (0, 0);
    for granted in grants.join_all().await {
        match granted {
            Ok(Granted::Done(balance)) if balance == credits("2.5") => done += 1,
            Ok(Granted::Again(balance)) if balance == credits("2.5") => again += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((done, again), (1, 19));
    assert_eq!(
        ledger.grant_once(&team, credits("3"), "invoice").await,
        Ok(Granted::Conflict(credits("2.5")))
    );
    assert_eq!(
        ledger.grant_once(&team, credits("1"), "other").await,
        Ok(Granted::Done(credits("3.5")))
    );
    // Once per team.
    let other = fresh_team();
    assert_eq!(
        ledger.grant_once(&other, credits("9"), "invoice").await,
        Ok(Granted::Done(credits("9")))
    );
    assert_eq!(holding(&*ledger, &team).await, Held::default());
}
