//! [`Worker`]: carries tasks out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::gathering::Gathering;
use super::lanes::{Key, Lanes};
use super::work::{Fared, Hands};
use super::{Common, Job, Task, Waiting, sweep};
use crate::billing::hold::RunId;
use crate::ledger::LedgerError;
use crate::ledger::holds::Holds;
use crate::telemetry::holds::Unread;

/// The most tasks that are carried out at once.
const IN_FLIGHT_MAX: usize = 64;

/// The most batches of runs that began that are told at once. Each is many
/// changes on the connection that requests share, and they wait behind those;
/// two keep it busy while one is noted.
const TELLING_MAX: usize = 2;

/// The most answers that are looked into at once: each takes a thread, and the
/// largest tens of megabytes.
const LOOKS_MAX: usize = 2;

/// The most tasks that are taken over at once.
const BATCH_MAX: usize = 256;

/// The first pause before a task is tried again; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// The longest pause.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long a task is worth anything, where no shorter time is known. What a
/// run cost is always worth something.
const LIFE_MAX: Duration = Duration::from_secs(10 * 60);

/// How often the log is told that the ledger is away.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// How long it is asked whose run it is that is over.
const ASK_FOR: Duration = Duration::from_secs(10);

/// The first pause before it is asked again; it doubles.
const ASK_AGAIN_FIRST: Duration = Duration::from_secs(1);

/// The longest pause.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(4);

/// Carries tasks out.
pub struct Worker {
    hands: Hands,
    jobs: mpsc::Receiver<Job>,
    to_look: mpsc::Receiver<Waiting>,
    lanes: Lanes,
    /// Runs that began, and how many are told at once.
    gathering: Gathering,
    at_once: usize,
    running: JoinSet<Vec<Result<Fared, LedgerError>>>,
    /// Those of them that tell what gathered.
    telling: HashSet<Id>,
    /// Whose lanes each of them is about, in order.
    lanes_of: HashMap<Id, Vec<Key>>,
    looking: JoinSet<Result<Task, Unread>>,
    /// What is to be done after each of them.
    then: HashMap<Id, Job>,
    open: Open,
    /// When the log was last told that the ledger is away.
    complained: Option<Instant>,
}

/// What may still bring tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// Handles, and answers that wait.
    All,
    /// Answers that wait; tasks are all here.
    Looks,
    /// Tasks that wait; answers are all here.
    Jobs,
    /// Nothing.
    Nothing,
}

impl Open {
    fn jobs(self) -> bool {
        matches!(self, Open::All | Open::Jobs)
    }

    fn looks(self) -> bool {
        matches!(self, Open::All | Open::Looks)
    }
}

/// The end of a call or a look.
type Ended<T> = Result<(Id, T), JoinError>;

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

impl Worker {
    pub(super) fn new(
        ledger: Arc<dyn Holds>,
        common: Arc<Common>,
        jobs: mpsc::Receiver<Job>,
        to_look: mpsc::Receiver<Waiting>,
    ) -> Self {
        Worker {
            at_once: ledger.bound_at_once(),
            gathering: Gathering::default(),
            hands: Hands { ledger, common },
            jobs,
            to_look,
            lanes: Lanes::default(),
            running: JoinSet::new(),
            telling: HashSet::new(),
            lanes_of: HashMap::new(),
            looking: JoinSet::new(),
            then: HashMap::new(),
            open: Open::All,
            complained: None,
        }
    }

    /// Carries tasks out until every [`super::Keeper`] is gone or `stop`
    /// resolves; then what waits for at most `flush_within`. What is left is
    /// dropped and counted.
    ///
    /// Spawn it on the runtime that serves the requests. It tells events up to
    /// its end, so whoever writes them should end after it.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send, flush_within: Duration) {
        let closing = Notify::new();
        let out_of_time = async {
            stop.await;
            closing.notify_one();
            sleep(flush_within).await;
        };
        let sweeping = sweep::run(self.hands.clone());
        tokio::select! {
            () = self.work(&closing) => {}
            () = out_of_time => {}
            () = sweeping => {}
        }
        self.jobs.close();
        self.to_look.close();
        let common = Arc::clone(&self.hands.common);
        while let Ok(look) = self.to_look.try_recv() {
            let then = look.then.into_iter();
            then.for_each(|job| common.give_up(&job.task, "the gateway ended first"));
        }
        for (_, job) in self.then.drain() {
            common.give_up(&job.task, "the gateway ended first");
        }
        for job in self.lanes.drain() {
            common.give_up(&job.task, "the gateway ended first");
        }
        while let Ok(job) = self.jobs.try_recv() {
            common.give_up(&job.task, "the gateway ended first");
        }
    }

    /// Works until nothing more comes and all is done.
    async fn work(&mut self, closing: &Notify) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let now = Instant::now();
            self.lanes.wake(now);
            self.gather(now);
            self.begin_what_is_ready(now);
            if self.is_done() {
                return;
            }
            let wake = self.next_wake();
            // What gathers is joined by all that came, once its time is up. What
            // has to wait for longer keeps nobody from coming.
            let gathers = self.gathering.due().is_some() && self.can_tell();
            let room = self.open.jobs() && !gathers;
            let room_to_look = self.open.looks() && self.looking.len() < LOOKS_MAX;
            tokio::select! {
                taken = self.jobs.recv_many(&mut batch, BATCH_MAX), if room => {
                    if taken == 0 {
                        self.open = if self.open.looks() { Open::Looks } else { Open::Nothing };
                    }
                    batch.drain(..).for_each(|job| self.take(job));
                }
                look = self.to_look.recv(), if room_to_look => match look {
                    Some(look) => self.begin_to_look(look),
                    None => {
                        self.open = if self.open.jobs() { Open::Jobs } else { Open::Nothing };
                    }
                },
                Some(ended) = self.running.join_next_with_id() => self.conclude(ended),
                Some(looked) = self.looking.join_next_with_id() => self.took_a_look(looked),
                () = until(wake) => {}
                () = closing.notified() => {
                    self.jobs.close();
                    self.to_look.close();
                    self.lanes.wake_all();
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        self.open == Open::Nothing && self.lanes.is_empty() && self.looking.is_empty()
    }

    fn begin_to_look(&mut self, look: Waiting) {
        let looking = self.looking.spawn_blocking(look.work);
        if let Some(then) = look.then {
            self.then.insert(looking.id(), then);
        }
    }

    fn took_a_look(&mut self, looked: Ended<Result<Task, Unread>>) {
        let common = Arc::clone(&self.hands.common);
        let id = match &looked {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let mut then = self.then.remove(&id);
        match looked {
            Ok((_, Ok(task))) => {
                if let (Task::Began { run, .. }, Some(then)) = (&task, &mut then) {
                    then.task.name(run);
                }
                if let Some(job) = common.job(task) {
                    self.take(job);
                }
            }
            Ok((_, Err(why))) => common.metrics.count_unread(why),
            Err(_) => common.metrics.count_unread(Unread::Malformed),
        }
        if let Some(then) = then {
            self.take(then);
        }
    }

    /// Puts a task into its lane.
    fn take(&mut self, job: Job) {
        let runs = &self.hands.common.runs;
        let lane_of = |run: &RunId| {
            let hold = runs.owner(run).and_then(|owner| owner.hold);
            hold.map_or_else(|| Key::Run(run.clone()), Key::Hold)
        };
        let key = match &job.task {
            Task::Cost { run: Some(run), .. } => lane_of(run),
            Task::NotStarted { hold, .. } | Task::Cost { hold, .. } => Key::Hold(hold.clone()),
            Task::Began {
                team,
                hold,
                run,
                hold_for,
            } => {
                // From here on, what is told of the run waits for this.
                runs.begin(run, team, hold, *hold_for);
                lane_of(run)
            }
            Task::Over(run) | Task::Alive(run) => lane_of(run),
        };
        self.lanes.push(key, job);
    }

    fn begin_what_is_ready(&mut self, now: Instant) {
        while self.has_hands() {
            let Some((key, job)) = self.lanes.next() else {
                break;
            };
            if life(&job.task).is_some_and(|life| job.since.elapsed() > life) {
                self.drop_first(&key, "the ledger was away for too long");
                continue;
            }
            let task = job.task.clone();
            if self.at_once > 1 && matches!(task, Task::Began { .. }) {
                self.gathering.push(key, task, now);
                if self.gathering.len() >= self.at_once && self.can_tell() {
                    self.tell_what_gathered();
                }
                continue;
            }
            let hands = self.hands.clone();
            let call = async move { vec![hands.carry_out(&task).await] };
            let call = self.running.spawn(call);
            self.lanes_of.insert(call.id(), vec![key]);
        }
        while self.gathering.due().is_some_and(|due| due <= now) && self.can_tell() {
            self.tell_what_gathered();
        }
    }

    fn has_hands(&self) -> bool {
        self.running.len() < IN_FLIGHT_MAX
    }

    /// Whether what gathered can be told. Else it goes on gathering.
    fn can_tell(&self) -> bool {
        self.has_hands() && self.telling.len() < TELLING_MAX
    }

    /// Takes over what came while runs that began were gathered, once their
    /// time is up.
    fn gather(&mut self, now: Instant) {
        if self.gathering.due().is_none_or(|due| due > now) {
            return;
        }
        for _ in 0..BATCH_MAX {
            match self.jobs.try_recv() {
                Ok(job) => self.take(job),
                Err(_) => return,
            }
        }
    }

    fn tell_what_gathered(&mut self) {
        let (keys, tasks) = self.gathering.take(self.at_once);
        let hands = self.hands.clone();
        let call = async move { hands.carry_out_together(&tasks).await };
        let call = self.running.spawn(call);
        self.telling.insert(call.id());
        self.lanes_of.insert(call.id(), keys);
    }

    /// When there is something to do though nothing comes.
    fn next_wake(&self) -> Option<Instant> {
        let due = self.gathering.due().filter(|_| self.can_tell());
        [due, self.lanes.next_wake()].into_iter().flatten().min()
    }

    fn drop_first(&mut self, key: &Key, why: &str) {
        if let Some(job) = self.lanes.done(key) {
            self.hands.common.give_up(&job.task, why);
        }
    }

    /// Draws the conclusions from how tasks fared.
    fn conclude(&mut self, ended: Ended<Vec<Result<Fared, LedgerError>>>) {
        let (id, fared) = match ended {
            Ok((id, fared)) => (id, fared),
            Err(error) => (error.id(), Vec::new()),
        };
        self.telling.remove(&id);
        let mut fared = fared.into_iter();
        for key in self.lanes_of.remove(&id).unwrap_or_default() {
            self.conclude_one(key, fared.next());
        }
    }

    fn conclude_one(&mut self, key: Key, fared: Option<Result<Fared, LedgerError>>) {
        match fared {
            Some(Ok(Fared::Done)) => {
                self.lanes.done(&key);
            }
            Some(Ok(Fared::NotKnown)) => self.ask_again(key),
            Some(Err(LedgerError::Outage(why) | LedgerError::OutcomeUnknown(why))) => {
                self.complain(&why);
                self.retry(key);
            }
            Some(Err(
                error @ (LedgerError::Corrupt(_)
                | LedgerError::Unsupported(_)
                | LedgerError::Full(_)),
            )) => self.refused(key, &error),
            None => self.drop_first(&key, "carrying it out broke off"),
        }
    }

    /// The ledger cannot do it as things stand. What a run cost is worth waiting
    /// until it can: somebody trims a full statement, or repairs a balance.
    fn refused(&mut self, key: Key, error: &LedgerError) {
        match self.lanes.first(&key) {
            Some(Job {
                task: Task::Cost { team, .. },
                refused,
                ..
            }) => {
                if *refused == 0 {
                    tracing::warn!(
                        team = team.as_str(),
                        %error,
                        "the ledger cannot take what a run cost; trying again until it can"
                    );
                }
                *refused = refused.saturating_add(1);
                self.retry(key);
            }
            _ => {
                tracing::warn!(%error, "the ledger cannot change this hold");
                self.drop_first(&key, "the ledger cannot do it");
            }
        }
    }

    /// Nobody knows the run that is over: it may have begun elsewhere a moment
    /// ago.
    fn ask_again(&mut self, key: Key) {
        let common = Arc::clone(&self.hands.common);
        let asked_for = self.lanes.first(&key).map_or(ASK_FOR, |job| {
            job.unknown_since.get_or_insert_with(Instant::now).elapsed()
        });
        let left = ASK_FOR.saturating_sub(asked_for);
        if left.is_zero() || self.jobs.is_closed() {
            common.metrics.ends_unknown.inc();
            self.lanes.done(&key);
            return;
        }
        let asked = asked_for.max(ASK_AGAIN_FIRST).min(ASK_AGAIN_MAX);
        self.lanes.again(key, after(asked.min(left)));
    }

    fn count_try(&mut self, key: &Key) -> u32 {
        self.lanes.first(key).map_or(u32::MAX, |job| {
            job.tries = job.tries.saturating_add(1);
            job.tries
        })
    }

    fn retry(&mut self, key: Key) {
        let tries = self.count_try(&key);
        let pause = if self.jobs.is_closed() {
            RETRY_FIRST
        } else {
            let factor = 2_u32.saturating_pow(tries.saturating_sub(1));
            RETRY_FIRST.saturating_mul(factor).min(RETRY_MAX)
        };
        self.lanes.again(key, after(pause));
    }

    /// Logs why holds are not changed, now and then.
    fn complain(&mut self, why: &str) {
        if self
            .complained
            .is_none_or(|at| at.elapsed() > COMPLAIN_EVERY)
        {
            tracing::warn!(reason = why, "holds cannot be changed now; trying again");
            self.complained = Some(Instant::now());
        }
    }
}

/// How long a task is worth anything.
fn life(task: &Task) -> Option<Duration> {
    match task {
        Task::Cost { .. } => None,
        Task::Began { hold_for, .. } => Some((*hold_for).min(LIFE_MAX)),
        Task::NotStarted { .. } | Task::Over(_) | Task::Alive(_) => Some(LIFE_MAX),
    }
}

fn after(span: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(span).unwrap_or(now)
}

/// Waits until then; for ever if there is no such time.
async fn until(wake: Option<Instant>) {
    match wake {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
