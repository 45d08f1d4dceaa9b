//! The keeper, against the embedded ledger: what becomes of tasks when all is
//! well, when the ledger is away, when there are too many, and at the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs,
    reason = "a panic is how a claim fails"
)]

#[path = "keeper/moody.rs"]
mod moody;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use moody::Moody;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tollgate::billing::admission::{Missing, OnOutage, Rule};
use tollgate::billing::credits::Credits;
use tollgate::billing::hold::{End, Held, HoldId, RunId};
use tollgate::billing::team::TeamId;
use tollgate::events::Sink;
use tollgate::keeper::{Keeper, Settings, Task};
use tollgate::ledger::holds::{
    Ask, Holds as _, LiveHold, Outcome, Release, Terms, WhenFull, Which, Writer,
};
use tollgate::telemetry::Metrics;
use tollgate::telemetry::holds::HoldMetrics;

/// How long anything may take that has no bound of its own.
const PATIENCE: Duration = Duration::from_secs(20);

const HOLD_FOR: Duration = Duration::from_secs(600);

/// A keeper at work on a ledger.
struct Desk {
    ledger: Arc<Moody>,
    keeper: Keeper,
    metrics: HoldMetrics,
}

fn acme() -> TeamId {
    TeamId::parse(b"acme").unwrap()
}

fn run(id: &str) -> RunId {
    RunId::parse(id.as_bytes()).unwrap()
}

fn credits(text: &str) -> Credits {
    text.parse().unwrap()
}

fn ledger() -> Moody {
    let terms = Terms {
        writer: Writer::Tollgate,
        ..Terms::default()
    };
    Moody::new(&[(&acme(), "100000")], terms)
}

impl Desk {
    fn new(ledger: Arc<Moody>, settings: Settings) -> (Self, tollgate::keeper::Worker) {
        let metrics = Metrics::new().unwrap().holds;
        let holds: Arc<dyn tollgate::ledger::holds::Holds> = Arc::<Moody>::clone(&ledger);
        let (keeper, worker) = Keeper::new(holds, settings, metrics.clone(), Sink::off());
        let desk = Desk {
            ledger,
            keeper,
            metrics,
        };
        (desk, worker)
    }

    /// One that works until the test ends.
    fn open(ledger: Moody) -> Self {
        Self::beside(Arc::new(ledger))
    }

    /// Another gateway's, on the same ledger.
    fn beside(ledger: Arc<Moody>) -> Self {
        let (desk, worker) = Desk::new(ledger, Settings::default());
        tokio::spawn(worker.run(pending(), PATIENCE));
        desk
    }

    /// A start that was admitted.
    async fn hold(&self) -> HoldId {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let id = HoldId::from_bits(COUNT.fetch_add(1, Ordering::Relaxed).into());
        let ask = Ask {
            team: acme(),
            id: id.clone(),
            credits: credits("20"),
            hold_for: HOLD_FOR,
            rule: Rule {
                refuse_at_or_below: Credits::ZERO,
                missing: Missing::Refuse,
                on_outage: OnOutage::Refuse,
            },
            replay: None,
        };
        let until = Instant::now() + PATIENCE;
        let answer = self.ledger.hold_by(&ask, until).await.unwrap();
        assert_eq!(answer.outcome, Outcome::Held);
        self.keeper.held(&acme(), &id, ask.credits);
        self.keeper.noticed(&acme(), answer.held, answer.expired);
        id
    }

    fn began(&self, hold: &HoldId, id: &str) {
        self.keeper.offer(Task::Began {
            team: acme(),
            hold: hold.clone(),
            run: run(id),
            hold_for: HOLD_FOR,
        });
    }

    fn not_started(&self, hold: &HoldId) {
        self.keeper.offer(Task::NotStarted {
            team: acme(),
            hold: hold.clone(),
            ask: hold.clone(),
        });
    }

    fn cost(&self, hold: &HoldId, figure: &str) {
        self.keeper.offer(Task::Cost {
            team: acme(),
            hold: hold.clone(),
            run: None,
            credits: credits(figure),
        });
    }

    async fn live(&self) -> Vec<LiveHold> {
        self.ledger.ledger.list(&acme(), 1000).await.unwrap()
    }

    async fn balance(&self) -> Credits {
        let standing = self.ledger.ledger.standing(&acme()).await.unwrap();
        standing.balance.unwrap()
    }

    /// Waits until everything that was offered is done with.
    async fn idle(&self) {
        eventually("idle", || async { self.metrics.queue.get() == 0 }).await;
    }

    async fn bound(&self, id: &str) {
        eventually("bound", || async {
            let live = self.live().await;
            live.iter().any(|hold| hold.run == Some(run(id)))
        })
        .await;
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_start_that_began_no_run_gives_its_credits_back() {
    let desk = Desk::open(ledger());
    let (first, second) = (desk.hold().await, desk.hold().await);
    desk.not_started(&first);
    desk.idle().await;
    let live = desk.live().await;
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].hold, second);
    assert_eq!(desk.metrics.ended(End::Released), 1);
    assert_eq!(desk.metrics.made.get(), 2);
}

#[tokio::test]
async fn a_run_that_is_over_gives_its_credits_back() {
    let desk = Desk::open(ledger());
    let hold = desk.hold().await;
    // In this order however fast they come: the second waits for the first.
    desk.began(&hold, "r1");
    desk.keeper.offer(Task::Over(run("r1")));
    desk.idle().await;
    assert!(desk.live().await.is_empty());
    assert_eq!(desk.metrics.ended(End::Released), 1);
    assert_eq!(desk.ledger.calls("bind r1"), 1);
}

#[tokio::test]
async fn any_gateway_may_see_that_a_run_is_over() {
    let desk = Desk::open(ledger());
    desk.began(&desk.hold().await, "r1");
    desk.bound("r1").await;
    let other = Desk::beside(Arc::clone(&desk.ledger));
    other.keeper.offer(Task::Over(run("r1")));
    other.idle().await;
    assert!(desk.live().await.is_empty());
    assert_eq!(other.metrics.ended(End::Released), 1);
    // Told again where it is not known yet, it was done before.
    desk.keeper.offer(Task::Over(run("r1")));
    desk.idle().await;
    assert_eq!(desk.metrics.ended(End::Released), 0);
    assert_eq!(desk.ledger.calls("release"), 2);
}

#[tokio::test]
async fn a_client_that_polls_costs_the_ledger_little() {
    let desk = Desk::open(ledger());
    desk.began(&desk.hold().await, "r1");
    desk.bound("r1").await;
    let other = Desk::beside(Arc::clone(&desk.ledger));
    let poll = |what: fn(RunId) -> Task, id: &'static str| {
        for _ in 0..100 {
            other.keeper.offer(what(run(id)));
        }
    };
    poll(Task::Alive, "r1");
    other.idle().await;
    poll(Task::Alive, "r1");
    other.idle().await;
    assert_eq!(desk.ledger.calls("extend"), 1);
    poll(Task::Alive, "nobody");
    other.idle().await;
    assert_eq!(desk.ledger.calls("whose nobody"), 1);
    poll(Task::Over, "r1");
    other.idle().await;
    let releases = desk.ledger.calls("release");
    poll(Task::Over, "r1");
    poll(Task::Alive, "r1");
    other.idle().await;
    assert_eq!(desk.ledger.calls("release"), releases);
    assert_eq!(desk.ledger.calls("extend"), 1);
}

#[tokio::test]
async fn a_run_that_is_seen_alive_keeps_its_hold() {
    let desk = Desk::open(ledger());
    desk.began(&desk.hold().await, "r1");
    desk.bound("r1").await;
    desk.ledger.clock.step(HOLD_FOR - Duration::from_secs(1));
    let other = Desk::beside(Arc::clone(&desk.ledger));
    other.keeper.offer(Task::Alive(run("r1")));
    other.idle().await;
    desk.ledger.clock.step(HOLD_FOR - Duration::from_secs(1));
    assert_eq!(desk.live().await.len(), 1);
    desk.ledger.clock.step(Duration::from_secs(1));
    assert!(desk.live().await.is_empty());
}

#[tokio::test]
async fn a_run_that_is_over_gives_back_what_its_follow_ups_set_aside() {
    let desk = Desk::open(ledger());
    let other = Desk::beside(Arc::clone(&desk.ledger));
    desk.began(&desk.hold().await, "r1");
    desk.bound("r1").await;
    // A follow-up through the same gateway, and one through another.
    desk.began(&desk.hold().await, "r1");
    other.began(&desk.hold().await, "r1");
    other.idle().await;
    desk.idle().await;
    let bound = desk.live().await;
    assert!(bound.iter().all(|hold| hold.run == Some(run("r1"))));
    assert_eq!(bound.len(), 3);
    desk.keeper.offer(Task::Over(run("r1")));
    desk.idle().await;
    assert!(desk.live().await.is_empty());
    assert_eq!(desk.metrics.ended(End::Released), 3);
}

#[tokio::test]
async fn a_follow_up_is_alive_though_its_run_was_over() {
    let desk = Desk::open(ledger());
    let other = Desk::beside(Arc::clone(&desk.ledger));
    let release = |at: &Desk| at.keeper.offer(Task::Over(run("r1")));
    desk.began(&desk.hold().await, "r1");
    release(&desk);
    desk.idle().await;
    release(&other);
    other.idle().await;
    // Even if it is told before the first end is noted.
    desk.began(&desk.hold().await, "r1");
    release(&desk);
    desk.idle().await;
    assert!(desk.live().await.is_empty());
    assert_eq!(desk.metrics.ended(End::Released), 2);
    // Another gateway forgets in seconds that the run was over.
    desk.began(&desk.hold().await, "r1");
    desk.idle().await;
    assert_eq!(desk.live().await.len(), 1);
    eventually("released elsewhere", || async {
        release(&other);
        desk.live().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn all_holds_of_a_run_that_is_seen_alive_are_kept() {
    let desk = Desk::open(ledger());
    for _ in 0..2 {
        desk.began(&desk.hold().await, "r1");
        desk.idle().await;
    }
    desk.ledger.clock.step(HOLD_FOR - Duration::from_secs(1));
    let other = Desk::beside(Arc::clone(&desk.ledger));
    other.keeper.offer(Task::Alive(run("r1")));
    other.idle().await;
    desk.ledger.clock.step(HOLD_FOR - Duration::from_secs(1));
    assert_eq!(desk.live().await.len(), 2);
    desk.ledger.clock.step(Duration::from_secs(1));
    assert!(desk.live().await.is_empty());
}

/// It may have begun elsewhere a moment ago, so it is asked for again.
#[tokio::test]
async fn the_end_of_a_run_that_is_not_known_yet_is_not_lost() {
    let desk = Desk::open(ledger());
    let hold = desk.hold().await;
    let other = Desk::beside(Arc::clone(&desk.ledger));
    other.keeper.offer(Task::Over(run("r1")));
    eventually("asked", || async { desk.ledger.calls("whose r1") == 1 }).await;
    desk.began(&hold, "r1");
    other.idle().await;
    assert!(desk.live().await.is_empty());
    assert_eq!(desk.ledger.calls("whose r1"), 2);
}

#[tokio::test]
async fn the_end_of_a_run_that_nobody_knows_is_asked_about_for_a_while_and_counted() {
    let desk = Desk::open(ledger());
    desk.keeper.offer(Task::Alive(run("r1")));
    desk.idle().await;
    // It is news that it is over, though nobody knew it a moment ago.
    for _ in 0..300 {
        desk.keeper.offer(Task::Over(run("r1")));
    }
    assert_eq!(desk.metrics.queue.get(), 1, "it is told once");
    eventually("given up", || async {
        desk.metrics.ends_unknown.get() == 1
    })
    .await;
    let asked = desk.ledger.calls("whose r1");
    assert!((5..=8).contains(&asked), "{asked}");
    desk.idle().await;
    assert_eq!(desk.metrics.dropped.get(), 0);
}

#[tokio::test]
async fn what_begins_finds_room_beside_what_is_seen_of_runs() {
    let settings = Settings {
        queue: 5,
        ..Settings::default()
    };
    let (desk, worker) = Desk::new(Arc::new(ledger()), settings);
    for _ in 0..300 {
        desk.keeper.offer(Task::Over(run("polled")));
    }
    assert_eq!(desk.metrics.queue.get(), 1);
    for index in 0..10 {
        desk.keeper.offer(Task::Over(run(&format!("r{index}"))));
    }
    assert_eq!(desk.metrics.dropped.get(), 6);
    let (first, second) = (desk.hold().await, desk.hold().await);
    desk.began(&first, "new");
    desk.not_started(&second);
    assert_eq!(desk.metrics.dropped.get(), 6);
    tokio::spawn(worker.run(pending(), PATIENCE));
    desk.bound("new").await;
}

#[tokio::test]
async fn a_run_of_another_team_by_the_same_name_frees_nothing() {
    let desk = Desk::open(ledger());
    let hold = desk.hold().await;
    desk.began(&hold, "r1");
    desk.bound("r1").await;
    desk.idle().await;
    let other = TeamId::parse(b"other").unwrap();
    let theirs = Desk::beside(Arc::clone(&desk.ledger));
    theirs.keeper.offer(Task::Began {
        team: other.clone(),
        hold: HoldId::from_bits(u128::MAX),
        run: run("r1"),
        hold_for: HOLD_FOR,
    });
    theirs.idle().await;
    let whose = desk.ledger.ledger.team_of(&run("r1")).await;
    assert_eq!(whose, Ok(Some(acme())));
}

/// A keeper that takes over from this one, and its worker.
fn successor(desk: &Desk, settings: Settings) -> (Keeper, tollgate::keeper::Worker) {
    let holds: Arc<dyn tollgate::ledger::holds::Holds> = Arc::<Moody>::clone(&desk.ledger);
    desk.keeper
        .succeeded(holds, settings, desk.metrics.clone(), Sink::off())
}

#[tokio::test]
async fn a_successor_takes_over_and_the_gauges_are_of_one_piece() {
    let settings = Settings {
        sweep_every: Duration::from_millis(20),
        ..Settings::default()
    };
    let (desk, worker) = Desk::new(Arc::new(ledger()), settings);
    tokio::spawn(worker.run(pending(), PATIENCE));
    desk.hold().await;
    eventually("swept", || async { desk.ledger.calls("sweep") > 0 }).await;
    let slower = Settings {
        sweep_every: HOLD_FOR,
        ..Settings::default()
    };
    let (next, worker) = successor(&desk, slower);
    tokio::spawn(worker.run(pending(), PATIENCE));
    eventually("one sweeps", || async {
        let before = desk.ledger.calls("sweep");
        tokio::time::sleep(Duration::from_millis(200)).await;
        desk.ledger.calls("sweep") == before
    })
    .await;
    assert_eq!(desk.metrics.live.get(), 1);
    // Requests that began before still tell the old one.
    desk.hold().await;
    assert_eq!(desk.metrics.live.get(), 2);
    next.retire();
    assert_eq!(desk.metrics.live.get(), 0);
    desk.hold().await;
    assert_eq!(desk.metrics.live.get(), 0);
}

#[tokio::test]
async fn holds_from_before_the_start_are_seen() {
    let ledger = Arc::new(ledger());
    {
        let (desk, _) = Desk::new(Arc::clone(&ledger), Settings::default());
        desk.hold().await;
    }
    let desk = Desk::beside(ledger);
    eventually("seen", || async { desk.metrics.live.get() == 1 }).await;
}

#[tokio::test]
async fn a_cost_is_settled_once_however_often_it_is_told() {
    let desk = Desk::open(ledger());
    let hold = desk.hold().await;
    desk.ledger.lost_replies.store(1, Ordering::SeqCst);
    desk.cost(&hold, "12.5");
    desk.cost(&hold, "12.5");
    desk.cost(&hold, "99");
    desk.idle().await;
    assert!(desk.live().await.is_empty());
    assert_eq!(desk.balance().await, credits("99987.5"));
    assert_eq!(desk.ledger.calls("settle"), 4);
}

#[tokio::test]
async fn tasks_wait_for_a_ledger_that_is_away() {
    let desk = Desk::open(ledger());
    let (first, second) = (desk.hold().await, desk.hold().await);
    desk.ledger.away.store(true, Ordering::SeqCst);
    desk.began(&first, "r1");
    desk.keeper.offer(Task::Over(run("r1")));
    desk.cost(&second, "5");
    eventually("tried", || async { desk.ledger.calls("settle") >= 2 }).await;
    assert_eq!(desk.ledger.calls("release"), 0, "out of order");
    assert_eq!(desk.live().await.len(), 2);
    desk.ledger.away.store(false, Ordering::SeqCst);
    desk.idle().await;
    assert!(desk.live().await.is_empty());
    assert_eq!(desk.metrics.dropped.get(), 0);
}

#[tokio::test]
async fn what_the_ledger_cannot_do_is_dropped_and_counted() {
    let desk = Desk::open(ledger());
    let hold = desk.hold().await;
    desk.ledger.corrupt.store(true, Ordering::SeqCst);
    desk.not_started(&hold);
    desk.idle().await;
    assert_eq!(desk.metrics.dropped.get(), 1);
    desk.ledger.corrupt.store(false, Ordering::SeqCst);
    desk.cost(&HoldId::from_bits(u128::MAX), "5");
    desk.idle().await;
    assert_eq!(desk.metrics.dropped.get(), 2, "nobody knows that hold");
}

#[tokio::test]
async fn a_cost_waits_for_a_balance_that_is_broken_for_a_moment() {
    let desk = Desk::open(ledger());
    let hold = desk.hold().await;
    desk.ledger.corrupt.store(true, Ordering::SeqCst);
    desk.cost(&hold, "5");
    eventually("tried", || async { desk.ledger.calls("settle") >= 2 }).await;
    desk.ledger.corrupt.store(false, Ordering::SeqCst);
    desk.idle().await;
    assert!(desk.live().await.is_empty());
    assert_eq!(desk.metrics.dropped.get(), 0);
}

#[tokio::test]
async fn a_cost_waits_for_room_in_the_statement() {
    let terms = Terms {
        writer: Writer::Tollgate,
        statement_length: 1,
        when_full: WhenFull::Refuse,
        ..Terms::default()
    };
    let desk = Desk::open(Moody::new(&[(&acme(), "100000")], terms));
    let (first, second) = (desk.hold().await, desk.hold().await);
    desk.cost(&first, "5");
    desk.idle().await;
    desk.cost(&second, "5");
    eventually("tried again", || async { desk.ledger.calls("settle") >= 3 }).await;
    assert_eq!(desk.metrics.dropped.get(), 0);
    assert_eq!(desk.live().await.len(), 1);
}

#[tokio::test]
async fn nobody_waits_for_room_and_costs_have_their_own() {
    let settings = Settings {
        queue: 5,
        ..Settings::default()
    };
    let (desk, worker) = Desk::new(Arc::new(ledger()), settings);
    let mut holds = Vec::new();
    for _ in 0..8 {
        holds.push(desk.hold().await);
    }
    for hold in &holds {
        desk.not_started(hold);
    }
    assert_eq!(desk.metrics.dropped.get(), 3);
    assert_eq!(desk.metrics.queue.get(), 5);
    desk.cost(&holds[7], "5");
    assert_eq!(desk.metrics.dropped.get(), 3);
    tokio::spawn(worker.run(pending(), PATIENCE));
    desk.idle().await;
    assert_eq!(desk.live().await.len(), 2);
    assert_eq!(desk.balance().await, credits("99995"));
    desk.not_started(&holds[5]);
    desk.idle().await;
    assert_eq!(desk.live().await.len(), 1, "there is room again");
}

#[tokio::test]
async fn many_are_carried_out_at_once_but_not_all() {
    let desk = Desk::open(ledger().gated());
    let mut holds = Vec::new();
    for _ in 0..200 {
        holds.push(desk.hold().await);
    }
    for hold in &holds {
        desk.not_started(hold);
        desk.not_started(hold);
    }
    let under_way = || desk.ledger.under_way.load(Ordering::SeqCst);
    eventually("busy", || async { under_way() == 64 }).await;
    desk.ledger.gate.as_ref().unwrap().add_permits(400);
    desk.idle().await;
    assert_eq!(desk.ledger.most_under_way.load(Ordering::SeqCst), 64);
    assert!(desk.live().await.is_empty());
    assert_eq!(desk.metrics.ended(End::Released), 200);
}

#[tokio::test]
async fn runs_that_begin_together_are_told_together() {
    let mut ledger = ledger();
    ledger.at_once = 64;
    let desk = Desk::open(ledger);
    let mut holds = Vec::new();
    for _ in 0..150 {
        holds.push(desk.hold().await);
    }
    for (i, hold) in holds.iter().enumerate() {
        desk.began(hold, &format!("r{i}"));
    }
    // Behind its beginning, and of another one.
    desk.cost(&holds[0], "1");
    desk.keeper.offer(Task::Over(run("r149")));
    desk.idle().await;
    assert_eq!(desk.ledger.calls("together 64"), 2);
    assert_eq!(desk.ledger.calls("together 22"), 1);
    assert_eq!(desk.ledger.calls("bind "), 150);
    assert_eq!(desk.ledger.calls("note "), 150);
    let live = desk.live().await;
    assert_eq!(live.len(), 148);
    assert!(live.iter().all(|hold| hold.run.is_some()));
    let calls = desk.ledger.calls.lock().unwrap();
    let place = |name: &str| calls.iter().position(|call| call.starts_with(name));
    assert!(place("note r0") < place("settle"), "{calls:?}");
    assert!(place("note r149") < place("release"), "{calls:?}");
}

#[tokio::test]
async fn of_runs_that_begin_few_are_told_at_a_time_and_nothing_else_waits_for_them() {
    let mut ledger = ledger().gated();
    ledger.at_once = 64;
    let desk = Desk::open(ledger);
    let mut holds = Vec::new();
    for _ in 0..5000 {
        holds.push(desk.hold().await);
    }
    let (other, began) = holds.split_first().unwrap();
    for (i, hold) in began.iter().enumerate() {
        desk.began(hold, &format!("r{i}"));
    }
    let telling = || desk.ledger.telling.load(Ordering::SeqCst);
    eventually("told", || async { telling() >= 128 }).await;
    // The last of all comes to its turn.
    desk.not_started(other);
    eventually("released", || async { desk.ledger.calls("release") == 1 }).await;
    desk.ledger.gate.as_ref().unwrap().add_permits(20_000);
    desk.idle().await;
    assert_eq!(desk.ledger.most_telling.load(Ordering::SeqCst), 128);
    assert_eq!(desk.ledger.calls("bind "), 4999);
    assert_eq!(desk.ledger.calls("note "), 4999);
    assert_eq!(desk.metrics.dropped.get(), 0);
}

#[tokio::test]
async fn of_runs_that_are_told_together_each_is_tried_until_it_is_done() {
    let mut ledger = ledger();
    ledger.at_once = 64;
    let desk = Desk::open(ledger);
    let (first, second, third) = (desk.hold().await, desk.hold().await, desk.hold().await);
    // The first is bound, and nobody says so.
    desk.ledger.lost_replies.store(1, Ordering::SeqCst);
    for (hold, id) in [(&first, "r1"), (&second, "r2"), (&third, "r2")] {
        desk.began(hold, id);
    }
    let unknown = HoldId::from_bits(u128::MAX);
    desk.began(&unknown, "r4");
    desk.idle().await;
    assert_eq!(desk.ledger.calls("bind r1"), 2);
    assert_eq!(desk.ledger.calls("bind r2"), 2);
    assert_eq!(desk.ledger.calls("note r1"), 1);
    assert_eq!(desk.ledger.calls("note r4"), 0, "no hold has it");
    assert!(desk.live().await.iter().all(|hold| hold.run.is_some()));
    assert_eq!(desk.metrics.dropped.get(), 0);
}

#[tokio::test]
async fn what_gathers_at_the_end_is_told() {
    let mut ledger = ledger();
    ledger.at_once = 64;
    let (desk, worker) = Desk::new(Arc::new(ledger), Settings::default());
    let hold = desk.hold().await;
    desk.began(&hold, "r1");
    worker.run(async {}, PATIENCE).await;
    assert!(desk.live().await.iter().all(|hold| hold.run.is_some()));
    assert_eq!(desk.metrics.dropped.get(), 0);
}

fn stopping(
    worker: tollgate::keeper::Worker,
    flush: Duration,
) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        drop(stopped.await);
    };
    (stop, tokio::spawn(worker.run(stopped, flush)))
}

#[tokio::test]
async fn what_waits_is_carried_out_at_the_end() {
    let (desk, worker) = Desk::new(Arc::new(ledger()), Settings::default());
    let mut holds = Vec::new();
    for _ in 0..500 {
        holds.push(desk.hold().await);
    }
    for hold in &holds {
        desk.not_started(hold);
    }
    worker.run(async {}, PATIENCE).await;
    assert!(desk.live().await.is_empty());
    assert_eq!(desk.metrics.dropped.get(), 0);
    desk.not_started(&holds[0]);
    assert_eq!(desk.metrics.dropped.get(), 1, "nobody is there any more");
    assert_eq!(desk.metrics.queue.get(), 0);
}

#[tokio::test]
async fn a_ledger_that_comes_back_at_the_end_is_not_missed() {
    let (desk, worker) = Desk::new(Arc::new(ledger()), Settings::default());
    let hold = desk.hold().await;
    desk.ledger.away.store(true, Ordering::SeqCst);
    desk.not_started(&hold);
    let (stop, ended) = stopping(worker, PATIENCE);
    eventually("tried", || async { desk.ledger.calls("release") >= 4 }).await;
    stop.send(()).unwrap();
    desk.ledger.away.store(false, Ordering::SeqCst);
    ended.await.unwrap();
    assert!(desk.live().await.is_empty());
}

#[tokio::test]
async fn the_end_is_bounded_and_what_is_left_is_counted() {
    let (desk, worker) = Desk::new(Arc::new(ledger().gated()), Settings::default());
    let mut holds = Vec::new();
    for _ in 0..100 {
        holds.push(desk.hold().await);
    }
    for hold in &holds {
        desk.not_started(hold);
    }
    desk.cost(&holds[0], "5");
    let (stop, ended) = stopping(worker, Duration::from_millis(50));
    stop.send(()).unwrap();
    let within = Duration::from_secs(2);
    tokio::time::timeout(within, ended)
        .await
        .expect("bounded")
        .unwrap();
    assert_eq!(desk.metrics.dropped.get(), 101);
    assert_eq!(desk.metrics.queue.get(), 0);
}

#[tokio::test]
async fn the_worker_ends_with_the_last_keeper() {
    let (desk, worker) = Desk::new(Arc::new(ledger()), Settings::default());
    let hold = desk.hold().await;
    desk.not_started(&hold);
    let Desk { ledger, keeper, .. } = desk;
    drop(keeper);
    worker.run(pending(), PATIENCE).await;
    assert!(ledger.list(&acme(), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn holds_of_a_team_without_traffic_are_seen_to_expire() {
    let settings = Settings {
        sweep_every: Duration::from_millis(5),
        ..Settings::default()
    };
    let (desk, worker) = Desk::new(Arc::new(ledger()), settings);
    tokio::spawn(worker.run(pending(), PATIENCE));
    for _ in 0..3 {
        desk.hold().await;
    }
    assert_eq!(desk.metrics.live.get(), 3);
    assert!((desk.metrics.credits.get() - 60.0).abs() < 1e-9);
    desk.ledger.clock.step(HOLD_FOR);
    eventually("swept", || async { desk.metrics.live.get() == 0 }).await;
    assert_eq!(desk.metrics.ended(End::Expired), 3);
    assert!(desk.metrics.credits.get().abs() < 1e-9);
}

#[tokio::test]
async fn teams_that_cannot_be_reached_do_not_keep_others_from_being_swept() {
    let settings = Settings {
        sweep_every: Duration::from_millis(5),
        ..Settings::default()
    };
    let away: Vec<TeamId> = (0..30)
        .map(|number| TeamId::parse(format!("away-{number}").as_bytes()).unwrap())
        .collect();
    let mut ledger = ledger();
    ledger.away_teams.clone_from(&away);
    let (desk, worker) = Desk::new(Arc::new(ledger), settings);
    tokio::spawn(worker.run(pending(), PATIENCE));
    let hold = Held {
        credits: credits("1"),
        live: 1,
    };
    for team in &away {
        desk.keeper.noticed(team, hold, Vec::new());
    }
    desk.hold().await;
    eventually("swept", || async { desk.ledger.calls("sweep acme") > 0 }).await;
}

#[tokio::test]
async fn gauges_follow_what_is_changed_elsewhere() {
    let settings = Settings {
        sweep_every: Duration::from_millis(5),
        ..Settings::default()
    };
    let (desk, worker) = Desk::new(Arc::new(ledger()), settings);
    tokio::spawn(worker.run(pending(), PATIENCE));
    let hold = desk.hold().await;
    desk.hold().await;
    let which = Which::Hold(hold);
    let why = Release::Over;
    desk.ledger.release(&acme(), &which, &why).await.unwrap();
    eventually("seen", || async { desk.metrics.live.get() == 1 }).await;
}

#[tokio::test]
async fn drift_shows() {
    let settings = Settings {
        sweep_every: Duration::from_millis(5),
        ..Settings::default()
    };
    let (desk, worker) = Desk::new(Arc::new(ledger()), settings);
    tokio::spawn(worker.run(pending(), PATIENCE));
    desk.hold().await;
    *desk.ledger.drift.lock().unwrap() = credits("-7");
    let drift = || desk.metrics.drift.get();
    eventually("shown", || async { (drift() - 7.0).abs() < 1e-9 }).await;
    *desk.ledger.drift.lock().unwrap() = credits("0");
    eventually("gone", || async { drift().abs() < 1e-9 }).await;
}
