//! Events: what happened, told on Redis streams, best effort.
//!
//! Whoever has an event [offers](Sink::offer) it and goes on; it never waits.
//! One [`Writer`] takes the events of all streams to Redis over a connection
//! of its own.
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
mod writer;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::Cmd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::ledger::redis::{EventLink, RedisSettings, SettingsError};
pub use writer::Writer;

/// The most bytes of a text that a client chose: a full queue of the longest
/// paths would not be bounded memory.
const TEXT_MAX_BYTES: usize = 2048;

/// Words of the command that adds an event, and about how many bytes they are.
const EVENT_WORDS: usize = 28;
const EVENT_BYTES: usize = 512;

/// Something that happened.
pub trait Event: fmt::Debug + Send + Sync + 'static {
    /// The stream it is told on.
    fn stream(&self) -> &'static str;

    /// Cuts ([`shorten`]) every text that is not bounded otherwise.
    fn bound(&mut self) {}

    /// Its fields, in order.
    fn tell(&self, fields: &mut Fields);
}

/// The command that adds an event, being filled.
pub struct Fields(Cmd);

impl Fields {
    /// Adds a field.
    pub fn add(&mut self, name: &'static str, value: &str) {
        self.0.arg(name).arg(value);
    }
}

/// Cuts a text that is too long to be kept.
pub fn shorten(text: &mut String) {
    if text.len() > TEXT_MAX_BYTES {
        text.truncate(text.floor_char_boundary(TEXT_MAX_BYTES));
        text.shrink_to_fit();
    }
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

/// An event on its way. It takes up room until it is written or dropped.
#[derive(Debug)]
struct Line {
    event: Box<dyn Event>,
    stream_length: usize,
    dropped: Dropped,
    _room: OwnedSemaphorePermit,
}

impl Line {
    /// `XADD` of the event.
    fn command(&self) -> Cmd {
        let mut command = Cmd::with_capacity(EVENT_WORDS, EVENT_BYTES);
        command
            .arg("XADD")
            .arg(self.event.stream())
            .arg("MAXLEN")
            .arg("~")
            .arg(self.stream_length)
            .arg("*");
        let mut fields = Fields(command);
        self.event.tell(&mut fields);
        fields.0
    }
}

/// Where sinks get their way to a [`Writer`]. The writer ends when it and all
/// sinks that were made of it are gone.
#[derive(Clone, Debug)]
pub struct Feed(mpsc::Sender<Line>);

impl Feed {
    /// A way to a writer, and that writer. `queue`: how many events may wait,
    /// those of all sinks together.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(redis: &RedisSettings, queue: usize) -> Result<(Self, Writer), SettingsError> {
        let queue = queue.clamp(1, Semaphore::MAX_PERMITS);
        let (sender, receiver) = mpsc::channel(queue);
        let writer = Writer::new(receiver, EventLink::new(redis)?);
        Ok((Feed(sender), writer))
    }

    /// A sink for one kind of event.
    #[must_use]
    pub fn sink<E>(&self, stream: StreamSettings, dropped: Dropped) -> Sink<E> {
        let room = stream.queue.clamp(1, Semaphore::MAX_PERMITS);
        Sink {
            way: Some(Way {
                queue: self.0.clone(),
                room: Arc::new(Semaphore::new(room)),
                stream_length: stream.stream_length,
            }),
            dropped,
            kind: PhantomData,
        }
    }
}

/// Takes events of one kind off the request path.
pub struct Sink<E> {
    /// `None`: there is no stream to write to.
    way: Option<Way>,
    dropped: Dropped,
    kind: PhantomData<fn(E)>,
}

#[derive(Clone, Debug)]
struct Way {
    queue: mpsc::Sender<Line>,
    room: Arc<Semaphore>,
    stream_length: usize,
}

impl<E> Clone for Sink<E> {
    fn clone(&self) -> Self {
        Sink {
            way: self.way.clone(),
            dropped: self.dropped.clone(),
            kind: PhantomData,
        }
    }
}

impl<E> fmt::Debug for Sink<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink")
            .field("way", &self.way)
            .field("dropped", &self.dropped)
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
            dropped: Dropped::default(),
            kind: PhantomData,
        }
    }

    /// Whether events go anywhere: where not, they need not be made.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.way.is_some()
    }

    /// Takes an event if there is room for it. Never waits.
    pub fn offer(&self, mut event: E) {
        let Some(way) = &self.way else { return };
        let Ok(room) = Arc::clone(&way.room).try_acquire_owned() else {
            self.dropped.add_one();
            return;
        };
        event.bound();
        let line = Line {
            event: Box::new(event),
            stream_length: way.stream_length,
            dropped: self.dropped.clone(),
            _room: room,
        };
        if way.queue.try_send(line).is_err() {
            self.dropped.add_one();
        }
    }
}
