//! Events: what happened, told on Redis streams, best effort.
//!
//! Whoever has an event [offers](Sink::offer) it and goes on; it never waits.
//! It is written down at once, as the command that Redis gets, behind those that
//! wait already; nothing is allocated for it. One [`Writer`] takes the commands
//! of all streams to Redis over a connection of its own.
//!
//! Promises: bounded memory, nothing of this on the request path, and a count
//! of every event that may not have been written. While Redis is away events
//! wait in the queue, and those that find it full are dropped. An event is
//! written at most once: if the reply to a write is lost the event counts as
//! dropped, although it may be there. Writing it again could tell one thing
//! twice, and readers would have to know.
//!
//! Which events there are is elsewhere: refusals in [`crate::refusals`], those
//! of holds in [`holds`].

pub mod holds;
mod queue;
mod writer;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ledger::redis::{EventLink, RedisSettings, SettingsError};
use queue::{Account, Gate, Queue};
pub use queue::{Fields, Fixed};
pub use writer::Writer;

/// The most bytes of a text that a client chose: a full queue of the longest
/// paths would not be bounded memory.
const TEXT_MAX_BYTES: usize = 2048;

/// Something that happened.
pub trait Event {
    /// The stream it is told on.
    const STREAM: &'static str;

    /// Its fields, in order. Every text that is not bounded otherwise is
    /// [cut](shortened).
    fn tell(&self, fields: &mut Fields<'_>);
}

/// As much of a text as is kept.
#[must_use]
pub fn shortened(text: &str) -> &str {
    let end = text.floor_char_boundary(TEXT_MAX_BYTES);
    text.get(..end).unwrap_or_default()
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

    fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// How a stream is written.
#[derive(Clone, Copy, Debug)]
pub struct StreamSettings {
    /// How many events may wait.
    pub queue: usize,
    /// About how many events the stream keeps.
    pub stream_length: usize,
}

/// Where sinks get their way to a [`Writer`]. The writer ends when it and all
/// sinks that were made of it are gone.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Gate>);

impl Feed {
    /// A way to a writer, and that writer. `queue`: how many events may wait,
    /// those of all sinks together.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(redis: &RedisSettings, queue: usize) -> Result<(Self, Writer), SettingsError> {
        let queue = Arc::new(Queue::new(queue.max(1)));
        let writer = Writer::new(Arc::clone(&queue), EventLink::new(redis)?);
        Ok((Feed(Arc::new(Gate(queue))), writer))
    }

    /// A sink for one kind of event.
    #[must_use]
    pub fn sink<E: Event>(&self, stream: StreamSettings, dropped: Dropped) -> Sink<E> {
        let way = Way {
            gate: Arc::clone(&self.0),
            account: Arc::new(Account::new(stream.queue.max(1), dropped)),
            command: queue::command(E::STREAM, stream.stream_length).into(),
        };
        Sink {
            way: Some(way),
            kind: PhantomData,
        }
    }
}

/// Takes events of one kind off the request path.
pub struct Sink<E> {
    /// `None`: there is no stream to write to.
    way: Option<Way>,
    kind: PhantomData<fn(E)>,
}

#[derive(Clone, Debug)]
struct Way {
    gate: Arc<Gate>,
    account: Arc<Account>,
    /// What each event's command begins with.
    command: Arc<[u8]>,
}

impl<E> Clone for Sink<E> {
    fn clone(&self) -> Self {
        Sink {
            way: self.way.clone(),
            kind: PhantomData,
        }
    }
}

impl<E> fmt::Debug for Sink<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink")
            .field("way", &self.way)
            .finish_non_exhaustive()
    }
}

impl<E: Event> Sink<E> {
    /// A sink, and a writer for it alone.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(
        redis: &RedisSettings,
        stream: StreamSettings,
        dropped: Dropped,
    ) -> Result<(Self, Writer), SettingsError> {
        let (feed, writer) = Feed::new(redis, stream.queue)?;
        Ok((feed.sink(stream, dropped), writer))
    }

    /// A sink for a ledger without streams: events go nowhere, uncounted.
    #[must_use]
    pub fn off() -> Self {
        Sink {
            way: None,
            kind: PhantomData,
        }
    }

    /// Whether events go anywhere: where not, they need not be made.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.way.is_some()
    }

    /// Takes an event if there is room for it. Never waits.
    pub fn offer(&self, event: E) {
        self.offer_told(|fields| event.tell(fields));
    }

    /// As [`Sink::offer`], of an event that exists only as its fields.
    pub(crate) fn offer_told(&self, tell: impl FnOnce(&mut Fields<'_>)) {
        if let Some(way) = &self.way {
            way.gate.queue().add(&way.account, &way.command, tell);
        }
    }
}
