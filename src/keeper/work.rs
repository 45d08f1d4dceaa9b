//! One task, carried out once.
//!
//! Every change has an id of its own, so all of it can be done again when the
//! ledger did not say whether it was done.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use super::runs::Owner;
use super::{Common, Task};
use crate::billing::hold::RunId;
use crate::billing::team::TeamId;
use crate::events::holds::Act;
use crate::ledger::LedgerError;
use crate::ledger::holds::{Begun, Change, Holds, Noted, Release, Which, release_all};

/// How a task fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fared {
    /// It is done, or there is nothing to be done.
    Done,
    /// The run is not known yet: it may have begun elsewhere a moment ago.
    NotKnown,
}

/// What is needed to carry out tasks.
#[derive(Clone)]
pub(super) struct Hands {
    pub(super) ledger: Arc<dyn Holds>,
    pub(super) common: Arc<Common>,
}

impl Hands {
    /// Carries out a task.
    ///
    /// # Errors
    /// Those of [`Holds`].
    pub(super) async fn carry_out(&self, task: &Task) -> Result<Fared, LedgerError> {
        match task {
            Task::NotStarted { team, hold, ask } => {
                let why = Release::NotStarted(ask.clone());
                let which = Which::Hold(hold.clone());
                let change = self.ledger.release(team, &which, &why).await?;
                self.common.changed(team, &change, Act::NotStarted);
                Ok(Fared::Done)
            }
            Task::Began { .. } => {
                let mut fared = self.carry_out_together(slice::from_ref(task)).await;
                fared.pop().unwrap_or(Ok(Fared::Done))
            }
            Task::Cost {
                team,
                hold,
                credits,
                ..
            } => {
                let which = Which::Hold(hold.clone());
                let change = self.ledger.settle(team, &which, *credits).await?;
                self.common.changed(team, &change, Act::Settle);
                match &change {
                    Change::Done(_) | Change::Again(_) => {}
                    Change::Conflict(entry) => tracing::warn!(
                        team = team.as_str(),
                        hold = hold.as_str(),
                        credits = %credits,
                        settled = %entry.figure,
                        "the upstream told another cost than before: the first one stands"
                    ),
                    Change::Unknown => self.common.give_up(task, "nobody knows the hold"),
                }
                Ok(Fared::Done)
            }
            Task::Over(run) => self.over(run).await,
            Task::Alive(run) => self.alive(run).await,
        }
    }

    /// Carries out tasks that each say that a run began, and says how each
    /// fared.
    pub(super) async fn carry_out_together(
        &self,
        tasks: &[Task],
    ) -> Vec<Result<Fared, LedgerError>> {
        let note_for_min = self.common.settings.hold_for_max;
        let begun = tasks.iter().filter_map(|task| begun(task, note_for_min));
        let begun: Vec<_> = begun.collect();
        let changes = self.ledger.bind_all(&begun).await;
        // Not before the team's own holds know it.
        let mut to_note = Vec::with_capacity(begun.len());
        for (one, change) in begun.iter().zip(&changes) {
            let Ok(change) = change else { continue };
            self.common.changed(one.team, change, Act::Keep);
            if let Change::Done(_) | Change::Again(_) = change {
                to_note.push(*one);
            }
        }
        let noted = self.ledger.note_all(&to_note).await;
        let mut noted = to_note.iter().zip(noted);
        let changes = tasks.iter().zip(changes);
        let fared = changes.map(|(task, change)| {
            match change? {
                Change::Done(_) | Change::Again(_) => {
                    if let Some((one, noted)) = noted.next() {
                        self.noted(one.run, one.team, noted?);
                    }
                }
                Change::Conflict(_) => {
                    tracing::debug!(?task, "the hold belongs to another run");
                }
                Change::Unknown => {}
            }
            if let Task::Began {
                team,
                hold,
                run,
                hold_for,
            } = task
            {
                // The end of an earlier part of it may have been noted since.
                self.common.runs.begin(run, team, hold, *hold_for);
            }
            Ok(Fared::Done)
        });
        fared.collect()
    }

    async fn over(&self, run: &RunId) -> Result<Fared, LedgerError> {
        let runs = &self.common.runs;
        let Some(owner) = self.find(run).await? else {
            runs.nobody(run);
            return Ok(Fared::NotKnown);
        };
        let team = &owner.team;
        let mut change = Change::Unknown;
        for which in named(run, &owner) {
            let told = |change: &Change| self.common.changed(team, change, Act::Over);
            change = release_all(&*self.ledger, team, &which, told).await?;
            if change != Change::Unknown {
                break;
            }
        }
        if change == Change::Unknown {
            runs.nobody(run);
            return Ok(Fared::NotKnown);
        }
        runs.end(run);
        Ok(Fared::Done)
    }

    async fn alive(&self, run: &RunId) -> Result<Fared, LedgerError> {
        let runs = &self.common.runs;
        let Some(owner) = self.find(run).await? else {
            runs.nobody(run);
            return Ok(Fared::Done);
        };
        let team = &owner.team;
        let mut change = Change::Unknown;
        for which in named(run, &owner) {
            change = self.extend(team, &which).await?;
            if change != Change::Unknown {
                break;
            }
        }
        match change {
            Change::Done(entry) | Change::Again(entry) => {
                if entry.has_others {
                    for hold in self.ledger.of_run(team, run).await? {
                        if hold != entry.hold {
                            self.extend(team, &Which::Hold(hold)).await?;
                        }
                    }
                }
                // The note has to live as long as the hold.
                let note_for = self.common.settings.hold_for_max;
                self.note(run, team, note_for).await?;
            }
            Change::Conflict(_) => runs.end(run),
            Change::Unknown => runs.nobody(run),
        }
        Ok(Fared::Done)
    }

    /// Notes whose run it is. What another team calls its run stays with that.
    async fn note(&self, run: &RunId, team: &TeamId, for_: Duration) -> Result<(), LedgerError> {
        let noted = self.ledger.note_run(run, team, for_).await?;
        self.noted(run, team, noted);
        Ok(())
    }

    fn noted(&self, run: &RunId, team: &TeamId, noted: Noted) {
        if noted == Noted::Taken {
            self.common.metrics.run_collisions.inc();
            tracing::debug!(
                team = team.as_str(),
                run = run.as_str(),
                "another team has a run of that name: its end frees nothing here"
            );
        }
    }

    async fn extend(&self, team: &TeamId, which: &Which) -> Result<Change, LedgerError> {
        let change = self.ledger.extend(team, which).await?;
        self.common.changed(team, &change, Act::Keep);
        Ok(change)
    }

    /// Whose run it is, if anybody knows.
    async fn find(&self, run: &RunId) -> Result<Option<Owner>, LedgerError> {
        let runs = &self.common.runs;
        if let Some(owner) = runs.owner(run) {
            return Ok(Some(owner));
        }
        let Some(team) = self.ledger.team_of(run).await? else {
            return Ok(None);
        };
        runs.learn(run, team.clone());
        Ok(Some(Owner { team, hold: None }))
    }
}

/// What a task says of a run that began. It is noted at least for so long.
fn begun(task: &Task, note_for_min: Duration) -> Option<Begun<'_>> {
    let Task::Began {
        team,
        hold,
        run,
        hold_for,
    } = task
    else {
        return None;
    };
    Some(Begun {
        team,
        hold,
        run,
        note_for: (*hold_for).max(note_for_min),
    })
}

/// How a run's holds are named. First by the run, because other gateways may
/// have bound more of them; one of this gateway that could not be bound, by
/// its id.
fn named(run: &RunId, owner: &Owner) -> impl Iterator<Item = Which> + use<> {
    let own = owner.hold.clone().map(Which::Hold);
    std::iter::once(Which::Run(run.clone())).chain(own)
}
