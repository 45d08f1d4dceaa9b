//! [`Writer`]: takes events from the queue to Redis.

use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::Line;
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
    queue: mpsc::Receiver<Line>,
    link: EventLink,
    /// What the log was told last, so that it is told once.
    complaint: Option<String>,
}

/// Why a batch was not written.
enum Unwritten {
    /// Nothing was sent, or Redis refused all of it for now.
    NotNow(String),
    /// Nobody knows whether any of it was written.
    Unknown(String),
    /// Those that are marked will not be written; the others have been.
    Refused(Vec<bool>, String),
}

impl Writer {
    pub(super) fn new(queue: mpsc::Receiver<Line>, link: EventLink) -> Self {
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
        batch.iter().for_each(|line| line.dropped.add_one());
        while let Ok(line) = self.queue.try_recv() {
            line.dropped.add_one();
            left = left.saturating_add(1);
        }
        if left > 0 {
            tracing::warn!(events = left, "events were dropped at the end");
        }
    }

    /// Writes until the queue is closed and empty; closes it when told to. A
    /// batch that is being written is never begun again, so `batch` holds what
    /// has not been written or may have been.
    async fn write_all(&mut self, batch: &mut Vec<Line>, closing: &Notify) {
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
                Err(Unwritten::Unknown(why)) => {
                    batch.drain(..).for_each(|line| line.dropped.add_one());
                    self.complain(why);
                }
                Err(Unwritten::Refused(which, why)) => {
                    for (line, refused) in batch.drain(..).zip(which) {
                        if refused {
                            line.dropped.add_one();
                        }
                    }
                    self.complain(why);
                }
            }
        }
    }

    /// Gives a first event a moment for others to join it.
    async fn gather(&mut self, batch: &mut Vec<Line>, closing: &Notify) {
        if self.queue.is_closed() {
            return;
        }
        tokio::select! {
            () = sleep(GATHER) => {}
            () = closing.notified() => self.queue.close(),
        }
        while batch.len() < BATCH_MAX {
            match self.queue.try_recv() {
                Ok(line) => batch.push(line),
                Err(_) => return,
            }
        }
    }

    /// Logs why events are not written, unless that was the last that was said.
    fn complain(&mut self, why: String) {
        if self.complaint.as_ref() != Some(&why) {
            tracing::warn!(reason = why, "events are not written");
            self.complaint = Some(why);
        }
    }

    async fn write(&mut self, batch: &[Line]) -> Result<(), Unwritten> {
        let mut commands = Pipeline::with_capacity(batch.len());
        for line in batch {
            commands.add_command(line.command());
        }
        let replies = self.link.send(&commands).await.map_err(|error| {
            let why = error.to_string();
            match error {
                LedgerError::OutcomeUnknown(_) => Unwritten::Unknown(why),
                _ => Unwritten::NotNow(why),
            }
        })?;
        let code = |reply: &Value| match reply {
            Value::ServerError(error) => Some(error.code().to_owned()),
            _ => None,
        };
        let codes: Vec<Option<String>> = replies.iter().map(code).collect();
        let Some(first) = codes.iter().flatten().next() else {
            return Ok(());
        };
        let why = format!("redis answered {first}");
        // All of them, and for a reason that passes: LOADING, READONLY…
        let passes = |code: &Option<String>| code.as_deref().is_some_and(|code| !is_for_good(code));
        if codes.iter().all(passes) {
            return Err(Unwritten::NotNow(why));
        }
        let mut refused: Vec<bool> = codes.iter().map(Option::is_some).collect();
        // An event without a reply may not have been written.
        refused.resize(batch.len(), true);
        Err(Unwritten::Refused(refused, why))
    }
}

/// Whether an event that Redis refused with this code would be refused again.
fn is_for_good(code: &str) -> bool {
    ["WRONGTYPE", "NOPERM", "ERR", "MOVED", "CROSSSLOT"].contains(&code)
}
