//! [`Untold`]: holds that Redis dropped and of which nobody was told yet.
//!
//! Redis says once that a hold expired. When dropping takes several calls and
//! a later one fails, or its caller goes away, what the earlier ones said is
//! kept here for whoever asks about the team next.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::billing::team::TeamId;
use crate::ledger::holds::Expired;

/// Expired holds by team: no more than Redis dropped, and gone with the next
/// answer about the team.
#[derive(Debug, Default)]
pub(in super::super) struct Untold(Mutex<HashMap<TeamId, Vec<Expired>>>);

impl Untold {
    /// Begins to collect what an answer will tell, with what earlier ones did
    /// not get to tell.
    pub(super) fn collect<'a>(&'a self, team: &'a TeamId) -> Telling<'a> {
        let mut teams = self.teams();
        // Of most teams there is nothing to tell: that is cheap to see.
        let expired = if teams.is_empty() {
            Vec::new()
        } else {
            teams.remove(team).unwrap_or_default()
        };
        drop(teams);
        Telling {
            untold: self,
            team,
            expired,
        }
    }

    // A poisoned lock is taken all the same: no step leaves the map half done.
    fn teams(&self) -> MutexGuard<'_, HashMap<TeamId, Vec<Expired>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an answer is about to tell. If it comes to none, it is kept.
#[derive(Debug)]
pub(super) struct Telling<'a> {
    untold: &'a Untold,
    team: &'a TeamId,
    expired: Vec<Expired>,
}

impl Telling<'_> {
    pub(super) fn add(&mut self, more: Vec<Expired>) {
        if self.expired.is_empty() {
            self.expired = more;
        } else {
            self.expired.extend(more);
        }
    }

    /// It is told now.
    pub(super) fn tell(mut self) -> Vec<Expired> {
        std::mem::take(&mut self.expired)
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if !self.expired.is_empty() {
            let expired = std::mem::take(&mut self.expired);
            let mut teams = self.untold.teams();
            teams.entry(self.team.clone()).or_default().extend(expired);
        }
    }
}
