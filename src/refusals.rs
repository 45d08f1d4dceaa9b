//! Refusal events: each run that was refused for lack of credits, told on the
//! Redis stream `tollgate:refusals`.
//!
//! A run that did not start is a FAILED run, and somebody may want to show it.
//! The edge [offers](Sink::offer) an event and goes on; it never waits. A
//! [`Writer`] takes the events to Redis over a connection of its own.
//!
//! Promises: bounded memory, nothing of this on the request path, and a count
//! of every event that may not have been written. While Redis is away events
//! wait in the queue, and those that find it full are dropped. An event is
//! written at most once: if the reply to a write is lost the event counts as
//! dropped, although it may be there. Writing it again could tell one refusal
//! twice, and readers would have to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use redis::{Cmd, Pipeline, Value};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::sleep;

use crate::billing::team::{Principal, TeamId};
use crate::billing::trigger::Trigger;
use crate::ledger::LedgerError;
use crate::ledger::redis::{EventLink, RedisSettings, SettingsError};

/// The stream.
pub const STREAM: &str = "tollgate:refusals";

/// The most events that are written at once.
const BATCH_MAX: usize = 512;

/// How long a first event waits for others: one write for many costs the
/// gateway and Redis a fraction of a write for each.
const GATHER: Duration = Duration::from_millis(5);

/// The most bytes of a text that the client chose: a full queue of the longest
/// paths would not be bounded memory.
const TEXT_MAX_BYTES: usize = 2048;

/// The pause before Redis is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// A run that did not start because its team has no credits.
#[derive(Clone, Debug)]
pub struct RefusalEvent {
    /// When it was refused.
    pub at: SystemTime,
    /// Who would have paid.
    pub team: TeamId,
    /// Who asked, if known.
    pub principal: Option<Principal>,
    /// What would have set the run off.
    pub trigger: Trigger,
    /// The route, as the configuration writes it.
    pub route: Arc<str>,
    /// The request path, as the problem's `instance` shows it. A very long one
    /// is cut.
    pub instance: String,
    /// The request's id.
    pub request_id: String,
}

/// How many events were dropped, or may have been. Shared by all sinks that
/// follow each other through reloads.
#[derive(Clone, Debug, Default)]
pub struct Dropped(Arc<AtomicU64>);

impl Dropped {
    /// The count so far. It never goes down.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, events: usize) {
        let events = u64::try_from(events).unwrap_or(u64::MAX);
        self.0.fetch_add(events, Ordering::Relaxed);
    }
}

/// Takes refusal events off the request path.
#[derive(Clone, Debug)]
pub struct Sink {
    /// `None`: there is no stream to write to.
    queue: Option<mpsc::Sender<RefusalEvent>>,
    dropped: Dropped,
}

/// How the stream is written.
#[derive(Clone, Copy, Debug)]
pub struct StreamSettings {
    /// How many events may wait.
    pub queue: usize,
    /// About how many events the stream keeps.
    pub stream_length: usize,
}

impl Sink {
    /// A sink, and the writer that empties it.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(
        redis: &RedisSettings,
        stream: StreamSettings,
        dropped: Dropped,
    ) -> Result<(Self, Writer), SettingsError> {
        let (sender, receiver) = mpsc::channel(stream.queue.max(1));
        let writer = Writer {
            queue: receiver,
            link: EventLink::new(redis)?,
            complaint: None,
            length: stream.stream_length,
            dropped: dropped.clone(),
        };
        let sink = Sink {
            queue: Some(sender),
            dropped,
        };
        Ok((sink, writer))
    }

    /// A sink for a ledger without a stream: events go nowhere, uncounted.
    #[must_use]
    pub fn off() -> Self {
        Sink {
            queue: None,
            dropped: Dropped::default(),
        }
    }

    /// Takes an event if there is room for it. Never waits.
    pub fn offer(&self, mut event: RefusalEvent) {
        let Some(queue) = &self.queue else { return };
        shorten(&mut event.instance);
        shorten(&mut event.request_id);
        if let Err(TrySendError::Full(_) | TrySendError::Closed(_)) = queue.try_send(event) {
            self.dropped.add(1);
        }
    }
}

/// Takes events from the queue to Redis.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<RefusalEvent>,
    link: EventLink,
    /// What the log was told last, so that it is told once.
    complaint: Option<String>,
    length: usize,
    dropped: Dropped,
}

/// Why a batch was not written.
enum Unwritten {
    /// Nothing was sent, or Redis refused all of it for now.
    NotNow(String),
    /// So many of it will not be written, or may not have been; the others
    /// have.
    Dropped(usize, String),
}

impl Writer {
    /// Writes events until every [`Sink`] is gone or `stop` resolves; then
    /// what is queued for at most `flush_within`. What is left is dropped and
    /// counted.
    ///
    /// Spawn it on the runtime that serves the requests.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send, flush_within: Duration) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let closing = Notify::new();
        let out_of_time = async {
            stop.await;
            closing.notify_one();
            sleep(flush_within).await;
        };
        tokio::select! {
            () = self.write_all(&mut batch, &closing) => {}
            () = out_of_time => {}
        }
        // Offers from now on are dropped and counted by the sinks.
        self.queue.close();
        let mut left = batch.len();
        while self.queue.try_recv().is_ok() {
            left = left.saturating_add(1);
        }
        if left > 0 {
            self.dropped.add(left);
            tracing::warn!(events = left, "refusal events were dropped at the end");
        }
    }

    /// Writes until the queue is closed and empty; closes it when told to. A
    /// batch that is being written is never begun again, so `batch` holds what
    /// has not been written or may have been.
    async fn write_all(&mut self, batch: &mut Vec<RefusalEvent>, closing: &Notify) {
        loop {
            while batch.is_empty() {
                tokio::select! {
                    taken = self.queue.recv_many(batch, BATCH_MAX) => if taken == 0 { return },
                    () = closing.notified() => self.queue.close(),
                }
                self.gather(batch, closing).await;
            }
            match self.write(batch).await {
                Ok(()) => {
                    self.complaint = None;
                    batch.clear();
                }
                Err(Unwritten::NotNow(why)) => {
                    self.complain(why);
                    sleep(RETRY_AFTER).await;
                }
                Err(Unwritten::Dropped(events, why)) => {
                    self.dropped.add(events);
                    self.complain(why);
                    batch.clear();
                }
            }
        }
    }

    /// Gives a first event a moment for others to join it.
    async fn gather(&mut self, batch: &mut Vec<RefusalEvent>, closing: &Notify) {
        if self.queue.is_closed() {
            return;
        }
        tokio::select! {
            () = sleep(GATHER) => {}
            () = closing.notified() => self.queue.close(),
        }
        while batch.len() < BATCH_MAX {
            match self.queue.try_recv() {
                Ok(event) => batch.push(event),
                Err(_) => return,
            }
        }
    }

    /// Logs why events are not written, unless that was the last that was said.
    fn complain(&mut self, why: String) {
        if self.complaint.as_ref() != Some(&why) {
            tracing::warn!(reason = why, "refusal events are not written");
            self.complaint = Some(why);
        }
    }

    async fn write(&mut self, batch: &[RefusalEvent]) -> Result<(), Unwritten> {
        let mut commands = Pipeline::with_capacity(batch.len());
        for event in batch {
            commands.add_command(add_event(event, self.length));
        }
        let replies = self.link.send(&commands).await.map_err(|error| {
            let why = error.to_string();
            match error {
                LedgerError::OutcomeUnknown(_) => Unwritten::Dropped(batch.len(), why),
                _ => Unwritten::NotNow(why),
            }
        })?;
        let errors: Vec<_> = replies
            .iter()
            .filter_map(|reply| match reply {
                Value::ServerError(error) => Some(error.code()),
                _ => None,
            })
            .collect();
        let Some(code) = errors.first() else {
            return Ok(());
        };
        let why = format!("redis answered {code}");
        // All of them, and for a reason that passes: LOADING, READONLY…
        if errors.len() == batch.len() && !is_for_good(code) {
            Err(Unwritten::NotNow(why))
        } else {
            Err(Unwritten::Dropped(errors.len(), why))
        }
    }
}

/// Cuts a text that is too long to be kept.
fn shorten(text: &mut String) {
    if text.len() > TEXT_MAX_BYTES {
        text.truncate(text.floor_char_boundary(TEXT_MAX_BYTES));
        text.shrink_to_fit();
    }
}

/// Whether an event that Redis refused with this code would be refused again.
fn is_for_good(code: &str) -> bool {
    ["WRONGTYPE", "NOPERM", "ERR", "MOVED", "CROSSSLOT"].contains(&code)
}

/// Words of the command that adds an event, and about how many bytes they are.
const EVENT_WORDS: usize = 26;
const EVENT_BYTES: usize = 512;

/// `XADD` of one event.
fn add_event(event: &RefusalEvent, length: usize) -> Cmd {
    let at = humantime::format_rfc3339_millis(event.at).to_string();
    let principal = event.principal.as_ref().map_or("", Principal::as_str);
    let mut command = Cmd::with_capacity(EVENT_WORDS, EVENT_BYTES);
    command
        .arg("XADD")
        .arg(STREAM)
        .arg("MAXLEN")
        .arg("~")
        .arg(length)
        .arg("*");
    for (field, value) in [
        ("at", at.as_str()),
        ("state", "FAILED"),
        ("error", "insufficient_credits"),
        ("retryable", "false"),
        ("team", event.team.as_str()),
        ("principal", principal),
        ("trigger", event.trigger.name()),
        ("route", &event.route),
        ("instance", &event.instance),
        ("request_id", &event.request_id),
    ] {
        command.arg(field).arg(value);
    }
    command
}
