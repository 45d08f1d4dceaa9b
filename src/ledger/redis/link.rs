//! [`Link`]: one connection to Redis, shared by every request, and what is
//! known of its condition.
//!
//! A link is never repaired. Whoever holds it counts its faults; when they are
//! too many, another one takes its place ([`super::supervisor`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant as Moment, timeout};

use super::clock::Clock;
use super::fault::{Fault, Lasting, clean};
use super::hello::introduce;
use super::question::{Question, both};
use super::transport::Target;
use super::wire::{Asking, Pack, Replies, Wire, Written};

/// How a script is sent. A plain command has one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// By its name, which Redis may not know.
    ByName,
    /// With its text.
    InFull,
}

/// One connection to Redis.
pub(super) struct Link {
    /// Where it leads, for comparisons and messages.
    at: Box<str>,
    wire: Wire,
    /// Reads and writes the socket, for as long as the link is there.
    driver: JoinHandle<()>,
    /// What time it is at the other end.
    pub(super) clock: Clock,
    /// Faults in a row.
    faults: AtomicU32,
    /// Whether a request used the link since this was last asked.
    used: AtomicBool,
    /// Whether a request was ever answered.
    served: AtomicBool,
    ending: Arc<Ending>,
}

/// Tells whoever watches a link that it needs a look.
#[derive(Default)]
struct Ending {
    over: AtomicBool,
    wake: Notify,
}

/// Marks the connection as over when the driver is gone, however it went.
struct MarkOver(Arc<Ending>);

impl Drop for MarkOver {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
        self.0.wake.notify_one();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Opens a connection and introduces itself, in the current runtime. The
    /// error is a sentence for people.
    pub(super) async fn open(
        target: &Target,
        attempt: usize,
        connect_timeout: Duration,
    ) -> Result<Self, String> {
        let opening = async {
            let stream = target.dial(attempt).await;
            let stream = stream.map_err(|error| clean(&error.to_string()))?;
            let (wire, driver) = Wire::new(stream);
            let ending = Arc::new(Ending::default());
            let mark = MarkOver(Arc::clone(&ending));
            let driver = tokio::spawn(async move {
                let _mark = mark;
                driver.await;
            });
            let link = Link {
                at: target.to_string().into(),
                wire,
                driver,
                clock: Clock::new(),
                faults: AtomicU32::new(0),
                used: AtomicBool::new(false),
                served: AtomicBool::new(false),
                ending,
            };
            introduce(&link, &target.manner.hello).await?;
            Ok::<_, String>(link)
        };
        match timeout(connect_timeout, opening).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(why)) => Err(format!("cannot connect to redis at {target}: {why}")),
            Err(_) => Err(format!(
                "cannot connect to redis at {target}: no answer within {connect_timeout:?}"
            )),
        }
    }

    /// Where it leads.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    /// Sends something and waits for its replies, until then if there is an end
    /// to it.
    pub(super) fn send<'a, P: Pack>(&'a self, what: &'a P, until: Option<Moment>) -> Asking<'a, P> {
        self.wire.ask(what, until)
    }

    /// Sends a command and waits for its reply, without a deadline.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Fault> {
        self.send(command, None).await?.only()
    }

    /// As [`Link::ask`], of a cluster's node that is about to get the key's
    /// slot and only answers whoever was sent there.
    pub(super) async fn ask_ahead(
        &self,
        command: &Cmd,
        until: Option<Moment>,
    ) -> Result<Value, Fault> {
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("ASKING");
        commands.add_command(command.clone());
        match self.ask_all_by(&commands, until).await?.pop() {
            Some(Value::ServerError(error)) => Err(Fault::from_server(&error)),
            Some(value) => Ok(value),
            None => Err(Fault::nonsense()),
        }
    }

    /// Sends the commands of a question in one write and waits for the replies
    /// until then.
    pub(super) async fn pose(
        &self,
        question: &Question,
        lasting: Lasting,
        until: Moment,
    ) -> Result<Value, Fault> {
        let until = Some(until);
        let reply = match (question, lasting) {
            (Question::One(command) | Question::Aside(command), Lasting::FromNowOn) => {
                self.send(command, until).await.and_then(Replies::only)
            }
            (Question::One(command) | Question::Aside(command), Lasting::ThisOnce) => {
                self.ask_ahead(command, until).await
            }
            (Question::Both(commands), lasting) => self.ask_both(commands, lasting, until).await,
        };
        reply.map_err(|fault| question.fault(fault))
    }

    /// Sends two commands about one key.
    async fn ask_both(
        &self,
        commands: &[Cmd; 2],
        lasting: Lasting,
        until: Option<Moment>,
    ) -> Result<Value, Fault> {
        let mut pipeline = Pipeline::with_capacity(4);
        for command in commands {
            // It counts for the next command alone.
            if lasting == Lasting::ThisOnce {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(command.clone());
        }
        let mut replies = self.ask_all_by(&pipeline, until).await?;
        if lasting == Lasting::ThisOnce {
            let mut answers = replies.into_iter();
            replies = Vec::with_capacity(commands.len());
            while let (Some(_), Some(answer)) = (answers.next(), answers.next()) {
                replies.push(answer);
            }
        }
        both(replies)
    }

    /// Sends a command in the form that is shorter, and in the other one if
    /// Redis does not understand it, all until then. Returns when it was sent,
    /// too.
    pub(super) async fn exchange(
        &self,
        make: &impl Fn(&Link, Form) -> Question,
        lasting: Lasting,
        until: Moment,
    ) -> Result<(Instant, Value), Fault> {
        let send = async |form| {
            let question = make(self, form);
            let sent = Instant::now();
            let reply = self.pose(&question, lasting, until).await;
            reply.map(|reply| (sent, reply))
        };
        match send(Form::ByName).await {
            Err(fault) if fault.is_unknown_script() => send(Form::InFull).await,
            outcome => outcome,
        }
    }

    /// Sends commands in one write and waits for all replies, without a
    /// deadline. Errors of single commands stand in their places.
    pub(super) async fn ask_all(&self, commands: &Pipeline) -> Result<Vec<Value>, Fault> {
        self.ask_all_by(commands, None).await
    }

    /// As [`Link::ask_all`], until then if there is an end to it.
    pub(super) async fn ask_all_by(
        &self,
        commands: &Pipeline,
        until: Option<Moment>,
    ) -> Result<Vec<Value>, Fault> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        self.send(commands, until).await.map(Replies::all)
    }

    /// As [`Link::ask_all`], of commands as they go over the wire, and how many
    /// they are.
    pub(super) async fn ask_written(
        &self,
        bytes: &[u8],
        count: usize,
    ) -> Result<Vec<Value>, Fault> {
        let packed = Written { bytes, count };
        self.send(&packed, None).await.map(Replies::all)
    }

    /// Counts a fault and returns how many there have been in a row.
    pub(super) fn count_fault(&self) -> u32 {
        self.faults
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }

    /// Starts the count of faults here. A new link starts one short of the
    /// limit: it has to prove itself with the first request.
    pub(super) fn start_faults_at(&self, faults: u32) {
        self.faults.store(faults, Ordering::Relaxed);
    }

    /// A proper answer: the faults before it are no longer in a row.
    pub(super) fn forget_faults(&self) {
        // Most often there are none, and a store would take the cache line
        // away from the other threads.
        if self.faults.load(Ordering::Relaxed) != 0 {
            self.faults.store(0, Ordering::Relaxed);
        }
    }

    /// A request uses the link.
    pub(super) fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a request used the link since this was last asked.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// A request was answered.
    pub(super) fn mark_served(&self) {
        if !self.served.load(Ordering::Relaxed) {
            self.served.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a request was ever answered over this link.
    pub(super) fn has_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// Whether the connection is gone.
    pub(super) fn is_over(&self) -> bool {
        self.ending.over.load(Ordering::Acquire)
    }

    /// Wakes the one that waits in [`Link::needs_a_look`].
    pub(super) fn wake(&self) {
        self.ending.wake.notify_one();
    }

    /// Waits until the connection is gone or somebody called [`Link::wake`].
    pub(super) async fn needs_a_look(&self) {
        self.ending.wake.notified().await;
    }
}
