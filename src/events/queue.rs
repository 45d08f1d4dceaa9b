//! [`Queue`]: events between those who offer them and the one who writes them,
//! as the bytes that Redis gets.
//!
//! Bounded in events by the feed and by each sink's [`Account`], and in bytes
//! because every text of an event is.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::Dropped;
use crate::telemetry::json::{digit, put_number};
use crate::telemetry::stamp::Stamp;

/// Words of an event's command before its fields: `XADD`, the stream, `MAXLEN`,
/// `~`, how many, `*`.
const COMMAND_WORDS: usize = 6;

/// More room than this is not kept for the next batch.
const KEPT_BYTES: usize = 1024 * 1024;

/// The events that wait for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    /// How many may wait.
    room: usize,
    waiting: Mutex<Waiting>,
    /// Told when the first event comes, and when the queue is closed.
    pub(super) wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: Batch,
    is_closed: bool,
    stamp: Stamp,
    /// The fields of the event that is being added.
    fields: Vec<u8>,
}

/// Events as Redis gets them, one behind the other.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: Vec<Line>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("lines", &self.lines.len())
            .finish_non_exhaustive()
    }
}

/// An event on its way. It takes up room until it is written or dropped.
#[derive(Debug)]
pub(super) struct Line {
    /// Where it ends among the bytes.
    pub(super) end: usize,
    account: Arc<Account>,
}

impl Line {
    /// Counts it as dropped.
    pub(super) fn lose(&self) {
        self.account.dropped.add_one();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.account.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a sink has under way.
#[derive(Debug)]
pub(super) struct Account {
    room: usize,
    waiting: AtomicUsize,
    dropped: Dropped,
}

impl Account {
    /// An account with nothing under way and room for so many events.
    pub(super) fn new(room: usize, dropped: Dropped) -> Self {
        Account {
            room,
            waiting: AtomicUsize::new(0),
            dropped,
        }
    }
}

/// Keeps a queue open. It closes when the last one who could offer is gone.
#[derive(Debug)]
pub(super) struct Gate(pub(super) Arc<Queue>);

impl Gate {
    pub(super) fn queue(&self) -> &Queue {
        &self.0
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Whether there is something to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// There is.
    Waiting,
    /// There may be, later.
    Empty,
    /// There is not, and never will be.
    Over,
}

impl Queue {
    /// A queue for so many events.
    pub(super) fn new(room: usize) -> Self {
        Queue {
            room,
            waiting: Mutex::default(),
            wake: Notify::new(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an event down behind the others, or counts it as dropped if there
    /// is no room for it.
    pub(super) fn add(
        &self,
        account: &Arc<Account>,
        command: &[u8],
        tell: impl FnOnce(&mut Fields<'_>),
    ) {
        let mut waiting = self.waiting();
        let Waiting {
            batch,
            is_closed,
            stamp,
            fields,
        } = &mut *waiting;
        // Only the writer changes this count meanwhile, and only downwards.
        let is_full = account.waiting.load(Ordering::Relaxed) >= account.room;
        if *is_closed || is_full || batch.lines.len() >= self.room {
            account.dropped.add_one();
            return;
        }
        fields.clear();
        let mut told = Fields {
            bytes: fields,
            words: COMMAND_WORDS,
            stamp,
        };
        tell(&mut told);
        let words = told.words;
        account.waiting.fetch_add(1, Ordering::Relaxed);
        // The count of words comes first, and is known last.
        batch.bytes.push(b'*');
        put_number(&mut batch.bytes, words);
        batch.bytes.extend_from_slice(command);
        batch.bytes.extend_from_slice(fields);
        batch.lines.push(Line {
            end: batch.bytes.len(),
            account: Arc::clone(account),
        });
        let is_first = batch.lines.len() == 1;
        drop(waiting);
        if is_first {
            self.wake.notify_one();
        }
    }

    /// Lets nothing more in.
    pub(super) fn close(&self) {
        self.waiting().is_closed = true;
        self.wake.notify_one();
    }

    /// What there is to do.
    pub(super) fn state(&self) -> State {
        let waiting = self.waiting();
        match (waiting.batch.lines.is_empty(), waiting.is_closed) {
            (false, _) => State::Waiting,
            (true, false) => State::Empty,
            (true, true) => State::Over,
        }
    }

    /// Whether nothing more is let in.
    pub(super) fn is_closed(&self) -> bool {
        self.waiting().is_closed
    }

    /// Takes everything that waits, in place of a batch that is done with.
    pub(super) fn take(&self, done: &mut Batch) {
        done.lines.clear();
        done.bytes.clear();
        done.bytes.shrink_to(KEPT_BYTES);
        std::mem::swap(&mut self.waiting().batch, done);
    }
}

/// Fields that are the same in every event of a kind, written down beforehand.
#[derive(Debug)]
pub struct Fixed {
    bytes: Vec<u8>,
    words: usize,
}

impl Fixed {
    /// Writes names and values down.
    #[must_use]
    pub fn new(fields: &[(&str, &str)]) -> Self {
        let mut bytes = Vec::new();
        for (name, value) in fields {
            put_word(&mut bytes, name.as_bytes());
            put_word(&mut bytes, value.as_bytes());
        }
        Fixed {
            bytes,
            words: fields.len().saturating_mul(2),
        }
    }
}

/// The fields of an event, being written down.
pub struct Fields<'a> {
    bytes: &'a mut Vec<u8>,
    words: usize,
    stamp: &'a mut Stamp,
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fields").finish_non_exhaustive()
    }
}

impl Fields<'_> {
    /// Adds a field.
    #[inline]
    pub fn add(&mut self, name: &'static str, value: &str) {
        put_word(self.bytes, name.as_bytes());
        put_word(self.bytes, value.as_bytes());
        self.words = self.words.saturating_add(2);
    }

    /// Adds fields that are always the same.
    pub fn add_fixed(&mut self, fixed: &Fixed) {
        self.bytes.extend_from_slice(&fixed.bytes);
        self.words = self.words.saturating_add(fixed.words);
    }

    /// Adds a field that says when, to the millisecond (RFC 3339).
    pub fn add_time(&mut self, name: &'static str, time: SystemTime) {
        put_word(self.bytes, name.as_bytes());
        put_word(self.bytes, self.stamp.rfc3339(time).as_bytes());
        self.words = self.words.saturating_add(2);
    }
}

/// What a command that adds to a stream consists of, from behind the count of
/// its words up to the fields.
pub(super) fn command(stream: &str, stream_length: usize) -> Vec<u8> {
    let mut bytes = b"\r\n".to_vec();
    let length = stream_length.to_string();
    for word in ["XADD", stream, "MAXLEN", "~", &length, "*"] {
        put_word(&mut bytes, word.as_bytes());
    }
    bytes
}

/// Adds a word as Redis reads it: its length and the word, each with its end.
fn put_word(bytes: &mut Vec<u8>, word: &[u8]) {
    // In pieces of known length, which need no call to be copied.
    match word.len() {
        length @ 0..10 => {
            bytes.extend_from_slice(&[b'$', digit(length), b'\r', b'\n']);
        }
        length @ 10..100 => {
            let (tens, ones) = (digit(length / 10), digit(length));
            bytes.extend_from_slice(&[b'$', tens, ones, b'\r', b'\n']);
        }
        length => {
            bytes.push(b'$');
            put_number(bytes, length);
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes.extend_from_slice(word);
    bytes.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_command() {
        let queue = Queue::new(10);
        let account = Arc::new(Account::new(10, Dropped::default()));
        let command = command("s", 1000);
        queue.add(&account, &command, |fields| {
            fields.add("team", "");
            fields.add_time("at", SystemTime::UNIX_EPOCH);
        });
        let mut batch = Batch::default();
        queue.take(&mut batch);
        let expected = "*10\r\n$4\r\nXADD\r\n$1\r\ns\r\n$6\r\nMAXLEN\r\n$1\r\n~\r\n$4\r\n1000\r\n\
                        $1\r\n*\r\n$4\r\nteam\r\n$0\r\n\r\n$2\r\nat\r\n$24\r\n\
                        1970-01-01T00:00:00.000Z\r\n";
        assert_eq!(String::from_utf8(batch.bytes).unwrap(), expected);
        assert_eq!(batch.lines[0].end, expected.len());
    }

    #[test]
    fn room_is_given_back_with_the_event() {
        let queue = Queue::new(10);
        let account = Arc::new(Account::new(2, Dropped::default()));
        for _ in 0..3 {
            queue.add(&account, b"", |_| {});
        }
        assert_eq!(account.dropped.count(), 1);
        let mut batch = Batch::default();
        queue.take(&mut batch);
        queue.add(&account, b"", |_| {});
        assert_eq!(account.dropped.count(), 2, "two are under way");
        batch.lines.clear();
        queue.add(&account, b"", |_| {});
        assert_eq!(account.dropped.count(), 2);
    }

    #[test]
    fn a_closed_queue_is_over_once_it_is_empty() {
        let queue = Queue::new(10);
        let account = Arc::new(Account::new(2, Dropped::default()));
        assert_eq!(queue.state(), State::Empty);
        queue.add(&account, b"", |_| {});
        queue.close();
        assert_eq!(queue.state(), State::Waiting);
        queue.take(&mut Batch::default());
        assert_eq!(queue.state(), State::Over);
        queue.add(&account, b"", |_| {});
        assert_eq!(account.dropped.count(), 1);
    }
}
