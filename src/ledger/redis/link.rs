//! [`Link`]: one connection to Redis, shared by every request, and what is
//! known of its condition.
//!
//! A link is never repaired. Whoever holds it counts its faults; when they are
//! too many, another one takes its place ([`super::supervisor`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::clock::Clock;
use super::fault::{Fault, Lasting, clean};
use super::question::{Question, both};
use super::transport::{Meter, Target};

/// The most commands that wait to be written. Further ones wait outside, each
/// within its own deadline.
const UNWRITTEN_MAX: usize = 1024;

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
    connection: MultiplexedConnection,
    /// Reads and writes the socket. Left alone, a driver first writes what is
    /// still to be written, which a frozen Redis never takes: end it by hand.
    driver: JoinHandle<()>,
    meter: Arc<Meter>,
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
            let (stream, meter) = target
                .dial(attempt)
                .await
                .map_err(|error| clean(&error.to_string()))?;
            let config = AsyncConnectionConfig::new()
                // Deadlines are the callers' business, one timer each.
                .set_response_timeout(None)
                .set_connection_timeout(None)
                .set_pipeline_buffer_size(UNWRITTEN_MAX);
            let (connection, driver) =
                MultiplexedConnection::new_with_config(&target.manner.hello, stream, config)
                    .await
                    .map_err(|error| clean(&error.to_string()))?;
            let ending = Arc::new(Ending::default());
            let mark = MarkOver(Arc::clone(&ending));
            let driver = tokio::spawn(async move {
                let _mark = mark;
                driver.await;
            });
            Ok::<_, String>(Link {
                at: target.to_string().into(),
                connection,
                driver,
                meter,
                clock: Clock::new(),
                faults: AtomicU32::new(0),
                used: AtomicBool::new(false),
                served: AtomicBool::new(false),
                ending,
            })
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

    /// Sends a command and waits for its reply, without a deadline.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Fault> {
        let reply = self.connection.clone().send_packed_command(command).await;
        self.meter.replied();
        match reply? {
            Value::ServerError(error) => Err(Fault::from_server(&error)),
            value => Ok(value),
        }
    }

    /// As [`Link::ask`], of a cluster's node that is about to get the key's
    /// slot and only answers whoever was sent there.
    pub(super) async fn ask_ahead(&self, command: &Cmd) -> Result<Value, Fault> {
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("ASKING");
        commands.add_command(command.clone());
        match self.ask_all(&commands).await?.pop() {
            Some(Value::ServerError(error)) => Err(Fault::from_server(&error)),
            Some(value) => Ok(value),
            None => Err(Fault::nonsense()),
        }
    }

    /// Sends the commands of a question in one write and waits for the replies,
    /// without a deadline.
    pub(super) async fn pose(&self, question: &Question, lasting: Lasting) -> Result<Value, Fault> {
        let reply = match (question, lasting) {
            (Question::One(command) | Question::Aside(command), Lasting::FromNowOn) => {
                self.ask(command).await
            }
            (Question::One(command) | Question::Aside(command), Lasting::ThisOnce) => {
                self.ask_ahead(command).await
            }
            (Question::Both(commands), lasting) => self.ask_both(commands, lasting).await,
        };
        reply.map_err(|fault| question.fault(fault))
    }

    /// Sends two commands about one key.
    async fn ask_both(&self, commands: &[Cmd; 2], lasting: Lasting) -> Result<Value, Fault> {
        let mut pipeline = Pipeline::with_capacity(4);
        for command in commands {
            // It counts for the next command alone.
            if lasting == Lasting::ThisOnce {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(command.clone());
        }
        let mut replies = self.ask_all(&pipeline).await?;
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
    /// Redis does not understand it. Returns when it was sent, too.
    pub(super) async fn exchange(
        &self,
        make: &impl Fn(&Link, Form) -> Question,
        lasting: Lasting,
    ) -> Result<(Instant, Value), Fault> {
        let send = async |form| {
            let question = make(self, form);
            let sent = Instant::now();
            let reply = self.pose(&question, lasting).await;
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
        let mut connection = self.connection.clone();
        let replies = connection
            .send_packed_commands(commands, 0, commands.len())
            .await;
        self.meter.replied();
        Ok(replies?)
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
