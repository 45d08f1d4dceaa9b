//! [`Writer`]: takes events from the queue to Redis.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::queue::{Batch, Queue, State};
use crate::ledger::LedgerError;
use crate::ledger::redis::EventLink;

/// The most events that are written at once.
const BATCH_MAX: usize = 512;

/// How long a first event waits for others: one write for many costs the
/// gateway and Redis a fraction of a write for each.
const GATHER: Duration = Duration::from_millis(5);

/// The pause before Redis is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Takes events from the queue to Redis.
#[derive(Debug)]
pub struct Writer {
    queue: Arc<Queue>,
    link: EventLink,
    /// What the log was told last, so that it is told once.
    complaint: Option<String>,
}

/// What was taken from the queue and is not written yet.
#[derive(Debug, Default)]
struct Taken {
    batch: Batch,
    /// Where among its bytes the first of its lines begins.
    start: usize,
}

impl Taken {
    /// The next events that are written together, and how many they are.
    fn next(&self) -> (&[u8], usize) {
        let count = self.batch.lines.len().min(BATCH_MAX);
        let last = self.batch.lines.iter().take(count).next_back();
        let end = last.map_or(self.start, |line| line.end);
        let bytes = self.batch.bytes.get(self.start..end);
        (bytes.unwrap_or_default(), count)
    }

    /// The first so many events are done with; those that the writer says are
    /// counted as dropped.
    fn finish(&mut self, count: usize, is_lost: impl Fn(usize) -> bool) {
        for (place, line) in self.batch.lines.drain(..count).enumerate() {
            self.start = line.end;
            if is_lost(place) {
                line.lose();
            }
        }
    }
}

impl Drop for Taken {
    /// Nobody writes what is left.
    fn drop(&mut self) {
        self.batch.lines.iter().for_each(|line| line.lose());
    }
}

/// Why events were not written.
enum Unwritten {
    /// Nothing was sent, or Redis refused all of it for now.
    NotNow(String),
    /// Nobody knows whether any of it was written.
    Unknown(String),
    /// Those in these places will not be written, nor those from the last
    /// number on; the others have been.
    Refused(Vec<(usize, String)>, usize, String),
}

impl Writer {
    pub(super) fn new(queue: Arc<Queue>, link: EventLink) -> Self {
        Writer {
            queue,
            link,
            complaint: None,
        }
    }

    /// Writes events until every [`super::Feed`] and [`super::Sink`] is gone
    /// or `stop` resolves; then what is queued for at most `flush_within`.
    /// What is left is dropped and counted.
    ///
    /// Spawn it on the runtime that serves the requests.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send, flush_within: Duration) {
        let mut taken = Taken::default();
        let closing = Notify::new();
        let out_of_time = async {
            stop.await;
            closing.notify_one();
            sleep(flush_within).await;
        };
        tokio::select! {
            () = self.write_all(&mut taken, &closing) => {}
            () = out_of_time => {}
        }
        let queued = self.close();
        let left = taken
            .batch
            .lines
            .len()
            .saturating_add(queued.batch.lines.len());
        if left > 0 {
            tracing::warn!(events = left, "events were dropped at the end");
        }
    }

    /// Closes the queue: offers from now on are dropped and counted by the sinks.
    /// Returns what is left in it.
    fn close(&self) -> Taken {
        self.queue.close();
        let mut left = Taken::default();
        self.queue.take(&mut left.batch);
        left
    }

    /// Writes until the queue is closed and empty; closes it when told to. What
    /// is being written is never begun again, so `taken` holds what has not
    /// been written or may have been.
    async fn write_all(&mut self, taken: &mut Taken, closing: &Notify) {
        loop {
            while taken.batch.lines.is_empty() {
                match self.queue.state() {
                    State::Over => return,
                    State::Waiting => {
                        self.gather(closing).await;
                        self.queue.take(&mut taken.batch);
                        taken.start = 0;
                    }
                    State::Empty => tokio::select! {
                        () = self.queue.wake.notified() => {}
                        () = closing.notified() => self.queue.close(),
                    },
                }
            }
            let (bytes, count) = taken.next();
            match self.write(bytes, count).await {
                Ok(()) => {
                    self.complaint = None;
                    taken.finish(count, |_| false);
                }
                Err(Unwritten::NotNow(why)) => {
                    self.complain(why);
                    sleep(RETRY_AFTER).await;
                }
                Err(Unwritten::Unknown(why)) => {
                    taken.finish(count, |_| true);
                    self.complain(why);
                }
                Err(Unwritten::Refused(which, from, why)) => {
                    let is_refused = |place| which.iter().any(|(refused, _)| *refused == place);
                    taken.finish(count, |place| place >= from || is_refused(place));
                    self.complain(why);
                }
            }
        }
    }

    /// Gives a first event a moment for others to join it.
    async fn gather(&self, closing: &Notify) {
        if self.queue.is_closed() {
            return;
        }
        tokio::select! {
            () = sleep(GATHER) => {}
            () = closing.notified() => self.queue.close(),
        }
    }

    /// Logs why events are not written, unless that was the last that was said.
    fn complain(&mut self, why: String) {
        if self.complaint.as_ref() != Some(&why) {
            tracing::warn!(reason = why, "events are not written");
            self.complaint = Some(why);
        }
    }

    async fn write(&mut self, bytes: &[u8], count: usize) -> Result<(), Unwritten> {
        let replies = self.link.send(bytes, count).await.map_err(|error| {
            let why = error.to_string();
            match error {
                LedgerError::OutcomeUnknown(_) => Unwritten::Unknown(why),
                _ => Unwritten::NotNow(why),
            }
        })?;
        let Some((_, first)) = replies.errors.first() else {
            return Ok(());
        };
        let why = format!("redis answered {first}");
        // All of them, and for a reason that passes: LOADING, READONLY…
        let passes = |(_, code): &(usize, String)| !is_for_good(code);
        if replies.errors.len() == replies.count && replies.errors.iter().all(passes) {
            return Err(Unwritten::NotNow(why));
        }
        // An event without a reply may not have been written.
        Err(Unwritten::Refused(replies.errors, replies.count, why))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// Whether an event that Redis refused with this code would be refused again.
fn is_for_good(code: &str) -> bool {
    ["WRONGTYPE", "NOPERM", "ERR", "MOVED", "CROSSSLOT"].contains(&code)
}
