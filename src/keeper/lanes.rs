//! [`Lanes`]: the order of tasks.
//!
//! Tasks about one hold are a lane: the first of it is carried out, then the
//! next. Lanes do not wait for each other. A task stays at the head of its
//! lane until it is done, so what was begun and not finished is still here at
//! the end.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::time::Instant;

use super::Job;
use crate::billing::hold::{HoldId, RunId};

/// What a lane is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A hold, known by its id.
    Hold(HoldId),
    /// A run that this gateway did not start.
    Run(RunId),
}

/// Tasks that are not done.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: HashMap<Key, VecDeque<Job>>,
    /// Lanes whose first task can be carried out.
    ready: VecDeque<Key>,
    /// Lanes whose first task is tried again then. The number keeps apart
    /// those of the same moment.
    waiting: BTreeMap<(Instant, u64), Key>,
    serial: u64,
}

impl Lanes {
    /// Puts a task at the end of its lane.
    pub(super) fn push(&mut self, key: Key, job: Job) {
        let lane = self.lanes.entry(key.clone()).or_default();
        if lane.is_empty() {
            self.ready.push_back(key);
        }
        lane.push_back(job);
    }

    /// A lane whose first task can be carried out, and that task. Its lane
    /// rests until [`Lanes::done`] or [`Lanes::again`].
    pub(super) fn next(&mut self) -> Option<(Key, &Job)> {
        while let Some(key) = self.ready.pop_front() {
            if self.lanes.get(&key).is_some_and(|lane| !lane.is_empty()) {
                let job = self.lanes.get(&key)?.front()?;
                return Some((key, job));
            }
        }
        None
    }

    /// The first task of a lane is done with.
    pub(super) fn done(&mut self, key: &Key) -> Option<Job> {
        let lane = self.lanes.get_mut(key)?;
        let job = lane.pop_front();
        if lane.is_empty() {
            self.lanes.remove(key);
        } else {
            self.ready.push_back(key.clone());
        }
        job
    }

    /// The first task of a lane.
    pub(super) fn first(&mut self, key: &Key) -> Option<&mut Job> {
        self.lanes.get_mut(key)?.front_mut()
    }

    /// The first task of a lane is to be tried again at this time.
    pub(super) fn again(&mut self, key: Key, at: Instant) {
        self.serial = self.serial.wrapping_add(1);
        self.waiting.insert((at, self.serial), key);
    }

    /// When the next task is to be tried again.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(at, _)| *at)
    }

    /// Makes ready what is to be tried again by now.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 > now {
                return;
            }
            self.ready.push_back(first.remove());
        }
    }

    /// Makes ready whatever is to be tried again.
    pub(super) fn wake_all(&mut self) {
        self.ready
            .extend(std::mem::take(&mut self.waiting).into_values());
    }

    /// Whether every task is done.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Takes out every task that is not done.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Job> + use<> {
        self.ready.clear();
        self.waiting.clear();
        std::mem::take(&mut self.lanes).into_values().flatten()
    }
}
