//! A live hold, and the starts that share it.

use super::clock::Millis;
use crate::billing::credits::Credits;
use crate::billing::hold::{HoldId, RunId};

/// How many starts that share a hold are told apart.
const USES_MAX: usize = 16;

/// A live hold.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) credits: Credits,
    pub(super) hold_for: Millis,
    pub(super) end: Millis,
    pub(super) run: Option<RunId>,
    pub(super) key: Option<[u8; 32]>,
    pub(super) uses: Uses,
}

/// The starts that share a hold and may have begun its run.
#[derive(Clone, Debug)]
pub(super) struct Uses {
    /// The start that the hold was made for.
    own: bool,
    replays: Vec<HoldId>,
    /// There were more than are told apart: nobody knows any longer when the
    /// last of them has given up.
    pub(super) lost_count: bool,
}

impl Uses {
    pub(super) const fn new() -> Self {
        Uses {
            own: true,
            replays: Vec::new(),
            lost_count: false,
        }
    }

    /// Whether it is a new one.
    pub(super) fn add(&mut self, ask: &HoldId) -> bool {
        if self.lost_count || self.replays.contains(ask) {
            return false;
        }
        if self.replays.len().saturating_add(1) < USES_MAX {
            self.replays.push(ask.clone());
        } else {
            self.lost_count = true;
        }
        true
    }

    /// Takes away the hold's own start. Whether it was there.
    pub(super) fn remove_own(&mut self) -> bool {
        std::mem::take(&mut self.own)
    }

    /// Takes away a replay. Whether it was there.
    pub(super) fn remove(&mut self, ask: &HoldId) -> bool {
        let before = self.replays.len();
        self.replays.retain(|one| one != ask);
        self.replays.len() != before
    }

    /// Whether every start has given up.
    pub(super) fn is_over(&self) -> bool {
        !self.own && self.replays.is_empty() && !self.lost_count
    }
}
