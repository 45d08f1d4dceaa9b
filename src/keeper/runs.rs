//! [`Runs`]: what this gateway knows of runs, so that clients who poll cost the
//! ledger nothing.
//!
//! Bounded; what is forgotten is asked for again. A run that nobody knows is
//! not asked for again for a moment.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::billing::hold::{HoldId, RunId};
use crate::billing::team::TeamId;

/// The most runs that are remembered.
const RUNS_MAX: usize = 100_000;

/// How many of the oldest are looked at when another one comes: some may be in
/// use, and the lock is not held for all of them.
const LOOKED_AT: usize = 8;

/// After how long a run is forgotten that nobody asks about.
const FORGET_AFTER: Duration = Duration::from_secs(60 * 60);

/// How long a run that is over is taken to be over: a follow-up may go on with
/// it, through another gateway.
const OVER_FOR: Duration = Duration::from_secs(2);

/// How long a run that nobody knows is taken to be unknown.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// The part of a hold's time after which it is extended: one that misses
/// several turns still lives.
const TURNS: u32 = 10;

/// The shortest pause between two extensions of one hold, if its time is long
/// enough for that.
const TURN_MIN: Duration = Duration::from_secs(1);

/// The part of a hold's time that the pause never exceeds: a hold that is made
/// for a second must not expire before it may be extended.
const TURNS_MIN: u32 = 4;

/// Whose run it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// Who pays.
    pub(super) team: TeamId,
    /// The first of its holds that this gateway made. What is told of the run
    /// waits in the lane of this one.
    pub(super) hold: Option<HoldId>,
}

#[derive(Debug)]
struct Known {
    owner: Option<Owner>,
    /// The pause between two extensions.
    turn: Duration,
    /// When it may be extended again.
    next_turn: Instant,
    state: State,
    /// When somebody last asked about it.
    asked: Instant,
    /// Whether somebody did since it came, or since it was let stay.
    is_in_use: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// As far as is known, it has a live hold.
    Live,
    /// Its holds had ended, and until then nobody is asked.
    Over(Instant),
    /// Nobody knew it, and until then nobody is asked.
    Unknown(Instant),
}

/// What is known of runs.
#[derive(Debug)]
pub(super) struct Runs {
    table: Mutex<Table>,
    /// The pause for runs of other gateways, in milliseconds.
    turn_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<RunId, Known>,
    /// The same runs, as they came or were let stay.
    order: VecDeque<RunId>,
    /// Runs whose end waits to be told to the ledger.
    ending: HashSet<RunId>,
}

/// The end of a run waits to be told: until this is dropped, telling it again
/// says nothing new.
#[derive(Debug)]
pub(super) struct Ending {
    runs: Arc<Runs>,
    run: RunId,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.runs.table().ending.remove(&self.run);
    }
}

impl Runs {
    /// Knows no run. Runs of other gateways are extended as if this were
    /// their holds' time.
    pub(super) fn new(hold_for: Duration) -> Self {
        Runs {
            table: Mutex::default(),
            turn_ms: AtomicU64::new(in_millis(turn(hold_for))),
        }
    }

    /// Runs of other gateways are extended as if this were their holds' time.
    pub(super) fn set_hold_for(&self, hold_for: Duration) {
        let turn_ms = in_millis(turn(hold_for));
        self.turn_ms.store(turn_ms, Ordering::Relaxed);
    }

    /// The run is over, and that is to be told; `None` if it already is.
    pub(super) fn ends(self: &Arc<Self>, run: &RunId) -> Option<Ending> {
        let is_news = self.table().ending.insert(run.clone());
        is_news.then(|| Ending {
            runs: Arc::clone(self),
            run: run.clone(),
        })
    }

    /// A start of this gateway began the run, or went on with it. It stays with
    /// its first hold, and is alive again if it was over. One that lives stays
    /// with its team, whatever another one's start says.
    pub(super) fn begin(&self, run: &RunId, team: &TeamId, hold: &HoldId, hold_for: Duration) {
        let mut table = self.table();
        // An end that waits was told of what was before. Most often none does.
        if !table.ending.is_empty() {
            table.ending.remove(run);
        }
        let turn = turn(hold_for);
        let now = Instant::now();
        let known = table.entry(run, turn, now);
        let mut slowest = Duration::MAX;
        match &known.owner {
            Some(owner) if owner.team != *team && known.state == State::Live => return,
            Some(owner) if owner.team == *team && owner.hold.is_some() => slowest = known.turn,
            Some(_) | None => {
                known.owner = Some(Owner {
                    team: team.clone(),
                    hold: Some(hold.clone()),
                });
            }
        }
        known.turn = turn.min(slowest);
        known.next_turn = after(now, known.turn);
        known.state = State::Live;
    }

    /// Whose run it is, as far as is known here.
    pub(super) fn owner(&self, run: &RunId) -> Option<Owner> {
        let mut table = self.table();
        table.get(run, Instant::now())?.owner.clone()
    }

    /// Whether it is time to extend the run's hold. If so, the next time is a
    /// while off.
    pub(super) fn is_turn(&self, run: &RunId) -> bool {
        let now = Instant::now();
        let mut table = self.table();
        let known = table.entry(run, self.turn(), now);
        let due = match known.state {
            State::Live => known.next_turn <= now,
            State::Over(until) | State::Unknown(until) => until <= now,
        };
        if due {
            known.next_turn = after(now, known.turn);
        }
        due
    }

    /// Whether there is nothing more to be done when the run is over.
    pub(super) fn is_settled(&self, run: &RunId) -> bool {
        let now = Instant::now();
        let mut table = self.table();
        let known = table.get(run, now);
        known.is_some_and(|known| match known.state {
            State::Live => false,
            State::Over(until) => until > now,
            // It may have begun elsewhere a moment ago.
            State::Unknown(_) => false,
        })
    }

    /// The ledger says whose run it is.
    pub(super) fn learn(&self, run: &RunId, team: TeamId) {
        let mut table = self.table();
        let known = table.entry(run, self.turn(), Instant::now());
        known.owner = Some(Owner { team, hold: None });
        known.state = State::Live;
    }

    /// The run's holds have ended.
    pub(super) fn end(&self, run: &RunId) {
        let now = Instant::now();
        let mut table = self.table();
        table.entry(run, self.turn(), now).state = State::Over(after(now, OVER_FOR));
    }

    /// Nobody knows the run.
    pub(super) fn nobody(&self, run: &RunId) {
        let now = Instant::now();
        let mut table = self.table();
        let known = table.entry(run, self.turn(), now);
        known.owner = None;
        known.state = State::Unknown(after(now, UNKNOWN_FOR));
    }

    /// The pause for runs of other gateways.
    fn turn(&self) -> Duration {
        Duration::from_millis(self.turn_ms.load(Ordering::Relaxed))
    }

    // A poisoned lock is taken all the same: what is wrong in there is told or
    // asked for once more.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.asked) >= FORGET_AFTER
    }
}

impl Table {
    /// What is known of a run, if anything is.
    fn get(&mut self, run: &RunId, now: Instant) -> Option<&mut Known> {
        let known = self.known.get_mut(run)?;
        if known.is_forgotten(now) {
            return None;
        }
        known.asked = now;
        known.is_in_use = true;
        Some(known)
    }

    /// The same; where nothing is known, that.
    fn entry(&mut self, run: &RunId, turn: Duration, now: Instant) -> &mut Known {
        if !self.known.contains_key(run) {
            self.make_room(now);
            self.order.push_back(run.clone());
        }
        let nothing = || Known {
            owner: None,
            turn,
            next_turn: now,
            state: State::Live,
            asked: now,
            is_in_use: false,
        };
        let known = self.known.entry(run.clone()).or_insert_with(nothing);
        if known.is_forgotten(now) {
            *known = nothing();
        } else if known.asked != now {
            known.asked = now;
            known.is_in_use = true;
        }
        known
    }

    /// Forgets those that nobody asks about, and the oldest if there are too
    /// many: one that was asked about since may stay for another round.
    fn make_room(&mut self, now: Instant) {
        for left in (0..LOOKED_AT).rev() {
            let is_full = self.known.len() >= RUNS_MAX;
            let Some(first) = self.order.pop_front() else {
                return;
            };
            let Some(known) = self.known.get_mut(&first) else {
                continue;
            };
            let may_stay = known.is_in_use && left > 0;
            if known.is_forgotten(now) {
                self.known.remove(&first);
            } else if !is_full {
                self.order.push_front(first);
                return;
            } else if may_stay {
                known.is_in_use = false;
                self.order.push_back(first);
            } else {
                self.known.remove(&first);
                return;
            }
        }
    }
}

fn in_millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn turn(hold_for: Duration) -> Duration {
    let part = |turns| hold_for.checked_div(turns).unwrap_or_default();
    part(TURNS).max(TURN_MIN).min(part(TURNS_MIN))
}

fn after(now: Instant, span: Duration) -> Instant {
    now.checked_add(span).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str) -> RunId {
        RunId::parse(id.as_bytes()).unwrap()
    }

    fn team() -> TeamId {
        TeamId::parse(b"acme").unwrap()
    }

    fn runs() -> Runs {
        Runs::new(Duration::from_secs(1800))
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_run_that_began_a_moment_ago_need_not_be_extended() {
        let runs = runs();
        runs.begin(&run("r"), &team(), &HoldId::from_bits(1), HOUR);
        assert!(!runs.is_turn(&run("r")));
        assert!(!runs.is_settled(&run("r")));
    }

    #[test]
    fn a_run_of_another_gateway_is_asked_for_once_a_turn() {
        let runs = runs();
        assert!(runs.is_turn(&run("r")));
        assert!(!runs.is_turn(&run("r")));
        runs.learn(&run("r"), team());
        assert!(!runs.is_turn(&run("r")));
        assert!(!runs.is_settled(&run("r")));
        let hold = None;
        assert_eq!(runs.owner(&run("r")), Some(Owner { team: team(), hold }));
    }

    #[test]
    fn what_is_over_needs_nothing_more_for_a_moment() {
        let runs = runs();
        runs.begin(&run("r"), &team(), &HoldId::from_bits(1), Duration::ZERO);
        runs.end(&run("r"));
        assert!(runs.is_settled(&run("r")));
        assert!(!runs.is_turn(&run("r")));
    }

    #[test]
    fn a_run_that_nobody_knows_is_let_be_for_a_moment() {
        let runs = runs();
        runs.nobody(&run("r"));
        assert!(!runs.is_turn(&run("r")));
        assert!(!runs.is_settled(&run("r")), "its end is news");
        runs.begin(&run("r"), &team(), &HoldId::from_bits(1), HOUR);
        assert!(!runs.is_settled(&run("r")), "it began after all");
    }

    #[test]
    fn a_run_stays_with_its_first_hold() {
        let runs = runs();
        let hold = |id| runs.begin(&run("r"), &team(), &HoldId::from_bits(id), HOUR);
        let owner = || runs.owner(&run("r")).and_then(|owner| owner.hold);
        hold(1);
        hold(2);
        assert_eq!(owner(), Some(HoldId::from_bits(1)));
        runs.end(&run("r"));
        hold(3);
        assert_eq!(owner(), Some(HoldId::from_bits(1)));
        assert!(!runs.is_settled(&run("r")), "a follow-up goes on with it");
    }

    #[test]
    fn only_so_many_are_remembered_and_the_oldest_go_first() {
        let runs = runs();
        let begin = |id: usize| {
            runs.begin(
                &run(&format!("r{id}")),
                &team(),
                &HoldId::from_bits(1),
                HOUR,
            );
        };
        (0..RUNS_MAX).for_each(begin);
        assert!(runs.owner(&run("r0")).is_some(), "and it is in use");
        (RUNS_MAX..RUNS_MAX + 2).for_each(begin);
        let is_known = |id: usize| runs.owner(&run(&format!("r{id}"))).is_some();
        assert!(is_known(0) && is_known(3) && is_known(RUNS_MAX + 1));
        assert!(!is_known(1) && !is_known(2));
        let table = runs.table();
        assert_eq!(table.known.len(), RUNS_MAX);
        assert_eq!(table.order.len(), RUNS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_nobody_asks_about_is_forgotten() {
        let runs = runs();
        let begin = |id| runs.begin(&run(id), &team(), &HoldId::from_bits(1), HOUR);
        begin("r");
        begin("s");
        tokio::time::advance(FORGET_AFTER / 2).await;
        assert!(runs.owner(&run("s")).is_some());
        tokio::time::advance(FORGET_AFTER / 2).await;
        assert!(runs.owner(&run("r")).is_none());
        assert!(runs.owner(&run("s")).is_some());
        begin("t");
        assert_eq!(runs.table().known.len(), 2);
    }
}
