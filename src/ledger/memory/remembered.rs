//! What is remembered of a team's past, so that nothing happens twice: holds
//! that ended, ids of charges, grants and replays, idempotency keys and runs.
//!
//! Each thing is forgotten when it is due, a bounded number at a time. Until
//! then it may still lie here; whoever asks is told that it is not known.

use std::collections::{BTreeSet, HashMap};

use super::clock::Millis;
use crate::billing::credits::Credits;
use crate::billing::hold::{End, HoldId, RunId};
use crate::ledger::holds::Replay;

/// How many things are forgotten along with one step.
const FORGOTTEN_PER_STEP: usize = 64;

/// A hold that is over.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// What it set aside at its end.
    pub(super) credits: Credits,
    pub(super) run: Option<RunId>,
    pub(super) key: Option<[u8; 32]>,
    /// `None`: it was given up before it was made.
    pub(super) end: Option<End>,
    /// What was settled.
    pub(super) figure: Option<Credits>,
    forget_at: Millis,
}

impl Ended {
    /// A hold that was given up before it was made.
    pub(super) fn given_up() -> Self {
        Ended {
            credits: Credits::ZERO,
            run: None,
            key: None,
            end: None,
            figure: None,
            forget_at: 0,
        }
    }

    /// A hold that was made and has ended.
    pub(super) fn new(
        end: End,
        credits: Credits,
        run: Option<RunId>,
        key: Option<[u8; 32]>,
    ) -> Self {
        Ended {
            credits,
            run,
            key,
            end: Some(end),
            figure: None,
            forget_at: 0,
        }
    }
}

/// A part that was charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Charged {
    pub(super) hold: HoldId,
    pub(super) figure: Credits,
    forget_at: Millis,
    /// When it is looked at next: at `forget_at`, or later if its hold was
    /// still known then.
    look_at: Millis,
}

/// A start that can be repeated.
#[derive(Clone, Debug)]
pub(super) struct First {
    pub(super) hold: HoldId,
    pub(super) replay: Replay,
}

/// What is forgotten by its own time; keys and runs go with their hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Hold(HoldId),
    Charge(Box<str>),
    Grant(Box<str>),
    Shared(HoldId),
}

#[derive(Debug, Default)]
pub(super) struct Remembered {
    ended: HashMap<HoldId, Ended>,
    charges: HashMap<Box<str>, Charged>,
    grants: HashMap<Box<str>, (Credits, Millis)>,
    shared: HashMap<HoldId, (HoldId, Millis)>,
    keys: HashMap<[u8; 32], First>,
    /// The last to be bound first.
    runs: HashMap<RunId, Vec<HoldId>>,
    due: BTreeSet<(Millis, Thing)>,
}

impl Remembered {
    /// The hold of this id that is over, if it is still remembered.
    pub(super) fn ended(&self, hold: &HoldId, now: Millis) -> Option<&Ended> {
        self.ended.get(hold).filter(|ended| now < ended.forget_at)
    }

    /// Makes room for a new hold of this id, where an old one is due to be
    /// forgotten.
    pub(super) fn make_way(&mut self, hold: &HoldId) {
        if let Some(old) = self.ended.get(hold) {
            self.due.remove(&(old.forget_at, Thing::Hold(hold.clone())));
            self.forget_hold(hold);
        }
    }

    /// Remembers a hold that is over, until then.
    pub(super) fn remember_ended(&mut self, hold: &HoldId, mut ended: Ended, until: Millis) {
        ended.forget_at = until;
        if let Some(old) = self.ended.insert(hold.clone(), ended) {
            self.due.remove(&(old.forget_at, Thing::Hold(hold.clone())));
        }
        self.due.insert((until, Thing::Hold(hold.clone())));
    }

    /// Changes what is remembered of a hold that is over, and remembers it
    /// from now on anew.
    pub(super) fn renew(&mut self, hold: &HoldId, until: Millis, change: impl FnOnce(&mut Ended)) {
        if let Some(mut ended) = self.ended.get(hold).cloned() {
            change(&mut ended);
            self.remember_ended(hold, ended, until);
        }
    }

    /// Notes the run of a hold that is over.
    pub(super) fn bind_ended(&mut self, hold: &HoldId, run: &RunId) {
        if let Some(ended) = self.ended.get_mut(hold) {
            ended.run = Some(run.clone());
        }
    }

    /// What was charged under this id. It is known for as long as its hold is,
    /// at the least: or else it could be charged again.
    pub(super) fn charged(
        &self,
        id: &str,
        now: Millis,
        is_live: impl FnOnce(&HoldId) -> bool,
    ) -> Option<&Charged> {
        self.charges.get(id).filter(|charged| {
            now < charged.forget_at
                || is_live(&charged.hold)
                // One that was given up under that id later is another.
                || self
                    .ended(&charged.hold, now)
                    .is_some_and(|ended| ended.end.is_some())
        })
    }

    pub(super) fn remember_charge(
        &mut self,
        id: &str,
        hold: HoldId,
        figure: Credits,
        until: Millis,
    ) {
        self.note_charge(
            id,
            Charged {
                hold,
                figure,
                forget_at: until,
                look_at: until,
            },
        );
    }

    fn note_charge(&mut self, id: &str, charged: Charged) {
        let look_at = charged.look_at;
        if let Some(old) = self.charges.insert(id.into(), charged) {
            self.due.remove(&(old.look_at, Thing::Charge(id.into())));
        }
        self.due.insert((look_at, Thing::Charge(id.into())));
    }

    /// The hold that this start came to share.
    pub(super) fn shared(&self, ask: &HoldId, now: Millis) -> Option<&HoldId> {
        let (hold, forget_at) = self.shared.get(ask)?;
        (now < *forget_at).then_some(hold)
    }

    pub(super) fn remember_shared(&mut self, ask: &HoldId, hold: HoldId, until: Millis) {
        if let Some((_, old)) = self.shared.insert(ask.clone(), (hold, until)) {
            self.due.remove(&(old, Thing::Shared(ask.clone())));
        }
        self.due.insert((until, Thing::Shared(ask.clone())));
    }

    /// What was granted under this id.
    pub(super) fn granted(&self, id: &str, now: Millis) -> Option<Credits> {
        let (credits, forget_at) = self.grants.get(id)?;
        (now < *forget_at).then_some(*credits)
    }

    pub(super) fn remember_grant(&mut self, id: &str, credits: Credits, until: Millis) {
        if let Some((_, old)) = self.grants.insert(id.into(), (credits, until)) {
            self.due.remove(&(old, Thing::Grant(id.into())));
        }
        self.due.insert((until, Thing::Grant(id.into())));
    }

    /// The first start with this idempotency key. Its hold may be over.
    pub(super) fn first(&self, key: &[u8; 32]) -> Option<&First> {
        self.keys.get(key)
    }

    pub(super) fn remember_first(&mut self, hold: HoldId, replay: Replay) {
        self.keys.insert(replay.key, First { hold, replay });
    }

    /// The holds that are bound to this run, the last to be bound first. They
    /// may be forgotten.
    pub(super) fn holds_of(&self, run: &RunId) -> &[HoldId] {
        self.runs.get(run).map_or(&[], Vec::as_slice)
    }

    /// The holds of this run are these.
    pub(super) fn bind(&mut self, run: RunId, holds: Vec<HoldId>) {
        self.runs.insert(run, holds);
    }

    pub(super) fn is_empty(&self) -> bool {
        // Keys and runs belong to a hold that is live or remembered.
        self.due.is_empty()
    }

    /// Forgets what is due, as much as belongs to one step.
    pub(super) fn forget(
        &mut self,
        now: Millis,
        remember: Millis,
        is_live: impl Fn(&HoldId) -> bool,
    ) {
        for _ in 0..FORGOTTEN_PER_STEP {
            let Some((at, _)) = self.due.first() else {
                return;
            };
            if *at > now {
                return;
            }
            match self.due.pop_first() {
                Some((_, Thing::Hold(hold))) => self.forget_hold(&hold),
                Some((_, Thing::Charge(id))) => {
                    let known = self.charged(&id, now, &is_live).cloned();
                    match known {
                        Some(charged) => {
                            let look_at = now.saturating_add(remember.max(1));
                            self.note_charge(&id, Charged { look_at, ..charged });
                        }
                        None => drop(self.charges.remove(&id)),
                    }
                }
                Some((_, Thing::Shared(ask))) => drop(self.shared.remove(&ask)),
                Some((_, Thing::Grant(id))) => drop(self.grants.remove(&id)),
                None => return,
            }
        }
    }

    fn forget_hold(&mut self, hold: &HoldId) {
        let Some(ended) = self.ended.remove(hold) else {
            return;
        };
        if let Some(run) = &ended.run
            && let Some(holds) = self.runs.get_mut(run)
        {
            holds.retain(|one| one != hold);
            if holds.is_empty() {
                self.runs.remove(run);
            }
        }
        if let Some(key) = &ended.key
            && self.keys.get(key).is_some_and(|first| first.hold == *hold)
        {
            self.keys.remove(key);
        }
    }
}
