//! What becomes of a hold once it is made: bound, extended, charged, and in
//! the end released or settled.
//!
//! Whoever touches a hold whose time is up finds it expired, and is told that
//! it ended now. What can fail is done first; after it, everything succeeds.

use super::book::{Book, check_id, refused};
use super::clock::{Millis, millis};
use super::live::Live;
use super::remembered::Ended;
use super::statement::Posting;
use crate::billing::credits::Credits;
use crate::billing::hold::{End, HoldId, RunId};
use crate::ledger::LedgerError;
use crate::ledger::holds::{Change, Entry, LineKind, RUN_HOLDS_MAX, Release, Terms, Which, Writer};

/// A hold that is known, as it is found now.
struct Found {
    hold: HoldId,
    end: Option<End>,
    /// Its time is up, and nobody has noticed yet.
    is_up: bool,
    run: Option<RunId>,
    figure: Option<Credits>,
    /// It was found by its run, and others of that are live.
    has_others: bool,
}

impl Book {
    pub(super) fn bind(
        &mut self,
        hold: &HoldId,
        run: &RunId,
        now: Millis,
        terms: &Terms,
    ) -> Change {
        let Some(found) = self.find(&Which::Hold(hold.clone()), now) else {
            return Change::Unknown;
        };
        let entry = self.notice(&found, now, terms);
        if let Some(bound) = &found.run {
            return if bound == run {
                Change::Again(entry)
            } else {
                Change::Conflict(entry)
            };
        }
        let mut holds: Vec<HoldId> = self.known_of(run, now).map(|one| one.hold).collect();
        while holds.len() >= RUN_HOLDS_MAX {
            let has_ended = |hold: &HoldId| !self.is_live(hold, now);
            let oldest = holds.len().saturating_sub(1);
            holds.remove(holds.iter().rposition(has_ended).unwrap_or(oldest));
        }
        holds.insert(0, hold.clone());
        match self.live.get_mut(hold) {
            Some(live) => live.run = Some(run.clone()),
            None => self.memory.bind_ended(hold, run),
        }
        self.memory.bind(run.clone(), holds);
        Change::Done(Entry {
            run: Some(run.clone()),
            ..entry
        })
    }

    /// The live holds of a run, the newest first.
    pub(super) fn of_run(&self, run: &RunId, now: Millis) -> Vec<HoldId> {
        let live = self.known_of(run, now).filter(|one| one.end.is_none());
        live.map(|one| one.hold).collect()
    }

    pub(super) fn extend(&mut self, which: &Which, now: Millis, terms: &Terms) -> Change {
        let Some(found) = self.find(which, now) else {
            return Change::Unknown;
        };
        let entry = self.notice(&found, now, terms);
        let Some(live) = self.live.get_mut(&found.hold) else {
            return Change::Conflict(entry);
        };
        self.due.remove(&(live.end, found.hold.clone()));
        live.end = now.saturating_add(live.hold_for);
        self.due.insert((live.end, found.hold));
        Change::Done(entry)
    }

    pub(super) fn release(
        &mut self,
        which: &Which,
        why: &Release,
        now: Millis,
        terms: &Terms,
    ) -> Change {
        if let Release::NotStarted(ask) = why {
            return self.not_started(which, ask, now, terms);
        }
        let Some(found) = self.find(which, now) else {
            return Change::Unknown;
        };
        let entry = self.notice(&found, now, terms);
        match entry.end {
            Some(End::Released) => Change::Again(entry),
            Some(End::Settled | End::Expired) => Change::Conflict(entry),
            None => self.released(entry, now, terms),
        }
    }

    fn released(&mut self, entry: Entry, now: Millis, terms: &Terms) -> Change {
        self.end(&entry.hold, End::Released, now, terms);
        Change::Done(Entry {
            end: Some(End::Released),
            ended_now: true,
            ..entry
        })
    }

    fn not_started(&mut self, which: &Which, ask: &HoldId, now: Millis, terms: &Terms) -> Change {
        // The reply that said whose hold is shared may have been lost.
        let shared = || self.find_hold(self.memory.shared(ask, now)?, now);
        let Some(found) = self.find(which, now).or_else(shared) else {
            self.give_up(ask, now, terms);
            if let Which::Hold(hold) = which {
                self.give_up(hold, now, terms);
            }
            return Change::Unknown;
        };
        let is_own = found.hold == *ask;
        let given_up_now = !is_own && self.give_up(ask, now, terms);
        let entry = self.notice(&found, now, terms);
        let Some(live) = self.live.get_mut(&found.hold) else {
            return if entry.end == Some(End::Released) {
                Change::Again(entry)
            } else {
                Change::Conflict(entry)
            };
        };
        if live.uses.lost_count {
            return Change::Done(entry);
        }
        let was_there = if is_own {
            live.uses.remove_own()
        } else {
            live.uses.remove(ask)
        };
        if was_there && live.uses.is_over() {
            return self.released(entry, now, terms);
        }
        if was_there || given_up_now {
            Change::Done(entry)
        } else {
            Change::Again(entry)
        }
    }

    /// Keeps a start that is not there from being made afterwards. Whether
    /// that is new.
    fn give_up(&mut self, ask: &HoldId, now: Millis, terms: &Terms) -> bool {
        let is_fresh = !self.live.contains_key(ask) && self.memory.ended(ask, now).is_none();
        if is_fresh {
            self.memory.make_way(ask);
            let until = now.saturating_add(millis(terms.remember));
            self.memory.remember_ended(ask, Ended::given_up(), until);
        }
        is_fresh
    }

    pub(super) fn settle(
        &mut self,
        which: &Which,
        credits: Credits,
        now: Millis,
        terms: &Terms,
    ) -> Result<Change, LedgerError> {
        if credits < Credits::ZERO {
            return Err(refused("a run costs no less than zero credits"));
        }
        let Some(found) = self.find(which, now) else {
            return Ok(Change::Unknown);
        };
        if let Some(figure) = found.figure {
            let entry = self.notice(&found, now, terms);
            return Ok(if figure == credits {
                Change::Again(entry)
            } else {
                Change::Conflict(entry)
            });
        }
        let balance = self.debit(LineKind::Settle, credits, &found, None, now, terms)?;
        let mut entry = self.notice(&found, now, terms);
        if entry.end.is_none() {
            self.end(&found.hold, End::Settled, now, terms);
            entry.end = Some(End::Settled);
            entry.ended_now = true;
        }
        let until = now.saturating_add(millis(terms.remember));
        self.memory
            .renew(&found.hold, until, |ended| ended.figure = Some(credits));
        entry.figure = credits;
        entry.balance = balance;
        Ok(Change::Done(entry))
    }

    pub(super) fn charge(
        &mut self,
        which: &Which,
        credits: Credits,
        id: &str,
        now: Millis,
        terms: &Terms,
    ) -> Result<Change, LedgerError> {
        check_id(id)?;
        if credits <= Credits::ZERO {
            return Err(refused("a charge is more than zero credits"));
        }
        let Some(found) = self.find(which, now) else {
            return Ok(Change::Unknown);
        };
        let is_live = |hold: &HoldId| self.live.contains_key(hold);
        if let Some(charged) = self.memory.charged(id, now, is_live) {
            let is_same = charged.hold == found.hold && charged.figure == credits;
            let figure = charged.figure;
            let entry = Entry {
                figure,
                ..self.notice(&found, now, terms)
            };
            return Ok(if is_same {
                Change::Again(entry)
            } else {
                Change::Conflict(entry)
            });
        }
        if found.end == Some(End::Settled) {
            return Ok(Change::Conflict(self.notice(&found, now, terms)));
        }
        let balance = self.debit(LineKind::Charge, credits, &found, Some(id), now, terms)?;
        let mut entry = self.notice(&found, now, terms);
        let until = now.saturating_add(millis(terms.remember));
        match self.live.get_mut(&found.hold) {
            Some(live) => {
                let taken = live.credits.min(credits);
                live.credits = live.credits.saturating_sub(taken);
                self.held.credits = self.held.credits.saturating_sub(taken);
                entry.credits = live.credits;
            }
            None => self.memory.renew(&found.hold, until, |_| {}),
        }
        self.memory.remember_charge(id, found.hold, credits, until);
        entry.figure = credits;
        entry.balance = balance;
        Ok(Change::Done(entry))
    }

    /// Takes what a run cost off the balance, if that is for the ledger to do.
    fn debit(
        &mut self,
        kind: LineKind,
        credits: Credits,
        found: &Found,
        reference: Option<&str>,
        now: Millis,
        terms: &Terms,
    ) -> Result<Option<Credits>, LedgerError> {
        if terms.writer == Writer::Billing {
            return Ok(None);
        }
        let posting = Posting {
            kind,
            credits: Credits::ZERO.saturating_sub(credits),
            reference,
            hold: Some(found.hold.clone()),
            run: found.run.clone(),
        };
        self.post(posting, now, terms).map(Some)
    }

    /// The hold that is meant, if it is known.
    fn find(&self, which: &Which, now: Millis) -> Option<Found> {
        match which {
            Which::Hold(hold) => self.find_hold(hold, now),
            Which::Run(run) => self.find_run(run, now),
            Which::Either(text) => {
                let hold = HoldId::parse(text.as_bytes()).ok();
                let found = hold.and_then(|hold| self.find_hold(&hold, now));
                found.or_else(|| {
                    let run = RunId::parse(text.as_bytes()).ok()?;
                    self.find_run(&run, now)
                })
            }
        }
    }

    /// The holds of a run that are known, the newest first.
    fn known_of(&self, run: &RunId, now: Millis) -> impl Iterator<Item = Found> {
        let holds = self.memory.holds_of(run).iter();
        holds.filter_map(move |hold| self.find_hold(hold, now))
    }

    /// Of a run's holds, the newest that is live, else the newest.
    fn find_run(&self, run: &RunId, now: Millis) -> Option<Found> {
        let mut live = self.known_of(run, now).filter(|one| one.end.is_none());
        match live.next() {
            Some(newest) => Some(Found {
                has_others: live.next().is_some(),
                ..newest
            }),
            None => self.known_of(run, now).next(),
        }
    }

    fn find_hold(&self, hold: &HoldId, now: Millis) -> Option<Found> {
        if let Some(live) = self.live.get(hold) {
            let is_up = live.end <= now;
            return Some(Found {
                hold: hold.clone(),
                end: is_up.then_some(End::Expired),
                is_up,
                run: live.run.clone(),
                figure: None,
                has_others: false,
            });
        }
        let ended = self.memory.ended(hold, now)?;
        ended.end.map(|end| Found {
            hold: hold.clone(),
            end: Some(end),
            is_up: false,
            run: ended.run.clone(),
            figure: ended.figure,
            has_others: false,
        })
    }

    fn is_live(&self, hold: &HoldId, now: Millis) -> bool {
        self.live.get(hold).is_some_and(|live| now < live.end)
    }

    /// Ends it if its time is up, and says what is known of it.
    fn notice(&mut self, found: &Found, now: Millis, terms: &Terms) -> Entry {
        let expired = if found.is_up {
            self.end(&found.hold, End::Expired, now, terms)
        } else {
            None
        };
        let live = self.live.get(&found.hold).map(|live: &Live| live.credits);
        let ended = || Some(self.memory.ended(&found.hold, now)?.credits);
        Entry {
            hold: found.hold.clone(),
            run: found.run.clone(),
            // Of one that is forgotten at once, what it was a moment ago.
            credits: expired
                .as_ref()
                .map(|expired| expired.credits)
                .or(live)
                .or_else(ended)
                .unwrap_or_default(),
            figure: found.figure.unwrap_or_default(),
            end: found.end,
            ended_now: expired.is_some(),
            balance: None,
            has_others: found.has_others,
        }
    }
}
