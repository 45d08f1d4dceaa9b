//! Keeps one good link to Redis up, and the breaker.
//!
//! The breaker is not a thing of its own: requests can only ask while a link
//! is published, and a link is published only after it has answered a probe.
//! Too many faults in a row retire it, and then every request is told of the
//! outage at once while this task connects and probes on its own time. So an
//! outage costs at most `breaker_failures` rounds of requests their deadline.
//!
//! A retired link is never used again: the replies still owed on it would come
//! late, and behind each other.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};

use super::fault::{Fault, Lasting};
use super::link::Link;
use super::place::Place;
use super::prepare::Preparation;
use super::question::{BalanceRead, Question, one};
use super::sentinel::is_master;
use super::values::text;
use super::wire::Replies;

/// How many attempts to connect may be under way at once.
const ATTEMPTS_MAX: u32 = 8;

/// What is said before the first attempt has ended.
const NOT_YET: &str = "redis is not connected yet";

/// How requests find the link.
#[derive(Debug)]
pub(super) enum State {
    /// Ask over this one.
    Up(Arc<Link>),
    /// There is none, and why.
    Down(String),
    /// There was none yet, and the first attempt is under way.
    Opening,
}

/// What requests and the supervising task share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) place: Place,
    /// The longest a request waits.
    pub(super) deadline: Duration,
    pub(super) connect_timeout: Duration,
    /// Faults in a row that retire a link.
    pub(super) faults_max: u32,
    /// The pause between attempts, and between probes of an idle link.
    pub(super) probe_interval: Duration,
    /// A read like those that requests make, of a team that is none.
    pub(super) sample: Cmd,
    /// `EXISTS` of the canary key, if there is one.
    pub(super) canary: Option<Cmd>,
    /// What hold mode needs of a link.
    pub(super) holds: Option<Arc<Preparation>>,
    pub(super) state: ArcSwap<State>,
    /// Told of every change of `state`.
    pub(super) changes: watch::Sender<()>,
}

impl Core {
    /// Keeps a link up, for ever.
    pub(super) async fn keep_up(self: Arc<Self>) {
        loop {
            let link = self.connect().await;
            self.publish(&link);
            self.watch(&link).await;
            // A link that never served would be replaced as fast as it fails.
            if !link.has_served() {
                sleep(self.probe_interval).await;
            }
        }
    }

    /// Tries until a link answers a probe.
    async fn connect(self: &Arc<Self>) -> Arc<Link> {
        let mut attempts = JoinSet::new();
        let mut count: usize = 0;
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(next) => {
                    let core = Arc::clone(self);
                    attempts.spawn(async move { core.attempt(count).await });
                    count = count.wrapping_add(1);
                    next = self.next_attempt();
                }
                Some(done) = attempts.join_next() => match done {
                    Ok(Ok(link)) => {
                        // One short of the limit: a server that answers probes
                        // and nothing else costs one request each time.
                        link.start_faults_at(self.faults_max.saturating_sub(1));
                        return Arc::new(link);
                    }
                    Ok(Err(why)) => self.stay_down(why),
                    Err(panic) => self.stay_down(panic.to_string()),
                },
            }
        }
    }

    /// When to begin another attempt after this one. They overlap if they hang:
    /// a packet that a dead network swallowed is sent again only after a
    /// second, and a fresh attempt beside the old one gets through as soon as
    /// the network does.
    fn next_attempt(&self) -> Instant {
        let spread = self.connect_timeout.checked_div(ATTEMPTS_MAX);
        let pause = self.probe_interval.max(spread.unwrap_or_default());
        from_now(pause)
    }

    /// Connects once and probes. The error is a sentence for people.
    pub(super) async fn attempt(&self, count: usize) -> Result<Link, String> {
        let link = self.place.open(count, self.connect_timeout).await?;
        self.prepare(&link).await?;
        match self.probe(&link).await {
            Ok(()) => Ok(link),
            Err(fault) => Err(self.explain(&fault)),
        }
    }

    /// Asks whether Redis answers, and whether it still holds the balances.
    pub(super) async fn probe(&self, link: &Link) -> Result<(), Fault> {
        let until = self.until();
        self.ping(link, until).await?;
        // Then what requests will ask for, so that a server that answers, but
        // not that, does not count as one that answers.
        let sample = Question::One(self.sample.clone());
        match self.read(link, &sample, until).await {
            Err(fault) if !fault.is_answer() => Err(fault),
            _ => self.probe_holds(link).await,
        }
    }

    /// Asks whether Redis answers.
    pub(super) async fn ping(&self, link: &Link, until: Instant) -> Result<(), Fault> {
        // What comes back has to be what was sent just now: a reply that
        // belongs to something else is noticed.
        let nonce = format!("tollgate {:016x}", rand::random::<u64>());
        let mut ping = redis::cmd("PING");
        ping.arg(&nonce);
        match self.within(until, link.ask(&ping)).await {
            Ok(Value::BulkString(echo)) if echo == nonce.as_bytes() => Ok(()),
            // Not allowed to ask that, or not now (a server that cannot write
            // its disk says so to `PING`, too), but answered.
            Err(Fault::Entry(_) | Fault::Forbidden(_) | Fault::NoWrites(_)) => Ok(()),
            Ok(_) => Err(Fault::nonsense()),
            Err(fault) => Err(fault),
        }
    }

    /// Asks for one thing, until then. With a canary, both are read in the same instant:
    /// between two reads the balances could be lost and the loss go unseen.
    pub(super) async fn read(
        &self,
        link: &Link,
        question: &Question,
        until: Instant,
    ) -> Result<Value, Fault> {
        let Some(canary) = &self.canary else {
            let reply = link.pose(question, Lasting::FromNowOn, until).await;
            return reply.map_err(Fault::of_a_read);
        };
        let mut commands = Pipeline::with_capacity(5);
        commands.cmd("MULTI");
        commands.add_command(canary.clone());
        for command in question.commands() {
            commands.add_command(command.clone());
        }
        commands.cmd("EXEC");
        let replies = link.ask_all_by(&commands, Some(until)).await?;
        results(replies, question.commands().len())
            .and_then(|answers| question.reply(answers))
            .map_err(Fault::of_a_read)
    }

    /// As [`Core::read`] over the link that requests use, of a team's balance,
    /// and draws the conclusions for the breaker. Every request does this, so
    /// it goes straight to the wire.
    pub(super) async fn look_up(
        &self,
        what: &BalanceRead<'_>,
        until: Instant,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let link = self.link()?;
        link.mark_used();
        let until = Some(until);
        let reply = match &self.canary {
            None => link.send(what, until).await.and_then(Replies::only),
            Some(canary) => {
                let guarded = what.guarded(canary);
                let replies = link.send(&guarded, until).await.map(Replies::all);
                replies.and_then(|replies| one(results(replies, 1)?))
            }
        };
        let reply = reply.map_err(|fault| fault.of_a_read().of_one_server());
        self.conclude(&link, reply.and_then(text))
    }

    /// When a call that begins now has to be over.
    pub(super) fn until(&self) -> Instant {
        from_now(self.deadline)
    }

    /// Waits for a reply until then.
    pub(super) async fn within<T>(
        &self,
        until: Instant,
        reply: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        timeout_at(until, reply).await.unwrap_or(Err(Fault::Silent))
    }

    /// Watches a link until it is retired.
    async fn watch(&self, link: &Arc<Link>) {
        let mut ticks = interval(self.probe_interval);
        // The first tick comes at once, and the link was probed just now.
        ticks.reset();
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.is_current(link) {
            tokio::select! {
                () = link.needs_a_look() => if link.is_over() {
                    self.retire(link, "redis closed the connection".to_owned());
                },
                _ = ticks.tick() => {
                    self.confirm(link).await;
                    self.confirm_schema(link).await;
                    if !link.take_used() {
                        let outcome = self.probe(link).await;
                        self.note(link, &outcome);
                    }
                }
            }
        }
    }

    /// Retires a link that no longer leads to the master.
    async fn confirm(&self, link: &Arc<Link>) {
        let Place::Elected(sentinels) = &self.place else {
            return;
        };
        let role = self.within(self.until(), is_master(link)).await;
        self.note(link, &role);
        tokio::select! {
            confirmed = sentinels.confirm(link, self.connect_timeout) => {
                if let Err(why) = confirmed {
                    self.retire(link, why);
                }
            }
            // Sentinels that are slow must not keep a lost link in its place.
            () = link.needs_a_look() => link.wake(),
        }
    }

    /// Draws the conclusions from what came of a command.
    pub(super) fn note<T>(&self, link: &Arc<Link>, outcome: &Result<T, Fault>) {
        match outcome {
            Ok(_) => link.forget_faults(),
            Err(fault) if fault.is_answer() => link.forget_faults(),
            Err(fault @ (Fault::Silent | Fault::Refusing(_) | Fault::Forbidden(_))) => {
                if link.count_fault() >= self.faults_max {
                    self.retire(link, self.explain(fault));
                }
            }
            Err(Fault::Down(_)) => {}
            Err(fault) => self.retire(link, self.explain(fault)),
        }
    }

    /// Draws the conclusions from what came of a request's command.
    pub(super) fn conclude<T>(
        &self,
        link: &Arc<Link>,
        outcome: Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.note(link, &outcome);
        if outcome.as_ref().err().is_none_or(Fault::is_answer) {
            link.mark_served();
        }
        outcome
    }

    /// The link, or why there is none.
    pub(super) fn link(&self) -> Result<Arc<Link>, Fault> {
        match &**self.state.load() {
            State::Up(link) => Ok(Arc::clone(link)),
            State::Down(why) => Err(Fault::Down(why.clone())),
            State::Opening => Err(Fault::Down(NOT_YET.to_owned())),
        }
    }

    /// Whether there was no link yet and one may come any moment.
    pub(super) fn is_opening(&self) -> bool {
        matches!(&**self.state.load(), State::Opening)
    }

    /// Connects once and publishes what comes of it.
    pub(super) async fn open_once(self: &Arc<Self>) {
        match self.attempt(0).await {
            Ok(link) => self.publish(&Arc::new(link)),
            Err(why) => self.stay_down(why),
        }
    }

    /// A fault in words.
    pub(super) fn explain(&self, fault: &Fault) -> String {
        match fault {
            Fault::Silent => format!("redis did not reply within {:?}", self.deadline),
            fault => fault.to_string(),
        }
    }

    /// Whether requests are sent over this link.
    pub(super) fn is_current(&self, link: &Arc<Link>) -> bool {
        matches!(&**self.state.load(), State::Up(current) if Arc::ptr_eq(current, link))
    }

    pub(super) fn publish(&self, link: &Arc<Link>) {
        self.state.store(Arc::new(State::Up(Arc::clone(link))));
        self.changes.send_replace(());
        tracing::info!(redis = %self.place, "the ledger answers");
    }

    /// Takes a link out of use. Of several callers, one does it.
    fn retire(&self, link: &Arc<Link>, why: String) {
        let current = self.state.load();
        if !matches!(&**current, State::Up(published) if Arc::ptr_eq(published, link)) {
            return;
        }
        let down = Arc::new(State::Down(why.clone()));
        let previous = self.state.compare_and_swap(&*current, down);
        if Arc::ptr_eq(&previous, &current) {
            self.changes.send_replace(());
            link.wake();
            tracing::warn!(redis = %self.place, reason = why, "the ledger does not answer");
        }
    }

    /// Keeps the newest reason while there is no link.
    pub(super) fn stay_down(&self, why: String) {
        let unchanged = matches!(&**self.state.load(), State::Down(before) if *before == why);
        if !unchanged {
            tracing::warn!(redis = %self.place, reason = why, "the ledger still does not answer");
            self.state.store(Arc::new(State::Down(why)));
            self.changes.send_replace(());
        }
    }
}

/// So much later than now, as far as the clock goes.
pub(super) fn from_now(span: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(span).unwrap_or(now)
}

/// Takes the replies to `MULTI`, `EXISTS canary`, so many commands, `EXEC`
/// apart: the results of the commands, of which each may be an error.
fn results(replies: Vec<Value>, due: usize) -> Result<Vec<Value>, Fault> {
    let refused = replies.iter().find_map(|reply| match reply {
        // EXECABORT only repeats that an earlier one was refused.
        Value::ServerError(error) if error.code() != "EXECABORT" => Some(error),
        _ => None,
    });
    if let Some(error) = refused {
        return Err(Fault::from_server(error));
    }
    let is_whole = replies.len() == due.saturating_add(3);
    let Some(Value::Array(mut results)) = replies.into_iter().last().filter(|_| is_whole) else {
        return Err(Fault::nonsense());
    };
    if results.is_empty() {
        return Err(Fault::nonsense());
    }
    let answers = results.split_off(1);
    match results.pop() {
        Some(Value::Int(0)) => Err(Fault::CanaryMissing),
        Some(Value::Int(_)) => Ok(answers),
        Some(Value::ServerError(error)) => Err(Fault::from_server(&error)),
        _ => Err(Fault::nonsense()),
    }
}
