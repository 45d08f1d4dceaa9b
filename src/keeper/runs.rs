//! [`Runs`]: what this gateway knows of runs, so that clients who poll cost the
//! ledger nothing.
//!
//! Bounded; what is forgotten is asked for again. A run that nobody knows is
//! not asked for again for a moment.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::billing::hold::{HoldId, RunId};
use crate::billing::team::TeamId;

/// The most runs that are remembered.
const RUNS_MAX: u64 = 100_000;

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

#[derive(Clone, Debug)]
struct Known {
    owner: Option<Owner>,
    /// The pause between two extensions.
    turn: Duration,
    /// When it may be extended again.
    next_turn: Instant,
    state: State,
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
    known: Cache<RunId, Arc<Known>>,
    /// The pause for runs of other gateways, in milliseconds.
    turn_ms: AtomicU64,
    /// Runs whose end waits to be told to the ledger.
    ending: Mutex<HashSet<RunId>>,
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
        self.runs.ending().remove(&self.run);
    }
}

impl Runs {
    /// Knows no run. Runs of other gateways are extended as if this were
    /// their holds' time.
    pub(super) fn new(hold_for: Duration) -> Self {
        Runs {
            // The oldest go first: the usual policy would not let new ones in.
            known: Cache::builder()
                .max_capacity(RUNS_MAX)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(FORGET_AFTER)
                .build(),
            turn_ms: AtomicU64::new(in_millis(turn(hold_for))),
            ending: Mutex::default(),
        }
    }

    /// Runs of other gateways are extended as if this were their holds' time.
    pub(super) fn set_hold_for(&self, hold_for: Duration) {
        let turn_ms = in_millis(turn(hold_for));
        self.turn_ms.store(turn_ms, Ordering::Relaxed);
    }

    /// The run is over, and that is to be told; `None` if it already is.
    pub(super) fn ends(self: &Arc<Self>, run: &RunId) -> Option<Ending> {
        let is_news = self.ending().insert(run.clone());
        is_news.then(|| Ending {
            runs: Arc::clone(self),
            run: run.clone(),
        })
    }

    // A poisoned lock is taken all the same: what is wrong in there is told
    // once more.
    fn ending(&self) -> MutexGuard<'_, HashSet<RunId>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A start of this gateway began the run, or went on with it. It stays with
    /// its first hold, and is alive again if it was over. One that lives stays
    /// with its team, whatever another one's start says.
    pub(super) fn begin(&self, run: &RunId, team: &TeamId, hold: &HoldId, hold_for: Duration) {
        // An end that waits was told of what was before.
        self.ending().remove(run);
        let known = self.known.get(run);
        let is_others = known.as_ref().is_some_and(|known| {
            let others = |owner: &Owner| owner.team != *team;
            known.state == State::Live && known.owner.as_ref().is_some_and(others)
        });
        if is_others {
            return;
        }
        let before = known.and_then(|known| Some((known.owner.clone()?, known.turn)));
        let before = before.filter(|(owner, _)| owner.team == *team && owner.hold.is_some());
        let (owner, slowest) = before.unwrap_or_else(|| {
            let owner = Owner {
                team: team.clone(),
                hold: Some(hold.clone()),
            };
            (owner, Duration::MAX)
        });
        let turn = turn(hold_for).min(slowest);
        self.put(
            run,
            Known {
                owner: Some(owner),
                turn,
                next_turn: after(turn),
                state: State::Live,
            },
        );
    }

    /// Whose run it is, as far as is known here.
    pub(super) fn owner(&self, run: &RunId) -> Option<Owner> {
        self.known.get(run)?.owner.clone()
    }

    /// Whether it is time to extend the run's hold. If so, the next time is a
    /// while off.
    pub(super) fn is_turn(&self, run: &RunId) -> bool {
        let known = self.get(run);
        let due = match known.state {
            State::Live => known.next_turn <= Instant::now(),
            State::Over(until) | State::Unknown(until) => until <= Instant::now(),
        };
        if due {
            let next_turn = after(known.turn);
            self.put(run, Known { next_turn, ..known });
        }
        due
    }

    /// Whether there is nothing more to be done when the run is over.
    pub(super) fn is_settled(&self, run: &RunId) -> bool {
        let known = self.known.get(run);
        known.is_some_and(|known| match known.state {
            State::Live => false,
            State::Over(until) => until > Instant::now(),
            // It may have begun elsewhere a moment ago.
            State::Unknown(_) => false,
        })
    }

    /// The ledger says whose run it is.
    pub(super) fn learn(&self, run: &RunId, team: TeamId) {
        let owner = Some(Owner { team, hold: None });
        let state = State::Live;
        let known = self.get(run);
        self.put(
            run,
            Known {
                owner,
                state,
                ..known
            },
        );
    }

    /// The run's holds have ended.
    pub(super) fn end(&self, run: &RunId) {
        let state = State::Over(after(OVER_FOR));
        let known = self.get(run);
        self.put(run, Known { state, ..known });
    }

    /// Nobody knows the run.
    pub(super) fn nobody(&self, run: &RunId) {
        let state = State::Unknown(after(UNKNOWN_FOR));
        let known = self.get(run);
        self.put(
            run,
            Known {
                owner: None,
                state,
                ..known
            },
        );
    }

    fn get(&self, run: &RunId) -> Known {
        let known = self.known.get(run);
        known.map_or_else(
            || Known {
                owner: None,
                turn: Duration::from_millis(self.turn_ms.load(Ordering::Relaxed)),
                next_turn: Instant::now(),
                state: State::Live,
            },
            |known| Known::clone(&known),
        )
    }

    fn put(&self, run: &RunId, known: Known) {
        self.known.insert(run.clone(), Arc::new(known));
    }
}

fn in_millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn turn(hold_for: Duration) -> Duration {
    let part = |turns| hold_for.checked_div(turns).unwrap_or_default();
    part(TURNS).max(TURN_MIN).min(part(TURNS_MIN))
}

fn after(span: Duration) -> Instant {
    let now = Instant::now();
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
}
