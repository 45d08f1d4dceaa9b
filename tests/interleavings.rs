//! The ledger in this process, in every order in which threads may come to it
//! that a scheduler can think of: `make interleavings`.
//!
//! The locks are shuttle's here, and each claim is tried in many orders, drawn
//! at random or by the number of switches between threads that it takes to
//! break something. A failing order is printed and can be replayed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "a panic is how a claim fails"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shuttle::future::block_on;
use shuttle::thread;
use tollgate::billing::admission::Rule;
use tollgate::billing::credits::Credits;
use tollgate::billing::hold::{End, Held, HoldId};
use tollgate::billing::team::TeamId;
use tollgate::ledger::Ledger;
use tollgate::ledger::holds::{
    Ask, Change, Expired, Granted, Holds, LineKind, Outcome, Release, Repair, Replay, Terms, Which,
    Writer,
};
use tollgate::ledger::memory::{Clock, MemoryLedger};

/// In how many orders each claim is tried, in each of two ways.
const ORDERS: usize = 2_000;

/// How many switches between threads are placed with care.
const SWITCHES: usize = 3;

const HOLD_FOR: Duration = Duration::from_secs(1);

/// Tries a claim in many orders.
fn in_many_orders(claim: impl Fn() + Send + Sync + 'static) {
    let claim = Arc::new(claim);
    let again = Arc::clone(&claim);
    shuttle::check_random(move || claim(), ORDERS);
    shuttle::check_pct(move || again(), ORDERS, SWITCHES);
}

#[derive(Debug)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// A ledger with one team, which has so much.
struct World {
    ledger: Arc<MemoryLedger>,
    clock: Arc<TestClock>,
    team: TeamId,
}

impl World {
    fn with(balance: &str) -> Self {
        let team = TeamId::parse(b"acme").unwrap();
        let clock = Arc::new(TestClock(AtomicU64::new(1_000_000)));
        let at: Arc<dyn Clock> = Arc::<TestClock>::clone(&clock);
        let terms = Terms {
            writer: Writer::Tollgate,
            ..Terms::default()
        };
        let balances = BTreeMap::from([(team.clone(), credits(balance))]);
        let ledger = Arc::new(MemoryLedger::new(balances).with_terms(terms).with_clock(at));
        World {
            ledger,
            clock,
            team,
        }
    }

    /// Runs these at once, and returns what each returned.
    fn at_once<T: Send + 'static>(&self, tasks: Vec<Task<T>>) -> Vec<T> {
        let threads: Vec<_> = tasks
            .into_iter()
            .map(|task| {
                let (ledger, team) = (Arc::clone(&self.ledger), self.team.clone());
                thread::spawn(move || task(&ledger, &team))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    }

    fn hold(&self, id: &str) -> Outcome {
        hold(&self.ledger, &ask(&self.team, id))
    }

    fn held(&self) -> Held {
        block_on(self.ledger.standing(&self.team)).unwrap().held
    }

    fn is_sound(&self) -> bool {
        block_on(self.ledger.audit(&self.team, Repair::Report))
            .unwrap()
            .is_sound()
    }
}

type Task<T> = Box<dyn FnOnce(&MemoryLedger, &TeamId) -> T + Send>;

fn credits(text: &str) -> Credits {
    text.parse().unwrap()
}

fn id(text: &str) -> HoldId {
    HoldId::parse(text.as_bytes()).unwrap()
}

fn by_id(text: &str) -> Which {
    Which::Hold(id(text))
}

fn ask(team: &TeamId, hold: &str) -> Ask {
    Ask {
        team: team.clone(),
        id: id(hold),
        credits: credits("1"),
        hold_for: HOLD_FOR,
        rule: Rule::default(),
        replay: None,
    }
}

fn hold(ledger: &MemoryLedger, ask: &Ask) -> Outcome {
    block_on(ledger.hold_by(ask, Instant::now()))
        .unwrap()
        .outcome
}

#[test]
fn concurrent_starts_admit_exactly_what_there_is() {
    in_many_orders(|| {
        let world = World::with("2.5");
        let start = |name: &'static str| -> Task<Outcome> {
            Box::new(move |ledger, team| hold(ledger, &ask(team, name)))
        };
        let outcomes = world.at_once(["a", "b", "c", "d", "e"].map(start).into());
        let admitted = outcomes
            .iter()
            .filter(|outcome| **outcome == Outcome::Held)
            .count();
        assert_eq!(admitted, 2, "{outcomes:?}");
        assert_eq!(
            world.held(),
            Held {
                credits: credits("2"),
                live: 2
            }
        );
        assert!(world.is_sound());
    });
}

#[test]
fn credits_that_come_free_are_held_once() {
    in_many_orders(|| {
        let world = World::with("1");
        assert_eq!(world.hold("a"), Outcome::Held);
        let start = |name: &'static str| -> Task<u32> {
            Box::new(move |ledger, team| u32::from(hold(ledger, &ask(team, name)) == Outcome::Held))
        };
        let release: Task<u32> = Box::new(|ledger, team| {
            let change = block_on(ledger.release(team, &by_id("a"), &Release::Over));
            assert!(matches!(change, Ok(Change::Done(_))), "{change:?}");
            0
        });
        let admitted: u32 = world
            .at_once(vec![start("b"), release, start("c")])
            .iter()
            .sum();
        assert!(admitted <= 1);
        assert_eq!(world.held().live, u64::from(admitted));
    });
}

#[test]
fn a_hold_ends_once_whoever_ends_it() {
    in_many_orders(|| {
        let world = World::with("5");
        assert_eq!(world.hold("a"), Outcome::Held);
        let clock = Arc::clone(&world.clock);
        let of = |change: Change| match change {
            Change::Done(entry) | Change::Again(entry) | Change::Conflict(entry) => {
                entry.end.filter(|_| entry.ended_now).into_iter().collect()
            }
            Change::Unknown => panic!("it is known"),
        };
        let tasks: Vec<Task<Vec<End>>> = vec![
            Box::new(move |ledger, team| {
                of(block_on(ledger.release(team, &by_id("a"), &Release::Over)).unwrap())
            }),
            Box::new(move |ledger, team| {
                of(block_on(ledger.settle(team, &by_id("a"), credits("2"))).unwrap())
            }),
            Box::new(move |ledger, team| {
                clock.0.fetch_add(1_000, Ordering::SeqCst);
                let (_, expired) = block_on(ledger.sweep(team)).unwrap();
                expired.iter().map(|_: &Expired| End::Expired).collect()
            }),
            Box::new(move |ledger, team| of(block_on(ledger.extend(team, &by_id("a"))).unwrap())),
        ];
        let ends: Vec<End> = world.at_once(tasks).concat();
        assert_eq!(ends.len(), 1, "{ends:?}");
        assert_eq!(world.held(), Held::default());
        assert!(world.is_sound());
        // Debited once, however it ended.
        let lines = block_on(world.ledger.statement(&world.team, "", 9)).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(
            (lines[0].kind, lines[0].balance),
            (LineKind::Settle, credits("3"))
        );
    });
}

#[test]
fn a_figure_is_debited_once() {
    in_many_orders(|| {
        let world = World::with("5");
        assert_eq!(world.hold("a"), Outcome::Held);
        let charge = |amount: &'static str| -> Task<u32> {
            Box::new(move |ledger, team| {
                let change = block_on(ledger.charge(team, &by_id("a"), credits(amount), "part"));
                u32::from(matches!(change, Ok(Change::Done(_))))
            })
        };
        let done: u32 = world
            .at_once(vec![charge("1"), charge("1"), charge("2")])
            .iter()
            .sum();
        assert_eq!(done, 1);
        let lines = block_on(world.ledger.statement(&world.team, "", 9)).unwrap();
        assert_eq!(lines.len(), 1);
        let balance = block_on(world.ledger.balance(&world.team)).unwrap();
        assert_eq!(balance, Some(lines[0].balance));
    });
}

#[test]
fn a_grant_adds_once() {
    in_many_orders(|| {
        let world = World::with("1");
        let grant = || -> Task<bool> {
            Box::new(|ledger, team| {
                let granted = block_on(ledger.grant_once(team, credits("2"), "invoice")).unwrap();
                match granted {
                    Granted::Done(balance) if balance == credits("3") => true,
                    Granted::Again(balance) if balance == credits("3") => false,
                    other => panic!("{other:?}"),
                }
            })
        };
        let done = world.at_once(vec![grant(), grant(), grant()]);
        assert_eq!(done.iter().filter(|done| **done).count(), 1);
    });
}

#[test]
fn replays_share_one_hold_until_the_last_gives_up() {
    in_many_orders(|| {
        let world = World::with("5");
        let start = |name: &'static str| -> Task<Outcome> {
            Box::new(move |ledger, team| {
                let replay = Replay {
                    key: [1; 32],
                    route: [1; 32],
                    body: None,
                };
                let outcome = hold(
                    ledger,
                    &Ask {
                        replay: Some(replay),
                        ..ask(team, name)
                    },
                );
                let shared = match &outcome {
                    Outcome::Replayed { hold, .. } => hold.clone(),
                    _ => id(name),
                };
                let why = Release::NotStarted(id(name));
                let change = block_on(ledger.release(team, &Which::Hold(shared), &why));
                assert!(matches!(change, Ok(Change::Done(_))), "{change:?}");
                outcome
            })
        };
        let outcomes = world.at_once(vec![start("a"), start("b"), start("c")]);
        assert!(outcomes.contains(&Outcome::Held), "{outcomes:?}");
        assert_eq!(world.held(), Held::default());
        assert!(world.is_sound());
    });
}

#[test]
fn one_start_sent_twice_is_held_once_or_given_up() {
    in_many_orders(|| {
        let world = World::with("5");
        let send = || -> Task<()> {
            Box::new(|ledger, team| {
                // An error says that it was given up.
                let _ = block_on(ledger.hold_by(&ask(team, "a"), Instant::now()));
            })
        };
        let give_up: Task<()> = Box::new(|ledger, team| {
            let why = Release::NotStarted(id("a"));
            block_on(ledger.release(team, &by_id("a"), &why)).unwrap();
        });
        world.at_once(vec![send(), give_up, send()]);
        // Whatever came first: what was given up is not held.
        assert_eq!(world.held(), Held::default());
    });
}

#[test]
fn a_book_that_empties_loses_nobodys_credits() {
    in_many_orders(|| {
        let team = TeamId::parse(b"acme").unwrap();
        let world = World {
            ledger: Arc::default(),
            team,
            ..World::with("0")
        };
        let tasks: Vec<Task<()>> = vec![
            Box::new(|ledger, team| {
                block_on(ledger.grant(team, credits("2"))).unwrap();
            }),
            Box::new(|ledger, team| {
                block_on(ledger.sweep(team)).unwrap();
                hold(ledger, &ask(team, "a"));
            }),
            Box::new(|ledger, team| {
                block_on(ledger.grant(team, credits("3"))).unwrap();
            }),
        ];
        world.at_once(tasks);
        let balance = block_on(world.ledger.balance(&world.team)).unwrap();
        assert_eq!(balance, Some(credits("5")));
    });
}
