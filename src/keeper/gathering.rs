//! [`Gathering`]: runs that began, gathered for a moment, so that the ledger
//! is told of many with one write.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Task;
use super::lanes::Key;

/// How long the first waits for others. Nobody waits for it: until then the
/// run is known here, and its hold lives anyway.
const GATHER: Duration = Duration::from_millis(5);

/// Runs that began, and whose lanes rest until they are told.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    keys: VecDeque<Key>,
    tasks: VecDeque<Task>,
    /// When they are told at the latest; `None` while there are none.
    due: Option<Instant>,
}

impl Gathering {
    /// One more.
    pub(super) fn push(&mut self, key: Key, task: Task, now: Instant) {
        self.due
            .get_or_insert_with(|| now.checked_add(GATHER).unwrap_or(now));
        self.keys.push_back(key);
        self.tasks.push_back(task);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// When they are told at the latest, if there are any.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes out those that came first, so many at the most. The others are
    /// due when these were.
    pub(super) fn take(&mut self, most: usize) -> (Vec<Key>, Vec<Task>) {
        let count = self.len().min(most);
        if count == self.len() {
            self.due = None;
        }
        (
            self.keys.drain(..count).collect(),
            self.tasks.drain(..count).collect(),
        )
    }
}
