//! What holds to the millisecond, where the clock is in the test's hand.

use std::time::Duration;

use tollgate::billing::admission::Refusal;
use tollgate::billing::hold::{End, Held};
use tollgate::ledger::Ledger;
use tollgate::ledger::holds::{
    Ask, Change, GRANTS_REMEMBERED, Granted, Holds, Outcome, Release, Terms,
};

use super::{
    BRIEF, InMemory, again, ask, brief_ask, by_id, by_tollgate, conflict, done, fresh_run, held,
    hold, holding, of, replayable,
};
use crate::{credits, fresh_team};

const TICK: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_hold_counts_until_its_last_millisecond_and_no_longer() {
    let InMemory { ledger, clock } = InMemory::new(Terms::default());
    let team = fresh_team();
    ledger.set_balance(&team, credits("1")).await.unwrap();
    let id = held(&*ledger, brief_ask(&team, "1")).await;
    clock.pass(BRIEF - TICK);
    let refused = hold(&*ledger, &ask(&team, "1")).await.outcome;
    let held_by_one = Outcome::Refused {
        refusal: Refusal::CreditsHeld,
        balance: credits("1"),
        next_end: Some(TICK),
    };
    assert_eq!(refused, held_by_one);
    assert_eq!(ledger.list(&team, 1).await.unwrap()[0].ends_in, TICK);
    clock.pass(TICK);
    assert_eq!(holding(&*ledger, &team).await, Held::default());
    let answer = hold(&*ledger, &ask(&team, "1")).await;
    assert_eq!(answer.outcome, Outcome::Held);
    assert_eq!(answer.expired[0].hold, id);
}

#[tokio::test]
async fn an_extended_hold_has_its_whole_time_again() {
    let InMemory { ledger, clock } = InMemory::new(Terms::default());
    let team = fresh_team();
    ledger.set_balance(&team, credits("1")).await.unwrap();
    let id = held(&*ledger, brief_ask(&team, "1")).await;
    for _ in 0..5 {
        clock.pass(BRIEF - TICK);
        done(ledger.extend(&team, &by_id(&id)).await);
    }
    clock.pass(BRIEF - TICK);
    assert_eq!(holding(&*ledger, &team).await, of("1", 1));
    clock.pass(TICK);
    let entry = conflict(ledger.extend(&team, &by_id(&id)).await);
    assert_eq!((entry.end, entry.ended_now), (Some(End::Expired), true));
}

#[tokio::test]
async fn what_is_remembered_is_forgotten_on_time() {
    let terms = by_tollgate();
    let InMemory { ledger, clock } = InMemory::new(terms);
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let first = replayable(&team, "1", 1, 1, None);
    held(&*ledger, first.clone()).await;
    let run = fresh_run();
    done(ledger.bind(&team, &first.id, &run).await);
    done(ledger.settle(&team, &by_id(&first.id), credits("1")).await);
    clock.pass(terms.remember - TICK);
    again(ledger.settle(&team, &by_id(&first.id), credits("1")).await);
    let shared = hold(&*ledger, &replayable(&team, "1", 1, 1, None))
        .await
        .outcome;
    assert_eq!(
        shared,
        Outcome::Replayed {
            hold: first.id.clone(),
            end: Some(End::Settled)
        }
    );
    clock.pass(TICK);
    let settled = ledger.settle(&team, &by_id(&first.id), credits("1")).await;
    assert_eq!(settled, Ok(Change::Unknown));
    held(&*ledger, replayable(&team, "1", 1, 2, None)).await;
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("9"))));
}

#[tokio::test]
async fn a_grant_is_remembered_longer_than_an_invoice_is_open() {
    let InMemory { ledger, clock } = InMemory::new(Terms::default());
    let team = fresh_team();
    let grant = || ledger.grant_once(&team, credits("5"), "invoice");
    assert_eq!(grant().await, Ok(Granted::Done(credits("5"))));
    clock.pass(GRANTS_REMEMBERED - TICK);
    assert_eq!(grant().await, Ok(Granted::Again(credits("5"))));
    clock.pass(TICK);
    assert_eq!(grant().await, Ok(Granted::Done(credits("10"))));
}

#[tokio::test]
async fn a_clock_that_goes_back_brings_nothing_to_life() {
    let InMemory { ledger, clock } = InMemory::new(Terms::default());
    let team = fresh_team();
    ledger.set_balance(&team, credits("1")).await.unwrap();
    held(&*ledger, brief_ask(&team, "1")).await;
    clock.pass(BRIEF);
    assert_eq!(holding(&*ledger, &team).await, Held::default());
    clock.go_back(BRIEF);
    assert_eq!(holding(&*ledger, &team).await, Held::default());
    held(&*ledger, ask(&team, "1")).await;
}

#[tokio::test]
async fn nothing_piles_up() {
    let terms = Terms {
        remember: BRIEF,
        ..Terms::default()
    };
    let InMemory { ledger, clock } = InMemory::new(terms);
    let team = fresh_team();
    for nth in 0..2_000_u32 {
        ledger.set_balance(&team, credits("9")).await.unwrap();
        let asked = Ask {
            hold_for: BRIEF,
            ..replayable(&team, "1", 1, 1, None)
        };
        let asked = Ask {
            replay: asked.replay.clone().filter(|_| nth % 2 == 0),
            ..asked
        };
        let id = asked.id.clone();
        hold(&*ledger, &asked).await;
        let _ = ledger.bind(&team, &id, &fresh_run()).await;
        let _ = ledger
            .charge(&team, &by_id(&id), credits("0.1"), &format!("c{nth}"))
            .await;
        let _ = ledger
            .release(&team, &by_id(&id), &Release::NotStarted(id.clone()))
            .await;
        clock.pass(BRIEF / 4);
    }
    let size = format!("{ledger:?}").len();
    assert!(
        size < 40_000,
        "{size} bytes are kept of a team that holds next to nothing"
    );
    clock.pass(BRIEF * 10);
    for _ in 0..10 {
        ledger.sweep(&team).await.unwrap();
        clock.pass(BRIEF);
    }
    assert!(!ledger.teams().await.unwrap().contains(&team));
}
