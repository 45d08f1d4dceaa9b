//! What looks after holds once they are made, off the request path.
//!
//! The edge [offers](Keeper::offer) a [`Task`] and goes on; it never waits. A
//! [`Worker`] carries tasks out against the ledger: several at once, those
//! about one hold one after the other, again while the ledger is away. A task
//! that cannot be carried out, because there are too many or because the
//! ledger is away for too long, is dropped and counted: the hold then expires,
//! which is always safe. What a run cost is money: it has room of its own, is
//! kept to the end, and stands in the log if it is dropped all the same.
//!
//! The worker also sweeps teams that have live holds (`sweep`), so that holds
//! of teams without traffic are seen to expire, and adds their holds up again.
//! Everything that becomes of a hold on the way is counted, and told as a
//! [`HoldEvent`].

mod gathering;
mod lanes;
mod runs;
mod sweep;
mod teams;
mod work;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::billing::credits::Credits;
use crate::billing::hold::{End, Held, HoldId, RunId};
use crate::billing::team::TeamId;
use crate::events::Sink;
use crate::events::holds::{Act, HoldEvent, entry_of};
use crate::ledger::holds::{Change, Expired, Holds};
use crate::telemetry::holds::{HoldMetrics, Unread};
use runs::{Ending, Runs};
use teams::Teams;
pub use worker::Worker;

/// How many answers may wait to be looked into: each is a quarter of a
/// megabyte at the most.
const LOOKS_WAITING_MAX: usize = 256;

/// Something to be done about a hold.
#[derive(Clone, Debug)]
pub enum Task {
    /// A start did not begin a run.
    NotStarted {
        /// Who pays.
        team: TeamId,
        /// The hold: its own, or the one it shares.
        hold: HoldId,
        /// The id in its own [`crate::ledger::holds::Ask`].
        ask: HoldId,
    },
    /// A start began this run.
    Began {
        /// Who pays.
        team: TeamId,
        /// The hold.
        hold: HoldId,
        /// The run.
        run: RunId,
        /// How long the hold may live without a sign of life.
        hold_for: Duration,
    },
    /// The upstream said what the run cost.
    Cost {
        /// Who pays.
        team: TeamId,
        /// The hold.
        hold: HoldId,
        /// The run, if the answer named it: its beginning is told before.
        run: Option<RunId>,
        /// What it cost.
        credits: Credits,
    },
    /// The run is over: it was cancelled, or seen in an end state. Every hold
    /// of it ends.
    Over(RunId),
    /// The run was seen alive: so is every hold of it.
    Alive(RunId),
}

impl Task {
    /// The answer that tells what a run cost names the run.
    pub fn name(&mut self, of: &RunId) {
        if let Task::Cost { run, .. } = self {
            *run = Some(of.clone());
        }
    }
}

/// How holds are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many tasks of starts may wait or be under way; as many again that
    /// say what a run cost, and as many again about what is seen of runs.
    pub queue: usize,
    /// The pause between two looks at the teams that have live holds.
    pub sweep_every: Duration,
    /// The shortest `hold_for` of all routes: how often a run that another
    /// gateway started has to be extended.
    pub hold_for_min: Duration,
    /// The longest `hold_for` of all routes: how long it is noted whose such a
    /// run is.
    pub hold_for_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            queue: 10_000,
            sweep_every: Duration::from_secs(30),
            hold_for_min: Duration::from_secs(30 * 60),
            hold_for_max: Duration::from_secs(30 * 60),
        }
    }
}

/// An answer that is to be looked into.
pub struct Look {
    /// Works out what it says of a run. It may take milliseconds.
    pub work: Work,
    /// What is to be done after that, whatever comes of it.
    pub then: Option<Task>,
}

/// Works out what an answer says of a run.
pub type Work = Box<dyn FnOnce() -> Result<Task, Unread> + Send>;

/// A [`Look`] whose second task has its place.
struct Waiting {
    work: Work,
    then: Option<Job>,
}

/// Takes tasks off the request path. The default one is off: it takes
/// nothing and counts nothing.
#[derive(Clone, Debug, Default)]
pub struct Keeper(Option<Arc<Front>>);

/// What handles of a keeper share; the worker ends when it is gone.
#[derive(Debug)]
struct Front {
    queue: mpsc::Sender<Job>,
    looks: mpsc::Sender<Waiting>,
    common: Arc<Common>,
}

/// What handles and worker share.
#[derive(Debug)]
struct Common {
    settings: Settings,
    metrics: HoldMetrics,
    events: Sink<HoldEvent>,
    runs: Arc<Runs>,
    teams: Arc<Teams>,
    /// Room for tasks of starts, for those that are money, and for what is
    /// seen of runs.
    room: Arc<Semaphore>,
    room_for_costs: Arc<Semaphore>,
    room_for_signs: Arc<Semaphore>,
}

/// A task that has been taken.
#[derive(Debug)]
struct Job {
    task: Task,
    since: Instant,
    /// How often it was tried in vain.
    tries: u32,
    /// How often the ledger said that it cannot do it.
    refused: u32,
    /// Since when it was known that nobody knows the run.
    unknown_since: Option<Instant>,
    _ending: Option<Ending>,
    _place: Place,
}

/// A place among the tasks, given back when it is dropped.
#[derive(Debug)]
struct Place {
    metrics: HoldMetrics,
    _room: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.queue.dec();
    }
}

impl Keeper {
    /// A keeper, and the worker that does what it is told.
    #[must_use]
    pub fn new(
        ledger: Arc<dyn Holds>,
        settings: Settings,
        metrics: HoldMetrics,
        events: Sink<HoldEvent>,
    ) -> (Self, Worker) {
        Keeper::default().succeeded(ledger, settings, metrics, events)
    }

    /// As [`Keeper::new`], and it takes over what this one knows of teams and
    /// runs: they are those of the same ledger. Requests that began before go
    /// on with this one; once the worker of the new one runs, the worker of
    /// this one sweeps no more.
    #[must_use]
    pub fn succeeded(
        &self,
        ledger: Arc<dyn Holds>,
        settings: Settings,
        metrics: HoldMetrics,
        events: Sink<HoldEvent>,
    ) -> (Self, Worker) {
        let before = self.0.as_ref().map(|front| &front.common);
        let runs = before.map(|before| Arc::clone(&before.runs));
        let runs = runs.unwrap_or_else(|| Arc::new(Runs::new(settings.hold_for_min)));
        runs.set_hold_for(settings.hold_for_min);
        let teams = before.map(|before| Arc::clone(&before.teams));
        let room = settings.queue.clamp(1, Semaphore::MAX_PERMITS / 3);
        // Each job has a place before it comes here, so there is room for it.
        let (queue, jobs) = mpsc::channel(room.saturating_mul(3));
        let (looks, to_look) = mpsc::channel(LOOKS_WAITING_MAX);
        let common = Arc::new(Common {
            settings,
            runs,
            teams: teams.unwrap_or_else(|| Arc::new(Teams::new(metrics.clone()))),
            metrics,
            events,
            room: Arc::new(Semaphore::new(room)),
            room_for_costs: Arc::new(Semaphore::new(room)),
            room_for_signs: Arc::new(Semaphore::new(room)),
        });
        let worker = Worker::new(ledger, Arc::clone(&common), jobs, to_look);
        let front = Front {
            queue,
            looks,
            common,
        };
        (Keeper(Some(Arc::new(front))), worker)
    }

    /// Nobody is served by its ledger any more: it sweeps no team, and gauges
    /// forget what it knew. Tasks of requests that began before are carried
    /// out all the same.
    pub fn retire(&self) {
        if let Some(front) = &self.0 {
            front.common.teams.retire();
        }
    }

    /// Takes a task if there is room for it. Never waits.
    pub fn offer(&self, task: Task) {
        let Some(front) = &self.0 else { return };
        // Clients poll: most of what they see is known already.
        let is_news = match &task {
            Task::Alive(run) => front.common.runs.is_turn(run),
            Task::Over(run) => !front.common.runs.is_settled(run),
            Task::Began {
                team,
                hold,
                run,
                hold_for,
            } => {
                // From here on its end is news, even if it was over before.
                front.common.runs.begin(run, team, hold, *hold_for);
                true
            }
            Task::NotStarted { .. } | Task::Cost { .. } => true,
        };
        if !is_news {
            return;
        }
        if let Some(job) = front.common.job(task) {
            front.enqueue(job);
        }
    }

    /// Works out a task elsewhere and offers it, if there is room for that;
    /// then the other one in any case. Never waits.
    pub fn look(&self, look: Look) {
        let Some(front) = &self.0 else { return };
        let waiting = Waiting {
            work: look.work,
            then: look.then.and_then(|then| front.common.job(then)),
        };
        if let Err(TrySendError::Closed(waiting) | TrySendError::Full(waiting)) =
            front.looks.try_send(waiting)
        {
            front.common.metrics.count_unread(Unread::Busy);
            if let Some(then) = waiting.then {
                front.enqueue(then);
            }
        }
    }

    /// An answer that should tell of a run could not be looked into.
    pub fn unread(&self, why: Unread) {
        if let Some(front) = &self.0 {
            front.common.metrics.count_unread(why);
        }
    }

    /// A start was admitted and these credits set aside for it.
    pub fn held(&self, team: &TeamId, hold: &HoldId, credits: Credits) {
        let Some(front) = &self.0 else { return };
        front.common.metrics.made.inc();
        if front.common.events.is_on() {
            let event = HoldEvent::held(team, hold, credits);
            front.common.events.offer(event);
        }
    }

    /// What the ledger said of a team's holds on the way.
    pub fn noticed(&self, team: &TeamId, held: Held, expired: Vec<Expired>) {
        if let Some(front) = &self.0 {
            front.common.noticed(team, held, &expired);
        }
    }

    /// A hold was changed elsewhere in this process.
    pub fn changed(&self, team: &TeamId, change: &Change, act: Act) {
        if let Some(front) = &self.0 {
            front.common.changed(team, change, act);
        }
    }
}

impl Front {
    fn enqueue(&self, job: Job) {
        if let Err(TrySendError::Closed(job) | TrySendError::Full(job)) = self.queue.try_send(job) {
            self.common.give_up(&job.task, "the gateway is ending");
        }
    }
}

impl Common {
    /// Gives a task a place, or drops it.
    fn job(&self, task: Task) -> Option<Job> {
        let room = match task {
            Task::Cost { .. } => &self.room_for_costs,
            Task::Over(_) | Task::Alive(_) => &self.room_for_signs,
            Task::NotStarted { .. } | Task::Began { .. } => &self.room,
        };
        let ending = match &task {
            // Whoever waits for it sees it many times.
            Task::Over(run) => Some(self.runs.ends(run)?),
            _ => None,
        };
        let Ok(room) = Arc::clone(room).try_acquire_owned() else {
            self.give_up(&task, "too many tasks wait");
            return None;
        };
        self.metrics.queue.inc();
        Some(Job {
            task,
            since: Instant::now(),
            tries: 0,
            refused: 0,
            unknown_since: None,
            _ending: ending,
            _place: Place {
                metrics: self.metrics.clone(),
                _room: room,
            },
        })
    }

    /// Drops a task, and says so.
    fn give_up(&self, task: &Task, why: &str) {
        self.metrics.dropped.inc();
        match task {
            Task::Cost {
                team,
                hold,
                credits,
                ..
            } => tracing::error!(
                team = team.as_str(),
                hold = hold.as_str(),
                credits = %credits,
                reason = why,
                "what a run cost was not settled: settle it by hand"
            ),
            // There can be many of these, and no harm in them.
            other => tracing::debug!(task = ?other, reason = why, "a task was dropped"),
        }
    }

    fn noticed(&self, team: &TeamId, held: Held, expired: &[Expired]) {
        self.teams.note(team, held);
        for hold in expired {
            self.metrics.count_end(End::Expired);
            if self.events.is_on() {
                self.events.offer(HoldEvent::expired(team, hold));
            }
        }
    }

    fn changed(&self, team: &TeamId, change: &Change, act: Act) {
        let ended = entry_of(change).filter(|entry| entry.ended_now);
        if let Some(end) = ended.and_then(|entry| entry.end) {
            self.metrics.count_end(end);
        }
        if matches!(change, Change::Done(_)) || ended.is_some() {
            self.teams.touch(team);
        }
        if self.events.is_on() {
            for event in HoldEvent::of_change(team, change, act) {
                self.events.offer(event);
            }
        }
    }
}
