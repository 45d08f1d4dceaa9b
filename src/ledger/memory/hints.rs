//! Whose run it is: notes that are forgotten when their time is up.

use std::collections::{BTreeSet, HashMap};

use super::clock::Millis;
use crate::billing::hold::RunId;
use crate::billing::team::TeamId;
use crate::ledger::holds::Noted;

/// How many notes are forgotten along with one that is made: more than come
/// in, so that they do not pile up.
const FORGOTTEN_PER_NOTE: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Hints {
    teams: HashMap<RunId, (TeamId, Millis)>,
    due: BTreeSet<(Millis, RunId)>,
}

impl Hints {
    /// What another team noted stays.
    pub(super) fn note(&mut self, run: &RunId, team: &TeamId, until: Millis, now: Millis) -> Noted {
        for _ in 0..FORGOTTEN_PER_NOTE {
            match self.due.first() {
                Some((at, _)) if *at <= now => {
                    if let Some((_, run)) = self.due.pop_first() {
                        self.teams.remove(&run);
                    }
                }
                _ => break,
            }
        }
        if self.team_of(run, now).is_some_and(|known| known != *team) {
            return Noted::Taken;
        }
        if let Some((_, old)) = self.teams.insert(run.clone(), (team.clone(), until)) {
            self.due.remove(&(old, run.clone()));
        }
        self.due.insert((until, run.clone()));
        Noted::Done
    }

    pub(super) fn team_of(&self, run: &RunId, now: Millis) -> Option<TeamId> {
        let (team, until) = self.teams.get(run)?;
        (now < *until).then(|| team.clone())
    }
}
