//! What a ledger promises of holds: one suite of claims that every kind of
//! ledger passes.
//!
//! A [`Fixture`] says how to come by a ledger, how to spoil a balance and how
//! to let time pass. Redis has real time alone, so no claim here says that a
//! short hold is still live; what holds to the millisecond is claimed of the
//! memory ledger, whose clock is in the test's hand.

#[path = "holds/admission.rs"]
mod admission;
#[path = "holds/endings.rs"]
mod endings;
#[path = "holds/exact.rs"]
mod exact;
#[path = "holds/histories.rs"]
mod histories;
#[path = "holds/model.rs"]
mod model;
#[path = "holds/money.rs"]
mod money;
#[path = "holds/redis.rs"]
mod redis;
#[path = "holds/replays.rs"]
mod replays;
#[path = "holds/views.rs"]
mod views;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tollgate::billing::admission::Rule;
use tollgate::billing::credits::Credits;
use tollgate::billing::hold::{Held, HoldId, RunId};
use tollgate::billing::team::TeamId;
use tollgate::ledger::LedgerError;
use tollgate::ledger::holds::{
    Answer, Ask, Change, Entry, Holds, Outcome, Replay, Terms, WhenFull, Which, Writer,
};
use tollgate::ledger::memory::{Clock, MemoryLedger};

use crate::{PATIENCE, credits};

/// A hold of this length ends by itself only after every test.
pub const LONG: Duration = Duration::from_secs(3600);
/// A hold of this length is up as soon as a test waits for it.
pub const BRIEF: Duration = Duration::from_millis(40);

/// A ledger of some kind, and what a test can do to it from outside.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The ledger.
    fn ledger(&self) -> Arc<dyn Holds>;

    /// Puts something in the balance's place that is none. `false`: this kind
    /// of ledger cannot hold such a thing.
    async fn spoil(&self, team: &TeamId) -> bool;

    /// Returns when the ledger's clock has gone on by this much.
    async fn pass(&self, time: Duration);
}

/// Opens ledgers of one kind.
#[async_trait]
pub trait Kind: Send + Sync {
    /// A ledger on these terms.
    async fn open(&self, terms: Terms) -> Box<dyn Fixture>;
}

/// The whole suite.
pub async fn keeps_holds(kind: &dyn Kind) {
    let billing = kind.open(Terms::default()).await;
    let tollgate = kind.open(by_tollgate()).await;
    for fixture in [&*billing, &*tollgate] {
        admission::claims(fixture).await;
        replays::claims(fixture).await;
        endings::claims(fixture).await;
        views::claims(fixture).await;
    }
    money::claims_where_billing_writes(&*billing).await;
    money::claims_where_tollgate_writes(&*tollgate).await;
    for when_full in [WhenFull::Trim, WhenFull::Refuse] {
        let fixture = kind
            .open(Terms {
                statement_length: 3,
                when_full,
                ..by_tollgate()
            })
            .await;
        match when_full {
            WhenFull::Trim => money::the_oldest_lines_go(&*fixture).await,
            WhenFull::Refuse => money::nothing_is_debited_past_a_full_statement(&*fixture).await,
        }
    }
    let forgetful = kind
        .open(Terms {
            remember: BRIEF,
            ..by_tollgate()
        })
        .await;
    endings::claims_of_forgetting(&*forgetful).await;
}

/// Terms where the ledger debits the balance.
pub fn by_tollgate() -> Terms {
    Terms {
        writer: Writer::Tollgate,
        ..Terms::default()
    }
}

/// A clock in the test's hand.
#[derive(Debug)]
pub struct TestClock(AtomicU64);

impl TestClock {
    pub fn new() -> Arc<Self> {
        Arc::new(TestClock(AtomicU64::new(1_700_000_000_000)))
    }

    pub fn pass(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).expect("a short time");
        self.0.fetch_add(millis, Ordering::SeqCst);
    }

    pub fn millis(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub fn go_back(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).expect("a short time");
        self.0.fetch_sub(millis, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// The ledger in this process.
pub struct InMemory {
    pub ledger: Arc<MemoryLedger>,
    pub clock: Arc<TestClock>,
}

impl InMemory {
    pub fn new(terms: Terms) -> Self {
        let clock = TestClock::new();
        let at: Arc<dyn Clock> = Arc::<TestClock>::clone(&clock);
        let ledger = Arc::new(MemoryLedger::default().with_terms(terms).with_clock(at));
        InMemory { ledger, clock }
    }
}

#[async_trait]
impl Fixture for InMemory {
    fn ledger(&self) -> Arc<dyn Holds> {
        Arc::<MemoryLedger>::clone(&self.ledger)
    }

    async fn spoil(&self, _: &TeamId) -> bool {
        false
    }

    async fn pass(&self, time: Duration) {
        self.clock.pass(time);
    }
}

struct Memory;

#[async_trait]
impl Kind for Memory {
    async fn open(&self, terms: Terms) -> Box<dyn Fixture> {
        Box::new(InMemory::new(terms))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_holds() {
    keeps_holds(&Memory).await;
}

/// An id that no other test uses.
pub fn fresh_id() -> HoldId {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    hold_id(&format!("hold-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// A run that no other test uses.
pub fn fresh_run() -> RunId {
    run_id(&format!("run:{}", fresh_id()))
}

pub fn hold_id(text: &str) -> HoldId {
    HoldId::parse(text.as_bytes()).expect("the id of a hold")
}

pub fn run_id(text: &str) -> RunId {
    RunId::parse(text.as_bytes()).expect("the id of a run")
}

/// A start that asks for so much, for a long time.
pub fn ask(team: &TeamId, amount: &str) -> Ask {
    Ask {
        team: team.clone(),
        id: fresh_id(),
        credits: credits(amount),
        hold_for: LONG,
        rule: Rule::default(),
        replay: None,
    }
}

/// A start that asks for so much, for a moment.
pub fn brief_ask(team: &TeamId, amount: &str) -> Ask {
    Ask {
        hold_for: BRIEF,
        ..ask(team, amount)
    }
}

/// A start with an idempotency key: `key`, `route` and `body` are short names.
pub fn replayable(team: &TeamId, amount: &str, key: u8, route: u8, body: Option<u8>) -> Ask {
    let replay = Replay {
        key: [key; 32],
        route: [route; 32],
        body: body.map(|body| [body; 32]),
    };
    Ask {
        replay: Some(replay),
        ..ask(team, amount)
    }
}

/// Asks, within a time that never runs out here.
pub async fn try_hold(ledger: &dyn Holds, ask: &Ask) -> Result<Answer, LedgerError> {
    ledger.hold_by(ask, Instant::now() + PATIENCE).await
}

/// Asks, and is answered.
pub async fn hold(ledger: &dyn Holds, ask: &Ask) -> Answer {
    try_hold(ledger, ask).await.expect("an answer")
}

/// Asks, and the credits are set aside.
pub async fn held(ledger: &dyn Holds, ask: Ask) -> HoldId {
    assert_eq!(hold(ledger, &ask).await.outcome, Outcome::Held);
    ask.id
}

/// What the team's holds amount to.
pub async fn holding(ledger: &dyn Holds, team: &TeamId) -> Held {
    ledger.standing(team).await.expect("a standing").held
}

/// So much in so many holds.
pub fn of(amount: &str, live: u64) -> Held {
    Held {
        credits: credits(amount),
        live,
    }
}

/// What can be spent.
pub async fn spendable(ledger: &dyn Holds, team: &TeamId) -> Option<Credits> {
    ledger.standing(team).await.expect("a standing").spendable()
}

pub fn by_id(hold: &HoldId) -> Which {
    Which::Hold(hold.clone())
}

/// The entry of a change that was done now.
pub fn done(change: Result<Change, LedgerError>) -> Entry {
    match change {
        Ok(Change::Done(entry)) => entry,
        other => panic!("not done: {other:?}"),
    }
}

/// The entry of a change that had been done before.
pub fn again(change: Result<Change, LedgerError>) -> Entry {
    match change {
        Ok(Change::Again(entry)) => entry,
        other => panic!("not again: {other:?}"),
    }
}

/// The entry of a change that cannot be done.
pub fn conflict(change: Result<Change, LedgerError>) -> Entry {
    match change {
        Ok(Change::Conflict(entry)) => entry,
        other => panic!("no conflict: {other:?}"),
    }
}
